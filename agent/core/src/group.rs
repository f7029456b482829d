//! Task groups: all of them start or none does, and none outlives the failure of another.

use std::collections::BTreeSet;
use std::sync::Arc;

use tepui_api::v1;
use tepui_api::v1::TaskState;
use tepui_api::v1::executor_info::Type;
use tepui_api::v1::task_status::Reason;
use tepui_model::{ExecutorId, FrameworkId, Resources, TaskId, check_id};

use crate::effect::{Effect, ExecutorKind};
use crate::executor::{Executor, Stage as ExecutorStage, is_built_in_id};
use crate::input::{ConnectionKey, ExecutorRef, TaskRef};
use crate::launch::{Membership, Refusal};
use crate::machine::Core;
use crate::task::{Stage, Task};
use crate::wire;

/// What a group turned out to ask for.
struct Examined {
    tasks: Vec<Resources>,
    /// The executor's own.
    own: Resources,
}

impl Core {
    /// `is_new`: the master knows of no such executor yet.
    pub(crate) fn launch_group(
        &mut self,
        framework: &FrameworkId,
        tasks: Vec<v1::TaskInfo>,
        executor: v1::ExecutorInfo,
        is_new: bool,
    ) {
        let reference = ExecutorRef {
            framework: framework.clone(),
            executor: ExecutorId::from(executor.executor_id.value.as_str()),
        };
        let examined = match self.examine_group(&reference, &tasks, &executor, is_new) {
            Ok(examined) => examined,
            Err(refusal) => {
                for info in tasks {
                    self.refuse_member(framework, info, &refusal);
                }
                return;
            }
        };
        self.next_group += 1;
        let group = self.next_group;
        let members: Vec<TaskId> = tasks
            .iter()
            .map(|info| TaskId::from(info.task_id.value.as_str()))
            .collect();
        if let Some(held) = self.frameworks.get_mut(framework) {
            held.groups.insert(group, members);
        }
        let told = executor.executor_id.clone();
        let is_pod = executor.r#type() == Type::Default;
        match (is_pod, self.executor(&reference), self.pod(&reference)) {
            (true, _, None) => self.create_pod(&reference, executor, examined.own),
            (false, None, _) => {
                self.create_executor(&reference, ExecutorKind::Custom, executor, examined.own);
            }
            _ => {}
        }
        for (mut info, resources) in tasks.into_iter().zip(examined.tasks) {
            info.plan = None;
            let task = TaskRef {
                framework: framework.clone(),
                task: TaskId::from(info.task_id.value.as_str()),
            };
            if is_pod {
                let membership = Membership {
                    group: Some(group),
                    pod: Some(reference.executor.clone()),
                };
                self.prepare(task, info, resources, Some(told.clone()), membership);
            } else {
                self.place_on_custom(task, info, resources, &reference, Some(group));
            }
        }
    }

    /// A refusal of one of several tasks; a task of that id that lives here is left alone.
    pub(crate) fn refuse_member(
        &mut self,
        framework: &FrameworkId,
        info: v1::TaskInfo,
        refusal: &Refusal,
    ) {
        let reference = TaskRef {
            framework: framework.clone(),
            task: TaskId::from(info.task_id.value.as_str()),
        };
        if self.task(&reference).is_some() {
            self.refuse_duplicate(&reference);
        } else {
            self.refuse(framework, info, refusal.clone());
        }
    }

    fn examine_group(
        &self,
        reference: &ExecutorRef,
        tasks: &[v1::TaskInfo],
        executor: &v1::ExecutorInfo,
        is_new: bool,
    ) -> Result<Examined, Refusal> {
        let invalid = |message: String| Refusal {
            state: TaskState::TaskError,
            reason: Reason::TaskGroupInvalid,
            message,
        };
        let id = reference.executor.as_str();
        check_id("executor id", id).map_err(|error| invalid(error.to_string()))?;
        if is_built_in_id(id) {
            return Err(invalid(format!(
                "The executor id '{id}' is the agent's own"
            )));
        }
        let is_pod = executor.r#type() == Type::Default;
        if is_pod == executor.command.is_some() {
            return Err(invalid(format!(
                "The executor '{id}' needs a command if it is CUSTOM, and must have none if it is DEFAULT"
            )));
        }
        let mut resources = Vec::with_capacity(tasks.len());
        let mut seen = BTreeSet::new();
        for info in tasks {
            let task = info.task_id.value.as_str();
            check_id("task id", task).map_err(|error| invalid(error.to_string()))?;
            let reference = TaskRef {
                framework: reference.framework.clone(),
                task: TaskId::from(task),
            };
            if !seen.insert(task) || self.task(&reference).is_some() {
                return Err(invalid(format!(
                    "Task '{task}' of the group is here already"
                )));
            }
            resources.push(
                wire::resources(&info.resources).map_err(|error| invalid(error.to_string()))?,
            );
        }
        let own =
            wire::resources(&executor.resources).map_err(|error| invalid(error.to_string()))?;
        let (held, pod) = (self.executor(reference), self.pod(reference));
        if held.is_some_and(Executor::is_ending) || pod.is_some_and(|pod| pod.ending) {
            return Err(Refusal::ending(id));
        }
        match (is_pod, held.is_some(), pod.is_some()) {
            (true, true, _) | (false, _, true) => Err(invalid(format!(
                "The executor '{id}' is here with another type"
            ))),
            (_, false, false) if !is_new => Err(Refusal::gone(id)),
            _ => Ok(Examined {
                tasks: resources,
                own,
            }),
        }
    }

    /// The tasks that were launched together with this one, itself among them.
    fn members(&self, reference: &TaskRef) -> Vec<TaskRef> {
        let framework = self.frameworks.get(&reference.framework);
        let group = framework.and_then(|framework| {
            let group = framework.tasks.get(&reference.task)?.group?;
            framework.groups.get(&group)
        });
        match group {
            None => vec![reference.clone()],
            Some(members) => members
                .iter()
                .map(|task| TaskRef {
                    framework: reference.framework.clone(),
                    task: task.clone(),
                })
                .collect(),
        }
    }

    /// The tasks that can be assigned now that this one is prepared.
    pub(crate) fn ready_with(&self, reference: &TaskRef) -> Vec<(TaskRef, ExecutorKind)> {
        let members = self.members(reference).into_iter();
        let ready = members.map(|member| match self.task(&member)?.stage {
            Stage::Prepared { kind } => Some((member, kind)),
            _ => None,
        });
        ready.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// Whether a queued task can be handed over: those of its group can be, too, or were.
    fn is_deliverable(&self, reference: &TaskRef) -> bool {
        self.members(reference).iter().all(|member| {
            let Some(task) = self.task(member) else {
                return true;
            };
            match &task.stage {
                Stage::Queued => task.executor.as_ref().is_some_and(|executor| {
                    let executor = ExecutorRef {
                        framework: member.framework.clone(),
                        executor: executor.clone(),
                    };
                    matches!(
                        self.executor(&executor),
                        Some(Executor {
                            stage: ExecutorStage::Running { .. },
                            ..
                        })
                    )
                }),
                Stage::Delivered { .. } | Stage::Ended => true,
                Stage::Preparing | Stage::Prepared { .. } | Stage::Saving { .. } => false,
            }
        })
    }

    /// Hands the executor what waits for it, if it is there to take it.
    pub(crate) fn deliver_queued(&mut self, reference: &ExecutorRef) {
        let Some(executor) = self.executor(reference) else {
            return;
        };
        let ExecutorStage::Running { connection } = executor.stage else {
            return;
        };
        let queued = executor.queue.iter().map(|task| TaskRef {
            framework: reference.framework.clone(),
            task: task.clone(),
        });
        let (ready, waiting): (Vec<TaskRef>, Vec<TaskRef>) =
            queued.partition(|task| self.is_deliverable(task));
        if ready.is_empty() {
            return;
        }
        if let Some(executor) = self.executor_mut(reference) {
            executor.received = true;
            executor.queue = waiting.into_iter().map(|task| task.task).collect();
        }
        // The executor gets the room before it gets what needs it.
        self.resize_executor(reference);
        let mut others = BTreeSet::new();
        let mut at = 0;
        while let Some(first) = ready.get(at) {
            let group = self.task(first).and_then(|task| task.group);
            let together = match group {
                None => 1,
                Some(_) => ready[at..]
                    .iter()
                    .take_while(|task| self.task(task).is_some_and(|task| task.group == group))
                    .count(),
            };
            self.deliver(connection, &ready[at..at + together], group.is_some());
            for member in self.members(first) {
                others.extend(self.task(&member).and_then(|task| task.executor.clone()));
            }
            at += together;
        }
        others.remove(&reference.executor);
        for executor in others {
            // What of the groups is there waited only for this.
            self.deliver_queued(&ExecutorRef {
                framework: reference.framework.clone(),
                executor,
            });
        }
    }

    fn deliver(&mut self, connection: ConnectionKey, tasks: &[TaskRef], grouped: bool) {
        let mut infos = Vec::with_capacity(tasks.len());
        for reference in tasks {
            if let Some(task) = self.task_mut(reference) {
                task.stage = Stage::Delivered { kill: None };
                infos.push((*task.info).clone());
            }
        }
        if grouped {
            let event = wire::launch_group(infos);
            self.effects.push(Effect::ToExecutor { connection, event });
            return;
        }
        for info in infos {
            let event = wire::launch(info);
            self.effects.push(Effect::ToExecutor { connection, event });
        }
    }

    /// A task of the group ended with `state`.
    pub(crate) fn on_group_task_ended(
        &mut self,
        reference: &TaskRef,
        group: u64,
        state: TaskState,
    ) {
        let live: Vec<TaskRef> = self
            .members(reference)
            .into_iter()
            .filter(|member| self.task(member).is_some_and(Task::is_live))
            .collect();
        if live.is_empty()
            && let Some(framework) = self.frameworks.get_mut(&reference.framework)
        {
            framework.groups.remove(&group);
        }
        if state == TaskState::TaskFinished {
            return;
        }
        for member in live {
            if self
                .task(&member)
                .is_some_and(|task| task.dies_with_group())
            {
                self.kill_task(&member, None);
            }
        }
    }

    /// Makes the task one of a framework's own executor, which exists.
    pub(crate) fn place_on_custom(
        &mut self,
        reference: TaskRef,
        info: v1::TaskInfo,
        resources: Resources,
        executor: &ExecutorRef,
        group: Option<u64>,
    ) {
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let Some(held) = framework.executors.get(&executor.executor) else {
            return;
        };
        let task = Task {
            container_id: held.container_id.clone(),
            sandbox: held.sandbox.clone(),
            told_executor: Some(wire::executor_id(&executor.executor)),
            group,
            ..Task::new(Arc::new(info), resources)
        };
        framework.tasks.insert(reference.task.clone(), task);
        self.assign(&reference, executor);
    }
}
