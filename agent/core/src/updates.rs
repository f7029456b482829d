//! Status updates: made or taken in, saved, sent, sent again, acknowledged; and what an ending brings with it.

use std::sync::Arc;

use bytes::Bytes;
use tepui_api::link::to_master;
use tepui_api::v1::TaskState;
use tepui_api::v1::network_info::IpAddress;
use tepui_api::v1::task_status::Reason;
use tepui_api::{link, v1};
use tepui_model::{FrameworkId, TaskId};

use crate::chance::Uuid;
use crate::effect::{Effect, Write};
use crate::executor::Cause;
use crate::input::{ExecutorRef, SaveKey, TaskRef};
use crate::machine::{Core, Waiting};
use crate::record::{Path, UpdatesRecord};
use crate::stream::{Acknowledgement, Pending};
use crate::task::{Stage, Task};
use crate::timers::Timer;
use crate::view::FrameworkView;
use crate::wire;

impl Core {
    /// Gives the task its last state, on the agent's own word.
    pub(crate) fn end_task(
        &mut self,
        reference: &TaskRef,
        state: TaskState,
        reason: Reason,
        message: impl Into<String>,
    ) {
        self.end_task_because(reference, &Cause::new(state, reason, message));
    }

    pub(crate) fn end_task_because(&mut self, reference: &TaskRef, cause: &Cause) {
        let Some(framework) = self.frameworks.get(&reference.framework) else {
            return;
        };
        let mut status = v1::TaskStatus {
            task_id: wire::task_id(&reference.task),
            state: framework.told(cause.state).into(),
            ..v1::TaskStatus::default()
        };
        cause.explain(&mut status);
        self.push_status(reference, status, false);
    }

    /// Takes a new status of a live task in. After the last one there is no other.
    pub(crate) fn push_status(
        &mut self,
        reference: &TaskRef,
        mut status: v1::TaskStatus,
        from_executor: bool,
    ) {
        let Some(framework) = self.frameworks.get(&reference.framework) else {
            return;
        };
        self.explain_stop(framework, &mut status);
        self.explain_drain(&mut status, framework.partition_aware);
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(&reference.task) else {
            return;
        };
        if !task.is_live() {
            return;
        }
        let uuid = status
            .uuid
            .as_deref()
            .and_then(|uuid| Uuid::try_from(uuid).ok());
        let uuid = uuid.unwrap_or_else(|| self.chance.uuid());
        let executor = task
            .executor
            .as_ref()
            .and_then(|executor| framework.executors.get(executor));
        status.uuid = Some(Bytes::copy_from_slice(&uuid));
        status.agent_id = self.agent_id.as_ref().map(wire::agent_id);
        status.timestamp.get_or_insert(self.now.wall_secs());
        // The executor of a command goes by its task's id, as schedulers know it from Mesos.
        let told = task.told_executor.clone();
        status.executor_id = Some(told.unwrap_or_else(|| v1::ExecutorId {
            value: reference.task.to_string(),
        }));
        if !task.container_id.as_str().is_empty() {
            let container = status.container_status.get_or_insert_default();
            container.container_id = Some(wire::container_id(&task.container_id));
            container.executor_pid = executor.and_then(|executor| executor.pid);
            if container.network_infos.is_empty() {
                container
                    .network_infos
                    .extend(self.address.as_deref().map(network_info));
            }
        }
        let state = status.state();
        let status = Arc::new(status);
        task.remember(match status.data {
            None => status.clone(),
            Some(_) => Arc::new(v1::TaskStatus {
                data: None,
                ..(*status).clone()
            }),
        });
        let must_be_saved = task.recorded;
        let step = must_be_saved.then(|| UpdatesRecord {
            pending: vec![(*status).clone()],
            ..UpdatesRecord::default()
        });
        task.stream.overtake(&status);
        task.stream.push(Pending {
            uuid,
            status,
            saved: !must_be_saved,
            from_executor,
        });
        self.count("slave/valid_status_updates");
        if let Some(step) = step {
            if let Some(key) = self.log_step(reference, &step) {
                self.saves
                    .insert(key, Waiting::Update(reference.clone(), uuid));
            }
        } else {
            if from_executor {
                self.acknowledge_to_executor(reference, &uuid);
            }
            self.forward(reference);
        }
        if state.is_terminal() {
            self.on_task_ended(reference, state);
        }
    }

    fn on_task_ended(&mut self, reference: &TaskRef, state: TaskState) {
        self.count(counter(state));
        self.effects.push(Effect::TaskEnded {
            task: reference.clone(),
        });
        self.discard_sandbox(reference);
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(&reference.task) else {
            return;
        };
        let (group, pod) = (task.group, task.pod.clone());
        let held_executor = task.holds_executor();
        task.stage = Stage::Ended;
        if held_executor && let Some(id) = task.executor.clone() {
            if let Some(executor) = framework.executors.get_mut(&id) {
                executor.live.remove(&reference.task);
                executor.queue.retain(|queued| *queued != reference.task);
                executor.give_back(task);
            }
            let executor = ExecutorRef {
                framework: reference.framework.clone(),
                executor: id,
            };
            self.resize_executor(&executor);
            self.arm_idle(&executor);
        }
        if let Some(group) = group {
            self.on_group_task_ended(reference, group, state);
        }
        if let Some(executor) = pod {
            let pod = ExecutorRef {
                framework: reference.framework.clone(),
                executor,
            };
            self.on_pod_task_ended(&pod, &reference.task);
        }
    }

    /// Gives the task's directory away, unless its executor still has it, or it goes with that of its pod.
    pub(crate) fn discard_sandbox(&mut self, reference: &TaskRef) {
        let Some(task) = self
            .task(reference)
            .filter(|task| !task.sandbox.is_empty() && task.pod.is_none())
        else {
            return;
        };
        let executor = task.executor.as_ref().and_then(|executor| {
            let framework = self.frameworks.get(&reference.framework)?;
            framework.executors.get(executor)
        });
        if executor.is_none_or(|executor| !task.sandbox.starts_with(&executor.sandbox)) {
            let sandbox = task.sandbox.clone();
            self.effects.push(Effect::DiscardSandbox { sandbox });
        }
    }

    /// Puts the step behind the log of the task's updates, or, when that has become long, writes the log anew.
    fn log_step(&mut self, reference: &TaskRef, step: &UpdatesRecord) -> Option<SaveKey> {
        let task = self.task_mut(reference)?;
        let step = step.step();
        if task.stream.logged(step.len()) {
            return self.log_anew(reference);
        }
        let path = Path::Updates(reference.clone(), task.executor.clone()?);
        Some(self.write(path.text(), Write::Append(step)))
    }

    pub(crate) fn log_anew(&mut self, reference: &TaskRef) -> Option<SaveKey> {
        let task = self.task_mut(reference)?;
        let path = Path::Updates(reference.clone(), task.executor.clone()?);
        let pending = task.stream.pending();
        let seen = task.stream.seen();
        let record = UpdatesRecord {
            latest: task.latest.as_deref().cloned(),
            pending: pending.map(|update| (*update.status).clone()).collect(),
            seen: seen.map(|uuid| Bytes::copy_from_slice(uuid)).collect(),
            acknowledged: None,
        };
        let log = record.step();
        task.stream.logged_anew(log.len());
        Some(self.write(path.text(), Write::Replace(log)))
    }

    pub(crate) fn on_update_saved(&mut self, reference: &TaskRef, uuid: &Uuid) {
        let Some(update) = self
            .task_mut(reference)
            .and_then(|task| task.stream.find_mut(uuid))
        else {
            return;
        };
        update.saved = true;
        if update.from_executor {
            self.acknowledge_to_executor(reference, uuid);
        }
        self.forward(reference);
    }

    /// Tells the executor that it need not repeat the update.
    fn acknowledge_to_executor(&mut self, reference: &TaskRef, uuid: &Uuid) {
        let Some(executor) = self.task(reference).and_then(|task| task.executor.clone()) else {
            return;
        };
        let executor = ExecutorRef {
            framework: reference.framework.clone(),
            executor,
        };
        self.acknowledge_call(&executor, &reference.task, uuid);
    }

    pub(crate) fn acknowledge_call(&mut self, executor: &ExecutorRef, task: &TaskId, uuid: &Uuid) {
        if let Some(connection) = self
            .executor(executor)
            .and_then(|executor| executor.connection())
        {
            self.effects.push(Effect::ToExecutor {
                connection,
                event: wire::acknowledged(task, uuid),
            });
        }
    }

    /// Sends the oldest update, unless one is under way or it is not on disk yet.
    fn forward(&mut self, reference: &TaskRef) {
        if !self.is_registered() {
            return;
        }
        let wait = self.config.update_retry_minimum;
        let Some(task) = self.task_mut(reference) else {
            return;
        };
        let latest_state = task.state;
        let Some(status) = task.stream.send(wait) else {
            return;
        };
        self.timers
            .arm(Timer::Retry(reference.clone()), self.now.tick.after(wait));
        self.send_update(reference, &status, latest_state);
    }

    pub(crate) fn on_retry(&mut self, reference: &TaskRef) {
        let maximum = self.config.update_retry_maximum;
        let Some(task) = self.task_mut(reference) else {
            return;
        };
        let latest_state = task.state;
        let Some((status, wait)) = task.stream.send_again(maximum) else {
            return;
        };
        self.timers
            .arm(Timer::Retry(reference.clone()), self.now.tick.after(wait));
        self.send_update(reference, &status, latest_state);
    }

    fn send_update(
        &mut self,
        reference: &TaskRef,
        status: &v1::TaskStatus,
        latest_state: TaskState,
    ) {
        self.tell_master(to_master::Body::Update(link::StatusUpdate {
            framework_id: wire::framework_id(&reference.framework),
            status: status.clone(),
            latest_state: latest_state.into(),
        }));
    }

    /// A new master, or the old one again: whatever waits is sent at once.
    pub(crate) fn resume_streams(&mut self) {
        let waiting: Vec<TaskRef> = self
            .frameworks
            .iter()
            .flat_map(|(framework, held)| {
                let waiting = held
                    .tasks
                    .iter()
                    .filter(|(_, task)| !task.stream.is_empty());
                waiting.map(|(task, _)| TaskRef {
                    framework: framework.clone(),
                    task: task.clone(),
                })
            })
            .collect();
        for task in waiting {
            self.forward(&task);
        }
    }

    /// The framework's scheduler subscribed again: whatever waits for it is sent at once, whenever it was last.
    pub(crate) fn resume_framework(&mut self, framework: &FrameworkId) {
        let Some(held) = self.frameworks.get_mut(framework) else {
            return;
        };
        let mut waiting = Vec::new();
        for (task, known) in &mut held.tasks {
            if !known.stream.is_empty() {
                known.stream.land();
                waiting.push(TaskRef {
                    framework: framework.clone(),
                    task: task.clone(),
                });
            }
        }
        for task in waiting {
            self.forward(&task);
        }
    }

    pub(crate) fn on_acknowledge(&mut self, reference: &TaskRef, uuid: &[u8]) {
        let Some(task) = self.task_mut(reference) else {
            return;
        };
        let recorded = task.recorded;
        let terminal = match task.stream.acknowledge(uuid) {
            Acknowledgement::Unexpected => return,
            Acknowledgement::Taken { terminal } => terminal,
        };
        self.timers.disarm(&Timer::Retry(reference.clone()));
        if terminal {
            self.forget_task(reference);
            self.remove_framework_if_empty(&reference.framework);
            return;
        }
        if !recorded {
            self.forward(reference);
            return;
        }
        let step = UpdatesRecord {
            acknowledged: Some(Bytes::copy_from_slice(uuid)),
            ..UpdatesRecord::default()
        };
        if let Some(key) = self.log_step(reference, &step) {
            if let Some(task) = self.task_mut(reference) {
                task.stream.settle_after(key);
            }
            self.saves
                .insert(key, Waiting::Acknowledgement(reference.clone()));
        }
    }

    pub(crate) fn on_acknowledgement_saved(&mut self, reference: &TaskRef, key: SaveKey) {
        if let Some(task) = self.task_mut(reference) {
            task.stream.settled(key);
            self.forward(reference);
        }
    }

    /// Keeps of the task only what leads to its files.
    pub(crate) fn forget_task(&mut self, reference: &TaskRef) {
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let Some(task) = framework.tasks.remove(&reference.task) else {
            return;
        };
        self.timers.disarm(&Timer::Retry(reference.clone()));
        self.remove_task_records(reference, &task);
        if !task.sandbox.is_empty() {
            self.ended.push_back(task.view(reference.clone()));
        }
        while self.ended.len() > self.config.ended_tasks {
            self.ended.pop_front();
        }
    }

    fn remove_task_records(&mut self, reference: &TaskRef, task: &Task) {
        if let (true, Some(executor)) = (task.recorded, &task.executor) {
            // In this order: updates without a task are known to be left over, a task without updates would be alive.
            self.remove_record(&Path::Task(reference.clone(), executor.clone()));
            self.remove_record(&Path::Updates(reference.clone(), executor.clone()));
        }
    }

    pub(crate) fn remove_framework_if_empty(&mut self, id: &FrameworkId) {
        if let Some(framework) = self
            .frameworks
            .get(id)
            .filter(|framework| framework.is_empty())
        {
            let recorded = framework.recorded;
            let info = framework.info.clone();
            self.frameworks.remove(id);
            self.past.framework_ended(FrameworkView {
                framework: id.clone(),
                info,
            });
            if recorded {
                self.remove_record(&Path::Framework(id.clone()));
            }
        }
    }
}

fn network_info(address: &str) -> v1::NetworkInfo {
    v1::NetworkInfo {
        ip_addresses: vec![IpAddress {
            ip_address: Some(address.to_owned()),
            ..IpAddress::default()
        }],
        ..v1::NetworkInfo::default()
    }
}

fn counter(state: TaskState) -> &'static str {
    match state {
        TaskState::TaskFinished => "slave/tasks_finished",
        TaskState::TaskFailed => "slave/tasks_failed",
        TaskState::TaskKilled => "slave/tasks_killed",
        TaskState::TaskError => "slave/tasks_error",
        TaskState::TaskDropped => "slave/tasks_dropped",
        TaskState::TaskGone | TaskState::TaskGoneByOperator => "slave/tasks_gone",
        _ => "slave/tasks_lost",
    }
}
