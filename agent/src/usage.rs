//! Who uses what: `/monitor/statistics`, `/containers` and GET_CONTAINERS, one row for each executor a tool knows of.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde_json::{Value, json};
use tepui_access::Action;
use tepui_agent_core::{AgentView, ExecutorKind, ExecutorRef};
use tepui_api::json::to_value;
use tepui_api::v1;
use tepui_api::v1::agent::response::get_containers::Container;

use crate::access::Eyes;
use crate::answer::blocking;
use crate::shown::{self, Executor, Meter};
use crate::site::{Refusal, Site};
use crate::statistics::{Reported, add_group, add_process, allotted, reported};

/// By the wasm executor that runs them, its tasks.
type Reports = BTreeMap<ExecutorRef, BTreeMap<String, Reported>>;

/// The rows of everything that lives and may be seen.
pub(crate) async fn rows(
    site: &Site,
    view: Box<AgentView>,
    eyes: Eyes,
) -> Result<Vec<Container>, Refusal> {
    let wasm = view
        .executors
        .iter()
        .filter(|executor| executor.kind == Some(ExecutorKind::Wasm));
    let asked = wasm.filter_map(|executor| {
        let (of, pid) = (executor.executor.clone(), executor.pid?);
        Some(async move { (of, reported(pid).await) })
    });
    let reports: Reports = join_all(asked).await.into_iter().collect();
    let site = site.clone();
    blocking(move || {
        let frameworks = shown::frameworks_for(&view, &eyes, Action::ViewContainer);
        let executors = frameworks.iter().flat_map(|framework| &framework.executors);
        let live = executors.filter(|executor| executor.alive);
        live.map(|executor| row(&site, executor, &reports))
            .collect()
    })
    .await
}

fn row(site: &Site, executor: &Executor<'_>, reports: &Reports) -> Container {
    let container_id = v1::ContainerId {
        value: executor.container_id.to_owned(),
        ..Default::default()
    };
    Container {
        framework_id: Some(v1::FrameworkId {
            value: executor.framework.to_string(),
        }),
        executor_id: Some(executor.info.executor_id.clone()),
        executor_name: Some(executor.info.name().to_owned()),
        container_status: Some(v1::ContainerStatus {
            container_id: Some(container_id.clone()),
            executor_pid: executor.pid,
            network_infos: site.about.network_infos(),
            ..Default::default()
        }),
        container_id,
        resource_statistics: Some(measure(site, executor, reports)),
    }
}

/// Containers that executors and operators launched, those of them that may be seen.
pub(crate) fn own_rows(
    site: &Site,
    view: &AgentView,
    eyes: &Eyes,
    nested: bool,
    standalone: bool,
) -> Vec<Container> {
    // A framework knows of no built-in executor: what is nested in a task's container is of the task's.
    let frameworks = shown::frameworks(view);
    let known: BTreeMap<&str, &v1::ExecutorId> = frameworks
        .iter()
        .flat_map(|framework| &framework.executors)
        .map(|executor| (executor.container_id, &executor.info.executor_id))
        .collect();
    let running = site.containers.running().into_iter();
    let wanted = running.filter(|(container, _)| match container.id.parent {
        Some(_) => nested && eyes.may(Action::ViewContainer, &container.user),
        None => standalone && eyes.may(Action::ViewStandaloneContainer, &container.user),
    });
    wanted
        .map(|(container, pid)| {
            let mut statistics = allotted(&container.resources);
            add_process(&mut statistics, pid);
            let executor = container.executor.as_ref();
            Container {
                framework_id: executor.map(|executor| v1::FrameworkId {
                    value: executor.framework.to_string(),
                }),
                executor_id: executor.map(|executor| {
                    let known = known.get(outermost(&container.id)).copied();
                    known.cloned().unwrap_or_else(|| v1::ExecutorId {
                        value: executor.executor.to_string(),
                    })
                }),
                executor_name: None,
                container_id: container.id.clone(),
                container_status: Some(v1::ContainerStatus {
                    container_id: Some(container.id.clone()),
                    executor_pid: Some(pid),
                    network_infos: site.about.network_infos(),
                    ..Default::default()
                }),
                resource_statistics: Some(statistics),
            }
        })
        .collect()
}

fn outermost(mut id: &v1::ContainerId) -> &str {
    while let Some(parent) = &id.parent {
        id = parent;
    }
    &id.value
}

fn measure(site: &Site, executor: &Executor<'_>, reports: &Reports) -> v1::ResourceStatistics {
    let mut statistics = allotted(&executor.resources);
    match &executor.meter {
        Meter::Executor(reference, pid) => match (site.executors.group(reference), pid) {
            (Some(group), _) => add_group(&mut statistics, &group),
            (None, Some(pid)) => add_process(&mut statistics, *pid),
            (None, None) => {}
        },
        Meter::Inside(reference) => {
            let inner = site
                .executors
                .group(reference)
                .map(|group| group.inner(executor.container_id))
                .filter(|inner| inner.exists());
            if let Some(inner) = inner {
                add_group(&mut statistics, &inner);
            } else if let Some(tasks) = reports.get(reference) {
                // Wasm tasks have no process of their own: the executor counts for each.
                let mine = executor.tasks.iter();
                if let Some(used) = mine
                    .filter_map(|task| tasks.get(task.task.task.as_str()))
                    .next()
                {
                    used.clone().add_to(&mut statistics);
                }
            }
        }
    }
    statistics
}

/// A row of `/monitor/statistics`.
pub(crate) fn statistics_json(row: &Container) -> Value {
    json!({
        "framework_id": row.framework_id.as_ref().map(|id| &id.value),
        "executor_id": row.executor_id.as_ref().map(|id| &id.value),
        "executor_name": row.executor_name(),
        // Mesos sets it so for command tasks; nothing else is known of it here.
        "source": row.executor_id.as_ref().map(|id| &id.value),
        "statistics": row.resource_statistics.as_ref().map(to_value),
    })
}

/// A row of `/containers`.
pub(crate) fn container_json(row: &Container) -> Value {
    let mut value = statistics_json(row);
    value["container_id"] = row.container_id.value.clone().into();
    value["status"] = row.container_status.as_ref().map(to_value).into();
    value
}
