//! Whether a caller may do what it asks for: each call and operation as actions on objects, looked up in the ACLs.

use tepui_access::{Action, Caller, Denied};
use tepui_api::convert::{creator, reserved_role as role, reserver};
use tepui_api::v1::master::{Call, call};
use tepui_api::v1::offer::{Operation, operation};

use crate::core::Core;

impl Core {
    fn check<'a>(&'a self, principal: Option<&'a str>) -> Caller<'a> {
        Caller {
            acls: &self.config.acls,
            principal,
        }
    }

    /// Whether the framework may subscribe in its roles.
    pub(crate) fn authorize_roles<'a>(
        &self,
        principal: Option<&str>,
        roles: impl IntoIterator<Item = &'a tepui_model::Role>,
    ) -> Result<(), Denied> {
        let check = self.check(principal);
        roles
            .into_iter()
            .try_for_each(|role| check.permit(Action::RegisterFramework, Some(role.as_str())))
    }

    /// Whether the framework may run something as that user.
    pub(crate) fn authorize_user(&self, principal: Option<&str>, user: &str) -> Result<(), Denied> {
        self.check(principal).permit(Action::RunTask, Some(user))
    }

    /// Whether a framework may perform the operation. Launches are looked at task by task.
    pub(crate) fn authorize_operation(
        &self,
        principal: Option<&str>,
        operation: &Operation,
    ) -> Result<(), Denied> {
        let check = self.check(principal);
        match operation.r#type() {
            operation::Type::Reserve => {
                let resources = operation
                    .reserve
                    .as_ref()
                    .map(|reserve| &reserve.resources[..]);
                check.permit_each(
                    Action::ReserveResources,
                    resources.unwrap_or_default(),
                    role,
                )
            }
            operation::Type::Unreserve => {
                let resources = operation.unreserve.as_ref();
                let resources = resources.map(|unreserve| &unreserve.resources[..]);
                check.permit_each(
                    Action::UnreserveResources,
                    resources.unwrap_or_default(),
                    reserver,
                )
            }
            operation::Type::Create => {
                let volumes = operation.create.as_ref().map(|create| &create.volumes[..]);
                check.permit_each(Action::CreateVolume, volumes.unwrap_or_default(), role)
            }
            operation::Type::Destroy => {
                let volumes = operation
                    .destroy
                    .as_ref()
                    .map(|destroy| &destroy.volumes[..]);
                check.permit_each(Action::DestroyVolume, volumes.unwrap_or_default(), creator)
            }
            operation::Type::GrowVolume => {
                let volume = operation.grow_volume.as_ref().map(|grow| &grow.volume);
                check.permit(Action::ResizeVolume, volume.and_then(role))
            }
            operation::Type::ShrinkVolume => {
                let volume = operation
                    .shrink_volume
                    .as_ref()
                    .map(|shrink| &shrink.volume);
                check.permit(Action::ResizeVolume, volume.and_then(role))
            }
            operation::Type::Unknown
            | operation::Type::Launch
            | operation::Type::LaunchGroup
            | operation::Type::CreateDisk
            | operation::Type::DestroyDisk => Ok(()),
        }
    }

    /// Whether an operator may make the call. A call without its content is refused later, for that.
    pub(crate) fn authorize_call(
        &self,
        principal: Option<&str>,
        call: &Call,
    ) -> Result<(), Denied> {
        let check = self.check(principal);
        match call.r#type() {
            call::Type::Teardown => {
                let framework = call.teardown.as_ref().and_then(|teardown| {
                    self.framework_by_id
                        .get(teardown.framework_id.value.as_str())
                });
                let owner = framework.and_then(|key| self.frameworks[*key].info.principal.clone());
                check.permit(Action::TeardownFramework, owner.as_deref())
            }
            call::Type::UpdateWeights => {
                let infos = call
                    .update_weights
                    .iter()
                    .flat_map(|update| &update.weight_infos);
                infos
                    .into_iter()
                    .try_for_each(|info| check.permit(Action::UpdateWeight, info.role.as_deref()))
            }
            call::Type::UpdateQuota => {
                let configs = call
                    .update_quota
                    .iter()
                    .flat_map(|update| &update.quota_configs);
                configs
                    .into_iter()
                    .try_for_each(|config| check.permit(Action::UpdateQuota, Some(&config.role)))
            }
            call::Type::SetQuota => {
                let request = call.set_quota.as_ref().map(|set| &set.quota_request);
                let role = request.and_then(|request| request.role.as_deref());
                check.permit(Action::UpdateQuota, role)
            }
            call::Type::RemoveQuota => {
                let role = call
                    .remove_quota
                    .as_ref()
                    .map(|remove| remove.role.as_str());
                check.permit(Action::UpdateQuota, role)
            }
            call::Type::ReserveResources => {
                let reserve = call.reserve_resources.as_ref();
                let resources = reserve.map(|reserve| &reserve.resources[..]);
                check.permit_each(
                    Action::ReserveResources,
                    resources.unwrap_or_default(),
                    role,
                )?;
                let source = reserve.map(|reserve| &reserve.source[..]);
                check.permit_each(
                    Action::UnreserveResources,
                    source.unwrap_or_default(),
                    reserver,
                )
            }
            call::Type::UnreserveResources => {
                let resources = call.unreserve_resources.as_ref();
                let resources = resources.map(|unreserve| &unreserve.resources[..]);
                check.permit_each(
                    Action::UnreserveResources,
                    resources.unwrap_or_default(),
                    reserver,
                )
            }
            call::Type::CreateVolumes => {
                let volumes = call
                    .create_volumes
                    .as_ref()
                    .map(|create| &create.volumes[..]);
                check.permit_each(Action::CreateVolume, volumes.unwrap_or_default(), role)
            }
            call::Type::DestroyVolumes => {
                let volumes = call
                    .destroy_volumes
                    .as_ref()
                    .map(|destroy| &destroy.volumes[..]);
                check.permit_each(Action::DestroyVolume, volumes.unwrap_or_default(), creator)
            }
            call::Type::GrowVolume => {
                let volume = call.grow_volume.as_ref().map(|grow| &grow.volume);
                check.permit(Action::ResizeVolume, volume.and_then(role))
            }
            call::Type::ShrinkVolume => {
                let volume = call.shrink_volume.as_ref().map(|shrink| &shrink.volume);
                check.permit(Action::ResizeVolume, volume.and_then(role))
            }
            // Agents and machines have no names in the lists but these: anybody's, or nobody's.
            call::Type::MarkAgentGone => check.permit(Action::MarkAgentGone, None),
            call::Type::DrainAgent => check.permit(Action::DrainAgent, None),
            call::Type::DeactivateAgent => check.permit(Action::DeactivateAgent, None),
            call::Type::ReactivateAgent => check.permit(Action::ReactivateAgent, None),
            call::Type::UpdateMaintenanceSchedule => {
                check.permit(Action::UpdateMaintenanceSchedule, None)
            }
            call::Type::StartMaintenance => check.permit(Action::StartMaintenance, None),
            call::Type::StopMaintenance => check.permit(Action::StopMaintenance, None),
            _ => Ok(()),
        }
    }
}
