//! Between wire messages and the model: ids, resources, attributes.

use bytes::Bytes;
use prost::Message;
use tepui_api::convert;
use tepui_api::v1;
use tepui_model::{AgentId, Attribute, ExecutorId, FrameworkId, Quantity, Resources, Role, TaskId};

use crate::effect::RegistryOperation;

pub(crate) fn agent_id(id: &AgentId) -> v1::AgentId {
    v1::AgentId {
        value: id.as_str().to_owned(),
    }
}

pub(crate) fn framework_id(id: &FrameworkId) -> v1::FrameworkId {
    v1::FrameworkId {
        value: id.as_str().to_owned(),
    }
}

pub(crate) fn task_id(id: &TaskId) -> v1::TaskId {
    v1::TaskId {
        value: id.as_str().to_owned(),
    }
}

pub(crate) fn executor_id(id: &ExecutorId) -> v1::ExecutorId {
    v1::ExecutorId {
        value: id.as_str().to_owned(),
    }
}

/// Reads resources; whom they are allocated to is not part of them.
pub(crate) fn resources(resources: &[v1::Resource]) -> Result<Resources, convert::ConvertError> {
    convert::resources_from_wire(resources).map(|(resources, _)| resources)
}

pub(crate) fn allocation_info(role: &Role) -> v1::resource::AllocationInfo {
    v1::resource::AllocationInfo {
        role: Some(role.as_str().to_owned()),
    }
}

/// What can be added up over several agents: port 80 of two machines is neither one port nor two.
pub(crate) fn additive(resources: &Resources) -> Resources {
    resources.filter(|resource| {
        matches!(resource.quantity, Quantity::Scalar(_)) && !resource.is_indivisible()
    })
}

/// Says whom resources are allocated to where the client left it open.
pub(crate) fn inject_allocation(resources: &mut [v1::Resource], role: &Role) {
    for resource in resources {
        if resource
            .allocation_info
            .as_ref()
            .and_then(|info| info.role.as_ref())
            .is_none()
        {
            resource.allocation_info = Some(allocation_info(role));
        }
    }
}

/// Whom resources that an agent reports are allocated to.
pub(crate) fn allocated_role(resources: &[v1::Resource]) -> Option<Role> {
    let role = resources
        .iter()
        .find_map(|resource| resource.allocation_info.as_ref()?.role.as_deref())?;
    Role::parse(role).ok()
}

/// Attributes as the allocator compares them. One that cannot be read is left out: it can then not be asked for.
pub(crate) fn attributes(attributes: &[v1::Attribute]) -> Vec<Attribute> {
    attributes
        .iter()
        .filter_map(|attribute| convert::attribute_from_wire(attribute).ok())
        .collect()
}

pub(crate) fn put(key: String, value: &impl Message) -> RegistryOperation {
    RegistryOperation::Put {
        key,
        value: Bytes::from(value.encode_to_vec()),
    }
}

pub(crate) fn time(nanoseconds: i64) -> v1::TimeInfo {
    v1::TimeInfo { nanoseconds }
}
