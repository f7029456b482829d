//! The second wall around a process that runs strangers' code: should the first, the wasm runtime, be broken through,
//! there is nothing behind it but what the [`Plan`] names.
//!
//! A process shuts itself in by [`Plan::enter`] while it has a single thread and has not looked at anything a tenant
//! said. Four things hold from then on, each without the others:
//!
//! - it sees only the directories it was given (a mount namespace with a root of its own, where it is root to begin with),
//! - it is nobody's user but its own (the same),
//! - the kernel refuses every other file, signals and abstract sockets across the wall (landlock, where the kernel has it),
//! - the kernel knows no other calls than those a runtime needs, and no way to start a program (seccomp).
//!
//! What cannot be had is left out and reported in [`Standing`], so that an operator hears of it.

mod calls;
mod files;
mod identity;
mod output;
mod read_only;
mod view;

pub use identity::{Identity, IdentityError};
pub use output::{open_directly, open_output};
pub use read_only::ReadOnly;

use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// The variable an agent hands the plan over in, as JSON.
pub const VARIABLE: &str = "TEPUI_WALL";

/// What of the host's files a resolver and a TLS client read; what is not there is left out.
const SYSTEM_FILES: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/gai.conf",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
];
/// What programs need to run: those of checks.
const PROGRAMS: &[&str] = &[
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/usr",
    "/opt",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/passwd",
    "/etc/group",
];
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// What a process may do with a directory and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read it.
    Read,
    /// Read, write, make and remove.
    Write,
}

/// One directory or file of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Absolute; seen at the same place inside. What is not there is left out.
    pub path: PathBuf,
    /// What may be done with it.
    pub access: Access,
}

/// What a process is to have once it is shut in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The user, and group, it becomes; `None` for whoever it is. Needs root.
    pub user: Option<u32>,
    /// Whether it gets a file system view of its own. Needs root.
    pub own_view: bool,
    /// What it is given, besides a few files of the system.
    pub grants: Vec<Grant>,
    /// Whether it may start programs, which then are behind the same wall: those of the system and of its directories.
    #[serde(default)]
    pub runs_programs: bool,
}

/// Why a process could not be shut in.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct WallError {
    step: String,
    cause: String,
}

impl WallError {
    pub(crate) fn new(step: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self {
            step: step.into(),
            cause: cause.to_string(),
        }
    }
}

/// Which parts of the wall stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// A user of its own.
    pub user: bool,
    /// A file system view of its own.
    pub view: bool,
    /// Landlock, at least in part.
    pub landlock: bool,
    /// The list of system calls.
    pub seccomp: bool,
}

impl fmt::Display for Standing {
    /// The parts that stand, joined by `+`; `none`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.user, "user"),
            (self.view, "view"),
            (self.landlock, "landlock"),
            (self.seccomp, "seccomp"),
        ];
        let standing: Vec<&str> = parts
            .iter()
            .filter(|(stands, _)| *stands)
            .map(|(_, name)| *name)
            .collect();
        if standing.is_empty() {
            return formatter.write_str("none");
        }
        formatter.write_str(&standing.join("+"))
    }
}

impl Plan {
    /// The plan in the environment; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn from_env() -> Result<Option<Self>, WallError> {
        let Some(text) = std::env::var_os(VARIABLE) else {
            return Ok(None);
        };
        serde_json::from_str(&text.to_string_lossy())
            .map(Some)
            .map_err(|error| {
                WallError::new(format!("the variable {VARIABLE} is not a plan"), error)
            })
    }

    /// As it stands in the environment.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Shuts the calling process in for good. It must have one thread. The working directory stays if it is among the
    /// grants, and is `/` otherwise.
    ///
    /// # Errors
    /// If a part that was asked for cannot be had; then the process is half shut in and best ends. Landlock is asked for
    /// as far as the kernel has it.
    pub fn enter(&self) -> Result<Standing, WallError> {
        let grants = self.all_grants();
        if self.own_view {
            view::enter(&grants, self.user, self.runs_programs)?;
        }
        if let Some(user) = self.user {
            become_user(user)?;
        }
        nix::sys::prctl::set_no_new_privs()
            .map_err(|errno| WallError::new("no_new_privs", errno))?;
        no_cores()?;
        let landlock = files::restrict(&grants, self.own_view, self.runs_programs)?;
        calls::restrict(self.runs_programs)?;
        Ok(Standing {
            user: self.user.is_some(),
            view: self.own_view,
            landlock,
            seccomp: true,
        })
    }

    /// With what every plan has.
    fn all_grants(&self) -> Vec<Grant> {
        let read = |path: &&str| Grant {
            path: PathBuf::from(path),
            access: Access::Read,
        };
        let devices = DEVICES.iter().map(|path| Grant {
            path: PathBuf::from(path),
            access: Access::Write,
        });
        let programs: &[&str] = if self.runs_programs { PROGRAMS } else { &[] };
        SYSTEM_FILES
            .iter()
            .chain(programs)
            .map(read)
            .chain(devices)
            .chain(self.grants.iter().cloned())
            .filter(|grant| grant.path.is_absolute() && grant.path != Path::new("/"))
            .collect()
    }
}

fn become_user(user: u32) -> Result<(), WallError> {
    let failed = |errno: Errno| WallError::new(format!("becoming user {user}"), errno);
    nix::unistd::setgroups(&[]).map_err(failed)?;
    let (uid, gid) = (
        nix::unistd::Uid::from_raw(user),
        nix::unistd::Gid::from_raw(user),
    );
    nix::unistd::setresgid(gid, gid, gid).map_err(failed)?;
    nix::unistd::setresuid(uid, uid, uid).map_err(failed)?;
    // A change of user makes the process's own entries in /proc root's. Those of the same user are behind walls of their
    // own, and cores are never written.
    nix::sys::prctl::set_dumpable(true).map_err(failed)
}

/// What is in a tenant's memory is not to lie about in files.
fn no_cores() -> Result<(), WallError> {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
        .map_err(|errno| WallError::new("the limit of core files", errno))
}

/// Whether the users of this range exist where this process is: a container may know but a few.
#[must_use]
pub fn knows_users(first: u32, last: u32) -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else {
        return false;
    };
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        match (fields.next(), fields.nth(1)) {
            (Some(Ok(start)), Some(Ok(count))) => {
                start <= u64::from(first) && u64::from(last) < start + count
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_its_way_through_the_environment() {
        let plan = Plan {
            user: Some(7),
            own_view: true,
            grants: vec![Grant {
                path: PathBuf::from("/a b"),
                access: Access::Write,
            }],
            runs_programs: false,
        };
        assert_eq!(
            serde_json::from_str::<Plan>(&plan.to_text()).expect("a plan"),
            plan
        );
    }

    #[test]
    fn what_stands_is_named() {
        let mut standing = Standing {
            user: false,
            view: false,
            landlock: false,
            seccomp: false,
        };
        assert_eq!(standing.to_string(), "none");
        standing.user = true;
        standing.seccomp = true;
        assert_eq!(standing.to_string(), "user+seccomp");
    }

    #[test]
    fn the_root_directory_is_never_granted() {
        let plan = Plan {
            grants: vec![Grant {
                path: PathBuf::from("/"),
                access: Access::Write,
            }],
            ..Plan::default()
        };
        assert!(
            plan.all_grants()
                .iter()
                .all(|grant| grant.path != Path::new("/"))
        );
    }
}
