//! A machine with an agent: the core, its disk, its link, and what starts and stops them.

use std::collections::{BTreeMap, BTreeSet};

use tepui_agent_core::{Config, Core, ExecutorRef, Input, Recovered, TaskRef};
use tepui_api::link;
use tepui_api::v1;
use tepui_model::{AgentId, FrameworkId};

use crate::Micros;
use crate::disk::Disk;
use crate::event::Event;
use crate::executor::Process;
use crate::link::Stream;
use crate::world::World;

/// Where on the disk the agent's id and what it registered as are; no record's path begins like this.
pub(crate) const ID: &str = "!id";
pub(crate) const AGENT: &str = "!agent";

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) resources: Vec<v1::Resource>,
    /// None while the agent's process is down.
    pub(crate) core: Option<Core>,
    pub(crate) boot: u32,
    /// How often the machine itself was started.
    pub(crate) power: u32,
    pub(crate) started: Micros,
    pub(crate) wake: Option<Micros>,
    pub(crate) disk: Disk,
    pub(crate) link: Option<usize>,
    /// The agent was told that the link stands.
    pub(crate) linked: bool,
    /// Nothing gets through to the master, nor back, until then.
    pub(crate) blocked_until: Micros,
    pub(crate) preparing: BTreeSet<TaskRef>,
    pub(crate) processes: BTreeMap<ExecutorRef, Process>,
    /// Tasks the agent was told to end: they may hold what the master has given to others.
    pub(crate) condemned: BTreeSet<TaskRef>,
    /// The same of whole frameworks.
    pub(crate) condemned_frameworks: BTreeSet<FrameworkId>,
    pub(crate) next_key: u64,
    /// For good: its agent will not be started again.
    pub(crate) retired: bool,
}

impl World {
    /// Adds a machine whose agent starts after so long. Returns its number.
    pub fn add_machine(&mut self, resources: Vec<v1::Resource>, starts_after: Micros) -> usize {
        let machine = self.machines.len();
        self.machines.push(Machine {
            resources,
            core: None,
            boot: 0,
            power: 1,
            started: 0,
            wake: None,
            disk: Disk::default(),
            link: None,
            linked: false,
            blocked_until: 0,
            preparing: BTreeSet::new(),
            processes: BTreeMap::new(),
            condemned: BTreeSet::new(),
            condemned_frameworks: BTreeSet::new(),
            next_key: 0,
            retired: false,
        });
        self.after(starts_after, Event::AgentStart { machine });
        machine
    }

    pub(crate) fn start_agent(&mut self, machine: usize) {
        if self.machines[machine].core.is_some() || self.machines[machine].retired {
            return;
        }
        let now = self.clock_of(self.now);
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.chance.number().to_le_bytes());
        let held = &mut self.machines[machine];
        held.boot += 1;
        held.started = self.now;
        held.wake = None;
        let boot = held.boot;
        let mut config = Config {
            endpoint: format!(
                "10.{}.{}.{}:5051",
                machine >> 16,
                (machine >> 8) & 255,
                machine & 255
            ),
            boot_id: format!("boot-{machine}-{boot}"),
            host_boot_id: format!("power-{machine}-{}", held.power),
            seed,
            ..self.settings.agent.clone()
        };
        config.info.hostname = format!("host-{machine}");
        config.info.resources.clone_from(&held.resources);
        let records = &held.disk.records;
        let recovered = Recovered {
            agent_id: records
                .get(ID)
                .map(|id| AgentId::from(String::from_utf8_lossy(id).as_ref())),
            agent: records.get(AGENT).cloned(),
            saved: records
                .iter()
                .filter(|(path, _)| !path.starts_with('!'))
                .map(|(path, value)| (path.clone(), value.clone()))
                .collect(),
        };
        let core = Core::new(config, recovered, now)
            .unwrap_or_else(|error| panic!("the agent's records are its own: {error}"));
        held.core = Some(core);
        self.apply_to_agent(machine, Input::Tick);
        let wait = self.settings.redial.low;
        self.after(wait, Event::Dial { machine, boot });
        let executors: Vec<_> = self.machines[machine]
            .processes
            .iter()
            .map(|(executor, process)| (executor.clone(), process.serial))
            .collect();
        for (executor, serial) in executors {
            // Some come too late: the agent waits two seconds.
            let wait = self.chance.between(1000, 3_000_000);
            self.after(
                wait,
                Event::ExecutorTurn {
                    machine,
                    executor,
                    serial,
                },
            );
        }
    }

    /// The agent's process ends without a word, and so does all that has no record.
    pub(crate) fn stop_agent(&mut self, machine: usize) {
        let held = &mut self.machines[machine];
        if held.core.take().is_none() {
            return;
        }
        held.wake = None;
        held.preparing.clear();
        held.condemned.clear();
        held.condemned_frameworks.clear();
        held.disk.crash(&mut self.chance);
        held.processes.retain(|_, process| process.checkpoint);
        for process in held.processes.values_mut() {
            process.connection = None;
        }
        held.linked = false;
        if let Some(link) = held.link.take() {
            self.links[link].near_open = false;
            self.hang_up(link);
        }
    }

    /// The near end is closed; the master hears of it when everything before it has arrived.
    pub(crate) fn hang_up(&mut self, link: usize) {
        let latency = self.settings.agent_latency.sample(&mut self.chance);
        let stream = &mut self.links[link];
        let blocked_until = self.machines[stream.owner].blocked_until;
        let arrival = stream.to_master.arrival(self.now, latency, blocked_until);
        if !stream.cut {
            self.queue.push(arrival, Event::MasterLosesLink { link });
        }
    }

    /// The machine loses power: nothing runs on it any more. `empty`: and its disk is a new one.
    pub(crate) fn power_off(&mut self, machine: usize, empty: bool) {
        self.stop_agent(machine);
        let held = &mut self.machines[machine];
        held.processes.clear();
        held.power += 1;
        if empty {
            held.disk = Disk::default();
        }
    }

    pub(crate) fn redial(&mut self, machine: usize) {
        let wait = self.settings.redial.sample(&mut self.chance);
        let boot = self.machines[machine].boot;
        self.after(wait, Event::Dial { machine, boot });
    }

    pub(crate) fn on_dial(&mut self, machine: usize, boot: u32) {
        let held = &self.machines[machine];
        if held.core.is_none() || held.boot != boot || held.link.is_some() {
            return;
        }
        if self.master.core.is_none() || held.blocked_until > self.now {
            self.redial(machine);
            return;
        }
        let link = self.links.len();
        let mut stream = Stream::new(machine);
        let there_and_back = self.settings.agent_latency.sample(&mut self.chance)
            + self.settings.agent_latency.sample(&mut self.chance);
        let up = stream.to_near.arrival(self.now, there_and_back, 0);
        self.links.push(stream);
        self.machines[machine].link = Some(link);
        self.queue.push(up, Event::LinkUp { link });
    }

    pub(crate) fn on_link_up(&mut self, link: usize) {
        let stream = &self.links[link];
        let machine = stream.owner;
        if stream.near_open && !stream.cut && self.machines[machine].link == Some(link) {
            self.machines[machine].linked = true;
            self.apply_to_agent(machine, Input::LinkUp);
        }
    }

    pub(crate) fn on_agent_loses_link(&mut self, link: usize) {
        let machine = self.links[link].owner;
        if !std::mem::take(&mut self.links[link].near_open)
            || self.machines[machine].link != Some(link)
        {
            return;
        }
        self.machines[machine].link = None;
        if std::mem::take(&mut self.machines[machine].linked) {
            self.apply_to_agent(machine, Input::LinkDown);
        }
        self.redial(machine);
    }

    pub(crate) fn on_message_to_agent(&mut self, link: usize, message: link::ToAgent) {
        let stream = &self.links[link];
        let machine = stream.owner;
        if !stream.cut && stream.near_open && self.machines[machine].link == Some(link) {
            self.condemn(machine, &message);
            self.apply_to_agent(machine, Input::FromMaster(message));
        }
    }

    /// Notes what is to end, for checking that what the rest holds is there.
    fn condemn(&mut self, machine: usize, message: &link::ToAgent) {
        if self.settings.check_every == 0 {
            return;
        }
        let held = &mut self.machines[machine];
        match &message.body {
            Some(link::to_agent::Body::Kill(kill)) => {
                held.condemned.insert(TaskRef {
                    framework: kill.framework_id.value.as_str().into(),
                    task: kill.task_id.value.as_str().into(),
                });
            }
            Some(link::to_agent::Body::ShutdownFramework(shutdown)) => {
                let framework = shutdown.framework_id.value.as_str().into();
                held.condemned_frameworks.insert(framework);
            }
            _ => {}
        }
    }

    pub(crate) fn on_agent_wake(&mut self, machine: usize) {
        if self.machines[machine].wake != Some(self.now) {
            return;
        }
        self.machines[machine].wake = None;
        let now = self.clock_of(self.machines[machine].started);
        let deadline = self.machines[machine]
            .core
            .as_ref()
            .and_then(Core::next_deadline);
        match deadline {
            Some(deadline) if deadline <= now.tick => self.apply_to_agent(machine, Input::Tick),
            _ => self.wake_agent(machine),
        }
    }

    pub(crate) fn wake_agent(&mut self, machine: usize) {
        let held = &mut self.machines[machine];
        let Some(deadline) = held.core.as_ref().and_then(Core::next_deadline) else {
            return;
        };
        let at = Self::time_of(held.started, deadline).max(self.now);
        if held.wake.is_none_or(|wake| at < wake) {
            held.wake = Some(at);
            self.queue.push(at, Event::AgentWake { machine });
        }
    }

    pub(crate) fn on_agent_written(&mut self, machine: usize, boot: u32) {
        let held = &mut self.machines[machine];
        if held.boot == boot
            && held.core.is_some()
            && let Some(key) = held.disk.finish()
            && key != 0
        {
            let key = tepui_agent_core::SaveKey(key);
            self.apply_to_agent(machine, Input::Saved { key });
        }
    }
}
