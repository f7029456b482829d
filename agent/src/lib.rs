//! The agent's shell: it owns the sockets, the disk and the processes of one machine, and lets the core decide.
//!
//! ```text
//! master <- link -> owner (core) <- http <- executors
//!             |       |   |
//!           files  prepare  executors (processes)
//!                  |     |       |
//!              fetcher compile containment
//! ```
//!
//! An agent dials its master and is never dialled by it; executors of the same machine come in, operators, and other agents
//! that want what was fetched here.

mod access;
mod answer;
mod archive;
mod artifacts;
mod checkpoint;
mod compile;
mod compile_queue;
mod compile_worker;
mod config;
mod confine;
mod containers;
mod containment;
mod datasets;
mod detect;
mod disk;
mod environment;
mod executors;
mod fetcher;
mod fetcher_metrics;
mod files;
mod files_api;
mod flags;
mod follow;
mod gc;
mod guest;
mod holders;
mod holdings;
mod http;
mod kind;
mod legacy;
mod link;
mod log;
mod metrics;
mod operator;
mod overstepping;
mod owner;
mod pages;
mod peer;
mod persistent;
mod ports;
mod prepare;
mod questions;
mod reach;
mod reads;
mod remove;
mod request;
mod resources_flag;
mod sandbox;
mod serve;
mod server;
mod shown;
mod site;
mod statistics;
mod store;
mod tenants;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unsupported;
mod usage;
mod user;
mod verbosity;
mod volumes;
mod wall;
mod wanted;
mod watch;

/// The level of Mesos's API this agent speaks: clients compare it part by part.
pub const MESOS_API_LEVEL: &str = "1.11.0";

pub use config::{Authentication, Config, Reconfiguration, Recover};
pub use tepui_agent_core::DATASET_ATTRIBUTES;

pub use datasets::{DeclarationError, DeclaredDataset, is_name as is_dataset_name};
pub use flags::ConfigError;
pub use link::{Authority, AuthorityError};
pub use log::Log;
pub use resources_flag::{Given, ResourcesError, read_resources};
pub use server::{Running, run, start};
pub use tenants::UserRange;
