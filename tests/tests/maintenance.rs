//! Agents as the operator manages them: deactivated, drained, marked gone, taken out for maintenance.

use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Cut, Proxy, Scheduler, request, wait_until};

const RESOURCES: &str = "cpus:2;mem:1024;disk:1024";
const SHORT: Duration = Duration::from_secs(2);

fn framework() -> Value {
    json!({
        "checkpoint": true, "failover_timeout": 600,
        "capabilities": [{ "type": "PARTITION_AWARE" }],
    })
}

/// A master, one agent, and a framework with one task that runs there until it is killed.
fn busy() -> (Cluster, Scheduler, String) {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(&["--resources", RESOURCES]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, framework());
    let agent = run(&mut scheduler, "sleeper");
    (cluster, scheduler, agent)
}

/// Starts a task that runs until it is killed; returns its agent's id.
fn run(scheduler: &mut Scheduler, id: &str) -> String {
    let offer = scheduler.offer();
    let task = Scheduler::task(id, &offer, "exec sleep 1000");
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    scheduler.until(id, "TASK_RUNNING");
    let agent = offer["agent_id"]["value"].as_str();
    agent.expect("an offer is of an agent").to_owned()
}

fn done(cluster: &Cluster, call: Value) {
    let answer = cluster.operator(call.clone());
    assert_eq!(
        (answer.status, answer.text()),
        (200, String::new()),
        "{call}"
    );
}

fn agent_call(name: &str, agent: &str) -> Value {
    json!({ "type": name.to_uppercase(), name: { "agent_id": { "value": agent } } })
}

fn agents(cluster: &Cluster) -> Vec<Value> {
    let answer = cluster.operator(json!({ "type": "GET_AGENTS" })).json();
    let agents = answer["get_agents"]["agents"].as_array();
    agents.cloned().unwrap_or_default()
}

fn drain_state(cluster: &Cluster) -> Value {
    let agents = agents(cluster);
    agents
        .first()
        .map_or(Value::Null, |agent| agent["drain_info"]["state"].clone())
}

fn schedule(hostname: &str) -> Value {
    json!({ "type": "UPDATE_MAINTENANCE_SCHEDULE", "update_maintenance_schedule": { "schedule": {
        "windows": [{
            "machine_ids": [{ "hostname": hostname }],
            "unavailability": {
                "start": { "nanoseconds": 2_000_000_000_000_000_000_i64 },
                "duration": { "nanoseconds": 3_600_000_000_000_i64 },
            },
        }],
    }}})
}

#[test]
fn a_drained_agent_has_no_tasks_and_offers_again_when_it_is_reactivated() {
    let (mut cluster, mut scheduler, agent) = busy();
    let mut call = agent_call("drain_agent", &agent);
    call["drain_agent"]["max_grace_period"] = json!({ "seconds": 1, "nanos": 0 });
    done(&cluster, call);
    let ended = scheduler.until("sleeper", "TASK_KILLED");
    assert_eq!(ended["reason"], "REASON_AGENT_DRAINING", "{ended}");
    wait_until("the agent to be drained", || {
        (drain_state(&cluster) == "DRAINED").then_some(())
    });
    let shown = &agents(&cluster)[0];
    assert_eq!(shown["deactivated"], true, "{shown}");
    assert_eq!(shown["active"], false);
    let config = &shown["drain_info"]["config"];
    assert_eq!(config["max_grace_period"]["nanoseconds"], 1_000_000_000);
    assert!(shown["estimated_drain_start_time"]["nanoseconds"].is_i64());
    for path in ["/slaves", "/state"] {
        let shown = &cluster.get(path).json()["slaves"][0];
        assert_eq!(shown["deactivated"], true, "{shown}");
        assert_eq!(shown["drain_info"]["state"], "DRAINED");
        assert!(shown["estimated_drain_start_time_seconds"].is_number());
    }
    assert_eq!(cluster.json(&["agents", "--json"])[0]["state"], "drained");
    // The master's next life knows it as well.
    cluster.master.start_again();
    wait_until("the agent to come back", || agents(&cluster).pop());
    assert_eq!(drain_state(&cluster), "DRAINED");
    let mut again = framework();
    again["id"] = json!({ "value": scheduler.framework_id });
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, again);
    assert_eq!(scheduler.next("OFFERS", SHORT), None);
    done(&cluster, agent_call("reactivate_agent", &agent));
    run(&mut scheduler, "successor");
    assert_eq!(agents(&cluster)[0]["deactivated"], false);
}

#[test]
fn an_agent_that_is_draining_says_so_itself() {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(&["--resources", RESOURCES]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, framework());
    let offer = scheduler.offer();
    let stubborn = "trap '' TERM; while true; do sleep 0.1; done";
    let mut task = Scheduler::task("stubborn", &offer, stubborn);
    task["kill_policy"] = json!({ "grace_period": { "nanoseconds": 3_600_000_000_000_u64 } });
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    scheduler.until("stubborn", "TASK_RUNNING");
    let agent = offer["agent_id"]["value"].as_str().unwrap();
    let mut call = agent_call("drain_agent", agent);
    call["drain_agent"]["max_grace_period"] = json!({ "seconds": 1800, "nanos": 0 });
    done(&cluster, call);
    let itself = &cluster.agents[0].address;
    let state = wait_until("the agent to hear of it", || {
        let state = request(itself, "GET", "/state", &[], b"").ok()?.json();
        state.get("drain_config").is_some().then_some(state)
    });
    let grace = &state["drain_config"]["max_grace_period"];
    assert_eq!(grace["nanoseconds"], 1_800_000_000_000_u64, "{state}");
    assert!(state["estimated_drain_start_time_seconds"].is_number());
    let master = cluster.get("/state").json();
    assert_eq!(state["master_hostname"], master["leader_info"]["hostname"]);
    let headers = [("Content-Type", "application/json")];
    let call = br#"{"type":"GET_AGENT"}"#;
    let told = request(itself, "POST", "/api/v1", &headers, call).unwrap();
    let told = told.json()["get_agent"].clone();
    let grace = &told["drain_config"]["max_grace_period"];
    assert_eq!(grace["nanoseconds"], 1_800_000_000_000_u64, "{told}");
    assert!(told["estimated_drain_start_time"]["nanoseconds"].is_i64());
}

#[test]
fn a_deactivated_agent_keeps_its_tasks() {
    let (cluster, mut scheduler, agent) = busy();
    done(&cluster, agent_call("deactivate_agent", &agent));
    scheduler.call(json!({ "type": "REVIVE" }));
    assert_eq!(scheduler.next("UPDATE", SHORT), None);
    assert_eq!(scheduler.next("OFFERS", SHORT), None);
    done(&cluster, agent_call("reactivate_agent", &agent));
    scheduler.offer();
}

#[test]
fn an_agent_drained_for_good_is_gone_and_cannot_come_back_under_its_id() {
    let (mut cluster, mut scheduler, agent) = busy();
    let mut call = agent_call("drain_agent", &agent);
    call["drain_agent"]["mark_gone"] = json!(true);
    done(&cluster, call);
    let ended = scheduler.until("sleeper", "TASK_GONE_BY_OPERATOR");
    assert_eq!(ended["reason"], "REASON_AGENT_DRAINING", "{ended}");
    scheduler.expect("FAILURE");
    wait_until("the agent to exit", || {
        cluster.agents[0].has_ended().then_some(())
    });
    assert!(agents(&cluster).is_empty());
    done(&cluster, agent_call("mark_agent_gone", &agent));
    // With its old identity it is refused, and exits again.
    let meta = cluster.folder.path().join("agent-1/meta");
    std::fs::create_dir_all(&meta).unwrap();
    std::fs::write(meta.join("agent_id"), &agent).unwrap();
    cluster.agents[0].start_again();
    wait_until("the agent to exit again", || {
        cluster.agents[0].has_ended().then_some(())
    });
    // From then on it is a new agent.
    cluster.agents[0].start_again();
    cluster.wait_for_agents(1);
    assert_ne!(run(&mut scheduler, "successor"), agent);
}

#[test]
fn the_tasks_of_an_agent_that_is_marked_gone_are_gone_by_its_operator() {
    let (cluster, mut scheduler, agent) = busy();
    done(&cluster, agent_call("mark_agent_gone", &agent));
    let ended = scheduler.until("sleeper", "TASK_GONE_BY_OPERATOR");
    assert_eq!(
        ended["reason"], "REASON_AGENT_REMOVED_BY_OPERATOR",
        "{ended}"
    );
    assert_eq!(ended["source"], "SOURCE_MASTER");
    scheduler.call(json!({ "type": "RECONCILE", "reconcile": { "tasks": [
        { "task_id": { "value": "sleeper" }, "agent_id": { "value": agent } },
    ]}}));
    let told = scheduler.until("sleeper", "TASK_GONE_BY_OPERATOR");
    assert_eq!(told["reason"], "REASON_RECONCILIATION");
    wait_until("the task's process to be gone", || {
        cluster
            .processes(&["sleep", "1000"])
            .is_empty()
            .then_some(())
    });
}

#[test]
fn draining_an_agent_that_cannot_be_reached_is_done_when_it_returns() {
    let mut cluster =
        Cluster::master_alone(&["--agent_ping_timeout=500ms", "--max_agent_ping_timeouts=4"]);
    let proxy = Proxy::start(&cluster.master.address);
    cluster.add_agent_of(&proxy.address, &["--resources", RESOURCES]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, framework());
    let agent = run(&mut scheduler, "sleeper");
    proxy.cut(Cut::Both);
    scheduler.until("sleeper", "TASK_UNREACHABLE");
    done(&cluster, agent_call("drain_agent", &agent));
    proxy.kill_connections();
    proxy.heal();
    let ended = scheduler.until("sleeper", "TASK_KILLED");
    assert_eq!(ended["reason"], "REASON_AGENT_DRAINING", "{ended}");
    wait_until("the agent to be drained", || {
        (drain_state(&cluster) == "DRAINED").then_some(())
    });
    assert_eq!(scheduler.next("OFFERS", SHORT), None);
}

#[test]
fn frameworks_on_a_machine_that_is_scheduled_are_told_and_asked_and_their_answers_shown() {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(&["--resources", RESOURCES, "--hostname", "machine-1"]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, framework());
    let agent = run(&mut scheduler, "sleeper");
    done(&cluster, schedule("MACHINE-1"));
    let offer = wait_until("an offer that says when the machine goes", || {
        let offer = scheduler.offer();
        offer.get("unavailability").is_some().then_some(offer)
    });
    assert_eq!(
        offer["unavailability"]["start"]["nanoseconds"],
        2_000_000_000_000_000_000_i64
    );
    let mut asked = || {
        let event = scheduler.expect("INVERSE_OFFERS");
        let offers = event["inverse_offers"]["inverse_offers"].clone();
        assert_eq!(offers[0]["agent_id"]["value"], json!(agent), "{event}");
        offers[0]["id"].clone()
    };
    let status = |cluster: &Cluster| {
        let answer = cluster.operator(json!({ "type": "GET_MAINTENANCE_STATUS" }));
        answer.json()["get_maintenance_status"]["status"].clone()
    };
    let first = asked();
    let draining = status(&cluster)["draining_machines"][0].clone();
    assert_eq!(draining["id"]["hostname"], "MACHINE-1", "{draining}");
    assert_eq!(draining.get("statuses"), None);
    let answer = |name: &str, id: &Value| {
        json!({ "type": name.to_uppercase(),
            name: { "inverse_offer_ids": [id], "filters": { "refuse_seconds": 1.0 } } })
    };
    scheduler.call(answer("decline_inverse_offers", &first));
    wait_until("the answer to be shown", || {
        let statuses = status(&cluster)["draining_machines"][0]["statuses"].clone();
        (statuses[0]["status"] == "DECLINE").then_some(())
    });
    let mut asked =
        || scheduler.expect("INVERSE_OFFERS")["inverse_offers"]["inverse_offers"][0]["id"].clone();
    let second = asked();
    assert_ne!(first, second);
    // Stale and made-up ids harm nobody.
    for id in [first, json!({ "value": "nonsense" })] {
        let answered = scheduler.call(answer("accept_inverse_offers", &id));
        assert_eq!(answered.status, 202);
    }
    let statuses = status(&cluster)["draining_machines"][0]["statuses"].clone();
    assert_eq!(statuses[0]["status"], "DECLINE");
    scheduler.call(answer("accept_inverse_offers", &second));
    wait_until("the answer to be shown", || {
        let statuses = status(&cluster)["draining_machines"][0]["statuses"].clone();
        let is_mine = statuses[0]["framework_id"]["value"] == json!(scheduler.framework_id);
        (statuses[0]["status"] == "ACCEPT" && is_mine).then_some(())
    });
    scheduler.expect("INVERSE_OFFERS");
    let rescinded = cluster.operator(json!({ "type": "UPDATE_MAINTENANCE_SCHEDULE",
        "update_maintenance_schedule": { "schedule": { "windows": [] } } }));
    assert_eq!(rescinded.status, 200);
    scheduler.expect("RESCIND_INVERSE_OFFER");
}

#[test]
fn a_machine_that_is_down_has_no_agents_until_it_is_up_again() {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(&["--resources", RESOURCES, "--hostname", "machine-1"]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, framework());
    run(&mut scheduler, "sleeper");
    done(&cluster, schedule("machine-1"));
    let machines = json!([{ "hostname": "machine-1" }]);
    let start =
        json!({ "type": "START_MAINTENANCE", "start_maintenance": { "machines": machines } });
    let stop = json!({ "type": "STOP_MAINTENANCE", "stop_maintenance": { "machines": machines } });
    assert_eq!(cluster.operator(stop.clone()).status, 400);
    done(&cluster, start.clone());
    let lost = scheduler.until("sleeper", "TASK_LOST");
    assert_eq!(lost["reason"], "REASON_AGENT_REMOVED", "{lost}");
    wait_until("the agent to exit", || {
        cluster.agents[0].has_ended().then_some(())
    });
    assert_eq!(cluster.operator(start).status, 400);
    // The schedule and who is down are kept.
    cluster.master.start_again();
    cluster.agents[0].start_again();
    wait_until("the agent to exit again", || {
        cluster.agents[0].has_ended().then_some(())
    });
    let answer = cluster.operator(json!({ "type": "GET_MAINTENANCE_STATUS" }));
    let status = &answer.json()["get_maintenance_status"]["status"];
    assert_eq!(
        status["down_machines"][0]["hostname"], "machine-1",
        "{status}"
    );
    let forgets_it = json!({ "type": "UPDATE_MAINTENANCE_SCHEDULE",
        "update_maintenance_schedule": { "schedule": { "windows": [] } } });
    assert_eq!(cluster.operator(forgets_it).status, 400);
    done(&cluster, stop);
    let answer = cluster.operator(json!({ "type": "GET_MAINTENANCE_SCHEDULE" }));
    let schedule = &answer.json()["get_maintenance_schedule"]["schedule"];
    assert_eq!(schedule.get("windows"), None, "{schedule}");
    cluster.agents[0].start_again();
    cluster.wait_for_agents(1);
}

#[test]
fn calls_that_make_no_sense_are_refused_with_the_status_that_says_so() {
    let mut cluster = Cluster::master_alone(&[]);
    cluster.add_agent(&["--resources", RESOURCES, "--hostname", "machine-1"]);
    cluster.wait_for_agents(1);
    let agent = agents(&cluster)[0]["agent_info"]["id"]["value"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut text_for_a_duration = agent_call("drain_agent", &agent);
    text_for_a_duration["drain_agent"]["max_grace_period"] = json!("10mins");
    let mut negative = agent_call("drain_agent", &agent);
    negative["drain_agent"]["max_grace_period"] = json!({ "seconds": -1, "nanos": 0 });
    let windowless = json!({ "machine_ids": [{ "hostname": "machine-1" }] });
    let windows = |windows: Value| {
        json!({ "type": "UPDATE_MAINTENANCE_SCHEDULE",
            "update_maintenance_schedule": { "schedule": { "windows": windows } } })
    };
    let window = |machines: Value| json!([{ "machine_ids": machines, "unavailability": { "start": { "nanoseconds": 1 } } }]);
    for (call, status) in [
        (agent_call("drain_agent", "nobody"), 400),
        (agent_call("deactivate_agent", "nobody"), 400),
        (agent_call("reactivate_agent", &agent), 400),
        (agent_call("mark_agent_gone", "nobody"), 404),
        (text_for_a_duration, 400),
        (negative, 400),
        (json!({ "type": "DRAIN_AGENT" }), 400),
        (
            json!({ "type": "MARK_AGENT_GONE", "mark_agent_gone": {} }),
            400,
        ),
        (
            json!({ "type": "START_MAINTENANCE", "start_maintenance": {} }),
            400,
        ),
        (windows(json!([windowless])), 400),
        (windows(window(json!([]))), 400),
        (windows(window(json!([{}]))), 400),
        (windows(window(json!([{ "ip": "300.1.1.1" }]))), 400),
        (
            windows(window(json!([{ "hostname": "a" }, { "hostname": "A" }]))),
            400,
        ),
    ] {
        let answer = cluster.operator(call.clone());
        assert_eq!(answer.status, status, "{call}: {}", answer.text());
        assert!(!answer.text().is_empty(), "{call}");
    }
    done(&cluster, schedule("machine-1"));
    let answer = cluster.operator(agent_call("drain_agent", &agent));
    assert_eq!(answer.status, 400, "{}", answer.text());
}
