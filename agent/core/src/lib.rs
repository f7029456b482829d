//! The agent's state machine, without clock, socket or disk.
//!
//! [`Core`] is handed one [`Input`] and the time and returns the [`Effect`]s that follow. The shell owns the link to
//! the master, the executors' processes and streams, the fetcher and the disk, and decides nothing.
//!
//! A task's life: launched → preparing → (its record saved) → queued for its executor → delivered → ended → its last
//! update acknowledged → remembered only for its files.

#![forbid(unsafe_code)]

mod calls;
mod chance;
pub mod config;
mod drain;
pub mod effect;
mod executor;
mod executors;
mod framework;
mod group;
mod guest;
pub mod input;
mod invariants;
mod inventory;
mod launch;
mod limits;
mod link_state;
mod machine;
mod operations;
mod past;
mod pod;
mod reconfiguration;
mod record;
mod recovery;
mod show;
mod signal;
mod stop;
mod stream;
mod task;
mod timers;
mod updates;
pub mod view;
mod volume;
mod wire;

#[cfg(test)]
mod tests;

pub use calls::Rejection;
pub use config::{Config, Recover};
pub use effect::{Effect, ExecutorKind, Parent, Write};
pub use executor::{NATIVE_EXECUTOR_ID, WASM_EXECUTOR_ID};
pub use guest::{GuestTask, JOB_LABEL};
pub use input::{
    ConnectionKey, ExecutorRef, Input, Limitation, PrepareFailure, Recovered, RequestKey, SaveKey,
    TaskRef,
};
pub use machine::Core;
pub use reconfiguration::{DATASET_ATTRIBUTES, Reconfiguration};
pub use record::RecoverError;
pub use view::{
    AgentView, ContainerOwner, ContainerView, ExecutorView, FrameworkView, Standing, TaskView,
};
pub use volume::{Volume, VolumeDirectory, volumes_of, volumes_of_role};
