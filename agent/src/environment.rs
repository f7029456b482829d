//! What executors and tasks find in their environment. Nothing of the agent's own is in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tepui_model::format_duration;

use crate::reach::Reach;
use crate::wall::Wall;

/// Where native programs are found, unless something says otherwise.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is the same for everything this agent starts.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) endpoint: SocketAddr,
    pub(crate) socket: PathBuf,
    /// The socket that serves the executor API and nothing else, for executors that are shut in.
    pub(crate) executor_socket: PathBuf,
    /// What wasm executors are shut in with; `None` where nothing works.
    pub(crate) wall: Option<Wall>,
    pub(crate) shutdown_grace_period: Duration,
    pub(crate) reregistration_timeout: Duration,
    pub(crate) recovery_timeout: Duration,
    /// What of the host wasm tasks may have.
    pub(crate) reach: Reach,
    /// What the operator gives every executor.
    pub(crate) variables: BTreeMap<String, String>,
}

/// The executor an environment is for.
#[derive(Debug)]
pub(crate) struct Executor<'a> {
    pub(crate) framework: &'a str,
    pub(crate) executor: &'a str,
    /// Relative to the work directory.
    pub(crate) sandbox: &'a str,
    /// The same, absolute.
    pub(crate) directory: &'a Path,
    pub(crate) checkpoint: bool,
    pub(crate) info: Option<&'a tepui_api::v1::ExecutorInfo>,
}

impl Surroundings {
    /// The environment of an executor, which its tasks inherit; without what a command sets, and without PATH unless the
    /// operator gives one.
    pub(crate) fn of(&self, executor: &Executor<'_>) -> BTreeMap<String, String> {
        let directory = executor.directory.to_string_lossy().into_owned();
        let grace = executor
            .info
            .and_then(|info| info.shutdown_grace_period.as_ref())
            .and_then(|grace| u64::try_from(grace.nanoseconds).ok());
        let grace = grace.map_or(self.shutdown_grace_period, Duration::from_nanos);
        let mut environment = self.variables.clone();
        let mut set = |name: &str, value: String| environment.insert(name.to_owned(), value);
        set("LIBPROCESS_PORT", "0".to_owned());
        set("MESOS_FRAMEWORK_ID", executor.framework.to_owned());
        set("MESOS_EXECUTOR_ID", executor.executor.to_owned());
        set("MESOS_SLAVE_ID", agent_of(executor.sandbox).to_owned());
        set("MESOS_SLAVE_PID", format!("slave(1)@{}", self.endpoint));
        set("MESOS_AGENT_ENDPOINT", self.endpoint.to_string());
        let socket = self.socket.to_string_lossy().into_owned();
        set("MESOS_DOMAIN_SOCKET", socket);
        set("MESOS_DIRECTORY", directory.clone());
        set("MESOS_SANDBOX", directory);
        set("MESOS_HTTP_COMMAND_EXECUTOR", "0".to_owned());
        set(
            "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD",
            format_duration(grace),
        );
        set(
            "MESOS_CHECKPOINT",
            u8::from(executor.checkpoint).to_string(),
        );
        if executor.checkpoint {
            set(
                "MESOS_RECOVERY_TIMEOUT",
                format_duration(self.recovery_timeout),
            );
            set(
                "MESOS_SUBSCRIPTION_BACKOFF_MAX",
                format_duration(self.reregistration_timeout),
            );
        }
        environment
    }
}

/// The agent's id, out of a sandbox's path.
pub(crate) fn agent_of(sandbox: &str) -> &str {
    sandbox.split('/').nth(1).unwrap_or("unknown")
}
