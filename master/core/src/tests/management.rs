//! Agents that operators deactivate, drain, take back and give up.

use tepui_api::link::{to_agent, to_master};
use tepui_api::v1::TaskState::{
    TaskGoneByOperator, TaskKilled, TaskLost, TaskRunning, TaskUnreachable,
};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, DrainState};

use super::harness::*;
use crate::{Answer, LinkKey};

const MACHINE: &str = "cpus:4;mem:1024";

fn drain_state(cluster: &Cluster, agent: &Agent) -> Option<DrainState> {
    let view = cluster.view();
    let deactivation = view.deactivated_agents.get(agent.id.as_str())?;
    Some(deactivation.drain.as_ref()?.info.state())
}

/// What the agent was told about draining, in order.
fn told_to_drain(cluster: &mut Cluster, agent: &Agent) -> Vec<Option<v1::DrainConfig>> {
    let messages = cluster.messages(agent).into_iter();
    let drains = messages.filter_map(|body| match body {
        to_agent::Body::Drain(drain) => Some(drain.config),
        _ => None,
    });
    drains.collect()
}

/// Registers again and returns what the agent was told about draining.
fn return_of(cluster: &mut Cluster, agent: &Agent) -> (Agent, Option<v1::DrainConfig>) {
    let reported = cluster.reported();
    let link = LinkKey(cluster.number());
    let register = reregister(agent, MACHINE, reported);
    cluster.from(link, to_master::Body::Register(register));
    let messages = cluster.messages.get_mut(&link).unwrap();
    let to_agent::Body::Registered(registered) = messages.remove(0) else {
        panic!("{messages:?}")
    };
    let agent = Agent {
        id: agent.id.clone(),
        link,
    };
    (agent, registered.drain)
}

#[test]
fn a_deactivated_agent_keeps_its_tasks_and_offers_nothing_until_it_is_reactivated() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    cluster.advance(std::time::Duration::from_secs(6));
    cluster.events(&scheduler);
    assert_eq!(cluster.view().offers.len(), 1);
    assert_eq!(cluster.operator(deactivate(&agent)), Answer::Done);
    assert!(cluster.events(&scheduler)[0].rescind.is_some());
    assert!(cluster.offers(&scheduler).is_empty());
    let view = cluster.view();
    let record = view.agent(&agent.id).unwrap();
    assert!(record.connected && !record.active);
    assert_eq!(view.tasks.len(), 1);
    // It stays so when the agent dials again and when the master starts again.
    let agent = cluster.register(reregister(&agent, MACHINE, cluster.reported()));
    assert!(cluster.offers(&scheduler).is_empty());
    let reported = cluster.reported();
    cluster.restart();
    let mut again = info("one");
    again.id = Some(scheduler.id.as_str().into());
    let scheduler = cluster.subscribe(again);
    let agent = cluster.register(reregister(&agent, MACHINE, reported));
    assert!(cluster.offers(&scheduler).is_empty());
    assert_eq!(cluster.operator(reactivate(&agent)), Answer::Done);
    assert_eq!(cluster.offers(&scheduler).len(), 1);
    let deactivated = |key: &String| key.starts_with("deactivated/");
    assert!(!cluster.registry.keys().any(deactivated));
}

#[test]
fn an_agent_is_drained_once_the_last_update_of_its_last_task_is_acknowledged() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    cluster.update(&scheduler, &agent, "t", TaskRunning);
    let grace = Some((1, 500_000_000));
    assert_eq!(cluster.operator(drain(&agent, grace, false)), Answer::Done);
    let config = v1::DrainConfig {
        max_grace_period: Some(v1::DurationInfo {
            nanoseconds: 1_500_000_000,
        }),
        mark_gone: Some(false),
    };
    assert_eq!(told_to_drain(&mut cluster, &agent), [Some(config)]);
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Draining));
    let answer = cluster.operator(reactivate(&agent));
    assert_eq!(refusal(&answer).0, 400);
    let uuid = cluster.update(&scheduler, &agent, "t", TaskKilled);
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Draining));
    cluster.slow_disk = true;
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Draining));
    cluster.slow_disk = false;
    cluster.finish_writes();
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Drained));
    assert_eq!(told_to_drain(&mut cluster, &agent), [None]);
    assert!(cluster.offers(&scheduler).is_empty());
    // It is not drained anew when it comes back.
    let (agent, drain) = return_of(&mut cluster, &agent);
    assert_eq!(drain, None);
    assert_eq!(cluster.operator(reactivate(&agent)), Answer::Done);
    assert_eq!(cluster.offers(&scheduler).len(), 1);
}

#[test]
fn an_idle_agent_is_drained_at_once_and_one_to_be_marked_gone_is_gone() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    assert_eq!(cluster.operator(drain(&agent, None, false)), Answer::Done);
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Drained));
    assert_eq!(cluster.operator(drain(&agent, None, true)), Answer::Done);
    let view = cluster.view();
    assert!(view.gone_agents.contains_key(agent.id.as_str()));
    assert!(view.agents.is_empty() && view.deactivated_agents.is_empty());
    assert!(matches!(
        cluster.messages(&agent).last(),
        Some(to_agent::Body::Refused(refused)) if refused.r#final()
    ));
}

#[test]
fn draining_survives_the_masters_restart_and_reaches_an_agent_that_was_away() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    cluster.cut(&agent);
    assert_eq!(cluster.operator(drain(&agent, None, false)), Answer::Done);
    let (agent, drain) = return_of(&mut cluster, &agent);
    assert_eq!(drain.unwrap().mark_gone, Some(false));
    let reported = cluster.reported();
    cluster.restart();
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Draining));
    let agent = cluster.register(reregister(&agent, MACHINE, reported));
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Draining));
    let mut again = info("one");
    again.id = Some(scheduler.id.as_str().into());
    let scheduler = cluster.subscribe(again);
    let uuid = cluster.update(&scheduler, &agent, "t", TaskKilled);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Drained));
    cluster.restart();
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Drained));
}

#[test]
fn draining_an_unreachable_agent_is_remembered_until_it_returns() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(partition_aware("one"));
    cluster.start(&scheduler, "t");
    let reported = cluster.reported();
    cluster.lose(&agent, &[]);
    assert_eq!(cluster.operator(drain(&agent, None, true)), Answer::Done);
    assert_eq!(drain_state(&cluster, &agent), Some(DrainState::Draining));
    cluster.events(&scheduler);
    let agent = cluster.register(reregister(&agent, MACHINE, reported));
    assert!(cluster.offers(&scheduler).is_empty());
    let uuid = cluster.update(&scheduler, &agent, "t", TaskGoneByOperator);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    let view = cluster.view();
    assert!(view.gone_agents.contains_key(agent.id.as_str()));
    assert!(view.deactivated_agents.is_empty());
}

#[test]
fn what_cannot_be_managed_is_refused_with_its_reason() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let nobody = Agent {
        id: "nobody".to_owned(),
        link: LinkKey(0),
    };
    for call in [
        drain(&nobody, None, false),
        deactivate(&nobody),
        reactivate(&nobody),
        reactivate(&agent),
        drain(&agent, Some((-1, 0)), false),
        drain(&agent, Some((i64::MAX, 0)), false),
    ] {
        let answer = cluster.operator(call.clone());
        assert_eq!(refusal(&answer).0, 400, "{call:?}");
    }
    let answer = cluster.operator(mark_gone("nobody"));
    assert_eq!(refusal(&answer), (404, "Agent nobody is not known"));
    let mut old = register(MACHINE);
    old.capabilities.clear();
    let old = cluster.register(old);
    let answer = cluster.operator(drain(&old, None, false));
    assert_eq!(refusal(&answer).0, 400);
    assert!(refusal(&answer).1.contains("AGENT_DRAINING"));
    assert!(cluster.view().deactivated_agents.is_empty());
}

#[test]
fn an_agent_that_is_being_marked_gone_cannot_be_managed() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    cluster.slow_disk = true;
    let gone = cluster.operator_asks(mark_gone(&agent.id));
    assert_eq!(
        refusal(&cluster.operator(drain(&agent, None, false))).0,
        409
    );
    assert_eq!(refusal(&cluster.operator(deactivate(&agent))).0, 409);
    assert_eq!(refusal(&cluster.operator(mark_gone(&agent.id))).0, 503);
    assert!(!cluster.answers.contains_key(&gone));
    cluster.slow_disk = false;
    cluster.finish_writes();
    assert_eq!(cluster.answers.get(&gone), Some(&Answer::Done));
    assert_eq!(cluster.operator(mark_gone(&agent.id)), Answer::Done);
    assert_eq!(refusal(&cluster.operator(deactivate(&agent))).0, 400);
}

#[test]
fn changes_wait_for_each_other() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    cluster.slow_disk = true;
    let first = cluster.operator_asks(deactivate(&agent));
    // Refused if it were judged by what is on disk now.
    let second = cluster.operator_asks(reactivate(&agent));
    assert!(!cluster.answers.contains_key(&first) && !cluster.answers.contains_key(&second));
    cluster.finish_writes();
    assert_eq!(cluster.answers.get(&first), Some(&Answer::Done));
    assert_eq!(cluster.answers.get(&second), Some(&Answer::Done));
    assert!(cluster.view().deactivated_agents.is_empty());
}

#[test]
fn the_tasks_of_an_agent_marked_gone_end_as_each_framework_understands_it() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let aware = cluster.subscribe(partition_aware("aware"));
    cluster.start(&aware, "a");
    assert_eq!(cluster.operator(mark_gone(&agent.id)), Answer::Done);
    let events = cluster.events(&aware);
    assert!(events.iter().any(|event| event.failure.is_some()));
    let statuses: Vec<_> = events
        .into_iter()
        .filter_map(|event| event.update)
        .map(|update| update.status)
        .collect();
    assert_eq!(
        told(&statuses),
        [(TaskGoneByOperator, Some(Reason::AgentRemovedByOperator))]
    );
    cluster.call(&aware, reconcile(&[("a", Some(agent.id.as_str()))]));
    assert_eq!(
        told(&cluster.statuses(&aware)),
        [(TaskGoneByOperator, Some(Reason::Reconciliation))]
    );
    let agent = cluster.agent(MACHINE);
    cluster.call(&aware, plain(v1::scheduler::call::Type::Suppress));
    let unaware = cluster.subscribe(info("unaware"));
    let offer = cluster.view().offers.values().next().cloned();
    if let Some(offer) = offer {
        cluster.call(&aware, decline(&[offer.wire.as_ref().clone()], Some(0.0)));
    }
    cluster.start(&unaware, "u");
    assert_eq!(cluster.operator(mark_gone(&agent.id)), Answer::Done);
    assert_eq!(
        told(&cluster.statuses(&unaware)),
        [(TaskLost, Some(Reason::AgentRemoved))]
    );
    let completed = |scheduler: &Scheduler| {
        let view = cluster.view();
        view.framework(&scheduler.id)
            .map(|framework| framework.completed_tasks.len())
    };
    assert_eq!((completed(&aware), completed(&unaware)), (Some(1), Some(1)));
}

#[test]
fn an_unreachable_agent_that_is_marked_gone_takes_its_tasks_with_it_for_good() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(partition_aware("one"));
    cluster.start(&scheduler, "t");
    let reported = cluster.reported();
    cluster.lose(&agent, &[]);
    assert_eq!(
        told(&cluster.statuses(&scheduler)),
        [(TaskUnreachable, Some(Reason::AgentRemoved))]
    );
    assert_eq!(cluster.operator(mark_gone(&agent.id)), Answer::Done);
    assert_eq!(
        told(&cluster.statuses(&scheduler)),
        [(TaskGoneByOperator, Some(Reason::AgentRemovedByOperator))]
    );
    cluster.restart();
    let link = LinkKey(cluster.number());
    let register = reregister(&agent, MACHINE, reported);
    cluster.from(link, to_master::Body::Register(register));
    let messages = cluster.messages.remove(&link).unwrap();
    assert!(
        matches!(messages.as_slice(), [to_agent::Body::Refused(refused)]
            if refused.r#final() && refused.message.contains("gone"))
    );
}
