//! One task as the agent holds it.

use std::sync::Arc;

use tepui_api::v1;
use tepui_model::{ContainerId, ExecutorId, Milli, Resource, Resources};

use crate::effect::ExecutorKind;
use crate::executor::Cause;
use crate::input::{SaveKey, TaskRef};
use crate::stream::Stream;
use crate::view::{Standing, TaskView};

/// How many statuses of one task are kept: it may go back and forth between states for ever.
const HISTORY: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The shell makes its sandbox and finds out what it is.
    Preparing,
    /// Ready, but the others of its group are not.
    Prepared { kind: ExecutorKind },
    /// Its record is on the way to the disk; only then may an executor know of it.
    Saving { key: SaveKey },
    /// Its executor has not subscribed yet.
    Queued,
    /// The executor has it. `kill` is what the executor was told, or must be told when it is back.
    Delivered { kill: Option<Kill> },
    /// It has its last state, which was not acknowledged yet.
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) policy: Option<v1::KillPolicy>,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) info: Arc<v1::TaskInfo>,
    pub(crate) resources: Resources,
    /// What it may rise to.
    pub(crate) bounds: Resources,
    pub(crate) container_id: ContainerId,
    pub(crate) sandbox: String,
    /// Who runs it, from the moment that is decided.
    pub(crate) executor: Option<ExecutorId>,
    /// The executor its framework knows of.
    pub(crate) told_executor: Option<v1::ExecutorId>,
    /// Tasks of one number start together or not at all.
    pub(crate) group: Option<u64>,
    /// The executor of its group, if the framework leaves that to the agent.
    pub(crate) pod: Option<ExecutorId>,
    pub(crate) stage: Stage,
    pub(crate) state: v1::TaskState,
    /// The newest status, without data.
    pub(crate) latest: Option<Arc<v1::TaskStatus>>,
    /// The statuses so far, without data: of those in a row with one state the newest.
    pub(crate) history: Vec<Arc<v1::TaskStatus>>,
    pub(crate) stream: Stream,
    /// It went beyond what it was given and is being killed for that.
    pub(crate) limited: Option<Cause>,
    /// Whether there is a record of it on disk, or on the way there.
    pub(crate) recorded: bool,
}

/// More memory than any machine has, in MB, and little enough to be added up.
const UNBOUNDED_MB: f64 = (1_u64 << 32) as f64;

/// How far the task may rise above the memory it was given.
fn memory_beyond(info: &v1::TaskInfo, resources: &Resources) -> Option<Milli> {
    let limit = info.limits.get("mem")?.value.min(UNBOUNDED_MB);
    let beyond = limit - resources.mem().to_f64();
    (beyond > 0.0).then_some(Milli((beyond * 1000.0) as i64))
}

impl Task {
    pub(crate) fn new(info: Arc<v1::TaskInfo>, resources: Resources) -> Self {
        let mut bounds = resources.clone();
        if let Some(beyond) = memory_beyond(&info, &resources) {
            bounds.add_resource(Resource::scalar("mem", beyond));
        }
        Self {
            info,
            resources,
            bounds,
            container_id: ContainerId::from(""),
            sandbox: String::new(),
            executor: None,
            told_executor: None,
            group: None,
            pod: None,
            stage: Stage::Preparing,
            state: v1::TaskState::TaskStaging,
            latest: None,
            history: Vec::new(),
            stream: Stream::default(),
            limited: None,
            recorded: false,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.stage != Stage::Ended
    }

    /// Whether the agent ends it because another of its group failed. What a framework's own executor has is that
    /// executor's affair.
    pub(crate) fn dies_with_group(&self) -> bool {
        match &self.stage {
            Stage::Delivered { kill } => kill.is_none() && self.pod.is_some(),
            Stage::Ended => false,
            _ => true,
        }
    }

    /// Whether it counts among its executor's tasks.
    pub(crate) fn holds_executor(&self) -> bool {
        matches!(
            self.stage,
            Stage::Saving { .. } | Stage::Queued | Stage::Delivered { .. }
        )
    }

    /// Takes a new status, without data.
    pub(crate) fn remember(&mut self, status: Arc<v1::TaskStatus>) {
        self.state = status.state();
        if self
            .history
            .last()
            .is_some_and(|last| last.state == status.state)
        {
            self.history.pop();
        }
        if self.history.len() == HISTORY {
            self.history.remove(0);
        }
        self.history.push(status.clone());
        self.latest = Some(status);
    }

    fn standing(&self) -> Standing {
        match self.stage {
            Stage::Preparing | Stage::Prepared { .. } => Standing::Pending,
            Stage::Saving { .. } | Stage::Queued => Standing::Queued,
            Stage::Delivered { .. } => Standing::Launched,
            Stage::Ended => Standing::Terminated,
        }
    }

    pub(crate) fn view(&self, reference: TaskRef) -> TaskView {
        TaskView {
            task: reference,
            info: self.info.clone(),
            state: self.state,
            status: self.latest.clone(),
            sandbox: self.sandbox.clone(),
            container_id: self.container_id.clone(),
            executor: self.executor.clone(),
            told_executor: self.told_executor.clone(),
            statuses: self.history.clone(),
            standing: self.standing(),
        }
    }
}
