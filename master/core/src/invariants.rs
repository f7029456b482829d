//! What is true of the tables between any two inputs.

use std::collections::BTreeMap;

use tepui_model::{Resources, Role};

use crate::core::{Core, StreamState};
use crate::inventory::{Holders, Thing, bytes_of};
use crate::keys::{AgentKey, FrameworkKey};
use crate::wire::additive;

impl Core {
    /// Panics with a sentence if the tables contradict each other. For tests: it walks everything.
    pub fn check_invariants(&self) {
        self.check_tasks();
        self.check_offers_listed();
        self.check_sums();
        self.check_connections();
        self.check_held();
        self.check_management();
        self.check_operations();
        self.check_holders();
        self.check_stores();
        self.check_services();
        self.allocator.check_invariants();
    }

    fn check_holders(&self) {
        let mut counted: BTreeMap<&Thing, Holders> = BTreeMap::new();
        for (agent, record) in self.agents.iter() {
            for thing in record.inventory.things() {
                let holding = record.inventory.thing(thing).map_or(0, bytes_of);
                counted.entry(thing).or_default().insert(agent, holding);
            }
        }
        let known: BTreeMap<&Thing, Holders> = self
            .holders
            .iter()
            .map(|(thing, holders)| (thing, holders.clone()))
            .collect();
        assert_eq!(known, counted, "who holds what");
    }

    fn check_management(&self) {
        for (_, agent) in self.agents.iter() {
            let deactivated = self.deactivated_agents.contains_key(&agent.id);
            assert_eq!(
                agent.active,
                agent.connected && !deactivated,
                "agent {}",
                agent.id
            );
            assert!(
                !self.gone_agents.contains_key(&agent.id),
                "agent {} is gone and here",
                agent.id
            );
            assert!(
                !agent.connected
                    || self.marking.contains_key(&agent.id)
                    || !self.is_down(&agent.info.hostname, &agent.endpoint),
                "agent {} is on a machine that is down",
                agent.id
            );
        }
        for id in self.deactivated_agents.keys() {
            assert!(self.is_known(id), "nobody knows the deactivated agent {id}");
        }
        self.inverse_offers.check_invariants();
        for (agent, framework) in self.inverse_offers.outstanding() {
            assert!(
                self.agents[agent].connected && self.frameworks[framework].connected,
                "an inverse offer to nobody or of nothing"
            );
            assert!(
                self.unavailability(agent).is_some(),
                "an inverse offer without a reason"
            );
        }
    }

    /// The allocator reckons with what the tables say.
    fn check_held(&self) {
        let mut held: BTreeMap<(AgentKey, FrameworkKey, Role), Resources> = BTreeMap::new();
        let tasks = self.tasks.iter().filter(|(_, task)| task.charged);
        let tasks =
            tasks.map(|(_, task)| (task.agent, task.framework, &task.role, &task.resources));
        let executors = self.executors.iter().map(|(_, executor)| {
            (
                executor.agent,
                executor.framework,
                &executor.role,
                &executor.resources,
            )
        });
        let offers = self
            .offers
            .iter()
            .map(|(_, offer)| (offer.agent, offer.framework, &offer.role, &offer.resources));
        for (agent, framework, role, resources) in tasks.chain(executors).chain(offers) {
            held.entry((agent, framework, role.clone()))
                .or_default()
                .add(resources);
        }
        for ((agent, framework, role), resources) in held {
            let reckoned = self.allocator.held(agent.into(), framework.into(), &role);
            assert_eq!(
                reckoned, resources,
                "what {framework:?} holds as {role} on {agent:?}"
            );
        }
    }

    fn check_operations(&self) {
        for (key, operation) in self.operations.iter() {
            let uuid = &operation.wire.uuid.value;
            assert_eq!(self.operation_by_uuid.get(uuid), Some(&key), "{uuid:?}");
            assert!(
                self.agent_states[&operation.agent]
                    .operations
                    .contains(&key),
                "its agent does not list operation {uuid:?}"
            );
            let Some(framework) = operation.framework else {
                continue;
            };
            if let Some(id) = &operation.wire.info.id {
                let found = self.find_operation(framework, &id.value);
                assert_eq!(found, Some(key), "operation {}", id.value);
            }
            assert!(
                operation.is_pending() || operation.wire.info.id.is_some(),
                "nobody will acknowledge operation {uuid:?}"
            );
        }
        let all = self.operations.len();
        let of_agents = self.agent_states.values();
        let of_agents: usize = of_agents.map(|state| state.operations.len()).sum();
        assert_eq!((self.operation_by_uuid.len(), of_agents), (all, all));
        let of_frameworks = self.framework_states.values();
        for id in of_frameworks.flat_map(|state| state.operations.values()) {
            assert!(
                self.operations.get(*id).is_some(),
                "an operation that is gone is listed"
            );
        }
    }

    fn check_tasks(&self) {
        for (key, task) in self.tasks.iter() {
            assert_eq!(
                self.frameworks[task.framework].id, task.framework_id,
                "task {} has another framework",
                task.id
            );
            assert_eq!(
                self.agents[task.agent].id, task.agent_id,
                "task {} has another agent",
                task.id
            );
            assert_eq!(
                self.find_task(task.framework, task.id.as_str()),
                Some(key),
                "task {} is not found",
                task.id
            );
            assert!(
                self.agent_states[&task.agent].tasks.contains(&key),
                "its agent does not list task {}",
                task.id
            );
            assert_eq!(
                task.charged,
                !task.state().is_terminal(),
                "task {} in {:?}",
                task.id,
                task.state()
            );
            let away = &self.frameworks[task.framework].unreachable_tasks;
            assert!(
                !away.contains_key(&task.id),
                "task {} is both here and unreachable",
                task.id
            );
        }
        let of_frameworks: usize = self
            .framework_states
            .values()
            .map(|state| state.tasks.len())
            .sum();
        let of_agents: usize = self
            .agent_states
            .values()
            .map(|state| state.tasks.len())
            .sum();
        assert_eq!(
            (of_frameworks, of_agents),
            (self.tasks.len(), self.tasks.len()),
            "lists of tasks have strangers"
        );
        for (framework, state) in &self.framework_states {
            for id in state.kills.keys() {
                let lives = state
                    .tasks
                    .get(id)
                    .is_some_and(|key| !self.tasks[*key].state().is_terminal());
                let is_away = self.frameworks[*framework]
                    .unreachable_tasks
                    .contains_key(id);
                assert!(lives || is_away, "a kill of {id}, which has ended");
            }
        }
        let away: usize = self.away_tasks.values().map(|tasks| tasks.len()).sum();
        let listed: usize = self
            .frameworks
            .iter()
            .map(|(_, framework)| framework.unreachable_tasks.len())
            .sum();
        assert_eq!(
            away, listed,
            "unreachable tasks are listed by agent and by framework alike"
        );
        for (key, executor) in self.executors.iter() {
            assert!(
                self.framework_states[&executor.framework]
                    .executors
                    .contains(&key),
                "executor {}",
                executor.id
            );
            let listed = &self.agent_states[&executor.agent].executors;
            assert_eq!(
                listed.get(&(executor.framework, executor.id.clone())),
                Some(&key)
            );
        }
    }

    fn check_offers_listed(&self) {
        for (key, offer) in self.offers.iter() {
            assert!(
                self.agents[offer.agent].active,
                "offer {} is of an agent that is away or deactivated",
                offer.id
            );
            assert!(
                self.frameworks[offer.framework].connected,
                "offer {} is to a framework that is away",
                offer.id
            );
            assert!(
                self.agent_states[&offer.agent].offers.contains(&key),
                "its agent does not list {}",
                offer.id
            );
            assert!(
                self.framework_states[&offer.framework]
                    .offers
                    .contains(&key),
                "nor its framework {}",
                offer.id
            );
            assert_eq!(
                self.find_offer(offer.id.as_str()),
                Some(key),
                "offer {} is not found",
                offer.id
            );
        }
        assert_eq!(self.offer_by_number.len(), self.offers.len());
        assert_eq!(self.offer_states.len(), self.offers.len());
    }

    fn check_sums(&self) {
        let mut used_of_agents: BTreeMap<AgentKey, Resources> = BTreeMap::new();
        let mut used_of_frameworks: BTreeMap<FrameworkKey, Resources> = BTreeMap::new();
        let tasks = self.tasks.iter().filter(|(_, task)| task.charged);
        let tasks = tasks.map(|(_, task)| (task.agent, task.framework, &task.resources));
        let executors = self
            .executors
            .iter()
            .map(|(_, executor)| (executor.agent, executor.framework, &executor.resources));
        for (agent, framework, resources) in tasks.chain(executors) {
            used_of_agents.entry(agent).or_default().add(resources);
            used_of_frameworks
                .entry(framework)
                .or_default()
                .add(&additive(resources));
        }
        let mut offered_of_agents: BTreeMap<AgentKey, Resources> = BTreeMap::new();
        let mut offered_of_frameworks: BTreeMap<FrameworkKey, Resources> = BTreeMap::new();
        for (_, offer) in self.offers.iter() {
            offered_of_agents
                .entry(offer.agent)
                .or_default()
                .add(&offer.resources);
            offered_of_frameworks
                .entry(offer.framework)
                .or_default()
                .add(&additive(&offer.resources));
        }
        for (key, agent) in self.agents.iter() {
            assert_eq!(
                agent.used,
                used_of_agents.remove(&key).unwrap_or_default(),
                "used of agent {}",
                agent.id
            );
            let offered = offered_of_agents.remove(&key).unwrap_or_default();
            assert_eq!(agent.offered, offered, "offered of agent {}", agent.id);
            if !offered.is_empty() {
                // An agent that came back with less than its tasks use has nothing to offer, so this always holds.
                let whole = |resources: &Resources| resources.filter(|resource| !resource.shared);
                let free = whole(&agent.total).saturating_subtract(&agent.used);
                assert!(
                    free.contains(&whole(&offered))
                        && offered
                            .shared()
                            .iter()
                            .all(|resource| agent.total.contains_resource(resource)),
                    "agent {} has {}, uses {} and cannot offer {offered}",
                    agent.id,
                    agent.total,
                    agent.used
                );
            }
            let reckoned = self.allocator.total(key.into());
            assert_eq!(reckoned, agent.total, "total of agent {}", agent.id);
            assert_eq!(
                agent.tasks,
                self.agent_states[&key].tasks.len(),
                "tasks of agent {}",
                agent.id
            );
        }
        for (key, framework) in self.frameworks.iter() {
            let used = used_of_frameworks.remove(&key).unwrap_or_default();
            assert_eq!(framework.used, used, "used of framework {}", framework.id);
            let offered = offered_of_frameworks.remove(&key).unwrap_or_default();
            assert_eq!(
                framework.offered, offered,
                "offered of framework {}",
                framework.id
            );
            assert_eq!(
                framework.tasks,
                self.framework_states[&key].tasks.len(),
                "tasks of {}",
                framework.id
            );
        }
    }

    fn check_connections(&self) {
        for (link, agent) in &self.links {
            assert_eq!(self.agents[*agent].link, Some(*link), "link {link:?}");
        }
        for (key, agent) in self.agents.iter() {
            assert_eq!(agent.connected, agent.link.is_some(), "agent {}", agent.id);
            assert_eq!(
                self.agent_by_id.get(&agent.id),
                Some(&key),
                "agent {}",
                agent.id
            );
            assert!(
                !self.unreachable_agents.contains_key(&agent.id),
                "agent {} is also unreachable",
                agent.id
            );
            assert!(
                !self.recovered_agents.contains_key(&agent.id),
                "agent {} is also awaited",
                agent.id
            );
            let state = &self.agent_states[&key];
            let waited_for = state.timer.is_some()
                || self.marking.contains_key(&agent.id)
                || self.removals.contains(&agent.id);
            assert!(
                waited_for,
                "nothing would notice if agent {} were gone",
                agent.id
            );
            assert!(
                !state.boot_id.is_empty(),
                "agent {} has not said which of its lives this is",
                agent.id
            );
        }
        for (key, framework) in self.frameworks.iter() {
            let state = &self.framework_states[&key];
            assert_eq!(
                framework.connected,
                state.stream.is_some(),
                "framework {}",
                framework.id
            );
            assert_eq!(
                framework.connected,
                state.failover.is_none(),
                "framework {}",
                framework.id
            );
            assert!(
                !self.completed_ids.contains(&framework.id),
                "framework {} is also completed",
                framework.id
            );
            if let Some(stream) = &state.stream {
                assert_eq!(
                    self.streams.get(&stream.key),
                    Some(&StreamState::Subscribed(key)),
                    "{}",
                    framework.id
                );
            }
        }
    }
}
