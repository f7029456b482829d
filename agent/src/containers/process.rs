//! The process of a container: its directory, its start, its end.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, TaskState, container_info};
use tepui_wall::{Identity, IdentityError, ReadOnly};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::terminal::{self, Terminal};
use super::{Container, Launch, Place, Shared, State};
use crate::confine::Directory;
use crate::containment::{Group, Limits, set_apart};
use crate::executors::started;
use crate::files::Phase;
use crate::kind::{Format, first_word};
use crate::prepare::PrepareError;
use crate::remove::remove_all;
use crate::site::Refusal;

/// Below the work directory: the processes of containers, for an agent that has to end what another one left.
const RECORDS: &str = "run-containers";
/// How long the last output of a terminal may take to come out.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a container ended. By default: nothing is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended {
    /// As wait(2) gives it.
    pub(crate) status: Option<i32>,
    pub(crate) state: Option<TaskState>,
    pub(crate) reason: Option<Reason>,
    pub(crate) limitation: Option<v1::TaskResourceLimitation>,
    pub(crate) message: Option<String>,
}

impl Ended {
    pub(super) fn of_task(status: &v1::TaskStatus) -> Self {
        Self {
            // Of a module's other ends the task's status has the words and not the number.
            status: status
                .usage
                .as_ref()
                .and_then(|usage| usage.wait_status)
                .or((status.state() == TaskState::TaskFinished).then_some(0)),
            state: Some(status.state()),
            reason: status.reason.map(|_| status.reason()),
            limitation: status.limitation.clone(),
            message: status.message.clone(),
        }
    }

    pub(super) fn failed(error: &StartError) -> Self {
        Self {
            state: Some(TaskState::TaskFailed),
            reason: Some(Reason::ContainerLaunchFailed),
            message: Some(error.to_string()),
            ..Self::default()
        }
    }
}

/// Where what is written to a container's stdin goes.
#[derive(Debug)]
pub(crate) enum Input {
    Pipe(ChildStdin),
    Terminal(Arc<Terminal>),
}

pub(super) enum Cgroup {
    None,
    /// That of what it is nested in.
    Shared(Group),
    Own {
        group: Group,
        outer: Option<Group>,
        limits: Limits,
    },
}

pub(super) struct Plan {
    pub(super) outer: Place,
    pub(super) cgroup: Cgroup,
    pub(super) launch: Launch,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("The container was destroyed before it was started")]
    Destroyed,
    #[error("The container's directory cannot be made: {0}")]
    Directory(io::Error),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    User(#[from] IdentityError),
    #[error("'{0}' is a wasm module: containers run native commands, modules run as tasks")]
    Wasm(String),
    #[error("The container's cgroup cannot be made: {0}")]
    Group(io::Error),
    #[error("The container's terminal cannot be made: {0}")]
    Terminal(io::Error),
    #[error("'{program}' cannot be started: {cause}")]
    Spawn { program: String, cause: io::Error },
}

/// Whether such a container can be started at all.
pub(super) fn check(launch: &Launch) -> Result<(), Refusal> {
    let command = launch.command.as_ref();
    let value = command
        .and_then(|command| command.value.as_deref())
        .filter(|value| !value.is_empty());
    let Some(value) = value else {
        return Err(Refusal::bad("Expecting 'command.value' to be present"));
    };
    if is_wasm_name(first_word(value).unwrap_or_default()) {
        return Err(Refusal::bad(StartError::Wasm(value.to_owned())));
    }
    let Some(container) = &launch.container else {
        return Ok(());
    };
    let unsupported = match container.r#type() {
        container_info::Type::Docker => Some("'container.type' of DOCKER"),
        container_info::Type::Wasm => Some("'container.type' of WASM"),
        container_info::Type::Mesos => None,
    };
    let given = [
        (
            container
                .mesos
                .as_ref()
                .is_some_and(|mesos| mesos.image.is_some()),
            "'container.mesos.image'",
        ),
        (!container.volumes.is_empty(), "'container.volumes'"),
        (
            !container.network_infos.is_empty(),
            "'container.network_infos'",
        ),
        (container.rlimit_info.is_some(), "'container.rlimit_info'"),
    ];
    let given = given
        .into_iter()
        .find_map(|(given, name)| given.then_some(name));
    match unsupported.or(given) {
        Some(what) => Err(Refusal::bad(format!(
            "Unsupported ContainerInfo: this agent starts no containers with {what}"
        ))),
        None => Ok(()),
    }
}

fn is_wasm_name(program: &str) -> bool {
    Path::new(program)
        .extension()
        .is_some_and(|ending| ending == "wasm" || ending == "wat")
}

/// A container's process.
pub(super) struct Process {
    child: Child,
    pid: u32,
    own_group: Option<Group>,
    memory_limit: u64,
    record: PathBuf,
    terminal: Option<JoinHandle<()>>,
}

/// A directory that is held open, by a name that no tenant can turn elsewhere.
struct Held(OwnedFd);

impl Held {
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

pub(super) async fn start(
    shared: &Shared,
    plan: Plan,
    container: &Container,
) -> Result<Process, StartError> {
    tokio::select! {
        started = start_undisturbed(shared, plan, container) => started,
        () = container.destroy.cancelled() => Err(StartError::Destroyed),
    }
}

async fn start_undisturbed(
    shared: &Shared,
    plan: Plan,
    container: &Container,
) -> Result<Process, StartError> {
    let Plan {
        outer,
        cgroup,
        launch,
    } = plan;
    let command = launch.command.unwrap_or_default();
    let place = container.place.clone();
    let session_place = outer.clone();
    let made = tokio::task::spawn_blocking(move || make(&place, &session_place)).await;
    let (own, above, stdout, stderr) = made
        .map_err(io::Error::other)
        .and_then(|made| made)
        .map_err(StartError::Directory)?;
    shared.preparer.furnish(&own.path(), &command.uris).await?;
    let program = refuse_wasm(&command, &own)?;
    let inherited = shared
        .preparer
        .switch_user
        .then_some(container.user.as_str());
    let user = user(&command, inherited)?;
    if let Some(user) = &user {
        for held in [own.0.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()] {
            give(held, user).map_err(StartError::Directory)?;
        }
    }
    let (joins, own_group, memory_limit) = enter(cgroup)?;
    let tty = launch
        .container
        .as_ref()
        .and_then(|container| container.tty_info.as_ref());
    let terminal = tty
        .map(|tty| terminal::open(tty.window_size.as_ref()))
        .transpose()
        .map_err(StartError::Terminal)?;

    let home = if launch.session { &above } else { &own };
    let mut process = if command.shell() {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command.value());
        shell
    } else {
        let mut plain = Command::new(&program);
        if let Some(name) = command.arguments.first() {
            plain.arg0(name);
        }
        plain.args(command.arguments.iter().skip(1));
        plain
    };
    process
        .current_dir(home.path())
        .env_clear()
        .envs(&container.environment);
    set_apart(&mut process, joins, ReadOnly::default(), user);
    let terminal = match terminal {
        Some((terminal, slave)) => {
            slave.give(&mut process).map_err(StartError::Terminal)?;
            Some((terminal, stdout))
        }
        None => {
            let input = if launch.session {
                Stdio::piped()
            } else {
                Stdio::null()
            };
            process.stdin(input).stdout(stdout).stderr(stderr);
            None
        }
    };
    let spawned = process.spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(cause) => {
            if let Some(group) = own_group {
                group.remove();
            }
            return Err(StartError::Spawn { program, cause });
        }
    };
    let pid = child.id().unwrap_or_default();
    let mut input = child.stdin.take().map(Input::Pipe);
    let mut reading = None;
    if let Some((terminal, output)) = terminal {
        let terminal = Arc::new(terminal);
        input = Some(Input::Terminal(terminal.clone()));
        reading = Some(tokio::spawn(async move {
            if let Err(error) = terminal.copy_to(output).await {
                tracing::warn!(%error, pid, "the output of a container's terminal is cut off");
            }
        }));
    }
    *container.input.lock().await = input;
    let record = keep_record(&shared.work_dir, &super::name(&container.id), pid);
    container.phase.send_replace(Phase::Ready);
    container.state.send_replace(State::Running { pid });
    tracing::info!(
        container = super::name(&container.id),
        pid,
        "a container was started"
    );
    Ok(Process {
        child,
        pid,
        own_group,
        memory_limit,
        record,
        terminal: reading,
    })
}

/// The container's own directory, that of what it is nested in, and its two files.
fn make(place: &Place, outer: &Place) -> io::Result<(Held, Held, File, File)> {
    let root = Directory::open(&place.root)?;
    let own = Held(root.create_directories(&place.inside)?);
    let above = Held(root.create_directories(&outer.inside)?);
    let file = |name: &str| root.create_file(&place.inside.join(name), 0o644);
    // Files are opened to append: who else writes them does not write over what is there.
    let appended = |file: &File| {
        nix::fcntl::fcntl(
            file,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND),
        )
        .map(drop)
        .map_err(io::Error::from)
    };
    let (stdout, stderr) = (file("stdout")?, file("stderr")?);
    appended(&stdout)?;
    appended(&stderr)?;
    Ok((own, above, stdout, stderr))
}

/// Removes the container's directory, whatever the tenant made of the way there.
pub(super) fn remove(place: &Place) -> io::Result<()> {
    let (Some(parent), Some(name)) = (place.inside.parent(), place.inside.file_name()) else {
        return Ok(());
    };
    let parent = Held(Directory::open(&place.root)?.create_directories(parent)?);
    remove_all(&parent.path().join(name))
}

/// The program, unless it is a wasm module under whatever name.
fn refuse_wasm(command: &v1::CommandInfo, own: &Held) -> Result<String, StartError> {
    use std::io::Read;
    let value = command.value();
    let program = if command.shell() {
        first_word(value).unwrap_or_default()
    } else {
        value
    };
    if !program.starts_with('/')
        && let Ok(mut file) =
            Directory::open(&own.path()).and_then(|own| own.open_file(Path::new(program)))
    {
        let mut beginning = [0; crate::kind::MAGIC_BYTES];
        let read = file.read(&mut beginning).unwrap_or(0);
        if Format::of(program, &beginning[..read]).is_wasm() {
            return Err(StartError::Wasm(program.to_owned()));
        }
    }
    Ok(value.to_owned())
}

/// The user the command asks for, else that of what the container is nested in.
fn user(
    command: &v1::CommandInfo,
    inherited: Option<&str>,
) -> Result<Option<Identity>, IdentityError> {
    let asked = command.user.as_deref().filter(|name| !name.is_empty());
    let name = asked.or(inherited);
    let name = name.filter(|_| Uid::effective().is_root());
    name.map(Identity::of).transpose()
}

fn give(file: i32, user: &Identity) -> io::Result<()> {
    let path = format!("/proc/self/fd/{file}");
    nix::unistd::chown(path.as_str(), Some(user.user), Some(user.group)).map_err(io::Error::from)
}

/// The files by which the process joins its cgroup, that group if it is its own, and its memory limit.
fn enter(cgroup: Cgroup) -> Result<(Vec<File>, Option<Group>, u64), StartError> {
    match cgroup {
        Cgroup::None => Ok((Vec::new(), None, 0)),
        Cgroup::Shared(group) => {
            let files = group.join_files().map_err(StartError::Group)?;
            Ok((files, None, 0))
        }
        Cgroup::Own {
            group,
            outer,
            limits,
        } => {
            let made = match &outer {
                Some(outer) => group.create_inside(outer),
                None => group.create(),
            };
            let limited = made.and_then(|()| match group.limit(limits) {
                // Inside another group of version 2 there may be no controllers: then the outer one's limits hold.
                Err(error) if outer.is_none() => Err(error),
                Err(error) => {
                    tracing::debug!(%error, "a nested container has no limits of its own");
                    Ok(())
                }
                Ok(()) => Ok(()),
            });
            match limited.and_then(|()| group.join_files()) {
                Ok(files) => Ok((files, Some(group), limits.memory_bytes)),
                Err(error) => {
                    group.remove();
                    Err(StartError::Group(error))
                }
            }
        }
    }
}

impl Process {
    /// Whether it had to end because what it is nested in did.
    pub(super) async fn until_its_end(
        mut self,
        container: &Container,
        life: &mut BoxFuture<'_, ()>,
    ) -> bool {
        let mut outlived = false;
        let waited = tokio::select! {
            waited = self.child.wait() => Some(waited),
            () = container.destroy.cancelled() => None,
            () = life => {
                outlived = true;
                None
            }
        };
        let waited = match waited {
            Some(waited) => waited,
            None => {
                self.kill().await;
                self.child.wait().await
            }
        };
        let ran_out = self
            .own_group
            .as_ref()
            .is_some_and(Group::ran_out_of_memory);
        // What the main process leaves behind goes with it.
        self.kill().await;
        if let Some(mut reading) = self.terminal.take()
            && tokio::time::timeout(LAST_WORDS, &mut reading)
                .await
                .is_err()
        {
            // What it has left running may go on writing.
            reading.abort();
        }
        let _ = std::fs::remove_file(&self.record);
        // A client that holds it lets go when it sees the end.
        if let Ok(mut input) = container.input.try_lock() {
            *input = None;
        }
        let status = waited.ok().map(ExitStatusExt::into_raw);
        let name = super::name(&container.id);
        tracing::info!(
            container = name,
            pid = self.pid,
            status,
            "a container ended"
        );
        container.end(Ended {
            status,
            reason: ran_out.then_some(Reason::ContainerLimitationMemory),
            state: ran_out.then_some(TaskState::TaskFailed),
            message: ran_out.then(|| {
                let limit = tepui_model::format_bytes(self.memory_limit);
                format!("the container's memory limit of {limit} was reached")
            }),
            ..Ended::default()
        });
        outlived
    }

    /// Ends every process of the container that can be found.
    async fn kill(&self) {
        signal(self.pid, Signal::SIGKILL);
        let Some(group) = self.own_group.clone() else {
            return;
        };
        // Killing waits for the dying, and that blocks.
        let killed = tokio::task::spawn_blocking(move || {
            group.kill();
            group.remove();
        });
        if let Err(error) = killed.await {
            tracing::error!(%error, "a container could not be ended");
        }
    }
}

/// To the process and all it has started in its process group.
pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 1) {
        // Nobody may be left in it, which is as well.
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}

fn keep_record(work_dir: &Path, name: &str, pid: u32) -> PathBuf {
    use sha2::Digest;
    let record = work_dir
        .join(RECORDS)
        .join(hex::encode(sha2::Sha256::digest(name.as_bytes())));
    let text = format!("{pid} {}", started(pid).unwrap_or_default());
    let kept = std::fs::create_dir_all(work_dir.join(RECORDS))
        .and_then(|()| std::fs::write(&record, text));
    if let Err(error) = kept {
        tracing::warn!(%error, "a container will not be known again after a crash");
    }
    record
}

/// Ends what an agent that crashed has left.
pub(super) fn clean_up(work_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(work_dir.join(RECORDS)) else {
        return;
    };
    for entry in entries.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let mut numbers = text.split(' ');
        let mut number = || numbers.next()?.trim().parse::<u64>().ok();
        if let (Some(pid), Some(began)) = (number(), number())
            && let Ok(pid) = u32::try_from(pid)
            && started(pid) == Some(began)
        {
            tracing::info!(pid, "a left-over container is ended");
            signal(pid, Signal::SIGKILL);
        }
        let _ = std::fs::remove_file(entry.path());
    }
}
