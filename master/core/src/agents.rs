//! Agents that are there: links, pings, disconnection.

use tepui_api::link::{self, to_agent, to_master};
use tepui_api::registry;
use tepui_api::v1::{TaskState, task_status::Reason};
use tepui_model::{AgentId, Tick};

use crate::core::{Core, Timer};
use crate::effect::{Effect, RegistryOperation};
use crate::input::LinkKey;
use crate::keys::{AgentKey, TaskKey};
use crate::wire;

impl Core {
    pub(crate) fn on_agent_message(&mut self, link: LinkKey, message: link::ToMaster) {
        let Some(body) = message.body else { return };
        if let to_master::Body::Register(register) = body {
            self.register(link, register);
            return;
        }
        if let Some(agent) = self.links.get(&link).copied() {
            self.on_message_of_agent(agent, body);
        } else if let Some(registering) = self.registering.get_mut(&link) {
            // The agent goes on at once; the master is still writing its registration down.
            registering.early.push(body);
        } else {
            self.metrics.count("master/dropped_messages");
        }
    }

    pub(crate) fn on_message_of_agent(&mut self, agent: AgentKey, body: to_master::Body) {
        match body {
            to_master::Body::Update(update) => self.on_status_update(agent, update),
            to_master::Body::Pong(_) => {
                self.agent_state(agent).pings_unanswered = 0;
                let id = self.agents[agent].id.clone();
                self.keep_agent(&id);
            }
            to_master::Body::ExecutorExited(exited) => self.on_executor_exited(agent, &exited),
            to_master::Body::Message(message) => self.on_executor_message(agent, message),
            to_master::Body::OperationUpdate(update) => self.on_operation_update(agent, update),
            to_master::Body::Holdings(told) => self.on_holdings(agent, told),
            to_master::Body::GuestRequest(asked) => {
                if let Some(link) = self.agents[agent].link {
                    self.on_guest_request(link, asked);
                }
            }
            to_master::Body::Register(_)
            | to_master::Body::FileChunk(_)
            | to_master::Body::LocateArtifact(_) => {}
        }
    }

    pub(crate) fn close_link(&mut self, link: LinkKey) {
        self.effects.push(Effect::CloseLink { link });
    }

    pub(crate) fn on_link_closed(&mut self, link: LinkKey) {
        if let Some(registering) = self.registering.remove(&link) {
            self.registering_by_id.remove(&registering.id);
        }
        let Some(agent) = self.links.remove(&link) else {
            return;
        };
        self.unlink_agent(agent);
        let due = self.now.tick.after(self.config.agent_reregister_timeout);
        self.set_agent_timer(agent, due, Timer::Reregister(agent));
        self.lose_unchecked_tasks(agent);
    }

    /// The agent can neither be reached nor offered any more. Its tasks stay as they are.
    pub(crate) fn unlink_agent(&mut self, agent: AgentKey) {
        self.stop_agent_timer(agent);
        let record = &mut self.agents[agent];
        record.link = None;
        record.connected = false;
        record.active = false;
        self.allocator.set_agent_active(agent.into(), false);
        self.rescind_offers_of_agent(agent);
    }

    /// Without checkpoints nothing outlives the agent's process, and the link may have broken because that ended.
    fn lose_unchecked_tasks(&mut self, agent: AgentKey) {
        let state = &self.agent_states[&agent];
        let tasks: Vec<TaskKey> = state
            .tasks
            .iter()
            .copied()
            .filter(|task| {
                !self.frameworks[self.tasks[*task].framework]
                    .info
                    .checkpoint()
            })
            .collect();
        let executors: Vec<_> = state
            .executors
            .iter()
            .filter(|((framework, _), _)| !self.frameworks[*framework].info.checkpoint())
            .map(|(_, executor)| *executor)
            .collect();
        for task in tasks {
            let record = &self.tasks[task];
            if !record.state().is_terminal() {
                let (agent, lost) = (
                    record.agent_id.clone(),
                    (record.framework_id.clone(), record.id.clone()),
                );
                self.given_up.entry(agent).or_default().insert(lost);
            }
            self.end_task(
                task,
                TaskState::TaskLost,
                Reason::AgentDisconnected,
                "Agent disconnected",
            );
        }
        for executor in executors {
            self.remove_executor(executor);
        }
    }

    pub(crate) fn set_agent_timer(&mut self, agent: AgentKey, due: Tick, timer: Timer) {
        self.stop_agent_timer(agent);
        self.agent_state(agent).timer = Some(due);
        self.timers.insert((due, timer));
    }

    pub(crate) fn stop_agent_timer(&mut self, agent: AgentKey) {
        if let Some(due) = self.agent_state(agent).timer.take() {
            self.timers.remove(&(due, Timer::Ping(agent)));
            self.timers.remove(&(due, Timer::Reregister(agent)));
        }
    }

    pub(crate) fn start_pings(&mut self, agent: AgentKey) {
        self.agent_state(agent).pings_unanswered = 0;
        let due = self.now.tick.after(self.config.agent_ping_timeout);
        self.set_agent_timer(agent, due, Timer::Ping(agent));
    }

    pub(crate) fn on_ping_due(&mut self, agent: AgentKey) {
        let limit = self.config.max_agent_ping_timeouts;
        let state = self.agent_state(agent);
        state.timer = None;
        if state.pings_unanswered >= limit {
            let id = self.agents[agent].id.clone();
            self.give_up_agents(vec![id.clone()]);
            if self.marking.contains_key(&id) {
                return;
            }
        }
        // Also while it waits for its turn to be given up: an answer still saves it.
        let state = self.agent_state(agent);
        state.pings_unanswered += 1;
        state.ping_sequence += 1;
        let sequence = state.ping_sequence;
        self.send_to_agent(agent, to_agent::Body::Ping(link::Ping { sequence }));
        let due = self.now.tick.after(self.config.agent_ping_timeout);
        self.set_agent_timer(agent, due, Timer::Ping(agent));
    }

    pub(crate) fn on_reregister_timeout(&mut self, agent: AgentKey) {
        self.agent_state(agent).timer = None;
        self.give_up_agents(vec![self.agents[agent].id.clone()]);
    }
}

pub(crate) fn agent_key(id: &AgentId) -> String {
    format!("agent/{id}")
}

pub(crate) fn agent_record(
    id: &AgentId,
    info: &tepui_api::v1::AgentInfo,
    state: registry::agent::State,
    since_ns: Option<i64>,
) -> RegistryOperation {
    let record = registry::Agent {
        info: info.clone(),
        state: state.into(),
        since: since_ns.map(wire::time),
    };
    wire::put(agent_key(id), &record)
}
