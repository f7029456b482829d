//! Operations on resources: what they make of offers and agents, and what their frameworks are told of them.

use bytes::Bytes;
use tepui_api::convert::{ResourceFormat, resource_from_wire, resource_to_wire, resources_to_wire};
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::framework_info::capability::Type as Capability;
use tepui_api::v1::offer::{Operation, operation};
use tepui_api::v1::scheduler::{Call, call};
use tepui_api::v1::{self, OperationState, TaskState, master};
use tepui_model::{
    Disk, DiskVolume, Milli, Persistence, Reservation, Resource, Resources, Role, parse_resources,
};

use super::harness::*;
use crate::Answer;

const MACHINE: &str = "cpus:4;mem:1024;disk:1000";

fn to_wire(resources: &Resources) -> Vec<v1::Resource> {
    resources_to_wire(resources, ResourceFormat::Refined, None)
}

fn reserved(text: &str, role: &str) -> Resources {
    let role = Role::parse(role).unwrap();
    resources(text)
        .map(|resource| resource.with_reservation(Reservation::dynamic(role.clone(), None)))
}

fn volume(id: &str, megabytes: i64, shared: bool) -> Resource {
    let disk = Resource::scalar("disk", Milli::from_units(megabytes));
    let role = Role::parse("web").unwrap();
    Resource {
        shared,
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
        ..disk.with_reservation(Reservation::dynamic(role, None))
    }
}

fn of_type(kind: operation::Type) -> Operation {
    Operation {
        r#type: Some(kind.into()),
        ..Operation::default()
    }
}

fn reserve(resources: &Resources) -> Operation {
    Operation {
        reserve: Some(operation::Reserve {
            resources: to_wire(resources),
            source: Vec::new(),
        }),
        ..of_type(operation::Type::Reserve)
    }
}

fn unreserve(resources: &Resources) -> Operation {
    Operation {
        unreserve: Some(operation::Unreserve {
            resources: to_wire(resources),
        }),
        ..of_type(operation::Type::Unreserve)
    }
}

fn create(volume: &Resource) -> Operation {
    Operation {
        create: Some(operation::Create {
            volumes: vec![resource_to_wire(volume, ResourceFormat::Refined, None)],
        }),
        ..of_type(operation::Type::Create)
    }
}

fn destroy(volume: &Resource) -> Operation {
    Operation {
        destroy: Some(operation::Destroy {
            volumes: vec![resource_to_wire(volume, ResourceFormat::Refined, None)],
        }),
        ..of_type(operation::Type::Destroy)
    }
}

fn shrink(volume: &Resource, megabytes: f64) -> Operation {
    Operation {
        shrink_volume: Some(operation::ShrinkVolume {
            volume: resource_to_wire(volume, ResourceFormat::Refined, None),
            subtract: v1::value::Scalar { value: megabytes },
        }),
        ..of_type(operation::Type::ShrinkVolume)
    }
}

fn with_id(mut operation: Operation, id: &str) -> Operation {
    operation.id = Some(v1::OperationId {
        value: id.to_owned(),
    });
    operation
}

fn web(name: &str) -> v1::FrameworkInfo {
    let mut info = with_capability(info(name), Capability::ReservationRefinement);
    for capability in [Capability::SharedResources, Capability::MultiRole] {
        info = with_capability(info, capability);
    }
    info.roles = vec!["web".to_owned()];
    info
}

fn on(offer: &v1::Offer, id: &str, resources: &Resources) -> v1::TaskInfo {
    v1::TaskInfo {
        resources: to_wire(resources),
        ..task(offer, id, "cpus:1")
    }
}

fn statuses(cluster: &mut Cluster, scheduler: &Scheduler) -> Vec<v1::OperationStatus> {
    let events = cluster.events(scheduler);
    let updates = events
        .into_iter()
        .filter_map(|event| event.update_operation_status);
    updates.map(|update| update.status).collect()
}

fn applied(messages: &[to_agent::Body]) -> Vec<link::ApplyOperation> {
    let applied = messages.iter().filter_map(|body| match body {
        to_agent::Body::ApplyOperation(apply) => Some(apply.clone()),
        _ => None,
    });
    applied.collect()
}

/// The agent says how the operation ended, and what it has.
fn answer(
    cluster: &mut Cluster,
    agent: &Agent,
    apply: &link::ApplyOperation,
    state: OperationState,
    total: &Resources,
) -> Bytes {
    let uuid = Bytes::from(format!("{:016}", cluster.number()));
    let status = v1::OperationStatus {
        operation_id: apply.info.id.clone(),
        state: state.into(),
        uuid: Some(v1::Uuid {
            value: uuid.clone(),
        }),
        agent_id: Some(agent.id.as_str().into()),
        ..v1::OperationStatus::default()
    };
    let update = link::OperationUpdate {
        uuid: apply.uuid.clone(),
        framework_id: apply.framework_id.clone(),
        status,
        total: to_wire(total),
    };
    cluster.from(agent.link, to_master::Body::OperationUpdate(update));
    uuid
}

fn acknowledge(agent: &Agent, id: &str, uuid: &Bytes) -> Call {
    let acknowledge = call::AcknowledgeOperationStatus {
        agent_id: Some(agent.id.as_str().into()),
        resource_provider_id: None,
        uuid: uuid.clone(),
        operation_id: v1::OperationId {
            value: id.to_owned(),
        },
    };
    Call {
        r#type: Some(call::Type::AcknowledgeOperationStatus.into()),
        acknowledge_operation_status: Some(acknowledge),
        ..Call::default()
    }
}

fn reconcile_operations(named: &[(&str, &str)]) -> Call {
    let operation = |(id, agent): &(&str, &str)| call::reconcile_operations::Operation {
        operation_id: v1::OperationId {
            value: (*id).to_owned(),
        },
        agent_id: Some((*agent).into()),
        resource_provider_id: None,
    };
    Call {
        r#type: Some(call::Type::ReconcileOperations.into()),
        reconcile_operations: Some(call::ReconcileOperations {
            operations: named.iter().map(operation).collect(),
        }),
        ..Call::default()
    }
}

fn total(cluster: &Cluster, agent: &Agent) -> Resources {
    cluster.view().agent(&agent.id).unwrap().total.clone()
}

fn offered(offer: &v1::Offer) -> Resources {
    let resources = offer.resources.iter();
    resources
        .map(|wire| resource_from_wire(wire).unwrap().0)
        .collect()
}

#[test]
fn each_operation_of_an_accept_sees_what_the_one_before_made() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let made = volume("v", 64, false);
    let mut wanted = reserved("cpus:1", "web");
    wanted.add_resource(made.clone());
    let operations = vec![
        reserve(&reserved("cpus:2;disk:100", "web")),
        // Fails, and stops nobody.
        with_id(unreserve(&reserved("mem:5", "web")), "bad"),
        create(&made),
        launch(vec![on(&offer, "t", &wanted)]),
        unreserve(&reserved("disk:36", "web")),
    ];
    cluster.call(&scheduler, accept(&[offer], operations, Some(100.0)));
    let messages = cluster.messages(&agent);
    let kinds: Vec<operation::Type> = applied(&messages)
        .iter()
        .map(|apply| apply.info.r#type())
        .collect();
    assert_eq!(
        kinds,
        [
            operation::Type::Reserve,
            operation::Type::Create,
            operation::Type::Unreserve
        ]
    );
    assert!(
        matches!(&messages[2], to_agent::Body::Launch(_)),
        "in order"
    );
    let failed = statuses(&mut cluster, &scheduler).remove(0);
    assert_eq!(failed.operation_id.as_ref().unwrap().value, "bad");
    assert_eq!(failed.state(), OperationState::OperationError);
    assert!(failed.uuid.is_none(), "nothing to acknowledge");

    let mut expected = resources("cpus:2;mem:1024;disk:936");
    expected.add(&reserved("cpus:2", "web"));
    expected.add_resource(made.clone());
    assert_eq!(total(&cluster, &agent), expected);
    let view = cluster.view();
    assert_eq!(view.agent(&agent.id).unwrap().used, wanted);
    // What was made and not used comes back at once; what was only left over is refused.
    let again = cluster.offers(&scheduler).remove(0);
    assert!(offered(&again).contains(&reserved("cpus:1", "web")));
    // The volume keeps its name when the task is over, whatever the task called its place.
    let uuid = cluster.update(&scheduler, &agent, "t", TaskState::TaskFinished);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    let last = cluster.offers(&scheduler).remove(0);
    assert!(offered(&last).contains_resource(&made));
}

#[test]
fn a_reservation_beyond_the_offer_is_dropped_and_the_offer_comes_back_as_it_was() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let operations = vec![with_id(reserve(&reserved("cpus:5", "web")), "r")];
    cluster.call(&scheduler, accept(&[offer], operations, Some(0.0)));
    let status = statuses(&mut cluster, &scheduler).remove(0);
    assert_eq!(status.state(), OperationState::OperationError);
    assert!(status.message().contains("are needed"), "{status:?}");
    assert!(applied(&cluster.messages(&agent)).is_empty());
    let again = cluster.offers(&scheduler).remove(0);
    assert_eq!(offered(&again), resources(MACHINE));
}

#[test]
fn what_an_operation_must_not_do_is_told_by_name() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let mut owner = web("one");
    owner.principal = Some("anna".to_owned());
    let scheduler = cluster.subscribe(owner);
    let by = |principal: Option<&str>, text: &str| -> Resources {
        reserved(text, "web").map(|mut resource| {
            resource.reservations[0].principal = principal.map(Into::into);
            resource
        })
    };
    let hers = |mut volume: Resource| {
        volume.reservations[0].principal = Some("anna".into());
        volume
            .disk
            .as_mut()
            .unwrap()
            .persistence
            .as_mut()
            .unwrap()
            .principal = Some("anna".into());
        volume
    };
    let offer = cluster.offers(&scheduler).remove(0);
    let kept = hers(volume("kept", 10, false));
    let operations = vec![reserve(&by(Some("anna"), "disk:100")), create(&kept)];
    cluster.call(&scheduler, accept(&[offer], operations, Some(0.0)));
    let changed = |change: &dyn Fn(&mut Resource)| {
        let mut volume = hers(volume("new", 10, false));
        change(&mut volume);
        volume
    };
    let form = |volume: &mut Resource, change: &dyn Fn(&mut DiskVolume)| {
        change(volume.disk.as_mut().unwrap().volume.as_mut().unwrap());
    };
    let grow = |addition: Resources| {
        let addition = to_wire(&addition).remove(0);
        Operation {
            grow_volume: Some(operation::GrowVolume {
                volume: resource_to_wire(&kept, ResourceFormat::Refined, None),
                addition,
            }),
            ..of_type(operation::Type::GrowVolume)
        }
    };
    let mut sourced = reserve(&by(Some("anna"), "cpus:1"));
    sourced.reserve.as_mut().unwrap().source = wire_resources("cpus:1");
    let mut elsewhere = reserve(&by(Some("anna"), "cpus:1"));
    elsewhere.reserve.as_mut().unwrap().resources[0].allocation_info =
        Some(v1::resource::AllocationInfo {
            role: Some("other".to_owned()),
        });
    let revocable = by(Some("anna"), "cpus:1").map(|mut resource| {
        resource.revocable = true;
        resource
    });
    let cases: Vec<(Operation, &str)> = vec![
        (reserve(&resources("cpus:1")), "is not dynamically reserved"),
        (
            reserve(&reserved("cpus:1", "other")),
            "is reserved to role 'other'",
        ),
        (reserve(&by(None, "cpus:1")), "has no principal"),
        (
            reserve(&by(Some("bert"), "cpus:1")),
            "has the principal 'bert'",
        ),
        (reserve(&revocable), "is revocable"),
        (reserve(&Resources::new()), "names no resources"),
        (sourced, "'source' is only for operators"),
        (elsewhere, "is allocated to role 'other'"),
        (
            reserve(&kept.clone().into()),
            "can be neither reserved nor unreserved",
        ),
        (
            unreserve(&kept.clone().into()),
            "can be neither reserved nor unreserved",
        ),
        (
            unreserve(&resources("cpus:1")),
            "is not dynamically reserved",
        ),
        (
            create(&hers(volume("kept", 5, false))),
            "is in use already for role 'web'",
        ),
        (
            create(&changed(&|volume| volume.disk = None)),
            "is not a persistent volume",
        ),
        (
            create(&changed(&|volume| {
                form(volume, &|form| form.read_only = true)
            })),
            "with mode RW",
        ),
        (
            create(&changed(&|volume| {
                form(volume, &|form| form.container_path = "../x".into())
            })),
            "must be a path inside the sandbox",
        ),
        (
            create(&changed(&|volume| {
                volume
                    .disk
                    .as_mut()
                    .unwrap()
                    .persistence
                    .as_mut()
                    .unwrap()
                    .id = "a/b".into();
            })),
            "persistence id",
        ),
        (
            create(&changed(&|volume| volume.reservations.clear())),
            "must be reserved",
        ),
        (
            destroy(&hers(volume("kept", 11, false))),
            "is not found on the agent",
        ),
        (
            grow(by(Some("bert"), "disk:5")),
            "is not of the disk that volume",
        ),
        (shrink(&kept, 0.0), "must be a positive number"),
        (shrink(&kept, 10.0), "Nothing would be left"),
        (
            Operation {
                create_disk: Some(operation::CreateDisk {
                    source: wire_resources("disk:1").remove(0),
                    ..operation::CreateDisk::default()
                }),
                ..of_type(operation::Type::CreateDisk)
            },
            "needs a storage provider",
        ),
    ];
    let before = total(&cluster, &agent);
    for (number, (operation, expected)) in cases.into_iter().enumerate() {
        let offers = cluster.offers(&scheduler);
        let operation = with_id(operation, &format!("o{number}"));
        cluster.call(&scheduler, accept(&offers, vec![operation], Some(0.0)));
        let status = statuses(&mut cluster, &scheduler).remove(0);
        assert_eq!(status.state(), OperationState::OperationError, "{expected}");
        let message = status.message();
        assert!(message.contains(expected), "{message}, not {expected}");
    }
    assert_eq!(total(&cluster, &agent), before);
}

#[test]
fn a_framework_cannot_undo_what_is_reserved_for_another_role() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let operations = vec![reserve(&reserved("cpus:2", "web"))];
    cluster.call(&scheduler, accept(&[offer], operations, Some(1000.0)));
    cluster.hang_up(&scheduler);
    let mut other = web("other");
    other.roles = vec!["other".to_owned()];
    let other = cluster.subscribe(other);
    let offer = cluster.offers(&other).remove(0);
    assert!(!offered(&offer).contains(&reserved("cpus:1", "web")));
    let operations = vec![with_id(unreserve(&reserved("cpus:2", "web")), "steal")];
    cluster.call(&other, accept(&[offer], operations, Some(0.0)));
    let status = statuses(&mut cluster, &other).remove(0);
    assert_eq!(status.state(), OperationState::OperationError);
    assert!(total(&cluster, &agent).contains(&reserved("cpus:2", "web")));
}

#[test]
fn resized_volumes_cannot_be_used_before_they_are_offered_again() {
    let mut cluster = Cluster::new();
    cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let (large, small) = (volume("v", 64, false), volume("v", 60, false));
    let operations = vec![
        reserve(&reserved("disk:64", "web")),
        create(&large),
        shrink(&large, 4.0),
        with_id(destroy(&small), "too-early"),
    ];
    cluster.call(&scheduler, accept(&[offer], operations, Some(100.0)));
    let status = statuses(&mut cluster, &scheduler).remove(0);
    assert_eq!(status.state(), OperationState::OperationError);
    let offer = cluster.offers(&scheduler).remove(0);
    assert!(offered(&offer).contains_resource(&small));
    assert!(offered(&offer).contains(&reserved("disk:4", "web")));
    let grow = Operation {
        grow_volume: Some(operation::GrowVolume {
            volume: resource_to_wire(&small, ResourceFormat::Refined, None),
            addition: to_wire(&reserved("disk:4", "web")).remove(0),
        }),
        ..of_type(operation::Type::GrowVolume)
    };
    cluster.call(&scheduler, accept(&[offer], vec![grow], Some(100.0)));
    let offer = cluster.offers(&scheduler).remove(0);
    assert!(offered(&offer).contains_resource(&large));
}

#[test]
fn clients_of_the_old_format_reserve_and_are_offered_in_it() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let mut old = info("old");
    old.role = Some("web".to_owned());
    let scheduler = cluster.subscribe(old);
    let offer = cluster.offers(&scheduler).remove(0);
    let mut resource = wire_resources("cpus:2").remove(0);
    resource.role = Some("web".to_owned());
    resource.reservation = Some(v1::resource::ReservationInfo::default());
    let operation = Operation {
        reserve: Some(operation::Reserve {
            resources: vec![resource],
            source: Vec::new(),
        }),
        ..of_type(operation::Type::Reserve)
    };
    cluster.call(&scheduler, accept(&[offer], vec![operation], Some(100.0)));
    assert!(total(&cluster, &agent).contains(&reserved("cpus:2", "web")));
    let offer = cluster.offers(&scheduler).remove(0);
    let of_role = offer
        .resources
        .iter()
        .find(|resource| resource.role() == "web")
        .unwrap();
    assert!(of_role.reservation.is_some() && of_role.reservations.is_empty());
    assert!(of_role.allocation_info.is_none());
}

#[test]
fn an_operation_with_an_id_is_told_until_it_is_acknowledged() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let operations = vec![
        with_id(reserve(&reserved("cpus:1", "web")), "told"),
        reserve(&reserved("cpus:1", "web")),
        with_id(reserve(&reserved("cpus:1", "web")), "told"),
    ];
    cluster.call(&scheduler, accept(&[offer], operations, None));
    let twice = statuses(&mut cluster, &scheduler).remove(0);
    assert!(twice.message().contains("is in use by an operation"));
    let applied = applied(&cluster.messages(&agent));
    assert_eq!(applied.len(), 2);
    assert_eq!(cluster.view().operations.len(), 2);
    let now = total(&cluster, &agent);

    // Nobody waits for the one without an id.
    let finished = OperationState::OperationFinished;
    answer(&mut cluster, &agent, &applied[1], finished, &now);
    assert!(statuses(&mut cluster, &scheduler).is_empty());
    assert!(matches!(
        cluster.messages(&agent)[..],
        [to_agent::Body::AcknowledgeOperation(_)]
    ));
    assert_eq!(cluster.view().operations.len(), 1);

    cluster.call(&scheduler, reconcile_operations(&[]));
    let status = statuses(&mut cluster, &scheduler).remove(0);
    assert_eq!(status.state(), OperationState::OperationPending);
    let uuid = answer(&mut cluster, &agent, &applied[0], finished, &now);
    let status = statuses(&mut cluster, &scheduler).remove(0);
    assert_eq!(status.state(), finished);
    assert_eq!(status.uuid.as_ref().unwrap().value, uuid);
    cluster.call(&scheduler, reconcile_operations(&[("told", &agent.id)]));
    let status = statuses(&mut cluster, &scheduler).remove(0);
    assert_eq!((status.state(), status.uuid), (finished, None));

    let wrong = Bytes::from_static(&[7; 16]);
    cluster.call(&scheduler, acknowledge(&agent, "told", &wrong));
    assert!(cluster.messages(&agent).is_empty());
    let answer = cluster.call(&scheduler, acknowledge(&agent, "told", &uuid));
    assert_eq!(answer, Answer::Accepted);
    let messages = cluster.messages(&agent);
    let [to_agent::Body::AcknowledgeOperation(acknowledged)] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert_eq!(acknowledged.uuid, applied[0].uuid);
    assert_eq!(acknowledged.status_uuid, uuid);
    assert!(cluster.view().operations.is_empty());
    cluster.call(&scheduler, reconcile_operations(&[("told", &agent.id)]));
    let status = statuses(&mut cluster, &scheduler).remove(0);
    assert_eq!(status.state(), OperationState::OperationUnknown);
}

#[test]
fn what_an_agent_could_not_do_is_undone_in_the_masters_books() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let operations = vec![
        with_id(reserve(&reserved("cpus:1", "web")), "a"),
        with_id(reserve(&reserved("mem:1", "web")), "b"),
    ];
    cluster.call(&scheduler, accept(&[offer], operations, Some(0.0)));
    let applied = applied(&cluster.messages(&agent));
    let offered_now = cluster.offers(&scheduler).remove(0);
    let mut truth = resources("cpus:4;mem:1023;disk:1000");
    truth.add(&reserved("mem:1", "web"));
    let dropped = OperationState::OperationDropped;
    answer(&mut cluster, &agent, &applied[0], dropped, &truth);
    assert!(
        total(&cluster, &agent).contains(&reserved("cpus:1", "web")),
        "as long as another is under way, the agent speaks of the past"
    );
    let finished = OperationState::OperationFinished;
    answer(&mut cluster, &agent, &applied[1], finished, &truth);
    assert_eq!(total(&cluster, &agent), truth);
    let events = cluster.events(&scheduler);
    let rescinded = events.iter().find_map(|event| event.rescind.as_ref());
    assert_eq!(rescinded.unwrap().offer_id, offered_now.id);
    let again = cluster.offers(&scheduler).remove(0);
    assert_eq!(offered(&again), truth);
}

#[test]
fn reservations_and_volumes_outlive_the_master_because_agents_report_them() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let made = volume("v", 64, false);
    let operations = vec![
        with_id(reserve(&reserved("disk:64", "web")), "r"),
        with_id(create(&made), "c"),
    ];
    cluster.call(&scheduler, accept(&[offer], operations, Some(0.0)));
    let applied = applied(&cluster.messages(&agent));
    let had = total(&cluster, &agent);
    cluster.restart();
    let mut again = reregister(&agent, MACHINE, Vec::new());
    again.total = to_wire(&had);
    again.operations = vec![v1::Operation {
        framework_id: applied[0].framework_id.clone(),
        agent_id: Some(agent.id.as_str().into()),
        info: applied[0].info.clone(),
        latest_status: v1::OperationStatus {
            operation_id: applied[0].info.id.clone(),
            state: OperationState::OperationFinished.into(),
            ..v1::OperationStatus::default()
        },
        statuses: Vec::new(),
        uuid: v1::Uuid {
            value: applied[0].uuid.clone(),
        },
    }];
    let before = reconcile_operations(&[("r", &agent.id)]);
    let mut same = web("one");
    same.id = Some(scheduler.id.as_str().into());
    let scheduler = cluster.subscribe(same);
    cluster.call(&scheduler, before.clone());
    let status = statuses(&mut cluster, &scheduler).remove(0);
    assert_eq!(status.state(), OperationState::OperationRecovering);
    let agent = cluster.register(again);
    assert_eq!(total(&cluster, &agent), had);
    let offer = cluster.offers(&scheduler).remove(0);
    assert!(offered(&offer).contains_resource(&made));
    cluster.call(&scheduler, before);
    let status = statuses(&mut cluster, &scheduler).remove(0);
    assert_eq!(status.state(), OperationState::OperationFinished);
}

#[test]
fn an_operation_that_never_reached_the_agent_is_asked_after() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let operations = vec![with_id(reserve(&reserved("cpus:1", "web")), "r")];
    cluster.call(&scheduler, accept(&[offer], operations, Some(0.0)));
    let applied = applied(&cluster.messages(&agent));
    cluster.cut(&agent);
    let agent = cluster.register(reregister(&agent, MACHINE, Vec::new()));
    assert_eq!(total(&cluster, &agent), resources(MACHINE));
    let messages = cluster.messages(&agent);
    let asked = messages.iter().find_map(|body| match body {
        to_agent::Body::ReconcileOperations(reconcile) => Some(&reconcile.operations),
        _ => None,
    });
    assert_eq!(asked.unwrap()[0].uuid, applied[0].uuid);
    let dropped = OperationState::OperationDropped;
    answer(
        &mut cluster,
        &agent,
        &applied[0],
        dropped,
        &resources(MACHINE),
    );
    let status = statuses(&mut cluster, &scheduler).pop().unwrap();
    assert_eq!(status.state(), dropped);
}

#[test]
fn an_operation_on_an_agent_that_is_away_is_told_as_what_the_agent_is() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let operations = vec![with_id(reserve(&reserved("cpus:1", "web")), "r")];
    cluster.call(&scheduler, accept(&[offer], operations, Some(0.0)));
    cluster.events(&scheduler);
    cluster.lose(&agent, &[]);
    let status = statuses(&mut cluster, &scheduler).remove(0);
    let unreachable = OperationState::OperationUnreachable;
    assert_eq!((status.state(), status.uuid), (unreachable, None));
    assert!(cluster.view().operations.is_empty());
    let named = [("r", agent.id.as_str()), ("r", "nowhere")];
    cluster.call(&scheduler, reconcile_operations(&named));
    let states: Vec<OperationState> = statuses(&mut cluster, &scheduler)
        .iter()
        .map(v1::OperationStatus::state)
        .collect();
    assert_eq!(states, [unreachable, OperationState::OperationUnknown]);
    // Away or not, what an operator says is gone is gone.
    cluster.operator(mark_gone(&agent.id));
    cluster.call(&scheduler, reconcile_operations(&named[..1]));
    let gone = statuses(&mut cluster, &scheduler);
    let gone: Vec<OperationState> = gone.iter().map(v1::OperationStatus::state).collect();
    assert_eq!(gone, [OperationState::OperationGoneByOperator]);
}

#[test]
fn an_operation_under_way_on_an_agent_that_is_marked_gone_is_told_so() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let operations = vec![with_id(reserve(&reserved("cpus:1", "web")), "r")];
    cluster.call(&scheduler, accept(&[offer], operations, Some(0.0)));
    cluster.events(&scheduler);
    cluster.operator(mark_gone(&agent.id));
    let told = statuses(&mut cluster, &scheduler);
    let told: Vec<OperationState> = told.iter().map(v1::OperationStatus::state).collect();
    assert_eq!(told, [OperationState::OperationGoneByOperator]);
    cluster.call(&scheduler, reconcile_operations(&[("r", &agent.id)]));
    let told = statuses(&mut cluster, &scheduler);
    let told: Vec<OperationState> = told.iter().map(v1::OperationStatus::state).collect();
    assert_eq!(told, [OperationState::OperationGoneByOperator]);
    assert!(cluster.view().operations.is_empty());
}

#[test]
fn the_operations_of_a_framework_that_goes_are_settled_by_the_master() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let operations = vec![
        with_id(reserve(&reserved("cpus:1", "web")), "answered"),
        with_id(reserve(&reserved("cpus:1", "web")), "pending"),
    ];
    cluster.call(&scheduler, accept(&[offer], operations, None));
    let applied = applied(&cluster.messages(&agent));
    let now = total(&cluster, &agent);
    let finished = OperationState::OperationFinished;
    answer(&mut cluster, &agent, &applied[0], finished, &now);
    cluster.call(&scheduler, plain(call::Type::Teardown));
    let settled = |messages: Vec<to_agent::Body>| {
        let acknowledged = messages
            .iter()
            .filter(|body| matches!(body, to_agent::Body::AcknowledgeOperation(_)));
        acknowledged.count()
    };
    assert_eq!(settled(cluster.messages(&agent)), 1);
    answer(&mut cluster, &agent, &applied[1], finished, &now);
    assert_eq!(settled(cluster.messages(&agent)), 1);
    assert!(cluster.view().operations.is_empty());
    assert_eq!(total(&cluster, &agent), now, "the reservations stay");
}

#[test]
fn several_tasks_use_a_shared_volume_and_it_cannot_be_destroyed_under_them() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let shared = volume("s", 64, true);
    let wanted = |cpus: &str| {
        let mut wanted = resources(cpus);
        wanted.add_resource(shared.clone());
        wanted
    };
    let mut read_only = wanted("cpus:1");
    read_only = read_only.map(|mut resource| {
        if let Some(disk) = &mut resource.disk {
            let form = disk.volume.as_mut().unwrap();
            (form.read_only, form.container_path) = (true, "elsewhere".into());
        }
        resource
    });
    let operations = vec![
        reserve(&reserved("disk:64", "web")),
        create(&shared),
        launch(vec![
            on(&offer, "a", &wanted("cpus:1")),
            on(&offer, "b", &read_only),
        ]),
        with_id(destroy(&shared), "d"),
    ];
    cluster.call(&scheduler, accept(&[offer], operations, Some(0.0)));
    let status = statuses(&mut cluster, &scheduler).remove(0);
    assert!(status.message().contains("is in use"), "{status:?}");
    assert_eq!(cluster.view().agent(&agent.id).unwrap().tasks, 2);
    // It is offered while it is in use, and to a third task it is as good as to the first.
    let offer = cluster.offers(&scheduler).remove(0);
    assert!(offered(&offer).contains_resource(&shared));
    let third = launch(vec![on(&offer, "c", &wanted("cpus:1"))]);
    cluster.call(&scheduler, accept(&[offer], vec![third], Some(0.0)));
    assert_eq!(cluster.view().agent(&agent.id).unwrap().tasks, 3);
    for task in ["b", "a", "c"] {
        let uuid = cluster.update(&scheduler, &agent, task, TaskState::TaskFinished);
        cluster.acknowledge(&scheduler, &agent, task, &uuid);
    }
    assert!(cluster.view().agent(&agent.id).unwrap().used.is_empty());
}

#[test]
fn offers_that_hold_a_destroyed_volume_are_rescinded() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let shared = volume("s", 64, true);
    let operations = vec![
        reserve(&reserved("cpus:1;disk:64", "web")),
        create(&shared),
        launch(vec![on(&offer, "t", &reserved("cpus:1", "web"))]),
    ];
    cluster.call(&scheduler, accept(&[offer], operations, Some(0.0)));
    let first = cluster.offers(&scheduler).remove(0);
    let uuid = cluster.update(&scheduler, &agent, "t", TaskState::TaskFinished);
    cluster.acknowledge(&scheduler, &agent, "t", &uuid);
    let second = cluster.offers(&scheduler).remove(0);
    for offer in [&first, &second] {
        assert!(offered(offer).contains_resource(&shared), "{offer:?}");
    }
    let operations = vec![destroy(&shared)];
    cluster.call(&scheduler, accept(&[first], operations, Some(0.0)));
    let events = cluster.events(&scheduler);
    let rescinded = events.iter().find_map(|event| event.rescind.as_ref());
    assert_eq!(rescinded.unwrap().offer_id, second.id);
    assert!(!total(&cluster, &agent).contains_resource(&shared));
}

fn operator_call(kind: master::call::Type) -> master::Call {
    master::Call {
        r#type: Some(kind.into()),
        ..master::Call::default()
    }
}

fn reserve_call(agent: &str, resources: &Resources, source: &Resources) -> master::Call {
    master::Call {
        reserve_resources: Some(master::call::ReserveResources {
            agent_id: agent.into(),
            resources: to_wire(resources),
            source: to_wire(source),
        }),
        ..operator_call(master::call::Type::ReserveResources)
    }
}

fn unreserve_call(agent: &str, resources: &Resources) -> master::Call {
    master::Call {
        unreserve_resources: Some(master::call::UnreserveResources {
            agent_id: agent.into(),
            resources: to_wire(resources),
        }),
        ..operator_call(master::call::Type::UnreserveResources)
    }
}

#[test]
fn operators_reserve_what_nobody_uses_and_offers_give_way() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let none = Resources::new();
    let web_cpus = reserved("cpus:3", "web");
    let call = reserve_call(&agent.id, &web_cpus, &none);
    assert_eq!(cluster.operator(call.clone()), Answer::Accepted);
    assert!(total(&cluster, &agent).contains(&web_cpus));
    assert_eq!(
        refusal(&cluster.operator(call)).0,
        409,
        "there is one cpu left"
    );
    let call = reserve_call("nowhere", &web_cpus, &none);
    assert_eq!(refusal(&cluster.operator(call)).0, 400);
    let call = reserve_call(&agent.id, &resources("cpus:1"), &none);
    let refused = cluster.operator(call);
    assert_eq!(refusal(&refused).0, 400);
    assert!(refusal(&refused).1.contains("is not dynamically reserved"));
    let mut call = reserve_call(&agent.id, &reserved("mem:1", "web"), &none);
    let asked = call.reserve_resources.as_mut().unwrap();
    asked.resources[0].allocation_info = Some(v1::resource::AllocationInfo::default());
    assert_eq!(refusal(&cluster.operator(call)).0, 400);
    let call = operator_call(master::call::Type::GrowVolume);
    assert_eq!(refusal(&cluster.operator(call)).0, 400);

    // From one role to another in one step.
    let other = reserved("cpus:3", "other");
    let call = reserve_call(&agent.id, &other, &web_cpus);
    assert_eq!(cluster.operator(call), Answer::Accepted);
    assert!(total(&cluster, &agent).contains(&other));
    let call = reserve_call(&agent.id, &reserved("cpus:2", "web"), &other);
    assert_eq!(
        refusal(&cluster.operator(call)).0,
        400,
        "not the same amount"
    );
    let call = unreserve_call(&agent.id, &other);
    assert_eq!(cluster.operator(call), Answer::Accepted);

    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    let call = reserve_call(&agent.id, &reserved("cpus:9", "web"), &none);
    assert_eq!(refusal(&cluster.operator(call)).0, 409);
    assert!(
        cluster.events(&scheduler).is_empty(),
        "in vain nothing is rescinded"
    );
    let call = reserve_call(&agent.id, &web_cpus, &none);
    assert_eq!(cluster.operator(call), Answer::Accepted);
    let events = cluster.events(&scheduler);
    assert_eq!(events[0].rescind.as_ref().unwrap().offer_id, offer.id);
    let offer = cluster.offers(&scheduler).remove(0);
    assert!(offered(&offer).contains(&web_cpus));

    // What a task uses stays as it is.
    cluster.launch(
        &scheduler,
        std::slice::from_ref(&offer),
        vec![on(&offer, "t", &web_cpus)],
    );
    let call = unreserve_call(&agent.id, &web_cpus);
    assert_eq!(refusal(&cluster.operator(call)).0, 409);
    cluster.cut(&agent);
    let call = reserve_call(&agent.id, &reserved("mem:1", "web"), &none);
    assert_eq!(refusal(&cluster.operator(call)).0, 409, "the agent is away");
}

#[test]
fn operators_make_resize_and_destroy_volumes() {
    let mut cluster = Cluster::new();
    let agent = cluster.agent(MACHINE);
    let disk = reserved("disk:100", "web");
    let call = reserve_call(&agent.id, &disk, &Resources::new());
    assert_eq!(cluster.operator(call), Answer::Accepted);
    let (small, large) = (volume("v", 60, false), volume("v", 64, false));
    let wire = |volume: &Resource| resource_to_wire(volume, ResourceFormat::Refined, None);
    let create = master::Call {
        create_volumes: Some(master::call::CreateVolumes {
            agent_id: agent.id.as_str().into(),
            volumes: vec![wire(&small)],
        }),
        ..operator_call(master::call::Type::CreateVolumes)
    };
    assert_eq!(cluster.operator(create.clone()), Answer::Accepted);
    assert_eq!(refusal(&cluster.operator(create)).0, 400, "the id is taken");
    let call = unreserve_call(&agent.id, &disk);
    assert_eq!(refusal(&cluster.operator(call)).0, 409, "under the volume");
    let grow = master::Call {
        grow_volume: Some(master::call::GrowVolume {
            agent_id: Some(agent.id.as_str().into()),
            volume: wire(&small),
            addition: to_wire(&reserved("disk:4", "web")).remove(0),
        }),
        ..operator_call(master::call::Type::GrowVolume)
    };
    assert_eq!(cluster.operator(grow), Answer::Accepted);
    assert!(total(&cluster, &agent).contains_resource(&large));
    let shrink = master::Call {
        shrink_volume: Some(master::call::ShrinkVolume {
            agent_id: Some(agent.id.as_str().into()),
            volume: wire(&large),
            subtract: v1::value::Scalar { value: 4.0 },
        }),
        ..operator_call(master::call::Type::ShrinkVolume)
    };
    assert_eq!(cluster.operator(shrink), Answer::Accepted);
    let destroy = |volume| master::Call {
        destroy_volumes: Some(master::call::DestroyVolumes {
            agent_id: agent.id.as_str().into(),
            volumes: vec![wire(volume)],
        }),
        ..operator_call(master::call::Type::DestroyVolumes)
    };
    assert_eq!(refusal(&cluster.operator(destroy(&large))).0, 400);
    assert_eq!(cluster.operator(destroy(&small)), Answer::Accepted);
    let call = unreserve_call(&agent.id, &disk);
    assert_eq!(cluster.operator(call), Answer::Accepted);
    assert_eq!(total(&cluster, &agent), resources(MACHINE));
    let kinds = applied(&cluster.messages(&agent)).len();
    assert_eq!(kinds, 6, "all of it was the agent's to do");
}

#[test]
fn static_reservations_are_offered_to_their_role_and_cannot_be_undone() {
    let mut cluster = Cluster::new();
    let fixed = parse_resources("cpus(web):2;cpus:1;mem:64", &Role::star()).unwrap();
    let mut register = register("cpus:1");
    register.agent.resources = to_wire(&fixed);
    let agent = cluster.register(register);
    let call = unreserve_call(&agent.id, &fixed.reserved_to(&Role::parse("web").unwrap()));
    assert_eq!(refusal(&cluster.operator(call)).0, 400);
    let scheduler = cluster.subscribe(web("one"));
    let offer = cluster.offers(&scheduler).remove(0);
    assert_eq!(offered(&offer), fixed);
}
