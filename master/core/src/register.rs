//! Agents that come, or come back, and what they bring with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_allocator::AgentTraits;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::registry;
use tepui_api::v1::{self, TaskState, task_status::Reason};
use tepui_model::{AgentId, ExecutorId, FrameworkId, Resources, Role, TaskId, check_id};

use crate::agents::{agent_key, agent_record};
use crate::core::{AgentState, Core, Pending};
use crate::departure::GONE;
use crate::effect::{Effect, RegistryOperation};
use crate::framework_info;
use crate::input::{LinkKey, PersistKey};
use crate::inventory::Inventory;
use crate::keys::{AgentKey, FrameworkKey, TaskKey};
use crate::messages::told_state;
use crate::subscribe::failover_timeout;
use crate::tasks::Leaving;
use crate::view::{AgentRecord, ExecutorRecord, TaskRecord};
use crate::wire;

/// An agent whose registration is being written down.
#[derive(Debug)]
pub(crate) struct Registering {
    pub(crate) id: AgentId,
    persist: PersistKey,
    register: link::Register,
    total: Resources,
    /// What it sent in the meantime.
    pub(crate) early: Vec<to_master::Body>,
}

/// Where an agent comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    New,
    /// It was there before the master restarted, as it should.
    Recovered,
    /// Its tasks' schedulers have been told that it was unreachable.
    Unreachable,
    /// It has an id that this master has no record of.
    Unknown,
}

impl Core {
    pub(crate) fn register(&mut self, link: LinkKey, register: link::Register) {
        if self.links.contains_key(&link) || self.registering.contains_key(&link) {
            // A link belongs to one agent for as long as it lives.
            self.close_link(link);
            self.on_link_closed(link);
            return;
        }
        // Before any was changed, an agent has what it was configured with.
        let had = if register.total.is_empty() {
            &register.agent.resources
        } else {
            &register.total
        };
        let total = match wire::resources(had) {
            Ok(total) => total,
            Err(error) => {
                self.refuse_agent(
                    link,
                    format!("The agent's resources are invalid: {error}"),
                    true,
                );
                return;
            }
        };
        if self.is_down(&register.agent.hostname, &register.endpoint) {
            self.refuse_agent(link, DOWN.to_owned(), true);
            return;
        }
        if let Err(message) = self.check_domain(register.agent.domain.as_ref()) {
            self.refuse_agent(link, message.to_owned(), true);
            return;
        }
        let Some(id) = register
            .agent
            .id
            .as_ref()
            .map(|id| AgentId::from(id.value.as_str()))
        else {
            self.metrics.count("master/messages_register_slave");
            let id = AgentId::from(format!("{}-S{}", self.config.master_id, self.minted.agents));
            self.minted.agents += 1;
            self.write_registration(link, id, register, total, true);
            return;
        };
        self.metrics.count("master/messages_reregister_slave");
        if let Err(error) = check_id("agent id", id.as_str()) {
            self.refuse_agent(link, error.to_string(), true);
            return;
        }
        if self.gone_agents.contains_key(&id) {
            self.refuse_agent(link, GONE.to_owned(), true);
            return;
        }
        if self.marking.contains_key(&id) {
            // It is being given up at this moment. When it tries again, it is known what it comes back from.
            self.refuse_agent(
                link,
                "The agent is being marked unreachable or gone; try again".to_owned(),
                false,
            );
            return;
        }
        self.keep_agent(&id);
        if let Some(older) = self.registering_by_id.remove(&id) {
            self.registering.remove(&older);
            self.close_link(older);
        }
        if let Some(agent) = self.agent_by_id.get(&id).copied() {
            self.reconnect(agent, link, register, total);
            return;
        }
        let info = with_id(&register.agent, &id);
        if self
            .recovered_agents
            .get(&id)
            .is_some_and(|known| **known == info)
        {
            // As the registry has it already. After a restart all agents come at once; none waits for the disk.
            self.admit(link, id, register, total);
            return;
        }
        self.write_registration(link, id, register, total, false);
    }

    pub(crate) fn refuse_agent(&mut self, link: LinkKey, message: String, is_final: bool) {
        let refused = link::Refused {
            message,
            r#final: Some(is_final),
        };
        let message = Box::new(link::ToAgent {
            body: Some(to_agent::Body::Refused(refused)),
        });
        self.effects.push(Effect::ToAgent { link, message });
        self.close_link(link);
    }

    fn write_registration(
        &mut self,
        link: LinkKey,
        id: AgentId,
        register: link::Register,
        total: Resources,
        new: bool,
    ) {
        let put = agent_record(
            &id,
            &with_id(&register.agent, &id),
            registry::agent::State::Admitted,
            None,
        );
        let persist = self.persist(
            vec![put],
            Pending::Register {
                link,
                id: id.clone(),
                new,
            },
        );
        self.registering_by_id.insert(id.clone(), link);
        self.registering.insert(
            link,
            Registering {
                id,
                persist,
                register,
                total,
                early: Vec::new(),
            },
        );
    }

    pub(crate) fn on_registration_persisted(
        &mut self,
        key: PersistKey,
        link: LinkKey,
        id: &AgentId,
        new: bool,
    ) {
        let current = self
            .registering
            .get(&link)
            .is_some_and(|registering| registering.persist == key);
        if !current {
            if new {
                // It hung up before it heard its id, so nobody will ever come back under it.
                self.persist(
                    vec![RegistryOperation::Delete { key: agent_key(id) }],
                    Pending::Nothing,
                );
            }
            return;
        }
        if let Some(registering) = self.registering.remove(&link) {
            self.registering_by_id.remove(&registering.id);
            let register = &registering.register;
            if self.is_down(&register.agent.hostname, &register.endpoint) {
                self.refuse_agent(link, DOWN.to_owned(), true);
                let key = agent_key(id);
                self.persist(vec![RegistryOperation::Delete { key }], Pending::Nothing);
                return;
            }
            let agent = self.admit(
                link,
                registering.id,
                registering.register,
                registering.total,
            );
            for body in registering.early {
                self.on_message_of_agent(agent, body);
            }
        }
    }

    /// Enters an agent that is not in the table, with everything it runs.
    fn admit(
        &mut self,
        link: LinkKey,
        id: AgentId,
        register: link::Register,
        total: Resources,
    ) -> AgentKey {
        let origin = if Arc::make_mut(&mut self.recovered_agents)
            .remove(&id)
            .is_some()
        {
            Origin::Recovered
        } else if Arc::make_mut(&mut self.unreachable_agents)
            .remove(&id)
            .is_some()
        {
            Origin::Unreachable
        } else if register.agent.id.is_none() {
            Origin::New
        } else {
            Origin::Unknown
        };
        let link::Register {
            agent: info,
            version,
            capabilities,
            tasks,
            executors,
            frameworks,
            endpoint,
            boot_id,
            operations,
            holdings,
            listens_everywhere,
            seen_at,
            ..
        } = register;
        let seen_at = seen_at.and_then(|address| address.parse().ok());
        let info = with_id(&info, &id);
        let attributes = wire::attributes(&info.attributes);
        if origin == Origin::New {
            self.remove_predecessor(&info.hostname, &endpoint);
        }
        let agent = self.agents.insert(AgentRecord {
            id: id.clone(),
            info: Arc::new(info),
            link: Some(link),
            active: !self.deactivated_agents.contains_key(&id),
            connected: true,
            version: version.into(),
            capabilities: Arc::new(capabilities),
            endpoint: endpoint.into(),
            listens_everywhere: listens_everywhere.unwrap_or_default(),
            seen_at,
            registered_ns: self.now.wall_ns,
            reregistered_ns: (origin != Origin::New).then_some(self.now.wall_ns),
            total: total.clone(),
            used: Resources::new(),
            offered: Resources::new(),
            tasks: 0,
            inventory: Inventory::default(),
        });
        self.replace_inventory(agent, holdings);
        self.agent_by_id.insert(id.clone(), agent);
        self.links.insert(link, agent);
        self.agent_states.insert(
            agent,
            AgentState {
                boot_id,
                attributes,
                tasks: BTreeSet::new(),
                executors: BTreeMap::new(),
                offers: BTreeSet::new(),
                operations: BTreeSet::new(),
                ping_sequence: 0,
                pings_unanswered: 0,
                timer: None,
            },
        );
        self.welcome(agent);
        self.tell_agent_added(agent);
        self.adopt_frameworks(&frameworks);
        self.remember_given_up(&id, &tasks);
        let mut shut_down = BTreeSet::new();
        for task in tasks {
            if let Some(stranger) = self.adopt_task(agent, task, origin) {
                shut_down.insert(stranger);
            }
        }
        self.adopt_executors(agent, executors, &mut shut_down);
        self.adopt_operations(agent, operations);
        for framework in shut_down {
            let framework_id = wire::framework_id(&framework);
            let shutdown = link::ShutdownFramework { framework_id };
            self.send_to_agent(agent, to_agent::Body::ShutdownFramework(shutdown));
        }
        self.give_up_unreported(&id);
        self.tell_allocator(agent);
        let registrations = if origin == Origin::New {
            "master/slave_registrations"
        } else {
            "master/slave_reregistrations"
        };
        self.metrics.count(registrations);
        agent
    }

    fn welcome(&mut self, agent: AgentKey) {
        let timeout = self.config.agent_ping_timeout * self.config.max_agent_ping_timeouts;
        let registered = link::Registered {
            agent_id: wire::agent_id(&self.agents[agent].id),
            ping_timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            master_id: self.config.master_id.clone(),
            master_hostname: Some(self.config.hostname.clone()),
            drain: self.drain_config(&self.agents[agent].id),
        };
        self.send_to_agent(agent, to_agent::Body::Registered(registered));
        self.start_pings(agent);
        self.invert_offers_of(agent);
    }

    /// A new agent where one is that broke off: that one's work directory was emptied, and it will not come back.
    fn remove_predecessor(&mut self, hostname: &str, endpoint: &str) {
        let predecessor = self.agents.iter().find(|(_, record)| {
            !record.connected
                && record.info.hostname == hostname
                && *record.endpoint == *endpoint
                && !self.marking.contains_key(&record.id)
        });
        if let Some((agent, _)) = predecessor {
            self.remove_agent(agent, "A new agent registered at the same address");
        }
    }

    /// An agent of the table dials again: its link broke, or its process was started anew.
    fn reconnect(
        &mut self,
        agent: AgentKey,
        link: LinkKey,
        register: link::Register,
        total: Resources,
    ) {
        if let Some(old) = self.agents[agent].link {
            self.links.remove(&old);
            self.close_link(old);
        }
        self.stop_agent_timer(agent);
        // What it has may have changed, so what was offered of it is void.
        self.rescind_offers_of_agent(agent);
        let link::Register {
            agent: info,
            version,
            capabilities,
            tasks,
            executors,
            frameworks,
            endpoint,
            boot_id,
            operations,
            holdings,
            listens_everywhere,
            seen_at,
            ..
        } = register;
        let seen_at = seen_at.and_then(|address| address.parse().ok());
        let id = self.agents[agent].id.clone();
        let info = with_id(&info, &id);
        if *self.agents[agent].info != info {
            let put = agent_record(&id, &info, registry::agent::State::Admitted, None);
            self.persist(vec![put], Pending::Nothing);
        }
        self.agent_state(agent).attributes = wire::attributes(&info.attributes);
        self.agent_state(agent).boot_id = boot_id;
        let now_ns = self.now.wall_ns;
        let active = !self.deactivated_agents.contains_key(&id);
        let record = &mut self.agents[agent];
        record.info = Arc::new(info);
        record.link = Some(link);
        record.active = active;
        record.connected = true;
        record.version = version.into();
        record.capabilities = Arc::new(capabilities);
        record.endpoint = endpoint.into();
        record.listens_everywhere = listens_everywhere.unwrap_or_default();
        record.seen_at = seen_at;
        record.reregistered_ns = Some(now_ns);
        record.total = total;
        self.links.insert(link, agent);
        self.replace_inventory(agent, holdings);
        self.welcome(agent);
        self.adopt_frameworks(&frameworks);
        self.remember_given_up(&id, &tasks);
        self.compare_tasks(agent, tasks);
        let mut shut_down = BTreeSet::new();
        self.compare_executors(agent, executors, &mut shut_down);
        self.adopt_operations(agent, operations);
        for framework in shut_down {
            let framework_id = wire::framework_id(&framework);
            let shutdown = link::ShutdownFramework { framework_id };
            self.send_to_agent(agent, to_agent::Body::ShutdownFramework(shutdown));
        }
        self.tell_allocator_again(agent);
        self.metrics.count("master/slave_reregistrations");
    }

    fn tell_allocator(&mut self, agent: AgentKey) {
        let (traits, used) = (self.traits_of(agent), self.used_on(agent));
        let record = &self.agents[agent];
        let active = record.active;
        self.allocator
            .add_agent(agent.into(), record.total.clone(), traits, &used);
        self.allocator.set_agent_active(agent.into(), active);
    }

    /// The agent is what it was but for what it says of itself, so who refused it has done so still. Only if the
    /// allocator has other holders on its list than there are does it begin anew.
    fn tell_allocator_again(&mut self, agent: AgentKey) {
        let key = agent.into();
        let mut left = Some(self.allocator.total(key));
        let mut holders: BTreeMap<_, Resources> = BTreeMap::new();
        for (framework, role, resources) in self.used_on(agent) {
            left = left.and_then(|left| left.checked_subtract(&resources));
            let held = holders.entry((framework, role)).or_default();
            held.add(&resources);
        }
        let agree = left == Some(self.allocator.available(key))
            && holders.iter().all(|((framework, role), held)| {
                self.allocator.held(key, *framework, role) == *held
            });
        if !agree {
            self.tell_allocator(agent);
            return;
        }
        let total = self.agents[agent].total.clone();
        if self.allocator.total(key) != total {
            self.allocator.update_agent_total(key, total);
        }
        let traits = self.traits_of(agent);
        if self.allocator.traits(key) != Some(&traits) {
            self.allocator.update_agent_traits(key, traits);
        }
        let active = self.agents[agent].active;
        self.allocator.set_agent_active(key, active);
    }

    /// By whom and in which role what is used there.
    fn used_on(&self, agent: AgentKey) -> Vec<(tepui_allocator::FrameworkKey, Role, Resources)> {
        let state = &self.agent_states[&agent];
        let of_tasks = state
            .tasks
            .iter()
            .map(|key| &self.tasks[*key])
            .filter(|task| task.charged);
        let of_tasks = of_tasks.map(|task| {
            (
                task.framework.into(),
                task.role.clone(),
                task.resources.clone(),
            )
        });
        let of_executors = state.executors.values().map(|key| &self.executors[*key]);
        let of_executors = of_executors.map(|executor| {
            (
                executor.framework.into(),
                executor.role.clone(),
                executor.resources.clone(),
            )
        });
        of_tasks.chain(of_executors).collect()
    }

    fn traits_of(&self, agent: AgentKey) -> AgentTraits {
        let state = &self.agent_states[&agent];
        let record = &self.agents[agent];
        let domain = record.info.domain.as_ref();
        let fault_domain = domain.and_then(|domain| domain.fault_domain.as_ref());
        AgentTraits {
            attributes: state.attributes.as_slice().into(),
            hostname: record.info.hostname.as_str().into(),
            region: fault_domain.map(|domain| domain.region.name.as_str().into()),
            zone: fault_domain.map(|domain| domain.zone.name.as_str().into()),
            remote: domain.is_some_and(|domain| self.is_in_another_region(domain)),
        }
    }

    /// Agents that do not say where they are count as being where the master is.
    fn is_in_another_region(&self, domain: &v1::DomainInfo) -> bool {
        let region = |domain: &v1::DomainInfo| {
            let fault_domain = domain.fault_domain.as_ref();
            fault_domain.map(|fault_domain| fault_domain.region.name.clone())
        };
        let own = self.config.domain.as_ref().and_then(region);
        region(domain).is_some_and(|region| own != Some(region))
    }

    /// Whether an agent says where it is if it has to, and does not if this master could not tell what that means.
    fn check_domain(&self, domain: Option<&v1::DomainInfo>) -> Result<(), &'static str> {
        match domain {
            None if self.config.require_agent_domain => {
                Err("Agents must be configured with a domain (--domain), and this one has none")
            }
            Some(_) if self.config.domain.is_none() => {
                Err("The agent is configured with a domain, but the master has none (--domain)")
            }
            _ => Ok(()),
        }
    }

    /// Frameworks that only agents remember: their schedulers have as long to come back as after a restart.
    fn adopt_frameworks(&mut self, frameworks: &[v1::FrameworkInfo]) {
        for info in frameworks {
            let Some(id) = info
                .id
                .as_ref()
                .map(|id| FrameworkId::from(id.value.as_str()))
            else {
                continue;
            };
            if self.framework_by_id.contains_key(&id) || self.completed_ids.contains(&id) {
                continue;
            }
            let Ok(checked) = framework_info::check(&self.config, info, &[], None) else {
                continue;
            };
            let framework = self.add_framework(id, info.clone(), checked, None, self.now.wall_ns);
            self.frameworks[framework].recovered = true;
            self.tell_framework_added(framework);
            let timeout = failover_timeout(info).max(self.config.recovered_framework_grace);
            self.start_failover_timer(framework, timeout);
        }
    }

    /// Enters a task that an agent brought. Returns its framework if that is none of this master's.
    fn adopt_task(
        &mut self,
        agent: AgentKey,
        task: v1::Task,
        origin: Origin,
    ) -> Option<FrameworkId> {
        let framework_id = FrameworkId::from(task.framework_id.value.as_str());
        let Some(framework) = self.framework_by_id.get(&framework_id).copied() else {
            return Some(framework_id);
        };
        let id = TaskId::from(task.task_id.value.as_str());
        let given_up = self.given_up.get(&self.agents[agent].id);
        let given_up = given_up.is_some_and(|tasks| tasks.contains(&(framework_id, id.clone())));
        if given_up || self.find_task(framework, id.as_str()).is_some() {
            // A task ends once, and this one has; another agent may run one of the same id by now.
            if !task.state().is_terminal() {
                self.send_kill(agent, framework, &id, None);
            }
            return None;
        }
        let wanted_dead = self.framework_state(framework).kills.get(&id).copied();
        let returned = self.take_unreachable(framework, &id);
        let key = self.enter_reported(agent, framework, id, task);
        if matches!(origin, Origin::Unreachable | Origin::Unknown)
            && !self.tasks[key].state().is_terminal()
        {
            if let Some(returned) = returned {
                // What it went through before is part of its story.
                let task = &mut self.tasks[key].wire;
                let since = std::mem::take(&mut task.statuses);
                task.statuses.clone_from(&returned.statuses);
                task.statuses.extend(since);
            }
            self.tell_returned(key, origin);
            if let Some(policy) = wanted_dead {
                self.want_killed(key, policy);
            }
        }
        None
    }

    fn tell_returned(&mut self, key: TaskKey, origin: Origin) {
        let message = match origin {
            Origin::Unreachable => "Unreachable agent re-reregistered",
            _ => "Unknown agent reregistered",
        };
        let task = &self.tasks[key];
        let framework = task.framework;
        let (id, agent) = (task.wire.task_id.clone(), Some(task.wire.agent_id.clone()));
        let mut status =
            self.master_status(id, agent, task.state(), Reason::AgentReregistered, message);
        status.executor_id.clone_from(&task.wire.executor_id);
        self.keep_status(key, &status);
        self.send_update(framework, status);
    }

    fn enter_reported(
        &mut self,
        agent: AgentKey,
        framework: FrameworkKey,
        id: TaskId,
        mut task: v1::Task,
    ) -> TaskKey {
        // An agent that reports what cannot be read is not to be punished for it; the task just holds nothing then.
        let resources = wire::resources(&task.resources).unwrap_or_default();
        let resources = resources.known_as(&self.agents[agent].total);
        let role = self.role_of_reported(framework, &task.resources);
        task.agent_id = wire::agent_id(&self.agents[agent].id);
        let forwarded_uuid = task.status_update_uuid.clone();
        let (framework_id, agent_id) = (
            self.framework_id(framework).clone(),
            self.agents[agent].id.clone(),
        );
        self.insert_task(TaskRecord {
            wire: task,
            info: None,
            id,
            framework_id,
            agent_id,
            framework,
            agent,
            role,
            resources,
            charged: false,
            forwarded_uuid,
            acknowledged_uuid: None,
        })
    }

    /// What the agent does not run any more need not be killed again.
    fn remember_given_up(&mut self, id: &AgentId, reported: &[v1::Task]) {
        let Some(given_up) = self.given_up.get_mut(id) else {
            return;
        };
        let reported: BTreeSet<(&str, &str)> = reported
            .iter()
            .map(|task| {
                (
                    task.framework_id.value.as_str(),
                    task.task_id.value.as_str(),
                )
            })
            .collect();
        given_up
            .retain(|(framework, task)| reported.contains(&(framework.as_str(), task.as_str())));
        if given_up.is_empty() {
            self.given_up.remove(id);
        }
    }

    fn role_of_reported(&self, framework: FrameworkKey, resources: &[v1::Resource]) -> Role {
        wire::allocated_role(resources)
            .or_else(|| self.frameworks[framework].roles.first().cloned())
            .unwrap_or_else(Role::star)
    }

    fn adopt_executors(
        &mut self,
        agent: AgentKey,
        executors: Vec<v1::ExecutorInfo>,
        shut_down: &mut BTreeSet<FrameworkId>,
    ) {
        for info in executors {
            let Some(framework_id) = info
                .framework_id
                .as_ref()
                .map(|id| FrameworkId::from(id.value.as_str()))
            else {
                continue;
            };
            let Some(framework) = self.framework_by_id.get(&framework_id).copied() else {
                shut_down.insert(framework_id);
                continue;
            };
            let id = ExecutorId::from(info.executor_id.value.as_str());
            let of_groups = info.r#type() == v1::executor_info::Type::Default;
            if info.command.is_none() && !of_groups {
                // One without a command is the agent's own and counts as part of its tasks.
                continue;
            }
            if self.find_executor(agent, framework, &id).is_some() {
                continue;
            }
            let resources = wire::resources(&info.resources).unwrap_or_default();
            let resources = resources.known_as(&self.agents[agent].total);
            let role = self.role_of_reported(framework, &info.resources);
            let agent_id = self.agents[agent].id.clone();
            let info = Arc::new(info);
            self.insert_executor(ExecutorRecord {
                info,
                id,
                framework_id,
                agent_id,
                framework,
                agent,
                role,
                resources,
            });
        }
    }

    /// Makes the tables of the master and of a known agent agree.
    fn compare_tasks(&mut self, agent: AgentKey, reported: Vec<v1::Task>) {
        let mut there = BTreeSet::new();
        for task in reported {
            let framework_id = FrameworkId::from(task.framework_id.value.as_str());
            let Some(framework) = self.framework_by_id.get(&framework_id).copied() else {
                let shutdown = link::ShutdownFramework {
                    framework_id: task.framework_id,
                };
                self.send_to_agent(agent, to_agent::Body::ShutdownFramework(shutdown));
                continue;
            };
            let id = TaskId::from(task.task_id.value.as_str());
            match self
                .find_task(framework, id.as_str())
                .filter(|key| self.tasks[*key].agent == agent)
            {
                Some(key) => {
                    there.insert(key);
                    let reported = told_state(task.state(), self.capabilities(framework));
                    if self.advance_task(key, reported) {
                        self.tell_task_reported(key);
                    }
                    if let Some(policy) = self.framework_state(framework).kills.get(&id).copied() {
                        self.send_kill(agent, framework, &id, policy);
                    }
                }
                // This master launched all there is on the agent, so it has given this one up: it was lost when the
                // link broke, and a task ends once.
                None if !task.state().is_terminal() => self.send_kill(agent, framework, &id, None),
                None => {}
            }
        }
        let missing = self.agent_states[&agent]
            .tasks
            .difference(&there)
            .copied()
            .collect::<Vec<_>>();
        let mut unknown: BTreeMap<FrameworkKey, Vec<v1::TaskId>> = BTreeMap::new();
        for key in missing {
            let task = &self.tasks[key];
            if task.state().is_terminal() {
                // Its last update was acknowledged after all.
                self.remove_task(key, Leaving::Completed);
            } else {
                unknown
                    .entry(task.framework)
                    .or_default()
                    .push(task.wire.task_id.clone());
            }
        }
        if unknown.is_empty() {
            return;
        }
        let items = unknown
            .into_iter()
            .map(|(framework, tasks)| {
                let framework = v1::FrameworkInfo::clone(&self.frameworks[framework].info);
                link::reconcile::Item { framework, tasks }
            })
            .collect();
        self.send_to_agent(agent, to_agent::Body::Reconcile(link::Reconcile { items }));
    }

    fn compare_executors(
        &mut self,
        agent: AgentKey,
        reported: Vec<v1::ExecutorInfo>,
        shut_down: &mut BTreeSet<FrameworkId>,
    ) {
        let gone: Vec<_> = self.agent_states[&agent]
            .executors
            .values()
            .copied()
            .filter(|key| {
                let executor = &self.executors[*key];
                !reported.iter().any(|info| {
                    info.executor_id.value == executor.id.as_str()
                        && info
                            .framework_id
                            .as_ref()
                            .is_some_and(|id| id.value == executor.framework_id.as_str())
                })
            })
            .collect();
        for key in gone {
            // A launch that the agent has not got yet brings its executor back with the next task.
            self.remove_executor(key);
        }
        self.adopt_executors(agent, reported, shut_down);
    }

    /// The tasks of an agent that was unreachable and came back without them.
    fn give_up_unreported(&mut self, id: &AgentId) {
        for (framework, task) in self.away_tasks.get(id).cloned().unwrap_or_default() {
            let message = "The agent came back without the task";
            let (state, reason) = (TaskState::TaskGone, Reason::Reconciliation);
            self.end_away_task(framework, &task, state, reason, message);
        }
    }
}

pub(crate) const DOWN: &str = "The agent's machine is DOWN for maintenance";

fn with_id(info: &v1::AgentInfo, id: &AgentId) -> v1::AgentInfo {
    v1::AgentInfo {
        id: Some(wire::agent_id(id)),
        ..info.clone()
    }
}
