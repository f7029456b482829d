//! Removes the sandboxes nobody uses any more: later if there is room, and sooner if there is little.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::remove::remove_all;

/// When a sandbox goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How long it stays at most.
    pub(crate) delay: Duration,
    /// The part of the disk that should stay free: the fuller it is, the younger is what goes.
    pub(crate) headroom: f64,
    /// How many stay at most; beyond it the oldest go.
    pub(crate) most: usize,
    /// How often it is looked whether something is due.
    pub(crate) interval: Duration,
}

/// Sandboxes and when they were handed in, the oldest first.
type Queue = VecDeque<(SystemTime, PathBuf)>;

/// By how much the time of a file may be behind the clock.
const CLOCK_LAG: Duration = Duration::from_millis(100);

impl Rules {
    /// Mesos's rule.
    fn max_age(&self, usage: f64) -> Duration {
        self.delay.mul_f64((1.0 - self.headroom - usage).max(0.0))
    }

    /// So many may wait before it is looked out of turn: removing them in batches costs less than one by one.
    fn batch_above(&self) -> usize {
        self.most.saturating_add(self.most / 8).saturating_add(1)
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
        // What is made while it looks is in use. File systems tell the time a little late.
        let before = SystemTime::now() - CLOCK_LAG;
        tokio::spawn(async move {
            let (directory, keep) = (
                work_dir.clone(),
                live.iter().map(|path| work_dir.join(path)).collect(),
            );
            let left = tokio::task::spawn_blocking(move || left_over(&directory, &keep)).await;
            let mut waiting: Queue = left.unwrap_or_default();
            waiting.retain(|(touched, _)| *touched < before);
            let mut looks = tokio::time::interval(rules.interval);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut enough = rules.batch_above();
            loop {
                let look = tokio::select! {
                    handed_in = inbox.recv() => match handed_in {
                        Some((sandbox, at)) => {
                            waiting.push_back((at, sandbox));
                            waiting.len() >= enough
                        }
                        None => return,
                    },
                    _ = looks.tick() => true,
                };
                if look {
                    let (directory, mut mine) = (work_dir.clone(), std::mem::take(&mut waiting));
                    let collected = tokio::task::spawn_blocking(move || {
                        let max_age = rules.max_age(usage(&directory));
                        collect(&mut mine, SystemTime::now(), max_age, rules.most);
                        mine
                    });
                    waiting = collected.await.unwrap_or_default();
                    // What must stay for another reason is not looked at again at once.
                    enough = rules.batch_above().max(waiting.len() + rules.most / 8 + 1);
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

/// The part of the disk that is taken: of its bytes, or of the files it can have, whichever is more.
fn usage(work_dir: &Path) -> f64 {
    let taken = |available: u64, all: u64| 1.0 - available as f64 / all.max(1) as f64;
    nix::sys::statvfs::statvfs(work_dir).map_or(0.0, |found| {
        let bytes = taken(found.blocks_available(), found.blocks());
        match found.files() {
            // Some file systems make room for files as they go.
            0 => bytes,
            files => bytes.max(taken(found.files_available(), files)),
        }
    })
}

/// Removes from the front of the queue what is too old, and what is more than `most`.
fn collect(waiting: &mut Queue, now: SystemTime, max_age: Duration, most: usize) {
    let mounts = mounts();
    let mut kept = Vec::new();
    while let Some((at, _)) = waiting.front() {
        let is_due = now.duration_since(*at).unwrap_or_default() >= max_age;
        if !is_due && waiting.len() + kept.len() <= most {
            break;
        }
        let Some((at, sandbox)) = waiting.pop_front() else {
            break;
        };
        if let Some(mount) = mounts.iter().find(|mount| mount.starts_with(&sandbox)) {
            // Removing it would remove what is mounted there, which is not the sandbox's.
            tracing::warn!(mount = %mount.display(), "a sandbox is kept, for something is mounted in it");
            kept.push((at, sandbox));
            continue;
        }
        match remove_all(&sandbox) {
            Ok(()) => tracing::debug!(sandbox = %sandbox.display(), "a sandbox was removed"),
            Err(error) => {
                tracing::debug!(sandbox = %sandbox.display(), %error, "a sandbox could not be removed");
            }
        }
        remove_empty_above(&sandbox);
    }
    for sandbox in kept.into_iter().rev() {
        waiting.push_front(sandbox);
    }
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

/// All runs below the work directory, by when they were touched last.
fn left_over(work_dir: &Path, live: &BTreeSet<PathBuf>) -> Queue {
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
    let touched = |path: PathBuf| Some((path.metadata().ok()?.modified().ok()?, path));
    let mut found: Vec<_> = runs.filter_map(touched).collect();
    found.sort_unstable();
    found.into()
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
        collect(&mut found, now, Duration::from_secs(1000), 1);
        assert!(old.exists());
        collect(&mut found, now, Duration::from_secs(10), 1);
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
    fn of_more_than_may_stay_the_oldest_go() {
        let work_dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let mut waiting = Queue::new();
        for task in 0_u64..5 {
            let name = format!("slaves/s/frameworks/f/executors/t{task}/runs/c");
            let sandbox = sandbox::create(work_dir.path(), &name).unwrap();
            waiting.push_back((now + Duration::from_secs(task), sandbox));
        }
        let all: Vec<PathBuf> = waiting.iter().map(|(_, path)| path.clone()).collect();
        collect(&mut waiting, now, Duration::from_secs(1000), 3);
        let there: Vec<bool> = all.iter().map(|path| path.exists()).collect();
        assert_eq!(there, [false, false, true, true, true]);
        assert_eq!(waiting.len(), 3);
    }

    #[tokio::test]
    async fn what_is_handed_in_beyond_the_bound_does_not_wait_for_the_next_look() {
        let work_dir = tempfile::tempdir().unwrap();
        let rules = Rules {
            delay: Duration::from_secs(604_800),
            headroom: 0.0,
            most: 10,
            interval: Duration::from_secs(3600),
        };
        let garbage = Garbage::start(work_dir.path().to_owned(), rules, Vec::new());
        let sandboxes: Vec<PathBuf> = (0..100)
            .map(|task| {
                let name = format!("slaves/s/frameworks/f/executors/t{task}/runs/c");
                sandbox::create(work_dir.path(), &name).unwrap()
            })
            .collect();
        for sandbox in &sandboxes {
            garbage.hand_in(sandbox.clone());
        }
        let left = || sandboxes.iter().filter(|sandbox| sandbox.exists()).count();
        for _ in 0..1_000 {
            if left() <= 12 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(left() <= 12, "{} are left", left());
        assert!(sandboxes[99].exists(), "the youngest stays");
    }

    #[test]
    fn the_fuller_the_disk_the_younger_is_what_goes() {
        let rules = Rules {
            delay: Duration::from_secs(604_800),
            headroom: 0.1,
            most: 1_000,
            interval: Duration::from_secs(60),
        };
        assert!(rules.max_age(0.2) > rules.max_age(0.6));
        assert_eq!(rules.max_age(0.95), Duration::ZERO);
    }
}
