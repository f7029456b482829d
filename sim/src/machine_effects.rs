//! What an agent's core asks for, done.

use std::collections::VecDeque;

use tepui_agent_core::{Effect, ExecutorRef, Input, PrepareFailure, TaskRef, Write};
use tepui_api::v1::task_status::Reason;
use tepui_api::{ext, link};

use crate::event::Event;
use crate::executor::Process;
use crate::machine::{AGENT, ID};
use crate::world::World;

impl World {
    /// One input and everything that follows from it on this machine at this moment.
    pub(crate) fn apply_to_agent(&mut self, machine: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.clock_of(self.machines[machine].started);
            let Some(core) = self.machines[machine].core.as_mut() else {
                return;
            };
            self.counts.agent_inputs += 1;
            let effects = core.apply(now, input);
            if self.settings.check_every == 1 {
                core.check_invariants();
            }
            for effect in effects {
                self.perform_agent(machine, effect, &mut inputs);
            }
        }
        self.wake_agent(machine);
    }

    fn perform_agent(&mut self, machine: usize, effect: Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            Effect::ToMaster(message) => self.send_to_master(machine, message),
            Effect::CloseLink => {
                if let Some(link) = self.machines[machine].link.take() {
                    self.machines[machine].linked = false;
                    self.links[link].near_open = false;
                    self.hang_up(link);
                    inputs.push_back(Input::LinkDown);
                    self.redial(machine);
                }
            }
            Effect::SaveAgent { id, record } => {
                let id = id.as_str().to_owned().into_bytes().into();
                let batch = vec![
                    (ID.to_owned(), Write::Replace(id)),
                    (AGENT.to_owned(), Write::Replace(record)),
                ];
                self.write(machine, 0, batch);
            }
            Effect::ForgetAgentId => {
                let batch = vec![
                    (ID.to_owned(), Write::Remove),
                    (AGENT.to_owned(), Write::Remove),
                ];
                self.write(machine, 0, batch);
            }
            Effect::Save { key, path, write } => self.write(machine, key.0, vec![(path, write)]),
            Effect::RemoveVolume { directory } => {
                inputs.push_back(Input::VolumeRemoved { directory });
            }
            Effect::Prepare { task, .. } => {
                let takes = self.settings.prepare.sample(&mut self.chance);
                let boot = self.machines[machine].boot;
                assert!(
                    self.machines[machine].preparing.insert(task.clone()),
                    "{task} is prepared twice"
                );
                self.after(
                    takes,
                    Event::Prepared {
                        machine,
                        boot,
                        task,
                    },
                );
            }
            Effect::CancelPrepare { task } => {
                self.machines[machine].preparing.remove(&task);
            }
            Effect::StartExecutor {
                executor,
                token,
                framework,
                ..
            } => self.start_executor(machine, executor, token, framework.checkpoint()),
            Effect::DestroyExecutor { executor } => {
                self.machines[machine].processes.remove(&executor);
                self.bury(machine, executor);
            }
            Effect::ToExecutor { connection, event } => {
                self.on_event_to_executor(machine, connection, event, inputs);
            }
            Effect::CloseExecutor { connection } => {
                if let Some((_, process)) = self.process_of(machine, connection) {
                    process.connection = None;
                }
            }
            Effect::AnswerExecutor {
                request,
                status,
                message,
            } => self.on_answer_to_executor(machine, request, status, &message),
            Effect::Exit { .. } => {
                // It has said its last; whoever started it starts it again.
                self.stop_agent_for_good(machine);
            }
            Effect::CleanedUp => panic!("nobody asked agent {machine} to clean up"),
            Effect::MakeVolume { .. }
            | Effect::LinkVolumes { .. }
            | Effect::ResizeExecutor { .. }
            | Effect::TaskEnded { .. }
            | Effect::DiscardSandbox { .. } => {}
        }
    }

    /// A process that ends by itself writes first what it has to write.
    fn stop_agent_for_good(&mut self, machine: usize) {
        while self.machines[machine].disk.finish().is_some() {}
        self.stop_agent(machine);
        self.machines[machine].processes.clear();
        let wait = self.chance.between(100_000, 2_000_000);
        self.after(wait, Event::AgentStart { machine });
    }

    fn write(&mut self, machine: usize, key: u64, batch: crate::disk::Batch) {
        let takes = self.settings.agent_write.sample(&mut self.chance);
        let held = &mut self.machines[machine];
        let at = held.disk.begin(self.now, takes, key, batch);
        let boot = held.boot;
        self.queue.push(at, Event::AgentWritten { machine, boot });
    }

    fn send_to_master(&mut self, machine: usize, message: link::ToMaster) {
        let held = &self.machines[machine];
        let Some(link) = held.link else {
            panic!("agent {machine} speaks without a link: {message:?}");
        };
        let latency = self.settings.agent_latency.sample(&mut self.chance);
        let stream = &mut self.links[link];
        if stream.cut {
            return;
        }
        let arrival = stream
            .to_master
            .arrival(self.now, latency, held.blocked_until);
        let message = Box::new(message);
        self.queue.push(arrival, Event::ToMaster { link, message });
    }

    pub(crate) fn on_prepared(&mut self, machine: usize, boot: u32, task: TaskRef) {
        if self.machines[machine].boot != boot || !self.machines[machine].preparing.remove(&task) {
            return;
        }
        let result = if self.chance.odds(self.settings.mishaps.failed_preparations) {
            Err(PrepareFailure {
                reason: Reason::ContainerLaunchFailed,
                message: "The disk is full".to_owned(),
            })
        } else {
            // Of one framework some tasks are wasm and some native, by their names.
            let native = task.task.as_str().ends_with('n');
            let body = if native {
                ext::launch_plan::Body::Native
            } else {
                ext::launch_plan::Body::Wasm
            };
            Ok(ext::LaunchPlan {
                body: body.into(),
                ..ext::LaunchPlan::default()
            })
        };
        self.apply_to_agent(machine, Input::Prepared { task, result });
    }

    fn start_executor(
        &mut self,
        machine: usize,
        executor: ExecutorRef,
        token: String,
        checkpoint: bool,
    ) {
        let takes = self.settings.start_executor.sample(&mut self.chance);
        let held = &mut self.machines[machine];
        held.next_key += 1;
        let serial = held.next_key;
        let process = Process::new(serial, token, checkpoint);
        let before = held.processes.insert(executor.clone(), process);
        assert!(before.is_none(), "{executor} runs already");
        self.after(
            takes,
            Event::ExecutorUp {
                machine,
                executor,
                serial,
            },
        );
    }

    /// The agent is told in a moment that the executor's processes are gone.
    pub(crate) fn bury(&mut self, machine: usize, executor: ExecutorRef) {
        let wait = self.chance.between(1000, 50_000);
        let boot = self.machines[machine].boot;
        self.after(
            wait,
            Event::ExecutorDead {
                machine,
                boot,
                executor,
            },
        );
    }

    pub(crate) fn on_executor_dead(&mut self, machine: usize, boot: u32, executor: ExecutorRef) {
        if self.machines[machine].boot == boot {
            self.apply_to_agent(
                machine,
                Input::ExecutorExited {
                    executor,
                    status: 9,
                    limitation: None,
                },
            );
        }
    }
}
