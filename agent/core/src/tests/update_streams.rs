//! Status updates: in order, one in flight, repeated until acknowledged.

use std::time::Duration;

use tepui_api::v1::TaskState;
use tepui_api::v1::task_status::Reason;

use super::harness::*;
use crate::{Effect, Input};

#[test]
fn updates_go_out_one_at_a_time_in_order_and_name_the_latest_state() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let first = the_update(&agent.update(&executor, &task, TaskState::TaskKilling));
    let effects = agent.update(&executor, &task, TaskState::TaskKilled);
    assert_eq!(updates(&effects).len(), 0);
    let effects = agent.acknowledge(&task, &first.status.uuid.clone().unwrap());
    let second = the_update(&effects);
    assert_eq!(
        (first.status.state(), second.status.state()),
        (TaskState::TaskKilling, TaskState::TaskKilled)
    );
    assert_eq!(second.latest_state(), TaskState::TaskKilled);
}

#[test]
fn an_unacknowledged_update_is_sent_again_less_and_less_often() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let sent = the_update(&agent.update(&executor, &task, TaskState::TaskFinished));
    let mut waits = Vec::new();
    let mut waited = 0;
    while waits.len() < 9 {
        agent.hear(tepui_api::link::to_agent::Body::Ping(
            tepui_api::link::Ping { sequence: 1 },
        ));
        waited += 10;
        if let [again] = &updates(&agent.pass(Duration::from_secs(10)))[..] {
            assert_eq!(again, &sent);
            waits.push(std::mem::take(&mut waited));
        }
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
}

#[test]
fn a_scheduler_that_subscribes_again_gets_at_once_what_it_did_not_acknowledge() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let sent = the_update(&agent.update(&executor, &task, TaskState::TaskFinished));
    let update = tepui_api::link::UpdateFramework {
        framework: aware("F"),
    };
    let effects = agent.hear(tepui_api::link::to_agent::Body::UpdateFramework(update));
    assert_eq!(the_update(&effects), sent);
}

#[test]
fn a_new_link_resumes_at_once_what_an_old_one_lost() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    agent.apply(Input::LinkDown);
    assert_eq!(
        updates(&agent.update(&executor, &task, TaskState::TaskFinished)),
        []
    );
    assert_eq!(updates(&agent.pass(Duration::from_secs(60))), []);
    assert_eq!(
        updates(&agent.apply(Input::LinkUp)),
        [],
        "not before registration"
    );
    let effects = agent.answer_registration();
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskFinished);
}

#[test]
fn a_wrong_or_repeated_acknowledgement_is_ignored() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let sent = the_update(&agent.update(&executor, &task, TaskState::TaskKilling));
    agent.update(&executor, &task, TaskState::TaskKilled);
    assert_eq!(
        agent.acknowledge(&task, &bytes::Bytes::from_static(&[0; 16])),
        []
    );
    let uuid = sent.status.uuid.unwrap();
    assert_eq!(updates(&agent.acknowledge(&task, &uuid)).len(), 1);
    assert_eq!(agent.acknowledge(&task, &uuid), []);
    assert_eq!(agent.acknowledge(&task_ref("F", "unknown"), &uuid), []);
    assert_eq!(agent.core.view().tasks.len(), 1);
}

#[test]
fn nothing_follows_the_last_state() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    agent.update(&executor, &task, TaskState::TaskFinished);
    let effects = agent.update(&executor, &task, TaskState::TaskFailed);
    assert_eq!((answer(&effects).0, updates(&effects).len()), (202, 0));
    assert_eq!(
        event_types(&effects),
        ["ACKNOWLEDGED"],
        "the executor need not repeat it"
    );
    assert_eq!(updates(&agent.exited(&executor)), []);
}

#[test]
fn a_repeated_update_is_swallowed_and_acknowledged_again() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let status = agent.status(&task, TaskState::TaskRunning);
    agent.send(&executor, status.clone());
    let effects = agent.send(&executor, status);
    assert_eq!((answer(&effects).0, updates(&effects).len()), (202, 0));
    assert_eq!(event_types(&effects), ["ACKNOWLEDGED"]);
}

#[test]
fn a_checkpointed_update_is_acknowledged_and_sent_only_once_it_is_on_disk() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing("F"), "a");
    agent.hold_saves = true;
    let status = agent.status(&task, TaskState::TaskFinished);
    let effects = agent.send(&executor, status.clone());
    assert_eq!((updates(&effects).len(), events(&effects).len()), (0, 0));
    let effects = agent.send(&executor, status);
    assert_eq!(
        (answer(&effects).0, events(&effects).len()),
        (202, 0),
        "a repeat changes nothing"
    );
    let effects = agent.release();
    assert_eq!(event_types(&effects), ["ACKNOWLEDGED"]);
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskFinished);
}

#[test]
fn killing_is_told_only_to_frameworks_that_know_it() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&framework("F", &[], false), "a");
    let effects = agent.update(&executor, &task, TaskState::TaskKilling);
    assert_eq!(
        (updates(&effects).len(), event_types(&effects)),
        (0, vec!["ACKNOWLEDGED"])
    );
    let (task, executor, _) = agent.run(&aware("G"), "a");
    let effects = agent.update(&executor, &task, TaskState::TaskKilling);
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskKilling);
}

#[test]
fn a_framework_that_does_not_know_partitions_is_told_of_losses_only() {
    let mut agent = Agent::registered();
    agent.run(&framework("F", &[], false), "a");
    let effects = agent.kill(&task_ref("F", "x"));
    assert_eq!(
        told(&effects),
        (TaskState::TaskLost, Reason::ExecutorTerminated)
    );
}

#[test]
fn only_so_many_ended_tasks_are_remembered() {
    let mut agent = Agent::registered();
    for number in 0..1003 {
        let (task, executor, _) = agent.run(&aware("F"), &format!("t{number}"));
        let effects = agent.update(&executor, &task, TaskState::TaskFinished);
        agent.acknowledge_all(&effects);
    }
    let ended = agent.core.view().ended;
    assert_eq!((ended.len(), ended[0].task.task.as_str()), (1000, "t3"));
    assert!(
        !agent
            .pass(Duration::from_secs(1))
            .iter()
            .any(|effect| matches!(effect, Effect::CloseLink))
    );
}

#[test]
fn how_far_a_task_is_waits_once_for_a_scheduler_that_is_away() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let progress = |agent: &mut Agent, fraction: f64| {
        let mut status = agent.status(&task, TaskState::TaskRunning);
        status.usage = Some(tepui_api::ext::TaskUsage {
            progress: Some(tepui_api::ext::task_usage::Progress {
                fraction: Some(fraction),
                message: None,
            }),
            ..Default::default()
        });
        agent.send(&executor, status)
    };
    let mut told = vec![the_update(&progress(&mut agent, 0.0)).status];
    for step in 1..=1_000 {
        let effects = progress(&mut agent, f64::from(step) / 1e3);
        // The executor need not keep it either.
        assert_eq!(event_types(&effects), ["ACKNOWLEDGED"]);
    }
    agent.update(&executor, &task, TaskState::TaskKilling);
    progress(&mut agent, 0.5);
    agent.update(&executor, &task, TaskState::TaskKilled);
    while let [next] =
        &updates(&agent.acknowledge(&task, &told.last().unwrap().uuid.clone().unwrap()))[..]
    {
        told.push(next.status.clone());
    }
    let told: Vec<(TaskState, Option<f64>)> = told
        .iter()
        .map(|status| {
            let progress = status
                .usage
                .as_ref()
                .and_then(|usage| usage.progress.as_ref());
            (
                status.state(),
                progress.and_then(|progress| progress.fraction),
            )
        })
        .collect();
    let expected = [
        (TaskState::TaskRunning, Some(0.0)),
        (TaskState::TaskRunning, Some(1.0)),
        (TaskState::TaskKilling, None),
        (TaskState::TaskRunning, Some(0.5)),
        (TaskState::TaskKilled, None),
    ];
    assert_eq!(told, expected);
}
