//! Runs the WASI modules of one framework, thousands in one process, each under its own fuel, memory and time limit.
//!
//! From the outside in: [`run`] is the process an agent starts; it hears the agent and hands each task to a [`Runtime`],
//! which runs guests on threads of their own and says how each ended; [`verdict`] makes a status of that. [`compile`] is
//! the other process: it turns a module into the form the runtime loads, so that no tenant ever waits for, or feeds, a
//! compiler inside the executor.

mod commands;
mod compile;
mod engines;
mod executor;
mod governor;
mod http;
mod limits;
mod modules;
mod output;
mod report;
mod runner;
mod spec;
mod task;
mod verdict;
mod world;

pub use compile::{CompileError, compatibility_key, compile};
pub use engines::{EngineError, Metering};
pub use executor::run;
pub use governor::{Outcome, Progress, Runtime, RuntimeError, Settings, TaskHandle};
pub use limits::MemoryLimit;
pub use modules::ModuleFile;
pub use spec::{MemoryPolicy, SpecError, TaskSpec, Volume};
pub use verdict::{Ending, Usage, verdict};
pub use world::Shape;
