//! Agents killed and started again: what lives on, what ends, and with which reason.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this file is test code"
)]

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Executor, Scheduler, request, wait_until};

const RESOURCES: &str = "cpus:2;mem:1024;disk:1024";

fn cluster(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::master_alone(&[]);
    let mut words = vec!["--resources", RESOURCES];
    words.extend(flags);
    cluster.add_agent(&words);
    cluster.wait_for_agents(1);
    cluster
}

fn aware(cluster: &Cluster) -> Scheduler {
    let info = json!({
        "failover_timeout": 600,
        "checkpoint": true,
        "capabilities": [{ "type": "PARTITION_AWARE" }],
    });
    Scheduler::subscribe(&cluster.master.address, info)
}

/// The next offer that still stands.
fn standing(scheduler: &mut Scheduler) -> Value {
    let mut rescinded = Vec::new();
    loop {
        let offer = scheduler.offer();
        while let Some(event) = scheduler.next("RESCIND", Duration::ZERO) {
            rescinded.push(event["rescind"]["offer_id"].clone());
        }
        if !rescinded.contains(&offer["id"]) {
            return offer;
        }
    }
}

/// Reads statuses until the task is in that state; it must not end in another one.
fn until(scheduler: &mut Scheduler, task: &str, state: &str) -> Value {
    loop {
        let status = scheduler.status();
        if status["task_id"]["value"] != task {
            continue;
        }
        if status["state"] == state {
            return status;
        }
        let live = ["TASK_STARTING", "TASK_RUNNING", "TASK_KILLING"];
        let live = live.iter().any(|live| status["state"] == *live);
        assert!(live, "expected {state}: {status}");
    }
}

fn launch(scheduler: &mut Scheduler, id: &str, command: &str) -> Value {
    let offer = standing(scheduler);
    let task = Scheduler::task(id, &offer, command);
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    until(scheduler, id, "TASK_RUNNING");
    offer
}

/// A task on an executor of the framework's own whose process only waits.
fn launch_custom(scheduler: &mut Scheduler, executor: &str, ids: &[&str]) {
    let offer = standing(scheduler);
    let executor = scheduler.custom_executor(executor, "exec sleep 4711");
    let tasks: Vec<Value> = ids
        .iter()
        .map(|id| Scheduler::executor_task(id, &offer, &executor))
        .collect();
    assert_eq!(scheduler.launch(&offer, &tasks).status, 202);
}

/// The process of the only executor, once the agent has written down which it is.
fn known_process(cluster: &Cluster) -> i32 {
    wait_until("the agent to know the executor's process", || {
        let containers = request(&cluster.agents[0].address, "GET", "/containers", &[], b"");
        let pid = &containers.ok()?.json()[0]["status"]["executor_pid"];
        i32::try_from(pid.as_i64()?).ok()
    })
}

fn meta(cluster: &Cluster) -> PathBuf {
    cluster.folder.path().join("agent-1/meta")
}

fn ended(status: &Value) -> (&str, &str) {
    let text = |name: &str| status[name].as_str().unwrap_or_default();
    (text("state"), text("reason"))
}

/// The total of a resource in an offer.
fn amount(offer: &Value, name: &str) -> f64 {
    let resources = offer["resources"].as_array().unwrap().iter();
    let named = resources.filter(|resource| resource["name"] == name);
    named
        .map(|resource| resource["scalar"]["value"].as_f64().unwrap())
        .sum()
}

#[test]
fn a_task_neither_stops_nor_loses_a_word_while_its_agent_is_away() {
    let mut cluster = cluster(&[]);
    let mut scheduler = aware(&cluster);
    launch(&mut scheduler, "stays", "exec sleep 4712");
    launch(
        &mut scheduler,
        "ends",
        "while test ! -e go; do sleep 0.1; done",
    );
    let before = cluster.processes(&["sleep", "4712"]);
    assert_eq!(before.len(), 1);
    let sandbox = cluster.folder.path().join("agent-1/slaves");
    cluster.agents[0].kill();
    let agent = std::fs::read_dir(sandbox).unwrap().next().unwrap().unwrap();
    let framework = &scheduler.framework_id;
    let run = format!("frameworks/{framework}/executors/ends/runs/latest/go");
    std::fs::write(agent.path().join(run), "").unwrap();
    // It ends while nobody is there to hear of it.
    wait_until("the task to end", || {
        let waiting = cluster.processes(&["while test"]);
        waiting.is_empty().then_some(())
    });
    cluster.agents[0].start_again();
    let finished = until(&mut scheduler, "ends", "TASK_FINISHED");
    assert_eq!(finished["source"], "SOURCE_EXECUTOR");
    assert_eq!(cluster.processes(&["sleep", "4712"]), before);
    scheduler.kill("stays");
    until(&mut scheduler, "stays", "TASK_KILLED");
}

#[test]
fn an_own_executor_comes_back_with_what_it_has_and_what_it_never_got_is_dropped() {
    let mut cluster = cluster(&["--executor_reregistration_timeout=15secs"]);
    let mut scheduler = aware(&cluster);
    launch_custom(&mut scheduler, "own", &["heard", "unheard"]);
    let address = cluster.agents[0].address.clone();
    let mut executor = Executor::subscribe(&address, &scheduler.framework_id, "own");
    let heard = executor.expect("LAUNCH")["launch"]["task"].clone();
    executor.expect("LAUNCH");
    // Another one, which keeps the agent waiting.
    launch_custom(&mut scheduler, "late", &["of late"]);
    let mut late = Executor::subscribe(&address, &scheduler.framework_id, "late");
    late.expect("LAUNCH");
    late.update("of late", "TASK_RUNNING");
    until(&mut scheduler, "of late", "TASK_RUNNING");
    wait_until("the executors' processes", || {
        (cluster.processes(&["sleep", "4711"]).len() == 2).then_some(())
    });
    cluster.agents[0].start_again();
    let address = cluster.agents[0].address.clone();
    let running = executor.status("heard", "TASK_RUNNING");
    let left = json!({
        "unacknowledged_tasks": [heard],
        "unacknowledged_updates": [{ "status": running }],
    });
    let id = scheduler.framework_id.clone();
    let mut executor = Executor::try_subscribe(&address, &id, "own", left).unwrap();
    executor.acknowledged(&running);
    let early = executor.send(&executor.status("heard", "TASK_RUNNING"));
    assert_eq!(early.status, 503, "{}", early.text());
    let mut late = Executor::try_subscribe(&address, &id, "late", json!({})).unwrap();
    late.update("of late", "TASK_FINISHED");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let status = scheduler.status();
        let task = status["task_id"]["value"].as_str().unwrap().to_owned();
        if task == "of late" && status["state"] == "TASK_RUNNING" {
            // Its acknowledgement may have been on its way when the agent died.
            continue;
        }
        seen.push((
            task,
            ended(&status).0.to_owned(),
            ended(&status).1.to_owned(),
        ));
    }
    seen.sort();
    let expected = [
        ("heard", "TASK_RUNNING", ""),
        ("of late", "TASK_FINISHED", ""),
        ("unheard", "TASK_DROPPED", "REASON_AGENT_RESTARTED"),
    ];
    let expected = expected.map(|(task, state, reason)| (task.into(), state.into(), reason.into()));
    assert_eq!(seen, expected);
    executor.update("heard", "TASK_FINISHED");
    until(&mut scheduler, "heard", "TASK_FINISHED");
}

#[test]
fn an_agent_says_nothing_of_its_state_before_it_knows_it() {
    let mut cluster = cluster(&["--executor_reregistration_timeout=15secs"]);
    let mut scheduler = aware(&cluster);
    launch_custom(&mut scheduler, "own", &["of own"]);
    let address = cluster.agents[0].address.clone();
    let mut executor = Executor::subscribe(&address, &scheduler.framework_id, "own");
    executor.expect("LAUNCH");
    executor.update("of own", "TASK_RUNNING");
    until(&mut scheduler, "of own", "TASK_RUNNING");
    // It waits for the executor, which does not come yet.
    cluster.agents[0].start_again();
    let address = cluster.agents[0].address.clone();
    let ask = |method: &str, path: &str, body: &str| {
        let headers = [("Content-Type", "application/json")];
        request(&address, method, path, &headers, body.as_bytes()).unwrap()
    };
    for path in ["/state", "/slave(1)/state", "/state.json"] {
        let answer = ask("GET", path, "");
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
        assert_eq!(answer.text(), "Agent has not finished recovery");
    }
    let calls = [r#"{"type":"GET_STATE"}"#, r#"{"type":"GET_HEALTH"}"#, "{"];
    for call in calls {
        assert_eq!(ask("POST", "/api/v1", call).status, 503, "{call}");
    }
    assert_eq!(ask("GET", "/health", "").status, 200);
    let id = scheduler.framework_id.clone();
    let mut executor = Executor::try_subscribe(&address, &id, "own", json!({})).unwrap();
    executor.expect("SUBSCRIBED");
    wait_until("the recovery to be over", || {
        (ask("GET", "/state", "").status == 200).then_some(())
    });
    assert_eq!(ask("POST", "/api/v1", calls[0]).status, 200);
}

#[test]
fn an_executor_that_never_subscribed_is_given_up_after_a_restart() {
    let mut cluster = cluster(&[]);
    let mut scheduler = aware(&cluster);
    launch_custom(&mut scheduler, "silent", &["waits"]);
    known_process(&cluster);
    cluster.agents[0].start_again();
    let status = until(&mut scheduler, "waits", "TASK_GONE");
    assert_eq!(ended(&status).1, "REASON_EXECUTOR_REREGISTRATION_TIMEOUT");
    wait_until("its process to be gone", || {
        cluster
            .processes(&["sleep", "4711"])
            .is_empty()
            .then_some(())
    });
}

#[test]
fn an_executor_that_died_while_its_agent_was_away_has_terminated() {
    let mut cluster = cluster(&["--executor_reregistration_timeout=15secs"]);
    let mut scheduler = aware(&cluster);
    launch_custom(&mut scheduler, "mortal", &["waits"]);
    let process = known_process(&cluster);
    cluster.agents[0].kill();
    let process = nix::unistd::Pid::from_raw(process);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
    cluster.agents[0].start_again();
    let status = until(&mut scheduler, "waits", "TASK_FAILED");
    assert_eq!(ended(&status).1, "REASON_EXECUTOR_TERMINATED");
}

#[test]
fn a_kill_sent_while_the_agent_is_away_is_carried_out_when_it_is_back() {
    let mut cluster = cluster(&[]);
    let mut scheduler = aware(&cluster);
    launch(&mut scheduler, "doomed", "exec sleep 4713");
    cluster.agents[0].kill();
    // Whether the master has noticed by now does not matter.
    assert_eq!(scheduler.kill("doomed").status, 202);
    cluster.agents[0].start_again();
    until(&mut scheduler, "doomed", "TASK_KILLED");
    assert!(cluster.processes(&["sleep", "4713"]).is_empty());
}

#[test]
fn two_agents_of_one_machine_keep_to_their_own_tasks() {
    let mut cluster = cluster(&[]);
    cluster.add_agent(&["--resources", RESOURCES]);
    cluster.wait_for_agents(2);
    let mut scheduler = aware(&cluster);
    let (mut offers, mut tasks) = (Vec::new(), Vec::new());
    while offers.len() < 2 {
        let event = scheduler.expect("OFFERS");
        offers.extend(event["offers"]["offers"].as_array().unwrap().clone());
    }
    for (offer, id) in offers.iter().zip(["one", "two"]) {
        let task = Scheduler::task(id, offer, "exec sleep 4714");
        scheduler.launch(offer, &[task]);
        tasks.push(until(&mut scheduler, id, "TASK_RUNNING")["agent_id"].clone());
    }
    assert_ne!(tasks[0], tasks[1]);
    let mut before = cluster.processes(&["sleep", "4714"]);
    cluster.agents[0].kill();
    cluster.agents[1].kill();
    for agent in [0, 1] {
        cluster.agents[agent].start_again();
        cluster.wait_for_agents(agent + 1);
        let mut now = cluster.processes(&["sleep", "4714"]);
        before.sort_unstable();
        now.sort_unstable();
        assert_eq!(now, before);
    }
    for id in ["one", "two"] {
        scheduler.kill(id);
        until(&mut scheduler, id, "TASK_KILLED");
    }
}

#[test]
fn more_resources_are_offered_while_the_old_task_runs_if_the_policy_lets_them() {
    let mut cluster = cluster(&[]);
    let mut scheduler = aware(&cluster);
    let offer = launch(&mut scheduler, "old", "exec sleep 4715");
    cluster.agents[0].kill();
    let folder = cluster.folder.path().join("agent-1").display().to_string();
    let more = ["--resources", "cpus:3;mem:2048;disk:1024"];
    let words = ["agent", "--port", "0", "--work_dir", &folder];
    let refused = cluster.tepui(&[&words[..], &more].concat());
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("--reconfiguration_policy=additive"),
        "{refused:?}"
    );
    let more = [
        ("--resources", more[1]),
        ("--reconfiguration_policy", "additive"),
    ];
    cluster.agents[0].start_again_with(&more);
    let again = wait_until("an offer of what was added", || {
        let again = scheduler.offer();
        (amount(&again, "cpus") > 2.5).then_some(again)
    });
    assert_eq!(again["agent_id"], offer["agent_id"]);
    assert_eq!(cluster.processes(&["sleep", "4715"]).len(), 1);
    scheduler.kill("old");
    until(&mut scheduler, "old", "TASK_KILLED");
}

/// Makes the agent believe that the machine was restarted since.
fn reboot(cluster: &Cluster) {
    let path = meta(cluster).join("agent");
    let mut record = std::fs::read(&path).unwrap();
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    let boot = boot.trim_ascii();
    let at = record.windows(boot.len()).position(|part| part == boot);
    record[at.unwrap()] ^= 1;
    std::fs::write(path, record).unwrap();
}

#[test]
fn a_reboot_loses_the_tasks_and_keeps_the_agent() {
    let mut cluster = cluster(&[]);
    let mut scheduler = aware(&cluster);
    let offer = launch(&mut scheduler, "lost", "exec sleep 4716");
    cluster.agents[0].kill();
    reboot(&cluster);
    cluster.agents[0].start_again();
    let status = until(&mut scheduler, "lost", "TASK_GONE");
    assert_eq!(ended(&status).1, "REASON_AGENT_RESTARTED");
    assert_eq!(status["agent_id"], offer["agent_id"]);
    assert!(cluster.processes(&["sleep", "4716"]).is_empty());
    launch(&mut scheduler, "next", "exec sleep 4717");
    cluster.agents[0].start_again();
    cluster.wait_for_agents(1);
    assert_eq!(cluster.processes(&["sleep", "4717"]).len(), 1);
}

#[test]
fn a_reboot_into_other_resources_makes_a_new_agent() {
    let mut cluster = cluster(&[]);
    let mut scheduler = aware(&cluster);
    let offer = launch(&mut scheduler, "old", "exec sleep 4718");
    cluster.agents[0].kill();
    reboot(&cluster);
    cluster.agents[0].start_again_with(&[("--resources", "cpus:1;mem:512;disk:64")]);
    let again = wait_until("an offer of a new agent", || {
        let again = scheduler.offer();
        (again["agent_id"] != offer["agent_id"]).then_some(again)
    });
    assert_eq!(amount(&again, "cpus"), 1.0);
}

#[test]
fn cleanup_ends_what_is_left_and_the_next_agent_reports_it() {
    let mut cluster = cluster(&[]);
    let mut scheduler = aware(&cluster);
    launch(&mut scheduler, "left", "exec sleep 4719");
    cluster.agents[0].kill();
    let folder = cluster.folder.path().join("agent-1").display().to_string();
    let words = [
        "agent",
        "--port=0",
        "--recover=cleanup",
        "--work_dir",
        &folder,
        "--resources",
        RESOURCES,
    ];
    let cleaned = cluster.tepui(&words);
    assert_eq!(cleaned.code, 0, "{cleaned:?}");
    assert!(cluster.processes(&["sleep", "4719"]).is_empty());
    cluster.agents[0].start_again();
    let status = until(&mut scheduler, "left", "TASK_FAILED");
    assert_eq!(ended(&status).1, "REASON_EXECUTOR_TERMINATED");
}

#[test]
fn damaged_checkpoints_keep_a_strict_agent_from_starting() {
    let mut cluster = cluster(&[]);
    cluster.agents[0].kill();
    let damaged = meta(&cluster).join("frameworks/f");
    std::fs::create_dir_all(&damaged).unwrap();
    std::fs::write(damaged.join("framework"), [0xff]).unwrap();
    let folder = cluster.folder.path().join("agent-1").display().to_string();
    let words = [
        "agent",
        "--port=0",
        "--work_dir",
        &folder,
        "--resources",
        RESOURCES,
    ];
    let refused = cluster.tepui(&words);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("frameworks/f/framework"),
        "{refused:?}"
    );
    cluster.agents[0].start_again_with(&[("--no-strict", "")]);
    cluster.wait_for_agents(1);
}

fn raw_update(scheduler: &mut Scheduler, state: &str) -> Value {
    loop {
        let status = scheduler.expect("UPDATE")["update"]["status"].clone();
        if status["state"] == state {
            return status;
        }
    }
}

#[test]
fn an_update_is_repeated_until_it_is_acknowledged_and_holds_back_the_next() {
    let retry = ["--status_update_retry_interval_min=200ms"];
    let cluster = cluster(&retry);
    let mut scheduler = aware(&cluster);
    let offer = scheduler.offer();
    scheduler.launch(&offer, &[Scheduler::task("quick", &offer, "true")]);
    let first = raw_update(&mut scheduler, "TASK_STARTING");
    for _ in 0..2 {
        let again = scheduler.expect("UPDATE")["update"]["status"].clone();
        assert_eq!(again["uuid"], first["uuid"], "one at a time");
    }
    // The end is known although it was not told yet, and what the task held is free.
    let mut offered = 0.0;
    while offered < 1.99 {
        offered += amount(&scheduler.offer(), "cpus");
    }
    let id = scheduler.framework_id.clone();
    let info = json!({
        "id": { "value": id }, "failover_timeout": 600, "checkpoint": true,
        "capabilities": [{ "type": "PARTITION_AWARE" }],
    });
    let mut successor = Scheduler::subscribe(&cluster.master.address, info);
    let told = successor.expect("UPDATE")["update"]["status"].clone();
    assert_eq!(told["uuid"], first["uuid"], "it is for whoever comes next");
    let acknowledge = json!({ "type": "ACKNOWLEDGE", "acknowledge": {
        "agent_id": told["agent_id"], "task_id": told["task_id"], "uuid": told["uuid"],
    }});
    assert_eq!(successor.call(acknowledge).status, 202);
    until(&mut successor, "quick", "TASK_RUNNING");
    until(&mut successor, "quick", "TASK_FINISHED");
    successor.kill("unheard of");
    let answer = successor.next("UPDATE", Duration::from_secs(30)).unwrap();
    let status = &answer["update"]["status"];
    assert_eq!(status["task_id"]["value"], "unheard of");
    assert_eq!(
        status.get("uuid"),
        None,
        "what a master makes needs no answer"
    );
}
