//! Starting and stopping a master: the registry, the core's task, the port.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tepui_access::ArtifactKey;
use tepui_fetch::{BuildError, Fetch};
use tepui_master_core::{Core, RecoverError};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::MESOS_API_LEVEL;
use crate::artifacts::{self, Artifacts};
use crate::config::Config;
use crate::connections::{self, Bounds};
use crate::files::Links;
use crate::http;
use crate::log::{self, Verbosity};
use crate::owner::{self, Owner, OwnerError};
use crate::shared::{Gauges, Identity, Shared, wall_ns};
use crate::store::{Registry, SledRegistry, StoreError, Writer};

const INBOX: usize = 8192;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "refusing to listen on {address}: other machines reach it, and this master does not ask everybody for credentials; \
         listen on 127.0.0.1, or turn on all of --authenticate_http_readonly, --authenticate_http_readwrite, \
         --authenticate_http_frameworks and --authenticate_agents, or set `insecure` (--insecure) if the network keeps \
         strangers out"
    )]
    Insecure { address: SocketAddr },
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot make the data directory {path}: {source}")]
    DataDirectory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error("{0}")]
    Artifacts(String),
    #[error(transparent)]
    Fetch(#[from] BuildError),
    #[error("cannot start the registry's thread: {0}")]
    Thread(io::Error),
}

/// A master at work. Dropping it lets the master go on until its configuration's token is cancelled.
pub struct Running {
    /// What it listens on; with port 0 in the configuration, the one that was free.
    pub address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), OwnerError>>,
}

impl Running {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the master and waits until its registry is closed.
    pub async fn stop(self) -> Result<(), OwnerError> {
        self.shutdown.cancel();
        self.wait().await
    }

    /// Until it is stopped or cannot go on.
    pub async fn wait(self) -> Result<(), OwnerError> {
        match self.task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Ok(()),
            },
        }
    }
}

/// Runs a master until its configuration's token is cancelled.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let running = start(config).await?;
    running.wait().await?;
    Ok(())
}

/// What an operator must be told whose master others can reach and which does not ask all of them who they are.
fn open_to_others(config: &Config) -> Option<String> {
    let asks = &config.authentication;
    if config.ip.is_loopback() || asks.is_complete() {
        return None;
    }
    let flags = [
        (asks.frameworks, "--authenticate_http_frameworks"),
        (asks.readonly, "--authenticate_http_readonly"),
        (asks.readwrite, "--authenticate_http_readwrite"),
        (asks.agents, "--authenticate_agents"),
    ];
    let missing: Vec<&str> = flags
        .iter()
        .filter(|(asked, _)| !asked)
        .map(|(_, flag)| *flag)
        .collect();
    let risk = if !asks.frameworks || !asks.readwrite {
        "run tasks on every agent"
    } else if !asks.agents {
        "join as an agent and be given tasks"
    } else {
        "read all of its state"
    };
    Some(format!(
        "THIS MASTER IS OPEN: it listens on {} and does not ask everybody for credentials, which --insecure allows; who \
         reaches it can {risk}. Start it with --credentials and {}.",
        config.ip,
        missing.join(", ")
    ))
}

pub async fn start(config: Config) -> Result<Running, StartError> {
    let wanted = SocketAddr::new(config.ip, config.port);
    if !config.ip.is_loopback() && !config.insecure && !config.authentication.is_complete() {
        return Err(StartError::Insecure { address: wanted });
    }
    log::keep();
    if let Some(warning) = open_to_others(&config) {
        tracing::warn!("{warning}");
    }
    let opened = open(config.data_dir.clone(), config.registry_dir()).await?;
    let listening = |source| StartError::Listen {
        address: wanted,
        source,
    };
    let listener = TcpListener::bind(wanted).await.map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;

    let began = Instant::now();
    let identity = identify(&config, address, began);
    let mut config = config;
    config.core.hostname.clone_from(&identity.hostname);
    config.core.ip.clone_from(&identity.ip);
    config.core.port = identity.port;
    // What clients look at when they ask what a master can do.
    MESOS_API_LEVEL.clone_into(&mut config.core.version);
    config.core.master_id = uuid::Uuid::new_v4().to_string();

    let (own, rest): (Vec<_>, Vec<_>) = opened
        .records
        .into_iter()
        .partition(|(key, _)| key.starts_with(artifacts::KEY_PREFIX));
    let core = Core::new(config.core.clone(), &rest, owner::now(began))?;
    let (writer, writer_thread) = Writer::start(opened.registry).map_err(StartError::Thread)?;
    let artifacts = Artifacts::open(config.data_dir.join("artifacts"), writer.clone(), &own)
        .map_err(|error| StartError::Artifacts(error.to_string()))?;

    // Somebody else in this process may have installed a provider already; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let fetch = Fetch::new(config.fetch.clone())?;

    let shutdown = config.shutdown.child_token();
    let (inbox, messages) = mpsc::channel(INBOX);
    let (closed_streams, closed) = mpsc::unbounded_channel();
    let gauges = Arc::new(Gauges::default());
    let owner = Owner::new(
        core,
        began,
        owner::Limits {
            stream_queue: config.stream_queue.max(1),
            operator_streams: config.max_operator_event_stream_subscribers.max(1),
        },
        Arc::clone(&gauges),
        writer.clone(),
        inbox.downgrade(),
    );
    let shared = Arc::new(Shared {
        inbox,
        closed_streams,
        links: Arc::new(Links::default()),
        artifacts: Arc::new(artifacts),
        artifact_key: artifact_key(),
        fetch,
        adding: Semaphore::new(artifacts::add::MOST_AT_A_TIME),
        identity,
        gauges,
        writer: writer.clone(),
        verbosity: Arc::new(Verbosity::new(config.set_verbosity)),
        registry_loaded_in: opened.took,
        config,
        shutdown: shutdown.clone(),
    });
    let router = http::router(Arc::clone(&shared));
    let owner = tokio::spawn(owner.run(messages, closed, shutdown.clone()));
    let bounds = Bounds {
        connections: shared.config.max_connections.max(1),
        patience: shared.config.request_patience,
    };
    let server = tokio::spawn(connections::accept(
        listener,
        router,
        bounds,
        shutdown.clone(),
    ));
    tracing::info!(%address, id = shared.config.core.master_id, "the master listens");
    let task = tokio::spawn(supervise(
        owner,
        server,
        writer,
        writer_thread,
        shutdown.clone(),
    ));
    Ok(Running {
        address,
        shutdown,
        task,
    })
}

/// Another one with each start: tokens do not outlive the master that made them. It comes from the system's generator.
fn artifact_key() -> ArtifactKey {
    let mut key = [0; 32];
    let (first, second) = key.split_at_mut(16);
    first.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    second.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    ArtifactKey::new(key)
}

struct Opened {
    registry: Box<dyn Registry>,
    records: Vec<(String, bytes::Bytes)>,
    took: Duration,
}

async fn open(data_dir: PathBuf, registry: PathBuf) -> Result<Opened, StartError> {
    let path = data_dir.clone();
    let work = move || {
        std::fs::create_dir_all(&path).map_err(|source| StartError::DataDirectory {
            path: path.clone(),
            source,
        })?;
        let began = Instant::now();
        let mut registry = SledRegistry::open(&registry)?;
        let records = registry.load()?;
        Ok(Opened {
            registry: Box::new(registry),
            records,
            took: began.elapsed(),
        })
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StartError::DataDirectory {
            path: data_dir,
            source: io::Error::other(error),
        }),
    }
}

fn identify(config: &Config, address: SocketAddr, began: Instant) -> Identity {
    let machine = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.trim();
        if name.is_empty() {
            "localhost".to_owned()
        } else {
            name.to_owned()
        }
    };
    let everywhere = config.ip.is_unspecified();
    let hostname = config.hostname.clone().unwrap_or_else(|| {
        if everywhere {
            machine()
        } else {
            config.ip.to_string()
        }
    });
    // The wire wants an address even where there are many.
    let ip = match (everywhere, hostname.parse::<IpAddr>()) {
        (true, Ok(ip)) => ip,
        (true, Err(_)) => IpAddr::from([127, 0, 0, 1]),
        (false, _) => config.ip,
    };
    Identity {
        hostname,
        ip: ip.to_string(),
        port: address.port(),
        started: began,
        started_wall_ns: wall_ns(),
    }
}

/// Stops everything when one part stops, in an order in which nothing is promised that is not kept.
async fn supervise(
    owner: JoinHandle<Result<(), OwnerError>>,
    server: JoinHandle<()>,
    writer: Writer,
    writer_thread: thread::JoinHandle<()>,
    shutdown: CancellationToken,
) -> Result<(), OwnerError> {
    let result = owner.await;
    shutdown.cancel();
    let served = server.await;
    writer.stop();
    // Joining waits for the last commit and closes the registry, so that another master can open it.
    let closed = tokio::task::spawn_blocking(move || writer_thread.join()).await;
    if served.is_err() || !matches!(closed, Ok(Ok(()))) {
        tracing::error!("a part of the master ended by a panic");
    }
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_open_to_others_says_which_flags_close_it() {
        let mut config = Config {
            ip: [0, 0, 0, 0].into(),
            ..Config::default()
        };
        config.authentication.readonly = true;
        let said = open_to_others(&config).unwrap();
        assert!(
            said.contains("--authenticate_agents") && !said.contains("readonly"),
            "{said}"
        );
        config.ip = [127, 0, 0, 1].into();
        assert_eq!(open_to_others(&config), None);
    }
}
