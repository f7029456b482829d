//! A task's cgroup: limits set, processes joined, killed and counted, on v1 (also beside a unified tree) and on v2.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::freezer::FreezerController;
use cgroups_rs::fs::hierarchies::{UNIFIED_MOUNTPOINT, V1, is_cgroup2_unified_mode};
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Controllers, MaxValue};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::amounts::{Limits, PERIOD_US, PROCESSES_MAX};

/// The leaf of its own parent group the executor moves to on v2, where a group with children can have no processes.
const OWN_LEAF: &str = "executor";
/// How often, at growing intervals, a killed group is looked at until it is empty: 10 s in all. Longer only sleeps a
/// process that the kernel does not let go of.
const LOOKS: u32 = 208;
const LOOK_EVERY_MAX: Duration = Duration::from_millis(50);

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    #[error("the cgroup controller {0} is not mounted")]
    NoController(&'static str),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("a limit cannot be set: {}", with_cause(.0))]
    Limit(#[from] cgroups_rs::fs::error::Error),
}

fn with_cause(error: &cgroups_rs::fs::error::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

trait At<T> {
    fn at(self, path: &Path) -> Result<T, GroupError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, GroupError> {
        self.map_err(|source| GroupError::File {
            path: path.to_owned(),
            source,
        })
    }
}

/// Where the controllers are mounted.
#[derive(Debug, Clone)]
pub(crate) enum Hierarchies {
    V1 {
        memory: PathBuf,
        cpu: PathBuf,
        cpuacct: Option<PathBuf>,
        pids: Option<PathBuf>,
        freezer: Option<PathBuf>,
        /// A v2 tree beside them. It has no controllers, but kills a whole group at one stroke.
        unified: Option<PathBuf>,
    },
    V2 {
        root: PathBuf,
    },
}

impl Hierarchies {
    /// What this host has.
    pub(crate) fn detect() -> Result<Self, GroupError> {
        if is_cgroup2_unified_mode() {
            return Ok(Self::V2 {
                root: UNIFIED_MOUNTPOINT.into(),
            });
        }
        let v1 = V1::new();
        let mounted = |controller| v1.get_mount_point(controller).map(|(point, _)| point);
        Ok(Self::V1 {
            memory: mounted(Controllers::Mem).ok_or(GroupError::NoController("memory"))?,
            cpu: mounted(Controllers::Cpu).ok_or(GroupError::NoController("cpu"))?,
            cpuacct: mounted(Controllers::CpuAcct),
            pids: mounted(Controllers::Pids),
            freezer: mounted(Controllers::Freezer),
            unified: Some(Path::new(UNIFIED_MOUNTPOINT).join("unified"))
                .filter(|tree| tree.join("cgroup.controllers").exists()),
        })
    }

    /// Makes the group the tasks' groups will be in, and finds out whether that is possible.
    pub(crate) fn prepare(&self, parent: &str) -> Result<(), GroupError> {
        for directory in self.directories(parent) {
            fs::create_dir_all(&directory).at(&directory)?;
        }
        if let Self::V2 { root } = self {
            let parent = root.join(parent);
            let leaf = parent.join(OWN_LEAF);
            fs::create_dir_all(&leaf).at(&leaf)?;
            write(&leaf.join("cgroup.procs"), &std::process::id().to_string())?;
            write(&parent.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
        }
        Ok(())
    }

    /// The directories a group consists of. On v1 controllers may be mounted together.
    fn directories(&self, group: &str) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = match self {
            Self::V2 { root } => vec![root.join(group)],
            Self::V1 {
                memory,
                cpu,
                cpuacct,
                pids,
                freezer,
                unified,
            } => [Some(memory), Some(cpu)]
                .into_iter()
                .chain([
                    cpuacct.as_ref(),
                    pids.as_ref(),
                    freezer.as_ref(),
                    unified.as_ref(),
                ])
                .flatten()
                .map(|mounted| mounted.join(group))
                .collect(),
        };
        let mut seen = Vec::new();
        directories.retain(|directory| {
            let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.clone());
            let new = !seen.contains(&directory);
            seen.push(directory);
            new
        });
        directories
    }
}

/// What a group has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_time_ns: Option<u64>,
    pub(crate) memory_peak_bytes: Option<u64>,
    /// Processes killed because memory ran out.
    pub(crate) memory_kills: u64,
}

/// One task's cgroup.
#[derive(Debug)]
pub(crate) struct Group {
    hierarchies: Hierarchies,
    /// Relative to each hierarchy's root.
    name: String,
    directories: Vec<PathBuf>,
}

impl Group {
    /// Makes it and sets the limits; if any of that fails nothing is left behind.
    pub(crate) fn create(
        hierarchies: &Hierarchies,
        name: String,
        limits: &Limits,
    ) -> Result<Self, GroupError> {
        let group = Self {
            hierarchies: hierarchies.clone(),
            directories: hierarchies.directories(&name),
            name,
        };
        let made = group.make(limits);
        if made.is_err() {
            group.remove();
        }
        made.map(|()| group)
    }

    fn make(&self, limits: &Limits) -> Result<(), GroupError> {
        for directory in &self.directories {
            fs::create_dir_all(directory).at(directory)?;
        }
        match &self.hierarchies {
            Hierarchies::V1 {
                memory, cpu, pids, ..
            } => {
                let memory = MemController::new(memory.join(&self.name), memory.clone(), false);
                if let Some(bytes) = limits.memory_soft() {
                    memory.set_soft_limit(bytes)?;
                }
                if let Some(bytes) = limits.memory() {
                    memory.set_limit(bytes)?;
                    // Else what does not fit is swapped out and the limit means little. Not every kernel accounts swap.
                    if let Err(error) = memory.set_memswap_limit(bytes) {
                        tracing::debug!(error = with_cause(&error), "swap is not limited");
                    }
                }
                let cpu = CpuController::new(cpu.join(&self.name), cpu.clone(), false);
                cpu.set_shares(limits.shares())?;
                if let Some(quota) = limits.quota_us() {
                    cpu.set_cfs_quota_and_period(Some(quota), Some(PERIOD_US))?;
                }
                if let Some(pids) = pids {
                    PidController::new(pids.join(&self.name), pids.clone(), false)
                        .set_pid_max(MaxValue::Value(PROCESSES_MAX))?;
                }
            }
            Hierarchies::V2 { root } => {
                let path = || root.join(&self.name);
                let memory = MemController::new(path(), root.clone(), true);
                if let Some(bytes) = limits.memory_soft() {
                    write(&path().join("memory.low"), &bytes.to_string())?;
                }
                if let Some(bytes) = limits.memory() {
                    memory.set_limit(bytes)?;
                    if let Err(error) = memory.set_memswap_limit(0) {
                        tracing::debug!(error = with_cause(&error), "swap is not limited");
                    }
                }
                let cpu = CpuController::new(path(), root.clone(), true);
                // The crate writes what it is given to cpu.weight.
                cpu.set_shares(limits.weight())?;
                if let Some(quota) = limits.quota_us() {
                    cpu.set_cfs_quota_and_period(Some(quota), Some(PERIOD_US))?;
                }
                PidController::new(path(), root.clone(), true)
                    .set_pid_max(MaxValue::Value(PROCESSES_MAX))?;
            }
        }
        Ok(())
    }

    /// The files a process writes `0` to in order to be in the group.
    pub(crate) fn doors(&self) -> Vec<CString> {
        let files = self
            .directories
            .iter()
            .map(|directory| directory.join("cgroup.procs"));
        files
            .map(|file| {
                CString::new(file.as_os_str().as_bytes())
                    .expect("paths from the system have no NUL")
            })
            .collect()
    }

    /// The processes in it and in whatever groups the task has made inside it.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        // Any of the directories knows them all; the first is the memory controller's.
        let mut found = Vec::new();
        let mut directories = vec![self.directories[0].clone()];
        while let Some(directory) = directories.pop() {
            let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(
                listed
                    .lines()
                    .filter_map(|line| line.trim().parse().ok())
                    .map(Pid::from_raw),
            );
            directories.extend(children(&directory));
        }
        found
    }

    /// Sends a signal to every process in it.
    pub(crate) fn signal(&self, signal: Signal) {
        for process in self.processes() {
            match kill(process, signal) {
                // It ended meanwhile.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => tracing::warn!(%process, %error, "a process cannot be signalled"),
            }
        }
    }

    /// Kills every process in it and waits until there is none. Says whether it came to that. Blocks.
    pub(crate) fn kill(&self) -> bool {
        let mut pause = Duration::from_millis(1);
        for _ in 0..LOOKS {
            if self.processes().is_empty() {
                return true;
            }
            self.kill_once();
            thread::sleep(pause);
            pause = (pause * 2).min(LOOK_EVERY_MAX);
        }
        self.processes().is_empty()
    }

    /// Kills what is in it now.
    pub(crate) fn kill_once(&self) {
        let whole = match &self.hierarchies {
            Hierarchies::V2 { root } => Some(root),
            Hierarchies::V1 { unified, .. } => unified.as_ref(),
        };
        if let Some(tree) = whole {
            // Linux 5.14 and later; older ones do it as v1 does.
            let file = tree.join(&self.name).join("cgroup.kill");
            if file.exists()
                && fs::write(&file, "1").is_ok()
                && matches!(self.hierarchies, Hierarchies::V2 { .. })
            {
                return;
            }
        }
        let freezer = match &self.hierarchies {
            Hierarchies::V2 { root } => Some(FreezerController::new(
                root.join(&self.name),
                root.clone(),
                true,
            )),
            Hierarchies::V1 { freezer, .. } => freezer.as_ref().map(|mounted| {
                FreezerController::new(mounted.join(&self.name), mounted.clone(), false)
            }),
        };
        // Frozen, none can fork while the others are being signalled.
        let frozen = freezer.filter(|freezer| freezer.freeze().is_ok());
        self.signal(Signal::SIGKILL);
        if let Some(freezer) = frozen
            && let Err(error) = freezer.thaw()
        {
            tracing::error!(
                error = with_cause(&error),
                group = self.name,
                "a frozen cgroup cannot be thawed"
            );
        }
    }

    /// What it has used.
    pub(crate) fn usage(&self) -> Usage {
        let read = |mounted: &Path, file: &str| {
            fs::read_to_string(mounted.join(&self.name).join(file)).ok()
        };
        let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok());
        match &self.hierarchies {
            Hierarchies::V1 {
                memory, cpuacct, ..
            } => Usage {
                cpu_time_ns: number(
                    cpuacct
                        .as_ref()
                        .and_then(|mounted| read(mounted, "cpuacct.usage")),
                ),
                memory_peak_bytes: number(read(memory, "memory.max_usage_in_bytes")),
                // The counter and not the event: that one may come late, and failcnt has been seen to stay 0.
                memory_kills: keyed(read(memory, "memory.oom_control").as_deref(), "oom_kill")
                    .unwrap_or(0),
            },
            Hierarchies::V2 { root } => Usage {
                cpu_time_ns: keyed(read(root, "cpu.stat").as_deref(), "usage_usec")
                    .map(|microseconds| microseconds.saturating_mul(1_000)),
                // Linux 5.19 and later.
                memory_peak_bytes: number(read(root, "memory.peak")),
                memory_kills: keyed(read(root, "memory.events").as_deref(), "oom_kill")
                    .unwrap_or(0),
            },
        }
    }

    /// Removes it. Blocks for a while if the kernel still has to let go of its last process.
    pub(crate) fn remove(&self) {
        for directory in &self.directories {
            let mut pause = Duration::from_millis(1);
            for look in 1..=LOOKS {
                match remove_tree(directory) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) && look < LOOKS => {
                        thread::sleep(pause);
                        pause = (pause * 2).min(LOOK_EVERY_MAX);
                    }
                    Err(error) => {
                        tracing::warn!(%error, directory = %directory.display(), "a cgroup is left behind");
                        break;
                    }
                }
            }
        }
    }
}

fn write(file: &Path, value: &str) -> Result<(), GroupError> {
    fs::write(file, value).at(file)
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let directories = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// The files of a cgroup cannot be removed one by one: only its directories, from the inside out.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in children(directory) {
        remove_tree(&child)?;
    }
    fs::remove_dir(directory)
}

/// The value after `key` in lines of `key value`.
fn keyed(text: Option<&str>, key: &str) -> Option<u64> {
    text?.lines().find_map(|line| {
        let (found, value) = line.split_once(' ')?;
        if found == key {
            value.trim().parse().ok()
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        cpus: 2.0,
        cpus_max: Some(1.5),
        memory_bytes: Some(64 << 20),
        memory_soft_bytes: Some(32 << 20),
    };

    fn read(directory: &Path, file: &str) -> String {
        fs::read_to_string(directory.join(file))
            .unwrap()
            .trim()
            .to_owned()
    }

    #[test]
    fn on_v2_limits_go_to_the_files_of_v2() {
        let root = tempfile::tempdir().unwrap();
        let hierarchies = Hierarchies::V2 {
            root: root.path().to_owned(),
        };
        let directory = root.path().join("parent/task");
        // The kernel makes this file with the group; the crate reads it before it writes it.
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("cpu.max"), "max 100000\n").unwrap();
        let group = Group::create(&hierarchies, "parent/task".to_owned(), &LIMITS).unwrap();
        assert_eq!(read(&directory, "memory.max"), (64 << 20).to_string());
        assert_eq!(read(&directory, "memory.low"), (32 << 20).to_string());
        assert_eq!(read(&directory, "memory.swap.max"), "0");
        assert_eq!(read(&directory, "cpu.weight"), "200");
        assert_eq!(read(&directory, "cpu.max"), "150000 100000");
        assert_eq!(read(&directory, "pids.max"), "1024");
        let doors = group.doors();
        assert_eq!(doors.len(), 1);
        assert!(
            doors[0]
                .to_str()
                .unwrap()
                .ends_with("/parent/task/cgroup.procs")
        );
    }

    #[test]
    fn on_v2_what_was_used_is_read_from_the_files_of_v2_and_one_write_kills() {
        let root = tempfile::tempdir().unwrap();
        let hierarchies = Hierarchies::V2 {
            root: root.path().to_owned(),
        };
        let directory = root.path().join("task");
        let limits = Limits {
            cpus: 1.0,
            cpus_max: None,
            memory_bytes: None,
            memory_soft_bytes: None,
        };
        let group = Group::create(&hierarchies, "task".to_owned(), &limits).unwrap();
        assert_eq!(group.usage(), Usage::default());
        for (file, content) in [
            (
                "memory.events",
                "low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 0\n",
            ),
            ("memory.peak", "4096\n"),
            ("cpu.stat", "usage_usec 7\nuser_usec 5\nsystem_usec 2\n"),
            ("cgroup.kill", ""),
        ] {
            fs::write(directory.join(file), content).unwrap();
        }
        let expected = Usage {
            cpu_time_ns: Some(7_000),
            memory_peak_bytes: Some(4096),
            memory_kills: 2,
        };
        assert_eq!(group.usage(), expected);
        group.kill_once();
        assert_eq!(read(&directory, "cgroup.kill"), "1");
        assert!(
            !directory.join("memory.max").exists(),
            "what has no limit gets none"
        );
    }

    #[test]
    fn on_v2_the_executor_leaves_the_group_whose_children_get_the_controllers() {
        let root = tempfile::tempdir().unwrap();
        let hierarchies = Hierarchies::V2 {
            root: root.path().to_owned(),
        };
        hierarchies.prepare("a/b").unwrap();
        let parent = root.path().join("a/b");
        assert_eq!(
            read(&parent.join(OWN_LEAF), "cgroup.procs"),
            std::process::id().to_string()
        );
        assert_eq!(
            read(&parent, "cgroup.subtree_control"),
            "+cpu +memory +pids"
        );
    }

    #[test]
    fn on_v1_real_groups_are_made_limited_and_removed() {
        let name = "on_v1_real_groups_are_made_limited_and_removed";
        let hierarchies = match Hierarchies::detect() {
            Ok(hierarchies @ Hierarchies::V1 { .. }) if nix::unistd::geteuid().is_root() => {
                hierarchies
            }
            _ => {
                println!("not run: {name}: it needs root and cgroups v1");
                return;
            }
        };
        let group = format!("tepui-test-{}/task", std::process::id());
        let made = match Group::create(&hierarchies, group.clone(), &LIMITS) {
            Ok(made) => made,
            Err(error) => {
                println!("not run: {name}: no cgroup can be made here: {error}");
                return;
            }
        };
        let Hierarchies::V1 {
            memory, cpu, pids, ..
        } = &hierarchies
        else {
            unreachable!("looked at above")
        };
        assert_eq!(
            read(&memory.join(&group), "memory.limit_in_bytes"),
            (64 << 20).to_string()
        );
        assert_eq!(
            read(&memory.join(&group), "memory.soft_limit_in_bytes"),
            (32 << 20).to_string()
        );
        assert_eq!(read(&cpu.join(&group), "cpu.shares"), "2048");
        assert_eq!(read(&cpu.join(&group), "cpu.cfs_quota_us"), "150000");
        if let Some(pids) = pids {
            assert_eq!(read(&pids.join(&group), "pids.max"), "1024");
        }
        assert!(made.kill(), "an empty group is empty");
        made.remove();
        for directory in &made.directories {
            assert!(!directory.exists(), "{}", directory.display());
            fs::remove_dir(directory.parent().unwrap()).ok();
        }
    }
}
