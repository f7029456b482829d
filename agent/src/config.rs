//! What an operator may set about an agent.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use tepui_access::Credential;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port` or `http://host:port`; several, separated by commas, are tried in turn.
    pub master: String,
    /// What it shows a master that asks who it is.
    pub credential: Option<Credential>,
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
    /// `rack:abc;level:10;...`
    pub attributes: String,
    /// The binary with the subcommands `executor-wasm`, `executor-native` and `compile`; this process's own if unset.
    pub program: Option<PathBuf>,
    /// What the fetch cache and the compiled modules may take up, each.
    pub cache_bytes: u64,
    /// A transfer of which nothing arrives for so long is given up.
    pub fetch_stall_timeout: Duration,
    pub max_module_bytes: u64,
    /// How many modules are compiled at once.
    pub compile_workers: usize,
    pub compile_timeout: Duration,
    /// Writable memory of one compiler process.
    pub compile_memory_bytes: u64,
    /// Whether cgroups are used where they can be; without them processes are only grouped.
    pub cgroups: bool,
    /// What an executor may use of memory beyond what its tasks were given.
    pub executor_overhead_bytes: u64,
    pub executor_registration_timeout: Duration,
    pub executor_reregistration_timeout: Duration,
    pub executor_shutdown_grace_period: Duration,
    /// Whether tasks of checkpointing frameworks go on when the agent is asked to stop, for the agent that is started
    /// next. When it crashes they always do.
    pub keep_tasks_at_stop: bool,
    /// How long executors of checkpointing frameworks wait for their agent to come back.
    pub recovery_timeout: Duration,
    /// How long a built-in executor stays without a task.
    pub executor_idle: Duration,
    /// How long the sandbox of an ended task is kept.
    pub gc_delay: Duration,
    /// The pause before dialling the master again grows from the first to the second.
    pub link_backoff_minimum: Duration,
    pub link_backoff_maximum: Duration,
    /// Cancelled to stop the agent.
    pub cancel: CancellationToken,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            master: "127.0.0.1:5050".to_owned(),
            credential: None,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 5051,
            hostname: None,
            work_dir: PathBuf::from(".tepui/agent"),
            resources: String::new(),
            attributes: String::new(),
            program: None,
            cache_bytes: 2 << 30,
            fetch_stall_timeout: Duration::from_secs(60),
            max_module_bytes: 256 << 20,
            compile_workers: 1,
            compile_timeout: Duration::from_secs(5 * 60),
            compile_memory_bytes: 4 << 30,
            cgroups: true,
            executor_overhead_bytes: 64 << 20,
            executor_registration_timeout: Duration::from_secs(60),
            executor_reregistration_timeout: Duration::from_secs(2),
            executor_shutdown_grace_period: Duration::from_secs(5),
            keep_tasks_at_stop: false,
            recovery_timeout: Duration::from_secs(15 * 60),
            executor_idle: Duration::from_secs(5 * 60),
            gc_delay: Duration::from_secs(7 * 24 * 3600),
            link_backoff_minimum: Duration::from_millis(100),
            link_backoff_maximum: Duration::from_secs(10),
            cancel: CancellationToken::new(),
        }
    }
}
