//! Counters and gauges under the names that Mesos's tools know.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_api::v1::TaskState;

use crate::core::Core;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counters: BTreeMap<&'static str, u64>,
}

const TASK_STATES: [(TaskState, &str); 13] = [
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
        *self.counters.entry(name).or_default() += 1;
    }

    /// A task is now in this state. Of terminal states, all that ever were are counted.
    pub(crate) fn task_entered(&mut self, state: TaskState) {
        if let Some(name) = name(state) {
            self.count(name);
        }
    }

    /// A task is in this state no longer.
    pub(crate) fn task_left(&mut self, state: TaskState) {
        if state.is_terminal() {
            return;
        }
        if let Some(count) = name(state).and_then(|name| self.counters.get_mut(name)) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Core {
    pub(crate) fn counters(&self) -> Arc<BTreeMap<&'static str, u64>> {
        let mut counters = self.metrics.counters.clone();
        for (_, name) in TASK_STATES {
            counters.entry(name).or_default();
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
        ]);
        Arc::new(counters)
    }
}
