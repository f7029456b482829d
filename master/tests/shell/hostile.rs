//! Requests that are wrong, cut off, huge or slow: each gets a status where it can, and nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Connection, JSON, Master, SUBSCRIBE, Subscription, get, master, master_with, operator, send,
    soon,
};

async fn impatient() -> Master {
    master_with(|config| config.request_patience = Duration::from_millis(200)).await
}

/// Sends that and then nothing, and reads until the master hangs up.
async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    heard(stream).await
}

async fn heard(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good as an orderly end.
    let _ = soon("the master to hang up", stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_peer_that_does_not_go_on_is_told_so_and_hung_up_on() {
    let master = impatient().await;
    let at = master.running.address();
    for begun in [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"POST /api/v1 HTTP/1.1\r\nContent-Ty",
        b"POST /api/v1 HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"type\"",
        b"POST /teardown HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nframe",
    ] {
        let answer = say(at, begun).await;
        assert!(
            answer.starts_with("HTTP/1.1 408 "),
            "{}: {answer}",
            String::from_utf8_lossy(begun)
        );
    }
    // Whoever was served and is only idle is hung up on without a word.
    let served = say(at, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(served.matches("HTTP/1.1 ").count(), 1, "{served}");
}

#[tokio::test]
async fn a_stream_outlives_the_patience_for_requests() {
    let master = impatient().await;
    let at = master.running.address();
    let mut scheduler = Subscription::open(at, SUBSCRIBE).await;
    let mut operator =
        Connection::open(at, "POST", "/api/v1", &[JSON], br#"{"type": "SUBSCRIBE"}"#).await;
    operator.head().await;
    operator.chunk().await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let other = Subscription::open(at, SUBSCRIBE).await;
    assert!(operator.chunk().await.is_some());
    assert!(scheduler.event().await.is_some());
    drop(other);
}

#[tokio::test]
async fn what_is_no_request_gets_a_status() {
    let master = master().await;
    let at = master.running.address();
    for (bytes, status) in [
        (b"nonsense\r\n\r\n".to_vec(), "400"),
        (b"GET /state HTTP/1.1\r\nno colon\r\n\r\n".to_vec(), "400"),
        (
            b"POST /api/v1 HTTP/1.1\r\nContent-Length: -5\r\n\r\n".to_vec(),
            "400",
        ),
        (
            [
                b"GET /".to_vec(),
                vec![b'a'; 200 << 10],
                b" HTTP/1.1\r\n\r\n".to_vec(),
            ]
            .concat(),
            "4",
        ),
        (
            [
                b"GET / HTTP/1.1\r\nX: ".to_vec(),
                vec![b'a'; 200 << 10],
                b"\r\n\r\n".to_vec(),
            ]
            .concat(),
            "431",
        ),
        (
            [
                b"GET / HTTP/1.1\r\n".to_vec(),
                b"X: y\r\n".repeat(500),
                b"\r\n".to_vec(),
            ]
            .concat(),
            "431",
        ),
    ] {
        let answer = say(at, &bytes).await;
        let begun = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{begun}: {answer:.200}"
        );
    }
    assert_eq!(get(at, "/health").await.status, 200);
}

#[tokio::test]
async fn calls_that_make_no_sense_are_refused_and_change_nothing() {
    let master = master().await;
    let at = master.running.address();
    let scheduler = Subscription::open(at, SUBSCRIBE).await;
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let nested = format!(r#"{{"type": {deep}}}"#);
    let foreign = r#"{"type": "TEARDOWN", "teardown": {"framework_id": {"value": "\u0000"}}}"#;
    for path in ["/api/v1", "/api/v1/scheduler"] {
        for body in [
            &b"\xff\xfe\x00"[..],
            b"{",
            b"[]",
            b"null",
            b"{\"type\": 5}",
            b"{\"type\": \"TEARDOWN\"}",
            nested.as_bytes(),
            foreign.as_bytes(),
        ] {
            let response = send(at, "POST", path, &[JSON], body).await;
            assert_eq!(
                response.status,
                400,
                "{path} {:?}",
                &body[..body.len().min(40)]
            );
        }
        let protobuf = [("Content-Type", "application/x-protobuf")];
        let response = send(at, "POST", path, &protobuf, b"\x0a\xff\xff\xff\xff\x0f").await;
        assert_eq!(response.status, 400, "{path}");
    }
    let frameworks = operator(at, r#"{"type": "GET_FRAMEWORKS"}"#).await;
    let frameworks = frameworks.get_frameworks.unwrap().frameworks;
    assert_eq!(frameworks.len(), 1);
    assert_eq!(
        frameworks[0].framework_info.id.as_ref(),
        Some(&scheduler.framework_id)
    );
    assert!(frameworks[0].connected);
}

#[tokio::test]
async fn one_connection_too_many_is_sent_away_until_another_ends() {
    let master = master_with(|config| config.max_connections = 2).await;
    let at = master.running.address();
    let first = Subscription::open(at, SUBSCRIBE).await;
    let _second = Subscription::open(at, SUBSCRIBE).await;
    let answer = heard(TcpStream::connect(at).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(first);
    soon("room for another", async {
        loop {
            let request = b"GET /health HTTP/1.1\r\nConnection: close\r\nHost: a\r\n\r\n";
            if say(at, request).await.starts_with("HTTP/1.1 200 ") {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_reader_who_takes_nothing_is_hung_up_on() {
    let master = master_with(|config| {
        config.request_patience = Duration::from_millis(300);
        config.core.heartbeat_interval = Duration::from_millis(1);
    })
    .await;
    let at = master.running.address();
    let call = br#"{"type": "SUBSCRIBE"}"#;
    let small = tokio::net::TcpSocket::new_v4().unwrap();
    small.set_recv_buffer_size(2048).unwrap();
    let mut lazy = small.connect(at).await.unwrap();
    let head = format!(
        "POST /api/v1 HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        call.len()
    );
    lazy.write_all(&[head.as_bytes(), call].concat())
        .await
        .unwrap();
    let subscribers = async || {
        let snapshot = get(at, "/metrics/snapshot").await.json();
        snapshot["master/operator_event_stream_subscribers"].as_f64()
    };
    soon("the subscription", async {
        while subscribers().await != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Frameworks with long names come and go until the socket is full.
    let call = SUBSCRIBE.replace("\"test\"", &format!("\"{}\"", "n".repeat(200_000)));
    soon("the end of the stream", async {
        while subscribers().await != Some(0.0) {
            drop(Subscription::open(at, &call).await);
        }
    })
    .await;
}
