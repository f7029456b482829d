//! The one task that owns the agent's core: it takes everything that happens from one inbox, in order, and performs
//! what follows. It never waits for a peer, a disk or a process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tepui_agent_core::{
    AgentView, ConnectionKey, ContainerOwner, ContainerView, Core, Effect, ExecutorRef, GuestTask,
    Input, PrepareFailure, Rejection, RequestKey, TaskRef,
};
use tepui_api::guest;
use tepui_api::link::ToMaster;
use tepui_api::v1::executor;
use tepui_api::{MediaType, media, recordio};
use tepui_model::{Now, Tick, check_id};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Save;
use crate::executors::{Executors, StartOrder};
use crate::files::{Located, Phase};
use crate::gc::Garbage;
use crate::http::StreamOutcome;
use crate::persistent::Volumes;
use crate::prepare::{Order, PrepareError, Preparer, Ready};
use crate::store::Pin;

/// What executors have, beyond the grace of tasks, to end them by force.
const KILL_TIME: Duration = Duration::from_secs(2);
/// What schedulers have to acknowledge the ends of tasks when the agent stops.
const TELL_TIME: Duration = Duration::from_secs(1);
/// How many events the owner takes before it looks at the clock again.
const BATCH: usize = 256;
/// How many events an executor may be behind before it is taken for dead.
const EXECUTOR_QUEUE: usize = 65_536;
/// And how many bytes of them may wait.
const EXECUTOR_QUEUE_BYTES: usize = 64 << 20;

/// What can happen to the shell.
#[derive(Debug)]
pub(crate) enum Event {
    Core(Box<Input>),
    LinkUp {
        link: u64,
        sender: mpsc::Sender<ToMaster>,
        close: CancellationToken,
    },
    LinkDown {
        link: u64,
    },
    Subscribe {
        call: Box<executor::Call>,
        token: Option<String>,
        media: MediaType,
        reply: oneshot::Sender<Subscription>,
    },
    Call {
        call: Box<executor::Call>,
        token: Option<String>,
        reply: Reply,
    },
    /// Whose question is it? The call comes back with the answer.
    Guest {
        call: Box<guest::Call>,
        token: Option<String>,
        reply: oneshot::Sender<(Box<guest::Call>, Result<GuestTask, Rejection>)>,
    },
    Prepared {
        task: TaskRef,
        attempt: u64,
        outcome: Result<Box<Ready>, PrepareError>,
    },
    Locate {
        task: TaskRef,
        reply: oneshot::Sender<Option<Located>>,
    },
    View {
        reply: oneshot::Sender<Box<AgentView>>,
    },
    /// Who lives in the container of that id, and until when if it is a task.
    Container {
        id: String,
        reply: oneshot::Sender<Option<(ContainerView, Option<watch::Receiver<Phase>>)>>,
    },
    /// Something without which the agent cannot go on.
    Failed(String),
}

/// The answer to a SUBSCRIBE.
#[derive(Debug)]
pub(crate) enum Subscription {
    Open {
        connection: ConnectionKey,
        events: mpsc::Receiver<Queued>,
    },
    Refused {
        status: u16,
        message: String,
    },
}

/// Who waits for the answer to a call.
#[derive(Debug)]
pub(crate) enum Reply {
    One(oneshot::Sender<(u16, String)>),
    /// One of a stream of calls: the permit is given back when it is answered.
    Stream {
        outcome: Arc<StreamOutcome>,
        permit: OwnedSemaphorePermit,
    },
}

impl Reply {
    pub(crate) fn give(self, status: u16, message: String) {
        match self {
            Self::One(reply) => {
                let _ = reply.send((status, message));
            }
            Self::Stream { outcome, permit } => {
                outcome.answered(status, message);
                drop(permit);
            }
        }
    }
}

enum Pending {
    Subscribe {
        connection: ConnectionKey,
        media: MediaType,
        reply: oneshot::Sender<Subscription>,
    },
    Call(Reply),
}

/// An event on its way to an executor, as a record, with the room it takes.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) record: Bytes,
    pub(crate) _room: Option<OwnedSemaphorePermit>,
}

struct Connection {
    sender: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    media: MediaType,
}

struct Link {
    number: u64,
    sender: mpsc::Sender<ToMaster>,
    close: CancellationToken,
}

/// What the shell holds for a task that has not ended.
struct TaskFiles {
    sandbox: PathBuf,
    phase: watch::Sender<Phase>,
    pins: Vec<Pin>,
}

struct Preparing {
    attempt: u64,
    abort: AbortHandle,
}

pub(crate) struct Owner {
    core: Core,
    began: Instant,
    work_dir: PathBuf,
    inbox: mpsc::Receiver<Event>,
    events: mpsc::Sender<Event>,
    saves: mpsc::UnboundedSender<Save>,
    volumes: Volumes,
    preparer: Preparer,
    executors: Executors,
    garbage: Garbage,
    link: Option<Link>,
    /// Subscriptions of executors whose start is not over.
    early: Vec<Event>,
    next_key: u64,
    pending: BTreeMap<RequestKey, Pending>,
    connections: BTreeMap<ConnectionKey, Connection>,
    preparing: BTreeMap<TaskRef, Preparing>,
    tasks: BTreeMap<TaskRef, TaskFiles>,
    /// Set when the agent must stop: the reason, if it is not that it has done all it was started for.
    ending: Option<Result<(), String>>,
}

/// What an owner is made of.
pub(crate) struct Parts {
    pub(crate) core: Core,
    pub(crate) began: Instant,
    pub(crate) work_dir: PathBuf,
    pub(crate) inbox: mpsc::Receiver<Event>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) saves: mpsc::UnboundedSender<Save>,
    pub(crate) volumes: Volumes,
    pub(crate) preparer: Preparer,
    pub(crate) executors: Executors,
    pub(crate) garbage: Garbage,
}

/// Both clocks, as the core wants them.
pub(crate) fn now(began: Instant) -> Now {
    let wall_ns = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(_) => 0,
    };
    Now {
        tick: Tick(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)),
        wall_ns,
    }
}

/// Seconds since 1970.
pub(crate) fn wall_secs() -> f64 {
    now(Instant::now()).wall_secs()
}

/// How the agent is asked to stop, and what is done then.
pub(crate) struct Stop {
    pub(crate) asked: CancellationToken,
    /// Tasks of frameworks that checkpoint are left to the next agent process.
    pub(crate) keep_checkpointed: bool,
    /// What the others may have at most to end by themselves.
    pub(crate) grace: Duration,
}

/// How far the stopping is, and when it goes on whatever happens.
struct Stopping {
    step: Step,
    until: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Tasks were asked to end.
    Asked,
    /// Their executors are ended.
    Forced,
    /// They have ended; the master is told.
    Telling,
}

impl Owner {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            core: parts.core,
            began: parts.began,
            work_dir: parts.work_dir,
            inbox: parts.inbox,
            events: parts.events,
            saves: parts.saves,
            volumes: parts.volumes,
            preparer: parts.preparer,
            executors: parts.executors,
            garbage: parts.garbage,
            link: None,
            early: Vec::new(),
            next_key: 0,
            pending: BTreeMap::new(),
            connections: BTreeMap::new(),
            preparing: BTreeMap::new(),
            tasks: BTreeMap::new(),
            ending: None,
        }
    }

    /// Until the agent is told to stop, or has no more to do, or must; then the reason.
    pub(crate) async fn run(mut self, stop: Stop) -> Result<(), String> {
        self.follow_recovered_tasks();
        let mut stopping: Option<Stopping> = None;
        let mut batch = Vec::with_capacity(BATCH);
        while self.ending.is_none() {
            if stopping
                .as_mut()
                .is_some_and(|stopping| self.has_stopped(stopping))
            {
                return Ok(());
            }
            let next_step = stopping.as_ref().map(|stopping| stopping.until);
            let next_step = async move {
                match next_step {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            let deadline = self.core.next_deadline();
            let began = self.began;
            let wake = async move {
                match deadline {
                    Some(Tick(tick)) => {
                        let at = began + Duration::from_millis(tick);
                        tokio::time::sleep_until(at.into()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.asked.cancelled(), if stopping.is_none() => {
                    let Stop { keep_checkpointed, grace, .. } = stop;
                    self.apply(Input::Stop { keep_checkpointed, grace });
                    stopping = Some(Stopping {
                        step: Step::Asked,
                        until: Instant::now() + grace + KILL_TIME,
                    });
                }
                () = next_step => {}
                // A flood of events must not put the timers off.
                () = wake => self.apply(Input::Tick),
                count = self.inbox.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return Ok(());
                    }
                }
            }
            for event in batch.drain(..) {
                self.on_event(event);
            }
        }
        self.ending.unwrap_or(Ok(()))
    }

    /// Whether there is nothing more to wait for: all tasks that are to end have, and the master has heard of it, or each
    /// had its time.
    fn has_stopped(&mut self, stopping: &mut Stopping) -> bool {
        let is_over = Instant::now() >= stopping.until;
        match (stopping.step, self.core.has_tasks_to_end()) {
            (Step::Asked, true) if is_over => {
                self.apply(Input::StopOver);
                *stopping = Stopping {
                    step: Step::Forced,
                    until: Instant::now() + KILL_TIME,
                };
                false
            }
            (Step::Asked | Step::Forced, false) => {
                *stopping = Stopping {
                    step: Step::Telling,
                    until: Instant::now() + TELL_TIME,
                };
                !self.core.has_ends_to_tell()
            }
            (Step::Telling, _) => is_over || !self.core.has_ends_to_tell(),
            (Step::Asked | Step::Forced, true) => is_over,
        }
    }

    /// Tasks that survived the agent's restart can be followed like any other.
    fn follow_recovered_tasks(&mut self) {
        for task in self.core.view().tasks {
            if !task.state.is_terminal() && !task.sandbox.is_empty() {
                self.hold(task.task, task.sandbox.as_str(), Phase::Ready);
            }
        }
    }

    fn hold(&mut self, task: TaskRef, sandbox: &str, phase: Phase) -> watch::Sender<Phase> {
        let (phase, _) = watch::channel(phase);
        let files = TaskFiles {
            sandbox: self.work_dir.join(sandbox),
            phase: phase.clone(),
            pins: Vec::new(),
        };
        self.tasks.insert(task, files);
        phase
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Core(input) => {
                if let Input::ExecutorDisconnected { connection } = *input {
                    self.connections.remove(&connection);
                }
                let of_a_start = matches!(
                    *input,
                    Input::ExecutorStarted { .. }
                        | Input::ExecutorStartFailed { .. }
                        | Input::ExecutorExited { .. }
                );
                self.apply(*input);
                if of_a_start {
                    for early in std::mem::take(&mut self.early) {
                        self.on_event(early);
                    }
                }
            }
            Event::LinkUp {
                link,
                sender,
                close,
            } => {
                self.link = Some(Link {
                    number: link,
                    sender,
                    close,
                });
                self.apply(Input::LinkUp);
            }
            Event::LinkDown { link } => {
                if self
                    .link
                    .as_ref()
                    .is_some_and(|current| current.number == link)
                {
                    self.link = None;
                    self.apply(Input::LinkDown);
                }
            }
            Event::Subscribe {
                call,
                token,
                media,
                reply,
            } => {
                let executor = ExecutorRef {
                    framework: call.framework_id.value.as_str().into(),
                    executor: call.executor_id.value.as_str().into(),
                };
                if self.core.is_being_started(&executor) {
                    // It may be faster than we write down which process it is. What runs tasks must be known to the next
                    // agent, should this one die now.
                    self.early.push(Event::Subscribe {
                        call,
                        token,
                        media,
                        reply,
                    });
                    return;
                }
                let (request, connection) = (RequestKey(self.mint()), ConnectionKey(self.mint()));
                self.pending.insert(
                    request,
                    Pending::Subscribe {
                        connection,
                        media,
                        reply,
                    },
                );
                self.apply(Input::ExecutorSubscribe {
                    request,
                    connection,
                    call: *call,
                    token,
                });
            }
            Event::Call { call, token, reply } => {
                let request = RequestKey(self.mint());
                self.pending.insert(request, Pending::Call(reply));
                self.apply(Input::ExecutorCall {
                    request,
                    call: *call,
                    token,
                });
            }
            Event::Guest { call, token, reply } => {
                let known = self.core.guest_task(&call, token.as_deref());
                let _ = reply.send((call, known));
            }
            Event::Prepared {
                task,
                attempt,
                outcome,
            } => self.on_prepared(task, attempt, outcome),
            Event::Locate { task, reply } => {
                let located = self.locate(&task);
                let _ = reply.send(located);
            }
            Event::Container { id, reply } => {
                let found = self.core.find_container(&id).map(|view| {
                    let phase = match &view.owner {
                        ContainerOwner::Executor => None,
                        ContainerOwner::Task(task) => {
                            self.locate(task).map(|located| located.phase)
                        }
                    };
                    (view, phase)
                });
                let _ = reply.send(found);
            }
            Event::View { reply } => {
                let _ = reply.send(Box::new(self.core.view()));
            }
            Event::Failed(message) => self.ending = Some(Err(message)),
        }
    }

    fn on_prepared(
        &mut self,
        task: TaskRef,
        attempt: u64,
        outcome: Result<Box<Ready>, PrepareError>,
    ) {
        // An attempt that was cancelled may have ended all the same; the core must not hear of it.
        if self
            .preparing
            .get(&task)
            .is_none_or(|current| current.attempt != attempt)
        {
            return;
        }
        self.preparing.remove(&task);
        let result = match outcome {
            Ok(ready) => {
                if let Some(files) = self.tasks.get_mut(&task) {
                    files.pins = ready.pins;
                }
                Ok(ready.plan)
            }
            Err(error) => {
                let failure = PrepareFailure::from(error);
                tracing::info!(%task, error = %failure.message, "the task cannot be made ready");
                Err(failure)
            }
        };
        self.apply(Input::Prepared { task, result });
    }

    fn apply(&mut self, input: Input) {
        for effect in self.core.apply(now(self.began), input) {
            self.perform(effect);
        }
    }

    fn mint(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ToMaster(message) => self.send_to_master(message),
            Effect::CloseLink => self.close_link(),
            Effect::SaveAgent { id, record } => {
                for save in Save::agent(&id, record) {
                    self.save(save);
                }
            }
            Effect::ForgetAgentId => Save::no_agent()
                .into_iter()
                .for_each(|save| self.save(save)),
            Effect::Save { key, path, write } => self.save(Save {
                key: Some(key),
                path,
                write,
            }),
            Effect::MakeVolume { directory } => self.volumes.make(&directory),
            Effect::RemoveVolume { directory } => self.volumes.remove(directory),
            Effect::LinkVolumes { sandbox, volumes } => {
                if let Err(error) = self.volumes.link(&sandbox, &volumes) {
                    tracing::error!(sandbox, %error, "an executor does not see a volume");
                }
            }
            Effect::Prepare {
                task,
                info,
                framework,
                container_id,
                sandbox,
                parent,
            } => {
                let phase = self.hold(task.clone(), &sandbox, Phase::Preparing);
                let container_id = container_id.to_string();
                self.prepare(
                    task,
                    Order {
                        info,
                        framework,
                        container_id,
                        sandbox,
                        parent,
                        phase,
                    },
                );
            }
            Effect::CancelPrepare { task } => {
                if let Some(preparing) = self.preparing.remove(&task) {
                    preparing.abort.abort();
                }
            }
            Effect::StartExecutor {
                executor,
                kind,
                info,
                framework,
                sandbox,
                token,
                resources,
                container_id: _,
            } => {
                self.executors.start(StartOrder {
                    executor,
                    kind,
                    info,
                    framework,
                    sandbox,
                    token,
                    resources,
                });
            }
            Effect::ResizeExecutor {
                executor,
                resources,
            } => self.executors.resize(&executor, resources),
            Effect::DestroyExecutor { executor } => self.executors.destroy(&executor),
            Effect::ToExecutor { connection, event } => self.send_to_executor(connection, &event),
            Effect::CloseExecutor { connection } => {
                self.connections.remove(&connection);
            }
            Effect::AnswerExecutor {
                request,
                status,
                message,
            } => self.answer(request, status, message),
            Effect::TaskEnded { task } => {
                if let Some(files) = self.tasks.remove(&task) {
                    files.phase.send_replace(Phase::Ended);
                }
            }
            Effect::DiscardSandbox { sandbox } => {
                self.garbage.hand_in(self.work_dir.join(sandbox));
            }
            Effect::Exit { message } => self.ending = Some(Err(message)),
            Effect::CleanedUp => self.ending = Some(Ok(())),
        }
    }

    fn send_to_master(&mut self, message: ToMaster) {
        let Some(link) = &self.link else { return };
        if link.sender.try_send(message).is_err() {
            // The master does not read, or the link is going down anyway; what matters is sent again on the next one.
            link.close.cancel();
        }
    }

    fn close_link(&mut self) {
        if let Some(link) = &self.link {
            link.close.cancel();
        }
    }

    fn save(&mut self, save: Save) {
        if self.saves.send(save).is_err() {
            self.ending
                .get_or_insert_with(|| Err("checkpoints cannot be written any more".to_owned()));
        }
    }

    fn prepare(&mut self, task: TaskRef, order: Order) {
        let (preparer, events, attempt) = (self.preparer.clone(), self.events.clone(), self.mint());
        let name = task.clone();
        let preparation = tokio::spawn(async move {
            let outcome = preparer.prepare(order).await.map(Box::new);
            let _ = events
                .send(Event::Prepared {
                    task: name,
                    attempt,
                    outcome,
                })
                .await;
        });
        self.preparing.insert(
            task,
            Preparing {
                attempt,
                abort: preparation.abort_handle(),
            },
        );
    }

    fn send_to_executor(&mut self, key: ConnectionKey, event: &executor::Event) {
        let Some(connection) = self.connections.get(&key) else {
            return;
        };
        let record = recordio::encode(&media::encode(connection.media, event));
        let bytes = u32::try_from(record.len().min(EXECUTOR_QUEUE_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&connection.room).try_acquire_many_owned(bytes);
        let queued = room.ok().map(|room| Queued {
            record,
            _room: Some(room),
        });
        if queued.is_none_or(|queued| connection.sender.try_send(queued).is_err()) {
            tracing::warn!(
                connection = key.0,
                "an executor does not read its events and is disconnected"
            );
            self.connections.remove(&key);
            let events = self.events.clone();
            // Not from here: the core is in the middle of its effects.
            tokio::spawn(async move {
                let input = Input::ExecutorDisconnected { connection: key };
                let _ = events.send(Event::Core(Box::new(input))).await;
            });
        }
    }

    fn answer(&mut self, request: RequestKey, status: u16, message: String) {
        match self.pending.remove(&request) {
            Some(Pending::Call(reply)) => reply.give(status, message),
            Some(Pending::Subscribe {
                connection,
                media,
                reply,
            }) if status == 200 => {
                let (sender, events) = mpsc::channel(EXECUTOR_QUEUE);
                let room = Arc::new(Semaphore::new(EXECUTOR_QUEUE_BYTES));
                self.connections.insert(
                    connection,
                    Connection {
                        sender,
                        room,
                        media,
                    },
                );
                // A client that has gone is noticed by its dropped stream.
                let _ = reply.send(Subscription::Open { connection, events });
            }
            Some(Pending::Subscribe { reply, .. }) => {
                let _ = reply.send(Subscription::Refused { status, message });
            }
            None => {}
        }
    }

    fn locate(&mut self, task: &TaskRef) -> Option<Located> {
        if !self.tasks.contains_key(task) {
            let view = self
                .core
                .find_task(task)
                .filter(|view| !view.sandbox.is_empty());
            match view {
                // A custom executor's task lives in its executor's sandbox.
                Some(view) if !view.state.is_terminal() => {
                    self.hold(task.clone(), &view.sandbox, Phase::Ready);
                }
                Some(view) => return Some(ended(self.work_dir.join(view.sandbox))),
                None => return self.locate_on_disk(task),
            }
        }
        let files = self.tasks.get(task)?;
        Some(Located {
            sandbox: files.sandbox.clone(),
            phase: files.phase.subscribe(),
        })
    }

    /// Tasks the core has forgotten leave their files for a while.
    fn locate_on_disk(&self, task: &TaskRef) -> Option<Located> {
        let agent = self.core.agent_id()?;
        check_id("framework id", task.framework.as_str()).ok()?;
        check_id("task id", task.task.as_str()).ok()?;
        let path = format!(
            "slaves/{agent}/frameworks/{}/executors/{}/runs/latest",
            task.framework, task.task
        );
        let sandbox = self.work_dir.join(path);
        sandbox.is_dir().then(|| ended(sandbox))
    }
}

fn ended(sandbox: PathBuf) -> Located {
    Located {
        sandbox,
        phase: watch::channel(Phase::Ended).1,
    }
}

/// The sandboxes that must not be taken for garbage.
pub(crate) fn live_sandboxes(view: &AgentView) -> Vec<String> {
    let tasks = view
        .tasks
        .iter()
        .filter(|task| !task.state.is_terminal())
        .map(|task| task.sandbox.clone());
    tasks
        .chain(
            view.executors
                .iter()
                .map(|executor| executor.sandbox.clone()),
        )
        .collect()
}
