//! What a task may ask for of its container and no agent here has. It is refused: to run without it would be another task.

use tepui_api::ext::launch_plan;
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
    } else if container.rlimit_info.is_some() && task.executor.is_some() {
        Some("'container.rlimit_info' of a task that runs in its framework's own executor")
    } else {
        None
    }
}

/// What only a task with a process of its own can have.
pub(crate) fn unsupported_as(
    body: launch_plan::Body,
    container: Option<&v1::ContainerInfo>,
) -> Option<&'static str> {
    let asked = container.is_some_and(|container| container.rlimit_info.is_some());
    (asked && body == launch_plan::Body::Wasm)
        .then_some("'container.rlimit_info' of a wasm task, which has no process of its own")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_for_tasks_with_a_process_that_the_agent_starts() {
        let container = r#"{ "type": "MESOS", "rlimit_info": { "rlimits": [] } }"#;
        let container: v1::ContainerInfo =
            tepui_api::json::from_slice(container.as_bytes()).unwrap();
        let refused = unsupported_as(launch_plan::Body::Wasm, Some(&container));
        assert!(refused.unwrap().contains("rlimit_info"));
        assert_eq!(
            unsupported_as(launch_plan::Body::Native, Some(&container)),
            None
        );
        assert_eq!(unsupported_as(launch_plan::Body::Wasm, None), None);
        let mut task = v1::TaskInfo {
            container: Some(container),
            ..Default::default()
        };
        assert_eq!(unsupported(&task), None);
        task.executor = Some(v1::ExecutorInfo::default());
        assert!(unsupported(&task).unwrap().contains("rlimit_info"));
    }
}
