//! What a task may ask for of its container and no agent here has. It is refused: to run without it would be another task.

use tepui_api::v1::{self, container_info};

/// In words, if there is such a thing.
pub(crate) fn unsupported(task: &v1::TaskInfo) -> Option<&'static str> {
    let container = task.container.as_ref()?;
    let image = container
        .mesos
        .as_ref()
        .and_then(|mesos| mesos.image.as_ref());
    let named_network = container
        .network_infos
        .iter()
        .any(|network| network.name.is_some());
    if container.r#type == i32::from(container_info::Type::Docker) {
        Some("'container.type' of DOCKER")
    } else if image.is_some() {
        Some("'container.mesos.image'")
    } else if named_network {
        Some("'container.network_infos' with a name")
    } else if container.rlimit_info.is_some() {
        Some("'container.rlimit_info'")
    } else {
        None
    }
}
