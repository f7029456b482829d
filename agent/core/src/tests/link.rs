//! Registration, silence, refusal, and what is sent again over a new link.

use std::time::Duration;

use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::TaskState;
use tepui_model::AgentId;

use super::harness::*;
use crate::{Effect, Input, Recovered};

#[test]
fn a_new_agent_registers_first_and_keeps_the_id_it_is_given() {
    let mut agent = Agent::new(Recovered::default());
    let effects = agent.apply(Input::LinkUp);
    let register = registration(&effects);
    assert_eq!(effects.len(), 1);
    assert_eq!(
        (register.agent.id, register.endpoint.as_str()),
        (None, "10.0.0.7:5051")
    );
    assert_eq!(
        (register.tasks.len(), register.boot_id.as_str()),
        (0, "boot")
    );
    let effects = agent.answer_registration();
    assert!(
        matches!(&effects[..], [Effect::SaveAgent { id, .. }] if *id == AgentId::from("S0")),
        "{effects:?}"
    );
    assert!(agent.core.view().registered);
}

#[test]
fn an_agent_registers_again_with_its_id_and_saves_it_only_once() {
    let mut agent = Agent::registered();
    agent.apply(Input::LinkDown);
    let effects = agent.link_up();
    assert_eq!(registration(&effects).agent.id.unwrap().value, "S0");
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::SaveAgent { .. }))
    );
}

#[test]
fn registration_reports_what_lives_and_what_ended_unacknowledged() {
    let mut agent = Agent::registered();
    let (framework, other) = (aware("F"), aware("G"));
    let (_, executor, _) = agent.run(&framework, "lives");
    let (ended, _, _) = agent.run(&framework, "ended");
    agent.update(&executor, &ended, TaskState::TaskFinished);
    let (gone, _, _) = agent.run(&framework, "gone");
    let effects = agent.update(&executor, &gone, TaskState::TaskFinished);
    agent.acknowledge_all(&effects);
    agent.launch(&other, vec![custom_task("custom", "mine")]);
    agent.apply(Input::LinkDown);
    let register = registration(&agent.apply(Input::LinkUp));
    let tasks: Vec<_> = register
        .tasks
        .iter()
        .map(|task| (task.task_id.value.as_str(), task.state()))
        .collect();
    assert_eq!(
        tasks,
        [
            ("ended", TaskState::TaskFinished),
            ("lives", TaskState::TaskRunning),
            ("custom", TaskState::TaskStaging)
        ]
    );
    assert!(register.tasks[0].status_update_uuid.is_some());
    assert_eq!(register.frameworks.len(), 2);
    assert_eq!(
        register.executors.len(),
        1,
        "built-in executors are nobody's business"
    );
    assert_eq!(
        register.executors[0].framework_id.as_ref().unwrap().value,
        "G"
    );
}

#[test]
fn every_ping_is_answered_with_its_number() {
    let mut agent = Agent::registered();
    let effects = agent.hear(to_agent::Body::Ping(link::Ping { sequence: 17 }));
    assert_eq!(
        to_master(&effects),
        [to_master::Body::Pong(link::Pong { sequence: 17 })]
    );
}

#[test]
fn a_silent_master_is_given_up_and_a_ping_counts_as_a_word() {
    let mut agent = Agent::registered();
    let almost = PING_TIMEOUT - Duration::from_millis(1);
    assert_eq!(agent.pass(almost), []);
    agent.hear(to_agent::Body::Ping(link::Ping { sequence: 1 }));
    assert_eq!(agent.pass(almost), []);
    assert_eq!(agent.pass(Duration::from_millis(1)), [Effect::CloseLink]);
    assert!(!agent.core.view().registered);
}

#[test]
fn a_refused_agent_tries_again_unless_the_refusal_is_final() {
    let mut agent = Agent::registered();
    let (_, executor, _) = agent.run(&aware("F"), "a");
    agent.apply(Input::LinkDown);
    agent.apply(Input::LinkUp);
    let refused = |r#final| {
        to_agent::Body::Refused(link::Refused {
            message: "gone".into(),
            r#final,
        })
    };
    assert_eq!(agent.hear(refused(None)), [Effect::CloseLink]);
    assert_eq!(agent.core.view().tasks.len(), 1);
    agent.apply(Input::LinkUp);
    let effects = agent.hear(refused(Some(true)));
    assert!(effects.contains(&Effect::DestroyExecutor {
        executor: executor.clone()
    }));
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Exit { .. })),
        "the executor still ends"
    );
    assert_eq!(agent.core.view().tasks, []);
    let effects = agent.exited(&executor);
    assert_eq!(
        effects.last(),
        Some(&Effect::Exit {
            message: "gone".into()
        })
    );
    assert_eq!(agent.apply(Input::LinkUp), []);
}

#[test]
fn an_agent_told_to_go_goes_even_if_an_executor_will_not_end() {
    let mut agent = Agent::registered();
    agent.run(&aware("F"), "a");
    agent.hear(to_agent::Body::Refused(link::Refused {
        message: "gone".into(),
        r#final: Some(true),
    }));
    let effects = agent.pass(Duration::from_secs(5));
    assert_eq!(
        effects,
        [
            Effect::ForgetAgentId,
            Effect::Exit {
                message: "gone".into()
            }
        ]
    );
}

#[test]
fn orders_from_a_link_given_up_are_not_followed() {
    let mut agent = Agent::registered();
    agent.apply(Input::LinkDown);
    assert_eq!(agent.launch(&aware("F"), vec![task_info("a")]), []);
    agent.apply(Input::LinkUp);
    assert_eq!(agent.launch(&aware("F"), vec![task_info("a")]), []);
}
