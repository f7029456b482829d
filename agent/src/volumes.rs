//! Volumes of tasks: directories of their own sandbox, of their group's, or of the host, at the paths they want them at.
//!
//! A wasm task gets each as a directory of its own opened for it. A native task sees the host's file system, so it gets
//! a symbolic link in its sandbox; what a link cannot do is refused rather than left out.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use tepui_api::ext::wasm_info::Preopen;
use tepui_api::v1;
use tepui_api::v1::volume::Mode;
use tepui_api::v1::volume::source::{self, sandbox_path};

use crate::confine::Directory;
use crate::sandbox::is_output;

#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("volume '{path}': only volumes of the types SANDBOX_PATH and HOST_PATH are supported")]
    Type { path: String },
    #[error("volume '{path}': its SANDBOX_PATH must be of type SELF or PARENT")]
    SandboxType { path: String },
    #[error("volume '{path}': only a task of a group has a PARENT sandbox")]
    NoParent { path: String },
    #[error("volume '{path}': '{host}' on the host: {cause}")]
    Host {
        path: String,
        host: String,
        cause: String,
    },
    #[error("volume '{path}': directories of the host are not opened to wasm tasks")]
    HostForWasm { path: String },
    #[error(
        "volume '{path}': a native task sees the host's own paths, so its volumes must lie at relative ones"
    )]
    Absolute { path: String },
    #[error("volume '{path}': nothing keeps a native task from writing, so it cannot be RO")]
    ReadOnly { path: String },
    #[error("volume '{path}': that is where the task's output goes")]
    Output { path: String },
    #[error("volume '{path}' could not be made: {source}")]
    Make { path: String, source: io::Error },
}

/// A volume whose directory is there.
#[derive(Debug, PartialEq, Eq)]
struct Volume {
    host: PathBuf,
    /// As the task wrote it.
    path: String,
    read_only: bool,
    /// Whether it is no sandbox's but the host's own.
    of_host: bool,
}

/// Whether it is that persistent volume of the group's executor which the task wants to see, the whole of it.
pub(crate) fn names(wanted: &v1::Volume, kept: &tepui_agent_core::Volume) -> bool {
    let source = wanted.source.as_ref();
    let sandboxed = source.and_then(|source| source.sandbox_path.as_ref());
    sandboxed.is_some_and(|sandboxed| {
        sandboxed.r#type() == sandbox_path::Type::Parent
            && Path::new(&sandboxed.path)
                .components()
                .eq(Path::new(&kept.container_path).components())
    })
}

/// Makes a native task's volumes appear in its sandbox.
pub(crate) fn link(
    container: Option<&v1::ContainerInfo>,
    own: &Path,
    parent: Option<&Path>,
) -> Result<(), VolumeError> {
    for volume in make(container, own, parent)? {
        let path = || volume.path.clone();
        if volume.read_only {
            return Err(VolumeError::ReadOnly { path: path() });
        }
        let place = Path::new(&volume.path);
        if place.is_absolute() {
            return Err(VolumeError::Absolute { path: path() });
        }
        if is_output(place) {
            return Err(VolumeError::Output { path: path() });
        }
        if own.join(place) == volume.host {
            continue;
        }
        Directory::open(own)
            .and_then(|own| own.create_symlink(&volume.host, place))
            .map_err(|source| VolumeError::Make {
                path: path(),
                source,
            })?;
    }
    Ok(())
}

/// What is to be opened for a wasm task beside its sandbox.
pub(crate) fn preopens(
    container: Option<&v1::ContainerInfo>,
    own: &Path,
    parent: Option<&Path>,
) -> Result<Vec<Preopen>, VolumeError> {
    let volumes = make(container, own, parent)?.into_iter();
    let opened = volumes.map(|volume| match volume.of_host {
        true => Err(VolumeError::HostForWasm { path: volume.path }),
        false => Ok(Preopen {
            host_path: volume.host.to_string_lossy().into_owned(),
            // Its sandbox is the root of what a guest sees.
            guest_path: Path::new("/")
                .join(&volume.path)
                .to_string_lossy()
                .into_owned(),
            read_only: Some(volume.read_only),
        }),
    });
    opened.collect()
}

fn make(
    container: Option<&v1::ContainerInfo>,
    own: &Path,
    parent: Option<&Path>,
) -> Result<Vec<Volume>, VolumeError> {
    let volumes = container.map(|container| container.volumes.as_slice());
    let volumes = volumes.unwrap_or_default().iter();
    volumes
        .map(|volume| make_one(volume, own, parent))
        .collect()
}

fn make_one(volume: &v1::Volume, own: &Path, parent: Option<&Path>) -> Result<Volume, VolumeError> {
    let path = || volume.container_path.clone();
    let source = volume.source.as_ref();
    let sandboxed = source.and_then(|source| source.sandbox_path.as_ref());
    let of_host = volume.host_path.as_ref().or_else(|| {
        let source = source.filter(|source| source.r#type() == source::Type::HostPath)?;
        source.host_path.as_ref().map(|host| &host.path)
    });
    let host = match (of_host, sandboxed) {
        (Some(host), _) => on_host(Path::new(host)).map_err(|error| VolumeError::Host {
            path: path(),
            host: host.clone(),
            cause: error.to_string(),
        })?,
        (None, Some(sandboxed)) => {
            let base = match sandboxed.r#type() {
                sandbox_path::Type::Self_ => own,
                sandbox_path::Type::Parent => {
                    parent.ok_or_else(|| VolumeError::NoParent { path: path() })?
                }
                sandbox_path::Type::Unknown => {
                    return Err(VolumeError::SandboxType { path: path() });
                }
            };
            in_sandbox(base, Path::new(&sandboxed.path)).map_err(|source| VolumeError::Make {
                path: path(),
                source,
            })?
        }
        (None, None) => return Err(VolumeError::Type { path: path() }),
    };
    Ok(Volume {
        host,
        path: path(),
        read_only: volume.mode() == Mode::Ro,
        of_host: of_host.is_some(),
    })
}

fn on_host(path: &Path) -> io::Result<PathBuf> {
    if path.is_relative() {
        return Err(io::Error::other("the path must be absolute"));
    }
    path.metadata()?;
    Ok(path.to_owned())
}

/// The directory a path below a sandbox names, made if it is not there, wherever links of tenants lead inside.
fn in_sandbox(base: &Path, relative: &Path) -> io::Result<PathBuf> {
    let made = Directory::open(base)?.create_directories(relative)?;
    std::fs::read_link(format!("/proc/self/fd/{}", made.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(kind: sandbox_path::Type, from: &str, to: &str) -> v1::Volume {
        v1::Volume {
            container_path: to.to_owned(),
            mode: Mode::Rw.into(),
            source: Some(v1::volume::Source {
                r#type: Some(source::Type::SandboxPath.into()),
                sandbox_path: Some(source::SandboxPath {
                    r#type: Some(kind.into()),
                    path: from.to_owned(),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container(volumes: Vec<v1::Volume>) -> v1::ContainerInfo {
        v1::ContainerInfo {
            volumes,
            ..Default::default()
        }
    }

    /// A pod's sandbox with those of two tasks in it.
    fn sandboxes() -> (tempfile::TempDir, PathBuf, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().canonicalize().unwrap();
        let task = |name: &str| {
            let path = parent.join("containers").join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let (first, second) = (task("a"), task("b"));
        (directory, parent, first, second)
    }

    #[test]
    fn siblings_share_a_directory_of_their_parent() {
        let (_directory, parent, first, second) = sandboxes();
        let shared = |to: &str| container(vec![volume(sandbox_path::Type::Parent, "shared/x", to)]);
        link(Some(&shared("mine")), &first, Some(&parent)).unwrap();
        link(Some(&shared("deep/own")), &second, Some(&parent)).unwrap();
        std::fs::write(first.join("mine/file"), "hello").unwrap();
        let read = std::fs::read(second.join("deep/own/file")).unwrap();
        assert_eq!(read, b"hello");
        let opened = preopens(Some(&shared("mine")), &first, Some(&parent)).unwrap();
        assert_eq!(opened[0].guest_path, "/mine");
        assert_eq!(Path::new(&opened[0].host_path), parent.join("shared/x"));
    }

    #[test]
    fn a_task_sees_a_part_of_its_own_sandbox_elsewhere() {
        let (_directory, _, own, _) = sandboxes();
        let container = container(vec![
            volume(sandbox_path::Type::Self_, "data", "view"),
            volume(sandbox_path::Type::Self_, "same", "same"),
        ]);
        link(Some(&container), &own, None).unwrap();
        std::fs::write(own.join("view/file"), "x").unwrap();
        assert!(own.join("data/file").exists() && own.join("same").is_dir());
    }

    #[test]
    fn the_host_is_there_for_native_tasks_only_and_only_where_it_exists() {
        let (_directory, parent, own, _) = sandboxes();
        let host = |path: &Path| {
            container(vec![v1::Volume {
                container_path: "host".to_owned(),
                mode: Mode::Rw.into(),
                host_path: Some(path.to_string_lossy().into_owned()),
                ..Default::default()
            }])
        };
        link(Some(&host(&parent)), &own, None).unwrap();
        assert!(own.join("host/containers").is_dir());
        let missing = parent.join("missing");
        for (path, wasm) in [(parent.as_path(), true), (&missing, false)] {
            let refused = match wasm {
                true => preopens(Some(&host(path)), &own, None).map(|_| ()),
                false => link(Some(&host(path)), &own, None),
            };
            let error = refused.unwrap_err();
            assert!(
                matches!(
                    error,
                    VolumeError::HostForWasm { .. } | VolumeError::Host { .. }
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let (_directory, parent, own, _) = sandboxes();
        let mut read_only = volume(sandbox_path::Type::Self_, "x", "x");
        read_only.mode = Mode::Ro.into();
        let of_no_type = v1::Volume {
            container_path: "x".to_owned(),
            mode: Mode::Rw.into(),
            ..Default::default()
        };
        let cases = [
            (volume(sandbox_path::Type::Parent, "x", "x"), "PARENT"),
            (volume(sandbox_path::Type::Unknown, "x", "x"), "SELF or"),
            (volume(sandbox_path::Type::Self_, "../x", "x"), "outside"),
            (volume(sandbox_path::Type::Self_, "x", "/x"), "relative"),
            (volume(sandbox_path::Type::Self_, "x", "../x"), "outside"),
            (read_only, "cannot be RO"),
            (of_no_type, "only volumes of the types"),
        ];
        for (volume, expected) in cases {
            let error = link(Some(&container(vec![volume])), &own, None).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        // What a tenant links to must not be reached through a volume.
        std::os::unix::fs::symlink("/etc", parent.join("trap")).unwrap();
        let trap = container(vec![volume(sandbox_path::Type::Parent, "trap/x", "x")]);
        assert!(link(Some(&trap), &own, Some(&parent)).is_err());
        assert!(preopens(Some(&trap), &own, Some(&parent)).is_err());
    }
}
