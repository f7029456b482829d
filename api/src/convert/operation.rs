//! Operations on resources, from the wire to what they change.

use tepui_model::{Change, Resource, Resources};

use super::{ConvertError, resource_from_wire, resources_from_wire, value};
use crate::v1;
use crate::v1::offer::{Operation, operation};

/// Why an operation cannot be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OperationError {
    #[error("Expecting '{0}' to be present")]
    Missing(&'static str),
    #[error("Invalid resources: {0}")]
    Resources(#[from] ConvertError),
    #[error("The operation {0} needs a storage provider, which agents here do not have")]
    NoProvider(&'static str),
    #[error("The operation {0} changes no resources")]
    NoChange(&'static str),
}

/// What the operation does to resources. To whom they are allocated is not part of it.
pub fn change_from_wire(operation: &Operation) -> Result<Change, OperationError> {
    let kind = operation.r#type();
    match kind {
        operation::Type::Reserve => {
            let reserve = present("reserve", operation.reserve.as_ref())?;
            Ok(Change::Reserve {
                resources: all(&reserve.resources)?,
                source: all(&reserve.source)?,
            })
        }
        operation::Type::Unreserve => {
            let unreserve = present("unreserve", operation.unreserve.as_ref())?;
            Ok(Change::Unreserve(all(&unreserve.resources)?))
        }
        operation::Type::Create => {
            let create = present("create", operation.create.as_ref())?;
            Ok(Change::Create(all(&create.volumes)?))
        }
        operation::Type::Destroy => {
            let destroy = present("destroy", operation.destroy.as_ref())?;
            Ok(Change::Destroy(all(&destroy.volumes)?))
        }
        operation::Type::GrowVolume => {
            let grow = present("grow_volume", operation.grow_volume.as_ref())?;
            Ok(Change::Grow {
                volume: one(&grow.volume)?,
                addition: one(&grow.addition)?,
            })
        }
        operation::Type::ShrinkVolume => {
            let shrink = present("shrink_volume", operation.shrink_volume.as_ref())?;
            Ok(Change::Shrink {
                volume: one(&shrink.volume)?,
                subtract: value::scalar("subtract", &shrink.subtract)?,
            })
        }
        operation::Type::CreateDisk | operation::Type::DestroyDisk => {
            Err(OperationError::NoProvider(kind.as_str_name()))
        }
        operation::Type::Unknown | operation::Type::Launch | operation::Type::LaunchGroup => {
            Err(OperationError::NoChange(kind.as_str_name()))
        }
    }
}

/// The resources that the operation names.
pub fn operation_resources(operation: &Operation) -> impl Iterator<Item = &v1::Resource> {
    let reserve = operation.reserve.iter();
    let reserve = reserve.flat_map(|reserve| reserve.resources.iter().chain(&reserve.source));
    let unreserve = operation.unreserve.iter();
    let create = operation.create.iter().flat_map(|create| &create.volumes);
    let destroy = operation.destroy.iter();
    let grow = operation.grow_volume.iter();
    let shrink = operation.shrink_volume.iter();
    reserve
        .chain(unreserve.flat_map(|unreserve| &unreserve.resources))
        .chain(create)
        .chain(destroy.flat_map(|destroy| &destroy.volumes))
        .chain(grow.flat_map(|grow| [&grow.volume, &grow.addition]))
        .chain(shrink.map(|shrink| &shrink.volume))
}

/// The role the resource is reserved to, in either format; `*` or none if to nobody.
pub fn reserved_role(resource: &v1::Resource) -> Option<&str> {
    match resource.reservations.last() {
        Some(reservation) => reservation.role.as_deref(),
        None => resource.role.as_deref(),
    }
}

/// Who reserved the resource.
pub fn reserver(resource: &v1::Resource) -> Option<&str> {
    match resource.reservations.last() {
        Some(reservation) => reservation.principal.as_deref(),
        None => resource.reservation.as_ref()?.principal.as_deref(),
    }
}

/// Who made the volume.
pub fn creator(volume: &v1::Resource) -> Option<&str> {
    let disk = volume.disk.as_ref()?;
    disk.persistence.as_ref()?.principal.as_deref()
}

/// The same, to be filled in.
pub fn operation_resources_mut(operation: &mut Operation) -> Vec<&mut v1::Resource> {
    let mut all: Vec<&mut v1::Resource> = Vec::new();
    if let Some(reserve) = &mut operation.reserve {
        all.extend(reserve.resources.iter_mut().chain(&mut reserve.source));
    }
    if let Some(unreserve) = &mut operation.unreserve {
        all.extend(&mut unreserve.resources);
    }
    if let Some(create) = &mut operation.create {
        all.extend(&mut create.volumes);
    }
    if let Some(destroy) = &mut operation.destroy {
        all.extend(&mut destroy.volumes);
    }
    if let Some(grow) = &mut operation.grow_volume {
        all.extend([&mut grow.volume, &mut grow.addition]);
    }
    if let Some(shrink) = &mut operation.shrink_volume {
        all.push(&mut shrink.volume);
    }
    all
}

fn present<T>(field: &'static str, value: Option<T>) -> Result<T, OperationError> {
    value.ok_or(OperationError::Missing(field))
}

fn all(resources: &[v1::Resource]) -> Result<Resources, OperationError> {
    Ok(resources_from_wire(resources)?.0)
}

fn one(resource: &v1::Resource) -> Result<Resource, OperationError> {
    Ok(resource_from_wire(resource)?.0)
}
