//! The loop against an agent made for the test, over the same sockets a real one has.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tepui_api::v1::executor::{self, call, event};
use tepui_api::v1::{
    AgentInfo, ExecutorId, ExecutorInfo, FrameworkInfo, TaskId, TaskInfo, TaskState, TaskStatus,
};
use tepui_api::{proto, recordio};
use tepui_sdk_executor::{Address, Config, Event, Events, connect};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

const PATIENCE: Duration = Duration::from_secs(30);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A call as the agent got it.
#[derive(Debug)]
struct Seen {
    call: executor::Call,
    /// Whether it came in a stream of calls.
    streamed: bool,
    token: Option<String>,
}

#[derive(Default)]
struct Shared {
    subscriber: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
    /// Answered to the calls that come, one each, before any is taken.
    refusals: Mutex<VecDeque<StatusCode>>,
    takes_streams: bool,
}

struct Agent {
    shared: Arc<Shared>,
    seen: mpsc::UnboundedReceiver<Seen>,
    sender: mpsc::UnboundedSender<Seen>,
    server: JoinHandle<()>,
    socket: PathBuf,
}

impl Agent {
    fn start(socket: &Path, takes_streams: bool) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            takes_streams,
            ..Shared::default()
        });
        let server = serve(socket, &shared, &sender);
        Self {
            shared,
            seen,
            sender,
            server,
            socket: socket.to_owned(),
        }
    }

    /// Cuts every connection and listens again.
    async fn restart(&mut self) {
        self.stop().await;
        self.server = serve(&self.socket, &self.shared, &self.sender);
    }

    async fn stop(&mut self) {
        self.server.abort();
        // Wait until its connections are gone with it.
        drop((&mut self.server).await);
        *self.shared.subscriber.lock().expect("unpoisoned") = None;
        std::fs::remove_file(&self.socket).expect("it was there");
    }

    async fn seen(&mut self) -> Seen {
        tokio::time::timeout(PATIENCE, self.seen.recv())
            .await
            .expect("a call comes in time")
            .expect("the agent lives")
    }

    async fn seen_subscribe(&mut self) -> call::Subscribe {
        let seen = self.seen().await;
        assert_eq!(seen.call.r#type(), call::Type::Subscribe);
        seen.call.subscribe.expect("it has its content")
    }

    async fn seen_update(&mut self) -> (TaskStatus, bool) {
        let seen = self.seen().await;
        assert_eq!(seen.call.r#type(), call::Type::Update);
        (
            seen.call.update.expect("it has its content").status,
            seen.streamed,
        )
    }

    fn send(&self, event: &executor::Event) {
        let record = recordio::encode(&proto::to_vec(event));
        let subscriber = self.shared.subscriber.lock().expect("unpoisoned");
        subscriber
            .as_ref()
            .expect("somebody is subscribed")
            .send(record)
            .expect("it listens");
    }

    fn acknowledge(&self, status: &TaskStatus) {
        self.send(&executor::Event {
            r#type: Some(event::Type::Acknowledged as i32),
            acknowledged: Some(event::Acknowledged {
                task_id: status.task_id.clone(),
                uuid: status.uuid.clone().expect("every update has one"),
            }),
            ..executor::Event::default()
        });
    }

    fn launch(&self, task_id: &str) {
        self.send(&executor::Event {
            r#type: Some(event::Type::Launch as i32),
            launch: Some(event::Launch {
                task: TaskInfo {
                    task_id: id(task_id),
                    ..TaskInfo::default()
                },
            }),
            ..executor::Event::default()
        });
    }
}

fn id(task_id: &str) -> TaskId {
    TaskId {
        value: task_id.to_owned(),
    }
}

fn status(task_id: &str, state: TaskState) -> TaskStatus {
    TaskStatus {
        task_id: id(task_id),
        state: state as i32,
        ..TaskStatus::default()
    }
}

fn serve(
    socket: &Path,
    shared: &Arc<Shared>,
    sender: &mpsc::UnboundedSender<Seen>,
) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("the socket is free");
    let shared = Arc::clone(shared);
    let sender = sender.clone();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve_one(stream, Arc::clone(&shared), sender.clone()));
        }
    })
}

async fn serve_one<S>(stream: S, shared: Arc<Shared>, sender: mpsc::UnboundedSender<Seen>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        let sender = sender.clone();
        async move { Ok::<_, Infallible>(answer(request, &shared, &sender).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // It may be cut by the other side at any time.
    drop(connection.await);
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from("because")).boxed_unsync());
    *response.status_mut() = status;
    response
}

async fn answer(
    request: Request<Incoming>,
    shared: &Shared,
    sender: &mpsc::UnboundedSender<Seen>,
) -> Response<Body> {
    assert_eq!(request.uri().path(), "/api/v1/executor");
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        Some(value.to_str().expect("it is text").to_owned())
    };
    let token = header("authorization");
    if header("content-type").as_deref() == Some("application/recordio") {
        if !shared.takes_streams {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        assert_eq!(
            header("message-content-type").as_deref(),
            Some("application/x-protobuf")
        );
        let mut body = request.into_body();
        let mut decoder = recordio::Decoder::new(1 << 20);
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else {
                continue;
            };
            decoder.push(data);
            while let Some(record) = decoder.next().expect("records") {
                let refused = shared.refusals.lock().expect("unpoisoned").pop_front();
                if let Some(refused) = refused {
                    return plain(refused);
                }
                let seen = Seen {
                    call: proto::from_bytes(record).expect("a call"),
                    streamed: true,
                    token: token.clone(),
                };
                drop(sender.send(seen));
            }
        }
        return plain(StatusCode::ACCEPTED);
    }
    let body = request
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let refused = shared.refusals.lock().expect("unpoisoned").pop_front();
    if let Some(refused) = refused {
        return plain(refused);
    }
    let call: executor::Call = proto::from_bytes(body).expect("a call");
    let kind = call.r#type();
    let seen = Seen {
        call,
        streamed: false,
        token,
    };
    if kind != call::Type::Subscribe {
        drop(sender.send(seen));
        return plain(StatusCode::ACCEPTED);
    }
    let (records, stream) = mpsc::unbounded_channel::<Bytes>();
    let subscribed = executor::Event {
        r#type: Some(event::Type::Subscribed as i32),
        subscribed: Some(event::Subscribed {
            executor_info: ExecutorInfo {
                executor_id: ExecutorId {
                    value: "e".to_owned(),
                },
                ..ExecutorInfo::default()
            },
            framework_info: FrameworkInfo {
                name: "fw".to_owned(),
                ..FrameworkInfo::default()
            },
            agent_info: AgentInfo {
                hostname: "here".to_owned(),
                ..AgentInfo::default()
            },
            container_id: None,
        }),
        ..executor::Event::default()
    };
    records
        .send(recordio::encode(&proto::to_vec(&subscribed)))
        .expect("it is open");
    *shared.subscriber.lock().expect("unpoisoned") = Some(records);
    drop(sender.send(seen));
    let stream = futures::stream::unfold(stream, async |mut stream| {
        let record = stream.recv().await?;
        Some((Ok(Frame::data(record)), stream))
    });
    Response::new(StreamBody::new(stream.boxed()).boxed_unsync())
}

fn config(socket: &Path, checkpoint: bool) -> Config {
    let mut config = Config::new("f", "e", Address::Unix(socket.to_owned()));
    config.token = Some("hush".to_owned());
    config.checkpoint = checkpoint;
    config.subscription_backoff_max = Duration::from_millis(100);
    config
}

async fn next(events: &mut Events) -> Event {
    tokio::time::timeout(PATIENCE, events.next())
        .await
        .expect("an event comes in time")
        .expect("the agent is there")
}

async fn subscribed(events: &mut Events) {
    match next(events).await {
        Event::Subscribed(subscribed) => assert_eq!(subscribed.framework.name, "fw"),
        event => panic!("{event:?} comes before SUBSCRIBED"),
    }
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }
}

#[tokio::test]
async fn a_task_is_launched_reported_and_acknowledged() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), true);
    let (handle, mut events) = connect(config(&place.socket(), false));
    let first = agent.seen().await;
    assert_eq!(first.token.as_deref(), Some("Bearer hush"));
    assert_eq!(first.call.executor_id.value, "e");
    assert_eq!(first.call.framework_id.value, "f");
    subscribed(&mut events).await;

    agent.launch("t");
    let Event::Launch(task) = next(&mut events).await else {
        panic!("a task was launched");
    };
    handle.update(status(&task.task_id.value, TaskState::TaskRunning));
    let (update, streamed) = agent.seen_update().await;
    assert!(streamed, "the agent takes streams");
    assert_eq!(update.task_id.value, "t");
    assert_eq!(update.state(), TaskState::TaskRunning);
    assert_eq!(update.uuid.as_ref().map(Bytes::len), Some(16));
    assert_eq!(
        update.source(),
        tepui_api::v1::task_status::Source::Executor
    );
    assert_eq!(
        update.executor_id.as_ref().map(|id| id.value.as_str()),
        Some("e")
    );
    assert!(update.timestamp.is_some());
    assert_eq!(handle.unacknowledged(), 1);

    agent.acknowledge(&update);
    assert!(handle.drained(PATIENCE).await);
    assert_eq!(handle.unacknowledged(), 0);

    handle.message("to the scheduler");
    let seen = agent.seen().await;
    assert_eq!(
        seen.call.message.map(|message| message.data),
        Some(Bytes::from("to the scheduler"))
    );
}

#[tokio::test]
async fn many_updates_arrive_once_each_and_in_order() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), true);
    let (handle, mut events) = connect(config(&place.socket(), false));
    agent.seen_subscribe().await;
    subscribed(&mut events).await;
    for number in 0..5_000 {
        handle.update(status(&number.to_string(), TaskState::TaskFinished));
    }
    for number in 0..5_000 {
        let (update, _) = agent.seen_update().await;
        assert_eq!(update.task_id.value, number.to_string());
        agent.acknowledge(&update);
    }
    assert!(handle.drained(PATIENCE).await);
}

#[tokio::test]
async fn after_an_interruption_what_is_unacknowledged_is_told_again() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), true);
    let (handle, mut events) = connect(config(&place.socket(), true));
    let subscribe = agent.seen_subscribe().await;
    assert!(subscribe.unacknowledged_updates.is_empty());
    subscribed(&mut events).await;
    for task in ["known", "unknown"] {
        agent.launch(task);
        assert!(matches!(next(&mut events).await, Event::Launch(_)));
        handle.update(status(task, TaskState::TaskRunning));
    }
    let (known, _) = agent.seen_update().await;
    let (unknown, _) = agent.seen_update().await;
    agent.acknowledge(&known);
    while handle.unacknowledged() > 1 {
        tokio::task::yield_now().await;
    }

    agent.restart().await;
    let subscribe = agent.seen_subscribe().await;
    assert_eq!(subscribe.unacknowledged_updates.len(), 1);
    assert_eq!(subscribe.unacknowledged_updates[0].status, unknown);
    assert_eq!(subscribe.unacknowledged_tasks.len(), 1);
    assert_eq!(subscribe.unacknowledged_tasks[0].task_id.value, "unknown");
    assert_eq!(next(&mut events).await, Event::Disconnected);
    subscribed(&mut events).await;

    // What SUBSCRIBE carried is not sent a second time: the next to come is a new one.
    handle.update(status("unknown", TaskState::TaskFinished));
    let (finished, _) = agent.seen_update().await;
    assert_eq!(finished.state(), TaskState::TaskFinished);
    agent.acknowledge(&unknown);
    agent.acknowledge(&finished);
    assert!(handle.drained(PATIENCE).await);
}

#[tokio::test]
async fn an_update_made_while_the_agent_is_away_comes_with_the_next_subscription() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), true);
    let (handle, mut events) = connect(config(&place.socket(), true));
    agent.seen_subscribe().await;
    subscribed(&mut events).await;
    agent.stop().await;
    assert_eq!(next(&mut events).await, Event::Disconnected);
    handle.update(status("t", TaskState::TaskFailed));
    agent.server = serve(&agent.socket, &agent.shared, &agent.sender);
    let subscribe = agent.seen_subscribe().await;
    assert_eq!(subscribe.unacknowledged_updates.len(), 1);
}

#[tokio::test]
async fn an_agent_without_call_streams_gets_its_calls_one_by_one() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), false);
    let (handle, mut events) = connect(config(&place.socket(), false));
    agent.seen_subscribe().await;
    subscribed(&mut events).await;
    handle.message("first");
    for task in ["a", "b", "c"] {
        handle.update(status(task, TaskState::TaskRunning));
    }
    let message = agent.seen().await;
    assert_eq!(message.call.r#type(), call::Type::Message);
    for task in ["a", "b", "c"] {
        let (update, streamed) = agent.seen_update().await;
        assert!(!streamed);
        assert_eq!(update.task_id.value, task);
    }
}

#[tokio::test]
async fn a_refused_update_does_not_hold_up_the_ones_after_it() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), true);
    let (handle, mut events) = connect(config(&place.socket(), false));
    agent.seen_subscribe().await;
    subscribed(&mut events).await;
    // Once as part of the stream, which ends with it, and once alone.
    agent
        .shared
        .refusals
        .lock()
        .expect("unpoisoned")
        .extend([StatusCode::BAD_REQUEST, StatusCode::BAD_REQUEST]);
    handle.update(status("bad", TaskState::TaskRunning));
    while handle.unacknowledged() > 0 {
        tokio::task::yield_now().await;
    }
    handle.update(status("good", TaskState::TaskRunning));
    let (update, _) = agent.seen_update().await;
    assert_eq!(update.task_id.value, "good");
}

#[tokio::test]
async fn without_checkpoints_a_lost_agent_is_the_end() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), true);
    let (_handle, mut events) = connect(config(&place.socket(), false));
    agent.seen_subscribe().await;
    subscribed(&mut events).await;
    agent.stop().await;
    assert_eq!(next(&mut events).await, Event::Disconnected);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn with_checkpoints_a_lost_agent_is_waited_for_only_so_long() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), true);
    let mut config = config(&place.socket(), true);
    config.recovery_timeout = Duration::from_millis(300);
    let (_handle, mut events) = connect(config);
    agent.seen_subscribe().await;
    subscribed(&mut events).await;
    agent.stop().await;
    assert_eq!(next(&mut events).await, Event::Disconnected);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn shutdown_is_told_and_the_last_updates_still_get_through() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), true);
    let (handle, mut events) = connect(config(&place.socket(), true));
    agent.seen_subscribe().await;
    subscribed(&mut events).await;
    agent.send(&executor::Event {
        r#type: Some(event::Type::Shutdown as i32),
        ..executor::Event::default()
    });
    assert_eq!(next(&mut events).await, Event::Shutdown);
    handle.update(status("t", TaskState::TaskKilled));
    let (update, _) = agent.seen_update().await;
    agent.acknowledge(&update);
    assert!(handle.drained(PATIENCE).await);
    agent.stop().await;
    assert_eq!(next(&mut events).await, Event::Disconnected);
    assert_eq!(events.next().await, None, "it is not tried again");
}

#[tokio::test]
async fn an_agent_that_is_recovering_is_tried_again_and_one_that_refuses_is_not() {
    let place = Place::new();
    let mut agent = Agent::start(&place.socket(), true);
    agent
        .shared
        .refusals
        .lock()
        .expect("unpoisoned")
        .push_back(StatusCode::SERVICE_UNAVAILABLE);
    let (_handle, mut events) = connect(config(&place.socket(), false));
    agent.seen_subscribe().await;
    subscribed(&mut events).await;

    agent
        .shared
        .refusals
        .lock()
        .expect("unpoisoned")
        .push_back(StatusCode::FORBIDDEN);
    let (_handle, mut events) = connect(config(&place.socket(), true));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn kills_and_messages_come_over_tcp_as_well() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = listener.local_addr().expect("an address").to_string();
    let shared = Arc::new(Shared {
        takes_streams: true,
        ..Shared::default()
    });
    let (sender, mut seen) = mpsc::unbounded_channel();
    let server = tokio::spawn({
        let shared = Arc::clone(&shared);
        async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve_one(stream, Arc::clone(&shared), sender.clone()));
            }
        }
    });
    let (_handle, mut events) = connect(Config::new("f", "e", Address::Tcp(endpoint)));
    let call = tokio::time::timeout(PATIENCE, seen.recv()).await;
    assert_eq!(
        call.ok().flatten().map(|seen| seen.call.r#type()),
        Some(call::Type::Subscribe)
    );
    subscribed(&mut events).await;
    let send = |event: executor::Event| {
        let subscriber = shared.subscriber.lock().expect("unpoisoned");
        let record = recordio::encode(&proto::to_vec(&event));
        let subscriber = subscriber.as_ref().expect("somebody is subscribed");
        subscriber.send(record).expect("it listens");
    };
    send(executor::Event {
        r#type: Some(event::Type::Kill as i32),
        kill: Some(event::Kill {
            task_id: id("t"),
            signal: None,
            kill_policy: None,
        }),
        ..executor::Event::default()
    });
    send(executor::Event {
        r#type: Some(event::Type::Message as i32),
        message: Some(event::Message {
            data: Bytes::from("hello"),
        }),
        ..executor::Event::default()
    });
    assert_eq!(
        next(&mut events).await,
        Event::Kill {
            task_id: "t".to_owned(),
            kill_policy: None,
            signal: None,
        }
    );
    assert_eq!(
        next(&mut events).await,
        Event::Message(Bytes::from("hello"))
    );
    server.abort();
}
