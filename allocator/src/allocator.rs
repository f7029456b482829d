//! The allocator's state, and what frameworks and operators tell it.

use std::collections::{BTreeMap, BTreeSet};

use tepui_model::{Quantities, Role, Tick};

use crate::agent::{Agent, Holder};
use crate::config::Config;
use crate::framework::{Framework, FrameworkTerms, RoleTerms};
use crate::keyed::{AgentSet, Slots};
use crate::share::{Amounts, Names};
use crate::tree::{Client, NodeId, Tree};
use crate::{AgentKey, FrameworkKey};

#[derive(Debug)]
pub struct Allocator {
    pub(crate) config: Config,
    pub(crate) names: Names,
    pub(crate) tree: Tree,
    pub(crate) agents: Slots<AgentKey, Agent>,
    pub(crate) frameworks: Slots<FrameworkKey, Framework>,
    /// The agents that have something to offer.
    pub(crate) free: AgentSet,
    /// Agents on which anybody might now be served. On all others everybody who waits has been asked and would not take
    /// what is there.
    pub(crate) fresh: AgentSet,
    /// Frameworks that might now be served on any agent.
    pub(crate) woken: BTreeSet<FrameworkKey>,
    /// Those that asked for agents by name.
    pub(crate) wishing: BTreeSet<FrameworkKey>,
    /// Those that prefer agents for what those hold.
    pub(crate) preferring: BTreeSet<FrameworkKey>,
    /// Frameworks whose refusal of an agent has ended.
    pub(crate) ended: BTreeMap<AgentKey, BTreeSet<FrameworkKey>>,
    /// Agents on which somebody would have been given more but for a limit.
    pub(crate) limited: AgentSet,
    /// Agents on which somebody would have been given more but for what is kept free for others' guarantees.
    pub(crate) guarded: AgentSet,
    /// How many clients have minimums of their own.
    pub(crate) own_minimums: usize,
    pub(crate) deadlines: BTreeSet<(Tick, AgentKey, Holder)>,
    /// Where the last round began; the next begins behind it, so that no agent is always first.
    pub(crate) cursor: Option<AgentKey>,
}

impl Allocator {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            names: Names::default(),
            tree: Tree::new(),
            agents: Slots::new(),
            frameworks: Slots::new(),
            free: AgentSet::default(),
            fresh: AgentSet::default(),
            woken: BTreeSet::new(),
            wishing: BTreeSet::new(),
            preferring: BTreeSet::new(),
            ended: BTreeMap::new(),
            limited: AgentSet::default(),
            guarded: AgentSet::default(),
            own_minimums: 0,
            deadlines: BTreeSet::new(),
            cursor: None,
        }
    }

    pub fn add_framework(&mut self, key: FrameworkKey, terms: &FrameworkTerms) {
        self.frameworks.get_or_default(key).active = true;
        self.update_framework(key, terms);
        self.woken.insert(key);
    }

    /// The framework's roles and its terms are now these. What it holds in other roles it keeps until it gives it back.
    pub fn update_framework(&mut self, key: FrameworkKey, terms: &FrameworkTerms) {
        let Some(framework) = self.frameworks.get_mut(key) else {
            return;
        };
        framework.capabilities = terms.capabilities;
        for role in terms.roles.keys() {
            self.open(key, role);
        }
        for node in self.client_nodes(key) {
            let named = terms.roles.get(&self.tree.node(node).role);
            let revived = self.set_terms((key, node), named.cloned());
            if revived || named.is_none() {
                self.clear_filters((key, node));
            }
            self.update_service((key, node));
            self.close((key, node));
        }
        // Whether the new terms let it take more is found out by asking it.
        self.woken.insert(key);
    }

    /// The terms of a role, or none if the framework does not name it. Says whether this ends a suppression.
    fn set_terms(&mut self, (framework, node): Holder, terms: Option<RoleTerms>) -> bool {
        let client = self
            .tree
            .client_mut(node, framework)
            .expect("listed as the framework's");
        let own = |terms: &RoleTerms| usize::from(terms.min_allocatable.is_some());
        client.subscribed = terms.is_some();
        let old = std::mem::replace(&mut client.terms, terms.unwrap_or_default());
        self.own_minimums = self.own_minimums + own(&client.terms) - own(&old);
        old.suppressed && !client.terms.suppressed
    }

    /// An inactive framework keeps what it holds and is offered nothing.
    pub fn set_framework_active(&mut self, key: FrameworkKey, active: bool) {
        let Some(framework) = self.frameworks.get_mut(key) else {
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
            self.set_terms(holder, None);
            let client = self
                .tree
                .client_mut(node, key)
                .expect("listed as the framework's");
            let agents = std::mem::take(&mut client.agents);
            for agent_key in agents {
                let agent = &mut self.agents[agent_key];
                let hold = agent
                    .end_hold(holder)
                    .expect("a client knows where it holds something");
                agent.available = agent.left_over();
                let booking = self.booking(&hold.resources).negated();
                self.tree.book(node, key, &booking, 0);
                self.freshen(agent_key);
            }
            self.close(holder);
        }
        self.frameworks.remove(key);
        self.woken.remove(&key);
        self.wishing.remove(&key);
        self.preferring.remove(&key);
    }

    /// How much a role counts for among its siblings; 1 for those never named here. Must be positive.
    pub fn set_weight(&mut self, role: Role, weight: f64) {
        self.tree.set_weight(role, weight);
    }

    /// Agents that the framework would rather have than others, each with how much it would take there, in place of
    /// those it named before. When it is its turn, it is served from one of them if that has so much for it.
    pub fn request(&mut self, key: FrameworkKey, wishes: BTreeMap<AgentKey, Quantities>) {
        if let Some(framework) = self.frameworks.get_mut(key) {
            framework.wishes = wishes;
            if framework.wishes.is_empty() {
                self.wishing.remove(&key);
            } else {
                self.wishing.insert(key);
            }
        }
    }

    /// Agents that have more of what the framework works on than others, with how much, the most first, in place of those
    /// before. When it is its turn, it is served from the first of them where it could be as well. This stays so
    /// whatever it is given.
    pub fn prefer(&mut self, key: FrameworkKey, preferred: Vec<(AgentKey, u64)>) {
        if let Some(framework) = self.frameworks.get_mut(key) {
            if preferred.is_empty() {
                self.preferring.remove(&key);
            } else {
                self.preferring.insert(key);
            }
            framework.preferred = preferred.into();
        }
    }

    /// No more offers for these roles, or for all of the framework's if none is named.
    pub fn suppress(&mut self, key: FrameworkKey, roles: &[Role]) {
        for holder in self.named_clients(key, roles) {
            self.tree
                .client_mut(holder.1, key)
                .expect("found above")
                .terms
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
                .terms
                .suppressed = false;
            self.clear_filters(holder);
            self.update_service(holder);
            self.woken.insert(key);
        }
    }

    /// Whether [`Allocator::allocate`] might have something to do without any time passing.
    pub fn dirty(&self) -> bool {
        self.tree.is_stale()
            || !(self.tree.quotas.loosened.is_empty()
                || self.limited.is_empty() && self.guarded.is_empty())
            || (!self.guarded.is_empty() && self.tree.quotas.has_more_to_spare())
            || !self.fresh.is_empty()
            || !self.woken.is_empty()
            || !self.ended.is_empty()
    }

    /// When the next refusal ends.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.deadlines.first().map(|(until, ..)| *until)
    }

    /// The framework's account in a role, opened if need be.
    pub(crate) fn open(&mut self, framework: FrameworkKey, role: &Role) -> Holder {
        let node = self.tree.open_client(role, framework);
        self.frameworks
            .get_or_default(framework)
            .clients
            .insert(node);
        (framework, node)
    }

    /// Closes the account if there is no more need for it.
    pub(crate) fn close(&mut self, (framework, node): Holder) {
        if self.tree.close_client(node, framework)
            && let Some(framework) = self.frameworks.get_mut(framework)
        {
            framework.clients.remove(&node);
        }
    }

    pub(crate) fn answer(&mut self, framework: FrameworkKey, offered: &Amounts) {
        if let Some(framework) = self.frameworks.get_mut(framework) {
            framework.offered.subtract(offered);
        }
    }

    pub(crate) fn client_nodes(&self, framework: FrameworkKey) -> Vec<NodeId> {
        self.frameworks
            .get(framework)
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
            .get(framework)
            .is_some_and(|framework| framework.active);
        let wants = self
            .tree
            .client(node, framework)
            .is_some_and(|client| client.subscribed && !client.terms.suppressed);
        self.tree.serve_client(node, framework, active && wants);
        if !self.is_asking(framework)
            && let Some(framework) = self.frameworks.get_mut(framework)
        {
            framework.waiting_since = None;
        }
    }

    /// Whether the framework is to be served in any role.
    pub(crate) fn is_asking(&self, key: FrameworkKey) -> bool {
        let framework = self.frameworks.get(key);
        let mut nodes = framework.into_iter().flat_map(|record| &record.clients);
        nodes.any(|node| {
            let client = self.tree.client(*node, key);
            client.is_some_and(Client::is_served)
        })
    }
}
