//! Whoever is offered nothing is told why.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use support::{Cluster, resources, role, terms};
use tepui_allocator::{
    AgentKey, AgentTraits, Constraint, Constraints, FrameworkCapabilities, FrameworkKey, Obstacle,
    Predicate, Quota, Reached, Selector,
};
use tepui_model::{Milli, Quantities, Reservation, Resource, parse_attributes, parse_quantities};

const NOBODY: FrameworkCapabilities = FrameworkCapabilities {
    gpu: false,
    revocable: false,
    shared: false,
    reservation_refinement: false,
    region_aware: false,
};

impl Cluster {
    fn why(&self, framework: u32, text: &str, agent: u32) -> Obstacle {
        self.allocator
            .obstacle(AgentKey(agent), FrameworkKey(framework), &role(text))
            .unwrap()
    }
}

#[test]
fn what_is_held_is_told_with_who_has_it_in_offers() {
    let mut cluster = Cluster::new();
    cluster.agent(1, "cpus:2;mem:64");
    cluster.framework(1, &["a"]);
    let given = cluster.allocate();
    cluster.framework(2, &["b"]);
    cluster.allocate();
    let Obstacle::NothingFree { in_offers_of } = cluster.why(2, "b", 1) else {
        panic!("all is offered to the first");
    };
    assert_eq!(in_offers_of, [(FrameworkKey(1), role("a"))]);
    let whole = &given[0].resources;
    cluster
        .allocator
        .mark_used(AgentKey(1), FrameworkKey(1), &role("a"), whole);
    let used = cluster.why(2, "b", 1);
    assert!(matches!(used, Obstacle::NothingFree { in_offers_of } if in_offers_of.is_empty()));
    cluster.allocator.set_agent_active(AgentKey(1), false);
    assert!(matches!(cluster.why(2, "b", 1), Obstacle::AgentInactive));
    cluster.allocator.suppress(FrameworkKey(2), &[]);
    assert!(matches!(cluster.why(2, "b", 1), Obstacle::NotAsking));
    let nowhere = cluster
        .allocator
        .obstacle(AgentKey(9), FrameworkKey(1), &role("a"));
    assert!(nowhere.is_none());
}

#[test]
fn a_refusal_is_told_with_its_end_and_afterwards_with_whose_turn_it_is() {
    let mut cluster = Cluster::new();
    cluster.agent(1, "cpus:2;mem:64");
    cluster.framework(1, &["a"]);
    let given = cluster.allocate();
    cluster.decline(&given[0], Some(500));
    cluster.allocate();
    let until = tepui_model::Tick(500);
    assert!(matches!(cluster.why(1, "a", 1), Obstacle::Refused { until: end } if end == until));
    let (agents, refusals) = cluster.allocator.refusals(FrameworkKey(1), 9);
    assert_eq!((agents, refusals.len()), (1, 1));
    assert_eq!(cluster.allocator.refusals(FrameworkKey(1), 0).0, 1);
    assert_eq!((refusals[0].agent, refusals[0].until), (AgentKey(1), until));
    assert_eq!(refusals[0].refused, resources("cpus:2;mem:64"));
    cluster.framework(2, &["b"]);
    assert!(matches!(cluster.why(2, "b", 1), Obstacle::Next));
    cluster.framework(3, &["c"]);
    let behind = cluster.why(3, "c", 1);
    assert!(
        matches!(&behind, Obstacle::Behind { framework, role: first } if *framework == FrameworkKey(2) && *first == role("b")),
        "{behind:?}"
    );
}

#[test]
fn what_the_agent_is_not_is_told() {
    let mut cluster = Cluster::new();
    let traits = |attributes: &str, remote| AgentTraits {
        attributes: parse_attributes(attributes).unwrap().into(),
        remote,
        ..AgentTraits::default()
    };
    let add = |cluster: &mut Cluster, key, total: &str, traits| {
        cluster
            .allocator
            .add_agent(AgentKey(key), resources(total), traits, &[]);
    };
    add(
        &mut cluster,
        1,
        "cpus:2;mem:64;gpus:1",
        traits("rack:r1", false),
    );
    add(&mut cluster, 2, "cpus:2;mem:64", traits("rack:r1", true));
    add(&mut cluster, 3, "cpus:2;mem:64", traits("rack:r1", false));
    add(
        &mut cluster,
        4,
        "cpus(b):2;mem(b):64;disk:9",
        traits("rack:r2", false),
    );
    add(
        &mut cluster,
        5,
        "cpus:0.001;mem:20;disk:100",
        traits("rack:r2", false),
    );
    let mut wants = terms(&["a"], &[], NOBODY);
    let constraint = Constraint {
        selector: Selector::Attribute("rack".into()),
        predicate: Predicate::TextEquals("r2".to_owned()),
    };
    let constraints = Constraints::new(vec![vec![constraint]]).unwrap();
    wants.roles.get_mut(&role("a")).unwrap().constraints = Some(Arc::new(constraints));
    cluster.allocator.add_framework(FrameworkKey(1), &wants);
    assert_eq!(cluster.round(), "");
    assert!(matches!(cluster.why(1, "a", 1), Obstacle::GpusKept));
    assert!(matches!(cluster.why(1, "a", 2), Obstacle::OtherRegion));
    let Obstacle::Constraints(failing) = cluster.why(1, "a", 3) else {
        panic!("the rack is another");
    };
    assert_eq!(failing[0].to_string(), "the attribute rack must be 'r2'");
    assert!(matches!(
        cluster.why(1, "a", 4),
        Obstacle::ReservedForOthers
    ));
    let Obstacle::TooLittle { lacking } = cluster.why(1, "a", 5) else {
        panic!("neither minimum is met");
    };
    assert_eq!(lacking.to_string(), "mem:12", "of the two it is nearer");
}

#[test]
fn what_a_framework_does_not_understand_is_told() {
    let mut cluster = Cluster::new();
    let mut total = resources("disk:10");
    for name in ["cpus", "mem"] {
        let refined = Resource::scalar(name, Milli::from_units(64))
            .with_reservation(Reservation::fixed(role("a")))
            .with_reservation(Reservation::dynamic(role("a/x"), None));
        total += refined;
    }
    cluster
        .allocator
        .add_agent(AgentKey(1), total, AgentTraits::default(), &[]);
    cluster.framework_with(1, &["a/x"], NOBODY);
    assert_eq!(cluster.round(), "");
    assert!(matches!(cluster.why(1, "a/x", 1), Obstacle::NotUnderstood));
}

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

#[test]
fn quotas_are_told_with_the_role_whose_they_are() {
    let mut cluster = Cluster::new();
    cluster.allocator.set_quotas(BTreeMap::from([
        (role("eng"), quota("", "cpus:2;mem:64")),
        (role("eng/web"), quota("", "cpus:5")),
        (role("sure"), quota("cpus:2;mem:100", "")),
    ]));
    for key in 1..=3 {
        cluster.agent(key, "cpus:2;mem:64");
    }
    cluster.framework(1, &["eng/web"]);
    cluster.allocate();
    let Obstacle::Limit(reached) = cluster.why(1, "eng/web", 2) else {
        panic!("the parent's limit is reached");
    };
    let expected = Reached {
        role: role("eng"),
        name: "cpus".into(),
        limit: Milli::from_units(2),
        consumed: Milli::from_units(2),
    };
    assert_eq!(reached, expected);
    cluster.framework(2, &["other"]);
    assert_eq!(cluster.round(), "2 as other on 2: cpus:2; mem:28");
    let guaranteed = cluster.why(2, "other", 3);
    assert!(
        matches!(guaranteed, Obstacle::Guaranteed { .. }),
        "{guaranteed:?}"
    );

    let standing = cluster
        .allocator
        .standing(FrameworkKey(1), &role("eng/web"))
        .unwrap();
    assert!(standing.is_asking);
    assert_eq!(standing.share, 1.0 / 3.0);
    assert_eq!(standing.dominant.as_deref(), Some("cpus"));
    assert_eq!(standing.fair_share, Some(0.5));
    assert_eq!(standing.room, Some(Quantities::new()));
    let path: Vec<&str> = standing
        .path
        .iter()
        .map(|level| level.role.as_str())
        .collect();
    assert_eq!(path, ["eng/web", "eng"]);
    let (_, consumed) = standing.path[1].quota.as_ref().unwrap();
    assert_eq!(consumed.to_string(), "cpus:2; mem:64");
}

#[test]
fn the_cluster_is_split_by_weights_among_those_who_ask() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a", "b"]);
    cluster.framework(2, &["a/x"]);
    cluster.framework(3, &["a/y"]);
    cluster.framework(4, &["b"]);
    cluster.allocator.set_weight(role("b"), 3.0);
    cluster.allocator.set_weight(role("a/x"), 2.0);
    // a has a quarter: of that one part each for its own framework and a/y, two for a/x. b's is split in two.
    let shares: Vec<f64> = cluster.allocator.fair_shares().into_values().collect();
    assert_eq!(shares, [0.0625 + 0.375, 0.125, 0.0625, 0.375]);
    cluster.allocator.suppress(FrameworkKey(4), &[]);
    let shares = cluster.allocator.fair_shares();
    assert_eq!(shares[&FrameworkKey(1)], 0.0625 + 0.75);
    assert!(!shares.contains_key(&FrameworkKey(4)));
}

#[test]
fn how_long_somebody_waits_counts_from_its_last_offer_and_only_while_it_asks() {
    let mut cluster = Cluster::new();
    let waits = |cluster: &Cluster| cluster.allocator.waiting_since(FrameworkKey(1));
    cluster.advance(100);
    cluster.framework(1, &["a"]);
    cluster.allocate();
    assert_eq!(waits(&cluster), Some(tepui_model::Tick(100)));
    cluster.advance(100);
    cluster.agent(1, "cpus:1;mem:64");
    let given = cluster.allocate();
    assert_eq!(waits(&cluster), None, "it has an offer");
    cluster.advance(100);
    cluster.decline(&given[0], Some(1000));
    cluster.allocate();
    assert_eq!(waits(&cluster), Some(tepui_model::Tick(200)));
    cluster.allocator.suppress(FrameworkKey(1), &[]);
    assert_eq!(waits(&cluster), None);
    cluster
        .allocator
        .set_framework_active(FrameworkKey(1), false);
    cluster.allocator.revive(FrameworkKey(1), &[]);
    cluster.allocate();
    assert_eq!(waits(&cluster), None, "it is not active");
    cluster
        .allocator
        .set_framework_active(FrameworkKey(1), true);
    cluster.advance(100);
    cluster.agent(1, "disk:1");
    cluster.allocate();
    assert_eq!(waits(&cluster), Some(tepui_model::Tick(400)));
}

#[test]
fn an_open_offer_is_wanted_by_others_who_would_take_it() {
    let mut cluster = Cluster::new();
    cluster.agent(1, "cpus:2;mem:64");
    cluster.framework(1, &["a"]);
    let given = cluster.allocate();
    let wanted = |cluster: &Cluster| {
        let offer = &given[0].resources;
        let allocator = &cluster.allocator;
        allocator.is_wanted_by_others(AgentKey(1), FrameworkKey(1), offer)
    };
    assert!(!wanted(&cluster), "there is nobody else");
    cluster.framework_with(2, &["b"], NOBODY);
    assert!(wanted(&cluster));
    cluster.allocator.suppress(FrameworkKey(2), &[]);
    assert!(!wanted(&cluster));
}
