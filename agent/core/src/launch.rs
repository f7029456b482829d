//! From the master's order to the executor's hands, and back out again if the task is killed on the way.

use std::collections::BTreeSet;
use std::sync::Arc;

use tepui_api::ext::launch_plan::Body;
use tepui_api::link::to_master;
use tepui_api::v1::TaskState;
use tepui_api::v1::executor_info::Type;
use tepui_api::v1::task_status::{Reason, Source};
use tepui_api::{ext, link, v1};
use tepui_model::{ExecutorId, FrameworkId, Resources, TaskId, check_id};

use crate::effect::{Effect, ExecutorKind};
use crate::executor::{built_in_id, is_built_in_id};
use crate::framework::Framework;
use crate::input::{ExecutorRef, PrepareFailure, SaveKey, TaskRef};
use crate::machine::{Core, Waiting};
use crate::record::{Path, TaskRecord};
use crate::task::{Kill, Stage, Task};
use crate::volume::volumes_of;
use crate::wire;

/// Why a task is not taken on.
#[derive(Clone)]
pub(crate) struct Refusal {
    pub(crate) state: TaskState,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

/// What a task belongs to beside its framework.
#[derive(Default)]
pub(crate) struct Membership {
    pub(crate) group: Option<u64>,
    pub(crate) pod: Option<ExecutorId>,
}

impl Refusal {
    fn invalid(message: impl Into<String>) -> Self {
        Self {
            state: TaskState::TaskError,
            reason: Reason::TaskInvalid,
            message: message.into(),
        }
    }

    /// The executor has been told to end.
    pub(crate) fn ending(executor: &str) -> Self {
        Self::terminated(format!("The executor '{executor}' is being shut down"))
    }

    /// The master thought the executor to be here.
    pub(crate) fn gone(executor: &str) -> Self {
        Self::terminated(format!("The executor '{executor}' has ended meanwhile"))
    }

    fn draining() -> Self {
        Self {
            state: TaskState::TaskDropped,
            reason: Reason::AgentDraining,
            message: "The agent is draining".to_owned(),
        }
    }

    fn stopping() -> Self {
        Self::terminated("The agent is being stopped".to_owned())
    }

    fn terminated(message: String) -> Self {
        Self {
            state: TaskState::TaskDropped,
            reason: Reason::ExecutorTerminated,
            message,
        }
    }
}

/// What a task turned out to ask for.
struct Examined {
    resources: Resources,
    /// Set if the framework brought its own executor.
    custom: Option<(ExecutorId, Resources)>,
}

impl Core {
    pub(crate) fn on_launch(&mut self, launch: link::Launch) {
        if self.is_ending() || self.agent_id.is_none() {
            return;
        }
        let Some(framework) = self.adopt_framework(launch.framework) else {
            return;
        };
        let new_executors: BTreeSet<String> = launch
            .new_executors
            .into_iter()
            .map(|executor| executor.value)
            .collect();
        match launch.group_executor {
            _ if self
                .frameworks
                .get(&framework)
                .is_some_and(|held| self.is_stopping(held)) =>
            {
                for info in launch.tasks {
                    self.refuse_member(&framework, info, &Refusal::stopping());
                }
            }
            _ if self.draining.is_some() => {
                for info in launch.tasks {
                    self.refuse_member(&framework, info, &Refusal::draining());
                }
            }
            Some(executor) => {
                let is_new = new_executors.contains(&executor.executor_id.value);
                self.launch_group(&framework, launch.tasks, executor, is_new);
            }
            None => {
                for info in launch.tasks {
                    self.launch_task(&framework, info, &new_executors);
                }
            }
        }
        for executor in new_executors {
            self.give_back_unless_here(ExecutorRef {
                framework: framework.clone(),
                executor: ExecutorId::from(executor),
            });
        }
        self.remove_framework_if_empty(&framework);
    }

    /// Of an executor none of whose tasks could be taken on, the master must not go on charging for.
    fn give_back_unless_here(&mut self, reference: ExecutorRef) {
        if self.executor(&reference).is_none() && self.pod(&reference).is_none() {
            self.tell_executor_exited(&reference, -1, true);
        }
    }

    /// The framework's id, if tasks of it may be talked about.
    fn adopt_framework(&mut self, info: v1::FrameworkInfo) -> Option<FrameworkId> {
        let id = FrameworkId::from(info.id.as_ref()?.value.as_str());
        check_id("framework id", id.as_str()).ok()?;
        match self.frameworks.get(&id) {
            Some(framework) if framework.terminating => return None,
            Some(framework) if *framework.info == info => {}
            Some(_) => self.on_framework_updated(info),
            None => {
                self.frameworks.insert(id.clone(), Framework::new(info));
            }
        }
        Some(id)
    }

    fn launch_task(
        &mut self,
        framework: &FrameworkId,
        mut info: v1::TaskInfo,
        new_executors: &BTreeSet<String>,
    ) {
        // Nobody but this agent plans how a task is run here.
        info.plan = None;
        let reference = TaskRef {
            framework: framework.clone(),
            task: TaskId::from(info.task_id.value.as_str()),
        };
        if self.task(&reference).is_some() {
            self.refuse_duplicate(&reference);
            return;
        }
        match self.examine(framework, &info, new_executors) {
            Ok(Examined {
                resources,
                custom: None,
            }) => {
                let told_executor = info
                    .executor
                    .as_ref()
                    .map(|executor| executor.executor_id.clone());
                let alone = Membership::default();
                self.prepare(reference, info, resources, told_executor, alone);
            }
            Ok(Examined {
                resources,
                custom: Some((executor, own)),
            }) => {
                self.launch_on_custom(reference, info, resources, executor, own);
            }
            Err(refusal) => self.refuse(framework, info, refusal),
        }
    }

    fn examine(
        &self,
        framework: &FrameworkId,
        info: &v1::TaskInfo,
        new_executors: &BTreeSet<String>,
    ) -> Result<Examined, Refusal> {
        check_id("task id", &info.task_id.value)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let resources = wire::resources(&info.resources)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        self.check_known(&resources)?;
        let Some(executor) = &info.executor else {
            self.check_own_executor(framework, &info.task_id.value)?;
            return Ok(Examined {
                resources,
                custom: None,
            });
        };
        if executor.r#type() == Type::Default {
            return Ok(Examined {
                resources,
                custom: None,
            });
        }
        let id = executor.executor_id.value.as_str();
        check_id("executor id", id).map_err(|error| Refusal::invalid(error.to_string()))?;
        if is_built_in_id(id) {
            return Err(Refusal::invalid(format!(
                "The executor id '{id}' is the agent's own"
            )));
        }
        if executor.command.is_none() {
            return Err(Refusal::invalid(format!(
                "The executor '{id}' has no command"
            )));
        }
        let own = wire::resources(&executor.resources)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        self.check_known(&own)?;
        let volumes = volumes_of(&info.resources);
        if volumes.iter().any(|volume| volume.read_only) {
            let message = "A framework's own executor has a volume read-only if it is among the executor's resources, not among a task's";
            return Err(Refusal::invalid(message));
        }
        let id = ExecutorId::from(id);
        let reference = ExecutorRef {
            framework: framework.clone(),
            executor: id.clone(),
        };
        if self.pod(&reference).is_some() {
            return Err(Refusal::invalid(format!(
                "The executor '{id}' is that of a task group"
            )));
        }
        match self.executor(&reference) {
            Some(executor) if executor.is_ending() => return Err(Refusal::ending(id.as_str())),
            None if !new_executors.contains(id.as_str()) => {
                return Err(Refusal::gone(id.as_str()));
            }
            _ => {}
        }
        Ok(Examined {
            resources,
            custom: Some((id, own)),
        })
    }

    /// A framework knows the executor of a command by the task's id, so it can have no other of that id here.
    fn check_own_executor(&self, framework: &FrameworkId, task: &str) -> Result<(), Refusal> {
        let reference = ExecutorRef {
            framework: framework.clone(),
            executor: ExecutorId::from(task),
        };
        let known = self.executor(&reference);
        if known.is_some_and(|executor| !executor.kind.is_built_in())
            || self.pod(&reference).is_some()
        {
            return Err(Refusal {
                state: TaskState::TaskDropped,
                reason: Reason::TaskInvalid,
                message: format!(
                    "The executor '{task}' is there already; a command task cannot have it as its own"
                ),
            });
        }
        Ok(())
    }

    pub(crate) fn check_known(&self, resources: &Resources) -> Result<(), Refusal> {
        match self.unknown_resources(resources) {
            None => Ok(()),
            Some(unknown) => Err(Refusal {
                state: TaskState::TaskDropped,
                reason: Reason::ResourcesUnknown,
                message: format!("The agent does not have {unknown}"),
            }),
        }
    }

    /// A task that never lived still needs its one status delivered.
    pub(crate) fn refuse(&mut self, framework: &FrameworkId, info: v1::TaskInfo, refusal: Refusal) {
        let task = TaskId::from(info.task_id.value.as_str());
        let reference = TaskRef {
            framework: framework.clone(),
            task,
        };
        let Some(held) = self.frameworks.get_mut(framework) else {
            return;
        };
        let mut task = Task::new(Arc::new(info), Resources::new());
        task.told_executor = task
            .info
            .executor
            .as_ref()
            .map(|executor| executor.executor_id.clone());
        held.tasks.insert(reference.task.clone(), task);
        self.end_task(&reference, refusal.state, refusal.reason, refusal.message);
    }

    /// The id's stream of updates belongs to the task that has the id, so the refusal travels beside it: without a
    /// uuid, sent once, and with the true state as the latest.
    pub(crate) fn refuse_duplicate(&mut self, reference: &TaskRef) {
        let Some(framework) = self.frameworks.get(&reference.framework) else {
            return;
        };
        let Some(task) = framework.tasks.get(&reference.task) else {
            return;
        };
        let status = v1::TaskStatus {
            task_id: wire::task_id(&reference.task),
            state: framework.told(TaskState::TaskDropped).into(),
            source: Some(Source::Agent.into()),
            reason: Some(Reason::TaskInvalid.into()),
            message: Some(format!(
                "The task id '{}' is in use on this agent",
                reference.task
            )),
            agent_id: self.agent_id.as_ref().map(wire::agent_id),
            timestamp: Some(self.now.wall_secs()),
            ..v1::TaskStatus::default()
        };
        let update = link::StatusUpdate {
            framework_id: wire::framework_id(&reference.framework),
            status,
            latest_state: task.state.into(),
        };
        self.tell_master(to_master::Body::Update(update));
    }

    pub(crate) fn prepare(
        &mut self,
        reference: TaskRef,
        info: v1::TaskInfo,
        resources: Resources,
        told_executor: Option<v1::ExecutorId>,
        membership: Membership,
    ) {
        let Membership { group, pod } = membership;
        let container_id = self.chance.container_id();
        let alone = self.sandbox(
            &reference.framework,
            reference.task.as_str(),
            container_id.as_str(),
        );
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let mut parent = None;
        let mut sandbox = alone;
        if let Some(pod) = pod.as_ref().and_then(|pod| framework.pods.get_mut(pod)) {
            pod.live.insert(reference.task.clone());
            sandbox = format!("{}/containers/{container_id}", pod.sandbox);
            parent = Some(pod.parent());
        }
        let info = Arc::new(info);
        let task = Task {
            container_id: container_id.clone(),
            sandbox: sandbox.clone(),
            told_executor,
            group,
            pod,
            ..Task::new(info.clone(), resources)
        };
        framework.tasks.insert(reference.task.clone(), task);
        let framework = framework.info.clone();
        self.effects.push(Effect::Prepare {
            task: reference,
            info,
            framework,
            container_id,
            sandbox,
            parent,
        });
    }

    fn launch_on_custom(
        &mut self,
        reference: TaskRef,
        info: v1::TaskInfo,
        resources: Resources,
        id: ExecutorId,
        own: Resources,
    ) {
        let executor = ExecutorRef {
            framework: reference.framework.clone(),
            executor: id,
        };
        if self.executor(&executor).is_none() {
            let info = info
                .executor
                .clone()
                .expect("examined: the task has an executor");
            self.create_executor(&executor, ExecutorKind::Custom, info, own);
        }
        self.place_on_custom(reference, info, resources, &executor, None);
    }

    pub(crate) fn sandbox(
        &self,
        framework: &FrameworkId,
        executor: &str,
        container_id: &str,
    ) -> String {
        let agent = self
            .agent_id
            .as_ref()
            .map_or("unregistered", |id| id.as_str());
        format!("slaves/{agent}/frameworks/{framework}/executors/{executor}/runs/{container_id}")
    }

    pub(crate) fn on_prepared(
        &mut self,
        reference: &TaskRef,
        result: Result<ext::LaunchPlan, PrepareFailure>,
    ) {
        let Some(task) = self.task_mut(reference) else {
            return;
        };
        if task.stage != Stage::Preparing {
            return;
        }
        let plan = match result {
            Ok(plan) => plan,
            Err(failure) => {
                self.end_task(
                    reference,
                    TaskState::TaskFailed,
                    failure.reason,
                    failure.message,
                );
                return;
            }
        };
        let kind = match plan.body() {
            Body::Wasm => ExecutorKind::Wasm,
            Body::Native => ExecutorKind::Native,
        };
        Arc::make_mut(&mut task.info).plan = Some(plan);
        task.stage = Stage::Prepared { kind };
        for (member, kind) in self.ready_with(reference) {
            self.assign_to_built_in(&member, kind);
        }
    }

    fn assign_to_built_in(&mut self, reference: &TaskRef, kind: ExecutorKind) {
        let executor = ExecutorRef {
            framework: reference.framework.clone(),
            executor: built_in_id(kind),
        };
        if self.executor(&executor).is_none() {
            let info = v1::ExecutorInfo {
                executor_id: wire::executor_id(&executor.executor),
                framework_id: Some(wire::framework_id(&executor.framework)),
                name: Some(match kind {
                    ExecutorKind::Wasm => "Tepui wasm executor".to_owned(),
                    ExecutorKind::Native | ExecutorKind::Custom => {
                        "Tepui native executor".to_owned()
                    }
                }),
                ..v1::ExecutorInfo::default()
            };
            self.create_executor(&executor, kind, info, Resources::new());
        }
        self.assign(reference, &executor);
    }

    /// Makes the task its executor's; from here on it holds resources there.
    pub(crate) fn assign(&mut self, reference: &TaskRef, executor: &ExecutorRef) {
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let checkpoint = framework.checkpoint;
        let (Some(task), Some(held)) = (
            framework.tasks.get_mut(&reference.task),
            framework.executors.get_mut(&executor.executor),
        ) else {
            return;
        };
        task.executor = Some(executor.executor.clone());
        if held.kind == ExecutorKind::Custom {
            let mut volumes = volumes_of(&task.info.resources);
            volumes.extend(volumes_of(&held.info.resources));
            // What is read-only is mounted as the executor starts.
            volumes.retain(|volume| !volume.read_only);
            if !volumes.is_empty() {
                let sandbox = held.sandbox.clone();
                self.effects.push(Effect::LinkVolumes { sandbox, volumes });
            }
        }
        held.live.insert(reference.task.clone());
        held.take(task);
        self.disarm_idle(executor);
        self.begin_executor(executor);
        match checkpoint {
            true => {
                let key = self.save_task(reference, executor);
                if let Some(task) = self.task_mut(reference) {
                    task.recorded = true;
                    task.stage = Stage::Saving { key };
                }
                self.saves.insert(key, Waiting::Task(reference.clone()));
            }
            false => self.queue(reference),
        }
    }

    fn save_task(&mut self, reference: &TaskRef, executor: &ExecutorRef) -> SaveKey {
        let task = self.task(reference).expect("assigned just now");
        let record = TaskRecord {
            info: (*task.info).clone(),
            sandbox: task.sandbox.clone(),
            container_id: task.container_id.as_str().to_owned(),
            told_executor: task.told_executor.clone(),
            group: task.group,
        };
        self.save(
            &Path::Task(reference.clone(), executor.executor.clone()),
            &record,
        )
    }

    pub(crate) fn on_task_saved(&mut self, reference: &TaskRef, key: SaveKey) {
        // The id may meanwhile belong to a later task.
        if self
            .task(reference)
            .is_some_and(|task| task.stage == Stage::Saving { key })
        {
            self.queue(reference);
        }
    }

    fn queue(&mut self, reference: &TaskRef) {
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(&reference.task) else {
            return;
        };
        task.stage = Stage::Queued;
        let executor = task.executor.clone().expect("a queued task was assigned");
        let Some(held) = framework.executors.get_mut(&executor) else {
            return;
        };
        held.queue.push_back(reference.task.clone());
        self.deliver_queued(&ExecutorRef {
            framework: reference.framework.clone(),
            executor,
        });
    }

    pub(crate) fn on_kill(&mut self, reference: &TaskRef, policy: Option<v1::KillPolicy>) {
        let Some(framework) = self.frameworks.get(&reference.framework) else {
            return;
        };
        if framework.terminating {
            return;
        }
        if framework.tasks.contains_key(&reference.task) {
            self.kill_task(reference, policy);
            return;
        }
        let refusal = Refusal {
            state: TaskState::TaskDropped,
            reason: Reason::ExecutorTerminated,
            message: "Asked to kill a task no executor here has".to_owned(),
        };
        self.refuse(&reference.framework, stranger(&reference.task), refusal);
    }

    pub(crate) fn kill_task(&mut self, reference: &TaskRef, policy: Option<v1::KillPolicy>) {
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(&reference.task) else {
            return;
        };
        let executor = task.executor.clone();
        match &mut task.stage {
            Stage::Preparing => {
                self.effects.push(Effect::CancelPrepare {
                    task: reference.clone(),
                });
                self.end_killed_during_launch(reference);
            }
            Stage::Prepared { .. } | Stage::Saving { .. } | Stage::Queued => {
                self.end_killed_during_launch(reference);
                if let Some(executor) = executor {
                    self.dismiss_if_unused(&ExecutorRef {
                        framework: reference.framework.clone(),
                        executor,
                    });
                }
            }
            Stage::Delivered { kill } => {
                let held = executor.and_then(|executor| framework.executors.get(&executor));
                let Some(held) = held.filter(|executor| !executor.is_ending()) else {
                    return;
                };
                *kill = Some(Kill { policy });
                if let Some(connection) = held.connection() {
                    let event = wire::kill(&reference.task, policy);
                    self.effects.push(Effect::ToExecutor { connection, event });
                }
            }
            Stage::Ended => {}
        }
    }

    fn end_killed_during_launch(&mut self, reference: &TaskRef) {
        let message = "The task was killed before it was launched";
        self.end_task(
            reference,
            TaskState::TaskKilled,
            Reason::TaskKilledDuringLaunch,
            message,
        );
    }

    pub(crate) fn on_reconcile(&mut self, reconcile: link::Reconcile) {
        for item in reconcile.items {
            let Some(framework) = self.adopt_framework(item.framework) else {
                continue;
            };
            for task in item.tasks {
                let reference = TaskRef {
                    framework: framework.clone(),
                    task: TaskId::from(task.value),
                };
                if self.task(&reference).is_none() {
                    let refusal = Refusal {
                        state: TaskState::TaskDropped,
                        reason: Reason::Reconciliation,
                        message: "The task is not known to this agent".to_owned(),
                    };
                    self.refuse(&framework, stranger(&reference.task), refusal);
                }
            }
            self.remove_framework_if_empty(&framework);
        }
    }
}

/// All that is known of a task only its id is known of.
fn stranger(task: &TaskId) -> v1::TaskInfo {
    v1::TaskInfo {
        task_id: wire::task_id(task),
        ..v1::TaskInfo::default()
    }
}
