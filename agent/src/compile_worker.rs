//! The compiler's process: of low priority, with hard limits of time and memory, shut in with what it reads and writes.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tepui_wall::Plan;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::compile::CompileError;

/// What is kept of what a child says; the rest of a flood is read and dropped.
const MAX_SAID_BYTES: usize = 16 << 10;
/// The priority of the child: it gets what nobody else wants.
const NICE: libc::c_int = 19;

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) program: PathBuf,
    pub(crate) time: Duration,
    /// Of writable memory (`RLIMIT_DATA`): address space alone would not do, engines reserve far more than they use.
    pub(crate) memory_bytes: u64,
    /// Whether a wall can be had on this machine.
    pub(crate) shut_in: bool,
}

#[derive(Debug, serde::Deserialize)]
struct Refusal {
    error: String,
    message: String,
}

impl Worker {
    /// Runs the compiler to its end, behind `plan` if there is one; what it printed.
    pub(crate) async fn run(
        &self,
        words: Vec<OsString>,
        plan: Option<Plan>,
    ) -> Result<Vec<u8>, CompileError> {
        let mut command = self.command();
        command.args(words);
        if let Some(plan) = plan.filter(|_| self.shut_in) {
            command.env(tepui_wall::VARIABLE, plan.to_text());
        }
        let child = self.child(command).await?;
        if child.status.success() {
            Ok(child.output)
        } else {
            Err(self.failure(&child))
        }
    }

    fn command(&self) -> Command {
        let memory = self.memory_bytes;
        let mut command = std::process::Command::new(&self.program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // SAFETY: between fork and exec only setpriority, setrlimit and prctl are called: plain system calls that
        // neither allocate nor take locks.
        unsafe {
            command.pre_exec(move || {
                limit(libc::RLIMIT_DATA, memory)?;
                limit(libc::RLIMIT_CORE, 0)?;
                libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
                Ok(())
            });
        }
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        command
    }

    async fn child(&self, mut command: Command) -> Result<Child, CompileError> {
        let not_run = |error: std::io::Error| {
            CompileError::NotRun(format!("{}: {error}", self.program.display()))
        };
        let mut child = command.spawn().map_err(not_run)?;
        // However this ends: who gives up waiting drops it.
        let mut group = Group(child.id());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let whole = async {
            let (output, said, status) =
                tokio::join!(read_some(stdout), read_some(stderr), child.wait());
            status.map(|status| Child {
                status,
                output,
                said,
            })
        };
        match tokio::time::timeout(self.time, whole).await {
            Ok(child) => {
                // It is gone, and its number may be somebody else's soon.
                group.0 = None;
                child.map_err(not_run)
            }
            Err(_) => Err(CompileError::TimedOut { limit: self.time }),
        }
    }

    fn failure(&self, child: &Child) -> CompileError {
        if let Some(signal) = child.status.signal() {
            return CompileError::Killed {
                signal,
                memory: self.memory_bytes,
            };
        }
        let refusal = child
            .output
            .split(|byte| *byte == b'\n')
            .rev()
            .find(|line| !line.is_empty());
        if let Some(Ok(refusal)) = refusal.map(serde_json::from_slice::<Refusal>) {
            return CompileError::Refused {
                kind: refusal.error,
                message: refusal.message,
            };
        }
        let said = String::from_utf8_lossy(&child.said).trim().to_owned();
        CompileError::Failed {
            status: child.status.code().unwrap_or(-1),
            said,
        }
    }
}

#[derive(Debug)]
struct Child {
    status: ExitStatus,
    output: Vec<u8>,
    said: Vec<u8>,
}

async fn read_some(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return kept;
    };
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = MAX_SAID_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}

/// The processes of a child, which are ended with this.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        kill_group(self.0);
    }
}

fn kill_group(leader: Option<u32>) {
    let Some(leader) = leader.and_then(|leader| i32::try_from(leader).ok()) else {
        return;
    };
    // It may have ended in this very moment; then there is nothing to kill.
    let _ = nix::sys::signal::killpg(
        nix::unistd::Pid::from_raw(leader),
        nix::sys::signal::Signal::SIGKILL,
    );
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> std::io::Result<()> {
    let limits = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: the pointer is to a live value of the type the call wants.
    if unsafe { libc::setrlimit(resource, &raw const limits) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
