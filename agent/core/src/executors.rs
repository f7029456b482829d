//! The life of executors: started, resized, shut down, gone; and the frameworks they belong to.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tepui_api::v1;
use tepui_api::v1::TaskState;
use tepui_api::v1::task_status::Reason;
use tepui_model::{FrameworkId, Resources, TaskId};

use crate::effect::{Effect, ExecutorKind};
use crate::executor::{Cause, Executor, Stage, built_in_id};
use crate::input::{ConnectionKey, ExecutorRef, Limitation, SaveKey, TaskRef};
use crate::machine::{Core, Waiting};
use crate::record::{ExecutorRecord, FORMAT, FrameworkRecord, Path, kind_to_number};
use crate::task;
use crate::timers::Timer;
use crate::wire;

impl Core {
    pub(crate) fn create_executor(
        &mut self,
        reference: &ExecutorRef,
        kind: ExecutorKind,
        mut info: v1::ExecutorInfo,
        own: Resources,
    ) {
        let container_id = self.chance.container_id();
        let sandbox = self.sandbox(
            &reference.framework,
            reference.executor.as_str(),
            container_id.as_str(),
        );
        let token = self.chance.token();
        info.framework_id = Some(wire::framework_id(&reference.framework));
        let executor = Executor {
            kind,
            info: Arc::new(info),
            container_id,
            sandbox,
            token,
            pid: None,
            bounds: own.clone(),
            resources: own,
            stage: Stage::Created,
            live: BTreeSet::new(),
            queue: VecDeque::new(),
            received: false,
            recorded: false,
        };
        if let Some(framework) = self.frameworks.get_mut(&reference.framework) {
            framework
                .executors
                .insert(reference.executor.clone(), executor);
        }
    }

    /// Sets a new executor going, now that it has its first task.
    pub(crate) fn begin_executor(&mut self, reference: &ExecutorRef) {
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let checkpoint = framework.checkpoint;
        let Some(executor) = framework.executors.get_mut(&reference.executor) else {
            return;
        };
        if executor.stage != Stage::Created {
            return;
        }
        if !checkpoint {
            self.start_executor(reference);
            return;
        }
        executor.recorded = true;
        self.record_framework(&reference.framework);
        if let Some(key) = self.save_executor(reference) {
            self.saves.insert(key, Waiting::Executor(reference.clone()));
            if let Some(executor) = self.executor_mut(reference) {
                executor.stage = Stage::Saving { key };
            }
        }
    }

    /// Keeps the framework on disk from now on, for something of it is.
    pub(crate) fn record_framework(&mut self, id: &FrameworkId) {
        if let Some(framework) = self.frameworks.get_mut(id)
            && !std::mem::replace(&mut framework.recorded, true)
        {
            self.save_framework(id);
        }
    }

    fn save_framework(&mut self, id: &FrameworkId) {
        if let Some(framework) = self.frameworks.get(id) {
            let record = FrameworkRecord {
                format: FORMAT,
                info: (*framework.info).clone(),
            };
            self.save(&Path::Framework(id.clone()), &record);
        }
    }

    fn save_executor(&mut self, reference: &ExecutorRef) -> Option<SaveKey> {
        let executor = self.executor(reference)?;
        let record = ExecutorRecord {
            info: (*executor.info).clone(),
            kind: kind_to_number(executor.kind),
            sandbox: executor.sandbox.clone(),
            container_id: executor.container_id.as_str().to_owned(),
            token: executor.token.clone(),
            pid: executor.pid,
        };
        Some(self.save(&Path::Executor(reference.clone()), &record))
    }

    pub(crate) fn on_executor_saved(&mut self, reference: &ExecutorRef, key: SaveKey) {
        if self
            .executor(reference)
            .is_some_and(|executor| executor.stage == Stage::Saving { key })
        {
            self.start_executor(reference);
        }
    }

    fn start_executor(&mut self, reference: &ExecutorRef) {
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let Some(executor) = framework.executors.get_mut(&reference.executor) else {
            return;
        };
        executor.stage = Stage::Starting;
        // From the order on: what it has to fetch first is part of it.
        let deadline = self
            .now
            .tick
            .after(self.config.executor_registration_timeout);
        self.timers
            .arm(Timer::Registration(reference.clone()), deadline);
        self.effects.push(Effect::StartExecutor {
            executor: reference.clone(),
            kind: executor.kind,
            info: executor.info.clone(),
            framework: framework.info.clone(),
            sandbox: executor.sandbox.clone(),
            container_id: executor.container_id.clone(),
            token: executor.token.clone(),
            resources: executor.bounds.clone(),
        });
    }

    pub(crate) fn on_executor_started(&mut self, reference: &ExecutorRef, pid: u32) {
        let Some(executor) = self.executor_mut(reference) else {
            return;
        };
        executor.pid = Some(pid);
        if executor.recorded {
            self.save_executor(reference);
        }
    }

    pub(crate) fn on_executor_start_failed(&mut self, reference: &ExecutorRef, message: String) {
        let Some(executor) = self.executor_mut(reference) else {
            return;
        };
        if executor.stage == Stage::Starting {
            let reason = Reason::ContainerLaunchFailed;
            let cause = Cause::new(TaskState::TaskFailed, reason, message);
            executor.stage = Stage::Destroyed {
                cause: Some(cause),
                idle: false,
            };
        }
        self.on_executor_exited(reference, -1, None);
    }

    pub(crate) fn on_registration_timeout(&mut self, reference: &ExecutorRef) {
        let limit = tepui_model::format_duration(self.config.executor_registration_timeout);
        let Some(executor) = self.executor(reference) else {
            return;
        };
        let cause = match executor.stage {
            Stage::Starting => Cause::new(
                TaskState::TaskFailed,
                Reason::ExecutorRegistrationTimeout,
                format!("The executor did not subscribe within {limit}"),
            ),
            Stage::Disconnected => {
                Cause::terminated(format!("The executor was away for more than {limit}"))
            }
            _ => return,
        };
        self.destroy_executor(reference, Some(cause));
    }

    pub(crate) fn resize_executor(&mut self, reference: &ExecutorRef) {
        let Some(executor) = self.executor(reference) else {
            return;
        };
        if executor.has_process() {
            let resources = executor.bounds.clone();
            self.effects.push(Effect::ResizeExecutor {
                executor: reference.clone(),
                resources,
            });
        }
    }

    /// Starts the wait after which an executor that has nothing to do is stopped.
    pub(crate) fn arm_idle(&mut self, reference: &ExecutorRef) {
        let Some(executor) = self.executor(reference) else {
            return;
        };
        let idle = matches!(executor.stage, Stage::Running { .. }) && executor.live.is_empty();
        if executor.kind.is_built_in() && idle {
            let at = self.now.tick.after(self.config.executor_idle);
            self.timers.arm(Timer::Idle(reference.clone()), at);
        }
    }

    pub(crate) fn disarm_idle(&mut self, reference: &ExecutorRef) {
        self.timers.disarm(&Timer::Idle(reference.clone()));
    }

    pub(crate) fn on_executor_idle(&mut self, reference: &ExecutorRef) {
        if self
            .executor(reference)
            .is_some_and(|executor| executor.live.is_empty())
        {
            self.shut_executor_down(reference, true);
        }
    }

    /// An executor a framework brought for tasks that were all killed before it got one has no reason to be.
    pub(crate) fn dismiss_if_unused(&mut self, reference: &ExecutorRef) {
        let Some(executor) = self.executor(reference) else {
            return;
        };
        if executor.kind == ExecutorKind::Custom && !executor.received && executor.live.is_empty() {
            self.shut_executor_down(reference, false);
        }
    }

    pub(crate) fn shut_executor_down(&mut self, reference: &ExecutorRef, idle: bool) {
        let default_grace = self.config.executor_shutdown_grace_period;
        let Some(executor) = self.executor_mut(reference) else {
            if self.pod(reference).is_some() {
                self.shut_pod_down(reference);
            } else {
                self.shut_command_down(reference);
            }
            return;
        };
        match executor.stage {
            Stage::Created | Stage::Saving { .. } => {
                executor.stage = Stage::Destroyed {
                    cause: Some(shut_down()),
                    idle: false,
                };
                self.on_executor_exited(reference, -1, None);
            }
            Stage::Starting | Stage::Reconnecting | Stage::Disconnected => {
                self.destroy_executor(reference, Some(shut_down()));
            }
            Stage::Running { connection } => {
                executor.stage = Stage::Terminating {
                    connection: Some(connection),
                    idle,
                };
                let grace = wire::shutdown_grace(&executor.info).unwrap_or(default_grace);
                let deadline = self.now.tick.after(grace);
                self.disarm_idle(reference);
                self.timers.arm(Timer::Grace(reference.clone()), deadline);
                self.effects.push(Effect::ToExecutor {
                    connection,
                    event: wire::shutdown(),
                });
            }
            Stage::Terminating { .. } | Stage::Destroyed { .. } => {}
        }
    }

    /// What a framework knows as the executor of a command is its task.
    fn shut_command_down(&mut self, reference: &ExecutorRef) {
        let task = TaskRef {
            framework: reference.framework.clone(),
            task: TaskId::from(reference.executor.as_str()),
        };
        if self
            .task(&task)
            .is_some_and(|task| task.told_executor.is_none())
        {
            let grace = self.config.executor_shutdown_grace_period;
            let nanoseconds = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
            let policy = v1::KillPolicy {
                grace_period: Some(v1::DurationInfo { nanoseconds }),
            };
            self.kill_task(&task, Some(policy));
        }
    }

    pub(crate) fn on_grace_over(&mut self, reference: &ExecutorRef) {
        self.end_pod(reference, 0, &shut_down());
        self.destroy_executor(reference, Some(shut_down()));
    }

    pub(crate) fn destroy_executor(&mut self, reference: &ExecutorRef, cause: Option<Cause>) {
        let Some(executor) = self.executor_mut(reference) else {
            return;
        };
        let connection = executor.connection();
        let idle = match executor.stage {
            Stage::Destroyed { .. } => return,
            Stage::Terminating { idle, .. } => idle,
            _ => false,
        };
        executor.stage = Stage::Destroyed { cause, idle };
        self.disarm_executor(reference);
        if let Some(connection) = connection {
            self.close_connection(connection);
        }
        self.effects.push(Effect::DestroyExecutor {
            executor: reference.clone(),
        });
    }

    pub(crate) fn close_connection(&mut self, connection: ConnectionKey) {
        if self.connections.remove(&connection).is_some() {
            self.effects.push(Effect::CloseExecutor { connection });
        }
    }

    fn disarm_executor(&mut self, reference: &ExecutorRef) {
        for timer in [Timer::Registration, Timer::Grace, Timer::Idle] {
            self.timers.disarm(&timer(reference.clone()));
        }
    }

    pub(crate) fn on_executor_disconnected(&mut self, connection: ConnectionKey) {
        let deadline = self
            .now
            .tick
            .after(self.config.executor_registration_timeout);
        let Some(reference) = self.connections.remove(&connection) else {
            return;
        };
        let Some(executor) = self.executor_mut(&reference) else {
            return;
        };
        match &mut executor.stage {
            Stage::Running { .. } => {
                executor.stage = Stage::Disconnected;
                self.disarm_idle(&reference);
                self.timers.arm(Timer::Registration(reference), deadline);
            }
            Stage::Terminating { connection, .. } => *connection = None,
            _ => {}
        }
    }

    /// The executor's processes are gone, whoever ended them.
    pub(crate) fn on_executor_exited(
        &mut self,
        reference: &ExecutorRef,
        status: i32,
        limitation: Option<Limitation>,
    ) {
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let Some(executor) = framework.executors.remove(&reference.executor) else {
            return;
        };
        self.disarm_executor(reference);
        if let Some(connection) = executor.connection() {
            self.close_connection(connection);
        }
        self.count("slave/executors_terminated");
        self.past.executor_ended(executor.view(reference.clone()));
        let ended = match limitation {
            Some(limitation) => Cause::limited(limitation),
            None => Cause::terminated(wire::describe_exit(status)),
        };
        let (cause, idle) = match executor.stage {
            Stage::Destroyed {
                cause: Some(cause),
                idle,
            } => (cause, idle),
            Stage::Destroyed { cause: None, idle } | Stage::Terminating { idle, .. } => {
                (ended, idle)
            }
            _ => (ended, false),
        };
        let mut again = Vec::new();
        self.mark_pods(&reference.framework, &executor.live, status);
        for task in executor.live {
            let reference = TaskRef {
                framework: reference.framework.clone(),
                task,
            };
            let delivered = matches!(self.task(&reference), Some(task) if is_delivered(task));
            // It came while the executor was being stopped for want of work: a new one takes it.
            if idle && !delivered {
                again.push(reference.task);
            } else {
                let limited = self.task(&reference).and_then(|task| task.limited.clone());
                self.end_task_because(&reference, limited.as_ref().unwrap_or(&cause));
            }
        }
        // After how its tasks ended: without it they would count as never told to anybody.
        if executor.recorded {
            self.remove_record(&Path::Executor(reference.clone()));
        }
        self.effects.push(Effect::DiscardSandbox {
            sandbox: executor.sandbox,
        });
        self.tell_executor_exited(reference, status, executor.kind.is_built_in());
        if !again.is_empty() {
            self.start_another(
                reference,
                executor.kind,
                &executor.info,
                &again,
                &executor.queue,
            );
        }
        self.remove_framework_if_empty(&reference.framework);
    }

    fn start_another(
        &mut self,
        reference: &ExecutorRef,
        kind: ExecutorKind,
        info: &v1::ExecutorInfo,
        tasks: &[TaskId],
        queue: &VecDeque<TaskId>,
    ) {
        self.create_executor(reference, kind, info.clone(), Resources::new());
        // Those that queued keep their order; the others' records are still on the way to the disk.
        let waiting = tasks.iter().filter(|task| !queue.contains(task));
        for task in queue.iter().chain(waiting) {
            self.assign(
                &TaskRef {
                    framework: reference.framework.clone(),
                    task: task.clone(),
                },
                reference,
            );
        }
    }

    pub(crate) fn on_framework_message(&mut self, told: &ExecutorRef, data: Bytes) {
        let behind = self.executor_behind(told);
        let reference = behind.as_ref().unwrap_or(told);
        match self
            .executor(reference)
            .and_then(|executor| executor.connection())
        {
            // The executor of a group of native tasks has nobody who could make anything of it.
            None if self.pod(told).is_some() => {
                self.count("slave/valid_framework_messages");
            }
            Some(connection) => {
                self.count("slave/valid_framework_messages");
                self.effects.push(Effect::ToExecutor {
                    connection,
                    event: wire::message(data),
                });
            }
            None => self.count("slave/invalid_framework_messages"),
        }
    }

    /// Where frameworks know a command's executor, which goes by its task's id, or that of a group, there is the wasm executor
    /// behind it, if it runs those tasks. The message itself says for which of them it is.
    fn executor_behind(&self, told: &ExecutorRef) -> Option<ExecutorRef> {
        let framework = self.frameworks.get(&told.framework)?;
        if framework.executors.contains_key(&told.executor) {
            return None;
        }
        let wasm = built_in_id(ExecutorKind::Wasm);
        let runs = |task: &TaskId| {
            let task = framework.tasks.get(task);
            task.is_some_and(|task| task.executor.as_ref() == Some(&wasm))
        };
        let behind = match framework.pods.get(&told.executor) {
            Some(pod) => pod.live.iter().any(runs),
            None => runs(&TaskId::from(told.executor.as_str())),
        };
        behind.then(|| ExecutorRef {
            framework: told.framework.clone(),
            executor: wasm,
        })
    }

    pub(crate) fn on_framework_updated(&mut self, info: v1::FrameworkInfo) {
        let Some(id) = info
            .id
            .as_ref()
            .map(|id| FrameworkId::from(id.value.as_str()))
        else {
            return;
        };
        let Some(framework) = self.frameworks.get_mut(&id) else {
            return;
        };
        framework.set_info(info);
        if framework.recorded {
            self.save_framework(&id);
        }
    }

    /// Ends all of the framework. Its scheduler is gone, so nothing is reported any more.
    pub(crate) fn shut_framework_down(&mut self, id: &FrameworkId) {
        let Some(framework) = self.frameworks.get_mut(id) else {
            return;
        };
        if framework.terminating {
            return;
        }
        framework.terminating = true;
        for executor in framework.executors.values_mut() {
            executor.live.clear();
            executor.queue.clear();
        }
        let executors: Vec<_> = framework.executors.keys().cloned().collect();
        let pods: Vec<_> = framework.pods.keys().cloned().collect();
        framework.groups.clear();
        let tasks: Vec<TaskId> = framework.tasks.keys().cloned().collect();
        for task in tasks {
            let reference = TaskRef {
                framework: id.clone(),
                task,
            };
            let Some(task) = self.task_mut(&reference) else {
                continue;
            };
            let stage = std::mem::replace(&mut task.stage, task::Stage::Ended);
            if stage != task::Stage::Ended {
                task.state = TaskState::TaskKilled;
                if stage == task::Stage::Preparing {
                    self.effects.push(Effect::CancelPrepare {
                        task: reference.clone(),
                    });
                }
                self.effects.push(Effect::TaskEnded {
                    task: reference.clone(),
                });
                self.discard_sandbox(&reference);
            }
            self.forget_task(&reference);
        }
        for executor in pods {
            self.remove_pod(&ExecutorRef {
                framework: id.clone(),
                executor,
            });
        }
        for executor in executors {
            self.shut_executor_down(
                &ExecutorRef {
                    framework: id.clone(),
                    executor,
                },
                false,
            );
        }
        self.remove_framework_if_empty(id);
    }
}

fn is_delivered(task: &task::Task) -> bool {
    matches!(task.stage, task::Stage::Delivered { .. })
}

fn shut_down() -> Cause {
    Cause::terminated("The executor was shut down")
}
