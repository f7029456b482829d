//! Counters and gauges under the names that Mesos's tools know.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_api::v1::{OperationState, TaskState, offer};

use crate::core::Core;
use crate::keys::FrameworkKey;

/// A figure that the core itself keeps.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
}

const fn metric(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help }
}

/// Every counter and gauge of the core. What is not listed here cannot be counted.
pub const METRICS: &[Metric] = &[
    metric(
        "allocator/mesos/allocation_runs",
        "Times the allocator was asked for offers",
    ),
    metric(
        "master/dropped_messages",
        "Messages that nobody took: of agents that are not registered, for agents or schedulers that are away, calls over their rate",
    ),
    metric(
        "master/frameworks_active",
        "Frameworks that are offered resources",
    ),
    metric(
        "master/frameworks_connected",
        "Frameworks whose scheduler is subscribed",
    ),
    metric(
        "master/frameworks_disconnected",
        "Frameworks whose scheduler is away",
    ),
    metric(
        "master/frameworks_inactive",
        "Frameworks that are offered nothing",
    ),
    metric(
        "master/invalid_offer_operations",
        "ACCEPT calls whose offers were not valid",
    ),
    metric(
        "master/invalid_status_update_acknowledgements",
        "Acknowledgements of what was not to be acknowledged",
    ),
    metric(
        "master/invalid_status_updates",
        "Status updates of unknown frameworks or tasks, or of tasks that had ended",
    ),
    metric("master/job_stores", "Jobs whose tasks keep something"),
    metric(
        "master/job_stores_bytes",
        "What tasks keep, as it counts against the limits",
    ),
    metric("master/messages_decline_offers", "DECLINE calls"),
    metric(
        "master/messages_executor_to_framework",
        "Messages from executors",
    ),
    metric("master/messages_exited_executor", "Executors that ended"),
    metric("master/messages_framework_to_executor", "MESSAGE calls"),
    metric("master/messages_kill_task", "KILL calls"),
    metric(
        "master/messages_launch_task_group",
        "LAUNCH_GROUP operations",
    ),
    metric("master/messages_launch_tasks", "LAUNCH operations"),
    metric("master/messages_reconcile_tasks", "RECONCILE calls"),
    metric("master/messages_register_framework", "SUBSCRIBE calls"),
    metric(
        "master/messages_register_slave",
        "Registrations of agents without an id",
    ),
    metric(
        "master/messages_reregister_slave",
        "Registrations of agents with an id",
    ),
    metric("master/messages_resource_request", "REQUEST calls"),
    metric("master/messages_revive_offers", "REVIVE calls"),
    metric(
        "master/messages_status_update",
        "Status updates from agents",
    ),
    metric(
        "master/messages_status_update_acknowledgement",
        "ACKNOWLEDGE calls",
    ),
    metric("master/messages_suppress_offers", "SUPPRESS calls"),
    metric(
        "master/messages_unregister_framework",
        "TEARDOWN calls of schedulers",
    ),
    metric("master/outstanding_offers", "Offers that are open"),
    metric(
        "master/slave_registrations",
        "Agents admitted with a new id",
    ),
    metric(
        "master/recovery_slave_removals",
        "Agents from before a restart that did not come back",
    ),
    metric("master/slave_removals", "Agents taken out of the table"),
    metric(
        "master/slave_removals/reason_unhealthy",
        "Agents taken out because they did not answer",
    ),
    metric(
        "master/slave_removals/reason_unregistered",
        "Agents taken out because they were no longer wanted",
    ),
    metric("master/slave_reregistrations", "Agents that came back"),
    metric(
        "master/slave_unreachable_canceled",
        "Agents that were back before they became unreachable",
    ),
    metric(
        "master/slave_unreachable_completed",
        "Agents that became unreachable",
    ),
    metric(
        "master/slave_unreachable_scheduled",
        "Times agents were to become unreachable",
    ),
    metric("master/slaves_active", "Agents whose resources are offered"),
    metric("master/slaves_connected", "Agents with a link"),
    metric("master/slaves_disconnected", "Agents whose link broke"),
    metric(
        "master/slaves_inactive",
        "Agents whose resources are not offered",
    ),
    metric("master/slaves_unreachable", "Agents that are unreachable"),
    metric("master/tasks_dropped", "Tasks that ended as TASK_DROPPED"),
    metric("master/tasks_error", "Tasks that ended as TASK_ERROR"),
    metric("master/tasks_failed", "Tasks that ended as TASK_FAILED"),
    metric("master/tasks_finished", "Tasks that ended as TASK_FINISHED"),
    metric("master/tasks_gone", "Tasks that ended as TASK_GONE"),
    metric(
        "master/tasks_gone_by_operator",
        "Tasks that ended as TASK_GONE_BY_OPERATOR",
    ),
    metric("master/tasks_killed", "Tasks that ended as TASK_KILLED"),
    metric("master/tasks_killing", "Tasks that are TASK_KILLING"),
    metric("master/tasks_lost", "Tasks that ended as TASK_LOST"),
    metric("master/tasks_running", "Tasks that are TASK_RUNNING"),
    metric("master/tasks_staging", "Tasks that are TASK_STAGING"),
    metric("master/tasks_starting", "Tasks that are TASK_STARTING"),
    metric(
        "master/tasks_unreachable",
        "Tasks that are TASK_UNREACHABLE",
    ),
    metric(
        "master/valid_status_update_acknowledgements",
        "Acknowledgements handed on to agents",
    ),
    metric(
        "master/valid_status_updates",
        "Status updates handed on to schedulers",
    ),
];

/// Counts by the name that the wire has for what is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub(crate) fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    fn uncount(&mut self, name: &'static str) {
        if let Some(count) = self.0.get_mut(name) {
            *count = count.saturating_sub(1);
        }
    }

    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// What is counted of each framework.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameworkMetrics {
    /// By call type.
    pub calls: Tally,
    /// By event type.
    pub events: Tally,
    /// By operation type.
    pub operations: Tally,
    /// By task state: those in it, or, of terminal states, all that ever were.
    pub tasks: Tally,
    pub offers_sent: u64,
    pub offers_accepted: u64,
    pub offers_declined: u64,
    pub offers_rescinded: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counters: Tally,
    /// Kept beside the counters, since it is looked at after each step.
    pub(crate) allocation_runs: u64,
    /// Operations on agents' resources that were under way and are not any more, or could not be.
    pub(crate) operations_ended: BTreeMap<(offer::operation::Type, OperationState), u64>,
}

/// The states that tasks are counted by.
pub const TASK_STATES: [(TaskState, &str); 13] = [
    (TaskState::TaskStaging, "master/tasks_staging"),
    (TaskState::TaskStarting, "master/tasks_starting"),
    (TaskState::TaskRunning, "master/tasks_running"),
    (TaskState::TaskKilling, "master/tasks_killing"),
    (TaskState::TaskUnreachable, "master/tasks_unreachable"),
    (TaskState::TaskFinished, "master/tasks_finished"),
    (TaskState::TaskFailed, "master/tasks_failed"),
    (TaskState::TaskKilled, "master/tasks_killed"),
    (TaskState::TaskError, "master/tasks_error"),
    (TaskState::TaskLost, "master/tasks_lost"),
    (TaskState::TaskDropped, "master/tasks_dropped"),
    (TaskState::TaskGone, "master/tasks_gone"),
    (
        TaskState::TaskGoneByOperator,
        "master/tasks_gone_by_operator",
    ),
];

fn name(state: TaskState) -> Option<&'static str> {
    TASK_STATES
        .iter()
        .find(|(known, _)| *known == state)
        .map(|(_, name)| *name)
}

impl Metrics {
    pub(crate) fn count(&mut self, name: &'static str) {
        debug_assert!(
            METRICS.iter().any(|metric| metric.name == name),
            "the metric '{name}' is not in the table"
        );
        self.counters.count(name);
    }
}

impl Metrics {
    pub(crate) fn count_operation(&mut self, kind: offer::operation::Type, state: OperationState) {
        *self.operations_ended.entry((kind, state)).or_default() += 1;
    }
}

impl Core {
    /// A task is now in this state. Of terminal states, all that ever were are counted.
    pub(crate) fn count_task_entered(&mut self, framework: FrameworkKey, state: TaskState) {
        if let Some(name) = name(state) {
            self.metrics.count(name);
            let metrics = &mut self.frameworks[framework].metrics;
            metrics.tasks.count(state.as_str_name());
        }
    }

    /// A task is in this state no longer.
    pub(crate) fn count_task_left(&mut self, framework: FrameworkKey, state: TaskState) {
        if state.is_terminal() {
            return;
        }
        if let Some(name) = name(state) {
            self.metrics.counters.uncount(name);
            let metrics = &mut self.frameworks[framework].metrics;
            metrics.tasks.uncount(state.as_str_name());
        }
    }

    pub(crate) fn counters(&self) -> Arc<BTreeMap<&'static str, u64>> {
        let mut counters = self.metrics.counters.0.clone();
        for metric in METRICS {
            counters.entry(metric.name).or_default();
        }
        let agents = self.agents.len() as u64;
        let agents_connected = self.links.len() as u64;
        let agents_active = self.agents.iter().filter(|(_, agent)| agent.active).count() as u64;
        let frameworks = self.frameworks.len() as u64;
        let frameworks_connected = self
            .framework_states
            .values()
            .filter(|state| state.stream.is_some())
            .count() as u64;
        counters.extend([
            ("master/slaves_active", agents_active),
            ("master/slaves_inactive", agents - agents_active),
            ("master/slaves_connected", agents_connected),
            ("master/slaves_disconnected", agents - agents_connected),
            (
                "master/slaves_unreachable",
                self.unreachable_agents.len() as u64,
            ),
            ("master/frameworks_active", frameworks_connected),
            (
                "master/frameworks_inactive",
                frameworks - frameworks_connected,
            ),
            ("master/frameworks_connected", frameworks_connected),
            (
                "master/frameworks_disconnected",
                frameworks - frameworks_connected,
            ),
            ("master/outstanding_offers", self.offers.len() as u64),
            ("master/job_stores", self.stores.jobs as u64),
            ("master/job_stores_bytes", self.stores.bytes),
            (
                "allocator/mesos/allocation_runs",
                self.metrics.allocation_runs,
            ),
        ]);
        Arc::new(counters)
    }
}
