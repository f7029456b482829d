//! Agents that cannot be reached, masters and schedulers that are replaced, and what each side is told of it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Cut, Proxy, Scheduler, Stream, wait_until};

const RESOURCES: &str = "cpus:2;mem:1024;disk:1024";
/// An agent is given up after about two seconds of silence.
const IMPATIENT: [&str; 2] = ["--agent_ping_timeout=500ms", "--max_agent_ping_timeouts=4"];

fn aware() -> Value {
    json!({
        "checkpoint": true, "failover_timeout": 600,
        "capabilities": [{ "type": "PARTITION_AWARE" }],
    })
}

fn unaware() -> Value {
    json!({ "checkpoint": true, "failover_timeout": 600 })
}

/// A master and an agent with a wire between them that can be cut.
fn partitionable(flags: &[&str]) -> (Cluster, Proxy) {
    let mut cluster = Cluster::master_alone(flags);
    let proxy = Proxy::start(&cluster.master.address);
    cluster.add_agent_of(&proxy.address, &["--resources", RESOURCES]);
    (cluster, proxy)
}

/// Starts a task that runs until it is killed; returns its agent's id.
fn run(scheduler: &mut Scheduler, id: &str) -> Value {
    let offer = scheduler.offer();
    let task = Scheduler::task(id, &offer, "exec sleep 1000");
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    scheduler.until(id, "TASK_RUNNING");
    offer["agent_id"].clone()
}

fn reconcile(scheduler: &Scheduler, task: &str, agent: &Value) {
    let answer = scheduler.call(json!({ "type": "RECONCILE", "reconcile": { "tasks": [
        { "task_id": { "value": task }, "agent_id": agent },
    ]}}));
    assert_eq!(answer.status, 202);
}

fn come_back(cluster: &Cluster, scheduler: &Scheduler, mut info: Value) -> Scheduler {
    info["id"] = json!({ "value": scheduler.framework_id });
    Scheduler::subscribe(&cluster.master.address, info)
}

fn heal(proxy: &Proxy) {
    proxy.kill_connections();
    proxy.heal();
}

/// The only event of a stream that is refused, whatever its status.
fn refused(cluster: &Cluster, info: Value) -> Value {
    let call = json!({ "type": "SUBSCRIBE", "framework_id": info["id"],
        "subscribe": { "framework_info": info } });
    let headers = [
        ("Content-Type", "application/json"),
        ("Accept", "application/json"),
    ];
    let body = call.to_string();
    let path = "/api/v1/scheduler";
    let mut stream = Stream::open(&cluster.master.address, path, &headers, body.as_bytes())
        .expect("the master is there");
    let event = stream.record().expect("records");
    let end = stream.record().expect("an end");
    assert_eq!(end, None, "it is the last");
    event.expect("an event")
}

fn count(cluster: &Cluster, list: &str) -> Value {
    cluster.get("/state").json()[list].clone()
}

#[test]
fn a_task_of_an_agent_that_was_cut_off_runs_on_and_is_reported_again() {
    let (mut cluster, proxy) = partitionable(&IMPATIENT);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, aware());
    let agent = run(&mut scheduler, "sleeper");
    let process = cluster.processes(&["sleep", "1000"]);
    proxy.cut(Cut::Both);
    let away = scheduler.until("sleeper", "TASK_UNREACHABLE");
    assert_eq!(away["reason"], "REASON_AGENT_REMOVED", "{away}");
    let since = away["unreachable_time"]["nanoseconds"].clone();
    assert!(since.is_i64(), "{away}");
    let failure = scheduler.expect("FAILURE");
    assert_eq!(failure["failure"]["agent_id"], agent);
    assert_eq!(failure["failure"].get("executor_id"), None);
    assert_eq!(count(&cluster, "unreachable_slaves"), 1);
    let listed = cluster.operator(json!({ "type": "GET_TASKS" })).json();
    let listed = &listed["get_tasks"]["unreachable_tasks"][0];
    assert_eq!(listed["task_id"]["value"], "sleeper");

    // Another master knows it from the registry, and since when.
    cluster.master.start_again();
    let mut scheduler = come_back(&cluster, &scheduler, aware());
    assert_eq!(count(&cluster, "unreachable_slaves"), 1);
    reconcile(&scheduler, "sleeper", &agent);
    let told = scheduler.until("sleeper", "TASK_UNREACHABLE");
    assert_eq!(told["reason"], "REASON_RECONCILIATION", "{told}");
    assert_eq!(told["unreachable_time"]["nanoseconds"], since);

    heal(&proxy);
    let back = scheduler.until("sleeper", "TASK_RUNNING");
    assert_eq!(back["reason"], "REASON_AGENT_REREGISTERED", "{back}");
    assert_eq!(count(&cluster, "unreachable_slaves"), 0);
    assert_eq!(cluster.processes(&["sleep", "1000"]), process);
}

#[test]
fn a_framework_that_knows_nothing_of_partitions_keeps_its_task_too() {
    let (cluster, proxy) = partitionable(&IMPATIENT);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, unaware());
    run(&mut scheduler, "sleeper");
    let process = cluster.processes(&["sleep", "1000"]);
    proxy.cut(Cut::ToServer);
    let lost = scheduler.until("sleeper", "TASK_LOST");
    assert_eq!(lost["reason"], "REASON_AGENT_REMOVED", "{lost}");
    heal(&proxy);
    let back = scheduler.until("sleeper", "TASK_RUNNING");
    assert_eq!(back["reason"], "REASON_AGENT_REREGISTERED", "{back}");
    assert_eq!(cluster.processes(&["sleep", "1000"]), process);
}

#[test]
fn agents_that_are_away_are_forgotten_after_a_while() {
    let flags = [
        "--registry_gc_interval=500ms",
        "--registry_max_agent_age=3secs",
    ];
    let (cluster, proxy) = partitionable(&[&IMPATIENT[..], &flags].concat());
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, aware());
    let agent = run(&mut scheduler, "sleeper");
    proxy.cut(Cut::Both);
    scheduler.until("sleeper", "TASK_UNREACHABLE");
    wait_until("the agent to be forgotten", || {
        (count(&cluster, "unreachable_slaves") == 0).then_some(())
    });
    reconcile(&scheduler, "sleeper", &agent);
    scheduler.until("sleeper", "TASK_UNKNOWN");
}

#[test]
fn of_too_many_agents_that_are_away_the_oldest_is_forgotten() {
    let flags = [
        "--registry_gc_interval=500ms",
        "--registry_max_agent_count=1",
    ];
    let (mut cluster, proxy) = partitionable(&[&IMPATIENT[..], &flags].concat());
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, aware());
    let first = run(&mut scheduler, "one");
    scheduler.call(json!({ "type": "SUPPRESS" }));
    proxy.cut(Cut::Both);
    scheduler.until("one", "TASK_UNREACHABLE");
    let other = Proxy::start(&cluster.master.address);
    cluster.add_agent_of(&other.address, &["--resources", RESOURCES]);
    scheduler.call(json!({ "type": "REVIVE" }));
    let second = loop {
        let offer = scheduler.offer();
        if offer["agent_id"] != first {
            let task = Scheduler::task("two", &offer, "exec sleep 1000");
            scheduler.launch(&offer, &[task]);
            scheduler.until("two", "TASK_RUNNING");
            break offer["agent_id"].clone();
        }
    };
    other.cut(Cut::Both);
    scheduler.until("two", "TASK_UNREACHABLE");
    wait_until("the first to be forgotten", || {
        reconcile(&scheduler, "one", &first);
        let status = scheduler.status();
        (status["state"] == "TASK_UNKNOWN").then_some(())
    });
    reconcile(&scheduler, "two", &second);
    scheduler.until("two", "TASK_UNREACHABLE");
}

#[test]
fn an_agent_that_misses_the_deadline_after_a_masters_restart_may_still_come_back() {
    let (mut cluster, proxy) = partitionable(&["--agent_reregister_timeout=2secs"]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, aware());
    let agent = run(&mut scheduler, "sleeper");
    proxy.cut(Cut::Both);
    cluster.master.start_again();
    let mut scheduler = come_back(&cluster, &scheduler, aware());
    let failure = scheduler.expect("FAILURE");
    assert_eq!(failure["failure"]["agent_id"], agent);
    assert_eq!(count(&cluster, "unreachable_slaves"), 1);
    reconcile(&scheduler, "sleeper", &agent);
    scheduler.until("sleeper", "TASK_UNREACHABLE");
    heal(&proxy);
    let back = scheduler.until("sleeper", "TASK_RUNNING");
    assert_eq!(back["reason"], "REASON_AGENT_REREGISTERED", "{back}");
}

#[test]
fn agents_are_given_up_no_quicker_than_the_limit_allows() {
    let limit = ["--agent_removal_rate_limit=1/1hrs"];
    let (mut cluster, proxy) = partitionable(&[&IMPATIENT[..], &limit].concat());
    cluster.add_agent_of(&proxy.address, &["--resources", RESOURCES]);
    cluster.wait_for_agents(2);
    proxy.cut(Cut::Both);
    wait_until("one of two to be given up", || {
        (count(&cluster, "unreachable_slaves") == 1).then_some(())
    });
    // The other has left as many pings unanswered by now, and more.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(count(&cluster, "unreachable_slaves"), 1);
    heal(&proxy);
    cluster.wait_for_agents(2);
    assert_eq!(count(&cluster, "unreachable_slaves"), 0);
}

#[test]
fn a_launch_that_is_lost_on_its_way_is_dropped_when_the_agent_is_back() {
    for (info, state) in [(aware(), "TASK_DROPPED"), (unaware(), "TASK_LOST")] {
        let (cluster, proxy) = partitionable(&[]);
        let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
        let offer = scheduler.offer();
        proxy.cut(Cut::ToClient);
        let task = Scheduler::task("lost", &offer, "exec sleep 1000");
        assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
        heal(&proxy);
        let dropped = scheduler.until("lost", state);
        assert_eq!(dropped["reason"], "REASON_RECONCILIATION", "{dropped}");
        run(&mut scheduler, "next");
    }
}

#[test]
fn a_framework_that_has_not_come_back_is_shown_as_recovered_and_can_be_torn_down() {
    let mut cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, aware());
    run(&mut scheduler, "sleeper");
    cluster.master.start_again();
    let framework = wait_until("the task to be reported", || {
        let state = cluster.get("/state").json();
        let framework = state["frameworks"][0].clone();
        (framework["tasks"][0]["id"] == "sleeper").then_some(framework)
    });
    assert_eq!(framework["id"], json!(scheduler.framework_id));
    assert_eq!(framework["recovered"], true, "{framework}");
    assert_eq!(framework["connected"], false);
    assert_eq!(framework["tasks"][0]["state"], "TASK_RUNNING");
    let teardown = json!({ "type": "TEARDOWN",
        "teardown": { "framework_id": { "value": scheduler.framework_id } } });
    assert_eq!(cluster.operator(teardown.clone()).status, 200);
    wait_until("the task's process to be gone", || {
        cluster
            .processes(&["sleep", "1000"])
            .is_empty()
            .then_some(())
    });
    assert_eq!(cluster.operator(teardown).status, 400);
    let mut again = aware();
    again["id"] = json!({ "value": scheduler.framework_id });
    again["user"] = json!("root");
    again["name"] = json!("test");
    let event = refused(&cluster, again);
    assert_eq!(event["type"], "ERROR", "{event}");
    assert_eq!(event["error"]["message"], "Framework has been removed");
}

#[test]
fn ids_of_agents_are_never_given_out_twice() {
    let mut cluster = Cluster::start(2);
    cluster.master.start_again();
    cluster.add_agent(&["--resources", RESOURCES]);
    cluster.wait_for_agents(3);
    let agents = cluster.operator(json!({ "type": "GET_AGENTS" })).json();
    let agents = agents["get_agents"]["agents"].as_array().unwrap().clone();
    let ids: BTreeSet<String> = agents
        .iter()
        .map(|agent| agent["agent_info"]["id"]["value"].to_string())
        .collect();
    assert_eq!(ids.len(), 3, "{agents:?}");
}

#[test]
fn the_last_scheduler_that_subscribes_has_the_framework_and_its_tasks() {
    let cluster = Cluster::start(1);
    let mut first = Scheduler::subscribe(&cluster.master.address, aware());
    let agent = run(&mut first, "sleeper");
    let mut second = come_back(&cluster, &first, aware());
    assert_eq!(second.framework_id, first.framework_id);
    let error = first.expect("ERROR");
    assert_eq!(error["error"]["message"], "Framework failed over");
    reconcile(&second, "sleeper", &agent);
    second.until("sleeper", "TASK_RUNNING");
    // The first one's stream is no longer the framework's.
    let answer = first.call(json!({ "type": "REVIVE" }));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(cluster.processes(&["sleep", "1000"]).len(), 1);
}

#[test]
fn a_scheduler_finds_its_tasks_again_after_the_masters_restart() {
    let mut cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, aware());
    let agent = run(&mut scheduler, "sleeper");
    cluster.master.start_again();
    let mut scheduler = come_back(&cluster, &scheduler, aware());
    cluster.wait_for_agents(1);
    reconcile(&scheduler, "sleeper", &agent);
    scheduler.until("sleeper", "TASK_RUNNING");
    let kill = json!({ "type": "KILL", "kill": { "task_id": { "value": "sleeper" } } });
    assert_eq!(scheduler.call(kill).status, 202);
    scheduler.until("sleeper", "TASK_KILLED");
}

#[test]
fn a_framework_without_failover_timeout_ends_with_its_scheduler() {
    let mut cluster = Cluster::master_alone(&["--heartbeat_interval=1secs"]);
    cluster.add_agent(&["--resources", RESOURCES]);
    let mut scheduler =
        Scheduler::subscribe(&cluster.master.address, json!({ "checkpoint": true }));
    run(&mut scheduler, "sleeper");
    let id = scheduler.framework_id.clone();
    // Its reader hangs up at the next event, a heartbeat.
    drop(scheduler);
    wait_until("the task's process to be gone", || {
        cluster
            .processes(&["sleep", "1000"])
            .is_empty()
            .then_some(())
    });
    let state = cluster.get("/state").json();
    let ended = &state["completed_frameworks"][0];
    assert_eq!(ended["id"], json!(id), "{state}");
    assert_eq!(ended["completed_tasks"][0]["state"], "TASK_KILLED");
}

#[test]
fn a_task_on_an_agent_nobody_knows_is_unknown() {
    let cluster = Cluster::master_alone(&[]);
    for (info, state) in [(aware(), "TASK_UNKNOWN"), (unaware(), "TASK_LOST")] {
        let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
        reconcile(&scheduler, "nothing", &json!({ "value": "nobody" }));
        let told = scheduler.until("nothing", state);
        assert_eq!(told["reason"], "REASON_RECONCILIATION", "{told}");
        assert_eq!(told.get("uuid"), None);
    }
}
