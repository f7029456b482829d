//! Event streams.

use std::time::Duration;

use bytes::Bytes;
use tepui_api::v1::scheduler::{Call, Event, call, event};
use tepui_api::{json, proto, recordio, v1};

use crate::support::{
    Connection, SUBSCRIBE, Subscription, eventually, master, master_with, send, soon,
};

#[tokio::test]
async fn a_subscription_is_a_chunk_per_record_with_a_heartbeat_at_once_and_then_regularly() {
    let master =
        master_with(|config| config.core.heartbeat_interval = Duration::from_millis(20)).await;
    let at = master.running.address();
    let headers = [
        ("Content-Type", "application/json"),
        ("Connection", "close"),
    ];
    let mut connection = Connection::open(
        at,
        "POST",
        "/master/api/v1/scheduler",
        &headers,
        SUBSCRIBE.as_bytes(),
    )
    .await;
    let head = connection.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("application/json"));
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert!(
        head.header("mesos-stream-id")
            .is_some_and(|id| !id.is_empty())
    );
    let first = String::from_utf8(connection.chunk().await.unwrap()).unwrap();
    let (length, record) = first.split_once('\n').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), record.len());
    assert!(!record.contains('\n'), "JSON stands on one line");
    let event: Event = json::from_slice(record.as_bytes()).unwrap();
    assert_eq!(event.r#type(), event::Type::Subscribed);
    assert_eq!(
        event.subscribed.unwrap().heartbeat_interval_seconds,
        Some(0.02)
    );
    for _ in 0..4 {
        let chunk = connection.chunk().await.unwrap();
        assert!(String::from_utf8(chunk).unwrap().contains("HEARTBEAT"));
    }
}

#[tokio::test]
async fn a_subscription_speaks_protobuf_if_the_client_does() {
    let master = master().await;
    let at = master.running.address();
    let call: Call = json::from_slice(SUBSCRIBE.as_bytes()).unwrap();
    let headers = [
        ("Content-Type", "application/x-protobuf"),
        ("Accept", "application/x-protobuf"),
    ];
    let mut connection = Connection::open(
        at,
        "POST",
        "/api/v1/scheduler",
        &headers,
        &proto::to_vec(&call),
    )
    .await;
    assert_eq!(
        connection.head().await.header("content-type"),
        Some("application/x-protobuf")
    );
    for wanted in [event::Type::Subscribed, event::Type::Heartbeat] {
        let mut decoder = recordio::Decoder::new(1 << 20);
        decoder.push(Bytes::from(connection.chunk().await.unwrap()));
        let event: Event = proto::from_bytes(decoder.next().unwrap().unwrap()).unwrap();
        assert_eq!(event.r#type(), wanted);
    }
}

#[tokio::test]
async fn calls_belong_to_the_stream_whose_id_they_carry() {
    let master = master().await;
    let at = master.running.address();
    let mut subscription = Subscription::open(at, SUBSCRIBE).await;
    let suppress = Call {
        r#type: Some(call::Type::Suppress.into()),
        ..Call::default()
    };
    let response = subscription.call(at, suppress.clone()).await;
    assert_eq!(
        (response.status, response.body.len()),
        (202, 0),
        "{}",
        response.text()
    );
    subscription.stream_id = "another".to_owned();
    assert_eq!(subscription.call(at, suppress).await.status, 400);
}

#[tokio::test]
async fn a_client_that_goes_is_a_framework_that_is_disconnected() {
    let master = master().await;
    let at = master.running.address();
    let call = SUBSCRIBE.replace(
        r#""name": "test""#,
        r#""name": "test", "failover_timeout": 3600"#,
    );
    let subscription = Subscription::open(at, &call).await;
    let connected = |wanted: bool| {
        move |response: v1::master::Response| {
            let frameworks = response.get_frameworks.unwrap().frameworks;
            (frameworks.len() == 1 && frameworks[0].connected == wanted).then_some(())
        }
    };
    eventually(at, r#"{"type": "GET_FRAMEWORKS"}"#, connected(true)).await;
    drop(subscription);
    eventually(at, r#"{"type": "GET_FRAMEWORKS"}"#, connected(false)).await;
}

#[tokio::test]
async fn taking_over_ends_the_old_stream_with_an_error() {
    let master = master().await;
    let at = master.running.address();
    let call = SUBSCRIBE.replace(
        r#""name": "test""#,
        r#""name": "test", "failover_timeout": 3600"#,
    );
    let mut old = Subscription::open(at, &call).await;
    let id = &old.framework_id.value;
    let again = call
        .replace(
            r#""type": "SUBSCRIBE""#,
            &format!(r#""type": "SUBSCRIBE", "framework_id": {{"value": "{id}"}}"#),
        )
        .replace(
            r#""name": "test""#,
            &format!(r#""name": "test", "id": {{"value": "{id}"}}"#),
        );
    let new = Subscription::open(at, &again).await;
    assert_eq!(new.framework_id, old.framework_id);
    old.wait_for(event::Type::Error).await;
    assert!(old.event().await.is_none(), "the stream ends");
}

#[tokio::test]
async fn a_master_that_stops_ends_its_streams() {
    let master = master().await;
    let mut subscription = Subscription::open(master.running.address(), SUBSCRIBE).await;
    let stopping = tokio::spawn(soon("the stop", master.running.stop()));
    while subscription.event().await.is_some() {}
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_of_an_unknown_framework_is_refused_and_its_connection_lives_on() {
    let master = master().await;
    let at = master.running.address();
    let call = br#"{"type": "TEARDOWN", "framework_id": {"value": "nobody"}}"#;
    let first = send(
        at,
        "POST",
        "/api/v1/scheduler",
        &[("Content-Type", "application/json")],
        call,
    )
    .await;
    assert!((400..500).contains(&first.status), "{}", first.text());
    assert_eq!(first.header("connection"), None, "it is kept alive");
}
