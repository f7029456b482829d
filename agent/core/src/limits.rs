//! Tasks and executors that went beyond what they were given: found by the shell, ended here.

use crate::effect::Effect;
use crate::executor::Cause;
use crate::input::{ExecutorRef, Limitation, TaskRef};
use crate::machine::Core;
use crate::signal::at_once;
use crate::task::Stage;

impl Core {
    /// The task is killed at once, and whatever its executor makes of that, the limit is why it ended.
    pub(crate) fn on_task_limited(&mut self, reference: &TaskRef, limitation: Limitation) {
        let Some(task) = self.task_mut(reference) else {
            return;
        };
        let cause = Cause::limited(limitation);
        match task.stage {
            Stage::Ended => {}
            Stage::Delivered { .. } => {
                if task.limited.is_none() {
                    task.limited = Some(cause);
                    self.kill_task(reference, Some(at_once()));
                }
            }
            Stage::Preparing => {
                self.effects.push(Effect::CancelPrepare {
                    task: reference.clone(),
                });
                self.end_task_because(reference, &cause);
            }
            Stage::Prepared { .. } | Stage::Saving { .. } | Stage::Queued => {
                self.end_task_because(reference, &cause);
            }
        }
    }

    /// All of the executor's tasks share its directory, so they end with it.
    pub(crate) fn on_executor_limited(&mut self, reference: &ExecutorRef, limitation: Limitation) {
        self.destroy_executor(reference, Some(Cause::limited(limitation)));
    }
}
