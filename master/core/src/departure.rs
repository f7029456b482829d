//! Agents that leave the table: unreachable, marked gone, removed with their machine; and how quickly they may.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tepui_api::link::{self, to_agent};
use tepui_api::registry;
use tepui_api::v1::{self, OperationState, TaskState, task_status::Reason};
use tepui_model::{AgentId, TaskId, Tick};

use crate::agents::{agent_key, agent_record};
use crate::core::{Core, Pending, Timer};
use crate::effect::{Answer, Effect, RegistryOperation};
use crate::happenings::Happening;
use crate::input::RequestKey;
use crate::keys::{AgentKey, FrameworkKey, TaskKey};
use crate::management::deactivated_key;
use crate::messages::{self, told_state};
use crate::tasks::Leaving;
use crate::view::AwayAgent;
use crate::wire;

/// What the registry is being told of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marking {
    Unreachable,
    Gone,
}

/// Why an agent leaves the table.
#[derive(Debug, Clone, Copy)]
enum Departure<'a> {
    /// It may come back, and its tasks with it.
    Unreachable { since_ns: i64 },
    /// An operator says that it will never come back.
    Gone,
    /// It is none of this cluster's any more.
    Removed { message: &'a str },
}

/// Agents that are to become unreachable, in the order in which they may.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    waiting: VecDeque<AgentId>,
    /// When the next one may.
    next: Tick,
}

impl Removals {
    pub(crate) fn contains(&self, id: &AgentId) -> bool {
        self.waiting.contains(id)
    }
}

impl Core {
    /// Agents are to become unreachable: at once, or as quickly as `agent_removal_rate_limit` allows.
    pub(crate) fn give_up_agents(&mut self, ids: Vec<AgentId>) {
        for id in ids {
            if !self.marking.contains_key(&id) && !self.removals.contains(&id) {
                self.metrics.count("master/slave_unreachable_scheduled");
                self.removals.waiting.push_back(id);
            }
        }
        self.on_removal_due();
    }

    pub(crate) fn on_removal_due(&mut self) {
        let interval = self
            .config
            .agent_removal_rate_limit
            .map(|limit| limit.interval());
        let mut permitted = Vec::new();
        while self.removals.next <= self.now.tick
            && let Some(id) = self.removals.waiting.pop_front()
        {
            permitted.push(id);
            if let Some(interval) = interval {
                self.removals.next = self.now.tick.after(interval);
            }
        }
        if !self.removals.waiting.is_empty() {
            self.timers.insert((self.removals.next, Timer::Removal));
        }
        if !permitted.is_empty() {
            self.mark_unreachable(permitted);
        }
    }

    /// The agent is heard of again before its turn came.
    pub(crate) fn keep_agent(&mut self, id: &AgentId) {
        if self.removals.contains(id) {
            self.removals.waiting.retain(|waiting| waiting != id);
            self.metrics.count("master/slave_unreachable_canceled");
        }
    }

    pub(crate) fn on_recovery_timeout(&mut self) {
        let (coming, away): (Vec<AgentId>, Vec<AgentId>) = self
            .recovered_agents
            .keys()
            .cloned()
            .partition(|id| self.registering_by_id.contains_key(id));
        let part = away.len() as f64 / self.recovered_at_start.max(1) as f64;
        if part > self.config.recovery_agent_removal_limit {
            let message = format!(
                "{} of {} agents did not come back within {} of the master's start, which is more than \
                 --recovery_agent_removal_limit allows to give up; bring them back or raise the limit",
                away.len(),
                self.recovered_at_start,
                tepui_model::format_duration(self.config.agent_reregister_timeout),
            );
            self.effects.push(Effect::Exit { message });
            return;
        }
        self.give_up_agents(away);
        if !coming.is_empty() {
            let due = self.now.tick.after(self.config.agent_reregister_timeout);
            self.timers.insert((due, Timer::Recovered));
        }
    }

    /// Nobody is told before it is on disk: a master that restarts must not take the agents for reachable again.
    fn mark_unreachable(&mut self, agents: Vec<AgentId>) {
        let since_ns = self.now.wall_ns;
        let mut puts = Vec::with_capacity(agents.len());
        let mut marked = Vec::with_capacity(agents.len());
        for id in agents {
            let Some(info) = self.info_of_present(&id) else {
                continue;
            };
            if let Some(agent) = self.agent_by_id.get(&id).copied() {
                self.cut_off(agent);
            }
            let state = registry::agent::State::Unreachable;
            puts.push(agent_record(&id, &info, state, Some(since_ns)));
            self.marking.insert(id.clone(), Marking::Unreachable);
            marked.push(id);
        }
        let agents = marked;
        if !agents.is_empty() {
            self.persist(puts, Pending::Unreachable { agents, since_ns });
        }
    }

    /// Of an agent in the table, or one that was there before the master restarted.
    fn info_of_present(&self, id: &AgentId) -> Option<Arc<v1::AgentInfo>> {
        match self.agent_by_id.get(id) {
            Some(agent) => Some(self.agents[*agent].info.clone()),
            None => self.recovered_agents.get(id).cloned(),
        }
    }

    /// Nothing more is said to the agent, nor heard from it, over the link it has.
    fn cut_off(&mut self, agent: AgentKey) {
        if let Some(link) = self.agents[agent].link {
            self.links.remove(&link);
            self.close_link(link);
            self.unlink_agent(agent);
        }
        self.stop_agent_timer(agent);
    }

    /// As `cut_off`, and the agent is told that it has no place here any more.
    fn dismiss(&mut self, agent: AgentKey, message: &str) {
        let refused = link::Refused {
            message: message.to_owned(),
            r#final: Some(true),
        };
        self.send_to_agent(agent, to_agent::Body::Refused(refused));
        self.cut_off(agent);
    }

    pub(crate) fn on_unreachable_persisted(&mut self, agents: &[AgentId], since_ns: i64) {
        for id in agents {
            self.marking.remove(id);
            let info = match self.agent_by_id.get(id).copied() {
                Some(agent) => {
                    let info = self.agents[agent].info.clone();
                    self.part_with_agent(agent, Departure::Unreachable { since_ns });
                    info
                }
                None => match Arc::make_mut(&mut self.recovered_agents).remove(id) {
                    Some(info) => {
                        self.metrics.count("master/recovery_slave_removals");
                        info
                    }
                    None => continue,
                },
            };
            self.metrics.count("master/slave_unreachable_completed");
            self.metrics.count("master/slave_removals");
            self.metrics.count("master/slave_removals/reason_unhealthy");
            Arc::make_mut(&mut self.unreachable_agents)
                .insert(id.clone(), AwayAgent { info, since_ns });
            self.tell_of_loss(id);
        }
    }

    /// Writes down that the agent never comes back. It must be known and in no other transition.
    pub(crate) fn mark_gone(&mut self, id: AgentId, asked: Option<RequestKey>) {
        let away = self.unreachable_agents.get(&id);
        let info = self
            .info_of_present(&id)
            .or_else(|| away.map(|away| away.info.clone()));
        let Some(info) = info else { return };
        self.keep_agent(&id);
        let since_ns = self.now.wall_ns;
        let operations = vec![
            agent_record(&id, &info, registry::agent::State::Gone, Some(since_ns)),
            RegistryOperation::Delete {
                key: deactivated_key(&id),
            },
        ];
        self.marking.insert(id.clone(), Marking::Gone);
        let away = AwayAgent { info, since_ns };
        self.persist(operations, Pending::Gone { id, away, asked });
    }

    pub(crate) fn on_gone_persisted(
        &mut self,
        id: AgentId,
        away: AwayAgent,
        asked: Option<RequestKey>,
    ) {
        self.marking.remove(&id);
        Arc::make_mut(&mut self.deactivated_agents).remove(&id);
        Arc::make_mut(&mut self.recovered_agents).remove(&id);
        Arc::make_mut(&mut self.unreachable_agents).remove(&id);
        Arc::make_mut(&mut self.gone_agents).insert(id.clone(), away);
        // One that was unreachable may be half-way back in.
        if let Some(link) = self.registering_by_id.remove(&id) {
            self.registering.remove(&link);
            self.refuse_agent(link, GONE.to_owned(), true);
        }
        if let Some(agent) = self.agent_by_id.get(&id).copied() {
            self.dismiss(agent, GONE);
            self.part_with_agent(agent, Departure::Gone);
        }
        for (framework, task) in self.away_tasks.get(&id).cloned().unwrap_or_default() {
            let reason = self.reason_of_gone(framework);
            self.end_away_task(
                framework,
                &task,
                TaskState::TaskGoneByOperator,
                reason,
                GONE,
            );
        }
        self.given_up.remove(&id);
        self.metrics.count("master/slave_removals");
        self.tell_of_loss(&id);
        if let Some(request) = asked {
            self.answer(request, Answer::Done);
        }
    }

    /// Frameworks that cannot be told that an operator did it hear what they always heard.
    fn reason_of_gone(&self, framework: FrameworkKey) -> Reason {
        if self.capabilities(framework).partition_aware {
            Reason::AgentRemovedByOperator
        } else {
            Reason::AgentRemoved
        }
    }

    /// The agent has no place in the cluster any more; should it come back, it comes as a stranger.
    pub(crate) fn remove_agent(&mut self, agent: AgentKey, message: &str) {
        let id = self.agents[agent].id.clone();
        self.keep_agent(&id);
        self.dismiss(agent, message);
        self.part_with_agent(agent, Departure::Removed { message });
        Arc::make_mut(&mut self.deactivated_agents).remove(&id);
        self.given_up.remove(&id);
        let keys = [agent_key(&id), deactivated_key(&id)];
        let deletes = keys.map(|key| RegistryOperation::Delete { key });
        self.persist(deletes.to_vec(), Pending::Nothing);
        self.metrics.count("master/slave_removals");
        self.metrics
            .count("master/slave_removals/reason_unregistered");
        self.tell_of_loss(&id);
        self.tell_operators(|_| Happening::AgentRemoved(id));
    }

    /// Every framework hears of every agent that is lost.
    fn tell_of_loss(&mut self, id: &AgentId) {
        for framework in self.connected_frameworks() {
            self.send(framework, messages::agent_failure(id));
        }
    }

    /// Takes the agent out of the table, and says what becomes of its tasks.
    fn part_with_agent(&mut self, agent: AgentKey, departure: Departure<'_>) {
        self.stop_agent_timer(agent);
        self.rescind_offers_of_agent(agent);
        self.forget_inverse_offers_of_agent(agent);
        for key in self.agent_states[&agent]
            .tasks
            .iter()
            .copied()
            .collect::<Vec<_>>()
        {
            let framework = self.tasks[key].framework;
            match departure {
                Departure::Unreachable { since_ns } => self.lose_sight_of_task(key, since_ns),
                Departure::Gone => {
                    let state = TaskState::TaskGoneByOperator;
                    let state = told_state(state, self.capabilities(framework));
                    self.end_task(key, state, self.reason_of_gone(framework), GONE);
                }
                Departure::Removed { message } => {
                    self.end_task(key, TaskState::TaskLost, Reason::AgentRemoved, message);
                }
            }
        }
        for executor in self.agent_states[&agent]
            .executors
            .values()
            .copied()
            .collect::<Vec<_>>()
        {
            self.remove_executor(executor);
        }
        let (state, message) = match departure {
            Departure::Unreachable { .. } => (
                OperationState::OperationUnreachable,
                "The agent is unreachable",
            ),
            Departure::Gone => (OperationState::OperationGoneByOperator, GONE),
            Departure::Removed { message } => (OperationState::OperationUnknown, message),
        };
        self.part_with_operations(agent, state, message);
        self.allocator.remove_agent(agent.into());
        self.forget_inventory(agent);
        self.agent_states.remove(&agent);
        if let Some(record) = self.agents.remove(agent) {
            self.agent_by_id.remove(&record.id);
        }
    }

    /// The task waits with its framework for its agent to come back.
    fn lose_sight_of_task(&mut self, key: TaskKey, since_ns: i64) {
        let task = &self.tasks[key];
        let (framework, agent) = (task.framework, task.agent);
        if task.state().is_terminal() {
            self.remove_task(key, Leaving::Unreachable);
            return;
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
        if self.advance_task(key, TaskState::TaskUnreachable) {
            self.tell_task_updated(key, &status);
        }
        self.remove_task(key, Leaving::Unreachable);
        self.send_update(framework, status);
    }

    /// A task of an unreachable agent does not come back: it goes to the completed ones.
    pub(crate) fn end_away_task(
        &mut self,
        framework: FrameworkKey,
        task: &TaskId,
        state: TaskState,
        reason: Reason,
        message: &str,
    ) {
        let Some(mut away) = self.take_unreachable(framework, task) else {
            return;
        };
        if !away.state().is_terminal() {
            let told = told_state(state, self.capabilities(framework));
            let (id, agent) = (away.task_id.clone(), Some(away.agent_id.clone()));
            let status = self.master_status(id, agent, told, reason, message);
            let record = Arc::make_mut(&mut away);
            record.state = told.into();
            record.statuses.push(status.clone());
            self.count_task_entered(framework, told);
            self.tell_away_task_updated(framework, &away, &status);
            // TASK_LOST has been said already to who cannot be told anything finer.
            if told != TaskState::TaskLost {
                self.send_update(framework, status);
            }
        }
        self.frameworks[framework].completed_tasks.push(away);
    }

    /// Forgets unreachable and gone agents that are too old or too many.
    pub(crate) fn collect_registry_garbage(&mut self) {
        let due = self.now.tick.after(self.config.registry_gc_interval);
        self.timers.insert((due, Timer::RegistryGc));
        let is_busy =
            |id: &AgentId| self.marking.contains_key(id) || self.registering_by_id.contains_key(id);
        let lists = [&self.unreachable_agents, &self.gone_agents];
        let forgotten: Vec<AgentId> = lists
            .into_iter()
            .flat_map(|agents| self.too_old_or_too_many(agents))
            .filter(|id| !is_busy(id))
            .collect();
        if forgotten.is_empty() {
            return;
        }
        let mut deletes = Vec::with_capacity(forgotten.len() * 2);
        for id in forgotten {
            Arc::make_mut(&mut self.unreachable_agents).remove(&id);
            Arc::make_mut(&mut self.gone_agents).remove(&id);
            Arc::make_mut(&mut self.deactivated_agents).remove(&id);
            self.given_up.remove(&id);
            let keys = [agent_key(&id), deactivated_key(&id)];
            deletes.extend(keys.map(|key| RegistryOperation::Delete { key }));
        }
        self.persist(deletes, Pending::Nothing);
    }

    fn too_old_or_too_many(&self, agents: &BTreeMap<AgentId, AwayAgent>) -> Vec<AgentId> {
        let mut by_age: Vec<(i64, &AgentId)> = agents
            .iter()
            .map(|(id, agent)| (agent.since_ns, id))
            .collect();
        by_age.sort();
        let age = i64::try_from(self.config.registry_max_agent_age.as_nanos()).unwrap_or(i64::MAX);
        let oldest_ns = self.now.wall_ns.saturating_sub(age);
        let surplus = by_age
            .len()
            .saturating_sub(self.config.registry_max_agent_count);
        let forgotten = by_age
            .into_iter()
            .enumerate()
            .filter(|(place, (since_ns, _))| *place < surplus || *since_ns < oldest_ns);
        forgotten.map(|(_, (_, id))| id.clone()).collect()
    }
}

pub(crate) const GONE: &str = "Agent has been marked gone";
