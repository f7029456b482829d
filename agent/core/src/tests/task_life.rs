//! Tasks from LAUNCH to their last state, killed at every stage.

use tepui_api::ext::launch_plan::Body;
use tepui_api::link::{self, to_agent};
use tepui_api::v1::task_status::{Reason, Source};
use tepui_api::v1::{self, TaskState};

use super::harness::*;
use crate::{Effect, ExecutorKind, Input, PrepareFailure};

#[test]
fn a_task_is_prepared_then_its_executor_started_then_launched_with_its_plan() {
    let mut agent = Agent::registered();
    let (task, executor) = (task_ref("F", "a"), executor_ref("F", WASM));
    let effects = agent.launch(&aware("F"), vec![task_info("a")]);
    let [
        Effect::Prepare {
            container_id,
            sandbox,
            ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(
        *sandbox,
        format!("slaves/S0/frameworks/F/executors/a/runs/{container_id}")
    );
    let effects = agent.prepared(&task, Body::Wasm);
    let [
        Effect::StartExecutor {
            kind: ExecutorKind::Wasm,
            resources,
            ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(
        (resources.cpus().to_f64(), resources.mem().to_f64()),
        (1.0, 32.0)
    );
    agent.started(&executor);
    let (_, effects) = agent.subscribe(&executor);
    assert_eq!(answer(&effects).0, 200);
    assert_eq!(event_types(&effects), ["SUBSCRIBED", "LAUNCH"]);
    let launched = events(&effects)[1].launch.clone().unwrap().task;
    assert_eq!(launched.plan.unwrap().body(), Body::Wasm);
    let update = the_update(&agent.update(&executor, &task, TaskState::TaskRunning));
    let status = update.status;
    assert_eq!(status.agent_id.unwrap().value, "S0");
    assert_eq!(status.executor_id.unwrap().value, "a");
    let container = status.container_status.unwrap();
    assert_eq!(container.container_id.unwrap().value, container_id.as_str());
    assert_eq!(
        container.network_infos[0].ip_addresses[0].ip_address(),
        "10.0.0.7"
    );
    assert!(status.timestamp.is_some());
}

#[test]
fn a_plan_that_came_with_the_task_is_dropped() {
    let mut agent = Agent::registered();
    let plan = tepui_api::ext::LaunchPlan {
        sandbox: "/etc".into(),
        ..Default::default()
    };
    let effects = agent.launch(
        &aware("F"),
        vec![v1::TaskInfo {
            plan: Some(plan),
            ..task_info("a")
        }],
    );
    let [Effect::Prepare { info, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(info.plan, None);
}

#[test]
fn each_kind_of_body_has_one_executor_for_all_tasks_of_a_framework() {
    let mut agent = Agent::registered();
    agent.run(&aware("F"), "a");
    agent.launch(&aware("F"), vec![task_info("b"), task_info("c")]);
    let effects = agent.prepared(&task_ref("F", "b"), Body::Wasm);
    assert_eq!(event_types(&effects), ["LAUNCH"]);
    assert_eq!(sizes(&effects), ["2 64"]);
    let effects = agent.prepared(&task_ref("F", "c"), Body::Native);
    assert!(matches!(
        &effects[..],
        [Effect::StartExecutor {
            kind: ExecutorKind::Native,
            ..
        }]
    ));
    assert_eq!(agent.core.view().executors.len(), 2);
}

#[test]
fn an_ended_task_gives_its_room_back_and_is_remembered_for_its_files() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    assert!(effects.contains(&Effect::TaskEnded { task: task.clone() }));
    assert_eq!(sizes(&effects), ["0 0"]);
    agent.acknowledge_all(&effects);
    let view = agent.core.view();
    assert_eq!((view.tasks.len(), view.ended.len()), (0, 1));
    let found = agent.core.find_task(&task).unwrap();
    assert_eq!(found.state, TaskState::TaskFinished);
    assert!(
        found
            .sandbox
            .starts_with("slaves/S0/frameworks/F/executors/a/runs/")
    );
    assert_eq!(view.counters["slave/tasks_finished"], 1);
}

#[test]
fn a_task_that_cannot_be_prepared_fails_with_the_reason() {
    let mut agent = Agent::registered();
    agent.launch(&aware("F"), vec![task_info("a")]);
    let failure = PrepareFailure {
        reason: Reason::ContainerLaunchFailed,
        message: "no such file".into(),
    };
    let effects = agent.apply(Input::Prepared {
        task: task_ref("F", "a"),
        result: Err(failure),
    });
    let status = the_update(&effects).status;
    assert_eq!(
        (status.state(), status.reason()),
        (TaskState::TaskFailed, Reason::ContainerLaunchFailed)
    );
    assert_eq!(
        (status.source(), status.message()),
        (Source::Agent, "no such file")
    );
    agent.acknowledge_all(&effects);
    assert_eq!(agent.core.view().frameworks, []);
}

#[test]
fn a_task_killed_while_preparing_is_cancelled() {
    let mut agent = Agent::registered();
    let task = task_ref("F", "a");
    agent.launch(&aware("F"), vec![task_info("a")]);
    let effects = agent.kill(&task);
    assert_eq!(effects[0], Effect::CancelPrepare { task: task.clone() });
    assert_eq!(
        told(&effects),
        (TaskState::TaskKilled, Reason::TaskKilledDuringLaunch)
    );
    assert_eq!(
        agent.prepared(&task, Body::Wasm),
        [],
        "a late answer changes nothing"
    );
}

#[test]
fn a_task_killed_in_the_queue_never_reaches_its_executor() {
    let mut agent = Agent::registered();
    let (task, executor) = (task_ref("F", "a"), executor_ref("F", WASM));
    agent.launch(&aware("F"), vec![task_info("a")]);
    agent.prepared(&task, Body::Wasm);
    assert_eq!(
        told(&agent.kill(&task)),
        (TaskState::TaskKilled, Reason::TaskKilledDuringLaunch)
    );
    agent.started(&executor);
    let (_, effects) = agent.subscribe(&executor);
    assert_eq!(event_types(&effects), ["SUBSCRIBED"]);
}

#[test]
fn a_delivered_task_is_killed_by_its_executor_with_the_given_policy() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let policy = v1::KillPolicy {
        grace_period: Some(v1::DurationInfo { nanoseconds: 5 }),
    };
    let effects = agent.hear(to_agent::Body::Kill(link::Kill {
        framework_id: v1::FrameworkId { value: "F".into() },
        task_id: v1::TaskId { value: "a".into() },
        kill_policy: Some(policy),
    }));
    assert_eq!(effects.len(), 1);
    assert_eq!(
        events(&effects)[0].kill.clone().unwrap().kill_policy,
        Some(policy)
    );
    let effects = agent.update(&executor, &task, TaskState::TaskKilled);
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskKilled);
    assert_eq!(agent.kill(&task), [], "it has ended");
}

#[test]
fn a_kill_of_a_task_nobody_has_is_answered_if_the_framework_is_known() {
    let mut agent = Agent::registered();
    agent.run(&aware("F"), "a");
    assert_eq!(agent.kill(&task_ref("G", "x")), []);
    let effects = agent.kill(&task_ref("F", "x"));
    assert_eq!(
        told(&effects),
        (TaskState::TaskDropped, Reason::ExecutorTerminated)
    );
}

#[test]
fn a_task_id_in_use_is_refused_beside_the_stream_of_the_task_that_has_it() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let update = the_update(&agent.launch(&aware("F"), vec![task_info("a")]));
    assert_eq!(
        (update.status.state(), update.status.reason()),
        (TaskState::TaskDropped, Reason::TaskInvalid)
    );
    assert_eq!(
        (update.status.uuid.as_ref(), update.latest_state()),
        (None, TaskState::TaskRunning)
    );
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskFinished);
}

#[test]
fn a_task_with_an_impossible_id_or_amount_is_an_error() {
    let mut agent = Agent::registered();
    let effects = agent.launch(&aware("F"), vec![task_info("a/../b")]);
    assert_eq!(told(&effects), (TaskState::TaskError, Reason::TaskInvalid));
    let effects = agent.launch(
        &aware("F"),
        vec![v1::TaskInfo {
            resources: vec![scalar("cpus", f64::NAN)],
            ..task_info("b")
        }],
    );
    assert_eq!(told(&effects), (TaskState::TaskError, Reason::TaskInvalid));
}

#[test]
fn tasks_the_master_misses_are_answered_and_known_ones_are_not() {
    let mut agent = Agent::registered();
    agent.run(&aware("F"), "a");
    let item = |framework, tasks: &[&str]| link::reconcile::Item {
        framework,
        tasks: tasks
            .iter()
            .map(|id| v1::TaskId {
                value: (*id).into(),
            })
            .collect(),
    };
    let items = vec![
        item(aware("F"), &["a", "x"]),
        item(framework("G", &[], false), &["y"]),
    ];
    let effects = agent.hear(to_agent::Body::Reconcile(link::Reconcile { items }));
    let answers: Vec<_> = updates(&effects)
        .into_iter()
        .map(|update| {
            (
                update.status.task_id.value.clone(),
                update.status.state(),
                update.status.reason(),
            )
        })
        .collect();
    assert_eq!(
        answers,
        [
            (
                "x".to_owned(),
                TaskState::TaskDropped,
                Reason::Reconciliation
            ),
            ("y".to_owned(), TaskState::TaskLost, Reason::Reconciliation)
        ]
    );
    agent.acknowledge_all(&effects);
    assert_eq!(agent.core.view().frameworks.len(), 1);
}
