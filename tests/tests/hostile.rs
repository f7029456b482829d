//! Hostile requests to every endpoint of a master and an agent: each is answered or cut off, and afterwards the
//! cluster is as it was and works.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tepui_tests::{Cluster, Scheduler, request, wait_until};

const MASTER: &[&str] = &[
    "/api/v1",
    "/api/v1/scheduler",
    "/api/v1/operator",
    "/master/api/v1/scheduler",
];
const AGENT: &[&str] = &["/api/v1", "/api/v1/executor", "/slave(1)/api/v1/executor"];
const READS: &[&str] = &[
    "/state",
    "/slaves",
    "/frameworks",
    "/tasks",
    "/roles",
    "/files/read",
    "/files/browse",
    "/files/download",
    "/metrics/snapshot",
    "/version",
    "/health",
    "/redirect",
    "/monitor/statistics",
    "/containers",
    "/flags",
    "/artifacts/none",
];

/// Sends raw bytes, hangs up or not, and reads what the server says before it closes or 20 s are over.
fn say(address: &str, bytes: &[u8], hang_up: bool) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
        .set_write_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // A server that has heard enough may close before all is said.
    let _ = socket.write_all(bytes);
    if hang_up {
        let _ = socket.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = socket.take(64 * 1024).read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn head(path: &str, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n{more}\r\n"
    )
}

fn with_length(path: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let length = format!("{more}Content-Length: {}\r\n", body.len());
    [head(path, &length).as_bytes(), body].concat()
}

/// Requests with a name for the report.
type Named = Vec<(&'static str, Vec<u8>)>;

/// What no server may take: what is whole and must be refused, and what is cut off.
fn attacks(path: &str) -> (Named, Named) {
    let deep = |open: &str, close: &str| [open.repeat(100_000), close.repeat(100_000)].concat();
    let nested = format!(
        "{{\"type\":\"SUBSCRIBE\",\"subscribe\":{}}}",
        deep("{\"a\":", "}")
    );
    let mut whole = vec![
        ("no body", with_length(path, "", b"")),
        ("no JSON", with_length(path, "", b"\xff\xfe\x00{")),
        ("cut JSON", with_length(path, "", b"{\"type\":\"SUBSC")),
        ("an array", with_length(path, "", b"[]")),
        ("a string", with_length(path, "", b"\"SUBSCRIBE\"")),
        ("no type", with_length(path, "", b"{}")),
        (
            "an unknown type",
            with_length(path, "", b"{\"type\":\"NO_SUCH_CALL\"}"),
        ),
        ("a number as type", with_length(path, "", b"{\"type\":77}")),
        (
            "deep arrays",
            with_length(path, "", deep("[", "]").as_bytes()),
        ),
        ("deep objects", with_length(path, "", nested.as_bytes())),
        (
            "a lone surrogate",
            with_length(path, "", b"{\"type\":\"\\ud800\"}"),
        ),
        (
            "bytes that are no gzip",
            with_length(path, "Content-Encoding: gzip\r\n", b"not gzip at all"),
        ),
        (
            "an unknown encoding",
            with_length(path, "Content-Encoding: br\r\n", b"{}"),
        ),
        (
            "chunks without a length",
            [
                head(path, "Transfer-Encoding: chunked\r\n").as_bytes(),
                b"zz\r\n{}\r\n0\r\n\r\n",
            ]
            .concat(),
        ),
        (
            "a length that is none",
            head(path, "Content-Length: -5\r\n").into_bytes(),
        ),
        (
            "two lengths",
            [
                head(path, "Content-Length: 2\r\nContent-Length: 3\r\n").as_bytes(),
                b"{}",
            ]
            .concat(),
        ),
    ];
    let record_io = |body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/recordio\r\n\
             Message-Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    whole.extend([
        (
            "a record without a length",
            record_io(b"{\"type\":\"ATTACH_CONTAINER_INPUT\"}"),
        ),
        ("a record of -1", record_io(b"-1\n{}")),
        ("a record of 2^70", record_io(b"1180591620717411303424\n{}")),
        ("a record longer than the body", record_io(b"1000\n{}")),
    ]);
    let cut_off = vec![
        (
            "chunks that end early",
            [
                head(path, "Transfer-Encoding: chunked\r\n").as_bytes(),
                b"ff\r\n{\"type\"",
            ]
            .concat(),
        ),
        (
            "a chunk of 2^64",
            [
                head(path, "Transfer-Encoding: chunked\r\n").as_bytes(),
                b"ffffffffffffffff\r\n{}",
            ]
            .concat(),
        ),
        (
            "less than was promised",
            [
                head(path, "Content-Length: 1000\r\n").as_bytes(),
                b"{\"type\":",
            ]
            .concat(),
        ),
        ("no HTTP", b"\x16\x03\x01\x02\x00 hello\r\n\r\n".to_vec()),
        ("half a head", b"POST /api".to_vec()),
        (
            "a huge head",
            head(path, &format!("X: {}\r\n", "x".repeat(1_000_000))).into_bytes(),
        ),
        (
            "a huge path",
            with_length(&format!("/{}", "a/".repeat(100_000)), "", b"{}"),
        ),
    ];
    (whole, cut_off)
}

/// What must be the same before and after: who is there and what runs.
fn picture(cluster: &Cluster) -> Value {
    let state = request(&cluster.master.address, "GET", "/state", &[], b"")
        .unwrap()
        .json();
    let of_agent = request(&cluster.agents[0].address, "GET", "/state", &[], b"")
        .unwrap()
        .json();
    json!([
        state["slaves"]
            .as_array()
            .unwrap()
            .iter()
            .map(|slave| (&slave["id"], &slave["used_resources"], &slave["active"]))
            .collect::<Vec<_>>(),
        state["frameworks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|framework| (
                &framework["id"],
                &framework["active"],
                &framework["used_resources"],
                framework["tasks"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|task| (&task["id"], &task["state"]))
                    .collect::<Vec<_>>(),
                framework["completed_tasks"].as_array().unwrap().len(),
            ))
            .collect::<Vec<_>>(),
        state["completed_frameworks"],
        of_agent["frameworks"].as_array().unwrap().len(),
        of_agent["id"],
    ])
}

/// A cluster in which a task runs, and the pids of its servers.
fn living() -> (Cluster, Scheduler, Value) {
    let cluster = Cluster::start(1);
    let mut scheduler = Scheduler::subscribe(&cluster.master.address, json!({ "name": "victim" }));
    let offer = scheduler.offer();
    scheduler.launch(&offer, &[Scheduler::task("steady", &offer, "sleep 1000")]);
    scheduler.until("steady", "TASK_RUNNING");
    let before = picture(&cluster);
    (cluster, scheduler, before)
}

/// The cluster is as it was, and a further task goes its way.
fn unharmed(cluster: &Cluster, scheduler: &mut Scheduler, before: &Value) {
    assert_eq!(picture(cluster), *before);
    scheduler.call(json!({ "type": "REVIVE" }));
    let offer = scheduler.offer();
    scheduler.launch(&offer, &[Scheduler::task("after", &offer, "true")]);
    scheduler.until("after", "TASK_FINISHED");
}

#[test]
fn malformed_requests_are_refused_and_change_nothing() {
    let (cluster, mut scheduler, before) = living();
    let (master, agent) = (&cluster.master.address, &cluster.agents[0].address);
    let calls = MASTER
        .iter()
        .map(|path| (master, path))
        .chain(AGENT.iter().map(|path| (agent, path)));
    for (address, path) in calls {
        let (whole, cut_off) = attacks(path);
        for (name, bytes) in whole {
            let answer = say(address, &bytes, false);
            let refused = status(&answer).is_some_and(|status| (400..500).contains(&status));
            assert!(refused, "{path}: {name} was answered with {answer:?}");
        }
        for (name, bytes) in cut_off {
            let answer = say(address, &bytes, true);
            let refused = status(&answer).is_none_or(|status| (400..500).contains(&status));
            assert!(refused, "{path}: {name} was answered with {answer:?}");
        }
    }
    unharmed(&cluster, &mut scheduler, &before);
}

#[test]
fn odd_requests_to_reads_change_nothing() {
    let (cluster, mut scheduler, before) = living();
    for address in [&cluster.master.address, &cluster.agents[0].address] {
        for path in READS {
            for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "NONSENSE"] {
                let answer = say(address, format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes(), false);
                let status = status(&answer).unwrap_or_else(|| panic!("{method} {path}: {answer}"));
                assert!(status < 500 || status == 501, "{method} {path}: {answer}");
            }
            for query in [
                "?jsonp=%00",
                "?limit=-9999999999999999999",
                "?limit=x&offset=18446744073709551616",
                "?path=../../../../etc/passwd",
                "?path=/etc/passwd&offset=0",
                "?path=%2e%2e%2f%2e%2e%2fetc%2fpasswd&offset=0&length=99",
                "?path=%ff%fe",
                "?%",
                "?=&&&=",
                "?offset=-2&path=/master/log",
                "?task_id=%2F..%2F",
                "?timeout=99999999999days",
            ] {
                let answer = say(
                    address,
                    format!("GET {path}{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                        .as_bytes(),
                    false,
                );
                let status = status(&answer).unwrap_or_else(|| panic!("{path}{query}: {answer}"));
                assert!(status < 500, "{path}{query}: {answer}");
                assert!(
                    !answer.contains("root:x:0"),
                    "{path}{query} gave a file of the host away"
                );
            }
        }
    }
    unharmed(&cluster, &mut scheduler, &before);
}

#[test]
fn a_body_announced_too_long_is_refused_at_once_and_ends_the_connection() {
    let (cluster, mut scheduler, before) = living();
    let (master, agent) = (&cluster.master.address, &cluster.agents[0].address);
    let calls = MASTER
        .iter()
        .map(|path| (master, path))
        .chain(AGENT.iter().map(|path| (agent, path)));
    for (address, path) in calls {
        // Nothing of the body is sent and nobody hangs up, so only the server can end this.
        let opening = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n"
        );
        let mut socket = TcpStream::connect(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        socket.write_all(opening.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert_eq!(status(&answer), Some(413), "{path}: {answer}");
        assert!(
            answer.to_lowercase().contains("connection: close"),
            "{path}: {answer}"
        );
    }
    unharmed(&cluster, &mut scheduler, &before);
}

#[test]
fn bodies_without_end_are_cut_off() {
    let (cluster, mut scheduler, before) = living();
    for (address, path) in [
        (&cluster.master.address, "/api/v1/scheduler"),
        (&cluster.master.address, "/api/v1"),
        (&cluster.agents[0].address, "/api/v1/executor"),
        (&cluster.agents[0].address, "/api/v1"),
    ] {
        let mut socket = TcpStream::connect(address).unwrap();
        socket
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let opening = head(path, "Transfer-Encoding: chunked\r\n");
        socket.write_all(opening.as_bytes()).unwrap();
        let mut sent = 0;
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
        // Far more than any limit; a server that reads on would take all of it.
        while sent < 256 << 20 && socket.write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        assert!(sent < 200 << 20, "{path} took {sent} bytes");
    }
    unharmed(&cluster, &mut scheduler, &before);
}

#[test]
fn slow_and_half_open_connections_hinder_nobody() {
    let (cluster, mut scheduler, before) = living();
    let mut held = Vec::new();
    for address in [&cluster.master.address, &cluster.agents[0].address] {
        for number in 0..100 {
            let mut socket = TcpStream::connect(address).unwrap();
            let words: &[u8] = match number % 3 {
                0 => b"",
                1 => b"POST /api/v1/scheduler HTTP/1.1\r\nHost",
                _ => b"POST /api/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
            };
            socket.write_all(words).unwrap();
            held.push(socket);
        }
    }
    let begun = Instant::now();
    unharmed(&cluster, &mut scheduler, &before);
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "others are served meanwhile"
    );
    drop(held);
    assert_eq!(picture(&cluster)[0][0][2], true);
}

#[test]
fn calls_of_strangers_are_refused_and_change_nothing() {
    let (cluster, mut scheduler, before) = living();
    let master = &cluster.master.address;
    let headers = [
        ("Content-Type", "application/json"),
        ("Mesos-Stream-Id", "not-yours"),
    ];
    let id = json!({ "value": scheduler.framework_id });
    for body in [
        json!({ "type": "TEARDOWN", "framework_id": id }),
        json!({ "type": "TEARDOWN", "framework_id": { "value": "nobody" } }),
        json!({ "type": "TEARDOWN" }),
        json!({ "type": "KILL", "framework_id": id, "kill": { "task_id": { "value": "steady" } } }),
        json!({ "type": "SUPPRESS", "framework_id": id }),
        json!({ "type": "ACCEPT", "framework_id": id, "accept": { "offer_ids": [{ "value": "../../x" }] } }),
    ] {
        let answer = request(
            master,
            "POST",
            "/api/v1/scheduler",
            &headers,
            body.to_string().as_bytes(),
        );
        let answer = answer.unwrap();
        assert!(
            (400..500).contains(&answer.status),
            "{body}: {}",
            answer.text()
        );
    }
    let agent = &cluster.agents[0].address;
    let headers = [("Content-Type", "application/json")];
    for body in [
        json!({ "type": "SUBSCRIBE", "subscribe": {}, "framework_id": id, "executor_id": { "value": "nobody" } }),
        json!({ "type": "UPDATE", "framework_id": id, "executor_id": { "value": "nobody" }, "update": { "status": {
            "task_id": { "value": "steady" }, "state": "TASK_FINISHED", "source": "SOURCE_EXECUTOR", "uuid": "AAECAwQFBgcICQoLDA0ODw==" } } }),
        json!({ "type": "MESSAGE", "framework_id": { "value": "nobody" }, "executor_id": { "value": "x" }, "message": { "data": "" } }),
    ] {
        let answer = request(
            agent,
            "POST",
            "/api/v1/executor",
            &headers,
            body.to_string().as_bytes(),
        );
        let answer = answer.unwrap();
        assert!(
            (400..500).contains(&answer.status),
            "{body}: {}",
            answer.text()
        );
    }
    wait_until("the same picture", || {
        (picture(&cluster) == before).then_some(())
    });
    unharmed(&cluster, &mut scheduler, &before);
}
