//! Puts an agent together, runs it, and takes it apart again in order.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tepui_agent_core::{Core, DATASET_ATTRIBUTES, Input};
use tepui_api::v1;
use tepui_fetch::Fetch;
use tepui_model::Role;
use tepui_wall::Grant;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::artifacts::Peers;
use crate::checkpoint;
use crate::compile::{CompileLimits, Compiler, compiled_directory};
use crate::config::Config;
use crate::containers::Containers;
use crate::containment::Layout;
use crate::datasets::Datasets;
use crate::detect;
use crate::disk;
use crate::environment::Surroundings;
use crate::executors::{Executors, MEGABYTE, Settings};
use crate::fetcher::Fetcher;
use crate::files::FilesContext;
use crate::gc::{self, Garbage};
use crate::guest::Guests;
use crate::holders::Holders;
use crate::holdings;
use crate::link::{Authority, LinkSettings, keep_linked};
use crate::owner::{Event, Owner, Parts, Stop, live_sandboxes, now};
use crate::persistent::Volumes;
use crate::ports;
use crate::prepare::Preparer;
use crate::questions::Questions;
use crate::reach::Reach;
use crate::serve::{self, serve};
use crate::site::{About, Site, executor_router, router};
use crate::store::Store;
use crate::verbosity::Verbosity;
use crate::wall::{self, Wall};
use crate::watch::Watcher;

/// Events that may wait for the owner before those who send them have to.
const INBOX: usize = 65_536;
/// The longest path a unix socket can be bound to, less the final zero.
const LONGEST_SOCKET_PATH: usize = 107;
const SOCKET: &str = "agent.sock";
/// Where executors that are shut in find the agent.
const EXECUTOR_API: &str = "api";
const EXECUTOR_SOCKET: &str = "executor.sock";

/// An agent that runs.
#[derive(Debug)]
pub struct Running {
    /// Where the executor API listens.
    pub address: SocketAddr,
    /// The same on a unix socket.
    pub socket: PathBuf,
    finished: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Until the agent has stopped; an error if it was not asked to.
    pub async fn wait(self) -> anyhow::Result<()> {
        self.finished.await?
    }
}

/// What an operator must be told whose agent others can reach and which does not ask them who they are.
fn open_to_others(config: &Config) -> Option<String> {
    let asks = &config.authentication;
    if config.ip.is_loopback() || asks.readonly && asks.readwrite {
        return None;
    }
    let (open, flags) = match (asks.readonly, asks.readwrite) {
        (false, false) => (
            "read its state and the sandboxes of all tasks, and make operator calls",
            "--authenticate_http_readonly and --authenticate_http_readwrite",
        ),
        (false, true) => (
            "read its state and the sandboxes of all tasks",
            "--authenticate_http_readonly",
        ),
        (true, _) => ("make operator calls", "--authenticate_http_readwrite"),
    };
    let containers = if config.insecure && !asks.readwrite {
        " With --insecure anybody can also run commands here, as any user."
    } else {
        ""
    };
    Some(format!(
        "THIS AGENT IS OPEN: it listens on {}, and whoever reaches it may {open} without credentials.{containers} \
         Start it with {flags} and --http_credentials, or with --ip 127.0.0.1.",
        config.ip
    ))
}

/// Runs an agent until its token is cancelled.
pub async fn run(config: Config) -> anyhow::Result<()> {
    start(config).await?.wait().await
}

/// Starts an agent; it runs in tasks of the present runtime.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let began = Instant::now();
    config.check()?;
    let masters = Authority::parse_list(&config.master)?;
    let default_role = Role::parse(&config.default_role).context("--default_role")?;
    std::fs::create_dir_all(&config.work_dir).with_context(|| {
        format!(
            "the work directory {} cannot be made",
            config.work_dir.display()
        )
    })?;
    let work_dir = config.work_dir.canonicalize()?;
    let lock = lock(&work_dir)?;
    if let Err(error) = crate::log::keep_in(&work_dir) {
        tracing::warn!(%error, "the log is not kept in the work directory");
    }
    let program = match &config.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("this process does not know its own program")?,
    };
    let layout = if config.cgroups {
        tokio::task::spawn_blocking(Layout::detect).await?
    } else {
        Layout::None
    };
    if layout == Layout::None {
        tracing::warn!(
            "no cgroups: tasks are not kept apart by memory or cpu (attribute tepui_isolation:none)"
        );
    }
    let tcp = TcpListener::bind((config.ip, config.port))
        .await
        .with_context(|| format!("cannot listen on {}:{}", config.ip, config.port))?;
    let address = tcp.local_addr()?;
    let endpoint = reachable(address);
    let (unix, socket) = bind_socket(&work_dir, SOCKET, 0o600)?;
    // In a directory of its own, which stays the same when the socket is made anew: it is what executors are given.
    let api = work_dir.join(EXECUTOR_API);
    std::fs::create_dir_all(&api)?;
    let (executor_unix, executor_socket) = bind_socket(&api, EXECUTOR_SOCKET, 0o666)?;

    let resources = detect::resources_wire(&detect::resources(
        &config.resources,
        &default_role,
        &work_dir,
    )?);
    let memory_bytes = {
        let mem = resources.iter().filter(|resource| resource.name == "mem");
        let mem = mem.filter_map(|resource| resource.scalar.as_ref());
        (mem.map(|scalar| scalar.value).sum::<f64>() * MEGABYTE) as u64
    };
    let datasets = {
        let (work_dir, declared) = (work_dir.clone(), config.datasets.clone());
        tokio::task::spawn_blocking(move || Datasets::open(&work_dir, &declared)).await??
    };
    let reach = Reach::new(&config.allow_host_directories, &config.allow_hosts)?;
    let common = common_grants(&work_dir, &executor_socket, &resources, reach.allowed());
    let wall = {
        let (program, work_dir) = (program.clone(), work_dir.clone());
        let range = config.executor_uids.filter(|_| config.switch_user);
        let datasets = datasets.clone();
        let finding = move || Wall::find(&program, &work_dir, range, common, datasets);
        let found = tokio::task::spawn_blocking(finding).await?;
        found.context("the users of earlier executors cannot be read")?
    };
    if !wall.as_ref().is_some_and(|wall| wall.standing().user) {
        tracing::warn!(
            "wasm executors run as this agent's user: a hole in the wasm runtime would be one in all of what it may do (attribute tepui_wall:{})",
            wall::attribute(wall.as_ref())
        );
    }
    let mut attributes = detect::attributes(
        &config.attributes,
        layout.name(),
        &wall::attribute(wall.as_ref()),
    )?;
    attributes.retain(|one| !one.name.starts_with(DATASET_ATTRIBUTES));
    attributes.extend(datasets.attributes());
    let info = v1::AgentInfo {
        hostname: config.hostname.clone().unwrap_or_else(detect::hostname),
        resources,
        attributes,
        port: Some(i32::from(address.port())),
        domain: config.domain.clone(),
        ..Default::default()
    };
    let core_config = tepui_agent_core::Config {
        info: info.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        endpoint: endpoint.to_string(),
        listens_everywhere: config.ip.is_unspecified(),
        boot_id: uuid::Uuid::new_v4().to_string(),
        host_boot_id: detect::host_boot_id(),
        recover: config.recover,
        strict: config.strict,
        reconfiguration: config.reconfiguration,
        update_retry_minimum: config.update_retry_minimum,
        update_retry_maximum: config.update_retry_maximum,
        seed: seed(),
        executor_registration_timeout: config.executor_registration_timeout,
        executor_reregistration_timeout: config.executor_reregistration_timeout,
        executor_shutdown_grace_period: config.executor_shutdown_grace_period,
        executor_idle: config.executor_idle,
        ..Default::default()
    };
    let meta = work_dir.join("meta");
    let recovering = Instant::now();
    let recovered =
        checkpoint::recover(&meta, config.strict).context("the checkpoints cannot be read")?;
    let start_time = now(began);
    let core =
        Core::new(core_config, recovered, start_time).context("the checkpoints cannot be used")?;

    let (events, inbox) = mpsc::channel(INBOX);
    let (saves, checkpoints) = checkpoint::start(meta, events.clone())?;
    let limits = CompileLimits {
        workers: config.compile_workers,
        time: config.compile_timeout,
        memory_bytes: config.compile_memory_bytes,
        module_bytes: config.max_module_bytes,
        quick_above_bytes: config.compile_quick_above_bytes,
        shut_in: wall.is_some(),
    };
    let compiled = Store::open(compiled_directory(&work_dir), config.cache_bytes)?;
    let fetched = Store::open(work_dir.join("fetch"), config.cache_bytes)?;
    let compiler = Compiler::new(program.clone(), compiled.clone(), limits);
    let holdings = holdings::follow(&fetched, &compiled, compiler.clone(), events.clone());
    // Before there is a link: whoever sees the attributes of an agent's data sets may ask it for them.
    let held = Input::Held {
        held: datasets.holdings(),
        gone: Vec::new(),
    };
    events.send(Event::Core(Box::new(held))).await?;
    datasets.count(&holdings);
    let surroundings = Arc::new(Surroundings {
        endpoint,
        socket: socket.clone(),
        executor_socket: executor_socket.clone(),
        wall: wall.clone(),
        shutdown_grace_period: config.executor_shutdown_grace_period,
        reregistration_timeout: config.executor_reregistration_timeout,
        recovery_timeout: config.recovery_timeout,
        reach,
        variables: config.executor_environment_variables.clone(),
    });
    // Somebody else in this process may have installed a provider already; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let questions = Questions::default();
    let holders = Holders::new(questions.clone());
    let volumes = Volumes::start(work_dir.clone(), events.clone())?;
    let fetcher = Fetcher::new(
        fetched,
        Fetch::new(config.fetch.clone())?,
        holders.clone(),
        config.frameworks_home.clone(),
    );
    let preparer = Preparer {
        work_dir: work_dir.clone(),
        volumes: volumes.clone(),
        switch_user: config.switch_user && nix::unistd::geteuid().is_root(),
        fetcher: fetcher.clone(),
        compiler: compiler.clone(),
        surroundings: surroundings.clone(),
        datasets,
    };
    let settings = Settings {
        work_dir: work_dir.clone(),
        program,
        surroundings,
        layout,
        overhead_bytes: config.executor_overhead_bytes,
        memory_bytes,
    };
    let executors = Executors::new(settings, preparer.clone(), events.clone());
    let view = core.view();
    executors.adopt(&view.executors)?;
    let recovery = recovering.elapsed();
    let rules = gc::Rules {
        delay: config.gc_delay,
        headroom: config.gc_disk_headroom,
        most: config.gc_max_sandboxes,
        interval: config.disk_watch_interval,
    };
    let garbage = Garbage::start(work_dir.clone(), rules, live_sandboxes(&view));

    let about = About {
        info,
        endpoint: endpoint.to_string(),
        work_dir: work_dir.display().to_string(),
        start_time: start_time.wall_secs(),
        recovery,
        executor_heartbeat: config.executor_heartbeat,
        flags: config.flags(),
        serves_containers: config.insecure
            || config.ip.is_loopback()
            || config.authentication.readwrite,
    };
    let watcher = Watcher::new();
    let files = Arc::new(FilesContext {
        work_dir: work_dir.clone(),
        watcher: watcher.clone(),
        events: events.clone(),
        holders: holders.clone(),
    });
    let containers = Containers::new(
        work_dir.clone(),
        layout,
        preparer.clone(),
        executors.clone(),
        events.clone(),
        watcher,
    );
    let site = Site {
        events: events.clone(),
        about: Arc::new(about),
        access: Arc::new(Access {
            authentication: config.authentication.clone(),
            acls: config.acls.clone(),
        }),
        files: files.clone(),
        executors: executors.clone(),
        containers: containers.clone(),
        verbosity: Verbosity::new(config.set_verbosity),
        peers: Peers { fetcher, holders },
        guests: Guests::new(questions),
    };
    let executor_site = executor_router(site.clone());
    let site = router(site);
    let tenants = wall
        .as_ref()
        .and_then(Wall::range)
        .map(|users| serve::Tenants {
            users,
            site: executor_site.clone(),
        });
    // The parts stop one after the other, so each has a token of its own.
    let (stop_link, stop_http) = (CancellationToken::new(), CancellationToken::new());
    let servers = [
        tokio::spawn(serve(tcp, site.clone(), tenants, stop_http.clone())),
        tokio::spawn(serve(unix, site, None, stop_http.clone())),
        tokio::spawn(serve(executor_unix, executor_site, None, stop_http.clone())),
    ];
    let link_settings = LinkSettings {
        masters,
        credential: config.credential.clone(),
        backoff: config.registration_backoff_factor,
    };
    let link = tokio::spawn(keep_linked(link_settings, files, stop_link.clone()));
    if config.enforce_container_disk_quota {
        let interval = config.container_disk_watch_interval;
        tokio::spawn(disk::watch(work_dir.clone(), interval, events.clone()));
    }
    if config.enforce_container_ports {
        let interval = config.container_ports_watch_interval;
        tokio::spawn(ports::watch(executors.clone(), interval, events.clone()));
    }
    let owner = Owner::new(Parts {
        core,
        began,
        work_dir,
        inbox,
        events,
        saves,
        volumes,
        preparer,
        executors: executors.clone(),
        garbage,
    });
    if let Some(warning) = open_to_others(&config) {
        tracing::warn!("{warning}");
    }
    tracing::info!(%address, socket = %socket.display(), isolation = layout.name(), "the agent runs");

    let (path, keep) = (socket.clone(), config.keep_tasks_at_stop);
    let stop = Stop {
        asked: config.cancel.clone(),
        keep_checkpointed: keep,
        grace: config.executor_shutdown_grace_period,
    };
    let finished = tokio::spawn(async move {
        // Nobody else may use the work directory until the last of this agent is gone.
        let _lock = lock;
        let reason = owner.run(stop).await;
        // The owner is gone and with it every executor's stream.
        stop_link.cancel();
        let _ = link.await;
        containers.stop().await;
        executors.stop(keep).await;
        stop_http.cancel();
        for server in servers {
            let _ = server.await;
        }
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_file(&executor_socket);
        // All that was to be saved is on disk before the agent is gone.
        let _ = tokio::task::spawn_blocking(move || checkpoints.join()).await;
        reason.map_err(anyhow::Error::msg)
    });
    Ok(Running {
        address,
        socket,
        finished,
    })
}

/// Keeps a second agent off the work directory for as long as the file stays open, however this process ends.
fn lock(work_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = work_dir.join("lock");
    let file = File::options().create(true).append(true).open(&path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => anyhow::anyhow!(
            "another agent runs on {}: stop it first, or give this one a --work-dir of its own",
            work_dir.display()
        ),
        error => anyhow::anyhow!("{} cannot be locked: {error}", path.display()),
    })
}

/// How this machine's own processes reach an address that may be "any".
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}

/// What every wasm executor is given: the way to its agent, compiled code, and the disks volumes may lie on. Whose a volume
/// is, its owner says.
fn common_grants(
    work_dir: &Path,
    socket: &Path,
    resources: &[v1::Resource],
    directories: &[PathBuf],
) -> Vec<Grant> {
    let read = |path: PathBuf| Grant {
        path,
        access: tepui_wall::Access::Read,
    };
    let roots = resources.iter().filter_map(|resource| {
        let source = resource.disk.as_ref()?.source.as_ref()?;
        let of_path = source.path.as_ref().and_then(|path| path.root.clone());
        of_path.or_else(|| source.mount.as_ref().and_then(|mount| mount.root.clone()))
    });
    [
        read(compiled_directory(work_dir)),
        read(socket.parent().unwrap_or(work_dir).to_path_buf()),
    ]
    .into_iter()
    .chain(
        roots
            .map(PathBuf::from)
            .chain(directories.iter().cloned())
            .map(|path| Grant {
                path,
                access: tepui_wall::Access::Write,
            }),
    )
    .collect()
}

fn bind_socket(directory: &Path, name: &str, mode: u32) -> io::Result<(UnixListener, PathBuf)> {
    let mut path = directory.join(name);
    if path.as_os_str().len() > LONGEST_SOCKET_PATH {
        // The name of a socket is short by law; a private directory elsewhere will do.
        path = tempfile::Builder::new()
            .prefix("tepui-")
            .tempdir()?
            .keep()
            .join(name);
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    Ok((listener, path))
}

/// Tokens come out of it, so it comes from the system's generator.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    let (first, second) = seed.split_at_mut(16);
    first.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    second.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_open_to_others_says_which_flags_close_it() {
        let mut config = Config::default();
        assert_eq!(open_to_others(&config), None);
        config.ip = [10, 0, 0, 1].into();
        let said = open_to_others(&config).unwrap();
        assert!(
            said.contains("--authenticate_http_readonly and --authenticate_http_readwrite"),
            "{said}"
        );
        assert!(!said.contains("run commands"), "{said}");
        config.insecure = true;
        let said = open_to_others(&config).unwrap();
        assert!(said.contains("run commands"), "{said}");
        config.authentication.readwrite = true;
        let said = open_to_others(&config).unwrap();
        assert!(
            !said.contains("readwrite") && !said.contains("run commands"),
            "{said}"
        );
        config.authentication.readonly = true;
        assert_eq!(open_to_others(&config), None);
    }
}
