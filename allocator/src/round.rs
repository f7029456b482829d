//! A round of offers: which agents are looked at, and who is served from them.

use std::collections::{BTreeMap, BTreeSet};

use tepui_model::{Resources, Role, Tick};

use crate::agent::{Holder, is_plain};
use crate::allocator::Allocator;
use crate::framework::Framework;
use crate::keyed::{AgentSet, Slots};
use crate::quota::{KeptBack, QuotaId};
use crate::tree::NodeId;
use crate::{AgentKey, FrameworkKey};

/// What one framework is to be offered on one agent. Until it is given back it counts as held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    pub framework: FrameworkKey,
    pub role: Role,
    pub agent: AgentKey,
    pub resources: Resources,
}

/// A framework within one of its roles.
type Client = (NodeId, FrameworkKey);

/// Who might be served on an agent.
#[derive(Debug, Clone)]
pub(crate) enum Who<'a> {
    Everybody,
    Only {
        woken: &'a BTreeSet<FrameworkKey>,
        others: BTreeSet<FrameworkKey>,
    },
}

/// Why agents are looked at in a round, and which are still to be.
struct Round {
    fresh: AgentSet,
    woken: BTreeSet<FrameworkKey>,
    ended: BTreeMap<AgentKey, BTreeSet<FrameworkKey>>,
    /// There is more for anybody than was kept free for guarantees.
    guarded: AgentSet,
    lacking: BTreeSet<QuotaId>,
    /// Some roles may have more than before: where, those roles, and their frameworks.
    kept_back: AgentSet,
    loosened: BTreeSet<QuotaId>,
    loosened_frameworks: BTreeSet<FrameworkKey>,
    /// Those named in requests that are still to be looked at. Empty if nobody named any.
    wished: BTreeSet<AgentKey>,
}

impl Who<'_> {
    /// These as well.
    pub(crate) fn and(&self, more: Vec<FrameworkKey>) -> Self {
        let mut who = self.clone();
        if let Self::Only { others, .. } = &mut who {
            others.extend(more);
        }
        who
    }

    /// The accounts of those in question, or `None` if there are more than so many.
    pub(crate) fn few(
        &self,
        frameworks: &Slots<FrameworkKey, Framework>,
        most: usize,
    ) -> Option<Vec<Client>> {
        let Self::Only { woken, others } = self else {
            return None;
        };
        // More than a few frameworks are many, whatever their roles.
        if woken.len().max(others.len()) > most {
            return None;
        }
        let mut few = Vec::new();
        for key in woken.union(others) {
            let clients = frameworks.get(*key).map(|framework| &framework.clients);
            few.extend(clients.into_iter().flatten().map(|node| (*node, *key)));
            if few.len() > most {
                return None;
            }
        }
        Some(few)
    }
}

impl Round {
    fn who(&self, key: AgentKey) -> Who<'_> {
        if self.fresh.contains(key) || self.guarded.contains(key) {
            return Who::Everybody;
        }
        let mut others = self.ended.get(&key).cloned().unwrap_or_default();
        if self.kept_back.contains(key) {
            others.extend(&self.loosened_frameworks);
        }
        Who::Only {
            woken: &self.woken,
            others,
        }
    }
}

impl Allocator {
    /// Gives what is free to those furthest below their share, until nobody who waits would take what is left.
    pub fn allocate(&mut self, now: Tick) -> Vec<Allocation> {
        self.end_filters(now);
        self.tree.refresh();
        for key in &self.woken {
            if self.is_asking(*key) {
                self.frameworks[*key].waiting_since.get_or_insert(now);
            }
        }
        let mut round = self.begin_round();
        let mut allocations = Vec::new();
        for key in self.candidates(&round) {
            round.wished.remove(&key);
            if !self.is_out_of_reach(key, &round) {
                self.serve_from(key, now, &round, &mut allocations);
            }
        }
        self.tree.quotas.end_round();
        allocations
    }

    fn begin_round(&mut self) -> Round {
        let (mut guarded, mut kept_back) = (AgentSet::default(), AgentSet::default());
        let mut lacking = BTreeSet::new();
        if self.tree.quotas.has_more_to_spare() {
            guarded.clone_from(&self.guarded);
            lacking.clone_from(&self.tree.quotas.lacking_ids);
        }
        let mut loosened = BTreeSet::new();
        let mut loosened_frameworks = BTreeSet::new();
        for id in std::mem::take(&mut self.tree.quotas.loosened) {
            // Beneath it there may be room where it has none itself.
            for node in self.tree.subtree(self.tree.quotas.role(id)) {
                let node = self.tree.node(node);
                loosened.extend(node.quota);
                loosened_frameworks.extend(node.clients.keys());
            }
        }
        if !loosened.is_empty() {
            kept_back.add(&self.limited);
            kept_back.add(&self.guarded);
        }
        let wishing = self.wishing.iter();
        let wished = wishing.flat_map(|key| self.frameworks[*key].wishes.keys());
        let preferring = self.preferring.iter();
        let preferred = preferring.flat_map(|key| self.frameworks[*key].preferred.iter());
        let wished = wished.chain(preferred.map(|(agent, _)| agent));
        Round {
            fresh: std::mem::take(&mut self.fresh),
            woken: std::mem::take(&mut self.woken),
            ended: std::mem::take(&mut self.ended),
            guarded,
            lacking,
            kept_back,
            loosened,
            loosened_frameworks,
            wished: wished.copied().collect(),
        }
    }

    /// The agents to look at, beginning behind the one that was first the last time.
    fn candidates(&mut self, round: &Round) -> Vec<AgentKey> {
        let mut candidates: Vec<AgentKey> = if round.woken.is_empty() {
            let mut changed = round.fresh.clone();
            changed.extend(round.ended.keys().copied());
            changed.add(&round.guarded);
            changed.add(&round.kept_back);
            changed.keep(&self.free);
            changed.iter().collect()
        } else {
            self.free.iter().collect()
        };
        let behind = candidates.partition_point(|key| Some(*key) <= self.cursor);
        if behind < candidates.len() {
            candidates.rotate_left(behind);
        }
        self.cursor = candidates.first().copied().or(self.cursor);
        candidates
    }

    /// Whether the agent is looked at only because of room that others of this round have taken by now.
    fn is_out_of_reach(&self, key: AgentKey, round: &Round) -> bool {
        if !round.woken.is_empty()
            || round.fresh.contains(key)
            || round.ended.contains_key(&key)
            || !is_plain(&self.agents[key].available)
        {
            return false;
        }
        let has_room = |ids: &BTreeSet<QuotaId>| ids.iter().any(|id| self.has_room(Some(*id)));
        let guarded =
            round.guarded.contains(key) && (self.has_room(None) || has_room(&round.lacking));
        let loosened = round.kept_back.contains(key) && has_room(&round.loosened);
        !guarded && !loosened
    }

    fn serve_from(
        &mut self,
        key: AgentKey,
        now: Tick,
        round: &Round,
        allocations: &mut Vec<Allocation>,
    ) {
        let who = round.who(key);
        while let Some((holder, resources)) = self.pick(key, &who) {
            let (agent, holder, resources) = match self.wished_instead(holder.0, key, round) {
                Some((wished, holder, resources)) => (wished, holder, resources),
                None => (key, holder, resources),
            };
            self.frameworks[holder.0].waiting_since = Some(now);
            allocations.push(self.give(agent, holder, resources));
        }
    }

    /// An agent that the framework asked for by name, that has what it asked for, and where it is its turn as well.
    fn wished_instead(
        &mut self,
        framework: FrameworkKey,
        other_than: AgentKey,
        round: &Round,
    ) -> Option<(AgentKey, Holder, Resources)> {
        if round.wished.is_empty() {
            return None;
        }
        let record = &self.frameworks[framework];
        let (wishes, preferred) = (record.wishes.clone(), record.preferred.clone());
        if wishes.contains_key(&other_than) {
            return None;
        }
        let wished = wishes.into_iter().find_map(|(key, least)| {
            self.pick_wished(key, framework, round)
                .filter(|(_, _, resources)| resources.quantities().contains(&least))
        });
        if wished.is_some() {
            return wished;
        }
        let there = preferred.iter().find(|(key, _)| *key == other_than);
        let there = there.map_or(0, |(_, amount)| *amount);
        let mut better = preferred.iter().take_while(|(_, amount)| *amount > there);
        better.find_map(|(key, _)| self.pick_wished(*key, framework, round))
    }

    /// What the framework is given on an agent that it would rather have, if it is its turn there.
    fn pick_wished(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        round: &Round,
    ) -> Option<(AgentKey, Holder, Resources)> {
        if !round.wished.contains(&key) || !self.free.contains(key) {
            return None;
        }
        let (holder, resources) = self.pick(key, &round.who(key))?;
        (holder.0 == framework).then_some((key, holder, resources))
    }

    /// Books what somebody is given.
    fn give(&mut self, key: AgentKey, holder: Holder, resources: Resources) -> Allocation {
        let (framework, node) = holder;
        let shared = resources
            .iter_counted()
            .any(|(resource, _)| resource.shared);
        let quotas = !self.tree.quotas.is_empty();
        let agent = &mut self.agents[key];
        // Copies of what it has already do not count again.
        let before = match agent.hold_of(holder) {
            Some(hold) if shared => hold.resources.clone(),
            _ => Resources::new(),
        };
        let hold = agent.take(holder, &resources);
        let booking = if shared {
            self.names.rebooking(&before, &hold.resources, quotas)
        } else {
            self.names.booking(&resources, quotas)
        };
        hold.offered.add(&booking.held);
        let all_given_away = !agent.has_something_to_offer();
        self.frameworks[framework].offered.add(&booking.held);
        self.end_wish(framework, key);
        self.tree
            .client_mut(node, framework)
            .expect("picked from the tree")
            .agents
            .insert(key);
        self.tree.book(node, framework, &booking, 1);
        self.recount(key);
        if all_given_away {
            self.note_given_away(key);
        }
        Allocation {
            framework,
            role: self.tree.node(node).role.clone(),
            agent: key,
            resources,
        }
    }

    /// An agent that the framework asked for by name was given to it, or is gone.
    pub(crate) fn end_wish(&mut self, framework: FrameworkKey, key: AgentKey) {
        if self.wishing.is_empty() {
            return;
        }
        if let Some(record) = self.frameworks.get_mut(framework) {
            record.wishes.remove(&key);
            if record.wishes.is_empty() {
                self.wishing.remove(&framework);
            }
        }
    }

    /// Notes on which agents quotas kept something back from those who were asked.
    pub(crate) fn note_kept_back(&mut self, key: AgentKey, who: &Who<'_>, kept_back: KeptBack) {
        for (kept, agents) in [
            (kept_back.by_limit, &mut self.limited),
            (kept_back.by_guarantees, &mut self.guarded),
        ] {
            if kept {
                agents.insert(key);
            } else if matches!(who, Who::Everybody) {
                agents.remove(key);
            }
        }
    }
}
