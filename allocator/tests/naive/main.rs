//! The allocator against a second one that keeps nothing but a list of who holds what, and sorts everything afresh for
//! each single decision: over random clusters, both give the same to the same, one decision after the other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod model;
mod pair;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use pair::{Pair, ROLES};
use support::{Random, role};
use tepui_allocator::{AgentKey, FrameworkKey, FrameworkTerms};
use tepui_model::{Resources, Role};

#[test]
fn recipients_are_those_of_an_allocator_that_sorts_everything_each_time() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut pair = Pair::new(seed, &mut random);
        for _ in 0..60 {
            pair.compare();
            pair.step(&mut random);
        }
    }
}

/// Frameworks that come, change their roles and go, which the other test leaves out.
#[test]
fn random_events_of_every_kind_leave_all_sums_right() {
    for seed in 100..110 {
        let mut random = Random(seed);
        let mut pair = Pair::new(seed, &mut random);
        for _ in 0..80 {
            let framework = FrameworkKey(random.below(12) as u32);
            let allocator = &mut pair.cluster.allocator;
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
                    allocator.update_framework(framework, &terms);
                }
                1 => pair.cluster.framework(framework.0, &[*random.pick(&ROLES)]),
                2 => {
                    allocator.remove_framework(framework);
                    pair.model
                        .held
                        .retain(|held| held.what.framework != framework);
                }
                3 => allocator.set_framework_active(framework, random.one_in(2)),
                4 => {
                    let agent = AgentKey(random.below(u64::from(pair.next_agent)) as u32);
                    allocator.set_agent_active(agent, random.one_in(2));
                }
                _ => pair.change(&mut random),
            }
            pair.cluster.allocator.check_invariants();
            pair.take_whatever_is_given();
        }
        let held: Resources = pair
            .model
            .held
            .iter()
            .map(|held| &held.what.resources)
            .collect();
        let tops: BTreeSet<&str> = ROLES
            .iter()
            .map(|text| text.split('/').next().unwrap())
            .collect();
        let totals: Vec<Resources> = tops
            .into_iter()
            .map(|top| pair.cluster.allocator.role_totals(&role(top)))
            .collect();
        assert_eq!(totals.iter().collect::<Resources>(), held, "seed {seed}");
    }
}
