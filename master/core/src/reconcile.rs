//! RECONCILE: what the master knows of tasks and operations, in words that can be trusted.

use tepui_api::v1::scheduler::call;
use tepui_api::v1::{self, TaskState, task_status::Reason};

use crate::core::Core;
use crate::keys::{FrameworkKey, OperationKey, TaskKey};
use crate::messages::{self, told_state};

impl Core {
    pub(crate) fn reconcile(&mut self, framework: FrameworkKey, tasks: &[call::reconcile::Task]) {
        self.metrics.count("master/messages_reconcile_tasks");
        if tasks.is_empty() {
            let all: Vec<TaskKey> = self.framework_states[&framework]
                .tasks
                .values()
                .copied()
                .collect();
            for key in all {
                let status = self.known_status(key);
                self.send_update(framework, status);
            }
            return;
        }
        for task in tasks {
            if let Some(status) = self.explicit_status(framework, task) {
                self.send_update(framework, status);
            }
        }
    }

    fn known_status(&self, key: TaskKey) -> v1::TaskStatus {
        let task = &self.tasks[key].wire;
        // A scheduler must not hear of a state before the update that brings it.
        let state = if task.status_update_state.is_some() {
            task.status_update_state()
        } else {
            task.state()
        };
        let mut status = self.reconciliation(task, state, "Reconciliation: Latest task state");
        if let Some(last) = task.statuses.last() {
            status.healthy = last.healthy;
            status.check_status.clone_from(&last.check_status);
            status.container_status.clone_from(&last.container_status);
        }
        status
    }

    fn reconciliation(&self, task: &v1::Task, state: TaskState, message: &str) -> v1::TaskStatus {
        let agent = Some(task.agent_id.clone());
        let mut status = self.master_status(
            task.task_id.clone(),
            agent,
            state,
            Reason::Reconciliation,
            message,
        );
        status.executor_id.clone_from(&task.executor_id);
        status
    }

    /// `None` while there is reason to expect that the truth will be known soon.
    fn explicit_status(
        &self,
        framework: FrameworkKey,
        asked: &call::reconcile::Task,
    ) -> Option<v1::TaskStatus> {
        let id = asked.task_id.value.as_str();
        if let Some(key) = self.find_task(framework, id) {
            return Some(self.known_status(key));
        }
        let capabilities = self.capabilities(framework);
        if let Some(away) = self.frameworks[framework].unreachable_tasks.get(id) {
            // As below: not before the update that brings it, and the agent has that.
            let told = match away.status_update_state {
                Some(_) => away.status_update_state(),
                None => away.state(),
            };
            if told.is_terminal() {
                let message = "Reconciliation: Latest task state";
                return Some(self.reconciliation(away, told, message));
            }
            // Once its agent has been forgotten, nothing is known of it any more.
            if let Some(agent) = self.unreachable_agents.get(away.agent_id.value.as_str()) {
                let state = told_state(TaskState::TaskUnreachable, capabilities);
                let message = "Reconciliation: Task is unreachable";
                let mut status = self.reconciliation(away, state, message);
                status.unreachable_time = Some(crate::wire::time(agent.since_ns));
                return Some(status);
            }
        }
        let agent = asked.agent_id.as_ref().map(|agent| agent.value.as_str());
        let may_be_on_its_way_back = match agent {
            Some(agent) => {
                self.recovered_agents.contains_key(agent)
                    || self.registering_by_id.contains_key(agent)
            }
            None => !self.recovered_agents.is_empty(),
        };
        if may_be_on_its_way_back {
            return None;
        }
        let mut unreachable_time = None;
        let (state, message) = match agent {
            Some(agent) if self.agent_by_id.contains_key(agent) => (
                TaskState::TaskGone,
                "Reconciliation: Task is unknown to the agent",
            ),
            Some(agent) if self.gone_agents.contains_key(agent) => (
                TaskState::TaskGoneByOperator,
                "Reconciliation: Task is gone",
            ),
            Some(agent) if self.unreachable_agents.contains_key(agent) => {
                let since_ns = self
                    .unreachable_agents
                    .get(agent)
                    .map(|agent| agent.since_ns);
                unreachable_time = since_ns.map(crate::wire::time);
                (
                    TaskState::TaskUnreachable,
                    "Reconciliation: Task is unreachable",
                )
            }
            _ => (TaskState::TaskUnknown, "Reconciliation: Task is unknown"),
        };
        let state = told_state(state, capabilities);
        let (task, agent) = (asked.task_id.clone(), asked.agent_id.clone());
        let mut status = self.master_status(task, agent, state, Reason::Reconciliation, message);
        status.unreachable_time = unreachable_time;
        Some(status)
    }

    /// With no operation named: all that the master knows of.
    pub(crate) fn reconcile_operations(
        &mut self,
        framework: FrameworkKey,
        operations: Vec<call::reconcile_operations::Operation>,
    ) {
        if operations.is_empty() {
            let all: Vec<OperationKey> = self.framework_states[&framework]
                .operations
                .values()
                .copied()
                .collect();
            for key in all {
                self.tell_latest_status(framework, key);
            }
            return;
        }
        for operation in operations {
            match self.find_operation(framework, &operation.operation_id.value) {
                Some(key) => self.tell_latest_status(framework, key),
                None => self.tell_unknown_operation(framework, operation),
            }
        }
    }

    /// Without a uuid: what the agent sent is acknowledged when it comes.
    fn tell_latest_status(&mut self, framework: FrameworkKey, key: OperationKey) {
        let status = v1::OperationStatus {
            uuid: None,
            message: Some("Reconciliation: Latest operation status".to_owned()),
            ..self.operations[key].wire.latest_status.clone()
        };
        self.send(framework, messages::update_operation_status(status));
    }

    fn tell_unknown_operation(
        &mut self,
        framework: FrameworkKey,
        operation: call::reconcile_operations::Operation,
    ) {
        let agent = operation.agent_id.as_ref().map_or("", |agent| &agent.value);
        let state = if self.recovered_agents.contains_key(agent)
            || self.registering_by_id.contains_key(agent)
        {
            v1::OperationState::OperationRecovering
        } else if self.unreachable_agents.contains_key(agent) {
            v1::OperationState::OperationUnreachable
        } else if self.gone_agents.contains_key(agent) {
            v1::OperationState::OperationGoneByOperator
        } else {
            v1::OperationState::OperationUnknown
        };
        let status = v1::OperationStatus {
            operation_id: Some(operation.operation_id),
            state: state.into(),
            message: Some("Reconciliation: Operation is unknown".to_owned()),
            agent_id: operation.agent_id,
            resource_provider_id: operation.resource_provider_id,
            ..v1::OperationStatus::default()
        };
        self.send(framework, messages::update_operation_status(status));
    }
}
