//! The agent as tools know it from Mesos: every command task has an executor of its own, called as the task is, with the
//! task's directory. That tasks share Tepui's built-in executors is nobody's business but the agent's.

use std::collections::BTreeMap;

use tepui_access::Action;
use tepui_agent_core::{
    AgentView, ExecutorKind, ExecutorRef, ExecutorView, FrameworkView, Standing, TaskView,
};
use tepui_api::convert::{executor_user, resources_from_wire};
use tepui_api::secrets::concealed;
use tepui_api::v1;
use tepui_model::{FrameworkId, Resources};

use crate::access::Eyes;

/// So much of a command is part of its executor's name.
const COMMAND_CHARACTERS: usize = 15;

/// Where it is counted what an executor uses.
#[derive(Debug, Clone)]
pub(crate) enum Meter {
    /// The executor's own cgroup or process.
    Executor(ExecutorRef, Option<u32>),
    /// The cgroup of one task, inside that of the executor that runs it.
    Inside(ExecutorRef),
}

/// An executor in the eyes of a tool.
#[derive(Debug)]
pub(crate) struct Executor<'a> {
    pub(crate) framework: &'a FrameworkId,
    pub(crate) info: v1::ExecutorInfo,
    pub(crate) container_id: &'a str,
    /// Relative to the work directory.
    pub(crate) sandbox: &'a str,
    pub(crate) resources: Resources,
    pub(crate) pid: Option<u32>,
    pub(crate) meter: Meter,
    pub(crate) alive: bool,
    pub(crate) tasks: Vec<&'a TaskView>,
    pub(crate) completed: Vec<&'a TaskView>,
}

impl Executor<'_> {
    /// Whether they may do that to an executor of the user this one has.
    pub(crate) fn is_for(&self, eyes: &Eyes, action: Action, framework: &FrameworkView) -> bool {
        eyes.may(action, executor_user(&self.info, &framework.info.user))
    }
}

#[derive(Debug)]
pub(crate) struct Framework<'a> {
    pub(crate) view: &'a FrameworkView,
    pub(crate) alive: bool,
    /// Those that live first.
    pub(crate) executors: Vec<Executor<'a>>,
}

/// All frameworks, those of which something lives here first.
pub(crate) fn frameworks(view: &AgentView) -> Vec<Framework<'_>> {
    let live = view.frameworks.iter().map(|framework| (framework, true));
    let past = view
        .completed_frameworks
        .iter()
        .map(|framework| (framework, false));
    let mut executors = executors(view);
    live.chain(past)
        .map(|(framework, alive)| Framework {
            view: framework,
            alive,
            executors: executors.remove(&framework.framework).unwrap_or_default(),
        })
        .collect()
}

/// The same without the executors for which they may not do that.
pub(crate) fn frameworks_for<'a>(
    view: &'a AgentView,
    eyes: &Eyes,
    action: Action,
) -> Vec<Framework<'a>> {
    let mut shown = frameworks(view);
    for framework in &mut shown {
        let of = framework.view;
        framework
            .executors
            .retain(|executor| executor.is_for(eyes, action, of));
    }
    shown
}

fn executors(view: &AgentView) -> BTreeMap<&FrameworkId, Vec<Executor<'_>>> {
    let mut shown: BTreeMap<(&FrameworkId, String, &str), Executor<'_>> = BTreeMap::new();
    let own = view.executors.iter().map(|executor| (executor, true));
    let past = view.completed_executors.iter();
    // The containers of groups' executors, by their sandboxes, in which those of their tasks are.
    let mut pods: BTreeMap<&str, &str> = BTreeMap::new();
    for (executor, alive) in own.chain(past.map(|executor| (executor, false))) {
        if executor.kind.is_none() {
            pods.insert(&executor.sandbox, executor.container_id.as_str());
        }
        if matches!(executor.kind, None | Some(ExecutorKind::Custom)) {
            let key = (
                &executor.executor.framework,
                executor.executor.executor.to_string(),
                executor.container_id.as_str(),
            );
            shown.insert(key, of_frameworks(executor, alive));
        }
    }
    let live = view.tasks.iter().map(|task| (task, true));
    let ended = view.ended.iter().map(|task| (task, false));
    for (task, remembered) in live.chain(ended) {
        if task.sandbox.is_empty() {
            continue;
        }
        let id = task
            .told_executor
            .as_ref()
            .map_or_else(|| task.task.task.to_string(), |id| id.value.clone());
        let above = task.sandbox.split_once("/containers/");
        let container = above
            .and_then(|(sandbox, _)| pods.get(sandbox).copied())
            .unwrap_or(task.container_id.as_str());
        let key = (&task.task.framework, id, container);
        let executor = shown
            .entry(key)
            .or_insert_with_key(|(_, id, _)| of_task(task, id));
        if remembered {
            executor.tasks.push(task);
        } else {
            executor.completed.push(task);
        }
    }
    let mut by_framework: BTreeMap<&FrameworkId, Vec<Executor<'_>>> = BTreeMap::new();
    for executor in shown.into_values() {
        by_framework
            .entry(executor.framework)
            .or_default()
            .push(executor);
    }
    for executors in by_framework.values_mut() {
        executors.sort_by_key(|executor| !executor.alive);
    }
    by_framework
}

/// One the framework knows as its own: its process, or its groups' executor.
fn of_frameworks(executor: &ExecutorView, alive: bool) -> Executor<'_> {
    Executor {
        framework: &executor.executor.framework,
        info: concealed(&*executor.info),
        container_id: executor.container_id.as_str(),
        sandbox: &executor.sandbox,
        resources: executor.resources.clone(),
        pid: executor.pid,
        meter: Meter::Executor(executor.executor.clone(), executor.pid),
        alive,
        tasks: Vec::new(),
        completed: Vec::new(),
    }
}

fn of_task<'a>(task: &'a TaskView, id: &str) -> Executor<'a> {
    let info = &task.info;
    let executor = ExecutorRef {
        framework: task.task.framework.clone(),
        executor: task.executor.clone().unwrap_or_else(|| id.into()),
    };
    Executor {
        framework: &task.task.framework,
        info: v1::ExecutorInfo {
            executor_id: v1::ExecutorId {
                value: id.to_owned(),
            },
            framework_id: Some(v1::FrameworkId {
                value: task.task.framework.to_string(),
            }),
            name: Some(name(info)),
            source: Some(id.to_owned()),
            command: concealed(&info.command),
            container: concealed(&info.container),
            labels: info.labels.clone(),
            discovery: info.discovery.clone(),
            ..Default::default()
        },
        container_id: task.container_id.as_str(),
        sandbox: &task.sandbox,
        resources: resources_from_wire(&info.resources)
            .map(|(resources, _)| resources)
            .unwrap_or_default(),
        pid: None,
        meter: Meter::Inside(executor),
        alive: task.standing != Standing::Terminated,
        tasks: Vec::new(),
        completed: Vec::new(),
    }
}

fn name(info: &v1::TaskInfo) -> String {
    let command = info.command.as_ref();
    let value = command.and_then(|command| command.value.as_deref());
    let mut line = match command.filter(|command| !command.shell()) {
        Some(command) if !command.arguments.is_empty() => command.arguments.join(" "),
        _ => value.unwrap_or_default().to_owned(),
    };
    if line.chars().count() > COMMAND_CHARACTERS {
        line = line.chars().take(COMMAND_CHARACTERS - 3).collect();
        line.push_str("...");
    }
    let shell = if command.is_some_and(v1::CommandInfo::shell) {
        format!("sh -c '{line}'")
    } else {
        line
    };
    format!(
        "Command Executor (Task: {}) (Command: {shell})",
        info.task_id.value
    )
}

/// A task as the wire has it.
pub(crate) fn task(view: &AgentView, task: &TaskView, framework: &v1::FrameworkInfo) -> v1::Task {
    let info = &task.info;
    let user = info
        .command
        .as_ref()
        .and_then(|command| command.user.clone());
    v1::Task {
        name: info.name.clone(),
        task_id: info.task_id.clone(),
        framework_id: v1::FrameworkId {
            value: task.task.framework.to_string(),
        },
        executor_id: task.told_executor.clone(),
        agent_id: view.agent_id.as_ref().map_or_else(
            || info.agent_id.clone(),
            |id| v1::AgentId {
                value: id.to_string(),
            },
        ),
        state: task.state.into(),
        resources: info.resources.clone(),
        limits: info.limits.clone(),
        statuses: task
            .statuses
            .iter()
            .map(|status| v1::TaskStatus::clone(status))
            .collect(),
        labels: info.labels.clone(),
        discovery: info.discovery.clone(),
        container: concealed(&info.container),
        user: Some(user.unwrap_or_else(|| framework.user.clone())),
        health_check: concealed(&info.health_check),
        kill_policy: info.kill_policy,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_tasks_executor_is_named_by_its_task_and_the_beginning_of_its_command() {
        let named = |command: v1::CommandInfo| {
            name(&v1::TaskInfo {
                task_id: v1::TaskId { value: "t".into() },
                command: Some(command),
                ..Default::default()
            })
        };
        let shell = named(v1::CommandInfo {
            value: Some("exec sleep 1000 && true".into()),
            ..Default::default()
        });
        assert_eq!(
            shell,
            "Command Executor (Task: t) (Command: sh -c 'exec sleep 1...')"
        );
        let plain = named(v1::CommandInfo {
            shell: Some(false),
            value: Some("/bin/ls".into()),
            arguments: vec!["ls".into(), "-l".into()],
            ..Default::default()
        });
        assert_eq!(plain, "Command Executor (Task: t) (Command: ls -l)");
    }
}
