//! The executor API: a framework's own executor, spoken for by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Executor, Scheduler, new_uuid, request};

const PATH: &str = "/api/v1/executor";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A task on an executor of the framework's own whose process only waits, and the subscription the test holds for it.
fn launched(cluster: &Cluster, scheduler: &mut Scheduler, task: &str) -> (Executor, Value) {
    let offer = scheduler.offer();
    let executor = scheduler.custom_executor("own", "env > env.txt; sleep 1000");
    let task = Scheduler::executor_task(task, &offer, &executor);
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    (subscribed(cluster, scheduler), offer)
}

fn subscribed(cluster: &Cluster, scheduler: &Scheduler) -> Executor {
    Executor::subscribe(&cluster.agents[0].address, &scheduler.framework_id, "own")
}

/// The next offer with room for more than what one small task has given back.
fn roomy_offer(scheduler: &mut Scheduler) -> Value {
    loop {
        let offer = scheduler.offer();
        let resources = offer["resources"].as_array().unwrap();
        let cpus = resources.iter().find(|resource| resource["name"] == "cpus");
        if cpus.is_some_and(|cpus| cpus["scalar"]["value"].as_f64() > Some(1.0)) {
            return offer;
        }
    }
}

fn scheduler(cluster: &Cluster) -> Scheduler {
    Scheduler::subscribe(&cluster.master.address, json!({}))
}

#[test]
fn a_frameworks_own_executor_reports_in_any_language_and_is_acknowledged() {
    let cluster = Cluster::start(1);
    let mut scheduler = scheduler(&cluster);
    let (mut executor, offer) = launched(&cluster, &mut scheduler, "a");
    let subscribed = executor.expect("SUBSCRIBED")["subscribed"].clone();
    assert_eq!(subscribed["executor_info"]["executor_id"]["value"], "own");
    assert_eq!(
        subscribed["framework_info"]["id"]["value"],
        scheduler.framework_id.as_str()
    );
    assert_eq!(subscribed["agent_info"]["id"], offer["agent_id"]);
    assert!(subscribed["container_id"]["value"].is_string());
    let task = executor.expect("LAUNCH")["launch"]["task"].clone();
    assert_eq!(task["task_id"]["value"], "a");
    for state in ["TASK_STARTING", "TASK_RUNNING"] {
        executor.update("a", state);
        let status = scheduler.until("a", state);
        assert_eq!(status["source"], "SOURCE_EXECUTOR");
        assert_eq!(status["executor_id"]["value"], "own");
    }
    // The executor is used again; one that is called the same and is another is not.
    let offer = scheduler.offer();
    assert_eq!(offer["executor_ids"], json!([{ "value": "own" }]));
    let same = scheduler.custom_executor("own", "env > env.txt; sleep 1000");
    let other = scheduler.custom_executor("own", "something else");
    let tasks = [
        Scheduler::executor_task("b", &offer, &same),
        Scheduler::executor_task("c", &offer, &other),
        Scheduler::executor_task("a", &offer, &same),
    ];
    scheduler.launch(&offer, &tasks);
    for id in ["c", "a"] {
        let status = scheduler.until(id, "TASK_ERROR");
        assert_eq!(status["reason"], "REASON_TASK_INVALID", "{status}");
    }
    assert_eq!(
        executor.expect("LAUNCH")["launch"]["task"]["task_id"]["value"],
        "b"
    );
    executor.update("b", "TASK_FINISHED");
    scheduler.until("b", "TASK_FINISHED");
    executor.update("a", "TASK_FINISHED");
    scheduler.until("a", "TASK_FINISHED");
}

#[test]
fn wrong_calls_get_their_status_and_change_nothing() {
    let cluster = Cluster::start(1);
    let mut scheduler = scheduler(&cluster);
    let (mut executor, _) = launched(&cluster, &mut scheduler, "a");
    executor.expect("LAUNCH");
    let agent = cluster.agents[0].address.as_str();
    let post = |path: &str, headers: &[(&str, &str)], body: &str| {
        request(agent, "POST", path, headers, body.as_bytes())
            .unwrap()
            .status
    };
    let mut call = json!({
        "type": "SUBSCRIBE", "subscribe": {},
        "framework_id": { "value": scheduler.framework_id },
        "executor_id": { "value": "own" },
    });
    let subscribe = call.to_string();
    for path in [PATH, "/slave(1)/api/v1/executor"] {
        assert_eq!(post(path, &[], &subscribe), 400, "no content type");
        assert_eq!(
            post(path, &[("Content-Type", "text/plain")], &subscribe),
            415
        );
        assert_eq!(
            post(path, &[JSON, ("Accept", "text/html")], &subscribe),
            406
        );
        assert_eq!(post(path, &[JSON], "{"), 400);
        assert_eq!(
            post(path, &[JSON], r#"{"type":"SUBSCRIBE"}"#),
            400,
            "no ids"
        );
        let get = request(agent, "GET", path, &[], b"").unwrap();
        assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    }
    call["type"] = json!("NO_SUCH_CALL");
    assert_eq!(post(PATH, &[JSON], &call.to_string()), 400);
    call["type"] = json!("UNKNOWN");
    assert_eq!(post(PATH, &[JSON], &call.to_string()), 501);
    call["type"] = json!("UPDATE");
    assert_eq!(post(PATH, &[JSON], &call.to_string()), 400, "no update");
    call["type"] = json!("MESSAGE");
    call["message"] = json!({ "data": "aGk=" });
    assert_eq!(post(PATH, &[JSON], &call.to_string()), 202);
    call["framework_id"] = json!({ "value": "nobody" });
    assert_eq!(post(PATH, &[JSON], &call.to_string()), 400);
    call["framework_id"] = json!({ "value": scheduler.framework_id });
    call["executor_id"] = json!({ "value": "nobody" });
    assert_eq!(post(PATH, &[JSON], &call.to_string()), 400);
    assert_eq!(executor.call(json!({ "type": "HEARTBEAT" })).status, 202);

    let good = executor.status("a", "TASK_RUNNING");
    let mut foreign = good.clone();
    foreign["executor_id"] = json!({ "value": "another" });
    let mut short = good.clone();
    short["uuid"] = json!("AAAA");
    let mut none = good.clone();
    none.as_object_mut().unwrap().remove("uuid");
    let mut staging = good.clone();
    staging["state"] = json!("TASK_STAGING");
    let mut master = good.clone();
    master["source"] = json!("SOURCE_MASTER");
    let mut check = good.clone();
    check["check_status"] = json!({ "type": "HTTP", "tcp": {} });
    let mut stranger = good.clone();
    stranger["task_id"] = json!({ "value": "no one's" });
    for bad in [foreign, short, none, staging, master, check] {
        let answer = executor.send(&bad);
        assert_eq!(answer.status, 400, "{bad}");
        assert!(!answer.text().is_empty());
    }
    // Of a task that is long forgotten the executor need not speak on.
    assert_eq!(executor.send(&stranger).status, 202);
    assert_eq!(executor.send(&good).status, 202);
    scheduler.until("a", "TASK_RUNNING");
}

#[test]
fn an_executor_must_subscribe_first_and_the_last_subscription_counts() {
    let cluster = Cluster::start(1);
    let mut scheduler = scheduler(&cluster);
    let (mut first, _) = launched(&cluster, &mut scheduler, "a");
    first.expect("LAUNCH");
    let mut second = subscribed(&cluster, &scheduler);
    second.expect("SUBSCRIBED");
    assert!(first.ends(), "it is closed");
    // It did not say that it knows the task, so the task is taken for lost.
    scheduler.until("a", "TASK_LOST");

    let offer = roomy_offer(&mut scheduler);
    let executor = scheduler.custom_executor("own", "env > env.txt; sleep 1000");
    scheduler.launch(&offer, &[Scheduler::executor_task("b", &offer, &executor)]);
    let task = second.expect("LAUNCH")["launch"]["task"].clone();
    let unsent = second.status("b", "TASK_RUNNING");
    let left = json!({
        "unacknowledged_tasks": [task],
        "unacknowledged_updates": [{ "status": unsent }],
    });
    let agent = cluster.agents[0].address.as_str();
    let mut third =
        Executor::try_subscribe(agent, &scheduler.framework_id, "own", left).expect("it is known");
    third.acknowledged(&unsent);
    let status = scheduler.until("b", "TASK_RUNNING");
    assert_eq!(status["uuid"], unsent["uuid"]);

    let offer = roomy_offer(&mut scheduler);
    let unsubscribed = scheduler.custom_executor("silent", "sleep 1000");
    scheduler.launch(
        &offer,
        &[Scheduler::executor_task("c", &offer, &unsubscribed)],
    );
    let call = json!({
        "type": "UPDATE", "update": { "status": {
            "task_id": { "value": "c" }, "state": "TASK_RUNNING",
            "source": "SOURCE_EXECUTOR", "uuid": new_uuid(),
        }},
        "framework_id": { "value": scheduler.framework_id },
        "executor_id": { "value": "silent" },
    });
    let refused = tepui_tests::wait_until("the executor to be known", || {
        let answer = request(agent, "POST", PATH, &[JSON], call.to_string().as_bytes()).ok()?;
        (answer.status != 400).then_some(answer.status)
    });
    assert_eq!(refused, 403, "it has not subscribed");
}

#[test]
fn an_update_that_is_sent_again_is_one_update() {
    let cluster = Cluster::start(1);
    let mut scheduler = scheduler(&cluster);
    let (mut executor, _) = launched(&cluster, &mut scheduler, "a");
    executor.expect("LAUNCH");
    let status = executor.status("a", "TASK_RUNNING");
    for _ in 0..3 {
        assert_eq!(executor.send(&status).status, 202);
        executor.acknowledged(&status);
    }
    assert_eq!(scheduler.status()["uuid"], status["uuid"]);
    executor.update("a", "TASK_FINISHED");
    assert_eq!(scheduler.status()["state"], "TASK_FINISHED");
}

#[test]
fn messages_pass_both_ways() {
    let cluster = Cluster::start(1);
    let mut scheduler = scheduler(&cluster);
    let (mut executor, offer) = launched(&cluster, &mut scheduler, "a");
    executor.expect("LAUNCH");
    let down = json!({ "type": "MESSAGE", "message": {
        "agent_id": offer["agent_id"], "executor_id": { "value": "own" }, "data": "ZG93bg==",
    }});
    assert_eq!(scheduler.call(down).status, 202);
    assert_eq!(executor.expect("MESSAGE")["message"]["data"], "ZG93bg==");
    let up = json!({ "type": "MESSAGE", "message": { "data": "dXA=" } });
    assert_eq!(executor.call(up).status, 202);
    let message = scheduler.expect("MESSAGE")["message"].clone();
    assert_eq!(message["data"], "dXA=");
    assert_eq!(message["executor_id"]["value"], "own");
    assert_eq!(message["agent_id"], offer["agent_id"]);
}

#[test]
fn an_executor_that_is_shut_down_may_report_and_what_it_leaves_has_failed() {
    let cluster = Cluster::start(1);
    let mut scheduler = scheduler(&cluster);
    let offer = scheduler.offer();
    let mut executor = scheduler.custom_executor("own", "sleep 1000");
    executor["shutdown_grace_period"] = json!({ "nanoseconds": 1_000_000_000 });
    let tasks = ["a", "b"].map(|id| Scheduler::executor_task(id, &offer, &executor));
    scheduler.launch(&offer, &tasks);
    let mut own = subscribed(&cluster, &scheduler);
    own.expect("LAUNCH");
    own.expect("LAUNCH");
    let shutdown = json!({ "type": "SHUTDOWN", "shutdown": {
        "executor_id": { "value": "own" }, "agent_id": offer["agent_id"],
    }});
    assert_eq!(scheduler.call(shutdown).status, 202);
    own.expect("SHUTDOWN");
    assert_eq!(own.send(&own.status("a", "TASK_KILLED")).status, 202);
    scheduler.until("a", "TASK_KILLED");
    let status = scheduler.until("b", "TASK_FAILED");
    assert_eq!(status["reason"], "REASON_EXECUTOR_TERMINATED");
    let failure = scheduler.expect("FAILURE")["failure"].clone();
    assert_eq!(failure["executor_id"]["value"], "own");
    assert_eq!(failure["agent_id"], offer["agent_id"]);
    assert!(own.ends());
}

#[test]
fn an_executor_that_exits_fails_its_tasks_and_its_framework_hears_how() {
    let cluster = Cluster::start(1);
    let mut scheduler = scheduler(&cluster);
    let offer = scheduler.offer();
    let executor = scheduler.custom_executor("own", "sleep 3; exit 7");
    let task = Scheduler::executor_task("a", &offer, &executor);
    let launch = json!({ "type": "LAUNCH", "launch": { "task_infos": [task] } });
    scheduler.accept(&offer, launch);
    let mut own = subscribed(&cluster, &scheduler);
    own.expect("LAUNCH");
    own.update("a", "TASK_RUNNING");
    let status = scheduler.until("a", "TASK_FAILED");
    assert_eq!(status["reason"], "REASON_EXECUTOR_TERMINATED");
    assert_eq!(status["source"], "SOURCE_AGENT");
    let failure = scheduler.expect("FAILURE")["failure"].clone();
    assert_eq!(failure["executor_id"]["value"], "own");
    assert_eq!(failure["status"], 7 << 8, "as wait(2) has it");
    // What the launch left over was offered before; now what it used is, and the executor is there no more.
    assert!(scheduler.offer().get("executor_ids").is_some());
    let freed = scheduler.offer();
    assert!(freed.get("executor_ids").is_none(), "{freed}");
}

#[test]
fn a_group_whose_executor_is_still_starting_is_killed_whole_and_never_handed_over() {
    let cluster = Cluster::start(1);
    let mut scheduler = scheduler(&cluster);
    let offer = scheduler.offer();
    let executor = scheduler.custom_executor("own", "sleep 1000");
    let group = |ids: [&str; 2]| ids.map(|id| Scheduler::executor_task(id, &offer, &executor));
    scheduler.launch_group(&offer, &executor, &group(["a", "b"]));
    scheduler.kill("a");
    let mut killed = Vec::new();
    while killed.len() < 2 {
        let status = scheduler.status();
        assert_eq!(status["state"], "TASK_KILLED", "{status}");
        assert_eq!(status["reason"], "REASON_TASK_KILLED_DURING_LAUNCH");
        killed.push(status["task_id"]["value"].as_str().unwrap().to_owned());
    }
    killed.sort();
    assert_eq!(killed, ["a", "b"]);
    // The executor it was for has no reason to be.
    let failure = scheduler.expect("FAILURE")["failure"].clone();
    assert_eq!(failure["executor_id"]["value"], "own");

    let offer = scheduler.offer();
    let tasks = ["c", "d"].map(|id| Scheduler::executor_task(id, &offer, &executor));
    scheduler.launch_group(&offer, &executor, &tasks);
    let mut own = subscribed(&cluster, &scheduler);
    own.expect("SUBSCRIBED");
    let group = own.expect("LAUNCH_GROUP")["launch_group"]["task_group"]["tasks"].clone();
    assert_eq!(group.as_array().map(Vec::len), Some(2), "{group}");
    scheduler.kill("c");
    let kill = own.expect("KILL")["kill"].clone();
    assert_eq!(kill["task_id"]["value"], "c");
    // How its group ends is this executor's affair.
    own.update("c", "TASK_KILLED");
    assert!(own.next("KILL", Duration::from_secs(1)).is_none());
    own.update("d", "TASK_FINISHED");
    scheduler.until("d", "TASK_FINISHED");
}

#[test]
fn an_executors_environment_is_what_it_needs_and_its_socket_takes_calls() {
    let cluster = Cluster::start(1);
    let mut scheduler = scheduler(&cluster);
    let offer = scheduler.offer();
    let mut executor = scheduler.custom_executor("own", "env > env.txt; sleep 1000");
    executor["command"]["environment"] =
        json!({ "variables": [{ "name": "ASKED", "value": "for" }] });
    scheduler.launch(&offer, &[Scheduler::executor_task("a", &offer, &executor)]);
    let text = cluster.sandboxed(&scheduler.framework_id, "own", "env.txt");
    let environment: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let agent = &cluster.agents[0].address;
    let expected = [
        ("ASKED", "for"),
        ("LIBPROCESS_PORT", "0"),
        ("MESOS_AGENT_ENDPOINT", agent.as_str()),
        ("MESOS_CHECKPOINT", "0"),
        ("MESOS_EXECUTOR_ID", "own"),
        ("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "5secs"),
        ("MESOS_FRAMEWORK_ID", scheduler.framework_id.as_str()),
        ("MESOS_HTTP_COMMAND_EXECUTOR", "0"),
        (
            "MESOS_SLAVE_ID",
            offer["agent_id"]["value"].as_str().unwrap(),
        ),
    ];
    for (name, value) in expected {
        assert_eq!(environment.get(name), Some(&value), "{name} in {text}");
    }
    assert_eq!(environment["MESOS_SLAVE_PID"], format!("slave(1)@{agent}"));
    assert_eq!(environment["MESOS_DIRECTORY"], environment["MESOS_SANDBOX"]);
    for absent in ["MESOS_RECOVERY_TIMEOUT", "TEPUI_WORK_DIR", "HOME", "CARGO"] {
        assert!(!environment.contains_key(absent), "{absent} in {text}");
    }

    let call = json!({
        "type": "SUBSCRIBE", "subscribe": {},
        "framework_id": { "value": scheduler.framework_id },
        "executor_id": { "value": "own" },
    })
    .to_string();
    let post = |token: &str| {
        let mut socket = UnixStream::connect(environment["MESOS_DOMAIN_SOCKET"]).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{call}",
            call.len()
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = vec![0; 12];
        socket.read_exact(&mut answer).unwrap();
        (String::from_utf8(answer).unwrap(), socket)
    };
    assert_eq!(post("wrong").0, "HTTP/1.1 403");
    let (answer, _socket) = post(environment["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"]);
    assert_eq!(answer, "HTTP/1.1 200");
}

#[test]
fn an_executor_hears_a_heartbeat_when_there_is_nothing_else_to_hear() {
    let mut cluster = Cluster::master_alone(&[]);
    let resources = "cpus:2;mem:1024;disk:1024";
    cluster.add_agent(&[
        "--resources",
        resources,
        "--executor_heartbeat_interval=200ms",
    ]);
    cluster.wait_for_agents(1);
    let mut scheduler = scheduler(&cluster);
    let (mut executor, _) = launched(&cluster, &mut scheduler, "a");
    executor.expect("SUBSCRIBED");
    for _ in 0..2 {
        executor.expect("HEARTBEAT");
    }
}
