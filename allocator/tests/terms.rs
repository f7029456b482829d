//! What frameworks may ask for, and that those who take turns at refusing leave others their turn.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use support::{Cluster, resources, role, terms};
use tepui_allocator::{
    AgentKey, AgentTraits, Constraint, Constraints, FrameworkCapabilities, FrameworkKey,
    FrameworkTerms, Predicate, Selector,
};
use tepui_model::{Quantities, parse_attributes, parse_quantities};

const FIRST: FrameworkKey = FrameworkKey(1);

fn with_minimum(minimum: &[&str]) -> FrameworkTerms {
    let mut terms = terms(&["a"], &[], FrameworkCapabilities::ALL);
    let sets: Vec<Quantities> = minimum
        .iter()
        .map(|set| parse_quantities(set).unwrap())
        .collect();
    terms.roles.get_mut(&role("a")).unwrap().min_allocatable = Some(sets.into());
    terms
}

fn racked(key: u32, cluster: &mut Cluster, attributes: &str) {
    let traits = AgentTraits {
        attributes: parse_attributes(attributes).unwrap().into(),
        ..AgentTraits::default()
    };
    cluster
        .allocator
        .add_agent(AgentKey(key), resources("cpus:1;mem:64"), traits, &[]);
}

#[test]
fn a_framework_may_set_its_own_minimum_higher_or_lower() {
    let mut cluster = Cluster::new();
    cluster
        .allocator
        .add_framework(FIRST, &with_minimum(&["cpus:4"]));
    cluster.agent(1, "cpus:2;mem:64");
    assert_eq!(cluster.round(), "");
    cluster
        .allocator
        .update_framework(FIRST, &with_minimum(&["cpus:4", "mem:64"]));
    assert_eq!(cluster.round(), "1 as a on 1: cpus:2; mem:64");
    cluster.agent(2, "disk:5");
    assert_eq!(cluster.round(), "");
    cluster
        .allocator
        .update_framework(FIRST, &with_minimum(&[]));
    assert_eq!(cluster.round(), "1 as a on 2: disk:5");
    cluster.allocator.remove_framework(FIRST);
    cluster.allocator.check_invariants();
}

#[test]
fn only_agents_that_satisfy_the_constraints_are_offered() {
    let mut cluster = Cluster::new();
    let mut terms = terms(&["a", "b"], &[], FrameworkCapabilities::ALL);
    let wanted = |rack: &str| {
        let constraint = Constraint {
            selector: Selector::Attribute("rack".into()),
            predicate: Predicate::TextEquals(rack.to_owned()),
        };
        Some(Arc::new(Constraints::new(vec![vec![constraint]]).unwrap()))
    };
    terms.roles.get_mut(&role("a")).unwrap().constraints = wanted("r1");
    terms.roles.get_mut(&role("b")).unwrap().constraints = wanted("r2");
    cluster.allocator.add_framework(FIRST, &terms);
    racked(1, &mut cluster, "rack:r1");
    racked(2, &mut cluster, "rack:r2");
    racked(3, &mut cluster, "rack:r3");
    assert_eq!(
        cluster.round(),
        "1 as a on 1: cpus:1; mem:64\n1 as b on 2: cpus:1; mem:64"
    );
    let traits = AgentTraits {
        attributes: parse_attributes("rack:r2").unwrap().into(),
        ..AgentTraits::default()
    };
    cluster.allocator.update_agent_traits(AgentKey(3), traits);
    assert_eq!(cluster.round(), "1 as b on 3: cpus:1; mem:64");
}

#[test]
fn agents_of_another_region_are_for_those_who_know_of_regions() {
    let mut cluster = Cluster::new();
    cluster.framework_with(1, &["a"], FrameworkCapabilities::default());
    let traits = AgentTraits {
        remote: true,
        ..AgentTraits::default()
    };
    cluster
        .allocator
        .add_agent(AgentKey(1), resources("cpus:1"), traits, &[]);
    assert_eq!(cluster.round(), "");
    cluster.framework(2, &["b"]);
    assert_eq!(cluster.round(), "2 as b on 1: cpus:1");
}

#[test]
fn who_asked_for_an_agent_is_served_from_it_when_it_is_its_turn() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    let wish =
        |key: u32, least: &str| BTreeMap::from([(AgentKey(key), parse_quantities(least).unwrap())]);
    cluster.allocator.request(FIRST, wish(3, "cpus:1"));
    for key in 1..=4 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    assert_eq!(
        cluster.round(),
        "1 as a on 3: cpus:1; mem:64\n2 as b on 1: cpus:1; mem:64\n\
         1 as a on 2: cpus:1; mem:64\n2 as b on 4: cpus:1; mem:64"
    );
    // A wish buys no more than others get, and one that an agent cannot meet is none.
    cluster.allocator.request(FIRST, wish(6, "cpus:2"));
    cluster.agent(5, "cpus:1;mem:64");
    cluster.agent(6, "cpus:1;mem:64");
    assert_eq!(
        cluster.round(),
        "1 as a on 5: cpus:1; mem:64\n2 as b on 6: cpus:1; mem:64"
    );
}

#[test]
fn who_prefers_an_agent_is_served_from_the_best_that_is_free_and_gets_no_more_than_others() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    let preferred = vec![(AgentKey(4), 70), (AgentKey(9), 60), (AgentKey(3), 50)];
    cluster.allocator.prefer(FIRST, preferred);
    for key in 1..=4 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    assert_eq!(
        cluster.round(),
        "1 as a on 4: cpus:1; mem:64\n2 as b on 1: cpus:1; mem:64\n\
         1 as a on 3: cpus:1; mem:64\n2 as b on 2: cpus:1; mem:64"
    );
    // It is no better served from one that is as good, and what it prefers stays so.
    cluster
        .allocator
        .prefer(FIRST, vec![(AgentKey(6), 5), (AgentKey(5), 5)]);
    cluster.agent(5, "cpus:1;mem:64");
    cluster.agent(6, "cpus:1;mem:64");
    assert_eq!(
        cluster.round(),
        "1 as a on 5: cpus:1; mem:64\n2 as b on 6: cpus:1; mem:64"
    );
    // What the agents before it in order have cannot be taken from them.
    cluster.allocator.remove_agent(AgentKey(6));
    assert_eq!(cluster.round(), "");
}

/// Those with nothing are always first in order. With refusals shorter than a round among them, somebody further down
/// would never be asked, did not each of them have to wait until all others have been.
#[test]
fn many_who_refuse_for_a_moment_do_not_keep_an_agent_among_themselves() {
    let mut cluster = Cluster::new();
    cluster.agent(0, "cpus:1;mem:64");
    cluster.framework(100, &["needy"]);
    let own = cluster.allocate();
    cluster.allocator.mark_used(
        own[0].agent,
        own[0].framework,
        &own[0].role,
        &own[0].resources,
    );
    for key in 1..=50 {
        cluster.framework(key, &[&format!("idle{key}")]);
    }
    cluster.agent(1, "cpus:1;mem:64");
    let mut asked = BTreeSet::new();
    for _ in 0..51 {
        let given = cluster.allocate();
        assert_eq!(given.len(), 1, "the agent is always in somebody's hands");
        assert!(
            asked.insert(given[0].framework),
            "nobody is asked twice in a tour"
        );
        cluster.decline(&given[0], Some(0));
        cluster.advance(10);
    }
    assert!(asked.contains(&FrameworkKey(100)));
    // Then the tour begins again with those who have least.
    assert_eq!(cluster.allocate()[0].framework, FIRST);
}

#[test]
fn as_soon_as_one_makes_use_of_an_agent_the_shares_alone_say_who_is_next() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    cluster.agent(1, "cpus:1;mem:64");
    let given = cluster.allocate();
    assert_eq!(given[0].framework, FIRST);
    cluster.decline(&given[0], Some(0));
    let given = cluster.allocate();
    assert_eq!(given[0].framework, FrameworkKey(2));
    let half = resources("cpus:0.5");
    cluster
        .allocator
        .mark_used(given[0].agent, given[0].framework, &given[0].role, &half);
    cluster.recover(&given[0], &resources("cpus:0.5;mem:64"), None);
    assert_eq!(cluster.allocate()[0].framework, FIRST);
}

#[test]
fn equal_frameworks_get_equally_many_offers_over_time() {
    let mut cluster = Cluster::new();
    for key in 1..=5 {
        cluster.framework(key, &["a"]);
    }
    for key in 1..=2 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    let mut counts: BTreeMap<FrameworkKey, u32> = BTreeMap::new();
    for _ in 0..100 {
        for given in cluster.allocate() {
            *counts.entry(given.framework).or_default() += 1;
            cluster.decline(&given, Some(0));
        }
        cluster.advance(1);
    }
    let (least, most) = (
        counts.values().min().unwrap(),
        counts.values().max().unwrap(),
    );
    assert_eq!(counts.len(), 5);
    assert!(most - least <= 1, "{counts:?}");
}
