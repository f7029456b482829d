//! An agent that is asked to stop.

use std::time::Duration;

use tepui_api::ext::launch_plan::Body;
use tepui_api::v1::{self, TaskState};

use super::harness::*;
use crate::{Effect, Input};

fn stop(keep_checkpointed: bool) -> Input {
    Input::Stop {
        keep_checkpointed,
        grace: Duration::from_secs(5),
    }
}

#[test]
fn tasks_end_and_their_ends_are_told_before_the_agent_may_go() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let mut patient = task_info("b");
    patient.kill_policy = Some(v1::KillPolicy {
        grace_period: Some(v1::DurationInfo {
            nanoseconds: 60_000_000_000,
        }),
    });
    agent.launch(&aware("F"), vec![patient]);
    let other = task_ref("F", "b");
    agent.prepared(&other, Body::Wasm);
    let effects = agent.apply(stop(true));
    let kills: Vec<_> = events(&effects)
        .into_iter()
        .filter_map(|event| event.kill)
        .map(|kill| kill.kill_policy?.grace_period)
        .map(|grace| grace.map(|grace| grace.nanoseconds))
        .collect();
    assert_eq!(kills, [None, Some(5_000_000_000)]);
    assert!(agent.core.has_tasks_to_end());

    let mut ended = agent.update(&executor, &task, TaskState::TaskKilled);
    assert!(agent.core.has_tasks_to_end());
    ended.extend(agent.update(&executor, &other, TaskState::TaskFinished));
    assert!(!agent.core.has_tasks_to_end());
    assert!(agent.core.has_ends_to_tell());
    let told = agent.acknowledge_all(&ended);
    let last: Vec<v1::TaskStatus> = updates(&ended)
        .into_iter()
        .chain(updates(&told))
        .map(|update| update.status)
        .filter(|status| status.state() != TaskState::TaskRunning)
        .collect();
    let killed = last.iter().find(|status| status.task_id.value == "a");
    let killed = killed.expect("it was told");
    assert_eq!(killed.state(), TaskState::TaskKilled);
    assert_eq!(killed.message(), "The agent was stopped");
    // One that ended by itself is not said to have been killed.
    let finished = last.iter().find(|status| status.task_id.value == "b");
    assert_eq!(
        finished.expect("it was told").state(),
        TaskState::TaskFinished
    );
    assert!(!agent.core.has_ends_to_tell());
}

#[test]
fn a_task_that_does_not_end_ends_with_its_executor() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&aware("F"), "a");
    agent.apply(stop(false));
    let effects = agent.apply(Input::StopOver);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::DestroyExecutor { .. }))
    );
    agent.exited(&executor);
    assert!(!agent.core.has_tasks_to_end());
    assert!(agent.core.has_ends_to_tell());
    // Without a master there is nobody to wait for.
    agent.apply(Input::LinkDown);
    assert!(!agent.core.has_ends_to_tell());
}

#[test]
fn what_is_kept_goes_on_and_nothing_else_is_taken_on() {
    let mut agent = Agent::registered();
    let (kept, executor, _) = agent.run(&checkpointing("K"), "k");
    let effects = agent.apply(stop(true));
    assert!(events(&effects).is_empty());
    assert!(!agent.core.has_tasks_to_end());
    assert!(!agent.core.has_ends_to_tell());
    agent.apply(Input::StopOver);
    let effects = agent.update(&executor, &kept, TaskState::TaskKilled);
    let killed = updates(&effects).pop().map(|update| update.status);
    assert!(killed.is_none_or(|status| status.message() != "The agent was stopped"));
    let effects = agent.launch(&aware("F"), vec![task_info("late")]);
    let refused = the_update(&effects).status;
    assert_eq!(refused.state(), TaskState::TaskDropped);
    assert_eq!(refused.message(), "The agent is being stopped");
}
