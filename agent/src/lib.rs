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
//! An agent dials its master and is never dialled; only executors on the same machine come in.

mod archive;
mod checkpoint;
mod compile;
mod config;
mod confine;
mod containment;
mod detect;
mod executors;
mod fetcher;
mod files;
mod flags;
mod gc;
mod http;
mod kind;
mod link;
mod owner;
mod prepare;
mod request;
mod sandbox;
mod serve;
mod server;
mod site;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watch;

pub use config::{Config, Reconfiguration, Recover};
pub use flags::ConfigError;
pub use link::{Authority, AuthorityError};
pub use server::{Running, run, start};
