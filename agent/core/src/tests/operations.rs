//! Operations: what they make of the agent's resources, what survives of them, and until when they are told.

use std::time::Duration;

use bytes::Bytes;
use tepui_api::convert::{ResourceFormat, resource_to_wire, resources_to_wire};
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::offer::{Operation, operation};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, OperationState, TaskState};
use tepui_model::{
    Disk, DiskVolume, Milli, Persistence, Reservation, Resource, Resources, Role, parse_resources,
};

use super::harness::*;
use crate::effect::Effect;
use crate::input::{Input, Recovered};
use crate::{Config, Core};

const MACHINE: &str = "cpus:4;mem:1024;disk:100";

fn resources(text: &str) -> Resources {
    parse_resources(text, &Role::star()).unwrap()
}

fn reserved(text: &str) -> Resources {
    let role = Role::parse("web").unwrap();
    resources(text)
        .map(|resource| resource.with_reservation(Reservation::dynamic(role.clone(), None)))
}

fn volume(id: &str) -> Resource {
    let role = Role::parse("web/a").unwrap();
    Resource {
        disk: Some(Box::new(Disk {
            persistence: Some(Persistence {
                id: id.into(),
                principal: None,
            }),
            volume: Some(DiskVolume {
                container_path: "data".into(),
                host_path: None,
                read_only: false,
            }),
            source: None,
        })),
        ..Resource::scalar("disk", Milli::from_units(10))
            .with_reservation(Reservation::dynamic(role, None))
    }
}

fn reserve(resources: &Resources) -> Operation {
    Operation {
        r#type: Some(operation::Type::Reserve.into()),
        id: Some(v1::OperationId {
            value: "reserve".to_owned(),
        }),
        reserve: Some(operation::Reserve {
            resources: resources_to_wire(resources, ResourceFormat::Refined, None),
            source: Vec::new(),
        }),
        ..Operation::default()
    }
}

fn create(volume: &Resource) -> Operation {
    Operation {
        r#type: Some(operation::Type::Create.into()),
        create: Some(operation::Create {
            volumes: vec![resource_to_wire(volume, ResourceFormat::Refined, None)],
        }),
        ..Operation::default()
    }
}

fn destroy(volume: &Resource) -> Operation {
    Operation {
        r#type: Some(operation::Type::Destroy.into()),
        destroy: Some(operation::Destroy {
            volumes: vec![resource_to_wire(volume, ResourceFormat::Refined, None)],
        }),
        ..Operation::default()
    }
}

fn agent() -> Agent {
    Agent::registered()
}

fn apply(agent: &mut Agent, number: u8, framework: &str, info: Operation) -> Vec<Effect> {
    let apply = link::ApplyOperation {
        uuid: Bytes::copy_from_slice(&[number; 16]),
        framework_id: Some(v1::FrameworkId {
            value: framework.to_owned(),
        }),
        info,
    };
    agent.hear(to_agent::Body::ApplyOperation(apply))
}

fn told_operations(effects: &[Effect]) -> Vec<link::OperationUpdate> {
    let bodies = to_master(effects).into_iter();
    bodies
        .filter_map(|body| match body {
            to_master::Body::OperationUpdate(update) => Some(update),
            _ => None,
        })
        .collect()
}

fn acknowledge(agent: &mut Agent, update: &link::OperationUpdate) -> Vec<Effect> {
    let status_uuid = update.status.uuid.clone().unwrap().value;
    let acknowledge = link::AcknowledgeOperation {
        uuid: update.uuid.clone(),
        status_uuid,
    };
    agent.hear(to_agent::Body::AcknowledgeOperation(acknowledge))
}

fn has(agent: &Agent) -> Resources {
    agent.core.view().total
}

fn on(id: &str, resources: &Resources) -> v1::TaskInfo {
    v1::TaskInfo {
        resources: resources_to_wire(resources, ResourceFormat::Refined, None),
        ..task_info(id)
    }
}

fn volume_effects(effects: &[Effect]) -> Vec<String> {
    let work = effects.iter().filter_map(|effect| match effect {
        Effect::MakeVolume { directory } => Some(format!("make {}", directory.path)),
        Effect::RemoveVolume { directory } => Some(format!("remove {}", directory.path)),
        _ => None,
    });
    work.collect()
}

#[test]
fn an_operation_is_on_disk_before_it_is_told_and_is_told_until_acknowledged() {
    let mut agent = agent();
    agent.hold_saves = true;
    let effects = apply(&mut agent, 1, "A", reserve(&reserved("cpus:1")));
    assert!(told_operations(&effects).is_empty());
    let told = told_operations(&agent.release());
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].status.state(), OperationState::OperationFinished);
    assert_eq!(told[0].framework_id.as_ref().unwrap().value, "A");
    let mut expected = resources("cpus:3;mem:1024;disk:100");
    expected.add(&reserved("cpus:1"));
    assert_eq!(has(&agent), expected);
    agent.hold_saves = false;

    let again = told_operations(&agent.pass(Duration::from_secs(10)));
    assert_eq!(again, told, "nobody acknowledged");
    assert!(told_operations(&agent.pass(Duration::from_secs(19))).is_empty());
    agent.apply(Input::LinkDown);
    let effects = agent.link_up();
    let register = registration(&effects);
    assert_eq!(register.operations.len(), 1);
    assert_eq!(register.total.len(), 4);
    assert_eq!(
        told_operations(&effects),
        told,
        "a new link tells it at once"
    );
    let wrong = link::OperationUpdate {
        status: v1::OperationStatus {
            uuid: Some(v1::Uuid {
                value: Bytes::from_static(&[9; 16]),
            }),
            ..told[0].status.clone()
        },
        ..told[0].clone()
    };
    acknowledge(&mut agent, &wrong);
    assert_eq!(agent.core.view().operations.len(), 1);
    acknowledge(&mut agent, &told[0]);
    assert!(agent.core.view().operations.is_empty());
    assert!(told_operations(&agent.pass(Duration::from_secs(1000))).is_empty());
}

#[test]
fn what_was_made_outlives_the_agents_process_without_checkpointing() {
    let mut agent = agent();
    let role = Role::parse("web/a").unwrap();
    let disk = resources("disk:10")
        .map(|resource| resource.with_reservation(Reservation::dynamic(role.clone(), None)));
    apply(&mut agent, 1, "A", reserve(&disk));
    let effects = apply(&mut agent, 2, "A", create(&volume("v")));
    assert_eq!(volume_effects(&effects), ["make volumes/roles/web a/v"]);
    let held = to_master(&effects).into_iter().find_map(|body| match body {
        to_master::Body::Holdings(holdings) => holdings.held.into_iter().next(),
        _ => None,
    });
    let held = held.unwrap();
    assert_eq!((held.name.as_str(), held.bytes()), ("v", 10 << 20));
    assert_eq!(held.roles, ["web/a"]);
    let had = has(&agent);
    agent.restart();
    assert_eq!(has(&agent), had);
    let effects = agent.link_up();
    assert_eq!(volume_effects(&effects), ["make volumes/roles/web a/v"]);
    let told = told_operations(&effects);
    assert_eq!(told.len(), 2, "nobody had acknowledged them");
    // The record of a volume that goes comes before its files.
    let effects = apply(&mut agent, 3, "A", destroy(&volume("v")));
    assert_eq!(volume_effects(&effects), ["remove volumes/roles/web a/v"]);
    agent.restart();
    let effects = agent.link_up();
    assert_eq!(
        volume_effects(&effects),
        ["remove volumes/roles/web a/v"],
        "it had not been said to be done"
    );
    let removed = effects.iter().find_map(|effect| match effect {
        Effect::RemoveVolume { directory } => Some(directory.clone()),
        _ => None,
    });
    agent.apply(Input::VolumeRemoved {
        directory: removed.unwrap(),
    });
    agent.restart();
    assert!(volume_effects(&agent.link_up()).is_empty());
}

#[test]
fn an_agent_with_too_little_for_what_was_made_does_not_start() {
    let mut agent = agent();
    apply(&mut agent, 1, "A", reserve(&reserved("cpus:3")));
    let saved = agent.disk.clone().into_iter().collect();
    let recovered = Recovered {
        agent_id: agent.saved_id.clone(),
        saved,
        ..Recovered::default()
    };
    let mut less = Config {
        strict: false,
        ..Config::default()
    };
    less.info.resources = vec![scalar("cpus", 2.0)];
    let error = Core::new(less.clone(), recovered.clone(), agent.now).unwrap_err();
    assert!(error.to_string().contains("have no room"), "{error}");
    less.info.resources = vec![scalar("cpus", 3.0)];
    let core = Core::new(less, recovered, agent.now).unwrap();
    assert_eq!(core.view().total, reserved("cpus:3"));
}

#[test]
fn what_cannot_be_done_is_dropped_and_changes_nothing() {
    let mut agent = agent();
    let effects = apply(&mut agent, 1, "A", reserve(&reserved("cpus:5")));
    let told = told_operations(&effects).remove(0);
    assert_eq!(told.status.state(), OperationState::OperationDropped);
    assert!(told.status.message().contains("does not have cpus:5"));
    assert_eq!(has(&agent), resources(MACHINE));
    let wire = resources_to_wire(&resources(MACHINE), ResourceFormat::Refined, None);
    assert_eq!(told.total, wire);
}

#[test]
fn operations_the_master_misses_are_reported_as_dropped() {
    let mut agent = agent();
    let effects = apply(&mut agent, 1, "A", reserve(&reserved("cpus:1")));
    let known = told_operations(&effects).remove(0);
    let asked = |number: u8| link::ApplyOperation {
        uuid: Bytes::copy_from_slice(&[number; 16]),
        framework_id: None,
        info: reserve(&reserved("cpus:1")),
    };
    let reconcile = link::ReconcileOperations {
        operations: vec![asked(1), asked(2)],
    };
    let effects = agent.hear(to_agent::Body::ReconcileOperations(reconcile));
    let told = told_operations(&effects);
    assert_eq!(told.len(), 1);
    assert_ne!(told[0].uuid, known.uuid);
    assert_eq!(told[0].status.state(), OperationState::OperationDropped);
}

#[test]
fn orders_wait_for_the_operations_they_rest_on_and_keep_their_order() {
    let mut agent = agent();
    agent.hold_saves = true;
    apply(&mut agent, 1, "A", reserve(&reserved("cpus:2")));
    let task = on("t", &reserved("cpus:1"));
    let effects = agent.launch(&aware("A"), vec![task]);
    assert!(effects.is_empty(), "{effects:?}");
    let killed = task_ref("A", "t");
    assert!(agent.kill(&killed).is_empty());
    let effects = agent.release();
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Prepare { .. }))
    );
    assert_eq!(
        told(&effects),
        (TaskState::TaskKilled, Reason::TaskKilledDuringLaunch)
    );
    // What had not been done yet when the link went down is for the master to ask for again.
    apply(&mut agent, 2, "A", reserve(&reserved("mem:1")));
    agent.launch(&aware("A"), vec![on("u", &reserved("cpus:1"))]);
    agent.apply(Input::LinkDown);
    assert!(agent.release().is_empty());
    assert!(agent.core.task(&task_ref("A", "u")).is_none());
}

#[test]
fn a_task_on_resources_that_are_not_there_is_dropped() {
    let mut agent = agent();
    let effects = agent.launch(&aware("A"), vec![on("t", &reserved("cpus:1"))]);
    assert_eq!(
        told(&effects),
        (TaskState::TaskDropped, Reason::ResourcesUnknown)
    );
    let old = framework("N", &[], false);
    let effects = agent.launch(&old, vec![on("t", &volume("v").into())]);
    assert_eq!(
        told(&effects),
        (TaskState::TaskLost, Reason::ResourcesUnknown)
    );
}

#[test]
fn a_volume_in_use_is_not_destroyed() {
    let mut agent = agent();
    let role = Role::parse("web/a").unwrap();
    let disk = resources("disk:10")
        .map(|resource| resource.with_reservation(Reservation::dynamic(role.clone(), None)));
    apply(&mut agent, 1, "A", reserve(&disk));
    apply(&mut agent, 2, "A", create(&volume("v")));
    let mut used = volume("v");
    let form = used.disk.as_mut().unwrap().volume.as_mut().unwrap();
    form.container_path = "elsewhere".into();
    agent.launch(&aware("A"), vec![on("t", &used.into())]);
    let effects = apply(&mut agent, 3, "A", destroy(&volume("v")));
    let told = told_operations(&effects).remove(0);
    assert_eq!(told.status.state(), OperationState::OperationDropped);
    assert!(volume_effects(&effects).is_empty());
}

#[test]
fn a_frameworks_own_executor_sees_the_volumes_of_its_tasks() {
    let mut agent = agent();
    let role = Role::parse("web/a").unwrap();
    let disk = resources("disk:10")
        .map(|resource| resource.with_reservation(Reservation::dynamic(role.clone(), None)));
    apply(&mut agent, 1, "A", reserve(&disk));
    apply(&mut agent, 2, "A", create(&volume("v")));
    let wire = resource_to_wire(&volume("v"), ResourceFormat::Refined, None);
    let mut task = custom_task("t", "own");
    task.resources.push(wire.clone());
    let effects = agent.launch(&aware("A"), vec![task.clone()]);
    let link = effects.iter().position(
        |effect| matches!(effect, Effect::LinkVolumes { volumes, .. } if volumes.len() == 1),
    );
    let start = effects
        .iter()
        .position(|effect| matches!(effect, Effect::StartExecutor { .. }));
    assert!(link.unwrap() < start.unwrap());

    let mut read_only = custom_task("u", "own");
    read_only.resources.push(wire);
    let disk = read_only
        .resources
        .last_mut()
        .unwrap()
        .disk
        .as_mut()
        .unwrap();
    disk.volume.as_mut().unwrap().mode = v1::volume::Mode::Ro.into();
    let effects = agent.launch(&aware("A"), vec![read_only.clone()]);
    assert_eq!(told(&effects), (TaskState::TaskError, Reason::TaskInvalid));

    // It is shown when the executor starts, so it must be the executor's.
    let mut of_executor = custom_task("w", "other");
    let executor = of_executor.executor.as_mut().unwrap();
    executor.resources.extend(read_only.resources.pop());
    let effects = agent.launch(&aware("A"), vec![of_executor]);
    let starts = |effect: &Effect| matches!(effect, Effect::StartExecutor { .. });
    assert!(effects.iter().any(starts), "{effects:?}");
}
