//! Snapshots for the shell.

use tepui_api::convert::{executor_user, task_user};
use tepui_model::ExecutorId;

use crate::executor::Stage;
use crate::input::{ExecutorRef, TaskRef};
use crate::link_state::CAPABILITIES;
use crate::machine::{Core, Link};
use crate::view::{AgentView, ContainerOwner, ContainerView, FrameworkView, TaskView};

impl Core {
    /// Everything there is to show. It grows with the number of tasks: take it when somebody asks, not after each input.
    pub fn view(&self) -> AgentView {
        let (master_id, master_hostname) = match &self.link {
            Link::Registered {
                master_id,
                master_hostname,
                ..
            } => (Some(master_id.clone()), master_hostname.clone()),
            Link::Down | Link::Waiting | Link::Registering => (None, None),
        };
        let mut view = AgentView {
            agent_id: self.agent_id.clone(),
            master_id,
            master_hostname,
            registered: self.is_registered(),
            recovering: self.is_recovering(),
            drain: self
                .draining
                .as_ref()
                .map(|draining| (draining.config, draining.since_ns)),
            ended: self.ended.iter().cloned().collect(),
            counters: self.counters.clone(),
            capabilities: CAPABILITIES.to_vec(),
            completed_executors: self.past.executors().cloned().collect(),
            completed_frameworks: self
                .past
                .frameworks()
                .filter(|past| !self.frameworks.contains_key(&past.framework))
                .cloned()
                .collect(),
            total: self.holdings.total.clone(),
            operations: self
                .holdings
                .operations
                .values()
                .map(|operation| operation.wire.clone())
                .collect(),
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
                .extend(held.executors.iter().map(|(id, executor)| {
                    executor.view(ExecutorRef {
                        framework: framework.clone(),
                        executor: id.clone(),
                    })
                }));
            view.executors.extend(held.pods.iter().map(|(id, pod)| {
                pod.view(ExecutorRef {
                    framework: framework.clone(),
                    executor: id.clone(),
                })
            }));
        }
        view
    }

    /// The executor or task that lives in a container, by the container's id.
    pub fn find_container(&self, id: &str) -> Option<ContainerView> {
        self.frameworks.iter().find_map(|(framework, held)| {
            let executor = |executor: &ExecutorId| ExecutorRef {
                framework: framework.clone(),
                executor: executor.clone(),
            };
            let of_framework = held.info.user.as_str();
            let executors = held.executors.iter();
            let mut executors =
                executors.filter(|(_, executor)| executor.container_id.as_str() == id);
            if let Some((name, found)) = executors.next() {
                return Some(ContainerView {
                    owner: ContainerOwner::Executor,
                    executor: executor(name),
                    sandbox: found.sandbox.clone(),
                    user: executor_user(&found.info, of_framework).to_owned(),
                    environment: Vec::new(),
                    info: Some(found.info.clone()),
                    checkpoint: held.checkpoint,
                    pid: found.pid,
                });
            }
            let mut pods = held
                .pods
                .iter()
                .filter(|(_, pod)| pod.container_id.as_str() == id);
            if let Some((name, found)) = pods.next() {
                return Some(ContainerView {
                    owner: ContainerOwner::Executor,
                    executor: executor(name),
                    sandbox: found.sandbox.clone(),
                    user: executor_user(&found.info, of_framework).to_owned(),
                    environment: Vec::new(),
                    info: Some(found.info.clone()),
                    checkpoint: held.checkpoint,
                    pid: None,
                });
            }
            let (name, found) = held
                .tasks
                .iter()
                .find(|(_, task)| task.container_id.as_str() == id)?;
            Some(ContainerView {
                owner: ContainerOwner::Task(TaskRef {
                    framework: framework.clone(),
                    task: name.clone(),
                }),
                executor: executor(found.executor.as_ref()?),
                sandbox: found.sandbox.clone(),
                user: task_user(&found.info, of_framework).to_owned(),
                environment: found
                    .info
                    .plan
                    .as_ref()
                    .map_or_else(Vec::new, |plan| plan.environment.clone()),
                info: None,
                checkpoint: held.checkpoint,
                pid: None,
            })
        })
    }

    /// Whether an executor is being started and its process not known yet.
    pub fn is_being_started(&self, reference: &ExecutorRef) -> bool {
        self.executor(reference)
            .is_some_and(|executor| executor.stage == Stage::Starting && executor.pid.is_none())
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
