//! The processes a cluster is made of, as subcommands.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tepui_access::Credential;
use tokio_util::sync::CancellationToken;

use crate::access::{MasterAccess, credential};

fn duration(text: &str) -> Result<Duration, String> {
    tepui_model::parse_duration(text).map_err(|error| error.to_string())
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
    /// Silence after which an agent has missed a ping
    #[arg(long, default_value = "15secs", value_parser = duration)]
    agent_ping_timeout: Duration,
    /// Missed pings after which an agent is unreachable
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    max_agent_ping_timeouts: u32,
    /// Time a disconnected agent has to come back
    #[arg(long, default_value = "10mins", value_parser = duration)]
    agent_reregister_timeout: Duration,
    /// Time after which an unanswered offer is rescinded
    #[arg(long, default_value = "2mins", value_parser = duration)]
    offer_timeout: Duration,
}

impl Master {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        serve(async move |stop| {
            let mut config = tepui_master::Config {
                ip: self.ip,
                port: self.port,
                ..Default::default()
            };
            config.hostname = self.hostname;
            config.data_dir = self.work_dir;
            config.insecure = self.insecure;
            self.access.apply(&mut config)?;
            config.core.agent_ping_timeout = self.agent_ping_timeout;
            config.core.max_agent_ping_timeouts = self.max_agent_ping_timeouts;
            config.core.agent_reregister_timeout = self.agent_reregister_timeout;
            config.core.offer_timeout = Some(self.offer_timeout);
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
    /// Name this host is known by
    #[arg(long)]
    hostname: Option<String>,
    /// Where sandboxes, the cache and the agent's id are kept
    #[arg(long, default_value = "tepui-agent")]
    work_dir: PathBuf,
    /// What this agent offers: `cpus:4;mem:8192;ports:[31000-32000]`; what is not named is detected
    #[arg(long, default_value = "", value_parser = resources)]
    resources: String,
    /// What it says about itself: `rack:r1;level:10`
    #[arg(long, default_value = "", value_parser = attributes)]
    attributes: String,
    /// Bound of the cache of fetched files
    #[arg(long, default_value = "2GB", value_parser = size)]
    fetcher_cache_size: u64,
    /// At SIGTERM leave the tasks of checkpointing frameworks to the agent that is started next, for an upgrade
    #[arg(long)]
    keep_tasks: bool,
}

/// Checked here, so that a mistake is told before anything is made.
fn resources(text: &str) -> Result<String, String> {
    match tepui_model::parse_resources(text, &tepui_model::Role::star()) {
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

fn size(text: &str) -> Result<u64, String> {
    tepui_model::parse_size(text).map_err(|error| error.to_string())
}

impl Agent {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        serve(async move |stop| {
            let mut config = tepui_agent::Config {
                master: self.master,
                ip: self.ip,
                port: self.port,
                ..Default::default()
            };
            config.credential = self.credential;
            config.hostname = self.hostname;
            config.work_dir = self.work_dir;
            config.resources = self.resources;
            config.attributes = self.attributes;
            config.cache_bytes = self.fetcher_cache_size;
            config.keep_tasks_at_stop = self.keep_tasks;
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
    /// The exported function that will be called
    #[arg(long)]
    entrypoint: Option<String>,
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
                serde_json::json!({ "plain": key(false), "metered": key(true) })
            );
            return Ok(ExitCode::SUCCESS);
        }
        let input = self.input.context("--input names the module")?;
        let output = self.output.context("--output names the compiled file")?;
        match tepui_executor_wasm::compile(&input, &output, self.metered) {
            Ok(()) => Ok(ExitCode::SUCCESS),
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
    log_to_stderr();
    tepui_executor_wasm::run().map(|()| ExitCode::SUCCESS)
}

pub(crate) fn executor_native() -> anyhow::Result<ExitCode> {
    log_to_stderr();
    tepui_executor_native::run().map(|()| ExitCode::SUCCESS)
}

pub(crate) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TEPUI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call (the executors share this) changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

/// Runs a server until it ends by itself or SIGINT or SIGTERM asks it to.
fn serve(
    server: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
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
    Ok(ExitCode::SUCCESS)
}
