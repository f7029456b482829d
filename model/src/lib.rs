//! The nouns of Tepui: ids, roles, time, resources and their arithmetic.
//!
//! Everything here is a value. Nothing here knows of the wire, of clocks, of storage or of who uses these values for
//! what: the master, the agents and the allocator must be able to agree on arithmetic without sharing anything else.

#![forbid(unsafe_code)]

pub mod amount;
pub mod conversion;
pub mod generator;
pub mod host_rule;
pub mod ids;
pub mod parse;
pub mod plain;
pub mod quantities;
pub mod ranges;
pub mod resource;
pub mod resources;
pub mod role;
pub mod size;
pub mod store_limits;
pub mod time;

pub use amount::{AmountError, Milli};
pub use conversion::{Change, Conversion};
pub use generator::Generator;
pub use host_rule::{HostRule, HostRuleError, is_private_to_the_machine};
pub use ids::{
    AgentId, ContainerId, ExecutorId, FrameworkId, IdError, OfferId, TaskId, check_container_id,
    check_id,
};
pub use parse::{
    Attribute, AttributeValue, ParseError, parse_attributes, parse_quantities, parse_resources,
};
pub use plain::{plain, plain_lines, without_credentials};
pub use quantities::Quantities;
pub use ranges::{Ranges, RangesError};
pub use resource::{
    Disk, DiskOrigin, DiskSource, DiskVolume, Labels, Persistence, Quantity, Reservation, Resource,
    ResourceError,
};
pub use resources::Resources;
pub use role::{Role, RoleError};
pub use size::{SizeError, format_bytes, parse_size};
pub use store_limits::StoreLimits;
pub use time::{
    DurationError, Now, RateLimit, RateLimitError, Tick, format_duration, parse_duration,
    parse_rate_limit,
};
