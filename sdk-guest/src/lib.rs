//! What a wasm guest may ask of its cluster beyond WASI: the task it is, messages, a store, reports, a log, and where other
//! tasks answer. One interface for modules (`wasm32-wasip1`) and components (`wasm32-wasip2`).
//!
//! ```no_run
//! use std::time::Duration;
//! use tepui_sdk_guest::{log, messages, report, store};
//!
//! # fn main() -> Result<(), tepui_sdk_guest::Error> {
//! let done = store::get("done")?.map_or(0, |entry| entry.value.len());
//! report::progress(0.5, "half of the way")?;
//! log::info("going on", &[("done", &done.to_string())])?;
//! if let Some(order) = messages::receive(Duration::from_secs(10))? {
//!     messages::send(&order)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What comes from the environment ([`Task::current`]) works everywhere and imports nothing. Everything else becomes an
//! import of the guest as soon as it is used: an agent provides it, other runtimes refuse to start such a guest (or, like
//! wasmtime with `-W unknown-imports-trap`, let it run until it comes to the call). Nothing here can turn that into an
//! error, since wasm knows no import that may be missing. What is used and what not is decided by the linker, so that a
//! guest that only might use it, by a `cfg` of its own say, should leave it out where it is to run elsewhere. Compiled for
//! anything but wasm, for tests on the developer's machine, each call fails with [`Code::Unavailable`] and says why.
//!
//! The bounds, and what happens at them, are in `docs/guest-sdk.md` of the project.

use std::env;
use std::fmt;

#[cfg(all(target_family = "wasm", target_env = "p2"))]
#[path = "component.rs"]
mod host;
#[cfg(all(target_family = "wasm", not(target_env = "p2")))]
#[path = "module.rs"]
mod host;
#[cfg(not(target_family = "wasm"))]
#[path = "nowhere.rs"]
mod host;

pub mod log;
pub mod messages;
pub mod report;
pub mod services;
pub mod store;

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// For a reason this version has no name for.
    Unknown,
    /// What was asked is not allowed: too long, too many, out of range.
    Invalid,
    /// The task belongs to no job (it has no label `tepui.job`), so it has no store.
    NoJob,
    /// The key has another version than the one named.
    Conflict,
    /// There is no room: in the store, or for another message on its way.
    Full,
    /// No agent or no master answers at present. Of a put or a delete it is not known whether it was done.
    Unavailable,
}

/// A failure, with the cluster's sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The kind of it.
    pub code: Code,
    /// A sentence.
    pub message: String,
    /// Of a conflict: the version the key has; 0 if it does not exist.
    pub version: Option<u64>,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The task this guest runs as, as far as its environment tells: no more is asked of whoever runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The id the scheduler chose (`MESOS_TASK_ID`).
    pub id: String,
    /// The framework that launched it (`MESOS_FRAMEWORK_ID`).
    pub framework_id: String,
    /// The role whose share it runs in (`MESOS_ALLOCATION_ROLE`).
    pub role: String,
    /// The task's directory as the guest sees it (`MESOS_SANDBOX`).
    pub sandbox: String,
}

impl Task {
    /// The task of this guest, or `None` when the module runs outside a cluster.
    pub fn current() -> Option<Self> {
        Some(Self {
            id: env::var("MESOS_TASK_ID").ok()?,
            framework_id: env::var("MESOS_FRAMEWORK_ID").ok()?,
            role: env::var("MESOS_ALLOCATION_ROLE").unwrap_or_else(|_| "*".to_owned()),
            sandbox: env::var("MESOS_SANDBOX").unwrap_or_else(|_| "/".to_owned()),
        })
    }

    /// All there is to know about the task.
    ///
    /// # Errors
    /// Only outside of wasm.
    pub fn details() -> Result<Details, Error> {
        host::details()
    }
}

/// The task this guest runs as, as the agent knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// The id the scheduler chose.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The framework that launched it.
    pub framework_id: String,
    /// The role whose share it runs in.
    pub role: String,
    /// The agent it runs on.
    pub agent_id: String,
    /// Which attempt at its work it is, from 1 on (label `tepui.attempt`).
    pub attempt: u32,
    /// The job it belongs to (label `tepui.job`).
    pub job: Option<String>,
    /// All of its labels, in their order; a key may be there more than once.
    pub labels: Vec<(String, String)>,
}

impl Details {
    /// The value of a label, the first one with that key.
    pub fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use super::*;

    #[test]
    fn outside_of_wasm_each_call_says_why_it_fails() {
        for error in [
            Task::details().map(drop),
            messages::send(b"x"),
            store::get("k").map(drop),
            report::progress(0.5, ""),
            log::info("x", &[]),
            services::find("web").map(drop),
        ] {
            let error = error.expect_err("there is no cluster here");
            assert_eq!(error.code, Code::Unavailable);
            assert!(error.to_string().contains("wasm"), "{error}");
        }
    }
}
