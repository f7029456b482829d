//! What the operator of a master can set.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use tepui_access::Credentials;
use tepui_model::format_duration;
use tokio_util::sync::CancellationToken;

use crate::rate_limits;

pub use tepui_master_core::CallLimits;
/// The settings of the state machine: timeouts, histories, roles, the allocator.
pub use tepui_master_core::Config as CoreConfig;

/// Who has to prove who they are, and with what. Nobody by default.
#[derive(Debug, Clone, Default)]
pub struct Authentication {
    pub credentials: Credentials,
    /// Schedulers.
    pub frameworks: bool,
    /// Whoever reads the state.
    pub readonly: bool,
    /// Operators.
    pub readwrite: bool,
    pub agents: bool,
}

impl Authentication {
    /// Whether nothing that changes or shows anything is open to strangers.
    pub fn is_complete(&self) -> bool {
        self.frameworks && self.readonly && self.readwrite && self.agents
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    /// The address to listen on.
    pub ip: IpAddr,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// What the operator calls the cluster; shown by tools.
    pub cluster: Option<String>,
    /// The name by which clients and agents reach this master. If unset: `ip`, or the machine's name where `ip` stands
    /// for every address.
    pub hostname: Option<String>,
    /// Holds the registry and the artifacts; made if it does not exist.
    pub data_dir: PathBuf,
    /// Allows listening where other machines can reach a master that does not ask everybody for credentials.
    pub insecure: bool,
    pub authentication: Authentication,
    /// The identity in it (master_id, hostname, ip, port, version) is filled in at start.
    pub core: CoreConfig,
    /// How long the head of a request, or a piece of its body, may take to come, and what is sent to be taken.
    pub request_patience: Duration,
    /// Connections that may be open at a time.
    pub max_connections: usize,
    /// Makes this process log more: 0 is as it was started, higher is more.
    pub set_verbosity: Option<fn(u32)>,
    /// The longest body of a call.
    pub max_call_bytes: usize,
    /// The largest artifact; unlimited if unset.
    pub max_artifact_bytes: Option<u64>,
    /// Directories of this machine from which artifacts may be added by path.
    pub artifact_files: Vec<PathBuf>,
    /// What holds for artifacts the master fetches itself.
    pub fetch: tepui_fetch::Settings,
    /// Events that may wait for one slow scheduler before its stream is closed.
    pub stream_queue: usize,
    /// Operators that may listen to events at a time; the oldest gives way to one more.
    pub max_operator_event_stream_subscribers: usize,
    /// Messages that may wait for one slow agent before its link is closed.
    pub link_queue: usize,
    /// Cancel it to stop the master.
    pub shutdown: CancellationToken,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 5050,
            cluster: None,
            hostname: None,
            data_dir: PathBuf::from(".tepui/master"),
            insecure: false,
            authentication: Authentication::default(),
            core: CoreConfig::default(),
            request_patience: Duration::from_secs(60),
            max_connections: 10_000,
            set_verbosity: None,
            max_call_bytes: 16 << 20,
            max_artifact_bytes: None,
            artifact_files: Vec::new(),
            fetch: tepui_fetch::Settings::default(),
            stream_queue: 64 << 10,
            max_operator_event_stream_subscribers: 1000,
            link_queue: 64 << 10,
            shutdown: CancellationToken::new(),
        }
    }
}

impl Config {
    pub(crate) fn registry_dir(&self) -> PathBuf {
        self.data_dir.join("registry")
    }

    /// The settings under Mesos's flag names, for tools that show them.
    pub(crate) fn flags(&self) -> Vec<(&'static str, String)> {
        let core = &self.core;
        let mut flags = vec![
            (
                "agent_ping_timeout",
                format_duration(core.agent_ping_timeout),
            ),
            (
                "agent_reregister_timeout",
                format_duration(core.agent_reregister_timeout),
            ),
            (
                "authenticate_agents",
                self.authentication.agents.to_string(),
            ),
            (
                "authenticate_http_frameworks",
                self.authentication.frameworks.to_string(),
            ),
            (
                "authenticate_http_readonly",
                self.authentication.readonly.to_string(),
            ),
            (
                "authenticate_http_readwrite",
                self.authentication.readwrite.to_string(),
            ),
            ("insecure", self.insecure.to_string()),
            ("ip", self.ip.to_string()),
            (
                "max_agent_ping_timeouts",
                core.max_agent_ping_timeouts.to_string(),
            ),
            (
                "max_completed_frameworks",
                core.max_completed_frameworks.to_string(),
            ),
            (
                "max_completed_tasks_per_framework",
                core.max_completed_tasks_per_framework.to_string(),
            ),
            (
                "max_operator_event_stream_subscribers",
                self.max_operator_event_stream_subscribers.to_string(),
            ),
            (
                "max_unreachable_tasks_per_framework",
                core.max_unreachable_tasks_per_framework.to_string(),
            ),
            ("port", core.port.to_string()),
            (
                "recovery_agent_removal_limit",
                format!("{}%", core.recovery_agent_removal_limit * 100.0),
            ),
            ("registry", "sled".to_owned()),
            (
                "registry_gc_interval",
                format_duration(core.registry_gc_interval),
            ),
            (
                "registry_max_agent_age",
                format_duration(core.registry_max_agent_age),
            ),
            (
                "registry_max_agent_count",
                core.registry_max_agent_count.to_string(),
            ),
            (
                "max_job_stores_size",
                format!("{}B", core.store_limits.bytes),
            ),
            ("root_submissions", core.root_submissions.to_string()),
            (
                "scheduler_heartbeat_interval",
                format_duration(core.heartbeat_interval),
            ),
            ("work_dir", self.data_dir.display().to_string()),
        ];
        flags.extend(allocation_flags(core));
        let stall = format_duration(self.fetch.patience.stall);
        flags.push(("fetcher_stall_timeout", stall));
        flags.extend(self.fetch.flags());
        if let Some(limit) = self.max_artifact_bytes {
            flags.push(("max_artifact_size", format!("{limit}B")));
        }
        if !self.artifact_files.is_empty() {
            let directories = self
                .artifact_files
                .iter()
                .map(|one| one.display().to_string());
            flags.push(("artifact_files", directories.collect::<Vec<_>>().join(",")));
        }
        if let Some(cluster) = &self.cluster {
            flags.push(("cluster", cluster.clone()));
        }
        if let Some(hostname) = &self.hostname {
            flags.push(("hostname", hostname.clone()));
        }
        if let Some(limit) = core.agent_removal_rate_limit {
            flags.push(("agent_removal_rate_limit", limit.to_string()));
        }
        if let Some(limits) = rate_limits::show(&core.call_limits) {
            flags.push(("rate_limits", limits));
        }
        if let Some(timeout) = core.offer_timeout {
            flags.push(("offer_timeout", format_duration(timeout)));
        }
        if let Some(roles) = &core.roles {
            flags.push(("roles", roles.iter().cloned().collect::<Vec<_>>().join(",")));
        }
        flags.sort();
        flags
    }
}

/// Those that say who is offered what.
fn allocation_flags(core: &CoreConfig) -> Vec<(&'static str, String)> {
    let allocator = &core.allocator;
    let sets = allocator.min_allocatable.iter().map(|set| {
        let amounts = set.iter().map(|(name, amount)| format!("{name}:{amount}"));
        amounts.collect::<Vec<_>>().join(";")
    });
    let mut flags = vec![
        (
            "allocation_interval",
            format_duration(core.allocation_interval),
        ),
        ("allocator", "HierarchicalDRF".to_owned()),
        ("filter_gpu_resources", allocator.filter_gpus.to_string()),
        ("framework_sorter", "drf".to_owned()),
        (
            "min_allocatable_resources",
            sets.collect::<Vec<_>>().join("|"),
        ),
        (
            "require_agent_domain",
            core.require_agent_domain.to_string(),
        ),
        ("role_sorter", "drf".to_owned()),
    ];
    if let Some(timeout) = core.contended_offer_timeout {
        flags.push(("contended_offer_timeout", format_duration(timeout)));
    }
    if let Some(cap) = allocator.offer_cap {
        flags.push(("offer_cap", cap.to_string()));
    }
    if let Some(domain) = &core.domain {
        flags.push(("domain", tepui_api::json::to_string(domain)));
    }
    if !core.weights.is_empty() {
        let weights = core.weights.iter();
        let weights = weights.map(|(role, weight)| format!("{role}={weight}"));
        flags.push(("weights", weights.collect::<Vec<_>>().join(",")));
    }
    flags
}
