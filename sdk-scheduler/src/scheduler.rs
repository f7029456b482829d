//! What a scheduler can do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tepui_api::envelope::Envelope;
use tepui_api::v1::offer::{Operation, operation};
use tepui_api::v1::scheduler::{Call, call};
use tepui_api::v1::{
    AgentId, ExecutorId, Filters, FrameworkId, FrameworkInfo, OfferId, Request, TaskId, TaskInfo,
    TaskStatus,
};

use crate::error::CallError;
use crate::shared::Shared;

/// Makes calls on the master. Cheap to clone; calls made at once travel over several connections, so whoever needs one to
/// arrive before another awaits it first.
///
/// Every method answers `Ok` when the master has taken the call, which is not yet success: see [`CallError`]. While there
/// is no subscription (before the first `Subscribed`, after `Disconnected`) each fails without a status.
#[derive(Clone)]
pub struct Scheduler {
    pub(crate) shared: Arc<Shared>,
}

impl Scheduler {
    /// The framework's id, once the master or the configuration gave it one.
    pub fn framework_id(&self) -> Option<FrameworkId> {
        self.shared.framework_id()
    }

    /// Makes any call of the v1 scheduler API but SUBSCRIBE. `framework_id` is filled in if it is unset.
    ///
    /// # Errors
    /// As the master answers; 400 for a SUBSCRIBE.
    pub async fn call(&self, call: Call) -> Result<(), CallError> {
        self.shared.call(call).await
    }

    async fn make(&self, kind: call::Type, fill: impl FnOnce(&mut Call)) -> Result<(), CallError> {
        let mut call = Call {
            r#type: Some(kind as i32),
            ..Call::default()
        };
        fill(&mut call);
        self.shared.call(call).await
    }

    /// Uses offers, all of one agent and role, for the operations in their order. What is left of the offers is declined
    /// with `filters` (unset: not offered again for 5 s).
    ///
    /// # Errors
    /// As the master answers. Offers that are void, or operations that do not fit into them, come back as updates.
    pub async fn accept(
        &self,
        offers: &[OfferId],
        operations: Vec<Operation>,
        filters: Option<Filters>,
    ) -> Result<(), CallError> {
        let accept = call::Accept {
            offer_ids: offers.to_vec(),
            operations,
            filters,
        };
        self.make(call::Type::Accept, |call| call.accept = Some(accept))
            .await
    }

    /// Uses offers, all of one agent and role, to start tasks: an [`accept`](Self::accept) with one LAUNCH.
    ///
    /// # Errors
    /// As for [`accept`](Self::accept).
    pub async fn launch(&self, offers: &[OfferId], tasks: Vec<TaskInfo>) -> Result<(), CallError> {
        let operation = Operation {
            r#type: Some(operation::Type::Launch as i32),
            launch: Some(operation::Launch { task_infos: tasks }),
            ..Operation::default()
        };
        self.accept(offers, vec![operation], None).await
    }

    /// Gives offers back. The same resources are not offered to this framework again for `refuse_for` (`None`: 5 s; zero:
    /// at once; at most 365 days count).
    ///
    /// # Errors
    /// As the master answers.
    pub async fn decline(
        &self,
        offers: &[OfferId],
        refuse_for: Option<Duration>,
    ) -> Result<(), CallError> {
        let filters = refuse_for.map(|time| Filters {
            refuse_seconds: Some(time.as_secs_f64()),
        });
        let decline = call::Decline {
            offer_ids: offers.to_vec(),
            filters,
        };
        self.make(call::Type::Decline, |call| call.decline = Some(decline))
            .await
    }

    /// Ends a task, gently at first: its kill policy says for how long. With the wrong `agent` nothing happens; without,
    /// the master looks the task up. Killing a task nobody knows is answered with an update that says so.
    ///
    /// # Errors
    /// As the master answers.
    pub async fn kill(&self, task: &TaskId, agent: Option<&AgentId>) -> Result<(), CallError> {
        let kill = call::Kill {
            task_id: task.clone(),
            agent_id: agent.cloned(),
            kill_policy: None,
        };
        self.make(call::Type::Kill, |call| call.kill = Some(kill))
            .await
    }

    /// Acknowledges a status, as [`Acknowledge::Manual`](crate::Acknowledge::Manual) requires. Does nothing for one
    /// without `uuid` (the master made it up itself) or without `agent_id`.
    ///
    /// # Errors
    /// As the master answers. If it fails, the agent will send the update again.
    pub async fn acknowledge(&self, status: &TaskStatus) -> Result<(), CallError> {
        match self.shared.acknowledgement(status) {
            Some(call) => self.shared.call(call).await,
            None => Ok(()),
        }
    }

    /// Asks for the state of these tasks, or of all the master knows if there are none. The answers are updates without
    /// `uuid`; for tasks of an agent that has yet to come back after a master's failover there is none, so ask again.
    ///
    /// # Errors
    /// As the master answers.
    pub async fn reconcile(&self, tasks: Vec<(TaskId, Option<AgentId>)>) -> Result<(), CallError> {
        let tasks = tasks.into_iter();
        let tasks = tasks
            .map(|(task_id, agent_id)| call::reconcile::Task { task_id, agent_id })
            .collect();
        let reconcile = call::Reconcile { tasks };
        self.make(call::Type::Reconcile, |call| {
            call.reconcile = Some(reconcile)
        })
        .await
    }

    /// Forgets what was declined and asks for offers again, for these roles; an empty list means all of the framework's.
    ///
    /// # Errors
    /// As the master answers. It ignores the call if one of the roles is not the framework's.
    pub async fn revive(&self, roles: &[String]) -> Result<(), CallError> {
        let revive = call::Revive {
            roles: roles.to_vec(),
        };
        self.make(call::Type::Revive, |call| call.revive = Some(revive))
            .await?;
        self.shared.suppress(roles, false);
        Ok(())
    }

    /// Wants no offers for these roles until [`revive`](Self::revive); an empty list means all of the framework's.
    ///
    /// # Errors
    /// As the master answers. It ignores the call if one of the roles is not the framework's.
    pub async fn suppress(&self, roles: &[String]) -> Result<(), CallError> {
        let suppress = call::Suppress {
            roles: roles.to_vec(),
        };
        self.make(call::Type::Suppress, |call| call.suppress = Some(suppress))
            .await?;
        self.shared.suppress(roles, true);
        Ok(())
    }

    /// Sends bytes to an executor. They may get lost on the way.
    ///
    /// # Errors
    /// As the master answers.
    pub async fn message(
        &self,
        agent: &AgentId,
        executor: &ExecutorId,
        data: impl Into<Bytes>,
    ) -> Result<(), CallError> {
        let message = call::Message {
            agent_id: agent.clone(),
            executor_id: executor.clone(),
            data: data.into(),
        };
        self.make(call::Type::Message, |call| call.message = Some(message))
            .await
    }

    /// Sends bytes to one wasm task: in an [`Envelope`], so that the executor knows for which of its tasks they are. `executor` is
    /// the one that the task's statuses or its messages name. They may get lost on the way.
    ///
    /// # Errors
    /// As the master answers.
    pub async fn message_task(
        &self,
        agent: &AgentId,
        executor: &ExecutorId,
        task: &TaskId,
        data: impl Into<Bytes>,
    ) -> Result<(), CallError> {
        let envelope = Envelope {
            task_id: task.value.clone(),
            data: data.into(),
        };
        self.message(agent, executor, envelope.encode()).await
    }

    /// Ends an executor with all its tasks.
    ///
    /// # Errors
    /// As the master answers.
    pub async fn shutdown_executor(
        &self,
        executor: &ExecutorId,
        agent: &AgentId,
    ) -> Result<(), CallError> {
        let shutdown = call::Shutdown {
            executor_id: executor.clone(),
            agent_id: agent.clone(),
        };
        self.make(call::Type::Shutdown, |call| call.shutdown = Some(shutdown))
            .await
    }

    /// Says which resources, on which agents, the framework would like to be offered. A hint: a Mesos master ignores it.
    ///
    /// # Errors
    /// As the master answers.
    pub async fn request(&self, requests: Vec<Request>) -> Result<(), CallError> {
        let request = call::Request { requests };
        self.make(call::Type::Request, |call| call.request = Some(request))
            .await
    }

    /// Changes the framework's description and the roles that want no offers. `id` is filled in; user, principal and
    /// `checkpoint` cannot change. Later subscriptions use what was accepted here.
    ///
    /// # Errors
    /// As the master answers: 400 if the description is not acceptable, and then nothing has changed.
    pub async fn update_framework(
        &self,
        mut framework: FrameworkInfo,
        suppressed_roles: Vec<String>,
    ) -> Result<(), CallError> {
        framework.id = self.framework_id();
        let update = call::UpdateFramework {
            framework_info: framework.clone(),
            suppressed_roles: suppressed_roles.clone(),
            offer_constraints: self.shared.offer_constraints(),
        };
        self.make(call::Type::UpdateFramework, |call| {
            call.update_framework = Some(update)
        })
        .await?;
        self.shared.update(framework, suppressed_roles);
        Ok(())
    }

    /// Ends the framework: its tasks are killed, its id is void for ever, and the events end without another word.
    ///
    /// # Errors
    /// As the master answers; then the framework lives on.
    pub async fn teardown(&self) -> Result<(), CallError> {
        // Said first, for the master may close the stream before it answers.
        self.shared.set_tearing_down(true);
        let torn_down = self.make(call::Type::Teardown, |_| ()).await;
        if torn_down.is_err() {
            self.shared.set_tearing_down(false);
        }
        torn_down
    }
}
