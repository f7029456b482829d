//! Draining: every task is killed and none is taken on, until the master says that it is over.

use std::time::Duration;

use tepui_api::v1;
use tepui_api::v1::TaskState;
use tepui_api::v1::task_status::Reason;

use crate::input::TaskRef;
use crate::machine::Core;
use crate::record::{DrainRecord, Path};
use crate::task::{Kill, Stage, Task};

/// How long executors wait before they kill a task by force that says nothing about it itself.
const DEFAULT_GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draining {
    pub(crate) config: v1::DrainConfig,
    pub(crate) since_ns: i64,
}

impl Draining {
    /// What a kill says of how long the task may take: less than it would have, never more.
    fn kill_policy(&self, task: &Task) -> Option<v1::KillPolicy> {
        at_most(self.config.max_grace_period?, task)
    }
}

/// What a kill says of how long a task may take that would have more than that.
pub(crate) fn at_most(longest: v1::DurationInfo, task: &Task) -> Option<v1::KillPolicy> {
    let own = task.info.kill_policy.as_ref();
    let own = own.and_then(|policy| policy.grace_period.as_ref());
    let own = own.map_or(DEFAULT_GRACE.as_nanos(), |own| {
        u128::try_from(own.nanoseconds).unwrap_or(0)
    });
    let is_shorter = u128::try_from(longest.nanoseconds).unwrap_or(0) < own;
    is_shorter.then_some(v1::KillPolicy {
        grace_period: Some(longest),
    })
}

impl Core {
    /// The master's word on draining, with each registration and whenever it changes.
    pub(crate) fn on_drain(&mut self, config: Option<v1::DrainConfig>) {
        let known = self.draining.as_ref().map(|draining| draining.config);
        match config {
            None if known.is_none() => return,
            None => {
                self.draining = None;
                self.remove_record(&Path::Drain);
                return;
            }
            Some(config) if known == Some(config) => {}
            Some(config) => self.begin_draining(config),
        }
        let Some(draining) = self.draining.clone() else {
            return;
        };
        for task in self.live_tasks() {
            let policy = self
                .task(&task)
                .and_then(|known| draining.kill_policy(known));
            self.kill_task(&task, policy);
        }
    }

    fn begin_draining(&mut self, config: v1::DrainConfig) {
        let since_ns = self
            .draining
            .as_ref()
            .map_or(self.now.wall_ns, |draining| draining.since_ns);
        let record = DrainRecord { config, since_ns };
        self.save(&Path::Drain, &record);
        self.draining = Some(Draining { config, since_ns });
    }

    pub(crate) fn live_tasks(&self) -> Vec<TaskRef> {
        let all = self.frameworks.iter().flat_map(|(framework, held)| {
            let live = held.tasks.iter().filter(|(_, task)| task.is_live());
            live.map(|(task, _)| TaskRef {
                framework: framework.clone(),
                task: task.clone(),
            })
        });
        all.collect()
    }

    /// An earlier agent process was draining: executors that come back hear again that their tasks are to end.
    pub(crate) fn resume_draining(&mut self, record: DrainRecord) {
        let DrainRecord { config, since_ns } = record;
        let draining = Draining { config, since_ns };
        for reference in self.live_tasks() {
            if let Some(task) = self.task_mut(&reference) {
                let policy = draining.kill_policy(task);
                if let Stage::Delivered { kill } = &mut task.stage {
                    *kill = Some(Kill { policy });
                }
            }
        }
        self.draining = Some(draining);
    }

    /// Says why a task ends that is killed because of the draining.
    pub(crate) fn explain_drain(&self, status: &mut v1::TaskStatus, partition_aware: bool) {
        let Some(draining) = &self.draining else {
            return;
        };
        match status.state() {
            TaskState::TaskKilling => {}
            TaskState::TaskKilled => {
                if draining.config.mark_gone() && partition_aware {
                    status.state = TaskState::TaskGoneByOperator.into();
                }
            }
            _ => return,
        }
        status.reason = Some(Reason::AgentDraining.into());
    }
}
