//! A round of offers: which agents are looked at, and who is served from them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use tepui_model::{Resources, Role, Tick};

use crate::agent::{Holder, is_worth_offering};
use crate::allocator::{Allocator, Framework};
use crate::config::FrameworkCapabilities;
use crate::tree::NodeId;
use crate::{AgentKey, FrameworkKey};

/// Above this many, a few waiting frameworks are no longer few, and walking the order is cheaper than sorting them.
const FEW: usize = 32;

/// What one framework is to be offered on one agent. Until it is given back it counts as held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    pub framework: FrameworkKey,
    pub role: Role,
    pub agent: AgentKey,
    pub resources: Resources,
}

/// Who might be served on an agent.
enum Who {
    Everybody,
    Only(BTreeSet<FrameworkKey>),
}

impl Allocator {
    /// Gives what is free to those furthest below their share, until nobody who waits would take what is left.
    pub fn allocate(&mut self, now: Tick) -> Vec<Allocation> {
        self.begin_filters(now);
        self.end_filters(now);
        self.tree.refresh();
        self.reordered = false;
        let fresh = std::mem::take(&mut self.fresh);
        let woken = std::mem::take(&mut self.woken);
        let ended = std::mem::take(&mut self.ended);
        let mut allocations = Vec::new();
        for key in self.candidates(&fresh, &woken, &ended) {
            let who = if fresh.contains(&key) {
                Who::Everybody
            } else {
                Who::Only(
                    woken
                        .iter()
                        .chain(ended.get(&key).into_iter().flatten())
                        .copied()
                        .collect(),
                )
            };
            self.serve_from(key, &who, &mut allocations);
        }
        allocations
    }

    /// The agents to look at, beginning behind the one that was first the last time.
    fn candidates(
        &mut self,
        fresh: &BTreeSet<AgentKey>,
        woken: &BTreeSet<FrameworkKey>,
        ended: &BTreeMap<AgentKey, BTreeSet<FrameworkKey>>,
    ) -> Vec<AgentKey> {
        let mut candidates: Vec<AgentKey> = if woken.is_empty() {
            let changed: BTreeSet<AgentKey> = fresh.iter().chain(ended.keys()).copied().collect();
            changed.intersection(&self.free).copied().collect()
        } else {
            self.free.iter().copied().collect()
        };
        let behind = candidates.partition_point(|key| Some(*key) <= self.cursor);
        if behind < candidates.len() {
            candidates.rotate_left(behind);
        }
        self.cursor = candidates.first().copied().or(self.cursor);
        candidates
    }

    fn serve_from(&mut self, key: AgentKey, who: &Who, allocations: &mut Vec<Allocation>) {
        while let Some((holder, resources)) = self.pick(key, who) {
            let (framework, node) = holder;
            let agent = self
                .agents
                .get_mut(&key)
                .expect("candidates are known agents");
            let change = if resources
                .iter_counted()
                .any(|(resource, _)| resource.shared)
            {
                // Copies of what it has already do not count again.
                let before = agent
                    .held
                    .get(&holder)
                    .map_or_else(Resources::new, |hold| hold.resources.clone());
                agent.take(holder, &resources);
                self.names
                    .difference(&before, &agent.held[&holder].resources)
            } else {
                agent.take(holder, &resources);
                self.names.amounts(&resources)
            };
            if !agent.has_something_to_offer() {
                self.free.remove(&key);
            }
            if let Some(hold) = agent.held.get_mut(&holder) {
                hold.offered.apply(&change);
            }
            if let Some(framework) = self.frameworks.get_mut(&framework) {
                framework.offered.apply(&change);
            }
            self.tree
                .client_mut(node, framework)
                .expect("picked from the tree")
                .agents
                .insert(key);
            self.tree.book(node, framework, &change, 1);
            let role = self.tree.node(node).role.clone();
            allocations.push(Allocation {
                framework,
                role,
                agent: key,
                resources,
            });
        }
    }

    /// Who is first in order among those who would take something that is free on the agent, and what.
    fn pick(&self, key: AgentKey, who: &Who) -> Option<(Holder, Resources)> {
        let agent = &self.agents[&key];
        if !agent.has_something_to_offer()
            || !is_worth_offering(&agent.available, &self.config.min_allocatable)
        {
            return None;
        }
        let (plain, gpus) = (agent.is_plain(), agent.has_gpus());
        // Frameworks of one role are mostly offered the same, so it is not made anew for each.
        let mut last: Option<(NodeId, FrameworkCapabilities, Option<Resources>)> = None;
        let mut over_cap: Option<(Holder, Resources)> = None;
        let visit = |node: NodeId, framework: FrameworkKey| {
            let record = &self.frameworks[&framework];
            if gpus && !record.capabilities.gpu {
                return ControlFlow::Continue(());
            }
            let again = last.as_ref().is_some_and(|(last_node, capabilities, _)| {
                plain || (*last_node == node && *capabilities == record.capabilities)
            });
            if !again {
                let offer = agent.offerable(&self.tree.node(node).role, record.capabilities);
                let worthy = is_worth_offering(&offer, &self.config.min_allocatable);
                last = Some((node, record.capabilities, worthy.then_some(offer)));
            }
            let Some((_, _, Some(offer))) = &mut last else {
                return ControlFlow::Continue(());
            };
            let holder = (framework, node);
            if agent.refuses(holder, offer) {
                return ControlFlow::Continue(());
            }
            if self.is_over_cap(record, offer) {
                over_cap.get_or_insert_with(|| (holder, offer.clone()));
                return ControlFlow::Continue(());
            }
            ControlFlow::Break((holder, std::mem::take(offer)))
        };
        let found = match (who, agent.reserved_roles()) {
            (Who::Only(frameworks), _) if self.client_count(frameworks) <= FEW => {
                self.visit_few(frameworks, visit)
            }
            (_, Some(roles)) => self.tree.walk_within(&roles, visit),
            (_, None) => self.tree.walk(visit),
        };
        // Holding back is for the sake of others: what no other would take, one may have beyond the cap.
        found.or(over_cap)
    }

    fn client_count(&self, frameworks: &BTreeSet<FrameworkKey>) -> usize {
        let records = frameworks
            .iter()
            .filter_map(|framework| self.frameworks.get(framework));
        // More than a few frameworks are many, whatever their roles.
        records
            .take(FEW + 1)
            .map(|framework| framework.clients.len().max(1))
            .sum()
    }

    fn visit_few(
        &self,
        frameworks: &BTreeSet<FrameworkKey>,
        mut visit: impl FnMut(NodeId, FrameworkKey) -> ControlFlow<(Holder, Resources)>,
    ) -> Option<(Holder, Resources)> {
        let pairs = frameworks.iter().flat_map(|key| {
            let clients = self
                .frameworks
                .get(key)
                .into_iter()
                .flat_map(|framework| &framework.clients);
            clients.map(|node| (*node, *key))
        });
        let mut sorted = self.tree.sorted(pairs).into_iter();
        sorted.find_map(|(node, framework)| visit(node, framework).break_value())
    }

    /// Whether the offer would take the framework over the cap. One offer everybody may have, however large.
    fn is_over_cap(&self, framework: &Framework, offer: &Resources) -> bool {
        let Some(cap) = self.config.offer_cap else {
            return false;
        };
        if framework.offered.is_zero() {
            return false;
        }
        let mut offered = self.names.known_amounts(offer);
        offered.add(&framework.offered);
        offered.dominant_share(&self.tree.total) > cap
    }

    fn begin_filters(&mut self, now: Tick) {
        let earliest = now.after(self.config.filter_floor);
        for (key, holder) in std::mem::take(&mut self.unbegun) {
            let filters = self
                .agents
                .get_mut(&key)
                .and_then(|agent| agent.filters.get_mut(&holder));
            for filter in filters.into_iter().flatten().filter(|filter| !filter.begun) {
                filter.begun = true;
                filter.until = filter.until.max(earliest);
                self.deadlines.insert((filter.until, key, holder));
            }
        }
    }

    fn end_filters(&mut self, now: Tick) {
        while let Some(&(until, key, holder)) = self.deadlines.first() {
            if until > now {
                return;
            }
            self.deadlines.pop_first();
            let Some(agent) = self.agents.get_mut(&key) else {
                continue;
            };
            let Some(filters) = agent.filters.get_mut(&holder) else {
                continue;
            };
            filters.retain(|filter| filter.until > now);
            if filters.is_empty() {
                agent.filters.remove(&holder);
                if let Some(client) = self.tree.client_mut(holder.1, holder.0) {
                    client.filtered.remove(&key);
                }
            }
            self.ended.entry(key).or_default().insert(holder.0);
        }
    }
}
