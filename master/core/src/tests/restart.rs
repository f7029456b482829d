//! A master that starts again with what its registry holds.

use std::time::Duration;

use bytes::Bytes;
use tepui_api::link::to_agent;
use tepui_api::v1;
use tepui_api::v1::TaskState::TaskRunning;
use tepui_model::{Now, Tick};

use super::harness::*;
use crate::{Config, Core, RecoverError};

const MACHINE: &str = "cpus:4;mem:1024";

#[test]
fn agents_bring_their_tasks_and_frameworks_find_them_again() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    let uuid = cluster.update(&scheduler, &agent, "t", TaskRunning);
    let reported: Vec<v1::Task> = cluster
        .view()
        .tasks
        .values()
        .map(|task| task.wire.clone())
        .collect();
    cluster.restart();
    let view = cluster.view();
    assert_eq!(
        (
            view.recovered_agents.len(),
            view.agents.len(),
            &*view.cluster_id
        ),
        (1, 0, "m0")
    );
    let framework = view.framework(&scheduler.id).unwrap();
    assert!(framework.recovered && !framework.connected && !framework.active);
    let mut again = info("one");
    again.id = Some(scheduler.id.as_str().into());
    let scheduler = cluster.subscribe(again);
    assert!(!cluster.view().framework(&scheduler.id).unwrap().recovered);
    // Its agent may be on its way back, so nothing is said of the task.
    cluster.call(
        &scheduler,
        reconcile(&[("t", Some(agent.id.as_str())), ("t", None)]),
    );
    assert!(cluster.statuses(&scheduler).is_empty());
    let agent = cluster.register(reregister(&agent, MACHINE, reported));
    assert!(
        cluster.statuses(&scheduler).is_empty(),
        "to its scheduler nothing has happened"
    );
    let view = cluster.view();
    assert_eq!((view.recovered_agents.len(), view.tasks.len()), (0, 1));
    assert_eq!(
        view.agent(&agent.id).unwrap().used,
        resources("cpus:1;mem:64")
    );
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    assert!(matches!(
        cluster.messages(&agent).as_slice(),
        [to_agent::Body::Acknowledge(_)]
    ));
    assert_eq!(cluster.offers(&scheduler).len(), 1);
}

#[test]
fn agents_that_do_not_come_back_become_unreachable() {
    let mut cluster = Cluster::new();
    let first = cluster.agent(MACHINE);
    let second = cluster.agent(MACHINE);
    cluster.restart();
    let scheduler = cluster.subscribe(info("one"));
    let first = cluster.register(reregister(&first, MACHINE, Vec::new()));
    let pongs = Duration::from_secs(15);
    for _ in 0..41 {
        cluster.advance(pongs);
        let pong = tepui_api::link::Pong { sequence: 0 };
        cluster.from(first.link, tepui_api::link::to_master::Body::Pong(pong));
    }
    let view = cluster.view();
    assert_eq!((view.recovered_agents.len(), view.agents.len()), (0, 1));
    assert!(view.unreachable_agents.contains_key(second.id.as_str()));
    let failures: Vec<_> = cluster
        .events(&scheduler)
        .into_iter()
        .filter_map(|event| event.failure)
        .collect();
    assert_eq!(failures[0].agent_id.as_ref().unwrap().value, second.id);
    cluster.restart();
    assert!(
        cluster
            .view()
            .unreachable_agents
            .contains_key(second.id.as_str())
    );
}

#[test]
fn a_framework_has_at_least_a_minute_after_a_restart() {
    let mut cluster = Cluster::new();
    let impatient = cluster.subscribe(v1::FrameworkInfo {
        failover_timeout: None,
        ..info("impatient")
    });
    let patient = cluster.subscribe(info("patient"));
    cluster.restart();
    cluster.advance(Duration::from_secs(59));
    assert_eq!(cluster.view().frameworks.len(), 2);
    cluster.advance(Duration::from_secs(2));
    assert!(cluster.view().framework(&impatient.id).is_none());
    assert!(cluster.view().framework(&patient.id).is_some());
    // It has 100 seconds from when it was first missed, however often the master restarts, but a minute at least.
    cluster.restart();
    cluster.advance(Duration::from_secs(59));
    assert!(cluster.view().framework(&patient.id).is_some());
    cluster.advance(Duration::from_secs(2));
    assert!(cluster.view().frameworks.is_empty());
    assert!(
        !cluster
            .registry
            .keys()
            .any(|key| key.starts_with("framework/"))
    );
}

#[test]
fn a_framework_that_only_agents_remember_is_waited_for() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    let view = cluster.view();
    let mut register = reregister(
        &agent,
        MACHINE,
        view.tasks.values().map(|task| task.wire.clone()).collect(),
    );
    register.frameworks = vec![view.framework(&scheduler.id).unwrap().info.as_ref().clone()];
    cluster.registry.clear();
    cluster.restart();
    let agent = cluster.register(register);
    assert!(cluster.view().framework(&scheduler.id).unwrap().recovered);
    assert_eq!(cluster.view().tasks.len(), 1);
    cluster.messages(&agent);
    cluster.advance(Duration::from_secs(101));
    assert!(cluster.view().frameworks.is_empty());
    let shut_down = |body: &to_agent::Body| matches!(body, to_agent::Body::ShutdownFramework(_));
    assert!(
        cluster.messages(&agent).iter().any(shut_down)
            || cluster.closed_links.contains(&agent.link)
    );
}

#[test]
fn tasks_of_a_framework_nobody_knows_are_shut_down() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let stray = v1::Task {
        task_id: "stray".into(),
        framework_id: "nobody".into(),
        state: TaskRunning.into(),
        ..v1::Task::default()
    };
    cluster.cut(&agent);
    let agent = cluster.register(reregister(&agent, MACHINE, vec![stray]));
    let messages = cluster.messages(&agent);
    assert!(
        matches!(messages.as_slice(), [to_agent::Body::ShutdownFramework(shutdown)]
        if shutdown.framework_id.value == "nobody")
    );
}

#[test]
fn a_registry_that_cannot_be_read_is_an_error_that_names_the_record() {
    let now = Now {
        tick: Tick(0),
        wall_ns: 0,
    };
    let broken = [("agent/a".to_owned(), Bytes::from_static(b"\xff"))];
    let error = Core::new(Config::default(), &broken, now).unwrap_err();
    assert!(
        matches!(&error, RecoverError::Decode { key, .. } if key == "agent/a"),
        "{error}"
    );
    let newer = tepui_api::registry::Meta {
        format: 99,
        ..Default::default()
    };
    let newer = [(
        "meta".to_owned(),
        Bytes::from(prost::Message::encode_to_vec(&newer)),
    )];
    let error = Core::new(Config::default(), &newer, now).unwrap_err();
    assert_eq!(error, RecoverError::Format { found: 99 });
}
