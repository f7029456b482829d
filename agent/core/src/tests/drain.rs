//! An agent whose tasks are to end, by its operator's wish.

use tepui_api::ext::launch_plan::Body;
use tepui_api::link::{self, to_agent};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, TaskState};

use super::harness::*;
use crate::{Effect, Input};

fn config(grace_seconds: Option<i64>, mark_gone: bool) -> v1::DrainConfig {
    v1::DrainConfig {
        max_grace_period: grace_seconds.map(grace),
        mark_gone: Some(mark_gone),
    }
}

fn grace(seconds: i64) -> v1::DurationInfo {
    v1::DurationInfo {
        nanoseconds: seconds * 1_000_000_000,
    }
}

fn drain(config: Option<v1::DrainConfig>) -> to_agent::Body {
    to_agent::Body::Drain(link::Drain { config })
}

/// The grace periods that executors were told with KILL.
fn kills(effects: &[Effect]) -> Vec<Option<v1::DurationInfo>> {
    let events = events(effects).into_iter();
    let kills = events.filter_map(|event| event.kill);
    kills
        .map(|kill| kill.kill_policy.and_then(|policy| policy.grace_period))
        .collect()
}

#[test]
fn every_task_is_killed_with_at_most_the_grace_that_is_allowed() {
    for (own, most, told) in [
        (None, None, None),
        (None, Some(1), Some(1)),
        // Executors wait 3 seconds by themselves, and longer than that they shall not.
        (None, Some(600), None),
        (Some(60), Some(10), Some(10)),
        (Some(5), Some(10), None),
    ] {
        let mut agent = Agent::registered();
        let (_, executor, _) = agent.run(&aware("F"), "a");
        let mut patient = task_info("b");
        patient.kill_policy = own.map(|own| v1::KillPolicy {
            grace_period: Some(grace(own)),
        });
        agent.launch(&aware("F"), vec![patient]);
        agent.prepared(&task_ref("F", "b"), Body::Wasm);
        agent.update(&executor, &task_ref("F", "b"), TaskState::TaskRunning);
        let effects = agent.hear(drain(Some(config(most, false))));
        let told_to = kills(&effects);
        assert_eq!(told_to.len(), 2);
        assert_eq!(told_to[1], told.map(grace), "{own:?} {most:?}");
    }
}

#[test]
fn an_update_of_a_kill_names_the_draining() {
    for (mark_gone, framework, state) in [
        (false, aware("F"), TaskState::TaskKilled),
        (true, aware("F"), TaskState::TaskGoneByOperator),
        (true, framework("F", &[], false), TaskState::TaskKilled),
    ] {
        let mut agent = Agent::registered();
        let (task, executor, _) = agent.run(&framework, "a");
        agent.hear(drain(Some(config(None, mark_gone))));
        let effects = agent.update(&executor, &task, TaskState::TaskKilled);
        assert_eq!(told(&effects), (state, Reason::AgentDraining));
    }
    // A task that ends by itself meanwhile just ends.
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&aware("F"), "a");
    agent.hear(drain(Some(config(None, true))));
    let effects = agent.update(&executor, &task, TaskState::TaskFinished);
    assert_eq!(the_update(&effects).status.state(), TaskState::TaskFinished);
}

#[test]
fn nothing_is_launched_until_draining_is_over() {
    let mut agent = Agent::registered();
    agent.hear(drain(Some(config(None, false))));
    let effects = agent.launch(&aware("F"), vec![task_info("a")]);
    assert_eq!(
        told(&effects),
        (TaskState::TaskDropped, Reason::AgentDraining)
    );
    let effects = agent.launch(&framework("G", &[], false), vec![task_info("a")]);
    assert_eq!(told(&effects), (TaskState::TaskLost, Reason::AgentDraining));
    agent.hear(drain(None));
    let effects = agent.launch(&aware("F"), vec![task_info("b")]);
    assert!(matches!(effects.as_slice(), [Effect::Prepare { .. }]));
    assert!(agent.disk.is_empty(), "{:?}", agent.disk.keys());
}

#[test]
fn a_task_that_is_still_made_ready_ends_at_once() {
    let mut agent = Agent::registered();
    agent.launch(&aware("F"), vec![task_info("a")]);
    let effects = agent.hear(drain(Some(config(None, false))));
    assert_eq!(
        told(&effects),
        (TaskState::TaskKilled, Reason::AgentDraining)
    );
}

#[test]
fn draining_survives_a_restart_of_the_agent() {
    let mut agent = Agent::registered();
    let (task, executor, _) = agent.run(&checkpointing("F"), "a");
    agent.hear(drain(Some(config(Some(1), false))));
    let before = agent.core.view().drain;
    agent.restart();
    assert_eq!(agent.core.view().drain, before);
    agent.apply(Input::LinkUp);
    let (_, effects) = agent.subscribe(&executor);
    assert_eq!(kills(&effects), [Some(grace(1))], "it may have missed it");
    // Again when the master repeats it, and the record is not written again.
    let effects = agent.answer_registration_with(Some(config(Some(1), false)));
    assert_eq!(kills(&effects), [Some(grace(1))]);
    let saved = |effect: &Effect| matches!(effect, Effect::Save { .. });
    assert!(!effects.iter().any(saved));
    let effects = agent.update(&executor, &task, TaskState::TaskKilled);
    assert_eq!(the_update(&effects).status.reason(), Reason::AgentDraining);
}

#[test]
fn a_registration_that_does_not_speak_of_draining_ends_it() {
    let mut agent = Agent::registered();
    agent.hear(drain(Some(config(None, false))));
    assert!(agent.core.view().drain.is_some());
    agent.apply(Input::LinkDown);
    agent.link_up();
    assert_eq!(agent.core.view().drain, None);
}

#[test]
fn an_agent_that_is_never_wanted_again_forgets_its_id() {
    let mut agent = Agent::registered();
    let effects = agent.hear(to_agent::Body::Refused(link::Refused {
        message: "gone".to_owned(),
        r#final: Some(true),
    }));
    let forgot = effects
        .iter()
        .position(|effect| *effect == Effect::ForgetAgentId);
    let exits = |effect: &Effect| matches!(effect, Effect::Exit { .. });
    let exited = effects.iter().position(exits);
    assert!(forgot.is_some() && forgot < exited, "{effects:?}");
}
