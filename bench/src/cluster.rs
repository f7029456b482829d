//! A master and an agent as processes of their own, for as long as a measurement takes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

/// One of a cluster's processes, looked at.
pub(crate) struct Process {
    /// Bytes.
    pub(crate) resident: u64,
    /// Those of them that are no file's: what the process has allocated.
    pub(crate) anonymous: u64,
    /// Seconds of processor time it has used.
    pub(crate) cpu_s: f64,
}

impl Process {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let status = read("status")?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.with_context(|| format!("{name} is in status"))?;
            let kibibytes = kibibytes.trim().trim_end_matches("kB").trim();
            Ok(kibibytes.parse::<u64>()? * 1024)
        };
        let stat = read("stat")?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        // utime and stime, in clock ticks of a hundredth of a second.
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Self {
            resident: bytes("VmRSS:")?,
            anonymous: bytes("RssAnon:")?,
            cpu_s: ticks as f64 / 100.0,
        })
    }
}

pub(crate) struct Cluster {
    pub(crate) master: String,
    pub(crate) folder: TempDir,
    processes: Vec<Child>,
}

/// The binary that was built with this one.
pub(crate) fn tepui() -> anyhow::Result<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("tepui");
    if !binary.exists() {
        bail!(
            "{} is missing: build it with the same profile first (cargo build --release -p tepui)",
            binary.display()
        );
    }
    Ok(binary)
}

impl Cluster {
    pub(crate) fn start(resources: &str) -> anyhow::Result<Self> {
        Self::start_many(1, resources)
    }

    /// With so many agents that have this each.
    pub(crate) fn start_many(agents: usize, resources: &str) -> anyhow::Result<Self> {
        Self::start_with(agents, resources, &[])
    }

    /// The same with further flags for the agents.
    pub(crate) fn start_with(
        agents: usize,
        resources: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut cluster = Self {
            master: String::new(),
            folder,
            processes: Vec::new(),
        };
        let path = |name: &str| cluster.folder.path().join(name).display().to_string();
        let master = path("master");
        let folders: Vec<String> = (0..agents)
            .map(|number| path(&format!("agent-{number}")))
            .collect();
        cluster.master = cluster.process(&["master", "--port", "0", "--work-dir", &master])?;
        let address = cluster.master.clone();
        for agent in &folders {
            let words = [
                "agent",
                "--master",
                &address,
                "--port",
                "0",
                "--work-dir",
                agent,
                "--resources",
                resources,
            ];
            cluster.process(&[&words, flags].concat())?;
        }
        Ok(cluster)
    }

    fn process(&mut self, words: &[&str]) -> anyhow::Result<String> {
        let mut child = Command::new(tepui()?)
            .args(words)
            .env("TEPUI_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start tepui")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        self.processes.push(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        line.trim()
            .strip_prefix("listening on ")
            .map(str::to_owned)
            .context("the process did not start")
    }

    /// The master, the agent, and then the agent's children.
    pub(crate) fn processes(&self) -> anyhow::Result<Vec<Process>> {
        let mut pids: Vec<u32> = self.processes.iter().map(Child::id).collect();
        // Everybody's parent; the name before it may hold anything but ends in the last parenthesis.
        let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
                let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
                Some((pid, parent.parse().ok()?))
            })
            .collect();
        let mut next = 1;
        while let Some(parent) = pids.get(next).copied() {
            next += 1;
            let children = parents.iter().filter(|(_, of)| *of == parent);
            pids.extend(children.map(|(pid, _)| *pid));
        }
        pids.into_iter().map(Process::of).collect()
    }

    /// Resident memory of the master and of the agent, in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<Vec<u64>> {
        self.processes
            .iter()
            .map(|process| {
                let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("VmRSS:"))
                    .context("VmRSS is in status")?;
                Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
            })
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // SIGTERM, so that the agent takes its executors along.
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            for _ in 0..250 {
                if !matches!(process.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub(crate) fn idle() -> anyhow::Result<()> {
    let cluster = Cluster::start("cpus:2;mem:1024")?;
    // Long enough for the agent to register and both to fall silent.
    std::thread::sleep(Duration::from_secs(5));
    let resident = cluster.resident()?;
    for (name, bytes) in ["master", "agent"].iter().zip(resident) {
        println!("{name:<8} {:.1} MB resident, idle", bytes as f64 / 1e6);
    }
    Ok(())
}
