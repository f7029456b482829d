//! The allocator against a second one that keeps nothing but a list of who holds what, and sorts everything afresh for
//! each single decision.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use support::{Cluster, Random, resources, role};
use tepui_allocator::{AgentKey, Allocation, FrameworkKey};
use tepui_model::{Resources, Role, Tick};

type Client = (FrameworkKey, Role);

#[derive(Default)]
struct Naive {
    totals: BTreeMap<AgentKey, Resources>,
    held: Vec<Allocation>,
    counts: BTreeMap<Client, u64>,
    served: BTreeSet<Client>,
    filters: Vec<(Allocation, Tick)>,
    weights: BTreeMap<String, f64>,
}

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
        ["cpus", "mem", "disk"]
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

    fn choose(&self, agent: AgentKey, now: Tick) -> Option<Allocation> {
        let mut free = self.totals[&agent].clone();
        for held in self.held.iter().filter(|held| held.agent == agent) {
            free = free
                .checked_subtract(&held.resources)
                .expect("nothing is given away twice");
        }
        self.order("").into_iter().find_map(|(framework, role)| {
            let offer = free.allocatable_to(&role);
            if offer.cpus().0 < 10 && offer.mem().0 < 32_000 {
                return None;
            }
            let refused = self.filters.iter().any(|(refused, until)| {
                (refused.framework, &refused.role, refused.agent) == (framework, &role, agent)
                    && *until > now
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
            .add_agent(key, resources(&text), Arc::from([]), &[]);
        self.naive.totals.insert(key, resources(&text));
    }

    fn step(&mut self, random: &mut Random) {
        match random.below(12) {
            0 => self.add_agent(random),
            1 if self.naive.totals.len() > 1 => {
                let keys: Vec<AgentKey> = self.naive.totals.keys().copied().collect();
                let key = *random.pick(&keys);
                self.cluster.allocator.remove_agent(key);
                self.naive.totals.remove(&key);
                self.naive.held.retain(|held| held.agent != key);
                self.naive
                    .filters
                    .retain(|(refused, _)| refused.agent != key);
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
                self.naive.filters.retain(|(refused, _)| {
                    (refused.framework, &refused.role) != (client.0, &client.1)
                });
                self.naive.served.insert(client);
            }
            6 => self.cluster.advance(random.below(400)),
            _ => {
                for _ in 0..1 + random.below(4) {
                    self.give_back(random);
                }
            }
        }
        self.cluster.allocator.check_invariants();
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
                if let tepui_model::Quantity::Scalar(amount) = &mut resource.quantity {
                    amount.0 = amount.0 * numerator / 10;
                }
                resource
            });
            back.resources = back.resources.checked_subtract(&kept).unwrap();
            if !kept.is_empty() {
                self.naive.held.push(Allocation {
                    resources: kept,
                    ..back.clone()
                });
            }
        }
        let refuse = (!random.one_in(3)).then(|| random.below(1000));
        self.cluster.recover(&back, &back.resources, refuse);
        if let Some(refuse) = refuse {
            self.naive
                .filters
                .push((back, Tick(self.cluster.now.0 + refuse)));
        }
    }

    fn compare(&mut self, seed: u64) {
        let now = self.cluster.now;
        for given in self.cluster.allocate() {
            let expected = self.naive.choose(given.agent, now);
            assert_eq!(expected.as_ref(), Some(&given), "seed {seed}");
            *self
                .naive
                .counts
                .entry((given.framework, given.role.clone()))
                .or_default() += 1;
            self.naive.held.push(given);
        }
        for agent in self.naive.totals.keys() {
            assert_eq!(
                self.naive.choose(*agent, now),
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
    for seed in 0..40 {
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
    for seed in 100..130 {
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
                    pair.cluster.allocator.update_framework(
                        framework,
                        &roles,
                        &suppressed,
                        Default::default(),
                    );
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
