//! Executors as they would behave: they run what they are given, say how it goes, and say it again until it is
//! acknowledged.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tepui_agent_core::{ConnectionKey, ExecutorRef, Input, RequestKey, TaskRef};
use tepui_api::v1::executor::{Call, Event as ExecutorEvent, call, event};
use tepui_api::v1::task_status::Source;
use tepui_api::v1::{self, TaskState};
use tepui_model::TaskId;

use crate::MILLISECOND;
use crate::event::Event;
use crate::workload::{self, Demand};
use crate::world::World;

/// How long an executor waits before it tries again what the agent was not ready for.
const AGAIN: u64 = 500 * MILLISECOND;

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) serial: u64,
    token: String,
    pub(crate) checkpoint: bool,
    /// Its process is up: it subscribes as soon as it can.
    pub(crate) up: bool,
    pub(crate) connection: Option<ConnectionKey>,
    /// What each task takes.
    pub(crate) tasks: BTreeMap<TaskId, Demand>,
    unacknowledged: Vec<v1::TaskStatus>,
    /// It hears nothing of an order to end.
    deaf: bool,
}

impl Process {
    pub(crate) fn new(serial: u64, token: String, checkpoint: bool) -> Self {
        Self {
            serial,
            token,
            checkpoint,
            up: false,
            connection: None,
            tasks: BTreeMap::new(),
            unacknowledged: Vec::new(),
            deaf: false,
        }
    }
}

impl World {
    pub(crate) fn process_of(
        &mut self,
        machine: usize,
        connection: ConnectionKey,
    ) -> Option<(&ExecutorRef, &mut Process)> {
        self.machines[machine]
            .processes
            .iter_mut()
            .find(|(_, process)| process.connection == Some(connection))
    }

    fn process(
        &mut self,
        machine: usize,
        executor: &ExecutorRef,
        serial: u64,
    ) -> Option<&mut Process> {
        self.machines[machine]
            .processes
            .get_mut(executor)
            .filter(|process| process.serial == serial)
    }

    pub(crate) fn on_executor_up(&mut self, machine: usize, executor: ExecutorRef, serial: u64) {
        let fails = self.settings.mishaps.failed_starts;
        let deaf = self.chance.odds(fails);
        let fails = self.chance.odds(fails);
        let Some(process) = self.process(machine, &executor, serial) else {
            return;
        };
        if fails {
            self.machines[machine].processes.remove(&executor);
            let message = "No process could be made".to_owned();
            self.apply_to_agent(machine, Input::ExecutorStartFailed { executor, message });
            return;
        }
        process.up = true;
        process.deaf = deaf;
        let started = Input::ExecutorStarted {
            executor: executor.clone(),
            pid: u32::try_from(serial).unwrap_or(u32::MAX),
        };
        self.apply_to_agent(machine, started);
        self.on_executor_turn(machine, &executor, serial);
    }

    /// It subscribes if it is not, and else repeats what was not acknowledged.
    pub(crate) fn on_executor_turn(&mut self, machine: usize, executor: &ExecutorRef, serial: u64) {
        let is_up = self.machines[machine].core.is_some();
        let Some(process) = self.process(machine, executor, serial) else {
            return;
        };
        if !is_up || !process.up {
            self.turn_again(machine, executor, serial);
            return;
        }
        if process.connection.is_some() {
            for status in process.unacknowledged.clone() {
                self.say(machine, executor, status);
            }
            return;
        }
        let subscribe = call::Subscribe {
            unacknowledged_tasks: process
                .tasks
                .keys()
                .map(|task| v1::TaskInfo {
                    task_id: task.as_str().into(),
                    ..v1::TaskInfo::default()
                })
                .collect(),
            unacknowledged_updates: process
                .unacknowledged
                .iter()
                .map(|status| call::Update {
                    status: status.clone(),
                })
                .collect(),
        };
        let token = Some(process.token.clone());
        let call = Call {
            subscribe: Some(subscribe),
            ..call_of(executor, call::Type::Subscribe)
        };
        let held = &mut self.machines[machine];
        held.next_key += 1;
        let connection = ConnectionKey(held.next_key);
        if let Some(process) = held.processes.get_mut(executor) {
            process.connection = Some(connection);
        }
        self.apply_to_agent(
            machine,
            Input::ExecutorSubscribe {
                request: RequestKey(serial * 2 + 1),
                connection,
                call,
                token,
            },
        );
    }

    fn turn_again(&mut self, machine: usize, executor: &ExecutorRef, serial: u64) {
        self.after(
            AGAIN,
            Event::ExecutorTurn {
                machine,
                executor: executor.clone(),
                serial,
            },
        );
    }

    /// Requests bear twice the serial of their executor, and one more if they are to open its stream.
    pub(crate) fn on_answer_to_executor(
        &mut self,
        machine: usize,
        request: RequestKey,
        status: u16,
        message: &str,
    ) {
        if status < 300 {
            return;
        }
        let found = self.machines[machine]
            .processes
            .iter_mut()
            .find(|(_, process)| process.serial == request.0 / 2);
        let Some((executor, process)) = found else {
            return;
        };
        let executor = executor.clone();
        if status == 503 {
            // The agent has only just started.
            if request.0 % 2 == 1 {
                process.connection = None;
            }
            self.turn_again(machine, &executor, request.0 / 2);
            return;
        }
        // The agent does not know it: it belongs to an agent that is no more, and has nothing to live for.
        assert!(
            self.machines[machine].boot > 1,
            "{executor} on machine {machine} is answered {status}: {message}"
        );
        self.machines[machine].processes.remove(&executor);
        self.bury(machine, executor);
    }

    pub(crate) fn on_event_to_executor(
        &mut self,
        machine: usize,
        connection: ConnectionKey,
        event: ExecutorEvent,
        inputs: &mut VecDeque<Input>,
    ) {
        let kind = event.r#type();
        let Some((executor, process)) = self.process_of(machine, connection) else {
            return;
        };
        let executor = executor.clone();
        match kind {
            event::Type::Launch => {
                if let Some(launch) = event.launch {
                    self.run(machine, &executor, &launch.task, inputs);
                }
            }
            event::Type::LaunchGroup => {
                for task in event
                    .launch_group
                    .into_iter()
                    .flat_map(|group| group.task_group.tasks)
                {
                    self.run(machine, &executor, &task, inputs);
                }
            }
            event::Type::Kill => {
                let task = event
                    .kill
                    .map(|kill| kill.task_id.value)
                    .unwrap_or_default();
                self.end(
                    machine,
                    &executor,
                    &TaskId::from(task),
                    TaskState::TaskKilled,
                    inputs,
                );
            }
            event::Type::Acknowledged => {
                if let Some(acknowledged) = event.acknowledged {
                    process
                        .unacknowledged
                        .retain(|status| status.uuid.as_ref() != Some(&acknowledged.uuid));
                    if process.unacknowledged.is_empty() {
                        process.unacknowledged = Vec::new();
                    }
                }
            }
            event::Type::Shutdown if !process.deaf => {
                let tasks: Vec<TaskId> = process.tasks.keys().cloned().collect();
                for task in tasks {
                    self.end(machine, &executor, &task, TaskState::TaskKilled, inputs);
                }
                self.machines[machine].processes.remove(&executor);
                self.bury(machine, executor);
            }
            _ => {}
        }
    }

    fn run(
        &mut self,
        machine: usize,
        executor: &ExecutorRef,
        info: &v1::TaskInfo,
        inputs: &mut VecDeque<Input>,
    ) {
        let duration = workload::duration_of(info);
        let task = TaskId::from(info.task_id.value.as_str());
        let Some(process) = self.machines[machine].processes.get_mut(executor) else {
            return;
        };
        let serial = process.serial;
        let before = process
            .tasks
            .insert(task.clone(), Demand::of(&info.resources));
        assert!(before.is_none(), "{executor} was given {task} twice");
        if self.settings.mishaps.failed_tasks > 0 && self.chance.odds(300) {
            self.tell(machine, executor, &task, TaskState::TaskStarting, inputs);
        }
        self.tell(machine, executor, &task, TaskState::TaskRunning, inputs);
        let task = TaskRef {
            framework: executor.framework.clone(),
            task,
        };
        self.after(
            duration,
            Event::TaskDone {
                machine,
                serial,
                task,
            },
        );
    }

    pub(crate) fn on_task_done(&mut self, machine: usize, serial: u64, task: &TaskRef) {
        let found = self.machines[machine]
            .processes
            .iter()
            .find(|(_, process)| process.serial == serial);
        let Some((executor, process)) = found else {
            return;
        };
        if !process.tasks.contains_key(&task.task) {
            return;
        }
        let executor = executor.clone();
        let fails = self.chance.odds(self.settings.mishaps.failed_tasks);
        let state = if fails {
            TaskState::TaskFailed
        } else {
            TaskState::TaskFinished
        };
        let mut inputs = VecDeque::new();
        self.end(machine, &executor, &task.task, state, &mut inputs);
        for input in inputs {
            self.apply_to_agent(machine, input);
        }
    }

    fn end(
        &mut self,
        machine: usize,
        executor: &ExecutorRef,
        task: &TaskId,
        state: TaskState,
        inputs: &mut VecDeque<Input>,
    ) {
        let process = self.machines[machine].processes.get_mut(executor);
        if process.is_some_and(|process| process.tasks.remove(task).is_some()) {
            self.tell(machine, executor, task, state, inputs);
        }
    }

    /// Makes a status; it is said at once if the agent is there, and again until it is acknowledged.
    fn tell(
        &mut self,
        machine: usize,
        executor: &ExecutorRef,
        task: &TaskId,
        state: TaskState,
        inputs: &mut VecDeque<Input>,
    ) {
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.chance.number().to_le_bytes());
        uuid[8..].copy_from_slice(&self.chance.number().to_le_bytes());
        let status = v1::TaskStatus {
            task_id: task.as_str().into(),
            state: state.into(),
            source: Some(Source::Executor.into()),
            uuid: Some(Bytes::copy_from_slice(&uuid)),
            ..v1::TaskStatus::default()
        };
        let Some(process) = self.machines[machine].processes.get_mut(executor) else {
            return;
        };
        process.unacknowledged.push(status.clone());
        if process.connection.is_some() {
            inputs.push_back(update(executor, process, status));
        }
    }

    fn say(&mut self, machine: usize, executor: &ExecutorRef, status: v1::TaskStatus) {
        if let Some(process) = self.machines[machine].processes.get(executor) {
            let input = update(executor, process, status);
            self.apply_to_agent(machine, input);
        }
    }

    /// An executor's stream to the agent breaks; it comes back.
    pub(crate) fn disconnect_executor(&mut self, machine: usize, executor: &ExecutorRef) {
        let Some(process) = self.machines[machine].processes.get_mut(executor) else {
            return;
        };
        let serial = process.serial;
        if let Some(connection) = process.connection.take() {
            self.apply_to_agent(machine, Input::ExecutorDisconnected { connection });
            self.turn_again(machine, executor, serial);
        }
    }
}

fn update(executor: &ExecutorRef, process: &Process, status: v1::TaskStatus) -> Input {
    Input::ExecutorCall {
        request: RequestKey(process.serial * 2),
        call: Call {
            update: Some(call::Update { status }),
            ..call_of(executor, call::Type::Update)
        },
        token: Some(process.token.clone()),
    }
}

fn call_of(executor: &ExecutorRef, kind: call::Type) -> Call {
    Call {
        executor_id: v1::ExecutorId {
            value: executor.executor.to_string(),
        },
        framework_id: v1::FrameworkId {
            value: executor.framework.to_string(),
        },
        r#type: Some(kind.into()),
        ..Call::default()
    }
}
