//! LAUNCH_GROUP: all tasks of a group are entered, and their executor with the first of its groups, or none is.

use std::sync::Arc;

use tepui_access::Denied;
use tepui_api::convert::{executor_user, fallback_user, task_user};
use tepui_api::link::{self, to_agent};
use tepui_api::v1::offer::operation;
use tepui_api::v1::{self, task_status::Reason};
use tepui_model::{ExecutorId, TaskId};

use crate::accept::Accepted;
use crate::core::Core;
use crate::tasks::task_of;
use crate::validate::{self, Place};
use crate::validate_group::{
    GroupInvalid, GroupPlace, LaunchableGroup, check_group, shares_cgroups,
};
use crate::view::{ExecutorRecord, TaskRecord};
use crate::wire;

impl Core {
    pub(crate) fn launch_group(&mut self, accepted: &mut Accepted, group: operation::LaunchGroup) {
        self.metrics.count("master/messages_launch_task_group");
        let operation::LaunchGroup {
            mut executor,
            task_group,
        } = group;
        wire::inject_allocation(&mut executor.resources, &accepted.role);
        let mut tasks = task_group.tasks;
        let framework_id = self.framework_id(accepted.framework).clone();
        for task in &mut tasks {
            validate::complete(task, framework_id.as_str(), &accepted.role);
        }
        if let Err(denied) = self.authorize_group(accepted, &executor, &tasks) {
            let reason = Reason::TaskGroupUnauthorized;
            self.refuse_group(accepted, tasks, reason, &denied.to_string());
            return;
        }
        match self.check_group(accepted, &executor, &tasks) {
            Ok(launchable) => self.enter_group(accepted, executor, tasks, launchable),
            Err(invalid) => {
                let reason = Reason::TaskGroupInvalid;
                self.refuse_group(accepted, tasks, reason, &invalid.to_string());
            }
        }
    }

    fn refuse_group(
        &mut self,
        accepted: &Accepted,
        tasks: Vec<v1::TaskInfo>,
        reason: Reason,
        message: &str,
    ) {
        for task in tasks {
            let (id, agent) = (task.task_id, task.agent_id);
            self.task_error(accepted.framework, id, agent, reason, message.to_owned());
        }
    }

    /// One task that may not run as its user denies the whole group.
    fn authorize_group(
        &self,
        accepted: &Accepted,
        executor: &v1::ExecutorInfo,
        tasks: &[v1::TaskInfo],
    ) -> Result<(), Denied> {
        let info = &self.frameworks[accepted.framework].info;
        let principal = info.principal.as_deref();
        let of_executor = executor_user(executor, &info.user);
        if executor.command.is_some() {
            self.authorize_user(principal, of_executor)?;
        }
        let mut users = tasks.iter().flat_map(|task| {
            let own = std::iter::once(task_user(task, of_executor));
            // The native body of a task knows nothing of its executor.
            own.chain(fallback_user(task, &info.user))
        });
        users.try_for_each(|user| self.authorize_user(principal, user))
    }

    fn check_group(
        &self,
        accepted: &Accepted,
        executor: &v1::ExecutorInfo,
        tasks: &[v1::TaskInfo],
    ) -> Result<LaunchableGroup, GroupInvalid> {
        let (framework, agent) = (accepted.framework, accepted.agent);
        let framework_record = &self.frameworks[framework];
        let id = ExecutorId::from(executor.executor_id.value.as_str());
        let running = self.find_executor(agent, framework, &id);
        let available = accepted.available();
        let place = GroupPlace {
            place: Place {
                framework: framework_record.id.as_str(),
                agent: self.agents[agent].id.as_str(),
                role: &accepted.role,
                available: &available,
                id_in_use: false,
                executor: running.map(|executor| &*executor.info),
            },
            id_in_use: &|id| {
                self.find_task(framework, id).is_some()
                    || framework_record.unreachable_tasks.contains_key(id)
            },
            shares: self.sharing(accepted, &id),
        };
        let launchable = check_group(executor, tasks, &place)?;
        let own_executor = executor.command.is_some();
        for task in tasks {
            let checked = self.check_datasets(agent, &accepted.role, task, own_executor);
            checked.map_err(|invalid| GroupInvalid::Task {
                id: task.task_id.value.clone(),
                error: invalid.into(),
            })?;
        }
        Ok(launchable)
    }

    /// Whether the live tasks of an executor share its cgroup; none if there are no tasks.
    fn sharing(&self, accepted: &Accepted, executor: &ExecutorId) -> Option<bool> {
        let keys = &self.agent_states.get(&accepted.agent)?.tasks;
        let mut tasks = keys.iter().filter_map(|key| self.tasks.get(*key));
        let task = tasks.find(|task| {
            let named = task.wire.executor_id.as_ref();
            task.framework == accepted.framework
                && !task.state().is_terminal()
                && named.is_some_and(|named| named.value == executor.as_str())
        })?;
        Some(shares_cgroups(task.wire.container.as_ref()))
    }

    fn enter_group(
        &mut self,
        accepted: &mut Accepted,
        executor: v1::ExecutorInfo,
        mut tasks: Vec<v1::TaskInfo>,
        launchable: LaunchableGroup,
    ) {
        if tasks.is_empty() {
            return;
        }
        let (framework, agent) = (accepted.framework, accepted.agent);
        let record = &self.frameworks[framework];
        let (framework_id, info) = (record.id.clone(), record.info.clone());
        let agent_id = self.agents[agent].id.clone();
        let role = accepted.role.clone();
        let mut new_executors = Vec::new();
        if let Some(resources) = launchable.executor {
            self.allocator
                .mark_used(agent.into(), framework.into(), &role, &resources);
            let left = accepted.available().saturating_subtract(&resources);
            self.draw(accepted, left);
            new_executors.push(executor.executor_id.clone());
            self.insert_executor(ExecutorRecord {
                info: Arc::new(executor.clone()),
                id: ExecutorId::from(executor.executor_id.value.as_str()),
                framework_id: framework_id.clone(),
                agent_id: agent_id.clone(),
                framework,
                agent,
                role: role.clone(),
                resources,
            });
        }
        for (task, resources) in tasks.iter_mut().zip(launchable.tasks) {
            task.executor = Some(executor.clone());
            self.allocator
                .mark_used(agent.into(), framework.into(), &role, &resources);
            // One after the other: of what is shared each holds a copy.
            let left = accepted.available().saturating_subtract(&resources);
            self.draw(accepted, left);
            self.insert_task(TaskRecord {
                wire: task_of(&framework_id, &info.user, task),
                info: Some(Arc::new(task.clone())),
                id: TaskId::from(task.task_id.value.as_str()),
                framework_id: framework_id.clone(),
                agent_id: agent_id.clone(),
                framework,
                agent,
                role: role.clone(),
                resources,
                charged: false,
                forwarded_uuid: None,
                acknowledged_uuid: None,
            });
        }
        let launch = link::Launch {
            framework: v1::FrameworkInfo::clone(&info),
            tasks,
            group_executor: Some(executor),
            new_executors,
        };
        self.send_to_agent(agent, to_agent::Body::Launch(launch));
    }
}
