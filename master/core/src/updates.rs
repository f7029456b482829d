//! What goes to and fro between schedulers and their tasks: status updates, acknowledgements, kills, messages.

use tepui_api::link::{self, to_agent};
use tepui_api::v1::scheduler::call;
use tepui_api::v1::{self, TaskState};
use tepui_model::{ExecutorId, TaskId};

use crate::core::Core;
use crate::keys::{AgentKey, FrameworkKey, TaskKey};
use crate::messages;
use crate::tasks::Leaving;

impl Core {
    pub(crate) fn on_status_update(&mut self, agent: AgentKey, update: link::StatusUpdate) {
        self.metrics.count("master/messages_status_update");
        let latest = update.latest_state();
        let link::StatusUpdate {
            framework_id,
            mut status,
            ..
        } = update;
        let Some(framework) = self
            .framework_by_id
            .get(framework_id.value.as_str())
            .copied()
        else {
            self.metrics.count("master/invalid_status_updates");
            // Removed, or never heard of: nobody will ever acknowledge this.
            let shutdown = link::ShutdownFramework { framework_id };
            self.send_to_agent(agent, to_agent::Body::ShutdownFramework(shutdown));
            return;
        };
        let known = self.find_task(framework, &status.task_id.value);
        let Some(key) = known.filter(|key| {
            self.tasks[*key].agent == agent
                && self.is_next(*key, &status)
                && !self.is_acknowledged(*key, &status)
        }) else {
            self.metrics.count("master/invalid_status_updates");
            // The task has had its last word already, or its scheduler has acknowledged this one; the agent is told to
            // keep it to itself.
            if let Some(uuid) = status.uuid {
                let acknowledge = link::Acknowledge {
                    framework_id,
                    task_id: status.task_id,
                    uuid,
                };
                self.send_to_agent(agent, to_agent::Body::Acknowledge(acknowledge));
            }
            return;
        };
        self.metrics.count("master/valid_status_updates");
        let state = messages::told_state(status.state(), self.capabilities(framework));
        status.state = state.into();
        self.keep_status(key, &status);
        let task = &mut self.tasks[key];
        task.wire.status_update_state = Some(state.into());
        task.wire.status_update_uuid.clone_from(&status.uuid);
        task.forwarded_uuid.clone_from(&status.uuid);
        let latest = messages::told_state(latest, self.capabilities(framework));
        let moved = self.advance_task(key, state) | self.advance_task(key, latest);
        if moved || is_check_result(&status) {
            self.tell_task_updated(key, &status);
        }
        let needs_acknowledgement = status.uuid.is_some();
        self.send_update(framework, status);
        if state.is_terminal() && !needs_acknowledgement {
            self.remove_task(key, Leaving::Completed);
        }
    }

    /// Whether the status may follow what the task went through: a task ends once.
    fn is_next(&self, key: TaskKey, status: &v1::TaskStatus) -> bool {
        let task = &self.tasks[key];
        let forwarded = task
            .wire
            .status_update_state
            .is_some()
            .then(|| task.wire.status_update_state());
        let state = messages::told_state(status.state(), self.capabilities(task.framework));
        match forwarded {
            // What was forwarded last may come again until it is acknowledged.
            Some(ended) if ended.is_terminal() => status.uuid == task.forwarded_uuid,
            _ => !(state.is_terminal() && task.state().is_terminal()) || state == task.state(),
        }
    }

    /// An agent that lost the acknowledgement sends the update again, and the scheduler is past it.
    fn is_acknowledged(&self, key: TaskKey, status: &v1::TaskStatus) -> bool {
        status.uuid.is_some() && status.uuid == self.tasks[key].acknowledged_uuid
    }

    pub(crate) fn acknowledge(&mut self, framework: FrameworkKey, acknowledge: call::Acknowledge) {
        self.metrics
            .count("master/messages_status_update_acknowledgement");
        let call::Acknowledge {
            agent_id,
            task_id,
            uuid,
        } = acknowledge;
        let agent = self.agent_by_id.get(agent_id.value.as_str()).copied();
        let connected = agent.filter(|agent| self.agents[*agent].connected);
        let task = self.find_task(framework, &task_id.value);
        let (Some(agent), Some(key)) = (connected, task) else {
            self.metrics
                .count("master/invalid_status_update_acknowledgements");
            return;
        };
        let task = &self.tasks[key];
        if task.agent != agent || task.forwarded_uuid.is_none() {
            self.metrics
                .count("master/invalid_status_update_acknowledgements");
            return;
        }
        self.metrics
            .count("master/valid_status_update_acknowledgements");
        let latest = task.forwarded_uuid.as_ref() == Some(&uuid);
        let ended = latest && task.wire.status_update_state().is_terminal();
        if latest {
            self.tasks[key].acknowledged_uuid = Some(uuid.clone());
        }
        let framework_id = crate::wire::framework_id(self.framework_id(framework));
        let forwarded = link::Acknowledge {
            framework_id,
            task_id,
            uuid,
        };
        self.send_to_agent(agent, to_agent::Body::Acknowledge(forwarded));
        if ended {
            self.remove_task(key, Leaving::Completed);
        }
    }

    pub(crate) fn kill(&mut self, framework: FrameworkKey, kill: call::Kill) {
        self.metrics.count("master/messages_kill_task");
        let call::Kill {
            task_id,
            agent_id,
            kill_policy,
        } = kill;
        let Some(key) = self.find_task(framework, &task_id.value) else {
            self.reconcile(framework, &[call::reconcile::Task { task_id, agent_id }]);
            return;
        };
        if agent_id.is_some_and(|named| named.value != self.tasks[key].agent_id.as_str()) {
            return;
        }
        self.want_killed(key, kill_policy);
    }

    /// Asks the task's agent to end it, now if it is there, and each time it comes back until the task has ended.
    pub(crate) fn want_killed(&mut self, key: TaskKey, kill_policy: Option<v1::KillPolicy>) {
        let task = &self.tasks[key];
        let (agent, framework, id) = (task.agent, task.framework, task.id.clone());
        if !task.state().is_terminal() {
            self.framework_state(framework)
                .kills
                .insert(id.clone(), kill_policy);
        }
        if self.agents[agent].connected {
            self.send_kill(agent, framework, &id, kill_policy);
        }
    }

    pub(crate) fn send_kill(
        &mut self,
        agent: AgentKey,
        framework: FrameworkKey,
        task: &TaskId,
        kill_policy: Option<v1::KillPolicy>,
    ) {
        let framework_id = crate::wire::framework_id(self.framework_id(framework));
        let kill = link::Kill {
            framework_id,
            task_id: crate::wire::task_id(task),
            kill_policy,
        };
        self.send_to_agent(agent, to_agent::Body::Kill(kill));
    }

    pub(crate) fn shut_executor_down(&mut self, framework: FrameworkKey, shutdown: call::Shutdown) {
        if let Some(agent) = self
            .agent_by_id
            .get(shutdown.agent_id.value.as_str())
            .copied()
        {
            let framework_id = crate::wire::framework_id(self.framework_id(framework));
            let shutdown = link::ShutdownExecutor {
                framework_id,
                executor_id: shutdown.executor_id,
            };
            self.send_to_agent(agent, to_agent::Body::ShutdownExecutor(shutdown));
        }
    }

    pub(crate) fn message_executor(&mut self, framework: FrameworkKey, message: call::Message) {
        self.metrics.count("master/messages_framework_to_executor");
        let agent = self.agent_by_id.get(message.agent_id.value.as_str());
        let linked = agent
            .copied()
            .filter(|agent| self.agents[*agent].link.is_some());
        if let Some(agent) = linked {
            let framework_id = crate::wire::framework_id(self.framework_id(framework));
            let call::Message {
                executor_id, data, ..
            } = message;
            let message = link::ExecutorMessage {
                framework_id,
                executor_id,
                data,
            };
            self.send_to_agent(agent, to_agent::Body::Message(message));
        } else {
            self.metrics.count("master/dropped_messages");
        }
    }

    pub(crate) fn on_executor_message(&mut self, agent: AgentKey, message: link::ExecutorMessage) {
        self.metrics.count("master/messages_executor_to_framework");
        let framework = self
            .framework_by_id
            .get(message.framework_id.value.as_str());
        let listening = framework.copied().filter(|framework| {
            let state = self.framework_states.get(framework);
            state.is_some_and(|state| state.stream.is_some())
        });
        if let Some(framework) = listening {
            let event =
                messages::message(&self.agents[agent].id, message.executor_id, message.data);
            self.send(framework, event);
        } else {
            self.metrics.count("master/dropped_messages");
        }
    }

    pub(crate) fn on_executor_exited(&mut self, agent: AgentKey, exited: &link::ExecutorExited) {
        self.metrics.count("master/messages_exited_executor");
        let Some(framework) = self
            .framework_by_id
            .get(exited.framework_id.value.as_str())
            .copied()
        else {
            return;
        };
        let id = ExecutorId::from(exited.executor_id.value.as_str());
        if let Some(key) = self
            .agent_state(agent)
            .executors
            .get(&(framework, id.clone()))
            .copied()
        {
            self.remove_executor(key);
        }
        if !exited.built_in() {
            let event = messages::executor_failure(&self.agents[agent].id, &id, exited.status);
            self.send(framework, event);
        }
    }

    /// Ends a task by the master's own word, tells its scheduler and puts it among the completed ones.
    pub(crate) fn end_task(
        &mut self,
        key: TaskKey,
        state: TaskState,
        reason: v1::task_status::Reason,
        message: &str,
    ) {
        let task = &self.tasks[key];
        let framework = task.framework;
        if task.state().is_terminal() {
            // It ended by itself; its last update just was not acknowledged.
            self.remove_task(key, Leaving::Completed);
            return;
        }
        let (id, agent) = (
            crate::wire::task_id(&task.id),
            Some(crate::wire::agent_id(&task.agent_id)),
        );
        let status = self.master_status(id, agent, state, reason, message);
        self.keep_status(key, &status);
        if self.advance_task(key, state) {
            self.tell_task_updated(key, &status);
        }
        self.remove_task(key, Leaving::Completed);
        self.send_update(framework, status);
    }
}

/// Whether the status was sent because of what a check found.
fn is_check_result(status: &v1::TaskStatus) -> bool {
    use v1::task_status::Reason;
    status.reason.is_some()
        && matches!(
            status.reason(),
            Reason::TaskCheckStatusUpdated | Reason::TaskHealthCheckStatusUpdated
        )
}
