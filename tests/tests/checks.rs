//! Checks and health checks, of native tasks and of wasm ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, guest, request};

const REASON_HEALTH: &str = "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED";
const REASON_CHECK: &str = "REASON_TASK_CHECK_STATUS_UPDATED";

/// A server that answers every request with a status that can be changed.
struct Server {
    port: u16,
    status: Arc<AtomicU16>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let status = Arc::new(AtomicU16::new(200));
        let told = Arc::clone(&status);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut stream = stream;
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let _ = stream.read(&mut [0; 4096]);
                let status = told.load(Ordering::Relaxed);
                let head = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
            }
        });
        Self { port, status }
    }
}

/// A check that begins at once and is repeated quickly.
fn quick(mut check: Value) -> Value {
    check["delay_seconds"] = json!(0);
    check["interval_seconds"] = json!(0.1);
    check
}

/// The next status of the reason.
fn told(scheduler: &mut Scheduler, reason: &str) -> Value {
    loop {
        let status = scheduler.status();
        if status["reason"] == reason {
            return status;
        }
        let state = status["state"].as_str().unwrap();
        assert!(
            ["TASK_STARTING", "TASK_RUNNING"].contains(&state),
            "{status}"
        );
    }
}

fn launch(cluster: &Cluster, task: impl FnOnce(&Value) -> Value) -> Scheduler {
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({}));
    let offer = scheduler.offer();
    let task = task(&offer);
    assert_eq!(scheduler.launch(&offer, &[task]).status, 202);
    scheduler
}

#[test]
fn a_task_is_healthy_by_http_and_by_tcp_and_only_flips_and_failures_are_told() {
    let cluster = Cluster::start(1);
    let server = Server::start();
    let mut scheduler = launch(&cluster, |offer| {
        let mut task = Scheduler::task("http", offer, "sleep 1000");
        task["health_check"] = quick(json!({
            "type": "HTTP", "http": { "port": server.port, "path": "/health" },
            "consecutive_failures": 1000, "grace_period_seconds": 0,
        }));
        task
    });
    let status = scheduler.until("http", "TASK_RUNNING");
    assert!(status.get("healthy").is_none(), "nothing is known yet");
    assert_eq!(told(&mut scheduler, REASON_HEALTH)["healthy"], true);
    let state = request(&cluster.master.address, "GET", "/state", &[], b"").unwrap();
    let state = state.json();
    let statuses = &state["frameworks"][0]["tasks"][0]["statuses"];
    let statuses = statuses.as_array().unwrap();
    assert_eq!(statuses.last().unwrap()["healthy"], true, "{state}");
    // It goes on being probed, which is no news.
    assert!(scheduler.next("UPDATE", Duration::from_secs(1)).is_none());
    server.status.store(500, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(told(&mut scheduler, REASON_HEALTH)["healthy"], false);
    }
    server.status.store(399, Ordering::Relaxed);
    let healthy = loop {
        let status = told(&mut scheduler, REASON_HEALTH);
        if status["healthy"] == true {
            break status;
        }
    };
    assert_eq!(healthy["state"], "TASK_RUNNING");
    scheduler.kill("http");
    let killed = scheduler.until("http", "TASK_KILLED");
    assert_eq!(killed["healthy"], true, "what was known last");
    scheduler.call(json!({ "type": "TEARDOWN" }));

    let mut scheduler = launch(&cluster, |offer| {
        let mut task = Scheduler::task("tcp", offer, "sleep 1000");
        task["health_check"] = quick(json!({ "type": "TCP", "tcp": { "port": server.port } }));
        task
    });
    assert_eq!(told(&mut scheduler, REASON_HEALTH)["healthy"], true);
}

/// A port that nobody has.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_task_is_healthy_by_https_whoever_signed_its_certificate() {
    let cluster = Cluster::start(1);
    let port = free_port();
    let mut scheduler = launch(&cluster, |offer| {
        let server = format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -subj /CN=x 2>/dev/null; \
             exec openssl s_server -quiet -accept 127.0.0.1:{port} -cert cert -key key -www"
        );
        let mut task = Scheduler::task("https", offer, &server);
        task["health_check"] = quick(json!({
            "type": "HTTP", "http": { "port": port, "scheme": "https", "path": "/" },
            "consecutive_failures": 1000, "grace_period_seconds": 60,
        }));
        task
    });
    assert_eq!(told(&mut scheduler, REASON_HEALTH)["healthy"], true);
    scheduler.kill("https");
    scheduler.until("https", "TASK_KILLED");
}

#[test]
fn a_task_is_healthy_by_ipv6_where_it_listens_there() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        // This machine has no IPv6: there is nothing to listen on.
        return;
    };
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let cluster = Cluster::start(1);
    for (kind, check) in [
        ("TCP", json!({ "port": port, "protocol": "IPv6" })),
        (
            "HTTP",
            json!({ "port": port, "protocol": "IPv6", "path": "/" }),
        ),
    ] {
        let mut scheduler = launch(&cluster, |offer| {
            let mut task = Scheduler::task("six", offer, "sleep 1000");
            let mut health = json!({ "type": kind });
            health[kind.to_lowercase()] = check.clone();
            task["health_check"] = quick(health);
            task
        });
        assert_eq!(
            told(&mut scheduler, REASON_HEALTH)["healthy"],
            true,
            "{kind}"
        );
        // At the same port of IPv4 nobody listens.
        scheduler.call(json!({ "type": "TEARDOWN" }));
    }
}

#[test]
fn so_many_failures_in_a_row_kill_and_those_within_the_grace_do_not_count() {
    let cluster = Cluster::start(1);
    let mut scheduler = launch(&cluster, |offer| {
        let mut task = Scheduler::task("sick", offer, "sleep 1000");
        task["health_check"] = quick(json!({
            "type": "COMMAND", "command": { "value": "echo probed >> probes; exit 1" },
            "consecutive_failures": 3, "grace_period_seconds": 1,
        }));
        task
    });
    for _ in 0..3 {
        let status = told(&mut scheduler, REASON_HEALTH);
        assert_eq!(
            (&status["healthy"], &status["state"]),
            (&json!(false), &json!("TASK_RUNNING"))
        );
    }
    let status = scheduler.status();
    assert_eq!(
        (&status["state"], &status["healthy"]),
        (&json!("TASK_KILLED"), &json!(false)),
        "{status}"
    );
    let probes = cluster.sandboxed(&scheduler.framework_id, "sick", "probes");
    assert!(
        probes.lines().count() > 3,
        "the first ones fell into the grace: {probes}"
    );
}

#[test]
fn a_probe_that_takes_too_long_has_failed_and_probing_goes_on() {
    let cluster = Cluster::start(1);
    let mut scheduler = launch(&cluster, |offer| {
        let mut task = Scheduler::task("slow", offer, "sleep 1000");
        let command = "if test -e once; then exit 0; fi; touch once; sleep 1000";
        task["health_check"] = quick(json!({
            "type": "COMMAND", "command": { "value": command },
            "timeout_seconds": 1, "grace_period_seconds": 0,
        }));
        task
    });
    assert_eq!(told(&mut scheduler, REASON_HEALTH)["healthy"], false);
    assert_eq!(told(&mut scheduler, REASON_HEALTH)["healthy"], true);
}

#[test]
fn every_status_of_a_checked_task_has_its_result_and_a_timeout_empties_it() {
    let cluster = Cluster::start(1);
    let mut scheduler = launch(&cluster, |offer| {
        let mut task = Scheduler::task("checked", offer, "VALUE=7 sleep 1000");
        task["command"]["environment"] = json!({ "variables": [{ "name": "CODE", "value": "5" }] });
        let command = "if test -e once; then sleep 1000; fi; touch once; exit $CODE";
        task["check"] = quick(json!({
            "type": "COMMAND", "command": { "command": { "value": command } },
            "timeout_seconds": 1,
        }));
        task
    });
    let empty = json!({ "type": "COMMAND", "command": {} });
    for state in ["TASK_STARTING", "TASK_RUNNING"] {
        assert_eq!(scheduler.until("checked", state)["check_status"], empty);
    }
    let status = told(&mut scheduler, REASON_CHECK);
    assert_eq!(status["check_status"]["command"]["exit_code"], 5);
    let status = told(&mut scheduler, REASON_CHECK);
    assert_eq!(status["check_status"], empty, "it took too long");
    assert!(status.get("healthy").is_none());
    scheduler.kill("checked");
    let status = scheduler.until("checked", "TASK_KILLED");
    assert_eq!(status["check_status"], empty);
}

#[test]
fn a_wasm_task_is_checked_like_any_other() {
    let cluster = Cluster::start(1);
    let server = Server::start();
    let put = cluster.json(&["artifact", "put", "--json", &guest("spin")]);
    let mut scheduler = launch(&cluster, |offer| {
        let mut task = Scheduler::task("wasm", offer, "spin.wasm");
        task["command"]["uris"] = json!([{ "value": put["url"], "output_file": "spin.wasm" }]);
        task["check"] = quick(json!({
            "type": "COMMAND",
            "command": { "command": { "value": "test -n \"$MESOS_TASK_ID\" && exit 4" } },
        }));
        task["health_check"] = quick(json!({
            "type": "HTTP", "http": { "port": server.port },
            "consecutive_failures": 2, "grace_period_seconds": 0,
        }));
        task
    });
    let (mut checked, mut healthy) = (false, false);
    while !(checked && healthy) {
        let status = scheduler.status();
        checked |= status["check_status"]["command"]["exit_code"] == 4;
        healthy |= status["healthy"] == true;
    }
    server.status.store(404, Ordering::Relaxed);
    let status = scheduler.until("wasm", "TASK_KILLED");
    assert_eq!(status["healthy"], false, "{status}");
    assert_eq!(status["check_status"]["command"]["exit_code"], 4);
}

#[test]
fn a_check_whose_command_is_a_module_is_refused() {
    let cluster = Cluster::start(1);
    let mut scheduler = launch(&cluster, |offer| {
        let mut task = Scheduler::task("refused", offer, "sleep 1000");
        task["health_check"] =
            json!({ "type": "COMMAND", "command": { "value": "./probe.wasm --now" } });
        task
    });
    let status = scheduler.until("refused", "TASK_FAILED");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("commands of checks run natively"),
        "{status}"
    );
}
