//! What executors say: the checks of the executor API, then what follows.

use std::collections::BTreeSet;

use tepui_api::link::to_master;
use tepui_api::v1::TaskState;
use tepui_api::v1::check_info;
use tepui_api::v1::executor::{Call, call, event};
use tepui_api::v1::task_status::{Reason, Source};
use tepui_api::{link, v1};
use tepui_model::{ExecutorId, FrameworkId, TaskId};

use crate::chance::Uuid;
use crate::effect::Effect;
use crate::executor::{Executor, Stage};
use crate::input::{ConnectionKey, ExecutorRef, RequestKey, TaskRef};
use crate::machine::{Core, Phase};
use crate::task;
use crate::timers::Timer;
use crate::wire;

const BAD_REQUEST: u16 = 400;
pub(crate) const FORBIDDEN: u16 = 403;
const NOT_IMPLEMENTED: u16 = 501;
pub(crate) const UNAVAILABLE: u16 = 503;
const OK: u16 = 200;
const ACCEPTED: u16 = 202;

/// An HTTP status and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub status: u16,
    pub message: String,
}

impl Rejection {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

impl Core {
    pub(crate) fn on_executor_subscribe(
        &mut self,
        request: RequestKey,
        connection: ConnectionKey,
        call: Call,
        token: Option<&str>,
    ) {
        let admitted = self
            .admit(&call.framework_id, &call.executor_id, token)
            .and_then(|reference| match call.r#type() {
                call::Type::Subscribe if call.subscribe.is_none() => Err(Rejection::new(
                    BAD_REQUEST,
                    "Expecting 'subscribe' to be present",
                )),
                call::Type::Subscribe => Ok(reference),
                _ => Err(Rejection::new(BAD_REQUEST, "Expected a SUBSCRIBE call")),
            });
        let reference = match admitted {
            Ok(reference) => reference,
            Err(rejection) => {
                self.answer(request, rejection.status, rejection.message);
                return;
            }
        };
        self.answer(request, OK, "");
        let unwanted =
            self.is_ending() || self.executor(&reference).is_some_and(Executor::is_ending);
        if unwanted {
            self.effects.push(Effect::ToExecutor {
                connection,
                event: wire::shutdown(),
            });
            self.effects.push(Effect::CloseExecutor { connection });
            return;
        }
        self.subscribe(&reference, connection, call.subscribe.unwrap_or_default());
    }

    pub(crate) fn on_executor_call(
        &mut self,
        request: RequestKey,
        call: Call,
        token: Option<&str>,
    ) {
        let taken = if self.is_recovering() {
            let message = "Agent has not finished recovery";
            Err(Rejection::new(UNAVAILABLE, message))
        } else {
            self.take_call(call, token)
        };
        match taken {
            Ok(()) => self.answer(request, ACCEPTED, ""),
            Err(rejection) => self.answer(request, rejection.status, rejection.message),
        }
    }

    fn answer(&mut self, request: RequestKey, status: u16, message: impl Into<String>) {
        self.effects.push(Effect::AnswerExecutor {
            request,
            status,
            message: message.into(),
        });
    }

    /// Who calls, if it is who it says.
    pub(crate) fn admit(
        &self,
        framework: &v1::FrameworkId,
        executor: &v1::ExecutorId,
        token: Option<&str>,
    ) -> Result<ExecutorRef, Rejection> {
        let unknown = |what: &str| match self.phase {
            // Whom the agent does not know yet it may know soon.
            Phase::Recovering => Rejection::new(UNAVAILABLE, "Agent has not finished recovery"),
            _ => Rejection::new(BAD_REQUEST, format!("{what} cannot be found")),
        };
        let framework = FrameworkId::from(framework.value.as_str());
        let held = self.frameworks.get(&framework);
        let held = held.ok_or_else(|| unknown("Framework"))?;
        let executor = ExecutorId::from(executor.value.as_str());
        // One that was not started yet cannot be who calls.
        let known = held
            .executors
            .get(&executor)
            .filter(|executor| !matches!(executor.stage, Stage::Created | Stage::Saving { .. }));
        let known = known.ok_or_else(|| unknown("Executor"))?;
        let proven = match token {
            Some(token) => equal_in_constant_time(token.as_bytes(), known.token.as_bytes()),
            // Executors of frameworks need not know of tokens; ours do.
            None => !known.kind.is_built_in(),
        };
        if !proven {
            return Err(Rejection::new(
                FORBIDDEN,
                "The token is not the one this executor was given",
            ));
        }
        Ok(ExecutorRef {
            framework,
            executor,
        })
    }

    fn subscribe(
        &mut self,
        reference: &ExecutorRef,
        connection: ConnectionKey,
        subscribe: call::Subscribe,
    ) {
        let agent_info = self.agent_info();
        let Some(framework) = self.frameworks.get_mut(&reference.framework) else {
            return;
        };
        let framework_info = (*framework.info).clone();
        let Some(executor) = framework.executors.get_mut(&reference.executor) else {
            return;
        };
        let older = executor.connection();
        executor.stage = Stage::Running { connection };
        let subscribed = event::Subscribed {
            executor_info: (*executor.info).clone(),
            framework_info,
            agent_info,
            container_id: Some(wire::container_id(&executor.container_id)),
        };
        if let Some(older) = older {
            self.close_connection(older);
        }
        self.connections.insert(connection, reference.clone());
        self.timers.disarm(&Timer::Registration(reference.clone()));
        self.effects.push(Effect::ToExecutor {
            connection,
            event: wire::subscribed(subscribed),
        });
        for update in subscribe.unacknowledged_updates {
            if self.take_update(reference, update.status).is_err() {
                self.count("slave/invalid_status_updates");
            }
        }
        let known = subscribe
            .unacknowledged_tasks
            .into_iter()
            .map(|task| task.task_id.value)
            .collect();
        self.settle_delivered(reference, connection, &known);
        self.deliver_queued(reference);
        self.arm_idle(reference);
        self.dismiss_if_unused(reference);
    }

    /// Of the tasks it was given, an executor that is back may have missed some, or an order to kill them.
    fn settle_delivered(
        &mut self,
        reference: &ExecutorRef,
        connection: ConnectionKey,
        known: &BTreeSet<String>,
    ) {
        let Some(executor) = self.executor(reference) else {
            return;
        };
        for task in executor.live.clone() {
            let task_ref = TaskRef {
                framework: reference.framework.clone(),
                task,
            };
            let Some(task) = self.task(&task_ref) else {
                continue;
            };
            let task::Stage::Delivered { kill } = &task.stage else {
                continue;
            };
            if task.state == TaskState::TaskStaging && !known.contains(task_ref.task.as_str()) {
                let message = "The executor came back without having heard of the task";
                self.end_task(
                    &task_ref,
                    TaskState::TaskDropped,
                    Reason::AgentRestarted,
                    message,
                );
            } else if let Some(kill) = kill {
                let event = wire::kill(&task_ref.task, kill.policy);
                self.effects.push(Effect::ToExecutor { connection, event });
            }
        }
    }

    fn take_call(&mut self, call: Call, token: Option<&str>) -> Result<(), Rejection> {
        let reference = self.admit(&call.framework_id, &call.executor_id, token)?;
        self.check_subscribed(&reference)?;
        match call.r#type() {
            call::Type::Update => {
                let update = call.update.ok_or_else(|| {
                    Rejection::new(BAD_REQUEST, "Expected 'update' to be present")
                })?;
                self.check_room(&reference, &update.status)?;
                self.take_update(&reference, update.status)
                    .map_err(|message| {
                        self.count("slave/invalid_status_updates");
                        Rejection::new(BAD_REQUEST, message)
                    })
            }
            call::Type::Message => {
                let message = call.message.ok_or_else(|| {
                    Rejection::new(BAD_REQUEST, "Expected 'message' to be present")
                })?;
                let terminating = self
                    .frameworks
                    .get(&reference.framework)
                    .is_some_and(|framework| framework.terminating);
                if self.is_registered() && !terminating {
                    self.tell_master(to_master::Body::Message(link::ExecutorMessage {
                        framework_id: call.framework_id,
                        executor_id: call.executor_id,
                        data: message.data,
                    }));
                }
                Ok(())
            }
            call::Type::Heartbeat => Ok(()),
            call::Type::Subscribe => Err(Rejection::new(BAD_REQUEST, "SUBSCRIBE needs a stream")),
            call::Type::Unknown => Err(Rejection::new(NOT_IMPLEMENTED, "Unknown call type")),
        }
    }

    pub(crate) fn check_subscribed(&self, reference: &ExecutorRef) -> Result<(), Rejection> {
        // One whose stream broke has subscribed, and what it says meanwhile must not be lost.
        let subscribed = self.executor(reference).is_some_and(|executor| {
            executor.connection().is_some() || executor.stage == Stage::Disconnected
        });
        if subscribed {
            Ok(())
        } else {
            Err(Rejection::new(FORBIDDEN, "Executor is not subscribed"))
        }
    }

    /// Of what is news there may be too much for the scheduler; the executor keeps it then. How a task ended is taken.
    fn check_room(
        &self,
        reference: &ExecutorRef,
        status: &v1::TaskStatus,
    ) -> Result<(), Rejection> {
        let task_ref = TaskRef {
            framework: reference.framework.clone(),
            task: TaskId::from(status.task_id.value.as_str()),
        };
        let full = self
            .task(&task_ref)
            .is_some_and(|task| task.is_live() && task.stream.is_full());
        if !full || status.state().is_terminal() {
            return Ok(());
        }
        let message = format!(
            "Too many updates of task '{}' wait for its scheduler's acknowledgement; send this one again later",
            task_ref.task
        );
        Err(Rejection::new(UNAVAILABLE, message))
    }

    fn take_update(
        &mut self,
        reference: &ExecutorRef,
        mut status: v1::TaskStatus,
    ) -> Result<(), String> {
        let uuid = self.check_update(reference, &status)?;
        let Some(framework) = self.frameworks.get(&reference.framework) else {
            return Ok(());
        };
        let task_ref = TaskRef {
            framework: reference.framework.clone(),
            task: TaskId::from(status.task_id.value.as_str()),
        };
        let Some(task) = framework.tasks.get(&task_ref.task) else {
            // It ended and was acknowledged, or its framework is on the way out: the executor need not go on about it.
            self.acknowledge_call(reference, &task_ref.task, &uuid);
            return Ok(());
        };
        if task.executor.as_ref() != Some(&reference.executor) {
            return Err(format!(
                "Task '{}' is not one of this executor",
                task_ref.task
            ));
        }
        let known = match task.stage {
            task::Stage::Ended => true,
            task::Stage::Delivered { .. } => task.stream.was_seen(&uuid),
            _ => {
                return Err(format!(
                    "Task '{}' was not given to this executor yet",
                    task_ref.task
                ));
            }
        };
        if known {
            // One that is on the way to the disk is acknowledged when it is there.
            if task
                .stream
                .pending()
                .all(|update| update.uuid != uuid || update.saved)
            {
                self.acknowledge_call(reference, &task_ref.task, &uuid);
            }
            return Ok(());
        }
        let state = framework.told(status.state());
        let limited = task.limited.clone();
        if state == TaskState::TaskKilling && (!framework.knows_killing || limited.is_some()) {
            if let Some(task) = self.task_mut(&task_ref) {
                task.stream.remember(uuid);
            }
            self.acknowledge_call(reference, &task_ref.task, &uuid);
            return Ok(());
        }
        status.set_state(state);
        if let Some(cause) = limited.filter(|_| state.is_terminal()) {
            status.set_state(cause.state);
            cause.explain(&mut status);
        }
        self.push_status(&task_ref, status, true);
        Ok(())
    }

    fn check_update(
        &self,
        reference: &ExecutorRef,
        status: &v1::TaskStatus,
    ) -> Result<Uuid, String> {
        let uuid = status
            .uuid
            .as_deref()
            .ok_or("Expected 'uuid' to be present")?;
        let uuid = Uuid::try_from(uuid)
            .map_err(|_| format!("Expected a uuid of 16 bytes, not of {}", uuid.len()))?;
        if status.source.is_none() || status.source() != Source::Executor {
            return Err("Expected 'source' to be SOURCE_EXECUTOR".to_owned());
        }
        if let Some(executor) = &status.executor_id
            && executor.value != reference.executor.as_str()
        {
            return Err(format!(
                "The status is of executor '{}', the call of '{}'",
                executor.value, reference.executor
            ));
        }
        if let (Some(told), Some(own)) = (&status.agent_id, &self.agent_id)
            && told.value != own.as_str()
        {
            return Err(format!(
                "The status is of agent '{}', this is '{own}'",
                told.value
            ));
        }
        if TaskState::try_from(status.state).is_err() {
            return Err(format!("The state {} is unknown", status.state));
        }
        if status.state() == TaskState::TaskStaging {
            return Err("An executor cannot send TASK_STAGING".to_owned());
        }
        status
            .check_status
            .as_ref()
            .map_or(Ok(()), check_check_status)?;
        Ok(uuid)
    }
}

fn check_check_status(check: &v1::CheckStatusInfo) -> Result<(), String> {
    let has = (
        check.command.is_some(),
        check.http.is_some(),
        check.tcp.is_some(),
    );
    let expected = match check.r#type() {
        _ if check.r#type.is_none() => {
            return Err("Expected 'check_status.type' to be present".to_owned());
        }
        check_info::Type::Command => (true, false, false),
        check_info::Type::Http => (false, true, false),
        check_info::Type::Tcp => (false, false, true),
        check_info::Type::Unknown => return Err("The type of 'check_status' is unknown".to_owned()),
    };
    if has == expected {
        Ok(())
    } else {
        Err("'check_status' does not have what its type says".to_owned())
    }
}

/// How long this takes tells a guesser nothing.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |sum, (left, right)| sum | (left ^ right))
            == 0
}
