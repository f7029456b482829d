//! The simulated world as a whole: its clock, its queue, and where each event goes.

use std::collections::BTreeMap;

use tepui_api::v1::TaskState;
use tepui_model::{Now, Tick};

use crate::check::Audit;
use crate::event::Event;
use crate::fault::Faults;
use crate::link::Stream;
use crate::machine::Machine;
use crate::master::Master;
use crate::queue::Queue;
use crate::settings::Settings;
use crate::tenant::Tenant;
use crate::trace::Trace;
use crate::{Chance, Micros};

/// When the virtual clock stands at 0, in nanoseconds since the Unix epoch.
const EPOCH_NS: i64 = 1_700_000_000_000_000_000;

/// How often what happened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Events taken from the queue.
    pub steps: u64,
    /// Inputs the master took.
    pub master_inputs: u64,
    /// Inputs all agents together took.
    pub agent_inputs: u64,
    pub launched: u64,
    /// Tasks that ended, by the state their schedulers were told.
    pub ended: BTreeMap<&'static str, u64>,
    pub faults: BTreeMap<&'static str, u64>,
    /// Statuses told to schedulers, by their reason.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Real nanoseconds the master's core took, if that is measured.
    pub master_ns: u64,
    /// The longest of them.
    pub longest_ns: u64,
}

impl Counts {
    /// Both together.
    pub fn add(&mut self, other: &Counts) {
        self.steps += other.steps;
        self.master_inputs += other.master_inputs;
        self.agent_inputs += other.agent_inputs;
        self.launched += other.launched;
        self.master_ns += other.master_ns;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        let maps = [
            (&mut self.ended, &other.ended),
            (&mut self.faults, &other.faults),
            (&mut self.reasons, &other.reasons),
        ];
        for (sums, counts) in maps {
            for (name, times) in counts {
                *sums.entry(name).or_default() += times;
            }
        }
    }

    pub(crate) fn end(&mut self, state: TaskState) {
        *self.ended.entry(state.as_str_name()).or_default() += 1;
    }
}

/// One master, its agents with their executors, and the schedulers, between two events.
#[derive(Debug)]
pub struct World {
    pub(crate) settings: Settings,
    pub(crate) now: Micros,
    pub(crate) queue: Queue<Event>,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) master: Master,
    pub(crate) machines: Vec<Machine>,
    pub(crate) links: Vec<Stream>,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) faults: Option<Faults>,
    pub(crate) audit: Audit,
    pub(crate) counts: Counts,
    pub(crate) planted: bool,
}

impl World {
    /// A master that comes up at once, and nobody else.
    pub fn new(settings: Settings) -> Self {
        let trace = Trace::new(settings.full_trace, settings.log);
        let mut world = Self {
            now: 0,
            queue: Queue::default(),
            chance: Chance::new(settings.seed),
            trace,
            master: Master::default(),
            machines: Vec::new(),
            links: Vec::new(),
            tenants: Vec::new(),
            streams: Vec::new(),
            faults: None,
            audit: Audit::default(),
            counts: Counts::default(),
            planted: false,
            settings,
        };
        world.start_master();
        world
    }

    pub fn now(&self) -> Micros {
        self.now
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether the fault that was to be planted came to pass.
    pub fn was_planted(&self) -> bool {
        self.planted
    }

    /// A fingerprint of the run so far.
    pub fn fingerprint(&self) -> u64 {
        self.trace.hash()
    }

    /// Lets time go by until then.
    pub fn run_until(&mut self, until: Micros) {
        while self.queue.next_time().is_some_and(|next| next <= until) {
            self.step();
        }
        self.now = self.now.max(until);
    }

    /// Lets time go by until something is so, looking after each step; false if it is not by then.
    pub fn run_until_so(&mut self, until: Micros, so: impl Fn(&World) -> bool) -> bool {
        while !so(self) {
            if self.queue.next_time().is_none_or(|next| next > until) {
                return false;
            }
            self.step();
        }
        true
    }

    fn step(&mut self) {
        let Some((at, event)) = self.queue.pop() else {
            return;
        };
        self.now = at;
        self.counts.steps += 1;
        if self.trace.full || self.trace.log.is_some() {
            self.trace.note(at, "", &event);
        } else {
            self.trace.number(at);
            self.trace.number(self.queue.len() as u64);
        }
        self.handle(event);
        let every = self.settings.check_every;
        if every > 0 && self.counts.steps.is_multiple_of(every) {
            self.check();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::MasterWork => self.on_master_work(),
            Event::MasterWake { boot } => self.on_master_wake(boot),
            Event::MasterStart => self.start_master(),
            Event::RegistryWritten { boot } => self.on_registry_written(boot),
            Event::ToMaster { link, message } => self.on_message_to_master(link, *message),
            Event::ToAgent { link, message } => self.on_message_to_agent(link, *message),
            Event::MasterLosesLink { link } => self.on_master_loses_link(link),
            Event::AgentLosesLink { link } => self.on_agent_loses_link(link),
            Event::Dial { machine, boot } => self.on_dial(machine, boot),
            Event::LinkUp { link } => self.on_link_up(link),
            Event::AgentStart { machine } => self.start_agent(machine),
            Event::AgentWake { machine } => self.on_agent_wake(machine),
            Event::AgentWritten { machine, boot } => self.on_agent_written(machine, boot),
            Event::Prepared {
                machine,
                boot,
                task,
            } => self.on_prepared(machine, boot, task),
            Event::ExecutorUp {
                machine,
                executor,
                serial,
            } => self.on_executor_up(machine, executor, serial),
            Event::ExecutorTurn {
                machine,
                executor,
                serial,
            } => self.on_executor_turn(machine, &executor, serial),
            Event::ExecutorDead {
                machine,
                boot,
                executor,
            } => self.on_executor_dead(machine, boot, executor),
            Event::TaskDone {
                machine,
                serial,
                task,
            } => self.on_task_done(machine, serial, &task),
            Event::Call {
                request,
                stream_id,
                call,
                new_stream,
            } => self.on_call(request, stream_id, call, new_stream),
            Event::Refused {
                tenant,
                life,
                status,
            } => self.on_refused(tenant, life, status),
            Event::ToTenant { stream, event } => self.on_event_to_tenant(stream, *event),
            Event::MasterLosesStream { stream } => self.on_master_loses_stream(stream),
            Event::TenantLosesStream { stream } => self.on_tenant_loses_stream(stream),
            Event::Subscribe { tenant, life } => self.on_subscribe_due(tenant, life),
            Event::TenantTurn { tenant } => self.on_tenant_turn(tenant),
            Event::Fault => self.on_fault(),
        }
    }

    pub(crate) fn after(&mut self, wait: Micros, event: Event) {
        self.queue.push(self.now + wait, event);
    }

    /// Both clocks of a process that was started then.
    pub(crate) fn clock_of(&self, started: Micros) -> Now {
        Now {
            tick: Tick((self.now - started) / 1000),
            wall_ns: EPOCH_NS + (self.now * 1000) as i64,
        }
    }

    /// When a deadline of a process that was started then is.
    pub(crate) fn time_of(started: Micros, deadline: Tick) -> Micros {
        started.saturating_add(deadline.0.saturating_mul(1000))
    }
}
