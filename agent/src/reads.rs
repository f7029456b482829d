//! The operator's reads of the v1 API, from a snapshot of the core's state.

use tepui_access::Action;
use tepui_agent_core::{AgentView, Standing, TaskView};
use tepui_api::v1;
use tepui_api::v1::agent::{Response, response};

use crate::access::Eyes;
use crate::metrics;
use crate::shown;
use crate::site::{About, Site};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Read {
    Health,
    Flags,
    Version,
    Metrics,
    LoggingLevel,
    State,
    Frameworks,
    Executors,
    Operations,
    Tasks,
    Agent,
    ResourceProviders,
}

/// `view` is what the caller may see, `eyes` what else it may.
pub(crate) fn answer(read: Read, site: &Site, view: &AgentView, eyes: &Eyes) -> Response {
    use response::Type;
    let about = &site.about;
    let mut response = Response::default();
    let kind = match read {
        Read::Health => {
            response.get_health = Some(response::GetHealth { healthy: true });
            Type::GetHealth
        }
        Read::Flags => {
            let flags = about.flags.iter().map(|(name, value)| v1::Flag {
                name: (*name).to_owned(),
                value: Some(value.clone()),
            });
            response.get_flags = Some(response::GetFlags {
                flags: flags.collect(),
            });
            Type::GetFlags
        }
        Read::Version => {
            let version_info = v1::VersionInfo {
                version: crate::MESOS_API_LEVEL.to_owned(),
                ..Default::default()
            };
            response.get_version = Some(response::GetVersion { version_info });
            Type::GetVersion
        }
        Read::Metrics => {
            let metrics = metrics::collect(site, view).into_iter();
            let metrics = metrics.map(|(name, value)| v1::Metric {
                name,
                value: Some(value),
            });
            response.get_metrics = Some(response::GetMetrics {
                metrics: metrics.collect(),
            });
            Type::GetMetrics
        }
        Read::LoggingLevel => {
            let level = site.verbosity.level();
            response.get_logging_level = Some(response::GetLoggingLevel { level });
            Type::GetLoggingLevel
        }
        Read::State => {
            response.get_state = Some(response::GetState {
                get_tasks: Some(tasks(view)),
                get_executors: Some(executors(view, eyes)),
                get_frameworks: Some(frameworks(view)),
            });
            Type::GetState
        }
        Read::Frameworks => {
            response.get_frameworks = Some(frameworks(view));
            Type::GetFrameworks
        }
        Read::Executors => {
            response.get_executors = Some(executors(view, eyes));
            Type::GetExecutors
        }
        Read::Operations => {
            response.get_operations = Some(response::GetOperations {
                operations: view.operations.clone(),
            });
            Type::GetOperations
        }
        Read::Tasks => {
            response.get_tasks = Some(tasks(view));
            Type::GetTasks
        }
        Read::Agent => {
            response.get_agent = Some(response::GetAgent {
                agent_info: Some(info(about, view)),
                drain_config: view.drain.map(|(config, _)| config),
                estimated_drain_start_time: view
                    .drain
                    .map(|(_, nanoseconds)| v1::TimeInfo { nanoseconds }),
            });
            Type::GetAgent
        }
        Read::ResourceProviders => {
            response.get_resource_providers = Some(response::GetResourceProviders::default());
            Type::GetResourceProviders
        }
    };
    response.r#type = Some(kind.into());
    response
}

pub(crate) fn info(about: &About, view: &AgentView) -> v1::AgentInfo {
    v1::AgentInfo {
        id: view.agent_id.as_ref().map(|id| v1::AgentId {
            value: id.to_string(),
        }),
        ..about.info.clone()
    }
}

fn frameworks(view: &AgentView) -> response::GetFrameworks {
    let each = |frameworks: &[tepui_agent_core::FrameworkView]| {
        frameworks
            .iter()
            .map(|framework| response::get_frameworks::Framework {
                framework_info: v1::FrameworkInfo::clone(&framework.info),
            })
            .collect()
    };
    response::GetFrameworks {
        frameworks: each(&view.frameworks),
        completed_frameworks: each(&view.completed_frameworks),
    }
}

fn executors(view: &AgentView, eyes: &Eyes) -> response::GetExecutors {
    let all = shown::frameworks_for(view, eyes, Action::ViewExecutor);
    let all = all.into_iter().flat_map(|framework| framework.executors);
    let (live, past): (Vec<_>, Vec<_>) = all.partition(|executor| executor.alive);
    let each = |executors: Vec<shown::Executor<'_>>| {
        executors
            .into_iter()
            .map(|executor| response::get_executors::Executor {
                executor_info: executor.info,
            })
            .collect()
    };
    response::GetExecutors {
        executors: each(live),
        completed_executors: each(past),
    }
}

fn tasks(view: &AgentView) -> response::GetTasks {
    let mut tasks = response::GetTasks::default();
    let nobody = v1::FrameworkInfo::default();
    let wire = |task: &TaskView| {
        let known = view
            .frameworks
            .iter()
            .chain(&view.completed_frameworks)
            .find(|framework| framework.framework == task.task.framework);
        shown::task(view, task, known.map_or(&nobody, |known| &known.info))
    };
    for task in &view.tasks {
        let list = match task.standing {
            Standing::Pending => &mut tasks.pending_tasks,
            Standing::Queued => &mut tasks.queued_tasks,
            Standing::Launched => &mut tasks.launched_tasks,
            Standing::Terminated => &mut tasks.terminated_tasks,
        };
        list.push(wire(task));
    }
    tasks.completed_tasks = view.ended.iter().map(wire).collect();
    tasks
}
