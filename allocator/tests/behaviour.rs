//! What frameworks and operators may rely on, one sentence each.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use support::{Cluster, resources, role, terms};
use tepui_allocator::{AgentKey, AgentTraits, Config, FrameworkCapabilities, FrameworkKey};
use tepui_model::{Milli, Quantities, Resource, Resources, Role, Tick};

const FIRST: FrameworkKey = FrameworkKey(1);

#[test]
fn a_framework_alone_is_offered_everything() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:4;mem:1024");
    cluster.agent(2, "cpus:2;mem:512");
    assert_eq!(
        cluster.round(),
        "1 as a on 1: cpus:4; mem:1024\n1 as a on 2: cpus:2; mem:512"
    );
    assert_eq!(cluster.round(), "");
}

/// The example of the paper: tasks of <1 cpu, 4 GB> and <3 cpus, 1 GB> on 9 cpus and 18 GB end up three against two.
#[test]
fn the_example_of_the_paper_comes_out_as_in_the_paper() {
    let mut cluster = Cluster::new();
    cluster.agent(1, "cpus:9;mem:18");
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    let tasks = [resources("cpus:1;mem:4"), resources("cpus:3;mem:1")];
    let mut started = [0, 0];
    while let [given] = &cluster.allocate()[..] {
        let which = given.framework.0 as usize - 1;
        match given.resources.checked_subtract(&tasks[which]) {
            Some(left) => {
                started[which] += 1;
                cluster.recover(given, &left, None);
            }
            None => cluster.decline(given, Some(1_000_000)),
        }
    }
    assert_eq!(started, [3, 2]);
    assert_eq!(cluster.allocator.framework_share(FIRST), 12.0 / 18.0);
    assert_eq!(cluster.allocator.role_share(&role("b")), 6.0 / 9.0);
    assert_eq!(
        cluster.allocator.role_totals(&role("b")),
        resources("cpus:6;mem:2")
    );
    assert_eq!(cluster.allocator.available(AgentKey(1)), resources("mem:4"));
}

#[test]
fn a_role_of_twice_the_weight_gets_twice_as_much() {
    let mut cluster = Cluster::new();
    cluster.allocator.set_weight(role("b"), 2.0);
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    for key in 0..30 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    let given = cluster.allocate();
    assert_eq!(
        given
            .iter()
            .filter(|given| given.framework == FIRST)
            .count(),
        10
    );
}

#[test]
fn a_changed_weight_counts_in_the_next_round() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    for key in 0..4 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    assert_eq!(cluster.allocate().len(), 4);
    cluster.allocator.set_weight(role("a"), 10.0);
    for key in 4..8 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    assert!(
        cluster
            .allocate()
            .iter()
            .all(|given| given.framework == FIRST)
    );
}

#[test]
fn nested_roles_share_what_their_parent_gets() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a/x"]);
    cluster.framework(2, &["a/y"]);
    cluster.framework(3, &["a"]);
    cluster.framework(4, &["b"]);
    for key in 0..12 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    let given = cluster.allocate();
    let count = |key| {
        given
            .iter()
            .filter(|given| given.framework == FrameworkKey(key))
            .count()
    };
    assert_eq!([count(1), count(2), count(3), count(4)], [2, 2, 2, 6]);
    assert_eq!(
        cluster.allocator.role_totals(&role("a")).cpus(),
        Milli(6000)
    );
}

#[test]
fn who_declines_does_not_starve_the_others() {
    let mut cluster = Cluster::new();
    cluster.agent(1, "cpus:4;mem:1024");
    for key in 1..=3 {
        cluster.framework(key, &[["a", "b", "c"][key as usize - 1]]);
    }
    for key in 1..=2 {
        let given = cluster.allocate();
        assert_eq!(given[0].framework, FrameworkKey(key));
        cluster.decline(&given[0], Some(5000));
    }
    assert_eq!(cluster.round(), "3 as c on 1: cpus:4; mem:1024");
}

#[test]
fn a_refused_agent_is_offered_again_once_the_refusal_runs_out() {
    let mut cluster = Cluster::new();
    cluster.agent(1, "cpus:4;mem:1024");
    cluster.framework(1, &["a"]);
    let given = cluster.allocate();
    cluster.decline(&given[0], Some(5000));
    assert!(cluster.allocator.dirty());
    assert_eq!(cluster.round(), "");
    assert_eq!(cluster.allocator.next_deadline(), Some(Tick(5000)));
    cluster.advance(4999);
    assert_eq!(cluster.round(), "");
    cluster.advance(1);
    assert_eq!(cluster.round(), "1 as a on 1: cpus:4; mem:1024");
    assert_eq!(cluster.allocator.next_deadline(), None);
}

#[test]
fn more_than_was_refused_is_offered_before_the_refusal_runs_out() {
    let mut cluster = Cluster::new();
    cluster.agent(1, "cpus:4;mem:1024");
    cluster.framework(1, &["a"]);
    let given = cluster.allocate();
    let task = resources("cpus:1");
    cluster.recover(
        &given[0],
        &given[0].resources.checked_subtract(&task).unwrap(),
        Some(5000),
    );
    assert_eq!(cluster.round(), "");
    cluster.recover(&given[0], &task, None);
    assert_eq!(cluster.round(), "1 as a on 1: cpus:4; mem:1024");
}

#[test]
fn reviving_clears_the_refusals_of_the_named_roles_only() {
    let mut cluster = Cluster::new();
    cluster.agent(1, "cpus:4;mem:1024");
    cluster.framework(1, &["a", "b"]);
    for _ in 0..2 {
        let given = cluster.allocate();
        cluster.decline(&given[0], Some(5000));
    }
    assert_eq!(cluster.round(), "");
    assert!(
        cluster
            .allocator
            .has_refused(AgentKey(1), FIRST, &role("a"))
    );
    cluster.allocator.revive(FIRST, &[role("b")]);
    assert!(
        cluster
            .allocator
            .has_refused(AgentKey(1), FIRST, &role("a"))
    );
    assert_eq!(cluster.round(), "1 as b on 1: cpus:4; mem:1024");
    let held = cluster.allocator.held(AgentKey(1), FIRST, &role("b"));
    cluster
        .allocator
        .recover(AgentKey(1), FIRST, &role("b"), &held, Some(Tick(9000)));
    cluster.allocator.revive(FIRST, &[]);
    assert_eq!(cluster.allocate().len(), 1);
    assert_eq!(cluster.allocator.next_deadline(), None);
}

#[test]
fn a_suppressed_role_gets_nothing_until_it_is_revived() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a", "b"]);
    cluster.allocator.suppress(FIRST, &[role("a")]);
    cluster.agent(1, "cpus:4;mem:1024");
    assert_eq!(cluster.round(), "1 as b on 1: cpus:4; mem:1024");
    cluster.allocator.suppress(FIRST, &[]);
    cluster.agent(2, "cpus:4;mem:1024");
    assert_eq!(cluster.round(), "");
    cluster.allocator.revive(FIRST, &[]);
    assert_eq!(cluster.round(), "1 as a on 2: cpus:4; mem:1024");
}

#[test]
fn a_framework_may_begin_suppressed() {
    let mut cluster = Cluster::new();
    cluster
        .allocator
        .add_framework(FIRST, &terms(&["a"], &["a"], FrameworkCapabilities::ALL));
    cluster.agent(1, "cpus:4;mem:1024");
    assert_eq!(cluster.round(), "");
    cluster
        .allocator
        .update_framework(FIRST, &terms(&["a"], &[], FrameworkCapabilities::ALL));
    assert_eq!(cluster.round(), "1 as a on 1: cpus:4; mem:1024");
}

#[test]
fn reserved_resources_go_to_their_role_and_those_beneath_it() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["b"]);
    cluster.framework(2, &["a/x"]);
    cluster.framework(3, &["c"]);
    cluster.agent(1, "cpus(a):2;mem(a):64;cpus(b):1;mem:32");
    assert_eq!(
        cluster.round(),
        "2 as a/x on 1: cpus(a):2; mem:32; mem(a):64\n1 as b on 1: cpus(b):1"
    );
    cluster.agent(2, "cpus(nobody):8");
    assert_eq!(cluster.round(), "");
}

#[test]
fn remnants_too_small_for_a_task_are_not_offered() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:0.009;mem:31;disk:1000;ports:[1-1000]");
    assert_eq!(cluster.round(), "");
    cluster.agent(2, "mem:32");
    assert_eq!(cluster.round(), "1 as a on 2: mem:32");
}

#[test]
fn a_minimum_may_ask_for_several_things_at_once_or_for_nothing() {
    let both = Quantities::of([("cpus", Milli(1000)), ("mem", Milli(1000))]);
    for (min_allocatable, expected) in [(vec![both], 1), (vec![], 3)] {
        let mut cluster = Cluster::with(Config {
            min_allocatable,
            ..Config::default()
        });
        cluster.framework(1, &["a"]);
        cluster.agent(1, "cpus:8");
        cluster.agent(2, "mem:8");
        cluster.agent(3, "mem:8;cpus:8");
        assert_eq!(cluster.allocate().len(), expected);
    }
}

#[test]
fn agents_with_gpus_are_kept_for_frameworks_that_use_them() {
    let mut cluster = Cluster::new();
    cluster.framework_with(1, &["a"], FrameworkCapabilities::default());
    cluster.agent(1, "cpus:4;gpus:1");
    assert_eq!(cluster.round(), "");
    let capabilities = FrameworkCapabilities {
        gpu: true,
        ..FrameworkCapabilities::default()
    };
    cluster
        .allocator
        .update_framework(FIRST, &terms(&["a"], &[], capabilities));
    assert_eq!(cluster.round(), "1 as a on 1: cpus:4; gpus:1");
}

#[test]
fn revocable_resources_are_kept_from_those_who_do_not_know_them() {
    let mut cluster = Cluster::new();
    cluster.framework_with(1, &["a"], FrameworkCapabilities::default());
    let mut total = resources("cpus:1");
    let mut revocable = Resource::scalar("cpus", Milli(2000));
    revocable.revocable = true;
    total += revocable;
    cluster
        .allocator
        .add_agent(AgentKey(1), total, AgentTraits::default(), &[]);
    assert_eq!(cluster.round(), "1 as a on 1: cpus:1");
    cluster.framework(2, &["b"]);
    assert_eq!(cluster.round(), "2 as b on 1: cpus{REV}:2");
}

#[test]
fn a_shared_volume_goes_along_with_other_resources_and_never_alone() {
    let mut volume = Resource::scalar("disk", Milli::from_units(100));
    volume.shared = true;
    let total = Resources::from_iter([
        &resources("cpus:4;mem:64"),
        &Resources::from(volume.clone()),
    ]);
    let mut cluster = Cluster::new();
    cluster
        .allocator
        .add_agent(AgentKey(1), total.clone(), AgentTraits::default(), &[]);
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["a"]);
    let first = cluster.allocate();
    assert_eq!(first[0].resources, total);
    cluster.recover(&first[0], &resources("cpus:2"), Some(5000));
    let second = cluster.allocate();
    assert_eq!(second[0].framework, FrameworkKey(2));
    assert!(second[0].resources.contains(&Resources::from(volume)));
    assert_eq!(cluster.round(), "");
    cluster.decline(&second[0], None);
    cluster.recover(
        &first[0],
        &total.checked_subtract(&resources("cpus:2")).unwrap(),
        None,
    );
    assert_eq!(cluster.allocator.available(AgentKey(1)), total);
}

#[test]
fn nobody_hoards_offers_beyond_the_cap_while_others_wait() {
    let mut cluster = Cluster::with(Config {
        offer_cap: Some(0.5),
        ..Config::default()
    });
    cluster.allocator.set_weight(role("a"), 1000.0);
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    for key in 0..10 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    let given = cluster.allocate();
    let count = given
        .iter()
        .filter(|given| given.framework == FIRST)
        .count();
    assert_eq!((given.len(), count), (10, 5));
    // What it uses is no longer in an open offer, and so it is first again.
    let first: Vec<_> = given
        .iter()
        .filter(|given| given.framework == FIRST)
        .collect();
    let second = given.iter().find(|given| given.framework != FIRST).unwrap();
    for given in &first {
        cluster
            .allocator
            .mark_used(given.agent, given.framework, &given.role, &given.resources);
    }
    cluster.decline(second, None);
    assert_eq!(cluster.allocate()[0].framework, FIRST);
    cluster
        .allocator
        .release(first[0].agent, FIRST, &first[0].role, &first[0].resources);
    cluster.allocator.check_invariants();
}

#[test]
fn the_cap_leaves_nothing_idle_when_nobody_else_wants_it() {
    let mut cluster = Cluster::with(Config {
        offer_cap: Some(0.2),
        ..Config::default()
    });
    cluster.framework(1, &["a"]);
    for key in 0..10 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    assert_eq!(cluster.allocate().len(), 10);
}

#[test]
fn what_runs_on_an_agent_when_it_joins_counts_for_its_framework() {
    let mut cluster = Cluster::new();
    let used = [(FrameworkKey(1), role("a"), resources("cpus:3"))];
    cluster.allocator.add_agent(
        AgentKey(1),
        resources("cpus:4;mem:64"),
        AgentTraits::default(),
        &used,
    );
    cluster.allocator.check_invariants();
    assert_eq!(
        cluster.allocator.available(AgentKey(1)),
        resources("cpus:1;mem:64")
    );
    assert_eq!(cluster.allocator.role_share(&role("a")), 0.75);
    assert_eq!(cluster.round(), "");
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    assert_eq!(cluster.round(), "2 as b on 1: cpus:1; mem:64");
}

#[test]
fn an_agent_that_shrinks_below_what_is_used_offers_nothing_until_enough_ends() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:4;mem:64");
    let given = cluster.allocate();
    cluster
        .allocator
        .update_agent_total(AgentKey(1), resources("cpus:2;mem:64"));
    cluster.allocator.check_invariants();
    cluster.recover(&given[0], &resources("cpus:2"), None);
    assert_eq!(cluster.round(), "");
    cluster.recover(&given[0], &resources("cpus:1"), None);
    assert_eq!(cluster.round(), "1 as a on 1: cpus:1");
}

#[test]
fn inactive_agents_and_frameworks_are_passed_over_and_keep_what_they_have() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:4;mem:64");
    cluster.allocator.set_agent_active(AgentKey(1), false);
    assert_eq!(cluster.round(), "");
    cluster.allocator.set_agent_active(AgentKey(1), true);
    cluster.allocator.set_framework_active(FIRST, false);
    assert_eq!(cluster.round(), "");
    cluster.allocator.set_framework_active(FIRST, true);
    assert_eq!(cluster.round(), "1 as a on 1: cpus:4; mem:64");
    cluster.allocator.set_framework_active(FIRST, false);
    cluster.allocator.check_invariants();
    assert_eq!(
        cluster.allocator.role_totals(&role("a")),
        resources("cpus:4;mem:64")
    );
}

#[test]
fn what_a_removed_framework_held_is_offered_to_others() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    cluster.agent(1, "cpus:4;mem:64");
    let given = cluster.allocate();
    assert_eq!(given[0].framework, FIRST);
    cluster.allocator.remove_framework(FIRST);
    assert_eq!(cluster.round(), "2 as b on 1: cpus:4; mem:64");
    // Too late, and so without effect.
    cluster.recover(&given[0], &given[0].resources, Some(10));
    assert_eq!(cluster.round(), "");
}

#[test]
fn a_removed_agent_takes_its_refusals_with_it() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:4;mem:64");
    let given = cluster.allocate();
    cluster.decline(&given[0], Some(5000));
    assert_eq!(cluster.round(), "");
    cluster.allocator.remove_agent(AgentKey(1));
    assert_eq!(cluster.round(), "");
    assert_eq!(cluster.allocator.next_deadline(), None);
    cluster.agent(1, "cpus:4;mem:64");
    assert_eq!(cluster.allocate().len(), 1);
}

#[test]
fn a_role_given_up_is_remembered_for_what_is_still_held_in_it() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:4;mem:64");
    let given = cluster.allocate();
    cluster
        .allocator
        .update_framework(FIRST, &terms(&["b"], &[], FrameworkCapabilities::ALL));
    cluster.allocator.check_invariants();
    assert_eq!(cluster.allocator.role_share(&role("a")), 1.0);
    cluster.decline(&given[0], Some(5000));
    assert_eq!(cluster.round(), "1 as b on 1: cpus:4; mem:64");
    assert_eq!(cluster.allocator.role_totals(&role("a")), Resources::new());
}

#[test]
fn resources_reserved_from_an_offer_come_back_to_their_role_only() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.framework(2, &["b"]);
    cluster.agent(1, "cpus:4;mem:64");
    let given = cluster.allocate();
    let (free, reserved) = (resources("cpus:3"), resources("cpus(a):3"));
    let a = role("a");
    cluster
        .allocator
        .convert(AgentKey(1), Some((FIRST, &a)), &free, &reserved)
        .unwrap();
    cluster.allocator.check_invariants();
    assert!(
        cluster
            .allocator
            .convert(AgentKey(1), Some((FIRST, &a)), &free, &reserved)
            .is_err()
    );
    assert!(
        cluster
            .allocator
            .convert(AgentKey(1), None, &reserved, &free)
            .is_err()
    );
    assert_eq!(
        cluster.allocator.total(AgentKey(1)),
        resources("cpus:1;cpus(a):3;mem:64")
    );
    cluster.recover(&given[0], &resources("cpus:1;cpus(a):3;mem:64"), Some(5000));
    assert_eq!(cluster.round(), "2 as b on 1: cpus:1; mem:64");
    cluster
        .allocator
        .convert(AgentKey(1), None, &reserved, &free)
        .unwrap();
    // It refused reserved ones, not these.
    assert_eq!(cluster.round(), "1 as a on 1: cpus:3");
}

#[test]
fn changed_attributes_void_refusals() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    cluster.agent(1, "cpus:4;mem:64");
    let given = cluster.allocate();
    cluster.decline(&given[0], Some(5000));
    assert_eq!(cluster.round(), "");
    let traits = AgentTraits {
        attributes: tepui_model::parse_attributes("rack:7").unwrap().into(),
        ..AgentTraits::default()
    };
    cluster
        .allocator
        .update_agent_traits(AgentKey(1), traits.clone());
    assert_eq!(cluster.allocator.traits(AgentKey(1)), Some(&traits));
    assert_eq!(cluster.allocate().len(), 1);
}

#[test]
fn no_agent_is_always_first() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["a"]);
    for key in 0..3 {
        cluster.agent(key, "cpus:1;mem:64");
    }
    let firsts = (0..4).map(|_| {
        let given = cluster.allocate();
        for given in &given {
            cluster.decline(given, None);
        }
        given[0].agent.0
    });
    assert_eq!(firsts.collect::<Vec<_>>(), [0, 1, 2, 0]);
}

#[test]
fn the_star_is_a_role_like_any_other() {
    let mut cluster = Cluster::new();
    cluster.framework(1, &["*"]);
    cluster.framework(2, &["a"]);
    cluster.agent(1, "cpus:1;mem:64;cpus(a):1");
    assert_eq!(
        cluster.round(),
        "1 as * on 1: cpus:1; mem:64\n2 as a on 1: cpus(a):1"
    );
    assert_eq!(
        cluster.allocator.role_totals(&Role::star()).cpus(),
        Milli(1000)
    );
}
