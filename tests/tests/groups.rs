//! Task groups end to end: started together, ended together, sharing the sandbox of their executor; and kills.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, guest, request, wait_until};

/// The statuses of several tasks until each has ended: its states in order, and its last status.
fn endings(scheduler: &mut Scheduler, tasks: &[&str]) -> BTreeMap<String, (Vec<String>, Value)> {
    let mut seen: BTreeMap<String, (Vec<String>, Value)> = BTreeMap::new();
    let ended = |status: &Value| {
        [
            "TASK_FINISHED",
            "TASK_FAILED",
            "TASK_KILLED",
            "TASK_ERROR",
            "TASK_LOST",
        ]
        .contains(&status["state"].as_str().unwrap())
    };
    while !tasks
        .iter()
        .all(|task| seen.get(*task).is_some_and(|(_, last)| ended(last)))
    {
        let status = scheduler.status();
        let task = status["task_id"]["value"].as_str().unwrap().to_owned();
        let entry = seen.entry(task).or_default();
        let state = status["state"].as_str().unwrap().to_owned();
        if entry.0.last() != Some(&state) {
            entry.0.push(state);
        }
        entry.1 = status;
    }
    seen
}

fn running(scheduler: &mut Scheduler, tasks: &[&str]) {
    let mut left: Vec<&str> = tasks.to_vec();
    while !left.is_empty() {
        let status = scheduler.status();
        if status["state"] == "TASK_RUNNING" {
            left.retain(|task| status["task_id"]["value"] != *task);
        }
    }
}

fn volume(source: &str, from: &str, to: &str) -> Value {
    json!({
        "type": "MESOS",
        "volumes": [{
            "container_path": to, "mode": "RW",
            "source": { "type": "SANDBOX_PATH", "sandbox_path": { "type": source, "path": from } },
        }],
    })
}

fn knowing_kills() -> Value {
    json!({ "capabilities": [{ "type": "TASK_KILLING_STATE" }] })
}

#[test]
fn one_failure_kills_the_rest_of_a_group_whether_wasm_or_native() {
    let cluster = Cluster::start(1);
    let put = cluster.json(&["artifact", "put", "--json", &guest("spin")]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let mut wasm = Scheduler::task("wasm", &offer, "spin.wasm");
    wasm["command"]["uris"] = json!([{ "value": put["url"], "output_file": "spin.wasm" }]);
    let tasks = [
        wasm,
        Scheduler::task("sleeper", &offer, "sleep 1000"),
        Scheduler::task(
            "failing",
            &offer,
            "while ! test -e go; do sleep 0.1; done; exit 3",
        ),
    ];
    let executor = scheduler.default_executor("pod");
    assert_eq!(
        scheduler.launch_group(&offer, &executor, &tasks).status,
        202
    );
    running(&mut scheduler, &["wasm", "sleeper", "failing"]);
    // The executor is the framework's own, wherever one looks.
    let call = json!({ "type": "GET_EXECUTORS" }).to_string();
    let json_type = [("Content-Type", "application/json")];
    let master = &cluster.master.address;
    let shown = request(master, "POST", "/api/v1", &json_type, call.as_bytes()).unwrap();
    let shown = shown.json()["get_executors"]["executors"].clone();
    assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(shown[0]["executor_info"]["executor_id"]["value"], "pod");
    let rest = scheduler.offer();
    assert_eq!(rest["executor_ids"], json!([{ "value": "pod" }]));
    let agent = &cluster.agents[0].address;
    let state = request(agent, "GET", "/state", &[], b"").unwrap().json();
    let executors = state["frameworks"][0]["executors"]
        .as_array()
        .unwrap()
        .clone();
    assert!(
        executors.iter().any(|executor| executor["id"] == "pod"),
        "{state}"
    );
    let directory = wait_until("the sandbox of the failing task", || {
        let executor = executors.iter().find(|executor| executor["id"] == "pod")?;
        Some(executor["directory"].as_str()?.to_owned())
    });
    std::fs::write(format!("{directory}/tasks/failing/go"), "").unwrap();
    let ends = endings(&mut scheduler, &["wasm", "sleeper", "failing"]);
    assert_eq!(ends["failing"].1["state"], "TASK_FAILED");
    for task in ["wasm", "sleeper"] {
        let status = &ends[task].1;
        assert_eq!(status["state"], "TASK_KILLED", "{status}");
        assert_eq!(status["executor_id"]["value"], "pod");
    }
    let failure = scheduler.expect("FAILURE")["failure"].clone();
    assert_eq!(failure["executor_id"]["value"], "pod");
    assert_eq!(failure["status"], 0, "it ended as it should");
}

#[test]
fn siblings_share_files_through_their_parents_sandbox() {
    let cluster = Cluster::start(1);
    let put = cluster.json(&["artifact", "put", "--json", &guest("wordcount-map")]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let mut writer = Scheduler::task("writer", &offer, "echo from a sibling > mine/file; sleep 1");
    writer["container"] = volume("PARENT", "shared", "mine");
    let wait = "while ! grep sibling view/file; do sleep 0.1; done";
    let mut reader = Scheduler::task("reader", &offer, wait);
    reader["container"] = volume("PARENT", "shared", "view");
    let mut own = Scheduler::task("own", &offer, "echo x > data/file; cat same/file");
    own["container"] = volume("SELF", "data", "same");
    let executor = scheduler.default_executor("pod");
    scheduler.launch_group(&offer, &executor, &[writer, reader, own]);
    let ends = endings(&mut scheduler, &["writer", "reader", "own"]);
    for (task, (_, last)) in &ends {
        assert_eq!(last["state"], "TASK_FINISHED", "{task}: {last}");
    }
    // A wasm task sees the volume as a directory of its own: this one reads what a native sibling wrote.
    let offer = scheduler.offer();
    let mut writer = Scheduler::task("native", &offer, "echo one two one > out/text; sleep 1000");
    writer["container"] = volume("PARENT", "both", "out");
    let mut wasm = Scheduler::task("wasm", &offer, "map.wasm in/text in 1");
    wasm["command"]["uris"] = json!([{ "value": put["url"], "output_file": "map.wasm" }]);
    wasm["container"] = volume("PARENT", "both", "in");
    let executor = scheduler.default_executor("mixed");
    scheduler.launch_group(&offer, &executor, &[writer, wasm]);
    let seen = cluster.sandboxed(&scheduler.framework_id, "mixed", "both/text");
    assert_eq!(seen, "one two one\n");
    scheduler.kill("native");
    endings(&mut scheduler, &["native", "wasm"]);
}

#[test]
fn a_kill_of_one_task_takes_its_group_and_a_shutdown_all_groups() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, knowing_kills());
    let offer = scheduler.offer();
    let executor = scheduler.default_executor("pod");
    let sleeper = |id: &str, offer: &Value| Scheduler::task(id, offer, "sleep 1000");
    let first = [sleeper("a", &offer), sleeper("b", &offer)];
    scheduler.launch_group(&offer, &executor, &first);
    running(&mut scheduler, &["a", "b"]);
    let offer = scheduler.offer();
    scheduler.launch_group(
        &offer,
        &executor,
        &[sleeper("c", &offer), sleeper("d", &offer)],
    );
    running(&mut scheduler, &["c", "d"]);
    scheduler.kill("a");
    let ends = endings(&mut scheduler, &["a", "b"]);
    for task in ["a", "b"] {
        assert_eq!(ends[task].0, ["TASK_KILLING", "TASK_KILLED"]);
    }
    let shutdown = json!({ "type": "SHUTDOWN", "shutdown": {
        "executor_id": { "value": "pod" }, "agent_id": offer["agent_id"],
    }});
    assert_eq!(scheduler.call(shutdown).status, 202);
    let ends = endings(&mut scheduler, &["c", "d"]);
    assert!(
        ends.values()
            .all(|(_, last)| last["state"] == "TASK_KILLED")
    );
    assert_eq!(
        scheduler.expect("FAILURE")["failure"]["executor_id"]["value"],
        "pod"
    );
}

#[test]
fn bad_groups_are_refused_as_a_whole() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let mut greedy = Scheduler::task("greedy", &offer, "true");
    greedy["resources"][0]["scalar"]["value"] = json!(100);
    let good = Scheduler::task("good", &offer, "true");
    let executor = scheduler.default_executor("pod");
    scheduler.launch_group(&offer, &executor, &[good.clone(), greedy]);
    for _ in 0..2 {
        let status = scheduler.status();
        assert_eq!(status["state"], "TASK_ERROR", "{status}");
        assert_eq!(status["reason"], "REASON_TASK_GROUP_INVALID");
    }
    let offer = scheduler.offer();
    let mut typeless = executor.clone();
    typeless["type"] = json!("UNKNOWN");
    scheduler.launch_group(&offer, &typeless, std::slice::from_ref(&good));
    assert_eq!(scheduler.status()["reason"], "REASON_TASK_GROUP_INVALID");
    let offer = scheduler.offer();
    assert!(offer.get("executor_ids").is_none(), "nothing was started");
    scheduler.launch_group(&offer, &executor, &[good]);
    scheduler.until("good", "TASK_FINISHED");
}

#[test]
fn a_task_sees_the_environment_it_asked_for_and_nothing_of_the_agents() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(
        &cluster.master.address,
        json!({ "roles": ["web"], "capabilities": [{ "type": "MULTI_ROLE" }] }),
    );
    let offer = scheduler.offer();
    let mut alone = Scheduler::task("alone", &offer, "env > env.txt");
    alone["command"]["environment"] = json!({ "variables": [{ "name": "ASKED", "value": "for" }] });
    scheduler.launch(&offer, &[alone]);
    scheduler.until("alone", "TASK_FINISHED");
    let text = cluster.sandboxed(&scheduler.framework_id, "alone", "env.txt");
    let environment: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    assert_eq!(environment["ASKED"], "for");
    assert_eq!(environment["MESOS_ALLOCATION_ROLE"], "web");
    assert_eq!(environment["MESOS_EXECUTOR_ID"], "alone");
    assert_eq!(environment["MESOS_SANDBOX"], environment["MESOS_DIRECTORY"]);
    assert!(environment["PATH"].contains("/usr/bin"));
    assert!(!environment.contains_key("MESOS_CONTAINER_IP"));
    for name in environment.keys() {
        let known = name.starts_with("MESOS_")
            // What a shell sets by itself.
            || ["ASKED", "PATH", "LIBPROCESS_PORT", "PWD", "SHLVL", "OLDPWD", "_"].contains(name);
        assert!(known, "{name} leaked: {text}");
    }
    assert!(!text.contains("TOKEN"), "{text}");

    let offer = scheduler.offer();
    let executor = scheduler.default_executor("pod");
    let task = Scheduler::task("grouped", &offer, "env > env.txt");
    scheduler.launch_group(&offer, &executor, &[task]);
    let text = cluster.sandboxed(&scheduler.framework_id, "pod", "tasks/grouped/env.txt");
    let environment: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    assert_eq!(environment["MESOS_CONTAINER_IP"], "127.0.0.1");
    assert_eq!(environment["MESOS_EXECUTOR_ID"], "pod");
    assert_eq!(environment["MESOS_ALLOCATION_ROLE"], "web");
    assert!(environment["MESOS_SANDBOX"].starts_with(environment["MESOS_DIRECTORY"]));
    scheduler.until("grouped", "TASK_FINISHED");
}

#[test]
fn a_kill_is_told_in_between_only_to_who_knows_that_state_and_graces_hold() {
    let cluster = Cluster::start(1);
    for (info, states) in [
        (json!({}), vec!["TASK_KILLED"]),
        (knowing_kills(), vec!["TASK_KILLING", "TASK_KILLED"]),
    ] {
        let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
        let offer = scheduler.offer();
        // It answers SIGTERM by ending well, and is killed all the same: that was asked for.
        let polite = Scheduler::task("polite", &offer, "trap 'exit 0' TERM; sleep 1000 & wait");
        let mut deaf = Scheduler::task("deaf", &offer, "trap '' TERM; sleep 1000");
        deaf["kill_policy"] = json!({ "grace_period": { "nanoseconds": 1_000_000_000_000u64 } });
        let mut limited = Scheduler::task("limited", &offer, "sleep 1000");
        limited["max_completion_time"] = json!({ "nanoseconds": 300_000_000 });
        scheduler.launch(&offer, &[polite, deaf, limited]);
        running(&mut scheduler, &["polite", "deaf", "limited"]);
        scheduler.kill("polite");
        scheduler.kill("deaf");
        // A second kill makes the time shorter.
        scheduler.call(json!({ "type": "KILL", "kill": {
            "task_id": { "value": "deaf" },
            "kill_policy": { "grace_period": { "nanoseconds": 100_000_000 } },
        }}));
        let ends = endings(&mut scheduler, &["polite", "deaf", "limited"]);
        assert_eq!(ends["polite"].0, states);
        assert_eq!(ends["deaf"].0, states);
        assert_eq!(ends["limited"].0, ["TASK_FAILED"], "no KILLING before it");
        assert_eq!(
            ends["limited"].1["reason"],
            "REASON_MAX_COMPLETION_TIME_REACHED"
        );
        scheduler.kill("nobody");
        let status = scheduler.until("nobody", "TASK_LOST");
        assert_eq!(status["reason"], "REASON_RECONCILIATION");
        assert_eq!(status["source"], "SOURCE_MASTER");
        scheduler.call(json!({ "type": "TEARDOWN" }));
    }
}
