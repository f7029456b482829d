//! The SDK against a master that does what the test says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tepui_sdk_scheduler::v1::scheduler::{Call, Event as WireEvent, call, event};
use tepui_sdk_scheduler::v1::{
    AgentId, FrameworkId, FrameworkInfo, Offer, OfferId, TaskId, TaskInfo, TaskState, TaskStatus,
};
use tepui_sdk_scheduler::{Acknowledge, Config, Error, Event, Events, Scheduler, connect};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the master heard.
struct Heard {
    call: Call,
    stream_id: Option<String>,
    content_type: String,
    accept: String,
}

/// An answer other than success, given to the next SUBSCRIBE.
enum Odd {
    Status(u16, &'static str),
    Redirect(String),
}

struct Master {
    address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Heard>,
    streams: mpsc::UnboundedReceiver<mpsc::UnboundedSender<Bytes>>,
    odd: Arc<Mutex<VecDeque<Odd>>>,
    /// Answers every call but SUBSCRIBE, if set.
    refusal: Arc<Mutex<Option<(u16, &'static str)>>>,
}

struct Server {
    calls: mpsc::UnboundedSender<Heard>,
    streams: mpsc::UnboundedSender<mpsc::UnboundedSender<Bytes>>,
    odd: Arc<Mutex<VecDeque<Odd>>>,
    refusal: Arc<Mutex<Option<(u16, &'static str)>>>,
    count: Mutex<u32>,
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        assert_eq!(request.method(), "POST");
        assert_eq!(request.uri().path(), "/api/v1/scheduler");
        let header = |name: &str| {
            request
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let (stream_id, content_type, accept) = (
            header("mesos-stream-id"),
            header("content-type"),
            header("accept"),
        );
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let call = Call::decode(body).unwrap();
        let subscribe = call.r#type() == call::Type::Subscribe;
        self.calls
            .send(Heard {
                call,
                stream_id,
                content_type: content_type.unwrap_or_default(),
                accept: accept.unwrap_or_default(),
            })
            .ok();
        if !subscribe {
            let refusal = *self.refusal.lock().unwrap();
            let (status, message) = refusal.unwrap_or((202, ""));
            return plain(status, message);
        }
        match self.odd.lock().unwrap().pop_front() {
            Some(Odd::Status(status, message)) => return plain(status, message),
            Some(Odd::Redirect(location)) => {
                let mut response = plain(307, "");
                response
                    .headers_mut()
                    .insert("location", location.parse().unwrap());
                return response;
            }
            None => {}
        }
        let number = {
            let mut count = self.count.lock().unwrap();
            *count += 1;
            *count
        };
        let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
        self.streams.send(sender).ok();
        let chunks = futures::stream::unfold(receiver, async |mut receiver| {
            let chunk = receiver.recv().await?;
            Some((Ok(Frame::data(chunk)), receiver))
        });
        Response::builder()
            .header("mesos-stream-id", format!("stream-{number}"))
            .header("content-type", "application/x-protobuf")
            .body(StreamBody::new(chunks.boxed()).boxed_unsync())
            .unwrap()
    }
}

fn plain(status: u16, message: &'static str) -> Response<Body> {
    Response::builder()
        .status(status)
        .body(Full::new(Bytes::from(message)).boxed_unsync())
        .unwrap()
}

impl Master {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (call_sender, calls) = mpsc::unbounded_channel();
        let (stream_sender, streams) = mpsc::unbounded_channel();
        let odd = Arc::new(Mutex::new(VecDeque::new()));
        let refusal = Arc::new(Mutex::new(None));
        let server = Arc::new(Server {
            calls: call_sender,
            streams: stream_sender,
            odd: Arc::clone(&odd),
            refusal: Arc::clone(&refusal),
            count: Mutex::new(0),
        });
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let server = Arc::clone(&server);
                        async move { Ok::<_, Infallible>(server.answer(request).await) }
                    });
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(connection), service)
                        .await
                        .ok();
                });
            }
        });
        Self {
            address,
            calls,
            streams,
            odd,
            refusal,
        }
    }

    fn config(&self) -> Config {
        let framework = FrameworkInfo {
            user: "u".into(),
            name: "n".into(),
            ..FrameworkInfo::default()
        };
        Config {
            backoff_max: Duration::from_millis(5),
            ..Config::new(self.address.to_string(), framework)
        }
    }

    async fn heard(&mut self) -> Heard {
        self.calls.recv().await.unwrap()
    }

    async fn heard_of(&mut self, kind: call::Type) -> Heard {
        let heard = self.heard().await;
        assert_eq!(heard.call.r#type(), kind);
        heard
    }

    async fn stream(&mut self) -> Stream {
        Stream(self.streams.recv().await.unwrap())
    }
}

struct Stream(mpsc::UnboundedSender<Bytes>);

impl Stream {
    fn send(&self, event: &WireEvent) {
        let payload = event.encode_to_vec();
        let mut record = format!("{}\n", payload.len()).into_bytes();
        record.extend(payload);
        // In two pieces, for chunks have nothing to do with records.
        let rest = record.split_off(record.len() / 2);
        self.0.send(record.into()).unwrap();
        self.0.send(rest.into()).unwrap();
    }

    fn subscribed(&self, heartbeat: f64) {
        self.send(&WireEvent {
            r#type: Some(event::Type::Subscribed as i32),
            subscribed: Some(event::Subscribed {
                framework_id: framework_id(),
                heartbeat_interval_seconds: Some(heartbeat),
                master_info: None,
            }),
            ..WireEvent::default()
        });
    }

    fn heartbeat(&self) {
        self.send(&WireEvent {
            r#type: Some(event::Type::Heartbeat as i32),
            ..WireEvent::default()
        });
    }

    fn update(&self, task: &str, uuid: Option<&[u8]>) {
        self.send(&WireEvent {
            r#type: Some(event::Type::Update as i32),
            update: Some(event::Update {
                status: status(task, uuid),
            }),
            ..WireEvent::default()
        });
    }
}

fn framework_id() -> FrameworkId {
    FrameworkId {
        value: "framework-1".into(),
    }
}

fn status(task: &str, uuid: Option<&[u8]>) -> TaskStatus {
    TaskStatus {
        task_id: TaskId { value: task.into() },
        state: TaskState::TaskRunning as i32,
        agent_id: Some(AgentId {
            value: "agent-1".into(),
        }),
        uuid: uuid.map(Bytes::copy_from_slice),
        ..TaskStatus::default()
    }
}

async fn subscribed(master: &mut Master) -> (Scheduler, Events, Stream) {
    let config = master.config();
    subscribed_with(master, config).await
}

async fn subscribed_with(master: &mut Master, config: Config) -> (Scheduler, Events, Stream) {
    let (scheduler, mut events) = connect(config);
    master.heard_of(call::Type::Subscribe).await;
    let stream = master.stream().await;
    stream.subscribed(15.0);
    assert!(matches!(
        events.next().await,
        Some(Event::Subscribed { again: false, .. })
    ));
    (scheduler, events, stream)
}

#[tokio::test]
async fn subscribing_names_the_framework_and_the_first_event_carries_its_id() {
    let mut master = Master::start().await;
    let (scheduler, mut events) = connect(Config {
        suppressed_roles: vec!["r".into()],
        ..master.config()
    });
    let heard = master.heard_of(call::Type::Subscribe).await;
    assert_eq!(heard.call.framework_id, None);
    assert_eq!(heard.stream_id, None);
    assert_eq!(heard.content_type, "application/x-protobuf");
    assert_eq!(heard.accept, "application/x-protobuf");
    let subscribe = heard.call.subscribe.unwrap();
    assert_eq!(
        (
            subscribe.framework_info.name.as_str(),
            subscribe.suppressed_roles
        ),
        ("n", vec!["r".to_owned()])
    );
    assert_eq!(scheduler.framework_id(), None);

    master.stream().await.subscribed(15.0);
    let expected = Event::Subscribed {
        framework_id: framework_id(),
        master: None,
        again: false,
    };
    assert_eq!(events.next().await, Some(expected));
    assert_eq!(scheduler.framework_id(), Some(framework_id()));
}

#[tokio::test]
async fn offers_arrive_and_an_accept_names_offers_tasks_and_the_stream() {
    let mut master = Master::start().await;
    let (scheduler, mut events, stream) = subscribed(&mut master).await;
    let offer = Offer {
        id: OfferId { value: "O1".into() },
        hostname: "h".into(),
        ..Offer::default()
    };
    stream.heartbeat();
    stream.send(&WireEvent {
        r#type: Some(event::Type::Offers as i32),
        offers: Some(event::Offers {
            offers: vec![offer.clone()],
        }),
        ..WireEvent::default()
    });
    assert_eq!(
        events.next().await,
        Some(Event::Offers(vec![offer.clone()]))
    );

    let task = TaskInfo {
        name: "t".into(),
        task_id: TaskId { value: "T".into() },
        ..TaskInfo::default()
    };
    scheduler
        .launch(std::slice::from_ref(&offer.id), vec![task.clone()])
        .await
        .unwrap();
    let heard = master.heard_of(call::Type::Accept).await;
    assert_eq!(heard.stream_id.as_deref(), Some("stream-1"));
    assert_eq!(heard.call.framework_id, Some(framework_id()));
    let accept = heard.call.accept.unwrap();
    assert_eq!(accept.offer_ids, std::slice::from_ref(&offer.id));
    assert_eq!(accept.operations.len(), 1);
    assert_eq!(
        accept.operations[0].launch.as_ref().unwrap().task_infos,
        [task]
    );

    scheduler
        .decline(&[offer.id], Some(Duration::from_millis(1500)))
        .await
        .unwrap();
    let heard = master.heard_of(call::Type::Decline).await;
    assert_eq!(
        heard.call.decline.unwrap().filters.unwrap().refuse_seconds,
        Some(1.5)
    );
}

#[tokio::test]
async fn exactly_the_updates_with_a_uuid_are_acknowledged_once_they_were_handed_over() {
    let mut master = Master::start().await;
    let (scheduler, mut events, stream) = subscribed(&mut master).await;
    stream.update("A", None);
    stream.update("B", Some(&[7; 16]));
    stream.update("C", None);
    stream.update("D", Some(&[8; 16]));
    for _ in 0..4 {
        assert!(matches!(events.next().await, Some(Event::Update(_))));
    }
    let mut acknowledged = Vec::new();
    for _ in 0..2 {
        let acknowledge = master
            .heard_of(call::Type::Acknowledge)
            .await
            .call
            .acknowledge
            .unwrap();
        assert_eq!(acknowledge.agent_id.value, "agent-1");
        acknowledged.push((acknowledge.task_id.value, acknowledge.uuid));
    }
    acknowledged.sort();
    let expected = [
        ("B".to_owned(), Bytes::from_static(&[7; 16])),
        ("D".to_owned(), Bytes::from_static(&[8; 16])),
    ];
    assert_eq!(acknowledged, expected);
    // What comes next is the next call, not a third acknowledgement.
    scheduler.revive(&[]).await.unwrap();
    master.heard_of(call::Type::Revive).await;
}

#[tokio::test]
async fn with_manual_acknowledgement_only_the_caller_acknowledges() {
    let mut master = Master::start().await;
    let config = Config {
        acknowledge: Acknowledge::Manual,
        ..master.config()
    };
    let (scheduler, mut events, stream) = subscribed_with(&mut master, config).await;
    stream.update("A", Some(&[1; 16]));
    let Some(Event::Update(update)) = events.next().await else {
        panic!("no update")
    };
    scheduler.suppress(&[]).await.unwrap();
    master.heard_of(call::Type::Suppress).await;
    scheduler.acknowledge(&update).await.unwrap();
    master.heard_of(call::Type::Acknowledge).await;
    // Without uuid there is nothing to send.
    scheduler.acknowledge(&status("A", None)).await.unwrap();
    scheduler.revive(&[]).await.unwrap();
    master.heard_of(call::Type::Revive).await;
}

#[tokio::test]
async fn a_lost_stream_is_renewed_under_the_same_id_and_followed_by_a_reconciliation() {
    let mut master = Master::start().await;
    let (scheduler, mut events, stream) = subscribed(&mut master).await;
    // The first attempts fail: nobody leads.
    master
        .odd
        .lock()
        .unwrap()
        .push_back(Odd::Status(503, "No leader elected"));
    drop(stream);
    assert!(matches!(
        events.next().await,
        Some(Event::Disconnected { .. })
    ));
    let away = scheduler.revive(&[]).await.unwrap_err();
    assert_eq!((away.call, away.status), ("REVIVE", None));

    for _ in 0..2 {
        let heard = master.heard_of(call::Type::Subscribe).await;
        assert_eq!(heard.call.framework_id, Some(framework_id()));
        assert_eq!(
            heard.call.subscribe.unwrap().framework_info.id,
            Some(framework_id())
        );
    }
    let stream = master.stream().await;
    stream.subscribed(15.0);
    let expected = Event::Subscribed {
        framework_id: framework_id(),
        master: None,
        again: true,
    };
    assert_eq!(events.next().await, Some(expected));
    let heard = master.heard_of(call::Type::Reconcile).await;
    assert_eq!(heard.stream_id.as_deref(), Some("stream-2"));
    assert!(heard.call.reconcile.unwrap().tasks.is_empty());
}

#[tokio::test]
async fn a_framework_whose_id_is_configured_is_taken_over_and_reconciled() {
    let mut master = Master::start().await;
    let mut config = master.config();
    config.framework.id = Some(framework_id());
    let (_scheduler, mut events) = connect(config);
    let heard = master.heard_of(call::Type::Subscribe).await;
    assert_eq!(heard.call.framework_id, Some(framework_id()));
    let stream = master.stream().await;
    stream.subscribed(15.0);
    assert!(matches!(
        events.next().await,
        Some(Event::Subscribed { again: true, .. })
    ));
    master.heard_of(call::Type::Reconcile).await;
}

#[tokio::test]
async fn a_stream_without_heartbeats_is_given_up_and_renewed() {
    let mut master = Master::start().await;
    let (_scheduler, mut events) = connect(master.config());
    let silent = master.stream().await;
    silent.subscribed(0.02);
    assert!(matches!(
        events.next().await,
        Some(Event::Subscribed { .. })
    ));
    let Some(Event::Disconnected { why }) = events.next().await else {
        panic!("still connected")
    };
    assert!(why.contains("silent"), "{why}");
    master.stream().await.subscribed(15.0);
    assert!(matches!(
        events.next().await,
        Some(Event::Subscribed { again: true, .. })
    ));
}

#[tokio::test]
async fn an_error_event_ends_everything() {
    let mut master = Master::start().await;
    let (scheduler, mut events, stream) = subscribed(&mut master).await;
    stream.send(&WireEvent {
        r#type: Some(event::Type::Error as i32),
        error: Some(event::Error {
            message: "Framework failed over".into(),
        }),
        ..WireEvent::default()
    });
    let expected = Error::Ended {
        message: "Framework failed over".into(),
    };
    assert_eq!(events.next().await, Some(Event::Error(expected)));
    assert_eq!(events.next().await, None);
    let refused = scheduler.revive(&[]).await.unwrap_err();
    assert!(
        refused.message.contains("Framework failed over"),
        "{refused}"
    );
    assert!(
        master.calls.try_recv().is_err(),
        "nothing more is said to the master"
    );
}

#[tokio::test]
async fn a_refused_subscription_ends_everything() {
    let mut master = Master::start().await;
    master
        .odd
        .lock()
        .unwrap()
        .push_back(Odd::Status(401, "who are you?"));
    let (_scheduler, mut events) = connect(master.config());
    let expected = Error::Refused {
        status: 401,
        message: "who are you?".into(),
    };
    assert_eq!(events.next().await, Some(Event::Error(expected)));
    assert_eq!(events.next().await, None);
    master.heard_of(call::Type::Subscribe).await;
}

#[tokio::test]
async fn a_redirect_leads_to_the_leader_and_calls_go_there_too() {
    let mut follower = Master::start().await;
    let mut leader = Master::start().await;
    let location = format!("//{}/api/v1/scheduler", leader.address);
    follower
        .odd
        .lock()
        .unwrap()
        .push_back(Odd::Redirect(location));
    let (scheduler, mut events) = connect(follower.config());
    follower.heard_of(call::Type::Subscribe).await;
    leader.heard_of(call::Type::Subscribe).await;
    let stream = leader.stream().await;
    stream.subscribed(15.0);
    assert!(matches!(
        events.next().await,
        Some(Event::Subscribed { .. })
    ));
    scheduler
        .kill(&TaskId { value: "T".into() }, None)
        .await
        .unwrap();
    let heard = leader.heard_of(call::Type::Kill).await;
    assert_eq!(heard.call.kill.unwrap().task_id.value, "T");
    assert!(follower.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_refused_call_says_the_status_and_the_sentence() {
    let mut master = Master::start().await;
    let (scheduler, _events, _stream) = subscribed(&mut master).await;
    *master.refusal.lock().unwrap() = Some((400, "no such thing"));
    let error = scheduler
        .reconcile(vec![(TaskId { value: "T".into() }, None)])
        .await
        .unwrap_err();
    assert_eq!(
        (error.call, error.status, error.message.as_str()),
        ("RECONCILE", Some(400), "no such thing")
    );
}

#[tokio::test]
async fn after_a_teardown_the_events_end_without_an_error() {
    let mut master = Master::start().await;
    let (scheduler, mut events, stream) = subscribed(&mut master).await;
    scheduler.teardown().await.unwrap();
    master.heard_of(call::Type::Teardown).await;
    drop(stream);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn without_a_master_the_sdk_gives_up_when_it_was_told_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (_scheduler, mut events) = connect(Config {
        give_up_after: Some(Duration::from_millis(30)),
        backoff_max: Duration::from_millis(5),
        ..Config::new(address.to_string(), FrameworkInfo::default())
    });
    let Some(Event::Error(Error::GaveUp { why, .. })) = events.next().await else {
        panic!("not given up")
    };
    assert!(why.contains("cannot be reached"), "{why}");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn an_address_that_is_none_is_a_fatal_error() {
    let (_scheduler, mut events) = connect(Config::new("zk://a:1/mesos", FrameworkInfo::default()));
    assert!(matches!(
        events.next().await,
        Some(Event::Error(Error::Address { .. }))
    ));
}

#[tokio::test]
async fn dropping_the_events_ends_the_subscription() {
    let mut master = Master::start().await;
    let (scheduler, events, stream) = subscribed(&mut master).await;
    drop(events);
    stream.0.closed().await;
    assert_eq!(scheduler.revive(&[]).await.unwrap_err().status, None);
}
