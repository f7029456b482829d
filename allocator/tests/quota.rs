//! What quotas promise: no role beyond its limit, and nobody in what is guaranteed to others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use support::{Cluster, resources, role};
use tepui_allocator::{AgentKey, AgentTraits, FrameworkKey, Quota};
use tepui_model::{Quantities, Resource, Resources, parse_quantities};

fn quota(guarantees: &str, limits: &str) -> Quota {
    let limits = parse_quantities(limits).unwrap();
    Quota {
        guarantees: parse_quantities(guarantees).unwrap(),
        limits: limits
            .iter()
            .map(|(name, limit)| (name.clone(), limit))
            .collect(),
    }
}

impl Cluster {
    fn quotas(&mut self, quotas: &[(&str, Quota)]) {
        let quotas = quotas.iter().cloned();
        let quotas: BTreeMap<_, _> = quotas.map(|(text, quota)| (role(text), quota)).collect();
        self.allocator.set_quotas(quotas);
        self.allocator.check_invariants();
    }

    fn consumed(&self, text: &str) -> Quantities {
        self.allocator.quota_consumed(&role(text)).unwrap()
    }
}

#[test]
fn an_offer_is_cut_so_that_the_limit_is_met_exactly() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", quota("", "cpus:3;mem:100"))]);
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:2;mem:64;ports:[1-9]");
    cluster.agent(2, "cpus:2;mem:64;ports:[1-9]");
    cluster.agent(3, "cpus:2;mem:64;ports:[1-9]");
    assert_eq!(
        cluster.round(),
        "1 as a on 1: cpus:2; mem:64; ports:[1-9]\n1 as a on 2: cpus:1; mem:36; ports:[1-9]"
    );
    assert_eq!(cluster.consumed("a").to_string(), "cpus:3; mem:100");
    cluster.framework(2, &["b"]);
    assert_eq!(
        cluster.round(),
        "2 as b on 2: cpus:1; mem:28\n2 as b on 3: cpus:2; mem:64; ports:[1-9]"
    );
}

#[test]
fn a_role_at_its_limit_is_served_again_elsewhere_as_soon_as_it_gives_something_back() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", quota("", "cpus:2"))]);
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:2;mem:64");
    let given = cluster.allocate();
    cluster.agent(2, "cpus:2;mem:64");
    let memory = cluster.allocate();
    assert_eq!(memory[0].resources, resources("mem:64"));
    cluster.decline(&memory[0], Some(1_000_000));
    assert_eq!(cluster.round(), "");
    // It refuses what comes back, so it is the other agent from which it may have more now.
    cluster.decline(&given[0], Some(1_000_000));
    assert_eq!(cluster.round(), "1 as a on 2: cpus:2; mem:64");
}

#[test]
fn what_a_guarantee_lacks_stays_free_even_if_those_it_is_for_decline() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("sure", quota("cpus:4;mem:128", ""))]);
    cluster.framework(1, &["sure"]);
    for key in 1..=3 {
        cluster.agent(key, "cpus:4;mem:128");
    }
    for given in cluster.allocate() {
        cluster.decline(&given, Some(1_000_000));
    }
    cluster.framework(2, &["greedy"]);
    let greedy: Resources = cluster
        .allocate()
        .iter()
        .map(|given| &given.resources)
        .collect();
    assert_eq!(greedy, resources("cpus:8;mem:256"));
    cluster.advance(1_000_000);
    let sure = cluster.allocate();
    assert_eq!(sure[0].framework, FrameworkKey(1));
    assert_eq!(sure[0].resources, resources("cpus:4;mem:128"));
}

#[test]
fn a_guarantee_that_is_met_keeps_nothing_from_others() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("sure", quota("cpus:4", ""))]);
    cluster.framework(1, &["sure"]);
    cluster.agent(1, "cpus:4;mem:128");
    assert_eq!(cluster.allocate().len(), 1);
    cluster.agent(2, "cpus:4;mem:128");
    cluster.framework(2, &["greedy"]);
    assert_eq!(cluster.round(), "2 as greedy on 2: cpus:4; mem:128");
}

#[test]
fn beyond_its_guarantee_a_role_is_one_of_many() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[
        ("sure", quota("cpus:2", "")),
        ("other", quota("cpus:4", "")),
    ]);
    cluster.framework(1, &["sure"]);
    cluster.agent(1, "cpus:8;mem:256");
    // Two that are guaranteed to it, and the two that nobody is sure of.
    assert_eq!(cluster.round(), "1 as sure on 1: cpus:4; mem:256");
}

#[test]
fn with_too_little_for_all_guarantees_only_those_who_have_one_are_served() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[
        ("sure", quota("cpus:10", "")),
        ("also", quota("cpus:10", "")),
    ]);
    cluster.framework(1, &["greedy"]);
    cluster.framework(2, &["sure"]);
    cluster.agent(1, "cpus:4");
    assert_eq!(cluster.round(), "2 as sure on 1: cpus:4");
}

#[test]
fn the_limit_of_a_parent_bounds_its_children_together() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", quota("", "cpus:5")), ("a/x", quota("", "cpus:3"))]);
    cluster.framework(1, &["a/x"]);
    cluster.framework(2, &["a/y"]);
    cluster.framework(3, &["a"]);
    for key in 1..=4 {
        cluster.agent(key, "cpus:2");
    }
    cluster.allocate();
    assert_eq!(cluster.consumed("a").to_string(), "cpus:5");
    assert!(cluster.consumed("a/x").get("cpus").0 <= 3000);
}

#[test]
fn what_a_childs_guarantee_lacks_is_kept_within_that_of_its_parent() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", quota("cpus:4", "")), ("a/x", quota("cpus:3", ""))]);
    cluster.framework(1, &["a/y"]);
    cluster.agent(1, "cpus:4");
    // The parent's fourth cpu is for any of its children, the other three are for one of them.
    assert_eq!(cluster.round(), "1 as a/y on 1: cpus:1");
    cluster.framework(2, &["b"]);
    assert_eq!(cluster.round(), "");
    cluster.framework(3, &["a/x"]);
    assert_eq!(cluster.round(), "3 as a/x on 1: cpus:3");
}

#[test]
fn what_is_reserved_counts_as_consumed_and_is_offered_beyond_the_limit() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", quota("", "cpus:2"))]);
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:4;cpus(a):2");
    assert_eq!(cluster.consumed("a").to_string(), "cpus:2");
    assert_eq!(cluster.round(), "1 as a on 1: cpus(a):2");
    let given = cluster
        .allocator
        .held(AgentKey(1), FrameworkKey(1), &role("a"));
    assert_eq!(given, resources("cpus(a):2"));
    assert_eq!(cluster.consumed("a").to_string(), "cpus:2");
}

#[test]
fn reserving_what_is_held_consumes_nothing_more() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", quota("", "cpus:3"))]);
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:4");
    let given = cluster.allocate();
    assert_eq!(given[0].resources, resources("cpus:3"));
    let (free, reserved) = (resources("cpus:2"), resources("cpus(a):2"));
    cluster
        .allocator
        .convert(
            AgentKey(1),
            Some((FrameworkKey(1), &role("a"))),
            &free,
            &reserved,
        )
        .unwrap();
    cluster.allocator.check_invariants();
    assert_eq!(cluster.consumed("a").to_string(), "cpus:3");
}

#[test]
fn what_may_be_taken_back_is_under_no_quota() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", quota("", "cpus:1")), ("sure", quota("cpus:8", ""))]);
    cluster.framework(1, &["a"]);
    let mut revocable = Resource::scalar("cpus", tepui_model::Milli(2000));
    revocable.revocable = true;
    let mut total = resources("cpus:4");
    total += revocable;
    cluster
        .allocator
        .add_agent(AgentKey(1), total, AgentTraits::default(), &[]);
    assert_eq!(cluster.round(), "1 as a on 1: cpus{REV}:2");
    assert_eq!(cluster.consumed("a").to_string(), "");
}

#[test]
fn gpus_and_whole_disks_are_not_cut() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", quota("", "gpus:1.5"))]);
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:1;gpus:4");
    assert_eq!(cluster.round(), "1 as a on 1: cpus:1; gpus:1");
}

#[test]
fn a_raised_limit_counts_in_the_next_round() {
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", quota("", "cpus:1"))]);
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:4");
    assert_eq!(cluster.round(), "1 as a on 1: cpus:1");
    cluster.quotas(&[("a", quota("", "cpus:3"))]);
    assert!(cluster.allocator.dirty());
    assert_eq!(cluster.round(), "1 as a on 1: cpus:2");
    cluster.quotas(&[]);
    assert_eq!(cluster.round(), "1 as a on 1: cpus:1");
}

#[test]
fn only_what_helps_is_wanted_back() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    cluster.agent(1, "cpus:2;mem:64");
    cluster.agent(2, "cpus:2;mem:64");
    assert_eq!(cluster.allocate().len(), 2);
    let wanted = |cluster: &Cluster, text: &str, back: &str| {
        cluster
            .allocator
            .is_wanted_back(&role(text), &resources(back))
    };
    cluster.quotas(&[("a", quota("", "cpus:1"))]);
    assert!(wanted(&cluster, "a", "cpus:1") && wanted(&cluster, "a/x", "cpus:1"));
    assert!(!wanted(&cluster, "a", "mem:64") && !wanted(&cluster, "b", "cpus:2"));
    cluster.quotas(&[("b", quota("cpus:3", ""))]);
    assert!(wanted(&cluster, "a", "cpus:1"));
    // It would only lack more itself.
    assert!(!wanted(&cluster, "b", "cpus:1"));
}

#[test]
fn no_quota_guarantees_more_than_it_allows() {
    assert_eq!(
        quota("cpus:2", "cpus:1").contradiction(),
        Some(&Arc::from("cpus"))
    );
    assert_eq!(quota("cpus:2;mem:5", "cpus:2").contradiction(), None);
    let zero = Quota {
        limits: BTreeMap::from([(Arc::from("cpus"), tepui_model::Milli(0))]),
        ..Quota::default()
    };
    assert!(!zero.is_default());
    let mut cluster = Cluster::new();
    cluster.quotas(&[("a", zero)]);
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:2;mem:64");
    assert_eq!(cluster.round(), "1 as a on 1: mem:64");
}
