//! Why a framework is offered nothing: what the allocator says, in ids that the outside knows.
//!
//! Questions are put to the core as it is, by whoever owns it. None of them takes longer than its bound says, so a
//! question about many agents is asked piece by piece.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tepui_allocator::{Level, Obstacle, Quota, Standing};
use tepui_model::{FrameworkId, Resources, Role, Tick};

use crate::core::Core;
use crate::keys::{AgentKey, FrameworkKey};
use crate::view::{AgentRecord, Deactivation};

/// A framework within one of its roles.
pub type Party = (FrameworkKey, Role);

/// Where a framework stands.
#[derive(Debug, Clone)]
pub struct FrameworkStanding {
    /// The largest part of the cluster's total of anything that it holds, offers included.
    pub share: f64,
    /// The part that is its by the weights of all who ask; 0 while it does not ask.
    pub fair_share: f64,
    /// For how long it has asked and was offered nothing; `None` while it has an open offer or does not ask.
    pub unoffered: Option<Duration>,
    pub roles: Vec<(Role, Standing)>,
    /// How much it refuses in all, and the first of it.
    pub refused: usize,
    pub refusals: Vec<Refused>,
}

/// What a framework refuses on an agent.
#[derive(Debug, Clone)]
pub struct Refused {
    pub agent: AgentKey,
    pub role: Role,
    pub resources: Resources,
    /// Nothing if its time is over and the others are asked first.
    pub left: Duration,
}

/// Why one party is offered nothing of one agent.
#[derive(Debug, Clone)]
pub struct Told {
    /// Which of those that were asked about.
    pub party: usize,
    pub agent: Arc<AgentRecord>,
    pub obstacle: Obstacle,
    /// Those whom the obstacle names, by their ids.
    pub others: Vec<(FrameworkId, Role)>,
    /// Why the agent is not offered, if an operator wants it so.
    pub deactivated: Option<Deactivation>,
    /// How much longer a refusal holds.
    pub left: Duration,
}

/// How badly a framework fares.
#[derive(Debug, Clone)]
pub struct Starvation {
    pub framework: FrameworkId,
    /// For how long it has asked and was offered nothing. Nothing while it has an open offer or does not ask.
    pub unoffered: Duration,
    /// By how much its share is below its fair share.
    pub share_deficit: f64,
}

impl Core {
    /// Whether there are quotas beside these.
    pub fn has_quotas_beside(&self, seen: &BTreeMap<Role, Quota>) -> bool {
        self.quotas.keys().any(|role| !seen.contains_key(role))
    }

    /// A framework in all of its roles.
    pub fn parties_of(&self, framework: &FrameworkId) -> Vec<Party> {
        let Some(&key) = self.framework_by_id.get(framework) else {
            return Vec::new();
        };
        let roles = self.allocator.roles_of(key.into()).into_iter();
        roles.map(|role| (key, role)).collect()
    }

    /// All frameworks in a role and those beneath it.
    pub fn parties_in(&self, role: &Role) -> Vec<Party> {
        let parties = self.allocator.frameworks_in(role).into_iter();
        parties.map(|(key, role)| (key.into(), role)).collect()
    }

    pub fn framework_standing(
        &self,
        framework: FrameworkKey,
        now: Tick,
        most_refusals: usize,
    ) -> FrameworkStanding {
        let key = framework.into();
        let allocator = &self.allocator;
        let roles = allocator.roles_of(key).into_iter();
        let (refused, refusals) = allocator.refusals(key, most_refusals);
        let refusals = refusals.into_iter().map(|refusal| Refused {
            agent: refusal.agent.into(),
            role: refusal.role,
            resources: refusal.refused,
            left: between(now, refusal.until),
        });
        FrameworkStanding {
            share: allocator.framework_share(key),
            fair_share: allocator.fair_shares().get(&key).copied().unwrap_or(0.0),
            unoffered: allocator
                .waiting_since(key)
                .map(|since| between(since, now)),
            roles: roles
                .filter_map(|role| {
                    let standing = allocator.standing(key, &role)?;
                    Some((role, standing))
                })
                .collect(),
            refused,
            refusals: refusals.collect(),
        }
    }

    /// A role and those above it.
    pub fn role_path(&self, role: &Role) -> Vec<Level> {
        self.allocator.path(role)
    }

    /// Why each of the parties is offered nothing of so many agents, from one on, and where to go on afterwards.
    pub fn obstacles(
        &self,
        parties: &[Party],
        from: AgentKey,
        agents: usize,
        now: Tick,
    ) -> (Vec<Told>, Option<AgentKey>) {
        let mut told = Vec::new();
        let mut rest = self.agents.iter_from(from);
        for (key, agent) in rest.by_ref().take(agents) {
            for (party, (framework, role)) in parties.iter().enumerate() {
                let obstacle = self
                    .allocator
                    .obstacle(key.into(), (*framework).into(), role);
                let Some(obstacle) = obstacle else {
                    continue;
                };
                let others = match &obstacle {
                    Obstacle::NothingFree { in_offers_of } => in_offers_of.clone(),
                    Obstacle::Behind { framework, role } => vec![(*framework, role.clone())],
                    _ => Vec::new(),
                };
                told.push(Told {
                    party,
                    agent: agent.clone(),
                    others: others
                        .into_iter()
                        .map(|(framework, role)| {
                            (self.framework_id(framework.into()).clone(), role)
                        })
                        .collect(),
                    deactivated: match obstacle {
                        Obstacle::AgentInactive => self.deactivated_agents.get(&agent.id).cloned(),
                        _ => None,
                    },
                    left: match obstacle {
                        Obstacle::Refused { until } => between(now, until),
                        _ => Duration::ZERO,
                    },
                    obstacle,
                });
            }
        }
        (told, rest.next().map(|(key, _)| key))
    }

    /// Of every framework that there is.
    pub fn starvation(&self, now: Tick) -> Vec<Starvation> {
        let shares = self.allocator.fair_shares();
        let frameworks = self.frameworks.iter().map(|(key, framework)| {
            let waiting = self.allocator.waiting_since(key.into());
            let fair = shares.get(&key.into()).copied().unwrap_or(0.0);
            let share = self.allocator.framework_share(key.into());
            Starvation {
                framework: framework.id.clone(),
                unoffered: waiting.map_or(Duration::ZERO, |since| between(since, now)),
                share_deficit: (fair - share).max(0.0),
            }
        });
        frameworks.collect()
    }
}

fn between(from: Tick, to: Tick) -> Duration {
    Duration::from_millis(to.0.saturating_sub(from.0))
}
