//! What an agent really has, whatever the master thinks, and operations drawn by lot.

use std::collections::BTreeMap;

use bytes::Bytes;
use tepui_api::convert::{
    ResourceFormat, change_from_wire, resource_from_wire, resource_to_wire, resources_to_wire,
};
use tepui_api::link;
use tepui_api::v1::offer::{Operation, operation};
use tepui_api::v1::{self, OperationState};
use tepui_model::{Disk, DiskVolume, Milli, Persistence, Reservation, Resource, Resources, Role};

use super::harness::resources;

pub(super) struct Estate {
    agent: String,
    pub(super) total: Resources,
    /// Those that nobody acknowledged, by their uuids.
    operations: BTreeMap<Bytes, v1::Operation>,
}

impl Estate {
    pub(super) fn new(agent: &str, total: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            total: resources(total),
            operations: BTreeMap::new(),
        }
    }

    pub(super) fn total(&self) -> Vec<v1::Resource> {
        resources_to_wire(&self.total, ResourceFormat::Refined, None)
    }

    pub(super) fn operations(&self) -> Vec<v1::Operation> {
        self.operations.values().cloned().collect()
    }

    pub(super) fn knows(&self, uuid: &Bytes) -> bool {
        self.operations.contains_key(uuid)
    }

    pub(super) fn acknowledge(&mut self, acknowledge: &link::AcknowledgeOperation) {
        let told = self.operations.get(&acknowledge.uuid);
        if told.is_some_and(|told| {
            let last = told.latest_status.uuid.as_ref();
            last.is_some_and(|last| last.value == acknowledge.status_uuid)
        }) {
            self.operations.remove(&acknowledge.uuid);
        }
    }

    /// Does what is asked, unless the operation is lost on the way or fails.
    pub(super) fn apply(&mut self, apply: link::ApplyOperation, fails: bool, status_uuid: Bytes) {
        let change = change_from_wire(&apply.info).expect("the master has checked it");
        let conversion = change.known_as(&self.total).conversion();
        let left = self.total.checked_subtract(&conversion.consumed);
        let state = match left {
            Some(left) if !fails => {
                self.total = left;
                self.total.add(&conversion.converted);
                OperationState::OperationFinished
            }
            _ => OperationState::OperationDropped,
        };
        self.note(apply, state, status_uuid);
    }

    pub(super) fn note(
        &mut self,
        apply: link::ApplyOperation,
        state: OperationState,
        status_uuid: Bytes,
    ) {
        let latest_status = v1::OperationStatus {
            operation_id: apply.info.id.clone(),
            state: state.into(),
            uuid: Some(v1::Uuid { value: status_uuid }),
            agent_id: Some(self.agent.as_str().into()),
            ..v1::OperationStatus::default()
        };
        let operation = v1::Operation {
            framework_id: apply.framework_id,
            agent_id: None,
            info: apply.info,
            latest_status,
            statuses: Vec::new(),
            uuid: v1::Uuid {
                value: apply.uuid.clone(),
            },
        };
        self.operations.insert(apply.uuid, operation);
    }

    pub(super) fn updates(&self) -> Vec<link::OperationUpdate> {
        let operations = self.operations.values();
        operations
            .map(|operation| link::OperationUpdate {
                uuid: operation.uuid.value.clone(),
                framework_id: operation.framework_id.clone(),
                status: operation.latest_status.clone(),
                total: self.total(),
            })
            .collect()
    }
}

fn web() -> Role {
    Role::parse("web").expect("it is a role")
}

fn wire(resource: &Resource) -> v1::Resource {
    resource_to_wire(resource, ResourceFormat::Refined, None)
}

/// Some operation that may or may not be possible with what is offered.
pub(super) fn operation(mut lot: impl FnMut(usize) -> usize, offers: &[v1::Offer]) -> Operation {
    let offered: Vec<Resource> = offers
        .iter()
        .flat_map(|offer| &offer.resources)
        .map(|wire| resource_from_wire(wire).expect("the master wrote it").0)
        .collect();
    let volumes: Vec<&Resource> = offered
        .iter()
        .filter(|resource| resource.persistence().is_some())
        .collect();
    let amount = Milli::from_units(i64::try_from(1 + lot(40)).expect("it is small"));
    let bound = |name: &str, amount| {
        Resource::scalar(name, amount).with_reservation(Reservation::dynamic(web(), None))
    };
    let mut operation = Operation::default();
    let some_volume = (!volumes.is_empty()).then(|| volumes[lot(volumes.len())]);
    match (lot(6), some_volume) {
        (0 | 1, _) => {
            operation.set_type(operation::Type::Reserve);
            let resources = vec![
                wire(&bound("disk", amount)),
                wire(&bound("cpus", Milli(100))),
            ];
            let source = Vec::new();
            operation.reserve = Some(operation::Reserve { resources, source });
        }
        (2, _) => {
            operation.set_type(operation::Type::Unreserve);
            let resources = vec![wire(&bound("disk", amount))];
            operation.unreserve = Some(operation::Unreserve { resources });
        }
        (3, Some(volume)) => {
            operation.set_type(operation::Type::Destroy);
            let volumes = vec![wire(volume)];
            operation.destroy = Some(operation::Destroy { volumes });
        }
        (4, Some(volume)) => {
            operation.set_type(operation::Type::GrowVolume);
            operation.grow_volume = Some(operation::GrowVolume {
                volume: wire(volume),
                addition: wire(&bound("disk", amount)),
            });
        }
        (5, Some(volume)) => {
            operation.set_type(operation::Type::ShrinkVolume);
            operation.shrink_volume = Some(operation::ShrinkVolume {
                volume: wire(volume),
                subtract: v1::value::Scalar {
                    value: amount.to_f64(),
                },
            });
        }
        _ => {
            operation.set_type(operation::Type::Create);
            let mut volume = bound("disk", amount);
            volume.shared = lot(2) == 0;
            volume.disk = Some(Box::new(Disk {
                persistence: Some(Persistence {
                    id: format!("v{}", lot(8)).into(),
                    principal: None,
                }),
                volume: Some(DiskVolume {
                    container_path: "data".into(),
                    host_path: None,
                    read_only: false,
                }),
                source: None,
            }));
            let volumes = vec![wire(&volume)];
            operation.create = Some(operation::Create { volumes });
        }
    }
    operation
}

/// A volume among what is offered, for a task to use.
pub(super) fn some_volume(lot: usize, offers: &[v1::Offer]) -> Option<v1::Resource> {
    let resources = offers.iter().flat_map(|offer| &offer.resources);
    let volumes: Vec<&v1::Resource> = resources
        .filter(|resource| resource.disk.is_some())
        .collect();
    (!volumes.is_empty()).then(|| volumes[lot % volumes.len()].clone())
}
