//! Maintenance schedules, machines that go down and come up, and inverse offers.

use std::time::Duration;

use tepui_api::link::{to_agent, to_master};
use tepui_api::v1::TaskState::TaskLost;
use tepui_api::v1::allocator::inverse_offer_status::Status;
use tepui_api::v1::scheduler::{Call, call, event};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, master};

use super::harness::*;
use crate::{Answer, LinkKey};

const MACHINE: &str = "cpus:4;mem:1024";

fn here() -> v1::MachineId {
    machine("HOST", "10.1.2.3")
}

fn inverse_offers(cluster: &mut Cluster, scheduler: &Scheduler) -> Vec<v1::InverseOffer> {
    cluster.settle();
    let events = cluster.events(scheduler).into_iter();
    events
        .filter_map(|event| event.inverse_offers)
        .flat_map(|offers| offers.inverse_offers)
        .collect()
}

fn answer(offers: &[v1::InverseOffer], accept: bool, refuse_seconds: f64) -> Call {
    let inverse_offer_ids = offers.iter().map(|offer| offer.id.clone()).collect();
    let filters = Some(v1::Filters {
        refuse_seconds: Some(refuse_seconds),
    });
    if accept {
        Call {
            r#type: Some(call::Type::AcceptInverseOffers.into()),
            accept_inverse_offers: Some(call::AcceptInverseOffers {
                inverse_offer_ids,
                filters,
            }),
            ..Call::default()
        }
    } else {
        Call {
            r#type: Some(call::Type::DeclineInverseOffers.into()),
            decline_inverse_offers: Some(call::DeclineInverseOffers {
                inverse_offer_ids,
                filters,
            }),
            ..Call::default()
        }
    }
}

/// Of the only draining machine.
fn statuses(cluster: &Cluster) -> Vec<Status> {
    let status = cluster.view().maintenance_status;
    let [draining] = status.draining_machines.as_slice() else {
        panic!("{status:?}")
    };
    draining
        .statuses
        .iter()
        .map(|status| status.status())
        .collect()
}

#[test]
fn a_schedule_that_makes_no_sense_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::new();
    let good = schedule(10, &[machine("a", ""), machine("", "10.0.0.1")]);
    assert_eq!(cluster.operator(good), Answer::Done);
    let mut negative = schedule(10, &[machine("a", "")]);
    negative
        .update_maintenance_schedule
        .as_mut()
        .unwrap()
        .schedule
        .windows[0]
        .unavailability
        .duration = Some(v1::DurationInfo { nanoseconds: -1 });
    let window = |machine: v1::MachineId| v1::maintenance::Window {
        machine_ids: vec![machine],
        ..v1::maintenance::Window::default()
    };
    for call in [
        schedule(10, &[]),
        schedule(10, &[machine("a", ""), machine("A", "")]),
        schedule_of(vec![window(machine("a", "")), window(machine("a", ""))]),
        schedule(10, &[machine("", "")]),
        schedule(10, &[machine("a", "not an address")]),
        negative,
        start_maintenance(&[]),
        start_maintenance(&[machine("b", "")]),
        start_maintenance(&[machine("a", ""), machine("a", "")]),
        stop_maintenance(&[machine("b", "")]),
        stop_maintenance(&[machine("a", "")]),
    ] {
        let answer = cluster.operator(call.clone());
        assert_eq!(refusal(&answer).0, 400, "{call:?}");
    }
    assert_eq!(
        cluster.operator(start_maintenance(&[machine("a", "")])),
        Answer::Done
    );
    for call in [
        start_maintenance(&[machine("a", "")]),
        schedule(10, &[machine("", "10.0.0.1")]),
        schedule_of(Vec::new()),
    ] {
        let answer = cluster.operator(call.clone());
        assert_eq!(refusal(&answer).0, 400, "{call:?}");
    }
    cluster.restart();
    let view = cluster.view();
    assert_eq!(view.maintenance_schedule.windows[0].machine_ids.len(), 2);
    let status = &view.maintenance_status;
    assert_eq!(status.down_machines, [machine("a", "")]);
    assert_eq!(status.draining_machines[0].id, machine("", "10.0.0.1"));
    assert_eq!(
        cluster.operator(stop_maintenance(&[machine("a", "")])),
        Answer::Done
    );
    let view = cluster.view();
    assert_eq!(
        view.maintenance_schedule.windows[0].machine_ids,
        [machine("", "10.0.0.1")]
    );
    assert!(view.maintenance_status.down_machines.is_empty());
    assert_eq!(cluster.operator(schedule_of(Vec::new())), Answer::Done);
    assert_eq!(
        cluster.view().maintenance_status,
        v1::maintenance::ClusterStatus::default()
    );
}

#[test]
fn offers_of_a_scheduled_machine_say_when_it_goes() {
    for scheduled in [here(), machine("host", ""), machine("", "10.1.2.3")] {
        let mut cluster = Cluster::new();
        cluster.agent(MACHINE);
        let scheduler = cluster.subscribe(info("one"));
        assert_eq!(cluster.offers(&scheduler)[0].unavailability, None);
        assert_eq!(cluster.operator(schedule(10, &[scheduled])), Answer::Done);
        let events = cluster.events(&scheduler);
        assert!(events.iter().any(|event| event.rescind.is_some()));
        let offers = cluster.offers(&scheduler);
        let unavailability = offers[0].unavailability.as_ref().unwrap();
        assert_eq!(unavailability.start.nanoseconds, 10_000_000_000);
        cluster.operator(schedule_of(Vec::new()));
        assert_eq!(cluster.offers(&scheduler)[0].unavailability, None);
    }
}

#[test]
fn machines_that_go_down_lose_their_agents_and_take_none() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(partition_aware("one"));
    cluster.start(&scheduler, "t");
    let reported = cluster.reported();
    cluster.operator(schedule(10, &[here()]));
    assert_eq!(
        refusal(&cluster.operator(drain(&agent, None, false))).0,
        400
    );
    cluster.events(&scheduler);
    cluster.messages(&agent);
    assert_eq!(cluster.operator(start_maintenance(&[here()])), Answer::Done);
    let events = cluster.events(&scheduler);
    assert!(events.iter().any(|event| event.failure.is_some()));
    let statuses: Vec<_> = events
        .into_iter()
        .filter_map(|event| event.update)
        .map(|update| update.status)
        .collect();
    assert_eq!(told(&statuses), [(TaskLost, Some(Reason::AgentRemoved))]);
    assert!(matches!(
        cluster.messages(&agent).as_slice(),
        [to_agent::Body::Refused(refused)] if refused.r#final()
    ));
    assert!(cluster.view().agents.is_empty());
    assert!(
        !cluster
            .registry
            .contains_key(&format!("agent/{}", agent.id))
    );
    for register in [register(MACHINE), reregister(&agent, MACHINE, reported)] {
        let link = LinkKey(cluster.number());
        cluster.from(link, to_master::Body::Register(register));
        let messages = cluster.messages.remove(&link).unwrap();
        assert!(matches!(
            messages.as_slice(),
            [to_agent::Body::Refused(refused)] if refused.r#final()
        ));
    }
    assert_eq!(cluster.operator(stop_maintenance(&[here()])), Answer::Done);
    cluster.agent(MACHINE);
    assert_eq!(cluster.offers(&scheduler)[0].unavailability, None);
}

#[test]
fn an_agent_that_registers_while_its_machine_goes_down_is_refused() {
    let mut cluster = Cluster::new();
    cluster.operator(schedule(10, &[here()]));
    cluster.slow_disk = true;
    let down = cluster.operator_asks(start_maintenance(&[here()]));
    let link = LinkKey(cluster.number());
    cluster.from(link, to_master::Body::Register(register(MACHINE)));
    cluster.slow_disk = false;
    cluster.finish_writes();
    assert_eq!(cluster.answers.get(&down), Some(&Answer::Done));
    assert!(cluster.view().agents.is_empty());
    assert!(!cluster.registry.keys().any(|key| key.starts_with("agent/")));
}

#[test]
fn who_uses_a_scheduled_machine_is_asked_to_leave_once_at_a_time() {
    let mut cluster = Cluster::with(|config| config.agent_ping_timeout = Duration::from_secs(3600));
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    let bystander = cluster.subscribe(info("bystander"));
    cluster.call(&bystander, plain(call::Type::Suppress));
    cluster.settle();
    cluster.operator(schedule(10, &[here()]));
    let asked = inverse_offers(&mut cluster, &scheduler);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].agent_id, Some(agent.id.as_str().into()));
    assert_eq!(asked[0].unavailability.start.nanoseconds, 10_000_000_000);
    assert!(asked[0].resources.is_empty() && asked[0].url.is_some());
    assert!(inverse_offers(&mut cluster, &bystander).is_empty());
    // Nothing more until it is answered.
    cluster.advance(Duration::from_secs(60));
    assert!(inverse_offers(&mut cluster, &scheduler).is_empty());
    assert!(statuses(&cluster).is_empty());
    assert_eq!(
        cluster.call(&scheduler, answer(&asked, false, 30.0)),
        Answer::Accepted
    );
    assert_eq!(statuses(&cluster), [Status::Decline]);
    cluster.advance(Duration::from_secs(29));
    assert!(inverse_offers(&mut cluster, &scheduler).is_empty());
    cluster.advance(Duration::from_secs(1));
    let again = inverse_offers(&mut cluster, &scheduler);
    assert_eq!(again.len(), 1);
    // The old id is stale, and a stranger's answer means nothing.
    cluster.call(&scheduler, answer(&asked, true, 0.0));
    cluster.call(&bystander, answer(&again, true, 0.0));
    let nonsense = [v1::InverseOffer {
        id: v1::OfferId {
            value: "nonsense".to_owned(),
        },
        ..v1::InverseOffer::default()
    }];
    cluster.call(&scheduler, answer(&nonsense, true, 0.0));
    assert_eq!(statuses(&cluster), [Status::Decline]);
    cluster.call(&scheduler, answer(&again, true, 1000.0));
    assert_eq!(statuses(&cluster), [Status::Accept]);
    cluster.call(&scheduler, plain(call::Type::Revive));
    assert_eq!(inverse_offers(&mut cluster, &scheduler).len(), 1);
}

#[test]
fn an_inverse_offer_is_rescinded_when_it_is_void() {
    let mut cluster = Cluster::with(|config| config.agent_ping_timeout = Duration::from_secs(3600));
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    cluster.operator(schedule(10, &[here()]));
    let rescinded = |cluster: &mut Cluster| {
        cluster.settle();
        let kinds = kinds(&cluster.events(&scheduler));
        let count = |kind| kinds.iter().filter(|seen| **seen == kind).count();
        (
            count(event::Type::InverseOffers),
            count(event::Type::RescindInverseOffer),
        )
    };
    assert_eq!(rescinded(&mut cluster), (1, 0));
    cluster.operator(schedule(20, &[here()]));
    assert_eq!(rescinded(&mut cluster), (1, 1), "at another time");
    cluster.register(reregister(&agent, MACHINE, cluster.reported()));
    assert_eq!(rescinded(&mut cluster), (1, 1), "its agent dialled again");
    cluster.advance(Duration::from_secs(121));
    assert_eq!(rescinded(&mut cluster), (1, 1), "nobody answered in time");
    cluster.operator(schedule_of(Vec::new()));
    assert_eq!(rescinded(&mut cluster), (0, 1), "never mind");
}

#[test]
fn a_scheduler_that_takes_over_is_asked_again() {
    let mut cluster = Cluster::new();
    cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(info("one"));
    cluster.start(&scheduler, "t");
    cluster.operator(schedule(10, &[here()]));
    let asked = inverse_offers(&mut cluster, &scheduler);
    let mut again = info("one");
    again.id = Some(scheduler.id.as_str().into());
    let successor = cluster.subscribe(again);
    let anew = inverse_offers(&mut cluster, &successor);
    assert_eq!(anew.len(), 1);
    assert_ne!(anew[0].id, asked[0].id);
}

#[test]
fn calls_without_their_field_are_refused() {
    use master::call::Type;
    let mut cluster = Cluster::new();
    for call_type in [
        Type::DrainAgent,
        Type::DeactivateAgent,
        Type::ReactivateAgent,
        Type::MarkAgentGone,
        Type::UpdateMaintenanceSchedule,
        Type::StartMaintenance,
        Type::StopMaintenance,
    ] {
        let call = master::Call {
            r#type: Some(call_type.into()),
            ..master::Call::default()
        };
        let answer = cluster.operator(call);
        let (status, message) = refusal(&answer);
        assert_eq!(status, 400);
        assert!(
            message.contains(&call_type.as_str_name().to_lowercase()),
            "{message}"
        );
    }
}
