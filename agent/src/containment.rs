//! The cgroups executors live in: limits, the end of every process in them, and whether memory ran out.
//!
//! Three layouts are known: version 1 hierarchies (with the unified tree beside them, if there is one, for killing),
//! version 2 alone, and none at all, where process groups must do.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, MaxValue, hierarchies};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use tepui_wall::{Identity, ReadOnly};

/// All groups of all agents of this machine are below this one.
const ROOT: &str = "tepui";
/// The controllers whose groups an executor joins.
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "freezer"];
/// On a machine with version 1 hierarchies, where the version 2 tree is mounted too.
const HYBRID_UNIFIED: &str = "/sys/fs/cgroup/unified";
/// Processes and threads of one executor, its checks among them: nobody's fork bomb is the machine's.
const PROCESSES_MAX: i64 = 4096;
/// What a version 2 group delegates to the groups below it.
const DELEGATED: &str = "+memory +cpu +pids";
/// In a version 2 group that has groups below it no process may live; the executor itself moves in here.
const LEAF: &str = "_executor";
/// The share of one cpu.
const SHARES_PER_CPU: f64 = 1024.0;
const MINIMUM_SHARES: u64 = 2;
/// How often killing and removing are tried, and how long between: dying processes take a moment to go.
const ATTEMPTS: usize = 200;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    V1,
    V2,
    None,
}

impl Layout {
    /// What this process may use: root, and groups that really can be made.
    pub(crate) fn detect() -> Self {
        if !nix::unistd::geteuid().is_root() {
            return Self::None;
        }
        let layout = if hierarchies::is_cgroup2_unified_mode() {
            Self::V2
        } else {
            Self::V1
        };
        let name = format!(
            "probe-{}-{}",
            std::process::id(),
            uuid::Uuid::new_v4().simple()
        );
        let probe = Group {
            layout,
            path: format!("{ROOT}/{name}"),
            name,
            delegate: false,
        };
        let usable = probe
            .create()
            .is_ok_and(|()| probe.join_files().is_ok_and(|files| !files.is_empty()));
        probe.remove();
        if usable { layout } else { Self::None }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1 => "cgroups_v1",
            Self::V2 => "cgroups_v2",
            Self::None => "none",
        }
    }
}

/// What a group may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    pub(crate) cpus: f64,
}

/// One executor's cgroup, by the same path in every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    layout: Layout,
    name: String,
    path: String,
    /// Whether the executor makes groups of its own below this one.
    delegate: bool,
}

impl Group {
    /// None without cgroups.
    pub(crate) fn new(layout: Layout, agent: &str, name: &str, delegate: bool) -> Option<Self> {
        let path = format!("{ROOT}/{}/{}", file_name(agent), file_name(name));
        (layout != Layout::None).then(|| Self {
            layout,
            name: name.to_owned(),
            path,
            delegate,
        })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// As it was given to [`Group::new`].
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn delegates(&self) -> bool {
        self.delegate
    }

    /// The group inside this one in which the executor keeps what is called so.
    pub(crate) fn inner(&self, name: &str) -> Self {
        let path = format!("{}/{}", self.path, file_name(name));
        Self {
            layout: self.layout,
            name: name.to_owned(),
            path,
            delegate: false,
        }
    }

    /// Makes a group inside one that is there. In a version 2 group that has processes of its own the limits of such a
    /// group are not enforced: it only holds its processes together.
    pub(crate) fn create_inside(&self, outer: &Self) -> io::Result<()> {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        outer
            .trees()
            .iter()
            .try_for_each(|tree| std::fs::create_dir_all(tree.join(name)))
    }

    /// What the kernel says in a file of this group's, in whichever hierarchy has it.
    pub(crate) fn read(&self, file: &str) -> Option<String> {
        self.trees()
            .iter()
            .find_map(|tree| std::fs::read_to_string(tree.join(file)).ok())
    }

    pub(crate) fn process_count(&self) -> usize {
        self.processes().len()
    }

    /// The ids of all that are in it and in the groups inside it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        // Every hierarchy knows them all.
        self.trees()
            .first()
            .map_or_else(Vec::new, |tree| processes(tree))
    }

    pub(crate) fn exists(&self) -> bool {
        self.trees().iter().any(|tree| tree.exists())
    }

    pub(crate) fn create(&self) -> io::Result<()> {
        let controllers = self.controllers();
        Cgroup::new_with_specified_controllers(hierarchies::auto(), &self.path, Some(controllers))
            .map_err(of_cgroups)?;
        match self.layout {
            Layout::V1 if Path::new(HYBRID_UNIFIED).join("cgroup.procs").exists() => {
                std::fs::create_dir_all(Path::new(HYBRID_UNIFIED).join(&self.path))
            }
            Layout::V2 if self.delegate => {
                let group = self.trees().into_iter().next().unwrap_or_default();
                std::fs::write(group.join("cgroup.subtree_control"), DELEGATED)?;
                std::fs::create_dir_all(group.join(LEAF))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn limit(&self, limits: Limits) -> io::Result<()> {
        let group = self.load();
        let shares = ((limits.cpus * SHARES_PER_CPU) as u64).max(MINIMUM_SHARES);
        if let Some(cpu) = group.controller_of::<CpuController>() {
            // Version 2 weighs from 1 to 10,000 what version 1 shared from 2 to 262,144.
            let weight = if group.v2() {
                1 + (shares - MINIMUM_SHARES).min(262_142) * 9_999 / 262_142
            } else {
                shares
            };
            cpu.set_shares(weight).map_err(of_cgroups)?;
        }
        if let Some(memory) = group.controller_of::<MemController>() {
            let bytes = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
            memory.set_limit(bytes).map_err(of_cgroups)?;
        }
        // An executor of groups gives each of its tasks a bound.
        if let Some(pids) = group
            .controller_of::<PidController>()
            .filter(|_| !self.delegate)
        {
            let most = MaxValue::Value(PROCESSES_MAX);
            pids.set_pid_max(most).map_err(of_cgroups)?;
        }
        Ok(())
    }

    /// Files opened for a process to write `0` to, by which it joins.
    pub(crate) fn join_files(&self) -> io::Result<Vec<File>> {
        let leaf = if self.layout == Layout::V2 && self.delegate {
            LEAF
        } else {
            ""
        };
        self.trees()
            .into_iter()
            .map(|tree| {
                OpenOptions::new()
                    .write(true)
                    .open(tree.join(leaf).join("cgroup.procs"))
            })
            .collect()
    }

    /// Kills every process in the group and below it, and returns when none is left or patience is.
    pub(crate) fn kill(&self) {
        for attempt in 0..ATTEMPTS {
            let trees = self.trees();
            for tree in &trees {
                // Exists in version 2 trees only, and takes all of them at once.
                let _ = std::fs::write(tree.join("cgroup.kill"), "1");
            }
            let left: Vec<i32> = trees.iter().flat_map(|tree| processes(tree)).collect();
            if left.is_empty() {
                return;
            }
            let freezer = trees
                .iter()
                .find(|tree| tree.join("freezer.state").exists());
            if let Some(freezer) = freezer {
                // Frozen, they cannot fork faster than they are killed.
                let _ = std::fs::write(freezer.join("freezer.state"), "FROZEN");
            }
            for process in left {
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
            if let Some(freezer) = freezer {
                let _ = std::fs::write(freezer.join("freezer.state"), "THAWED");
            }
            if attempt > 0 {
                std::thread::sleep(BETWEEN_ATTEMPTS);
            }
        }
        tracing::warn!(
            cgroup = self.path,
            "processes are left that cannot be killed"
        );
    }

    /// Whether the kernel killed somebody here for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.trees()
            .iter()
            .flat_map(|tree| [tree.join("memory.oom_control"), tree.join("memory.events")])
            .any(|file| {
                std::fs::read_to_string(file).is_ok_and(|text| {
                    text.lines().any(|line| {
                        line.strip_prefix("oom_kill ")
                            .is_some_and(|count| count.trim() != "0")
                    })
                })
            })
    }

    /// Removes the group and what is below it, and then the groups above it that have become empty.
    pub(crate) fn remove(&self) {
        for tree in self.trees() {
            for _ in 0..ATTEMPTS {
                if remove_tree(&tree) {
                    break;
                }
                std::thread::sleep(BETWEEN_ATTEMPTS);
            }
            let mut above = tree.parent();
            for _ in Path::new(&self.path).components().skip(1) {
                let Some(directory) = above else { break };
                if std::fs::remove_dir(directory).is_err() {
                    break;
                }
                above = directory.parent();
            }
        }
    }

    fn controllers(&self) -> Vec<String> {
        let present: Vec<String> = hierarchies::auto()
            .subsystems()
            .iter()
            .map(|one| one.controller_name())
            .collect();
        CONTROLLERS
            .into_iter()
            .filter(|name| present.iter().any(|one| one == name))
            .map(str::to_owned)
            .collect()
    }

    fn load(&self) -> Cgroup {
        Cgroup::load_with_specified_controllers(hierarchies::auto(), &self.path, self.controllers())
    }

    /// The group's directory in each hierarchy.
    fn trees(&self) -> Vec<PathBuf> {
        if self.layout == Layout::V2 {
            return vec![Path::new(hierarchies::UNIFIED_MOUNTPOINT).join(&self.path)];
        }
        let group = self.load();
        let mut trees: Vec<PathBuf> = group
            .subsystems()
            .iter()
            .map(|one| one.to_controller().path().to_path_buf())
            .collect();
        trees.push(Path::new(HYBRID_UNIFIED).join(&self.path));
        trees.retain(|tree| tree.exists());
        trees.sort();
        trees.dedup();
        trees
    }
}

/// Makes the command lead a session of its own, in the groups whose files these are, seeing these directories read-only, as
/// somebody else if that is asked for.
pub(crate) fn set_apart(
    command: &mut Command,
    joins: Vec<File>,
    read_only: ReadOnly,
    identity: Option<Identity>,
) {
    // SAFETY: between fork and exec only setsid, write on descriptors opened before, mounts and the changes of user are
    // called: plain system calls that neither allocate nor take locks.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            for mut file in &joins {
                file.write_all(b"0")?;
            }
            read_only.show()?;
            identity.as_ref().map_or(Ok(()), Identity::assume)
        });
    }
}

fn processes(tree: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = std::fs::read_to_string(tree.join("cgroup.procs"))
        .map(|text| {
            text.lines()
                .filter_map(|line| line.trim().parse().ok())
                .collect()
        })
        .unwrap_or_default();
    for child in children(tree) {
        found.extend(processes(&child));
    }
    found
}

fn children(tree: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(tree)
        .map(|entries| entries.flatten().collect::<Vec<_>>())
        .unwrap_or_default();
    entries
        .into_iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(tree: &Path) -> bool {
    for child in children(tree) {
        remove_tree(&child);
    }
    match std::fs::remove_dir(tree) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Ids may be as long as a file name and hold nearly anything.
fn file_name(id: &str) -> String {
    const LONGEST: usize = 100;
    let plain: String = id
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() || "-_.".contains(character) {
                character
            } else {
                '_'
            }
        })
        .collect();
    if plain == id && id.len() <= LONGEST {
        return plain;
    }
    use sha2::Digest;
    let digest = hex::encode(sha2::Sha256::digest(id.as_bytes()));
    format!(
        "{}-{}",
        plain.chars().take(LONGEST / 2).collect::<String>(),
        &digest[..16]
    )
}

fn of_cgroups(error: cgroups_rs::fs::error::Error) -> io::Error {
    io::Error::other(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_for_a_group_is_plain_short_and_its_own() {
        assert_eq!(file_name("abc-S0"), "abc-S0");
        assert_ne!(file_name("a b"), file_name("a_b"));
        assert!(file_name(&"x".repeat(255)).len() <= 120);
        assert_ne!(file_name(&"x".repeat(254)), file_name(&"x".repeat(255)));
    }

    /// Only where this machine lets us; elsewhere there is nothing to test.
    #[test]
    fn a_group_holds_its_processes_to_the_last_one_and_goes_away() {
        let layout = Layout::detect();
        let Some(group) = Group::new(
            layout,
            &format!("test-{}", std::process::id()),
            "fw one",
            false,
        ) else {
            return;
        };
        group.create().unwrap();
        group
            .limit(Limits {
                memory_bytes: 64 << 20,
                cpus: 0.5,
            })
            .unwrap();
        group
            .limit(Limits {
                memory_bytes: 96 << 20,
                cpus: 2.0,
            })
            .unwrap();
        let mut files = group.join_files().unwrap();
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read go; sleep 600 & sleep 600 & wait"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        for file in &mut files {
            use std::io::Write;
            file.write_all(child.id().to_string().as_bytes()).unwrap();
        }
        drop(child.stdin.take());
        assert!(!group.trees().is_empty());
        assert!(group.trees().iter().all(|tree| !processes(tree).is_empty()));
        assert!(!group.ran_out_of_memory());
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        group.kill();
        assert!(!reaper.join().unwrap().success());
        group.remove();
        assert!(group.trees().iter().all(|tree| !tree.exists()));
    }
}
