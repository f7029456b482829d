//! What the agent tells an executor by its environment.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tepui_model::parse_duration;

/// Where the agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The agent's unix socket.
    Unix(PathBuf),
    /// `ip:port`.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp(endpoint) => formatter.write_str(endpoint),
        }
    }
}

/// Who this executor is, where its agent is, and how long it waits for it.
#[derive(Clone)]
pub struct Config {
    /// `MESOS_FRAMEWORK_ID`.
    pub framework_id: String,
    /// `MESOS_EXECUTOR_ID`.
    pub executor_id: String,
    /// `MESOS_DOMAIN_SOCKET`, else `MESOS_AGENT_ENDPOINT`.
    pub address: Address,
    /// `MESOS_EXECUTOR_AUTHENTICATION_TOKEN`, sent as a bearer token.
    pub token: Option<String>,
    /// `MESOS_SANDBOX`, else `MESOS_DIRECTORY`: the executor's own directory.
    pub sandbox: Option<PathBuf>,
    /// `MESOS_CHECKPOINT`: whether tasks outlive their agent, so that a lost agent is waited for.
    pub checkpoint: bool,
    /// `MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD`: how long after SHUTDOWN the agent waits before it kills the executor.
    pub shutdown_grace: Duration,
    /// `MESOS_RECOVERY_TIMEOUT`: how long a checkpointing executor waits for its agent to come back.
    pub recovery_timeout: Duration,
    /// `MESOS_SUBSCRIPTION_BACKOFF_MAX`: the longest pause between two attempts to subscribe.
    pub subscription_backoff_max: Duration,
    /// How long the first subscription is tried.
    pub connect_timeout: Duration,
    /// `TEPUI_CGROUP`: below which the executor may make groups of its own, relative to each hierarchy's root.
    pub cgroup: Option<String>,
    /// `TEPUI_WORK_DIR`: the agent's work directory.
    pub work_dir: Option<PathBuf>,
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is a secret: it must not get into a log by way of `{:?}`.
        formatter
            .debug_struct("Config")
            .field("framework_id", &self.framework_id)
            .field("executor_id", &self.executor_id)
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("sandbox", &self.sandbox)
            .field("checkpoint", &self.checkpoint)
            .field("shutdown_grace", &self.shutdown_grace)
            .field("recovery_timeout", &self.recovery_timeout)
            .field("subscription_backoff_max", &self.subscription_backoff_max)
            .field("connect_timeout", &self.connect_timeout)
            .field("cgroup", &self.cgroup)
            .field("work_dir", &self.work_dir)
            .finish()
    }
}

/// Why the environment is not that of an executor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A variable without which nothing can be done is unset or empty.
    #[error("the variable {name} is not set: an executor is started by an agent, which sets it")]
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// Neither way to the agent is given.
    #[error(
        "neither MESOS_DOMAIN_SOCKET nor MESOS_AGENT_ENDPOINT is set: there is no way to the agent"
    )]
    NoAddress,
    /// A variable does not read as a duration.
    #[error("the variable {name} does not say a duration: {error}")]
    Duration {
        /// The variable.
        name: &'static str,
        /// What is wrong with its value.
        error: String,
    },
}

impl Config {
    /// A config with Mesos's defaults.
    pub fn new(
        framework_id: impl Into<String>,
        executor_id: impl Into<String>,
        address: Address,
    ) -> Self {
        Self {
            framework_id: framework_id.into(),
            executor_id: executor_id.into(),
            address,
            token: None,
            sandbox: None,
            checkpoint: false,
            shutdown_grace: Duration::from_secs(5),
            recovery_timeout: Duration::from_secs(15 * 60),
            subscription_backoff_max: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(30),
            cgroup: None,
            work_dir: None,
        }
    }

    /// Reads the environment of this process.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads the variables from elsewhere than the environment.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let required = |name: &'static str| lookup(name).ok_or(ConfigError::Missing { name });
        let duration = |name: &'static str, default: Duration| match lookup(name) {
            None => Ok(default),
            Some(text) => parse_duration(&text).map_err(|error| ConfigError::Duration {
                name,
                error: error.to_string(),
            }),
        };
        let address = match (
            lookup("MESOS_DOMAIN_SOCKET"),
            lookup("MESOS_AGENT_ENDPOINT"),
        ) {
            (Some(path), _) => Address::Unix(PathBuf::from(path)),
            (None, Some(endpoint)) => Address::Tcp(endpoint),
            (None, None) => return Err(ConfigError::NoAddress),
        };
        let mut config = Self::new(
            required("MESOS_FRAMEWORK_ID")?,
            required("MESOS_EXECUTOR_ID")?,
            address,
        );
        config.token = lookup("MESOS_EXECUTOR_AUTHENTICATION_TOKEN");
        config.sandbox = lookup("MESOS_SANDBOX")
            .or_else(|| lookup("MESOS_DIRECTORY"))
            .map(PathBuf::from);
        config.checkpoint =
            lookup("MESOS_CHECKPOINT").is_some_and(|value| value == "1" || value == "true");
        config.shutdown_grace = duration(
            "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD",
            config.shutdown_grace,
        )?;
        config.recovery_timeout = duration("MESOS_RECOVERY_TIMEOUT", config.recovery_timeout)?;
        config.subscription_backoff_max = duration(
            "MESOS_SUBSCRIPTION_BACKOFF_MAX",
            config.subscription_backoff_max,
        )?;
        config.cgroup = lookup("TEPUI_CGROUP");
        config.work_dir = lookup("TEPUI_WORK_DIR").map(PathBuf::from);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn an_executors_environment_is_read_whole() {
        let config = read(&[
            ("MESOS_FRAMEWORK_ID", "f-1"),
            ("MESOS_EXECUTOR_ID", "tepui-wasm"),
            ("MESOS_AGENT_ENDPOINT", "127.0.0.1:5051"),
            ("MESOS_DOMAIN_SOCKET", "/run/agent.sock"),
            ("MESOS_CHECKPOINT", "1"),
            ("MESOS_RECOVERY_TIMEOUT", "3mins"),
            ("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "7secs"),
            ("MESOS_EXECUTOR_AUTHENTICATION_TOKEN", "hush"),
            ("MESOS_DIRECTORY", "/sandbox"),
            ("TEPUI_CGROUP", "tepui/a/b"),
        ])
        .expect("everything is there");
        assert_eq!(config.address, Address::Unix("/run/agent.sock".into()));
        assert!(config.checkpoint);
        assert_eq!(config.recovery_timeout, Duration::from_secs(180));
        assert_eq!(config.shutdown_grace, Duration::from_secs(7));
        assert_eq!(config.sandbox, Some(PathBuf::from("/sandbox")));
        assert_eq!(config.cgroup.as_deref(), Some("tepui/a/b"));
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            read(&[("MESOS_AGENT_ENDPOINT", "a:1"), ("MESOS_EXECUTOR_ID", "e")]).err(),
            Some(ConfigError::Missing {
                name: "MESOS_FRAMEWORK_ID"
            })
        );
        assert_eq!(
            read(&[("MESOS_FRAMEWORK_ID", "f"), ("MESOS_EXECUTOR_ID", "e")]).err(),
            Some(ConfigError::NoAddress)
        );
        let error = read(&[
            ("MESOS_FRAMEWORK_ID", "f"),
            ("MESOS_EXECUTOR_ID", "e"),
            ("MESOS_AGENT_ENDPOINT", "a:1"),
            ("MESOS_RECOVERY_TIMEOUT", "soon"),
        ])
        .expect_err("no duration");
        assert!(error.to_string().contains("MESOS_RECOVERY_TIMEOUT"));
    }
}
