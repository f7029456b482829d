//! The reads and writes from before the v1 API, from a whole cluster.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where something is not as it should be"
)]

use serde_json::{Value, json};
use tepui_tests::{Cluster, Response, Scheduler, request, wait_until};

fn ask(cluster: &Cluster, method: &str, path: &str, body: &str) -> Response {
    request(&cluster.master.address, method, path, &[], body.as_bytes()).unwrap()
}

fn get(cluster: &Cluster, path: &str) -> Value {
    let answer = ask(cluster, "GET", path, "");
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

/// That all of these are there.
fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "no {field} in {value}");
    }
}

fn rich_task(offer: &Value) -> Value {
    let mut task = Scheduler::task("rich", offer, "sleep 1000");
    task["labels"] = json!({ "labels": [{ "key": "k", "value": "v" }] });
    task["discovery"] = json!({ "visibility": "CLUSTER", "name": "web", "ports": {
        "ports": [{ "number": 31000, "name": "http", "protocol": "TCP" }] } });
    task["limits"] = json!({ "mem": { "value": "Infinity" } });
    task
}

#[test]
fn a_rich_task_is_shown_field_for_field() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(
        &cluster.master.address,
        json!({ "hostname": "framework.test", "webui_url": "http://ui.test", "labels": {
            "labels": [{ "key": "a", "value": "b" }] } }),
    );
    let offer = scheduler.offer();
    scheduler.launch(&offer, &[rich_task(&offer)]);
    scheduler.until("rich", "TASK_RUNNING");
    let state = get(&cluster, "/master/state.json");
    has(
        &state,
        &[
            "version",
            "build_date",
            "build_time",
            "build_user",
            "start_time",
            "elected_time",
            "id",
            "pid",
            "hostname",
            "capabilities",
            "activated_slaves",
            "deactivated_slaves",
            "unreachable_slaves",
            "leader",
            "leader_info",
            "flags",
            "slaves",
            "recovered_slaves",
            "frameworks",
            "completed_frameworks",
            "orphan_tasks",
            "unregistered_frameworks",
        ],
    );
    let version = state["version"].as_str().unwrap();
    assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()));
    assert_eq!(state["activated_slaves"], 1);
    let agent = &state["slaves"][0];
    has(
        agent,
        &[
            "id",
            "hostname",
            "port",
            "attributes",
            "pid",
            "registered_time",
            "resources",
            "used_resources",
            "offered_resources",
            "reserved_resources",
            "unreserved_resources",
            "active",
            "deactivated",
            "version",
            "capabilities",
            "reserved_resources_full",
            "unreserved_resources_full",
            "used_resources_full",
            "offered_resources_full",
        ],
    );
    has(
        &agent["resources"],
        &["cpus", "gpus", "mem", "disk", "ports"],
    );
    assert_eq!(agent["used_resources"]["cpus"], 0.1);
    let framework = &state["frameworks"][0];
    has(
        framework,
        &[
            "id",
            "name",
            "used_resources",
            "offered_resources",
            "capabilities",
            "hostname",
            "webui_url",
            "active",
            "connected",
            "recovered",
            "user",
            "failover_timeout",
            "checkpoint",
            "registered_time",
            "unregistered_time",
            "resources",
            "role",
            "tasks",
            "unreachable_tasks",
            "completed_tasks",
            "offers",
            "executors",
            "labels",
        ],
    );
    assert_eq!(framework["hostname"], "framework.test");
    let task = &framework["tasks"][0];
    assert_eq!(task["id"], "rich");
    assert_eq!(task["slave_id"], agent["id"]);
    assert_eq!(task["state"], "TASK_RUNNING");
    assert_eq!(task["resources"]["mem"], 32.0);
    assert_eq!(task["limits"]["mem"], "Infinity");
    assert_eq!(task["labels"], json!([{ "key": "k", "value": "v" }]));
    assert_eq!(task["discovery"]["visibility"], "CLUSTER");
    assert_eq!(task["discovery"]["ports"]["ports"][0]["number"], 31000);
    let of_agent = request(&cluster.agents[0].address, "GET", "/state", &[], b"");
    let of_agent = of_agent.unwrap().json();
    let executor = &of_agent["frameworks"][0]["executors"][0];
    assert_eq!(executor["tasks"][0]["discovery"], task["discovery"]);
    let statuses = task["statuses"].as_array().unwrap();
    let running = statuses.last().unwrap();
    assert_eq!(running["state"], "TASK_RUNNING");
    assert!(running["timestamp"].as_f64().unwrap() > 0.0);
    assert!(running["container_status"]["network_infos"].is_array());

    let slaves = get(&cluster, "/slaves?slave_id=nobody");
    assert_eq!(slaves["slaves"].as_array().unwrap().len(), 0);
    let id = agent["id"].as_str().unwrap();
    let slaves = get(&cluster, &format!("/slaves?slave_id={id}"));
    assert_eq!(slaves["slaves"][0]["id"], id);
    let path = format!(
        "/master/frameworks/?framework_id={}",
        scheduler.framework_id
    );
    assert_eq!(
        get(&cluster, &path)["frameworks"][0]["tasks"][0]["id"],
        "rich"
    );
    let summary = get(&cluster, "/state-summary");
    assert_eq!(summary["slaves"][0]["TASK_RUNNING"], 1);
    assert_eq!(
        summary["slaves"][0]["framework_ids"][0],
        scheduler.framework_id
    );
    assert_eq!(summary["frameworks"][0]["slave_ids"][0], id);
    let roles = get(&cluster, "/roles");
    let role = &roles["roles"][0];
    assert_eq!(role["name"], "*");
    assert_eq!(role["weight"], 1.0);
    assert_eq!(role["frameworks"][0], scheduler.framework_id);
    assert_eq!(role["allocated"]["cpus"], 0.1);
}

#[test]
fn tasks_come_in_pages_in_either_order() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    for id in ["one", "two", "three"] {
        let offer = scheduler.offer();
        scheduler.launch(&offer, &[Scheduler::task(id, &offer, "true")]);
        scheduler.until(id, "TASK_FINISHED");
    }
    let pages = |query: &str| -> Vec<String> {
        let tasks = get(&cluster, &format!("/tasks?{query}"))["tasks"].clone();
        let tasks = tasks.as_array().unwrap().clone();
        tasks
            .into_iter()
            .map(|task| task["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(pages("order=asc&limit=-1"), ["one", "two", "three"]);
    assert_eq!(pages(""), ["three", "two", "one"]);
    assert_eq!(pages("limit=1&offset=1"), ["two"]);
    assert_eq!(pages("task_id=two"), ["two"]);
    assert!(pages("framework_id=nobody").is_empty());
    let id = &scheduler.framework_id;
    assert_eq!(pages(&format!("framework_id={id}&task_id=one")), ["one"]);
    assert_eq!(ask(&cluster, "GET", "/tasks?limit=many", "").status, 400);
}

#[test]
fn small_reads_answer_everybody() {
    let cluster = Cluster::master_alone(&[]);
    let health = ask(&cluster, "GET", "/health", "");
    assert_eq!((health.status, health.text().as_str()), (200, ""));
    let redirect = ask(&cluster, "GET", "/master/redirect", "");
    let location = format!("//{}", cluster.master.address);
    assert_eq!(redirect.status, 307);
    assert_eq!(redirect.header("location"), Some(location.as_str()));
    assert_eq!(ask(&cluster, "GET", "/redirect/more", "").status, 404);
    let version = get(&cluster, "/version");
    assert_eq!(version["version"], "1.11.0");
    assert!(version["tepui_version"].is_string());
    let flags = get(&cluster, "/master/flags.json")["flags"].clone();
    has(
        &flags,
        &[
            "agent_ping_timeout",
            "agent_reregister_timeout",
            "ip",
            "port",
            "work_dir",
            "max_agent_ping_timeouts",
            "max_completed_frameworks",
            "max_completed_tasks_per_framework",
            "max_operator_event_stream_subscribers",
            "max_unreachable_tasks_per_framework",
            "offer_timeout",
            "root_submissions",
        ],
    );
    let script = ask(&cluster, "GET", "/metrics/snapshot?jsonp=show", "");
    assert!(script.text().starts_with("show({"));
    assert_eq!(script.header("content-type"), Some("text/javascript"));
    let metrics = get(&cluster, "/metrics/snapshot?timeout=5secs");
    has(
        &metrics,
        &[
            "master/uptime_secs",
            "master/elected",
            "master/slaves_active",
            "master/frameworks_connected",
            "master/tasks_running",
            "master/outstanding_offers",
            "master/cpus_total",
            "master/mem_revocable_used",
            "allocator/mesos/allocation_runs",
            "registrar/queued_operations",
            "system/load_1min",
            "system/mem_total_bytes",
        ],
    );
    assert_eq!(
        ask(&cluster, "GET", "/metrics/snapshot?timeout=soon", "").status,
        400
    );
}

#[test]
fn a_framework_is_torn_down_and_weights_are_put_by_old_means() {
    let mut cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    scheduler.launch(&offer, &[Scheduler::task("t", &offer, "sleep 1000")]);
    scheduler.until("t", "TASK_RUNNING");
    assert_eq!(
        ask(&cluster, "POST", "/teardown", "frameworkId=nobody").status,
        400
    );
    let form = format!("frameworkId={}", scheduler.framework_id);
    assert_eq!(ask(&cluster, "POST", "/master/teardown", &form).status, 200);
    let state = get(&cluster, "/state");
    let completed = &state["completed_frameworks"][0];
    assert_eq!(completed["id"], scheduler.framework_id);
    assert_eq!(completed["completed_tasks"][0]["state"], "TASK_KILLED");
    wait_until("the agent to be free", || {
        let slaves = get(&cluster, "/slaves");
        (slaves["slaves"][0]["used_resources"]["cpus"] == 0.0).then_some(())
    });
    let weights = r#"[{"role": "ads", "weight": 3.0}]"#;
    assert_eq!(ask(&cluster, "PUT", "/weights", weights).status, 200);
    cluster.master.start_again();
    assert_eq!(
        get(&cluster, "/weights"),
        json!([{ "role": "ads", "weight": 3.0 }])
    );
}
