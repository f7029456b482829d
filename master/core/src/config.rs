//! What the operator can set, under Mesos's names and with its defaults where it has them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tepui_access::Acls;
use tepui_model::{RateLimit, Role, StoreLimits};

use crate::throttle::CallLimits;

#[derive(Debug, Clone)]
pub struct Config {
    /// Differs each time a master starts; prefix of the ids it gives out.
    pub master_id: String,
    pub hostname: String,
    /// As a client reaches the master: `10.0.0.1`.
    pub ip: String,
    pub port: u16,
    pub version: String,
    /// How often the shell sends HEARTBEAT; told to schedulers with SUBSCRIBED.
    pub heartbeat_interval: Duration,
    pub agent_ping_timeout: Duration,
    /// An agent that leaves this many pings unanswered becomes unreachable.
    pub max_agent_ping_timeouts: u32,
    /// An agent whose link broke, or which was there before the master restarted, becomes unreachable after this.
    pub agent_reregister_timeout: Duration,
    /// How quickly agents may become unreachable one after the other; at once if unset.
    pub agent_removal_rate_limit: Option<RateLimit>,
    /// A master that would give up more than this part of the agents from before its restart ends itself instead.
    pub recovery_agent_removal_limit: f64,
    /// How often records of unreachable and gone agents that are too old or too many are dropped.
    pub registry_gc_interval: Duration,
    pub registry_max_agent_age: Duration,
    /// Of unreachable ones and of gone ones each.
    pub registry_max_agent_count: usize,
    pub offer_timeout: Option<Duration>,
    /// How long an offer may lie open while another framework would take it.
    pub contended_offer_timeout: Option<Duration>,
    pub max_completed_frameworks: usize,
    pub max_completed_tasks_per_framework: usize,
    pub max_unreachable_tasks_per_framework: usize,
    /// The only roles frameworks may subscribe to and operators may give weights to; all if unset.
    pub roles: Option<BTreeSet<String>>,
    /// Whether tasks may run as `root`.
    pub root_submissions: bool,
    /// What frees or brings resources within this time is allocated together.
    pub allocation_delay: Duration,
    /// What is refused for any time at all is refused for at least this long.
    pub allocation_interval: Duration,
    /// After a restart every framework has at least this long to come back, whatever its failover timeout is.
    pub recovered_framework_grace: Duration,
    /// How often frameworks may call; as often as they like by default.
    pub call_limits: CallLimits,
    /// Who may do what; everybody everything by default.
    pub acls: Arc<Acls>,
    pub allocator: tepui_allocator::Config,
    /// How much tasks may keep.
    pub store_limits: StoreLimits,
    /// The weights of roles, for a registry that has none yet.
    pub weights: BTreeMap<Role, f64>,
    /// Where the master is. Agents in other regions are offered only to frameworks that know of regions.
    pub domain: Option<tepui_api::v1::DomainInfo>,
    /// Agents that do not say where they are are turned away.
    pub require_agent_domain: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            master_id: "master".to_owned(),
            hostname: "localhost".to_owned(),
            ip: "127.0.0.1".to_owned(),
            port: 5050,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat_interval: Duration::from_secs(15),
            agent_ping_timeout: Duration::from_secs(15),
            max_agent_ping_timeouts: 5,
            agent_reregister_timeout: Duration::from_secs(10 * 60),
            agent_removal_rate_limit: None,
            recovery_agent_removal_limit: 1.0,
            registry_gc_interval: Duration::from_secs(15 * 60),
            registry_max_agent_age: Duration::from_secs(14 * 24 * 60 * 60),
            registry_max_agent_count: 100 * 1024,
            offer_timeout: Some(Duration::from_secs(2 * 60)),
            contended_offer_timeout: Some(Duration::from_secs(10)),
            max_completed_frameworks: 50,
            max_completed_tasks_per_framework: 1000,
            max_unreachable_tasks_per_framework: 1000,
            roles: None,
            root_submissions: true,
            allocation_delay: Duration::from_millis(2),
            allocation_interval: Duration::from_millis(50),
            recovered_framework_grace: Duration::from_secs(60),
            call_limits: CallLimits::default(),
            acls: Arc::default(),
            allocator: tepui_allocator::Config::default(),
            store_limits: StoreLimits::default(),
            weights: BTreeMap::new(),
            domain: None,
            require_agent_domain: false,
        }
    }
}

impl Config {
    /// Whether the operator lets the role be used.
    pub(crate) fn allows_role(&self, role: &Role) -> bool {
        role.is_star()
            || self
                .roles
                .as_ref()
                .is_none_or(|roles| roles.contains(role.as_str()))
    }
}
