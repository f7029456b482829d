//! Random events from one seed, with what a master and the executors would see checked after each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tepui_api::ext::launch_plan::Body;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::executor::{Call, Event, call, event};
use tepui_api::v1::task_status::Reason;
use tepui_api::v1::{self, TaskState};
use tepui_model::{FrameworkId, TaskId};

use super::conversions::Conversions;
use super::harness::*;
use crate::{
    ConnectionKey, Effect, ExecutorRef, Input, Limitation, PrepareFailure, Recovered, TaskRef,
};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }

    fn pick<T: Clone>(&mut self, from: impl IntoIterator<Item = T>) -> Option<T> {
        let all: Vec<T> = from.into_iter().collect();
        let index = self.below(all.len());
        all.get(index).cloned()
    }
}

/// An executor's process as it would behave.
#[derive(Default)]
struct Process {
    connection: Option<ConnectionKey>,
    tasks: BTreeSet<TaskId>,
    unacknowledged: Vec<v1::TaskStatus>,
    told_to_end: bool,
}

/// What the master was told of one task.
#[derive(Default)]
struct Told {
    uuids: Vec<Bytes>,
    under_way: Option<Bytes>,
    ended: bool,
    restarted: bool,
}

struct World {
    agent: Agent,
    random: Random,
    linked: bool,
    launched: Vec<TaskRef>,
    preparing: BTreeSet<TaskRef>,
    starting: BTreeSet<ExecutorRef>,
    processes: BTreeMap<ExecutorRef, Process>,
    destroying: BTreeSet<ExecutorRef>,
    made: BTreeMap<TaskRef, Vec<Bytes>>,
    told: BTreeMap<TaskRef, Told>,
    dead: BTreeSet<FrameworkId>,
    conversions: Conversions,
}

fn framework_of(id: &str) -> v1::FrameworkInfo {
    match &id[..1] {
        "A" => aware(id),
        "C" => checkpointing(id),
        _ => framework(id, &[], false),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut agent = Agent::new(Recovered::default());
        agent.hold_saves = true;
        Self {
            agent,
            random: Random(seed),
            linked: false,
            launched: Vec::new(),
            preparing: BTreeSet::new(),
            starting: BTreeSet::new(),
            processes: BTreeMap::new(),
            destroying: BTreeSet::new(),
            made: BTreeMap::new(),
            told: BTreeMap::new(),
            dead: BTreeSet::new(),
            conversions: Conversions::default(),
        }
    }

    fn absorb(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::ToMaster(message) => match message.body {
                    Some(to_master::Body::Update(update)) => self.on_update(update),
                    Some(to_master::Body::OperationUpdate(update)) => {
                        self.conversions.hear(update);
                    }
                    _ => {}
                },
                Effect::CloseLink => self.linked = false,
                Effect::Prepare { task, .. } => {
                    assert!(self.preparing.insert(task), "prepared twice")
                }
                Effect::CancelPrepare { task } => {
                    assert!(self.preparing.remove(&task), "nothing to cancel")
                }
                Effect::StartExecutor { executor, .. } => {
                    assert!(
                        !self.processes.contains_key(&executor),
                        "{executor} runs already"
                    );
                    assert!(self.starting.insert(executor), "started twice");
                }
                Effect::DestroyExecutor { executor } => {
                    assert!(self.destroying.insert(executor), "destroyed twice");
                }
                Effect::ToExecutor { connection, event } => self.on_event(connection, event),
                Effect::CloseExecutor { connection } => {
                    if let Some(process) = self.process_of(connection) {
                        process.connection = None;
                    }
                }
                // Its updates stay unacknowledged, so it sends them again.
                Effect::AnswerExecutor { status: 503, .. } if self.agent.core.is_recovering() => {}
                Effect::AnswerExecutor {
                    status, message, ..
                } => {
                    assert!(
                        status < 300,
                        "an honest executor is answered {status}: {message}"
                    );
                }
                Effect::Exit { message } => panic!("nobody asked it to exit: {message}"),
                Effect::CleanedUp => panic!("nobody asked it to clean up"),
                Effect::SaveAgent { .. }
                | Effect::ForgetAgentId
                | Effect::DiscardSandbox { .. }
                | Effect::MakeVolume { .. }
                | Effect::RemoveVolume { .. }
                | Effect::LinkVolumes { .. }
                | Effect::Save { .. }
                | Effect::ResizeExecutor { .. }
                | Effect::TaskEnded { .. } => {}
            }
        }
    }

    fn on_update(&mut self, update: link::StatusUpdate) {
        let task = task_ref(&update.framework_id.value, &update.status.task_id.value);
        assert!(self.linked, "an update without a link");
        assert!(
            !self.dead.contains(&task.framework),
            "{task} is reported after its framework's end"
        );
        let uuid = update.status.uuid.clone().expect("no duplicates here");
        let made = self.made.get(&task).cloned().unwrap_or_default();
        let told = self.told.entry(task.clone()).or_default();
        if let Some(under_way) = &told.under_way {
            assert_eq!(*under_way, uuid, "two updates of {task} under way");
            return;
        }
        if told.uuids.contains(&uuid) {
            assert!(
                told.restarted,
                "an acknowledged update of {task} came again"
            );
        } else {
            assert!(
                !told.ended,
                "{task} lives after its end: {:?}",
                update.status
            );
            let position = |wanted: &Bytes| made.iter().position(|uuid| uuid == wanted);
            let before = told.uuids.iter().filter_map(position).max();
            assert!(
                position(&uuid).is_none() || position(&uuid) > before,
                "updates of {task} out of order"
            );
            told.uuids.push(uuid.clone());
            told.ended = update.status.state().is_terminal();
        }
        told.under_way = Some(uuid);
    }

    fn process_of(&mut self, connection: ConnectionKey) -> Option<&mut Process> {
        self.processes
            .values_mut()
            .find(|process| process.connection == Some(connection))
    }

    fn on_event(&mut self, connection: ConnectionKey, event: Event) {
        let kind = event.r#type();
        let process = self
            .process_of(connection)
            .expect("events go to open streams");
        match kind {
            event::Type::Launch => {
                let task = event.launch.unwrap().task;
                assert!(
                    process.tasks.insert(TaskId::from(task.task_id.value)),
                    "launched twice"
                );
            }
            event::Type::Acknowledged => {
                let uuid = event.acknowledged.unwrap().uuid;
                process
                    .unacknowledged
                    .retain(|status| status.uuid.as_ref() != Some(&uuid));
            }
            event::Type::Shutdown => process.told_to_end = true,
            _ => {}
        }
    }

    fn launch(&mut self) {
        let name = self.random.pick(["A", "B", "C", "C2"]).unwrap();
        if self.dead.contains(name) {
            return;
        }
        let id = format!("t{}", self.agent.key());
        let info = match self.random.below(3) {
            0 => custom_task(&id, self.random.pick(["mine", "yours"]).unwrap()),
            _ => task_info(&id),
        };
        self.launched.push(task_ref(name, &id));
        let effects = self.agent.launch(&framework_of(name), vec![info]);
        self.absorb(effects);
    }

    fn prepare(&mut self, well: bool) {
        let Some(task) = self.random.pick(self.preparing.clone()) else {
            return;
        };
        self.preparing.remove(&task);
        let effects = if well {
            let body = self.random.pick([Body::Wasm, Body::Native]).unwrap();
            self.agent.prepared(&task, body)
        } else {
            let failure = PrepareFailure {
                reason: Reason::ContainerLaunchFailed,
                message: "no".into(),
            };
            self.agent.apply(Input::Prepared {
                task,
                result: Err(failure),
            })
        };
        self.absorb(effects);
    }

    fn start(&mut self, well: bool) {
        let Some(executor) = self.random.pick(self.starting.clone()) else {
            return;
        };
        self.starting.remove(&executor);
        if self.destroying.contains(&executor) {
            return;
        }
        let effects = if well {
            self.processes.insert(executor.clone(), Process::default());
            self.agent.started(&executor)
        } else {
            self.agent.apply(Input::ExecutorStartFailed {
                executor,
                message: "no".into(),
            })
        };
        self.absorb(effects);
    }

    fn subscribe(&mut self) {
        let away = self
            .processes
            .iter()
            .filter(|(_, process)| process.connection.is_none() && !process.told_to_end);
        let away: Vec<_> = away.map(|(executor, _)| executor.clone()).collect();
        let Some(executor) = self.random.pick(away) else {
            return;
        };
        let process = self.processes.get_mut(&executor).unwrap();
        let connection = ConnectionKey(self.agent.key());
        process.connection = Some(connection);
        let subscribe = call::Subscribe {
            unacknowledged_tasks: process
                .tasks
                .iter()
                .map(|task| task_info(task.as_str()))
                .collect(),
            unacknowledged_updates: process
                .unacknowledged
                .iter()
                .map(|status| call::Update {
                    status: status.clone(),
                })
                .collect(),
        };
        let call = call::Type::Subscribe;
        let call = Call {
            subscribe: Some(subscribe),
            ..super::harness::call(&executor, call)
        };
        let token = self.agent.tokens.get(&executor).cloned();
        let request = crate::RequestKey(0);
        let effects = self.agent.apply(Input::ExecutorSubscribe {
            request,
            connection,
            call,
            token,
        });
        self.absorb(effects);
    }

    fn report(&mut self, only_endings: bool) {
        let busy = self
            .processes
            .iter()
            .filter(|(_, process)| !process.tasks.is_empty());
        let busy: Vec<_> = busy.map(|(executor, _)| executor.clone()).collect();
        let Some(executor) = self.random.pick(busy) else {
            return;
        };
        let id = self
            .random
            .pick(self.processes[&executor].tasks.clone())
            .unwrap();
        let task = TaskRef {
            framework: executor.framework.clone(),
            task: id,
        };
        let states = [
            TaskState::TaskFinished,
            TaskState::TaskKilled,
            TaskState::TaskRunning,
            TaskState::TaskKilling,
        ];
        let state = self
            .random
            .pick(states.into_iter().take(if only_endings { 2 } else { 4 }))
            .unwrap();
        let status = self.agent.status(&task, state);
        self.made
            .entry(task.clone())
            .or_default()
            .push(status.uuid.clone().unwrap());
        let process = self.processes.get_mut(&executor).unwrap();
        process.unacknowledged.push(status);
        if state.is_terminal() {
            process.tasks.remove(&task.task);
        }
        self.repeat(&executor);
    }

    /// Sends what is not acknowledged, in order; most of it for the second time.
    fn repeat(&mut self, executor: &ExecutorRef) {
        let process = &self.processes[executor];
        if process.connection.is_some() {
            for status in process.unacknowledged.clone() {
                let effects = self.agent.send(executor, status);
                self.absorb(effects);
            }
        }
    }

    fn limit(&mut self) {
        let Some(task) = self.random.pick(self.launched.clone()) else {
            return;
        };
        let limitation = Limitation {
            reason: Reason::ContainerLimitationDisk,
            message: "too much".into(),
            resources: vec![scalar("disk", 1.0)],
        };
        let effects = self.agent.apply(Input::TaskLimited { task, limitation });
        self.absorb(effects);
    }

    fn end_process(&mut self, executor: &ExecutorRef) {
        self.processes.remove(executor);
        self.starting.remove(executor);
        self.destroying.remove(executor);
        let effects = self.agent.exited(executor);
        self.absorb(effects);
    }

    fn finish_destroying(&mut self) {
        let told_to_end = self
            .processes
            .iter()
            .filter(|(_, process)| process.told_to_end);
        let ending: Vec<_> = told_to_end
            .map(|(executor, _)| executor.clone())
            .chain(self.destroying.iter().cloned())
            .collect();
        if let Some(executor) = self.random.pick(ending) {
            self.end_process(&executor);
        }
    }

    fn disconnect(&mut self) {
        let open: Vec<_> = self
            .processes
            .values()
            .filter_map(|process| process.connection)
            .collect();
        let Some(connection) = self.random.pick(open) else {
            return;
        };
        self.process_of(connection).unwrap().connection = None;
        let effects = self.agent.apply(Input::ExecutorDisconnected { connection });
        self.absorb(effects);
    }

    fn acknowledge(&mut self) {
        let open = self
            .told
            .iter()
            .filter(|(task, _)| !self.dead.contains(&task.framework));
        let open: Vec<_> = open
            .filter(|(_, told)| told.under_way.is_some())
            .map(|(task, _)| task.clone())
            .collect();
        let Some(task) = self.random.pick(open) else {
            return;
        };
        if self.linked {
            let uuid = self.told.get_mut(&task).unwrap().under_way.take().unwrap();
            let effects = self.agent.acknowledge(&task, &uuid);
            self.absorb(effects);
        }
    }

    fn connect(&mut self) {
        if !self.linked {
            let effects = self.agent.apply(Input::LinkUp);
            self.absorb(effects);
            self.linked = true;
            let effects = self.agent.answer_registration();
            self.absorb(effects);
            self.linked = self.agent.core.view().registered;
        }
    }

    fn operate(&mut self) {
        let (tenths, back) = (1 + self.random.below(9), self.random.below(2) == 0);
        let apply = self.conversions.ask(tenths, back);
        let effects = self.agent.hear(to_agent::Body::ApplyOperation(apply));
        self.absorb(effects);
        self.finish_writes();
    }

    /// Every order after an operation would wait for the disk.
    fn finish_writes(&mut self) {
        while !self.agent.held.is_empty() {
            let effects = self.agent.release();
            self.absorb(effects);
        }
    }

    fn acknowledge_operation(&mut self) {
        let nth = self.random.below(100);
        if let Some(acknowledge) = self.conversions.acknowledge(nth) {
            let body = to_agent::Body::AcknowledgeOperation(acknowledge);
            let effects = self.agent.hear(body);
            self.absorb(effects);
        }
    }

    fn restart(&mut self) {
        self.agent.restart();
        self.linked = false;
        self.preparing.clear();
        self.starting.clear();
        self.destroying.clear();
        self.processes
            .retain(|executor, _| framework_of(executor.framework.as_str()).checkpoint());
        for process in self.processes.values_mut() {
            process.connection = None;
        }
        for told in self.told.values_mut() {
            told.under_way = None;
            told.restarted = true;
        }
        // The master forgot these too.
        self.dead.clear();
        self.launched
            .retain(|task| framework_of(task.framework.as_str()).checkpoint());
    }

    fn pass(&mut self, seconds: u64) {
        let effects = self.agent.pass(Duration::from_secs(seconds));
        self.absorb(effects);
        if self.linked {
            let effects = self
                .agent
                .hear(to_agent::Body::Ping(link::Ping { sequence: 1 }));
            self.absorb(effects);
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..15 if self.linked => self.launch(),
            15..28 => self.prepare(true),
            28..30 => self.prepare(false),
            30..36 => self.start(true),
            36 => self.start(false),
            37..45 => self.subscribe(),
            45..60 => self.report(false),
            60..64 if self.linked => {
                if let Some(task) = self.random.pick(self.launched.clone()) {
                    // A kill of a forgotten task of a living framework is answered with an end of its own.
                    if !self.told.get(&task).is_some_and(|told| told.ended)
                        && !self.dead.contains(&task.framework)
                    {
                        let effects = self.agent.kill(&task);
                        self.absorb(effects);
                    }
                }
            }
            64..66 if self.linked => self.operate(),
            66..69 if self.linked => self.acknowledge_operation(),
            69..78 => self.acknowledge(),
            78..81 => {
                let effects = self.agent.apply(Input::LinkDown);
                self.linked = false;
                self.absorb(effects);
            }
            81..86 => self.connect(),
            86..88 => self.disconnect(),
            88 => {
                if let Some(executor) = self
                    .random
                    .pick(self.processes.keys().cloned().collect::<Vec<_>>())
                {
                    self.end_process(&executor);
                }
            }
            89..91 => self.finish_destroying(),
            91..97 => {
                let effects = self.agent.release();
                self.absorb(effects);
            }
            97 if self.random.below(3) == 0 => self.limit(),
            97 => {
                let seconds = self.random.pick([1, 3, 12, 70]).unwrap();
                self.pass(seconds);
            }
            98 if self.random.below(8) == 0 && self.linked => {
                let name = self.random.pick(["A", "B"]).unwrap();
                let framework_id = v1::FrameworkId { value: name.into() };
                let shutdown = link::ShutdownFramework { framework_id };
                self.dead.insert(FrameworkId::from(name));
                let effects = self.agent.hear(to_agent::Body::ShutdownFramework(shutdown));
                self.absorb(effects);
            }
            99 if self.random.below(3) == 0 => self.restart(),
            _ => {}
        }
    }

    /// Everybody does their part from here on, so everything must come to an end.
    fn wind_down(&mut self) {
        for round in 0..4000 {
            self.connect();
            self.prepare(true);
            self.start(true);
            self.subscribe();
            self.report(true);
            for executor in self.processes.keys().cloned().collect::<Vec<_>>() {
                self.repeat(&executor);
            }
            self.finish_destroying();
            self.acknowledge();
            if self.linked {
                self.acknowledge_operation();
                let unheard = to_agent::Body::ReconcileOperations(self.conversions.unheard());
                let effects = self.agent.hear(unheard);
                self.absorb(effects);
                self.finish_writes();
            }
            let effects = self.agent.release();
            self.absorb(effects);
            if round % 20 == 0 {
                self.pass(3);
            }
            let view = self.agent.core.view();
            if view.tasks.is_empty() && view.operations.is_empty() && self.linked {
                break;
            }
        }
    }
}

#[test]
fn whatever_happens_each_task_ends_once_and_its_updates_keep_their_order() {
    let mut converted = 0;
    for seed in 0..300 {
        let mut world = World::new(seed);
        world.connect();
        for _ in 0..600 {
            world.step();
        }
        world.wind_down();
        let view = world.agent.core.view();
        assert_eq!(
            view.tasks,
            [],
            "seed {seed}: what everybody worked on came to no end"
        );
        assert_eq!(view.operations, [], "seed {seed}: not settled");
        assert!(world.conversions.all_told(), "seed {seed}: not told");
        converted += world.conversions.count();
        for task in &world.launched {
            let ended = world.told.get(task).is_some_and(|told| told.ended);
            let recorded = framework_of(task.framework.as_str()).checkpoint();
            let dead = world.dead.contains(&task.framework);
            assert!(ended || recorded || dead, "seed {seed}: {task} never ended");
        }
    }
    assert!(converted > 1000, "{converted} operations");
}

#[test]
fn the_same_seed_gives_the_same_effects() {
    let run = || {
        let mut agent = Agent::registered();
        let mut effects = agent.launch(&aware("F"), vec![task_info("a"), custom_task("b", "mine")]);
        effects.extend(agent.prepared(&task_ref("F", "a"), Body::Wasm));
        effects.extend(agent.kill(&task_ref("F", "b")));
        effects
    };
    assert_eq!(run(), run());
}
