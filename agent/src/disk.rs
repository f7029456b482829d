//! Measures what tasks have on disk, and finds those that have more than they were given.
//!
//! A task of a built-in executor has a directory of its own; the tasks of a framework's own executor share the
//! executor's. What lies in a persistent volume counts against the volume, which is measured where it lies: in a
//! sandbox its task may put something else in its place.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use tepui_agent_core::{AgentView, ExecutorKind, ExecutorRef, Input, Limitation, volumes_of};
use tepui_api::v1::{self, task_status::Reason};
use tepui_model::format_bytes;
use tokio::sync::mpsc;

use crate::executors::{MEGABYTE, megabytes};
use crate::overstepping::{self, Whose};
use crate::owner::Event;

/// What the kernel counts a file's blocks in.
const BLOCK_BYTES: u64 = 512;
/// What each file, directory and link is counted with besides, for its entry and its inode.
const ENTRY_BYTES: u64 = 512;
/// What one without blocks of its own counts as: empty files fill a disk too, of which there can be only so many.
const EMPTY_BYTES: u64 = 4_096;

/// One directory and what may be in it.
#[derive(Debug, Clone, PartialEq)]
struct Allotment {
    whose: Whose,
    path: PathBuf,
    /// Directories that count elsewhere, should they be seen inside it.
    except: Vec<PathBuf>,
    quota_bytes: u64,
    resource: v1::Resource,
}

/// Looks at everything each interval, counted from the end of the last look, until nobody listens.
pub(crate) async fn watch(work_dir: PathBuf, interval: Duration, events: mpsc::Sender<Event>) {
    let look = |all: Vec<Allotment>| all.into_iter().filter_map(exceeded).collect();
    overstepping::watch(interval, events, |view| allotments(&work_dir, view), look).await;
}

fn allotments(work_dir: &Path, view: &AgentView) -> Vec<Allotment> {
    let mut all = Vec::new();
    let own = |executor: &ExecutorRef| {
        let held = view
            .executors
            .iter()
            .find(|held| held.executor == *executor);
        held.filter(|held| held.kind == Some(ExecutorKind::Custom))
    };
    for task in view.tasks.iter().filter(|task| !task.state.is_terminal()) {
        let executor = task.executor.clone().map(|executor| ExecutorRef {
            framework: task.task.framework.clone(),
            executor,
        });
        if task.sandbox.is_empty() || executor.as_ref().and_then(own).is_some() {
            continue;
        }
        let whose = Whose::Task(task.task.clone());
        all.extend(of_sandbox(
            &whose,
            work_dir,
            &task.sandbox,
            &task.info.resources,
        ));
    }
    for executor in view
        .executors
        .iter()
        .filter(|held| held.kind == Some(ExecutorKind::Custom))
    {
        let mut resources = executor.info.resources.clone();
        let tasks = view.tasks.iter().filter(|task| {
            task.task.framework == executor.executor.framework
                && task.executor.as_ref() == Some(&executor.executor.executor)
                && !task.state.is_terminal()
        });
        resources.extend(tasks.flat_map(|task| task.info.resources.clone()));
        let whose = Whose::Executor(executor.executor.clone());
        all.extend(of_sandbox(&whose, work_dir, &executor.sandbox, &resources));
    }
    all
}

/// The sandbox itself, if anything was given for it, and each volume that is shown in it.
fn of_sandbox(
    whose: &Whose,
    work_dir: &Path,
    sandbox: &str,
    resources: &[v1::Resource],
) -> Vec<Allotment> {
    let disk = || resources.iter().filter(|resource| resource.name == "disk");
    let volume = |resource: &v1::Resource| {
        let volume = volumes_of(std::slice::from_ref(resource)).pop()?;
        Some(work_dir.join(volume.directory.path))
    };
    let volumes: Vec<PathBuf> = disk().filter_map(volume).collect();
    let plain = disk().filter(|resource| resource.disk.is_none());
    let quota_bytes: u64 = plain.map(bytes).sum();
    let mut all = Vec::new();
    if quota_bytes > 0 {
        all.push(Allotment {
            whose: whose.clone(),
            path: work_dir.join(sandbox),
            except: volumes,
            quota_bytes,
            resource: megabytes("disk", quota_bytes),
        });
    }
    all.extend(disk().filter_map(|resource| {
        Some(Allotment {
            whose: whose.clone(),
            path: volume(resource)?,
            except: Vec::new(),
            quota_bytes: bytes(resource),
            resource: resource.clone(),
        })
    }));
    all
}

fn bytes(resource: &v1::Resource) -> u64 {
    let scalar = resource.scalar.as_ref().map_or(0.0, |scalar| scalar.value);
    (scalar * MEGABYTE) as u64
}

/// What is to be done about a directory that has too much in it. Blocks.
fn exceeded(allotment: Allotment) -> Option<Input> {
    let used = used_bytes(&allotment.path, &allotment.except);
    if used <= allotment.quota_bytes {
        return None;
    }
    let limitation = Limitation {
        reason: Reason::ContainerLimitationDisk,
        message: format!(
            "Disk usage ({}) exceeds quota ({})",
            format_bytes(used),
            format_bytes(allotment.quota_bytes)
        ),
        resources: vec![allotment.resource],
    };
    Some(allotment.whose.limited(limitation))
}

/// What the directory takes up on its disk. Links are not followed, but for the path itself; a file with several names
/// counts once; other file systems do not count, nor do the directories `except`.
fn used_bytes(path: &Path, except: &[PathBuf]) -> u64 {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(root) = nix::fcntl::open(path, flags, Mode::empty()).map(File::from) else {
        return 0;
    };
    let except = except
        .iter()
        .filter_map(|path| path.metadata().ok())
        .map(|metadata| inode(&metadata))
        .collect();
    let mut walk = Walk {
        except,
        ..Walk::default()
    };
    if let Err(error) = walk.through(&root) {
        tracing::debug!(path = %path.display(), %error, "the use of a disk is not known");
    }
    if walk.missed > 0 {
        let missed = walk.missed;
        tracing::debug!(path = %path.display(), missed, "not all of a directory can be measured");
    }
    walk.total
}

/// The device and the number that tell one directory from all others.
type Inode = (u64, u64);

fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

/// A way through a tree as deep as a tenant likes to make it: each directory is opened from the one above or below it, since
/// a path could grow too long for the kernel, and only one is kept open, since there are only so many descriptors.
#[derive(Debug, Default)]
struct Walk {
    except: Vec<Inode>,
    /// The numbers of files with several names.
    seen: BTreeSet<u64>,
    total: u64,
    /// Directories that were there and could not be looked into.
    missed: u64,
}

/// A directory that was looked into.
#[derive(Debug)]
struct Level {
    inode: Inode,
    name: OsString,
    /// The directories in it that are still to be looked into.
    left: Vec<OsString>,
}

impl Walk {
    fn through(&mut self, root: &File) -> io::Result<()> {
        let device = root.metadata()?.dev();
        let mut here = root.try_clone()?;
        let mut way = vec![self.look(&here, OsString::new(), device)?];
        while let Some(level) = way.last_mut() {
            let Some(name) = level.left.pop() else {
                way.pop();
                if !way.is_empty() {
                    here = self.back(root, &here, &mut way)?;
                }
                continue;
            };
            let looked = open_below(&here, &name).and_then(|directory| {
                let level = self.look(&directory, name, device)?;
                Ok((level, directory))
            });
            match looked {
                Ok((level, directory)) if !level.left.is_empty() => {
                    way.push(level);
                    here = directory;
                }
                Ok(_) => {}
                // What vanishes while it is looked at has nothing on disk any more.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) => {}
                Err(_) => self.missed += 1,
            }
        }
        Ok(())
    }

    /// Counts what is in a directory.
    fn look(&mut self, directory: &File, name: OsString, device: u64) -> io::Result<Level> {
        let mut level = Level {
            inode: inode(&directory.metadata()?),
            name,
            left: Vec::new(),
        };
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.dev() != device || self.except.contains(&inode(&metadata)) {
                continue;
            }
            if metadata.is_dir() {
                level.left.push(entry.file_name());
            } else if metadata.nlink() > 1 && !self.seen.insert(metadata.ino()) {
                continue;
            }
            self.total += match metadata.blocks() {
                0 => EMPTY_BYTES,
                blocks => blocks * BLOCK_BYTES + ENTRY_BYTES,
            };
        }
        Ok(level)
    }

    /// Opens the last directory of the way again, from the one below it. If that was moved elsewhere meanwhile the way is
    /// walked anew from its beginning, and ends where it is no longer what it was.
    fn back(&mut self, root: &File, below: &File, way: &mut Vec<Level>) -> io::Result<File> {
        if let (Some(level), Ok(above)) = (way.last(), open_below(below, OsStr::new("..")))
            && is(&above, level)
        {
            return Ok(above);
        }
        let mut found = root.try_clone()?;
        let mut known = 1;
        while let Some(level) = way.get(known) {
            match open_below(&found, &level.name) {
                Ok(directory) if is(&directory, level) => found = directory,
                _ => break,
            }
            known += 1;
        }
        for lost in way.drain(known..) {
            self.missed += lost.left.len() as u64;
        }
        Ok(found)
    }
}

fn open_below(directory: &File, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(directory, name, flags, Mode::empty())?))
}

fn is(directory: &File, level: &Level) -> bool {
    directory
        .metadata()
        .is_ok_and(|metadata| inode(&metadata) == level.inode)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tepui_agent_core::{ExecutorView, Standing, TaskRef, TaskView};
    use tepui_api::v1::resource::{DiskInfo, ReservationInfo, disk_info, reservation_info};
    use tepui_model::Resources;

    use super::*;
    use crate::remove::remove_all;
    use crate::remove::tests::dig;

    fn task(id: &str, executor: &str, sandbox: &str, resources: Vec<v1::Resource>) -> TaskView {
        TaskView {
            info: Arc::new(v1::TaskInfo {
                resources,
                ..Default::default()
            }),
            sandbox: sandbox.to_owned(),
            executor: Some(executor.into()),
            task: TaskRef {
                framework: "f".into(),
                task: id.into(),
            },
            state: v1::TaskState::TaskRunning,
            status: None,
            container_id: id.into(),
            told_executor: None,
            statuses: Vec::new(),
            standing: Standing::Launched,
        }
    }

    fn executor(id: &str, kind: ExecutorKind, sandbox: &str) -> ExecutorView {
        ExecutorView {
            executor: ExecutorRef {
                framework: "f".into(),
                executor: id.into(),
            },
            kind: Some(kind),
            info: Arc::new(v1::ExecutorInfo {
                resources: vec![megabytes("disk", 1 << 20)],
                ..Default::default()
            }),
            sandbox: sandbox.to_owned(),
            container_id: id.into(),
            pid: None,
            connected: true,
            resources: Resources::new(),
            live_tasks: 0,
        }
    }

    fn volume(path: &str, mb: u64) -> v1::Resource {
        let disk = DiskInfo {
            persistence: Some(disk_info::Persistence {
                id: "v".to_owned(),
                ..Default::default()
            }),
            volume: Some(v1::Volume {
                container_path: path.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let reservation = ReservationInfo {
            role: Some("a/b".to_owned()),
            r#type: Some(reservation_info::Type::Dynamic.into()),
            ..Default::default()
        };
        v1::Resource {
            disk: Some(disk),
            reservations: vec![reservation],
            ..megabytes("disk", mb << 20)
        }
    }

    #[test]
    fn tasks_answer_for_their_own_directories_and_own_executors_for_all_of_theirs() {
        let view = AgentView {
            executors: vec![
                executor("tepui-wasm", ExecutorKind::Wasm, "w"),
                executor("mine", ExecutorKind::Custom, "m"),
            ],
            tasks: vec![
                task("a", "tepui-wasm", "a", vec![megabytes("disk", 2 << 20)]),
                task("b", "tepui-wasm", "b", vec![megabytes("mem", 2 << 20)]),
                task(
                    "c",
                    "mine",
                    "m",
                    vec![megabytes("disk", 3 << 20), volume("v", 5)],
                ),
            ],
            ..Default::default()
        };
        let all = allotments(Path::new("/w"), &view);
        let told: Vec<_> = all
            .iter()
            .map(|one| (one.path.to_str().unwrap(), one.quota_bytes >> 20))
            .collect();
        let place = "/w/volumes/roles/a b/v";
        assert_eq!(told, [("/w/a", 2), ("/w/m", 4), (place, 5)]);
        assert_eq!(all[1].except, [Path::new(place)]);
        assert!(matches!(all[0].whose, Whose::Task(_)));
        assert!(matches!(all[2].whose, Whose::Executor(_)));
    }

    #[test]
    fn what_is_on_disk_counts_once_and_only_where_it_belongs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sandbox");
        std::fs::create_dir_all(path.join("deep/volume")).unwrap();
        let file = path.join("deep/file");
        std::fs::write(&file, vec![1; 1 << 20]).unwrap();
        let one = used_bytes(&path, &[]);
        assert!(one >= 1 << 20, "{one}");
        std::fs::hard_link(&file, path.join("again")).unwrap();
        std::fs::write(directory.path().join("outside"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink("../outside", path.join("link")).unwrap();
        assert!(used_bytes(&path, &[]) < one + (1 << 19));
        std::fs::write(path.join("deep/volume/file"), vec![1; 1 << 20]).unwrap();
        let except = [path.join("deep/volume")];
        assert!(used_bytes(&path, &except) < one + (1 << 19));
        assert!(used_bytes(&path, &[]) > 2 << 20);
        assert_eq!(used_bytes(Path::new("/nowhere"), &[]), 0);
        let many = directory.path().join("many");
        std::fs::create_dir(&many).unwrap();
        for number in 0..1_000 {
            std::fs::write(many.join(number.to_string()), "").unwrap();
        }
        assert!(used_bytes(&many, &[]) >= 1_000 * EMPTY_BYTES);
        let allotment = Allotment {
            whose: Whose::Task(task("a", "", "", Vec::new()).task),
            path,
            except: except.to_vec(),
            quota_bytes: 1 << 19,
            resource: megabytes("disk", 1 << 19),
        };
        let Some(Input::TaskLimited { limitation, .. }) = exceeded(allotment) else {
            panic!("it has twice what it may have")
        };
        assert_eq!(limitation.reason, Reason::ContainerLimitationDisk);
        assert!(limitation.message.contains("exceeds quota (512 KiB)"));
    }

    #[test]
    fn what_lies_deeper_than_a_path_can_say_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        // After the one the way leads back up to the other.
        for (name, depth) in [("one", 3_000), ("other", 300)] {
            let inner = dig(&top.join(name), depth);
            let file = format!("/proc/self/fd/{}/big", inner.as_raw_fd());
            std::fs::write(file, vec![1; 1 << 20]).unwrap();
        }
        let used = used_bytes(&top, &[]);
        let least = (2 << 20) + 3_300 * ENTRY_BYTES;
        assert!(used >= least, "{used} instead of {least}");
        let except = [top.join("one")];
        assert!(used_bytes(&top, &except) < used - (1 << 20));
        // The folder could not do it by itself.
        remove_all(&top).unwrap();
    }

    #[test]
    fn from_a_directory_that_was_moved_away_the_way_goes_on_from_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir_all(path.join("a/b/c")).unwrap();
        let root = File::open(path).unwrap();
        let below = File::open(path.join("a/b/c")).unwrap();
        let level = |name: &str| Level {
            inode: inode(&path.join(name).metadata().unwrap()),
            name: Path::new(name).file_name().unwrap_or_default().to_owned(),
            left: vec!["next".into()],
        };
        let mut way = vec![level(""), level("a"), level("a/b")];
        let mut walk = Walk::default();
        let found = walk.back(&root, &below, &mut way).unwrap();
        assert!(is(&found, &way[2]));
        std::fs::rename(path.join("a/b/c"), path.join("c")).unwrap();
        let found = walk.back(&root, &below, &mut way).unwrap();
        assert!(is(&found, &way[2]));
        std::fs::rename(path.join("a"), path.join("d")).unwrap();
        let found = walk.back(&root, &below, &mut way).unwrap();
        assert!(is(&found, &way[0]));
        assert_eq!((way.len(), walk.missed), (1, 2));
    }
}
