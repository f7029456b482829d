//! Operations: what they make of the agent's resources, and what the master is told of them until it has heard it.
//!
//! What the agent has by now, and what it has yet to say of its operations, is one record, written at each change. No
//! task is launched and nothing is told before that is on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tepui_api::convert::{ResourceFormat, change_from_wire, resources_to_wire};
use tepui_api::link::{to_agent, to_master};
use tepui_api::v1::OperationState;
use tepui_api::{link, v1};
use tepui_model::{Change, FrameworkId, Resource, Resources};

use crate::chance::Uuid;
use crate::effect::Effect;
use crate::input::SaveKey;
use crate::machine::{Core, Waiting};
use crate::record::{FORMAT, Path, RecoverError, ResourcesRecord};
use crate::timers::Timer;
use crate::volume::{VolumeDirectory, directories};
use crate::wire;

#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) wire: v1::Operation,
    saved: bool,
    /// Its status was sent; how long to wait before it is sent again.
    flight: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Work {
    Make(VolumeDirectory),
    Remove(VolumeDirectory),
}

/// What the agent has.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    pub(crate) total: Resources,
    pub(crate) operations: BTreeMap<Uuid, Operation>,
    /// The newest write that something waits for.
    saving: Option<SaveKey>,
    /// To be done once that is on disk, in this order.
    work: Vec<Work>,
    /// Directories of volumes that are gone from `total`, but maybe not yet from the disk.
    doomed: BTreeSet<VolumeDirectory>,
    /// Orders that rest on what is being written.
    waiting: VecDeque<to_agent::Body>,
}

impl Holdings {
    pub(crate) fn is_in_flight(&self, uuid: &Uuid) -> bool {
        let operation = self.operations.get(uuid);
        operation.is_some_and(|operation| operation.flight.is_some())
    }

    /// Whether the order has to wait. Operations among themselves need not: they are written together.
    fn holds_up(&self, order: &to_agent::Body) -> bool {
        self.saving.is_some()
            && (!self.waiting.is_empty() || !matches!(order, to_agent::Body::ApplyOperation(_)))
    }
}

/// What the flags give, with what was made of it at run time in its place.
fn with_made(configured: Resources, made: &Resources) -> Result<Resources, RecoverError> {
    let taken = made.map(Resource::as_configured);
    match configured.checked_subtract(&taken) {
        Some(mut total) => {
            total.add(made);
            Ok(total)
        }
        None => Err(RecoverError::Resources {
            made: made.clone(),
            configured,
        }),
    }
}

impl Core {
    /// What the agent has before an earlier one's record is known.
    pub(crate) fn begin_holdings(&mut self) {
        self.holdings.total = wire::resources(&self.config.info.resources).unwrap_or_default();
    }

    pub(crate) fn restore_holdings(&mut self, record: ResourcesRecord) -> Result<(), RecoverError> {
        let path = Path::Resources.text();
        let malformed = |error: String| RecoverError::Malformed {
            path: path.clone(),
            error,
        };
        if record.format != FORMAT {
            let found = record.format;
            return Err(RecoverError::Format { path, found });
        }
        let made = wire::resources(&record.made).map_err(|error| malformed(error.to_string()))?;
        self.holdings.total = with_made(std::mem::take(&mut self.holdings.total), &made)?;
        for operation in record.operations {
            let uuid = Uuid::try_from(&operation.uuid.value[..])
                .map_err(|_| malformed("an operation has no uuid".to_owned()))?;
            let operation = Operation {
                wire: operation,
                saved: true,
                flight: None,
            };
            self.holdings.operations.insert(uuid, operation);
        }
        let there: Vec<VolumeDirectory> = directories(&self.holdings.total).collect();
        for path in record.doomed {
            let directory = VolumeDirectory {
                path,
                is_mount: false,
            };
            // A volume that has been made again in its place stays.
            if !there.contains(&directory) {
                self.holdings.doomed.insert(directory.clone());
                self.effects.push(Effect::RemoveVolume { directory });
            }
        }
        for directory in there {
            self.effects.push(Effect::MakeVolume { directory });
        }
        Ok(())
    }

    fn write_holdings(&mut self) -> SaveKey {
        let operations = self.holdings.operations.values();
        let record = ResourcesRecord {
            format: FORMAT,
            made: resources_to_wire(&self.holdings.total.made(), ResourceFormat::Refined, None),
            operations: operations.map(|operation| operation.wire.clone()).collect(),
            // What was on a whole file system is removed again by whoever gets it next.
            doomed: self
                .holdings
                .doomed
                .iter()
                .filter(|directory| !directory.is_mount)
                .map(|directory| directory.path.clone())
                .collect(),
        };
        self.save(&Path::Resources, &record)
    }

    fn save_holdings(&mut self) {
        let key = self.write_holdings();
        self.holdings.saving = Some(key);
        self.saves.insert(key, Waiting::Holdings);
    }

    pub(crate) fn total_to_wire(&self) -> Vec<v1::Resource> {
        resources_to_wire(&self.holdings.total, ResourceFormat::Refined, None)
    }

    /// An order of the master. It waits if what it may rest on is not on disk yet.
    pub(crate) fn on_order(&mut self, order: to_agent::Body) {
        if self.holdings.holds_up(&order) {
            self.holdings.waiting.push_back(order);
        } else {
            self.obey(order);
        }
    }

    pub(crate) fn on_holdings_saved(&mut self, key: SaveKey) {
        if self.holdings.saving != Some(key) {
            return;
        }
        self.holdings.saving = None;
        for work in std::mem::take(&mut self.holdings.work) {
            self.effects.push(match work {
                Work::Make(directory) => Effect::MakeVolume { directory },
                Work::Remove(directory) => Effect::RemoveVolume { directory },
            });
        }
        for operation in self.holdings.operations.values_mut() {
            operation.saved = true;
        }
        self.resume_operations();
        while let Some(order) = self.holdings.waiting.front() {
            let operation = matches!(order, to_agent::Body::ApplyOperation(_));
            if self.holdings.saving.is_some() && !operation {
                return;
            }
            if let Some(order) = self.holdings.waiting.pop_front() {
                self.obey(order);
            }
        }
    }

    pub(crate) fn on_volume_removed(&mut self, directory: &VolumeDirectory) {
        if self.holdings.doomed.remove(directory) {
            self.write_holdings();
        }
    }

    pub(crate) fn on_apply_operation(&mut self, apply: link::ApplyOperation) {
        let done = self.change(&apply.info);
        let (state, message) = match done {
            Ok(()) => (OperationState::OperationFinished, None),
            Err(message) => (OperationState::OperationDropped, Some(message)),
        };
        self.enter_operation(apply, state, message);
    }

    fn enter_operation(
        &mut self,
        apply: link::ApplyOperation,
        state: OperationState,
        message: Option<String>,
    ) {
        let Ok(uuid) = Uuid::try_from(&apply.uuid[..]) else {
            return;
        };
        let agent_id = self.agent_id.as_ref().map(wire::agent_id);
        let status = v1::OperationStatus {
            operation_id: apply.info.id.clone(),
            state: state.into(),
            message,
            uuid: Some(v1::Uuid {
                value: Bytes::copy_from_slice(&self.chance.uuid()),
            }),
            agent_id: agent_id.clone(),
            ..v1::OperationStatus::default()
        };
        let operation = v1::Operation {
            framework_id: apply.framework_id,
            agent_id,
            info: apply.info,
            latest_status: status.clone(),
            statuses: vec![status],
            uuid: v1::Uuid { value: apply.uuid },
        };
        let operation = Operation {
            wire: operation,
            saved: false,
            flight: None,
        };
        self.holdings.operations.insert(uuid, operation);
        self.save_holdings();
    }

    /// Changes what the agent has, or says why not.
    fn change(&mut self, operation: &v1::offer::Operation) -> Result<(), String> {
        let change = change_from_wire(operation).map_err(|error| error.to_string())?;
        let change = change.known_as(&self.holdings.total);
        let conversion = change.conversion();
        let total = self
            .holdings
            .total
            .checked_subtract(&conversion.consumed)
            .ok_or_else(|| {
                format!(
                    "The agent does not have {}: it has {}",
                    conversion.consumed, self.holdings.total
                )
            })?;
        match &change {
            Change::Create(volumes) => {
                for directory in directories(volumes) {
                    self.holdings.work.push(Work::Make(directory));
                }
            }
            Change::Destroy(volumes) => {
                if let Some(task) = self.user_of(volumes) {
                    return Err(format!("The task '{task}' uses the volume"));
                }
                for directory in directories(volumes) {
                    self.holdings.doomed.insert(directory.clone());
                    self.holdings.work.push(Work::Remove(directory));
                }
            }
            Change::Reserve { .. }
            | Change::Unreserve(_)
            | Change::Grow { .. }
            | Change::Shrink { .. } => {}
        }
        self.holdings.total = total;
        self.holdings.total.add(&conversion.converted);
        self.tell_inventory();
        Ok(())
    }

    /// A live task that uses one of the volumes.
    fn user_of(&self, volumes: &Resources) -> Option<String> {
        let tasks = self
            .frameworks
            .values()
            .flat_map(|framework| framework.tasks.values())
            .filter(|task| task.is_live());
        let mut users = tasks.filter(|task| {
            let resources = task.resources.known_as(&self.holdings.total);
            volumes
                .iter()
                .any(|volume| resources.contains_resource(volume))
        });
        users.next().map(|task| task.info.task_id.value.clone())
    }

    /// Resources made at run time that a task asks for and the agent does not have.
    pub(crate) fn unknown_resources(&self, asked: &Resources) -> Option<Resources> {
        let made = asked.known_as(&self.holdings.total).made();
        let unknown = made.filter(|resource| !self.holdings.total.contains_resource(resource));
        (!unknown.is_empty()).then_some(unknown)
    }

    /// Operations that the master thought to be here: of those that never came it is told so.
    pub(crate) fn on_reconcile_operations(&mut self, reconcile: link::ReconcileOperations) {
        for operation in reconcile.operations {
            let known = Uuid::try_from(&operation.uuid[..])
                .is_ok_and(|uuid| self.holdings.operations.contains_key(&uuid));
            if !known {
                let message = "The operation did not reach the agent".to_owned();
                let state = OperationState::OperationDropped;
                self.enter_operation(operation, state, Some(message));
            }
        }
    }

    pub(crate) fn on_acknowledge_operation(&mut self, acknowledge: &link::AcknowledgeOperation) {
        let Ok(uuid) = Uuid::try_from(&acknowledge.uuid[..]) else {
            return;
        };
        let Some(operation) = self.holdings.operations.get(&uuid) else {
            return;
        };
        let last = operation.wire.latest_status.uuid.as_ref();
        if last.is_some_and(|last| last.value == acknowledge.status_uuid) {
            self.holdings.operations.remove(&uuid);
            self.timers.disarm(&Timer::RetryOperation(uuid));
            // Nothing waits for this write: losing it sends the status once more, which the master knows to ignore.
            self.write_holdings();
        }
    }

    /// Sends what waits to be sent.
    pub(crate) fn resume_operations(&mut self) {
        if !self.is_registered() {
            return;
        }
        let wait = self.config.update_retry_minimum;
        let operations = self.holdings.operations.iter_mut();
        let waiting: Vec<Uuid> = operations
            .filter(|(_, operation)| operation.saved && operation.flight.is_none())
            .map(|(uuid, operation)| {
                operation.flight = Some(wait);
                *uuid
            })
            .collect();
        for uuid in waiting {
            self.send_operation(uuid, wait);
        }
    }

    /// The framework's scheduler is back: what it has not acknowledged is sent at once.
    pub(crate) fn resume_operations_of(&mut self, framework: &FrameworkId) {
        for (uuid, operation) in &mut self.holdings.operations {
            let of_framework = operation.wire.framework_id.as_ref();
            if of_framework.is_some_and(|id| id.value == framework.as_str()) {
                operation.flight = None;
                self.timers.disarm(&Timer::RetryOperation(*uuid));
            }
        }
        self.resume_operations();
    }

    pub(crate) fn on_retry_operation(&mut self, uuid: Uuid) {
        let maximum = self.config.update_retry_maximum;
        let Some(operation) = self.holdings.operations.get_mut(&uuid) else {
            return;
        };
        let Some(wait) = operation.flight else { return };
        let wait = wait.saturating_mul(2).min(maximum);
        operation.flight = Some(wait);
        self.send_operation(uuid, wait);
    }

    fn send_operation(&mut self, uuid: Uuid, wait: Duration) {
        let Some(operation) = self.holdings.operations.get(&uuid) else {
            return;
        };
        let update = link::OperationUpdate {
            uuid: operation.wire.uuid.value.clone(),
            framework_id: operation.wire.framework_id.clone(),
            status: operation.wire.latest_status.clone(),
            total: self.total_to_wire(),
        };
        self.timers
            .arm(Timer::RetryOperation(uuid), self.now.tick.after(wait));
        self.tell_master(to_master::Body::OperationUpdate(update));
    }

    /// What was under way is lost with the link, both ways.
    pub(crate) fn land_operations(&mut self) {
        self.holdings.waiting.clear();
        for (uuid, operation) in &mut self.holdings.operations {
            operation.flight = None;
            self.timers.disarm(&Timer::RetryOperation(*uuid));
        }
    }
}
