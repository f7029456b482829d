//! The master's shell: HTTP, the registry on disk, the agents' links and the artifacts around the pure core.
//!
//! One task owns the core ([`owner`]); everything else talks to it through one inbox and takes photographs of its
//! state to answer reads from. Whatever is decided is decided in `tepui-master-core`.

#![forbid(unsafe_code)]

mod access;
mod artifacts;
mod body;
mod config;
mod connections;
mod explain;
mod explain_json;
mod feed;
mod files;
mod holdings;
mod http;
mod job_stores;
mod legacy;
mod legacy_writes;
mod link;
mod log;
mod logs;
mod metrics;
mod operator;
mod operator_events;
mod owner;
mod rate_limits;
mod run_times;
mod server;
mod shared;
pub mod store;
mod stream;
mod unsummed;

pub use config::{Authentication, CallLimits, Config, CoreConfig};
pub use log::Log;
pub use owner::OwnerError;
pub use rate_limits::{RateLimitsError, parse_rate_limits};
pub use server::{Running, StartError, run, start};

/// The level of the Mesos API that is spoken; clients enable features by it.
pub const MESOS_API_LEVEL: &str = "1.11.0";
/// Tepui's own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
