//! What an operator reads, changes and listens to, from a whole cluster.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where something is not as it should be"
)]

use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Response, Scheduler, Stream, request, wait_until};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn call(cluster: &Cluster, call: Value) -> Response {
    let body = call.to_string();
    request(
        &cluster.master.address,
        "POST",
        "/api/v1",
        &[JSON],
        body.as_bytes(),
    )
    .unwrap()
}

fn get(cluster: &Cluster, path: &str) -> Value {
    let answer = request(&cluster.master.address, "GET", path, &[], b"").unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn listen(cluster: &Cluster) -> Stream {
    let body = br#"{"type": "SUBSCRIBE"}"#;
    let stream = Stream::open(&cluster.master.address, "/api/v1", &[JSON], body).unwrap();
    assert_eq!(stream.response.status, 200);
    stream
}

/// The next event that is no heartbeat.
fn event(stream: &mut Stream) -> Value {
    loop {
        let event = stream.record().unwrap().expect("the stream goes on");
        if event["type"] != "HEARTBEAT" {
            return event;
        }
    }
}

fn expect(stream: &mut Stream, kind: &str) -> Value {
    let event = event(stream);
    assert_eq!(event["type"], kind, "{event}");
    event[kind.to_lowercase()].clone()
}

fn ids(tasks: &Value) -> Vec<&str> {
    let tasks = tasks.as_array().map_or(&[][..], Vec::as_slice);
    tasks
        .iter()
        .filter_map(|task| task["task_id"]["value"].as_str())
        .collect()
}

#[test]
fn an_operator_sees_a_tasks_whole_life_after_a_snapshot() {
    let mut cluster = Cluster::master_alone(&[]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let mut stream = listen(&cluster);
    let subscribed = expect(&mut stream, "SUBSCRIBED");
    assert_eq!(subscribed["heartbeat_interval_seconds"], 15.0);
    let known = &subscribed["get_state"]["get_frameworks"]["frameworks"][0];
    assert_eq!(
        known["framework_info"]["id"]["value"],
        scheduler.framework_id
    );
    cluster.add_agent(&["--resources", "cpus:2;mem:1024;disk:64;ports:[]"]);
    let added = expect(&mut stream, "AGENT_ADDED");
    let offer = scheduler.offer();
    assert_eq!(added["agent"]["agent_info"]["id"], offer["agent_id"]);
    scheduler.launch(&offer, &[Scheduler::task("life", &offer, "true")]);
    let added = expect(&mut stream, "TASK_ADDED");
    assert_eq!(added["task"]["task_id"]["value"], "life");
    assert_eq!(added["task"]["state"], "TASK_STAGING");
    scheduler.until("life", "TASK_FINISHED");
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "TASK_FINISHED") {
        let updated = expect(&mut stream, "TASK_UPDATED");
        assert_eq!(updated["status"]["task_id"]["value"], "life");
        assert_eq!(updated["framework_id"]["value"], scheduler.framework_id);
        states.push(updated["state"].as_str().unwrap().to_owned());
    }
    let order = ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"];
    let places: Vec<_> = states
        .iter()
        .map(|state| order.iter().position(|known| known == state))
        .collect();
    assert!(places.is_sorted() && !places.contains(&None), "{states:?}");
    scheduler.call(json!({ "type": "TEARDOWN" }));
    let removed = expect(&mut stream, "FRAMEWORK_REMOVED");
    assert_eq!(
        removed["framework_info"]["id"]["value"],
        scheduler.framework_id
    );
}

#[test]
fn tasks_move_from_the_live_list_to_the_completed_one_which_is_bounded_by_a_flag() {
    let mut cluster = Cluster::master_alone(&["--max_completed_tasks_per_framework", "2"]);
    cluster.add_agent(&["--resources", "cpus:2;mem:1024;disk:64;ports:[]"]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let tasks = || call(&cluster, json!({ "type": "GET_TASKS" })).json()["get_tasks"].clone();
    let offer = scheduler.offer();
    scheduler.launch(&offer, &[Scheduler::task("stays", &offer, "sleep 1000")]);
    scheduler.until("stays", "TASK_RUNNING");
    let seen = tasks();
    assert_eq!(ids(&seen["tasks"]), ["stays"]);
    assert!(ids(&seen["completed_tasks"]).is_empty());
    for id in ["one", "two", "three"] {
        let offer = scheduler.offer();
        scheduler.launch(&offer, &[Scheduler::task(id, &offer, "true")]);
        scheduler.until(id, "TASK_FINISHED");
        wait_until("the task to be completed", || {
            (ids(&tasks()["tasks"]) == ["stays"]).then_some(())
        });
    }
    let seen = tasks();
    assert_eq!(ids(&seen["completed_tasks"]), ["two", "three"]);
    let state = get(&cluster, "/state");
    let framework = &state["frameworks"][0];
    assert_eq!(framework["tasks"][0]["id"], "stays");
    let completed = framework["completed_tasks"].as_array().unwrap();
    assert_eq!(completed.len(), 2);
    assert_eq!(state["flags"]["max_completed_tasks_per_framework"], "2");
}

#[test]
fn beyond_the_maximum_of_listeners_the_oldest_is_closed_and_the_gauge_follows() {
    let cluster = Cluster::master_alone(&["--max_operator_event_stream_subscribers", "2"]);
    let gauge = || {
        let metrics = call(
            &cluster,
            json!({ "type": "GET_METRICS", "get_metrics": {} }),
        )
        .json();
        let metrics = metrics["get_metrics"]["metrics"]
            .as_array()
            .unwrap()
            .clone();
        let name = "master/operator_event_stream_subscribers";
        let metric = metrics.into_iter().find(|metric| metric["name"] == name);
        metric.unwrap()["value"].as_f64().unwrap()
    };
    let mut oldest = listen(&cluster);
    expect(&mut oldest, "SUBSCRIBED");
    let mut second = listen(&cluster);
    expect(&mut second, "SUBSCRIBED");
    assert_eq!(gauge(), 2.0);
    let mut third = listen(&cluster);
    expect(&mut third, "SUBSCRIBED");
    assert!(oldest.record().unwrap().is_none(), "the oldest has ended");
    assert_eq!(gauge(), 2.0);
    drop((second, third));
    wait_until("the gauge to follow", || (gauge() == 0.0).then_some(()));
}

#[test]
fn an_offer_nobody_answers_is_rescinded_and_made_again_and_counted() {
    let mut cluster = Cluster::master_alone(&["--offer_timeout", "1secs"]);
    cluster.add_agent(&["--resources", "cpus:2;mem:1024;disk:64;ports:[]"]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({ "name": "a b" }));
    let first = scheduler.offer();
    let rescinded = scheduler.expect("RESCIND");
    assert_eq!(rescinded["rescind"]["offer_id"], first["id"]);
    let second = scheduler.offer();
    assert_ne!(first["id"], second["id"]);
    let metrics = get(&cluster, "/metrics/snapshot");
    let prefix = format!("master/frameworks/a%20b.{}/offers", scheduler.framework_id);
    let count = |name: &str| metrics[format!("{prefix}/{name}")].as_f64().unwrap();
    assert!(count("sent") >= 2.0);
    assert!(count("rescinded") >= 1.0);
    assert_eq!(count("accepted"), 0.0);
    let runs = |suffix: &str| {
        let value = &metrics[format!("allocator/mesos/allocation_run_ms{suffix}")];
        value.as_f64().unwrap_or(-1.0)
    };
    assert!(runs("") > 0.0 && runs("/count") >= 2.0, "{metrics}");
    assert!(
        runs("/min") <= runs("/p50") && runs("/p50") <= runs("/p99"),
        "{metrics}"
    );
    assert!(
        metrics["master/event_queue_dispatches"].is_number(),
        "{metrics}"
    );
    assert_eq!(metrics["master/dropped_messages"], 0.0);
}

#[test]
fn figures_of_a_framework_are_right_as_soon_as_its_agent_is_back() {
    let mut cluster = Cluster::start(1);
    let info = json!({ "checkpoint": true, "failover_timeout": 600.0, "name": "counted" });
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, info.clone());
    let offer = scheduler.offer();
    let tasks = [
        Scheduler::task("runs", &offer, "sleep 1000"),
        Scheduler::task("ends", &offer, "true"),
    ];
    scheduler.launch(&offer, &tasks);
    let mut open = vec!["runs TASK_RUNNING", "ends TASK_FINISHED"];
    while !open.is_empty() {
        let status = scheduler.status();
        let seen = format!(
            "{} {}",
            status["task_id"]["value"].as_str().unwrap(),
            status["state"].as_str().unwrap()
        );
        open.retain(|wanted| *wanted != seen);
    }
    let prefix = format!("master/frameworks/counted.{}", scheduler.framework_id);
    let figures = |cluster: &Cluster| {
        let metrics = get(cluster, "/metrics/snapshot");
        let of = |name: &str| metrics[format!("{prefix}/{name}")].as_f64();
        (
            of("tasks/active/task_running"),
            of("tasks/terminal/task_finished"),
            metrics["master/tasks_running"].as_f64(),
        )
    };
    assert_eq!(figures(&cluster), (Some(1.0), Some(1.0), Some(1.0)));
    cluster.master.start_again();
    cluster.wait_for_agents(1);
    let (running, _, all) = figures(&cluster);
    assert_eq!((running, all), (Some(1.0), Some(1.0)));
}

#[test]
fn the_verbosity_of_a_master_really_changes_and_its_log_can_be_read() {
    let cluster = Cluster::master_alone(&[]);
    let log = || {
        let read = call(
            &cluster,
            json!({ "type": "READ_FILE", "read_file": { "path": "/master/log", "offset": 0 } }),
        );
        let whole = request(
            &cluster.master.address,
            "GET",
            "/files/download?path=/master/log",
            &[],
            b"",
        );
        assert_eq!(read.status, 200);
        whole.unwrap().text()
    };
    assert!(log().contains("the master listens"), "{}", log());
    assert!(!log().contains("DEBUG"), "{}", log());
    let set = |level: u32, seconds: u64| {
        let nanoseconds = seconds * 1_000_000_000;
        let set = json!({ "level": level, "duration": { "nanoseconds": nanoseconds } });
        call(
            &cluster,
            json!({ "type": "SET_LOGGING_LEVEL", "set_logging_level": set }),
        )
        .status
    };
    assert_eq!(set(1, 600), 200);
    wait_until("something said only now", || {
        // A connection that breaks off is worth a word only to who wants to hear much.
        drop(std::net::TcpStream::connect(&cluster.master.address));
        let broken = std::net::TcpStream::connect(&cluster.master.address).unwrap();
        std::io::Write::write_all(&mut &broken, b"nonsense\r\n\r\n").unwrap();
        log().contains("DEBUG").then_some(())
    });
    let level = call(&cluster, json!({ "type": "GET_LOGGING_LEVEL" })).json();
    assert_eq!(level["get_logging_level"]["level"], 1);
    assert_eq!(set(2, 0), 200);
    wait_until("the level to go back", || {
        let level = call(&cluster, json!({ "type": "GET_LOGGING_LEVEL" })).json();
        (level["get_logging_level"]["level"] == 0).then_some(())
    });
}

#[test]
fn the_scheduler_endpoint_checks_in_the_order_in_which_mesos_does() {
    let cluster = Cluster::master_alone(&[]);
    let at = &cluster.master.address;
    let path = "/api/v1/scheduler";
    let subscribe = json!({ "type": "SUBSCRIBE", "subscribe": {
        "framework_info": { "user": "root", "name": "test" } } });
    let subscribe = subscribe.to_string();
    let status = |method: &str, headers: &[(&str, &str)], body: &str| {
        request(at, method, path, headers, body.as_bytes()).unwrap()
    };
    let wrong_method = status("GET", &[("Content-Type", "text/plain")], "x");
    assert_eq!(wrong_method.status, 405);
    assert_eq!(wrong_method.header("allow"), Some("POST"));
    assert_eq!(status("POST", &[], &subscribe).status, 400);
    assert_eq!(
        status("POST", &[("Content-Type", "text/plain")], "x").status,
        415
    );
    let html = ("Accept", "text/html");
    assert_eq!(status("POST", &[JSON, html], "{").status, 400);
    assert_eq!(
        status("POST", &[JSON, html], r#"{"key": "value"}"#).status,
        400
    );
    assert_eq!(status("POST", &[JSON, html], &subscribe).status, 406);
    assert_eq!(
        status("POST", &[JSON], r#"{"type": "UNKNOWN"}"#).status,
        501
    );
    assert_eq!(
        status("POST", &[JSON], r#"{"type": "SUBSCRIBE"}"#).status,
        400
    );
    for (accept, answered) in [
        (None, "application/json"),
        (Some("*/*"), "application/json"),
        (Some("application/x-protobuf"), "application/x-protobuf"),
    ] {
        let mut headers = vec![JSON];
        headers.extend(accept.map(|accept| ("Accept", accept)));
        let stream = Stream::open(at, path, &headers, subscribe.as_bytes()).unwrap();
        assert_eq!(stream.response.status, 200);
        assert_eq!(stream.response.header("content-type"), Some(answered));
        assert_eq!(stream.response.header("transfer-encoding"), Some("chunked"));
        assert!(stream.response.header("mesos-stream-id").is_some());
    }
}

#[test]
fn later_calls_need_the_stream_and_whole_uuids_and_a_second_subscription_takes_over() {
    let cluster = Cluster::master_alone(&[]);
    let mut first = Scheduler::subscribe(
        &cluster.master.address,
        json!({ "failover_timeout": 600.0 }),
    );
    let id = first.framework_id.clone();
    let without_stream = json!({ "type": "TEARDOWN", "framework_id": { "value": id } });
    let refused = request(
        &cluster.master.address,
        "POST",
        "/api/v1/scheduler",
        &[JSON],
        without_stream.to_string().as_bytes(),
    );
    assert_eq!(refused.unwrap().status, 400);
    let acknowledge = |uuid: &str| {
        json!({ "type": "ACKNOWLEDGE", "acknowledge": {
            "agent_id": { "value": "a" }, "task_id": { "value": "t" }, "uuid": uuid } })
    };
    assert_eq!(first.call(acknowledge("AAAA")).status, 400);
    assert_eq!(
        first.call(acknowledge("AAAAAAAAAAAAAAAAAAAAAA==")).status,
        202
    );
    let again = json!({ "id": { "value": id }, "failover_timeout": 600.0 });
    let second = Scheduler::subscribe(&cluster.master.address, again);
    assert_eq!(second.framework_id, id);
    let error = first.expect("ERROR");
    assert_eq!(error["error"]["message"], "Framework failed over");
    assert_eq!(first.call(json!({ "type": "REVIVE" })).status, 400);
    assert_eq!(second.call(json!({ "type": "REVIVE" })).status, 202);
}

#[test]
fn a_role_that_cannot_be_is_refused_on_the_stream() {
    let cluster = Cluster::master_alone(&[]);
    let body = json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": {
        "user": "root", "name": "test", "roles": ["/bad"],
        "capabilities": [{ "type": "MULTI_ROLE" }] } } });
    let body = body.to_string();
    let mut stream = Stream::open(
        &cluster.master.address,
        "/api/v1/scheduler",
        &[JSON],
        body.as_bytes(),
    )
    .unwrap();
    assert_eq!(stream.response.status, 200);
    let event = stream.record().unwrap().unwrap();
    assert_eq!(event["type"], "ERROR", "{event}");
    assert!(stream.record().unwrap().is_none());
}

#[test]
fn a_teardown_by_an_operator_ends_the_framework_and_its_tasks() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    scheduler.launch(&offer, &[Scheduler::task("t", &offer, "sleep 1000")]);
    scheduler.until("t", "TASK_RUNNING");
    let teardown =
        |id: &str| json!({ "type": "TEARDOWN", "teardown": { "framework_id": { "value": id } } });
    assert_eq!(call(&cluster, teardown("nobody")).status, 400);
    assert_eq!(
        call(&cluster, teardown(&scheduler.framework_id)).status,
        200
    );
    assert!(scheduler.next("UPDATE", Duration::from_secs(1)).is_none());
    let tasks = call(&cluster, json!({ "type": "GET_TASKS" })).json();
    let completed = &tasks["get_tasks"]["completed_tasks"][0];
    assert_eq!(completed["state"], "TASK_KILLED");
    wait_until("the agent to be free", || {
        let agents = call(&cluster, json!({ "type": "GET_AGENTS" })).json();
        let used = agents["get_agents"]["agents"][0].get("allocated_resources");
        used.is_none().then_some(())
    });
}
