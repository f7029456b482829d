//! Why somebody is offered nothing, told by the code that decides.
//!
//! [`Search::judge`] passes somebody over on an agent, and quotas cut what is offered; here the same steps are taken
//! once more for one framework and one agent, and their outcome is put into terms that say who must do what.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_model::{Milli, Quantities, Resources, Role, Tick};

use crate::agent::{Agent, Holder, offerable, shortfall};
use crate::allocator::Allocator;
use crate::constraints::Constraint;
use crate::pick::{Closed, PassedOver, Search};
use crate::quota::Quota;
use crate::round::Who;
use crate::{AgentKey, FrameworkKey};

/// Why a framework is offered nothing of an agent in one of its roles.
#[derive(Debug, Clone)]
pub enum Obstacle {
    /// The agent is away, or an operator keeps it from being offered.
    AgentInactive,
    /// All there is is used by tasks, or in open offers of these.
    NothingFree {
        in_offers_of: Vec<(FrameworkKey, Role)>,
    },
    /// What is free is less than the least that makes an offer; this is lacking at the nearest.
    TooLittle { lacking: Quantities },
    /// Enough is free, but reserved for other roles.
    ReservedForOthers,
    /// Enough is free, but only with what may be taken back at any moment, is shared, or is reserved in several steps,
    /// which the framework has not said that it knows of.
    NotUnderstood,
    /// The agent has gpus, and the framework has not said that it uses them.
    GpusKept,
    /// The agent is in another region, and the framework has not said that it knows of regions.
    OtherRegion,
    /// A role on the path has, or nearly has, as much as it may.
    Limit(Reached),
    /// What is free of this is kept for what other roles are guaranteed.
    Guaranteed { name: Arc<str> },
    /// The framework has refused as much until then.
    Refused { until: Tick },
    /// The framework has refused as much; its time is over, but the others are asked first.
    OthersFirst,
    /// Of each group of its constraints this one does not hold here.
    Constraints(Vec<Constraint>),
    /// This one stands before it in the order and is to be offered the agent.
    Behind { framework: FrameworkKey, role: Role },
    /// It is next and is about to be offered the agent.
    Next,
    /// The framework does not ask for offers in the role.
    NotAsking,
}

/// A limit, and how much of it is consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    pub role: Role,
    pub name: Arc<str>,
    pub limit: Milli,
    pub consumed: Milli,
}

/// Where a framework stands in one of its roles.
#[derive(Debug, Clone)]
pub struct Standing {
    /// It is active, names the role and has not suppressed it.
    pub is_asking: bool,
    pub suppressed: bool,
    pub held: Quantities,
    /// The largest part of the cluster's total of anything that it holds, and of what.
    pub share: f64,
    pub dominant: Option<Arc<str>>,
    /// The part of the cluster that is its by the weights of all who are asking; none while it is not asking.
    pub fair_share: Option<f64>,
    /// The role, then those above it.
    pub path: Vec<Level>,
    /// What the role may be given now before it passes a limit or eats from what others are guaranteed. `None` without
    /// quotas.
    pub room: Option<Quantities>,
}

/// A role on a path.
#[derive(Debug, Clone)]
pub struct Level {
    pub role: Role,
    pub weight: f64,
    /// With all beneath it.
    pub share: f64,
    /// The quota, and what counts against it.
    pub quota: Option<(Quota, Quantities)>,
}

/// Something that a framework refuses on an agent.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub agent: AgentKey,
    pub role: Role,
    pub refused: Resources,
    pub until: Tick,
}

impl Allocator {
    /// What stands between the framework and an offer of the agent in the role; `None` if any of them is not known.
    pub fn obstacle(
        &self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
    ) -> Option<Obstacle> {
        let agent = self.agents.get(key)?;
        let node = self.tree.find(role)?;
        let client = self.tree.client(node, framework)?;
        if !client.is_served() {
            return Some(Obstacle::NotAsking);
        }
        match self.closed(agent) {
            Some(Closed::Inactive) => return Some(Obstacle::AgentInactive),
            Some(Closed::NothingFree) => return Some(self.nothing_free(agent)),
            Some(Closed::TooLittleFree) => {
                let minimums = &self.config.min_allocatable;
                let lacking = shortfall(&agent.available, minimums).unwrap_or_default();
                return Some(Obstacle::TooLittle { lacking });
            }
            None => {}
        }
        let holder = (framework, node);
        Some(match Search::new(self, agent).judge(node, framework) {
            Err(PassedOver::GpusKept) => Obstacle::GpusKept,
            Err(PassedOver::OtherRegion) => Obstacle::OtherRegion,
            Err(PassedOver::TooLittle) => self.too_little(agent, holder),
            Err(PassedOver::Refused(until)) => Obstacle::Refused { until },
            Err(PassedOver::OthersFirst) => Obstacle::OthersFirst,
            Err(PassedOver::Constraints) => {
                let constraints = client.terms.constraints.as_ref();
                let failing = constraints.map(|constraints| constraints.failing(&agent.traits));
                Obstacle::Constraints(failing.unwrap_or_default().into_iter().cloned().collect())
            }
            Ok(_) => {
                let mut search = Search::new(self, agent);
                let found = search.run(&Who::Everybody).or(search.over_cap);
                match found {
                    Some((first, _)) if first != holder => Obstacle::Behind {
                        framework: first.0,
                        role: self.tree.node(first.1).role.clone(),
                    },
                    _ => Obstacle::Next,
                }
            }
        })
    }

    fn nothing_free(&self, agent: &Agent) -> Obstacle {
        let offered = agent
            .held
            .iter()
            .filter(|(_, hold)| !hold.offered.is_zero());
        Obstacle::NothingFree {
            in_offers_of: offered
                .map(|((framework, node), _)| (*framework, self.tree.node(*node).role.clone()))
                .collect(),
        }
    }

    /// Which step left too little: each takes away from what the one before left.
    fn too_little(&self, agent: &Agent, (framework, node): Holder) -> Obstacle {
        let record = self.tree.node(node);
        let own = record.clients[&framework].terms.min_allocatable.as_deref();
        let minimums = own.unwrap_or(&self.config.min_allocatable);
        if let Some(lacking) = shortfall(&agent.available, minimums) {
            return Obstacle::TooLittle { lacking };
        }
        let of_role = agent.available.allocatable_to(&record.role);
        if shortfall(&of_role, minimums).is_some() {
            return Obstacle::ReservedForOthers;
        }
        let understood = offerable(
            &agent.available,
            &record.role,
            self.frameworks[framework].capabilities,
        );
        if shortfall(&understood, minimums).is_some() {
            return Obstacle::NotUnderstood;
        }
        let quotas = &self.tree.quotas;
        let (allowed, _) = quotas.allowed(&understood, record.quota, &self.names);
        let lacking = shortfall(&allowed, minimums).unwrap_or_default();
        for (name, _) in lacking.iter() {
            if let Some(number) = self.names.find(name)
                && let Some((role, limit, consumed)) = quotas.reached(record.quota, number)
            {
                return Obstacle::Limit(Reached {
                    role: role.clone(),
                    name: name.clone(),
                    limit: Milli(limit),
                    consumed: Milli(consumed),
                });
            }
        }
        let mut names = lacking.iter().map(|(name, _)| name.clone());
        Obstacle::Guaranteed {
            name: names.next().unwrap_or_else(|| "".into()),
        }
    }

    /// The framework's roles, those included in which it only holds something still.
    pub fn roles_of(&self, framework: FrameworkKey) -> Vec<Role> {
        let nodes = self.client_nodes(framework).into_iter();
        nodes
            .map(|node| self.tree.node(node).role.clone())
            .collect()
    }

    /// The frameworks that have anything to do with a role or those beneath it, each with the role.
    pub fn frameworks_in(&self, role: &Role) -> Vec<(FrameworkKey, Role)> {
        let nodes = self.tree.subtree(role).into_iter();
        nodes
            .flat_map(|node| {
                let node = self.tree.node(node);
                let clients = node.clients.keys();
                clients.map(|framework| (*framework, node.role.clone()))
            })
            .collect()
    }

    pub fn standing(&self, framework: FrameworkKey, role: &Role) -> Option<Standing> {
        let node = self.tree.find(role)?;
        let client = self.tree.client(node, framework)?;
        let held = &client.account.held;
        let total = &self.tree.total;
        let share = held.dominant_share(total);
        let mut fair_share = None;
        self.tree.entitle(|of, whose, share| {
            if (of, whose) == (node, framework) {
                fair_share = Some(share);
            }
        });
        let quotas = &self.tree.quotas;
        let room = quotas.room(self.tree.node(node).quota);
        Some(Standing {
            is_asking: client.is_served(),
            suppressed: client.terms.suppressed,
            held: self.names.quantities(held),
            share,
            dominant: self.names.dominant(held, total),
            fair_share,
            path: self.path(role),
            room: (!quotas.is_empty()).then(|| room.quantities(&self.names)),
        })
    }

    /// The role and those above it.
    pub fn path(&self, role: &Role) -> Vec<Level> {
        let levels = std::iter::once(role.clone()).chain(role.ancestors());
        let level = |role: Role| Level {
            weight: self.tree.weight_of(&role),
            share: self.role_share(&role),
            quota: self.quotas().get(&role).map(|quota| {
                let consumed = self.quota_consumed(&role).unwrap_or_default();
                (quota.clone(), consumed)
            }),
            role,
        };
        levels.map(level).collect()
    }

    /// On how many agents the framework refuses something, and what, on the first so many.
    pub fn refusals(&self, framework: FrameworkKey, most: usize) -> (usize, Vec<Refusal>) {
        let mut agents = 0;
        let mut refusals = Vec::new();
        for node in self.client_nodes(framework) {
            let record = self.tree.node(node);
            let filtered = &record.clients[&framework].filtered;
            let left = most.saturating_sub(agents);
            agents += filtered.len();
            for agent in filtered.iter().take(left) {
                let filters = self.agents[*agent].filters.get(&(framework, node));
                refusals.extend(filters.into_iter().flatten().map(|filter| Refusal {
                    agent: *agent,
                    role: record.role.clone(),
                    refused: filter.refused.clone(),
                    until: filter.until,
                }));
            }
        }
        (agents, refusals)
    }

    /// Of all who are asking: the part of the cluster that is theirs by the weights, over all their roles.
    pub fn fair_shares(&self) -> BTreeMap<FrameworkKey, f64> {
        let mut shares = BTreeMap::new();
        self.tree.entitle(|_, framework, share| {
            *shares.entry(framework).or_insert(0.0) += share;
        });
        shares
    }

    /// Since when a framework that is asking has been offered nothing. `None` while it has an open offer, or does not
    /// ask.
    pub fn waiting_since(&self, framework: FrameworkKey) -> Option<Tick> {
        let framework = self.frameworks.get(framework)?;
        framework
            .waiting_since
            .filter(|_| framework.offered.is_zero())
    }
}
