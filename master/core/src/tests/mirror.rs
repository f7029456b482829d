//! The picture that an operator has who took a snapshot and has listened ever since.

use std::collections::{BTreeMap, BTreeSet};

use tepui_api::v1::TaskState;

use crate::{Happening, View};

pub(super) struct Mirror {
    tasks: BTreeMap<(String, String), TaskState>,
    frameworks: BTreeSet<String>,
    agents: BTreeSet<String>,
}

/// Every task that the view has anything of but the completed ones.
fn tasks(view: &View) -> BTreeMap<(String, String), TaskState> {
    let live = view.tasks.values().map(|task| &task.wire);
    let away = view
        .frameworks
        .values()
        .flat_map(|framework| framework.unreachable_tasks.values().map(|task| &**task));
    live.chain(away)
        .map(|task| {
            let key = (task.framework_id.value.clone(), task.task_id.value.clone());
            (key, task.state())
        })
        .collect()
}

fn frameworks(view: &View) -> BTreeSet<String> {
    let frameworks = view.frameworks.values();
    frameworks
        .map(|framework| framework.id.to_string())
        .collect()
}

fn agents(view: &View) -> BTreeSet<String> {
    view.agents
        .values()
        .map(|agent| agent.id.to_string())
        .collect()
}

impl Mirror {
    pub(super) fn of(view: &View) -> Self {
        Self {
            tasks: tasks(view),
            frameworks: frameworks(view),
            agents: agents(view),
        }
    }

    pub(super) fn hear(&mut self, happening: Happening) {
        match happening {
            Happening::TaskAdded { task, .. } => {
                let state = task.state();
                let before = self
                    .tasks
                    .insert((task.framework_id.value, task.task_id.value), state);
                let was_over =
                    |state: TaskState| state.is_terminal() || state == TaskState::TaskUnreachable;
                assert!(before.is_none_or(was_over), "added twice: {before:?}");
            }
            Happening::TaskUpdated { update, .. } => {
                let state = update.state();
                let key = (update.framework_id.value, update.status.task_id.value);
                let known = self.tasks.insert(key, state);
                assert!(known.is_some(), "updated before it was added");
            }
            Happening::AgentAdded { agent, .. } => {
                self.agents.insert(agent.id.to_string());
            }
            Happening::AgentRemoved(id) => {
                assert!(
                    self.agents.remove(id.as_str()),
                    "removed without being there"
                );
            }
            Happening::FrameworkAdded(framework) => {
                assert!(
                    self.frameworks.insert(framework.id.to_string()),
                    "added twice"
                );
            }
            Happening::FrameworkUpdated { framework, .. } => {
                assert!(self.frameworks.contains(framework.id.as_str()));
            }
            Happening::FrameworkRemoved(info) => {
                let id = info.id.as_ref().map_or("", |id| &id.value);
                assert!(self.frameworks.remove(id), "removed without being there");
            }
        }
    }

    /// Nothing was lost between the snapshot and now.
    pub(super) fn compare(&self, view: &View) {
        for (task, state) in tasks(view) {
            assert_eq!(self.tasks.get(&task), Some(&state), "task {task:?}");
        }
        assert_eq!(self.frameworks, frameworks(view));
        // Agents that became unreachable are not told to be removed: they may come back.
        assert!(self.agents.is_superset(&agents(view)));
    }
}
