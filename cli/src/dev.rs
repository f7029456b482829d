//! `tepui dev`: a whole cluster on this machine, gone when the command ends.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// Address of the master
    #[arg(long, default_value = "127.0.0.1:5050")]
    listen: SocketAddr,
    /// How many agents
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    agents: u32,
    /// Where everything is kept
    #[arg(long, default_value = "./.tepui")]
    data_dir: PathBuf,
    /// What each agent offers; a fair part of this machine if not given. Without ports among it, each has its own part of 31000-32000
    #[arg(long)]
    resources: Option<String>,
}

impl Dev {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        std::fs::create_dir_all(&self.data_dir).with_context(|| {
            format!("cannot make the data directory {}", self.data_dir.display())
        })?;
        // Agents split the machine between them, so that two of them do not promise the same core.
        let resources = match &self.resources {
            Some(given) => {
                tepui_model::parse_resources(given, &tepui_model::Role::star())
                    .context("--resources")?;
                given.clone()
            }
            None => self.part_of_this_machine()?,
        };
        let (ip, port) = (self.listen.ip().to_string(), self.listen.port().to_string());
        let work_dir = self.data_dir.join("master").display().to_string();
        let (master, address) = start(
            "master",
            &[
                "master",
                "--ip",
                &ip,
                "--port",
                &port,
                "--work-dir",
                &work_dir,
            ],
        )?;
        let directories = own_directories()?;
        let mut agents = Vec::new();
        println!("master on http://{address}");
        for number in 1..=self.agents {
            let resources = self.with_ports(&resources, number);
            let work_dir = self
                .data_dir
                .join(format!("agent-{number}"))
                .display()
                .to_string();
            let words = [
                "agent",
                "--master",
                &address,
                "--port",
                "0",
                "--work-dir",
                &work_dir,
                "--resources",
                &resources,
                // Whoever runs this has them anyway.
                "--allow_host_directories",
                &directories,
                "--allow_hosts=*,localhost,127.0.0.0/8,::1",
            ];
            let (agent, endpoint) = start("agent", &words)?;
            println!("agent {number} on {endpoint}: {resources}");
            agents.push(agent);
        }
        println!("try: tepui run --master {address} FILE.wasm");
        wait(agents, master)
    }

    /// All agents are on one address, where a port is of one of them: two that offer the same would each let a service
    /// listen there.
    fn with_ports(&self, resources: &str, number: u32) -> String {
        const FIRST: u32 = 31_000;
        const COUNT: u32 = 1_001;
        if self
            .resources
            .as_ref()
            .is_some_and(|given| given.contains("ports"))
        {
            return resources.to_owned();
        }
        let begin = |number: u32| FIRST + COUNT * number / self.agents;
        let (begin, end) = (begin(number - 1), begin(number) - 1);
        format!("{resources};ports:[{begin}-{end}]")
    }

    fn part_of_this_machine(&self) -> anyhow::Result<String> {
        let cpus = std::thread::available_parallelism()?.get() as f64 / f64::from(self.agents);
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total_kb: u64 = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
            .unwrap_or(2 << 20);
        let mem = (total_kb / 1024).saturating_sub(1024).max(512) / u64::from(self.agents);
        Ok(format!("cpus:{cpus:.3};mem:{mem}"))
    }
}

/// Those that guests may have opened: where this was started, and the home of who did.
fn own_directories() -> anyhow::Result<String> {
    let here = std::env::current_dir()?;
    let home = std::env::home_dir().filter(|home| home.is_dir());
    let all: Vec<String> = [Some(here), home]
        .into_iter()
        .flatten()
        // The list has commas between them.
        .filter(|path| {
            path != std::path::Path::new("/")
                && !path.as_os_str().as_encoded_bytes().contains(&b',')
        })
        .map(|path| path.display().to_string())
        .collect();
    Ok(all.join(","))
}

/// Starts one role of this binary and waits until it listens. It dies with this process, however that ends.
fn start(name: &str, words: &[&str]) -> anyhow::Result<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Ctrl-C is for this process alone, which ends the others in their order.
        .process_group(0);
    // SAFETY: prctl is async-signal-safe and touches nothing but the child itself.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
                .map_err(std::io::Error::from)
        });
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start the {name}"))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let Some(address) = line.trim().strip_prefix("listening on ") else {
        let status = child.wait()?;
        bail!("the {name} did not start ({status}): see its message above");
    };
    Ok((child, address.to_owned()))
}

/// Waits for the first process to end or for a signal, then ends them all.
fn wait(mut agents: Vec<Child>, mut master: Child) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut child = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return anyhow::Ok(None),
                _ = terminate.recv() => return Ok(None),
                _ = child.recv() => {
                    for process in agents.iter_mut().chain([&mut master]) {
                        if let Some(status) = process.try_wait()? {
                            return Ok(Some(status));
                        }
                    }
                }
            }
        }
    })?;
    // Agents first: they take their executors with them, and tell the master how their tasks ended.
    end(&mut agents)?;
    end(std::slice::from_mut(&mut master))?;
    match ended {
        None => Ok(ExitCode::SUCCESS),
        Some(status) => {
            bail!("one of the processes ended by itself ({status}): see its message above")
        }
    }
}

/// Asks processes to end, and makes those that have not after 10 s.
fn end(processes: &mut [Child]) -> anyhow::Result<()> {
    for process in &mut *processes {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id())?);
        // A process that has ended already needs no signal.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    for process in processes {
        while process.try_wait()?.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        process.wait()?;
    }
    Ok(())
}
