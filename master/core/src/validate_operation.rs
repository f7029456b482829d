//! What an operation on resources must look like. The first thing wrong is what is told.

use tepui_api::convert::{OperationError, operation_resources};
use tepui_api::v1::offer::Operation;
use tepui_model::{Change, IdError, Quantity, Resource, Resources, Role, check_id};

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum OperationInvalid {
    #[error("{0}")]
    Form(#[from] OperationError),
    #[error("The operation id '{id}' is in use by an operation whose status was not acknowledged")]
    DuplicateId { id: String },
    #[error("The operation names no resources")]
    Nothing,
    #[error(
        "Resource {name} is allocated to role '{allocated}', but the offers are allocated to role '{offered}'"
    )]
    Allocation {
        name: String,
        allocated: String,
        offered: String,
    },
    #[error("Resource {name} has 'allocation_info', which an operator's call must not set")]
    Allocated { name: String },
    #[error("Resource {0} is not dynamically reserved")]
    NotDynamic(Box<Resource>),
    #[error("Resource {resource} is reserved to role '{reserved}', but allocated to role '{role}'")]
    OtherRole {
        resource: Box<Resource>,
        reserved: Role,
        role: Role,
    },
    #[error("Resource {0} is revocable and cannot be reserved")]
    Revocable(Box<Resource>),
    #[error("Resource {0} is of a storage provider, which agents here do not have")]
    Provider(Box<Resource>),
    #[error(
        "{what} is attempted by principal '{principal}', but {resource} has {}",
        found.as_deref().map_or("no principal".to_owned(), |found| format!("the principal '{found}'"))
    )]
    Principal {
        what: &'static str,
        principal: String,
        resource: Box<Resource>,
        found: Option<String>,
    },
    #[error(
        "Persistent volume {0} can be neither reserved nor unreserved; destroy it, and reserve or unreserve its disk"
    )]
    VolumeReservation(Box<Resource>),
    #[error("'source' is only for operators: the resources of an offer are reserved as they are")]
    Source,
    #[error("'source' and 'resources' must be the same resources but for their reservations")]
    SourceDiffers,
    #[error("{0} is reserved statically, which only the agent's --resources can change")]
    Static(Box<Resource>),
    #[error("Resource {0} is not a persistent volume: it lacks 'disk.persistence'")]
    NoVolume(Box<Resource>),
    #[error(
        "Persistent volume {0}: 'disk.volume' must be set, with mode RW and without 'host_path'"
    )]
    VolumeForm(Box<Resource>),
    #[error(
        "Persistent volume {0}: 'disk.volume.container_path' must be a path inside the sandbox"
    )]
    VolumePath(Box<Resource>),
    #[error("{0}")]
    Id(#[from] IdError),
    #[error("Persistence ID '{id}' is in use already for role '{role}' on this agent")]
    DuplicatePersistence { id: String, role: Role },
    #[error(
        "A framework without the capability SHARED_RESOURCES cannot make the shared volume {0}"
    )]
    NotSharing(Box<Resource>),
    #[error("Persistent volume {0} is not found on the agent")]
    VolumeUnknown(Box<Resource>),
    #[error("Persistent volume {0} is in use")]
    VolumeInUse(Box<Resource>),
    #[error("Shared persistent volume {0} cannot be resized")]
    Shared(Box<Resource>),
    #[error("The size added or taken away must be a positive number")]
    NoSize,
    #[error("'addition' {addition} is not of the disk that volume {volume} is made of")]
    OtherDisk {
        addition: Box<Resource>,
        volume: Box<Resource>,
    },
    #[error("Persistent volume {0} is a whole MOUNT disk and cannot be shrunk")]
    Mount(Box<Resource>),
    #[error("Nothing would be left of persistent volume {0}")]
    NothingLeft(Box<Resource>),
    #[error("{consumed} are needed, but only {available} are there")]
    TooMuch {
        consumed: Resources,
        available: Resources,
    },
}

/// Who asks, and what the agent is like.
pub(crate) struct Asker<'a> {
    /// The offers' role; none asks an operator for.
    pub(crate) role: Option<&'a Role>,
    pub(crate) principal: Option<&'a str>,
    pub(crate) shares: bool,
    pub(crate) total: &'a Resources,
    pub(crate) used: &'a Resources,
}

/// Whether every resource is allocated to the role, or none is at all.
pub(crate) fn check_allocation(
    operation: &Operation,
    role: Option<&Role>,
) -> Result<(), OperationInvalid> {
    for resource in operation_resources(operation) {
        let allocated = resource.allocation_info.as_ref();
        let name = || resource.name.clone();
        match role {
            None if allocated.is_some() => {
                return Err(OperationInvalid::Allocated { name: name() });
            }
            None => {}
            Some(role) => {
                let allocated = allocated.and_then(|info| info.role.as_deref());
                if allocated != Some(role.as_str()) {
                    return Err(OperationInvalid::Allocation {
                        name: name(),
                        allocated: allocated.unwrap_or_default().to_owned(),
                        offered: role.to_string(),
                    });
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn check(change: &Change, asker: &Asker<'_>) -> Result<(), OperationInvalid> {
    if change.conversion().consumed.is_empty() {
        return Err(OperationInvalid::Nothing);
    }
    match change {
        Change::Reserve { resources, source } => {
            resources
                .iter()
                .try_for_each(|resource| check_reservation(resource, asker))?;
            check_source(resources, source, asker)
        }
        Change::Unreserve(resources) => resources.iter().try_for_each(check_unreservation),
        Change::Create(volumes) => check_create(volumes, asker),
        Change::Destroy(volumes) => volumes
            .iter()
            .try_for_each(|volume| check_destroy(volume, asker)),
        Change::Grow { volume, addition } => {
            check_resize(volume)?;
            if !matches!(&addition.quantity, Quantity::Scalar(amount) if amount.is_positive()) {
                return Err(OperationInvalid::NoSize);
            }
            let disk = volume.clone().without_volume();
            if addition.compare_identity(&disk).is_ne() || disk.is_indivisible() {
                let addition = Box::new(addition.clone());
                let volume = Box::new(volume.clone());
                return Err(OperationInvalid::OtherDisk { addition, volume });
            }
            Ok(())
        }
        Change::Shrink { volume, subtract } => {
            check_resize(volume)?;
            if !subtract.is_positive() {
                return Err(OperationInvalid::NoSize);
            }
            if volume.is_mount() {
                return Err(OperationInvalid::Mount(Box::new(volume.clone())));
            }
            if volume.quantity.amount() <= *subtract {
                return Err(OperationInvalid::NothingLeft(Box::new(volume.clone())));
            }
            Ok(())
        }
    }
}

fn check_reservation(resource: &Resource, asker: &Asker<'_>) -> Result<(), OperationInvalid> {
    let owned = || Box::new(resource.clone());
    let reservation = match resource.reservations.last() {
        Some(reservation) if reservation.dynamic => reservation,
        _ => return Err(OperationInvalid::NotDynamic(owned())),
    };
    if resource.persistence().is_some() {
        return Err(OperationInvalid::VolumeReservation(owned()));
    }
    if resource.revocable {
        return Err(OperationInvalid::Revocable(owned()));
    }
    if resource.provider_id.is_some() {
        return Err(OperationInvalid::Provider(owned()));
    }
    if let Some(role) = asker.role
        && reservation.role != *role
    {
        let (resource, reserved) = (owned(), reservation.role.clone());
        return Err(OperationInvalid::OtherRole {
            resource,
            reserved,
            role: role.clone(),
        });
    }
    check_principal(
        "A reservation",
        asker,
        resource,
        reservation.principal.as_deref(),
    )
}

fn check_principal(
    what: &'static str,
    asker: &Asker<'_>,
    resource: &Resource,
    found: Option<&str>,
) -> Result<(), OperationInvalid> {
    match asker.principal {
        Some(principal) if found != Some(principal) => Err(OperationInvalid::Principal {
            what,
            principal: principal.to_owned(),
            resource: Box::new(resource.clone()),
            found: found.map(str::to_owned),
        }),
        _ => Ok(()),
    }
}

/// From one stack of reservations to another, only what was put on at run time may change.
fn check_source(
    resources: &Resources,
    source: &Resources,
    asker: &Asker<'_>,
) -> Result<(), OperationInvalid> {
    if source.is_empty() {
        return Ok(());
    }
    if asker.role.is_some() {
        return Err(OperationInvalid::Source);
    }
    if let Some(volume) = source.iter().find(|source| source.persistence().is_some()) {
        return Err(OperationInvalid::VolumeReservation(Box::new(
            volume.clone(),
        )));
    }
    if source.map(Resource::unreserved) != resources.map(Resource::unreserved) {
        return Err(OperationInvalid::SourceDiffers);
    }
    let fixed = |resource: &Resource| -> Vec<Role> {
        let fixed = resource.reservations.iter().filter(|one| !one.dynamic);
        fixed.map(|one| one.role.clone()).collect()
    };
    let changed = resources.iter().find(|resource| {
        source
            .iter()
            .any(|source| source.name == resource.name && fixed(source) != fixed(resource))
    });
    match changed {
        Some(resource) => Err(OperationInvalid::Static(Box::new(resource.clone()))),
        None => Ok(()),
    }
}

fn check_unreservation(resource: &Resource) -> Result<(), OperationInvalid> {
    if !resource.is_dynamically_reserved() {
        return Err(OperationInvalid::NotDynamic(Box::new(resource.clone())));
    }
    if resource.persistence().is_some() {
        return Err(OperationInvalid::VolumeReservation(Box::new(
            resource.clone(),
        )));
    }
    Ok(())
}

fn check_create(volumes: &Resources, asker: &Asker<'_>) -> Result<(), OperationInvalid> {
    let mut ids = Vec::new();
    for volume in volumes.iter() {
        let owned = || Box::new(volume.clone());
        let Some(persistence) = volume.persistence() else {
            return Err(OperationInvalid::NoVolume(owned()));
        };
        check_id("persistence id", &persistence.id)?;
        let form = volume.disk.as_ref().and_then(|disk| disk.volume.as_ref());
        let Some(form) = form.filter(|form| !form.read_only && form.host_path.is_none()) else {
            return Err(OperationInvalid::VolumeForm(owned()));
        };
        if !is_inside(&form.container_path) {
            return Err(OperationInvalid::VolumePath(owned()));
        }
        if volume.revocable {
            return Err(OperationInvalid::Revocable(owned()));
        }
        if volume.provider_id.is_some() {
            return Err(OperationInvalid::Provider(owned()));
        }
        let principal = persistence.principal.as_deref();
        check_principal("A volume", asker, volume, principal)?;
        if volume.shared && !asker.shares {
            return Err(OperationInvalid::NotSharing(owned()));
        }
        let key = |other: &Resource| {
            let id = other
                .persistence()
                .map(|persistence| persistence.id.clone());
            (other.reserved_role().cloned(), id)
        };
        let of_this = key(volume);
        if ids.contains(&of_this) || asker.total.iter().any(|other| key(other) == of_this) {
            return Err(OperationInvalid::DuplicatePersistence {
                id: persistence.id.to_string(),
                role: of_this.0.unwrap_or_else(Role::star),
            });
        }
        ids.push(of_this);
    }
    Ok(())
}

/// A path that stays where it begins, with or without a slash in front.
fn is_inside(path: &str) -> bool {
    let mut parts = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".");
    let mut any = false;
    let inside = parts.all(|part| {
        any = true;
        part != ".."
    });
    inside && any && !path.contains('\0')
}

fn check_destroy(volume: &Resource, asker: &Asker<'_>) -> Result<(), OperationInvalid> {
    if volume.persistence().is_none() {
        return Err(OperationInvalid::NoVolume(Box::new(volume.clone())));
    }
    if !asker.total.contains_resource(volume) {
        return Err(OperationInvalid::VolumeUnknown(Box::new(volume.clone())));
    }
    if asker.used.contains_resource(volume) {
        return Err(OperationInvalid::VolumeInUse(Box::new(volume.clone())));
    }
    Ok(())
}

fn check_resize(volume: &Resource) -> Result<(), OperationInvalid> {
    if volume.persistence().is_none() {
        return Err(OperationInvalid::NoVolume(Box::new(volume.clone())));
    }
    if volume.shared {
        return Err(OperationInvalid::Shared(Box::new(volume.clone())));
    }
    if volume.provider_id.is_some() {
        return Err(OperationInvalid::Provider(Box::new(volume.clone())));
    }
    Ok(())
}
