//! Stopping: every task that is not kept for the next agent process is killed and none is taken on. The shell goes on
//! until the master knows of their ends, or for as long as it cares to.

use std::time::Duration;

use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, TaskState};

use crate::drain::at_most;
use crate::executor::Cause;
use crate::framework::Framework;
use crate::input::ExecutorRef;
use crate::machine::Core;

const STOPPED: &str = "The agent was stopped";

/// What was decided when the agent was asked to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopping {
    /// Tasks of frameworks that checkpoint go on without this process.
    keep_checkpointed: bool,
}

impl Core {
    /// Ends all tasks that are not kept, each with the grace it allows itself, but no more than `grace`.
    pub(crate) fn on_stop(&mut self, keep_checkpointed: bool, grace: Duration) {
        self.stopping = Some(Stopping { keep_checkpointed });
        for reference in self.live_tasks() {
            let Some(framework) = self.frameworks.get(&reference.framework) else {
                continue;
            };
            if self.keeps(framework) {
                continue;
            }
            let task = framework.tasks.get(&reference.task);
            let policy = task.and_then(|task| at_most(wire_duration(grace), task));
            self.kill_task(&reference, policy);
        }
    }

    /// The patience with tasks is over: those that are left end with their executors.
    pub(crate) fn on_stop_over(&mut self) {
        let cause = Cause::new(TaskState::TaskKilled, Reason::ExecutorTerminated, STOPPED);
        let executors: Vec<ExecutorRef> = self
            .all_executors()
            .filter(|executor| {
                let framework = self.frameworks.get(&executor.framework);
                framework.is_some_and(|framework| !self.keeps(framework))
            })
            .collect();
        for executor in executors {
            self.destroy_executor(&executor, Some(cause.clone()));
        }
    }

    /// Whether a framework is one whose tasks end because the agent stops.
    pub(crate) fn is_stopping(&self, framework: &Framework) -> bool {
        self.stopping.is_some() && !self.keeps(framework)
    }

    fn keeps(&self, framework: &Framework) -> bool {
        let keeps = self.stopping.map(|stopping| stopping.keep_checkpointed);
        keeps.unwrap_or(true) && framework.checkpoint
    }

    /// While stopping: whether a task that is not kept still runs.
    pub fn has_tasks_to_end(&self) -> bool {
        self.not_kept()
            .any(|framework| framework.tasks.values().any(|task| task.is_live()))
    }

    /// While stopping: whether a status of those tasks has yet to be told, and there is a master to tell.
    pub fn has_ends_to_tell(&self) -> bool {
        self.is_registered() && self.not_kept().any(|framework| !framework.tasks.is_empty())
    }

    fn not_kept(&self) -> impl Iterator<Item = &Framework> {
        self.frameworks
            .values()
            .filter(|framework| !self.keeps(framework))
    }

    /// Says why a task was killed that nobody asked to end.
    pub(crate) fn explain_stop(&self, framework: &Framework, status: &mut v1::TaskStatus) {
        if status.state() == TaskState::TaskKilled && self.is_stopping(framework) {
            status.message = Some(STOPPED.to_owned());
        }
    }
}

fn wire_duration(time: Duration) -> v1::DurationInfo {
    v1::DurationInfo {
        nanoseconds: i64::try_from(time.as_nanos()).unwrap_or(i64::MAX),
    }
}
