//! Persistent volumes on disk: their directories, made and removed in order, and how sandboxes come to show them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use tepui_agent_core::{Input, Volume, VolumeDirectory};
use tepui_api::ext::launch_plan;
use tokio::sync::oneshot;

use crate::confine::{Directory, inside};
use crate::owner::Event;
use crate::remove::remove_all;
use crate::sandbox;

/// Where volumes wait for their removal, so that their names are free at once.
const DOOMED: &str = "volumes/doomed";

#[derive(Debug, thiserror::Error)]
pub(crate) enum PersistentError {
    #[error(
        "the volume's path '{0}' must be relative: a native task sees this machine's files, and its volumes in its sandbox"
    )]
    Absolute(String),
    #[error("the volume's path '{0}' leads out of the sandbox")]
    Outside(String),
    #[error("the volume at '{path}' cannot be made: {cause}")]
    Make { path: String, cause: String },
}

enum Work {
    Make(PathBuf, Option<oneshot::Sender<io::Result<()>>>),
    Remove(VolumeDirectory),
}

/// The one thread that makes and removes the directories of volumes, in the order given.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    work_dir: PathBuf,
    queue: mpsc::Sender<Work>,
}

impl Volumes {
    pub(crate) fn start(
        work_dir: PathBuf,
        events: tokio::sync::mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        // What an earlier process had set aside.
        remove_doomed(work_dir.join(DOOMED));
        let (queue, works) = mpsc::channel();
        let own = work_dir.clone();
        std::thread::Builder::new()
            .name("tepui-volumes".to_owned())
            .spawn(move || {
                for work in works {
                    perform(&own, work, &events);
                }
            })?;
        Ok(Self { work_dir, queue })
    }

    pub(crate) fn make(&self, directory: &VolumeDirectory) {
        let path = self.work_dir.join(&directory.path);
        let _ = self.queue.send(Work::Make(path, None));
    }

    pub(crate) fn remove(&self, directory: VolumeDirectory) {
        let _ = self.queue.send(Work::Remove(directory));
    }

    /// Makes sure of the volumes of a task and shows them in its sandbox: to a wasm task by opening them to it, to a
    /// native one by a link, or by a mount if it must not write.
    pub(crate) async fn mount(
        &self,
        sandbox: &Path,
        volumes: Vec<Volume>,
        body: launch_plan::Body,
    ) -> Result<Vec<launch_plan::Mount>, PersistentError> {
        let mut mounts = Vec::with_capacity(volumes.len());
        for volume in volumes {
            let relative = relative(&volume.container_path, body)?;
            let failed = |cause: String| PersistentError::Make {
                path: volume.container_path.clone(),
                cause,
            };
            let host_path = self.work_dir.join(&volume.directory.path);
            let (made, answer) = oneshot::channel();
            let _ = self.queue.send(Work::Make(host_path.clone(), Some(made)));
            match answer.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(failed(error.to_string())),
                Err(_) => return Err(failed("the agent is stopping".to_owned())),
            }
            let linked = body == launch_plan::Body::Native && !volume.read_only;
            let (sandbox, target, place) =
                (sandbox.to_path_buf(), host_path.clone(), relative.clone());
            let shown = tokio::task::spawn_blocking(move || {
                let sandbox = Directory::open(&sandbox)?;
                if linked {
                    sandbox.create_symlink(&target, &place)
                } else {
                    sandbox.create_directories(&place).map(drop)
                }
            });
            match shown.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(failed(error.to_string())),
                Err(error) => return Err(failed(error.to_string())),
            }
            mounts.push(launch_plan::Mount {
                host_path: host_path.to_string_lossy().into_owned(),
                container_path: relative.to_string_lossy().into_owned(),
                read_only: Some(volume.read_only),
                shared: Some(volume.shared),
            });
        }
        Ok(mounts)
    }

    /// Links the volumes into the sandbox of a framework's own executor.
    pub(crate) fn link(&self, sandbox: &str, volumes: &[Volume]) -> Result<(), PersistentError> {
        for volume in volumes {
            let relative = relative(&volume.container_path, launch_plan::Body::Native)?;
            let linked = sandbox::create(&self.work_dir, sandbox).and_then(|path| {
                let target = self.work_dir.join(&volume.directory.path);
                let is_there =
                    || std::fs::read_link(path.join(&relative)).is_ok_and(|link| link == target);
                if is_there() {
                    return Ok(());
                }
                let made = Directory::open(&path)?.create_symlink(&target, &relative);
                // The tasks of a group are made ready side by side.
                made.or_else(|error| if is_there() { Ok(()) } else { Err(error) })
            });
            linked.map_err(|error| PersistentError::Make {
                path: volume.container_path.clone(),
                cause: error.to_string(),
            })?;
        }
        Ok(())
    }
}

/// The path inside the sandbox. For a wasm task the sandbox is all there is, so that a path from its root is one too.
pub(crate) fn relative(
    container_path: &str,
    body: launch_plan::Body,
) -> Result<PathBuf, PersistentError> {
    let path = match container_path.strip_prefix('/') {
        Some(_) if body == launch_plan::Body::Native => {
            return Err(PersistentError::Absolute(container_path.to_owned()));
        }
        Some(rest) => rest.trim_start_matches('/'),
        None => container_path,
    };
    match inside(Path::new(path)) {
        Ok(path) if path.file_name().is_some() => Ok(path),
        _ => Err(PersistentError::Outside(container_path.to_owned())),
    }
}

fn perform(work_dir: &Path, work: Work, events: &tokio::sync::mpsc::Sender<Event>) {
    match work {
        Work::Make(path, asked) => {
            let made = std::fs::create_dir_all(&path);
            match asked {
                Some(asked) => drop(asked.send(made)),
                None => {
                    if let Err(error) = made {
                        tracing::error!(volume = %path.display(), %error, "a volume cannot be made");
                    }
                }
            }
        }
        Work::Remove(directory) => {
            if let Err(error) = set_aside(work_dir, &directory) {
                tracing::error!(volume = directory.path, %error, "a volume cannot be removed");
            }
            let removed = Input::VolumeRemoved { directory };
            let _ = events.blocking_send(Event::Core(Box::new(removed)));
        }
    }
}

/// Takes the volume's files from where they are; removing them may last.
fn set_aside(work_dir: &Path, directory: &VolumeDirectory) -> io::Result<()> {
    let path = work_dir.join(&directory.path);
    if directory.is_mount {
        for entry in std::fs::read_dir(&path)? {
            remove_all(&entry?.path())?;
        }
        return Ok(());
    }
    if !path.try_exists()? {
        return Ok(());
    }
    let doomed = work_dir.join(DOOMED);
    std::fs::create_dir_all(&doomed)?;
    let aside = doomed.join(uuid::Uuid::new_v4().to_string());
    match std::fs::rename(&path, &aside) {
        // On another file system it cannot be moved away.
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => remove_all(&path),
        Err(error) => Err(error),
        Ok(()) => {
            remove_doomed(aside);
            Ok(())
        }
    }
}

fn remove_doomed(path: PathBuf) {
    std::thread::spawn(move || match remove_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "destroyed volumes are still there");
        }
        _ => {}
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(container_path: &str, read_only: bool) -> Volume {
        Volume {
            directory: VolumeDirectory {
                path: "volumes/roles/a b/v".to_owned(),
                is_mount: false,
            },
            container_path: container_path.to_owned(),
            read_only,
            shared: false,
        }
    }

    struct Bench {
        folder: tempfile::TempDir,
        volumes: Volumes,
        inbox: tokio::sync::mpsc::Receiver<Event>,
        sandbox: PathBuf,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let (events, inbox) = tokio::sync::mpsc::channel(10);
        let volumes = Volumes::start(folder.path().to_path_buf(), events).unwrap();
        let sandbox = folder.path().join("sandbox");
        std::fs::create_dir(&sandbox).unwrap();
        Bench {
            folder,
            volumes,
            inbox,
            sandbox,
        }
    }

    #[tokio::test]
    async fn what_one_task_wrote_is_there_for_the_next_until_the_volume_is_removed() {
        let mut bench = bench();
        let native = launch_plan::Body::Native;
        let mounts = bench
            .volumes
            .mount(&bench.sandbox, vec![volume("deep/data", false)], native)
            .await
            .unwrap();
        std::fs::write(bench.sandbox.join("deep/data/file"), "text").unwrap();
        let host = bench.folder.path().join("volumes/roles/a b/v");
        assert_eq!(mounts[0].host_path, host.to_string_lossy());
        assert_eq!(std::fs::read(host.join("file")).unwrap(), b"text");

        bench.volumes.remove(volume("", false).directory);
        bench.volumes.make(&volume("", false).directory);
        let wasm = launch_plan::Body::Wasm;
        let again = vec![volume("/again", false)];
        let mounts = bench.volumes.mount(&bench.sandbox, again, wasm).await;
        assert_eq!(mounts.unwrap()[0].container_path, "again");
        assert!(!host.join("file").exists(), "a new volume is empty");
        assert!(bench.sandbox.join("again").is_dir());
        assert!(matches!(
            bench.inbox.recv().await,
            Some(Event::Core(input)) if matches!(*input, Input::VolumeRemoved { .. })
        ));
    }

    #[tokio::test]
    async fn a_volume_is_shown_inside_the_sandbox_or_not_at_all() {
        let bench = bench();
        for (path, body) in [
            ("../out", launch_plan::Body::Wasm),
            ("/", launch_plan::Body::Wasm),
            ("", launch_plan::Body::Native),
            ("/data", launch_plan::Body::Native),
            ("a/../../b", launch_plan::Body::Native),
        ] {
            let mounted = bench
                .volumes
                .mount(&bench.sandbox, vec![volume(path, false)], body)
                .await;
            assert!(mounted.is_err(), "{path}");
        }
        // A link that an archive put there leads nowhere.
        std::os::unix::fs::symlink("/", bench.sandbox.join("up")).unwrap();
        let mounted = bench
            .volumes
            .mount(
                &bench.sandbox,
                vec![volume("up/data", true)],
                launch_plan::Body::Native,
            )
            .await;
        assert!(mounted.is_err());
    }

    #[test]
    fn an_executors_sandbox_gets_its_links_once() {
        let bench = bench();
        let sandbox = "slaves/s/frameworks/f/executors/e/runs/c";
        for _ in 0..2 {
            bench
                .volumes
                .link(sandbox, &[volume("data", false)])
                .unwrap();
        }
        let link = bench.folder.path().join(sandbox).join("data");
        assert_eq!(
            std::fs::read_link(link).unwrap(),
            bench.folder.path().join("volumes/roles/a b/v")
        );
    }
}
