//! Operations that chance asks of an agent, and what a master would see of each: one outcome, told until it is
//! acknowledged, and of the agent's resources never more nor less.

use std::collections::BTreeMap;

use bytes::Bytes;
use tepui_api::convert::{ResourceFormat, resources_from_wire, resources_to_wire};
use tepui_api::link;
use tepui_api::v1::offer::{Operation, operation};
use tepui_api::v1::{self, OperationState};
use tepui_model::{Reservation, Resources, Role, parse_resources};

#[derive(Debug, Default)]
pub(super) struct Conversions {
    asked: BTreeMap<Bytes, Asked>,
}

#[derive(Debug)]
struct Asked {
    apply: link::ApplyOperation,
    told: Option<v1::OperationStatus>,
    acknowledged: bool,
}

/// `cpus:N` reserved to a role: reserved if it is not, given back if it is.
fn conversion(tenths: usize, back: bool) -> Operation {
    let plain = parse_resources(&format!("cpus:0.{tenths}"), &Role::star()).unwrap();
    let role = Role::parse("web").unwrap();
    let reserved =
        plain.map(|resource| resource.with_reservation(Reservation::dynamic(role.clone(), None)));
    let resources = resources_to_wire(&reserved, ResourceFormat::Refined, None);
    let id = Some(v1::OperationId {
        value: "o".to_owned(),
    });
    if back {
        Operation {
            r#type: Some(operation::Type::Unreserve.into()),
            id,
            unreserve: Some(operation::Unreserve { resources }),
            ..Operation::default()
        }
    } else {
        Operation {
            r#type: Some(operation::Type::Reserve.into()),
            id,
            reserve: Some(operation::Reserve {
                resources,
                source: Vec::new(),
            }),
            ..Operation::default()
        }
    }
}

impl Conversions {
    pub(super) fn ask(&mut self, tenths: usize, back: bool) -> link::ApplyOperation {
        let mut uuid = [7; 16];
        uuid[..8].copy_from_slice(&(self.asked.len() as u64).to_be_bytes());
        let uuid = Bytes::copy_from_slice(&uuid);
        let apply = link::ApplyOperation {
            uuid: uuid.clone(),
            framework_id: Some(v1::FrameworkId { value: "C".into() }),
            info: conversion(tenths, back),
        };
        let asked = Asked {
            apply: apply.clone(),
            told: None,
            acknowledged: false,
        };
        self.asked.insert(uuid, asked);
        apply
    }

    pub(super) fn hear(&mut self, update: link::OperationUpdate) {
        let asked = self.asked.get_mut(&update.uuid).expect("it was asked for");
        let state = update.status.state();
        assert!(update.status.uuid.is_some() && state != OperationState::OperationPending);
        if let Some(before) = &asked.told {
            // A process that ended before it wrote the outcome down never told it.
            assert_eq!(before.state(), state, "an operation has one outcome");
        }
        asked.told = Some(update.status);
        // An acknowledgement is lost with its link, or waits for a write: then the status comes again.
        asked.acknowledged = false;
        let (total, _) = resources_from_wire(&update.total).unwrap();
        let cpus: Resources = total.filter(|resource| &*resource.name == "cpus");
        let sum: f64 = cpus
            .iter()
            .map(|resource| resource.quantity.amount().to_f64())
            .sum();
        assert!((sum - 4.0).abs() < 1e-9, "{sum} cpus after an operation");
    }

    /// The acknowledgement of one that was told and waits for it.
    pub(super) fn acknowledge(&mut self, nth: usize) -> Option<link::AcknowledgeOperation> {
        let mut waiting: Vec<_> = self
            .asked
            .iter_mut()
            .filter(|(_, asked)| !asked.acknowledged)
            .collect();
        waiting.retain(|(_, asked)| asked.told.is_some());
        let count = waiting.len();
        let (uuid, asked) = waiting.into_iter().nth(nth % count.max(1))?;
        asked.acknowledged = true;
        let status = asked.told.as_ref()?;
        Some(link::AcknowledgeOperation {
            uuid: uuid.clone(),
            status_uuid: status.uuid.as_ref()?.value.clone(),
        })
    }

    /// What the master holds for the agent and has heard nothing of.
    pub(super) fn unheard(&self) -> link::ReconcileOperations {
        let unheard = self.asked.values().filter(|asked| asked.told.is_none());
        link::ReconcileOperations {
            operations: unheard.map(|asked| asked.apply.clone()).collect(),
        }
    }

    pub(super) fn all_told(&self) -> bool {
        self.asked.values().all(|asked| asked.told.is_some())
    }

    pub(super) fn count(&self) -> usize {
        self.asked.len()
    }
}
