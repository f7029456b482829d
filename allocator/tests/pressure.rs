//! Tenants that decline, hoard or flood, and others that get their share all the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::collections::BTreeMap;

use support::{Cluster, Random, resources, role};
use tepui_allocator::{Allocation, FrameworkKey};
use tepui_model::{Milli, Quantity, Resources, Tick};

/// What a framework does with what it is offered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// Uses all of it for so many rounds.
    Works(u64),
    /// Declines at once and refuses nothing.
    Declines,
    /// Declines at once and refuses as much for so many milliseconds.
    Refuses(u64),
    /// Lets it lie until it is taken away, after so many rounds.
    Hoards(u64),
    /// Uses a tenth of it for a round and declines the rest.
    Nibbles,
}

/// Something that ends in a later round.
struct Open {
    ends: u64,
    what: Allocation,
    used: bool,
}

/// Frameworks with manners, round by round; 50 ms are a round.
struct World {
    cluster: Cluster,
    manners: BTreeMap<FrameworkKey, Manner>,
    open: Vec<Open>,
    round: u64,
    /// When each was offered something for the last time.
    last: BTreeMap<FrameworkKey, u64>,
    /// How many cpus each has had the use of, summed over the rounds.
    used: BTreeMap<FrameworkKey, i64>,
}

impl World {
    fn new(agents: u32, frameworks: &[(&str, Manner)]) -> Self {
        let mut cluster = Cluster::new();
        for key in 0..agents {
            cluster.agent(key, "cpus:10;mem:1000");
        }
        let mut manners = BTreeMap::new();
        for (key, (role, manner)) in (0..).zip(frameworks) {
            cluster.framework(key, &[*role]);
            manners.insert(FrameworkKey(key), *manner);
        }
        Self {
            cluster,
            manners,
            open: Vec::new(),
            round: 0,
            last: BTreeMap::new(),
            used: BTreeMap::new(),
        }
    }

    fn round(&mut self) {
        self.round += 1;
        self.cluster.advance(50);
        let (ended, open): (Vec<Open>, _) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|open| open.ends <= self.round);
        self.open = open;
        for Open { what, used, .. } in ended {
            if used {
                let Allocation {
                    agent,
                    framework,
                    role,
                    resources,
                } = what;
                self.cluster
                    .allocator
                    .release(agent, framework, &role, &resources);
            } else {
                // As a master takes an offer away that nobody answered: others go first.
                self.cluster.decline(&what, Some(2));
            }
        }
        for given in self.cluster.allocate() {
            self.last.insert(given.framework, self.round);
            self.answer(given);
        }
        for open in self.open.iter().filter(|open| open.used) {
            *self.used.entry(open.what.framework).or_default() += open.what.resources.cpus().0;
        }
    }

    fn answer(&mut self, given: Allocation) {
        match self.manners[&given.framework] {
            Manner::Works(rounds) => {
                let whole = given.resources.clone();
                self.start(given, whole, rounds);
            }
            Manner::Declines => self.cluster.decline(&given, Some(2)),
            Manner::Refuses(milliseconds) => self.cluster.decline(&given, Some(milliseconds)),
            Manner::Hoards(rounds) => self.open.push(Open {
                ends: self.round + rounds,
                what: given,
                used: false,
            }),
            Manner::Nibbles => {
                let bite = given.resources.map(|mut resource| {
                    if let Quantity::Scalar(amount) = &mut resource.quantity {
                        *amount = Milli((amount.0 / 10).max(1));
                    }
                    resource
                });
                let rest = given.resources.checked_subtract(&bite).unwrap();
                self.start(given.clone(), bite, 1);
                if !rest.is_empty() {
                    self.cluster.leave(&given, &rest, None);
                }
            }
        }
    }

    fn start(&mut self, given: Allocation, used: Resources, rounds: u64) {
        let Allocation {
            agent,
            framework,
            role,
            ..
        } = &given;
        self.cluster
            .allocator
            .mark_used(*agent, *framework, role, &used);
        self.open.push(Open {
            ends: self.round + rounds,
            what: Allocation {
                resources: used,
                ..given
            },
            used: true,
        });
    }

    /// How long the framework has been offered nothing, in rounds.
    fn waits(&self, framework: FrameworkKey) -> u64 {
        self.round - self.last.get(&framework).copied().unwrap_or(0)
    }

    /// Which part of what was used in all the framework had.
    fn part(&self, framework: u32) -> f64 {
        let all: i64 = self.used.values().sum();
        let own = self.used.get(&FrameworkKey(framework));
        own.copied().unwrap_or(0) as f64 / all as f64
    }
}

#[test]
fn any_number_of_decliners_leave_all_the_work_to_those_who_work() {
    for manner in [Manner::Declines, Manner::Refuses(60), Manner::Refuses(5000)] {
        let mut frameworks = vec![("*", Manner::Works(30)), ("*", Manner::Works(30))];
        frameworks.extend([("*", manner); 20]);
        let mut world = World::new(10, &frameworks);
        for _ in 0..400 {
            world.round();
        }
        // Those who decline hold nothing, so by their shares it would always be their turn. Each of them has one, for a
        // round, then the agent is used for 30: at least 30 of 50 rounds, but for the beginning and the end.
        let used: i64 = world.used.values().sum();
        assert!(used > 400 * 100_000 * 55 / 100, "{manner:?}: {used}");
        let parts = [world.part(0), world.part(1)];
        assert!(
            parts.iter().all(|part| *part > 0.45),
            "{manner:?}: {parts:?}"
        );
    }
}

#[test]
fn who_hoards_keeps_its_share_from_others_and_no_more() {
    let frameworks = [
        ("hoarder", Manner::Hoards(40)),
        ("worker", Manner::Works(3)),
    ];
    let mut world = World::new(10, &frameworks);
    let mut held = 0;
    for _ in 0..400 {
        world.round();
        let worker = world.open.iter().filter(|open| open.used);
        held += worker.map(|open| open.what.resources.cpus().0).sum::<i64>();
    }
    // Of 100 cpus it had the use of half, or nearly.
    let average = held / 400;
    assert!(average >= 45_000, "{average}");
    assert!(world.waits(FrameworkKey(1)) < 40);
}

#[test]
fn many_frameworks_of_one_tenant_share_what_one_would_have() {
    let mut frameworks = vec![("one", Manner::Works(3))];
    frameworks.extend([("flood", Manner::Works(3)); 30]);
    frameworks.extend([("crumbs", Manner::Nibbles); 5]);
    let mut world = World::new(12, &frameworks);
    for _ in 0..400 {
        world.round();
    }
    assert!(world.part(0) > 0.4, "{}", world.part(0));
}

/// Whoever works and stands at its fair share or below is offered something within a number of rounds that follows from
/// what the others do: each of them may have its turn on an agent once, for as long as it holds what it has.
#[test]
fn nobody_who_is_willing_starves() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let roles = ["a", "a/x", "a/y", "b", "*"];
        let mut longest = 0;
        let frameworks: Vec<(&str, Manner)> = (0..3 + random.below(10))
            .map(|_| {
                let rounds = 1 + random.below(6);
                let manner = match random.below(6) {
                    0 => Manner::Declines,
                    1 => Manner::Refuses(random.below(1000)),
                    2 => Manner::Hoards(rounds),
                    3 => Manner::Nibbles,
                    _ => Manner::Works(rounds),
                };
                longest = longest.max(rounds);
                (*random.pick(&roles), manner)
            })
            .collect();
        let mut world = World::new(1 + random.below(5) as u32, &frameworks);
        for role in &roles {
            let weight = 1.0 + random.below(3) as f64;
            let role = support::role(role);
            world.cluster.allocator.set_weight(role, weight);
        }
        let bound = (frameworks.len() as u64 + 1) * (longest + 1);
        for _ in 0..300 {
            world.round();
            let fair = world.cluster.allocator.fair_shares();
            for (key, manner) in &world.manners {
                let share = world.cluster.allocator.framework_share(*key);
                if matches!(manner, Manner::Works(_)) && share <= fair[key] {
                    let waits = world.waits(*key);
                    assert!(
                        waits <= bound,
                        "seed {seed}: {key:?} waits for {waits} of {bound} rounds among {frameworks:?}"
                    );
                }
            }
        }
        world.cluster.allocator.check_invariants();
    }
}

/// Weights of roles, the roles of frameworks, and how many of 80 bites each of these should get.
type Case<'a> = (&'a [(&'a str, f64)], &'a [&'a str], &'a [i64]);

/// Whoever takes a little of each offer and refuses none of the rest is served as often as its weight says, and not in
/// turns with everybody else.
#[test]
fn small_bites_add_up_to_the_shares() {
    let cases: [Case; 3] = [
        (&[("u", 1.0), ("v", 3.0)], &["u", "v"], &[20, 60]),
        (
            &[("p", 1.0), ("p/a", 3.0), ("q", 1.0)],
            &["p/a", "p/b", "q"],
            &[30, 10, 40],
        ),
        (
            &[],
            &["flood", "flood", "flood", "honest"],
            &[13, 13, 14, 40],
        ),
    ];
    for (weights, roles, expected) in cases {
        let mut cluster = Cluster::new();
        for (name, weight) in weights {
            cluster.allocator.set_weight(role(name), *weight);
        }
        for (key, name) in (0..).zip(roles) {
            cluster.framework(key, &[*name]);
        }
        cluster.agent(0, "cpus:4;mem:400");
        cluster.agent(1, "cpus:4;mem:400");
        let bite = resources("cpus:0.1;mem:10");
        let mut taken = vec![0; roles.len()];
        loop {
            let offers = cluster.allocate();
            if offers.is_empty() {
                break;
            }
            for given in offers {
                let (agent, framework) = (given.agent, given.framework);
                cluster
                    .allocator
                    .mark_used(agent, framework, &given.role, &bite);
                let rest = given.resources.checked_subtract(&bite).unwrap();
                cluster.leave(&given, &rest, None);
                taken[framework.0 as usize] += 1;
            }
        }
        assert_eq!(taken.iter().sum::<i64>(), 80);
        for (taken, expected) in taken.iter().zip(expected) {
            assert!(
                (taken - expected).abs() <= 2,
                "{roles:?}: {taken} of {expected}"
            );
        }
    }
}

/// The same when the rest is refused for a moment: once that is over the share decides, and nobody has to go last.
#[test]
fn a_refused_rest_is_only_refused() {
    let mut cluster = Cluster::new();
    cluster.framework(0, &["u"]);
    cluster.framework(1, &["v"]);
    cluster.agent(0, "cpus:4;mem:400");
    let bite = resources("cpus:0.1;mem:10");
    let first = cluster.allocate().remove(0);
    let (agent, framework) = (first.agent, first.framework);
    cluster
        .allocator
        .mark_used(agent, framework, &first.role, &bite);
    let other = FrameworkKey(1 - framework.0);
    // It stays behind the other, which holds more.
    cluster.agent(1, "cpus:1;mem:100");
    let second = cluster.allocate();
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].framework, other);
    let rest = first.resources.checked_subtract(&bite).unwrap();
    cluster.leave(&first, &rest, Some(50));
    cluster.now = Tick(cluster.now.0 + 50);
    let third = cluster.allocate();
    assert_eq!(third.len(), 1);
    assert_eq!(third[0].framework, framework);
}
