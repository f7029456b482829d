//! What readers see: the whole state at one moment, taken in a time that does not depend on how many tasks there are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tepui_allocator::Quota;
use tepui_api::v1;
use tepui_model::{AgentId, ExecutorId, FrameworkId, OfferId, Resources, Role, TaskId};

use crate::history::History;
use crate::input::LinkKey;
use crate::inventory::Inventory;
use crate::keys::{AgentKey, ExecutorKey, FrameworkKey, OfferKey, OperationKey, TaskKey};
use crate::metrics::FrameworkMetrics;
use crate::slab::Table;
use crate::throttle::CallCounts;

/// A snapshot. Cheap to take, cheap to clone, never changes.
#[derive(Debug, Clone)]
pub struct View {
    pub master: Arc<v1::MasterInfo>,
    pub cluster_id: Arc<str>,
    pub agents: Table<AgentKey, AgentRecord>,
    /// Admitted before the master restarted and not back yet.
    pub recovered_agents: Arc<BTreeMap<AgentId, Arc<v1::AgentInfo>>>,
    pub unreachable_agents: Arc<BTreeMap<AgentId, AwayAgent>>,
    pub gone_agents: Arc<BTreeMap<AgentId, AwayAgent>>,
    /// Agents, here or away, that an operator deactivated.
    pub deactivated_agents: Arc<BTreeMap<AgentId, Deactivation>>,
    pub maintenance_schedule: Arc<v1::maintenance::Schedule>,
    pub maintenance_status: v1::maintenance::ClusterStatus,
    pub frameworks: Table<FrameworkKey, FrameworkRecord>,
    pub completed_frameworks: History<FrameworkRecord>,
    /// Every task that is not in a framework's `completed_tasks` or `unreachable_tasks`: ended ones stay here until
    /// their last update has been acknowledged.
    pub tasks: Table<TaskKey, TaskRecord>,
    pub executors: Table<ExecutorKey, ExecutorRecord>,
    pub offers: Table<OfferKey, OfferRecord>,
    /// Those whose last status has not been acknowledged.
    pub operations: Table<OperationKey, OperationRecord>,
    /// Roles with a weight, a quota or a framework.
    pub roles: BTreeMap<Role, RoleRecord>,
    /// Roles with a quota.
    pub quotas: Arc<BTreeMap<Role, Quota>>,
    /// Counters and gauges under Mesos's metric names.
    pub counters: Arc<BTreeMap<&'static str, u64>>,
    /// Calls of the frameworks that are there, by their principals.
    pub calls: BTreeMap<String, CallCounts>,
    /// How many operations of each type came to each state from being under way, or could not be begun.
    pub operations_ended: BTreeMap<(v1::offer::operation::Type, v1::OperationState), u64>,
}

#[derive(Debug, Clone)]
pub struct AgentRecord {
    pub id: AgentId,
    /// With its id filled in.
    pub info: Arc<v1::AgentInfo>,
    pub link: Option<LinkKey>,
    /// Whether its resources are offered.
    pub active: bool,
    pub connected: bool,
    pub version: Arc<str>,
    pub capabilities: Arc<Vec<v1::agent_info::Capability>>,
    /// `ip:port` of the agent's own HTTP endpoint.
    pub endpoint: Arc<str>,
    /// Whether it listens on every address of its machine.
    pub listens_everywhere: bool,
    /// Where its link comes from, or came from last.
    pub seen_at: Option<IpAddr>,
    pub registered_ns: i64,
    pub reregistered_ns: Option<i64>,
    pub total: Resources,
    /// By tasks that have not ended and by custom executors.
    pub used: Resources,
    pub offered: Resources,
    /// Tasks in [`View::tasks`] on this agent.
    pub tasks: usize,
    /// What its disk holds, as far as it tells.
    pub inventory: Inventory,
}

/// An agent that is unreachable or gone.
#[derive(Debug, Clone)]
pub struct AwayAgent {
    pub info: Arc<v1::AgentInfo>,
    pub since_ns: i64,
}

/// An agent whose resources are not offered until an operator says so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Deactivation {
    /// Set if its tasks are to end as well, or have.
    pub drain: Option<Drain>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Drain {
    pub info: v1::DrainInfo,
    pub started_ns: i64,
}

impl Deactivation {
    /// How it is drained, unless that is over.
    pub(crate) fn draining(&self) -> Option<&v1::DrainConfig> {
        let info = &self.drain.as_ref()?.info;
        (info.state() == v1::DrainState::Draining).then_some(&info.config)
    }
}

#[derive(Debug, Clone)]
pub struct FrameworkRecord {
    pub id: FrameworkId,
    /// With its id filled in.
    pub info: Arc<v1::FrameworkInfo>,
    pub active: bool,
    pub connected: bool,
    /// Known from before the master restarted, and its scheduler has not come back yet.
    pub recovered: bool,
    pub registered_ns: i64,
    pub reregistered_ns: Option<i64>,
    pub unregistered_ns: Option<i64>,
    pub roles: Arc<Vec<Role>>,
    pub suppressed: Arc<Vec<Role>>,
    pub offer_constraints: Option<Arc<v1::scheduler::OfferConstraints>>,
    /// On all agents together. Only what can be added up: ports, sets and whole disks are told by tasks and offers.
    pub used: Resources,
    pub offered: Resources,
    /// Tasks in [`View::tasks`] of this framework.
    pub tasks: usize,
    pub completed_tasks: History<v1::Task>,
    pub metrics: FrameworkMetrics,
    /// Tasks on agents that became unreachable; they may come back.
    pub unreachable_tasks: Arc<BTreeMap<TaskId, Arc<v1::Task>>>,
}

#[derive(Debug, Clone)]
pub struct TaskRecord {
    /// Always current. `statuses` has one entry per run of equal states, without data.
    pub wire: v1::Task,
    /// As it was handed to the agent. A task that an agent reported after the master restarted has none.
    pub info: Option<Arc<v1::TaskInfo>>,
    pub id: TaskId,
    pub framework_id: FrameworkId,
    pub agent_id: AgentId,
    pub framework: FrameworkKey,
    pub agent: AgentKey,
    pub role: Role,
    pub resources: Resources,
    /// Whether `resources` count as used: until the task's first terminal state.
    pub(crate) charged: bool,
    /// The uuid of the update that was forwarded last, if it has one.
    pub(crate) forwarded_uuid: Option<Bytes>,
    /// The uuid of the update that its scheduler acknowledged last.
    pub(crate) acknowledged_uuid: Option<Bytes>,
}

impl TaskRecord {
    pub fn state(&self) -> v1::TaskState {
        self.wire.state()
    }
}

#[derive(Debug, Clone)]
pub struct ExecutorRecord {
    pub info: Arc<v1::ExecutorInfo>,
    pub id: ExecutorId,
    pub framework_id: FrameworkId,
    pub agent_id: AgentId,
    pub framework: FrameworkKey,
    pub agent: AgentKey,
    pub role: Role,
    pub resources: Resources,
}

#[derive(Debug, Clone)]
pub struct OfferRecord {
    /// As the scheduler got it.
    pub wire: Arc<v1::Offer>,
    pub id: OfferId,
    pub framework: FrameworkKey,
    pub agent: AgentKey,
    pub framework_id: FrameworkId,
    pub agent_id: AgentId,
    pub role: Role,
    pub resources: Resources,
    pub offered_ns: i64,
}

/// An operation on an agent's resources.
#[derive(Debug, Clone)]
pub struct OperationRecord {
    /// Always current.
    pub wire: v1::Operation,
    /// None of an operator's operation, and of one whose framework is gone.
    pub framework: Option<FrameworkKey>,
    pub agent: AgentKey,
}

impl OperationRecord {
    /// Whether its agent has not answered yet.
    pub fn is_pending(&self) -> bool {
        self.wire.latest_status.state() == v1::OperationState::OperationPending
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct RoleRecord {
    pub weight: f64,
    /// Its dominant share of the cluster, offers included, not divided by the weight.
    pub share: f64,
}

impl View {
    pub fn agent(&self, id: &str) -> Option<&Arc<AgentRecord>> {
        self.agents.values().find(|agent| agent.id.as_str() == id)
    }

    pub fn framework(&self, id: &str) -> Option<&Arc<FrameworkRecord>> {
        self.frameworks
            .values()
            .find(|framework| framework.id.as_str() == id)
    }

    pub fn offers_of(&self, framework: FrameworkKey) -> impl Iterator<Item = &Arc<OfferRecord>> {
        self.offers
            .values()
            .filter(move |offer| offer.framework == framework)
    }

    pub fn tasks_of(&self, framework: FrameworkKey) -> impl Iterator<Item = &Arc<TaskRecord>> {
        self.tasks
            .values()
            .filter(move |task| task.framework == framework)
    }

    pub fn executors_of(
        &self,
        framework: FrameworkKey,
    ) -> impl Iterator<Item = &Arc<ExecutorRecord>> {
        self.executors
            .values()
            .filter(move |executor| executor.framework == framework)
    }
}
