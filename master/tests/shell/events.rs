//! The event stream of operators.

use std::net::SocketAddr;
use std::time::Duration;

use tepui_api::link::to_master;
use tepui_api::v1::master::{Event, event};
use tepui_api::{json, proto, recordio};

use crate::support::{
    Connection, FakeAgent, JSON, SUBSCRIBE, Subscription, get, master, master_with, registration,
    soon,
};

const LISTEN: &[u8] = br#"{"type": "SUBSCRIBE"}"#;

struct Listener(Connection);

impl Listener {
    async fn open(address: SocketAddr) -> Self {
        let mut connection = Connection::open(address, "POST", "/api/v1", &[JSON], LISTEN).await;
        let head = connection.head().await;
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type"), Some("application/json"));
        assert_eq!(head.header("mesos-stream-id"), None);
        Self(connection)
    }

    async fn event(&mut self) -> Option<Event> {
        let chunk = self.0.chunk().await?;
        let text = String::from_utf8(chunk).unwrap();
        let (length, record) = text.split_once('\n').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), record.len());
        Some(json::from_slice(record.as_bytes()).unwrap())
    }

    async fn next(&mut self, kind: event::Type) -> Event {
        let event = self.event().await.expect("the stream goes on");
        assert_eq!(event.r#type(), kind, "{event:?}");
        event
    }
}

async fn subscribers(address: SocketAddr) -> serde_json::Value {
    let snapshot = get(address, "/metrics/snapshot").await.json();
    snapshot["master/operator_event_stream_subscribers"].clone()
}

#[tokio::test]
async fn an_operator_sees_what_is_there_and_then_what_happens() {
    let master = master().await;
    let at = master.running.address();
    let first = Subscription::open(at, SUBSCRIBE).await;
    let mut listener = Listener::open(at).await;
    let subscribed = listener
        .next(event::Type::Subscribed)
        .await
        .subscribed
        .unwrap();
    assert_eq!(subscribed.heartbeat_interval_seconds, Some(15.0));
    let state = subscribed.get_state.unwrap();
    let frameworks = state.get_frameworks.unwrap().frameworks;
    assert_eq!(
        frameworks[0].framework_info.id.as_ref(),
        Some(&first.framework_id)
    );
    let (_agent, agent_id) = FakeAgent::register(at).await;
    let added = listener.next(event::Type::AgentAdded).await.agent_added;
    let info = added.unwrap().agent.agent_info;
    assert_eq!(info.id, Some(agent_id));
    let second = Subscription::open(at, SUBSCRIBE).await;
    let added = listener.next(event::Type::FrameworkAdded).await;
    let added = added.framework_added.unwrap().framework;
    assert_eq!(added.framework_info.id.as_ref(), Some(&second.framework_id));
    assert!(added.active && added.connected);
    drop(second);
    let removed = listener.next(event::Type::FrameworkRemoved).await;
    let removed = removed.framework_removed.unwrap().framework_info;
    assert_eq!(removed.id, added.framework_info.id);
}

#[tokio::test]
async fn every_operator_hears_the_same_in_the_form_it_asked_for() {
    let master =
        master_with(|config| config.core.heartbeat_interval = Duration::from_secs(3600)).await;
    let at = master.running.address();
    let mut in_json = Listener::open(at).await;
    let headers = [JSON, ("Accept", "application/x-protobuf")];
    let mut in_protobuf = Connection::open(at, "POST", "/api/v1", &headers, LISTEN).await;
    let head = in_protobuf.head().await;
    assert_eq!(head.header("content-type"), Some("application/x-protobuf"));
    in_json.next(event::Type::Subscribed).await;
    in_protobuf.chunk().await.unwrap();
    let _scheduler = Subscription::open(at, SUBSCRIBE).await;
    let heard = in_json.next(event::Type::FrameworkAdded).await;
    let mut decoder = recordio::Decoder::new(1 << 20);
    decoder.push(in_protobuf.chunk().await.unwrap().into());
    let record = decoder.next().unwrap().unwrap();
    let also_heard: Event = proto::from_slice(&record).unwrap();
    let id = |event: Event| event.framework_added.unwrap().framework.framework_info.id;
    assert_eq!(id(also_heard), id(heard));
}

#[tokio::test]
async fn heartbeats_come_without_anything_happening() {
    let master =
        master_with(|config| config.core.heartbeat_interval = Duration::from_millis(50)).await;
    let mut listener = Listener::open(master.running.address()).await;
    listener.next(event::Type::Subscribed).await;
    listener.next(event::Type::Heartbeat).await;
    listener.next(event::Type::Heartbeat).await;
}

#[tokio::test]
async fn beyond_the_maximum_the_oldest_stream_is_closed_and_the_gauge_follows() {
    let master = master_with(|config| config.max_operator_event_stream_subscribers = 2).await;
    let at = master.running.address();
    assert_eq!(subscribers(at).await, 0.0);
    let mut oldest = Listener::open(at).await;
    oldest.next(event::Type::Subscribed).await;
    let mut second = Listener::open(at).await;
    second.next(event::Type::Subscribed).await;
    assert_eq!(subscribers(at).await, 2.0);
    let mut third = Listener::open(at).await;
    third.next(event::Type::Subscribed).await;
    assert!(oldest.event().await.is_none());
    assert_eq!(subscribers(at).await, 2.0);
    drop(second);
    soon("the gauge to follow", async {
        while subscribers(at).await != 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut agent = FakeAgent::dial(at).await;
    agent.say(to_master::Body::Register(registration())).await;
    agent.hear().await;
    third.next(event::Type::AgentAdded).await;
}

#[tokio::test]
async fn each_framework_has_figures_and_every_figure_is_explained() {
    let master = master().await;
    let at = master.running.address();
    let call = SUBSCRIBE.replace("\"test\"", "\"a/b c\"");
    let scheduler = Subscription::open(at, &call).await;
    let snapshot = get(at, "/metrics/snapshot").await.json();
    let prefix = format!(
        "master/frameworks/a%2Fb%20c.{}",
        scheduler.framework_id.value
    );
    for (name, value) in [
        ("subscribed", 1.0),
        ("calls", 1.0),
        ("calls/subscribe", 1.0),
        ("calls/kill", 0.0),
        ("events/subscribed", 1.0),
        ("offers/sent", 0.0),
        ("operations/launch", 0.0),
        ("tasks/active/task_running", 0.0),
        ("tasks/terminal/task_finished", 0.0),
        ("roles/*/suppressed", 0.0),
    ] {
        assert_eq!(snapshot[format!("{prefix}/{name}")], value, "{name}");
    }
    let help = get(at, "/metrics/help").await.json();
    let help = help.as_object().unwrap();
    for name in snapshot.as_object().unwrap().keys() {
        let is_explained = help
            .keys()
            .any(|known| known == name || known.ends_with('/') && name.starts_with(known));
        assert!(is_explained, "{name}");
    }
    for name in help.keys().filter(|name| !name.ends_with('/')) {
        if help.contains_key(&format!("{name}/")) {
            // A timer: it has no figures before it has run.
            continue;
        }
        assert!(snapshot.get(name).is_some(), "{name} is explained only");
    }
}
