//! An agent's settings under the names of its flags, for those who ask what it was started with.

use std::collections::BTreeMap;
use std::time::Duration;

use tepui_agent_core::Recover;
use tepui_model::format_duration;

use crate::config::Config;

/// The longest time executors may have to come back, as in Mesos: for so long nothing can be said of any task.
const REREGISTRATION_MAXIMUM: Duration = Duration::from_secs(15);

/// Settings no agent can work with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("--executor_reregistration_timeout must be at most 15secs, not {}", format_duration(*.0))]
    Reregistration(Duration),
    #[error("--gc_disk_headroom must be between 0 and 1, not {0}")]
    Headroom(f64),
    #[error("--{0} must be more than 0")]
    Zero(&'static str),
}

impl Config {
    /// What can be found wrong by looking.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.executor_reregistration_timeout > REREGISTRATION_MAXIMUM {
            let given = self.executor_reregistration_timeout;
            return Err(ConfigError::Reregistration(given));
        }
        if !(0.0..=1.0).contains(&self.gc_disk_headroom) {
            return Err(ConfigError::Headroom(self.gc_disk_headroom));
        }
        let intervals = [
            ("disk_watch_interval", self.disk_watch_interval),
            (
                "container_disk_watch_interval",
                self.container_disk_watch_interval,
            ),
            (
                "container_ports_watch_interval",
                self.container_ports_watch_interval,
            ),
            (
                "status_update_retry_interval_min",
                self.update_retry_minimum,
            ),
            ("fetcher_stall_timeout", self.fetch.patience.stall),
            ("executor_heartbeat_interval", self.executor_heartbeat),
        ];
        match intervals.iter().find(|(_, interval)| interval.is_zero()) {
            Some((name, _)) => Err(ConfigError::Zero(name)),
            None => Ok(()),
        }
    }

    /// Every flag with its value, as `/flags` shows them. What is unset is left out, as in Mesos.
    pub fn flags(&self) -> BTreeMap<&'static str, String> {
        let recover = match self.recover {
            Recover::Reconnect => "reconnect",
            Recover::Cleanup => "cleanup",
        };
        let mut flags = BTreeMap::from([
            (
                "allow_host_directories",
                joined(
                    self.allow_host_directories
                        .iter()
                        .map(|path| path.display()),
                ),
            ),
            ("allow_hosts", joined(&self.allow_hosts)),
            ("attributes", self.attributes.clone()),
            (
                "authenticate_http_readonly",
                self.authentication.readonly.to_string(),
            ),
            (
                "authenticate_http_readwrite",
                self.authentication.readwrite.to_string(),
            ),
            ("compile_workers", self.compile_workers.to_string()),
            (
                "compile_quick_above",
                format!("{}B", self.compile_quick_above_bytes),
            ),
            ("default_role", self.default_role.clone()),
            ("fetcher_cache_size", format!("{}B", self.cache_bytes)),
            ("gc_disk_headroom", self.gc_disk_headroom.to_string()),
            ("gc_max_sandboxes", self.gc_max_sandboxes.to_string()),
            (
                "enforce_container_disk_quota",
                self.enforce_container_disk_quota.to_string(),
            ),
            (
                "executor_uids",
                self.executor_uids
                    .map_or("none".to_owned(), |range| range.to_string()),
            ),
            (
                "enforce_container_ports",
                self.enforce_container_ports.to_string(),
            ),
            ("insecure", self.insecure.to_string()),
            ("ip", self.ip.to_string()),
            ("keep_tasks", self.keep_tasks_at_stop.to_string()),
            ("master", self.master.clone()),
            ("port", self.port.to_string()),
            ("reconfiguration_policy", self.reconfiguration.to_string()),
            ("recover", recover.to_owned()),
            ("resources", self.resources.clone()),
            ("strict", self.strict.to_string()),
            ("switch_user", self.switch_user.to_string()),
            ("work_dir", self.work_dir.display().to_string()),
        ]);
        let durations = [
            ("compile_timeout", self.compile_timeout),
            (
                "container_disk_watch_interval",
                self.container_disk_watch_interval,
            ),
            (
                "container_ports_watch_interval",
                self.container_ports_watch_interval,
            ),
            ("disk_watch_interval", self.disk_watch_interval),
            ("executor_heartbeat_interval", self.executor_heartbeat),
            ("executor_idle_timeout", self.executor_idle),
            (
                "executor_registration_timeout",
                self.executor_registration_timeout,
            ),
            (
                "executor_reregistration_timeout",
                self.executor_reregistration_timeout,
            ),
            (
                "executor_shutdown_grace_period",
                self.executor_shutdown_grace_period,
            ),
            ("fetcher_stall_timeout", self.fetch.patience.stall),
            ("gc_delay", self.gc_delay),
            ("recovery_timeout", self.recovery_timeout),
            (
                "registration_backoff_factor",
                self.registration_backoff_factor,
            ),
            (
                "status_update_retry_interval_max",
                self.update_retry_maximum,
            ),
            (
                "status_update_retry_interval_min",
                self.update_retry_minimum,
            ),
        ];
        flags.extend(durations.map(|(name, value)| (name, format_duration(value))));
        for (name, value) in self.fetch.flags() {
            flags.insert(name, value);
        }
        if !self.datasets.is_empty() {
            let all: Vec<String> = self.datasets.iter().map(ToString::to_string).collect();
            flags.insert("dataset", all.join(" "));
        }
        if let Some(hostname) = &self.hostname {
            flags.insert("hostname", hostname.clone());
        }
        if let Some(home) = &self.frameworks_home {
            flags.insert("frameworks_home", home.display().to_string());
        }
        if !self.executor_environment_variables.is_empty() {
            // Which variables there are, not what is in them: somebody may keep a secret there.
            let names = self.executor_environment_variables.keys();
            let names: Vec<&str> = names.map(String::as_str).collect();
            flags.insert("executor_environment_variables", names.join(","));
        }
        flags
    }
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_mesos_names_and_defaults() {
        let flags = Config::default().flags();
        for (name, value) in [
            ("executor_registration_timeout", "1mins"),
            ("executor_reregistration_timeout", "2secs"),
            ("executor_shutdown_grace_period", "5secs"),
            ("recovery_timeout", "15mins"),
            ("gc_delay", "1weeks"),
            ("gc_disk_headroom", "0.1"),
            ("gc_max_sandboxes", "100000"),
            ("disk_watch_interval", "1mins"),
            ("container_disk_watch_interval", "15secs"),
            ("enforce_container_disk_quota", "false"),
            ("container_ports_watch_interval", "30secs"),
            ("enforce_container_ports", "false"),
            ("switch_user", "true"),
            ("registration_backoff_factor", "1secs"),
            ("fetcher_stall_timeout", "1mins"),
            ("default_role", "*"),
            ("recover", "reconnect"),
            ("reconfiguration_policy", "equal"),
            ("strict", "true"),
        ] {
            assert_eq!(flags.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!flags.contains_key("hostname"));
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let error = |config: Config| config.check().unwrap_err().to_string();
        let slow = Config {
            executor_reregistration_timeout: Duration::from_secs(16),
            ..Config::default()
        };
        assert!(error(slow).ends_with("at most 15secs, not 16secs"));
        let full = Config {
            gc_disk_headroom: 1.5,
            ..Config::default()
        };
        assert!(error(full).contains("gc_disk_headroom"));
        let restless = Config {
            disk_watch_interval: Duration::ZERO,
            ..Config::default()
        };
        assert!(error(restless).contains("disk_watch_interval"));
        assert_eq!(Config::default().check(), Ok(()));
    }
}
