//! What is held: given back, used up, converted; and what is refused.

use tepui_model::{Resources, Role, Tick};

use crate::agent::{Filter, Holder};
use crate::allocator::Allocator;
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

impl Allocator {
    /// Gives back what a framework held: declined, rescinded, left over or no longer used. With a moment, the framework
    /// refuses as much or less on that agent until then; afterwards it lets others go first once.
    pub fn recover(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
        resources: &Resources,
        refuse: Option<Tick>,
    ) {
        self.give_back(key, framework, role, resources, refuse, true);
    }

    /// Gives back what a framework left of an offer it has made use of. As [`Allocator::recover`], but when its refusal
    /// is over it need let nobody go first: whoever takes a little of every offer is no decliner, and its share decides.
    pub fn recover_rest(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
        resources: &Resources,
        refuse: Option<Tick>,
    ) {
        self.give_back(key, framework, role, resources, refuse, false);
    }

    fn give_back(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
        resources: &Resources,
        refuse: Option<Tick>,
        then_others_first: bool,
    ) {
        self.end_offer(key, framework, role, resources);
        self.release(key, framework, role, resources);
        let Some(node) = self.tree.find(role) else {
            return;
        };
        let (Some(until), Some(agent)) = (refuse, self.agents.get_mut(key)) else {
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
                then_others_first,
                lapsed: false,
            },
        );
        self.deadlines.insert((until, key, holder));
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
        let Some(agent) = self.agents.get_mut(key) else {
            return;
        };
        let holder = (framework, node);
        let Some(hold) = agent.hold_of_mut(holder) else {
            return;
        };
        debug_assert!(
            hold.resources.contains(resources),
            "{framework:?} gives back {resources} on {key:?} as {role} but holds {}",
            hold.resources
        );
        let before = hold.resources.clone();
        hold.resources.subtract(resources);
        let quotas = !self.tree.quotas.is_empty();
        let booking = self.names.rebooking(&before, &hold.resources, quotas);
        let emptied = hold.resources.is_empty();
        let ended = if emptied {
            agent.end_hold(holder)
        } else {
            None
        };
        agent.available = agent.left_over();
        self.tree.book(node, framework, &booking, 0);
        if let Some(hold) = ended {
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

    /// Resources offered are now used, and count no longer against [`crate::Config::offer_cap`].
    pub fn mark_used(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
        resources: &Resources,
    ) {
        self.end_offer(key, framework, role, resources);
        self.forget_lapsed(key);
    }

    fn end_offer(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
        resources: &Resources,
    ) {
        let Some(node) = self.tree.find(role) else {
            return;
        };
        let Some(agent) = self.agents.get_mut(key) else {
            return;
        };
        let Some(hold) = agent.hold_of_mut((framework, node)) else {
            return;
        };
        let taken = hold.offered.take_up_to(&self.names.amounts(resources));
        self.answer(framework, &taken);
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
        let agent = self.agents.get_mut(key).ok_or(NotHeld::Agent(key))?;
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
                let hold = agent.hold_of_mut((framework, node)).ok_or_else(not_there)?;
                let mut held = hold
                    .resources
                    .checked_subtract(consumed)
                    .ok_or_else(not_there)?;
                held.add(converted);
                let quotas = !self.tree.quotas.is_empty();
                let booking = self.names.rebooking(&hold.resources, &held, quotas);
                hold.resources = held;
                self.tree.book(node, framework, &booking, 0);
            }
        }
        let before = agent.set_total(total.clone());
        self.change_total(&before, &total);
        self.freshen(key);
        Ok(())
    }

    pub(crate) fn clear_filters(&mut self, holder: Holder) {
        let Some(client) = self.tree.client_mut(holder.1, holder.0) else {
            return;
        };
        for key in std::mem::take(&mut client.filtered) {
            let filters = self
                .agents
                .get_mut(key)
                .and_then(|agent| agent.filters.remove(&holder));
            for filter in filters.into_iter().flatten() {
                self.deadlines.remove(&(filter.until, key, holder));
            }
        }
    }

    pub(crate) fn clear_filters_of_agent(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get_mut(key) else {
            return;
        };
        agent.lapsed.clear();
        for (holder, filters) in std::mem::take(&mut agent.filters) {
            for filter in filters {
                self.deadlines.remove(&(filter.until, key, holder));
            }
            if let Some(client) = self.tree.client_mut(holder.1, holder.0) {
                client.filtered.remove(&key);
            }
        }
    }

    /// On this agent refusals that have run out let nobody go first any more. Returns whose they were.
    pub(crate) fn forget_lapsed(&mut self, key: AgentKey) -> Vec<FrameworkKey> {
        let Some(agent) = self.agents.get_mut(key) else {
            return Vec::new();
        };
        if agent.lapsed.is_empty() {
            return Vec::new();
        }
        let mut whose = Vec::new();
        for (holder, refuses_nothing) in agent.forget_lapsed() {
            whose.push(holder.0);
            if refuses_nothing && let Some(client) = self.tree.client_mut(holder.1, holder.0) {
                client.filtered.remove(&key);
            }
        }
        whose
    }

    /// The times of refusals run out.
    pub(crate) fn end_filters(&mut self, now: Tick) {
        while let Some(&(until, key, holder)) = self.deadlines.first() {
            if until > now {
                return;
            }
            self.deadlines.pop_first();
            let Some(agent) = self.agents.get_mut(key) else {
                continue;
            };
            let Some(filters) = agent.filters.get_mut(&holder) else {
                continue;
            };
            for filter in filters.iter_mut().filter(|filter| filter.until <= now) {
                filter.lapsed = true;
            }
            filters.retain(|filter| !filter.lapsed || filter.then_others_first);
            if filters.is_empty() {
                agent.filters.remove(&holder);
                if let Some(client) = self.tree.client_mut(holder.1, holder.0) {
                    client.filtered.remove(&key);
                }
            } else if filters.iter().any(|filter| filter.lapsed) {
                agent.lapsed.insert(holder);
            }
            self.ended.entry(key).or_default().insert(holder.0);
        }
    }
}
