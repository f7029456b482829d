//! What a scheduler learns when it asks what became of its tasks.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler};

fn partition_aware() -> Value {
    json!({ "capabilities": [{ "type": "PARTITION_AWARE" }], "failover_timeout": 60 })
}

fn reconcile(scheduler: &Scheduler, tasks: &Value) {
    let call = json!({ "type": "RECONCILE", "reconcile": { "tasks": tasks } });
    assert_eq!(scheduler.call(call).status, 202);
}

#[test]
fn an_empty_reconciliation_tells_of_every_live_task_and_of_no_ended_one() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, partition_aware());
    let offer = scheduler.offer();
    let tasks = [
        Scheduler::task("ended", &offer, "true"),
        Scheduler::task("one", &offer, "sleep 1000"),
        Scheduler::task("two", &offer, "sleep 1000"),
    ];
    scheduler.launch(&offer, &tasks);
    let mut waited_for = vec![
        ("ended", "TASK_FINISHED"),
        ("one", "TASK_RUNNING"),
        ("two", "TASK_RUNNING"),
    ];
    while !waited_for.is_empty() {
        let status = scheduler.status();
        waited_for.retain(|(task, state)| {
            status["task_id"]["value"] != *task || status["state"] != *state
        });
    }
    reconcile(&scheduler, &json!([]));
    // The answer to the question about a ghost comes after all answers to the one before it.
    reconcile(
        &scheduler,
        &json!([{ "task_id": { "value": "ghost" }, "agent_id": offer["agent_id"] }]),
    );
    let mut told = Vec::new();
    loop {
        let status = scheduler.status();
        if status["task_id"]["value"] == "ghost" {
            break;
        }
        let told_of = |field: &str| status[field].as_str().unwrap().to_owned();
        assert_eq!(told_of("reason"), "REASON_RECONCILIATION", "{status}");
        assert_eq!(told_of("source"), "SOURCE_MASTER");
        assert!(status.get("uuid").is_none(), "{status}");
        told.push((
            status["task_id"]["value"].as_str().unwrap().to_owned(),
            told_of("state"),
        ));
    }
    told.sort();
    let running = |task: &str| (task.to_owned(), "TASK_RUNNING".to_owned());
    assert_eq!(told, [running("one"), running("two")]);
}

#[test]
fn tasks_and_agents_nobody_knows_are_told_as_the_framework_understands_it() {
    let cluster = Cluster::start(1);
    let ask = |info: Value| {
        let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
        let agent = scheduler.offer()["agent_id"].clone();
        reconcile(
            &scheduler,
            &json!([{ "task_id": { "value": "elsewhere" }, "agent_id": { "value": "no-such-agent" } },
                    { "task_id": { "value": "here" }, "agent_id": agent },
                    { "task_id": { "value": "nowhere" } }]),
        );
        let states = ["elsewhere", "here", "nowhere"].map(|_| scheduler.status()["state"].clone());
        scheduler.call(json!({ "type": "TEARDOWN" }));
        states
    };
    assert_eq!(ask(json!({})), ["TASK_LOST", "TASK_LOST", "TASK_LOST"]);
    // The agent is registered and has no such task, of which nobody else can know.
    assert_eq!(
        ask(partition_aware()),
        ["TASK_UNKNOWN", "TASK_GONE", "TASK_UNKNOWN"]
    );
}
