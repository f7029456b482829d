//! ACCEPT: whether the offers are good, and the operations one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use tepui_api::convert::{fallback_user, task_user};
use tepui_api::link::{self, to_agent};
use tepui_api::v1::offer::{Operation, operation};
use tepui_api::v1::scheduler::call;
use tepui_api::v1::{self, TaskState, task_status::Reason};
use tepui_model::{ExecutorId, Resources, Role, TaskId, Tick};

use crate::core::Core;
use crate::keys::{AgentKey, FrameworkKey, OfferKey};
use crate::messages;
use crate::tasks::task_of;
use crate::validate::{self, Place, TaskInvalid};
use crate::view::{ExecutorRecord, TaskRecord};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum OffersInvalid {
    #[error("No offers specified")]
    None,
    #[error("Duplicate offer {0} in offer list")]
    Duplicate(String),
    #[error("Offer {0} is no longer valid")]
    Gone(String),
    #[error("Offer {offer} has invalid framework {owner} while framework {expected} is expected")]
    Owner {
        offer: String,
        owner: String,
        expected: String,
    },
    #[error(
        "Aggregated offers must be allocated to the same role. Offer {offer} uses role '{role}' but another is using role '{other}'"
    )]
    Role {
        offer: String,
        role: String,
        other: String,
    },
    #[error(
        "Aggregated offers must belong to one single agent. Offer {offer} uses agent {agent} and agent {other}"
    )]
    Agent {
        offer: String,
        agent: String,
        other: String,
    },
}

/// What an ACCEPT draws on.
pub(crate) struct Accepted {
    pub(crate) framework: FrameworkKey,
    pub(crate) agent: AgentKey,
    pub(crate) role: Role,
    /// What no operation has used yet.
    pub(crate) left: Resources,
    /// One copy of each shared resource: however many tasks use it, it is there for another.
    pub(crate) shared: Resources,
    /// Resized volumes: they can be used once they are offered again.
    pub(crate) aside: Resources,
    /// All that was offered, to know what was made since.
    offered: Resources,
    /// Some task was launched.
    launched: bool,
}

impl Accepted {
    /// What a task may draw on.
    pub(crate) fn available(&self) -> Resources {
        let mut available = self.left.clone();
        available.add(&self.shared.shared_missing_from(&self.left));
        available
    }
}

impl Core {
    pub(crate) fn accept(&mut self, framework: FrameworkKey, accept: call::Accept) {
        let call::Accept {
            offer_ids,
            operations,
            filters,
        } = accept;
        let offers = match self.check_offers(framework, &offer_ids) {
            Ok(offers) => offers,
            Err(invalid) => {
                self.metrics.count("master/invalid_offer_operations");
                self.drop_accept(framework, &offer_ids, operations, &invalid);
                return;
            }
        };
        let metrics = &mut self.frameworks[framework].metrics;
        metrics.offers_accepted += offers.len() as u64;
        for operation in &operations {
            metrics
                .operations
                .count(operation_type(operation).as_str_name());
        }
        let mut accepted: Option<Accepted> = None;
        for key in offers {
            let Some(offer) = self.take_offer(key) else {
                continue;
            };
            match &mut accepted {
                Some(accepted) => accepted.left.add(&offer.resources),
                None => {
                    let (agent, role) = (offer.agent, offer.role.clone());
                    accepted = Some(Accepted {
                        framework,
                        agent,
                        role,
                        left: offer.resources.clone(),
                        shared: Resources::new(),
                        aside: Resources::new(),
                        offered: Resources::new(),
                        launched: false,
                    });
                }
            }
        }
        let Some(mut accepted) = accepted else { return };
        self.drop_surplus_copies(&mut accepted);
        for operation in operations {
            self.perform(&mut accepted, operation);
        }
        self.give_back(accepted, filters.as_ref());
    }

    /// Several offers may have held the same shared resource. One copy lasts for all tasks.
    fn drop_surplus_copies(&mut self, accepted: &mut Accepted) {
        let surplus = accepted.left.surplus_copies();
        accepted.left.subtract(&surplus);
        self.recover(accepted, &surplus, None);
        accepted.shared = accepted.left.shared();
        accepted.offered = accepted.left.clone();
    }

    fn recover(&mut self, accepted: &Accepted, resources: &Resources, refuse: Option<Tick>) {
        if !resources.is_empty() {
            let (agent, framework) = (accepted.agent.into(), accepted.framework.into());
            self.allocator
                .recover(agent, framework, &accepted.role, resources, refuse);
        }
    }

    /// Who has launched something and refuses the rest for no time at all may have it at once, if its share says so.
    fn recover_rest(&mut self, accepted: &Accepted, filters: Option<&v1::Filters>) {
        if accepted.left.is_empty() {
            return;
        }
        let refuses = filters.is_none_or(|filters| filters.refuse_seconds() != 0.0);
        let refuse_until = self.refuse_until(filters).filter(|_| refuses);
        let (agent, framework) = (accepted.agent.into(), accepted.framework.into());
        self.allocator.recover_rest(
            agent,
            framework,
            &accepted.role,
            &accepted.left,
            refuse_until,
        );
    }

    /// What was offered and not used is declined; what was made of it is offered again at once.
    fn give_back(&mut self, mut accepted: Accepted, filters: Option<&v1::Filters>) {
        let mut made = accepted.left.saturating_subtract(&accepted.offered);
        accepted.left.subtract(&made);
        made.add(&accepted.aside);
        if accepted.launched {
            self.recover_rest(&accepted, filters);
        } else {
            let refuse_until = self.refuse_until(filters);
            self.recover(&accepted, &accepted.left, refuse_until);
        }
        self.recover(&accepted, &made, None);
    }

    /// A task has left so much of [`Accepted::available`].
    pub(crate) fn draw(&mut self, accepted: &mut Accepted, mut left: Resources) {
        accepted.launched = true;
        let lent = accepted.shared.shared_missing_from(&accepted.left);
        let copies = lent.filter(|resource| !left.contains_resource(resource));
        left.subtract(&lent);
        accepted.left = left;
        if !copies.is_empty() {
            let (agent, framework) = (accepted.agent.into(), accepted.framework.into());
            self.allocator
                .hold_copies(agent, framework, &accepted.role, &copies);
        }
    }

    fn check_offers(
        &self,
        framework: FrameworkKey,
        ids: &[v1::OfferId],
    ) -> Result<Vec<OfferKey>, OffersInvalid> {
        if ids.is_empty() {
            return Err(OffersInvalid::None);
        }
        let name = |id: &v1::OfferId| id.value.clone();
        let mut seen = BTreeSet::new();
        if let Some(id) = ids.iter().find(|id| !seen.insert(id.value.as_str())) {
            return Err(OffersInvalid::Duplicate(name(id)));
        }
        let mut keys = Vec::with_capacity(ids.len());
        for id in ids {
            keys.push(
                self.find_offer(&id.value)
                    .ok_or_else(|| OffersInvalid::Gone(name(id)))?,
            );
        }
        let offers = || keys.iter().map(|key| &self.offers[*key]);
        if let Some(foreign) = offers().find(|offer| offer.framework != framework) {
            return Err(OffersInvalid::Owner {
                offer: foreign.id.to_string(),
                owner: foreign.framework_id.to_string(),
                expected: self.framework_id(framework).to_string(),
            });
        }
        let first = &self.offers[keys[0]];
        if let Some(other) = offers().find(|offer| offer.role != first.role) {
            let (offer, role) = (other.id.to_string(), other.role.to_string());
            return Err(OffersInvalid::Role {
                offer,
                role,
                other: first.role.to_string(),
            });
        }
        if let Some(other) = offers().find(|offer| offer.agent != first.agent) {
            let (offer, agent) = (other.id.to_string(), other.agent_id.to_string());
            return Err(OffersInvalid::Agent {
                offer,
                agent,
                other: first.agent_id.to_string(),
            });
        }
        Ok(keys)
    }

    /// Nothing of the ACCEPT is carried out: the offers go back, and each task and operation is answered for.
    fn drop_accept(
        &mut self,
        framework: FrameworkKey,
        ids: &[v1::OfferId],
        operations: Vec<Operation>,
        invalid: &OffersInvalid,
    ) {
        for id in ids {
            // An offer of somebody else stays with them.
            if let Some(key) = self.find_offer(&id.value)
                && self.offers[key].framework == framework
            {
                self.discard_offer(key, None);
            }
        }
        let state = messages::told_state(TaskState::TaskDropped, self.capabilities(framework));
        let message = format!("Task launched with invalid offers: {invalid}");
        for operation in operations {
            match operation_type(&operation) {
                operation::Type::Launch | operation::Type::LaunchGroup => {
                    for task in tasks_of(operation) {
                        let (id, agent) = (task.task_id, Some(task.agent_id));
                        let reason = Reason::InvalidOffers;
                        let status = self.master_status(id, agent, state, reason, message.clone());
                        self.count_task_entered(framework, state);
                        self.send_update(framework, status);
                    }
                }
                _ => self.fail_operation(
                    framework,
                    None,
                    operation,
                    format!("Operation with invalid offers: {invalid}"),
                ),
            }
        }
    }

    fn perform(&mut self, accepted: &mut Accepted, operation: Operation) {
        let principal = self.frameworks[accepted.framework]
            .info
            .principal
            .as_deref();
        if let Err(denied) = self.authorize_operation(principal, &operation) {
            let agent = Some(accepted.agent);
            self.fail_operation(accepted.framework, agent, operation, denied.to_string());
            return;
        }
        match operation_type(&operation) {
            operation::Type::Launch => {
                if operation.id.is_some() {
                    let message = "The `id` field is not supported for LAUNCH operations";
                    self.refuse_tasks(accepted.framework, operation, Reason::TaskInvalid, message);
                } else if let Some(launch) = operation.launch {
                    self.launch(accepted, launch.task_infos);
                }
            }
            operation::Type::LaunchGroup => {
                if operation.id.is_some() {
                    let message = "The `id` field is not supported for LAUNCH_GROUP operations";
                    let reason = Reason::TaskGroupInvalid;
                    self.refuse_tasks(accepted.framework, operation, reason, message);
                } else if let Some(group) = operation.launch_group {
                    self.launch_group(accepted, group);
                }
            }
            _ => {
                let mut operation = operation;
                let (framework, agent) = (accepted.framework, accepted.agent);
                match self.change_offered(accepted, &mut operation) {
                    Ok(()) => self.start_operation(agent, Some(framework), operation),
                    Err(invalid) => {
                        self.fail_operation(framework, Some(agent), operation, invalid.to_string());
                    }
                }
            }
        }
    }

    fn refuse_tasks(
        &mut self,
        framework: FrameworkKey,
        operation: Operation,
        reason: Reason,
        message: &str,
    ) {
        for task in tasks_of(operation) {
            self.task_error(
                framework,
                task.task_id,
                task.agent_id,
                reason,
                message.to_owned(),
            );
        }
    }

    pub(crate) fn task_error(
        &mut self,
        framework: FrameworkKey,
        task: v1::TaskId,
        agent: v1::AgentId,
        reason: Reason,
        message: String,
    ) {
        let status = self.master_status(task, Some(agent), TaskState::TaskError, reason, message);
        self.count_task_entered(framework, TaskState::TaskError);
        self.send_update(framework, status);
    }

    /// Told only to who gave the operation an id to be told by.
    fn fail_operation(
        &mut self,
        framework: FrameworkKey,
        agent: Option<AgentKey>,
        operation: Operation,
        message: String,
    ) {
        let state = v1::OperationState::OperationError;
        self.metrics.count_operation(operation.r#type(), state);
        if operation.id.is_none() {
            return;
        }
        let status = v1::OperationStatus {
            operation_id: operation.id,
            state: state.into(),
            message: Some(message),
            agent_id: agent.map(|agent| crate::wire::agent_id(&self.agents[agent].id)),
            ..v1::OperationStatus::default()
        };
        self.send(framework, messages::update_operation_status(status));
    }

    fn launch(&mut self, accepted: &mut Accepted, tasks: Vec<v1::TaskInfo>) {
        self.metrics.count("master/messages_launch_tasks");
        let mut launched = Vec::with_capacity(tasks.len());
        let mut new_executors = Vec::new();
        for mut task in tasks {
            validate::complete(
                &mut task,
                self.framework_id(accepted.framework).as_str(),
                &accepted.role,
            );
            let info = &self.frameworks[accepted.framework].info;
            let mut users = std::iter::once(task_user(&task, &info.user))
                .chain(fallback_user(&task, &info.user));
            let principal = info.principal.as_deref();
            let allowed = users.try_for_each(|user| self.authorize_user(principal, user));
            if let Err(denied) = allowed {
                let (id, agent) = (task.task_id, task.agent_id);
                let reason = Reason::TaskUnauthorized;
                self.task_error(accepted.framework, id, agent, reason, denied.to_string());
                continue;
            }
            match self.launch_task(accepted, &task) {
                Ok(new_executor) => {
                    new_executors.extend(new_executor);
                    launched.push(task);
                }
                Err(invalid) => {
                    let (id, agent) = (task.task_id, task.agent_id);
                    let reason = Reason::TaskInvalid;
                    self.task_error(accepted.framework, id, agent, reason, invalid.to_string());
                }
            }
        }
        if launched.is_empty() {
            return;
        }
        let framework = v1::FrameworkInfo::clone(&self.frameworks[accepted.framework].info);
        let launch = link::Launch {
            framework,
            tasks: launched,
            group_executor: None,
            new_executors,
        };
        self.send_to_agent(accepted.agent, to_agent::Body::Launch(launch));
    }

    /// Enters the task if nothing is wrong with it, and its executor if that is new; then the executor's id.
    fn launch_task(
        &mut self,
        accepted: &mut Accepted,
        task: &v1::TaskInfo,
    ) -> Result<Option<v1::ExecutorId>, TaskInvalid> {
        let (framework, agent) = (accepted.framework, accepted.agent);
        let framework_record = &self.frameworks[framework];
        let agent_record = &self.agents[agent];
        let id = task.task_id.value.as_str();
        let named = task
            .executor
            .as_ref()
            .map(|executor| ExecutorId::from(executor.executor_id.value.as_str()));
        let running = named
            .as_ref()
            .and_then(|executor| self.find_executor(agent, framework, executor));
        let available = accepted.available();
        let place = Place {
            framework: framework_record.id.as_str(),
            agent: agent_record.id.as_str(),
            role: &accepted.role,
            available: &available,
            id_in_use: self.find_task(framework, id).is_some()
                || framework_record.unreachable_tasks.contains_key(id),
            executor: running.map(|executor| &*executor.info),
        };
        let launchable = validate::check_task(task, &place)?;
        self.check_datasets(agent, &accepted.role, task, task.executor.is_some())?;
        let (framework_id, agent_id) = (framework_record.id.clone(), agent_record.id.clone());
        let wire = task_of(&framework_id, &framework_record.info.user, task);
        let role = accepted.role.clone();
        let mut new_executor = None;
        self.allocator
            .mark_used(agent.into(), framework.into(), &role, &launchable.resources);
        if let (Some(resources), Some(info), Some(id)) =
            (launchable.executor, &task.executor, named)
        {
            self.allocator
                .mark_used(agent.into(), framework.into(), &role, &resources);
            new_executor = Some(info.executor_id.clone());
            self.insert_executor(ExecutorRecord {
                info: Arc::new(info.clone()),
                id,
                framework_id: framework_id.clone(),
                agent_id: agent_id.clone(),
                framework,
                agent,
                role: role.clone(),
                resources,
            });
        }
        self.insert_task(TaskRecord {
            wire,
            info: Some(Arc::new(task.clone())),
            id: TaskId::from(id),
            framework_id,
            agent_id,
            framework,
            agent,
            role,
            resources: launchable.resources,
            charged: false,
            forwarded_uuid: None,
            acknowledged_uuid: None,
        });
        self.draw(accepted, launchable.left);
        Ok(new_executor)
    }
}

fn operation_type(operation: &Operation) -> operation::Type {
    operation
        .r#type
        .and_then(|number| operation::Type::try_from(number).ok())
        .unwrap_or(operation::Type::Unknown)
}

/// The tasks of a LAUNCH or a LAUNCH_GROUP.
fn tasks_of(operation: Operation) -> impl Iterator<Item = v1::TaskInfo> {
    let launched = operation
        .launch
        .into_iter()
        .flat_map(|launch| launch.task_infos);
    let grouped = operation
        .launch_group
        .into_iter()
        .flat_map(|group| group.task_group.tasks);
    launched.chain(grouped)
}
