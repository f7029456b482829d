//! Executors from their start to their end, built-in and custom.

use std::time::Duration;

use tepui_api::ext::launch_plan::Body;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, TaskState};

use super::harness::*;
use crate::{Effect, ExecutorKind, Input, Limitation};

fn shutdown_executor(agent: &mut Agent, executor: &str) -> Vec<Effect> {
    agent.hear(to_agent::Body::ShutdownExecutor(link::ShutdownExecutor {
        framework_id: v1::FrameworkId { value: "F".into() },
        executor_id: v1::ExecutorId {
            value: executor.into(),
        },
    }))
}

fn shutdown_framework(agent: &mut Agent) -> Vec<Effect> {
    let framework_id = v1::FrameworkId { value: "F".into() };
    agent.hear(to_agent::Body::ShutdownFramework(link::ShutdownFramework {
        framework_id,
    }))
}

fn exit_told(effects: &[Effect]) -> link::ExecutorExited {
    let told = to_master(effects).into_iter().find_map(|body| match body {
        to_master::Body::ExecutorExited(exited) => Some(exited),
        _ => None,
    });
    told.expect("the master is told")
}

#[test]
fn a_custom_executor_is_started_without_preparation_and_used_again() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    let effects = agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    let [
        Effect::StartExecutor {
            kind: ExecutorKind::Custom,
            resources,
            sandbox,
            ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(resources.cpus().to_f64(), 1.5, "its own and the task's");
    assert!(sandbox.starts_with("slaves/S0/frameworks/F/executors/mine/runs/"));
    agent.started(&executor);
    agent.subscribe(&executor);
    let effects = agent.launch(&aware("F"), vec![custom_task("b", "mine")]);
    assert_eq!(
        (event_types(&effects), sizes(&effects)),
        (vec!["LAUNCH"], vec!["2.5 64".to_owned()])
    );
    let effects = agent.update(&executor, &task_ref("F", "a"), TaskState::TaskRunning);
    assert_eq!(
        the_update(&effects).status.executor_id.unwrap().value,
        "mine"
    );
    assert_eq!(
        agent.core.find_task(&task_ref("F", "b")).unwrap().sandbox,
        *sandbox
    );
}

#[test]
fn an_executor_id_of_the_agents_own_cannot_be_taken() {
    let mut agent = Agent::registered();
    let effects = agent.launch(&aware("F"), vec![custom_task("a", WASM)]);
    assert_eq!(told(&effects), (TaskState::TaskError, Reason::TaskInvalid));
}

#[test]
fn an_executor_that_does_not_subscribe_is_destroyed_and_its_tasks_fail() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    agent.started(&executor);
    assert_eq!(agent.pass(Duration::from_secs(59)), []);
    assert_eq!(
        agent.pass(Duration::from_secs(1)),
        [Effect::DestroyExecutor {
            executor: executor.clone()
        }]
    );
    let effects = agent.exited(&executor);
    assert_eq!(
        told(&effects),
        (TaskState::TaskFailed, Reason::ExecutorRegistrationTimeout)
    );
    assert_eq!(exit_told(&effects).built_in, Some(false));
}

#[test]
fn an_executor_that_cannot_be_started_fails_its_tasks_with_the_sentence() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    let effects = agent.apply(Input::ExecutorStartFailed {
        executor,
        message: "no such program".into(),
    });
    let status = the_update(&effects).status;
    assert_eq!(
        (status.reason(), status.message()),
        (Reason::ContainerLaunchFailed, "no such program")
    );
}

#[test]
fn the_death_of_an_executor_fails_its_tasks_and_the_master_hears_of_it() {
    let mut agent = Agent::registered();
    let (_, executor, connection) = agent.run(&aware("F"), "a");
    let limitation = Some(Limitation {
        reason: Reason::ContainerLimitationMemory,
        message: "its cgroup ran out of memory".to_owned(),
        resources: vec![scalar("mem", 32.0)],
    });
    let effects = agent.apply(Input::ExecutorExited {
        executor: executor.clone(),
        status: 9,
        limitation,
    });
    let status = the_update(&effects).status;
    assert_eq!(
        (status.state(), status.reason()),
        (TaskState::TaskFailed, Reason::ContainerLimitationMemory)
    );
    assert_eq!(status.message(), "its cgroup ran out of memory");
    let limitation = status.limitation.as_ref().unwrap();
    assert_eq!(limitation.resources, [scalar("mem", 32.0)]);
    assert!(effects.contains(&Effect::CloseExecutor { connection }));
    let told = exit_told(&effects);
    assert_eq!((told.status, told.built_in), (9, Some(true)));
    agent.run(&aware("F"), "b");
}

#[test]
fn a_shut_down_executor_gets_its_grace_and_is_then_destroyed() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    agent.started(&executor);
    agent.subscribe(&executor);
    assert_eq!(
        event_types(&shutdown_executor(&mut agent, "mine")),
        ["SHUTDOWN"]
    );
    assert_eq!(agent.kill(&task_ref("F", "a")), [], "it is on its way out");
    let effects = agent.launch(&aware("F"), vec![custom_task("b", "mine")]);
    assert_eq!(
        told(&effects),
        (TaskState::TaskDropped, Reason::ExecutorTerminated)
    );
    assert_eq!(agent.pass(Duration::from_secs(4)), []);
    let effects = agent.pass(Duration::from_secs(1));
    assert!(effects.contains(&Effect::DestroyExecutor {
        executor: executor.clone()
    }));
    assert_eq!(
        told(&agent.exited(&executor)),
        (TaskState::TaskFailed, Reason::ExecutorTerminated)
    );
}

#[test]
fn an_executor_may_still_report_its_tasks_while_it_shuts_down() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    agent.started(&executor);
    agent.subscribe(&executor);
    shutdown_executor(&mut agent, "mine");
    let effects = agent.update(&executor, &task_ref("F", "a"), TaskState::TaskKilled);
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskKilled);
    assert_eq!(updates(&agent.exited(&executor)), []);
}

#[test]
fn a_custom_executor_whose_only_task_was_killed_before_it_came_is_dismissed() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    let effects = agent.kill(&task_ref("F", "a"));
    assert_eq!(
        told(&effects),
        (TaskState::TaskKilled, Reason::TaskKilledDuringLaunch)
    );
    assert!(effects.contains(&Effect::DestroyExecutor {
        executor: executor.clone()
    }));
    agent.started(&executor);
    let (connection, effects) = agent.subscribe(&executor);
    assert_eq!(event_types(&effects), ["SHUTDOWN"]);
    assert_eq!(effects.last(), Some(&Effect::CloseExecutor { connection }));
    agent.exited(&executor);
}

#[test]
fn an_idle_built_in_executor_is_stopped_and_a_busy_one_is_not() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let quiet = |agent: &mut Agent, seconds: u64| {
        let mut effects = Vec::new();
        for _ in 0..seconds / 10 {
            agent.hear(to_agent::Body::Ping(link::Ping { sequence: 0 }));
            effects.extend(agent.pass(Duration::from_secs(10)));
        }
        effects
    };
    assert_eq!(quiet(&mut agent, 600), []);
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    agent.acknowledge_all(&effects);
    assert_eq!(quiet(&mut agent, 290), []);
    assert_eq!(event_types(&quiet(&mut agent, 10)), ["SHUTDOWN"]);
    agent.exited(&executor);
    assert_eq!(agent.core.view().frameworks, []);
}

#[test]
fn a_task_that_meets_an_executor_on_its_way_out_gets_a_new_one() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    agent.acknowledge_all(&effects);
    agent.core.shut_executor_down(&executor, true);
    agent.launch(&aware("F"), vec![task_info("b")]);
    assert_eq!(events(&agent.prepared(&task_ref("F", "b"), Body::Wasm)), []);
    let effects = agent.exited(&executor);
    assert_eq!(updates(&effects), []);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::StartExecutor { .. }))
    );
    agent.started(&executor);
    assert_eq!(
        event_types(&agent.subscribe(&executor).1),
        ["SUBSCRIBED", "LAUNCH"]
    );
}

#[test]
fn a_framework_shut_down_is_ended_everywhere_and_not_reported_any_more() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    agent.launch(&aware("F"), vec![task_info("preparing")]);
    let effects = shutdown_framework(&mut agent);
    assert_eq!(updates(&effects), []);
    assert_eq!(event_types(&effects), ["SHUTDOWN"]);
    assert!(effects.contains(&Effect::CancelPrepare {
        task: task_ref("F", "preparing")
    }));
    assert!(effects.contains(&Effect::TaskEnded { task: task.clone() }));
    let effects = agent.update(&executor, &task, TaskState::TaskKilled);
    assert_eq!((answer(&effects).0, updates(&effects).len()), (202, 0));
    assert_eq!(agent.launch(&aware("F"), vec![task_info("b")]), []);
    assert_eq!(to_master(&agent.exited(&executor)), []);
    let view = agent.core.view();
    assert_eq!((view.frameworks.len(), view.ended.len()), (0, 2));
}

#[test]
fn an_executor_whose_stream_broke_may_come_back_but_not_for_ever() {
    let mut agent = Agent::registered();
    let (_, executor, connection) = agent.run(&aware("F"), "a");
    agent.apply(Input::ExecutorDisconnected { connection });
    agent.pass(Duration::from_secs(50));
    let (connection, effects) = agent.subscribe(&executor);
    assert_eq!(
        (event_types(&effects), updates(&effects).len()),
        (vec!["SUBSCRIBED"], 0)
    );
    agent.apply(Input::ExecutorDisconnected { connection });
    agent.hear(to_agent::Body::Ping(link::Ping { sequence: 0 }));
    assert_eq!(
        agent.pass(Duration::from_secs(60)),
        [Effect::DestroyExecutor {
            executor: executor.clone()
        }]
    );
    assert_eq!(
        told(&agent.exited(&executor)),
        (TaskState::TaskFailed, Reason::ExecutorTerminated)
    );
}

#[test]
fn a_changed_framework_is_understood_at_once() {
    let mut agent = Agent::registered();
    agent.run(&framework("F", &[], false), "a");
    agent.hear(to_agent::Body::UpdateFramework(link::UpdateFramework {
        framework: aware("F"),
    }));
    assert_eq!(
        told(&agent.kill(&task_ref("F", "x"))),
        (TaskState::TaskDropped, Reason::ExecutorTerminated)
    );
}

#[test]
fn an_executor_that_ends_while_its_agent_registers_is_told_of() {
    let mut agent = Agent::registered();
    let executor = executor_ref("F", "mine");
    agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    agent.started(&executor);
    agent.subscribe(&executor);
    agent.apply(Input::LinkDown);
    let register = registration(&agent.apply(Input::LinkUp));
    assert_eq!(register.executors.len(), 1, "it is said to be there");
    let effects = agent.exited(&executor);
    assert_eq!(exit_told(&effects).executor_id.value, "mine");
    let effects = agent.answer_registration();
    assert_eq!(
        the_update(&effects).status.state(),
        TaskState::TaskFailed,
        "its task's end follows"
    );
}

#[test]
fn a_command_whose_executor_is_shut_down_is_killed() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    agent.run(&aware("F"), "b");
    let effects = shutdown_executor(&mut agent, "a");
    let [event] = &events(&effects)[..] else {
        panic!("{effects:?}")
    };
    let kill = event.kill.clone().unwrap();
    assert_eq!(kill.task_id.value, "a");
    let grace = kill.kill_policy.unwrap().grace_period.unwrap();
    assert_eq!(grace.nanoseconds, 5_000_000_000);
    agent.update(&executor, &task, TaskState::TaskKilled);
    assert!(agent.core.find_task(&task_ref("F", "b")).unwrap().state == TaskState::TaskRunning);
}

#[test]
fn a_command_cannot_have_a_live_executors_id() {
    let mut agent = Agent::registered();
    agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    agent.subscribe(&executor_ref("F", "mine"));
    let effects = agent.launch(&aware("F"), vec![task_info("mine")]);
    assert_eq!(
        told(&effects),
        (TaskState::TaskDropped, Reason::TaskInvalid)
    );
    // What the agent calls its own executors is nothing to a framework.
    let effects = agent.launch(&aware("F"), vec![task_info(WASM)]);
    assert_eq!(updates(&effects), []);
}
