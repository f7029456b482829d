//! An agent that restarts on what an earlier process saved.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tepui_api::ext::launch_plan::Body;
use tepui_api::v1::executor::call;
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, TaskState};
use tepui_model::Now;

use super::harness::*;
use crate::record::{ExecutorRecord, FrameworkRecord, Path, TaskRecord, UpdatesRecord};
use crate::{
    Config, Core, Effect, Input, Reconfiguration, Recover, RecoverError, Recovered, TaskView, Write,
};

#[test]
fn nothing_reaches_an_executor_before_the_task_is_on_disk() {
    let mut agent = Agent::registered();
    agent.hold_saves = true;
    let (task, executor) = (task_ref("F", "a"), executor_ref("F", WASM));
    agent.launch(&checkpointing("F"), vec![task_info("a")]);
    agent.prepared(&task, Body::Wasm);
    let paths: Vec<_> = agent.held.iter().map(|(_, path, _)| path.clone()).collect();
    assert_eq!(
        paths,
        [
            "frameworks/F/framework",
            "frameworks/F/executors/tepui-wasm/executor",
            "frameworks/F/executors/tepui-wasm/tasks/a/task"
        ]
    );
    assert_eq!(agent.release(), []);
    assert!(matches!(
        &agent.release()[..],
        [Effect::StartExecutor { .. }]
    ));
    let (_, effects) = agent.subscribe(&executor);
    assert_eq!(event_types(&effects), ["SUBSCRIBED"]);
    assert_eq!(event_types(&agent.release()), ["LAUNCH"]);
}

#[test]
fn nobody_subscribes_for_an_executor_that_is_not_on_disk() {
    let mut agent = Agent::registered();
    agent.hold_saves = true;
    let executor = executor_ref("F", "mine");
    agent.launch(&checkpointing("F"), vec![custom_task("a", "mine")]);
    let (_, effects) = agent.subscribe(&executor);
    assert_eq!(answer(&effects), (400, "Executor cannot be found".into()));
    while !agent.held.is_empty() {
        agent.release();
    }
    assert!(agent.tokens.contains_key(&executor), "it was started");
}

#[test]
fn tasks_and_executors_survive_a_restart_of_the_agent() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing("F"), "a");
    agent.run(&aware("G"), "not kept");
    let before = agent.core.find_task(&task).unwrap();
    agent.restart();
    assert_eq!(
        agent.apply(Input::LinkUp),
        [],
        "not before the executors had their time"
    );
    let (_, effects) = agent.subscribe(&executor);
    assert_eq!(event_types(&effects), ["SUBSCRIBED"]);
    let register = registration(&effects);
    assert_eq!(register.agent.id.unwrap().value, "S0");
    assert_eq!(
        (register.tasks.len(), register.tasks[0].state()),
        (1, TaskState::TaskRunning)
    );
    agent.answer_registration();
    let after = agent.core.find_task(&task).unwrap();
    assert_eq!(
        (after.container_id, after.sandbox),
        (before.container_id, before.sandbox)
    );
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskFinished);
    agent.acknowledge_all(&effects);
    agent.exited(&executor);
    assert_eq!(agent.disk.len(), 0, "{:?}", agent.disk.keys());
}

#[test]
fn executors_that_do_not_come_back_are_destroyed_and_their_tasks_gone() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&checkpointing("F"), "a");
    agent.restart();
    agent.link_up();
    let effects = agent.pass(Duration::from_secs(2));
    assert!(effects.contains(&Effect::DestroyExecutor {
        executor: executor.clone()
    }));
    registration(&effects);
    agent.answer_registration();
    assert_eq!(
        told(&agent.exited(&executor)),
        (TaskState::TaskGone, Reason::ExecutorReregistrationTimeout)
    );
}

#[test]
fn an_unacknowledged_update_survives_a_restart() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing("F"), "a");
    let sent = the_update(&agent.update(&executor, &task, TaskState::TaskFinished));
    agent.restart();
    agent.subscribe(&executor);
    let again = the_update(&agent.link_up());
    assert_eq!(again, sent);
    agent.acknowledge(&task, &again.status.uuid.unwrap());
    assert_eq!(agent.core.view().tasks, []);
}

#[test]
fn an_update_the_agent_never_stored_is_taken_from_the_executor_again_and_a_stored_one_is_not() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing("F"), "a");
    let stored = agent.status(&task, TaskState::TaskRunning);
    let effects = agent.send(&executor, stored.clone());
    agent.acknowledge_all(&effects);
    agent.hold_saves = true;
    let lost = agent.status(&task, TaskState::TaskFinished);
    agent.send(&executor, lost.clone());
    agent.hold_saves = false;
    agent.restart();
    agent.apply(Input::LinkUp);
    let unacknowledged_updates = [stored, lost]
        .map(|status| call::Update { status })
        .to_vec();
    let subscribe = call::Subscribe {
        unacknowledged_updates,
        ..call::Subscribe::default()
    };
    let (_, effects) = agent.subscribe_with(&executor, subscribe);
    assert_eq!(
        event_types(&effects),
        ["SUBSCRIBED", "ACKNOWLEDGED", "ACKNOWLEDGED"]
    );
    let effects = agent.answer_registration();
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskFinished);
}

#[test]
fn a_task_the_executor_never_heard_of_is_dropped_after_a_restart() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&checkpointing("F"), "a");
    for id in ["heard", "unheard"] {
        agent.launch(&checkpointing("F"), vec![task_info(id)]);
        agent.prepared(&task_ref("F", id), Body::Wasm);
    }
    agent.restart();
    agent.apply(Input::LinkUp);
    let unacknowledged_tasks = vec![task_info("heard")];
    agent.subscribe_with(
        &executor,
        call::Subscribe {
            unacknowledged_tasks,
            ..call::Subscribe::default()
        },
    );
    let effects = agent.answer_registration();
    assert_eq!(the_update(&effects).status.task_id.value, "unheard");
    assert_eq!(
        told(&effects),
        (TaskState::TaskDropped, Reason::AgentRestarted)
    );
}

#[test]
fn a_task_whose_executor_was_never_stored_is_dropped() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&checkpointing("F"), "a");
    agent.disk.remove(&Path::Executor(executor).text());
    agent.restart();
    let effects = agent.link_up();
    assert_eq!(
        told(&effects),
        (TaskState::TaskDropped, Reason::AgentRestarted)
    );
}

#[test]
fn records_without_their_framework_are_cleared_away() {
    let mut agent = Agent::registered();
    agent.run(&checkpointing("F"), "a");
    agent.disk.remove("frameworks/F/framework");
    agent.restart();
    agent.link_up();
    assert_eq!(agent.disk.len(), 0, "{:?}", agent.disk.keys());
}

#[test]
fn records_that_cannot_be_read_are_named() {
    let recover = |path: &str, value: &[u8]| {
        let saved = vec![(path.to_owned(), Bytes::copy_from_slice(value))];
        Core::new(
            config(),
            Recovered {
                saved,
                ..Recovered::default()
            },
            Now::default(),
        )
        .err()
    };
    let path = "frameworks/F/framework";
    assert!(matches!(
        recover(path, b"\xff"),
        Some(RecoverError::Malformed { .. })
    ));
    let newer = FrameworkRecord {
        format: 2,
        info: v1::FrameworkInfo::default(),
    }
    .encode_to_vec();
    assert_eq!(
        recover(path, &newer),
        Some(RecoverError::Format {
            path: path.into(),
            found: 2
        })
    );
    assert_eq!(
        recover("what/is/this", b""),
        Some(RecoverError::UnknownPath {
            path: "what/is/this".into()
        })
    );
}

#[test]
fn the_layout_of_records_is_what_earlier_agents_wrote() {
    let framework = v1::FrameworkInfo {
        user: "u".into(),
        name: "n".into(),
        ..v1::FrameworkInfo::default()
    };
    let record = FrameworkRecord {
        format: 1,
        info: framework,
    };
    assert_eq!(
        record.encode_to_vec(),
        b"\x08\x01\x12\x06\x0a\x01u\x12\x01n"
    );
    let executor_id = v1::ExecutorId { value: "e".into() };
    let record = ExecutorRecord {
        info: v1::ExecutorInfo {
            executor_id,
            ..v1::ExecutorInfo::default()
        },
        kind: 2,
        sandbox: "s".into(),
        container_id: "c".into(),
        token: "k".into(),
        pid: Some(7),
    };
    let bytes = b"\x0a\x05\x0a\x03\x0a\x01e\x10\x02\x1a\x01s\x22\x01c\x2a\x01k\x30\x07";
    assert_eq!(record.encode_to_vec(), bytes);
    let record = TaskRecord {
        info: v1::TaskInfo {
            task_id: v1::TaskId { value: "t".into() },
            agent_id: v1::AgentId { value: "a".into() },
            ..v1::TaskInfo::default()
        },
        sandbox: "s".into(),
        container_id: "c".into(),
        told_executor: None,
        group: None,
    };
    let bytes = b"\x0a\x0c\x0a\x00\x12\x03\x0a\x01t\x1a\x03\x0a\x01a\x12\x01s\x1a\x01c";
    assert_eq!(record.encode_to_vec(), bytes);
    let record = UpdatesRecord {
        latest: None,
        pending: Vec::new(),
        seen: vec![Bytes::from_static(b"uu")],
        acknowledged: Some(Bytes::from_static(b"a")),
    };
    assert_eq!(record.encode_to_vec(), b"\x1a\x02uu\x22\x01a");
    assert_eq!(&record.step()[..], b"\x07\x1a\x02uu\x22\x01a");
}

#[test]
fn the_next_update_is_told_only_once_the_acknowledgement_of_the_last_is_on_disk() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing("F"), "a");
    let first = the_update(&agent.update(&executor, &task, TaskState::TaskRunning));
    agent.update(&executor, &task, TaskState::TaskFinished);
    agent.hold_saves = true;
    let uuid = first.status.uuid.clone().unwrap();
    assert_eq!(updates(&agent.acknowledge(&task, &uuid)), []);
    // Neither a new link nor a scheduler that subscribes again brings it out sooner.
    agent.apply(Input::LinkDown);
    assert_eq!(updates(&agent.link_up()), []);
    let effects = agent.release();
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskFinished);
    agent.hold_saves = false;
    agent.restart();
    agent.subscribe(&executor);
    let again = the_update(&agent.link_up());
    assert_eq!(again.status.state(), TaskState::TaskFinished);
}

/// One that knows of killing as well.
fn checkpointing_aware() -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        checkpoint: Some(true),
        ..aware("F")
    }
}

#[test]
fn what_a_crash_cut_off_is_dropped_and_nothing_comes_behind_it() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing_aware(), "a");
    let path = Path::Updates(task.clone(), executor.executor.clone()).text();
    let running = agent.update(&executor, &task, TaskState::TaskRunning);
    let whole = agent.disk[&path].clone();
    agent.update(&executor, &task, TaskState::TaskFinished);
    let longer = agent.disk[&path].clone();
    for end in [
        longer.slice(whole.len()..longer.len() - 1),
        longer.slice(whole.len()..whole.len() + 1),
        Bytes::from_static(&[0; 9]),
    ] {
        let torn: Bytes = [&whole[..], &end[..]].concat().into();
        agent.disk.insert(path.clone(), torn);
        agent.restart();
        agent.subscribe(&executor);
        assert_eq!(the_update(&agent.link_up()), the_update(&running));
        agent.update(&executor, &task, TaskState::TaskKilling);
        agent.restart();
        agent.subscribe(&executor);
        assert_eq!(
            the_update(&agent.link_up()).status,
            the_update(&running).status
        );
        assert_eq!(
            agent.core.find_task(&task).unwrap().state,
            TaskState::TaskKilling
        );
    }
    let (head, tail) = (&whole[..4], &whole[4..]);
    let damaged = [head, &[0xff; 8], &tail[8..], &whole].concat();
    agent.disk.insert(path, damaged.into());
    assert!(matches!(
        agent.restart_as(config()),
        Err(RecoverError::Malformed { .. })
    ));
}

#[test]
fn updates_that_an_earlier_agent_wrote_are_read() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing_aware(), "a");
    let sent = agent.update(&executor, &task, TaskState::TaskKilling);
    let log = Path::Updates(task.clone(), executor.executor.clone()).text();
    let (sum, whole) = UpdatesRecord::replay(agent.disk.remove(&log).unwrap()).unwrap();
    assert!(whole);
    let old = Path::OldUpdates(task.clone(), executor.executor.clone()).text();
    agent.disk.insert(old.clone(), sum.encode_to_vec().into());
    agent.restart();
    agent.subscribe(&executor);
    assert_eq!(the_update(&agent.link_up()), the_update(&sent));
    assert!(!agent.disk.contains_key(&old) && agent.disk.contains_key(&log));
}

#[test]
fn what_is_written_for_an_update_does_not_grow_with_how_many_there_are() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing("F"), "a");
    let path = Path::Updates(task.clone(), executor.executor.clone()).text();
    let written = |effects: &[Effect]| -> usize {
        let bytes = effects.iter().map(|effect| match effect {
            Effect::Save {
                write: Write::Append(value) | Write::Replace(value),
                ..
            } => value.len(),
            _ => 0,
        });
        bytes.sum()
    };
    let (count, mut all) = (3000, 0);
    let mut next = None;
    for _ in 0..count {
        let effects = agent.update(&executor, &task, TaskState::TaskRunning);
        all += written(&effects);
        next = next.or_else(|| updates(&effects).pop());
    }
    let pending = agent.disk[&path].len();
    let mut told = 0;
    while let Some(update) = next.take() {
        told += 1;
        let effects = agent.acknowledge(&task, &update.status.uuid.unwrap());
        all += written(&effects);
        next = updates(&effects).pop();
    }
    assert_eq!(told, count);
    assert!(all < 8 * pending, "{all} bytes for {pending}");
    let left = agent.disk[&path].len();
    assert!(left < pending / 4, "{left} of {pending} bytes are left");
    agent.restart();
    agent.subscribe(&executor);
    assert_eq!(updates(&agent.link_up()), []);
    assert_eq!(
        agent.core.find_task(&task).unwrap().state,
        TaskState::TaskRunning
    );
}

#[test]
fn an_executor_whose_updates_nobody_acknowledges_has_to_wait() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let mut taken = 0;
    loop {
        let mut status = agent.status(&task, TaskState::TaskRunning);
        status.data = Some(vec![0; 1 << 20].into());
        let (code, message) = answer(&agent.send(&executor, status));
        if code == 503 {
            assert!(message.contains("send this one again later"), "{message}");
            break;
        }
        assert_eq!(code, 202);
        taken += 1;
    }
    assert_eq!(taken, 8);
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    assert_eq!(answer(&effects).0, 202, "how it ended is taken");
}

fn with_resources(cpus: f64) -> Config {
    let mut config = config();
    config.info.resources = vec![scalar("cpus", cpus)];
    config
}

/// An agent with one running task, its executor's process gone with the machine or not, started again otherwise.
fn restarted(before: Config, after: Config) -> (Agent, Result<(), RecoverError>) {
    let mut agent = Agent::new(Recovered::default());
    agent.restart_as(before).unwrap();
    agent.link_up();
    agent.run(&checkpointing("F"), "a");
    let result = agent.restart_as(after);
    (agent, result)
}

#[test]
fn changed_resources_are_refused_or_taken_as_the_policy_says() {
    let (_, refused) = restarted(with_resources(2.0), with_resources(3.0));
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("'cpus:2' and is 'cpus:3'"), "{message}");
    assert!(
        message.contains("--reconfiguration_policy=additive"),
        "{message}"
    );
    let additive = |cpus| Config {
        reconfiguration: Reconfiguration::Additive,
        ..with_resources(cpus)
    };
    assert!(
        restarted(with_resources(2.0), additive(1.0)).1.is_err(),
        "less is not more"
    );
    let (mut agent, result) = restarted(with_resources(2.0), additive(3.0));
    result.unwrap();
    agent.apply(Input::LinkUp);
    let (_, effects) = agent.subscribe(&executor_ref("F", WASM));
    let register = registration(&effects);
    assert_eq!(register.agent.id.unwrap().value, "S0");
    assert_eq!(
        (register.agent.resources, register.tasks.len()),
        (vec![scalar("cpus", 3.0)], 1)
    );
    agent.answer_registration();
    assert!(
        agent.restart_as(with_resources(2.0)).is_err(),
        "what it registered as last is what counts"
    );
}

#[test]
fn a_reboot_ends_every_task_and_leaves_the_agent_its_id() {
    let rebooted = Config {
        host_boot_id: "another boot".into(),
        ..with_resources(2.0)
    };
    let (mut agent, result) = restarted(with_resources(2.0), rebooted.clone());
    result.unwrap();
    assert!(
        !agent.core.view().recovering,
        "nobody can come back, so nobody is waited for"
    );
    let effects = agent.link_up();
    assert_eq!(registration(&effects).agent.id.unwrap().value, "S0");
    assert_eq!(
        told(&effects),
        (TaskState::TaskGone, Reason::AgentRestarted)
    );
    agent.acknowledge_all(&effects);
    assert_eq!(agent.disk.len(), 0, "{:?}", agent.disk.keys());
    let run = agent.run(&checkpointing("F"), "b");
    agent.restart_as(rebooted).unwrap();
    agent.subscribe(&run.1);
    let state = agent
        .core
        .find_task(&run.0)
        .map(|view: TaskView| view.state);
    assert_eq!(state, Some(TaskState::TaskRunning), "one reboot, one loss");
}

#[test]
fn a_reboot_into_other_resources_makes_a_new_agent() {
    let rebooted = Config {
        host_boot_id: "another boot".into(),
        ..with_resources(1.0)
    };
    let (mut agent, result) = restarted(with_resources(2.0), rebooted);
    result.unwrap();
    let effects = agent.link_up();
    assert_eq!(registration(&effects).agent.id, None);
    assert_eq!(registration(&effects).tasks.len(), 0);
    assert_eq!(agent.disk.len(), 0, "{:?}", agent.disk.keys());
}

#[test]
fn cleanup_ends_everything_for_the_agent_that_is_started_next() {
    let cleanup = Config {
        recover: Recover::Cleanup,
        ..config()
    };
    let (mut agent, result) = restarted(config(), cleanup.clone());
    result.unwrap();
    assert_eq!(agent.apply(Input::LinkUp), [], "it never registers");
    let executor = executor_ref("F", WASM);
    let effects = agent.pass(Duration::ZERO);
    assert!(effects.contains(&Effect::DestroyExecutor {
        executor: executor.clone()
    }));
    let effects = agent.exited(&executor);
    assert!(effects.contains(&Effect::CleanedUp));
    agent.restart();
    assert_eq!(
        told(&agent.link_up()),
        (TaskState::TaskFailed, Reason::ExecutorTerminated)
    );
    let (mut idle, _) = restarted(config(), config());
    idle.disk.clear();
    idle.restart_as(cleanup).unwrap();
    assert_eq!(idle.pass(Duration::ZERO), [Effect::CleanedUp]);
}

#[test]
fn without_strict_what_cannot_be_read_is_passed_over() {
    let lenient = Config {
        strict: false,
        ..config()
    };
    let mut agent = Agent::registered();
    agent.run(&checkpointing("F"), "a");
    agent.run(&checkpointing("G"), "b");
    let path = Path::Task(task_ref("F", "a"), WASM.into()).text();
    agent.disk.insert(path, Bytes::from_static(b"\xff"));
    agent.saved_agent = Some(Bytes::from_static(b"\xff"));
    agent.disk.insert("what/is/this".into(), Bytes::new());
    assert!(agent.restart_as(config()).is_err());
    agent.restart_as(lenient).unwrap();
    let view = agent.core.view();
    assert_eq!(view.counters["slave/recovery_errors"], 3);
    assert_eq!(
        view.tasks.iter().map(|view| &view.task).collect::<Vec<_>>(),
        [&task_ref("G", "b")]
    );
}

#[test]
fn until_recovery_is_over_executors_may_subscribe_and_no_more() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing("F"), "a");
    agent.run(&checkpointing("G"), "b");
    agent.restart();
    agent.subscribe(&executor);
    assert!(agent.core.view().recovering);
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    assert_eq!(
        answer(&effects),
        (503, "Agent has not finished recovery".into())
    );
    agent.subscribe(&executor_ref("G", WASM));
    assert!(!agent.core.view().recovering);
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    assert_eq!(answer(&effects).0, 202);
}
