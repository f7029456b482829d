//! Tasks and executors beyond their limits, and whose directories may go.

use tepui_api::ext::launch_plan::Body;
use tepui_api::v1::executor::event;
use tepui_api::v1::task_status::{Reason, Source};
use tepui_api::v1::{self, TaskState, value};

use super::harness::*;
use crate::{Effect, Input, Limitation, TaskRef};

fn disk() -> Limitation {
    Limitation {
        reason: Reason::ContainerLimitationDisk,
        message: "too much on disk".into(),
        resources: vec![scalar("disk", 1.0)],
    }
}

fn exceed(agent: &mut Agent, task: &TaskRef) -> Vec<Effect> {
    let (task, limitation) = (task.clone(), disk());
    agent.apply(Input::TaskLimited { task, limitation })
}

fn discarded(effects: &[Effect]) -> Vec<&str> {
    let discards = effects.iter().filter_map(|effect| match effect {
        Effect::DiscardSandbox { sandbox } => Some(sandbox.as_str()),
        _ => None,
    });
    discards.collect()
}

fn assert_limited(status: &v1::TaskStatus) {
    assert_eq!(
        (status.state(), status.reason(), status.source()),
        (
            TaskState::TaskFailed,
            Reason::ContainerLimitationDisk,
            Source::Agent
        )
    );
    assert_eq!(status.message(), "too much on disk");
    let limitation = status.limitation.as_ref().unwrap();
    assert_eq!(limitation.resources, [scalar("disk", 1.0)]);
}

#[test]
fn a_task_over_its_limit_is_killed_without_grace_and_its_end_says_why() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let effects = exceed(&mut agent, &task);
    let events = events(&effects);
    assert_eq!(events[0].r#type(), event::Type::Kill);
    let policy = events[0].kill.as_ref().unwrap().kill_policy.unwrap();
    assert_eq!(policy.grace_period.unwrap().nanoseconds, 0);
    assert_eq!(exceed(&mut agent, &task), [], "said again, nothing changes");
    let effects = agent.update(&executor, &task, TaskState::TaskKilling);
    assert_eq!(event_types(&effects), ["ACKNOWLEDGED"]);
    assert_eq!(updates(&effects), [], "nobody asked for a kill");
    let effects = agent.update(&executor, &task, TaskState::TaskKilled);
    assert_limited(&the_update(&effects).status);
    assert_eq!(discarded(&effects).len(), 1);
}

#[test]
fn a_task_over_its_limit_whose_executor_dies_still_says_why() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    exceed(&mut agent, &task);
    assert_limited(&the_update(&agent.exited(&executor)).status);
}

#[test]
fn a_task_over_its_limit_before_it_runs_never_runs() {
    let mut agent = Agent::registered();
    let task = task_ref("F", "a");
    agent.launch(&aware("F"), vec![task_info("a")]);
    let effects = exceed(&mut agent, &task);
    assert!(effects.contains(&Effect::CancelPrepare { task: task.clone() }));
    assert_limited(&the_update(&effects).status);
    let task = task_ref("F", "b");
    agent.launch(&aware("F"), vec![task_info("b")]);
    agent.prepared(&task, Body::Wasm);
    assert_limited(&the_update(&exceed(&mut agent, &task)).status);
    let (_, effects) = agent.subscribe(&executor_ref("F", WASM));
    assert_eq!(event_types(&effects), ["SUBSCRIBED"]);
}

#[test]
fn an_executor_over_its_limit_goes_with_all_its_tasks_and_its_directory() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    let tasks = vec![custom_task("a", "mine"), custom_task("b", "mine")];
    agent.launch(&aware("F"), tasks);
    agent.started(&executor);
    agent.subscribe(&executor);
    let effects = agent.update(&executor, &task_ref("F", "b"), TaskState::TaskFinished);
    assert_eq!(discarded(&effects).len(), 0, "its executor is there still");
    let effects = agent.apply(Input::ExecutorLimited {
        executor: executor.clone(),
        limitation: disk(),
    });
    assert!(effects.contains(&Effect::DestroyExecutor {
        executor: executor.clone()
    }));
    let effects = agent.exited(&executor);
    assert_limited(&the_update(&effects).status);
    assert!(discarded(&effects)[0].contains("/executors/mine/runs/"));
}

#[test]
fn an_executor_has_room_for_what_its_tasks_may_rise_to() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&aware("F"), "a");
    let mut rising = task_info("b");
    rising
        .limits
        .insert("mem".into(), value::Scalar { value: 64.0 });
    agent.launch(&aware("F"), vec![rising]);
    let effects = agent.prepared(&task_ref("F", "b"), Body::Wasm);
    assert_eq!(sizes(&effects), ["2 96"], "32 given and 64 to rise to");
    let mut endless = task_info("c");
    let infinity = f64::INFINITY;
    endless
        .limits
        .insert("mem".into(), value::Scalar { value: infinity });
    agent.launch(&aware("F"), vec![endless]);
    agent.prepared(&task_ref("F", "c"), Body::Wasm);
    let effects = agent.update(&executor, &task_ref("F", "c"), TaskState::TaskFinished);
    assert_eq!(sizes(&effects), ["2 96"], "as if it had never been");
}
