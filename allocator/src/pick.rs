//! Who is next on one agent, and what of it they are offered.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use tepui_model::{Resources, Role, Tick};

use crate::agent::{Agent, Holder, is_plain, is_worth_offering, offerable, reserved_roles};
use crate::allocator::Allocator;
use crate::config::FrameworkCapabilities;
use crate::framework::Framework;
use crate::quota::{KeptBack, QuotaId};
use crate::round::Who;
use crate::tree::{Client, NodeId, Tree};
use crate::{AgentKey, FrameworkKey};

/// Above this many, a few waiting frameworks are no longer few, and walking the order is cheaper than sorting them.
const FEW: usize = 32;
/// How many are asked whether they would rather have an offer that lies open.
const RIVALS: usize = 64;

/// Who is next, and what of the agent it is offered.
pub(crate) type Picked = (Holder, Resources);

/// Why nothing of an agent is offered to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    Inactive,
    NothingFree,
    TooLittleFree,
}

/// Why a framework is passed over on one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PassedOver {
    GpusKept,
    OtherRegion,
    /// What is left for it is not worth an offer.
    TooLittle,
    Refused(Tick),
    /// It has refused; the time of that is over, but the others have not all been asked yet.
    OthersFirst,
    Constraints,
}

/// What those who are alike may be offered; mostly many in a row are, and it is not made anew for each.
struct Offer {
    alike: Alike,
    resources: Resources,
    /// For those without minimums of their own.
    is_worth_it: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Alike {
    /// Unset if roles make no difference.
    node: Option<NodeId>,
    quota: Option<QuotaId>,
    capabilities: FrameworkCapabilities,
}

/// The search for the next on one agent.
pub(crate) struct Search<'a> {
    allocator: &'a Allocator,
    agent: &'a Agent,
    available: &'a Resources,
    has_gpus: bool,
    is_plain: bool,
    last: Option<Offer>,
    pub(crate) over_cap: Option<Picked>,
    kept_back: KeptBack,
}

impl Allocator {
    /// Who is first in order among those who would take something that is free on the agent, and what.
    pub(crate) fn pick(&mut self, key: AgentKey, who: &Who<'_>) -> Option<Picked> {
        if self.closed(&self.agents[key]).is_some() {
            return None;
        }
        let (mut found, mut over_cap) = self.search(key, who);
        if found.is_none() {
            let lapsed = self.forget_lapsed(key);
            if !lapsed.is_empty() {
                (found, over_cap) = self.search(key, &who.and(lapsed));
            }
        }
        // Holding back is for the sake of others: what no other would take, one may have beyond the cap.
        found.or(over_cap)
    }

    /// Whether, and why, nobody need be asked.
    pub(crate) fn closed(&self, agent: &Agent) -> Option<Closed> {
        if !agent.active {
            Some(Closed::Inactive)
        } else if !agent.has_something_to_offer() {
            Some(Closed::NothingFree)
        } else if self.own_minimums == 0
            && !is_worth_offering(&agent.available, &self.config.min_allocatable)
        {
            Some(Closed::TooLittleFree)
        } else {
            None
        }
    }

    /// The first in order, and who would be but for the cap on open offers.
    fn search(&mut self, key: AgentKey, who: &Who<'_>) -> (Option<Picked>, Option<Picked>) {
        let mut search = Search::new(self, &self.agents[key]);
        let found = search.run(who);
        let (over_cap, kept_back) = (search.over_cap, search.kept_back);
        if !self.tree.quotas.is_empty() {
            self.note_kept_back(key, who, kept_back);
        }
        (found, over_cap)
    }

    /// Whether another framework would take what this one lets lie in an open offer.
    pub fn is_wanted_by_others(
        &self,
        key: AgentKey,
        framework: FrameworkKey,
        offer: &Resources,
    ) -> bool {
        let Some(agent) = self.agents.get(key).filter(|agent| agent.active) else {
            return false;
        };
        let mut search = Search::within(self, agent, offer);
        let mut rivals = 0;
        let wanted = self.tree.walk(|node, rival| {
            if rival == framework {
                return ControlFlow::Continue(());
            }
            rivals += 1;
            match search.judge(node, rival) {
                Ok(_) | Err(PassedOver::OthersFirst) => ControlFlow::Break(true),
                Err(_) if rivals == RIVALS => ControlFlow::Break(false),
                Err(_) => ControlFlow::Continue(()),
            }
        });
        wanted == Some(true)
    }

    /// Whether there is room for an offer that is worth making: up to the limits on a role, before it eats from what is
    /// kept for others.
    pub(crate) fn has_room(&self, id: Option<QuotaId>) -> bool {
        let quotas = &self.tree.quotas;
        if quotas.is_empty() || self.own_minimums > 0 || self.config.min_allocatable.is_empty() {
            return true;
        }
        let room = quotas.room(id);
        let mut minimums = self.config.min_allocatable.iter();
        minimums.any(|minimum| room.holds(minimum, &self.names))
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
}

impl<'a> Search<'a> {
    pub(crate) fn new(allocator: &'a Allocator, agent: &'a Agent) -> Self {
        Self::within(allocator, agent, &agent.available)
    }

    /// As if these were what is available.
    fn within(allocator: &'a Allocator, agent: &'a Agent, available: &'a Resources) -> Self {
        Self {
            allocator,
            agent,
            available,
            has_gpus: allocator.config.filter_gpus && agent.has_gpus(),
            is_plain: is_plain(available),
            last: None,
            over_cap: None,
            kept_back: KeptBack::default(),
        }
    }

    pub(crate) fn run(&mut self, who: &Who<'_>) -> Option<Picked> {
        let tree: &'a Tree = &self.allocator.tree;
        match who.few(&self.allocator.frameworks, FEW) {
            Some(clients) => {
                let mut sorted = tree.sorted(clients.into_iter()).into_iter();
                sorted.find_map(|(node, framework)| self.visit(node, framework).break_value())
            }
            None => match self.roles_in_question() {
                Some(roles) => {
                    tree.walk_within(&roles, |node, framework| self.visit(node, framework))
                }
                None => tree.walk(|node, framework| self.visit(node, framework)),
            },
        }
    }

    /// The only roles, with those beneath them, that could be given anything; `None` if it may be any.
    fn roles_in_question(&mut self) -> Option<BTreeSet<&'a Role>> {
        let quotas = &self.allocator.tree.quotas;
        if self.is_plain && quotas.lacking_ids.len() <= FEW && !self.allocator.has_room(None) {
            self.kept_back.by_guarantees = true;
            let lacking = quotas.lacking_ids.iter();
            return Some(lacking.map(|id| quotas.role(*id)).collect());
        }
        reserved_roles(self.available)
    }

    fn visit(&mut self, node: NodeId, framework: FrameworkKey) -> ControlFlow<Picked> {
        let Ok(resources) = self.judge(node, framework) else {
            return ControlFlow::Continue(());
        };
        let picked = ((framework, node), resources);
        if self
            .allocator
            .is_over_cap(&self.allocator.frameworks[framework], &picked.1)
        {
            self.over_cap.get_or_insert(picked);
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(picked)
    }

    /// What the framework would take of the agent in this role, or why it would not or cannot have anything.
    pub(crate) fn judge(
        &mut self,
        node: NodeId,
        framework: FrameworkKey,
    ) -> Result<Resources, PassedOver> {
        let capabilities = self.allocator.frameworks[framework].capabilities;
        if self.has_gpus && !capabilities.gpu {
            return Err(PassedOver::GpusKept);
        }
        if self.agent.traits.remote && !capabilities.region_aware {
            return Err(PassedOver::OtherRegion);
        }
        let (agent, allocator) = (self.agent, self.allocator);
        let client = &allocator.tree.node(node).clients[&framework];
        let offer = self.offer(node, capabilities);
        let is_worth_it = match &client.terms.min_allocatable {
            None => offer.is_worth_it,
            Some(own) => is_worth_offering(&offer.resources, own),
        };
        if !is_worth_it {
            return Err(PassedOver::TooLittle);
        }
        let mut lapsed = false;
        let mut refused = None;
        for filter in agent.refusals((framework, node), &offer.resources) {
            lapsed |= filter.lapsed;
            refused = refused.max(Some(filter.until).filter(|_| !filter.lapsed));
        }
        if let Some(until) = refused {
            return Err(PassedOver::Refused(until));
        }
        if !is_admitted(client, agent) {
            return Err(PassedOver::Constraints);
        }
        if lapsed {
            return Err(PassedOver::OthersFirst);
        }
        Ok(offer.resources.clone())
    }

    /// What somebody in this role may be offered.
    fn offer(&mut self, node: NodeId, capabilities: FrameworkCapabilities) -> &Offer {
        let record = self.allocator.tree.node(node);
        let alike = Alike {
            node: (!self.is_plain).then_some(node),
            quota: record.quota,
            capabilities,
        };
        match self.last.take_if(|last| last.alike == alike) {
            Some(last) => self.last.insert(last),
            None => {
                let offer = self.make_offer(alike, &record.role);
                self.last.insert(offer)
            }
        }
    }

    fn make_offer(&mut self, alike: Alike, role: &Role) -> Offer {
        let allocator = self.allocator;
        let mut resources = offerable(self.available, role, alike.capabilities);
        let quotas = &allocator.tree.quotas;
        if !quotas.is_empty() {
            let (allowed, kept_back) = quotas.allowed(&resources, alike.quota, &allocator.names);
            self.kept_back.add(kept_back);
            resources = allowed;
        }
        Offer {
            alike,
            is_worth_it: is_worth_offering(&resources, &allocator.config.min_allocatable),
            resources,
        }
    }
}

fn is_admitted(client: &Client, agent: &Agent) -> bool {
    let constraints = client.terms.constraints.as_ref();
    constraints.is_none_or(|constraints| constraints.admit(&agent.traits))
}
