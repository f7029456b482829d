//! The scheduler API, driven in JSON over plain HTTP.

use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, Stream, request};

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn a_framework_lives_its_whole_life() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    assert!(
        offer.get("allocation_info").is_none(),
        "a single-role client must not see it: {offer}"
    );
    assert_eq!(offer["url"]["path"], "/slave(1)");
    let held: f64 = offer["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["name"] == "cpus")
        .map(|r| r["scalar"]["value"].as_f64().unwrap())
        .sum();
    assert_eq!(held, 2.0, "the whole agent is offered");
    let tasks = [
        Scheduler::task("one", &offer, "true"),
        Scheduler::task("two", &offer, "sleep 1000"),
        Scheduler::task("three", &offer, "exit 4"),
    ];
    assert_eq!(scheduler.launch(&offer, &tasks).status, 202);
    let mut ends = std::collections::BTreeMap::new();
    while ends.len() < 2 {
        let status = scheduler.status();
        if ["TASK_FINISHED", "TASK_FAILED"].contains(&status["state"].as_str().unwrap()) {
            ends.insert(
                status["task_id"]["value"].as_str().unwrap().to_owned(),
                status,
            );
        }
    }
    assert_eq!(ends["one"]["state"], "TASK_FINISHED");
    assert_eq!(ends["three"]["message"], "Command exited with status 4");
    // Asked for its tasks, the master tells of the one that lives.
    assert_eq!(
        scheduler
            .call(json!({ "type": "RECONCILE", "reconcile": {} }))
            .status,
        202
    );
    let status = loop {
        let status = scheduler.status();
        if status["reason"] == "REASON_RECONCILIATION" {
            break status;
        }
    };
    assert_eq!(
        (
            status["task_id"]["value"].as_str(),
            status["state"].as_str()
        ),
        (Some("two"), Some("TASK_RUNNING"))
    );
    assert!(status.get("uuid").is_none());
    assert_eq!(
        scheduler
            .call(json!({ "type": "KILL", "kill": { "task_id": { "value": "two" } } }))
            .status,
        202
    );
    scheduler.until("two", "TASK_KILLED");
    let unknown = json!({ "type": "RECONCILE", "reconcile": { "tasks": [{ "task_id": { "value": "nobody" } }] } });
    assert_eq!(scheduler.call(unknown).status, 202);
    assert_eq!(
        scheduler.until("nobody", "TASK_LOST")["reason"],
        "REASON_RECONCILIATION"
    );
    assert_eq!(scheduler.call(json!({ "type": "TEARDOWN" })).status, 202);
    assert_eq!(scheduler.call(json!({ "type": "TEARDOWN" })).status, 400);
}

#[test]
fn wrong_calls_get_their_status_and_change_nothing() {
    let cluster = Cluster::master_alone(&[]);
    let master = cluster.master.address.as_str();
    let post = |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        request(master, "POST", path, headers, body).unwrap().status
    };
    let subscribe = json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": { "user": "u", "name": "n" } } }).to_string();
    let subscribe = subscribe.as_bytes();
    for path in ["/api/v1/scheduler", "/master/api/v1/scheduler"] {
        assert_eq!(post(path, &[], subscribe), 400, "no content type");
        assert_eq!(
            post(path, &[("Content-Type", "text/plain")], subscribe),
            415
        );
        assert_eq!(post(path, &[JSON], b"{"), 400);
        assert_eq!(post(path, &[JSON], b"[]"), 400);
        assert_eq!(post(path, &[JSON], b"{}"), 400);
        assert_eq!(post(path, &[JSON], br#"{"type":"NO_SUCH_CALL"}"#), 400);
        assert_eq!(post(path, &[JSON], br#"{"type":"SUBSCRIBE"}"#), 400);
        assert_eq!(post(path, &[JSON, ("Accept", "text/html")], subscribe), 406);
        assert_eq!(
            post(path, &[JSON, ("Mesos-Stream-Id", "x")], subscribe),
            400
        );
        assert_eq!(
            post(path, &[JSON], br#"{"type":"REVIVE"}"#),
            400,
            "no framework id"
        );
        assert_eq!(
            post(
                path,
                &[JSON],
                br#"{"type":"REVIVE","framework_id":{"value":"nobody"}}"#
            ),
            400
        );
        assert_eq!(
            post(
                path,
                &[("Content-Type", "application/x-protobuf")],
                b"\xff\xff\xff"
            ),
            400
        );
        let get = request(master, "GET", path, &[], b"").unwrap();
        assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    }
    assert_eq!(post("/api/v1", &[JSON], br#"{"type":"UNKNOWN"}"#), 501);
    assert_eq!(post("/no/such/path", &[JSON], b"{}"), 404);
    let frameworks = request(
        master,
        "POST",
        "/api/v1",
        &[JSON],
        br#"{"type":"GET_FRAMEWORKS"}"#,
    )
    .unwrap()
    .json();
    assert_eq!(frameworks["get_frameworks"], json!({}), "nobody got in");
}

#[test]
fn a_bad_framework_is_refused_on_the_stream() {
    let cluster = Cluster::master_alone(&[]);
    let call = json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": { "user": "u", "name": "n", "role": "/bad" } } });
    let mut stream = Stream::open(
        &cluster.master.address,
        "/api/v1/scheduler",
        &[JSON],
        call.to_string().as_bytes(),
    )
    .unwrap();
    assert_eq!(stream.response.status, 200);
    let event = stream.record().unwrap().unwrap();
    assert_eq!(event["type"], "ERROR");
    assert!(
        event["error"]["message"].as_str().unwrap().contains("/bad"),
        "{event}"
    );
    assert!(stream.record().unwrap().is_none(), "the stream ends");
}

#[test]
fn the_last_subscriber_of_an_id_wins() {
    let cluster = Cluster::start(1);
    let mut first =
        Scheduler::subscribe(&cluster.master.address, json!({ "failover_timeout": 60 }));
    let offer = first.offer();
    first.launch(&offer, &[Scheduler::task("stays", &offer, "sleep 1000")]);
    first.until("stays", "TASK_RUNNING");
    let mut second = Scheduler::subscribe(
        &cluster.master.address,
        json!({ "failover_timeout": 60, "id": { "value": first.framework_id } }),
    );
    assert_eq!(second.framework_id, first.framework_id);
    assert_eq!(
        first.expect("ERROR")["error"]["message"],
        "Framework failed over"
    );
    assert_eq!(
        first.call(json!({ "type": "REVIVE" })).status,
        400,
        "the old stream is void"
    );
    second.call(json!({ "type": "RECONCILE", "reconcile": { "tasks": [] } }));
    second.until("stays", "TASK_RUNNING");
    second.call(json!({ "type": "TEARDOWN" }));
}

#[test]
fn bad_launches_are_answered_per_task_and_the_offer_comes_back() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let mut greedy = Scheduler::task("greedy", &offer, "true");
    greedy["resources"][0]["scalar"]["value"] = json!(100);
    let mut both = Scheduler::task("both", &offer, "true");
    both["executor"] = json!({ "executor_id": { "value": "e" }, "command": { "value": "x" } });
    let mut slash = Scheduler::task("sl/ash", &offer, "true");
    slash["name"] = json!("slash");
    let mut elsewhere = Scheduler::task("elsewhere", &offer, "true");
    elsewhere["agent_id"] = json!({ "value": "another" });
    scheduler.launch(&offer, &[greedy, both, slash, elsewhere]);
    for id in ["greedy", "both", "sl/ash", "elsewhere"] {
        let status = scheduler.until(id, "TASK_ERROR");
        assert_eq!(
            (status["reason"].as_str(), status["source"].as_str()),
            (Some("REASON_TASK_INVALID"), Some("SOURCE_MASTER"))
        );
        assert!(status.get("uuid").is_none());
    }
    let again = scheduler.offer();
    assert_ne!(again["id"], offer["id"]);
    scheduler.launch(&offer, &[Scheduler::task("stale", &offer, "true")]);
    assert_eq!(
        scheduler.until("stale", "TASK_LOST")["reason"],
        "REASON_INVALID_OFFERS"
    );
}

#[test]
fn a_declined_agent_is_offered_again_once_the_refusal_runs_out_or_is_revived() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let decline = |offer: &Value, seconds: f64| json!({ "type": "DECLINE", "decline": { "offer_ids": [offer["id"]], "filters": { "refuse_seconds": seconds } } });
    let offer = scheduler.offer();
    assert_eq!(scheduler.call(decline(&offer, 1.0)).status, 202);
    let offer = scheduler.offer();
    scheduler.call(decline(&offer, 3600.0));
    assert!(
        scheduler.next("OFFERS", Duration::from_secs(2)).is_none(),
        "the filter holds"
    );
    assert_eq!(scheduler.call(json!({ "type": "REVIVE" })).status, 202);
    let offer = scheduler.offer();
    scheduler.call(json!({ "type": "SUPPRESS" }));
    scheduler.call(decline(&offer, 0.0));
    assert!(
        scheduler.next("OFFERS", Duration::from_secs(2)).is_none(),
        "a suppressed framework gets none"
    );
    scheduler.call(json!({ "type": "REVIVE" }));
    scheduler.offer();
}

#[test]
fn a_wasm_module_runs_for_a_client_that_knows_nothing_of_wasm() {
    let cluster = Cluster::start(1);
    let put = cluster.json(&["artifact", "put", "--json", &tepui_tests::guest("hello")]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let mut task = Scheduler::task("stock", &offer, "hello.wasm from a shell line");
    task["command"]["uris"] = json!([{ "value": put["url"], "output_file": "hello.wasm" }]);
    scheduler.launch(&offer, &[task]);
    scheduler.until("stock", "TASK_FINISHED");
    let said = cluster.tepui(&["logs", "stock"]);
    assert!(
        said.stdout.contains("hello from wasm from a shell line"),
        "{said:?}"
    );
}

#[test]
fn two_tenants_share_by_dominant_resource() {
    let mut cluster = Cluster::master_alone(&[]);
    let mut first = Scheduler::subscribe(
        &cluster.master.address,
        json!({ "roles": ["a"], "capabilities": [{ "type": "MULTI_ROLE" }] }),
    );
    let mut second = Scheduler::subscribe(
        &cluster.master.address,
        json!({ "roles": ["b"], "capabilities": [{ "type": "MULTI_ROLE" }] }),
    );
    // Both are there before the first agent, so that neither is served only because it came first.
    for _ in 0..4 {
        cluster.add_agent(&["--resources", "cpus:1;mem:256;disk:64;ports:[]"]);
    }
    let mut held = [0usize; 2];
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while held.iter().sum::<usize>() < 4 && std::time::Instant::now() < deadline {
        for (count, scheduler) in held.iter_mut().zip([&mut first, &mut second]) {
            while let Some(event) = scheduler.next("OFFERS", Duration::from_millis(100)) {
                *count += event["offers"]["offers"].as_array().unwrap().len();
            }
        }
    }
    assert_eq!(held, [2, 2], "four equal agents, two equal tenants");
}
