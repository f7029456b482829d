//! The link to the master: registration, pings, silence, and where each message goes.

use std::time::Duration;

use prost::Message;
use tepui_api::link::to_agent::Body;
use tepui_api::link::to_master;
use tepui_api::secrets::concealed;
use tepui_api::v1::agent_info::Capability;
use tepui_api::v1::agent_info::capability::Type;
use tepui_api::{link, v1};
use tepui_model::{AgentId, ExecutorId, FrameworkId, TaskId};

use crate::effect::{Effect, ExecutorKind};
use crate::input::{ExecutorRef, TaskRef};
use crate::machine::{Core, Link, Phase};
use crate::record::AgentRecord;
use crate::task::Task;
use crate::timers::Timer;
use crate::wire;

pub(crate) const CAPABILITIES: [Type; 7] = [
    Type::MultiRole,
    Type::HierarchicalRole,
    Type::ReservationRefinement,
    Type::ResizeVolume,
    Type::AgentOperationFeedback,
    Type::TaskResourceLimits,
    Type::AgentDraining,
];

impl Core {
    pub(crate) fn on_link_up(&mut self) {
        if self.link != Link::Down {
            self.on_link_down();
        }
        if self.is_ending() {
            return;
        }
        self.link = Link::Waiting;
        self.timers.arm(
            Timer::MasterSilent,
            self.now.tick.after(self.config.registration_timeout),
        );
        if self.phase == Phase::Serving {
            self.register();
        }
    }

    pub(crate) fn on_link_down(&mut self) {
        self.link = Link::Down;
        self.timers.disarm(&Timer::MasterSilent);
        self.land_operations();
        for (framework, held) in &mut self.frameworks {
            for (task, held) in held
                .tasks
                .iter_mut()
                .filter(|(_, task)| task.stream.is_in_flight())
            {
                held.stream.land();
                self.timers.disarm(&Timer::Retry(TaskRef {
                    framework: framework.clone(),
                    task: task.clone(),
                }));
            }
        }
    }

    pub(crate) fn on_master_silent(&mut self) {
        if self.link == Link::Down {
            return;
        }
        self.on_link_down();
        self.effects.push(Effect::CloseLink);
    }

    /// Says first of all what lives here, so that the master's picture is true before anything else is said.
    pub(crate) fn register(&mut self) {
        self.link = Link::Registering;
        let mut register = link::Register {
            agent: self.agent_info(),
            version: self.config.version.clone(),
            capabilities: CAPABILITIES
                .into_iter()
                .map(|capability| Capability {
                    r#type: Some(capability.into()),
                })
                .collect(),
            endpoint: self.config.endpoint.clone(),
            listens_everywhere: self.config.listens_everywhere.then_some(true),
            boot_id: self.config.boot_id.clone(),
            total: self.total_to_wire(),
            operations: self
                .holdings
                .operations
                .values()
                .map(|operation| operation.wire.clone())
                .collect(),
            holdings: self.register_inventory(),
            ..link::Register::default()
        };
        for (id, framework) in self
            .frameworks
            .iter()
            .filter(|(_, framework)| !framework.terminating)
        {
            register.frameworks.push((*framework.info).clone());
            for (executor_id, executor) in &framework.executors {
                if executor.kind == ExecutorKind::Custom {
                    register.executors.push(v1::ExecutorInfo {
                        executor_id: wire::executor_id(executor_id),
                        framework_id: Some(wire::framework_id(id)),
                        ..(*executor.info).clone()
                    });
                }
            }
            for (executor_id, pod) in &framework.pods {
                register.executors.push(v1::ExecutorInfo {
                    executor_id: wire::executor_id(executor_id),
                    framework_id: Some(wire::framework_id(id)),
                    ..(*pod.info).clone()
                });
            }
            let user = &framework.info.user;
            register.tasks.extend(
                framework
                    .tasks
                    .iter()
                    .map(|(task_id, task)| self.report(id, task_id, task, user)),
            );
        }
        self.tell_master(to_master::Body::Register(register));
    }

    fn report(
        &self,
        framework: &FrameworkId,
        id: &TaskId,
        task: &Task,
        framework_user: &str,
    ) -> v1::Task {
        let info = &task.info;
        let forwarded = task
            .stream
            .front()
            .map(|update| &update.status)
            .or(task.latest.as_ref());
        let user = info
            .command
            .as_ref()
            .and_then(|command| command.user.clone());
        v1::Task {
            name: info.name.clone(),
            task_id: wire::task_id(id),
            framework_id: wire::framework_id(framework),
            executor_id: task.told_executor.clone(),
            agent_id: self
                .agent_id
                .as_ref()
                .map_or_else(|| info.agent_id.clone(), wire::agent_id),
            state: task.state.into(),
            resources: info.resources.clone(),
            statuses: task
                .latest
                .iter()
                .map(|status| (**status).clone())
                .collect(),
            status_update_state: forwarded.map(|status| status.state),
            status_update_uuid: forwarded.and_then(|status| status.uuid.clone()),
            labels: info.labels.clone(),
            discovery: info.discovery.clone(),
            container: concealed(&info.container),
            user: Some(user.unwrap_or_else(|| framework_user.to_owned())),
            health_check: concealed(&info.health_check),
            kill_policy: info.kill_policy,
            limits: info.limits.clone(),
        }
    }

    pub(crate) fn on_message(&mut self, message: link::ToAgent) {
        let Some(body) = message.body else { return };
        match (&self.link, body) {
            // What still trickles in from a link given up was not meant for what the agent is by now.
            (Link::Down | Link::Waiting, _) => {}
            (Link::Registering, Body::Registered(registered)) => self.on_registered(registered),
            (_, Body::Refused(refused)) => self.on_refused(refused),
            (_, Body::Ping(ping)) => self.on_ping(ping.sequence),
            (Link::Registered { .. }, body) => self.on_order(body),
            (Link::Registering, _) => {}
        }
    }

    pub(crate) fn obey(&mut self, body: Body) {
        match body {
            Body::Launch(launch) => self.on_launch(launch),
            Body::Kill(kill) => {
                let task = task_ref(kill.framework_id, kill.task_id);
                self.on_kill(&task, kill.kill_policy);
            }
            Body::Acknowledge(acknowledge) => {
                let task = task_ref(acknowledge.framework_id, acknowledge.task_id);
                self.on_acknowledge(&task, &acknowledge.uuid);
            }
            Body::ShutdownFramework(shutdown) => {
                self.shut_framework_down(&FrameworkId::from(shutdown.framework_id.value));
            }
            Body::ShutdownExecutor(shutdown) => {
                self.shut_executor_down(
                    &executor_ref(shutdown.framework_id, shutdown.executor_id),
                    false,
                );
            }
            Body::Message(message) => {
                let executor = executor_ref(message.framework_id, message.executor_id);
                self.on_framework_message(&executor, message.data);
            }
            Body::UpdateFramework(update) => {
                let id = update.framework.id.as_ref().map(|id| id.value.clone());
                self.on_framework_updated(update.framework);
                if let Some(id) = id {
                    // Its scheduler is back, maybe another one: what the old one did not acknowledge is for it.
                    let id = FrameworkId::from(id);
                    self.resume_framework(&id);
                    self.resume_operations_of(&id);
                }
            }
            Body::Reconcile(reconcile) => self.on_reconcile(reconcile),
            Body::Drain(drain) => self.on_drain(drain.config),
            Body::ApplyOperation(apply) => self.on_apply_operation(apply),
            Body::AcknowledgeOperation(acknowledge) => self.on_acknowledge_operation(&acknowledge),
            Body::ReconcileOperations(reconcile) => self.on_reconcile_operations(reconcile),
            Body::Registered(_) | Body::Refused(_) | Body::Ping(_) => {}
            // The shell answers requests for files.
            Body::Tail(_)
            | Body::ReadFile(_)
            | Body::ListFiles(_)
            | Body::CancelFile(_)
            | Body::ArtifactHolders(_)
            | Body::GuestAnswer(_)
            | Body::ArtifactKey(_) => {}
        }
    }

    fn on_registered(&mut self, registered: link::Registered) {
        let id = AgentId::from(registered.agent_id.value);
        let record = AgentRecord {
            info: self.config.info.clone(),
            host_boot_id: self.config.host_boot_id.clone(),
        };
        if self.agent_id.as_ref() != Some(&id) || self.recorded_agent.as_ref() != Some(&record) {
            self.agent_id = Some(id.clone());
            self.effects.push(Effect::SaveAgent {
                id,
                record: record.encode_to_vec().into(),
            });
            self.recorded_agent = Some(record);
        }
        let ping_timeout = Duration::from_millis(registered.ping_timeout_ms);
        self.timers
            .arm(Timer::MasterSilent, self.now.tick.after(ping_timeout));
        self.link = Link::Registered {
            master_id: registered.master_id,
            master_hostname: registered.master_hostname,
            ping_timeout,
        };
        self.resume_streams();
        self.on_drain(registered.drain);
        self.resume_operations();
    }

    fn on_refused(&mut self, refused: link::Refused) {
        self.on_link_down();
        self.effects.push(Effect::CloseLink);
        if refused.r#final.unwrap_or(false) {
            self.end_everything(refused.message);
        }
    }

    fn on_ping(&mut self, sequence: u64) {
        let wait = match self.link {
            Link::Registered { ping_timeout, .. } => ping_timeout,
            Link::Down | Link::Waiting | Link::Registering => self.config.registration_timeout,
        };
        self.timers
            .arm(Timer::MasterSilent, self.now.tick.after(wait));
        self.tell_master(to_master::Body::Pong(link::Pong { sequence }));
    }
}

fn task_ref(framework: v1::FrameworkId, task: v1::TaskId) -> TaskRef {
    TaskRef {
        framework: FrameworkId::from(framework.value),
        task: TaskId::from(task.value),
    }
}

fn executor_ref(framework: v1::FrameworkId, executor: v1::ExecutorId) -> ExecutorRef {
    ExecutorRef {
        framework: FrameworkId::from(framework.value),
        executor: ExecutorId::from(executor.value),
    }
}
