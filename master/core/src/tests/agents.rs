//! Agents that come, break off, stay away and return.

use std::time::Duration;

use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1;
use tepui_api::v1::TaskState::{
    TaskFinished, TaskGone, TaskLost, TaskRunning, TaskStaging, TaskUnreachable,
};
use tepui_api::v1::scheduler::event;
use tepui_api::v1::task_status::Reason;

use super::harness::*;
use crate::LinkKey;

const MACHINE: &str = "cpus:4;mem:1024";

fn tasks(cluster: &Cluster) -> Vec<v1::Task> {
    cluster
        .view()
        .tasks
        .values()
        .map(|task| task.wire.clone())
        .collect()
}

#[test]
fn a_new_agent_hears_its_id_only_once_it_is_on_disk() {
    let mut cluster = Cluster::new();
    cluster.slow_disk = true;
    let link = LinkKey(7);
    cluster.from(link, to_master::Body::Register(register(MACHINE)));
    assert!(cluster.messages.is_empty() && cluster.view().agents.is_empty());
    cluster.finish_writes();
    let messages = cluster.messages.remove(&link).unwrap();
    let [to_agent::Body::Registered(registered)] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    assert_eq!(
        (
            registered.agent_id.value.as_str(),
            registered.ping_timeout_ms
        ),
        ("m0-S0", 75_000)
    );
    assert!(cluster.registry.contains_key("agent/m0-S0"));
    assert_eq!(
        cluster.view().agent("m0-S0").unwrap().total,
        resources(MACHINE)
    );
}

#[test]
fn an_agent_that_hangs_up_before_it_heard_its_id_leaves_no_trace() {
    let mut cluster = Cluster::new();
    cluster.slow_disk = true;
    cluster.from(LinkKey(7), to_master::Body::Register(register(MACHINE)));
    cluster.apply(crate::Input::LinkClosed { link: LinkKey(7) });
    cluster.finish_writes();
    assert!(cluster.view().agents.is_empty());
    assert!(!cluster.registry.keys().any(|key| key.starts_with("agent/")));
}

#[test]
fn what_an_agent_sends_while_it_is_written_down_is_not_lost() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    let reported = tasks(&cluster);
    cluster.lose(&agent, &[]);
    cluster.events(&scheduler);
    cluster.slow_disk = true;
    let link = LinkKey(cluster.number());
    cluster.from(
        link,
        to_master::Body::Register(reregister(&agent, MACHINE, reported)),
    );
    let agent = Agent { link, ..agent };
    cluster.update(&scheduler, &agent, "t", TaskRunning);
    assert!(cluster.statuses(&scheduler).is_empty());
    cluster.finish_writes();
    let states: Vec<_> = told(&cluster.statuses(&scheduler))
        .into_iter()
        .map(|(state, _)| state)
        .collect();
    assert_eq!(states, [TaskStaging, TaskRunning]);
}

#[test]
fn a_broken_link_takes_offers_back_and_loses_tasks_without_checkpoints() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let unchecked = v1::FrameworkInfo {
        checkpoint: None,
        ..partition_aware("unchecked")
    };
    let unchecked = cluster.subscribe(unchecked);
    cluster.start(&unchecked, "lost");
    let checked = cluster.subscribe(partition_aware("checked"));
    cluster.advance(Duration::from_millis(100));
    let offer = cluster.offers(&checked).into_iter().next();
    let offer = offer.unwrap_or_else(|| {
        cluster
            .view()
            .offers
            .values()
            .next()
            .unwrap()
            .wire
            .as_ref()
            .clone()
    });
    cluster.launch(
        &checked,
        &[offer],
        vec![task(&cluster_offer(&agent), "kept", "cpus:1;mem:64")],
    );
    cluster.advance(Duration::from_secs(6));
    cluster.events(&checked);
    cluster.events(&unchecked);
    let offered = cluster.view().offers.len();
    assert!(offered > 0);
    cluster.cut(&agent);
    assert!(cluster.view().offers.is_empty());
    let events: Vec<_> = [cluster.events(&checked), cluster.events(&unchecked)].concat();
    let rescinded = events
        .iter()
        .filter(|event| event.r#type() == event::Type::Rescind)
        .count();
    assert_eq!(rescinded, offered);
    let lost: Vec<_> = events
        .into_iter()
        .filter_map(|event| event.update)
        .map(|update| update.status)
        .collect();
    assert_eq!(told(&lost), [(TaskLost, Some(Reason::AgentDisconnected))]);
    let left: Vec<_> = cluster
        .view()
        .tasks
        .values()
        .map(|task| task.id.to_string())
        .collect();
    assert_eq!(left, ["kept"]);
    let record = cluster.view().agent(&agent.id).unwrap().clone();
    assert!(!record.connected && !record.active && record.link.is_none());
    cluster.settle();
    assert!(cluster.view().offers.is_empty());
}

fn cluster_offer(agent: &Agent) -> v1::Offer {
    v1::Offer {
        agent_id: agent.id.as_str().into(),
        ..v1::Offer::default()
    }
}

#[test]
fn a_task_that_was_lost_with_the_link_is_killed_when_the_agent_is_back() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(v1::FrameworkInfo {
        checkpoint: None,
        ..info("one")
    });
    cluster.start(&scheduler, "t");
    let reported = tasks(&cluster);
    cluster.cut(&agent);
    assert_eq!(told(&cluster.statuses(&scheduler)).len(), 1);
    // It comes back, but the kill does not reach it before it is given up; then it comes back for good.
    let agent = cluster.register(reregister(&agent, MACHINE, reported.clone()));
    assert!(matches!(
        cluster.messages(&agent).as_slice(),
        [to_agent::Body::Kill(_)]
    ));
    cluster.lose(&agent, &[]);
    let agent = cluster.register(reregister(&agent, MACHINE, reported));
    assert!(matches!(
        cluster.messages(&agent).as_slice(),
        [to_agent::Body::Kill(_)]
    ));
    cluster.update(&scheduler, &agent, "t", v1::TaskState::TaskKilled);
    assert!(cluster.statuses(&scheduler).is_empty(), "a task ends once");
    assert!(cluster.view().tasks.is_empty());
}

#[test]
fn who_refused_an_agent_refuses_it_still_when_its_link_is_a_new_one() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    let reported = tasks(&cluster);
    cluster.advance(Duration::from_secs(6));
    let left = cluster.offers(&scheduler);
    assert_eq!(left.len(), 1, "what the task left");
    cluster.call(&scheduler, decline(&left, Some(1000.0)));
    cluster.cut(&agent);
    let agent = cluster.register(reregister(&agent, MACHINE, reported.clone()));
    cluster.settle();
    assert_eq!(cluster.offers(&scheduler), []);

    // A refusal is of what was offered: of an agent that has more it says nothing.
    let larger = cluster.register(reregister(&agent, "cpus:64;mem:65536", reported.clone()));
    cluster.settle();
    let more = cluster.offers(&scheduler);
    assert_eq!(more.len(), 1);
    cluster.call(&scheduler, decline(&more, Some(1000.0)));

    // Nor of an agent that is another one by what it says of itself.
    let mut other = reregister(&larger, "cpus:64;mem:65536", reported);
    other.agent.attributes = vec![v1::Attribute {
        name: "rack".to_owned(),
        r#type: v1::value::Type::Text.into(),
        text: Some(v1::value::Text {
            value: "r2".to_owned(),
        }),
        ..v1::Attribute::default()
    }];
    cluster.register(other);
    cluster.settle();
    assert_eq!(cluster.offers(&scheduler).len(), 1);
}

#[test]
fn an_agent_that_answers_its_pings_stays() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    for _ in 0..20 {
        cluster.advance(Duration::from_secs(15));
        let messages = cluster.messages(&agent);
        let [to_agent::Body::Ping(ping)] = messages.as_slice() else {
            panic!("{messages:?}")
        };
        cluster.from(
            agent.link,
            to_master::Body::Pong(link::Pong {
                sequence: ping.sequence,
            }),
        );
    }
    assert!(cluster.view().agent(&agent.id).unwrap().connected);
}

#[test]
fn an_agent_that_leaves_its_pings_unanswered_is_unreachable_and_may_return() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let aware = cluster.subscribe(partition_aware("aware"));
    cluster.start(&aware, "a");
    let unaware = cluster.subscribe(info("unaware"));
    cluster.advance(Duration::from_secs(6));
    let open = cluster
        .view()
        .offers
        .values()
        .find(|offer| offer.framework_id.as_str() == unaware.id)
        .cloned();
    let open = open.expect("what is left is offered to the framework that has nothing");
    cluster.launch(
        &unaware,
        &[open.wire.as_ref().clone()],
        vec![task(&open.wire, "u", "cpus:1;mem:64")],
    );
    cluster.update(&aware, &agent, "a", TaskRunning);
    cluster.update(&unaware, &agent, "u", TaskRunning);
    let reported = tasks(&cluster);
    cluster.events(&aware);
    cluster.events(&unaware);
    cluster.slow_disk = true;
    cluster.lose(&agent, &[]);
    assert!(
        cluster.statuses(&aware).is_empty(),
        "nobody is told before it is on disk"
    );
    cluster.slow_disk = false;
    cluster.finish_writes();
    let events = cluster.events(&aware);
    assert!(
        events
            .iter()
            .any(|event| event.failure.as_ref().is_some_and(|failure| {
                failure.agent_id.as_ref().unwrap().value == agent.id
                    && failure.executor_id.is_none()
            }))
    );
    let statuses: Vec<_> = events
        .into_iter()
        .filter_map(|event| event.update)
        .map(|update| update.status)
        .collect();
    assert_eq!(
        told(&statuses),
        [(TaskUnreachable, Some(Reason::AgentRemoved))]
    );
    assert!(statuses[0].unreachable_time.is_some());
    assert_eq!(
        told(&cluster.statuses(&unaware)),
        [(TaskLost, Some(Reason::AgentRemoved))]
    );
    let view = cluster.view();
    assert!(view.agents.is_empty() && view.tasks.is_empty());
    assert!(view.unreachable_agents.contains_key(agent.id.as_str()));
    assert_eq!(
        view.framework(&aware.id).unwrap().unreachable_tasks.len(),
        1
    );
    cluster.call(&aware, reconcile(&[("a", None)]));
    assert_eq!(
        told(&cluster.statuses(&aware)),
        [(TaskUnreachable, Some(Reason::Reconciliation))]
    );

    let agent = cluster.register(reregister(&agent, MACHINE, reported));
    for scheduler in [&aware, &unaware] {
        assert_eq!(
            told(&cluster.statuses(scheduler)),
            [(TaskRunning, Some(Reason::AgentReregistered))]
        );
    }
    let view = cluster.view();
    assert_eq!((view.tasks.len(), view.unreachable_agents.len()), (2, 0));
    assert!(
        view.framework(&aware.id)
            .unwrap()
            .unreachable_tasks
            .is_empty()
    );
    assert_eq!(
        view.agent(&agent.id).unwrap().used,
        resources("cpus:2;mem:128")
    );
    cluster.update(&aware, &agent, "a", TaskFinished);
    assert_eq!(told(&cluster.statuses(&aware)), [(TaskFinished, None)]);
}

#[test]
fn a_task_that_does_not_come_back_with_its_agent_is_gone() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(partition_aware("aware"));
    cluster.start(&scheduler, "t");
    cluster.lose(&agent, &[]);
    cluster.events(&scheduler);
    cluster.register(reregister(&agent, MACHINE, Vec::new()));
    assert_eq!(
        told(&cluster.statuses(&scheduler)),
        [(TaskGone, Some(Reason::Reconciliation))]
    );
    let framework = cluster.view().framework(&scheduler.id).unwrap().clone();
    assert_eq!(
        (
            framework.unreachable_tasks.len(),
            framework.completed_tasks.len()
        ),
        (0, 1)
    );
}

#[test]
fn an_ending_that_nobody_heard_survives_unreachability() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(partition_aware("aware"));
    cluster.start(&scheduler, "t");
    let uuid = cluster.update(&scheduler, &agent, "t", TaskFinished);
    let reported = tasks(&cluster);
    cluster.events(&scheduler);
    cluster.lose(&agent, &[]);
    assert!(
        cluster.statuses(&scheduler).is_empty(),
        "it has ended; it cannot become unreachable"
    );
    let agent = cluster.register(reregister(&agent, MACHINE, reported));
    cluster.resend(&scheduler, &agent, "t", TaskFinished, TaskFinished, &uuid);
    assert_eq!(told(&cluster.statuses(&scheduler)), [(TaskFinished, None)]);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    assert!(cluster.view().tasks.is_empty());
}

#[test]
fn reconciliation_keeps_to_itself_an_ending_that_an_unreachable_agent_has_yet_to_tell() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(partition_aware("aware"));
    cluster.start(&scheduler, "t");
    cluster.update_with_latest(&scheduler, &agent, "t", TaskRunning, TaskFinished);
    cluster.lose(&agent, &[]);
    cluster.events(&scheduler);
    cluster.call(&scheduler, reconcile(&[("t", None)]));
    assert_eq!(
        told(&cluster.statuses(&scheduler)),
        [(TaskUnreachable, Some(Reason::Reconciliation))],
        "RUNNING may come once more, and FINISHED after that"
    );
}

#[test]
fn an_agent_whose_link_stays_broken_becomes_unreachable() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(partition_aware("aware"));
    cluster.start(&scheduler, "t");
    cluster.events(&scheduler);
    cluster.cut(&agent);
    cluster.advance(Duration::from_secs(599));
    assert!(cluster.statuses(&scheduler).is_empty());
    cluster.advance(Duration::from_secs(2));
    assert_eq!(
        told(&cluster.statuses(&scheduler)),
        [(TaskUnreachable, Some(Reason::AgentRemoved))]
    );
}

#[test]
fn an_agent_that_dials_again_is_asked_about_tasks_it_did_not_mention() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    let again = cluster.register(reregister(&agent, MACHINE, Vec::new()));
    assert!(cluster.closed_links.contains(&agent.link));
    let messages = cluster.messages(&again);
    let [to_agent::Body::Reconcile(reconcile)] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    assert_eq!(reconcile.items[0].tasks, ["t".into()]);
    // The old link's end means nothing any more.
    cluster.cut(&agent);
    assert!(cluster.view().agent(&agent.id).unwrap().connected);
    cluster.update(&scheduler, &again, "t", TaskLost);
    assert_eq!(told(&cluster.statuses(&scheduler)), [(TaskLost, None)]);
}

#[test]
fn an_agent_that_comes_back_larger_offers_more() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.settle();
    cluster.register(reregister(&agent, "cpus:8;mem:2048", Vec::new()));
    cluster.settle();
    let events = cluster.events(&scheduler);
    assert_eq!(
        kinds(&events),
        [
            event::Type::Offers,
            event::Type::Rescind,
            event::Type::Offers
        ]
    );
    assert_eq!(
        cluster.view().agent(&agent.id).unwrap().offered,
        resources("cpus:8;mem:2048")
    );
}

#[test]
fn an_agent_is_refused_for_what_makes_no_sense() {
    let mut cluster = Cluster::new();
    let mut negative = register(MACHINE);
    negative.agent.resources[0].scalar = Some(v1::value::Scalar { value: -1.0 });
    let mut slash = register(MACHINE);
    slash.agent.id = Some("a/b".into());
    for register in [negative, slash] {
        let link = LinkKey(cluster.number());
        cluster.from(link, to_master::Body::Register(register));
        let messages = cluster.messages.remove(&link).unwrap();
        assert!(
            matches!(messages.as_slice(), [to_agent::Body::Refused(refused)] if refused.r#final())
        );
        assert!(cluster.closed_links.contains(&link));
    }
    assert!(cluster.view().agents.is_empty());
}

#[test]
fn a_view_stays_as_it_was_taken() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    let before = cluster.view();
    cluster.update(&scheduler, &agent, "t", TaskRunning);
    assert_eq!(before.tasks.values().next().unwrap().state(), TaskStaging);
    assert_eq!(
        cluster.view().tasks.values().next().unwrap().state(),
        TaskRunning
    );
    fn needs<T: Send + Sync + 'static>(_: &T) {}
    needs(&before);
}
