//! What a task must look like to be launched. Checked in Mesos's order; the first thing wrong is what is told.

use tepui_api::convert::ConvertError;
use tepui_api::v1;
use tepui_model::{IdError, Resources, Role, check_id};

use crate::datasets::DatasetInvalid;
use crate::wire;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum TaskInvalid {
    #[error("{0}")]
    Id(#[from] IdError),
    #[error("Task has duplicate ID: {id}")]
    DuplicateId { id: String },
    #[error("Task uses invalid agent {named} while agent {offered} is expected")]
    Agent { named: String, offered: String },
    #[error("Task's '{field}' must be non-negative")]
    Negative { field: &'static str },
    #[error("Task uses invalid check: {0}")]
    Check(CheckInvalid),
    #[error("Task uses invalid health check: {0}")]
    HealthCheck(CheckInvalid),
    #[error("Task uses no resources")]
    NoResources,
    #[error("{whose} uses invalid resources: {error}")]
    Resources { whose: &'static str, error: String },
    #[error("{whose} uses duplicate persistence ID '{id}' for role '{role}'")]
    DuplicatePersistence {
        whose: &'static str,
        id: String,
        role: String,
    },
    #[error(
        "{whose} uses resources allocated to role '{allocated}', but the offer is allocated to role '{offered}'"
    )]
    Allocation {
        whose: &'static str,
        allocated: String,
        offered: String,
    },
    #[error("{whose} mixes revocable and non-revocable '{name}'")]
    Revocable { whose: &'static str, name: String },
    #[error("Environment variable '{name}' {problem}")]
    Environment { name: String, problem: &'static str },
    #[error("{0}")]
    Container(#[from] ContainerInvalid),
    #[error("{0}")]
    Dataset(#[from] DatasetInvalid),
    #[error("Task has a limit for '{name}', but only 'cpus', 'mem' and 'fuel' can be limited")]
    LimitUnknown { name: String },
    #[error("Task's limit for '{name}' must be a positive number")]
    LimitNotPositive { name: String },
    #[error("Task has a limit for '{name}', but requests none of it")]
    LimitWithoutRequest { name: String },
    #[error("Task's limit for '{name}', {limit}, is less than its request, {request}")]
    LimitBelowRequest {
        name: String,
        limit: f64,
        request: f64,
    },
    #[error("Task should have at least one (but not both) of CommandInfo or ExecutorInfo present")]
    CommandOrExecutor,
    #[error("Executor should have framework ID {expected}, not {named}")]
    ExecutorFramework { expected: String, named: String },
    #[error("Executor's type must be CUSTOM or unset for a LAUNCH operation")]
    ExecutorType,
    #[error("Executor's 'command' must be set")]
    ExecutorCommand,
    #[error("Executor's 'shutdown_grace_period' must be non-negative")]
    ExecutorGrace,
    #[error("Executor must not use shared resources")]
    ExecutorShared,
    #[error(
        "ExecutorInfo is not compatible with the running executor '{id}': it must be identical"
    )]
    ExecutorDiffers { id: String },
    #[error("'linux_info.share_cgroups' must not be false for a LAUNCH operation")]
    ShareCgroups,
    #[error("Task uses more resources {wanted} than available {available}")]
    TooMuch { wanted: String, available: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CheckInvalid {
    #[error("it must specify its type")]
    NoType,
    #[error("expecting '{field}' to be set")]
    Missing { field: &'static str },
    #[error("'{field}' must not be negative")]
    Negative { field: &'static str },
    #[error("the path must start with '/'")]
    Path,
    #[error("the scheme must be 'http' or 'https'")]
    Scheme,
    #[error("its command has an invalid environment")]
    Environment,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContainerInvalid {
    #[error("ContainerInfo 'docker' must be set for DOCKER type container")]
    Docker,
    #[error("Parameter in DockerInfo must not be 'name'")]
    DockerName,
    #[error("ContainerInfo 'wasm' must be set for WASM type container")]
    Wasm,
    #[error("ContainerInfo 'wasm' must be set for WASM type container only")]
    WasmElsewhere,
    #[error("'wasm.artifact' is not set and there is no command that names a module")]
    NoModule,
    #[error("ContainerInfo has the unknown type {number}")]
    Type { number: i32 },
    #[error("Volume '{path}': exactly one of 'host_path', 'image' and 'source' must be set")]
    VolumeOrigin { path: String },
    #[error("Volume '{path}': 'source.type' must be set")]
    VolumeType { path: String },
    #[error("Volume '{path}': '{field}' must be set for its source's type")]
    VolumeSource { path: String, field: &'static str },
}

/// Where a task is to be launched.
pub(crate) struct Place<'a> {
    pub(crate) framework: &'a str,
    pub(crate) agent: &'a str,
    pub(crate) role: &'a Role,
    /// What is left of the offers.
    pub(crate) available: &'a Resources,
    pub(crate) id_in_use: bool,
    /// The running executor of the id that the task names.
    pub(crate) executor: Option<&'a v1::ExecutorInfo>,
}

/// A task that may be launched.
#[derive(Debug)]
pub(crate) struct Launchable {
    pub(crate) resources: Resources,
    /// What its executor uses, if that is to be started for it.
    pub(crate) executor: Option<Resources>,
    /// What is left of the offers afterwards.
    pub(crate) left: Resources,
}

/// Fills in what a client may leave out.
pub(crate) fn complete(task: &mut v1::TaskInfo, framework: &str, role: &Role) {
    // Only an agent says how a task is run.
    task.plan = None;
    wire::inject_allocation(&mut task.resources, role);
    if let Some(executor) = &mut task.executor {
        wire::inject_allocation(&mut executor.resources, role);
        if executor.framework_id.is_none() {
            executor.framework_id = Some(v1::FrameworkId {
                value: framework.to_owned(),
            });
        }
    }
    if let Some(health_check) = &mut task.health_check
        && health_check.r#type.is_none()
    {
        if health_check.command.is_some() {
            health_check.r#type = Some(v1::health_check::Type::Command.into());
        } else if health_check.http.is_some() {
            health_check.r#type = Some(v1::health_check::Type::Http.into());
        }
    }
}

pub(crate) fn check_task(
    task: &v1::TaskInfo,
    place: &Place<'_>,
) -> Result<Launchable, TaskInvalid> {
    let resources = check_alone(task, place)?;
    check_body(task)?;
    let executor = match &task.executor {
        Some(executor) => check_executor(executor, place)?,
        None => None,
    };
    let shares = |container: &v1::ContainerInfo| {
        container
            .linux_info
            .as_ref()
            .is_none_or(v1::LinuxInfo::share_cgroups)
    };
    let executor_container = task
        .executor
        .as_ref()
        .and_then(|executor| executor.container.as_ref());
    if !task.container.iter().chain(executor_container).all(shares) {
        return Err(TaskInvalid::ShareCgroups);
    }
    // Taken one after the other, so that a port or an item that both name is noticed.
    let left = place
        .available
        .checked_subtract(&resources)
        .and_then(|left| match &executor {
            Some(executor) => left.checked_subtract(executor),
            None => Some(left),
        });
    match left {
        Some(left) => Ok(Launchable {
            resources,
            executor,
            left,
        }),
        None => {
            let mut wanted = resources;
            if let Some(executor) = &executor {
                wanted.add(executor);
            }
            Err(TaskInvalid::TooMuch {
                wanted: wanted.to_string(),
                available: place.available.to_string(),
            })
        }
    }
}

/// What must hold of a task whichever way it is launched, apart from who runs it and whether there is room.
pub(crate) fn check_alone(
    task: &v1::TaskInfo,
    place: &Place<'_>,
) -> Result<Resources, TaskInvalid> {
    check_id("task id", &task.task_id.value)?;
    if place.id_in_use {
        return Err(TaskInvalid::DuplicateId {
            id: task.task_id.value.clone(),
        });
    }
    if task.agent_id.value != place.agent {
        let (named, offered) = (task.agent_id.value.clone(), place.agent.to_owned());
        return Err(TaskInvalid::Agent { named, offered });
    }
    let grace = task
        .kill_policy
        .as_ref()
        .and_then(|policy| policy.grace_period.as_ref());
    if grace.is_some_and(|grace| grace.nanoseconds < 0) {
        return Err(TaskInvalid::Negative {
            field: "kill_policy.grace_period",
        });
    }
    if task
        .max_completion_time
        .as_ref()
        .is_some_and(|time| time.nanoseconds < 0)
    {
        return Err(TaskInvalid::Negative {
            field: "max_completion_time",
        });
    }
    if let Some(check) = &task.check {
        check_check(check).map_err(TaskInvalid::Check)?;
    }
    if let Some(health_check) = &task.health_check {
        check_health_check(health_check).map_err(TaskInvalid::HealthCheck)?;
    }
    let resources = check_resources("Task", &task.resources, place.role)?.known_as(place.available);
    if resources.is_empty() {
        return Err(TaskInvalid::NoResources);
    }
    if let Some(command) = &task.command {
        check_environment(command)?;
    }
    if let Some(container) = &task.container {
        check_container(container)?;
    }
    check_limits(task, &resources)?;
    Ok(resources)
}

fn check_resources(
    whose: &'static str,
    wire_resources: &[v1::Resource],
    role: &Role,
) -> Result<Resources, TaskInvalid> {
    let convert = |error: ConvertError| TaskInvalid::Resources {
        whose,
        error: error.to_string(),
    };
    let resources = wire::resources(wire_resources).map_err(convert)?;
    let mut persistence = Vec::new();
    for resource in resources.iter() {
        if let Some(volume) = resource.persistence() {
            let owner = resource.reserved_role().map_or("*", Role::as_str);
            if persistence.contains(&(owner, &volume.id)) {
                let (id, role) = (volume.id.to_string(), owner.to_owned());
                return Err(TaskInvalid::DuplicatePersistence { whose, id, role });
            }
            persistence.push((owner, &volume.id));
        }
    }
    for resource in wire_resources {
        let allocated = resource
            .allocation_info
            .as_ref()
            .and_then(|info| info.role.as_deref());
        if allocated != Some(role.as_str()) {
            let (allocated, offered) =
                (allocated.unwrap_or("").to_owned(), role.as_str().to_owned());
            return Err(TaskInvalid::Allocation {
                whose,
                allocated,
                offered,
            });
        }
    }
    for resource in resources.iter().filter(|resource| resource.revocable) {
        if resources
            .iter()
            .any(|other| other.name == resource.name && !other.revocable)
        {
            return Err(TaskInvalid::Revocable {
                whose,
                name: resource.name.to_string(),
            });
        }
    }
    Ok(resources)
}

fn check_limits(task: &v1::TaskInfo, resources: &Resources) -> Result<(), TaskInvalid> {
    for (name, limit) in &task.limits {
        let limit = limit.value;
        if limit.is_nan() || limit <= 0.0 {
            return Err(TaskInvalid::LimitNotPositive { name: name.clone() });
        }
        match name.as_str() {
            "fuel" if limit.is_infinite() => {
                return Err(TaskInvalid::LimitNotPositive { name: name.clone() });
            }
            "fuel" => {}
            "cpus" | "mem" => {
                let request = resources.scalar(name);
                if !request.is_positive() {
                    return Err(TaskInvalid::LimitWithoutRequest { name: name.clone() });
                }
                let request = request.to_f64();
                if limit < request {
                    return Err(TaskInvalid::LimitBelowRequest {
                        name: name.clone(),
                        limit,
                        request,
                    });
                }
            }
            _ => return Err(TaskInvalid::LimitUnknown { name: name.clone() }),
        }
    }
    Ok(())
}

/// A task runs a command, its executor, or a wasm module.
fn check_body(task: &v1::TaskInfo) -> Result<(), TaskInvalid> {
    let wasm = task
        .container
        .as_ref()
        .and_then(|container| container.wasm.as_ref());
    if let Some(wasm) = wasm
        && wasm.artifact.is_none()
        && task.command.is_none()
    {
        return Err(ContainerInvalid::NoModule.into());
    }
    if (task.command.is_some() || wasm.is_some()) == task.executor.is_some() {
        return Err(TaskInvalid::CommandOrExecutor);
    }
    Ok(())
}

fn check_executor(
    executor: &v1::ExecutorInfo,
    place: &Place<'_>,
) -> Result<Option<Resources>, TaskInvalid> {
    let resources = check_any_executor(executor, place)?;
    if place.executor.is_some() {
        return Ok(None);
    }
    if !matches!(
        executor.r#type(),
        v1::executor_info::Type::Unknown | v1::executor_info::Type::Custom
    ) {
        return Err(TaskInvalid::ExecutorType);
    }
    let command = executor
        .command
        .as_ref()
        .ok_or(TaskInvalid::ExecutorCommand)?;
    check_environment(command)?;
    if let Some(container) = &executor.container {
        check_container(container)?;
    }
    Ok(Some(resources))
}

/// What must hold of an executor whichever way its tasks are launched; what it uses.
pub(crate) fn check_any_executor(
    executor: &v1::ExecutorInfo,
    place: &Place<'_>,
) -> Result<Resources, TaskInvalid> {
    check_id("executor id", &executor.executor_id.value)?;
    let named = executor.framework_id.as_ref().map_or("", |id| &id.value);
    if named != place.framework {
        let (expected, named) = (place.framework.to_owned(), named.to_owned());
        return Err(TaskInvalid::ExecutorFramework { expected, named });
    }
    let resources = check_resources("Executor", &executor.resources, place.role)?;
    let resources = resources.known_as(place.available);
    if place.executor.is_some_and(|running| running != executor) {
        return Err(TaskInvalid::ExecutorDiffers {
            id: executor.executor_id.value.clone(),
        });
    }
    let grace = executor.shutdown_grace_period.as_ref();
    if grace.is_some_and(|grace| grace.nanoseconds < 0) {
        return Err(TaskInvalid::ExecutorGrace);
    }
    if resources.iter().any(|resource| resource.shared) {
        return Err(TaskInvalid::ExecutorShared);
    }
    Ok(resources)
}

pub(crate) fn check_environment(command: &v1::CommandInfo) -> Result<(), TaskInvalid> {
    use v1::environment::variable::Type;
    for variable in command
        .environment
        .iter()
        .flat_map(|environment| &environment.variables)
    {
        let problem = match variable.r#type() {
            Type::Value if variable.value.is_none() => "must have a value set",
            Type::Value if variable.secret.is_some() => "must not have a secret set",
            Type::Secret if variable.secret.is_none() => "must have a secret set",
            Type::Secret if variable.value.is_some() => "must not have a value set",
            Type::Unknown => "has an unknown type",
            Type::Value | Type::Secret => continue,
        };
        return Err(TaskInvalid::Environment {
            name: variable.name.clone(),
            problem,
        });
    }
    Ok(())
}

pub(crate) fn check_container(container: &v1::ContainerInfo) -> Result<(), ContainerInvalid> {
    use v1::container_info::Type;
    match Type::try_from(container.r#type) {
        Ok(Type::Docker) => {
            let docker = container.docker.as_ref().ok_or(ContainerInvalid::Docker)?;
            if docker
                .parameters
                .iter()
                .any(|parameter| parameter.key == "name")
            {
                return Err(ContainerInvalid::DockerName);
            }
        }
        Ok(Type::Mesos) => {}
        Ok(Type::Wasm) if container.wasm.is_none() => return Err(ContainerInvalid::Wasm),
        Ok(Type::Wasm) => {}
        Err(_) => {
            return Err(ContainerInvalid::Type {
                number: container.r#type,
            });
        }
    }
    if container.wasm.is_some() && Type::try_from(container.r#type) != Ok(Type::Wasm) {
        return Err(ContainerInvalid::WasmElsewhere);
    }
    container.volumes.iter().try_for_each(check_volume)
}

fn check_volume(volume: &v1::Volume) -> Result<(), ContainerInvalid> {
    use v1::volume::source::Type;
    let path = || volume.container_path.clone();
    let origins = usize::from(volume.host_path.is_some())
        + usize::from(volume.image.is_some())
        + usize::from(volume.source.is_some());
    if origins != 1 {
        return Err(ContainerInvalid::VolumeOrigin { path: path() });
    }
    let Some(source) = &volume.source else {
        return Ok(());
    };
    let (field, set) = match source.r#type() {
        Type::Unknown => return Err(ContainerInvalid::VolumeType { path: path() }),
        Type::DockerVolume => ("source.docker_volume", source.docker_volume.is_some()),
        Type::HostPath => ("source.host_path", source.host_path.is_some()),
        Type::SandboxPath => ("source.sandbox_path", source.sandbox_path.is_some()),
        Type::Secret => ("source.secret", source.secret.is_some()),
        Type::CsiVolume => ("source.csi_volume", source.csi_volume.is_some()),
    };
    if set {
        Ok(())
    } else {
        Err(ContainerInvalid::VolumeSource {
            path: path(),
            field,
        })
    }
}

fn check_check(check: &v1::CheckInfo) -> Result<(), CheckInvalid> {
    use v1::check_info::Type;
    match check.r#type() {
        Type::Unknown => return Err(CheckInvalid::NoType),
        Type::Command => {
            let command = check
                .command
                .as_ref()
                .ok_or(CheckInvalid::Missing { field: "command" })?;
            check_command(&command.command)?;
        }
        Type::Http => {
            let http = check
                .http
                .as_ref()
                .ok_or(CheckInvalid::Missing { field: "http" })?;
            check_path(http.path.as_deref())?;
        }
        Type::Tcp => {
            check
                .tcp
                .as_ref()
                .ok_or(CheckInvalid::Missing { field: "tcp" })?;
        }
    }
    check_seconds([
        ("delay_seconds", check.delay_seconds()),
        ("interval_seconds", check.interval_seconds()),
        ("timeout_seconds", check.timeout_seconds()),
    ])
}

fn check_health_check(check: &v1::HealthCheck) -> Result<(), CheckInvalid> {
    use v1::health_check::Type;
    match check.r#type() {
        Type::Unknown => return Err(CheckInvalid::NoType),
        Type::Command => check_command(
            check
                .command
                .as_ref()
                .ok_or(CheckInvalid::Missing { field: "command" })?,
        )?,
        Type::Http => {
            let http = check
                .http
                .as_ref()
                .ok_or(CheckInvalid::Missing { field: "http" })?;
            check_path(http.path.as_deref())?;
            if http
                .scheme
                .as_deref()
                .is_some_and(|scheme| scheme != "http" && scheme != "https")
            {
                return Err(CheckInvalid::Scheme);
            }
        }
        Type::Tcp => {
            check
                .tcp
                .as_ref()
                .ok_or(CheckInvalid::Missing { field: "tcp" })?;
        }
    }
    check_seconds([
        ("delay_seconds", check.delay_seconds()),
        ("interval_seconds", check.interval_seconds()),
        ("timeout_seconds", check.timeout_seconds()),
    ])?;
    check_seconds([("grace_period_seconds", check.grace_period_seconds())])
}

fn check_command(command: &v1::CommandInfo) -> Result<(), CheckInvalid> {
    if command.value.is_none() {
        return Err(CheckInvalid::Missing {
            field: "command.value",
        });
    }
    check_environment(command).map_err(|_| CheckInvalid::Environment)
}

fn check_path(path: Option<&str>) -> Result<(), CheckInvalid> {
    if path.is_some_and(|path| !path.starts_with('/')) {
        Err(CheckInvalid::Path)
    } else {
        Ok(())
    }
}

fn check_seconds<const COUNT: usize>(
    fields: [(&'static str, f64); COUNT],
) -> Result<(), CheckInvalid> {
    match fields
        .into_iter()
        .find(|(_, seconds)| seconds.is_nan() || *seconds < 0.0)
    {
        Some((field, _)) => Err(CheckInvalid::Negative { field }),
        None => Ok(()),
    }
}
