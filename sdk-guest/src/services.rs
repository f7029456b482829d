//! Where other tasks answer.

use crate::{Error, host};

/// Where a task that runs answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Of the port, if its task names it.
    pub port_name: Option<String>,
    /// Of the port, if its task names it.
    pub protocol: Option<String>,
    /// Whose task it is.
    pub framework_id: String,
    /// Which.
    pub task_id: String,
    /// What its health check, or the task itself, said last; `None` if nothing looks.
    pub healthy: Option<bool>,
}

/// The tasks that run and offer a service of that name (`DiscoveryInfo.name`).
///
/// # Errors
/// `Invalid`, `Unavailable`.
pub fn find(name: &str) -> Result<Vec<Endpoint>, Error> {
    host::find(name)
}
