//! What a task group must look like to be launched: the rules of LAUNCH for each of its tasks, and those of pods.

use std::collections::BTreeSet;

use tepui_api::v1;
use tepui_api::v1::{container_info, executor_info, health_check};
use tepui_model::{Milli, Resources};

use crate::validate::{self, Place, TaskInvalid};

/// The least an executor of a group must have, in Mesos's figures.
const CPUS_MIN: Milli = Milli(10);
const MEM_MIN: Milli = Milli::from_units(32);

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum GroupInvalid {
    #[error("Task '{id}' is invalid: {error}")]
    Task { id: String, error: TaskInvalid },
    #[error("Task group has the duplicate task ID: {id}")]
    DuplicateId { id: String },
    #[error("The `ExecutorInfo` of task '{id}' is different from that of its task group")]
    OtherExecutor { id: String },
    #[error("{0}")]
    Executor(TaskInvalid),
    #[error("'ExecutorInfo.type' must be DEFAULT or CUSTOM for a LAUNCH_GROUP operation")]
    ExecutorType,
    #[error("'ExecutorInfo.command' must not be set for a 'DEFAULT' executor")]
    DefaultCommand,
    #[error(
        "'ExecutorInfo.container.type' must be MESOS for a 'DEFAULT' executor, and have no image"
    )]
    DefaultContainer,
    #[error("Executor '{id}' uses {held} of '{name}', less than the minimum of {least}")]
    TooLittle {
        id: String,
        name: &'static str,
        held: Milli,
        least: Milli,
    },
    #[error("Executor '{id}' uses no disk")]
    NoDisk { id: String },
    #[error("Docker ContainerInfo is not supported in a task group")]
    Docker,
    #[error("'linux_info.share_cgroups' must not be true for an executor")]
    ExecutorShares,
    #[error("'linux_info.share_cgroups' must be the same for all tasks of an executor")]
    MixedShares,
    #[error("Task '{id}' has limits, for which its 'linux_info.share_cgroups' must be false")]
    LimitShares { id: String },
    #[error(
        "Task '{id}' has an HTTP or TCP health check, which is not supported with 'network_infos' of its own"
    )]
    HealthCheckNetwork { id: String },
    #[error("Task group uses more resources {wanted} than available {available}")]
    TooMuch { wanted: String, available: String },
}

/// A group that may be launched.
#[derive(Debug)]
pub(crate) struct LaunchableGroup {
    /// What each task uses, in the order of the tasks.
    pub(crate) tasks: Vec<Resources>,
    /// What the executor uses, if it is to be started.
    pub(crate) executor: Option<Resources>,
}

/// Where a group is to be launched: as for a task, but for what differs from one task to the next.
pub(crate) struct GroupPlace<'a> {
    pub(crate) place: Place<'a>,
    /// Whether a task id is taken.
    pub(crate) id_in_use: &'a dyn Fn(&str) -> bool,
    /// Whether the tasks the executor has already share its cgroup; none if it has no tasks.
    pub(crate) shares: Option<bool>,
}

pub(crate) fn check_group(
    executor: &v1::ExecutorInfo,
    tasks: &[v1::TaskInfo],
    group: &GroupPlace<'_>,
) -> Result<LaunchableGroup, GroupInvalid> {
    let mut used = Vec::with_capacity(tasks.len());
    let mut seen = BTreeSet::new();
    for task in tasks {
        let id = &task.task_id.value;
        if !seen.insert(id) {
            return Err(GroupInvalid::DuplicateId { id: id.clone() });
        }
        used.push(check_member(executor, task, group)?);
    }
    let own = check_executor(executor, &group.place)?;
    check_shares(executor, tasks, group.shares)?;
    let executor = group.place.executor.is_none().then_some(own);
    let mut wanted = Resources::new();
    let shared = group.place.available.shared();
    let mut left = Some(group.place.available.clone());
    // Taken one after the other, so that a port or an item that two of them name is noticed. What is shared is there for
    // each of them.
    for resources in used.iter().chain(&executor) {
        left = left.and_then(|mut left| {
            left.add(&shared.shared_missing_from(&left));
            left.checked_subtract(resources)
        });
        wanted.add(resources);
    }
    match left {
        Some(_) => Ok(LaunchableGroup {
            tasks: used,
            executor,
        }),
        None => Err(GroupInvalid::TooMuch {
            wanted: wanted.to_string(),
            available: group.place.available.to_string(),
        }),
    }
}

fn check_member(
    executor: &v1::ExecutorInfo,
    task: &v1::TaskInfo,
    group: &GroupPlace<'_>,
) -> Result<Resources, GroupInvalid> {
    let id = || task.task_id.value.clone();
    let place = Place {
        id_in_use: (group.id_in_use)(&task.task_id.value),
        ..group.place
    };
    let resources = validate::check_alone(task, &place)
        .map_err(|error| GroupInvalid::Task { id: id(), error })?;
    if task.executor.as_ref().is_some_and(|own| own != executor) {
        return Err(GroupInvalid::OtherExecutor { id: id() });
    }
    let Some(container) = &task.container else {
        return Ok(resources);
    };
    if container.r#type == i32::from(container_info::Type::Docker) {
        return Err(GroupInvalid::Docker);
    }
    let over_network = task.health_check.as_ref().is_some_and(|check| {
        matches!(
            check.r#type(),
            health_check::Type::Http | health_check::Type::Tcp
        )
    });
    if over_network && !container.network_infos.is_empty() {
        return Err(GroupInvalid::HealthCheckNetwork { id: id() });
    }
    Ok(resources)
}

fn check_executor(
    executor: &v1::ExecutorInfo,
    place: &Place<'_>,
) -> Result<Resources, GroupInvalid> {
    let resources =
        validate::check_any_executor(executor, place).map_err(GroupInvalid::Executor)?;
    let docker = i32::from(container_info::Type::Docker);
    match executor.r#type() {
        executor_info::Type::Unknown => return Err(GroupInvalid::ExecutorType),
        executor_info::Type::Default => {
            if executor.command.is_some() {
                return Err(GroupInvalid::DefaultCommand);
            }
            let plain = executor.container.as_ref().is_none_or(|container| {
                let image = container
                    .mesos
                    .as_ref()
                    .and_then(|mesos| mesos.image.as_ref());
                container.r#type == i32::from(container_info::Type::Mesos) && image.is_none()
            });
            if !plain {
                return Err(GroupInvalid::DefaultContainer);
            }
        }
        executor_info::Type::Custom => {
            let command = executor
                .command
                .as_ref()
                .ok_or(GroupInvalid::Executor(TaskInvalid::ExecutorCommand))?;
            validate::check_environment(command).map_err(GroupInvalid::Executor)?;
        }
    }
    if let Some(container) = &executor.container {
        if container.r#type == docker {
            return Err(GroupInvalid::Docker);
        }
        validate::check_container(container)
            .map_err(|error| GroupInvalid::Executor(error.into()))?;
    }
    let id = || executor.executor_id.value.clone();
    for (name, least) in [("cpus", CPUS_MIN), ("mem", MEM_MIN)] {
        let held = resources.scalar(name);
        if held < least {
            return Err(GroupInvalid::TooLittle {
                id: id(),
                name,
                held,
                least,
            });
        }
    }
    if !resources.scalar("disk").is_positive() {
        return Err(GroupInvalid::NoDisk { id: id() });
    }
    Ok(resources)
}

fn check_shares(
    executor: &v1::ExecutorInfo,
    tasks: &[v1::TaskInfo],
    before: Option<bool>,
) -> Result<(), GroupInvalid> {
    let asked = |container: &v1::ContainerInfo| {
        container
            .linux_info
            .as_ref()
            .and_then(|linux| linux.share_cgroups)
    };
    if executor.container.as_ref().and_then(asked) == Some(true) {
        return Err(GroupInvalid::ExecutorShares);
    }
    let mut agreed = before;
    for task in tasks {
        let shares = shares_cgroups(task.container.as_ref());
        if *agreed.get_or_insert(shares) != shares {
            return Err(GroupInvalid::MixedShares);
        }
        // Fuel is counted by the engine and needs no cgroup.
        if shares && task.limits.keys().any(|name| name != "fuel") {
            return Err(GroupInvalid::LimitShares {
                id: task.task_id.value.clone(),
            });
        }
    }
    Ok(())
}

/// Whether a task lives in its executor's cgroup; unless it says otherwise, it does.
pub(crate) fn shares_cgroups(container: Option<&v1::ContainerInfo>) -> bool {
    container
        .and_then(|container| container.linux_info.as_ref())
        .is_none_or(v1::LinuxInfo::share_cgroups)
}
