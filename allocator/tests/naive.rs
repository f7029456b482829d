//! The allocator against a second one that keeps nothing but a list of who holds what, and sorts everything afresh for
//! each single decision.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use support::{Cluster, Random, resources, role};
use tepui_allocator::{AgentKey, AgentTraits, Allocation, FrameworkKey, FrameworkTerms, Quota};
use tepui_model::{Milli, Quantities, Quantity, Resource, Resources, Role, Tick};

type Client = (FrameworkKey, Role);

struct Refusal {
    refused: Allocation,
    until: Tick,
    /// Its time was over when somebody last looked. Until all others have been asked, or one of them has made use of
    /// the agent, it still holds.
    lapsed: bool,
}

#[derive(Default)]
struct Naive {
    totals: BTreeMap<AgentKey, Resources>,
    held: Vec<Allocation>,
    counts: BTreeMap<Client, u64>,
    served: BTreeSet<Client>,
    refusals: Vec<Refusal>,
    weights: BTreeMap<String, f64>,
    quotas: BTreeMap<Role, Quota>,
}

const NAMES: [&str; 3] = ["cpus", "mem", "disk"];

fn is_within(role: &Role, top: &Role) -> bool {
    role == top || role.is_strict_sub_role_of(top)
}

/// The quotas of a part of the tree, as sums by hand.
impl Naive {
    fn free_on(&self, agent: AgentKey) -> Resources {
        let held: Resources = self
            .held
            .iter()
            .filter(|held| held.agent == agent)
            .map(|held| &held.resources)
            .collect();
        self.totals[&agent]
            .checked_subtract(&held)
            .expect("nothing is given away twice")
    }

    fn free(&self, name: &str) -> i64 {
        let agents = self.totals.keys();
        agents
            .map(|agent| self.free_on(*agent).unreserved().scalar(name).0)
            .sum()
    }

    /// What is reserved for the role or held by it.
    fn consumed(&self, top: &Role, name: &str) -> i64 {
        let reserved = self.totals.values().map(|total| {
            let reserved = total.filter(|resource| {
                resource
                    .reserved_role()
                    .is_some_and(|role| is_within(role, top))
            });
            reserved.scalar(name).0
        });
        let held = self.held.iter().filter(|held| is_within(&held.role, top));
        let held = held.map(|held| held.resources.unreserved().scalar(name).0);
        reserved.sum::<i64>() + held.sum::<i64>()
    }

    /// What is lacking at the guarantees of the roles for which `parent` is the nearest role above with a quota, if
    /// `given` were given to a role.
    fn lacking(&self, parent: Option<&Role>, name: &str, given: (&Role, i64)) -> i64 {
        let nearest = |role: &Role| {
            role.ancestors()
                .find(|above| self.quotas.contains_key(above))
        };
        let children = self
            .quotas
            .iter()
            .filter(|(role, _)| nearest(role).as_ref() == parent);
        let lacking = children.map(|(role, quota)| {
            let more = if is_within(given.0, role) { given.1 } else { 0 };
            let own = quota.guarantees.get(name).0 - self.consumed(role, name) - more;
            own.max(self.lacking(Some(role), name, given)).max(0)
        });
        lacking.sum()
    }

    fn deficit(&self, name: &str, given: (&Role, i64)) -> i64 {
        (self.lacking(None, name, given) - self.free(name) + given.1).max(0)
    }

    /// Whether a role may be given so much more.
    fn may_have(&self, role: &Role, name: &str, amount: i64) -> bool {
        let within_limits = self
            .quotas
            .iter()
            .filter(|(top, _)| is_within(role, top))
            .all(|(top, quota)| {
                let limit = quota.limits.get(name);
                limit.is_none_or(|limit| self.consumed(top, name) + amount <= limit.0)
            });
        within_limits && self.deficit(name, (role, amount)) <= self.deficit(name, (role, 0))
    }

    /// The most that a role may be given of an amount, found by halving.
    fn most(&self, role: &Role, name: &str, amount: i64) -> i64 {
        if self.may_have(role, name, amount) {
            return amount;
        }
        let (mut good, mut bad) = (0, amount);
        while bad - good > 1 {
            let middle = good.midpoint(bad);
            if self.may_have(role, name, middle) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        good
    }

    fn chopped(&self, offer: &Resources, role: &Role) -> Resources {
        offer.map(|mut resource: Resource| {
            let reserved = resource.is_reserved();
            if let Quantity::Scalar(amount) = &mut resource.quantity
                && !reserved
            {
                amount.0 = self.most(role, &resource.name, amount.0);
            }
            resource
        })
    }

    fn check_promises(&self, given: &Allocation, deficits: &[i64]) {
        for (name, before) in NAMES.iter().zip(deficits) {
            let more = given.resources.unreserved().scalar(name).0;
            let above = self
                .quotas
                .iter()
                .filter(|(top, _)| is_within(&given.role, top));
            for (top, quota) in above.filter(|_| more > 0) {
                let limit = quota.limits.get(*name).copied().unwrap_or(Milli(i64::MAX));
                assert!(
                    self.consumed(top, name) <= limit.0,
                    "{top} has more {name} than its limit"
                );
            }
            assert!(
                self.deficit(name, (&given.role, 0)) <= *before,
                "{} ate {name} guaranteed to others",
                given.role
            );
        }
    }
}

/// The order of shares.
impl Naive {
    fn share(&self, holds: impl Fn(&Allocation) -> bool) -> f64 {
        let held: Resources = self
            .held
            .iter()
            .filter(|held| holds(held))
            .map(|held| &held.resources)
            .collect();
        let total: Resources = self.totals.values().collect();
        let share = |name| held.scalar(name).0 as f64 / total.scalar(name).0 as f64;
        NAMES
            .into_iter()
            .map(share)
            .filter(|share| !share.is_nan())
            .fold(0.0, f64::max)
    }

    fn count(&self, of: impl Fn(&Client) -> bool) -> u64 {
        self.counts
            .iter()
            .filter(|(client, _)| of(client))
            .map(|(_, count)| count)
            .sum()
    }

    /// All who are to be served beneath a path, first in order first.
    fn order(&self, path: &str) -> Vec<Client> {
        let beneath = |role: &Role, top: &str| {
            role.as_str() == top || role.as_str().starts_with(&format!("{top}/"))
        };
        let mut entries = Vec::new();
        let mut own: Vec<(f64, u64, FrameworkKey)> = Vec::new();
        let mut children = BTreeSet::new();
        for (framework, role) in &self.served {
            if role.as_str() == path {
                let share = self.share(|held| held.framework == *framework && held.role == *role);
                own.push((
                    share,
                    self.count(|client| *client == (*framework, role.clone())),
                    *framework,
                ));
            } else if path.is_empty() || beneath(role, path) {
                let rest = if path.is_empty() {
                    role.as_str()
                } else {
                    &role.as_str()[path.len() + 1..]
                };
                children.insert(rest.split('/').next().unwrap().to_owned());
            }
        }
        if !own.is_empty() {
            own.sort_by(|left, right| left.partial_cmp(right).unwrap_or(Ordering::Equal));
            let own = own
                .into_iter()
                .map(|(_, _, framework)| (framework, role(path)))
                .collect();
            let share = self.share(|held| held.role.as_str() == path);
            entries.push((
                share,
                self.count(|(_, role)| role.as_str() == path),
                ".".to_owned(),
                own,
            ));
        }
        for name in children {
            let top = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}/{name}")
            };
            let weight = self.weights.get(&top).copied().unwrap_or(1.0);
            let share = self.share(|held| beneath(&held.role, &top)) / weight;
            entries.push((
                share,
                self.count(|(_, role)| beneath(role, &top)),
                name,
                self.order(&top),
            ));
        }
        entries.sort_by(|left: &(f64, u64, String, Vec<Client>), right| {
            (left.0, left.1, &left.2)
                .partial_cmp(&(right.0, right.1, &right.2))
                .unwrap_or(Ordering::Equal)
        });
        entries
            .into_iter()
            .flat_map(|(.., clients)| clients)
            .collect()
    }

    /// Who is next on the agent. If all who would take it have refused it lately, those whose time is over are asked again.
    fn choose(&mut self, agent: AgentKey) -> Option<Allocation> {
        if !is_worth_it(&self.free_on(agent)) {
            return None;
        }
        self.first_willing(agent).or_else(|| {
            self.forget_lapsed(agent);
            self.first_willing(agent)
        })
    }

    fn forget_lapsed(&mut self, agent: AgentKey) {
        self.refusals
            .retain(|refusal| refusal.refused.agent != agent || !refusal.lapsed);
    }

    fn first_willing(&self, agent: AgentKey) -> Option<Allocation> {
        let free = self.free_on(agent);
        self.order("").into_iter().find_map(|(framework, role)| {
            let offer = self.chopped(&free.allocatable_to(&role), &role);
            if !is_worth_it(&offer) {
                return None;
            }
            let refused = self.refusals.iter().any(|Refusal { refused, .. }| {
                (refused.framework, &refused.role, refused.agent) == (framework, &role, agent)
                    && refused.resources.contains(&offer)
            });
            (!refused).then_some(Allocation {
                framework,
                role,
                agent,
                resources: offer,
            })
        })
    }
}

fn is_worth_it(offer: &Resources) -> bool {
    offer.cpus().0 >= 10 || offer.mem().0 >= 32_000
}

struct Pair {
    cluster: Cluster,
    naive: Naive,
    clients: Vec<Client>,
    next_agent: u32,
}

const ROLES: [&str; 8] = ["a", "a/x", "a/x/deep", "a/y", "b", "b/x", "c", "*"];

impl Pair {
    fn new(random: &mut Random) -> Self {
        let mut pair = Pair {
            cluster: Cluster::new(),
            naive: Naive::default(),
            clients: Vec::new(),
            next_agent: 0,
        };
        for key in 0..2 + random.below(8) as u32 {
            let roles: BTreeSet<&str> = (0..1 + random.below(3))
                .map(|_| *random.pick(&ROLES))
                .collect();
            pair.cluster
                .framework(key, &roles.iter().copied().collect::<Vec<_>>());
            pair.clients
                .extend(roles.iter().map(|text| (FrameworkKey(key), role(text))));
        }
        pair.naive.served = pair.clients.iter().cloned().collect();
        for _ in 0..1 + random.below(6) {
            pair.add_agent(random);
        }
        pair
    }

    fn add_agent(&mut self, random: &mut Random) {
        let key = AgentKey(self.next_agent);
        self.next_agent += 1;
        let (cpus, mem, disk) = (
            1 + random.below(16),
            64 * (1 + random.below(32)),
            random.below(1000),
        );
        let mut text = format!("cpus:{cpus};mem:{mem};disk:{disk};ports:[1000-2000]");
        if random.one_in(3) {
            let role = random.pick(&ROLES[..7]);
            text += &format!(";cpus({role}):{};mem({role}):{}", 1 + random.below(4), 100);
        }
        self.cluster
            .allocator
            .add_agent(key, resources(&text), AgentTraits::default(), &[]);
        self.naive.totals.insert(key, resources(&text));
    }

    fn step(&mut self, random: &mut Random) {
        match random.below(13) {
            0 => self.add_agent(random),
            1 if self.naive.totals.len() > 1 => {
                let keys: Vec<AgentKey> = self.naive.totals.keys().copied().collect();
                let key = *random.pick(&keys);
                self.cluster.allocator.remove_agent(key);
                self.naive.totals.remove(&key);
                self.naive.held.retain(|held| held.agent != key);
                self.naive
                    .refusals
                    .retain(|refusal| refusal.refused.agent != key);
            }
            2 => {
                let text = *random.pick(&ROLES);
                let weight = (1 + random.below(40)) as f64 / 10.0;
                self.cluster.allocator.set_weight(role(text), weight);
                self.naive.weights.insert(text.to_owned(), weight);
            }
            3 => {
                let client = random.pick(&self.clients).clone();
                self.cluster
                    .allocator
                    .suppress(client.0, std::slice::from_ref(&client.1));
                self.naive.served.remove(&client);
            }
            4 | 5 => {
                let client = random.pick(&self.clients).clone();
                self.cluster
                    .allocator
                    .revive(client.0, std::slice::from_ref(&client.1));
                self.naive.refusals.retain(|Refusal { refused, .. }| {
                    (refused.framework, &refused.role) != (client.0, &client.1)
                });
                self.naive.served.insert(client);
            }
            6 => self.cluster.advance(random.below(400)),
            7 => self.set_quotas(random),
            _ => {
                for _ in 0..1 + random.below(4) {
                    self.give_back(random);
                }
            }
        }
        self.cluster.allocator.check_invariants();
    }

    /// Quotas of some roles, of parents and children alike.
    fn set_quotas(&mut self, random: &mut Random) {
        let mut quotas = BTreeMap::new();
        for text in &ROLES[..7] {
            if random.one_in(2) {
                continue;
            }
            let mut quota = Quota::default();
            for name in ["cpus", "mem"] {
                let unit = if name == "cpus" { 1000 } else { 200_000 };
                let guarantee = Milli(random.below(8) as i64 * unit);
                if random.one_in(2) {
                    quota.guarantees.add_amount(&Arc::from(name), guarantee);
                }
                if random.one_in(2) {
                    let limit = Milli(guarantee.0 + random.below(8) as i64 * unit);
                    quota.limits.insert(Arc::from(name), limit);
                }
            }
            quotas.insert(role(text), quota);
        }
        self.naive.quotas.clone_from(&quotas);
        self.cluster.allocator.set_quotas(quotas);
        for top in self.naive.quotas.keys() {
            let consumed = self.cluster.allocator.quota_consumed(top).unwrap();
            let by_hand =
                NAMES.map(|name| (Arc::from(name), Milli(self.naive.consumed(top, name))));
            assert_eq!(consumed, by_hand.into_iter().collect::<Quantities>());
        }
    }

    fn give_back(&mut self, random: &mut Random) {
        if self.naive.held.is_empty() {
            return;
        }
        let at = random.below(self.naive.held.len() as u64) as usize;
        let mut back = self.naive.held.swap_remove(at);
        if random.one_in(2) {
            // A task stays behind, of some or all of it.
            let numerator = 1 + random.below(10) as i64;
            let kept = back.resources.map(|mut resource| {
                if let Quantity::Scalar(amount) = &mut resource.quantity {
                    amount.0 = amount.0 * numerator / 10;
                }
                resource
            });
            back.resources = back.resources.checked_subtract(&kept).unwrap();
            if !kept.is_empty() {
                self.cluster
                    .allocator
                    .mark_used(back.agent, back.framework, &back.role, &kept);
                self.naive.forget_lapsed(back.agent);
                self.naive.held.push(Allocation {
                    resources: kept,
                    ..back.clone()
                });
            }
        }
        let refuse = (!random.one_in(3)).then(|| random.below(1000));
        self.cluster.recover(&back, &back.resources, refuse);
        if let Some(refuse) = refuse {
            self.naive.refusals.push(Refusal {
                refused: back,
                until: Tick(self.cluster.now.0 + refuse),
                lapsed: false,
            });
        }
    }

    fn compare(&mut self, seed: u64) {
        let now = self.cluster.now;
        for refusal in &mut self.naive.refusals {
            refusal.lapsed = refusal.until <= now;
        }
        for given in self.cluster.allocate() {
            let expected = self.naive.choose(given.agent);
            assert_eq!(expected.as_ref(), Some(&given), "seed {seed}");
            let deficits = NAMES.map(|name| self.naive.deficit(name, (&given.role, 0)));
            *self
                .naive
                .counts
                .entry((given.framework, given.role.clone()))
                .or_default() += 1;
            self.naive.held.push(given.clone());
            self.naive.check_promises(&given, &deficits);
        }
        let agents: Vec<AgentKey> = self.naive.totals.keys().copied().collect();
        for agent in agents {
            assert_eq!(
                self.naive.choose(agent),
                None,
                "seed {seed}: somebody was forgotten"
            );
        }
        for client in &self.clients {
            let share = self.naive.share(|held| held.framework == client.0);
            assert_eq!(
                self.cluster.allocator.framework_share(client.0),
                share,
                "seed {seed}"
            );
        }
    }
}

#[test]
fn recipients_are_those_of_an_allocator_that_sorts_everything_each_time() {
    for seed in 0..8 {
        let mut random = Random(seed);
        let mut pair = Pair::new(&mut random);
        for _ in 0..60 {
            pair.compare(seed);
            pair.step(&mut random);
        }
    }
}

#[test]
fn random_events_of_every_kind_leave_all_sums_right() {
    for seed in 100..108 {
        let mut random = Random(seed);
        let mut pair = Pair::new(&mut random);
        for _ in 0..80 {
            let framework = FrameworkKey(random.below(12) as u32);
            match random.below(8) {
                0 => {
                    let roles: BTreeSet<&str> =
                        (0..random.below(4)).map(|_| *random.pick(&ROLES)).collect();
                    let roles: Vec<Role> = roles.into_iter().map(role).collect();
                    let suppressed = roles
                        .iter()
                        .take(random.below(2) as usize)
                        .cloned()
                        .collect();
                    let terms = FrameworkTerms::plain(&roles, &suppressed, Default::default());
                    pair.cluster.allocator.update_framework(framework, &terms);
                }
                1 => pair.cluster.framework(framework.0, &[*random.pick(&ROLES)]),
                2 => {
                    pair.cluster.allocator.remove_framework(framework);
                    pair.naive.held.retain(|held| held.framework != framework);
                }
                3 => pair
                    .cluster
                    .allocator
                    .set_framework_active(framework, random.one_in(2)),
                4 => {
                    let agent = AgentKey(random.below(u64::from(pair.next_agent)) as u32);
                    pair.cluster
                        .allocator
                        .set_agent_active(agent, random.one_in(2));
                }
                _ => pair.step(&mut random),
            }
            pair.cluster.allocator.check_invariants();
            let given = pair.cluster.allocate();
            pair.naive.held.extend(given);
        }
        let held: Resources = pair.naive.held.iter().map(|held| &held.resources).collect();
        let roles: BTreeSet<&str> = ROLES
            .iter()
            .map(|text| text.split('/').next().unwrap())
            .collect();
        let totals: Vec<Resources> = roles
            .into_iter()
            .map(|top| pair.cluster.allocator.role_totals(&role(top)))
            .collect();
        assert_eq!(totals.iter().collect::<Resources>(), held, "seed {seed}");
    }
}
