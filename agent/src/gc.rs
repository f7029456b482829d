//! Removes the sandboxes nobody uses any more: later if there is room, and sooner if there is little.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// When a sandbox goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How long it stays at most.
    pub(crate) delay: Duration,
    /// The part of the disk that should stay free: the fuller it is, the younger is what goes.
    pub(crate) headroom: f64,
    /// How often it is looked whether something is due.
    pub(crate) interval: Duration,
}

impl Rules {
    /// Mesos's rule.
    fn max_age(&self, usage: f64) -> Duration {
        self.delay.mul_f64((1.0 - self.headroom - usage).max(0.0))
    }
}

/// Where sandboxes are handed in.
#[derive(Debug, Clone)]
pub(crate) struct Garbage {
    sender: mpsc::UnboundedSender<(PathBuf, SystemTime)>,
}

impl Garbage {
    /// Starts the collector; sandboxes an earlier process left are found by looking, but for those in `live`.
    pub(crate) fn start(work_dir: PathBuf, rules: Rules, live: Vec<String>) -> Self {
        let (sender, mut inbox) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (directory, keep) = (
                work_dir.clone(),
                live.iter().map(|path| work_dir.join(path)).collect(),
            );
            let left = tokio::task::spawn_blocking(move || left_over(&directory, &keep)).await;
            let mut waiting: BTreeMap<PathBuf, SystemTime> = left.unwrap_or_default();
            let mut looks = tokio::time::interval(rules.interval);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    handed_in = inbox.recv() => match handed_in {
                        Some((sandbox, at)) => drop(waiting.insert(sandbox, at)),
                        None => return,
                    },
                    _ = looks.tick() => {
                        let (directory, mut mine) = (work_dir.clone(), std::mem::take(&mut waiting));
                        let collected = tokio::task::spawn_blocking(move || {
                            collect(&mut mine, SystemTime::now(), rules.max_age(usage(&directory)));
                            mine
                        });
                        waiting = collected.await.unwrap_or_default();
                    }
                }
            }
        });
        Self { sender }
    }

    pub(crate) fn hand_in(&self, sandbox: PathBuf) {
        // The collector ends with the runtime; then it does not matter.
        let _ = self.sender.send((sandbox, SystemTime::now()));
    }
}

fn usage(work_dir: &Path) -> f64 {
    nix::sys::statvfs::statvfs(work_dir).map_or(0.0, |found| {
        let total = found.blocks().max(1) as f64;
        1.0 - found.blocks_available() as f64 / total
    })
}

fn collect(waiting: &mut BTreeMap<PathBuf, SystemTime>, now: SystemTime, max_age: Duration) {
    let mounts = mounts();
    waiting.retain(|sandbox, at| {
        if now.duration_since(*at).unwrap_or_default() < max_age {
            return true;
        }
        if let Some(mount) = mounts.iter().find(|mount| mount.starts_with(sandbox)) {
            // Removing it would remove what is mounted there, which is not the sandbox's.
            tracing::warn!(mount = %mount.display(), "a sandbox is kept, for something is mounted in it");
            return true;
        }
        match std::fs::remove_dir_all(sandbox) {
            Ok(()) => tracing::debug!(sandbox = %sandbox.display(), "a sandbox was removed"),
            Err(error) => {
                tracing::debug!(sandbox = %sandbox.display(), %error, "a sandbox could not be removed");
            }
        }
        remove_empty_above(sandbox);
        false
    });
}

/// `runs` and what is above it go with the last run; `latest` then points nowhere.
fn remove_empty_above(sandbox: &Path) {
    let mut above = sandbox.parent();
    while let Some(directory) =
        above.filter(|directory| directory.file_name().is_some_and(|name| name != "slaves"))
    {
        let latest = directory.join("latest");
        if latest.is_symlink() && !latest.exists() {
            let _ = std::fs::remove_file(latest);
        }
        if std::fs::remove_dir(directory).is_err() {
            break;
        }
        above = directory.parent();
    }
}

/// Where file systems are mounted. Spaces in such a path are written otherwise by the kernel, and agents do not use any.
fn mounts() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(PathBuf::from).collect()
}

/// All runs below the work directory, with when they were touched last.
fn left_over(work_dir: &Path, live: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, SystemTime> {
    let mut level = vec![work_dir.join("slaves")];
    // slaves/<agent>/frameworks/<framework>/executors/<executor>/runs/<container>
    for fixed in ["frameworks", "executors", "runs"] {
        level = level
            .iter()
            .flat_map(|path| directories(path))
            .map(|path| path.join(fixed))
            .collect();
    }
    let runs = level
        .iter()
        .flat_map(|path| directories(path))
        .filter(|path| !live.contains(path));
    runs.filter_map(|path| {
        let touched = path.metadata().ok()?.modified().ok()?;
        Some((path, touched))
    })
    .collect()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox;

    #[test]
    fn old_sandboxes_go_with_all_that_only_led_to_them() {
        let work_dir = tempfile::tempdir().unwrap();
        let name = |task: &str| format!("slaves/s/frameworks/f/executors/{task}/runs/c");
        let old = sandbox::create(work_dir.path(), &name("old")).unwrap();
        let live = sandbox::create(work_dir.path(), &name("live")).unwrap();
        let mut found = left_over(work_dir.path(), &BTreeSet::from([live.clone()]));
        assert_eq!(found.keys().collect::<Vec<_>>(), [&old]);
        let now = SystemTime::now() + Duration::from_secs(100);
        collect(&mut found, now, Duration::from_secs(1000));
        assert!(old.exists());
        collect(&mut found, now, Duration::from_secs(10));
        assert!(found.is_empty());
        assert!(
            !work_dir
                .path()
                .join("slaves/s/frameworks/f/executors/old")
                .exists()
        );
        assert!(live.exists());
    }

    #[test]
    fn the_fuller_the_disk_the_younger_is_what_goes() {
        let rules = Rules {
            delay: Duration::from_secs(604_800),
            headroom: 0.1,
            interval: Duration::from_secs(60),
        };
        assert!(rules.max_age(0.2) > rules.max_age(0.6));
        assert_eq!(rules.max_age(0.95), Duration::ZERO);
    }
}
