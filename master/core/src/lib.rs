//! The master's state machine: frameworks, agents, tasks and offers, and what happens to them.
//!
//! The core is handed one [`Input`] and the time and returns the [`Effect`]s that follow; it has no socket, no clock
//! and no disk. Given the same inputs at the same times it returns the same effects, so a whole cluster can be played
//! through from one seed. Readers take a [`View`] and never wait for the core, nor the core for them.
//!
//! What must outlive the master goes through [`Effect::Persist`], and whatever would make it visible waits for
//! [`Input::Persisted`]. Tasks are not among it: agents report them again when they come back, so no launch waits for
//! a disk.

#![forbid(unsafe_code)]

mod accept;
mod agents;
mod authorize;
mod calls;
mod change;
mod config;
mod core;
mod datasets;
mod departure;
mod effect;
mod explain;
mod framework_info;
mod happenings;
mod history;
mod input;
mod interest;
mod invariants;
mod inventory;
mod inverse_offers;
mod keys;
mod launch_group;
mod maintenance;
mod management;
mod messages;
mod metrics;
mod offers;
mod operations;
mod operator;
mod quota;
mod reconcile;
mod recover;
mod register;
mod removal;
mod services;
mod slab;
mod store_calls;
mod stores;
mod subscribe;
mod tasks;
mod terms;
mod throttle;
mod updates;
mod validate;
mod validate_group;
mod validate_operation;
mod view;
mod visible;
mod wire;

#[cfg(test)]
mod tests;

pub use crate::config::Config;
pub use crate::core::Core;
pub use crate::effect::{Answer, Effect, RegistryOperation};
pub use crate::explain::{FrameworkStanding, Party, Refused, Starvation, Told};
pub use crate::happenings::Happening;
pub use crate::history::History;
pub use crate::input::{Input, LinkKey, PersistKey, RequestKey, StreamKey};
pub use crate::inventory::{Inventory, Thing};
pub use crate::keys::{AgentKey, ExecutorKey, FrameworkKey, Key, OfferKey, OperationKey, TaskKey};
pub use crate::metrics::{FrameworkMetrics, METRICS, Metric, TASK_STATES, Tally};
pub use crate::quota::to_config as quota_config;
pub use crate::recover::RecoverError;
pub use crate::slab::Table;
pub use crate::store_calls::{StoreAnswer, StoreCall};
pub use crate::stores::{KeySummary, StoreRefused, StoreSummary, StoredValue};
pub use crate::throttle::{CallCounts, CallLimit, CallLimits};
pub use crate::view::{
    AgentRecord, AwayAgent, Deactivation, Drain, ExecutorRecord, FrameworkRecord, OfferRecord,
    OperationRecord, RoleRecord, TaskRecord, View,
};
pub use tepui_allocator::{Level, Obstacle, Quota, Standing};
