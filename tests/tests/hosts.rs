//! Tasks run where their bytes are, on hosts whose wires are counted.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use tepui_tests::{Cluster, Hosts, guest, wait_until};

const BYTES: u64 = 20 << 20;

/// What is no multiple of anything and does not shrink.
fn contents() -> Vec<u8> {
    let mut state = 1_u64;
    let words = (0..BYTES / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// Runs a task and returns what it said and where, and what crossed the wires meanwhile.
fn run(cluster: &Cluster, hosts: &Hosts, words: &[&str]) -> (String, String, u64) {
    let before = hosts.bytes_moved();
    let ended = cluster.tepui(words);
    assert_eq!(ended.code, 0, "{ended:?}");
    let moved = hosts.bytes_moved() - before;
    let tasks = cluster.json(&["ps", "--all", "--json"]);
    let mut tasks = tasks.as_array().unwrap().iter();
    let name = words[words.iter().position(|word| *word == "--name").unwrap() + 1];
    let task = tasks.rfind(|task| task["id"].as_str().is_some_and(|id| id.starts_with(name)));
    let agent = task.unwrap()["host"].as_str().unwrap().to_owned();
    (ended.stdout, agent, moved)
}

#[test]
fn a_task_runs_on_the_host_that_has_its_data_and_hardly_a_byte_crosses_the_wires() {
    let hosts = match Hosts::new(4) {
        Ok(hosts) => hosts,
        Err(error) => {
            println!(
                "skipped: hosts are network namespaces, which take root and iproute2: {error}"
            );
            return;
        }
    };
    let mut cluster = Cluster::on_hosts(&hosts);
    let data = cluster.folder.path().join("big");
    std::fs::write(&data, contents()).unwrap();
    let dataset = format!("big={}", data.display());
    for host in 1..4 {
        let name = format!("host-{host}");
        let mut flags = vec![
            "--hostname",
            &name,
            "--resources",
            "cpus:2;mem:1024;disk:4096",
        ];
        if host == 2 {
            flags.extend(["--dataset", &dataset]);
        }
        cluster.add_agent_on(&hosts, host, &flags);
    }
    cluster.wait_for_agents(3);
    let probe = guest("probe");
    let enough = BYTES / 10;

    // The data set is on one host only.
    for name in ["set-a", "set-b"] {
        let words = [
            "run",
            "--name",
            name,
            "--dataset",
            "big",
            &probe,
            "--",
            "count",
        ];
        let words = [&words[..], &["/data/big/big"]].concat();
        let (said, agent, moved) = run(&cluster, &hosts, &words);
        assert_eq!(said, format!("{BYTES} bytes\n"));
        assert_eq!(agent, "host-2");
        assert!(moved < enough, "{moved} bytes crossed the wires");
    }

    // An artifact crosses the wire once; whoever asks for it next comes to it.
    let path = data.display().to_string();
    let artifact = cluster.json(&["artifact", "put", "--json", &path]);
    let sha256 = artifact["sha256"].as_str().unwrap();
    let task = |name: &'static str| {
        let words = [
            "run", "--name", name, "--input", "big", &probe, "--", "count", "big",
        ];
        run(&cluster, &hosts, &words)
    };
    let (said, first, moved) = task("artifact-a");
    assert_eq!(said, format!("{BYTES} bytes\n"));
    assert!(moved >= BYTES, "only {moved} bytes crossed the wires");
    wait_until("the agent to tell what it fetched", || {
        let answer = cluster.get(&format!("/api/v1/tepui/holdings?sha256={sha256}"));
        let held: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        (!held["holdings"].as_array()?.is_empty()).then_some(())
    });
    for name in ["artifact-b", "artifact-c"] {
        let (_, agent, moved) = task(name);
        assert_eq!(agent, first, "{sha256} is there");
        assert!(moved < enough, "{moved} bytes crossed the wires");
    }
}
