//! The events that change who could be offered what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_model::{Attribute, Resources, Role, Tick};

use crate::agent::{Agent, Filter, Holder};
use crate::config::{Config, FrameworkCapabilities};
use crate::share::{Amounts, Names, negated};
use crate::tree::{NodeId, Tree};
use crate::{AgentKey, FrameworkKey};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotHeld {
    #[error("the agent {0:?} is not known")]
    Agent(AgentKey),
    #[error("{resources} on the agent {agent:?} are not there to be converted")]
    Resources {
        agent: AgentKey,
        resources: Resources,
    },
}

#[derive(Debug)]
pub struct Allocator {
    pub(crate) config: Config,
    pub(crate) names: Names,
    pub(crate) tree: Tree,
    pub(crate) agents: BTreeMap<AgentKey, Agent>,
    pub(crate) frameworks: BTreeMap<FrameworkKey, Framework>,
    /// The agents that have something to offer.
    pub(crate) free: BTreeSet<AgentKey>,
    /// Agents on which anybody might now be served. On all others everybody who waits has been asked and would not take
    /// what is there.
    pub(crate) fresh: BTreeSet<AgentKey>,
    /// Frameworks that might now be served on any agent.
    pub(crate) woken: BTreeSet<FrameworkKey>,
    /// Frameworks whose refusal of an agent has ended.
    pub(crate) ended: BTreeMap<AgentKey, BTreeSet<FrameworkKey>>,
    /// The order has changed, which may one day (with quotas) let somebody in.
    pub(crate) reordered: bool,
    /// Refusals whose time has yet to begin.
    pub(crate) unbegun: Vec<(AgentKey, Holder)>,
    pub(crate) deadlines: BTreeSet<(Tick, AgentKey, Holder)>,
    /// Where the last round began; the next begins behind it, so that no agent is always first.
    pub(crate) cursor: Option<AgentKey>,
}

#[derive(Debug, Default)]
pub(crate) struct Framework {
    pub(crate) active: bool,
    pub(crate) capabilities: FrameworkCapabilities,
    /// The roles that it names or still holds something in.
    pub(crate) clients: BTreeSet<NodeId>,
    pub(crate) offered: Amounts,
}

impl Allocator {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            names: Names::default(),
            tree: Tree::new(),
            agents: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            free: BTreeSet::new(),
            fresh: BTreeSet::new(),
            woken: BTreeSet::new(),
            ended: BTreeMap::new(),
            reordered: false,
            unbegun: Vec::new(),
            deadlines: BTreeSet::new(),
            cursor: None,
        }
    }

    /// An agent, with what runs on it already. Frameworks that are not known yet may hold some of it.
    pub fn add_agent(
        &mut self,
        key: AgentKey,
        total: Resources,
        attributes: Arc<[Attribute]>,
        used: &[(FrameworkKey, Role, Resources)],
    ) {
        self.remove_agent(key);
        self.tree.change_total(&self.names.amounts(&total));
        let mut agent = Agent::new(total, attributes);
        for (framework, role, resources) in
            used.iter().filter(|(.., resources)| !resources.is_empty())
        {
            let holder = self.open(*framework, role);
            agent.hold(holder, resources);
        }
        agent.available = agent.left_over();
        for (&(framework, node), hold) in &agent.held {
            let change = self.names.amounts(&hold.resources);
            self.tree
                .client_mut(node, framework)
                .expect("opened above")
                .agents
                .insert(key);
            self.tree.book(node, framework, &change, 1);
        }
        self.agents.insert(key, agent);
        self.freshen(key);
    }

    /// What the agent has in all is now this. If that is less than what is held, nothing is offered until it is not.
    pub fn update_agent_total(&mut self, key: AgentKey, total: Resources) {
        let Some(agent) = self.agents.get_mut(&key) else {
            return;
        };
        self.tree
            .change_total(&self.names.difference(&agent.total, &total));
        agent.total = total;
        agent.available = agent.left_over();
        self.freshen(key);
    }

    /// Frameworks that refused the agent as it was have not refused it as it is.
    pub fn update_agent_attributes(&mut self, key: AgentKey, attributes: Arc<[Attribute]>) {
        let Some(agent) = self.agents.get_mut(&key) else {
            return;
        };
        agent.attributes = attributes;
        self.clear_filters_of_agent(key);
        self.freshen(key);
    }

    /// An inactive agent keeps what runs on it and is not offered.
    pub fn set_agent_active(&mut self, key: AgentKey, active: bool) {
        let Some(agent) = self.agents.get_mut(&key) else {
            return;
        };
        agent.active = active;
        self.freshen(key);
    }

    /// Forgets the agent with all that is held on it.
    pub fn remove_agent(&mut self, key: AgentKey) {
        self.clear_filters_of_agent(key);
        let Some(agent) = self.agents.remove(&key) else {
            return;
        };
        self.tree
            .change_total(&negated(&self.names.amounts(&agent.total)));
        for (holder, hold) in agent.held {
            let (framework, node) = holder;
            let change = negated(&self.names.amounts(&hold.resources));
            self.tree.book(node, framework, &change, 0);
            self.tree
                .client_mut(node, framework)
                .expect("it holds something")
                .agents
                .remove(&key);
            self.answer(framework, &hold.offered);
            self.close(holder);
        }
        self.free.remove(&key);
        self.fresh.remove(&key);
        self.ended.remove(&key);
    }

    pub fn add_framework(
        &mut self,
        key: FrameworkKey,
        roles: &[Role],
        suppressed: &BTreeSet<Role>,
        capabilities: FrameworkCapabilities,
    ) {
        self.frameworks.entry(key).or_default().active = true;
        self.update_framework(key, roles, suppressed, capabilities);
        self.woken.insert(key);
    }

    /// The framework's roles are now these. What it holds in others it keeps until it gives it back.
    pub fn update_framework(
        &mut self,
        key: FrameworkKey,
        roles: &[Role],
        suppressed: &BTreeSet<Role>,
        capabilities: FrameworkCapabilities,
    ) {
        let Some(framework) = self.frameworks.get_mut(&key) else {
            return;
        };
        framework.capabilities = capabilities;
        let named: BTreeSet<NodeId> = roles.iter().map(|role| self.open(key, role).1).collect();
        for node in self.client_nodes(key) {
            let subscribed = named.contains(&node);
            let suppress = subscribed && suppressed.contains(&self.tree.node(node).role);
            let client = self
                .tree
                .client_mut(node, key)
                .expect("listed as the framework's");
            let revived = client.suppressed && !suppress;
            (client.subscribed, client.suppressed) = (subscribed, suppress);
            if revived || !subscribed {
                self.clear_filters((key, node));
            }
            self.update_service((key, node));
            self.close((key, node));
        }
        // Whether the new roles or capabilities let it take more is found out by asking it.
        self.woken.insert(key);
    }

    /// An inactive framework keeps what it holds and is offered nothing.
    pub fn set_framework_active(&mut self, key: FrameworkKey, active: bool) {
        let Some(framework) = self.frameworks.get_mut(&key) else {
            return;
        };
        framework.active = active;
        for node in self.client_nodes(key) {
            self.update_service((key, node));
        }
        if active {
            self.woken.insert(key);
        }
    }

    /// Forgets the framework; what it held is free.
    pub fn remove_framework(&mut self, key: FrameworkKey) {
        for node in self.client_nodes(key) {
            let holder = (key, node);
            self.clear_filters(holder);
            let client = self
                .tree
                .client_mut(node, key)
                .expect("listed as the framework's");
            client.subscribed = false;
            let agents = std::mem::take(&mut client.agents);
            for agent_key in agents {
                let agent = self
                    .agents
                    .get_mut(&agent_key)
                    .expect("removed agents are held by nobody");
                let hold = agent
                    .held
                    .remove(&holder)
                    .expect("a client knows where it holds something");
                agent.held_sum.subtract(&hold.resources);
                agent.available = agent.left_over();
                let change = negated(&self.names.amounts(&hold.resources));
                self.tree.book(node, key, &change, 0);
                self.freshen(agent_key);
            }
            self.close(holder);
        }
        self.frameworks.remove(&key);
        self.woken.remove(&key);
    }

    /// How much a role counts for among its siblings; 1 for those never named here. Must be positive.
    pub fn set_weight(&mut self, role: Role, weight: f64) {
        self.tree.set_weight(role, weight);
        self.reordered = true;
    }

    /// No more offers for these roles, or for all of the framework's if none is named.
    pub fn suppress(&mut self, key: FrameworkKey, roles: &[Role]) {
        for holder in self.named_clients(key, roles) {
            self.tree
                .client_mut(holder.1, key)
                .expect("found above")
                .suppressed = true;
            self.update_service(holder);
        }
    }

    /// Offers again for these roles, or for all of the framework's if none is named, whatever it has refused.
    pub fn revive(&mut self, key: FrameworkKey, roles: &[Role]) {
        for holder in self.named_clients(key, roles) {
            self.tree
                .client_mut(holder.1, key)
                .expect("found above")
                .suppressed = false;
            self.clear_filters(holder);
            self.update_service(holder);
            self.woken.insert(key);
        }
    }

    /// Gives back what a framework held: declined, rescinded, left over or no longer used. With a moment, the framework
    /// refuses as much or less on that agent until then, and for no shorter than [`Config::filter_floor`].
    pub fn recover(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
        resources: &Resources,
        refuse: Option<Tick>,
    ) {
        self.mark_used(key, framework, role, resources);
        self.release(key, framework, role, resources);
        let Some(node) = self.tree.find(role) else {
            return;
        };
        let (Some(until), Some(agent)) = (refuse, self.agents.get_mut(&key)) else {
            return;
        };
        match self.tree.client_mut(node, framework) {
            Some(client) if client.subscribed && !resources.is_empty() => {
                client.filtered.insert(key)
            }
            _ => return,
        };
        let holder = (framework, node);
        agent.refuse(
            holder,
            Filter {
                refused: resources.clone(),
                until,
                begun: false,
            },
        );
        self.unbegun.push((key, holder));
    }

    /// Gives back what was marked as used: a task has ended. As [`Allocator::recover`], but what the framework has in
    /// open offers stays as it is.
    pub fn release(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
        resources: &Resources,
    ) {
        let Some(node) = self.tree.find(role) else {
            return;
        };
        let Some(agent) = self.agents.get_mut(&key) else {
            return;
        };
        let holder = (framework, node);
        let Some(hold) = agent.held.get_mut(&holder) else {
            return;
        };
        debug_assert!(
            hold.resources.contains(resources),
            "{framework:?} gives back {resources} on {key:?} as {role} but holds {}",
            hold.resources
        );
        let before = hold.resources.clone();
        hold.resources.subtract(resources);
        let change = self.names.difference(&before, &hold.resources);
        agent
            .held_sum
            .subtract(&before.saturating_subtract(&hold.resources));
        let emptied = hold.resources.is_empty();
        agent.available = agent.left_over();
        self.tree.book(node, framework, &change, 0);
        if emptied {
            let hold = agent.held.remove(&holder).expect("found above");
            self.tree
                .client_mut(node, framework)
                .expect("it held something")
                .agents
                .remove(&key);
            self.answer(framework, &hold.offered);
            self.close(holder);
        }
        self.freshen(key);
    }

    /// Resources offered are now used, and count no longer against [`Config::offer_cap`].
    pub fn mark_used(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
        resources: &Resources,
    ) {
        let Some(node) = self.tree.find(role) else {
            return;
        };
        let Some(agent) = self.agents.get_mut(&key) else {
            return;
        };
        let Some(hold) = agent.held.get_mut(&(framework, node)) else {
            return;
        };
        let taken = hold.offered.take_up_to(&self.names.amounts(resources));
        if let Some(framework) = self.frameworks.get_mut(&framework) {
            framework.offered.apply(&negated(&taken));
        }
    }

    /// Turns resources of an agent into others, as reserving, or making a volume, does: those of a holder, or without
    /// one those that are free.
    pub fn convert(
        &mut self,
        key: AgentKey,
        holder: Option<(FrameworkKey, &Role)>,
        consumed: &Resources,
        converted: &Resources,
    ) -> Result<(), NotHeld> {
        let not_there = || NotHeld::Resources {
            agent: key,
            resources: consumed.clone(),
        };
        let agent = self.agents.get_mut(&key).ok_or(NotHeld::Agent(key))?;
        let mut total = agent
            .total
            .checked_subtract(consumed)
            .ok_or_else(not_there)?;
        total.add(converted);
        match holder {
            None if !agent.available.contains(consumed) => return Err(not_there()),
            None => {}
            Some((framework, role)) => {
                let node = self.tree.find(role).ok_or_else(not_there)?;
                let hold = agent
                    .held
                    .get_mut(&(framework, node))
                    .ok_or_else(not_there)?;
                let mut held = hold
                    .resources
                    .checked_subtract(consumed)
                    .ok_or_else(not_there)?;
                held.add(converted);
                let change = self.names.difference(&hold.resources, &held);
                agent.held_sum.subtract(consumed);
                agent.held_sum.add(converted);
                hold.resources = held;
                self.tree.book(node, framework, &change, 0);
            }
        }
        self.tree
            .change_total(&self.names.difference(&agent.total, &total));
        agent.total = total;
        agent.available = agent.left_over();
        self.freshen(key);
        Ok(())
    }

    /// Whether [`Allocator::allocate`] might have something to do without any time passing.
    pub fn dirty(&self) -> bool {
        self.reordered
            || self.tree.is_stale()
            || !self.fresh.is_empty()
            || !self.woken.is_empty()
            || !self.ended.is_empty()
            || !self.unbegun.is_empty()
    }

    /// When the next refusal ends.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.deadlines.first().map(|(until, ..)| *until)
    }

    fn clear_filters(&mut self, holder: Holder) {
        let Some(client) = self.tree.client_mut(holder.1, holder.0) else {
            return;
        };
        for key in std::mem::take(&mut client.filtered) {
            let filters = self
                .agents
                .get_mut(&key)
                .and_then(|agent| agent.filters.remove(&holder));
            for filter in filters.into_iter().flatten() {
                self.deadlines.remove(&(filter.until, key, holder));
            }
        }
    }

    fn clear_filters_of_agent(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get_mut(&key) else {
            return;
        };
        for (holder, filters) in std::mem::take(&mut agent.filters) {
            for filter in filters {
                self.deadlines.remove(&(filter.until, key, holder));
            }
            if let Some(client) = self.tree.client_mut(holder.1, holder.0) {
                client.filtered.remove(&key);
            }
        }
    }

    /// The framework's account in a role, opened if need be.
    fn open(&mut self, framework: FrameworkKey, role: &Role) -> Holder {
        let node = self.tree.open_client(role, framework);
        self.frameworks
            .entry(framework)
            .or_default()
            .clients
            .insert(node);
        (framework, node)
    }

    /// Closes the account if there is no more need for it.
    fn close(&mut self, (framework, node): Holder) {
        if self.tree.close_client(node, framework)
            && let Some(framework) = self.frameworks.get_mut(&framework)
        {
            framework.clients.remove(&node);
        }
    }

    fn answer(&mut self, framework: FrameworkKey, offered: &Amounts) {
        if let Some(framework) = self.frameworks.get_mut(&framework) {
            framework.offered.apply(&negated(&offered.as_change()));
        }
    }

    pub(crate) fn client_nodes(&self, framework: FrameworkKey) -> Vec<NodeId> {
        self.frameworks
            .get(&framework)
            .into_iter()
            .flat_map(|framework| &framework.clients)
            .copied()
            .collect()
    }

    fn named_clients(&self, key: FrameworkKey, roles: &[Role]) -> Vec<Holder> {
        let mut nodes = self.client_nodes(key);
        nodes.retain(|node| {
            self.tree
                .client(*node, key)
                .is_some_and(|client| client.subscribed)
                && (roles.is_empty() || roles.contains(&self.tree.node(*node).role))
        });
        nodes.into_iter().map(|node| (key, node)).collect()
    }

    fn update_service(&mut self, (framework, node): Holder) {
        let active = self
            .frameworks
            .get(&framework)
            .is_some_and(|framework| framework.active);
        let wants = self
            .tree
            .client(node, framework)
            .is_some_and(|client| client.subscribed && !client.suppressed);
        self.tree.serve_client(node, framework, active && wants);
    }

    fn freshen(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get(&key) else {
            return;
        };
        if agent.has_something_to_offer() {
            self.free.insert(key);
            self.fresh.insert(key);
        } else {
            self.free.remove(&key);
        }
    }
}
