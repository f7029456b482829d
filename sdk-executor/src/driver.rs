//! The subscription: held, lost, renewed; and the sending of calls beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tepui_api::recordio::Decoder;
use tepui_api::v1::executor::{self, event};
use tepui_api::v1::{AgentInfo, ContainerId, ExecutorInfo, FrameworkInfo, KillPolicy, TaskInfo};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::outbox::{Handle, Outbox};
use crate::transport::{Connection, TransportError, drain, records};

/// First pause after a failed attempt; doubles up to the configured maximum.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// Longest event. One that carries more is damage rather than news.
const RECORD_BYTES: usize = 64 << 20;

/// What the agent says of the executor's surroundings, at each subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribed {
    /// The executor as the agent knows it.
    pub executor: ExecutorInfo,
    /// Its framework.
    pub framework: FrameworkInfo,
    /// Its agent.
    pub agent: AgentInfo,
    /// The container it runs in.
    pub container_id: Option<ContainerId>,
}

/// What an executor must know or do.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The agent knows this executor (again).
    Subscribed(Box<Subscribed>),
    /// The connection is lost and is being tried again. Nothing need be done: updates are kept meanwhile.
    Disconnected,
    /// Start a task.
    Launch(Box<TaskInfo>),
    /// Start all of these.
    LaunchGroup(Vec<TaskInfo>),
    /// End a task.
    Kill {
        /// The task.
        task_id: String,
        /// Overrides the one in the task, if given.
        kill_policy: Option<KillPolicy>,
        /// Given only to Tepui's executor of native tasks: no end is asked for, the task's process gets this signal.
        signal: Option<i32>,
    },
    /// Bytes from the framework's scheduler.
    Message(Bytes),
    /// The agent complains.
    Error(String),
    /// End every task, report, and exit.
    Shutdown,
}

/// What the agent wants, in order.
pub struct Events {
    receiver: mpsc::UnboundedReceiver<Event>,
}

impl Events {
    /// The next event. `None`: the agent is gone for good; end every task and exit.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

/// Subscribes with the agent and keeps at it. Must be called within a tokio runtime; dropping the [`Events`] ends it.
pub fn connect(config: Config) -> (Handle, Events) {
    let outbox = Arc::new(Outbox::new(
        config.framework_id.clone(),
        config.executor_id.clone(),
    ));
    let (sender, receiver) = mpsc::unbounded_channel();
    let driver = Driver {
        config,
        outbox: Arc::clone(&outbox),
        events: sender,
        shutting_down: false,
        subscribed: false,
    };
    tokio::spawn(driver.run());
    (Handle::new(outbox), Events { receiver })
}

/// How a session ended.
enum Ended {
    /// It never began, and may if tried again.
    NotYet(TransportError),
    /// The agent will not have this executor.
    Refused(TransportError),
    /// It had begun and was cut off.
    Lost(Option<TransportError>),
}

struct Driver {
    config: Config,
    outbox: Arc<Outbox>,
    events: mpsc::UnboundedSender<Event>,
    /// SHUTDOWN was heard: a connection that ends now is not renewed.
    shutting_down: bool,
    subscribed: bool,
}

impl Driver {
    async fn run(mut self) {
        let events = self.events.clone();
        tokio::select! {
            () = self.keep_subscribed() => {}
            // Nobody listens any more.
            () = events.closed() => {}
        }
    }

    async fn keep_subscribed(&mut self) {
        let mut alone_since = Instant::now();
        let mut pause = BACKOFF_FIRST;
        let mut last = String::new();
        loop {
            match self.session().await {
                Ended::Refused(error) => {
                    tracing::error!(%error, "the agent refuses this executor");
                    return;
                }
                Ended::NotYet(error) => {
                    last = error.to_string();
                    tracing::debug!(error = last, "not subscribed yet");
                }
                Ended::Lost(error) => {
                    match error {
                        Some(error) => tracing::warn!(%error, "the agent was lost"),
                        None => tracing::info!("the agent ended the subscription"),
                    }
                    alone_since = Instant::now();
                    pause = BACKOFF_FIRST;
                    if self.events.send(Event::Disconnected).is_err() {
                        return;
                    }
                }
            }
            let patience = match (self.shutting_down, self.subscribed, self.config.checkpoint) {
                (true, _, _) | (false, true, false) => return,
                (false, true, true) => self.config.recovery_timeout,
                (false, false, _) => self.config.connect_timeout,
            };
            if alone_since.elapsed() >= patience {
                tracing::error!(error = last, "the agent did not come back in time");
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.config.subscription_backoff_max.max(BACKOFF_FIRST));
        }
    }

    /// One subscription from its beginning to its end.
    async fn session(&mut self) -> Ended {
        let call = self.outbox.subscribe();
        let response = async {
            let mut connection = Connection::open(&self.config).await?;
            let response = connection.post(call).await?;
            Ok::<_, TransportError>((connection, response))
        };
        // The connection is kept beside its answer: dropped, it could take the stream with it.
        let (_connection, response) = match response.await {
            Ok(both) => both,
            Err(error @ TransportError::Refused { status, .. }) if (400..500).contains(&status) => {
                return Ended::Refused(error);
            }
            Err(error) => return Ended::NotYet(error),
        };
        let mut body = response.into_body();
        let mut decoder = Decoder::new(RECORD_BYTES);
        let mut began = false;
        let (failed, mut failure) = mpsc::channel(1);
        let mut sender = None;
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                Some(error) = failure.recv() => return Ended::Lost(Some(error)),
            };
            let data = match frame {
                None if began => return Ended::Lost(None),
                None => {
                    return Ended::NotYet(TransportError::Damaged(
                        "it ended before SUBSCRIBED".to_owned(),
                    ));
                }
                Some(Err(error)) if began => return Ended::Lost(Some(error.into())),
                Some(Err(error)) => return Ended::NotYet(error.into()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_) => continue,
                },
            };
            let events = match decode(&mut decoder, data) {
                Ok(events) => events,
                Err(error) if began => return Ended::Lost(Some(error)),
                Err(error) => return Ended::NotYet(error),
            };
            for event in events {
                if !began && event.r#type() == event::Type::Subscribed {
                    began = true;
                    self.subscribed = true;
                    // Aborted with the session, for the next one sends what this one did not.
                    sender = Some(AbortOnDrop(tokio::spawn(send_calls(
                        self.config.clone(),
                        Arc::clone(&self.outbox),
                        failed.clone(),
                    ))));
                }
                self.hand_on(event);
            }
            if sender.is_none() && self.shutting_down {
                // An executor that came too late hears SHUTDOWN instead of SUBSCRIBED.
                return Ended::Lost(None);
            }
        }
    }

    fn hand_on(&mut self, event: executor::Event) {
        let kind = event.r#type();
        let said = match kind {
            event::Type::Subscribed => event.subscribed.map(|subscribed| {
                Event::Subscribed(Box::new(Subscribed {
                    executor: subscribed.executor_info,
                    framework: subscribed.framework_info,
                    agent: subscribed.agent_info,
                    container_id: subscribed.container_id,
                }))
            }),
            event::Type::Launch => event.launch.map(|launch| {
                self.outbox.launched(&launch.task);
                Event::Launch(Box::new(launch.task))
            }),
            event::Type::LaunchGroup => event.launch_group.map(|group| {
                let tasks = group.task_group.tasks;
                for task in &tasks {
                    self.outbox.launched(task);
                }
                Event::LaunchGroup(tasks)
            }),
            event::Type::Kill => event.kill.map(|kill| Event::Kill {
                task_id: kill.task_id.value,
                kill_policy: kill.kill_policy,
                signal: kill.signal,
            }),
            event::Type::Acknowledged => {
                if let Some(acknowledged) = event.acknowledged {
                    self.outbox
                        .acknowledged(&acknowledged.task_id.value, &acknowledged.uuid);
                }
                return;
            }
            event::Type::Message => event.message.map(|message| Event::Message(message.data)),
            event::Type::Error => event.error.map(|error| {
                tracing::error!(message = error.message, "the agent reports an error");
                Event::Error(error.message)
            }),
            event::Type::Shutdown => {
                self.shutting_down = true;
                Some(Event::Shutdown)
            }
            // A newer agent may have events we do not know; HEARTBEAT says nothing but that it is there.
            event::Type::Heartbeat | event::Type::Unknown => return,
        };
        match said {
            // If nobody listens the driver is about to end.
            Some(said) => drop(self.events.send(said)),
            None => tracing::warn!(kind = kind.as_str_name(), "an event without its content"),
        }
    }
}

fn decode(decoder: &mut Decoder, data: Bytes) -> Result<Vec<executor::Event>, TransportError> {
    let damaged = |error: &dyn std::fmt::Display| TransportError::Damaged(error.to_string());
    decoder.push(data);
    let mut events = Vec::new();
    while let Some(record) = decoder.next().map_err(|error| damaged(&error))? {
        events.push(tepui_api::proto::from_bytes(record).map_err(|error| damaged(&error))?);
    }
    Ok(events)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends what the executor has to say, as a stream of records where the agent takes that, else call by call.
/// A connection that breaks is renewed for as long as the subscription stands; if that fails, the subscription counts
/// as lost, which is told through `failed`.
async fn send_calls(config: Config, outbox: Arc<Outbox>, failed: mpsc::Sender<TransportError>) {
    let mut one_by_one = None;
    let mut attempts = 0;
    loop {
        let sent = async {
            let mut connection = Connection::open(&config).await?;
            let alone = match one_by_one {
                Some(known) => known,
                None => !connection.takes_records().await?,
            };
            one_by_one = Some(alone);
            attempts = 0;
            if alone {
                // The refusal of the stream may have closed the connection.
                send_one_by_one(Connection::open(&config).await?, &outbox).await
            } else {
                send_as_stream(connection, &outbox).await
            }
        };
        let error = match sent.await {
            Ok(()) => TransportError::Damaged("the agent closed the calls' stream".to_owned()),
            Err(error @ TransportError::Refused { status, .. }) if status < 500 => {
                // One of the records was not to its liking. Call by call it can say which.
                tracing::warn!(%error, "the agent ended the calls' stream");
                one_by_one = Some(true);
                outbox.requeue();
                continue;
            }
            Err(error) => error,
        };
        tracing::debug!(%error, "the connection for calls is renewed");
        attempts += 1;
        if attempts > 5 {
            // If the session is over already, nobody needs to hear it.
            drop(failed.send(error).await);
            return;
        }
        tokio::time::sleep(BACKOFF_FIRST).await;
        outbox.requeue();
    }
}

async fn send_as_stream(connection: Connection, outbox: &Outbox) -> Result<(), TransportError> {
    let (chunks, answer) = connection.stream().await?;
    let feed = async {
        loop {
            let calls = outbox.take().await;
            let chunk = records(calls.iter().map(|call| &call.body));
            if chunks.send(chunk).await.is_err() {
                // The connection is gone, and `answer` says why.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        answer = answer => answer,
        () = feed => Ok(()),
    }
}

async fn send_one_by_one(
    mut connection: Connection,
    outbox: &Outbox,
) -> Result<(), TransportError> {
    loop {
        let mut calls = outbox.take().await;
        while let Some(call) = calls.pop_front() {
            match connection.post(call.body.clone()).await {
                Ok(response) => drain(response).await?,
                Err(TransportError::Refused { status, message }) if status < 500 => {
                    // It would be refused again and again, and hold up all that follows.
                    tracing::error!(status, message, "the agent refuses a call; it is dropped");
                    if let Some(uuid) = &call.update {
                        outbox.forget(uuid);
                    }
                }
                Err(error) => {
                    while let Some(later) = calls.pop_back() {
                        outbox.put_back(later);
                    }
                    outbox.put_back(call);
                    return Err(error);
                }
            }
        }
    }
}
