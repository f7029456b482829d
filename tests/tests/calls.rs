//! Calls of schedulers that must not be carried out, and what is told instead.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, request};

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn calls_without_their_stream_or_with_what_is_no_uuid_are_refused() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let teardown =
        json!({ "type": "TEARDOWN", "framework_id": { "value": scheduler.framework_id } });
    let body = teardown.to_string();
    for stream in [None, Some(("Mesos-Stream-Id", "another"))] {
        let headers: Vec<_> = [Some(JSON), stream].into_iter().flatten().collect();
        let path = "/api/v1/scheduler";
        let answer = request(
            &cluster.master.address,
            "POST",
            path,
            &headers,
            body.as_bytes(),
        );
        let answer = answer.unwrap();
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    for uuid in ["", "c2hvcnQ=", "AAECAwQFBgcICQoLDA0ODxAREg=="] {
        let answer = scheduler.call(json!({ "type": "ACKNOWLEDGE", "acknowledge": {
            "agent_id": offer["agent_id"], "task_id": { "value": "t" }, "uuid": uuid } }));
        assert_eq!(answer.status, 400, "{uuid}: {}", answer.text());
    }
    scheduler.launch(&offer, &[Scheduler::task("after", &offer, "true")]);
    scheduler.until("after", "TASK_FINISHED");
}

#[test]
fn who_subscribes_suppressed_gets_no_offer_also_when_it_comes_back_so() {
    let cluster = Cluster::start(1);
    let master = &cluster.master.address;
    let info = json!({ "user": "root", "name": "quiet", "roles": ["a"], "failover_timeout": 60,
                       "capabilities": [{ "type": "MULTI_ROLE" }] });
    let mut id = Value::Null;
    for _ in 0..2 {
        let mut info = info.clone();
        info["id"] = id.clone();
        let call = json!({ "type": "SUBSCRIBE", "framework_id": id, "subscribe": {
            "framework_info": info, "suppressed_roles": ["a"] } });
        let body = call.to_string();
        let mut stream =
            tepui_tests::Stream::open(master, "/api/v1/scheduler", &[JSON], body.as_bytes())
                .unwrap();
        id = stream.record().unwrap().unwrap()["subscribed"]["framework_id"].clone();
        assert_eq!(stream.record().unwrap().unwrap()["type"], "HEARTBEAT");
        // The next thing it hears is the next heartbeat, 15 s later.
        assert_eq!(stream.record().unwrap().unwrap()["type"], "HEARTBEAT");
    }
    let mut other = Scheduler::subscribe(master, json!({ "name": "loud" }));
    other.offer();
}

#[test]
fn an_id_in_use_and_a_changed_executor_are_errors_and_harm_nobody() {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let with_executor = |id: &str, offer: &Value, command: &str| {
        let mut task = Scheduler::task(id, offer, "");
        task.as_object_mut().unwrap().remove("command");
        task["executor"] = json!({ "type": "CUSTOM", "executor_id": { "value": "mine" },
                                   "command": { "value": command } });
        task
    };
    let offer = scheduler.offer();
    let first = [
        Scheduler::task("same", &offer, "sleep 1000"),
        with_executor("in-mine", &offer, "sleep 4712"),
    ];
    scheduler.launch(&offer, &first);
    scheduler.until("same", "TASK_RUNNING");
    let offer = scheduler.offer();
    let second = [
        Scheduler::task("same", &offer, "true"),
        with_executor("in-another", &offer, "sleep 4713"),
    ];
    scheduler.launch(&offer, &second);
    for task in ["same", "in-another"] {
        let status = scheduler.until(task, "TASK_ERROR");
        assert_eq!(status["reason"], "REASON_TASK_INVALID", "{status}");
        assert_eq!(status["source"], "SOURCE_MASTER");
    }
    scheduler.call(json!({ "type": "RECONCILE", "reconcile": { "tasks": [{ "task_id": { "value": "same" } }] } }));
    scheduler.until("same", "TASK_RUNNING");
}

#[test]
fn a_kill_of_a_task_nobody_has_is_answered_by_the_master() {
    let cluster = Cluster::master_alone(&[]);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    scheduler.call(json!({ "type": "KILL", "kill": { "task_id": { "value": "nobody-has-it" } } }));
    let status = scheduler.until("nobody-has-it", "TASK_LOST");
    assert_eq!(
        (&status["source"], &status["reason"]),
        (&json!("SOURCE_MASTER"), &json!("REASON_RECONCILIATION"))
    );
}

#[test]
fn an_id_that_was_torn_down_cannot_subscribe() {
    let cluster = Cluster::master_alone(&[]);
    let scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    assert_eq!(scheduler.call(json!({ "type": "TEARDOWN" })).status, 202);
    let id = json!({ "value": scheduler.framework_id });
    let call = json!({ "type": "SUBSCRIBE", "framework_id": id,
        "subscribe": { "framework_info": { "user": "root", "name": "test", "id": id } } });
    let body = call.to_string();
    let path = "/api/v1/scheduler";
    let stream = tepui_tests::Stream::open(&cluster.master.address, path, &[JSON], body.as_bytes());
    let mut stream = stream.unwrap();
    assert_eq!(stream.response.status, 200);
    let event = stream.record().unwrap().unwrap();
    assert_eq!(event["type"], "ERROR", "{event}");
    assert!(stream.record().unwrap().is_none(), "and the stream ends");
}

#[test]
fn leaving_a_role_rescinds_its_offers() {
    let cluster = Cluster::start(1);
    let capabilities = json!([{ "type": "MULTI_ROLE" }]);
    let info = json!({ "roles": ["left", "kept"], "capabilities": capabilities });
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, info);
    let mut offer = scheduler.offer();
    // Which of its roles was served first is the master's choice.
    let other = if offer["allocation_info"]["role"] == "left" {
        "kept"
    } else {
        "left"
    };
    let update = json!({ "type": "UPDATE_FRAMEWORK", "update_framework": { "framework_info": {
        "user": "root", "name": "test", "id": { "value": scheduler.framework_id },
        "roles": [other], "capabilities": capabilities } } });
    let answer = scheduler.call(update);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        scheduler.expect("RESCIND")["rescind"]["offer_id"],
        offer["id"]
    );
    offer = scheduler.offer();
    assert_eq!(offer["allocation_info"]["role"], other);
    assert!(scheduler.next("RESCIND", Duration::from_secs(1)).is_none());
}

#[test]
fn who_calls_too_often_waits_and_who_lets_too_many_calls_wait_gets_an_error() {
    let limits = json!({ "limits": [{ "principal": "ann", "qps": 4.0, "capacity": 1 }] });
    let cluster = Cluster::master_alone(&["--rate_limits", &limits.to_string()]);
    let mut ann = Scheduler::subscribe(&cluster.master.address, json!({ "principal": "ann" }));
    let bob = Scheduler::subscribe(&cluster.master.address, json!({ "principal": "bob" }));
    let revive = json!({ "type": "REVIVE" });
    // More at once than one that is carried out and one that waits: the others are refused.
    let (master, id, stream) = (
        cluster.master.address.clone(),
        ann.framework_id.clone(),
        ann.stream_id.clone(),
    );
    let call = || {
        let body = json!({ "type": "REVIVE", "framework_id": { "value": id } }).to_string();
        let headers = [
            ("Content-Type", "application/json"),
            ("Mesos-Stream-Id", stream.as_str()),
        ];
        let path = "/api/v1/scheduler";
        let answer = request(&master, "POST", path, &headers, body.as_bytes());
        answer.unwrap().status
    };
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..6).map(|_| scope.spawn(call)).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert!(count(429) > 0 && count(202) > 1, "{statuses:?}");
    assert_eq!(count(202) + count(429), 6, "{statuses:?}");
    let error = ann.expect("ERROR");
    assert_eq!(
        error["error"]["message"],
        "Message REVIVE dropped: capacity(1) exceeded"
    );
    for _ in 0..20 {
        assert_eq!(bob.call(revive.clone()).status, 202);
    }
    let metrics = cluster.get("/metrics/snapshot").json();
    assert_eq!(metrics["frameworks/ann/messages_received"], 6.0);
    assert_eq!(
        metrics["frameworks/ann/messages_processed"],
        count(202) as f64
    );
    assert_eq!(metrics["frameworks/bob/messages_processed"], 20.0);
    let flags = cluster.get("/flags").json();
    assert!(
        flags["flags"]["rate_limits"]
            .as_str()
            .unwrap()
            .contains("ann")
    );
    let ended = cluster.tepui(&["master", "--port", "0", "--rate_limits", r#"{"limit": 1}"#]);
    assert!(
        ended.code != 0 && ended.stderr.contains("aggregate_default_qps"),
        "{ended:?}"
    );
}
