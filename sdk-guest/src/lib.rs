//! What a guest may ask about the task it runs as.
//!
//! Everything here is read from the environment the agent gave the task, so it works from any WASI preview 1 module
//! and costs nothing to a guest that does not use it.
#![forbid(unsafe_code)]

use std::env;

/// The task this guest runs as.
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
}
