//! The experiments of the papers, small: their figures, in virtual time.

use tepui_sim::SECOND;
use tepui_sim::experiments::drf::Drf;
use tepui_sim::experiments::paper::Paper;

#[test]
fn the_worked_example_of_the_drf_paper_comes_out_as_printed() {
    for seed in 0..3 {
        let (_, samples) = Drf::example(seed).run();
        let [a, b] = samples[0].jobs[..] else {
            panic!("two jobs");
        };
        assert_eq!((a.tasks, b.tasks), (3, 2));
        assert_eq!((a.cpus, a.mem), (3.0 / 9.0, 12.0 / 18.0));
        assert_eq!((b.cpus, b.mem), (6.0 / 9.0, 2.0 / 18.0));
        assert_eq!(a.dominant(), b.dominant(), "two thirds each");
    }
}

#[test]
fn two_jobs_that_want_different_things_have_more_than_half_of_them() {
    let (_, samples) = Drf::dynamic(1).run();
    let at = |seconds: u64| {
        let sample = samples.iter().find(|sample| sample.at == seconds * SECOND);
        sample.unwrap().jobs.clone()
    };
    // The paper: around 70 % of the memory and around 75 % of the cpus.
    let first = at(100);
    assert!((0.68..0.74).contains(&first[0].mem), "{first:?}");
    assert!((0.72..0.78).contains(&first[1].cpus), "{first:?}");
    // Both want memory most: equal shares of it, but for what does not divide evenly.
    let last = at(340);
    assert!((last[0].mem - last[1].mem).abs() < 0.05, "{last:?}");
}

#[test]
fn one_more_task_in_a_full_cluster_hardly_waits() {
    let paper = Paper {
        agents: 60,
        frameworks: 6,
        repetitions: 6,
        settle: 40 * SECOND,
        every: 2 * SECOND,
        check_every: 100,
        ..Paper::default()
    };
    let outcome = paper.run().unwrap();
    assert!(outcome.busy > 0.95, "{}", outcome.busy);
    assert_eq!(outcome.extras.len(), 6);
    // A place comes free every quarter of a second, and it is the first to be asked.
    assert!(outcome.delay.most < 1.5, "{:?}", outcome.delay);
    assert!(outcome.extras.iter().all(|extra| {
        extra.subscribed < extra.offered
            && extra.offered < extra.running
            && extra.running < extra.delay + 1.0
    }));
}
