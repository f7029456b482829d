//! What is to be run, read from the TaskInfo and the plan the agent put into it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tepui_api::ext::{self, launch_plan, wasm_info};
use tepui_api::v1::TaskInfo;

use crate::egress::Egress;
use crate::engines::Metering;
use crate::modules::ModuleFile;

/// What happens to a guest that wants more memory than it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryPolicy {
    /// It ends there.
    #[default]
    EndTask,
    /// `memory.grow` gives -1.
    Refuse,
}

/// One task, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Its id.
    pub task_id: String,
    /// Who it is, for itself.
    pub identity: Arc<Identity>,
    /// Its compiled code.
    pub module: ModuleFile,
    /// Its directory; with its volumes, all of the file system it sees.
    pub sandbox: PathBuf,
    /// Further directories, opened at the paths its guest knows them by.
    pub volumes: Vec<Volume>,
    /// The same of the host's own directories, which no link may lead to.
    pub mounts: Vec<Volume>,
    /// Whom it may reach.
    pub egress: Arc<Egress>,
    /// The argument vector, program name first.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// What of it to start: of a module an exported function, of a component an interface; the usual one if empty.
    pub entrypoint: String,
    /// Bytes over all memories and tables.
    pub memory_limit: Option<u64>,
    /// What happens at the memory limit.
    pub memory_policy: MemoryPolicy,
    /// Needs a metered module.
    pub fuel_limit: Option<u64>,
    /// Wall-clock time.
    pub time_limit: Option<Duration>,
    /// Its weight among the tasks of this process.
    pub cpus: f64,
    /// What it has at most of cpus, however idle the others are.
    pub cpu_cap: Option<f64>,
    /// Where it may listen; a service does at the first.
    pub listen: Vec<SocketAddr>,
    /// Whether a failure leaves a core dump in the sandbox.
    pub coredump: bool,
    /// How it is served, if it is a service.
    pub serving: Serving,
    /// Bytes of stdout, stderr and log together.
    pub output_limit: u64,
    /// Things of the host it may hold at once.
    pub handles: usize,
}

/// What a guest is told of its task, beside the task's id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// What people call it.
    pub name: String,
    /// Whose it is; not in a TaskInfo, so that whoever starts the task sets it.
    pub framework_id: String,
    /// In whose share it runs.
    pub role: String,
    /// Where it runs.
    pub agent_id: String,
    /// Which attempt at its work it is, from 1 on.
    pub attempt: u32,
    /// The job it belongs to.
    pub job: Option<String>,
    /// All of its labels, in their order.
    pub labels: Vec<(String, String)>,
    /// Whether a health check says how it is, so that its guest does not.
    pub health_checked: bool,
}

/// Which attempt it is.
const ATTEMPT: &str = "tepui.attempt";
/// What it belongs to.
const JOB: &str = "tepui.job";

impl Identity {
    fn of(task: &TaskInfo) -> Self {
        let labels = task.labels.iter().flat_map(|labels| &labels.labels);
        let labels: Vec<(String, String)> = labels
            .map(|label| (label.key.clone(), label.value().to_owned()))
            .collect();
        let label = |wanted: &str| {
            let found = labels.iter().find(|(key, _)| key == wanted);
            found.map(|(_, value)| value.as_str())
        };
        let allocated = task.resources.iter().find_map(|resource| {
            let allocation = resource.allocation_info.as_ref()?;
            allocation.role.clone()
        });
        Self {
            name: task.name.clone(),
            framework_id: String::new(),
            role: allocated.unwrap_or_else(|| "*".to_owned()),
            agent_id: task.agent_id.value.clone(),
            attempt: label(ATTEMPT)
                .and_then(|attempt| attempt.parse().ok().filter(|attempt| *attempt > 0))
                .unwrap_or(1),
            job: label(JOB).filter(|job| !job.is_empty()).map(str::to_owned),
            health_checked: task.health_check.is_some(),
            labels,
        }
    }
}

/// What a task may write to stdout and stderr if it does not say.
const OUTPUT_BYTES: u64 = 1 << 30;
/// What it may hold of the host.
const HANDLES: u32 = 1_024;

/// The bounds of an HTTP service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Requests an instance answers before another takes its place; at least 1.
    pub reuse: u32,
    /// How long an instance waits for its next request.
    pub idle: Duration,
    /// From a request's head to the end of its answer.
    pub request_time: Option<Duration>,
    /// Bytes one instance may hold.
    pub instance_memory: Option<u64>,
    /// Requests at once.
    pub requests: usize,
    /// Connections at once.
    pub connections: usize,
    /// How long what is too much waits.
    pub queue: Duration,
}

impl Default for Serving {
    fn default() -> Self {
        Self::of(&wasm_info::Service::default())
    }
}

impl Serving {
    /// More is not served at once, whatever is asked for.
    const MOST: u32 = 10_000;

    fn of(service: &wasm_info::Service) -> Self {
        let bounded = |count: u32| usize::try_from(count.clamp(1, Self::MOST)).unwrap_or(1);
        let request = service.request_ms();
        Self {
            reuse: service.reuse().max(1),
            idle: Duration::from_millis(service.idle_ms()),
            request_time: (request > 0).then(|| Duration::from_millis(request)),
            instance_memory: service.instance_memory_bytes,
            requests: bounded(service.concurrent_requests()),
            connections: bounded(service.connections()),
            queue: Duration::from_millis(service.queue_ms()),
        }
    }
}

/// A directory of the host a guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it is.
    pub host: PathBuf,
    /// Where the guest sees it.
    pub guest: String,
    /// Whether the guest can only read it.
    pub read_only: bool,
}

/// Why a TaskInfo cannot be run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing says how to run it.
    #[error("the task came without a launch plan")]
    NoPlan,
    /// It is for the other executor.
    #[error("the plan gives the task a native body; this executor runs wasm")]
    NotWasm,
    /// The agent did not say where the compiled module is.
    #[error("the plan names no compiled module")]
    NoModule,
    /// A fuel limit, and a module that does not count.
    #[error("the task has a fuel limit, but its module was compiled without fuel")]
    NotMetered,
}

impl TaskSpec {
    /// Reads a task.
    pub fn from_task(task: &TaskInfo) -> Result<Self, SpecError> {
        let plan = task.plan.as_ref().ok_or(SpecError::NoPlan)?;
        if plan.body != launch_plan::Body::Wasm as i32 {
            return Err(SpecError::NotWasm);
        }
        let compiled = plan
            .compiled_path
            .as_deref()
            .filter(|path| !path.is_empty())
            .ok_or(SpecError::NoModule)?;
        let metering = if plan.metered() {
            Metering::Metered
        } else {
            Metering::Plain
        };
        let fuel_limit = limit(task, "fuel").map(|fuel| fuel as u64);
        if fuel_limit.is_some() && metering == Metering::Plain {
            return Err(SpecError::NotMetered);
        }
        let wasm = task
            .container
            .as_ref()
            .and_then(|container| container.wasm.as_ref());
        let listen: Vec<SocketAddr> = plan
            .listen
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect();
        let hosts = wasm.map(|wasm| wasm.allowed_hosts.as_slice());
        let egress = Egress::new(hosts.unwrap_or_default(), &plan.network_policy, &listen);
        let volume = |preopen: &wasm_info::Preopen| Volume {
            host: PathBuf::from(&preopen.host_path),
            guest: preopen.guest_path.clone(),
            read_only: preopen.read_only(),
        };
        Ok(Self {
            task_id: task.task_id.value.clone(),
            identity: Arc::new(Identity::of(task)),
            module: ModuleFile {
                sha256: plan.module_sha256().to_owned(),
                compiled: PathBuf::from(compiled),
                metering,
                baseline: plan.baseline(),
            },
            sandbox: PathBuf::from(&plan.sandbox),
            volumes: plan.preopens.iter().map(volume).collect(),
            mounts: plan.host_directories.iter().map(volume).collect(),
            egress: Arc::new(egress),
            arguments: plan.arguments.clone(),
            environment: plan
                .environment
                .iter()
                .map(|variable| (variable.name.clone(), variable.value().to_owned()))
                .collect(),
            entrypoint: wasm
                .map(ext::WasmInfo::entrypoint)
                .unwrap_or_default()
                .to_owned(),
            memory_limit: memory_limit(task),
            memory_policy: match wasm.map(ext::WasmInfo::memory_policy) {
                Some(wasm_info::MemoryPolicy::Refuse) => MemoryPolicy::Refuse,
                Some(wasm_info::MemoryPolicy::EndTask) | None => MemoryPolicy::EndTask,
            },
            fuel_limit,
            time_limit: task
                .max_completion_time
                .map(|time| Duration::from_nanos(u64::try_from(time.nanoseconds).unwrap_or(0))),
            cpus: resource(task, "cpus").unwrap_or(0.0),
            cpu_cap: limit(task, "cpus"),
            listen,
            coredump: wasm.is_some_and(ext::WasmInfo::coredump),
            serving: wasm
                .and_then(|wasm| wasm.service.as_ref())
                .map(Serving::of)
                .unwrap_or_default(),
            output_limit: wasm
                .and_then(|wasm| wasm.output_bytes)
                .unwrap_or(OUTPUT_BYTES),
            handles: wasm
                .and_then(|wasm| wasm.handles)
                .unwrap_or(HANDLES)
                .try_into()
                .unwrap_or(usize::MAX),
        })
    }
}

/// A limit that is one: infinity is how a task says that it wants none.
fn limit(task: &TaskInfo, name: &str) -> Option<f64> {
    let value = task.limits.get(name)?.value;
    value.is_finite().then_some(value.max(0.0))
}

fn resource(task: &TaskInfo, name: &str) -> Option<f64> {
    let amounts = task
        .resources
        .iter()
        .filter(|resource| resource.name == name)
        .filter_map(|resource| resource.scalar.as_ref());
    amounts
        .map(|scalar| scalar.value)
        .reduce(|sum, value| sum + value)
}

fn memory_limit(task: &TaskInfo) -> Option<u64> {
    let megabytes = match task.limits.get("mem") {
        Some(_) => limit(task, "mem"),
        None => resource(task, "mem"),
    };
    megabytes.map(|megabytes| (megabytes * 1_048_576.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use tepui_api::v1::{DurationInfo, Environment, Resource, TaskId, environment, value};

    use super::*;

    fn task() -> TaskInfo {
        let scalar = |name: &str, value| Resource {
            name: name.to_owned(),
            r#type: value::Type::Scalar as i32,
            scalar: Some(value::Scalar { value }),
            ..Resource::default()
        };
        TaskInfo {
            task_id: TaskId {
                value: "t".to_owned(),
            },
            resources: vec![scalar("cpus", 0.5), scalar("mem", 16.0), scalar("mem", 8.5)],
            max_completion_time: Some(DurationInfo {
                nanoseconds: 2_000_000_000,
            }),
            plan: Some(ext::LaunchPlan {
                body: launch_plan::Body::Wasm as i32,
                sandbox: "/box".to_owned(),
                compiled_path: Some("/cache/x".to_owned()),
                module_sha256: Some("ab".to_owned()),
                arguments: vec!["hello".to_owned(), "world".to_owned()],
                environment: Environment {
                    variables: vec![environment::Variable {
                        name: "A".to_owned(),
                        value: Some("1".to_owned()),
                        ..environment::Variable::default()
                    }],
                }
                .variables,
                ..ext::LaunchPlan::default()
            }),
            ..TaskInfo::default()
        }
    }

    #[test]
    fn a_task_is_read_with_its_limits() {
        let spec = TaskSpec::from_task(&task()).expect("it can run");
        assert_eq!(spec.memory_limit, Some(24 * (1 << 20) + (1 << 19)));
        assert_eq!(spec.time_limit, Some(Duration::from_secs(2)));
        assert_eq!(spec.entrypoint, "");
        assert_eq!(spec.environment, [("A".to_owned(), "1".to_owned())]);
        assert_eq!(spec.fuel_limit, None);
        assert_eq!(spec.identity.attempt, 1);
        assert_eq!(spec.identity.job, None);
        assert_eq!(spec.identity.role, "*");
    }

    #[test]
    fn a_task_is_told_who_it_is() {
        let mut task = task();
        let label = |key: &str, value: &str| tepui_api::v1::Label {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        };
        task.name = "crawl".to_owned();
        task.agent_id.value = "a-1".to_owned();
        task.resources[0].allocation_info = Some(tepui_api::v1::resource::AllocationInfo {
            role: Some("web".to_owned()),
        });
        task.labels = Some(tepui_api::v1::Labels {
            labels: vec![
                label("tepui.attempt", "3"),
                label("tepui.job", "j"),
                label("x", ""),
            ],
        });
        task.health_check = Some(tepui_api::v1::HealthCheck::default());
        let identity = Identity::of(&task);
        assert_eq!((identity.name.as_str(), identity.attempt), ("crawl", 3));
        assert_eq!(
            (identity.role.as_str(), identity.agent_id.as_str()),
            ("web", "a-1")
        );
        assert_eq!(identity.job.as_deref(), Some("j"));
        assert_eq!(identity.labels[2], ("x".to_owned(), String::new()));
        assert!(identity.health_checked);
        task.labels = Some(tepui_api::v1::Labels {
            labels: vec![label("tepui.attempt", "many"), label("tepui.job", "")],
        });
        let identity = Identity::of(&task);
        assert_eq!((identity.attempt, identity.job), (1, None));
    }

    #[test]
    fn a_limit_goes_before_the_resource_and_infinity_is_none() {
        let mut task = task();
        task.limits
            .insert("mem".to_owned(), value::Scalar { value: 100.0 });
        let spec = TaskSpec::from_task(&task).expect("it can run");
        assert_eq!(spec.memory_limit, Some(100 << 20));
        task.limits.insert(
            "mem".to_owned(),
            value::Scalar {
                value: f64::INFINITY,
            },
        );
        let spec = TaskSpec::from_task(&task).expect("it can run");
        assert_eq!(spec.memory_limit, None);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_rather_than_ignored() {
        let mut fuel = task();
        fuel.limits
            .insert("fuel".to_owned(), value::Scalar { value: 5.0 });
        assert_eq!(TaskSpec::from_task(&fuel), Err(SpecError::NotMetered));

        let mut bare = task();
        bare.plan = None;
        assert_eq!(TaskSpec::from_task(&bare), Err(SpecError::NoPlan));
    }
}
