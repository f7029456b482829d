//! The part of a view that a principal may see.

use std::sync::Arc;

use tepui_access::{Acls, Action, Caller};
use tepui_api::convert::{executor_user, operation_resources, reserved_role};
use tepui_api::v1;

use crate::core::Core;
use crate::happenings::Happening;
use crate::view::{FrameworkRecord, View};

impl View {
    /// The view without the frameworks, tasks, executors and roles that the lists keep from the principal. Costs nothing
    /// where nothing is kept from anybody.
    pub fn visible_to(self: &Arc<Self>, acls: &Acls, principal: Option<&str>) -> Arc<Self> {
        let actions = [
            Action::ViewFramework,
            Action::ViewTask,
            Action::ViewExecutor,
            Action::ViewRole,
            Action::GetMaintenanceSchedule,
            Action::GetMaintenanceStatus,
            Action::GetQuota,
        ];
        if actions.into_iter().all(|action| acls.is_open(action)) {
            return Arc::clone(self);
        }
        let caller = Caller { acls, principal };
        let eyes = Eyes(caller);
        let frameworks = self.frameworks.filter_map(|record| eyes.framework(record));
        let mut view = View::clone(self);
        view.tasks = self.tasks.filter_map(|task| {
            let framework = frameworks.get(task.framework)?;
            eyes.sees(
                Action::ViewTask,
                task.wire.user.as_deref().unwrap_or(&framework.info.user),
            )
            .then(|| task.clone())
        });
        view.executors = self.executors.filter_map(|executor| {
            let framework = frameworks.get(executor.framework)?;
            let user = executor_user(&executor.info, &framework.info.user);
            eyes.sees(Action::ViewExecutor, user)
                .then(|| executor.clone())
        });
        view.offers = self
            .offers
            .filter_map(|offer| frameworks.get(offer.framework).map(|_| offer.clone()));
        view.operations = self.operations.filter_map(|operation| {
            let framework = operation.framework;
            let seen = framework.is_none_or(|framework| frameworks.get(framework).is_some());
            let reserved = operation_resources(&operation.wire.info).filter_map(reserved_role);
            (seen
                && reserved
                    .into_iter()
                    .all(|role| eyes.sees(Action::ViewRole, role)))
            .then(|| operation.clone())
        });
        view.completed_frameworks = self
            .completed_frameworks
            .filter_map(|record| eyes.framework(record));
        view.roles
            .retain(|role, _| eyes.sees(Action::ViewRole, role.as_str()));
        if !caller.may(Action::GetMaintenanceSchedule, None) {
            view.maintenance_schedule = Arc::default();
        }
        if !caller.may(Action::GetMaintenanceStatus, None) {
            view.maintenance_status = v1::maintenance::ClusterStatus::default();
        }
        Arc::make_mut(&mut view.quotas)
            .retain(|role, _| eyes.sees(Action::GetQuota, role.as_str()));
        view.frameworks = frameworks;
        Arc::new(view)
    }
}

impl Core {
    /// Whether an operator who listens may hear of it.
    pub fn may_hear(&self, principal: Option<&str>, happening: &Happening) -> bool {
        let eyes = Eyes(Caller {
            acls: &self.config.acls,
            principal,
        });
        let sees = |info: &v1::FrameworkInfo| eyes.sees(Action::ViewFramework, &info.user);
        match happening {
            Happening::TaskAdded { task, framework } => {
                sees(framework) && eyes.sees_task(task.user.as_deref(), framework)
            }
            Happening::TaskUpdated {
                user, framework, ..
            } => sees(framework) && eyes.sees_task(user.as_deref(), framework),
            Happening::FrameworkAdded(framework)
            | Happening::FrameworkUpdated { framework, .. } => sees(&framework.info),
            Happening::FrameworkRemoved(info) => sees(info),
            Happening::AgentAdded { .. } | Happening::AgentRemoved(_) => true,
        }
    }
}

struct Eyes<'a>(Caller<'a>);

impl Eyes<'_> {
    fn sees(&self, action: Action, object: &str) -> bool {
        self.0.may(action, Some(object))
    }

    fn sees_task(&self, user: Option<&str>, framework: &v1::FrameworkInfo) -> bool {
        self.sees(Action::ViewTask, user.unwrap_or(&framework.user))
    }

    /// The framework with those of its ended and unreachable tasks that may be seen.
    fn framework(&self, record: &Arc<FrameworkRecord>) -> Option<Arc<FrameworkRecord>> {
        let user = record.info.user.as_str();
        if !self.sees(Action::ViewFramework, user) {
            return None;
        }
        let seen = |task: &Arc<v1::Task>| {
            self.sees(Action::ViewTask, task.user.as_deref().unwrap_or(user))
                .then(|| task.clone())
        };
        let mut record = FrameworkRecord::clone(record);
        record.completed_tasks = record.completed_tasks.filter_map(seen);
        Arc::make_mut(&mut record.unreachable_tasks).retain(|_, task| seen(task).is_some());
        Some(Arc::new(record))
    }
}
