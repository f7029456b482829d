//! The pure cores on a seeded network and a virtual clock.
//!
//! One master core, any number of agent cores, simulated executors and simulated schedulers run in one thread from one
//! queue of events. Links have latency and break, sets of agents are cut off, processes and machines die and come back
//! with what their disks hold; everything that looks random comes from one seed, so the same seed is the same run, bit
//! for bit. After every step, or every so many, it is checked that the cores' tables agree with themselves and with each
//! other, and that schedulers were told nothing that contradicts itself.
//!
//! What is modelled and what is not is in `docs/simulator.md`.

#![forbid(unsafe_code)]

mod chance;
mod chaotic;
mod check;
mod disk;
mod event;
mod executor;
mod fault;
mod link;
mod machine;
mod machine_effects;
mod master;
mod operator;
mod queue;
mod settings;
mod tenant;
mod tenant_calls;
mod trace;
mod workload;
mod world;

pub mod experiments;
pub mod plot;
pub mod table;

pub use chance::{Chance, Delay, Spread};
pub use fault::Faults;
pub use settings::{Mishaps, Plant, Settings};
pub use tenant::TenantId;
pub use workload::{Appetite, Demand};
pub use world::{Counts, World};

/// Microseconds of virtual time.
pub type Micros = u64;
pub const MILLISECOND: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;
