//! What an operator may set about an agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tepui_access::{Acls, Credential, Credentials};
pub use tepui_agent_core::{Reconfiguration, Recover};
use tepui_model::HostRule;
use tokio_util::sync::CancellationToken;

use crate::datasets::DeclaredDataset;

use crate::tenants::UserRange;

/// Who has to prove who they are to the agent's own endpoint, and with what. Nobody by default.
#[derive(Debug, Clone, Default)]
pub struct Authentication {
    pub credentials: Credentials,
    /// Whoever reads the state, the figures and the sandboxes.
    pub readonly: bool,
    /// Operators, who may start containers.
    pub readwrite: bool,
}

#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port` or `http://host:port`; several, separated by commas, are tried in turn.
    pub master: String,
    /// What it shows a master that asks who it is.
    pub credential: Option<Credential>,
    pub authentication: Authentication,
    /// What those may do who call the agent itself.
    pub acls: Arc<Acls>,
    /// Where the executor API listens; the loopback by default.
    pub ip: IpAddr,
    /// 0 for any free port.
    pub port: u16,
    /// What others call this machine; found out if unset.
    pub hostname: Option<String>,
    /// Everything the agent keeps: sandboxes, caches, checkpoints, the executors' socket.
    pub work_dir: PathBuf,
    /// `cpus:4;mem:8192;...`; what is missing of cpus, mem, disk and ports is found out.
    pub resources: String,
    /// The role of resources that name none.
    pub default_role: String,
    /// `rack:abc;level:10;...`
    pub attributes: String,
    /// What becomes of the executors an earlier agent process left.
    pub recover: Recover,
    /// Whether a record that cannot be read keeps the agent from starting.
    pub strict: bool,
    /// What may differ from when the agent registered.
    pub reconfiguration: Reconfiguration,
    /// Directories and files of this machine that tasks may read.
    pub datasets: Vec<DeclaredDataset>,
    /// Its region and zone, if it says.
    pub domain: Option<tepui_api::v1::DomainInfo>,
    /// The binary with the subcommands `executor-wasm`, `executor-native` and `compile`; this process's own if unset.
    pub program: Option<PathBuf>,
    /// What the fetch cache and the compiled modules may take up, each.
    pub cache_bytes: u64,
    /// What holds for transfers, and for sources that need to be told something.
    pub fetch: tepui_fetch::Settings,
    /// Where URIs that are relative paths begin.
    pub frameworks_home: Option<PathBuf>,
    pub max_module_bytes: u64,
    /// How many modules are compiled at once.
    pub compile_workers: usize,
    pub compile_timeout: Duration,
    /// A module with more is first compiled quickly, and well later; needs a second worker.
    pub compile_quick_above_bytes: u64,
    /// Writable memory of one compiler process.
    pub compile_memory_bytes: u64,
    /// Whether cgroups are used where they can be; without them processes are only grouped.
    pub cgroups: bool,
    /// What an executor may use of memory beyond what its tasks were given.
    pub executor_overhead_bytes: u64,
    pub executor_registration_timeout: Duration,
    pub executor_reregistration_timeout: Duration,
    pub executor_shutdown_grace_period: Duration,
    /// Executors hear something at least this often.
    pub executor_heartbeat: Duration,
    /// What every executor gets besides, unless its own command says otherwise.
    pub executor_environment_variables: BTreeMap<String, String>,
    /// Whether tasks of checkpointing frameworks go on when the agent is asked to stop, for the agent that is started
    /// next. When it crashes they always do.
    pub keep_tasks_at_stop: bool,
    /// How long executors of checkpointing frameworks wait for their agent to come back.
    pub recovery_timeout: Duration,
    /// How long a built-in executor stays without a task.
    pub executor_idle: Duration,
    /// The first wait for an acknowledgement before a status update is sent again; doubles up to the second.
    pub update_retry_minimum: Duration,
    pub update_retry_maximum: Duration,
    /// How long the sandbox of an ended task is kept at most.
    pub gc_delay: Duration,
    /// The part of the disk sandboxes should leave free: the fuller it is, the earlier they go.
    pub gc_disk_headroom: f64,
    /// How many sandboxes of ended tasks are kept at most.
    pub gc_max_sandboxes: usize,
    /// How often it is looked whether a sandbox is to go.
    pub disk_watch_interval: Duration,
    /// Whether a task that has more on disk than it was given is ended.
    pub enforce_container_disk_quota: bool,
    /// How often what tasks have on disk is measured, if that is enforced.
    pub container_disk_watch_interval: Duration,
    /// Directories of the host that wasm tasks may have opened, with what is below them.
    pub allow_host_directories: Vec<PathBuf>,
    /// Hosts that wasm tasks may reach.
    pub allow_hosts: Vec<HostRule>,
    /// Whether a native task that listens on a port it was not given is ended.
    pub enforce_container_ports: bool,
    /// How often it is looked who listens where, if that is enforced.
    pub container_ports_watch_interval: Duration,
    /// Whether tasks and executors run as the user of their command or framework, where the agent is root.
    pub switch_user: bool,
    /// The users wasm executors run as, one for each role; None leaves them the agent's.
    pub executor_uids: Option<UserRange>,
    /// The pause before dialling the master again is any up to this, doubled each time it is in vain.
    pub registration_backoff_factor: Duration,
    /// Whether containers may be started by whoever reaches the agent, also from other machines and without credentials.
    pub insecure: bool,
    /// How the process's log is made to say more or less; without it SET_LOGGING_LEVEL is refused.
    pub set_verbosity: Option<fn(u32)>,
    /// Cancelled to stop the agent.
    pub cancel: CancellationToken,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            master: "127.0.0.1:5050".to_owned(),
            credential: None,
            authentication: Authentication::default(),
            acls: Arc::default(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 5051,
            hostname: None,
            work_dir: PathBuf::from(".tepui/agent"),
            resources: String::new(),
            default_role: "*".to_owned(),
            attributes: String::new(),
            recover: Recover::Reconnect,
            strict: true,
            reconfiguration: Reconfiguration::Equal,
            datasets: Vec::new(),
            domain: None,
            program: None,
            cache_bytes: 2 << 30,
            fetch: tepui_fetch::Settings::default(),
            frameworks_home: None,
            max_module_bytes: 256 << 20,
            compile_workers: 2,
            compile_quick_above_bytes: 1 << 20,
            compile_timeout: Duration::from_secs(5 * 60),
            compile_memory_bytes: 4 << 30,
            cgroups: true,
            executor_overhead_bytes: 64 << 20,
            executor_registration_timeout: Duration::from_secs(60),
            executor_reregistration_timeout: Duration::from_secs(2),
            executor_shutdown_grace_period: Duration::from_secs(5),
            executor_heartbeat: Duration::from_secs(30 * 60),
            executor_environment_variables: BTreeMap::new(),
            keep_tasks_at_stop: false,
            recovery_timeout: Duration::from_secs(15 * 60),
            executor_idle: Duration::from_secs(5 * 60),
            update_retry_minimum: Duration::from_secs(10),
            update_retry_maximum: Duration::from_secs(10 * 60),
            gc_delay: Duration::from_secs(7 * 24 * 3600),
            gc_disk_headroom: 0.1,
            gc_max_sandboxes: 100_000,
            disk_watch_interval: Duration::from_secs(60),
            enforce_container_disk_quota: false,
            container_disk_watch_interval: Duration::from_secs(15),
            allow_host_directories: Vec::new(),
            allow_hosts: Vec::new(),
            enforce_container_ports: false,
            container_ports_watch_interval: Duration::from_secs(30),
            switch_user: true,
            executor_uids: Some(UserRange::default()),
            registration_backoff_factor: Duration::from_secs(1),
            insecure: false,
            set_verbosity: None,
            cancel: CancellationToken::new(),
        }
    }
}
