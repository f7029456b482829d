//! What executors may call, and what the answers are.

use bytes::Bytes;
use tepui_api::ext::launch_plan;
use tepui_api::guest;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::executor::{Call, call as executor_call};
use tepui_api::v1::task_status::Source;
use tepui_api::v1::{self, TaskState};

use super::harness::*;
use crate::{
    ConnectionKey, Effect, ExecutorRef, GuestTask, Input, JOB_LABEL, Rejection, RequestKey,
};

#[test]
fn calls_of_strangers_are_refused() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&aware("F"), "a");
    let heartbeat = |reference| call(reference, executor_call::Type::Heartbeat);
    let stranger = executor_ref("G", WASM);
    assert_eq!(
        answer(&agent.call(&stranger, heartbeat(&stranger))),
        (400, "Framework cannot be found".into())
    );
    let stranger = executor_ref("F", "other");
    assert_eq!(
        answer(&agent.call(&stranger, heartbeat(&stranger))),
        (400, "Executor cannot be found".into())
    );
    assert_eq!(answer(&agent.call(&executor, heartbeat(&executor))).0, 202);
    for token in [None, Some("wrong".to_owned())] {
        let input = Input::ExecutorCall {
            request: RequestKey(0),
            call: heartbeat(&executor),
            token: token.clone(),
        };
        assert_eq!(answer(&agent.apply(input)).0, 403);
        let call = call(&executor, executor_call::Type::Subscribe);
        let connection = ConnectionKey(9999);
        let input = Input::ExecutorSubscribe {
            request: RequestKey(0),
            connection,
            call,
            token,
        };
        assert_eq!(answer(&agent.apply(input)).0, 403);
    }
}

#[test]
fn an_executor_must_subscribe_before_it_says_anything_else() {
    let mut agent = Agent::registered();
    agent.launch(&aware("F"), vec![custom_task("a", "mine")]);
    let executor = executor_ref("F", "mine");
    agent.started(&executor);
    let effects = agent.update(&executor, &task_ref("F", "a"), TaskState::TaskRunning);
    assert_eq!(answer(&effects), (403, "Executor is not subscribed".into()));
}

#[test]
fn malformed_updates_are_refused_with_the_fault() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    let good = agent.status(&task, TaskState::TaskRunning);
    let check = |command| v1::CheckStatusInfo {
        r#type: Some(v1::check_info::Type::Http.into()),
        command,
        ..v1::CheckStatusInfo::default()
    };
    let faults = [
        (
            "uuid",
            v1::TaskStatus {
                uuid: None,
                ..good.clone()
            },
        ),
        (
            "16 bytes",
            v1::TaskStatus {
                uuid: Some(Bytes::from_static(b"short")),
                ..good.clone()
            },
        ),
        (
            "source",
            v1::TaskStatus {
                source: None,
                ..good.clone()
            },
        ),
        (
            "source",
            v1::TaskStatus {
                source: Some(Source::Agent.into()),
                ..good.clone()
            },
        ),
        (
            "STAGING",
            v1::TaskStatus {
                state: TaskState::TaskStaging.into(),
                ..good.clone()
            },
        ),
        (
            "unknown",
            v1::TaskStatus {
                state: 99,
                ..good.clone()
            },
        ),
        (
            "executor",
            v1::TaskStatus {
                executor_id: Some(v1::ExecutorId { value: "x".into() }),
                ..good.clone()
            },
        ),
        (
            "agent",
            v1::TaskStatus {
                agent_id: Some(v1::AgentId { value: "S9".into() }),
                ..good.clone()
            },
        ),
        (
            "check_status",
            v1::TaskStatus {
                check_status: Some(check(None)),
                ..good.clone()
            },
        ),
        (
            "check_status",
            v1::TaskStatus {
                check_status: Some(check(Some(Default::default()))),
                ..good.clone()
            },
        ),
    ];
    for (fault, status) in faults {
        let effects = agent.send(&executor, status);
        let (status, message) = answer(&effects);
        assert_eq!(status, 400, "{fault}");
        assert!(message.contains(fault), "{message} should name {fault}");
        assert_eq!(updates(&effects), []);
    }
    assert_eq!(answer(&agent.send(&executor, good)).0, 202);
}

#[test]
fn an_executor_cannot_speak_of_the_tasks_of_another() {
    let mut agent = Agent::registered();
    let (task, _, _) = agent.run(&aware("F"), "a");
    agent.launch(&aware("F"), vec![custom_task("b", "mine")]);
    let executor = executor_ref("F", "mine");
    agent.started(&executor);
    agent.subscribe(&executor);
    assert_eq!(
        answer(&agent.update(&executor, &task, TaskState::TaskFinished)).0,
        400
    );
}

#[test]
fn calls_of_no_known_type_and_calls_without_a_body_are_refused() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&aware("F"), "a");
    for (kind, status) in [
        (executor_call::Type::Unknown, 501),
        (executor_call::Type::Update, 400),
        (executor_call::Type::Message, 400),
        (executor_call::Type::Subscribe, 400),
        (executor_call::Type::Heartbeat, 202),
    ] {
        assert_eq!(
            answer(&agent.call(&executor, call(&executor, kind))).0,
            status,
            "{kind:?}"
        );
    }
}

#[test]
fn a_subscription_without_its_body_is_refused() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&aware("F"), "a");
    let token = agent.tokens.get(&executor).cloned();
    let effects = agent.apply(Input::ExecutorSubscribe {
        request: RequestKey(9_001),
        connection: ConnectionKey(9_002),
        call: call(&executor, executor_call::Type::Subscribe),
        token,
    });
    assert_eq!(answer(&effects).0, 400);
}

#[test]
fn a_second_subscription_replaces_the_first() {
    let mut agent = Agent::registered();
    let (task, executor, first) = agent.run(&aware("F"), "a");
    let (second, effects) = agent.subscribe(&executor);
    assert!(effects.contains(&Effect::CloseExecutor { connection: first }));
    assert_eq!(
        agent.apply(Input::ExecutorDisconnected { connection: first }),
        []
    );
    let effects = agent.kill(&task);
    assert!(
        matches!(&effects[..], [Effect::ToExecutor { connection, .. }] if *connection == second)
    );
}

#[test]
fn a_kill_that_met_a_broken_stream_is_repeated_on_the_next() {
    let mut agent = Agent::registered();
    let (task, executor, connection) = agent.run(&aware("F"), "a");
    agent.apply(Input::ExecutorDisconnected { connection });
    assert_eq!(agent.kill(&task), []);
    assert_eq!(
        event_types(&agent.subscribe(&executor).1),
        ["SUBSCRIBED", "KILL"]
    );
}

#[test]
fn messages_pass_both_ways() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&aware("F"), "a");
    let message = Some(executor_call::Message {
        data: Bytes::from_static(b"up"),
    });
    let upwards = Call {
        message,
        ..call(&executor, executor_call::Type::Message)
    };
    let effects = agent.call(&executor, upwards);
    let [to_master::Body::Message(message)] = &to_master(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(
        (&message.data[..], message.executor_id.value.as_str()),
        (&b"up"[..], WASM)
    );
    let downwards = link::ExecutorMessage {
        framework_id: v1::FrameworkId { value: "F".into() },
        executor_id: v1::ExecutorId { value: WASM.into() },
        data: Bytes::from_static(b"down"),
    };
    let effects = agent.hear(to_agent::Body::Message(downwards.clone()));
    assert_eq!(
        events(&effects)[0].message.as_ref().unwrap().data,
        &b"down"[..]
    );
    // A scheduler knows the executor of a command by its task's id.
    let by_task = |task: &str| link::ExecutorMessage {
        executor_id: v1::ExecutorId { value: task.into() },
        ..downwards.clone()
    };
    let effects = agent.hear(to_agent::Body::Message(by_task("a")));
    assert_eq!(
        events(&effects)[0].message.as_ref().unwrap().data,
        &b"down"[..]
    );
    let effects = agent.hear(to_agent::Body::Message(by_task("b")));
    assert!(events(&effects).is_empty(), "{effects:?}");
}

fn guest_call(executor: &ExecutorRef, task: &str) -> guest::Call {
    guest::Call {
        framework_id: executor.framework.as_str().into(),
        executor_id: executor.executor.as_str().into(),
        task_id: task.into(),
        request: guest::Request::default(),
    }
}

#[test]
fn a_guests_role_and_job_are_what_the_agent_knows_of_its_task() {
    let mut agent = Agent::registered();
    let mut info = task_info("a");
    for resource in &mut info.resources {
        resource.allocation_info = Some(v1::resource::AllocationInfo {
            role: Some("eng/web".to_owned()),
        });
    }
    info.labels = Some(v1::Labels {
        labels: vec![v1::Label {
            key: JOB_LABEL.to_owned(),
            value: Some("shop".to_owned()),
        }],
    });
    agent.launch(&aware("F"), vec![info]);
    agent.prepared(&task_ref("F", "a"), launch_plan::Body::Wasm);
    let executor = executor_ref("F", WASM);
    let ask = |agent: &Agent, task: &str, token: Option<&str>| {
        agent.core.guest_task(&guest_call(&executor, task), token)
    };
    agent.started(&executor);
    let token = agent.tokens[&executor].clone();
    let refused = |asked: Result<GuestTask, Rejection>| asked.unwrap_err().status;
    assert_eq!(
        refused(ask(&agent, "a", Some(&token))),
        403,
        "not subscribed"
    );
    agent.subscribe(&executor);
    agent.update(&executor, &task_ref("F", "a"), TaskState::TaskRunning);
    let known = ask(&agent, "a", Some(&token)).unwrap();
    assert_eq!(
        (known.role.as_str(), known.job.as_deref()),
        ("eng/web", Some("shop"))
    );
    // Without a label there is no job, and without an allocation the framework's role counts.
    agent.launch(&aware("F"), vec![task_info("b")]);
    agent.prepared(&task_ref("F", "b"), launch_plan::Body::Wasm);
    let known = ask(&agent, "b", Some(&token)).unwrap();
    assert_eq!((known.role.as_str(), known.job), ("*", None));

    assert_eq!(refused(ask(&agent, "a", None)), 403, "no token");
    assert_eq!(refused(ask(&agent, "a", Some("wrong"))), 403);
    assert_eq!(refused(ask(&agent, "nobody's", Some(&token))), 403);
    // Tasks of another framework, and of another executor of the same one.
    let (_, other, _) = agent.run(&aware("G"), "c");
    assert_eq!(refused(ask(&agent, "c", Some(&token))), 403);
    let others = guest_call(&other, "c");
    assert_eq!(refused(agent.core.guest_task(&others, Some(&token))), 403);
    agent.launch(&aware("F"), vec![custom_task("d", "mine")]);
    let own = executor_ref("F", "mine");
    agent.started(&own);
    agent.subscribe(&own);
    let asked = agent.core.guest_task(&guest_call(&own, "d"), None);
    assert_eq!(
        refused(asked),
        403,
        "here executors of frameworks show their tokens too"
    );
    let own_token = agent.tokens[&own].clone();
    agent
        .core
        .guest_task(&guest_call(&own, "d"), Some(&own_token))
        .unwrap();
    assert_eq!(refused(ask(&agent, "d", Some(&token))), 403);
    agent.update(&executor, &task_ref("F", "a"), TaskState::TaskFinished);
    assert_eq!(refused(ask(&agent, "a", Some(&token))), 403, "it has ended");
}

#[test]
fn guests_wait_for_an_agent_that_recovers() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&checkpointing("F"), "a");
    let token = agent.tokens[&executor].clone();
    agent.restart();
    let asked = agent
        .core
        .guest_task(&guest_call(&executor, "a"), Some(&token));
    assert_eq!(asked.unwrap_err().status, 503);
}
