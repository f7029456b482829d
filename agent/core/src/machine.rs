//! The core itself: its state, and which handler an input goes to.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tepui_api::{link, v1};
use tepui_model::{AgentId, FrameworkId, Now, Tick};

use crate::chance::{Chance, Uuid};
use crate::config::Config;
use crate::drain::Draining;
use crate::effect::{Effect, Write};
use crate::executor;
use crate::framework::Framework;
use crate::input::{ConnectionKey, ExecutorRef, Input, SaveKey, TaskRef};
use crate::inventory::Inventory;
use crate::operations::Holdings;
use crate::past::Past;
use crate::record::{AgentRecord, Path};
use crate::stop::Stopping;
use crate::task;
use crate::timers::{Timer, Timers};
use crate::view::TaskView;
use crate::wire;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    Down,
    /// It stands, but nothing is said before recovery is over.
    Waiting,
    /// Register was sent.
    Registering,
    Registered {
        master_id: String,
        master_hostname: Option<String>,
        ping_timeout: Duration,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Executors of an earlier agent process may still come back.
    Recovering,
    Serving,
    /// What an earlier agent process left is being ended, and then so is this one.
    CleaningUp,
    /// The master will never have this agent again.
    Ending {
        message: String,
    },
    Exited,
}

/// What goes on once a write is on disk.
#[derive(Debug)]
pub(crate) enum Waiting {
    Task(TaskRef),
    Executor(ExecutorRef),
    Update(TaskRef, Uuid),
    Acknowledgement(TaskRef),
    Holdings,
}

/// The agent's state machine.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    /// The agent's own address, for tasks that have no network of their own.
    pub(crate) address: Option<String>,
    pub(crate) now: Now,
    pub(crate) effects: Vec<Effect>,
    pub(crate) chance: Chance,
    pub(crate) agent_id: Option<AgentId>,
    /// What is on disk of the agent itself.
    pub(crate) recorded_agent: Option<AgentRecord>,
    pub(crate) link: Link,
    pub(crate) phase: Phase,
    pub(crate) draining: Option<Draining>,
    pub(crate) stopping: Option<Stopping>,
    pub(crate) frameworks: BTreeMap<FrameworkId, Framework>,
    pub(crate) holdings: Holdings,
    pub(crate) inventory: Inventory,
    pub(crate) connections: BTreeMap<ConnectionKey, ExecutorRef>,
    pub(crate) timers: Timers,
    pub(crate) saves: BTreeMap<SaveKey, Waiting>,
    pub(crate) next_save: u64,
    pub(crate) next_group: u64,
    pub(crate) ended: VecDeque<TaskView>,
    pub(crate) past: Past,
    pub(crate) counters: BTreeMap<&'static str, u64>,
}

impl Core {
    /// One input in, everything that follows from it out.
    pub fn apply(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.now = now;
        match input {
            Input::Tick => self.on_tick(),
            Input::LinkUp => self.on_link_up(),
            Input::LinkDown => self.on_link_down(),
            Input::FromMaster(message) => self.on_message(message),
            Input::Prepared { task, result } => self.on_prepared(&task, result),
            Input::ExecutorStarted { executor, pid } => self.on_executor_started(&executor, pid),
            Input::ExecutorStartFailed { executor, message } => {
                self.on_executor_start_failed(&executor, message)
            }
            Input::ExecutorExited {
                executor,
                status,
                limitation,
            } => {
                self.on_executor_exited(&executor, status, limitation);
            }
            Input::Signal { container, signal } => self.on_signal(&container, signal),
            Input::TaskLimited { task, limitation } => self.on_task_limited(&task, limitation),
            Input::ExecutorLimited {
                executor,
                limitation,
            } => self.on_executor_limited(&executor, limitation),
            Input::ExecutorSubscribe {
                request,
                connection,
                call,
                token,
            } => {
                self.on_executor_subscribe(request, connection, call, token.as_deref());
            }
            Input::ExecutorCall {
                request,
                call,
                token,
            } => self.on_executor_call(request, call, token.as_deref()),
            Input::ExecutorDisconnected { connection } => self.on_executor_disconnected(connection),
            Input::VolumeRemoved { directory } => self.on_volume_removed(&directory),
            Input::Held { held, gone } => self.on_held(held, gone),
            Input::Saved { key } => self.on_saved(key),
            Input::Stop {
                keep_checkpointed,
                grace,
            } => self.on_stop(keep_checkpointed, grace),
            Input::StopOver => self.on_stop_over(),
        }
        self.settle();
        std::mem::take(&mut self.effects)
    }

    /// When `apply(_, Input::Tick)` next has something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.timers.next_deadline()
    }

    /// The id the master gave this agent.
    pub fn agent_id(&self) -> Option<&AgentId> {
        self.agent_id.as_ref()
    }

    fn on_tick(&mut self) {
        while let Some(timer) = self.timers.expire(self.now.tick) {
            match timer {
                Timer::MasterSilent => self.on_master_silent(),
                Timer::Recovery => self.finish_recovery(),
                Timer::Exit => self.exit(),
                Timer::Retry(task) => self.on_retry(&task),
                Timer::RetryOperation(operation) => self.on_retry_operation(operation),
                Timer::Registration(executor) => self.on_registration_timeout(&executor),
                Timer::Grace(executor) => self.on_grace_over(&executor),
                Timer::Idle(executor) => self.on_executor_idle(&executor),
            }
        }
    }

    /// What becomes true by the sum of what happened rather than by one event.
    pub(crate) fn settle(&mut self) {
        let mut executors = self
            .frameworks
            .values()
            .flat_map(|framework| framework.executors.values());
        match self.phase {
            Phase::Recovering
                if !executors.any(|executor| executor.stage == executor::Stage::Reconnecting) =>
            {
                self.finish_recovery();
            }
            Phase::Ending { .. } if executors.next().is_none() => self.exit(),
            Phase::CleaningUp if executors.next().is_none() => {
                self.phase = Phase::Exited;
                self.effects.push(Effect::CleanedUp);
            }
            _ => {}
        }
    }

    /// Ends everything at once; the process leaves when the last executor is gone.
    pub(crate) fn end_everything(&mut self, message: String) {
        if matches!(self.phase, Phase::Ending { .. } | Phase::Exited) {
            return;
        }
        self.phase = Phase::Ending { message };
        self.timers.disarm(&Timer::Recovery);
        for framework in self.frameworks.keys().cloned().collect::<Vec<_>>() {
            self.shut_framework_down(&framework);
        }
        let executors: Vec<ExecutorRef> = self.all_executors().collect();
        for executor in executors {
            self.destroy_executor(&executor, None);
        }
        self.timers.arm(
            Timer::Exit,
            self.now
                .tick
                .after(self.config.executor_shutdown_grace_period),
        );
    }

    fn exit(&mut self) {
        if let Phase::Ending { message } = std::mem::replace(&mut self.phase, Phase::Exited) {
            self.timers.disarm(&Timer::Exit);
            // The master will not have it back under this id.
            self.effects.push(Effect::ForgetAgentId);
            self.effects.push(Effect::Exit { message });
        }
    }

    fn on_saved(&mut self, key: SaveKey) {
        match self.saves.remove(&key) {
            Some(Waiting::Task(task)) => self.on_task_saved(&task, key),
            Some(Waiting::Executor(executor)) => self.on_executor_saved(&executor, key),
            Some(Waiting::Update(task, uuid)) => self.on_update_saved(&task, &uuid),
            Some(Waiting::Acknowledgement(task)) => self.on_acknowledgement_saved(&task, key),
            Some(Waiting::Holdings) => self.on_holdings_saved(key),
            None => {}
        }
    }

    pub(crate) fn save(&mut self, path: &Path, record: &impl Message) -> SaveKey {
        let value = Bytes::from(record.encode_to_vec());
        self.write(path.text(), Write::Replace(value))
    }

    pub(crate) fn write(&mut self, path: String, write: Write) -> SaveKey {
        self.next_save += 1;
        let key = SaveKey(self.next_save);
        self.effects.push(Effect::Save { key, path, write });
        key
    }

    pub(crate) fn remove_record(&mut self, path: &Path) {
        self.remove_record_at(path.text());
    }

    pub(crate) fn remove_record_at(&mut self, path: String) {
        self.write(path, Write::Remove);
    }

    pub(crate) fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    pub(crate) fn tell_master(&mut self, body: link::to_master::Body) {
        self.effects.push(Effect::ToMaster(wire::to_master(body)));
    }

    /// Whether executors of an earlier agent process may still come back.
    pub fn is_recovering(&self) -> bool {
        self.phase == Phase::Recovering
    }

    pub(crate) fn is_registered(&self) -> bool {
        matches!(self.link, Link::Registered { .. })
    }

    pub(crate) fn is_ending(&self) -> bool {
        matches!(
            self.phase,
            Phase::CleaningUp | Phase::Ending { .. } | Phase::Exited
        )
    }

    pub(crate) fn all_executors(&self) -> impl Iterator<Item = ExecutorRef> {
        self.frameworks.iter().flat_map(|(framework, held)| {
            held.executors.keys().map(|executor| ExecutorRef {
                framework: framework.clone(),
                executor: executor.clone(),
            })
        })
    }

    pub(crate) fn executor(&self, reference: &ExecutorRef) -> Option<&executor::Executor> {
        self.frameworks
            .get(&reference.framework)?
            .executors
            .get(&reference.executor)
    }

    pub(crate) fn executor_mut(
        &mut self,
        reference: &ExecutorRef,
    ) -> Option<&mut executor::Executor> {
        self.frameworks
            .get_mut(&reference.framework)?
            .executors
            .get_mut(&reference.executor)
    }

    pub(crate) fn task(&self, reference: &TaskRef) -> Option<&task::Task> {
        self.frameworks
            .get(&reference.framework)?
            .tasks
            .get(&reference.task)
    }

    pub(crate) fn task_mut(&mut self, reference: &TaskRef) -> Option<&mut task::Task> {
        self.frameworks
            .get_mut(&reference.framework)?
            .tasks
            .get_mut(&reference.task)
    }

    pub(crate) fn agent_info(&self) -> v1::AgentInfo {
        v1::AgentInfo {
            id: self.agent_id.as_ref().map(wire::agent_id),
            ..self.config.info.clone()
        }
    }
}
