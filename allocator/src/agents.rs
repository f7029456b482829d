//! Agents that come, change and go, and the quotas under which they are given away.

use std::collections::BTreeMap;

use tepui_model::{Quantities, Resources, Role};

use crate::agent::Agent;
use crate::allocator::Allocator;
use crate::constraints::AgentTraits;
use crate::quota::{Quota, Quotas};
use crate::share::{Amounts, Booking};
use crate::{AgentKey, FrameworkKey};

impl Allocator {
    /// An agent, with what runs on it already. Frameworks that are not known yet may hold some of it.
    pub fn add_agent(
        &mut self,
        key: AgentKey,
        total: Resources,
        traits: AgentTraits,
        used: &[(FrameworkKey, Role, Resources)],
    ) {
        self.remove_agent(key);
        self.change_total(&Resources::new(), &total);
        let mut agent = Agent::new(total, traits);
        for (framework, role, resources) in
            used.iter().filter(|(.., resources)| !resources.is_empty())
        {
            let holder = self.open(*framework, role);
            agent.hold(holder, resources);
        }
        agent.available = agent.left_over();
        for &((framework, node), ref hold) in &agent.held {
            let booking = self.booking(&hold.resources);
            self.tree
                .client_mut(node, framework)
                .expect("opened above")
                .agents
                .insert(key);
            self.tree.book(node, framework, &booking, 1);
        }
        self.agents.insert(key, agent);
        self.freshen(key);
    }

    /// What the agent has in all is now this. If that is less than what is held, nothing is offered until it is not.
    pub fn update_agent_total(&mut self, key: AgentKey, total: Resources) {
        let Some(agent) = self.agents.get_mut(key) else {
            return;
        };
        let before = agent.set_total(total.clone());
        self.change_total(&before, &total);
        self.freshen(key);
    }

    /// Frameworks that refused the agent as it was have not refused it as it is.
    pub fn update_agent_traits(&mut self, key: AgentKey, traits: AgentTraits) {
        let Some(agent) = self.agents.get_mut(key) else {
            return;
        };
        agent.traits = traits;
        self.clear_filters_of_agent(key);
        self.freshen(key);
    }

    /// An inactive agent keeps what runs on it and is not offered.
    pub fn set_agent_active(&mut self, key: AgentKey, active: bool) {
        let Some(agent) = self.agents.get_mut(key) else {
            return;
        };
        agent.active = active;
        self.freshen(key);
    }

    /// Forgets the agent with all that is held on it.
    pub fn remove_agent(&mut self, key: AgentKey) {
        self.clear_filters_of_agent(key);
        let Some(agent) = self.agents.remove(key) else {
            return;
        };
        self.change_total(&agent.total, &Resources::new());
        self.tree.quotas.free.subtract(&agent.counted);
        for (holder, hold) in agent.held {
            let (framework, node) = holder;
            let booking = self.booking(&hold.resources).negated();
            self.tree.book(node, framework, &booking, 0);
            self.tree
                .client_mut(node, framework)
                .expect("it holds something")
                .agents
                .remove(&key);
            self.answer(framework, &hold.offered);
            self.close(holder);
        }
        self.fresh.remove(key);
        self.ended.remove(&key);
        self.note_given_away(key);
        for framework in self.wishing.clone() {
            self.end_wish(framework, key);
        }
    }

    /// The quotas of all roles are now these. None of them guarantees more than it allows.
    pub fn set_quotas(&mut self, quotas: BTreeMap<Role, Quota>) {
        for quota in quotas.values() {
            let guaranteed = quota.guarantees.iter().map(|(name, _)| name);
            for name in guaranteed.chain(quota.limits.keys()) {
                self.names.number(name);
            }
        }
        let quotas = self.reckon_quotas(quotas);
        for agent in self.agents.values_mut() {
            agent.counted = Amounts::default();
        }
        self.tree.set_quotas(quotas);
        self.tree.quotas.free = Default::default();
        let keys: Vec<AgentKey> = self.agents.keys().collect();
        for key in keys {
            self.recount(key);
        }
        // Who was kept back may not be so any more.
        self.fresh.add(&std::mem::take(&mut self.limited));
        self.fresh.add(&std::mem::take(&mut self.guarded));
        self.fresh.keep(&self.free);
        self.tree.quotas.end_round();
        self.tree.quotas.loosened.clear();
    }

    pub fn quotas(&self) -> &BTreeMap<Role, Quota> {
        self.tree.quotas.all()
    }

    /// Quotas with everything counted from scratch.
    pub(crate) fn reckon_quotas(&self, quotas: BTreeMap<Role, Quota>) -> Quotas {
        let mut names = self.names.clone();
        let mut reckoned = Quotas::begin(quotas, &mut names);
        if reckoned.is_empty() {
            return reckoned;
        }
        for agent in self.agents.values() {
            if agent.active {
                reckoned
                    .free
                    .add(&names.unreserved_amounts(&agent.available));
            }
            for (role, number, amount) in names.reservations(&agent.total) {
                reckoned.consume_one(reckoned.of(role), number, amount);
            }
            for ((_, node), hold) in &agent.held {
                let quota = reckoned.of(&self.tree.node(*node).role);
                reckoned.consume(quota, &names.unreserved_amounts(&hold.resources));
            }
        }
        reckoned
    }

    /// What a role consumes of its quota, with all beneath it, offers included; nothing is known of roles without one.
    pub fn quota_consumed(&self, role: &Role) -> Option<Quantities> {
        let consumed = self.tree.quotas.consumed(role)?;
        Some(self.names.quantities(consumed))
    }

    /// Whether a role should give this back for a limit to be kept, or for a guarantee to have its head-room.
    pub fn is_wanted_back(&self, role: &Role, resources: &Resources) -> bool {
        let quotas = &self.tree.quotas;
        let id = quotas.of(role);
        let amounts = self.names.known_unreserved_amounts(resources);
        !quotas.is_empty()
            && (0..amounts.len()).any(|number| quotas.would_help(id, number, amounts.at(number)))
    }

    /// How a holder's account changes by these resources.
    pub(crate) fn booking(&mut self, resources: &Resources) -> Booking {
        self.names.booking(resources, !self.tree.quotas.is_empty())
    }

    pub(crate) fn change_total(&mut self, before: &Resources, after: &Resources) {
        self.tree
            .change_total(&self.names.difference(before, after));
        let quotas = &mut self.tree.quotas;
        if quotas.is_empty() {
            return;
        }
        for (role, number, amount) in self.names.reservations(after) {
            quotas.consume_one(quotas.of(role), number, amount);
        }
        for (role, number, amount) in self.names.reservations(before) {
            quotas.consume_one(quotas.of(role), number, -amount);
        }
    }

    /// Counts again what is free on the agent.
    pub(crate) fn recount(&mut self, key: AgentKey) {
        if self.tree.quotas.is_empty() {
            return;
        }
        let Some(agent) = self.agents.get_mut(key) else {
            return;
        };
        let now = if agent.active {
            self.names.unreserved_amounts(&agent.available)
        } else {
            Amounts::default()
        };
        let before = std::mem::replace(&mut agent.counted, now);
        let free = &mut self.tree.quotas.free;
        free.subtract(&before);
        free.add(&agent.counted);
    }

    /// Nothing is left on the agent, so nothing is kept back from anybody there either.
    pub(crate) fn note_given_away(&mut self, key: AgentKey) {
        self.free.remove(key);
        self.limited.remove(key);
        self.guarded.remove(key);
    }

    /// Something about the agent has changed: whoever waits is to be asked again.
    pub(crate) fn freshen(&mut self, key: AgentKey) {
        self.recount(key);
        let Some(agent) = self.agents.get(key) else {
            return;
        };
        if agent.has_something_to_offer() {
            self.free.insert(key);
            self.fresh.insert(key);
        } else {
            self.note_given_away(key);
        }
    }
}
