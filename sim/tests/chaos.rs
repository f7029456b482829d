//! Whatever breaks, the tables agree after every step, schedulers are told nothing that contradicts itself, and
//! everything comes to rest.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tepui_sim::experiments::chaos::Chaos;
use tepui_sim::{Counts, Plant, SECOND};

#[test]
fn whatever_breaks_the_tables_agree_and_everything_comes_to_rest() {
    let chaos = Chaos {
        storm: 20 * SECOND,
        ..Chaos::default()
    };
    let mut counts = Counts::default();
    for seed in 0..12 {
        let run = catch_unwind(AssertUnwindSafe(|| chaos.run(seed)));
        let Ok(world) = run else {
            panic!("see it again: cargo run -p tepui-sim -- chaos --seed {seed} --storm 20 --log");
        };
        counts.add(world.counts());
    }
    assert!(
        counts.launched > 500,
        "chance must do something worth checking: {counts:?}"
    );
    for (fault, often) in [
        ("link broken", 10),
        ("partition", 5),
        ("agent restarted", 5),
        ("machine lost power", 3),
        ("machine lost with its disk", 1),
        ("master restarted", 3),
        ("scheduler's stream broken", 5),
        ("scheduler failed over", 3),
        ("executor crashed", 5),
    ] {
        assert!(
            counts
                .faults
                .get(fault)
                .is_some_and(|times| *times >= often),
            "{fault} hardly ever happened: {counts:?}"
        );
    }
    for state in [
        "TASK_FINISHED",
        "TASK_FAILED",
        "TASK_KILLED",
        "TASK_LOST",
        "TASK_GONE",
        "TASK_DROPPED",
    ] {
        assert!(
            counts.ended.get(state).is_some_and(|times| *times >= 2),
            "{state} hardly ever happened: {counts:?}"
        );
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let chaos = Chaos {
        storm: 8 * SECOND,
        full_trace: true,
        check_every: 0,
        ..Chaos::default()
    };
    let run = |seed| {
        let world = chaos.run(seed);
        (world.fingerprint(), world.counts().clone())
    };
    let (first, second) = (run(7), run(7));
    assert_eq!(first, second, "every event, with every message in it");
    assert_ne!(first.0, run(8).0);
}

#[test]
fn a_fault_of_the_simulated_cluster_is_noticed() {
    let calm = Chaos {
        calm: true,
        storm: 10 * SECOND,
        check_every: 20,
        ..Chaos::default()
    };
    calm.run(1);
    for (plant, sentence) in [
        (Plant::LoseLaunch, "the master still has task"),
        (Plant::ForgeEnd, "is another one"),
        (Plant::SwallowUpdate, "and nobody runs it"),
        (Plant::DoubleLaunch, "and runs tasks with"),
    ] {
        let planted = Chaos {
            plant: Some(plant),
            ..calm
        };
        let panic = catch_unwind(AssertUnwindSafe(|| planted.run(1)));
        let Err(panic) = panic else {
            panic!("nobody noticed {plant:?}");
        };
        let told = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(told.contains(sentence), "{plant:?}: {told}");
    }
}
