//! Status updates, acknowledgements, kills, messages and reconciliation.

use std::time::Duration;

use bytes::Bytes;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::TaskState::{
    TaskFailed, TaskFinished, TaskGone, TaskKilled, TaskLost, TaskRunning, TaskStaging,
    TaskStarting, TaskUnknown, TaskUnreachable,
};
use tepui_api::v1::scheduler::{Call, call};
use tepui_api::v1::task_status::Reason;

use super::harness::*;
use crate::Answer;

fn running() -> (Cluster, Agent, Scheduler) {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    cluster.messages(&agent);
    (cluster, agent, scheduler)
}

#[test]
fn an_update_is_passed_on_as_it_came_and_its_end_acknowledged_completes_the_task() {
    let (mut cluster, agent, scheduler) = running();
    let uuid = cluster.update(&scheduler, &agent, "t", TaskRunning);
    let statuses = cluster.statuses(&scheduler);
    assert_eq!(statuses[0].uuid, Some(uuid.clone()));
    assert_eq!(statuses[0].data, Some(Bytes::from_static(b"data")));
    let task = cluster.view().tasks.values().next().unwrap().wire.clone();
    assert_eq!(
        (task.state(), task.status_update_uuid),
        (TaskRunning, Some(uuid.clone()))
    );
    assert_eq!((task.statuses.len(), &task.statuses[0].data), (1, &None));
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    let uuid = cluster.update(&scheduler, &agent, "t", TaskFinished);
    assert!(
        cluster
            .view()
            .agents
            .values()
            .all(|agent| agent.used.is_empty())
    );
    cluster.messages(&agent);
    cluster.acknowledge(
        &scheduler,
        &agent,
        "t",
        &Bytes::from_static(b"another uuid ..."),
    );
    assert_eq!(cluster.view().tasks.len(), 1);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    let messages = cluster.messages(&agent);
    assert!(
        matches!(messages.last(), Some(to_agent::Body::Acknowledge(acknowledge)) if acknowledge.uuid == uuid)
    );
    let view = cluster.view();
    assert!(view.tasks.is_empty());
    let framework = view.framework(&scheduler.id).unwrap();
    let states: Vec<_> = framework
        .completed_tasks
        .iter()
        .map(|task| task.state())
        .collect();
    assert_eq!(states, [TaskFinished]);
    assert_eq!(view.counters["master/tasks_finished"], 1);
    assert_eq!(view.counters["master/tasks_running"], 0);
}

#[test]
fn resources_are_free_as_soon_as_the_task_is_known_to_have_ended() {
    let (mut cluster, agent, scheduler) = running();
    let first = cluster.update_with_latest(&scheduler, &agent, "t", TaskRunning, TaskFinished);
    let view = cluster.view();
    assert!(view.agents.values().all(|agent| agent.used.is_empty()));
    let task = view.tasks.values().next().unwrap();
    assert_eq!(
        (task.wire.state(), task.wire.status_update_state()),
        (TaskFinished, TaskRunning)
    );
    cluster.acknowledge(&scheduler, &agent, "t", &first);
    assert_eq!(
        cluster.view().tasks.len(),
        1,
        "its last update is still to come"
    );
    let last = cluster.update(&scheduler, &agent, "t", TaskFinished);
    cluster.acknowledge(&scheduler, &agent, "t", &last);
    assert!(cluster.view().tasks.is_empty());
}

#[test]
fn a_task_never_goes_back_to_a_state_that_came_earlier() {
    let (mut cluster, agent, scheduler) = running();
    cluster.update_with_latest(&scheduler, &agent, "t", TaskStarting, TaskRunning);
    let state = |cluster: &Cluster| cluster.view().tasks.values().next().unwrap().state();
    assert_eq!(state(&cluster), TaskRunning);
    cluster.update(&scheduler, &agent, "t", TaskStarting);
    assert_eq!(state(&cluster), TaskRunning);
    let mut reported = cluster.view().tasks.values().next().unwrap().wire.clone();
    reported.state = TaskStaging.into();
    cluster.register(reregister(&agent, "cpus:4;mem:1024", vec![reported]));
    assert_eq!(state(&cluster), TaskRunning);
}

#[test]
fn an_update_that_is_sent_again_is_passed_on_again() {
    let (mut cluster, agent, scheduler) = running();
    let uuid = cluster.update(&scheduler, &agent, "t", TaskFinished);
    cluster.resend(&scheduler, &agent, "t", TaskFinished, TaskFinished, &uuid);
    assert_eq!(cluster.statuses(&scheduler).len(), 2);
}

#[test]
fn what_a_scheduler_has_acknowledged_it_does_not_get_again() {
    let (mut cluster, agent, scheduler) = running();
    let first = cluster.update_with_latest(&scheduler, &agent, "t", TaskStarting, TaskRunning);
    cluster.acknowledge(&scheduler, &agent, "t", &first);
    assert_eq!(cluster.statuses(&scheduler).len(), 1);
    // The agent was killed before it wrote the acknowledgement down.
    let agent = cluster.register(reregister(&agent, "cpus:4;mem:1024", cluster.reported()));
    cluster.messages(&agent);
    cluster.resend(&scheduler, &agent, "t", TaskStarting, TaskRunning, &first);
    assert_eq!(cluster.statuses(&scheduler), []);
    assert!(matches!(
        &cluster.messages(&agent)[..],
        [to_agent::Body::Acknowledge(acknowledge)] if acknowledge.uuid == first
    ));
    cluster.update(&scheduler, &agent, "t", TaskRunning);
    assert_eq!(cluster.statuses(&scheduler)[0].state(), TaskRunning);
}

#[test]
fn a_task_its_executor_lost_sight_of_may_be_found_again() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(partition_aware("one"));
    cluster.start(&scheduler, "t");
    for state in [TaskUnreachable, TaskRunning, TaskUnknown, TaskRunning] {
        cluster.update(&scheduler, &agent, "t", state);
        assert_eq!(cluster.reported()[0].state(), state);
    }
}

#[test]
fn a_second_ending_is_kept_from_the_scheduler_and_settled_with_the_agent() {
    let (mut cluster, agent, scheduler) = running();
    let uuid = cluster.update(&scheduler, &agent, "t", TaskFinished);
    let second = cluster.update(&scheduler, &agent, "t", TaskFailed);
    assert_eq!(told(&cluster.statuses(&scheduler)).len(), 1);
    let settled = |messages: Vec<to_agent::Body>, uuid: &Bytes| matches!(messages.as_slice(), [to_agent::Body::Acknowledge(acknowledge)] if acknowledge.uuid == *uuid);
    assert!(settled(cluster.messages(&agent), &second));
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    cluster.messages(&agent);
    let third = cluster.update(&scheduler, &agent, "t", TaskFailed);
    assert!(cluster.statuses(&scheduler).is_empty());
    assert!(settled(cluster.messages(&agent), &third));
}

#[test]
fn an_acknowledgement_of_what_was_never_passed_on_is_dropped() {
    let (mut cluster, agent, scheduler) = running();
    cluster.acknowledge(
        &scheduler,
        &agent,
        "t",
        &Bytes::from_static(b"0123456789abcdef"),
    );
    let nobody = Agent {
        id: "nobody".to_owned(),
        link: agent.link,
    };
    cluster.acknowledge(
        &scheduler,
        &nobody,
        "t",
        &Bytes::from_static(b"0123456789abcdef"),
    );
    assert!(cluster.messages(&agent).is_empty());
}

#[test]
fn updates_for_a_scheduler_that_is_away_wait_with_the_agent() {
    let (mut cluster, agent, scheduler) = running();
    cluster.hang_up(&scheduler);
    let uuid = cluster.update(&scheduler, &agent, "t", TaskFinished);
    assert_eq!(cluster.view().tasks.len(), 1);
    let mut again = info("one");
    again.id = Some(scheduler.id.as_str().into());
    let scheduler = cluster.subscribe(again);
    cluster.resend(&scheduler, &agent, "t", TaskFinished, TaskFinished, &uuid);
    assert_eq!(cluster.statuses(&scheduler).len(), 1);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    assert!(cluster.view().tasks.is_empty());
}

#[test]
fn a_kill_goes_to_the_agent_or_is_answered_by_what_is_known() {
    let (mut cluster, agent, scheduler) = running();
    assert_eq!(
        cluster.call(&scheduler, kill("t", Some("another"))),
        Answer::Accepted
    );
    assert!(cluster.messages(&agent).is_empty());
    cluster.call(&scheduler, kill("t", None));
    let messages = cluster.messages(&agent);
    assert!(
        matches!(messages.as_slice(), [to_agent::Body::Kill(kill)] if kill.task_id.value == "t")
    );
    cluster.call(&scheduler, kill("unknown", None));
    assert_eq!(
        told(&cluster.statuses(&scheduler)),
        [(TaskLost, Some(Reason::Reconciliation))]
    );
}

#[test]
fn a_kill_for_an_agent_that_is_away_is_remembered() {
    let (mut cluster, agent, scheduler) = running();
    let tasks = vec![cluster.view().tasks.values().next().unwrap().wire.clone()];
    cluster.cut(&agent);
    cluster.call(&scheduler, kill("t", None));
    let agent = cluster.register(reregister(&agent, "cpus:4;mem:1024", tasks));
    let messages = cluster.messages(&agent);
    assert!(
        matches!(messages.as_slice(), [to_agent::Body::Kill(kill)] if kill.task_id.value == "t")
    );
}

#[test]
fn a_kill_that_went_into_a_dead_link_is_sent_again_until_the_task_has_ended() {
    let (mut cluster, agent, scheduler) = running();
    let reported = vec![cluster.view().tasks.values().next().unwrap().wire.clone()];
    let is_kill = |messages: &[to_agent::Body]| matches!(messages, [to_agent::Body::Kill(kill)] if kill.task_id.value == "t");
    cluster.call(&scheduler, kill("t", None));
    assert!(is_kill(&cluster.messages(&agent)), "into the void");
    // Nobody has noticed that the link is dead when the agent dials again; nor that time.
    let agent = cluster.register(reregister(&agent, "cpus:4;mem:1024", reported.clone()));
    assert!(is_kill(&cluster.messages(&agent)));
    let agent = cluster.register(reregister(&agent, "cpus:4;mem:1024", reported.clone()));
    assert!(is_kill(&cluster.messages(&agent)));
    cluster.update(&scheduler, &agent, "t", TaskKilled);
    let ended = tepui_api::v1::Task {
        state: TaskKilled.into(),
        ..reported[0].clone()
    };
    let agent = cluster.register(reregister(&agent, "cpus:4;mem:1024", vec![ended]));
    assert!(cluster.messages(&agent).is_empty(), "it has ended");
}

#[test]
fn a_kill_waits_also_for_an_agent_that_is_given_up_and_returns() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(partition_aware("one"));
    cluster.start(&scheduler, "t");
    let reported = vec![cluster.view().tasks.values().next().unwrap().wire.clone()];
    cluster.call(&scheduler, kill("t", None));
    cluster.lose(&agent, &[]);
    let agent = cluster.register(reregister(&agent, "cpus:4;mem:1024", reported));
    let messages = cluster.messages(&agent);
    assert!(
        matches!(messages.as_slice(), [to_agent::Body::Kill(kill)] if kill.task_id.value == "t"),
        "{messages:?}"
    );
}

#[test]
fn messages_for_those_who_are_away_are_dropped_and_counted() {
    let (mut cluster, agent, scheduler) = running();
    let dropped = |cluster: &Cluster| cluster.view().counters["master/dropped_messages"];
    let down = |agent: &str| Call {
        message: Some(call::Message {
            agent_id: agent.into(),
            executor_id: "e".into(),
            data: Bytes::from_static(b"down"),
        }),
        ..plain(call::Type::Message)
    };
    cluster.call(&scheduler, down("nobody"));
    assert_eq!(dropped(&cluster), 1);
    cluster.hang_up(&scheduler);
    let up = link::ExecutorMessage {
        framework_id: scheduler.id.as_str().into(),
        executor_id: "e".into(),
        data: Bytes::from_static(b"up"),
    };
    cluster.from(agent.link, to_master::Body::Message(up.clone()));
    assert_eq!(dropped(&cluster), 2);
    cluster.cut(&agent);
    cluster.from(agent.link, to_master::Body::Message(up));
    assert_eq!(dropped(&cluster), 3);
}

#[test]
fn messages_pass_in_both_directions() {
    let (mut cluster, agent, scheduler) = running();
    let message = call::Message {
        agent_id: agent.id.as_str().into(),
        executor_id: "e".into(),
        data: Bytes::from_static(b"down"),
    };
    cluster.call(
        &scheduler,
        Call {
            message: Some(message),
            ..plain(call::Type::Message)
        },
    );
    let messages = cluster.messages(&agent);
    assert!(
        matches!(messages.as_slice(), [to_agent::Body::Message(message)] if &message.data[..] == b"down")
    );
    let up = link::ExecutorMessage {
        framework_id: scheduler.id.as_str().into(),
        executor_id: "e".into(),
        data: Bytes::from_static(b"up"),
    };
    cluster.from(agent.link, to_master::Body::Message(up));
    let events = cluster.events(&scheduler);
    let message = events.last().unwrap().message.as_ref().unwrap();
    assert_eq!(
        (&message.data[..], message.agent_id.value.as_str()),
        (&b"up"[..], agent.id.as_str())
    );
    let shutdown = call::Shutdown {
        executor_id: "e".into(),
        agent_id: agent.id.as_str().into(),
    };
    cluster.call(
        &scheduler,
        Call {
            shutdown: Some(shutdown),
            ..plain(call::Type::Shutdown)
        },
    );
    assert!(matches!(
        cluster.messages(&agent).as_slice(),
        [to_agent::Body::ShutdownExecutor(_)]
    ));
}

#[test]
fn reconciliation_tells_what_was_passed_on_last() {
    let (mut cluster, agent, scheduler) = running();
    cluster.call(&scheduler, reconcile(&[]));
    let statuses = cluster.statuses(&scheduler);
    assert_eq!(
        told(&statuses),
        [(TaskStaging, Some(Reason::Reconciliation))]
    );
    assert_eq!(statuses[0].uuid, None);
    cluster.update_with_latest(&scheduler, &agent, "t", TaskRunning, TaskFinished);
    cluster.events(&scheduler);
    cluster.call(&scheduler, reconcile(&[("t", None)]));
    let statuses = cluster.statuses(&scheduler);
    assert_eq!(
        told(&statuses),
        [(TaskRunning, Some(Reason::Reconciliation))]
    );
    assert_eq!(statuses[0].data, None);
    let asked = [
        ("x", Some(agent.id.as_str())),
        ("x", Some("nobody")),
        ("x", None),
    ];
    cluster.call(&scheduler, reconcile(&asked));
    assert!(
        told(&cluster.statuses(&scheduler))
            .iter()
            .all(|(state, _)| *state == TaskLost)
    );
    let aware = cluster.subscribe(partition_aware("aware"));
    cluster.call(&aware, reconcile(&asked));
    let states: Vec<_> = told(&cluster.statuses(&aware))
        .into_iter()
        .map(|(state, _)| state)
        .collect();
    assert_eq!(states, [TaskGone, TaskUnknown, TaskUnknown]);
}

#[test]
fn only_so_many_completed_tasks_are_kept() {
    let mut cluster = Cluster::with(|config| config.max_completed_tasks_per_framework = 3);
    let agent = cluster.agent("cpus:4;mem:1024");
    let scheduler = cluster.subscribe(info("one"));
    for number in 0..5 {
        let id = format!("t{number}");
        cluster.start(&scheduler, &id);
        let uuid = cluster.update(&scheduler, &agent, &id, TaskFinished);
        cluster.acknowledge(&scheduler, &agent, &id, &uuid);
        cluster.advance(Duration::from_secs(6));
    }
    let framework = cluster.view().framework(&scheduler.id).unwrap().clone();
    let kept: Vec<_> = framework
        .completed_tasks
        .iter()
        .map(|task| task.task_id.value.clone())
        .collect();
    assert_eq!(kept, ["t2", "t3", "t4"]);
}
