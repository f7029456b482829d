//! Agents that are there and agents that go away: links, pings, disconnection, unreachability.

use std::sync::Arc;

use tepui_api::link::{self, to_agent, to_master};
use tepui_api::registry;
use tepui_api::v1::{TaskState, task_status::Reason};
use tepui_model::{AgentId, Tick};

use crate::core::{Core, Pending, Timer};
use crate::effect::{Effect, RegistryOperation};
use crate::input::LinkKey;
use crate::keys::{AgentKey, TaskKey};
use crate::messages::{self, told_state};
use crate::tasks::Leaving;
use crate::view::AwayAgent;
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
        }
    }

    pub(crate) fn on_message_of_agent(&mut self, agent: AgentKey, body: to_master::Body) {
        match body {
            to_master::Body::Update(update) => self.on_status_update(agent, update),
            to_master::Body::Pong(_) => self.agent_state(agent).pings_unanswered = 0,
            to_master::Body::ExecutorExited(exited) => self.on_executor_exited(agent, &exited),
            to_master::Body::Message(message) => self.on_executor_message(agent, message),
            to_master::Body::Register(_) | to_master::Body::FileChunk(_) => {}
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
    fn unlink_agent(&mut self, agent: AgentKey) {
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
            if let Some(link) = self.agents[agent].link {
                self.links.remove(&link);
                self.close_link(link);
            }
            self.unlink_agent(agent);
            self.mark_unreachable(vec![self.agents[agent].id.clone()]);
            return;
        }
        state.pings_unanswered += 1;
        state.ping_sequence += 1;
        let sequence = state.ping_sequence;
        self.send_to_agent(agent, to_agent::Body::Ping(link::Ping { sequence }));
        let due = self.now.tick.after(self.config.agent_ping_timeout);
        self.set_agent_timer(agent, due, Timer::Ping(agent));
    }

    pub(crate) fn on_reregister_timeout(&mut self, agent: AgentKey) {
        self.agent_state(agent).timer = None;
        self.mark_unreachable(vec![self.agents[agent].id.clone()]);
    }

    pub(crate) fn on_recovery_timeout(&mut self) {
        let away: Vec<AgentId> = self
            .recovered_agents
            .keys()
            .filter(|id| !self.registering_by_id.contains_key(*id))
            .cloned()
            .collect();
        if !away.is_empty() {
            self.mark_unreachable(away);
        }
        if self
            .recovered_agents
            .keys()
            .any(|id| self.registering_by_id.contains_key(id))
        {
            let due = self.now.tick.after(self.config.agent_reregister_timeout);
            self.timers.insert((due, Timer::Recovered));
        }
    }

    /// Nobody is told before it is on disk: a master that restarts must not take the agents for reachable again.
    fn mark_unreachable(&mut self, agents: Vec<AgentId>) {
        let since_ns = self.now.wall_ns;
        let mut puts = Vec::with_capacity(agents.len());
        for id in &agents {
            let info = match self.agent_by_id.get(id) {
                Some(agent) => self.agents[*agent].info.clone(),
                None => match self.recovered_agents.get(id) {
                    Some(info) => info.clone(),
                    None => continue,
                },
            };
            puts.push(agent_record(
                id,
                &info,
                registry::agent::State::Unreachable,
                Some(since_ns),
            ));
        }
        self.metrics.count("master/slave_unreachable_scheduled");
        self.marking.extend(agents.iter().cloned());
        self.persist(puts, Pending::Unreachable { agents, since_ns });
    }

    pub(crate) fn on_unreachable_persisted(&mut self, agents: &[AgentId], since_ns: i64) {
        for id in agents {
            self.marking.remove(id);
            self.metrics.count("master/slave_unreachable_completed");
            self.metrics.count("master/slave_removals");
            let info = match self.agent_by_id.get(id).copied() {
                Some(agent) => {
                    let info = self.agents[agent].info.clone();
                    self.part_with_agent(agent, since_ns);
                    info
                }
                None => match Arc::make_mut(&mut self.recovered_agents).remove(id) {
                    Some(info) => info,
                    None => continue,
                },
            };
            Arc::make_mut(&mut self.unreachable_agents)
                .insert(id.clone(), AwayAgent { info, since_ns });
            for framework in self.connected_frameworks() {
                self.send(framework, messages::agent_failure(id));
            }
        }
    }

    /// Takes the agent out of the table; its tasks wait for it with their frameworks.
    fn part_with_agent(&mut self, agent: AgentKey, since_ns: i64) {
        self.stop_agent_timer(agent);
        self.rescind_offers_of_agent(agent);
        for key in self.agent_states[&agent]
            .tasks
            .iter()
            .copied()
            .collect::<Vec<_>>()
        {
            let task = &self.tasks[key];
            let framework = task.framework;
            if task.state().is_terminal() {
                self.remove_task(key, Leaving::Unreachable);
                continue;
            }
            let state = told_state(TaskState::TaskUnreachable, self.capabilities(framework));
            let (id, named) = (
                wire::task_id(&task.id),
                Some(wire::agent_id(&task.agent_id)),
            );
            let message = format!("Agent {} is unreachable", self.agents[agent].info.hostname);
            let mut status = self.master_status(id, named, state, Reason::AgentRemoved, message);
            status.unreachable_time = Some(wire::time(since_ns));
            self.keep_status(key, &status);
            // Not the end of the task, even where its scheduler is told TASK_LOST: it may come back.
            self.advance_task(key, TaskState::TaskUnreachable);
            self.remove_task(key, Leaving::Unreachable);
            self.send_update(framework, status);
        }
        for executor in self.agent_states[&agent]
            .executors
            .values()
            .copied()
            .collect::<Vec<_>>()
        {
            self.remove_executor(executor);
        }
        self.allocator.remove_agent(agent.into());
        self.agent_states.remove(&agent);
        if let Some(record) = self.agents.remove(agent) {
            self.agent_by_id.remove(&record.id);
        }
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
