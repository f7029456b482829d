//! Between the wire and the model: the wire has three ways to write a resource and doubles for amounts, the model one
//! way and whole thousandths. Everything that comes in is checked here, once.

mod attribute;
mod id;
mod operation;
mod resource_in;
mod resource_out;
mod user;
mod value;

pub use attribute::{
    attribute_from_wire, attribute_to_wire, attributes_from_wire, attributes_to_wire,
};
pub use operation::{
    OperationError, change_from_wire, creator, operation_resources, operation_resources_mut,
    reserved_role, reserver,
};
pub use resource_in::{resource_from_wire, resources_from_wire};
pub use resource_out::{ResourceFormat, resource_to_wire, resources_to_wire};
pub use user::{executor_user, fallback_user, task_user};
pub use value::{labels_from_wire, labels_to_wire};

use tepui_model::{AmountError, RangesError, ResourceError, Role, RoleError};

/// Why something on the wire cannot be taken. The texts are for the client that sent it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConvertError {
    #[error("{name}: {error}")]
    Amount { name: String, error: AmountError },
    #[error("{name}: {error}")]
    Ranges { name: String, error: RangesError },
    #[error("the set {name} has the item '{item}' twice")]
    DuplicateItem { name: String, item: String },
    #[error("{name} has the type {found}, which is not allowed here")]
    Type { name: String, found: String },
    #[error("{name} has the type {declared} and so must have exactly the field '{field}'")]
    Value {
        name: String,
        declared: &'static str,
        field: &'static str,
    },
    #[error("the role of {name}: {error}")]
    Role { name: String, error: RoleError },
    #[error("a reservation of {name} has no role")]
    ReservationWithoutRole { name: String },
    #[error("a reservation of {name} is neither STATIC nor DYNAMIC")]
    ReservationType { name: String },
    #[error("{name} has several reservations and so must have neither 'role' nor 'reservation'")]
    OldFieldsBesideStack { name: String },
    #[error("'role' or 'reservation' of {name} say something else than its 'reservations'")]
    Inconsistent { name: String },
    #[error("{name} has the field 'reservation' but the role '*', which cannot be reserved")]
    StarReserved { name: String },
    #[error("the source of {name} has no known type")]
    DiskSource { name: String },
    #[error("the resources are allocated to the role '{first}' and to '{second}'")]
    TwoAllocations { first: Role, second: Role },
    #[error(transparent)]
    Resource(#[from] ResourceError),
}
