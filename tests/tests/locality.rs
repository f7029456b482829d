//! Tasks run where their bytes are: what agents tell they hold.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use serde_json::Value;
use tepui_tests::{Cluster, wait_until};

/// What is held of one kind, by agent.
fn held(cluster: &Cluster, query: &str, kind: &str) -> Vec<Value> {
    let answer = cluster.get(&format!("/api/v1/tepui/holdings{query}"));
    assert_eq!(answer.status, 200);
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    let held = answer["holdings"].as_array().unwrap().iter();
    held.filter(|one| one["kind"] == kind).cloned().collect()
}

#[test]
fn the_master_knows_what_agents_have_fetched_and_compiled() {
    let cluster = Cluster::start(2);
    assert!(held(&cluster, "", "ARTIFACT").is_empty());
    let module = cluster.folder.path().join("nothing.wat");
    std::fs::write(&module, "(module (func (export \"_start\")))").unwrap();
    let module = module.display().to_string();
    let artifact = cluster.json(&["artifact", "put", "--json", &module]);
    let sha256 = artifact["sha256"].as_str().unwrap();
    let ended = cluster.tepui(&["run", &module]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let query = format!("?sha256={sha256}");
    let (artifact, compiled) = wait_until("the agent to tell what it holds", || {
        let artifact = held(&cluster, &query, "ARTIFACT").pop()?;
        Some((artifact, held(&cluster, &query, "COMPILED").pop()?))
    });
    assert_eq!(artifact["bytes"], 33);
    assert_eq!(artifact["agent_id"], compiled["agent_id"]);
    assert!(compiled["bytes"].as_u64().unwrap() > 33);

    let agents = cluster.operator(serde_json::json!({ "type": "GET_AGENTS" }));
    let agents: Value = serde_json::from_slice(&agents.body).unwrap();
    let holdings = agents["get_agents"]["agents"].as_array().unwrap().iter();
    let holdings = holdings.flat_map(|agent| agent["holdings"].as_array().into_iter().flatten());
    assert_eq!(holdings.filter(|held| held["name"] == sha256).count(), 2);
    let slaves = cluster.get("/slaves");
    let slaves: Value = serde_json::from_slice(&slaves.body).unwrap();
    let counts = slaves["slaves"].as_array().unwrap().iter();
    let counts = counts.map(|one| &one["tepui_holdings"]["sums"]["ARTIFACT"]["count"]);
    assert_eq!(counts.filter(|count| **count == 1).count(), 1);
}
