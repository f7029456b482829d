//! The processes a cluster is made of, as subcommands.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgAction, Args, ValueEnum};
use tepui_access::Credential;
use tokio_util::sync::CancellationToken;

use crate::access::{AgentAccess, MasterAccess, credential};
use crate::allocation::{self, MasterAllocation};
use crate::logging;
use crate::patience::Patience;
use crate::sources::Sources;

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    tepui_model::parse_duration(text).map_err(|error| error.to_string())
}

/// The words of `tepui master` and `tepui agent` as Mesos spells them, as this program spells them: `--work_dir` is
/// `--work-dir`, and `--no-strict` is `--strict=false`.
pub(crate) fn from_mesos(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let words: Vec<OsString> = words.collect();
    let is_role = words
        .get(1)
        .is_some_and(|role| role == "master" || role == "agent");
    if !is_role {
        return words;
    }
    let spell = |word: OsString| match word.to_str().and_then(|text| text.strip_prefix("--")) {
        Some(flag) => {
            let (name, value) = flag.split_once('=').unzip();
            let name = name.unwrap_or(flag).replace('_', "-");
            match (name.strip_prefix("no-"), value) {
                (Some(denied), None) => format!("--{denied}=false").into(),
                (_, Some(value)) => format!("--{name}={value}").into(),
                (None, None) => format!("--{name}").into(),
            }
        }
        None => word,
    };
    words.into_iter().map(spell).collect()
}

/// Flags of a master, with Mesos's names where Mesos has them.
#[derive(Args, Debug)]
pub(crate) struct Master {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    ip: std::net::IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 5050)]
    port: u16,
    /// Name agents and clients reach this host by
    #[arg(long)]
    hostname: Option<String>,
    /// Where the registry and the artifacts are kept
    #[arg(long, default_value = "tepui-master")]
    work_dir: PathBuf,
    /// Listen beyond loopback without authentication
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    access: MasterAccess,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    allocation: MasterAllocation,
    /// Name of the cluster, shown by tools
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Operators that may listen to events at a time; the oldest gives way to one more
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
    max_operator_event_stream_subscribers: u32,
    /// Time after which an unanswered offer is rescinded
    #[arg(long, default_value = "2mins", value_parser = duration)]
    offer_timeout: Duration,
    #[command(flatten)]
    sources: Sources,
    /// Largest artifact that is kept; any if not given
    #[arg(long, value_parser = size)]
    max_artifact_size: Option<u64>,
    /// What the tasks of all roles may keep in the stores of their jobs, in all
    #[arg(long, default_value = "512MB", value_parser = size)]
    max_job_stores_size: u64,
    /// Directory of this machine from which artifacts may be added by path; may be repeated
    #[arg(long, value_name = "DIRECTORY")]
    artifact_files: Vec<PathBuf>,
}

impl Master {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        serve(MASTER_BLOCKING_THREADS, async move |stop| {
            let mut config = tepui_master::Config {
                ip: self.ip,
                port: self.port,
                ..Default::default()
            };
            config.hostname = self.hostname;
            config.data_dir = self.work_dir;
            config.insecure = self.insecure;
            self.access.apply(&mut config)?;
            self.patience.apply(&mut config.core);
            self.allocation.apply(&mut config);
            // Without a descriptor left a master can write nothing.
            config.max_connections = config.max_connections.min(allow_many_files() / 4).max(1);
            config.cluster = self.cluster;
            config.max_operator_event_stream_subscribers =
                self.max_operator_event_stream_subscribers as usize;
            config.set_verbosity = Some(logging::set_verbosity);
            config.core.offer_timeout = Some(self.offer_timeout);
            config.fetch = self.sources.settings()?;
            config.max_artifact_bytes = self.max_artifact_size;
            config.artifact_files = self.artifact_files;
            config.core.store_limits.bytes = self.max_job_stores_size;
            config.shutdown = stop;
            let running = tepui_master::start(config).await?;
            println!("listening on {}", running.address());
            Ok(running.wait().await?)
        })
    }
}

/// Flags of an agent, with Mesos's names where Mesos has them.
#[derive(Args, Debug)]
pub(crate) struct Agent {
    /// The master, HOST:PORT
    #[arg(long, env = "TEPUI_MASTER", default_value = "127.0.0.1:5050")]
    master: String,
    /// What the agent shows a master that asks: PRINCIPAL:SECRET, or a file with a credential
    #[arg(long, env = "TEPUI_CREDENTIAL", hide_env_values = true, value_parser = credential)]
    credential: Option<Credential>,
    /// Address of the agent's own endpoint
    #[arg(long, default_value = "127.0.0.1")]
    ip: std::net::IpAddr,
    /// Port of the agent's own endpoint; 0 takes a free one
    #[arg(long, default_value_t = 5051)]
    port: u16,
    /// Serve calls on containers beyond loopback, without authentication
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    access: AgentAccess,
    /// Name this host is known by
    #[arg(long)]
    hostname: Option<String>,
    /// Where sandboxes, the cache and the agent's id are kept
    #[arg(long, default_value = "tepui-agent")]
    work_dir: PathBuf,
    /// What this agent offers: `cpus:4;mem:8192;ports:[31000-32000]`; what is not named is detected
    #[arg(long, default_value = "", value_parser = resources)]
    resources: String,
    /// Role of the resources that name none, detected ones too
    #[arg(long, default_value = "*")]
    default_role: String,
    /// What it says about itself: `rack:r1;level:10`
    #[arg(long, default_value = "", value_parser = attributes)]
    attributes: String,
    /// A directory or file of this machine that tasks may read, and maybe the only roles whose tasks; may be repeated
    #[arg(long, value_name = "NAME=/PATH[:ROLE,ROLE]")]
    dataset: Vec<tepui_agent::DeclaredDataset>,
    /// Where it is, as JSON of a DomainInfo
    #[arg(long, value_name = "JSON", value_parser = allocation::domain)]
    domain: Option<tepui_api::v1::DomainInfo>,
    /// Bound of the cache of fetched files
    #[arg(long, default_value = "2GB", value_parser = size)]
    fetcher_cache_size: u64,
    #[command(flatten)]
    sources: Sources,
    /// Where URIs that are relative paths begin
    #[arg(long)]
    frameworks_home: Option<PathBuf>,
    /// What becomes of the executors an earlier agent left: they may come back, or they are ended and so is this agent
    #[arg(long, default_value = "reconnect")]
    recover: Recover,
    /// Refuse to start on checkpoints that cannot all be read
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    strict: bool,
    /// What may differ from when this agent registered: nothing, or only that there is more
    #[arg(long, default_value = "equal")]
    reconfiguration_policy: ReconfigurationPolicy,
    /// Time a new executor has to subscribe
    #[arg(long, default_value = "1mins", value_parser = duration)]
    executor_registration_timeout: Duration,
    /// Time executors have to come back after the agent restarted; at most 15secs
    #[arg(long, default_value = "2secs", value_parser = duration)]
    executor_reregistration_timeout: Duration,
    /// Time an executor has to end after it was told to
    #[arg(long, default_value = "5secs", value_parser = duration)]
    executor_shutdown_grace_period: Duration,
    /// Executors hear something at least this often
    #[arg(long, default_value = "30mins", value_parser = duration)]
    executor_heartbeat_interval: Duration,
    /// Variables every executor gets, a JSON object of strings or `file://` and the path of one
    #[arg(long, value_parser = variables)]
    executor_environment_variables: Option<BTreeMap<String, String>>,
    /// Time a built-in executor stays without a task
    #[arg(long, default_value = "5mins", value_parser = duration)]
    executor_idle_timeout: Duration,
    /// Time executors of checkpointing frameworks wait for their agent to come back
    #[arg(long, default_value = "15mins", value_parser = duration)]
    recovery_timeout: Duration,
    /// First wait for an acknowledgement before a status update is sent again; it doubles
    #[arg(long, default_value = "10secs", value_parser = duration)]
    status_update_retry_interval_min: Duration,
    /// What it doubles up to
    #[arg(long, default_value = "10mins", value_parser = duration)]
    status_update_retry_interval_max: Duration,
    /// Longest time the sandbox of an ended task is kept
    #[arg(long, default_value = "1weeks", value_parser = duration)]
    gc_delay: Duration,
    /// Part of the disk that should stay free: the fuller it is, the earlier sandboxes go
    #[arg(long, default_value_t = 0.1)]
    gc_disk_headroom: f64,
    /// How many sandboxes of ended tasks are kept at most; of more the oldest go
    #[arg(long, default_value_t = 100_000)]
    gc_max_sandboxes: usize,
    /// How often it is looked whether a sandbox is to go
    #[arg(long, default_value = "1mins", value_parser = duration)]
    disk_watch_interval: Duration,
    /// End tasks that have more on disk than they were given
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    enforce_container_disk_quota: bool,
    /// How often that is measured
    #[arg(long, default_value = "15secs", value_parser = duration)]
    container_disk_watch_interval: Duration,
    /// Directories of this machine that wasm tasks may have opened (--mount), with all below them; separated by commas
    #[arg(long, value_delimiter = ',')]
    allow_host_directories: Vec<PathBuf>,
    /// Hosts that wasm tasks may reach (--allow-net): names, *.domains, addresses, networks, *, each with :PORT or
    /// without; separated by commas
    #[arg(long, value_delimiter = ',', value_parser = host_rule)]
    allow_hosts: Vec<tepui_model::HostRule>,
    /// End native tasks that listen on ports they were not given
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    enforce_container_ports: bool,
    /// How often it is looked who listens where
    #[arg(long, default_value = "30secs", value_parser = duration)]
    container_ports_watch_interval: Duration,
    /// Run tasks and executors as the user of their command or framework, if this agent is root
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    switch_user: bool,
    /// Modules compiled at a time; one framework never has all of several
    #[arg(long, default_value_t = 2)]
    compile_workers: usize,
    /// Time compiling one module may take
    #[arg(long, default_value = "5mins", value_parser = duration)]
    compile_timeout: Duration,
    /// Size above which a module is first compiled quickly, to run at once, and well only later
    #[arg(long, default_value = "1MB", value_parser = size)]
    compile_quick_above: u64,
    /// Users wasm executors run as, FIRST-LAST, one for each role, if this agent is root; `none` leaves them root
    #[arg(long, default_value_t = ExecutorUsers::default(), value_name = "RANGE")]
    executor_uids: ExecutorUsers,
    /// The binary executors and compilers are started from; this one unless it is being tested
    #[arg(long, hide = true)]
    executor_program: Option<PathBuf>,
    /// Longest pause before the master is tried again for the first time; it doubles
    #[arg(long, default_value = "1secs", value_parser = duration)]
    registration_backoff_factor: Duration,
    /// At SIGTERM leave the tasks of checkpointing frameworks to the agent that is started next, for an upgrade
    #[arg(long)]
    keep_tasks: bool,
}

/// A range of users, or none.
#[derive(Debug, Clone, Copy)]
struct ExecutorUsers(Option<tepui_agent::UserRange>);

impl Default for ExecutorUsers {
    fn default() -> Self {
        Self(Some(tepui_agent::UserRange::default()))
    }
}

impl std::fmt::Display for ExecutorUsers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(range) => range.fmt(formatter),
            None => formatter.write_str("none"),
        }
    }
}

impl std::str::FromStr for ExecutorUsers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            range => range.parse().map(|range| Self(Some(range))),
        }
    }
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Recover {
    Reconnect,
    Cleanup,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum ReconfigurationPolicy {
    Equal,
    Additive,
}

fn variables(text: &str) -> Result<BTreeMap<String, String>, String> {
    let read = text.strip_prefix("file://").map(std::fs::read_to_string);
    let text = match read {
        Some(read) => read.map_err(|error| format!("{text} cannot be read: {error}"))?,
        None => text.to_owned(),
    };
    serde_json::from_str(&text)
        .map_err(|error| format!("expected a JSON object whose values are strings: {error}"))
}

/// Checked here, so that a mistake is told before anything is made.
fn resources(text: &str) -> Result<String, String> {
    match tepui_agent::read_resources(text, &tepui_model::Role::star()) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn attributes(text: &str) -> Result<String, String> {
    match tepui_model::parse_attributes(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn host_rule(text: &str) -> Result<tepui_model::HostRule, String> {
    tepui_model::HostRule::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn size(text: &str) -> Result<u64, String> {
    tepui_model::parse_size(text).map_err(|error| error.to_string())
}

impl Agent {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        serve(AGENT_BLOCKING_THREADS, async move |stop| {
            let mut config = tepui_agent::Config {
                master: self.master,
                ip: self.ip,
                port: self.port,
                ..Default::default()
            };
            config.credential = self.credential;
            self.access.apply(&mut config)?;
            config.hostname = self.hostname;
            config.work_dir = self.work_dir;
            config.resources = self.resources;
            config.attributes = self.attributes;
            config.default_role = self.default_role;
            config.datasets = self.dataset;
            config.domain = self.domain;
            config.cache_bytes = self.fetcher_cache_size;
            config.fetch = self.sources.settings()?;
            config.frameworks_home = self.frameworks_home;
            config.recover = match self.recover {
                Recover::Reconnect => tepui_agent::Recover::Reconnect,
                Recover::Cleanup => tepui_agent::Recover::Cleanup,
            };
            config.strict = self.strict;
            config.reconfiguration = match self.reconfiguration_policy {
                ReconfigurationPolicy::Equal => tepui_agent::Reconfiguration::Equal,
                ReconfigurationPolicy::Additive => tepui_agent::Reconfiguration::Additive,
            };
            config.executor_registration_timeout = self.executor_registration_timeout;
            config.executor_reregistration_timeout = self.executor_reregistration_timeout;
            config.executor_shutdown_grace_period = self.executor_shutdown_grace_period;
            config.executor_environment_variables =
                self.executor_environment_variables.unwrap_or_default();
            config.executor_heartbeat = self.executor_heartbeat_interval;
            config.executor_idle = self.executor_idle_timeout;
            config.recovery_timeout = self.recovery_timeout;
            config.update_retry_minimum = self.status_update_retry_interval_min;
            config.update_retry_maximum = self.status_update_retry_interval_max;
            config.gc_delay = self.gc_delay;
            config.gc_disk_headroom = self.gc_disk_headroom;
            config.gc_max_sandboxes = self.gc_max_sandboxes;
            config.disk_watch_interval = self.disk_watch_interval;
            config.enforce_container_disk_quota = self.enforce_container_disk_quota;
            config.container_disk_watch_interval = self.container_disk_watch_interval;
            config.allow_host_directories = self.allow_host_directories;
            config.allow_hosts = self.allow_hosts;
            config.enforce_container_ports = self.enforce_container_ports;
            config.container_ports_watch_interval = self.container_ports_watch_interval;
            config.switch_user = self.switch_user;
            config.compile_workers = self.compile_workers;
            config.compile_timeout = self.compile_timeout;
            config.compile_quick_above_bytes = self.compile_quick_above;
            config.program = self.executor_program;
            config.executor_uids = self.executor_uids.0;
            config.registration_backoff_factor = self.registration_backoff_factor;
            config.keep_tasks_at_stop = self.keep_tasks;
            config.insecure = self.insecure;
            config.set_verbosity = Some(logging::set_verbosity);
            config.cancel = stop;
            let running = tepui_agent::start(config).await?;
            println!("listening on {}", running.address);
            running.wait().await
        })
    }
}

/// Compiles one module for the cache of an agent.
#[derive(Args, Debug)]
pub(crate) struct Compile {
    #[arg(long, required_unless_present = "print_key")]
    input: Option<PathBuf>,
    #[arg(long, required_unless_present = "print_key")]
    output: Option<PathBuf>,
    /// Count fuel
    #[arg(long)]
    metered: bool,
    /// In a fraction of the time, for code that runs slower
    #[arg(long)]
    quick: bool,
    /// Print what compiled code depends on beside the module, and leave
    #[arg(long)]
    print_key: bool,
}

impl Compile {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.print_key {
            let key = tepui_executor_wasm::compatibility_key;
            println!(
                "{}",
                serde_json::json!({
                    "plain": key(false), "metered": key(true),
                    "quick": tepui_executor_wasm::quick_key(),
                })
            );
            return Ok(ExitCode::SUCCESS);
        }
        // A stranger's bytes are about to be looked at.
        if let Some(plan) = tepui_wall::Plan::from_env()? {
            plan.enter()?;
        }
        let input = self.input.context("--input names the module")?;
        let output = self.output.context("--output names the compiled file")?;
        let compiled = if self.quick {
            tepui_executor_wasm::compile_quickly(&input, &output, self.metered).map(Some)
        } else {
            tepui_executor_wasm::compile(&input, &output, self.metered).map(|()| None)
        };
        match compiled {
            Ok(baseline) => {
                if let Some(baseline) = baseline {
                    let form = if baseline { "baseline" } else { "quick" };
                    println!("{}", serde_json::json!({ "form": form }));
                }
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                println!(
                    "{}",
                    serde_json::json!({ "error": error.kind(), "message": error.to_string() })
                );
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

pub(crate) fn executor_wasm() -> anyhow::Result<ExitCode> {
    logging::start();
    tepui_executor_wasm::run().map(|()| ExitCode::SUCCESS)
}

/// Shuts itself in as the environment says and prints what stands: how an agent finds out what works on its machine.
pub(crate) fn wall() -> anyhow::Result<ExitCode> {
    let plan = tepui_wall::Plan::from_env()?.context("there is no plan in the environment")?;
    println!("{}", serde_json::to_string(&plan.enter()?)?);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn executor_native() -> anyhow::Result<ExitCode> {
    logging::start();
    tepui_executor_native::run().map(|()| ExitCode::SUCCESS)
}

/// Each connection and each file of a registry takes a descriptor, and most systems grant few unless asked. Returns how many
/// there may be.
fn allow_many_files() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let now = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(now, _)| now);
    usize::try_from(now).unwrap_or(usize::MAX)
}

/// Each upload keeps one for as long as it lasts.
const MASTER_BLOCKING_THREADS: usize = 512;
/// Nothing keeps one for long, but a burst of tasks would have as many as there may be.
const AGENT_BLOCKING_THREADS: usize = 64;

/// Runs a server until it ends by itself or SIGINT or SIGTERM asks it to. What blocks on the disk has that many threads.
fn serve(
    blocking_threads: usize,
    server: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    logging::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(blocking_threads)
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let stop = CancellationToken::new();
        let asked = stop.clone();
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            asked.cancel();
        });
        server(stop).await
    })?;
    // A thread that waits for a disk is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Started {
        #[command(flatten)]
        agent: Agent,
    }

    fn agent(words: &[&str]) -> Result<Agent, clap::Error> {
        let words = ["tepui", "agent"].iter().chain(words);
        let mut words = from_mesos(words.map(OsString::from));
        words.remove(1);
        Started::try_parse_from(words).map(|started| started.agent)
    }

    #[test]
    fn flags_are_taken_as_mesos_spells_them() {
        let words = [
            "--work_dir=/a_b",
            "--gc_delay",
            "3days",
            "--no-strict",
            "--recover=cleanup",
            "--executor_environment_variables={\"A_B\":\"x\"}",
        ];
        let agent = agent(&words).unwrap();
        assert_eq!(agent.work_dir, PathBuf::from("/a_b"));
        assert_eq!(agent.gc_delay, Duration::from_secs(3 * 24 * 3600));
        assert!(!agent.strict && matches!(agent.recover, Recover::Cleanup));
        let variables = agent.executor_environment_variables.unwrap();
        assert_eq!(variables["A_B"], "x");
    }

    #[test]
    fn a_wrong_value_is_named_before_anything_is_made() {
        for (word, expected) in [
            (
                "--reconfiguration_policy=any",
                "possible values: equal, additive",
            ),
            ("--executor_environment_variables=[1]", "JSON object"),
            ("--gc_delay=soon", "gc-delay"),
        ] {
            let error = agent(&[word]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(agent(&["--strict", "--strict=true"]).is_err());
        assert!(agent(&["--strict"]).unwrap().strict);
    }

    #[test]
    fn other_commands_keep_their_words() {
        let words = ["tepui", "run", "--a_b", "--no-c"].map(OsString::from);
        assert_eq!(from_mesos(words.clone().into_iter()), words);
    }
}
