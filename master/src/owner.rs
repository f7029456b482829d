//! The one task that owns the core: takes what came in, lets the core decide, performs what it decided.
//!
//! It never waits for a peer. Each stream and each link has a bounded queue, emptied by the task of its connection;
//! a queue that is full means a peer that does not keep up, and it is closed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tepui_api::link;
use tepui_api::v1::{master, scheduler};
use tepui_master_core::{
    Answer, Core, Effect, Happening, Input, LinkKey, PersistKey, RequestKey, StoreAnswer,
    StoreCall, StreamKey, View,
};
use tepui_model::{Now, Tick};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::feed;
use crate::operator_events::OperatorEvent;
use crate::shared::{Gauges, wall_ns};
use crate::store::{StoreError, Writer};
use crate::stream::SchedulerEvent;

/// What is taken from the inbox before effects are performed: enough to share a view and a commit, little enough that
/// nobody waits long.
const MAX_BATCH: usize = 256;
/// With so many effects nothing more is decided before they are performed.
const MANY_EFFECTS: usize = 4096;

pub(crate) enum Message {
    SchedulerCall {
        principal: Option<String>,
        stream_id: Option<String>,
        call: Box<scheduler::Call>,
        reply: oneshot::Sender<Reply>,
    },
    OperatorCall {
        principal: Option<String>,
        call: Box<master::Call>,
        reply: oneshot::Sender<Reply>,
    },
    /// About what tasks keep.
    StoreCall {
        principal: Option<String>,
        call: StoreCall,
        reply: oneshot::Sender<Reply>,
    },
    /// Wants the state as it is and everything that happens from then on.
    OperatorSubscribe {
        principal: Option<String>,
        reply: oneshot::Sender<OperatorSubscription>,
    },
    LinkOpened {
        link: LinkKey,
        sender: mpsc::Sender<Box<link::ToAgent>>,
    },
    FromAgent {
        link: LinkKey,
        messages: Vec<link::ToMaster>,
    },
    LinkClosed {
        link: LinkKey,
    },
    Persisted {
        key: PersistKey,
    },
    PersistFailed(Arc<StoreError>),
    /// Wants the state as it is after everything before this message.
    View(oneshot::Sender<Arc<View>>),
    /// Wants to look at the core as it is after everything before this message. It must not take long.
    Look(Look),
}

pub(crate) type Look = Box<dyn FnOnce(&Core, Tick) + Send>;

pub(crate) struct OperatorSubscription {
    pub(crate) stream: StreamKey,
    /// As it was before the first event.
    pub(crate) view: Arc<View>,
    pub(crate) events: feed::Receiver<Arc<OperatorEvent>>,
}

pub(crate) enum Reply {
    Accepted,
    Done,
    Subscribed {
        stream: StreamKey,
        stream_id: String,
        events: feed::Receiver<SchedulerEvent>,
    },
    /// Of a call about what tasks keep.
    Store(Box<StoreAnswer>),
    Refused {
        status: u16,
        message: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// What the master promised to remember it cannot; a successor that reads the disk must take over.
    #[error("the master stops because its registry cannot be written: {0}")]
    Registry(Arc<StoreError>),
    #[error("the master stops: {0}")]
    Exit(String),
}

/// What the owner lets its peers have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Events that may wait for one slow reader of a stream; at least one.
    pub(crate) stream_queue: usize,
    /// Operators that may listen at a time; at least one.
    pub(crate) operator_streams: usize,
}

/// An operator's end of its stream.
struct Listener {
    principal: Option<String>,
    sender: feed::Sender<Arc<OperatorEvent>>,
}

struct Pending {
    reply: oneshot::Sender<Reply>,
    stream: Option<(StreamKey, String)>,
}

pub(crate) struct Owner {
    core: Core,
    began: Instant,
    limits: Limits,
    gauges: Arc<Gauges>,
    writer: Writer,
    /// Where the writer says that it is done. Weak, so that the inbox ends when its other senders are gone.
    inbox: mpsc::WeakSender<Message>,
    next_key: u64,
    /// Counts what is performed in one go.
    step: u64,
    requests: HashMap<RequestKey, Pending>,
    streams: HashMap<StreamKey, feed::Sender<SchedulerEvent>>,
    /// The oldest first.
    operators: BTreeMap<StreamKey, Listener>,
    links: BTreeMap<LinkKey, mpsc::Sender<Box<link::ToAgent>>>,
    /// What performing an effect brought to light; the core hears of it next.
    followups: VecDeque<Input>,
    view: Option<Arc<View>>,
    viewers: Vec<oneshot::Sender<Arc<View>>>,
    failed: Option<OwnerError>,
}

pub(crate) fn now(began: Instant) -> Now {
    let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Now {
        tick: Tick(milliseconds),
        wall_ns: wall_ns(),
    }
}

impl Owner {
    pub(crate) fn new(
        core: Core,
        began: Instant,
        limits: Limits,
        gauges: Arc<Gauges>,
        writer: Writer,
        inbox: mpsc::WeakSender<Message>,
    ) -> Self {
        Self {
            core,
            began,
            limits,
            gauges,
            writer,
            inbox,
            next_key: 0,
            step: 0,
            requests: HashMap::new(),
            streams: HashMap::new(),
            operators: BTreeMap::new(),
            links: BTreeMap::new(),
            followups: VecDeque::new(),
            view: None,
            viewers: Vec::new(),
            failed: None,
        }
    }

    pub(crate) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut closed_streams: mpsc::UnboundedReceiver<StreamKey>,
        shutdown: CancellationToken,
    ) -> Result<(), OwnerError> {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        let mut closed = Vec::with_capacity(MAX_BATCH);
        // A core may have something to do at once: its registry may be new.
        self.apply(Input::Tick);
        loop {
            let deadline = self
                .core
                .next_deadline()
                .map(|tick| self.began + Duration::from_millis(tick.0));
            let wake = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                received = inbox.recv_many(&mut batch, MAX_BATCH) => if received == 0 {
                    return Ok(());
                },
                _ = closed_streams.recv_many(&mut closed, MAX_BATCH) => {}
                () = wake => self.followups.push_back(Input::Tick),
            }
            let mut effects = Vec::new();
            for stream in closed.drain(..) {
                self.on_stream_closed(stream);
            }
            for message in batch.drain(..) {
                if let Message::OperatorSubscribe { principal, reply } = message {
                    // What happened before is in the snapshot, so nobody who subscribes now may hear of it.
                    self.decide(&mut effects);
                    self.perform_all(std::mem::take(&mut effects));
                    self.subscribe_operator(principal, reply);
                    continue;
                }
                self.on_message(message);
                self.decide(&mut effects);
                if effects.len() > MANY_EFFECTS {
                    self.perform_all(std::mem::take(&mut effects));
                }
            }
            self.decide(&mut effects);
            self.perform_all(effects);
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.answer_viewers();
        }
    }

    fn apply(&mut self, input: Input) {
        self.followups.push_back(input);
        let mut effects = Vec::new();
        self.decide(&mut effects);
        self.perform_all(effects);
    }

    /// Lets the core decide on all inputs that wait.
    fn decide(&mut self, effects: &mut Vec<Effect>) {
        while let Some(input) = self.followups.pop_front() {
            self.view = None;
            let (began, runs) = (Instant::now(), self.core.allocation_runs());
            effects.extend(self.core.apply(now(self.began), input));
            if self.core.allocation_runs() > runs {
                let mut times = self.gauges.allocation_runs();
                times.add(Instant::now(), began.elapsed());
            }
        }
    }

    /// Performs effects until nothing follows from performing them.
    fn perform_all(&mut self, mut effects: Vec<Effect>) {
        while !effects.is_empty() {
            self.step += 1;
            for effect in std::mem::take(&mut effects) {
                self.perform(effect);
            }
            self.decide(&mut effects);
        }
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::SchedulerCall {
                principal,
                stream_id,
                call,
                reply,
            } => {
                let request = RequestKey(self.key());
                let new_stream = (call.r#type() == scheduler::call::Type::Subscribe)
                    .then(|| (StreamKey(self.key()), uuid::Uuid::new_v4().to_string()));
                self.requests.insert(
                    request,
                    Pending {
                        reply,
                        stream: new_stream.clone(),
                    },
                );
                self.followups.push_back(Input::SchedulerCall {
                    request,
                    principal,
                    stream_id,
                    call,
                    new_stream,
                });
            }
            Message::OperatorCall {
                principal,
                call,
                reply,
            } => {
                let request = RequestKey(self.key());
                self.requests.insert(
                    request,
                    Pending {
                        reply,
                        stream: None,
                    },
                );
                self.followups.push_back(Input::OperatorCall {
                    request,
                    principal,
                    call,
                });
            }
            Message::StoreCall {
                principal,
                call,
                reply,
            } => {
                let request = RequestKey(self.key());
                let stream = None;
                self.requests.insert(request, Pending { reply, stream });
                self.followups.push_back(Input::StoreCall {
                    request,
                    principal,
                    call,
                });
            }
            Message::LinkOpened { link, sender } => {
                self.links.insert(link, sender);
            }
            Message::FromAgent { link, messages } => {
                // What is still on its way from a link that was closed counts for nothing.
                if self.links.contains_key(&link) {
                    let inputs = messages
                        .into_iter()
                        .map(|message| Input::FromAgent { link, message });
                    self.followups.extend(inputs);
                }
            }
            Message::LinkClosed { link } => {
                self.links.remove(&link);
                self.followups.push_back(Input::LinkClosed { link });
            }
            Message::Persisted { key } => {
                self.gauges.dispatch_taken();
                self.followups.push_back(Input::Persisted { key });
            }
            Message::PersistFailed(error) => {
                self.gauges.dispatch_taken();
                self.failed = Some(OwnerError::Registry(error));
            }
            Message::View(viewer) => {
                self.gauges.dispatch_taken();
                self.viewers.push(viewer);
            }
            Message::Look(look) => {
                self.gauges.dispatch_taken();
                look(&self.core, now(self.began).tick);
            }
            Message::OperatorSubscribe { .. } => unreachable!("dealt with before"),
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { request, answer } => self.answer(request, answer),
            Effect::Send { stream, event } => {
                if let Some(sender) = self.streams.get_mut(&stream)
                    && let Err(error) = sender.send(self.step, SchedulerEvent::new(&event))
                {
                    tracing::warn!(stream = stream.0, %error, "a scheduler does not keep up; its stream is closed");
                    self.streams.remove(&stream);
                    self.followups.push_back(Input::StreamClosed { stream });
                }
            }
            Effect::TellOperators(happening) => self.tell_operators(happening),
            Effect::CloseStream { stream } => {
                self.streams.remove(&stream);
            }
            Effect::ToAgent { link, message } => {
                if let Some(sender) = self.links.get(&link)
                    && let Err(error) = sender.try_send(message)
                {
                    tracing::warn!(link = link.0, %error, "an agent does not keep up; its link is closed");
                    self.links.remove(&link);
                    self.followups.push_back(Input::LinkClosed { link });
                }
            }
            Effect::CloseLink { link } => {
                self.links.remove(&link);
            }
            Effect::Exit { message } => {
                self.failed.get_or_insert(OwnerError::Exit(message));
            }
            Effect::Persist { key, operations } => {
                let inbox = self.inbox.clone();
                let gauges = Arc::clone(&self.gauges);
                self.writer.write(operations, move |result| {
                    let Some(inbox) = inbox.upgrade() else {
                        return;
                    };
                    let message = match result {
                        Ok(()) => Message::Persisted { key },
                        Err(error) => Message::PersistFailed(error),
                    };
                    gauges.dispatched();
                    // Fails only once the owner has ended.
                    let _ = inbox.blocking_send(message);
                });
            }
        }
    }

    fn answer(&mut self, request: RequestKey, answer: Answer) {
        let Some(Pending { reply, stream }) = self.requests.remove(&request) else {
            tracing::error!(
                request = request.0,
                "the core answered a request that does not wait"
            );
            return;
        };
        let reply_with = match (answer, stream) {
            (Answer::Accepted, _) => Reply::Accepted,
            (Answer::Done, _) => Reply::Done,
            (Answer::Store(answer), _) => Reply::Store(answer),
            (Answer::Refused { status, message }, _) => Reply::Refused { status, message },
            (Answer::Subscribed, Some((stream, stream_id))) => {
                let (sender, events) = feed::feed(self.limits.stream_queue);
                self.streams.insert(stream, sender);
                if reply
                    .send(Reply::Subscribed {
                        stream,
                        stream_id,
                        events,
                    })
                    .is_err()
                {
                    self.streams.remove(&stream);
                    self.followups.push_back(Input::StreamClosed { stream });
                }
                return;
            }
            (Answer::Subscribed, None) => {
                tracing::error!(
                    request = request.0,
                    "the core opened a stream for a call that has none"
                );
                Reply::Refused {
                    status: 500,
                    message: "This call has no stream".to_owned(),
                }
            }
        };
        // A client that has gone does not wait for its answer.
        let _ = reply.send(reply_with);
    }

    fn on_stream_closed(&mut self, stream: StreamKey) {
        if self.operators.contains_key(&stream) {
            self.drop_operator(stream);
        } else {
            self.streams.remove(&stream);
            self.followups.push_back(Input::StreamClosed { stream });
        }
    }

    fn subscribe_operator(
        &mut self,
        principal: Option<String>,
        reply: oneshot::Sender<OperatorSubscription>,
    ) {
        if self.operators.is_empty() {
            self.apply(Input::OperatorsListen(true));
        }
        let stream = StreamKey(self.key());
        let (sender, events) = feed::feed(self.limits.stream_queue);
        self.operators
            .insert(stream, Listener { principal, sender });
        let view = self.current_view();
        let subscription = OperatorSubscription {
            stream,
            view,
            events,
        };
        if reply.send(subscription).is_err() {
            self.drop_operator(stream);
            return;
        }
        while self.operators.len() > self.limits.operator_streams {
            let Some(oldest) = self.operators.keys().next().copied() else {
                return;
            };
            tracing::warn!(
                stream = oldest.0,
                "more operators listen than may; the stream of the oldest is closed"
            );
            self.drop_operator(oldest);
        }
        self.gauges.operator_streams(self.operators.len());
    }

    fn drop_operator(&mut self, stream: StreamKey) {
        self.operators.remove(&stream);
        self.gauges.operator_streams(self.operators.len());
        if self.operators.is_empty() {
            self.followups.push_back(Input::OperatorsListen(false));
        }
    }

    fn tell_operators(&mut self, happening: Happening) {
        let event = OperatorEvent::new(&happening);
        let mut slow: Vec<StreamKey> = Vec::new();
        for (stream, listener) in &mut self.operators {
            let principal = listener.principal.as_deref();
            if self.core.may_hear(principal, &happening)
                && listener.sender.send(self.step, Arc::clone(&event)).is_err()
            {
                slow.push(*stream);
            }
        }
        for stream in slow {
            tracing::warn!(
                stream = stream.0,
                "an operator does not keep up; its stream is closed"
            );
            self.drop_operator(stream);
        }
    }

    fn current_view(&mut self) -> Arc<View> {
        let view = self.view.get_or_insert_with(|| Arc::new(self.core.view()));
        Arc::clone(view)
    }

    fn answer_viewers(&mut self) {
        if self.viewers.is_empty() {
            return;
        }
        let view = self.current_view();
        for viewer in self.viewers.drain(..) {
            let _ = viewer.send(Arc::clone(&view));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tepui_api::link::{to_agent, to_master};
    use tepui_api::{json, v1};
    use tepui_master_core::{Config, RegistryOperation};

    use super::*;
    use crate::store::Registry;
    use crate::stream::Streamed;

    struct Nowhere {
        full: bool,
    }

    impl Registry for Nowhere {
        fn load(&mut self) -> Result<Vec<(String, Bytes)>, StoreError> {
            Ok(Vec::new())
        }

        fn commit(&mut self, _: Vec<RegistryOperation>) -> Result<(), StoreError> {
            if self.full {
                Err(StoreError::Closed)
            } else {
                Ok(())
            }
        }
    }

    struct Test {
        inbox: mpsc::Sender<Message>,
        gauges: Arc<Gauges>,
        task: tokio::task::JoinHandle<Result<(), OwnerError>>,
        _closed: mpsc::UnboundedSender<StreamKey>,
    }

    /// An owner whose peers may lag by one message.
    fn start(config: Config, full: bool) -> Test {
        let began = Instant::now();
        let core = Core::new(config, &[], now(began)).unwrap();
        let (writer, _) = Writer::start(Box::new(Nowhere { full })).unwrap();
        let (inbox, messages) = mpsc::channel(16);
        let (closed_sender, closed) = mpsc::unbounded_channel();
        let limits = Limits {
            stream_queue: 1,
            operator_streams: 2,
        };
        let gauges = Arc::new(Gauges::default());
        let owner = Owner::new(
            core,
            began,
            limits,
            Arc::clone(&gauges),
            writer,
            inbox.downgrade(),
        );
        let task = tokio::spawn(owner.run(messages, closed, CancellationToken::new()));
        Test {
            inbox,
            gauges,
            task,
            _closed: closed_sender,
        }
    }

    impl Test {
        async fn say(&self, message: Message) {
            assert!(self.inbox.send(message).await.is_ok(), "the owner lives");
        }

        async fn until(&self, wanted: impl Fn(&View) -> bool) {
            let waiting = async {
                loop {
                    let (sender, receiver) = oneshot::channel();
                    self.say(Message::View(sender)).await;
                    if wanted(&receiver.await.unwrap()) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
            waited.expect("it comes to what is waited for");
        }

        async fn call(&self, stream_id: Option<String>, call: &str) -> Reply {
            let call = Box::new(json::from_slice(call.as_bytes()).unwrap());
            let (reply, answer) = oneshot::channel();
            self.say(Message::SchedulerCall {
                principal: None,
                stream_id,
                call,
                reply,
            })
            .await;
            answer.await.unwrap()
        }

        async fn subscribe(&self) -> feed::Receiver<SchedulerEvent> {
            self.subscribe_as().await.1
        }

        /// With the stream's id.
        async fn subscribe_as(&self) -> (String, feed::Receiver<SchedulerEvent>) {
            let call = r#"{"type": "SUBSCRIBE", "subscribe":
                {"framework_info": {"user": "nobody", "name": "test", "failover_timeout": 60}}}"#;
            match self.call(None, call).await {
                Reply::Subscribed {
                    stream_id, events, ..
                } => (stream_id, events),
                _ => panic!("the scheduler is subscribed"),
            }
        }

        async fn register(&self, link: LinkKey) -> mpsc::Receiver<Box<link::ToAgent>> {
            let agent = br#"{"hostname": "agent.test",
                "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 4}},
                              {"name": "mem", "type": "SCALAR", "scalar": {"value": 1024}}]}"#;
            let register = link::Register {
                agent: json::from_slice::<v1::AgentInfo>(agent).unwrap(),
                endpoint: "127.0.0.1:5051".to_owned(),
                boot_id: "boot".to_owned(),
                ..Default::default()
            };
            let (sender, outgoing) = mpsc::channel(1);
            self.say(Message::LinkOpened { link, sender }).await;
            let message = link::ToMaster {
                body: Some(to_master::Body::Register(register)),
            };
            self.say(Message::FromAgent {
                link,
                messages: vec![message],
            })
            .await;
            outgoing
        }
    }

    #[tokio::test]
    async fn a_scheduler_that_does_not_keep_up_loses_its_stream_and_holds_up_nobody() {
        let test = start(Config::default(), false);
        let mut slow = test.subscribe().await;
        test.until(|view| {
            view.frameworks
                .values()
                .all(|framework| framework.connected)
        })
        .await;
        // SUBSCRIBED fills the queue; the offers that this agent brings find no room.
        let _agent = test.register(LinkKey(1)).await;
        test.until(|view| {
            view.frameworks
                .values()
                .all(|framework| !framework.connected)
        })
        .await;
        let first = slow.recv().await.unwrap();
        assert!(first.wants_heartbeat());
        assert!(slow.recv().await.is_none());
    }

    #[tokio::test]
    async fn what_one_call_brings_may_be_more_than_may_wait() {
        let test = start(Config::default(), false);
        let (stream_id, mut events) = test.subscribe_as().await;
        assert!(events.recv().await.unwrap().wants_heartbeat());
        let mut framework = String::new();
        test.until(|view| view.frameworks.values().next().is_some())
            .await;
        let (sender, receiver) = oneshot::channel();
        test.say(Message::View(sender)).await;
        for record in receiver.await.unwrap().frameworks.values() {
            framework = record.id.to_string();
        }
        let tasks: Vec<_> = (0..100)
            .map(|number| serde_json::json!({ "task_id": { "value": number.to_string() } }))
            .collect();
        let call = serde_json::json!({ "type": "RECONCILE", "framework_id": { "value": framework },
            "reconcile": { "tasks": tasks } });
        for _ in 0..2 {
            let reply = test.call(Some(stream_id.clone()), &call.to_string()).await;
            assert!(matches!(reply, Reply::Accepted));
            for _ in 0..100 {
                let event = events.recv().await.expect("the stream stays open");
                let record = event.record(tepui_api::MediaType::Json);
                assert!(String::from_utf8_lossy(&record).contains("TASK_LOST"));
            }
        }
    }

    async fn listen(test: &Test) -> OperatorSubscription {
        let (reply, subscription) = oneshot::channel();
        test.say(Message::OperatorSubscribe {
            principal: None,
            reply,
        })
        .await;
        subscription.await.unwrap()
    }

    #[tokio::test]
    async fn an_operator_that_does_not_keep_up_loses_its_stream() {
        let test = start(Config::default(), false);
        let mut slow = listen(&test).await;
        assert!(slow.view.frameworks.is_empty());
        let _first = test.subscribe().await;
        let _second = test.subscribe().await;
        // The stream is closed behind what it holds.
        assert!(slow.events.recv().await.is_some());
        assert!(slow.events.recv().await.is_none());
        assert_eq!(test.gauges.operator_stream_subscribers(), 0);
    }

    #[tokio::test]
    async fn the_oldest_operator_gives_way_when_there_are_too_many() {
        let test = start(Config::default(), false);
        let mut oldest = listen(&test).await;
        let second = listen(&test).await;
        let third = listen(&test).await;
        assert!(oldest.events.recv().await.is_none());
        assert_eq!(test.gauges.operator_stream_subscribers(), 2);
        drop((second, third));
    }

    #[tokio::test]
    async fn an_agent_that_does_not_keep_up_loses_its_link() {
        let config = Config {
            agent_ping_timeout: Duration::from_millis(5),
            ..Config::default()
        };
        let test = start(config, false);
        let mut slow = test.register(LinkKey(1)).await;
        test.until(|view| view.agents.values().any(|agent| agent.link.is_none()))
            .await;
        assert!(matches!(
            slow.recv().await.unwrap().body,
            Some(to_agent::Body::Registered(_))
        ));
        assert!(slow.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_master_that_cannot_remember_stops() {
        let test = start(Config::default(), true);
        let _agent = test.register(LinkKey(1)).await;
        let ended = tokio::time::timeout(Duration::from_secs(60), test.task).await;
        let result = ended.expect("the owner ends").unwrap();
        assert!(matches!(result, Err(OwnerError::Registry(_))));
    }
}
