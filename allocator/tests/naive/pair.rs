//! The allocator and the model side by side, told the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_allocator::{
    AgentKey, AgentTraits, Allocation, Config, Constraint, Constraints, FrameworkCapabilities,
    FrameworkKey, FrameworkTerms, Obstacle, Predicate, Quota, RoleTerms, Selector,
};
use tepui_model::{
    Milli, Quantities, Quantity, Reservation, Resource, Resources, Tick, parse_attributes,
    parse_quantities,
};

use crate::model::{Agent, Client, Framework, Held, Model, NAMES, Refusal, Wants};
use crate::support::{Cluster, Random, resources, role};

pub(crate) const ROLES: [&str; 8] = ["a", "a/x", "a/x/deep", "a/y", "b", "b/x", "c", "*"];
const RACKS: [&str; 2] = ["north", "south"];

pub(crate) struct Pair {
    pub(crate) cluster: Cluster,
    pub(crate) model: Model,
    pub(crate) next_agent: u32,
    seed: u64,
}

impl Pair {
    pub(crate) fn new(seed: u64, random: &mut Random) -> Self {
        let offer_cap = random.one_in(3).then_some(0.3);
        let mut pair = Pair {
            cluster: Cluster::with(Config {
                offer_cap,
                ..Config::default()
            }),
            model: Model {
                offer_cap,
                ..Model::default()
            },
            next_agent: 0,
            seed,
        };
        for key in 0..2 + random.below(8) as u32 {
            pair.add_framework(FrameworkKey(key), random);
        }
        for _ in 0..1 + random.below(6) {
            pair.add_agent(random);
        }
        pair
    }

    fn add_framework(&mut self, key: FrameworkKey, random: &mut Random) {
        let capabilities = FrameworkCapabilities {
            gpu: random.one_in(2),
            revocable: random.one_in(2),
            reservation_refinement: !random.one_in(3),
            ..FrameworkCapabilities::ALL
        };
        let roles: BTreeSet<&str> = (0..1 + random.below(3))
            .map(|_| *random.pick(&ROLES))
            .collect();
        self.model.frameworks.insert(
            key,
            Framework {
                capabilities,
                active: true,
            },
        );
        for text in roles {
            let wants = random_wants(random);
            self.model.clients.insert((key, role(text)), wants);
        }
        let terms = self.terms(key);
        self.cluster.allocator.add_framework(key, &terms);
    }

    /// What the model has of a framework, as the allocator is told.
    fn terms(&self, key: FrameworkKey) -> FrameworkTerms {
        let of_framework = self
            .model
            .clients
            .iter()
            .filter(|((framework, _), _)| *framework == key);
        let roles = of_framework.map(|((_, role), wants)| {
            let terms = RoleTerms {
                suppressed: wants.suppressed,
                min_allocatable: wants.minimum.clone().map(Into::into),
                constraints: wants.rack.map(|rack| {
                    let constraint = Constraint {
                        selector: Selector::Attribute("rack".into()),
                        predicate: Predicate::TextEquals(rack.to_owned()),
                    };
                    Arc::new(Constraints::new(vec![vec![constraint]]).unwrap())
                }),
            };
            (role.clone(), terms)
        });
        FrameworkTerms {
            roles: roles.collect(),
            capabilities: self.model.frameworks[&key].capabilities,
        }
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
        if random.one_in(4) {
            text += &format!(";gpus:{}", 1 + random.below(4));
        }
        if random.one_in(3) {
            let role = random.pick(&ROLES[..7]);
            text += &format!(";cpus({role}):{};mem({role}):{}", 1 + random.below(4), 100);
        }
        let mut total = resources(&text);
        if random.one_in(3) {
            // Reserved for a, and of that for a/x.
            let refined = Resource::scalar("cpus", Milli(1000 * (1 + random.below(3) as i64)))
                .with_reservation(Reservation::fixed(role("a")))
                .with_reservation(Reservation::dynamic(role("a/x"), None));
            total += refined;
        }
        if random.one_in(4) {
            let mut revocable = Resource::scalar("cpus", Milli(2000));
            revocable.revocable = true;
            total += revocable;
        }
        let rack = *random.pick(&RACKS);
        let traits = AgentTraits {
            attributes: parse_attributes(&format!("rack:{rack}")).unwrap().into(),
            ..AgentTraits::default()
        };
        self.cluster
            .allocator
            .add_agent(key, total.clone(), traits, &[]);
        let agent = Agent {
            total,
            rack,
            active: true,
        };
        self.model.agents.insert(key, agent);
    }

    fn any_agent(&self, random: &mut Random) -> AgentKey {
        let keys: Vec<AgentKey> = self.model.agents.keys().copied().collect();
        *random.pick(&keys)
    }

    fn any_client(&self, random: &mut Random) -> Client {
        let clients: Vec<&Client> = self.model.clients.keys().collect();
        (*random.pick(&clients)).clone()
    }

    /// Something happens, of everything that the model knows of.
    pub(crate) fn step(&mut self, random: &mut Random) {
        match random.below(8) {
            0 => {
                let (key, active) = (self.any_agent(random), random.one_in(2));
                self.cluster.allocator.set_agent_active(key, active);
                self.model.agents.get_mut(&key).unwrap().active = active;
            }
            1 => {
                let (client, active) = (self.any_client(random), random.one_in(2));
                self.cluster
                    .allocator
                    .set_framework_active(client.0, active);
                self.model.frameworks.get_mut(&client.0).unwrap().active = active;
            }
            2 => {
                let client = self.any_client(random);
                let was_suppressed = self.model.clients[&client].suppressed;
                let wants = random_wants(random);
                let revived = was_suppressed && !wants.suppressed;
                self.model.clients.insert(client.clone(), wants);
                if revived {
                    self.forget_refusals(&client);
                }
                let terms = self.terms(client.0);
                self.cluster.allocator.update_framework(client.0, &terms);
            }
            _ => self.change(random),
        }
        self.cluster.allocator.check_invariants();
    }

    /// Something happens to agents, or to what is held.
    pub(crate) fn change(&mut self, random: &mut Random) {
        match random.below(14) {
            0 => self.add_agent(random),
            1 if self.model.agents.len() > 1 => {
                let key = self.any_agent(random);
                self.cluster.allocator.remove_agent(key);
                self.model.agents.remove(&key);
                self.model.held.retain(|held| held.what.agent != key);
                self.model
                    .refusals
                    .retain(|refusal| refusal.what.agent != key);
            }
            2 => {
                let text = *random.pick(&ROLES);
                let role = role(text);
                let weight = (1 + random.below(40)) as f64 / 10.0;
                self.cluster.allocator.set_weight(role.clone(), weight);
                self.model.weights.insert(role, weight);
            }
            3 => {
                let client = self.any_client(random);
                let roles = std::slice::from_ref(&client.1);
                self.cluster.allocator.suppress(client.0, roles);
                self.model.clients.get_mut(&client).unwrap().suppressed = true;
            }
            4 | 5 => {
                let client = self.any_client(random);
                let roles = std::slice::from_ref(&client.1);
                self.cluster.allocator.revive(client.0, roles);
                self.forget_refusals(&client);
                self.model.clients.get_mut(&client).unwrap().suppressed = false;
            }
            6 => self.cluster.advance(random.below(400)),
            7 => self.set_quotas(random),
            8 => self.reserve(random),
            _ => {
                for _ in 0..1 + random.below(4) {
                    self.give_back(random);
                }
            }
        }
        self.cluster.allocator.check_invariants();
    }

    fn forget_refusals(&mut self, client: &Client) {
        self.model.refusals.retain(|refusal| {
            (refusal.what.framework, &refusal.what.role) != (client.0, &client.1)
        });
    }

    /// Quotas of some roles, of parents and children alike, whether or not they fit together.
    fn set_quotas(&mut self, random: &mut Random) {
        let mut quotas = BTreeMap::new();
        for text in &ROLES[..7] {
            if random.one_in(2) {
                continue;
            }
            let mut quota = Quota::default();
            for (name, unit) in [("cpus", 1000), ("mem", 200_000), ("gpus", 1000)] {
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
        self.model.quotas.clone_from(&quotas);
        self.cluster.allocator.set_quotas(quotas);
        for top in self.model.quotas.keys() {
            let consumed = self.cluster.allocator.quota_consumed(top).unwrap();
            let by_hand =
                NAMES.map(|name| (Arc::from(name), Milli(self.model.consumed(top, name))));
            assert_eq!(consumed, by_hand.into_iter().collect::<Quantities>());
        }
    }

    /// Of what somebody was offered, or of what is free, a cpu is reserved, or is reserved no longer.
    fn reserve(&mut self, random: &mut Random) {
        let offered = self.model.held.iter().filter(|held| held.offered);
        let of = offered.clone().count() as u64;
        let holder = (of > 0 && !random.one_in(3)).then(|| {
            let at = random.below(of) as usize;
            let held = offered.clone().nth(at).unwrap();
            (held.what.clone(), held.what.role.clone())
        });
        let (agent, whence, receiver) = match &holder {
            Some((held, role)) => (held.agent, held.resources.clone(), role.clone()),
            None => {
                let agent = self.any_agent(random);
                let text = *random.pick(&ROLES[..7]);
                let receiver = role(text);
                (agent, self.model.free_on(agent), receiver)
            }
        };
        let binding = Reservation::dynamic(receiver.clone(), None);
        let plain = Resource::scalar("cpus", Milli(500));
        let reserved = plain.clone().with_reservation(binding);
        let (consumed, converted) = if random.one_in(2) {
            (plain, reserved)
        } else {
            (reserved, plain)
        };
        let (consumed, converted) = (Resources::from(consumed), Resources::from(converted));
        let Some(mut left) = whence.checked_subtract(&consumed) else {
            return;
        };
        if receiver.is_star() {
            return;
        }
        left.add(&converted);
        let whose = holder.as_ref().map(|(held, role)| (held.framework, role));
        let allocator = &mut self.cluster.allocator;
        allocator
            .convert(agent, whose, &consumed, &converted)
            .unwrap();
        let total = &mut self.model.agents.get_mut(&agent).unwrap().total;
        total.subtract(&consumed);
        total.add(&converted);
        if let Some((what, _)) = holder {
            let mut held = self.model.held.iter_mut();
            let held = held.find(|held| held.offered && held.what == what).unwrap();
            held.what.resources = left;
        }
    }

    /// An offer is declined, or used in part, or a task ends.
    fn give_back(&mut self, random: &mut Random) {
        if self.model.held.is_empty() {
            return;
        }
        let at = random.below(self.model.held.len() as u64) as usize;
        let Held { mut what, offered } = self.model.held.swap_remove(at);
        let allocator = &mut self.cluster.allocator;
        if !offered {
            allocator.release(what.agent, what.framework, &what.role, &what.resources);
            return;
        }
        if random.one_in(2) {
            // A task stays behind, of some or all of it.
            let numerator = 1 + random.below(10) as i64;
            let kept = what.resources.map(|mut resource| {
                if let Quantity::Scalar(amount) = &mut resource.quantity {
                    amount.0 = amount.0 * numerator / 10;
                }
                resource
            });
            what.resources = what.resources.checked_subtract(&kept).unwrap();
            if !kept.is_empty() {
                allocator.mark_used(what.agent, what.framework, &what.role, &kept);
                self.model.forget_lapsed(what.agent);
                self.model.held.push(Held {
                    what: Allocation {
                        resources: kept,
                        ..what.clone()
                    },
                    offered: false,
                });
            }
        }
        let refuse = (!random.one_in(3)).then(|| random.below(1000));
        self.cluster.recover(&what, &what.resources, refuse);
        if let Some(refuse) = refuse
            && !what.resources.is_empty()
        {
            self.model.refusals.push(Refusal {
                what,
                until: Tick(self.cluster.now.0 + refuse),
                lapsed: false,
            });
        }
    }

    /// A round, without asking whether it was right.
    pub(crate) fn take_whatever_is_given(&mut self) {
        let given = self.cluster.allocate().into_iter();
        self.model.held.extend(given.map(|what| Held {
            what,
            offered: true,
        }));
    }

    /// A round: each decision is the model's, and when it is over the model would give nothing more to anybody.
    pub(crate) fn compare(&mut self) {
        let (now, seed) = (self.cluster.now, self.seed);
        for refusal in &mut self.model.refusals {
            refusal.lapsed = refusal.until <= now;
        }
        for given in self.cluster.allocate() {
            let expected = self.model.choose(given.agent);
            assert_eq!(expected.as_ref(), Some(&given), "seed {seed}");
            self.model.give(given);
        }
        let agents: Vec<AgentKey> = self.model.agents.keys().copied().collect();
        for agent in agents {
            let forgotten = self.model.choose(agent);
            assert_eq!(forgotten, None, "seed {seed}: somebody was forgotten");
        }
        self.check_explanations();
        for key in self.model.frameworks.keys() {
            let share = self.model.share(|held| held.what.framework == *key);
            let reckoned = self.cluster.allocator.framework_share(*key);
            assert_eq!(reckoned, share, "seed {seed}");
        }
    }
}

impl Pair {
    /// Whoever asks and was offered nothing more is told why, and never that it is about to be offered something.
    fn check_explanations(&self) {
        for client in self.model.clients.keys() {
            for agent in self.model.agents.keys() {
                let allocator = &self.cluster.allocator;
                let obstacle = allocator.obstacle(*agent, client.0, &client.1).unwrap();
                let is_asking = self.model.is_served(client);
                let is_told = match obstacle {
                    Obstacle::NotAsking => !is_asking,
                    Obstacle::Next | Obstacle::Behind { .. } => false,
                    _ => is_asking,
                };
                assert!(
                    is_told,
                    "seed {}: {client:?} on {agent:?}: {obstacle:?}",
                    self.seed
                );
            }
        }
    }
}

fn random_wants(random: &mut Random) -> Wants {
    Wants {
        suppressed: random.one_in(5),
        rack: random.one_in(4).then(|| *random.pick(&RACKS)),
        minimum: match random.below(12) {
            0 => Some(Vec::new()),
            1 => Some(vec![parse_quantities("cpus:3").unwrap()]),
            _ => None,
        },
    }
}
