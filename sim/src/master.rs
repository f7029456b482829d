//! The master's process: its core, its registry, and the inbox of a core that does one thing at a time.

use std::collections::{BTreeMap, VecDeque};

use tepui_agent_core::Write;
use tepui_api::link::{self, to_agent};
use tepui_api::v1::scheduler;
use tepui_master_core::{
    Answer, Config, Core, Effect, Input, LinkKey, RegistryOperation, RequestKey, StreamKey, View,
};

use crate::Micros;
use crate::disk::Disk;
use crate::event::{Event, persist_key};
use crate::settings::Plant;
use crate::world::World;

#[derive(Debug, Default)]
pub(crate) struct Master {
    /// None while the process is down.
    pub(crate) core: Option<Core>,
    pub(crate) boot: u32,
    pub(crate) started: Micros,
    pub(crate) disk: Disk,
    inbox: VecDeque<Input>,
    /// A `MasterWork` is in the queue.
    working: bool,
    free_at: Micros,
    wake: Option<Micros>,
    next_request: u64,
    /// Who waits for an answer, since when: a tenant and which of its lives, or an operator.
    pub(crate) waiting: BTreeMap<RequestKey, (Option<(usize, u32)>, Micros)>,
}

impl World {
    pub(crate) fn start_master(&mut self) {
        self.master.boot += 1;
        self.master.started = self.now;
        self.audit.master_restarted();
        self.master.free_at = self.now;
        let config = Config {
            master_id: format!("m{}", self.master.boot),
            ..self.settings.master.clone()
        };
        let records: Vec<_> = self
            .master
            .disk
            .records
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let now = self.clock_of(self.now);
        let core = Core::new(config, &records, now)
            .unwrap_or_else(|error| panic!("the registry is the core's own: {error}"));
        self.master.core = Some(core);
        self.master_takes(Input::Tick);
    }

    /// The process ends without a word.
    pub(crate) fn stop_master(&mut self) {
        self.master.core = None;
        self.master.inbox.clear();
        self.master.wake = None;
        self.master.waiting.clear();
        self.master.disk.crash(&mut self.chance);
        for link in 0..self.links.len() {
            if std::mem::take(&mut self.links[link].master_open) {
                let blocked_until = self.machines[self.links[link].owner].blocked_until;
                let latency = self.settings.agent_latency.sample(&mut self.chance);
                let arrival = self.links[link]
                    .to_near
                    .arrival(self.now, latency, blocked_until);
                self.queue.push(arrival, Event::AgentLosesLink { link });
            }
        }
        for stream in 0..self.streams.len() {
            if std::mem::take(&mut self.streams[stream].master_open) {
                let latency = self.settings.tenant_latency.sample(&mut self.chance);
                let arrival = self.streams[stream].to_near.arrival(self.now, latency, 0);
                self.queue
                    .push(arrival, Event::TenantLosesStream { stream });
            }
        }
    }

    /// What the master shows to readers.
    pub fn view(&self) -> Option<View> {
        self.master.core.as_ref().map(Core::view)
    }

    pub(crate) fn new_request(&mut self, who: Option<(usize, u32)>) -> RequestKey {
        self.master.next_request += 1;
        let request = RequestKey(self.master.next_request);
        self.master.waiting.insert(request, (who, self.now));
        request
    }

    /// Puts an input into the inbox of a master that is up.
    pub(crate) fn master_takes(&mut self, input: Input) {
        if self.master.core.is_none() {
            return;
        }
        self.master.inbox.push_back(input);
        if !std::mem::replace(&mut self.master.working, true) {
            let at = self.master.free_at.max(self.now);
            self.queue.push(at, Event::MasterWork);
        }
    }

    pub(crate) fn on_master_wake(&mut self, boot: u32) {
        if self.master.boot != boot || self.master.wake != Some(self.now) {
            return;
        }
        self.master.wake = None;
        // Whatever it is doing makes it look at its timers too.
        if self.master.inbox.is_empty() {
            self.master_takes(Input::Tick);
        }
    }

    pub(crate) fn on_master_work(&mut self) {
        self.master.working = false;
        let now = self.clock_of(self.master.started);
        let Some(core) = self.master.core.as_mut() else {
            return;
        };
        let Some(input) = self.master.inbox.pop_front() else {
            return;
        };
        let clock = self.settings.master_clock;
        let before = clock.map_or(0, |clock| clock());
        let effects = core.apply(now, input);
        let took_ns = clock.map_or(0, |clock| clock() - before);
        let deadline = core.next_deadline();
        self.counts.master_inputs += 1;
        self.counts.master_ns += took_ns;
        self.counts.longest_ns = self.counts.longest_ns.max(took_ns);
        let cost = match clock {
            Some(_) => took_ns.div_ceil(1000),
            None => self.settings.master_cost,
        };
        let done = self.now + cost;
        self.master.free_at = done;
        self.perform_master(done, effects);
        if let Some(deadline) = deadline {
            assert!(
                deadline > now.tick,
                "the master did not do what was due at {deadline:?}"
            );
            let at = Self::time_of(self.master.started, deadline);
            if self.master.wake.is_none_or(|wake| at < wake) {
                self.master.wake = Some(at);
                let boot = self.master.boot;
                self.queue.push(at, Event::MasterWake { boot });
            }
        }
        if !self.master.inbox.is_empty() && !std::mem::replace(&mut self.master.working, true) {
            self.queue.push(done, Event::MasterWork);
        }
    }

    fn perform_master(&mut self, done: Micros, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer { request, answer } => self.answer(done, request, answer),
                Effect::Send { stream, event } => self.send_to_tenant(done, stream, *event),
                Effect::CloseStream { stream } => self.close_stream(done, stream),
                Effect::ToAgent { link, message } => self.send_to_agent(done, link, *message),
                Effect::CloseLink { link } => self.close_link_of_master(done, link),
                Effect::TellOperators(_) => {}
                Effect::Persist { key, operations } => {
                    let batch = operations
                        .into_iter()
                        .map(|operation| match operation {
                            RegistryOperation::Put { key, value } => (key, Write::Replace(value)),
                            RegistryOperation::Delete { key } => (key, Write::Remove),
                        })
                        .collect();
                    let takes = self.settings.registry_write.sample(&mut self.chance);
                    let at = self.master.disk.begin(done, takes, key.0, batch);
                    let boot = self.master.boot;
                    self.queue.push(at, Event::RegistryWritten { boot });
                }
                Effect::Exit { message } => panic!("the master ended itself: {message}"),
            }
        }
    }

    pub(crate) fn on_registry_written(&mut self, boot: u32) {
        if self.master.boot == boot
            && self.master.core.is_some()
            && let Some(key) = self.master.disk.finish()
        {
            self.master_takes(Input::Persisted {
                key: persist_key(key),
            });
        }
    }

    fn answer(&mut self, done: Micros, request: RequestKey, answer: Answer) {
        let who = self.master.waiting.remove(&request);
        let Some((who, _)) = who else {
            panic!("{request:?} was answered twice, or never asked");
        };
        let (Some((tenant, life)), Answer::Refused { status, .. }) = (who, &answer) else {
            return;
        };
        let latency = self.settings.tenant_latency.sample(&mut self.chance);
        self.queue.push(
            done + latency,
            Event::Refused {
                tenant,
                life,
                status: *status,
            },
        );
    }

    fn send_to_tenant(&mut self, done: Micros, key: StreamKey, event: scheduler::Event) {
        let index = key.0 as usize;
        if let Some(plant) = self.settings.plant
            && !self.passes(plant, index, &event)
        {
            return;
        }
        let latency = self.settings.tenant_latency.sample(&mut self.chance);
        let stream = &mut self.streams[index];
        assert!(
            !stream.ended_by_master,
            "the master sends on a stream that it closed"
        );
        if !stream.cut && stream.master_open {
            let arrival = stream.to_near.arrival(done, latency, 0);
            self.queue.push(
                arrival,
                Event::ToTenant {
                    stream: index,
                    event: Box::new(event),
                },
            );
        }
    }

    fn close_stream(&mut self, done: Micros, key: StreamKey) {
        let index = key.0 as usize;
        let latency = self.settings.tenant_latency.sample(&mut self.chance);
        let stream = &mut self.streams[index];
        stream.master_open = false;
        stream.ended_by_master = true;
        let arrival = stream.to_near.arrival(done, latency, 0);
        self.queue
            .push(arrival, Event::TenantLosesStream { stream: index });
    }

    fn send_to_agent(&mut self, done: Micros, key: LinkKey, message: link::ToAgent) {
        let index = key.0 as usize;
        if let (Some(plant), Some(to_agent::Body::Launch(_))) = (self.settings.plant, &message.body)
        {
            match plant {
                Plant::LoseLaunch if !std::mem::replace(&mut self.planted, true) => return,
                Plant::DoubleLaunch if !std::mem::replace(&mut self.planted, true) => {
                    self.put_on_link(done, index, message.clone());
                }
                _ => {}
            }
        }
        self.put_on_link(done, index, message);
    }

    fn put_on_link(&mut self, done: Micros, link: usize, message: link::ToAgent) {
        let latency = self.settings.agent_latency.sample(&mut self.chance);
        let stream = &mut self.links[link];
        assert!(
            !stream.ended_by_master,
            "the master sends on a link that it closed"
        );
        if stream.cut || !stream.master_open {
            return;
        }
        let blocked_until = self.machines[stream.owner].blocked_until;
        let arrival = stream.to_near.arrival(done, latency, blocked_until);
        let message = Box::new(message);
        self.queue.push(arrival, Event::ToAgent { link, message });
    }

    fn close_link_of_master(&mut self, done: Micros, key: LinkKey) {
        let index = key.0 as usize;
        let latency = self.settings.agent_latency.sample(&mut self.chance);
        let stream = &mut self.links[index];
        stream.master_open = false;
        stream.ended_by_master = true;
        let blocked_until = self.machines[stream.owner].blocked_until;
        let arrival = stream.to_near.arrival(done, latency, blocked_until);
        self.queue
            .push(arrival, Event::AgentLosesLink { link: index });
    }

    pub(crate) fn on_message_to_master(&mut self, link: usize, message: link::ToMaster) {
        let stream = &self.links[link];
        if !stream.cut && stream.master_open {
            self.master_takes(Input::FromAgent {
                link: LinkKey(link as u64),
                message,
            });
        }
    }

    pub(crate) fn on_master_loses_link(&mut self, link: usize) {
        if std::mem::take(&mut self.links[link].master_open) {
            self.master_takes(Input::LinkClosed {
                link: LinkKey(link as u64),
            });
        }
    }

    pub(crate) fn on_master_loses_stream(&mut self, stream: usize) {
        if std::mem::take(&mut self.streams[stream].master_open) {
            self.master_takes(Input::StreamClosed {
                stream: StreamKey(stream as u64),
            });
        }
    }
}
