//! The table of tasks: entering, charging, changing state, leaving.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_api::convert::task_user;
use tepui_api::secrets::concealed;
use tepui_api::v1::{self, TaskState};
use tepui_model::{ExecutorId, FrameworkId, TaskId};

use crate::core::Core;
use crate::keys::{AgentKey, ExecutorKey, FrameworkKey, TaskKey};
use crate::view::{ExecutorRecord, TaskRecord};
use crate::wire::additive;

/// Where a task's record goes when it leaves the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It has ended for good.
    Completed,
    /// Its agent is unreachable; it may come back.
    Unreachable,
}

/// How far a task has got. A state never gives way to one of a lower rank.
pub(crate) fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::TaskStaging => 0,
        TaskState::TaskStarting => 1,
        TaskState::TaskRunning => 2,
        TaskState::TaskKilling => 3,
        TaskState::TaskUnreachable | TaskState::TaskUnknown => 4,
        TaskState::TaskFinished
        | TaskState::TaskFailed
        | TaskState::TaskKilled
        | TaskState::TaskError
        | TaskState::TaskLost
        | TaskState::TaskDropped
        | TaskState::TaskGone
        | TaskState::TaskGoneByOperator => 5,
    }
}

impl Core {
    pub(crate) fn find_task(&self, framework: FrameworkKey, id: &str) -> Option<TaskKey> {
        self.framework_states
            .get(&framework)?
            .tasks
            .get(id)
            .copied()
    }

    /// Enters a task and charges for it unless it has ended. The allocator is told by the caller.
    pub(crate) fn insert_task(&mut self, mut task: TaskRecord) -> TaskKey {
        let (framework, agent, id) = (task.framework, task.agent, task.id.clone());
        task.charged = !task.state().is_terminal();
        self.count_task_entered(framework, task.state());
        if task.charged {
            self.agents[agent].used.add(&task.resources);
            self.frameworks[framework]
                .used
                .add(&additive(&task.resources));
        }
        self.agents[agent].tasks += 1;
        self.frameworks[framework].tasks += 1;
        self.invert_offers_of(agent);
        let key = self.tasks.insert(task);
        self.agent_state(agent).tasks.insert(key);
        self.framework_state(framework).tasks.insert(id, key);
        self.index_service(key);
        self.tell_task_added(key);
        key
    }

    /// Moves the task on, if the state is news. A terminal state is final and frees what the task held; steps back are
    /// ignored.
    pub(crate) fn advance_task(&mut self, key: TaskKey, state: TaskState) -> bool {
        let task = &mut self.tasks[key];
        let current = task.state();
        // An executor that said that it lost sight of its task may find it again.
        let lost_sight = matches!(current, TaskState::TaskUnreachable | TaskState::TaskUnknown);
        let back = rank(state) < rank(current) && !lost_sight;
        if current.is_terminal() || current == state || back {
            return false;
        }
        task.wire.state = state.into();
        let framework = task.framework;
        self.index_service(key);
        self.count_task_left(framework, current);
        self.count_task_entered(framework, state);
        if state.is_terminal() {
            let id = self.tasks[key].id.clone();
            self.framework_state(framework).kills.remove(&id);
            self.release_task(key);
        }
        true
    }

    fn release_task(&mut self, key: TaskKey) {
        let task = &mut self.tasks[key];
        if !std::mem::take(&mut task.charged) {
            return;
        }
        let (framework, agent) = (task.framework, task.agent);
        let (role, resources) = (task.role.clone(), task.resources.clone());
        self.agents[agent].used.subtract(&resources);
        self.frameworks[framework]
            .used
            .subtract(&additive(&resources));
        self.allocator
            .release(agent.into(), framework.into(), &role, &resources);
    }

    /// Keeps the status with the task: the last one of each run of equal states, without its data.
    pub(crate) fn keep_status(&mut self, key: TaskKey, status: &v1::TaskStatus) {
        let mut status = status.clone();
        status.data = None;
        let statuses = &mut self.tasks[key].wire.statuses;
        match statuses.last_mut() {
            Some(last) if last.state == status.state => *last = status,
            _ => statuses.push(status),
        }
    }

    /// Takes a task out of the table, together with what it still holds.
    pub(crate) fn remove_task(&mut self, key: TaskKey, leaving: Leaving) {
        self.release_task(key);
        let Some(task) = self.tasks.remove(key) else {
            return;
        };
        self.forget_service(key, &task);
        let state = self.agent_state(task.agent);
        state.tasks.remove(&key);
        self.agents[task.agent].tasks -= 1;
        self.framework_state(task.framework).tasks.remove(&task.id);
        self.frameworks[task.framework].tasks -= 1;
        let wire = match Arc::try_unwrap(task.clone()) {
            Ok(task) => task.wire,
            Err(task) => task.wire.clone(),
        };
        match leaving {
            Leaving::Completed => {
                self.framework_state(task.framework).kills.remove(&task.id);
                self.count_task_left(task.framework, task.state());
                self.frameworks[task.framework]
                    .completed_tasks
                    .push(Arc::new(wire));
            }
            Leaving::Unreachable => {
                let agent = task.agent_id.clone();
                self.keep_unreachable(task.framework, task.id.clone(), &agent, wire);
            }
        }
    }

    fn keep_unreachable(
        &mut self,
        framework: FrameworkKey,
        id: TaskId,
        agent: &tepui_model::AgentId,
        wire: v1::Task,
    ) {
        if self.config.max_unreachable_tasks_per_framework == 0 {
            self.framework_state(framework).kills.remove(&id);
            self.count_task_left(framework, wire.state());
            return;
        }
        self.away_tasks
            .entry(agent.clone())
            .or_default()
            .insert((framework, id.clone()));
        self.framework_state(framework)
            .unreachable_order
            .push_back(id.clone());
        Arc::make_mut(&mut self.frameworks[framework].unreachable_tasks).insert(id, Arc::new(wire));
        if self.frameworks[framework].unreachable_tasks.len()
            > self.config.max_unreachable_tasks_per_framework
            && let Some(oldest) = self
                .framework_state(framework)
                .unreachable_order
                .front()
                .cloned()
        {
            self.take_unreachable(framework, &oldest);
        }
    }

    /// Takes a task off its framework's list of unreachable ones.
    pub(crate) fn take_unreachable(
        &mut self,
        framework: FrameworkKey,
        id: &TaskId,
    ) -> Option<Arc<v1::Task>> {
        if !self.frameworks[framework]
            .unreachable_tasks
            .contains_key(id)
        {
            return None;
        }
        let task = Arc::make_mut(&mut self.frameworks[framework].unreachable_tasks).remove(id)?;
        let state = self.framework_state(framework);
        state.unreachable_order.retain(|other| other != id);
        state.kills.remove(id);
        if let Some(tasks) = self.away_tasks.get_mut(task.agent_id.value.as_str()) {
            tasks.remove(&(framework, id.clone()));
            if tasks.is_empty() {
                self.away_tasks.remove(task.agent_id.value.as_str());
            }
        }
        self.count_task_left(framework, task.state());
        Some(task)
    }

    /// Enters an executor and charges for it. The allocator is told by the caller.
    pub(crate) fn insert_executor(&mut self, executor: ExecutorRecord) -> ExecutorKey {
        let (framework, agent, id) = (executor.framework, executor.agent, executor.id.clone());
        self.agents[agent].used.add(&executor.resources);
        self.frameworks[framework]
            .used
            .add(&additive(&executor.resources));
        let key = self.executors.insert(executor);
        self.agent_state(agent)
            .executors
            .insert((framework, id), key);
        self.framework_state(framework).executors.insert(key);
        key
    }

    pub(crate) fn remove_executor(&mut self, key: ExecutorKey) {
        let Some(executor) = self.executors.remove(key) else {
            return;
        };
        let (framework, agent) = (executor.framework, executor.agent);
        self.agent_state(agent)
            .executors
            .remove(&(framework, executor.id.clone()));
        self.framework_state(framework).executors.remove(&key);
        self.agents[agent].used.subtract(&executor.resources);
        self.frameworks[framework]
            .used
            .subtract(&additive(&executor.resources));
        self.allocator.release(
            agent.into(),
            framework.into(),
            &executor.role,
            &executor.resources,
        );
    }

    pub(crate) fn find_executor(
        &self,
        agent: AgentKey,
        framework: FrameworkKey,
        id: &ExecutorId,
    ) -> Option<&Arc<ExecutorRecord>> {
        let key = self
            .agent_states
            .get(&agent)?
            .executors
            .get(&(framework, id.clone()))?;
        self.executors.get(*key)
    }
}

/// What the master shows of a task from now on.
pub(crate) fn task_of(
    framework: &FrameworkId,
    framework_user: &str,
    info: &v1::TaskInfo,
) -> v1::Task {
    v1::Task {
        name: info.name.clone(),
        task_id: info.task_id.clone(),
        framework_id: crate::wire::framework_id(framework),
        executor_id: info
            .executor
            .as_ref()
            .map(|executor| executor.executor_id.clone()),
        agent_id: info.agent_id.clone(),
        state: TaskState::TaskStaging.into(),
        resources: info.resources.clone(),
        statuses: Vec::new(),
        status_update_state: None,
        status_update_uuid: None,
        labels: info.labels.clone(),
        discovery: info.discovery.clone(),
        container: concealed(&info.container),
        user: Some(task_user(info, framework_user).to_owned()),
        health_check: concealed(&info.health_check),
        kill_policy: info.kill_policy,
        limits: BTreeMap::clone(&info.limits),
    }
}
