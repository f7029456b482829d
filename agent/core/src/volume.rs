//! Where persistent volumes lie, and where tasks want to see them.

use tepui_api::v1;
use tepui_model::{DiskSource, Resource, Resources};

use crate::wire;

/// The directory of a persistent volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeDirectory {
    /// Relative to `work_dir`, unless the disk has a root of its own.
    pub path: String,
    /// It is the root of a file system: what is in it can be removed, it cannot.
    pub is_mount: bool,
}

/// A persistent volume as one task uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub directory: VolumeDirectory,
    /// As its framework wrote it.
    pub container_path: String,
    pub read_only: bool,
    pub shared: bool,
}

/// The persistent volumes among the resources of a task or an executor.
pub fn volumes_of(resources: &[v1::Resource]) -> Vec<Volume> {
    let resources = wire::resources(resources).unwrap_or_default();
    resources.iter().filter_map(volume).collect()
}

fn volume(resource: &Resource) -> Option<Volume> {
    let form = resource.disk.as_ref()?.volume.as_ref()?;
    Some(Volume {
        directory: directory(resource)?,
        container_path: form.container_path.to_string(),
        read_only: form.read_only,
        shared: resource.shared,
    })
}

pub(crate) fn directories(volumes: &Resources) -> impl Iterator<Item = VolumeDirectory> {
    volumes.iter().filter_map(directory)
}

/// Where the volumes of a role lie, below the work directory.
pub fn volumes_of_role(role: &str) -> String {
    // Roles have no blanks. As they are, the volume `b` of the role `a` would lie around those of the role `a/b`.
    format!("volumes/roles/{}", role.replace('/', " "))
}

fn directory(resource: &Resource) -> Option<VolumeDirectory> {
    let id = &resource.persistence()?.id;
    let path = format!(
        "{}/{id}",
        volumes_of_role(resource.reserved_role()?.as_str())
    );
    let source = resource.disk.as_ref()?.source.as_ref();
    Some(match source {
        Some(DiskSource::Mount {
            root: Some(root), ..
        }) => VolumeDirectory {
            path: root.to_string(),
            is_mount: true,
        },
        Some(DiskSource::Path {
            root: Some(root), ..
        }) => VolumeDirectory {
            path: format!("{root}/{path}"),
            is_mount: false,
        },
        _ => VolumeDirectory {
            path,
            is_mount: false,
        },
    })
}
