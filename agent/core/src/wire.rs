//! The core's nouns as the wire writes them, and the events executors hear.

use std::time::Duration;

use bytes::Bytes;
use tepui_api::convert::{ConvertError, resources_from_wire};
use tepui_api::v1::executor::{Event, event};
use tepui_api::{link, v1};
use tepui_model::{AgentId, ContainerId, ExecutorId, FrameworkId, Resources, TaskId};

pub(crate) fn task_id(id: &TaskId) -> v1::TaskId {
    v1::TaskId {
        value: id.as_str().to_owned(),
    }
}

pub(crate) fn executor_id(id: &ExecutorId) -> v1::ExecutorId {
    v1::ExecutorId {
        value: id.as_str().to_owned(),
    }
}

pub(crate) fn framework_id(id: &FrameworkId) -> v1::FrameworkId {
    v1::FrameworkId {
        value: id.as_str().to_owned(),
    }
}

pub(crate) fn agent_id(id: &AgentId) -> v1::AgentId {
    v1::AgentId {
        value: id.as_str().to_owned(),
    }
}

pub(crate) fn container_id(id: &ContainerId) -> v1::ContainerId {
    v1::ContainerId {
        value: id.as_str().to_owned(),
        ..v1::ContainerId::default()
    }
}

/// What is asked for; to whose role it was allocated is the master's concern.
pub(crate) fn resources(wire: &[v1::Resource]) -> Result<Resources, ConvertError> {
    resources_from_wire(wire).map(|(resources, _)| resources)
}

pub(crate) fn to_master(body: link::to_master::Body) -> link::ToMaster {
    link::ToMaster { body: Some(body) }
}

fn event(kind: event::Type) -> Event {
    Event {
        r#type: Some(kind.into()),
        ..Event::default()
    }
}

pub(crate) fn subscribed(subscribed: event::Subscribed) -> Event {
    Event {
        subscribed: Some(subscribed),
        ..event(event::Type::Subscribed)
    }
}

pub(crate) fn launch(task: v1::TaskInfo) -> Event {
    Event {
        launch: Some(event::Launch { task }),
        ..event(event::Type::Launch)
    }
}

pub(crate) fn launch_group(tasks: Vec<v1::TaskInfo>) -> Event {
    Event {
        launch_group: Some(event::LaunchGroup {
            task_group: v1::TaskGroupInfo { tasks },
        }),
        ..event(event::Type::LaunchGroup)
    }
}

pub(crate) fn kill(id: &TaskId, kill_policy: Option<v1::KillPolicy>) -> Event {
    Event {
        kill: Some(event::Kill {
            task_id: task_id(id),
            kill_policy,
            signal: None,
        }),
        ..event(event::Type::Kill)
    }
}

/// For the executor of native tasks.
pub(crate) fn signal(id: &TaskId, signal: i32) -> Event {
    Event {
        kill: Some(event::Kill {
            task_id: task_id(id),
            kill_policy: None,
            signal: Some(signal),
        }),
        ..event(event::Type::Kill)
    }
}

pub(crate) fn acknowledged(id: &TaskId, uuid: &[u8]) -> Event {
    let acknowledged = event::Acknowledged {
        task_id: task_id(id),
        uuid: Bytes::copy_from_slice(uuid),
    };
    Event {
        acknowledged: Some(acknowledged),
        ..event(event::Type::Acknowledged)
    }
}

pub(crate) fn message(data: Bytes) -> Event {
    Event {
        message: Some(event::Message { data }),
        ..event(event::Type::Message)
    }
}

pub(crate) fn shutdown() -> Event {
    event(event::Type::Shutdown)
}

/// How long an executor may take to end, if it has a say in it.
pub(crate) fn shutdown_grace(info: &v1::ExecutorInfo) -> Option<Duration> {
    let grace = info.shutdown_grace_period.as_ref()?;
    u64::try_from(grace.nanoseconds)
        .ok()
        .map(Duration::from_nanos)
}

/// What wait(2) said, in words.
pub(crate) fn describe_exit(status: i32) -> String {
    if status < 0 {
        return "The executor ended, its exit status is unknown".to_owned();
    }
    match status & 0x7f {
        0 => format!("The executor exited with status {}", (status >> 8) & 0xff),
        signal => format!("The executor was terminated by signal {signal}"),
    }
}
