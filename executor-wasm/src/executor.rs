//! The process: hears the agent on one thread, runs the tasks on others.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tepui_api::body_told;
use tepui_api::envelope::Envelope;
use tepui_api::guest::{Answer, Request};
use tepui_api::v1::framework_info::capability;
use tepui_api::v1::{KillPolicy, TaskInfo, TaskState, TaskStatus};
use tepui_sdk_executor::{Checks, Condition, Config, Event, Handle, News, Questions, connect};
use tepui_wall::Plan;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::commands::{Commands, Runner};
use crate::governor::{Outcome, Progress, Runtime, Settings, TaskHandle};
use crate::guest::{Cluster, Report};
use crate::spec::TaskSpec;
use crate::verdict::{Ending, Usage, bare, verdict};
use crate::{report, runner};

/// Runs as the wasm executor of one framework until the agent ends it or is gone. Reads the environment.
pub fn run() -> anyhow::Result<()> {
    // Each task holds a directory open.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let config = Config::from_env()?;
    let plan = Plan::from_env()?;
    // While the host can still be looked at.
    let settings = Settings::default();
    let commands = runner::start(plan.as_ref())?;
    match &plan {
        Some(plan) => {
            let standing = plan.enter()?;
            tracing::info!(wall = %standing, "the executor is shut in");
        }
        // Nothing here ever needs more rights than it has.
        None => nix::sys::prctl::set_no_new_privs()?,
    }
    let runtime = Runtime::new(&settings)?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    control.block_on(async { serve(config, &runtime, Runner::new(commands)?).await })?;
    Ok(())
}

async fn serve(config: Config, runtime: &Runtime, commands: Arc<Runner>) -> std::io::Result<()> {
    let grace = config.shutdown_grace;
    let framework_id = config.framework_id.clone();
    let questions = Questions::new(&config);
    let (handle, mut events) = connect(config);
    let shared = Arc::new(Shared {
        alive: Mutex::default(),
        empty: Notify::new(),
        handle: handle.clone(),
        tells_killing: AtomicBool::new(false),
        heard: watch::Sender::new(true),
        control: tokio::runtime::Handle::current(),
        commands,
    });
    let tasks = Tasks {
        cluster: Arc::new(ByAgent {
            shared: Arc::clone(&shared),
            questions,
        }),
        shared,
        framework_id,
    };
    let reporting = tokio::spawn(report::serve({
        let shared = Arc::clone(&tasks.shared);
        move || {
            let alive = shared.lock();
            report::lines(alive.iter().map(|(id, live)| (id.as_str(), &live.task)))
        }
    }));
    let mut agent_is_there = false;
    while let Some(event) = events.next().await {
        match event {
            Event::Subscribed(subscribed) => {
                let tells = subscribed
                    .framework
                    .has_capability(capability::Type::TaskKillingState);
                tasks.shared.tells_killing.store(tells, Ordering::Relaxed);
                tasks.shared.heard.send_replace(true);
            }
            Event::Launch(task) => tasks.launch(runtime, &task),
            Event::LaunchGroup(group) => {
                for task in &group {
                    tasks.launch(runtime, task);
                }
            }
            Event::Kill {
                task_id,
                kill_policy,
                // Signals are for processes.
                signal: _,
            } => tasks.kill(&task_id, grace_of(kill_policy.as_ref())),
            Event::Shutdown => {
                agent_is_there = true;
                break;
            }
            Event::Disconnected => {
                tasks.shared.heard.send_replace(false);
            }
            Event::Message(message) => tasks.deliver(&message),
            Event::Error(_) => {}
        }
    }
    tasks.end_all(grace).await;
    reporting.abort();
    if agent_is_there {
        // The agent waits for the last statuses for the grace period; `events` must live for them to be sent.
        handle.drained(grace).await;
    }
    drop(events);
    Ok(())
}

/// A task that has not ended.
struct Live {
    task: TaskHandle,
    /// What its checks found last.
    condition: Condition,
    probing: Option<AbortHandle>,
    /// Its end was asked for; what its checks find is of no interest any more.
    killed: bool,
    /// What it has to finish in when it is killed.
    grace: Duration,
}

/// The grace of a task that names none. Only services can make use of one: a module has no signals to be warned by.
const GRACE: Duration = Duration::from_secs(3);

/// The grace a kill policy names.
fn grace_of(policy: Option<&KillPolicy>) -> Option<Duration> {
    let grace = policy?.grace_period.as_ref()?;
    Some(Duration::from_nanos(
        u64::try_from(grace.nanoseconds).unwrap_or(0),
    ))
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(probing) = &self.probing {
            probing.abort();
        }
    }
}

struct Shared {
    /// Statuses are sent under the lock, so that no task's last one is overtaken.
    alive: Mutex<HashMap<String, Live>>,
    empty: Notify,
    handle: Handle,
    /// Whether the framework knows TASK_KILLING.
    tells_killing: AtomicBool,
    /// Whether the agent is there to hear of checks.
    heard: watch::Sender<bool>,
    /// Where checks are made; never among the guests.
    control: tokio::runtime::Handle,
    /// Who runs their commands.
    commands: Arc<Runner>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Live>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, condition: &Condition, mut status: TaskStatus) {
        condition.add_to(&mut status);
        self.handle.update(status);
    }

    /// What a guest has to report has waited long enough.
    fn on_report(&self, task_id: &str) {
        let mut alive = self.lock();
        let Some(live) = alive.get_mut(task_id).filter(|live| !live.killed) else {
            return;
        };
        let report = live.task.take_report();
        if report.is_news() {
            self.tell_report(task_id, &mut live.condition, report);
        }
    }

    fn tell_report(&self, task_id: &str, condition: &mut Condition, report: Report) {
        let mut status = match report.health {
            Some((healthy, message)) => {
                let mut status = condition.take(&News::Health {
                    healthy,
                    kill: false,
                    message,
                });
                status.task_id.value = task_id.to_owned();
                status
            }
            None => bare(task_id, TaskState::TaskRunning),
        };
        if let Some(progress) = report.progress {
            status.usage.get_or_insert_default().progress = Some(progress);
        }
        self.tell(condition, status);
    }

    fn kill(&self, task_id: &str, live: &mut Live, grace: Option<Duration>) {
        live.task.kill(grace.unwrap_or(live.grace));
        if !std::mem::replace(&mut live.killed, true) && self.tells_killing.load(Ordering::Relaxed)
        {
            self.tell(&live.condition, bare(task_id, TaskState::TaskKilling));
        }
        if let Some(probing) = live.probing.take() {
            probing.abort();
        }
    }

    /// The task runs: from now on it is looked after.
    fn on_started(self: &Arc<Self>, task: &TaskInfo) {
        let task_id = &task.task_id.value;
        let mut alive = self.lock();
        let Some(live) = alive.get_mut(task_id) else {
            return;
        };
        let mut running = bare(task_id, TaskState::TaskRunning);
        running.message = body_told(task);
        if live.task.is_service() {
            let address = task.plan.as_ref().and_then(|plan| plan.listen.first());
            running.message = address.map(|address| format!("listening on {address}"));
        }
        self.tell(&live.condition, running);
        let Some(checks) = Checks::of(task).filter(|_| !live.killed) else {
            return;
        };
        let (sender, mut news) = mpsc::unbounded_channel();
        let probing = checks.run(
            Commands::of(task, &self.commands),
            self.heard.subscribe(),
            sender,
        );
        let (shared, id) = (Arc::clone(self), task_id.clone());
        let telling = async move {
            while let Some(news) = news.recv().await {
                shared.on_news(&id, &news);
            }
        };
        let both = async { tokio::join!(probing, telling) };
        live.probing = Some(self.control.spawn(both).abort_handle());
    }

    fn on_news(&self, task_id: &str, news: &News) {
        let mut alive = self.lock();
        let Some(live) = alive.get_mut(task_id).filter(|live| !live.killed) else {
            return;
        };
        let mut status = live.condition.take(news);
        status.task_id.value = task_id.to_owned();
        self.handle.update(status);
        if let News::Health { kill: true, .. } = news {
            self.kill(task_id, live, None);
        }
    }

    fn on_ended(&self, task_id: &str, outcome: &Outcome) {
        let mut alive = self.lock();
        let mut last = verdict(task_id, outcome);
        let mut condition = Condition::default();
        if let Some(live) = alive.remove(task_id) {
            condition.clone_from(&live.condition);
            let report = live.task.take_report();
            last.usage.get_or_insert_default().progress = report.progress.clone();
            // The last status has no room for what it said of its health.
            if report.health.is_some() && !live.killed {
                self.tell_report(task_id, &mut condition, report);
            }
        }
        self.tell(&condition, last);
        if alive.is_empty() {
            self.empty.notify_waiters();
        }
    }
}

/// The agent as guests' way to the cluster.
struct ByAgent {
    shared: Arc<Shared>,
    questions: Questions,
}

impl Cluster for ByAgent {
    fn send(&self, message: Bytes, held: Arc<dyn Any + Send + Sync>) {
        self.shared.handle.message_held(message, held);
    }

    fn ask(&self, task_id: &str, request: Request) -> BoxFuture<'static, Answer> {
        let (questions, task_id) = (self.questions.clone(), task_id.to_owned());
        // The connection is not driven by a thread of guests; whoever stops waiting has the question dropped.
        let asking = async move { questions.ask(&task_id, request).await };
        let asking = AbortOnDropHandle::new(self.shared.control.spawn(asking));
        Box::pin(async move { asking.await.unwrap_or_default() })
    }

    fn report(&self, task_id: &str, after: Duration) {
        let (shared, task_id) = (Arc::clone(&self.shared), task_id.to_owned());
        self.shared.control.spawn(async move {
            tokio::time::sleep(after).await;
            shared.on_report(&task_id);
        });
    }
}

/// The tasks that have not ended.
struct Tasks {
    shared: Arc<Shared>,
    cluster: Arc<ByAgent>,
    framework_id: String,
}

impl Tasks {
    fn launch(&self, runtime: &Runtime, task: &TaskInfo) {
        let task_id = task.task_id.value.clone();
        let mut alive = self.shared.lock();
        if alive.contains_key(&task_id) {
            tracing::warn!(task_id, "a task that runs already was launched again");
            return;
        }
        let condition = Condition::of(task);
        self.shared
            .tell(&condition, bare(&task_id, TaskState::TaskStarting));
        let spec = match TaskSpec::from_task(task) {
            Ok(mut spec) => {
                let identity = Arc::make_mut(&mut spec.identity);
                identity.framework_id.clone_from(&self.framework_id);
                spec
            }
            Err(error) => {
                let outcome = Outcome {
                    ending: Ending::NotLaunched {
                        message: error.to_string(),
                    },
                    refused: None,
                    place: String::new(),
                    usage: Usage::default(),
                };
                self.shared.tell(&condition, verdict(&task_id, &outcome));
                return;
            }
        };
        let report = {
            let shared = Arc::clone(&self.shared);
            let task = task.clone();
            move |progress| match progress {
                Progress::Started => shared.on_started(&task),
                Progress::Ended(outcome) => shared.on_ended(&task.task_id.value, &outcome),
            }
        };
        // Its reports wait for the lock, so it is in the map before it can leave it.
        let live = Live {
            task: runtime.spawn_in(spec, Arc::clone(&self.cluster) as Arc<dyn Cluster>, report),
            condition,
            probing: None,
            killed: false,
            grace: grace_of(task.kill_policy.as_ref()).unwrap_or(GRACE),
        };
        alive.insert(task_id, live);
    }

    fn kill(&self, task_id: &str, grace: Option<Duration>) {
        match self.shared.lock().get_mut(task_id) {
            Some(live) => self.shared.kill(task_id, live, grace),
            // Its last status is under way already.
            None => tracing::debug!(task_id, "a task that is not here is to be killed"),
        }
    }

    /// Bytes from the scheduler; the envelope says for which task.
    fn deliver(&self, message: &[u8]) {
        let size = message.len();
        match Envelope::decode(message) {
            Ok(envelope) => match self.shared.lock().get(&envelope.task_id) {
                Some(live) => live.task.deliver(envelope.data),
                None => {
                    tracing::warn!(task_id = %envelope.task_id.escape_debug(), size, "a message for a task that is not here is dropped");
                }
            },
            Err(error) => tracing::warn!(%error, size, "a message for no task is dropped"),
        }
    }

    async fn end_all(&self, patience: Duration) {
        let emptied = self.shared.empty.notified();
        {
            let mut alive = self.shared.lock();
            if alive.is_empty() {
                return;
            }
            for live in alive.values_mut() {
                live.killed = true;
                // Of the patience some is left for telling the ends.
                live.task.kill(live.grace.min(patience * 4 / 5));
            }
        }
        if tokio::time::timeout(patience, emptied).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use bytes::Bytes;
    use tepui_api::ext::{LaunchPlan, launch_plan};
    use tepui_api::guest;
    use tepui_api::v1::executor::{self, call, event};
    use tepui_api::v1::{FrameworkInfo, TaskId, framework_info};
    use tepui_api::{proto, recordio};
    use tepui_sdk_executor::Address;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// As little of an agent as an executor can live with: it takes calls one by one.
    struct Agent {
        events: mpsc::UnboundedSender<executor::Event>,
        statuses: mpsc::UnboundedReceiver<TaskStatus>,
        messages: mpsc::UnboundedReceiver<Bytes>,
    }

    /// Where what an executor says goes.
    #[derive(Clone)]
    struct Ears {
        statuses: mpsc::UnboundedSender<TaskStatus>,
        messages: mpsc::UnboundedSender<Bytes>,
    }

    impl Agent {
        fn start(socket: &Path) -> Self {
            let listener = UnixListener::bind(socket).expect("the socket is free");
            let (events, outgoing) = mpsc::unbounded_channel();
            let (to_statuses, statuses) = mpsc::unbounded_channel();
            let (to_messages, messages) = mpsc::unbounded_channel();
            let ears = Ears {
                statuses: to_statuses,
                messages: to_messages,
            };
            let mut outgoing = Some(outgoing);
            tokio::spawn(async move {
                // The first connection is the subscription's.
                while let Ok((stream, _)) = listener.accept().await {
                    match outgoing.take() {
                        Some(outgoing) => drop(tokio::spawn(subscription(stream, outgoing))),
                        None => drop(tokio::spawn(calls(stream, ears.clone()))),
                    }
                }
            });
            Self {
                events,
                statuses,
                messages,
            }
        }

        fn send(&self, event: executor::Event) {
            self.events.send(event).expect("somebody is subscribed");
        }

        /// The next status, acknowledged.
        async fn whole_status(&mut self) -> TaskStatus {
            let status = tokio::time::timeout(PATIENCE, self.statuses.recv())
                .await
                .expect("a status comes in time")
                .expect("the executor lives");
            if status.state().is_terminal() {
                assert!(status.usage.is_some());
            }
            self.send(executor::Event {
                r#type: Some(event::Type::Acknowledged as i32),
                acknowledged: Some(event::Acknowledged {
                    task_id: status.task_id.clone(),
                    uuid: status.uuid.clone().expect("every update has one"),
                }),
                ..executor::Event::default()
            });
            status
        }

        async fn status(&mut self) -> (String, TaskState) {
            let status = self.whole_status().await;
            (status.task_id.value.clone(), status.state())
        }

        async fn message(&mut self) -> Envelope {
            let message = tokio::time::timeout(PATIENCE, self.messages.recv())
                .await
                .expect("a message comes in time")
                .expect("the executor lives");
            Envelope::decode(&message).expect("it is an envelope")
        }

        fn say(&self, bytes: &[u8]) {
            self.send(executor::Event {
                r#type: Some(event::Type::Message as i32),
                message: Some(event::Message {
                    data: Bytes::copy_from_slice(bytes),
                }),
                ..executor::Event::default()
            });
        }

        async fn expect(&mut self, task_id: &str, states: &[TaskState]) {
            for state in states {
                assert_eq!(self.status().await, (task_id.to_owned(), *state));
            }
        }
    }

    async fn request(stream: &mut UnixStream) -> Option<(String, Bytes)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head)
            .expect("a head is text")
            .to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        Some((head, body.into()))
    }

    async fn subscription(
        mut stream: UnixStream,
        mut events: mpsc::UnboundedReceiver<executor::Event>,
    ) {
        request(&mut stream).await.expect("a request");
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("written");
        while let Some(event) = events.recv().await {
            let record = recordio::encode(&proto::to_vec(&event));
            let size = format!("{:x}\r\n", record.len());
            let chunk = [size.as_bytes(), &record, b"\r\n"].concat();
            if stream.write_all(&chunk).await.is_err() {
                return;
            }
        }
    }

    async fn calls(mut stream: UnixStream, ears: Ears) {
        while let Some((head, body)) = request(&mut stream).await {
            let mut content = Vec::new();
            let answer = if head.starts_with("post /api/v1/guest ") {
                let call: guest::Call = proto::from_bytes(body).expect("a guest's call");
                content = proto::to_vec(&answer(&call));
                "200 OK"
            } else if head.contains("application/recordio") {
                "415 Unsupported Media Type"
            } else {
                let call: executor::Call = proto::from_bytes(body).expect("a call");
                match call.r#type() {
                    call::Type::Message => {
                        let message = call.message.expect("it has its content");
                        drop(ears.messages.send(message.data));
                    }
                    kind => {
                        assert_eq!(kind, call::Type::Update);
                        let update = call.update.expect("it has its content");
                        drop(ears.statuses.send(update.status));
                    }
                }
                "202 Accepted"
            };
            let length = content.len();
            let head = format!("HTTP/1.1 {answer}\r\ncontent-length: {length}\r\n\r\n");
            let answer = [head.as_bytes(), &content].concat();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    /// A store in which every key has its own name for a value, and into which nothing fits.
    fn answer(call: &guest::Call) -> Answer {
        use guest::{answer, request};
        assert_eq!(
            (
                call.framework_id.value.as_str(),
                call.executor_id.value.as_str()
            ),
            ("f", "e")
        );
        let body = match call.request.body.clone() {
            Some(request::Body::Get(get)) => answer::Body::Value(guest::Value {
                entry: Some(guest::Entry {
                    value: format!("{} of {}", get.key, call.task_id.value).into(),
                    version: 1,
                }),
            }),
            _ => answer::Body::Failure(guest::Failure {
                code: guest::failure::Code::Full as i32,
                message: "it is full".to_owned(),
                version: None,
            }),
        };
        Answer { body: Some(body) }
    }

    fn subscribed() -> executor::Event {
        let killing = framework_info::Capability {
            r#type: Some(capability::Type::TaskKillingState as i32),
        };
        executor::Event {
            r#type: Some(event::Type::Subscribed as i32),
            subscribed: Some(event::Subscribed {
                framework_info: FrameworkInfo {
                    capabilities: vec![killing],
                    ..FrameworkInfo::default()
                },
                ..event::Subscribed::default()
            }),
            ..executor::Event::default()
        }
    }

    fn launch(task_id: &str, guest: &str, directory: &Path) -> executor::Event {
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{guest}.wat"));
        let compiled: PathBuf = directory.join(guest);
        crate::compile(&source, &compiled, false).expect("it compiles");
        executor::Event {
            r#type: Some(event::Type::Launch as i32),
            launch: Some(event::Launch {
                task: TaskInfo {
                    task_id: TaskId {
                        value: task_id.to_owned(),
                    },
                    plan: Some(LaunchPlan {
                        body: launch_plan::Body::Wasm as i32,
                        sandbox: directory.to_string_lossy().into_owned(),
                        compiled_path: Some(compiled.to_string_lossy().into_owned()),
                        ..LaunchPlan::default()
                    }),
                    ..TaskInfo::default()
                },
            }),
            ..executor::Event::default()
        }
    }

    fn kill(task_id: &str) -> executor::Event {
        executor::Event {
            r#type: Some(event::Type::Kill as i32),
            kill: Some(event::Kill {
                task_id: TaskId {
                    value: task_id.to_owned(),
                },
                signal: None,
                kill_policy: None,
            }),
            ..executor::Event::default()
        }
    }

    /// An agent, and an executor that serves it to its end.
    fn beginning(directory: &Path) -> (Agent, tokio::task::JoinHandle<()>) {
        let socket = directory.join("agent.sock");
        let agent = Agent::start(&socket);
        let runtime = Runtime::new(&Settings {
            threads: 1,
            pool_slots: 8,
            ..Settings::default()
        })
        .expect("threads");
        let served = tokio::spawn(async move {
            let (runner, _nobody) = std::os::unix::net::UnixStream::pair().expect("a pair");
            let runner = Runner::new(runner).expect("a runner");
            let config = Config::new("f", "e", Address::Unix(socket));
            serve(config, &runtime, runner).await.expect("no error");
        });
        agent.send(subscribed());
        (agent, served)
    }

    #[tokio::test]
    async fn what_guests_ask_goes_to_the_agent_and_comes_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut agent, _served) = beginning(directory.path());
        agent.send(launch("asker", "asker", directory.path()));
        let states = [TaskState::TaskStarting, TaskState::TaskRunning];
        agent.expect("asker", &states).await;
        agent.say(b"no envelope");
        agent.say(br#"{"task_id":"another","text":"x"}"#);
        agent.say(br#"{"task_id":"asker","text":"key"}"#);
        let message = agent.message().await;
        assert_eq!(message.task_id, "asker");
        assert_eq!(&message.data[..], b"key of asker");
        // The first word of its progress is told at once; of those that came after, the last.
        let first = agent.whole_status().await;
        let usage = first.usage.as_ref().expect("it says how far it is");
        assert!(usage.progress.is_some() && first.state() == TaskState::TaskRunning);
        agent.say(br#"{"task_id":"asker","text":"end"}"#);
        let mut told = 0;
        let last = loop {
            let status = agent.whole_status().await;
            if status.state().is_terminal() {
                break status;
            }
            told += 1;
        };
        assert!(told <= 2, "{told} between a few moments");
        assert_eq!(last.state(), TaskState::TaskFinished, "{}", last.message());
        let usage = last.usage.as_ref().expect("every last status has it");
        let progress = usage.progress.as_ref().expect("it was told");
        assert_eq!(progress.fraction, Some(0.75));
    }

    #[tokio::test]
    async fn tasks_live_and_die_as_the_agent_says() {
        use TaskState::{TaskFailed, TaskKilled, TaskKilling, TaskRunning, TaskStarting};

        let directory = tempfile::tempdir().expect("a directory");
        let (mut agent, served) = beginning(directory.path());

        agent.send(launch("spinner", "spin", directory.path()));
        agent.expect("spinner", &[TaskStarting, TaskRunning]).await;
        agent.send(launch("exiting", "exit_3", directory.path()));
        agent
            .expect("exiting", &[TaskStarting, TaskRunning, TaskFailed])
            .await;
        agent.send(kill("nobody"));
        agent.send(kill("spinner"));
        agent.expect("spinner", &[TaskKilling, TaskKilled]).await;

        let mut unplanned = launch("unplanned", "spin", directory.path());
        if let Some(launch) = &mut unplanned.launch {
            launch.task.plan = None;
        }
        agent.send(unplanned);
        agent.expect("unplanned", &[TaskStarting, TaskFailed]).await;

        agent.send(launch("sleeper", "sleep", directory.path()));
        agent.expect("sleeper", &[TaskStarting, TaskRunning]).await;
        agent.send(executor::Event {
            r#type: Some(event::Type::Shutdown as i32),
            ..executor::Event::default()
        });
        agent.expect("sleeper", &[TaskKilled]).await;
        tokio::time::timeout(PATIENCE, served)
            .await
            .expect("it ends")
            .expect("it does not panic");
    }
}
