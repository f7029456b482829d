//! What an agent does about it. Data only; the shell performs effects in the order in which they are given.

use std::sync::Arc;

use bytes::Bytes;
use tepui_api::v1::executor;
use tepui_api::{link, v1};
use tepui_model::{AgentId, ContainerId, Resources};

use crate::input::{ConnectionKey, ExecutorRef, RequestKey, SaveKey, TaskRef};
use crate::volume::{Volume, VolumeDirectory};

/// What sort of process an executor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExecutorKind {
    /// The resident engine for a framework's wasm tasks.
    Wasm,
    /// The resident parent of a framework's native tasks.
    Native,
    /// What the framework brought along: its `ExecutorInfo` has the command.
    Custom,
}

impl ExecutorKind {
    /// Whether the agent made the executor up: frameworks do not know of it.
    pub fn is_built_in(self) -> bool {
        self != Self::Custom
    }
}

/// What becomes of a record on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// It is this and nothing else, or, if the agent stops meanwhile, what it was.
    Replace(Bytes),
    /// This comes behind what it holds. If the agent stops meanwhile, a part of it may be there.
    Append(Bytes),
    Remove,
}

/// The executor of a task group, as its tasks see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parent {
    pub executor: Arc<v1::ExecutorInfo>,
    /// Relative to `work_dir`.
    pub sandbox: String,
}

#[allow(
    clippy::large_enum_variant,
    reason = "effects are performed at once; boxing would cost more than it saves"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    ToMaster(link::ToMaster),
    /// Give the link up and dial again. `Input::LinkDown` follows.
    CloseLink,
    /// Keep what the agent is registered as, for the agent that is started next.
    SaveAgent {
        id: AgentId,
        record: Bytes,
    },
    /// The next agent in this directory is a new one.
    ForgetAgentId,
    /// Change a record. Saves take effect in the order given; each is answered by `Input::Saved`.
    Save {
        key: SaveKey,
        /// Relative to `work_dir/meta`.
        path: String,
        write: Write,
    },
    /// Make the directory of a persistent volume, unless it is there. Such effects happen in the order given.
    MakeVolume {
        directory: VolumeDirectory,
    },
    /// Remove the directory of a persistent volume with all that is in it. `Input::VolumeRemoved` answers.
    RemoveVolume {
        directory: VolumeDirectory,
    },
    /// Show the volumes in the sandbox of a framework's own executor, before it hears of the task that uses them.
    LinkVolumes {
        /// Relative to `work_dir`.
        sandbox: String,
        volumes: Vec<Volume>,
    },
    /// Make the sandbox, fetch, find out which body the task has, compile. `Input::Prepared` answers.
    Prepare {
        task: TaskRef,
        info: Arc<v1::TaskInfo>,
        framework: Arc<v1::FrameworkInfo>,
        container_id: ContainerId,
        /// Relative to `work_dir`.
        sandbox: String,
        /// Of a task of a group that the framework leaves to the agent.
        parent: Option<Parent>,
    },
    /// Give the preparation up; `Input::Prepared` must not come any more.
    CancelPrepare {
        task: TaskRef,
    },
    /// Start the process. `Input::ExecutorStarted` or `Input::ExecutorStartFailed` answers.
    StartExecutor {
        executor: ExecutorRef,
        kind: ExecutorKind,
        info: Arc<v1::ExecutorInfo>,
        framework: Arc<v1::FrameworkInfo>,
        /// Relative to `work_dir`.
        sandbox: String,
        container_id: ContainerId,
        /// What the executor shows in each call.
        token: String,
        resources: Resources,
    },
    /// The executor's tasks now hold this much together, or may rise to it.
    ResizeExecutor {
        executor: ExecutorRef,
        resources: Resources,
    },
    /// Kill the whole cgroup. `Input::ExecutorExited` follows, also if nothing was left to kill.
    DestroyExecutor {
        executor: ExecutorRef,
    },
    ToExecutor {
        connection: ConnectionKey,
        event: executor::Event,
    },
    CloseExecutor {
        connection: ConnectionKey,
    },
    /// Status 200 opens the stream of a SUBSCRIBE, 202 is any other success.
    AnswerExecutor {
        request: RequestKey,
        status: u16,
        message: String,
    },
    /// The task has its last state: who follows its files gets no more, what it held in the cache is free.
    TaskEnded {
        task: TaskRef,
    },
    /// Nobody uses the sandbox any more: it may be removed when it is old enough, or when room is short.
    DiscardSandbox {
        /// Relative to `work_dir`.
        sandbox: String,
    },
    /// Nothing is left to do for this agent, for ever.
    Exit {
        message: String,
    },
    /// The agent was only started to end what an earlier one left, and that is done.
    CleanedUp,
}
