//! What an operator may set about an agent, with Mesos's defaults.

use std::time::Duration;

use tepui_api::v1;

use crate::reconfiguration::Reconfiguration;

/// What becomes of the executors an earlier agent process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recover {
    /// They may come back.
    #[default]
    Reconnect,
    /// They are ended, and so is the agent.
    Cleanup,
}

#[derive(Debug, Clone)]
pub struct Config {
    /// Host name, resources, attributes, port and domain; its id is filled in by the core.
    pub info: v1::AgentInfo,
    pub version: String,
    /// `ip:port` of the agent's own HTTP endpoint.
    pub endpoint: String,
    /// Whether that is but one of all the addresses of its machine it listens on.
    pub listens_everywhere: bool,
    /// Differs each time the agent process starts.
    pub boot_id: String,
    /// Differs each time the machine starts. Empty if that cannot be found out.
    pub host_boot_id: String,
    pub recover: Recover,
    /// Whether a record that cannot be read keeps the agent from starting; otherwise it is passed over.
    pub strict: bool,
    pub reconfiguration: Reconfiguration,
    /// Where all chance comes from: update uuids, container ids and the executors' tokens. A real agent fills it from
    /// the operating system's generator, for the tokens are secrets.
    pub seed: [u8; 32],
    /// How long a link may be without a word from the master before registration told us the master's own figure.
    pub registration_timeout: Duration,
    /// How long a new executor may take until it subscribes.
    pub executor_registration_timeout: Duration,
    /// How long executors may take to come back after the agent restarted.
    pub executor_reregistration_timeout: Duration,
    /// How long an executor may take to end after SHUTDOWN, unless its `ExecutorInfo` says otherwise.
    pub executor_shutdown_grace_period: Duration,
    /// How long a built-in executor stays without a task.
    pub executor_idle: Duration,
    /// The first wait for an acknowledgement before a status update is sent again; doubles each time.
    pub update_retry_minimum: Duration,
    pub update_retry_maximum: Duration,
    /// How many ended tasks are remembered, so that their files can be read.
    pub ended_tasks: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            info: v1::AgentInfo::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            endpoint: "127.0.0.1:5051".to_owned(),
            listens_everywhere: false,
            boot_id: String::new(),
            host_boot_id: String::new(),
            recover: Recover::Reconnect,
            strict: true,
            reconfiguration: Reconfiguration::Equal,
            seed: [0; 32],
            registration_timeout: Duration::from_secs(75),
            executor_registration_timeout: Duration::from_secs(60),
            executor_reregistration_timeout: Duration::from_secs(2),
            executor_shutdown_grace_period: Duration::from_secs(5),
            executor_idle: Duration::from_secs(5 * 60),
            update_retry_minimum: Duration::from_secs(10),
            update_retry_maximum: Duration::from_secs(10 * 60),
            ended_tasks: 1000,
        }
    }
}
