//! The table of operations on agents' resources: entering, hearing of, acknowledging, leaving.
//!
//! The master reckons with the outcome of an operation from the moment it sends it to the agent. Its record stays until
//! somebody has acknowledged its last status: the framework if it gave the operation an id, else the master itself.

use bytes::Bytes;
use tepui_api::link::{self, to_agent};
use tepui_api::v1::offer::Operation;
use tepui_api::v1::scheduler::call;
use tepui_api::v1::{self, OperationState};
use tepui_model::Conversion;

use crate::core::Core;
use crate::keys::{AgentKey, FrameworkKey, OperationKey};
use crate::messages;
use crate::view::OperationRecord;
use crate::wire;

impl Core {
    /// The agent has this instead of that from now on.
    pub(crate) fn convert_total(&mut self, agent: AgentKey, conversion: &Conversion) {
        let total = &mut self.agents[agent].total;
        total.subtract(&conversion.consumed);
        total.add(&conversion.converted);
    }

    /// Enters an operation that the tables show done already, and sends it to the agent.
    pub(crate) fn start_operation(
        &mut self,
        agent: AgentKey,
        framework: Option<FrameworkKey>,
        info: Operation,
    ) {
        let uuid = self.mint_operation_uuid();
        let framework_id =
            framework.map(|framework| wire::framework_id(self.framework_id(framework)));
        let agent_id = Some(wire::agent_id(&self.agents[agent].id));
        let pending = v1::OperationStatus {
            operation_id: info.id.clone(),
            state: OperationState::OperationPending.into(),
            agent_id: agent_id.clone(),
            ..v1::OperationStatus::default()
        };
        let operation = v1::Operation {
            framework_id: framework_id.clone(),
            agent_id,
            info: info.clone(),
            latest_status: pending,
            statuses: Vec::new(),
            uuid: v1::Uuid {
                value: uuid.clone(),
            },
        };
        self.insert_operation(agent, framework, operation);
        let apply = link::ApplyOperation {
            uuid,
            framework_id,
            info,
        };
        self.send_to_agent(agent, to_agent::Body::ApplyOperation(apply));
    }

    /// Unlike any that another master of this cluster made.
    fn mint_operation_uuid(&mut self) -> Bytes {
        let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        let master = self.config.master_id.as_bytes();
        let master = master.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
        let number = self.minted.operations;
        self.minted.operations += 1;
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&master.to_be_bytes());
        uuid[8..].copy_from_slice(&number.to_be_bytes());
        Bytes::copy_from_slice(&uuid)
    }

    fn insert_operation(
        &mut self,
        agent: AgentKey,
        framework: Option<FrameworkKey>,
        operation: v1::Operation,
    ) {
        let uuid = operation.uuid.value.clone();
        let id = operation.info.id.as_ref().map(|id| id.value.clone());
        let key = self.operations.insert(OperationRecord {
            wire: operation,
            framework,
            agent,
        });
        self.operation_by_uuid.insert(uuid, key);
        self.agent_state(agent).operations.insert(key);
        if let (Some(framework), Some(id)) = (framework, id) {
            self.framework_state(framework).operations.insert(id, key);
        }
    }

    fn remove_operation(&mut self, key: OperationKey) {
        let Some(operation) = self.operations.remove(key) else {
            return;
        };
        self.operation_by_uuid.remove(&operation.wire.uuid.value);
        if let Some(state) = self.agent_states.get_mut(&operation.agent) {
            state.operations.remove(&key);
        }
        if let (Some(framework), Some(id)) = (operation.framework, &operation.wire.info.id) {
            self.framework_state(framework).operations.remove(&id.value);
        }
    }

    pub(crate) fn find_operation(&self, framework: FrameworkKey, id: &str) -> Option<OperationKey> {
        let state = self.framework_states.get(&framework)?;
        state.operations.get(id).copied()
    }

    pub(crate) fn on_operation_update(&mut self, agent: AgentKey, update: link::OperationUpdate) {
        let link::OperationUpdate {
            uuid,
            status,
            total,
            ..
        } = update;
        let known = self.operation_by_uuid.get(&uuid).copied();
        match known.filter(|key| self.operations[*key].agent == agent) {
            Some(key) => {
                self.count_operation_ended(key, status.state());
                let operation = &mut self.operations[key];
                operation.wire.latest_status = status.clone();
                let statuses = &mut operation.wire.statuses;
                if statuses.last().is_none_or(|last| last.uuid != status.uuid) {
                    statuses.push(status.clone());
                }
                match (operation.framework, &operation.wire.info.id) {
                    (Some(framework), Some(_)) => {
                        self.send(framework, messages::update_operation_status(status));
                    }
                    _ => self.settle_operation(key),
                }
            }
            // Acknowledged already, or its framework is gone: the agent need not keep it.
            None => self.forget_at_agent(agent, uuid, status.uuid),
        }
        self.adopt_total(agent, &total);
    }

    /// An operation that was under way has come to this state, which must not be noted yet.
    fn count_operation_ended(&mut self, key: OperationKey, state: OperationState) {
        let operation = &self.operations[key];
        if operation.is_pending() && state != OperationState::OperationPending {
            let kind = operation.wire.info.r#type();
            self.metrics.count_operation(kind, state);
        }
    }

    /// Once nothing is on its way to the agent, what it says it has is the truth, also where an operation failed there.
    fn adopt_total(&mut self, agent: AgentKey, total: &[v1::Resource]) {
        let under_way = self.agent_states[&agent]
            .operations
            .iter()
            .any(|key| self.operations[*key].is_pending());
        let Ok(total) = wire::resources(total) else {
            return;
        };
        if under_way || self.agents[agent].total == total {
            return;
        }
        self.rescind_offers_of_agent(agent);
        self.agents[agent].total = total.clone();
        self.allocator.update_agent_total(agent.into(), total);
    }

    /// Acknowledges the operation's last status to the agent and forgets the operation.
    fn settle_operation(&mut self, key: OperationKey) {
        let operation = &self.operations[key];
        let (agent, uuid) = (operation.agent, operation.wire.uuid.value.clone());
        let status_uuid = operation.wire.latest_status.uuid.clone();
        self.forget_at_agent(agent, uuid, status_uuid);
        self.remove_operation(key);
    }

    fn forget_at_agent(&mut self, agent: AgentKey, uuid: Bytes, status_uuid: Option<v1::Uuid>) {
        if let Some(status_uuid) = status_uuid {
            let acknowledge = link::AcknowledgeOperation {
                uuid,
                status_uuid: status_uuid.value,
            };
            self.send_to_agent(agent, to_agent::Body::AcknowledgeOperation(acknowledge));
        }
    }

    pub(crate) fn acknowledge_operation(
        &mut self,
        framework: FrameworkKey,
        acknowledge: &call::AcknowledgeOperationStatus,
    ) {
        let Some(key) = self.find_operation(framework, &acknowledge.operation_id.value) else {
            return;
        };
        let operation = &self.operations[key];
        let agent = &self.agents[operation.agent];
        let named = acknowledge.agent_id.as_ref().map(|agent| &*agent.value);
        let last = operation.wire.latest_status.uuid.as_ref();
        // While the agent is away it cannot hear of this; it will send the status once more.
        if agent.connected
            && named == Some(agent.id.as_str())
            && last.is_some_and(|last| last.value == acknowledge.uuid)
        {
            self.settle_operation(key);
        }
    }

    /// Operations that an agent brought: those known, and those that it has been told of by an earlier master.
    pub(crate) fn adopt_operations(&mut self, agent: AgentKey, reported: Vec<v1::Operation>) {
        let mut missing = self.agent_states[&agent].operations.clone();
        for operation in reported {
            let known = self.operation_by_uuid.get(&operation.uuid.value).copied();
            if let Some(key) = known.filter(|key| self.operations[*key].agent == agent) {
                missing.remove(&key);
                self.count_operation_ended(key, operation.latest_status.state());
                self.operations[key].wire.latest_status = operation.latest_status;
                continue;
            }
            if known.is_some() {
                continue;
            }
            let framework = operation.framework_id.as_ref();
            let framework =
                framework.and_then(|id| self.framework_by_id.get(id.value.as_str()).copied());
            self.insert_operation(agent, framework, operation);
        }
        let mut unknown = Vec::new();
        for key in missing {
            let operation = &self.operations[key];
            if operation.is_pending() {
                unknown.push(link::ApplyOperation {
                    uuid: operation.wire.uuid.value.clone(),
                    framework_id: operation.wire.framework_id.clone(),
                    info: operation.wire.info.clone(),
                });
            } else {
                // Its last status was acknowledged after all.
                self.remove_operation(key);
            }
        }
        if !unknown.is_empty() {
            let reconcile = link::ReconcileOperations {
                operations: unknown,
            };
            self.send_to_agent(agent, to_agent::Body::ReconcileOperations(reconcile));
        }
    }

    /// The agent leaves the table, and its operations with it. If it comes back, it brings them.
    pub(crate) fn part_with_operations(
        &mut self,
        agent: AgentKey,
        state: OperationState,
        message: &str,
    ) {
        for key in self.agent_states[&agent].operations.clone() {
            self.count_operation_ended(key, state);
            let operation = &self.operations[key];
            let id = operation.wire.info.id.clone();
            if let (Some(framework), Some(_), true) =
                (operation.framework, &id, operation.is_pending())
            {
                let status = v1::OperationStatus {
                    operation_id: id,
                    state: state.into(),
                    message: Some(message.to_owned()),
                    agent_id: operation.wire.agent_id.clone(),
                    ..v1::OperationStatus::default()
                };
                self.send(framework, messages::update_operation_status(status));
            }
            self.remove_operation(key);
        }
    }

    /// The framework leaves the table. Nobody will ask for its operations any more.
    pub(crate) fn orphan_operations(&mut self, framework: FrameworkKey) {
        let of_framework = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.framework == Some(framework));
        for key in of_framework.map(|(key, _)| key).collect::<Vec<_>>() {
            if let Some(id) = self.operations[key].wire.info.id.clone() {
                self.framework_state(framework).operations.remove(&id.value);
            }
            self.operations[key].framework = None;
            if !self.operations[key].is_pending() {
                self.settle_operation(key);
            }
        }
    }
}
