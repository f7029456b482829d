//! Task groups: all of them start or none does, and none outlives the failure of another.

use tepui_api::v1::TaskState;
use tepui_model::TaskId;

use crate::effect::ExecutorKind;
use crate::input::TaskRef;
use crate::machine::Core;
use crate::task::Stage;

impl Core {
    /// The tasks that can be assigned now that this one is prepared.
    pub(crate) fn ready_with(&self, reference: &TaskRef) -> Vec<(TaskRef, ExecutorKind)> {
        let Some(framework) = self.frameworks.get(&reference.framework) else {
            return Vec::new();
        };
        let Some(task) = framework.tasks.get(&reference.task) else {
            return Vec::new();
        };
        let members: Vec<_> = match task.group {
            None => vec![(&reference.task, task)],
            Some(group) => framework
                .tasks
                .iter()
                .filter(|(_, task)| task.group == Some(group))
                .collect(),
        };
        let ready = members.iter().map(|(id, task)| match task.stage {
            Stage::Prepared { kind } => Some((
                TaskRef {
                    framework: reference.framework.clone(),
                    task: (*id).clone(),
                },
                kind,
            )),
            _ => None,
        });
        ready.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// A task of the group ended with `state`.
    pub(crate) fn on_group_task_ended(
        &mut self,
        reference: &TaskRef,
        group: u64,
        state: TaskState,
    ) {
        if state == TaskState::TaskFinished {
            return;
        }
        let Some(framework) = self.frameworks.get(&reference.framework) else {
            return;
        };
        let others: Vec<TaskId> = framework
            .tasks
            .iter()
            .filter(|(_, task)| {
                task.group == Some(group)
                    && !matches!(task.stage, Stage::Delivered { kill: Some(_) })
            })
            .filter(|(_, task)| task.is_live())
            .map(|(id, _)| id.clone())
            .collect();
        for task in others {
            self.kill_task(
                &TaskRef {
                    framework: reference.framework.clone(),
                    task,
                },
                None,
            );
        }
    }
}
