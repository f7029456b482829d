//! Task groups: started together, ended together, and known to the framework by the executor it named.

use std::time::Duration;

use tepui_api::ext::launch_plan::Body;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, TaskState};

use super::harness::*;
use crate::{Effect, ExecutorRef, Input, PrepareFailure, TaskRef};

fn launch_group_of(
    agent: &mut Agent,
    framework: v1::FrameworkInfo,
    tasks: &[&str],
    executor: v1::ExecutorInfo,
    is_new: bool,
) -> Vec<Effect> {
    let launch = link::Launch {
        framework,
        tasks: tasks
            .iter()
            .map(|id| v1::TaskInfo {
                executor: Some(executor.clone()),
                ..task_info(id)
            })
            .collect(),
        new_executors: Vec::from_iter(is_new.then(|| executor.executor_id.clone())),
        group_executor: Some(executor),
    };
    agent.hear(to_agent::Body::Launch(launch))
}

fn launch_group(agent: &mut Agent, tasks: &[&str]) -> Vec<Effect> {
    launch_group_of(agent, aware("F"), tasks, pod(), true)
}

fn pod() -> v1::ExecutorInfo {
    v1::ExecutorInfo {
        executor_id: v1::ExecutorId {
            value: "pod".into(),
        },
        r#type: Some(v1::executor_info::Type::Default.into()),
        resources: vec![scalar("cpus", 0.1), scalar("mem", 32.0)],
        ..v1::ExecutorInfo::default()
    }
}

fn own_executor() -> v1::ExecutorInfo {
    v1::ExecutorInfo {
        r#type: Some(v1::executor_info::Type::Custom.into()),
        ..custom_task("x", "mine").executor.unwrap()
    }
}

fn native() -> ExecutorRef {
    executor_ref("F", "tepui-native")
}

fn wasm() -> ExecutorRef {
    executor_ref("F", WASM)
}

fn task(id: &str) -> TaskRef {
    task_ref("F", id)
}

/// Id, state and reason of each update, in the order of the ids.
fn endings(effects: &[Effect]) -> Vec<(String, TaskState, Option<Reason>)> {
    let mut endings: Vec<_> = updates(effects)
        .into_iter()
        .map(|update| {
            let reason = update.status.reason.map(|_| update.status.reason());
            (
                update.status.task_id.value.clone(),
                update.status.state(),
                reason,
            )
        })
        .collect();
    endings.sort();
    endings
}

fn exits(effects: &[Effect]) -> Vec<(String, i32, bool)> {
    to_master(effects)
        .into_iter()
        .filter_map(|body| match body {
            to_master::Body::ExecutorExited(exited) => Some((
                exited.executor_id.value.clone(),
                exited.status,
                exited.built_in(),
            )),
            _ => None,
        })
        .collect()
}

/// A group of a wasm task `a` and a native one `b`, running, everything acknowledged.
fn running(agent: &mut Agent) {
    launch_group(agent, &["a", "b"]);
    agent.prepared(&task("a"), Body::Wasm);
    agent.prepared(&task("b"), Body::Native);
    agent.started(&wasm());
    agent.started(&native());
    agent.subscribe(&wasm());
    agent.subscribe(&native());
    for (executor, id) in [(wasm(), "a"), (native(), "b")] {
        let effects = agent.update(&executor, &task(id), TaskState::TaskRunning);
        agent.acknowledge_all(&effects);
    }
}

#[test]
fn a_group_is_handed_over_when_all_its_tasks_are_prepared_and_all_its_executors_are_there() {
    let mut agent = Agent::registered();
    let effects = launch_group(&mut agent, &["a", "b", "c"]);
    for effect in &effects {
        let Effect::Prepare {
            sandbox, parent, ..
        } = effect
        else {
            panic!("{effect:?}")
        };
        let parent = parent.as_ref().unwrap();
        assert_eq!(parent.executor.executor_id.value, "pod");
        assert!(sandbox.starts_with(&format!("{}/containers/", parent.sandbox)));
    }
    assert_eq!(agent.prepared(&task("a"), Body::Wasm), []);
    assert_eq!(agent.prepared(&task("b"), Body::Native), []);
    agent.prepared(&task("c"), Body::Wasm);
    agent.started(&wasm());
    assert_eq!(event_types(&agent.subscribe(&wasm()).1), ["SUBSCRIBED"]);
    agent.started(&native());
    let effects = agent.subscribe(&native()).1;
    assert_eq!(
        event_types(&effects),
        ["SUBSCRIBED", "LAUNCH_GROUP", "LAUNCH_GROUP"]
    );
    let groups: Vec<Vec<_>> = events(&effects)
        .into_iter()
        .filter_map(|event| event.launch_group)
        .map(|group| group.task_group.tasks)
        .map(|tasks| tasks.into_iter().map(|task| task.task_id.value).collect())
        .collect();
    assert_eq!(groups, [vec!["b"], vec!["a", "c"]]);
}

#[test]
fn the_failure_of_one_task_kills_the_others_and_success_does_not() {
    let mut agent = Agent::registered();
    running(&mut agent);
    let effects = agent.update(&wasm(), &task("a"), TaskState::TaskFailed);
    assert_eq!(event_types(&effects), ["ACKNOWLEDGED", "KILL"]);
    let status = the_update(&effects).status;
    assert_eq!(status.executor_id.unwrap().value, "pod");
    assert_eq!(exits(&effects), []);
    let effects = agent.update(&native(), &task("b"), TaskState::TaskKilled);
    assert_eq!(
        exits(&effects),
        [("pod".to_owned(), 0, false)],
        "the executor of the group ends with its last task"
    );

    let mut agent = Agent::registered();
    running(&mut agent);
    let effects = agent.update(&wasm(), &task("a"), TaskState::TaskFinished);
    assert_eq!(event_types(&effects), ["ACKNOWLEDGED"]);
    let effects = agent.update(&native(), &task("b"), TaskState::TaskFinished);
    assert_eq!(exits(&effects), [("pod".to_owned(), 0, false)]);
}

#[test]
fn a_kill_of_one_task_takes_its_group_and_no_other_group_of_the_executor() {
    let mut agent = Agent::registered();
    running(&mut agent);
    launch_group_of(&mut agent, aware("F"), &["c"], pod(), false);
    agent.prepared(&task("c"), Body::Native);
    let effects = agent.kill(&task("b"));
    assert_eq!(event_types(&effects), ["KILL"]);
    let effects = agent.update(&native(), &task("b"), TaskState::TaskKilled);
    let killed: Vec<_> = events(&effects)
        .into_iter()
        .filter_map(|event| Some(event.kill?.task_id.value))
        .collect();
    assert_eq!(killed, ["a"]);
    let effects = agent.update(&wasm(), &task("a"), TaskState::TaskKilled);
    assert_eq!(exits(&effects), [], "another group lives");
    let effects = agent.update(&native(), &task("c"), TaskState::TaskFinished);
    assert_eq!(exits(&effects).len(), 1);
}

#[test]
fn a_kill_of_one_task_before_the_group_was_handed_over_kills_all_of_it() {
    for stage in 0..4 {
        let mut agent = Agent::registered();
        launch_group(&mut agent, &["a", "b"]);
        if stage > 0 {
            agent.prepared(&task("a"), Body::Wasm);
        }
        if stage > 1 {
            agent.prepared(&task("b"), Body::Native);
        }
        if stage > 2 {
            agent.started(&wasm());
            agent.subscribe(&wasm());
        }
        let effects = agent.kill(&task("a"));
        let killed = (TaskState::TaskKilled, Some(Reason::TaskKilledDuringLaunch));
        assert_eq!(
            endings(&effects),
            ["a", "b"].map(|id| (id.to_owned(), killed.0, killed.1)),
            "at stage {stage}"
        );
        assert_eq!(exits(&effects), [("pod".to_owned(), 0, false)]);
        if stage > 1 {
            agent.started(&native());
            assert_eq!(event_types(&agent.subscribe(&native()).1), ["SUBSCRIBED"]);
        }
    }
}

#[test]
fn a_group_does_not_start_if_one_of_its_tasks_cannot() {
    let mut agent = Agent::registered();
    launch_group(&mut agent, &["a", "b", "c"]);
    agent.prepared(&task("a"), Body::Wasm);
    let failure = PrepareFailure {
        reason: Reason::ContainerLaunchFailed,
        message: "no such file".into(),
    };
    let effects = agent.apply(Input::Prepared {
        task: task("b"),
        result: Err(failure),
    });
    let states: Vec<_> = endings(&effects)
        .into_iter()
        .map(|(_, state, _)| state)
        .collect();
    assert_eq!(
        states,
        [
            TaskState::TaskKilled,
            TaskState::TaskFailed,
            TaskState::TaskKilled
        ]
    );
}

#[test]
fn the_death_of_a_built_in_executor_ends_the_pods_that_had_tasks_in_it_with_its_status() {
    let mut agent = Agent::registered();
    running(&mut agent);
    let effects = agent.exited(&native());
    assert_eq!(
        endings(&effects),
        [(
            "b".to_owned(),
            TaskState::TaskFailed,
            Some(Reason::ExecutorTerminated)
        )]
    );
    assert_eq!(event_types(&effects), ["KILL"], "a goes with b");
    assert_eq!(exits(&effects), [("tepui-native".to_owned(), 9, true)]);
    let effects = agent.update(&wasm(), &task("a"), TaskState::TaskKilled);
    assert_eq!(exits(&effects), [("pod".to_owned(), 9, false)]);
}

#[test]
fn a_pod_that_is_shut_down_ends_its_tasks_and_at_once_when_its_grace_is_over() {
    let mut agent = Agent::registered();
    running(&mut agent);
    let shutdown = |agent: &mut Agent| {
        agent.hear(to_agent::Body::ShutdownExecutor(link::ShutdownExecutor {
            framework_id: v1::FrameworkId { value: "F".into() },
            executor_id: v1::ExecutorId {
                value: "pod".into(),
            },
        }))
    };
    assert_eq!(event_types(&shutdown(&mut agent)), ["KILL", "KILL"]);
    assert_eq!(shutdown(&mut agent), []);
    let effects = launch_group_of(&mut agent, aware("F"), &["late"], pod(), false);
    assert_eq!(
        told(&effects),
        (TaskState::TaskDropped, Reason::ExecutorTerminated)
    );
    let effects = agent.update(&wasm(), &task("a"), TaskState::TaskKilled);
    assert_eq!(event_types(&effects), ["ACKNOWLEDGED"]);
    let kills = events(&agent.pass(Duration::from_secs(5)));
    let policy = kills[0].kill.as_ref().unwrap().kill_policy.unwrap();
    assert_eq!(policy.grace_period.unwrap().nanoseconds, 0);
    let effects = agent.update(&native(), &task("b"), TaskState::TaskKilled);
    assert_eq!(exits(&effects), [("pod".to_owned(), 0, false)]);
    // It did not end in its time: its executor was taken from under it.
    let failed = (
        "b".to_owned(),
        TaskState::TaskFailed,
        Some(Reason::ExecutorTerminated),
    );
    assert_eq!(endings(&effects), [failed]);
}

#[test]
fn a_pod_whose_container_is_killed_ends_with_its_tasks() {
    let mut agent = Agent::registered();
    running(&mut agent);
    let view = agent.core.view();
    let pod = view
        .executors
        .iter()
        .find(|executor| executor.kind.is_none())
        .unwrap();
    let effects = agent.apply(Input::Signal {
        container: pod.container_id.as_str().to_owned(),
        signal: 9,
    });
    assert_eq!(event_types(&effects), ["KILL", "KILL"]);
    agent.update(&wasm(), &task("a"), TaskState::TaskKilled);
    let effects = agent.update(&native(), &task("b"), TaskState::TaskKilled);
    assert_eq!(exits(&effects), [("pod".to_owned(), 9, false)]);
    let failed = Some(Reason::ExecutorTerminated);
    let failed = ("b".to_owned(), TaskState::TaskFailed, failed);
    assert_eq!(endings(&effects), [failed]);
}

#[test]
fn a_pod_that_was_told_to_end_is_told_again_by_the_next_agent_process() {
    let mut agent = Agent::registered();
    launch_group_of(&mut agent, checkpointing("F"), &["a"], pod(), true);
    agent.prepared(&task("a"), Body::Native);
    agent.started(&native());
    agent.subscribe(&native());
    let effects = agent.update(&native(), &task("a"), TaskState::TaskRunning);
    agent.acknowledge_all(&effects);
    let shutdown = link::ShutdownExecutor {
        framework_id: v1::FrameworkId { value: "F".into() },
        executor_id: v1::ExecutorId {
            value: "pod".into(),
        },
    };
    agent.hear(to_agent::Body::ShutdownExecutor(shutdown));
    agent.restart();
    agent.subscribe(&native());
    agent.apply(Input::LinkUp);
    agent.answer_registration();
    let effects = launch_group_of(&mut agent, checkpointing("F"), &["late"], pod(), false);
    assert_eq!(
        told(&effects),
        (TaskState::TaskDropped, Reason::ExecutorTerminated)
    );
    let kills = events(&agent.pass(Duration::from_secs(5)));
    let policy = kills[0].kill.as_ref().unwrap().kill_policy.unwrap();
    assert_eq!(policy.grace_period.unwrap().nanoseconds, 0);
    let effects = agent.update(&native(), &task("a"), TaskState::TaskKilled);
    assert_eq!(exits(&effects), [("pod".to_owned(), 0, false)]);
    agent.acknowledge_all(&effects);
    agent.exited(&native());
    assert!(
        agent.disk.keys().all(|path| !path.contains("pod")),
        "{:?}",
        agent.disk.keys()
    );
}

#[test]
fn a_group_for_an_executor_that_has_ended_meanwhile_is_dropped() {
    let mut agent = Agent::registered();
    let effects = launch_group_of(&mut agent, aware("F"), &["a", "b"], pod(), false);
    let dropped = |id: &str| {
        (
            id.to_owned(),
            TaskState::TaskDropped,
            Some(Reason::ExecutorTerminated),
        )
    };
    assert_eq!(endings(&effects), [dropped("a"), dropped("b")]);
    assert_eq!(exits(&effects), []);
}

#[test]
fn a_group_that_is_refused_gives_its_executor_back() {
    let mut agent = Agent::registered();
    agent.run(&aware("F"), "a");
    let effects = launch_group(&mut agent, &["a", "b"]);
    assert_eq!(
        exits(&effects),
        [("pod".to_owned(), -1, true)],
        "the master charges for it no more, and nobody is told"
    );
    let refused: Vec<_> = endings(&effects).into_iter().map(|told| told.1).collect();
    assert_eq!(refused, [TaskState::TaskDropped, TaskState::TaskError]);
    let mut both = pod();
    both.command = Some(v1::CommandInfo::default());
    let effects = launch_group_of(&mut agent, aware("F"), &["d"], both, true);
    assert_eq!(
        told(&effects),
        (TaskState::TaskError, Reason::TaskGroupInvalid)
    );
}

#[test]
fn a_frameworks_own_executor_gets_the_group_in_one_event_and_minds_it_itself() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    let group = |agent: &mut Agent, tasks: &[&str], is_new| {
        launch_group_of(agent, aware("F"), tasks, own_executor(), is_new)
    };
    group(&mut agent, &["a", "b"], true);
    group(&mut agent, &["c", "d"], false);
    let effects = agent.kill(&task("d"));
    assert_eq!(endings(&effects).len(), 2, "c goes with d");
    agent.started(&executor);
    let (_, effects) = agent.subscribe(&executor);
    assert_eq!(event_types(&effects), ["SUBSCRIBED", "LAUNCH_GROUP"]);
    let launched = events(&effects)[1].launch_group.clone().unwrap();
    assert_eq!(launched.task_group.tasks.len(), 2);
    let effects = agent.update(&executor, &task("a"), TaskState::TaskFailed);
    assert_eq!(event_types(&effects), ["ACKNOWLEDGED"], "b is its affair");
    assert_eq!(event_types(&agent.kill(&task("b"))), ["KILL"]);
}

#[test]
fn a_pod_is_shown_reported_and_outlives_the_agents_process() {
    let mut agent = Agent::registered();
    let framework = checkpointing("F");
    launch_group_of(&mut agent, framework, &["a", "b"], pod(), true);
    agent.prepared(&task("a"), Body::Native);
    agent.prepared(&task("b"), Body::Native);
    agent.started(&native());
    agent.subscribe(&native());
    let view = agent.core.view();
    let shown = view
        .executors
        .iter()
        .find(|executor| executor.executor.executor.as_str() == "pod")
        .unwrap();
    assert_eq!((shown.kind, shown.live_tasks), (None, 2));
    assert!(
        view.tasks
            .iter()
            .all(|task| task.told_executor.as_ref().unwrap().value == "pod")
    );
    for id in ["a", "b"] {
        let effects = agent.update(&native(), &task(id), TaskState::TaskRunning);
        agent.acknowledge_all(&effects);
    }
    agent.restart();
    agent.subscribe(&native());
    let register = registration(&agent.apply(Input::LinkUp));
    let executors: Vec<_> = register
        .executors
        .iter()
        .map(|executor| executor.executor_id.value.as_str())
        .collect();
    assert_eq!(executors, ["pod"]);
    agent.answer_registration();
    let effects = agent.update(&native(), &task("a"), TaskState::TaskFailed);
    assert_eq!(event_types(&effects), ["KILL", "ACKNOWLEDGED"]);
    agent.acknowledge_all(&effects);
    let effects = agent.update(&native(), &task("b"), TaskState::TaskKilled);
    assert_eq!(exits(&effects).len(), 1);
    agent.acknowledge_all(&effects);
    agent.exited(&native());
    assert!(
        agent.disk.keys().all(|path| !path.contains("pod")),
        "{:?}",
        agent.disk.keys()
    );
}

#[test]
fn a_framework_shut_down_takes_its_pods_along() {
    let mut agent = Agent::registered();
    running(&mut agent);
    launch_group_of(&mut agent, aware("F"), &["c", "d"], pod(), false);
    let effects = agent.hear(to_agent::Body::ShutdownFramework(link::ShutdownFramework {
        framework_id: v1::FrameworkId { value: "F".into() },
    }));
    assert_eq!((updates(&effects), exits(&effects)), (vec![], vec![]));
    agent.exited(&native());
    agent.exited(&wasm());
    assert_eq!(agent.core.view().frameworks, []);
}
