//! Operations that change an agent's resources: in an ACCEPT, on what was offered, or called by an operator.

use tepui_api::convert::{change_from_wire, operation_resources_mut};
use tepui_api::v1;
use tepui_api::v1::master::{Call, call};
use tepui_api::v1::offer::{Operation, operation};
use tepui_model::{Change, Resources};

use crate::accept::Accepted;
use crate::core::Core;
use crate::keys::{AgentKey, OfferKey};
use crate::validate_operation::{self, Asker, OperationInvalid};
use crate::wire;

/// Why an operator's operation is not performed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ChangeRefused {
    #[error("Expecting '{0}' to be present")]
    Missing(&'static str),
    #[error("No agent found with specified ID")]
    NoAgent,
    #[error("Invalid {name} operation: {invalid}")]
    Invalid {
        name: &'static str,
        invalid: OperationInvalid,
    },
    #[error("The agent is not connected; try again when it is back")]
    Away,
    #[error("{needed} are needed, but the agent has only {available} that nobody uses")]
    Lacking {
        needed: Resources,
        available: Resources,
    },
}

impl ChangeRefused {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Away | Self::Lacking { .. } => 409,
            Self::Missing(_) | Self::NoAgent | Self::Invalid { .. } => 400,
        }
    }
}

impl Core {
    /// Performs one operation of an ACCEPT. What comes out of it is there for the next one.
    pub(crate) fn change_offered(
        &mut self,
        accepted: &mut Accepted,
        operation: &mut Operation,
    ) -> Result<(), OperationInvalid> {
        let (framework, agent, role) = (accepted.framework, accepted.agent, accepted.role.clone());
        if let Some(id) = &operation.id
            && self.find_operation(framework, &id.value).is_some()
        {
            let id = id.value.clone();
            return Err(OperationInvalid::DuplicateId { id });
        }
        for resource in operation_resources_mut(operation) {
            wire::inject_allocation(std::slice::from_mut(resource), &role);
        }
        validate_operation::check_allocation(operation, Some(&role))?;
        let record = &self.agents[agent];
        let change = change_from_wire(operation)?.known_as(&record.total);
        let asker = Asker {
            role: Some(&role),
            principal: self.frameworks[framework].info.principal.as_deref(),
            shares: self.capabilities(framework).shared_resources,
            total: &record.total,
            used: &record.used,
        };
        validate_operation::check(&change, &asker)?;
        let conversion = change.conversion();
        let too_much = |accepted: &Accepted| OperationInvalid::TooMuch {
            consumed: conversion.consumed.clone(),
            available: accepted.left.clone(),
        };
        let Some(mut left) = accepted.left.checked_subtract(&conversion.consumed) else {
            return Err(too_much(accepted));
        };
        self.rescind_offers_of_destroyed(agent, &change);
        let holder = Some((framework.into(), &role));
        self.allocator
            .convert(
                agent.into(),
                holder,
                &conversion.consumed,
                &conversion.converted,
            )
            .map_err(|_| too_much(accepted))?;
        self.convert_total(agent, &conversion);
        match &change {
            Change::Grow { .. } | Change::Shrink { .. } => {
                accepted.aside.add(&conversion.converted);
            }
            _ => left.add(&conversion.converted),
        }
        accepted.left = left;
        accepted.shared.subtract(&conversion.consumed);
        accepted.shared.add(&conversion.converted.shared());
        Ok(())
    }

    /// A volume that is destroyed must not stand in anybody's offer.
    fn rescind_offers_of_destroyed(&mut self, agent: AgentKey, change: &Change) {
        let Change::Destroy(volumes) = change else {
            return;
        };
        let shared = volumes.shared();
        for key in self.agent_state(agent).offers.clone() {
            let offered = &self.offers[key].resources;
            if shared
                .iter_counted()
                .any(|(volume, _)| offered.contains_resource(volume))
            {
                self.rescind_offer(key);
            }
        }
    }

    /// Performs an operator's operation on what nobody uses; offers give way to it.
    pub(crate) fn change_unoffered(
        &mut self,
        principal: Option<&str>,
        call: Call,
    ) -> Result<(), ChangeRefused> {
        let (agent, operation) = operation_of(call)?;
        let agent = self.agent_by_id.get(agent.value.as_str()).copied();
        let agent = agent.ok_or(ChangeRefused::NoAgent)?;
        let record = &self.agents[agent];
        let asker = Asker {
            role: None,
            principal,
            shares: true,
            total: &record.total,
            used: &record.used,
        };
        let checked = || {
            validate_operation::check_allocation(&operation, None)?;
            let change = change_from_wire(&operation)?.known_as(&record.total);
            validate_operation::check(&change, &asker)?;
            Ok(change)
        };
        let name = operation.r#type().as_str_name();
        let change = checked().map_err(|invalid| ChangeRefused::Invalid { name, invalid })?;
        if !record.connected {
            return Err(ChangeRefused::Away);
        }
        let conversion = change.conversion();
        let available = self.allocator.available(agent.into());
        let lacking = |available| ChangeRefused::Lacking {
            needed: conversion.consumed.clone(),
            available,
        };
        let missing = conversion.consumed.saturating_subtract(&available);
        let Some(offers) = self.offers_with(agent, missing) else {
            return Err(lacking(available));
        };
        self.rescind_offers_of_destroyed(agent, &change);
        for offer in offers {
            self.rescind_offer(offer);
        }
        self.allocator
            .convert(
                agent.into(),
                None,
                &conversion.consumed,
                &conversion.converted,
            )
            .map_err(|_| lacking(available))?;
        self.convert_total(agent, &conversion);
        self.start_operation(agent, None, operation);
        Ok(())
    }

    /// Offers of the agent that together hold the resources; `None` if all of them do not.
    fn offers_with(&self, agent: AgentKey, mut missing: Resources) -> Option<Vec<OfferKey>> {
        let mut chosen = Vec::new();
        for key in &self.agent_states[&agent].offers {
            let rest = missing.saturating_subtract(&self.offers[*key].resources);
            if rest != missing {
                chosen.push(*key);
                missing = rest;
            }
        }
        missing.is_empty().then_some(chosen)
    }
}

/// An operator's call as the operation that a framework would ask for.
fn operation_of(call: Call) -> Result<(v1::AgentId, Operation), ChangeRefused> {
    use operation::{Create, Destroy, GrowVolume, Reserve, ShrinkVolume, Type, Unreserve};
    fn present<T>(field: &'static str, value: Option<T>) -> Result<T, ChangeRefused> {
        value.ok_or(ChangeRefused::Missing(field))
    }
    let mut operation = Operation::default();
    let agent = match call.r#type() {
        call::Type::ReserveResources => {
            let asked = present("reserve_resources", call.reserve_resources)?;
            operation.set_type(Type::Reserve);
            operation.reserve = Some(Reserve {
                resources: asked.resources,
                source: asked.source,
            });
            asked.agent_id
        }
        call::Type::UnreserveResources => {
            let asked = present("unreserve_resources", call.unreserve_resources)?;
            operation.set_type(Type::Unreserve);
            operation.unreserve = Some(Unreserve {
                resources: asked.resources,
            });
            asked.agent_id
        }
        call::Type::CreateVolumes => {
            let asked = present("create_volumes", call.create_volumes)?;
            operation.set_type(Type::Create);
            operation.create = Some(Create {
                volumes: asked.volumes,
            });
            asked.agent_id
        }
        call::Type::DestroyVolumes => {
            let asked = present("destroy_volumes", call.destroy_volumes)?;
            operation.set_type(Type::Destroy);
            operation.destroy = Some(Destroy {
                volumes: asked.volumes,
            });
            asked.agent_id
        }
        call::Type::GrowVolume => {
            let asked = present("grow_volume", call.grow_volume)?;
            operation.set_type(Type::GrowVolume);
            operation.grow_volume = Some(GrowVolume {
                volume: asked.volume,
                addition: asked.addition,
            });
            present("grow_volume.agent_id", asked.agent_id)?
        }
        _ => {
            let asked = present("shrink_volume", call.shrink_volume)?;
            operation.set_type(Type::ShrinkVolume);
            operation.shrink_volume = Some(ShrinkVolume {
                volume: asked.volume,
                subtract: asked.subtract,
            });
            present("shrink_volume.agent_id", asked.agent_id)?
        }
    };
    Ok((agent, operation))
}
