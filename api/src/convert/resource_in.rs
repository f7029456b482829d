//! Resources from the wire. Reservations may come as `role` and `reservation`, as `reservations`, or as both if both say
//! the same.

use std::sync::Arc;

use tepui_model::{
    Disk, DiskOrigin, DiskSource, DiskVolume, Persistence, Quantity, Reservation, Resource,
    Resources, Role,
};

use super::{ConvertError, labels_from_wire, value};
use crate::v1;
use crate::v1::resource::disk_info::source::Type as SourceType;
use crate::v1::resource::reservation_info::Type as ReservationType;
use crate::v1::resource::{DiskInfo, ReservationInfo, disk_info};
use crate::v1::value::Type;

/// All of them, and the role they are allocated to if any says so; two different roles are an error.
pub fn resources_from_wire(
    resources: &[v1::Resource],
) -> Result<(Resources, Option<Role>), ConvertError> {
    let mut sum = Resources::new();
    let mut allocation: Option<Role> = None;
    for wire in resources {
        let (resource, role) = resource_from_wire(wire)?;
        sum.add_resource(resource);
        match (&allocation, role) {
            (Some(first), Some(second)) if *first != second => {
                return Err(ConvertError::TwoAllocations {
                    first: first.clone(),
                    second,
                });
            }
            (None, role) => allocation = role,
            _ => {}
        }
    }
    Ok((sum, allocation))
}

/// One resource, checked, and the role it is allocated to.
pub fn resource_from_wire(wire: &v1::Resource) -> Result<(Resource, Option<Role>), ConvertError> {
    let resource = Resource {
        name: wire.name.as_str().into(),
        quantity: quantity(wire)?,
        reservations: reservations(wire)?,
        disk: wire
            .disk
            .as_ref()
            .map(|info| disk(&wire.name, info))
            .transpose()?
            .map(Box::new),
        revocable: wire.revocable.is_some(),
        shared: wire.shared.is_some(),
        provider_id: wire.provider_id.as_ref().map(|id| id.value.as_str().into()),
    };
    resource.check()?;
    let allocation = wire
        .allocation_info
        .as_ref()
        .and_then(|allocation| allocation.role.as_deref());
    Ok((
        resource,
        allocation
            .map(|allocated| role(&wire.name, allocated))
            .transpose()?,
    ))
}

fn quantity(wire: &v1::Resource) -> Result<Quantity, ConvertError> {
    let name = wire.name.as_str();
    let lacks = |declared, field| ConvertError::Value {
        name: name.to_owned(),
        declared,
        field,
    };
    match (
        Type::try_from(wire.r#type),
        &wire.scalar,
        &wire.ranges,
        &wire.set,
    ) {
        (Ok(Type::Scalar), Some(scalar), None, None) => {
            value::scalar(name, scalar).map(Quantity::Scalar)
        }
        (Ok(Type::Ranges), None, Some(ranges), None) => {
            value::ranges(name, ranges).map(Quantity::Ranges)
        }
        (Ok(Type::Set), None, None, Some(set)) => value::set(name, set).map(Quantity::Set),
        (Ok(Type::Scalar), ..) => Err(lacks("SCALAR", "scalar")),
        (Ok(Type::Ranges), ..) => Err(lacks("RANGES", "ranges")),
        (Ok(Type::Set), ..) => Err(lacks("SET", "set")),
        (Ok(Type::Text) | Err(_), ..) => Err(value::wrong_type(name, wire.r#type)),
    }
}

fn role(name: &str, text: &str) -> Result<Role, ConvertError> {
    Role::parse(text).map_err(|error| ConvertError::Role {
        name: name.to_owned(),
        error,
    })
}

fn reservations(wire: &v1::Resource) -> Result<Vec<Reservation>, ConvertError> {
    let name = || wire.name.clone();
    let stack: Vec<Reservation> = wire
        .reservations
        .iter()
        .map(|info| reservation(&wire.name, info))
        .collect::<Result<_, _>>()?;
    let has_old_fields = wire.role.is_some() || wire.reservation.is_some();
    match stack.as_slice() {
        [] => old_format(wire),
        _ if !has_old_fields => Ok(stack),
        [only] => {
            if old_format(wire)?.as_slice() != std::slice::from_ref(only) {
                return Err(ConvertError::Inconsistent { name: name() });
            }
            Ok(stack)
        }
        _ => Err(ConvertError::OldFieldsBesideStack { name: name() }),
    }
}

fn reservation(name: &str, info: &ReservationInfo) -> Result<Reservation, ConvertError> {
    let text = info
        .role
        .as_deref()
        .ok_or_else(|| ConvertError::ReservationWithoutRole {
            name: name.to_owned(),
        })?;
    let dynamic = match info.r#type.map(ReservationType::try_from) {
        Some(Ok(ReservationType::Static)) => false,
        Some(Ok(ReservationType::Dynamic)) => true,
        _ => {
            return Err(ConvertError::ReservationType {
                name: name.to_owned(),
            });
        }
    };
    Ok(Reservation {
        role: role(name, text)?,
        dynamic,
        principal: info.principal.as_deref().map(Arc::from),
        labels: labels_from_wire(info.labels.as_ref()),
    })
}

/// At most one level: static if there is only a role, dynamic if there is also a `reservation`.
fn old_format(wire: &v1::Resource) -> Result<Vec<Reservation>, ConvertError> {
    let name = || wire.name.clone();
    let reserved = role(&wire.name, wire.role.as_deref().unwrap_or("*"))?;
    match &wire.reservation {
        None if reserved.is_star() => Ok(Vec::new()),
        None => Ok(vec![Reservation::fixed(reserved)]),
        Some(_) if reserved.is_star() => Err(ConvertError::StarReserved { name: name() }),
        Some(info) => {
            // These two belong to the new format, but some clients fill them in.
            let other_role = info
                .role
                .as_deref()
                .is_some_and(|other| other != reserved.as_str());
            let other_type = info
                .r#type
                .is_some_and(|other| other != ReservationType::Dynamic as i32);
            if other_role || other_type {
                return Err(ConvertError::Inconsistent { name: name() });
            }
            Ok(vec![Reservation {
                role: reserved,
                dynamic: true,
                principal: info.principal.as_deref().map(Arc::from),
                labels: labels_from_wire(info.labels.as_ref()),
            }])
        }
    }
}

fn disk(name: &str, info: &DiskInfo) -> Result<Disk, ConvertError> {
    Ok(Disk {
        persistence: info.persistence.as_ref().map(|persistence| Persistence {
            id: persistence.id.as_str().into(),
            principal: persistence.principal.as_deref().map(Arc::from),
        }),
        volume: info.volume.as_ref().map(|volume| DiskVolume {
            container_path: volume.container_path.as_str().into(),
            host_path: volume.host_path.as_deref().map(Arc::from),
            read_only: volume.mode == v1::volume::Mode::Ro as i32,
        }),
        source: info
            .source
            .as_ref()
            .map(|source| disk_source(name, source))
            .transpose()?,
    })
}

fn disk_source(name: &str, source: &disk_info::Source) -> Result<DiskSource, ConvertError> {
    let text = |text: &Option<String>| text.as_deref().map(Arc::from);
    let origin = DiskOrigin {
        id: text(&source.id),
        profile: text(&source.profile),
        vendor: text(&source.vendor),
        metadata: labels_from_wire(source.metadata.as_ref()),
    };
    match SourceType::try_from(source.r#type) {
        Ok(SourceType::Path) => Ok(DiskSource::Path {
            root: source.path.as_ref().and_then(|path| text(&path.root)),
            origin,
        }),
        Ok(SourceType::Mount) => Ok(DiskSource::Mount {
            root: source.mount.as_ref().and_then(|mount| text(&mount.root)),
            origin,
        }),
        Ok(SourceType::Raw) => Ok(DiskSource::Raw { origin }),
        Ok(SourceType::Block) => Ok(DiskSource::Block { origin }),
        Ok(SourceType::Unknown) | Err(_) => Err(ConvertError::DiskSource {
            name: name.to_owned(),
        }),
    }
}
