//! Executor processes: started with the environment the executor API promises, held in a cgroup, waited for, ended.
//!
//! Executors of checkpointing frameworks outlive the agent. What is needed to know them again is kept in
//! `work_dir/run`, one file each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tepui_agent_core::{ExecutorKind, ExecutorRef, ExecutorView, Input, Limitation, volumes_of};
use tepui_api::ext::launch_plan;
use tepui_api::v1::{self, task_status::Reason};
use tepui_model::{Resources, format_bytes};
use tepui_wall::{Identity, Plan, ReadOnly, open_output};
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::confine::Directory;
use crate::containment::{Group, Layout, Limits, set_apart};
use crate::environment::{DEFAULT_PATH, Executor, Surroundings, agent_of};
use crate::owner::Event;
use crate::persistent;
use crate::prepare::{Preparer, add_variables};
use crate::sandbox;
use crate::tenants::TenantError;
use crate::user::{UserError, give_unless_theirs, own_directory, user_of};

/// What the kernel counts memory in, as resources do: binary megabytes.
pub(crate) const MEGABYTE: f64 = 1_048_576.0;
/// What wait(2) gives for a process that was killed.
const KILLED: i32 = 9;

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) work_dir: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) layout: Layout,
    /// What an executor may use of memory beyond what its tasks were given.
    pub(crate) overhead_bytes: u64,
    /// All memory of the agent: no executor's tasks have more, whatever their limits say.
    pub(crate) memory_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct StartOrder {
    pub(crate) executor: ExecutorRef,
    pub(crate) kind: ExecutorKind,
    pub(crate) info: Arc<v1::ExecutorInfo>,
    pub(crate) framework: Arc<v1::FrameworkInfo>,
    /// Relative to the work directory.
    pub(crate) sandbox: String,
    pub(crate) token: String,
    pub(crate) resources: Resources,
}

#[derive(Debug, Clone)]
pub(crate) struct Executors {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    preparer: Preparer,
    events: mpsc::Sender<Event>,
    running: Mutex<BTreeMap<ExecutorRef, Running>>,
}

#[derive(Debug, Clone)]
struct Running {
    /// Cancelled to destroy it, at whatever stage it is.
    destroy: CancellationToken,
    /// Cancelled when nothing of it is left.
    gone: CancellationToken,
    group: Option<Group>,
    checkpoint: bool,
    /// What its tasks hold, kept for the limits at start and the sentence at the end.
    resources: Resources,
}

/// What is kept of a running executor for the next agent process.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Record {
    framework: String,
    executor: String,
    pid: u32,
    /// In clock ticks since boot: with the pid it names one process for good.
    started: u64,
    agent: String,
    group: Option<String>,
    delegate: bool,
    checkpoint: bool,
}

impl Record {
    /// The pid, if the process it was written of is still there.
    fn living(&self) -> Option<u32> {
        (self.pid != 0 && started(self.pid) == Some(self.started)).then_some(self.pid)
    }
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("the executor's sandbox could not be made: {0}")]
    Sandbox(String),
    #[error(transparent)]
    Prepare(#[from] crate::prepare::PrepareError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Tenant(#[from] TenantError),
    #[error("the executor's volume cannot be shown to it: {0}")]
    Volume(String),
    #[error("the executor has no command")]
    NoCommand,
    #[error("the executor's cgroup could not be made: {0}")]
    Group(String),
    #[error("'{program}' could not be started: {cause}")]
    Spawn { program: String, cause: String },
}

impl Executors {
    pub(crate) fn new(settings: Settings, preparer: Preparer, events: mpsc::Sender<Event>) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                preparer,
                events,
                running: Mutex::default(),
            }),
        }
    }

    /// Starts the process; the owner hears of it, and of its end.
    pub(crate) fn start(&self, order: StartOrder) {
        let agent = agent_of(&order.sandbox).to_owned();
        let running = Running {
            destroy: CancellationToken::new(),
            gone: CancellationToken::new(),
            group: self.shared.group_of(&order.executor, order.kind, &agent),
            checkpoint: order.framework.checkpoint.unwrap_or(false),
            resources: order.resources.clone(),
        };
        self.shared
            .lock()
            .insert(order.executor.clone(), running.clone());
        let shared = self.shared.clone();
        tokio::spawn(async move { shared.run(order, running, agent).await });
    }

    pub(crate) fn resize(&self, executor: &ExecutorRef, resources: Resources) {
        let mut table = self.shared.lock();
        let Some(running) = table.get_mut(executor) else {
            return;
        };
        running.resources = resources;
        let (group, limits) = (
            running.group.clone(),
            self.shared.limits(&running.resources),
        );
        drop(table);
        if let Some(group) = group.filter(|group| group.exists()) {
            // Less than is in use right now cannot be set; the next resize or the tasks' own limits see to it.
            if let Err(error) = group.limit(limits) {
                tracing::debug!(%executor, %error, "the executor's limits were not changed");
            }
        }
    }

    pub(crate) fn destroy(&self, executor: &ExecutorRef) {
        let running = self.shared.lock().get(executor).cloned();
        match running {
            Some(running) => running.destroy.cancel(),
            None => {
                let input = Input::ExecutorExited {
                    executor: executor.clone(),
                    status: -1,
                    limitation: None,
                };
                self.shared.tell(input);
            }
        }
    }

    /// Takes over the executors that `known` has from an earlier agent process. Those that are dead are reported so, and
    /// what is left of others is ended.
    pub(crate) fn adopt(&self, known: &[ExecutorView]) -> io::Result<()> {
        let mut records = self.read_records()?;
        for view in known {
            let executor = view.executor.clone();
            // One of task groups has no process to know again.
            let Some(kind) = view.kind else { continue };
            let agent = agent_of(&view.sandbox);
            let record = records.remove(&executor);
            let pid = record.as_ref().and_then(Record::living);
            let running = Running {
                destroy: CancellationToken::new(),
                gone: CancellationToken::new(),
                group: self.shared.group_of(&executor, kind, agent),
                checkpoint: record.is_none_or(|record| record.checkpoint),
                resources: view.resources.clone(),
            };
            let Some(pid) = pid else {
                tracing::info!(%executor, "an executor ended while the agent was away");
                // It may have been on the point of being started, with nothing but its group known.
                end(running.group.as_ref(), None);
                let _ = std::fs::remove_file(self.shared.record_path(&executor));
                self.shared.tell(Input::ExecutorExited {
                    executor,
                    status: -1,
                    limitation: None,
                });
                continue;
            };
            self.shared.lock().insert(executor.clone(), running.clone());
            let shared = self.shared.clone();
            tokio::spawn(async move { shared.watch_adopted(executor, running, pid).await });
        }
        for (executor, record) in records {
            tracing::info!(%executor, "a left-over executor is cleaned up");
            let name = record.group.as_ref();
            let group = name.and_then(|name| {
                let layout = self.shared.settings.layout;
                Group::new(layout, &record.agent, name, record.delegate)
            });
            end(group.as_ref(), record.living());
            std::fs::remove_file(self.shared.record_path(&executor))?;
        }
        Ok(())
    }

    fn read_records(&self) -> io::Result<BTreeMap<ExecutorRef, Record>> {
        let directory = self.shared.settings.work_dir.join("run");
        std::fs::create_dir_all(&directory)?;
        let mut records = BTreeMap::new();
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            match serde_json::from_slice::<Record>(&std::fs::read(&path)?) {
                Ok(record) => {
                    let executor = ExecutorRef {
                        framework: record.framework.as_str().into(),
                        executor: record.executor.as_str().into(),
                    };
                    records.insert(executor, record);
                }
                Err(_) => std::fs::remove_file(&path)?,
            }
        }
        Ok(records)
    }

    /// The cgroup of an executor that runs.
    pub(crate) fn group(&self, executor: &ExecutorRef) -> Option<Group> {
        self.shared.lock().get(executor)?.group.clone()
    }

    /// What is cancelled when nothing is left of an executor that runs.
    pub(crate) fn gone(&self, executor: &ExecutorRef) -> Option<CancellationToken> {
        Some(self.shared.lock().get(executor)?.gone.clone())
    }

    /// Ends the executors and returns when they are gone; with `keep_checkpointed`, those of checkpointing frameworks
    /// stay for the next agent process.
    pub(crate) async fn stop(&self, keep_checkpointed: bool) {
        let ending: Vec<ExecutorRef> = {
            let table = self.shared.lock();
            table
                .iter()
                .filter(|(_, running)| !(keep_checkpointed && running.checkpoint))
                .map(|(executor, _)| executor.clone())
                .collect()
        };
        for executor in &ending {
            self.destroy(executor);
        }
        while ending
            .iter()
            .any(|executor| self.shared.lock().contains_key(executor))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ExecutorRef, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From where waiting is not possible; the order among different executors does not matter.
    fn tell(&self, input: Input) {
        let events = self.events.clone();
        tokio::spawn(async move { events.send(Event::Core(Box::new(input))).await });
    }

    fn limits(&self, resources: &Resources) -> Limits {
        let tasks = (resources.mem().to_f64() * MEGABYTE) as u64;
        Limits {
            memory_bytes: tasks
                .min(self.settings.memory_bytes)
                .saturating_add(self.settings.overhead_bytes),
            cpus: resources.cpus().to_f64(),
        }
    }

    async fn run(self: Arc<Self>, order: StartOrder, running: Running, agent: String) {
        let executor = order.executor.clone();
        // Before there is a process: an agent that dies with it half started leaves nobody nobody knows of.
        if let Err(error) = self.keep_record(&order, &running, &agent, 0) {
            tracing::warn!(%executor, %error, "the executor will not be known again after a restart");
        }
        let started = tokio::select! {
            () = running.destroy.cancelled() => None,
            started = self.spawn(&order, &running) => Some(started),
        };
        let mut child = match started {
            Some(Ok(child)) => child,
            Some(Err(error)) => {
                self.clean_up(&executor, running.group.clone(), None).await;
                tracing::warn!(%executor, %error, "the executor was not started");
                self.send(Input::ExecutorStartFailed {
                    executor,
                    message: error.to_string(),
                })
                .await;
                return;
            }
            None => {
                self.clean_up(&executor, running.group.clone(), None).await;
                self.send(Input::ExecutorExited {
                    executor,
                    status: KILLED,
                    limitation: None,
                })
                .await;
                return;
            }
        };
        let pid = child.id().unwrap_or_default();
        tracing::info!(%executor, pid, "the executor was started");
        if let Err(error) = self.keep_record(&order, &running, &agent, pid) {
            tracing::warn!(%executor, %error, "the executor will not be known again after a restart");
        }
        self.send(Input::ExecutorStarted {
            executor: executor.clone(),
            pid,
        })
        .await;
        let status = tokio::select! {
            status = child.wait() => status,
            () = running.destroy.cancelled() => {
                self.end(running.group.clone(), Some(pid)).await;
                child.wait().await
            }
        };
        let status = status.map_or(-1, ExitStatusExt::into_raw);
        let limitation = self.memory_limitation(&executor, &running);
        self.clean_up(&executor, running.group.clone(), Some(pid))
            .await;
        tracing::info!(%executor, pid, status, "the executor ended");
        self.send(Input::ExecutorExited {
            executor,
            status,
            limitation,
        })
        .await;
    }

    async fn watch_adopted(self: Arc<Self>, executor: ExecutorRef, running: Running, pid: u32) {
        let gone = async {
            match open_process(pid).and_then(watched) {
                Ok(process) => drop(process.readable().await),
                Err(error) => tracing::debug!(%executor, %error, "the process is gone already"),
            }
        };
        tokio::select! {
            () = gone => {}
            () = running.destroy.cancelled() => {}
        }
        let limitation = self.memory_limitation(&executor, &running);
        self.clean_up(&executor, running.group.clone(), Some(pid))
            .await;
        self.send(Input::ExecutorExited {
            executor,
            status: -1,
            limitation,
        })
        .await;
    }

    async fn send(&self, input: Input) {
        // The owner is gone only when the agent stops; nobody is left to be told.
        let _ = self.events.send(Event::Core(Box::new(input))).await;
    }

    fn memory_limitation(&self, executor: &ExecutorRef, running: &Running) -> Option<Limitation> {
        let group = running.group.as_ref()?;
        let resources = self
            .lock()
            .get(executor)
            .map(|running| running.resources.clone())?;
        let limit = self.limits(&resources).memory_bytes;
        group.ran_out_of_memory().then(|| Limitation {
            reason: Reason::ContainerLimitationMemory,
            message: format!(
                "the executor's memory limit of {} was reached",
                format_bytes(limit)
            ),
            resources: vec![megabytes("mem", limit)],
        })
    }

    /// None without cgroups.
    fn group_of(&self, executor: &ExecutorRef, kind: ExecutorKind, agent: &str) -> Option<Group> {
        let (name, delegate) = match kind {
            ExecutorKind::Wasm => (format!("{}-wasm", executor.framework), false),
            ExecutorKind::Native => (format!("{}-native", executor.framework), true),
            ExecutorKind::Custom => (
                format!("{}-{}", executor.framework, executor.executor),
                false,
            ),
        };
        Group::new(self.settings.layout, agent, &name, delegate)
    }

    async fn end(&self, group: Option<Group>, pid: Option<u32>) {
        // Killing waits for the dying, and that blocks.
        if let Err(error) = tokio::task::spawn_blocking(move || end(group.as_ref(), pid)).await {
            tracing::error!(%error, "an executor could not be ended");
        }
    }

    /// Nothing of an executor outlives it: neither its tasks nor its group.
    async fn clean_up(&self, executor: &ExecutorRef, group: Option<Group>, pid: Option<u32>) {
        self.end(group, pid).await;
        let _ = std::fs::remove_file(self.record_path(executor));
        if let Some(running) = self.lock().remove(executor) {
            running.gone.cancel();
        }
    }

    async fn spawn(
        &self,
        order: &StartOrder,
        running: &Running,
    ) -> Result<tokio::process::Child, StartError> {
        let (work_dir, name) = (self.settings.work_dir.clone(), order.sandbox.clone());
        let made = tokio::task::spawn_blocking(move || sandbox::create(&work_dir, &name)).await;
        let path = made
            .map_err(|error| StartError::Sandbox(error.to_string()))?
            .map_err(|error| StartError::Sandbox(error.to_string()))?;
        let mut arguments = self.command_line(order)?;
        if order.kind == ExecutorKind::Custom
            && let Some(command) = &order.info.command
        {
            let furnished = self.preparer.furnish(&path, &command.uris).await;
            if let Err(error) = &furnished {
                sandbox::complain(&path, &error.to_string());
            }
            furnished?;
        }
        let identity = self.identity(order)?;
        if let Some(identity) = &identity {
            own_directory(identity, &path).await?;
        }
        let wall = self.wall(order)?;
        if let Some(user) = wall.as_ref().and_then(|plan| plan.user) {
            let own = path.clone();
            let given = tokio::task::spawn_blocking(move || give_unless_theirs(&own, user)).await;
            given
                .map_err(io::Error::other)
                .and_then(|given| given)
                .map_err(|error| UserError::Give(error.to_string()))?;
        }
        let joins = match &running.group {
            Some(group) => {
                let limits = self.limits(&order.resources);
                let made = group
                    .create()
                    .and_then(|()| group.limit(limits))
                    .and_then(|()| group.join_files());
                made.map_err(|error| StartError::Group(error.to_string()))?
            }
            None => Vec::new(),
        };
        let program = arguments.remove(0);
        let failed = |error: io::Error| StartError::Spawn {
            program: program.clone(),
            cause: error.to_string(),
        };
        let output = |name: &str| open_output(&path.join(name)).map(Stdio::from);
        let mut command = Command::new(&program);
        command
            .args(&arguments)
            .current_dir(&path)
            .env_clear()
            .envs(self.environment(order, running, &path, identity.is_some())?)
            .envs(wall.map(|plan| (tepui_wall::VARIABLE, plan.to_text())))
            .stdin(Stdio::null())
            .stdout(output("stdout").map_err(failed)?)
            .stderr(output("stderr").map_err(failed)?);
        set_apart(&mut command, joins, self.read_only(order, &path)?, identity);
        command.spawn().map_err(failed)
    }

    /// The volumes that a framework's own executor has read-only, with the places for them in its sandbox.
    fn read_only(&self, order: &StartOrder, sandbox: &Path) -> Result<ReadOnly, StartError> {
        let mut shown = ReadOnly::default();
        if order.kind != ExecutorKind::Custom {
            return Ok(shown);
        }
        let volumes = volumes_of(&order.info.resources);
        for volume in volumes.iter().filter(|volume| volume.read_only) {
            if !nix::unistd::geteuid().is_root() {
                let path = &volume.container_path;
                let why =
                    format!("{path} is to be read-only, which takes an agent that runs as root");
                return Err(StartError::Volume(why));
            }
            let failed = |error: io::Error| StartError::Volume(error.to_string());
            let place = persistent::relative(&volume.container_path, launch_plan::Body::Native);
            let place = place.map_err(|error| StartError::Volume(error.to_string()))?;
            let source = self.settings.work_dir.join(&volume.directory.path);
            std::fs::create_dir_all(&source).map_err(failed)?;
            let made =
                Directory::open(sandbox).and_then(|within| within.create_directories(&place));
            made.map_err(failed)?;
            shown.add(&source, sandbox, &place).map_err(failed)?;
        }
        Ok(shown)
    }

    /// What the executor shuts itself in with: ours for wasm, which starts as the agent's user and lays that down.
    fn wall(&self, order: &StartOrder) -> Result<Option<Plan>, TenantError> {
        match &self.settings.surroundings.wall {
            Some(wall) if order.kind == ExecutorKind::Wasm => {
                wall.plan(&order.framework, &order.sandbox).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// As whom a framework's own executor runs. The built-in ones have to be root to start tasks as others.
    fn identity(&self, order: &StartOrder) -> Result<Option<Identity>, UserError> {
        if order.kind.is_built_in() || !self.preparer.switch_user {
            return Ok(None);
        }
        let user = user_of(order.info.command.as_ref(), &order.framework);
        Ok(user.map(Identity::of).transpose()?)
    }

    fn command_line(&self, order: &StartOrder) -> Result<Vec<String>, StartError> {
        let built_in = |name: &str| {
            vec![
                self.settings.program.to_string_lossy().into_owned(),
                name.to_owned(),
            ]
        };
        match order.kind {
            ExecutorKind::Wasm => Ok(built_in("executor-wasm")),
            ExecutorKind::Native => Ok(built_in("executor-native")),
            ExecutorKind::Custom => {
                let command = order.info.command.as_ref().ok_or(StartError::NoCommand)?;
                let value = command
                    .value
                    .clone()
                    .filter(|value| !value.is_empty())
                    .ok_or(StartError::NoCommand)?;
                if command.shell.unwrap_or(true) {
                    return Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), value]);
                }
                Ok(std::iter::once(value)
                    .chain(command.arguments.iter().skip(1).cloned())
                    .collect())
            }
        }
    }

    fn environment(
        &self,
        order: &StartOrder,
        running: &Running,
        path: &Path,
        switched: bool,
    ) -> Result<BTreeMap<String, String>, StartError> {
        let mut environment = self.settings.surroundings.of(&Executor {
            framework: order.executor.framework.as_str(),
            executor: order.executor.executor.as_str(),
            sandbox: &order.sandbox,
            directory: path,
            checkpoint: running.checkpoint,
            info: Some(&order.info),
        });
        if switched {
            // It is the agent's user's alone; others go by way of the endpoint.
            environment.remove("MESOS_DOMAIN_SOCKET");
        }
        if order.kind == ExecutorKind::Custom {
            add_variables(&mut environment, order.info.command.as_ref())?;
        } else {
            if order.kind == ExecutorKind::Wasm {
                let socket = self.settings.surroundings.executor_socket.to_string_lossy();
                environment.insert("MESOS_DOMAIN_SOCKET".to_owned(), socket.into_owned());
            }
            // What only our own understand.
            let work_dir = self.settings.work_dir.to_string_lossy().into_owned();
            environment.insert("TEPUI_WORK_DIR".to_owned(), work_dir);
            if let Some(group) = &running.group {
                environment.insert("TEPUI_CGROUP".to_owned(), group.path().to_owned());
            }
        }
        environment
            .entry("PATH".to_owned())
            .or_insert_with(|| DEFAULT_PATH.to_owned());
        // Last, so that no command can replace it.
        environment.insert(
            "MESOS_EXECUTOR_AUTHENTICATION_TOKEN".to_owned(),
            order.token.clone(),
        );
        Ok(environment)
    }

    fn record_path(&self, executor: &ExecutorRef) -> PathBuf {
        use sha2::Digest;
        let name = format!("{}\0{}", executor.framework, executor.executor);
        self.settings
            .work_dir
            .join("run")
            .join(hex::encode(sha2::Sha256::digest(name.as_bytes())))
    }

    fn keep_record(
        &self,
        order: &StartOrder,
        running: &Running,
        agent: &str,
        pid: u32,
    ) -> io::Result<()> {
        let group = running.group.as_ref();
        let record = Record {
            framework: order.executor.framework.to_string(),
            executor: order.executor.executor.to_string(),
            pid,
            started: started(pid).unwrap_or_default(),
            agent: agent.to_owned(),
            group: group.map(|group| group.name().to_owned()),
            delegate: group.is_some_and(Group::delegates),
            checkpoint: running.checkpoint,
        };
        let path = self.record_path(&order.executor);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let unfinished = path.with_extension("unfinished");
        File::create(&unfinished)?.write_all(&serde_json::to_vec(&record)?)?;
        std::fs::rename(unfinished, path)
    }
}

/// Kills all there is of an executor, by its group or, without one, by its session's process group.
fn end(group: Option<&Group>, pid: Option<u32>) {
    if let Some(group) = group {
        group.kill();
        group.remove();
    }
    let leader = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .filter(|pid| *pid > 1);
    if let Some(leader) = leader {
        // Nobody may be left in it, which is as well.
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

/// A scalar of so many bytes, as resources count them.
pub(crate) fn megabytes(name: &str, bytes: u64) -> v1::Resource {
    v1::Resource {
        name: name.to_owned(),
        r#type: v1::value::Type::Scalar.into(),
        scalar: Some(v1::value::Scalar {
            value: bytes as f64 / MEGABYTE,
        }),
        ..Default::default()
    }
}

/// When a process began, in clock ticks since boot; None if it is gone, or dead and only waiting to be reaped.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows the last one is plain.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn watched(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is the same open descriptor until it is dropped, and the registration owns it.
    unsafe { AsyncFd::register(process) }.map_err(io::Error::from)
}

/// A descriptor that becomes readable when the process ends.
fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just handed the descriptor to us, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{CompileLimits, Compiler};
    use crate::persistent::Volumes;
    use crate::store::Store;

    struct Bench {
        directory: tempfile::TempDir,
        executors: Executors,
        inbox: mpsc::Receiver<Event>,
    }

    fn bench(layout: Layout) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let (executors, inbox) = executors(directory.path(), layout);
        Bench {
            directory,
            executors,
            inbox,
        }
    }

    fn executors(work_dir: &Path, layout: Layout) -> (Executors, mpsc::Receiver<Event>) {
        let store = |name: &str| Store::open(work_dir.join(name), 1 << 20).unwrap();
        let limits = CompileLimits {
            workers: 1,
            time: Duration::from_secs(9),
            memory_bytes: 1 << 30,
            module_bytes: 1 << 20,
            quick_above_bytes: 1 << 20,
            shut_in: false,
        };
        let surroundings = Arc::new(Surroundings {
            variables: BTreeMap::from([("EVERYBODY".to_owned(), "has it".to_owned())]),
            ..crate::testing::surroundings(work_dir)
        });
        let preparer = Preparer {
            work_dir: work_dir.to_path_buf(),
            switch_user: false,
            fetcher: crate::testing::fetcher(store("fetch")),
            compiler: Compiler::new("/bin/false".into(), store("compiled"), limits),
            surroundings: surroundings.clone(),
            volumes: Volumes::start(work_dir.to_path_buf(), mpsc::channel(1).0).unwrap(),
            datasets: crate::datasets::Datasets::default(),
        };
        let settings = Settings {
            work_dir: work_dir.to_path_buf(),
            program: "/bin/false".into(),
            surroundings: surroundings.clone(),
            layout,
            overhead_bytes: 64 << 20,
            memory_bytes: 1 << 30,
        };
        let (events, inbox) = mpsc::channel(100);
        (Executors::new(settings, preparer, events), inbox)
    }

    fn order(agent: &str, command: &str, checkpoint: bool) -> StartOrder {
        let command = v1::CommandInfo {
            value: Some(command.to_owned()),
            ..Default::default()
        };
        StartOrder {
            executor: reference(),
            kind: ExecutorKind::Custom,
            info: Arc::new(v1::ExecutorInfo {
                command: Some(command),
                ..Default::default()
            }),
            framework: Arc::new(v1::FrameworkInfo {
                checkpoint: Some(checkpoint),
                ..Default::default()
            }),
            sandbox: format!("slaves/{agent}/frameworks/f/executors/e/runs/c"),
            token: "secret".to_owned(),
            resources: Resources::new(),
        }
    }

    fn reference() -> ExecutorRef {
        ExecutorRef {
            framework: "f".into(),
            executor: "e".into(),
        }
    }

    /// As the core knows it from its records.
    fn view() -> ExecutorView {
        let order = order("s", "", true);
        ExecutorView {
            executor: reference(),
            kind: Some(order.kind),
            info: order.info,
            sandbox: order.sandbox,
            container_id: "c".into(),
            pid: None,
            connected: false,
            resources: Resources::new(),
            live_tasks: 0,
        }
    }

    async fn next(inbox: &mut mpsc::Receiver<Event>) -> Input {
        match inbox.recv().await {
            Some(Event::Core(input)) => *input,
            other => panic!("{other:?}"),
        }
    }

    impl Bench {
        async fn started(&mut self) -> u32 {
            match next(&mut self.inbox).await {
                Input::ExecutorStarted { pid, .. } => pid,
                other => panic!("{other:?}"),
            }
        }

        async fn exited(&mut self) -> (i32, Option<Limitation>) {
            match next(&mut self.inbox).await {
                Input::ExecutorExited {
                    status, limitation, ..
                } => (status, limitation),
                other => panic!("{other:?}"),
            }
        }

        fn stdout(&self, agent: &str) -> String {
            let path = format!("slaves/{agent}/frameworks/f/executors/e/runs/c/stdout");
            std::fs::read_to_string(self.directory.path().join(path)).unwrap()
        }
    }

    #[tokio::test]
    async fn an_executor_gets_the_promised_environment_and_nothing_else() {
        let mut bench = bench(Layout::None);
        bench
            .executors
            .start(order("s1", "env | sort; exit 3", false));
        bench.started().await;
        assert_eq!(bench.exited().await, (3 << 8, None));
        let output = bench.stdout("s1");
        for line in [
            "MESOS_FRAMEWORK_ID=f",
            "MESOS_EXECUTOR_ID=e",
            "MESOS_SLAVE_ID=s1",
            "MESOS_AGENT_ENDPOINT=127.0.0.1:5051",
            "MESOS_CHECKPOINT=0",
            "EVERYBODY=has it",
            "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD=5secs",
            "LIBPROCESS_PORT=0",
            "MESOS_SLAVE_PID=slave(1)@127.0.0.1:5051",
            "MESOS_EXECUTOR_AUTHENTICATION_TOKEN=secret",
        ] {
            assert!(
                output.lines().any(|one| one == line),
                "{line} is not in\n{output}"
            );
        }
        // Without checkpointing there is nothing to wait for, and what only our own executors know is not for others.
        for absent in ["CARGO", "MESOS_RECOVERY_TIMEOUT", "TEPUI_"] {
            assert!(!output.contains(absent), "{absent} is in\n{output}");
        }
    }

    #[tokio::test]
    async fn no_executor_may_use_more_memory_than_the_agent_has() {
        let bench = bench(Layout::None);
        let limit = |mem: &str| {
            let role = tepui_model::Role::parse("*").unwrap();
            let resources = tepui_model::parse_resources(mem, &role).unwrap();
            bench.executors.shared.limits(&resources).memory_bytes
        };
        assert_eq!(limit("mem:32"), (32 + 64) << 20);
        // As a limit of Infinity comes out.
        assert_eq!(limit("mem:1000000000"), (1024 + 64) << 20);
    }

    #[tokio::test]
    async fn destroying_takes_the_executors_children_too() {
        for layout in [Layout::None, Layout::detect()] {
            let mut bench = bench(layout);
            let agent = format!("test-destroy-{}", std::process::id());
            bench
                .executors
                .start(order(&agent, "sleep 600 & echo $!; wait", false));
            bench.started().await;
            let child = loop {
                match bench.stdout(&agent).trim().parse::<u32>() {
                    Ok(child) => break child,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            assert!(started(child).is_some());
            bench.executors.destroy(&reference());
            assert_eq!(bench.exited().await.0, KILLED);
            while started(child).is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bench.executors.destroy(&reference());
            assert_eq!(
                bench.exited().await.0,
                -1,
                "an executor that is gone is reported as gone"
            );
        }
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_started_is_reported_with_its_name() {
        let mut bench = bench(Layout::None);
        let mut order = order("s", "/nowhere/tool", false);
        let command = v1::CommandInfo {
            shell: Some(false),
            value: Some("/nowhere/tool".into()),
            ..Default::default()
        };
        order.info = Arc::new(v1::ExecutorInfo {
            command: Some(command),
            ..Default::default()
        });
        bench.executors.start(order);
        match next(&mut bench.inbox).await {
            Input::ExecutorStartFailed { message, .. } => {
                assert!(message.contains("/nowhere/tool"), "{message}")
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_executor_is_taken_over_by_the_next_agent_process() {
        let mut first = bench(Layout::None);
        first.executors.start(order("s", "sleep 600", true));
        let pid = first.started().await;
        first.executors.stop(true).await;
        assert!(
            started(pid).is_some(),
            "a checkpointing framework's executor outlives its agent"
        );
        let (second, mut inbox) = executors(first.directory.path(), Layout::None);
        second.adopt(&[view()]).unwrap();
        second.destroy(&reference());
        assert!(matches!(
            next(&mut inbox).await,
            Input::ExecutorExited { status: -1, .. }
        ));
        assert_eq!(first.exited().await.0, KILLED);
    }

    #[tokio::test]
    async fn an_executor_that_died_meanwhile_is_reported_dead_at_once() {
        let mut first = bench(Layout::None);
        first.executors.start(order("s", "exec sleep 600", true));
        let pid = first.started().await;
        // As if the agent had been killed: nobody is left to take the record away.
        let record = first.executors.shared.record_path(&reference());
        let kept = std::fs::read(&record).unwrap();
        end(None, Some(pid));
        assert_eq!(first.exited().await.0, KILLED);
        std::fs::write(&record, kept).unwrap();
        let (second, mut inbox) = executors(first.directory.path(), Layout::None);
        second.adopt(&[view()]).unwrap();
        let dead = next(&mut inbox).await;
        assert!(
            matches!(dead, Input::ExecutorExited { status: -1, .. }),
            "{dead:?}"
        );
        assert!(!record.exists());
    }

    #[tokio::test]
    async fn a_left_over_executor_that_nobody_knows_is_ended() {
        let mut first = bench(Layout::None);
        first.executors.start(order("s", "sleep 600", true));
        first.started().await;
        let (second, _inbox) = executors(first.directory.path(), Layout::None);
        second.adopt(&[]).unwrap();
        assert_eq!(first.exited().await.0, KILLED);
    }

    #[tokio::test]
    async fn stopping_ends_what_is_not_checkpointed() {
        let mut bench = bench(Layout::None);
        bench.executors.start(order("s", "sleep 600", false));
        let pid = bench.started().await;
        bench.executors.stop(true).await;
        assert_eq!(started(pid), None);
    }
}
