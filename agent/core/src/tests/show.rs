//! What the shell can show: the past of tasks, executors and frameworks, and who lives in a container.

use std::time::Duration;

use tepui_api::ext::launch_plan::Body;
use tepui_api::v1::TaskState;

use super::harness::*;
use crate::{ContainerOwner, Input, Standing};

#[test]
fn a_task_shows_one_status_for_each_state_in_a_row() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    for state in [
        TaskState::TaskRunning,
        TaskState::TaskRunning,
        TaskState::TaskFinished,
    ] {
        let effects = agent.update(&executor, &task, state);
        agent.acknowledge_all(&effects);
    }
    let view = agent.core.find_task(&task).unwrap();
    let mut states: Vec<TaskState> = view.statuses.iter().map(|status| status.state()).collect();
    states.retain(|state| *state != TaskState::TaskStarting);
    assert_eq!(states, [TaskState::TaskRunning, TaskState::TaskFinished]);
    assert_eq!(view.statuses.last(), view.status.as_ref());
    assert_eq!(view.standing, Standing::Terminated);
}

#[test]
fn what_has_ended_is_remembered_until_it_lives_again() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    agent.started(&executor);
    let effects = agent.exited(&executor);
    agent.acknowledge_all(&effects);
    let view = agent.core.view();
    assert_eq!(view.frameworks, []);
    assert_eq!(view.completed_frameworks[0].framework.as_str(), "F");
    assert_eq!(view.completed_executors[0].executor, executor);
    agent.launch(&aware("F"), vec![custom_task("b", "mine")]);
    let view = agent.core.view();
    assert_eq!(
        (view.frameworks.len(), view.completed_frameworks.len()),
        (1, 0)
    );
}

#[test]
fn a_container_is_found_by_its_id_as_long_as_somebody_lives_in_it() {
    let mut agent = Agent::registered();
    let task = task_ref("F", "a");
    agent.launch(&aware("F"), vec![task_info("a"), custom_task("b", "mine")]);
    let container = |agent: &Agent, task: &str| {
        let view = agent.core.find_task(&task_ref("F", task)).unwrap();
        view.container_id.as_str().to_owned()
    };
    let id = container(&agent, "a");
    assert_eq!(agent.core.find_container(&id), None, "nobody runs it yet");
    agent.prepared(&task, Body::Native);
    let found = agent.core.find_container(&id).unwrap();
    assert_eq!(found.owner, ContainerOwner::Task(task));
    assert_eq!(found.executor, executor_ref("F", "tepui-native"));
    assert!(found.sandbox.contains("/executors/a/runs/"));
    let found = agent.core.find_container(&container(&agent, "b")).unwrap();
    assert_eq!(found.owner, ContainerOwner::Executor);
    assert_eq!(found.executor, executor_ref("F", "mine"));
    assert_eq!(agent.core.find_container("nobody's"), None);
}

#[test]
fn whom_a_recovering_agent_does_not_know_is_told_to_come_again() {
    let mut first = Agent::registered();
    first.run(&checkpointing("F"), "a");
    first.restart();
    let subscribe = |agent: &mut Agent, framework: &str| {
        let executor = executor_ref(framework, "stranger");
        let (request, connection) = (agent.key(), agent.key());
        let call = call(&executor, tepui_api::v1::executor::call::Type::Subscribe);
        let effects = agent.apply(Input::ExecutorSubscribe {
            request: crate::RequestKey(request),
            connection: crate::ConnectionKey(connection),
            call,
            token: None,
        });
        answer(&effects).0
    };
    assert!(first.core.is_recovering());
    assert_eq!(
        (subscribe(&mut first, "F"), subscribe(&mut first, "G")),
        (503, 503)
    );
    first.pass(Duration::from_secs(60));
    assert!(!first.core.is_recovering());
    assert_eq!(
        (subscribe(&mut first, "F"), subscribe(&mut first, "G")),
        (400, 400)
    );
}
