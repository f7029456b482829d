//! Signals that operators send to the containers of tasks and of groups' executors.

use tepui_api::ext::launch_plan::Body;
use tepui_api::v1::TaskState;
use tepui_api::v1::task_status::Reason;

use super::harness::*;
use crate::{Effect, ExecutorRef, Input, TaskRef};

const KILL: i32 = 9;
const TERM: i32 = 15;
const URG: i32 = 23;

/// The task `a` of `F`, handed to the executor of its kind.
fn running(agent: &mut Agent, body: Body) -> (TaskRef, ExecutorRef) {
    let task = task_ref("F", "a");
    let executor = match body {
        Body::Native => executor_ref("F", "tepui-native"),
        _ => executor_ref("F", "tepui-wasm"),
    };
    agent.launch(&aware("F"), vec![task_info("a")]);
    agent.prepared(&task, body);
    agent.started(&executor);
    agent.subscribe(&executor);
    (task, executor)
}

fn signal(agent: &mut Agent, task: &str, signal: i32) -> Vec<Effect> {
    let view = agent.core.find_task(&task_ref("F", task)).unwrap();
    agent.apply(Input::Signal {
        container: view.container_id.as_str().to_owned(),
        signal,
    })
}

#[test]
fn a_native_task_gets_the_signal_and_makes_of_it_what_it_likes() {
    let mut agent = Agent::registered();
    let (task, executor) = running(&mut agent, Body::Native);
    let kills = events(&signal(&mut agent, "a", TERM));
    let kill = kills[0].kill.as_ref().unwrap();
    assert_eq!((kill.signal, kill.kill_policy), (Some(TERM), None));
    // It goes on, and its end is its own.
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    let status = the_update(&effects).status;
    assert_eq!(
        (status.state(), status.reason),
        (TaskState::TaskFinished, None)
    );
}

#[test]
fn a_task_whose_container_is_killed_has_failed_by_that() {
    let mut agent = Agent::registered();
    let (task, executor) = running(&mut agent, Body::Native);
    let kills = events(&signal(&mut agent, "a", KILL));
    let kill = kills[0].kill.as_ref().unwrap();
    let grace = kill.kill_policy.unwrap().grace_period.unwrap();
    assert_eq!((kill.signal, grace.nanoseconds), (None, 0));
    let effects = agent.update(&executor, &task, TaskState::TaskKilled);
    assert_eq!(
        told(&effects),
        (TaskState::TaskFailed, Reason::ExecutorTerminated)
    );
}

#[test]
fn a_module_ends_by_the_signals_that_would_end_a_process_and_hears_no_others() {
    let mut agent = Agent::registered();
    let (task, executor) = running(&mut agent, Body::Wasm);
    assert_eq!(signal(&mut agent, "a", URG), []);
    let kills = events(&signal(&mut agent, "a", TERM));
    assert_eq!(kills[0].kill.as_ref().unwrap().signal, None);
    let effects = agent.update(&executor, &task, TaskState::TaskKilled);
    assert_eq!(
        told(&effects),
        (TaskState::TaskFailed, Reason::ExecutorTerminated)
    );
}
