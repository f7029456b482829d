//! The reads from before the v1 API, in the shapes that command lines and monitoring tools parse.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use tepui_access::Action;
use tepui_agent_core::{AgentView, TaskView};
use tepui_api::convert::{ResourceFormat, resources_to_wire};
use tepui_api::entries;
use tepui_api::json::to_value;
use tepui_api::legacy::{Attributes, Each, Message, Sums, Task, labels};
use tepui_api::v1;
use tepui_model::Resources;

use crate::access::Eyes;
use crate::reads;
use crate::shown::{self, Executor, Framework};
use crate::site::About;

pub(crate) fn version() -> Value {
    json!({
        "version": crate::MESOS_API_LEVEL,
        "tepui_version": env!("CARGO_PKG_VERSION"),
        "build_date": "",
        "build_time": 0,
        "build_user": "",
    })
}

/// `/state`.
pub(crate) struct State<'a> {
    pub(crate) about: &'a About,
    pub(crate) view: &'a AgentView,
    pub(crate) eyes: &'a Eyes,
}

impl Serialize for State<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (about, view, eyes) = (self.about, self.view, self.eyes);
        let info = reads::info(about, view);
        let total = view.total.clone();
        let frameworks = shown::frameworks_for(view, eyes, Action::ViewExecutor);
        let mut allocated = Resources::new();
        frameworks
            .iter()
            .flat_map(|framework| &framework.executors)
            .filter(|executor| executor.alive)
            .for_each(|executor| allocated.add(&executor.resources));
        let of = |alive: bool| {
            frameworks
                .iter()
                .filter(move |framework| framework.alive == alive)
        };
        let shown = |framework| ShownFramework {
            view,
            framework,
            work_dir: &about.work_dir,
        };
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "version": crate::MESOS_API_LEVEL,
            "tepui_version": env!("CARGO_PKG_VERSION"),
            "build_date": "",
            "build_time": 0,
            "build_user": "",
            "start_time": about.start_time,
            "id": view.agent_id.as_ref().map_or("", |id| id.as_str()),
            "pid": format!("slave(1)@{}", about.endpoint),
            "hostname": info.hostname,
            "capabilities": Each(|| view.capabilities.iter().map(|one| one.as_str_name())),
            "resources": Sums::of(&total),
            "reserved_resources": by_role(&total, eyes, |held| json_of(&Sums::of(held))),
            "unreserved_resources": Sums::of(&total.unreserved()),
            "reserved_resources_full": by_role(&total, eyes, full),
            "unreserved_resources_full": full(&total.unreserved()),
            "reserved_resources_allocated": by_role(&allocated, eyes, |held| json_of(&Sums::of(held))),
            "unreserved_resources_allocated": Sums::of(&allocated.unreserved()),
            "resource_providers": Vec::<Value>::new(),
            "attributes": Attributes(&info.attributes),
            "log_dir": about.work_dir,
            "external_log_file": format!("{}/{}", about.work_dir, crate::log::FILE),
            "frameworks": Each(|| of(true).map(shown)),
            "completed_frameworks": Each(|| of(false).map(shown)),
            "registered": view.registered,
            "master_id": view.master_id,
        );
        if eyes.permit(Action::ViewFlags, None).is_ok() {
            map.serialize_entry("flags", &about.flags)?;
        }
        if let Some(hostname) = &view.master_hostname {
            map.serialize_entry("master_hostname", hostname)?;
        }
        if let Some((config, since_ns)) = &view.drain {
            map.serialize_entry("drain_config", &Message(config))?;
            let since = *since_ns as f64 / 1e9;
            map.serialize_entry("estimated_drain_start_time_seconds", &since)?;
        }
        if let Some(domain) = &info.domain {
            map.serialize_entry("domain", &Message(domain))?;
        }
        map.end()
    }
}

fn json_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn full(resources: &Resources) -> Value {
    let wire = resources_to_wire(resources, ResourceFormat::Endpoint, None);
    wire.iter().map(to_value).collect()
}

/// Of the roles they may see.
fn by_role(
    resources: &Resources,
    eyes: &Eyes,
    show: impl Fn(&Resources) -> Value,
) -> BTreeMap<String, Value> {
    let mut reserved: BTreeMap<String, Resources> = BTreeMap::new();
    for resource in resources.iter() {
        if let Some(role) = resource.reserved_role() {
            reserved
                .entry(role.as_str().to_owned())
                .or_default()
                .add_resource(resource.clone());
        }
    }
    reserved
        .into_iter()
        .filter(|(role, _)| eyes.may(Action::ViewRole, role))
        .map(|(role, held)| (role, show(&held)))
        .collect()
}

struct ShownFramework<'a> {
    view: &'a AgentView,
    framework: &'a Framework<'a>,
    work_dir: &'a str,
}

impl Serialize for ShownFramework<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let info = &self.framework.view.info;
        let executors = |alive: bool| {
            let all = self.framework.executors.iter();
            all.filter(move |executor| executor.alive == alive)
                .map(|executor| ShownExecutor {
                    view: self.view,
                    executor,
                    info,
                    work_dir: self.work_dir,
                })
        };
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "id": self.framework.view.framework.as_str(),
            "name": info.name,
            "user": info.user,
            "failover_timeout": info.failover_timeout(),
            "checkpoint": info.checkpoint(),
            "hostname": info.hostname(),
            "capabilities": Each(|| info.capabilities.iter().map(|one| one.r#type().as_str_name())),
            "executors": Each(|| executors(true)),
            "completed_executors": Each(|| executors(false)),
        );
        if let Some(principal) = &info.principal {
            map.serialize_entry("principal", principal)?;
        }
        if info.roles.is_empty() {
            map.serialize_entry("role", info.role())?;
        } else {
            map.serialize_entry("roles", &info.roles)?;
        }
        map.end()
    }
}

struct ShownExecutor<'a> {
    view: &'a AgentView,
    executor: &'a Executor<'a>,
    info: &'a v1::FrameworkInfo,
    work_dir: &'a str,
}

impl ShownExecutor<'_> {
    fn tasks<'b>(&'b self, tasks: &'b [&TaskView], queued: bool) -> Vec<Value> {
        use tepui_agent_core::Standing;
        let matching = tasks
            .iter()
            .filter(|task| (task.standing < Standing::Launched) == queued);
        matching
            .map(|task| {
                let wire = shown::task(self.view, task, self.info);
                let mut value = json_of(&Task(&wire, Some(&task.info)));
                if wire.executor_id.is_none() {
                    value["executor_id"] = Value::from("");
                }
                // Beyond what Mesos tells: a task's own files.
                value["directory"] = format!("{}/{}", self.work_dir, task.sandbox).into();
                value
            })
            .collect()
    }
}

impl Serialize for ShownExecutor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (executor, info) = (self.executor, &self.executor.info);
        let mut map = serializer.serialize_map(None)?;
        entries!(map,
            "id": info.executor_id.value,
            "name": info.name(),
            "source": info.source(),
            "container": executor.container_id,
            "directory": format!("{}/{}", self.work_dir, executor.sandbox),
            "resources": Sums::of(&executor.resources),
            "tasks": self.tasks(&executor.tasks, false),
            "queued_tasks": self.tasks(&executor.tasks, true),
            "completed_tasks": self.tasks(&executor.completed, false),
        );
        if let Some(given) = &info.labels {
            map.serialize_entry("labels", &labels(given))?;
        }
        if info.r#type.is_some() {
            map.serialize_entry("type", info.r#type().as_str_name())?;
        }
        if let Some(pid) = executor.pid {
            map.serialize_entry("pid", &pid)?;
        }
        map.end()
    }
}
