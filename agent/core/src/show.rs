//! Snapshots for the shell.

use crate::input::{ExecutorRef, TaskRef};
use crate::machine::{Core, Link};
use crate::view::{AgentView, ExecutorView, FrameworkView, TaskView};

impl Core {
    /// Everything there is to show. It grows with the number of tasks: take it when somebody asks, not after each input.
    pub fn view(&self) -> AgentView {
        let mut view = AgentView {
            agent_id: self.agent_id.clone(),
            master_id: match &self.link {
                Link::Registered { master_id, .. } => Some(master_id.clone()),
                Link::Down | Link::Waiting | Link::Registering => None,
            },
            registered: self.is_registered(),
            recovering: self.is_recovering(),
            ended: self.ended.iter().cloned().collect(),
            counters: self.counters.clone(),
            ..AgentView::default()
        };
        for (framework, held) in &self.frameworks {
            view.frameworks.push(FrameworkView {
                framework: framework.clone(),
                info: held.info.clone(),
            });
            view.tasks.extend(held.tasks.iter().map(|(id, task)| {
                task.view(TaskRef {
                    framework: framework.clone(),
                    task: id.clone(),
                })
            }));
            view.executors
                .extend(held.executors.iter().map(|(id, executor)| ExecutorView {
                    executor: ExecutorRef {
                        framework: framework.clone(),
                        executor: id.clone(),
                    },
                    kind: executor.kind,
                    info: executor.info.clone(),
                    sandbox: executor.sandbox.clone(),
                    container_id: executor.container_id.clone(),
                    pid: executor.pid,
                    connected: executor.connection().is_some(),
                    resources: executor.resources.clone(),
                    live_tasks: executor.live.len(),
                }));
        }
        view
    }

    /// One task, alive or ended and still remembered.
    pub fn find_task(&self, reference: &TaskRef) -> Option<TaskView> {
        match self.task(reference) {
            Some(task) => Some(task.view(reference.clone())),
            None => self
                .ended
                .iter()
                .rev()
                .find(|view| view.task == *reference)
                .cloned(),
        }
    }
}
