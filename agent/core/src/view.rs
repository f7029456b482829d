//! What the shell may show of an agent: a snapshot without ties to the core.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_api::v1;
use tepui_model::{AgentId, ContainerId, ExecutorId, FrameworkId, Resources};

use crate::effect::ExecutorKind;
use crate::input::{ExecutorRef, TaskRef};

/// How far a task has come on this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is being made ready.
    Pending,
    /// Its executor has yet to be given it.
    Queued,
    Launched,
    /// It has its last state.
    Terminated,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    pub task: TaskRef,
    pub info: Arc<v1::TaskInfo>,
    /// The newest state the agent knows.
    pub state: v1::TaskState,
    /// The newest status, without data. None while the task is staging.
    pub status: Option<Arc<v1::TaskStatus>>,
    /// Relative to `work_dir`. Of a custom executor's task: the executor's. Empty if the task never got one.
    pub sandbox: String,
    pub container_id: ContainerId,
    /// The executor that runs it, also if the agent made it up. None until that is decided.
    pub executor: Option<ExecutorId>,
    /// The executor its framework knows of.
    pub told_executor: Option<v1::ExecutorId>,
    /// Its statuses so far, without data, oldest first: of those in a row with one state the newest.
    pub statuses: Vec<Arc<v1::TaskStatus>>,
    pub standing: Standing,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorView {
    pub executor: ExecutorRef,
    /// None of one without a process: the executor of task groups, whose tasks run in the built-in executors.
    pub kind: Option<ExecutorKind>,
    pub info: Arc<v1::ExecutorInfo>,
    /// Relative to `work_dir`.
    pub sandbox: String,
    pub container_id: ContainerId,
    pub pid: Option<u32>,
    /// Whether it is subscribed.
    pub connected: bool,
    /// What its live tasks hold together.
    pub resources: Resources,
    pub live_tasks: usize,
}

/// Who lives in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerOwner {
    Executor,
    /// A task of a built-in executor: frameworks know its container as one of its own.
    Task(TaskRef),
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerView {
    pub owner: ContainerOwner,
    /// The executor itself, or the one that runs the task.
    pub executor: ExecutorRef,
    /// Relative to `work_dir`.
    pub sandbox: String,
    /// Whom its processes are to run as.
    pub user: String,
    /// What a task's processes have in theirs.
    pub environment: Vec<v1::environment::Variable>,
    /// The executor itself, if it is its container.
    pub info: Option<Arc<v1::ExecutorInfo>>,
    pub checkpoint: bool,
    /// Of an executor.
    pub pid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FrameworkView {
    pub framework: FrameworkId,
    pub info: Arc<v1::FrameworkInfo>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentView {
    pub agent_id: Option<AgentId>,
    pub master_id: Option<String>,
    /// What the master calls its machine.
    pub master_hostname: Option<String>,
    /// Whether executors of an earlier agent process may still come back: what is shown is not the whole yet.
    pub recovering: bool,
    /// Whether a master has this agent registered over the present link.
    pub registered: bool,
    /// Set while the agent is draining, with when that began.
    pub drain: Option<(v1::DrainConfig, i64)>,
    pub frameworks: Vec<FrameworkView>,
    /// In order of framework and id: tasks alive, and ended ones whose last update is not acknowledged.
    pub tasks: Vec<TaskView>,
    pub executors: Vec<ExecutorView>,
    /// Tasks that ended and were acknowledged, oldest first; only the last ones are kept.
    pub ended: Vec<TaskView>,
    /// Executors that ended, oldest first; only the last ones are kept.
    pub completed_executors: Vec<ExecutorView>,
    /// Frameworks of which nothing lives here any more, oldest first; only the last ones are kept.
    pub completed_frameworks: Vec<FrameworkView>,
    /// What the master is told this agent can do.
    pub capabilities: Vec<v1::agent_info::capability::Type>,
    /// Reservations and volumes included.
    pub total: Resources,
    /// Those whose last status was not acknowledged.
    pub operations: Vec<v1::Operation>,
    /// By the name Mesos gives the metric.
    pub counters: BTreeMap<&'static str, u64>,
}
