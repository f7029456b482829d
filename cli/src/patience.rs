//! Flags of a master that say how long it waits for others and how much it remembers of them.

use std::time::Duration;

use clap::Args;
use tepui_master::{CallLimits, CoreConfig};
use tepui_model::RateLimit;

use crate::access::json;
use crate::roles::duration;

fn rate_limit(text: &str) -> Result<RateLimit, String> {
    tepui_model::parse_rate_limit(text).map_err(|error| error.to_string())
}

fn rate_limits(text: &str) -> Result<CallLimits, String> {
    tepui_master::parse_rate_limits(&json(text)?).map_err(|error| error.to_string())
}

/// `100%` as 1.
fn percentage(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').map(str::parse::<f64>);
    match number {
        Some(Ok(percent)) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("a percentage from 0% to 100% is expected".to_owned()),
    }
}

#[derive(Args, Debug)]
pub(crate) struct Patience {
    /// Silence after which an agent has missed a ping
    #[arg(long, default_value = "15secs", value_parser = duration)]
    agent_ping_timeout: Duration,
    /// Missed pings after which an agent is unreachable
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    max_agent_ping_timeouts: u32,
    /// Time a disconnected agent has to come back
    #[arg(long, default_value = "10mins", value_parser = duration)]
    agent_reregister_timeout: Duration,
    /// How many agents may become unreachable within a time: 1/10mins; as many as do if unset
    #[arg(long, value_parser = rate_limit)]
    agent_removal_rate_limit: Option<RateLimit>,
    /// Agents that may be missing after a restart of the master; it ends itself rather than give up more
    #[arg(long, default_value = "100%", value_parser = percentage)]
    recovery_agent_removal_limit: f64,
    /// How often agents that were away for too long are forgotten
    #[arg(long, default_value = "15mins", value_parser = duration)]
    registry_gc_interval: Duration,
    /// Time after which an unreachable or gone agent is forgotten
    #[arg(long, default_value = "2weeks", value_parser = duration)]
    registry_max_agent_age: Duration,
    /// Unreachable agents, and gone ones, that are remembered
    #[arg(long, default_value_t = 102_400)]
    registry_max_agent_count: usize,
    /// Ended frameworks that are remembered
    #[arg(long, default_value_t = 50)]
    max_completed_frameworks: usize,
    /// Ended tasks that are remembered of each framework
    #[arg(long, default_value_t = 1000)]
    max_completed_tasks_per_framework: usize,
    /// Unreachable tasks that are remembered of each framework
    #[arg(long, default_value_t = 1000)]
    max_unreachable_tasks_per_framework: usize,
    /// How often a scheduler's stream carries a heartbeat; some clients give up after 10 s of silence
    #[arg(long, alias = "heartbeat-interval", default_value = "15secs", value_parser = duration)]
    scheduler_heartbeat_interval: Duration,
    /// How often frameworks may call, by their principals: a file, or JSON as Mesos has it
    #[arg(long, value_name = "FILE", value_parser = rate_limits)]
    rate_limits: Option<CallLimits>,
}

impl Patience {
    pub(crate) fn apply(self, config: &mut CoreConfig) {
        config.agent_ping_timeout = self.agent_ping_timeout;
        config.max_agent_ping_timeouts = self.max_agent_ping_timeouts;
        config.agent_reregister_timeout = self.agent_reregister_timeout;
        config.agent_removal_rate_limit = self.agent_removal_rate_limit;
        config.recovery_agent_removal_limit = self.recovery_agent_removal_limit;
        config.registry_gc_interval = self.registry_gc_interval;
        config.registry_max_agent_age = self.registry_max_agent_age;
        config.registry_max_agent_count = self.registry_max_agent_count;
        config.max_completed_frameworks = self.max_completed_frameworks;
        config.max_completed_tasks_per_framework = self.max_completed_tasks_per_framework;
        config.max_unreachable_tasks_per_framework = self.max_unreachable_tasks_per_framework;
        config.heartbeat_interval = self.scheduler_heartbeat_interval;
        config.call_limits = self.rate_limits.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_read_and_nonsense_is_refused() {
        assert_eq!(percentage("100%"), Ok(1.0));
        assert_eq!(percentage(" 2.5%"), Ok(0.025));
        for text in ["", "%", "50", "101%", "-1%", "x%", "NaN%"] {
            assert!(percentage(text).is_err(), "{text}");
        }
    }
}
