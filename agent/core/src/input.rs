//! What can happen to an agent. Every variant is past tense; the shell hands them over one at a time.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tepui_api::v1::executor;
use tepui_api::{ext, link, v1};
use tepui_model::{AgentId, ExecutorId, FrameworkId, TaskId};

use crate::volume::VolumeDirectory;

/// A task, named as nobody else's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRef {
    pub framework: FrameworkId,
    pub task: TaskId,
}

impl fmt::Display for TaskRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of framework {}", self.task, self.framework)
    }
}

/// An executor, named as nobody else's on this agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutorRef {
    pub framework: FrameworkId,
    pub executor: ExecutorId,
}

impl fmt::Display for ExecutorRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} of framework {}",
            self.executor, self.framework
        )
    }
}

/// One executor's SUBSCRIBE stream. Minted by the shell, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey(pub u64);

/// One HTTP request of an executor, to be answered once. Minted by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey(pub u64);

/// One write below `work_dir/meta`. Minted by the core, handed back when the write is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaveKey(pub u64);

/// Why a task could not be made ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareFailure {
    pub reason: v1::task_status::Reason,
    pub message: String,
}

/// A limit that was reached, and what of.
#[derive(Debug, Clone, PartialEq)]
pub struct Limitation {
    pub reason: v1::task_status::Reason,
    pub message: String,
    pub resources: Vec<v1::Resource>,
}

/// What an earlier agent process left below `work_dir/meta`.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    pub agent_id: Option<AgentId>,
    /// As `Effect::SaveAgent` gave it.
    pub agent: Option<Bytes>,
    /// Every record saved and not removed, by its path relative to `work_dir/meta`.
    pub saved: Vec<(String, Bytes)>,
}

#[allow(
    clippy::large_enum_variant,
    reason = "one input exists at a time; boxing would cost more than it saves"
)]
#[derive(Debug, Clone)]
pub enum Input {
    /// The time of `next_deadline` has come. Harmless at any other time.
    Tick,
    /// A link to the master stands; nothing was sent on it yet.
    LinkUp,
    LinkDown,
    /// Anything but the requests for files, which the shell answers itself.
    FromMaster(link::ToAgent),
    /// The answer to `Effect::Prepare`. None may come after `Effect::CancelPrepare` for that task.
    Prepared {
        task: TaskRef,
        result: Result<ext::LaunchPlan, PrepareFailure>,
    },
    ExecutorStarted {
        executor: ExecutorRef,
        pid: u32,
    },
    ExecutorStartFailed {
        executor: ExecutorRef,
        message: String,
    },
    ExecutorExited {
        executor: ExecutorRef,
        /// As wait(2) gives it; -1 if unknown.
        status: i32,
        /// Why it ended, if the shell knows better than the status: its cgroup ran out of memory, say.
        limitation: Option<Limitation>,
    },
    /// The task was found to go beyond what it was given. Said again, it changes nothing.
    TaskLimited {
        task: TaskRef,
        limitation: Limitation,
    },
    /// The same of an executor the framework brought, with all its tasks.
    ExecutorLimited {
        executor: ExecutorRef,
        limitation: Limitation,
    },
    /// An operator sends this signal to the container of a task or of a group's executor.
    Signal {
        container: String,
        signal: i32,
    },
    /// A SUBSCRIBE call. If it is answered with 200, `connection` is its stream from then on.
    ExecutorSubscribe {
        request: RequestKey,
        connection: ConnectionKey,
        call: executor::Call,
        token: Option<String>,
    },
    /// Any other call of an executor.
    ExecutorCall {
        request: RequestKey,
        call: executor::Call,
        token: Option<String>,
    },
    ExecutorDisconnected {
        connection: ConnectionKey,
    },
    /// The answer to `Effect::RemoveVolume`.
    VolumeRemoved {
        directory: VolumeDirectory,
    },
    /// The disk holds more, or something of another size, or less than before. Of what is gone only kind and name count.
    Held {
        held: Vec<ext::Holding>,
        gone: Vec<ext::Holding>,
    },
    /// The write is on disk, and so is every one handed out before it.
    Saved {
        key: SaveKey,
    },
    /// The process was asked to end.
    Stop {
        /// Tasks of frameworks that checkpoint are left to the next agent process.
        keep_checkpointed: bool,
        /// What the others may have at most to end by themselves.
        grace: Duration,
    },
    /// They had it.
    StopOver,
}
