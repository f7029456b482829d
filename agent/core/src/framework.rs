//! One framework as the agent holds it: whatever of it lives here.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_api::v1;
use tepui_api::v1::framework_info::capability::Type;
use tepui_model::{ExecutorId, TaskId};

use crate::executor::Executor;
use crate::pod::Pod;
use crate::task::Task;

#[derive(Debug)]
pub(crate) struct Framework {
    pub(crate) info: Arc<v1::FrameworkInfo>,
    pub(crate) partition_aware: bool,
    pub(crate) knows_killing: bool,
    pub(crate) checkpoint: bool,
    /// Everything of it is being ended and nothing is reported any more.
    pub(crate) terminating: bool,
    pub(crate) recorded: bool,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) executors: BTreeMap<ExecutorId, Executor>,
    /// The executors of its task groups that have no process of their own.
    pub(crate) pods: BTreeMap<ExecutorId, Pod>,
    /// The tasks that were launched together, for as long as one of them lives.
    pub(crate) groups: BTreeMap<u64, Vec<TaskId>>,
}

impl Framework {
    pub(crate) fn new(info: v1::FrameworkInfo) -> Self {
        let mut framework = Self {
            info: Arc::default(),
            partition_aware: false,
            knows_killing: false,
            checkpoint: info.checkpoint.unwrap_or(false),
            terminating: false,
            recorded: false,
            tasks: BTreeMap::new(),
            executors: BTreeMap::new(),
            pods: BTreeMap::new(),
            groups: BTreeMap::new(),
        };
        framework.set_info(info);
        framework
    }

    /// Whether a framework checkpoints is decided once: half of a record would be of no use.
    pub(crate) fn set_info(&mut self, info: v1::FrameworkInfo) {
        let has = |wanted: Type| {
            info.capabilities
                .iter()
                .any(|capability| capability.r#type() == wanted)
        };
        self.partition_aware = has(Type::PartitionAware);
        self.knows_killing = has(Type::TaskKillingState);
        self.info = Arc::new(info);
    }

    /// The state as this framework understands it: the finer endings are for partition-aware ones.
    pub(crate) fn told(&self, state: v1::TaskState) -> v1::TaskState {
        use v1::TaskState::{TaskDropped, TaskGone, TaskGoneByOperator, TaskLost};
        match state {
            TaskDropped | TaskGone | TaskGoneByOperator if !self.partition_aware => TaskLost,
            state => state,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.executors.is_empty() && self.pods.is_empty()
    }
}
