//! Signals that operators send to the containers of tasks and of groups' executors, past their framework.

use tepui_api::v1;

use crate::effect::{Effect, ExecutorKind};
use crate::executor::Cause;
use crate::input::{ExecutorRef, TaskRef};
use crate::machine::Core;
use crate::task::Stage;
use crate::view::ContainerOwner;
use crate::wire;

const KILL: i32 = 9;
/// CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG and WINCH end nobody who does not want it.
const HARMLESS: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];

impl Core {
    /// A container that is not there is nobody's affair here: whoever asked looked it up before.
    pub(crate) fn on_signal(&mut self, container: &str, signal: i32) {
        let Some(found) = self.find_container(container) else {
            return;
        };
        match found.owner {
            ContainerOwner::Task(task) => self.signal_task(&task, &found.executor, signal),
            ContainerOwner::Executor => self.signal_pod(&found.executor, signal),
        }
    }

    /// A native task is a process, which may take a signal as it likes but for KILL. A module knows no signals: it ends by
    /// those that would end a process.
    fn signal_task(&mut self, task: &TaskRef, executor: &ExecutorRef, signal: i32) {
        let Some(held) = self.executor(executor) else {
            return;
        };
        if held.kind == ExecutorKind::Native && signal != KILL {
            if let Some(connection) = held.connection() {
                let event = wire::signal(&task.task, signal);
                self.effects.push(Effect::ToExecutor { connection, event });
            }
        } else if !HARMLESS.contains(&signal) {
            self.blame(task, &killed(signal));
            self.kill_task(task, Some(at_once()));
        }
    }

    fn signal_pod(&mut self, pod: &ExecutorRef, signal: i32) {
        if HARMLESS.contains(&signal) || self.pod(pod).is_none() {
            return;
        }
        self.end_pod(pod, signal, &killed(signal));
    }

    /// Whatever becomes of the task from now on, this is why it ends.
    pub(crate) fn blame(&mut self, task: &TaskRef, cause: &Cause) {
        if let Some(task) = self.task_mut(task)
            && matches!(task.stage, Stage::Delivered { .. })
        {
            task.limited.get_or_insert_with(|| cause.clone());
        }
    }
}

pub(crate) fn at_once() -> v1::KillPolicy {
    v1::KillPolicy {
        grace_period: Some(v1::DurationInfo { nanoseconds: 0 }),
    }
}

fn killed(signal: i32) -> Cause {
    Cause::terminated(format!(
        "The container was killed with signal {signal} by a call on it"
    ))
}
