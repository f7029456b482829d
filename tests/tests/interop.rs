//! What stock Mesos clients take for granted about the wire, a test for each thing that one of them stumbled over.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, FileServer, Reply, Response, Scheduler, Stream, request, wait_until};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn get(address: &str, path: &str) -> Response {
    request(address, "GET", path, &[], b"").unwrap()
}

fn post(address: &str, path: &str, call: &Value) -> Response {
    request(address, "POST", path, &[JSON], call.to_string().as_bytes()).unwrap()
}

fn subscribe_call(info: &Value) -> Vec<u8> {
    json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": info } })
        .to_string()
        .into_bytes()
}

// Routing and methods

#[test]
fn the_longest_registered_parent_path_answers() {
    let cluster = Cluster::master_alone(&[]);
    let master = &cluster.master.address;
    let health = json!({ "type": "GET_HEALTH" });
    for path in [
        "/api/v1",
        "/api/v1/",
        "/api/v1/operator",
        "/api/v1?_ts=1",
        "/master/api/v1",
    ] {
        let answer = post(master, path, &health);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.json()["get_health"]["healthy"], true, "{path}");
    }
    for path in [
        "/master/frameworks",
        "/master/frameworks/",
        "/frameworks?x=y",
    ] {
        assert!(get(master, path).json()["frameworks"].is_array(), "{path}");
    }
    assert_eq!(get(master, "/nowhere").status, 404);
}

#[test]
fn reads_are_there_bare_and_prefixed_with_and_without_json_and_as_jsonp() {
    let cluster = Cluster::start(1);
    let paths = [
        ("state", "frameworks"),
        ("slaves", "slaves"),
        ("frameworks", "frameworks"),
        ("tasks", "tasks"),
        ("roles", "roles"),
        ("flags", "flags"),
        ("state-summary", "slaves"),
    ];
    let at_master = paths.map(|(path, key)| (&cluster.master.address, "/master", path, key));
    let at_agent = [("state", "frameworks"), ("flags", "flags")];
    let at_agent = at_agent.map(|(path, key)| (&cluster.agents[0].address, "/slave(1)", path, key));
    for (address, prefix, path, key) in at_master.into_iter().chain(at_agent) {
        for path in [
            format!("/{path}"),
            format!("/{path}.json"),
            format!("{prefix}/{path}"),
            format!("{prefix}/{path}.json"),
        ] {
            let answer = get(address, &path);
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert!(!answer.json()[key].is_null(), "{path} has {key}");
            let wrapped = get(address, &format!("{path}?jsonp=call.back")).text();
            let inner = wrapped.strip_prefix("call.back(");
            let inner = inner.and_then(|rest| rest.strip_suffix(");")).unwrap();
            serde_json::from_str::<Value>(inner).unwrap();
        }
    }
    // Clients turn each part of the version into a number and compare.
    for address in [&cluster.master.address, &cluster.agents[0].address] {
        let version = get(address, "/version").json();
        let parts = version["version"].as_str().unwrap().split('.');
        assert!(
            parts
                .map(|part| part.parse::<u32>())
                .all(|part| part.is_ok())
        );
    }
}

#[test]
fn redirects_name_the_master_without_a_scheme() {
    let cluster = Cluster::master_alone(&[]);
    let master = &cluster.master.address;
    for path in ["/redirect", "/master/redirect"] {
        let answer = get(master, path);
        assert_eq!(answer.status, 307, "{path}");
        let location = answer.header("location").unwrap();
        let (host, port) = location
            .strip_prefix("//")
            .unwrap()
            .rsplit_once(':')
            .unwrap();
        assert!(!host.is_empty());
        assert!(master.ends_with(&format!(":{port}")), "{location}");
    }
}

// Streams

#[test]
fn a_stream_is_chunked_whatever_the_client_asks_of_its_connection() {
    let cluster = Cluster::master_alone(&[]);
    let call = subscribe_call(&json!({ "user": "root", "name": "plain" }));
    // No Accept means JSON.
    let headers = [JSON, ("Connection", "close")];
    let stream = Stream::open(
        &cluster.master.address,
        "/api/v1/scheduler",
        &headers,
        &call,
    );
    let answer = stream.unwrap().response;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(!answer.header("mesos-stream-id").unwrap().is_empty());
    let accept = ("Accept", "application/x-protobuf");
    let stream = Stream::open(
        &cluster.master.address,
        "/api/v1/scheduler",
        &[JSON, accept],
        &call,
    );
    let answer = stream.unwrap().response;
    assert_eq!(
        answer.header("content-type"),
        Some("application/x-protobuf")
    );
}

#[test]
fn one_event_is_one_chunk_of_one_line_in_ascii() {
    let cluster = Cluster::start(1);
    let master = &cluster.master.address;
    let call = subscribe_call(&json!({ "user": "root", "name": "ümläut", "checkpoint": true }));
    let mut stream = Stream::open(master, "/api/v1/scheduler", &[JSON], &call).unwrap();
    let id = stream
        .response
        .header("mesos-stream-id")
        .unwrap()
        .to_owned();
    let mut event = || -> Value {
        let chunk = stream.piece().unwrap().expect("the stream goes on");
        let text = String::from_utf8(chunk).unwrap();
        assert!(text.is_ascii(), "{text}");
        let (length, line) = text.split_once('\n').unwrap();
        assert_eq!(length.parse(), Ok(line.len()), "the chunk is the record");
        assert!(!line.contains('\n'));
        serde_json::from_str(line).unwrap()
    };
    let subscribed = event();
    assert_eq!(subscribed["type"], "SUBSCRIBED");
    assert_eq!(event()["type"], "HEARTBEAT", "it comes straight after");
    let offer = event()["offers"]["offers"][0].clone();
    let tasks = [
        Scheduler::task("größe", &offer, "echo done"),
        Scheduler::task("zwei", &offer, "true"),
    ];
    let accept = json!({
        "type": "ACCEPT", "framework_id": subscribed["subscribed"]["framework_id"],
        "accept": { "offer_ids": [offer["id"]],
                    "operations": [{ "type": "LAUNCH", "launch": { "task_infos": tasks } }] },
    });
    let headers = [JSON, ("Mesos-Stream-Id", id.as_str())];
    let body = accept.to_string();
    let answer = request(
        master,
        "POST",
        "/api/v1/scheduler",
        &headers,
        body.as_bytes(),
    )
    .unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
    loop {
        if event()["update"]["status"]["task_id"]["value"] == "größe" {
            break;
        }
    }
}

#[test]
fn the_stream_of_a_framework_that_is_taken_over_gets_an_error_and_ends() {
    let cluster = Cluster::master_alone(&[]);
    let master = &cluster.master.address;
    let call = subscribe_call(&json!({ "user": "root", "name": "one", "failover_timeout": 60 }));
    let mut old = Stream::open(master, "/api/v1/scheduler", &[JSON], &call).unwrap();
    let id = old.record().unwrap().unwrap()["subscribed"]["framework_id"].clone();
    let _new = Scheduler::subscribe(
        master,
        json!({ "name": "one", "failover_timeout": 60, "id": id }),
    );
    let mut last = Value::Null;
    while let Some(event) = old.record().unwrap() {
        last = event;
    }
    assert_eq!(last["type"], "ERROR");
    assert!(last["error"]["message"].is_string());
}

// Calls

#[test]
fn calls_are_answered_with_202_and_nothing_on_a_connection_that_is_kept() {
    let cluster = Cluster::master_alone(&[]);
    let scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let call = json!({ "type": "REVIVE", "framework_id": { "value": scheduler.framework_id } });
    let body = call.to_string();
    let mut socket = TcpStream::connect(&cluster.master.address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    for _ in 0..3 {
        write!(
            socket,
            "POST /api/v1/scheduler HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Mesos-Stream-Id: {}\r\nContent-Length: {}\r\n\r\n{body}",
            scheduler.stream_id,
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 202 "), "{answer}");
        assert!(answer.contains("content-length: 0\r\n"), "{answer}");
    }
}

#[test]
fn null_is_unset_unknown_fields_are_skipped_and_numbers_come_in_every_notation() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(
        &cluster.master.address,
        json!({ "id": null, "role": null, "checkpoint": null, "capabilities": null, "labels": null,
                "failover_timeout": 6.048e+05, "no_such_field": { "deep": [1] } }),
    );
    let offer = scheduler.offer();
    let mut task = Scheduler::task("lenient", &offer, "exit 0");
    task["slave_id"] = offer["agent_id"].clone();
    task["executor"] = Value::Null;
    task["container"] = Value::Null;
    task["health_check"] = Value::Null;
    task["command"]["environment"] = Value::Null;
    task["command"]["container"] = Value::Null;
    task["command"]["uris"] = Value::Null;
    let text = json!({ "type": "ACCEPT", "framework_id": { "value": scheduler.framework_id },
        "subscribe": null, "decline": null,
        "accept": { "offer_ids": [offer["id"]], "filters": null, "operations": [
            { "type": "LAUNCH", "launch": { "task_infos": [task] }, "reserve": null }] } });
    let text = text
        .to_string()
        .replace("\"value\":32.0}", "\"value\":3.2e+01}");
    assert!(text.contains("3.2e+01"));
    let headers = [JSON, ("Mesos-Stream-Id", scheduler.stream_id.as_str())];
    let answer = request(
        &cluster.master.address,
        "POST",
        "/api/v1/scheduler",
        &headers,
        text.as_bytes(),
    );
    let answer = answer.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
    scheduler.until("lenient", "TASK_FINISHED");
}

#[test]
fn an_empty_launch_declines_and_filters_may_be_null() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let launch_nothing = |offer: &Value, seconds: f64| {
        json!({ "type": "ACCEPT", "accept": { "offer_ids": [offer["id"]],
            "filters": { "refuse_seconds": seconds },
            "operations": [{ "type": "LAUNCH", "launch": { "task_infos": [] } }] } })
    };
    let offer = scheduler.offer();
    assert_eq!(scheduler.call(launch_nothing(&offer, 0.1)).status, 202);
    let offer = scheduler.offer();
    let decline =
        json!({ "type": "DECLINE", "decline": { "offer_ids": [offer["id"]], "filters": null } });
    assert_eq!(scheduler.call(decline).status, 202);
    // Without a filter of its own it is the default of 5 s.
    let offer = scheduler.offer();
    assert_eq!(scheduler.call(launch_nothing(&offer, 3600.0)).status, 202);
    assert!(
        scheduler.next("OFFERS", Duration::from_secs(2)).is_none(),
        "the filter holds"
    );
}

#[test]
fn kills_and_reconciliations_may_leave_the_agent_out() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let tasks = ["with", "without"].map(|id| Scheduler::task(id, &offer, "sleep 1000"));
    scheduler.launch(&offer, &tasks);
    scheduler.until("without", "TASK_RUNNING");
    let reconcile = json!({ "type": "RECONCILE", "reconcile": { "tasks": [{ "task_id": { "value": "without" } }] } });
    assert_eq!(scheduler.call(reconcile).status, 202);
    while scheduler.until("without", "TASK_RUNNING")["reason"] != "REASON_RECONCILIATION" {}
    let kill = |task: &str, agent: Value| json!({ "type": "KILL", "kill": { "task_id": { "value": task }, "agent_id": agent } });
    assert_eq!(
        scheduler
            .call(kill("with", offer["agent_id"].clone()))
            .status,
        202
    );
    assert_eq!(scheduler.call(kill("without", Value::Null)).status, 202);
    let mut ended: Vec<String> = Vec::new();
    while ended.len() < 2 {
        let status = scheduler.status();
        if status["state"] == "TASK_KILLED" {
            ended.push(status["task_id"]["value"].as_str().unwrap().to_owned());
        }
    }
    ended.sort();
    assert_eq!(ended, ["with", "without"]);
}

#[test]
fn a_call_whose_body_has_the_wrong_key_is_a_clean_400() {
    let cluster = Cluster::master_alone(&[]);
    let scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    for call in [
        json!({ "type": "SHUTDOWN", "kill": { "executor_id": { "value": "e" }, "agent_id": { "value": "a" } } }),
        json!({ "type": "KILL", "acknowledge": {} }),
        json!({ "type": "ACCEPT" }),
        json!({ "type": "MESSAGE", "kill": { "task_id": { "value": "t" } } }),
    ] {
        let answer = scheduler.call(call.clone());
        assert_eq!(answer.status, 400, "{call}: {}", answer.text());
        assert!(!answer.body.is_empty());
    }
    assert_eq!(scheduler.call(json!({ "type": "REVIVE" })).status, 202);
}

// Offers and statuses

#[test]
fn offers_have_an_address_and_tell_allocations_only_to_those_who_know_them() {
    let cluster = Cluster::start(1);
    let mut plain = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = plain.offer();
    let address = &offer["url"]["address"];
    assert!(
        address["ip"].is_string() && address["port"].is_u64(),
        "{offer}"
    );
    assert!(offer["hostname"].is_string());
    let resources = offer["resources"].as_array().unwrap();
    let named = |name: &str| resources.iter().find(|r| r["name"] == name).unwrap();
    assert_eq!(named("ports")["type"], "RANGES");
    assert_eq!(named("ports")["ranges"]["range"][0]["begin"], 31000);
    assert_eq!(named("cpus")["scalar"]["value"], 2.0);
    let text = offer.to_string();
    assert!(!text.contains("allocation_info"), "{text}");
    plain.call(json!({ "type": "TEARDOWN" }));
    let capabilities = json!([{ "type": "MULTI_ROLE" }]);
    let info = json!({ "roles": ["web"], "capabilities": capabilities });
    let offer = Scheduler::subscribe(&cluster.master.address, info).offer();
    assert_eq!(offer["allocation_info"]["role"], "web");
    for resource in offer["resources"].as_array().unwrap() {
        assert_eq!(resource["allocation_info"]["role"], "web");
    }
}

#[test]
fn an_agents_update_comes_alone_and_again_until_it_is_acknowledged() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    scheduler.launch(&offer, &[Scheduler::task("slow", &offer, "sleep 1000")]);
    let first = scheduler.expect("UPDATE")["update"]["status"].clone();
    assert_eq!(first["state"], "TASK_STARTING");
    // 16 bytes are 22 characters and the filling.
    let uuid = first["uuid"].as_str().unwrap();
    assert!(uuid.len() == 24 && uuid.ends_with("=="), "{uuid}");
    assert_eq!(first["agent_id"], offer["agent_id"]);
    assert_eq!(first["executor_id"]["value"], "slow");
    let networks = &first["container_status"]["network_infos"];
    assert!(networks[0]["ip_addresses"][0]["ip_address"].is_string());
    // Nothing was acknowledged, so what comes next is the same again.
    let again = scheduler.expect("UPDATE")["update"]["status"].clone();
    assert_eq!(
        (&again["state"], &again["uuid"]),
        (&first["state"], &first["uuid"])
    );
    let acknowledge = json!({ "type": "ACKNOWLEDGE", "acknowledge": {
        "agent_id": first["agent_id"], "task_id": first["task_id"], "uuid": first["uuid"] } });
    assert_eq!(scheduler.call(acknowledge).status, 202);
    scheduler.until("slow", "TASK_RUNNING");
    let ghost = json!({ "type": "RECONCILE", "reconcile": { "tasks": [{ "task_id": { "value": "ghost" } }] } });
    scheduler.call(ghost);
    let made_by_master = scheduler.until("ghost", "TASK_LOST");
    assert_eq!(made_by_master["source"], "SOURCE_MASTER");
    assert!(made_by_master.get("uuid").is_none());
}

// Executors

/// A custom executor that a framework brings from a server of its own, and tasks for it.
struct Brought {
    scheduler: Scheduler,
    offer: Value,
    executor: Value,
    _server: FileServer,
}

impl Brought {
    fn new(cluster: &Cluster, script: &str, checkpoint: bool) -> Self {
        let server = FileServer::start();
        let url = server.serve("/executor", Reply::body(script));
        let info = json!({ "checkpoint": checkpoint });
        let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
        let offer = scheduler.offer();
        let executor = json!({
            "type": "CUSTOM", "executor_id": { "value": "brought" }, "name": "mine", "source": "here",
            "framework_id": { "value": scheduler.framework_id },
            "command": { "value": "./executor", "uris": [{ "value": url, "executable": true }] },
        });
        Self {
            scheduler,
            offer,
            executor,
            _server: server,
        }
    }

    fn launch(&self, ids: &[&str]) {
        let task = |id: &&str| {
            let mut task = Scheduler::task(id, &self.offer, "");
            task.as_object_mut().unwrap().remove("command");
            task["executor"] = self.executor.clone();
            task
        };
        let tasks: Vec<Value> = ids.iter().map(task).collect();
        assert_eq!(self.scheduler.launch(&self.offer, &tasks).status, 202);
    }
}

#[test]
fn an_executor_finds_what_it_needs_in_its_environment() {
    for checkpoint in [true, false] {
        let cluster = Cluster::start(1);
        let brought = Brought::new(&cluster, "#!/bin/sh\nexec sleep 4711\n", checkpoint);
        brought.launch(&["t"]);
        let pid = wait_until("the executor to be started", || {
            cluster.processes(&["sleep", "4711"]).first().copied()
        });
        let text = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let text = String::from_utf8(text).unwrap();
        let variable = |name: &str| {
            let mut lines = text.split('\0');
            lines.find_map(|line| line.strip_prefix(&format!("{name}=")))
        };
        assert_eq!(
            variable("MESOS_FRAMEWORK_ID"),
            Some(brought.scheduler.framework_id.as_str())
        );
        assert_eq!(variable("MESOS_EXECUTOR_ID"), Some("brought"));
        assert_eq!(
            variable("MESOS_AGENT_ENDPOINT"),
            Some(cluster.agents[0].address.as_str())
        );
        assert_eq!(
            variable("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD"),
            Some("5secs")
        );
        assert_eq!(
            variable("MESOS_CHECKPOINT"),
            Some(if checkpoint { "1" } else { "0" })
        );
        assert_eq!(variable("MESOS_LOCAL"), None);
        let directory = variable("MESOS_DIRECTORY").unwrap();
        assert!(std::path::Path::new(directory).join("executor").exists());
        assert!(variable("MESOS_SANDBOX").is_some());
        // Some kill their whole process group, which must be nobody else's.
        let group = |pid| nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).unwrap();
        let of_agent = i32::try_from(cluster.agents[0].pid()).unwrap();
        assert_ne!(group(pid), group(of_agent));
    }
}

#[test]
fn an_executor_that_ends_is_a_failure_with_agent_and_status() {
    let cluster = Cluster::start(1);
    let mut brought = Brought::new(&cluster, "#!/bin/sh\nexit 3\n", false);
    brought.launch(&["t"]);
    let failure = brought.scheduler.expect("FAILURE")["failure"].clone();
    assert_eq!(failure["agent_id"], brought.offer["agent_id"]);
    assert_eq!(failure["executor_id"]["value"], "brought");
    assert!(failure["status"].is_number(), "{failure}");
    let mut another = brought.executor.clone();
    another["framework_id"]["value"] = json!("somebody-else");
    brought.executor = another;
    brought.offer = brought.scheduler.offer();
    brought.launch(&["stranger"]);
    brought.scheduler.until("stranger", "TASK_ERROR");
}

#[test]
fn an_executor_speaks_as_executors_in_scripts_do() {
    let cluster = Cluster::start(1);
    let agent = &cluster.agents[0].address;
    let mut brought = Brought::new(&cluster, "#!/bin/sh\nexec sleep 4711\n", false);
    brought.launch(&["first", "second"]);
    wait_until("the executor to be started", || {
        (!cluster.processes(&["sleep", "4711"]).is_empty()).then_some(())
    });
    let ids = json!({ "framework_id": { "value": brought.scheduler.framework_id },
                      "executor_id": { "value": "brought" } });
    let call = |more: Value| {
        let mut call = ids.clone();
        call.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        call
    };
    let bare = call(json!({ "type": "SUBSCRIBE" }));
    assert_eq!(post(agent, "/api/v1/executor", &bare).status, 400);
    let subscribe = call(json!({ "type": "SUBSCRIBE",
        "subscribe": { "unacknowledged_tasks": [], "unacknowledged_updates": [] } }));
    let body = subscribe.to_string();
    let headers = [
        JSON,
        ("Accept", "application/json"),
        ("Connection", "close"),
    ];
    let mut stream = Stream::open(agent, "/api/v1/executor", &headers, body.as_bytes()).unwrap();
    assert_eq!(stream.response.status, 200);
    assert_eq!(stream.response.header("transfer-encoding"), Some("chunked"));
    let subscribed = stream.record().unwrap().unwrap()["subscribed"].clone();
    assert_eq!(
        subscribed["executor_info"]["executor_id"],
        ids["executor_id"]
    );
    assert_eq!(subscribed["framework_info"]["id"], ids["framework_id"]);
    assert!(subscribed["agent_info"]["hostname"].is_string());
    let mut launched = Vec::new();
    while launched.len() < 2 {
        let event = stream.record().unwrap().unwrap();
        if event["type"] == "LAUNCH" {
            launched.push(event["launch"]["task"]["task_id"]["value"].clone());
        }
    }
    assert_eq!(launched, ["first", "second"], "each once");
    let status = json!({ "task_id": { "value": "first" }, "state": "TASK_RUNNING", "timestamp": 1_500_000_000,
                         "uuid": "AAECAwQFBgcICQoLDA0ODw==", "source": "SOURCE_EXECUTOR" });
    let update = call(json!({ "type": "UPDATE", "update": { "status": status } }));
    assert_eq!(post(agent, "/api/v1/executor", &update).status, 202);
    let told = brought.scheduler.until("first", "TASK_RUNNING");
    assert_eq!(told["uuid"], status["uuid"], "the executor's own");
    assert_eq!(told["agent_id"], brought.offer["agent_id"]);
    loop {
        let event = stream.record().unwrap().unwrap();
        if event["type"] == "ACKNOWLEDGED" {
            assert_eq!(event["acknowledged"]["uuid"], status["uuid"]);
            break;
        }
    }
    let message = call(json!({ "type": "MESSAGE", "message": { "data": "aGk=" } }));
    assert_eq!(post(agent, "/api/v1/executor", &message).status, 202);
    assert_eq!(
        brought.scheduler.expect("MESSAGE")["message"]["data"],
        "aGk="
    );
}
// Read-only tools

#[test]
fn command_lines_find_a_task_its_sandbox_and_its_figures() {
    let cluster = Cluster::start(1);
    let master = &cluster.master.address;
    let mut scheduler = Scheduler::subscribe(master, json!({ "name": "shown" }));
    let offer = scheduler.offer();
    let command = "echo shown; sleep 1000";
    scheduler.launch(&offer, &[Scheduler::task("shown-1", &offer, command)]);
    scheduler.until("shown-1", "TASK_RUNNING");
    let state = get(master, "/master/state.json").json();
    let slave = &state["slaves"][0];
    assert!(slave["hostname"].is_string());
    let (_, port) = slave["pid"].as_str().unwrap().rsplit_once(':').unwrap();
    let agent = format!("127.0.0.1:{port}");
    assert_eq!(agent, cluster.agents[0].address);
    let state = get(&agent, "/slave(1)/state.json").json();
    let executor = &state["frameworks"][0]["executors"][0];
    assert_eq!(
        executor["id"], "shown-1",
        "a command's executor has the task's id"
    );
    assert!(executor["name"].is_string());
    assert_eq!(executor["tasks"][0]["id"], "shown-1");
    assert!(executor["queued_tasks"].is_array() && executor["completed_tasks"].is_array());
    let directory = executor["directory"].as_str().unwrap().replace('/', "%2F");
    let listed = get(&agent, &format!("/files/browse.json?path={directory}")).json();
    let files: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|file| file["path"].as_str())
        .collect();
    assert!(
        files.iter().any(|file| file.ends_with("/stdout")),
        "{files:?}"
    );
    let read = |offset: &str| {
        let path = format!("/files/read.json?path={directory}%2Fstdout&offset={offset}&length=100");
        get(&agent, &path).json()
    };
    wait_until("the output", || {
        (read("0")["data"] == "shown\n").then_some(())
    });
    assert_eq!(read("-1")["offset"], 6, "offset -1 asks for the size");
    let statistics = wait_until("figures", || {
        let rows = get(&agent, "/monitor/statistics.json").json();
        rows.as_array()?
            .iter()
            .find(|row| row["executor_id"] == "shown-1")
            .cloned()
    });
    assert!(
        statistics["statistics"]["timestamp"].is_number(),
        "{statistics}"
    );
    assert_eq!(get(master, "/slaves").json()["slaves"][0]["active"], true);
    assert_eq!(
        get(master, "/master/frameworks/").json()["frameworks"][0]["name"],
        "shown"
    );
    let tasks = get(master, "/tasks?order=asc&limit=-1").json();
    assert_eq!(tasks["tasks"][0]["id"], "shown-1");
    assert_eq!(tasks["tasks"][0]["statuses"][0]["state"], "TASK_STARTING");
    let path = format!(
        "/frameworks/{}/executors/shown-1/runs/latest",
        scheduler.framework_id
    );
    let list = json!({ "type": "LIST_FILES", "list_files": { "path": path } });
    let listed = post(&agent, "/api/v1", &list);
    assert_eq!(listed.status, 200, "{}", listed.text());
    let read = json!({ "type": "READ_FILE", "read_file": { "path": format!("{path}/stdout"), "offset": 0 } });
    let read = post(&agent, "/api/v1", &read);
    assert_eq!(
        read.json()["read_file"]["data"],
        "c2hvd24K",
        "{}",
        read.text()
    );
}
