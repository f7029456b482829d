//! Measures what tasks have on disk, and finds those that have more than they were given.
//!
//! A task of a built-in executor has a directory of its own; the tasks of a framework's own executor share the
//! executor's. What lies in a persistent volume counts against the volume.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tepui_agent_core::{AgentView, ExecutorKind, ExecutorRef, Input, Limitation};
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
    /// What inside it counts elsewhere.
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
        let path = work_dir.join(&task.sandbox);
        all.extend(of_directory(&whose, &path, &task.info.resources));
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
        let path = work_dir.join(&executor.sandbox);
        all.extend(of_directory(&whose, &path, &resources));
    }
    all
}

/// The sandbox itself, if anything was given for it, and each volume in it.
fn of_directory(whose: &Whose, path: &Path, resources: &[v1::Resource]) -> Vec<Allotment> {
    let disk = || resources.iter().filter(|resource| resource.name == "disk");
    let volume = |resource: &v1::Resource| {
        let disk = resource.disk.as_ref()?;
        disk.persistence.as_ref()?;
        Some(path.join(&disk.volume.as_ref()?.container_path))
    };
    let volumes: Vec<PathBuf> = disk().filter_map(volume).collect();
    let plain = disk().filter(|resource| resource.disk.is_none());
    let quota_bytes: u64 = plain.map(bytes).sum();
    let mut all = Vec::new();
    if quota_bytes > 0 {
        all.push(Allotment {
            whose: whose.clone(),
            path: path.to_path_buf(),
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
/// counts once; other file systems do not count.
fn used_bytes(path: &Path, except: &[PathBuf]) -> u64 {
    let Ok(root) = path.metadata() else { return 0 };
    let mut total = 0;
    let mut seen = BTreeSet::new();
    // What vanishes while it is looked at has nothing on disk any more.
    let mut directories = vec![path.canonicalize().unwrap_or_else(|_| path.to_path_buf())];
    let except: Vec<PathBuf> = except
        .iter()
        .filter_map(|path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?)))
        .collect();
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let path = entry.path();
            if metadata.dev() != root.dev() || except.contains(&path) {
                continue;
            }
            if metadata.is_dir() {
                directories.push(path);
            } else if metadata.nlink() > 1 && !seen.insert(metadata.ino()) {
                continue;
            }
            total += match metadata.blocks() {
                0 => EMPTY_BYTES,
                blocks => blocks * BLOCK_BYTES + ENTRY_BYTES,
            };
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tepui_agent_core::{ExecutorView, Standing, TaskRef, TaskView};
    use tepui_api::v1::resource::{DiskInfo, disk_info};
    use tepui_model::Resources;

    use super::*;

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
        v1::Resource {
            disk: Some(disk),
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
        assert_eq!(told, [("/w/a", 2), ("/w/m", 4), ("/w/m/v", 5)]);
        assert_eq!(all[1].except, [Path::new("/w/m/v")]);
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
}
