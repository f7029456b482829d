//! Removes the sandboxes of ended tasks, later if there is room and sooner if there is little.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

/// How often it is looked whether something is due.
const INTERVAL: Duration = Duration::from_secs(60);
/// The part of the disk that should stay free: the fuller it is, the younger is what goes.
const HEADROOM: f64 = 0.1;

/// Where ended sandboxes are handed in.
#[derive(Debug, Clone)]
pub(crate) struct Garbage {
    sender: mpsc::UnboundedSender<(SystemTime, PathBuf)>,
}

impl Garbage {
    /// Starts the collector; sandboxes an earlier process left are found by looking, but for those in `live`.
    pub(crate) fn start(work_dir: PathBuf, delay: Duration, live: Vec<String>) -> Self {
        let (sender, mut inbox) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (directory, keep) = (
                work_dir.clone(),
                live.iter().map(|path| work_dir.join(path)).collect(),
            );
            let left = tokio::task::spawn_blocking(move || left_over(&directory, &keep)).await;
            let mut ended: Vec<(SystemTime, PathBuf)> = left.unwrap_or_default();
            loop {
                match tokio::time::timeout(INTERVAL, inbox.recv_many(&mut ended, usize::MAX)).await
                {
                    Ok(0) => return,
                    Ok(_) => {
                        // Nothing ends and is due at once.
                        tokio::time::sleep(INTERVAL).await;
                    }
                    Err(_) => {}
                }
                let (directory, mut mine) = (work_dir.clone(), std::mem::take(&mut ended));
                let collected = tokio::task::spawn_blocking(move || {
                    collect(
                        &mut mine,
                        SystemTime::now(),
                        max_age(delay, usage(&directory)),
                    );
                    mine
                });
                ended = collected.await.unwrap_or_default();
            }
        });
        Self { sender }
    }

    pub(crate) fn ended(&self, sandbox: PathBuf) {
        // The collector ends with the runtime; then it does not matter.
        let _ = self.sender.send((SystemTime::now(), sandbox));
    }
}

/// Mesos's rule.
fn max_age(delay: Duration, usage: f64) -> Duration {
    delay.mul_f64((1.0 - HEADROOM - usage).max(0.0))
}

fn usage(work_dir: &Path) -> f64 {
    nix::sys::statvfs::statvfs(work_dir).map_or(0.0, |found| {
        let total = found.blocks().max(1) as f64;
        1.0 - found.blocks_available() as f64 / total
    })
}

fn collect(ended: &mut Vec<(SystemTime, PathBuf)>, now: SystemTime, max_age: Duration) {
    ended.retain(|(at, sandbox)| {
        if now.duration_since(*at).unwrap_or_default() < max_age {
            return true;
        }
        if let Err(error) = std::fs::remove_dir_all(sandbox) {
            tracing::debug!(sandbox = %sandbox.display(), %error, "a sandbox could not be removed");
        }
        // `runs` and what is above it go with the last run; `latest` then points nowhere.
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
        false
    });
}

/// All runs below the work directory, with when they were touched last.
fn left_over(work_dir: &Path, live: &BTreeSet<PathBuf>) -> Vec<(SystemTime, PathBuf)> {
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
    runs.filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
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
        assert_eq!(
            found.iter().map(|(_, path)| path).collect::<Vec<_>>(),
            [&old]
        );
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
        let week = Duration::from_secs(604_800);
        assert!(max_age(week, 0.2) > max_age(week, 0.6));
        assert_eq!(max_age(week, 0.95), Duration::ZERO);
    }
}
