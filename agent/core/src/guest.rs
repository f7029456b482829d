//! Whose question a guest's is: the executor says which of its tasks asks, the agent what that task is.

use tepui_api::guest;
use tepui_model::TaskId;

use crate::calls::{FORBIDDEN, Rejection, UNAVAILABLE};
use crate::input::{ExecutorRef, TaskRef};
use crate::machine::Core;
use crate::task;

/// The label of a task that names the job it belongs to.
pub const JOB_LABEL: &str = "tepui.job";

/// What the agent knows of a task that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestTask {
    pub executor: ExecutorRef,
    /// What the task's resources are allocated to.
    pub role: String,
    /// Its label [`JOB_LABEL`].
    pub job: Option<String>,
}

impl Core {
    /// The task in whose name the executor asks, if it is one that this executor runs. The token is not optional, as it is
    /// elsewhere: what is asked shows and changes what belongs to others of the role.
    pub fn guest_task(
        &self,
        call: &guest::Call,
        token: Option<&str>,
    ) -> Result<GuestTask, Rejection> {
        if self.is_recovering() {
            let message = "Agent has not finished recovery";
            return Err(Rejection::new(UNAVAILABLE, message));
        }
        let executor = self.admit(&call.framework_id, &call.executor_id, token)?;
        if token.is_none() {
            let message = "Expecting the executor's token: Authorization: Bearer TOKEN";
            return Err(Rejection::new(FORBIDDEN, message));
        }
        self.check_subscribed(&executor)?;
        let reference = TaskRef {
            framework: executor.framework.clone(),
            task: TaskId::from(call.task_id.value.as_str()),
        };
        let runs = |task: &&task::Task| {
            task.executor.as_ref() == Some(&executor.executor)
                && matches!(task.stage, task::Stage::Delivered { .. })
        };
        let Some(task) = self.task(&reference).filter(runs) else {
            let message = format!(
                "Task '{}' is not one that this executor runs",
                reference.task
            );
            return Err(Rejection::new(FORBIDDEN, message));
        };
        let allocated =
            |resource: &tepui_api::v1::Resource| resource.allocation_info.as_ref()?.role.clone();
        let labels = task.info.labels.iter().flat_map(|labels| &labels.labels);
        let job = labels
            .into_iter()
            .find(|label| label.key == JOB_LABEL)
            .map(|label| label.value().to_owned());
        let held = self.frameworks.get(&reference.framework);
        let own = || tepui_api::roles_of(&held?.info).into_iter().next();
        Ok(GuestTask {
            role: task
                .info
                .resources
                .iter()
                .find_map(allocated)
                .or_else(own)
                .unwrap_or_else(|| "*".to_owned()),
            job,
            executor,
        })
    }
}
