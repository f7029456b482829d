//! The operator's calls that change something.

use tepui_access::Denied;
use tepui_api::registry;
use tepui_api::v1::master::{Call, call};
use tepui_model::{Role, RoleError};

use crate::change::ChangeRefused;
use crate::core::{Core, Pending};
use crate::effect::{Answer, RegistryOperation};
use crate::input::RequestKey;
use crate::management::ManagementRefused;
use crate::quota::QuotaRefused;
use crate::wire;

/// UPDATE_WEIGHTS on its way to disk.
#[derive(Debug)]
pub(crate) struct NewWeights {
    request: RequestKey,
    weights: Vec<(Role, f64)>,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
enum OperatorRefused {
    #[error("Expecting '{field}' to be present")]
    Missing { field: &'static str },
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("{0}")]
    Quota(#[from] QuotaRefused),
    #[error("{0}")]
    Change(#[from] ChangeRefused),
    #[error("Unsupported call type")]
    Unknown,
    #[error("The call {name} is not supported yet")]
    NotSupported { name: &'static str },
    #[error(transparent)]
    Management(#[from] ManagementRefused),
    #[error("No framework found with specified ID")]
    NoFramework,
    #[error("Invalid role: {0}")]
    Role(#[from] RoleError),
    #[error("Role '{role}' is not present in the master's --roles")]
    RoleNotAllowed { role: String },
    #[error("Invalid weight {weight} for role '{role}': weights must be positive")]
    Weight { role: String, weight: f64 },
}

impl OperatorRefused {
    fn status(&self) -> u16 {
        match self {
            Self::Denied(_) => 403,
            Self::Quota(refused) => refused.status(),
            Self::Change(refused) => refused.status(),
            Self::Unknown | Self::NotSupported { .. } => 501,
            Self::Management(refused) => refused.status(),
            _ => 400,
        }
    }
}

impl Core {
    pub(crate) fn on_operator_call(
        &mut self,
        request: RequestKey,
        principal: Option<&str>,
        call: Call,
    ) {
        if let Err(refused) = self.try_operator_call(request, principal, call) {
            self.refuse(request, refused.status(), refused.to_string());
        }
    }

    fn try_operator_call(
        &mut self,
        request: RequestKey,
        principal: Option<&str>,
        call: Call,
    ) -> Result<(), OperatorRefused> {
        self.authorize_call(principal, &call)?;
        let call_type = call
            .r#type
            .and_then(|number| call::Type::try_from(number).ok());
        match call_type.ok_or(OperatorRefused::Missing { field: "type" })? {
            call::Type::Unknown => Err(OperatorRefused::Unknown),
            call::Type::Teardown => {
                let teardown = call
                    .teardown
                    .ok_or(OperatorRefused::Missing { field: "teardown" })?;
                let framework = self
                    .framework_by_id
                    .get(teardown.framework_id.value.as_str())
                    .copied();
                let framework = framework.ok_or(OperatorRefused::NoFramework)?;
                self.remove_framework(framework, Some((request, Answer::Done)));
                Ok(())
            }
            call::Type::UpdateWeights => {
                let update = call.update_weights.ok_or(OperatorRefused::Missing {
                    field: "update_weights",
                })?;
                self.update_weights(request, &update)
            }
            call::Type::UpdateQuota => {
                let update = call.update_quota.ok_or(OperatorRefused::Missing {
                    field: "update_quota",
                })?;
                Ok(self.update_quota(request, &update)?)
            }
            call::Type::SetQuota => {
                let set = call
                    .set_quota
                    .ok_or(OperatorRefused::Missing { field: "set_quota" })?;
                Ok(self.set_quota(request, &set.quota_request)?)
            }
            call::Type::RemoveQuota => {
                let remove = call.remove_quota.ok_or(OperatorRefused::Missing {
                    field: "remove_quota",
                })?;
                Ok(self.remove_quota(request, &remove.role)?)
            }
            call::Type::MarkAgentGone => {
                let gone = call.mark_agent_gone.ok_or(OperatorRefused::Missing {
                    field: "mark_agent_gone",
                })?;
                Ok(self.mark_agent_gone(request, &gone.agent_id)?)
            }
            call::Type::DrainAgent
            | call::Type::DeactivateAgent
            | call::Type::ReactivateAgent
            | call::Type::UpdateMaintenanceSchedule
            | call::Type::StartMaintenance
            | call::Type::StopMaintenance => {
                self.manage(request, call);
                Ok(())
            }
            call::Type::ReserveResources
            | call::Type::UnreserveResources
            | call::Type::CreateVolumes
            | call::Type::DestroyVolumes
            | call::Type::GrowVolume
            | call::Type::ShrinkVolume => {
                self.change_unoffered(principal, call)?;
                self.answer(request, Answer::Accepted);
                Ok(())
            }
            call_type => Err(OperatorRefused::NotSupported {
                name: call_type.as_str_name(),
            }),
        }
    }

    fn update_weights(
        &mut self,
        request: RequestKey,
        update: &call::UpdateWeights,
    ) -> Result<(), OperatorRefused> {
        let mut weights = Vec::with_capacity(update.weight_infos.len());
        for info in &update.weight_infos {
            let role = Role::parse(info.role())?;
            if !self.config.allows_role(&role) {
                return Err(OperatorRefused::RoleNotAllowed {
                    role: role.as_str().to_owned(),
                });
            }
            if !(info.weight.is_finite() && info.weight > 0.0) {
                return Err(OperatorRefused::Weight {
                    role: role.as_str().to_owned(),
                    weight: info.weight,
                });
            }
            weights.push((role, info.weight));
        }
        let puts = weights
            .iter()
            .map(|(role, weight)| weight_record(role, *weight))
            .collect();
        self.persist(puts, Pending::Weights(NewWeights { request, weights }));
        Ok(())
    }

    pub(crate) fn on_weights_persisted(&mut self, weights: NewWeights) {
        let NewWeights { request, weights } = weights;
        self.set_weights(weights);
        self.answer(request, Answer::Done);
    }

    pub(crate) fn set_weights(&mut self, weights: impl IntoIterator<Item = (Role, f64)>) {
        for (role, weight) in weights {
            self.allocator.set_weight(role.clone(), weight);
            self.weights.insert(role, weight);
        }
    }
}

pub(crate) fn weight_record(role: &Role, weight: f64) -> RegistryOperation {
    wire::put(format!("weight/{role}"), &registry::Weight { weight })
}
