//! One executor as the agent holds it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tepui_api::v1;
use tepui_api::v1::task_status::{Reason, Source};
use tepui_model::{ContainerId, ExecutorId, Resources, TaskId};

use crate::effect::ExecutorKind;
use crate::input::{ConnectionKey, ExecutorRef, Limitation, SaveKey};
use crate::task::Task;
use crate::view::ExecutorView;

/// The executor of a framework's wasm tasks.
pub const WASM_EXECUTOR_ID: &str = "tepui-wasm";
/// The executor of a framework's native tasks.
pub const NATIVE_EXECUTOR_ID: &str = "tepui-native";

/// What becomes of the tasks an executor leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cause {
    /// As a partition-aware framework is told it.
    pub(crate) state: v1::TaskState,
    pub(crate) reason: Reason,
    pub(crate) message: String,
    /// What there was too much of.
    pub(crate) resources: Vec<v1::Resource>,
}

impl Cause {
    pub(crate) fn new(state: v1::TaskState, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            state,
            reason,
            message: message.into(),
            resources: Vec::new(),
        }
    }

    pub(crate) fn terminated(message: impl Into<String>) -> Self {
        Self::new(
            v1::TaskState::TaskFailed,
            Reason::ExecutorTerminated,
            message,
        )
    }

    pub(crate) fn limited(limitation: Limitation) -> Self {
        Self {
            resources: limitation.resources,
            ..Self::new(
                v1::TaskState::TaskFailed,
                limitation.reason,
                limitation.message,
            )
        }
    }

    /// Makes the status say this, whatever it said before. The state is left to whoever knows the framework.
    pub(crate) fn explain(&self, status: &mut v1::TaskStatus) {
        status.source = Some(Source::Agent.into());
        status.reason = Some(self.reason.into());
        status.message = Some(self.message.clone());
        if !self.resources.is_empty() {
            let resources = self.resources.clone();
            status.limitation = Some(v1::TaskResourceLimitation { resources });
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stage {
    Created,
    /// Its record is on the way to the disk; only then is the process started.
    Saving {
        key: SaveKey,
    },
    /// The process comes up, or is up but has not subscribed yet.
    Starting,
    /// It outlived an earlier agent process, which this one knows from its records, and should come back.
    Reconnecting,
    Running {
        connection: ConnectionKey,
    },
    /// Its stream broke; it should come back.
    Disconnected,
    /// It was told to end. `idle`: only because it had nothing to do.
    Terminating {
        connection: Option<ConnectionKey>,
        idle: bool,
    },
    /// Its processes are being killed. `idle` as above.
    Destroyed {
        cause: Option<Cause>,
        idle: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) kind: ExecutorKind,
    pub(crate) info: Arc<v1::ExecutorInfo>,
    pub(crate) container_id: ContainerId,
    pub(crate) sandbox: String,
    pub(crate) token: String,
    pub(crate) pid: Option<u32>,
    /// Its own and those of its live tasks.
    pub(crate) resources: Resources,
    /// The same with the limits of tasks that may rise above what they were given.
    pub(crate) bounds: Resources,
    pub(crate) stage: Stage,
    pub(crate) live: BTreeSet<TaskId>,
    /// Those of its tasks it has yet to be given, in order.
    pub(crate) queue: VecDeque<TaskId>,
    /// Whether it was ever given a task.
    pub(crate) received: bool,
    pub(crate) recorded: bool,
}

impl Executor {
    pub(crate) fn take(&mut self, task: &Task) {
        self.resources.add(&task.resources);
        self.bounds.add(&task.bounds);
    }

    pub(crate) fn give_back(&mut self, task: &Task) {
        self.resources.subtract(&task.resources);
        self.bounds.subtract(&task.bounds);
    }

    pub(crate) fn connection(&self) -> Option<ConnectionKey> {
        match self.stage {
            Stage::Running { connection } => Some(connection),
            Stage::Terminating { connection, .. } => connection,
            _ => None,
        }
    }

    pub(crate) fn view(&self, reference: ExecutorRef) -> ExecutorView {
        ExecutorView {
            executor: reference,
            kind: Some(self.kind),
            info: self.info.clone(),
            sandbox: self.sandbox.clone(),
            container_id: self.container_id.clone(),
            pid: self.pid,
            connected: self.connection().is_some(),
            resources: self.resources.clone(),
            live_tasks: self.live.len(),
        }
    }

    /// Whether there is, or may be, a process to resize.
    pub(crate) fn has_process(&self) -> bool {
        matches!(
            self.stage,
            Stage::Starting
                | Stage::Reconnecting
                | Stage::Running { .. }
                | Stage::Disconnected
                | Stage::Terminating { .. }
        )
    }

    pub(crate) fn is_ending(&self) -> bool {
        matches!(
            self.stage,
            Stage::Terminating { .. } | Stage::Destroyed { .. }
        )
    }
}

pub(crate) fn built_in_id(kind: ExecutorKind) -> ExecutorId {
    match kind {
        ExecutorKind::Wasm => ExecutorId::from(WASM_EXECUTOR_ID),
        ExecutorKind::Native | ExecutorKind::Custom => ExecutorId::from(NATIVE_EXECUTOR_ID),
    }
}

pub(crate) fn is_built_in_id(id: &str) -> bool {
    id == WASM_EXECUTOR_ID || id == NATIVE_EXECUTOR_ID
}
