//! What frameworks' tasks work on, and which agents hold most of it.
//!
//! A framework names its inputs in its FrameworkInfo or in REQUEST. Its offers then say how much of them their agent
//! holds, and the allocator is told which agents it would rather have. The ranking is made anew when what an agent holds
//! has changed, but not more often than is worth it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tepui_api::ext::holding::Kind;
use tepui_api::ext::{Holding, Input, Locality};
use tepui_api::v1;
use tepui_model::{Role, Tick};

use crate::core::Core;
use crate::inventory::{Thing, bytes_of};
use crate::keys::{AgentKey, FrameworkKey};

/// The most inputs that a framework may name in its FrameworkInfo, and the most that count of those of a REQUEST.
pub(crate) const MOST_INPUTS: usize = 64;
/// So many holders of one thing are counted: what more agents hold than this, is near wherever a task is.
const MOST_HOLDERS: usize = 1024;
/// So many agents are ranked for a framework.
const MOST_RANKED: usize = 64;
/// What a framework is told to prefer follows the caches as closely as this.
const RANKED_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Interest {
    /// From its FrameworkInfo.
    standing: BTreeSet<Thing>,
    /// From its last REQUEST.
    asked: BTreeSet<Thing>,
    /// Agents by how much they hold, the most first.
    ranking: Vec<(AgentKey, u64)>,
    ranked: Option<Tick>,
}

impl Interest {
    fn things(&self) -> BTreeSet<&Thing> {
        self.standing.union(&self.asked).collect()
    }
}

/// The interests of those frameworks that have any.
#[derive(Debug, Default)]
pub(crate) struct Interests {
    of: BTreeMap<FrameworkKey, Interest>,
    /// Who works on a thing.
    watchers: BTreeMap<Thing, BTreeSet<FrameworkKey>>,
    /// Those whose ranking may have changed.
    stale: BTreeSet<FrameworkKey>,
}

impl Interests {
    /// Somebody holds more or less of the thing than before.
    pub(crate) fn on_changed(&mut self, thing: &Thing) {
        self.stale
            .extend(self.watchers.get(thing).into_iter().flatten());
    }

    fn change(&mut self, framework: FrameworkKey, change: impl FnOnce(&mut Interest)) {
        let interest = self.of.entry(framework).or_default();
        let before: BTreeSet<Thing> = interest.things().into_iter().cloned().collect();
        change(interest);
        let now: BTreeSet<Thing> = interest.things().into_iter().cloned().collect();
        interest.ranked = interest.ranked.filter(|_| before == now);
        if now.is_empty() {
            self.of.remove(&framework);
        }
        if before == now {
            return;
        }
        for thing in before.difference(&now) {
            if let Some(watchers) = self.watchers.get_mut(thing) {
                watchers.remove(&framework);
                if watchers.is_empty() {
                    self.watchers.remove(thing);
                }
            }
        }
        for thing in now.difference(&before) {
            self.watchers
                .entry(thing.clone())
                .or_default()
                .insert(framework);
        }
        self.stale.insert(framework);
    }
}

/// Whether it says one thing, and so that it can be found.
pub(crate) fn is_sound(input: &Input) -> bool {
    match (&input.sha256, &input.dataset) {
        (Some(sha256), None) => {
            sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        (None, Some(name)) => !name.is_empty() && name.len() <= 64,
        _ => false,
    }
}

fn things<'a>(inputs: impl Iterator<Item = &'a Input>) -> BTreeSet<Thing> {
    let sound = inputs.filter(|input| is_sound(input)).take(MOST_INPUTS);
    let things = sound.flat_map(|input| match (&input.sha256, &input.dataset) {
        (Some(sha256), _) => {
            let sha256 = sha256.to_ascii_lowercase();
            [Kind::Artifact, Kind::Compiled]
                .map(|kind| Thing::new(kind, &sha256))
                .to_vec()
        }
        (None, Some(name)) => vec![Thing::new(Kind::Dataset, name)],
        (None, None) => Vec::new(),
    });
    things.collect()
}

impl Core {
    /// The framework's description is now this one.
    pub(crate) fn note_standing_interest(&mut self, framework: FrameworkKey) {
        let standing = things(self.frameworks[framework].info.inputs.iter());
        self.interests
            .change(framework, |interest| interest.standing = standing);
    }

    /// What the framework asked for with its last REQUEST.
    pub(crate) fn note_asked_interest(
        &mut self,
        framework: FrameworkKey,
        requests: &[v1::Request],
    ) {
        let asked = things(requests.iter().flat_map(|request| &request.inputs));
        self.interests
            .change(framework, |interest| interest.asked = asked);
    }

    pub(crate) fn forget_interest(&mut self, framework: FrameworkKey) {
        self.interests
            .change(framework, |interest| *interest = Interest::default());
        self.interests.stale.remove(&framework);
    }

    /// Tells the allocator which agents those frameworks would rather have for which that may have changed.
    pub(crate) fn rank_agents(&mut self) {
        let now = self.now.tick;
        let mut interests = std::mem::take(&mut self.interests);
        interests.stale.retain(|framework| {
            let Some(interest) = interests.of.get_mut(framework) else {
                self.allocator.prefer((*framework).into(), Vec::new());
                return false;
            };
            if interest
                .ranked
                .is_some_and(|ranked| ranked.after(RANKED_AGAIN) > now)
            {
                return true;
            }
            interest.ranked = Some(now);
            interest.ranking = self.ranking(*framework, interest);
            let preferred = interest.ranking.iter();
            let preferred = preferred.map(|(agent, bytes)| ((*agent).into(), *bytes));
            self.allocator
                .prefer((*framework).into(), preferred.collect());
            false
        });
        self.interests = interests;
    }

    fn ranking(&self, framework: FrameworkKey, interest: &Interest) -> Vec<(AgentKey, u64)> {
        let roles = &self.frameworks[framework].roles;
        let mut sums: BTreeMap<AgentKey, u64> = BTreeMap::new();
        for thing in interest.things() {
            let holders = self.holders.get(thing).into_iter().flatten();
            for (agent, bytes) in holders.take(MOST_HOLDERS) {
                if self.may_use(*agent, thing, roles) {
                    let sum = sums.entry(*agent).or_default();
                    *sum = sum.saturating_add(*bytes);
                }
            }
        }
        let mut ranking: Vec<(AgentKey, u64)> = sums.into_iter().collect();
        ranking.sort_by_key(|(agent, bytes)| (std::cmp::Reverse(*bytes), *agent));
        ranking.truncate(MOST_RANKED);
        ranking
    }

    /// Whether one of the roles may read what the agent holds.
    pub(crate) fn may_use(&self, agent: AgentKey, thing: &Thing, roles: &[Role]) -> bool {
        let holding = self.agents[agent].inventory.thing(thing);
        holding.is_some_and(|holding| {
            holding.roles.is_empty()
                || roles
                    .iter()
                    .any(|role| role.is_within(holding.roles.iter().map(String::as_str)))
        })
    }

    /// What the agent holds of what the framework works on; nothing is said to one that names nothing.
    pub(crate) fn locality(
        &self,
        framework: FrameworkKey,
        agent: AgentKey,
        role: &Role,
    ) -> Option<Locality> {
        let interest = self.interests.of.get(&framework)?;
        let held = self.held(interest, agent, role);
        let bytes = sum_of(&held);
        let mut most = bytes;
        // What is ranked counts what any role of the framework may use: never less than what this one may.
        for (other, at_most) in &interest.ranking {
            if *at_most <= most {
                break;
            }
            most = most.max(sum_of(&self.held(interest, *other, role)));
        }
        Some(Locality {
            held: held.into_iter().cloned().collect(),
            bytes: Some(bytes),
            most_bytes: Some(most),
        })
    }

    /// What of it the agent holds and the role may use.
    fn held(&self, interest: &Interest, agent: AgentKey, role: &Role) -> Vec<&Holding> {
        let inventory = &self.agents[agent].inventory;
        let roles = std::slice::from_ref(role);
        let things = interest.things().into_iter();
        things
            .filter(|thing| self.may_use(agent, thing, roles))
            .filter_map(|thing| inventory.thing(thing))
            .collect()
    }
}

fn sum_of(held: &[&Holding]) -> u64 {
    held.iter()
        .fold(0, |sum, holding| sum.saturating_add(bytes_of(holding)))
}
