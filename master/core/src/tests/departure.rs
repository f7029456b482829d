//! How quickly agents are given up, how many at once, and for how long they are remembered.

use std::time::Duration;

use tepui_api::link::{self, to_master};
use tepui_api::v1;
use tepui_api::v1::TaskState::{TaskLost, TaskUnknown, TaskUnreachable};
use tepui_api::v1::task_status::Reason;
use tepui_model::RateLimit;

use super::harness::*;

const MACHINE: &str = "cpus:4;mem:1024";

fn pong(cluster: &mut Cluster, agent: &Agent) {
    cluster.from(
        agent.link,
        to_master::Body::Pong(link::Pong { sequence: 0 }),
    );
}

fn away(cluster: &Cluster) -> usize {
    cluster.view().unreachable_agents.len()
}

#[test]
fn agents_become_unreachable_no_quicker_than_allowed() {
    let mut cluster = Cluster::with(|config| {
        config.agent_removal_rate_limit = Some(RateLimit {
            permits: 1,
            per: Duration::from_secs(600),
        });
    });
    let _first = cluster.agent(MACHINE);
    let _second = cluster.agent(MACHINE);
    let third = cluster.agent(MACHINE);
    cluster.advance(Duration::from_secs(90));
    assert_eq!((away(&cluster), cluster.view().agents.len()), (1, 2));
    // One more answer, and it is as if nothing had been.
    pong(&mut cluster, &third);
    for _ in 0..39 {
        cluster.advance(Duration::from_secs(15));
        pong(&mut cluster, &third);
    }
    cluster.advance(Duration::from_secs(14));
    assert_eq!(away(&cluster), 1);
    cluster.advance(Duration::from_secs(2));
    assert_eq!(away(&cluster), 2);
    let view = cluster.view();
    assert!(view.agent(&third.id).unwrap().connected);
    assert_eq!(view.counters["master/slave_unreachable_canceled"], 1);
}

#[test]
fn an_agent_that_dials_again_leaves_the_queue_of_those_to_be_given_up() {
    let mut cluster = Cluster::with(|config| {
        config.agent_removal_rate_limit = Some(RateLimit {
            permits: 1,
            per: Duration::from_secs(600),
        });
    });
    let first = cluster.agent(MACHINE);
    let second = cluster.agent(MACHINE);
    cluster.cut(&first);
    cluster.cut(&second);
    cluster.advance(Duration::from_secs(601));
    assert_eq!(away(&cluster), 1);
    let left = [first, second].into_iter().find(|agent| {
        let view = cluster.view();
        view.agent(&agent.id).is_some()
    });
    let left = cluster.register(reregister(&left.unwrap(), MACHINE, Vec::new()));
    for _ in 0..50 {
        cluster.advance(Duration::from_secs(15));
        pong(&mut cluster, &left);
    }
    assert_eq!(away(&cluster), 1);
}

#[test]
fn a_master_that_misses_too_many_agents_after_its_start_ends_itself() {
    let mut cluster = Cluster::with(|config| config.recovery_agent_removal_limit = 0.5);
    let agents: Vec<Agent> = (0..3).map(|_| cluster.agent(MACHINE)).collect();
    cluster.restart();
    cluster.register(reregister(&agents[0], MACHINE, Vec::new()));
    cluster.advance(Duration::from_secs(601));
    let message = cluster.exited.take().expect("two of three is too many");
    assert!(message.contains("2 of 3"), "{message}");
    cluster.restart();
    let agents: Vec<Agent> = agents[..2]
        .iter()
        .map(|agent| cluster.register(reregister(agent, MACHINE, Vec::new())))
        .collect();
    for _ in 0..41 {
        for agent in &agents {
            pong(&mut cluster, agent);
        }
        cluster.advance(Duration::from_secs(15));
    }
    assert_eq!((cluster.exited.take(), away(&cluster)), (None, 1));
}

#[test]
fn agents_that_were_away_for_too_long_are_forgotten() {
    let mut cluster = Cluster::with(|config| {
        config.registry_gc_interval = Duration::from_secs(60);
        config.registry_max_agent_age = Duration::from_secs(3600);
    });
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(partition_aware("one"));
    cluster.start(&scheduler, "t");
    let reported = cluster.reported();
    cluster.lose(&agent, &[]);
    cluster.operator(deactivate(&agent));
    cluster.advance(Duration::from_secs(3500));
    assert_eq!(
        told(&cluster.statuses(&scheduler)),
        [(TaskUnreachable, Some(Reason::AgentRemoved))]
    );
    cluster.call(&scheduler, reconcile(&[("t", Some(agent.id.as_str()))]));
    let told_so = cluster.statuses(&scheduler);
    assert_eq!(told_so[0].state(), TaskUnreachable);
    assert!(told_so[0].unreachable_time.is_some());
    cluster.advance(Duration::from_secs(200));
    let view = cluster.view();
    assert!(view.unreachable_agents.is_empty() && view.deactivated_agents.is_empty());
    assert!(!cluster.registry.keys().any(|key| key.contains(&agent.id)));
    cluster.call(&scheduler, reconcile(&[("t", Some(agent.id.as_str()))]));
    assert_eq!(cluster.statuses(&scheduler)[0].state(), TaskUnknown);
    // It may come back all the same.
    cluster.register(reregister(&agent, MACHINE, reported));
    let told_so = told(&cluster.statuses(&scheduler));
    assert_eq!(told_so[0].1, Some(Reason::AgentReregistered));
    assert_eq!(cluster.view().tasks.len(), 1);
}

#[test]
fn of_too_many_agents_that_are_away_the_oldest_are_forgotten() {
    let mut cluster = Cluster::with(|config| {
        config.registry_gc_interval = Duration::from_secs(600);
        config.registry_max_agent_count = 1;
    });
    let first = cluster.agent(MACHINE);
    let second = cluster.agent(MACHINE);
    let gone = cluster.agent(MACHINE);
    cluster.operator(mark_gone(&gone.id));
    cluster.lose(&first, &[&second]);
    cluster.lose(&second, &[]);
    assert_eq!(away(&cluster), 2);
    cluster.advance(Duration::from_secs(600));
    let view = cluster.view();
    assert!(view.unreachable_agents.contains_key(second.id.as_str()));
    assert_eq!(view.unreachable_agents.len(), 1);
    assert_eq!(view.gone_agents.len(), 1, "they are counted apart");
    cluster.restart();
    assert_eq!((away(&cluster), cluster.view().gone_agents.len()), (1, 1));
}

#[test]
fn a_new_agent_in_the_place_of_one_that_broke_off_ends_that_ones_tasks() {
    let mut cluster = Cluster::new();
    let there = link::Register {
        endpoint: "10.9.9.9:5051".to_owned(),
        ..register(MACHINE)
    };
    let first = cluster.register(there.clone());
    let scheduler = cluster.subscribe(partition_aware("one"));
    cluster.start(&scheduler, "t");
    cluster.cut(&first);
    cluster.events(&scheduler);
    let second = cluster.register(there);
    assert_ne!(first.id, second.id);
    assert_eq!(
        told(&cluster.statuses(&scheduler)),
        [(TaskLost, Some(Reason::AgentRemoved))]
    );
    let view = cluster.view();
    assert_eq!((view.agents.len(), view.tasks.len()), (1, 0));
}

#[test]
fn ids_of_agents_are_not_given_out_twice() {
    let mut cluster = Cluster::new();
    let mut ids = vec![cluster.agent(MACHINE).id, cluster.agent(MACHINE).id];
    cluster.operator(mark_gone(&ids[1]));
    ids.push(cluster.agent(MACHINE).id);
    cluster.restart();
    ids.push(cluster.agent(MACHINE).id);
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
}

#[test]
fn a_framework_that_has_not_come_back_can_be_torn_down() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    let mut register = reregister(&agent, MACHINE, cluster.reported());
    let framework = cluster
        .view()
        .framework(&scheduler.id)
        .unwrap()
        .info
        .clone();
    register.frameworks = vec![v1::FrameworkInfo::clone(&framework)];
    cluster.restart();
    assert!(cluster.view().framework(&scheduler.id).unwrap().recovered);
    let teardown = v1::master::Call {
        r#type: Some(v1::master::call::Type::Teardown.into()),
        teardown: Some(v1::master::call::Teardown {
            framework_id: scheduler.id.as_str().into(),
        }),
        ..v1::master::Call::default()
    };
    assert_eq!(cluster.operator(teardown), crate::Answer::Done);
    // Its agent is back only now.
    let agent = cluster.register(register);
    assert!(matches!(
        cluster.messages(&agent).as_slice(),
        [link::to_agent::Body::ShutdownFramework(shutdown)]
            if shutdown.framework_id.value == scheduler.id
    ));
    assert!(cluster.view().tasks.is_empty());
}
