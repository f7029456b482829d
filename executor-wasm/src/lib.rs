//! Runs the WASI modules of one framework, thousands in one process, each under its own fuel, memory and time limit.
//!
//! From the outside in: [`run`] is the process an agent starts; it hears the agent and hands each task to a [`Runtime`],
//! which runs guests on threads of their own and says how each ended; [`verdict`] makes a status of that. [`compile`] is
//! the other process: it turns a module into the form the runtime loads, so that no tenant ever waits for, or feeds, a
//! compiler inside the executor.

mod commands;
mod compile;
mod coredump;
mod egress;
mod ending;
mod engines;
mod executor;
mod governor;
mod guest;
mod hosted;
mod http;
mod limits;
mod modules;
mod output;
mod pace;
mod pieces;
mod preinit;
mod report;
mod requests;
mod runner;
mod service;
mod shares;
mod spec;
mod store;
mod switch;
mod task;
mod timed;
mod verdict;
mod world;

pub use compile::{CompileError, compatibility_key, compile, compile_quickly, quick_key};
pub use egress::Egress;
pub use engines::{EngineError, Metering};
pub use executor::run;
pub use governor::{Outcome, Progress, Runtime, RuntimeError, Settings, TaskHandle};
pub use guest::Cluster;
pub use limits::MemoryLimit;
pub use modules::ModuleFile;
pub use preinit::{Preinit, PreinitError};
pub use spec::{Identity, MemoryPolicy, Serving, SpecError, TaskSpec, Volume};
pub use verdict::{Ending, Requests, Usage, verdict};
pub use world::Shape;
