//! Resources onto the wire, in the format the reader understands.

use tepui_model::{Disk, DiskSource, Quantity, Reservation, Resource, Resources, Role};

use super::{labels_to_wire, value};
use crate::v1;
use crate::v1::resource::disk_info::source::{self, Type as SourceType};
use crate::v1::resource::reservation_info::Type as ReservationType;
use crate::v1::resource::{
    AllocationInfo, DiskInfo, ReservationInfo, RevocableInfo, SharedInfo, disk_info,
};
use crate::v1::value::Type;

/// How reservations are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceFormat {
    /// As `reservations`, for frameworks with RESERVATION_REFINEMENT and between Tepui's own parts.
    Refined,
    /// As `role` and `reservation`, for all other frameworks. What is reserved several levels deep has no such form and
    /// is written as `Refined`; offers leave it out beforehand.
    Old,
    /// Both ways at once, as operators' endpoints answer.
    Endpoint,
}

pub fn resources_to_wire(
    resources: &Resources,
    format: ResourceFormat,
    allocation_role: Option<&Role>,
) -> Vec<v1::Resource> {
    resources
        .iter()
        .map(|resource| resource_to_wire(resource, format, allocation_role))
        .collect()
}

pub fn resource_to_wire(
    resource: &Resource,
    format: ResourceFormat,
    allocation_role: Option<&Role>,
) -> v1::Resource {
    let mut wire = v1::Resource {
        name: resource.name.to_string(),
        disk: resource.disk.as_deref().map(disk),
        revocable: resource.revocable.then(RevocableInfo::default),
        shared: resource.shared.then(SharedInfo::default),
        allocation_info: allocation_role.map(|role| AllocationInfo {
            role: Some(role.to_string()),
        }),
        provider_id: resource.provider_id.as_deref().map(Into::into),
        ..Default::default()
    };
    match &resource.quantity {
        Quantity::Scalar(amount) => {
            wire.set_type(Type::Scalar);
            wire.scalar = Some(value::scalar_out(*amount));
        }
        Quantity::Ranges(ranges) => {
            wire.set_type(Type::Ranges);
            wire.ranges = Some(value::ranges_out(ranges));
        }
        Quantity::Set(items) => {
            wire.set_type(Type::Set);
            wire.set = Some(v1::value::Set {
                item: items.iter().map(ToString::to_string).collect(),
            });
        }
    }
    write_reservations(&mut wire, &resource.reservations, format);
    wire
}

fn write_reservations(wire: &mut v1::Resource, stack: &[Reservation], format: ResourceFormat) {
    if format != ResourceFormat::Refined {
        match stack {
            [] => wire.role = Some("*".to_owned()),
            [only] => {
                wire.role = Some(only.role.to_string());
                wire.reservation = only.dynamic.then(|| ReservationInfo {
                    principal: only.principal.as_deref().map(str::to_owned),
                    labels: labels_to_wire(&only.labels),
                    ..Default::default()
                });
            }
            _ => {}
        }
    }
    if format != ResourceFormat::Old || stack.len() > 1 {
        wire.reservations = stack.iter().map(reservation).collect();
    }
}

fn reservation(reservation: &Reservation) -> ReservationInfo {
    let kind = if reservation.dynamic {
        ReservationType::Dynamic
    } else {
        ReservationType::Static
    };
    ReservationInfo {
        principal: reservation.principal.as_deref().map(str::to_owned),
        labels: labels_to_wire(&reservation.labels),
        role: Some(reservation.role.to_string()),
        r#type: Some(kind.into()),
    }
}

fn disk(disk: &Disk) -> DiskInfo {
    DiskInfo {
        persistence: disk
            .persistence
            .as_ref()
            .map(|persistence| disk_info::Persistence {
                id: persistence.id.to_string(),
                principal: persistence.principal.as_deref().map(str::to_owned),
            }),
        volume: disk.volume.as_ref().map(|volume| v1::Volume {
            container_path: volume.container_path.to_string(),
            host_path: volume.host_path.as_deref().map(str::to_owned),
            mode: if volume.read_only {
                v1::volume::Mode::Ro
            } else {
                v1::volume::Mode::Rw
            }
            .into(),
            ..Default::default()
        }),
        source: disk.source.as_ref().map(disk_source),
    }
}

fn disk_source(source: &DiskSource) -> disk_info::Source {
    let origin = source.origin();
    let mut wire = disk_info::Source {
        id: origin.id.as_deref().map(str::to_owned),
        profile: origin.profile.as_deref().map(str::to_owned),
        vendor: origin.vendor.as_deref().map(str::to_owned),
        metadata: labels_to_wire(&origin.metadata),
        ..Default::default()
    };
    match source {
        DiskSource::Path { root, .. } => {
            wire.set_type(SourceType::Path);
            wire.path = Some(source::Path {
                root: root.as_deref().map(str::to_owned),
            });
        }
        DiskSource::Mount { root, .. } => {
            wire.set_type(SourceType::Mount);
            wire.mount = Some(source::Mount {
                root: root.as_deref().map(str::to_owned),
            });
        }
        DiskSource::Raw { .. } => wire.set_type(SourceType::Raw),
        DiskSource::Block { .. } => wire.set_type(SourceType::Block),
    }
    wire
}
