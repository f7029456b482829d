//! Starting a task's process, and hearing of its end without polling.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tepui_api::ext::launch_plan::Mount;
use tepui_api::v1::RLimitInfo;
use tepui_wall::{Identity, IdentityError, ReadOnly, open_output};
use tokio::signal::unix::Signal as Signals;
use tokio::sync::oneshot;

use crate::rlimits::{ResourceLimit, ResourceLimitError};

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the task has no command")]
    NoCommand,
    #[error(transparent)]
    User(#[from] IdentityError),
    #[error("cannot open {}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the volume at {path} is to be read-only, which takes an agent that runs as root")]
    ReadOnly { path: String },
    #[error(transparent)]
    Limit(#[from] ResourceLimitError),
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: io::Error },
}

/// What to start.
pub(crate) struct Start<'a> {
    /// Looked for in the task's own PATH unless it has a slash; relative to the sandbox.
    pub(crate) program: &'a str,
    /// Name first.
    pub(crate) arguments: &'a [String],
    pub(crate) environment: Vec<(&'a str, &'a str)>,
    pub(crate) sandbox: &'a Path,
    /// Directories that the sandbox shows.
    pub(crate) mounts: &'a [Mount],
    /// What its container asks for of its processes.
    pub(crate) rlimits: Option<&'a RLimitInfo>,
    /// Whom to become.
    pub(crate) user: Option<&'a str>,
    /// The files to write `0` to, see [`Group::doors`](crate::group::Group::doors).
    pub(crate) doors: Vec<CString>,
}

/// Starts the process: in its cgroup from its first instruction on, leader of a session of its own.
pub(crate) fn start(
    reaper: &Reaper,
    start: Start<'_>,
) -> Result<(Pid, oneshot::Receiver<Exit>), StartError> {
    let name = start
        .arguments
        .first()
        .map_or(start.program, String::as_str);
    if start.program.is_empty() {
        return Err(StartError::NoCommand);
    }
    let identity = match start.user {
        Some(user) if nix::unistd::geteuid().is_root() => Some(Identity::of(user)?),
        Some(user) => {
            tracing::debug!(user, "not root: the task runs as whoever the agent is");
            None
        }
        None => None,
    };
    let output = |file: &str| {
        let path = start.sandbox.join(file);
        let opened = open_output(&path).and_then(|file| {
            give_output(&file, identity.as_ref())?;
            Ok(file)
        });
        opened.map_err(|source| StartError::File { path, source })
    };
    let (stdout, stderr): (File, File) = (output("stdout")?, output("stderr")?);
    give(start.sandbox, identity.as_ref()).map_err(|source| StartError::File {
        path: start.sandbox.to_owned(),
        source,
    })?;

    let rlimits = ResourceLimit::all_of(start.rlimits)?;
    rlimits.iter().try_for_each(ResourceLimit::check)?;
    let read_only = give_volumes(&start, identity.as_ref())?;

    let mut command = Command::new(start.program);
    command
        .arg0(name)
        .args(start.arguments.iter().skip(1))
        .env_clear()
        .envs(start.environment)
        .current_dir(start.sandbox)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    let doors = start.doors;
    let become_task = move || {
        for door in &doors {
            enter(door)?;
        }
        read_only.show()?;
        lead_session()?;
        // While it may still be allowed more than its user.
        for limit in &rlimits {
            limit.assume()?;
        }
        if let Some(identity) = &identity {
            identity.assume()?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls may be made, for other threads may have held locks at the
    // fork. The closure makes system calls alone: no allocation, no lock; its errors are bare numbers.
    unsafe { command.pre_exec(become_task) };
    reaper
        .spawn(&mut command)
        .map_err(|source| StartError::Run {
            program: start.program.to_owned(),
            source,
        })
}

/// Makes volumes the task's to write to. Returns those that it must not, with where it wants them.
fn give_volumes(start: &Start<'_>, identity: Option<&Identity>) -> Result<ReadOnly, StartError> {
    let mut read_only = ReadOnly::default();
    for mount in start.mounts {
        let host_path = Path::new(&mount.host_path);
        let failed = |source| StartError::File {
            path: host_path.to_owned(),
            source,
        };
        if !mount.read_only() {
            // A shared volume stays whose it was: others may be at it.
            let new = || fs::metadata(host_path).is_ok_and(|found| found.uid() == 0);
            if !mount.shared() || new() {
                give(host_path, identity).map_err(failed)?;
            }
            continue;
        }
        if !nix::unistd::geteuid().is_root() {
            let path = mount.container_path.clone();
            return Err(StartError::ReadOnly { path });
        }
        let inside = Path::new(&mount.container_path);
        read_only
            .add(host_path, start.sandbox, inside)
            .map_err(failed)?;
    }
    Ok(read_only)
}

/// Gives a directory away. A link that a tenant put in its place is given itself, and not what it points at.
fn give(path: &Path, identity: Option<&Identity>) -> io::Result<()> {
    let Some(identity) = identity else {
        return Ok(());
    };
    let (user, group) = (Some(identity.user), Some(identity.group));
    nix::unistd::fchownat(AT_FDCWD, path, user, group, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Gives an output file away, unless it is known by other names as well: those may be of a file of the host's.
fn give_output(file: &File, identity: Option<&Identity>) -> io::Result<()> {
    let Some(identity) = identity else {
        return Ok(());
    };
    let found = file.metadata()?;
    if found.uid() == identity.user.as_raw() {
        return Ok(());
    }
    if found.nlink() != 1 {
        return Err(io::Error::other("it has other names"));
    }
    nix::unistd::fchown(file, Some(identity.user), Some(identity.group))?;
    Ok(())
}

/// Moves the calling process into a cgroup. Async-signal-safe.
fn enter(door: &CStr) -> io::Result<()> {
    // SAFETY: the path is a C string, and the descriptor is closed by whom it was opened.
    let written = unsafe {
        let file = libc::open(door.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        let written = libc::write(file, b"0".as_ptr().cast(), 1);
        let error = Errno::last_raw();
        libc::close(file);
        if written == 1 { Ok(()) } else { Err(error) }
    };
    written.map_err(io::Error::from_raw_os_error)
}

/// Async-signal-safe.
fn lead_session() -> io::Result<()> {
    nix::unistd::setsid().map(drop).map_err(io::Error::from)
}

/// How a task's main process ended and what the kernel counted for it and the children it has waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// As wait(2) has it.
    pub(crate) status: i32,
    pub(crate) cpu_time_ns: u64,
    pub(crate) memory_peak_bytes: u64,
}

/// Starts processes and reaps them, and the orphans that come to us with them.
///
/// Nothing else in the process may wait for children. Starting and reaping exclude each other, so that no child is reaped
/// before it is known to whom its end matters, nor one whose exec failed (std waits for that itself).
#[derive(Default)]
pub(crate) struct Reaper {
    awaited: Mutex<HashMap<Pid, oneshot::Sender<Exit>>>,
}

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, oneshot::Sender<Exit>>> {
        // Nothing that holds the lock can leave the map half changed.
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, command: &mut Command) -> io::Result<(Pid, oneshot::Receiver<Exit>)> {
        let (sender, receiver) = oneshot::channel();
        let mut awaited = self.lock();
        let child = command.spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        awaited.insert(pid, sender);
        Ok((pid, receiver))
    }

    /// Kills the process group of a process that was not reaped yet; of any other nobody knows whose it is.
    pub(crate) fn kill(&self, leader: Pid) {
        if self.lock().contains_key(&leader) {
            // It may have ended this moment.
            killpg(leader, Signal::SIGKILL).ok();
        }
    }

    /// Reaps whenever SIGCHLD says that there is something to reap.
    pub(crate) async fn run(self: Arc<Self>, mut children: Signals) {
        while children.recv().await.is_some() {
            while self.reap_one() {}
        }
    }

    /// Reaps one child that has ended, if there is one.
    fn reap_one(&self) -> bool {
        let mut awaited = self.lock();
        // Left a zombie at first: until it is reaped, its number, also that of its process group, means nobody else.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let ended = match waitid(Id::All, flags) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => pid,
            Ok(_) | Err(Errno::ECHILD) => return false,
            Err(Errno::EINTR) => return true,
            Err(error) => {
                tracing::error!(%error, "cannot wait for children");
                return false;
            }
        };
        let sender = awaited.remove(&ended);
        if sender.is_some() {
            // What the task leaves behind in its process group goes with it. Mostly there is nobody.
            killpg(ended, Signal::SIGKILL).ok();
        }
        let exit = reap(ended);
        if let (Some(sender), Some(exit)) = (sender, exit) {
            // The task's supervision may have broken; then nobody asks.
            sender.send(exit).ok();
        }
        true
    }
}

fn reap(pid: Pid) -> Option<Exit> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zeroes are fine.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right types.
    let reaped = unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) };
    if reaped != pid.as_raw() {
        tracing::error!(%pid, error = %Errno::last(), "a child that has ended cannot be reaped");
        return None;
    }
    let nanoseconds = |time: libc::timeval| {
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_usec.unsigned_abs() * 1_000
    };
    Some(Exit {
        status,
        cpu_time_ns: nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime),
        // In KiB on Linux.
        memory_peak_bytes: usage.ru_maxrss.unsigned_abs() * 1024,
    })
}

/// Whether there is such a directory; said first, because exec would say it of the program.
pub(crate) fn check_sandbox(sandbox: &Path) -> Result<(), StartError> {
    let found = fs::metadata(sandbox).and_then(|found| {
        if found.is_dir() {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::NotADirectory))
        }
    });
    found.map_err(|source| StartError::File {
        path: sandbox.to_owned(),
        source,
    })
}
