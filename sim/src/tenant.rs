//! A framework's scheduler: it subscribes, comes back when its stream broke, and knows what it was told.

use std::collections::BTreeMap;

use tepui_api::v1::framework_info::{Capability, capability};
use tepui_api::v1::scheduler::{Call, Event as SchedulerEvent, call, event};
use tepui_api::v1::{self, TaskState};
use tepui_master_core::{RequestKey, StreamKey};

use crate::event::Event;
use crate::link::{Pipe, Stream};
use crate::workload::Appetite;
use crate::world::World;
use crate::{Chance, Micros};

/// A simulated scheduler, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TenantId(pub usize);

/// A task that has not ended, as its scheduler knows it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) agent: String,
    pub(crate) state: TaskState,
}

#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) info: v1::FrameworkInfo,
    pub(crate) appetite: Appetite,
    pub(crate) chance: Chance,
    /// Differs each time it subscribes.
    pub(crate) life: u32,
    pub(crate) stream: Option<usize>,
    /// SUBSCRIBED came.
    pub(crate) subscribed: bool,
    /// Its scheduler is there and wants to be subscribed.
    pub(crate) running: bool,
    pub(crate) calls: Pipe,
    /// Those a chaotic scheduler lets lie.
    pub(crate) offers: BTreeMap<String, v1::Offer>,
    pub(crate) tasks: BTreeMap<String, Known>,
    pub(crate) launched: u64,
    pub(crate) finished: u64,
    /// When the last task ended.
    pub(crate) last_end: Option<Micros>,
    /// When it was first subscribed, and first offered something.
    pub(crate) first_subscribed: Option<Micros>,
    pub(crate) first_offered: Option<Micros>,
    pub(crate) first_running: Option<Micros>,
    pub(crate) suppressed: bool,
}

impl World {
    /// A scheduler that subscribes after so long.
    pub fn add_tenant(
        &mut self,
        name: &str,
        role: &str,
        appetite: Appetite,
        starts_after: Micros,
    ) -> TenantId {
        let info = v1::FrameworkInfo {
            user: "user".to_owned(),
            name: name.to_owned(),
            role: Some(role.to_owned()),
            failover_timeout: Some(600.0),
            capabilities: vec![Capability {
                r#type: Some(capability::Type::PartitionAware.into()),
            }],
            ..v1::FrameworkInfo::default()
        };
        self.add_tenant_with(info, appetite, starts_after)
    }

    pub fn add_tenant_with(
        &mut self,
        info: v1::FrameworkInfo,
        appetite: Appetite,
        starts_after: Micros,
    ) -> TenantId {
        let tenant = self.tenants.len();
        self.tenants.push(Tenant {
            info,
            appetite,
            chance: self.chance.fork(),
            life: 0,
            stream: None,
            subscribed: false,
            running: true,
            calls: Pipe::default(),
            offers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            launched: 0,
            finished: 0,
            last_end: None,
            first_subscribed: None,
            first_offered: None,
            first_running: None,
            suppressed: false,
        });
        self.after(starts_after, Event::Subscribe { tenant, life: 0 });
        if appetite.chaotic {
            self.after(starts_after, Event::TenantTurn { tenant });
        }
        TenantId(tenant)
    }

    /// Changes what a scheduler wants from now on.
    pub fn set_appetite(&mut self, tenant: TenantId, appetite: Appetite) {
        self.tenants[tenant.0].appetite = appetite;
        if std::mem::take(&mut self.tenants[tenant.0].suppressed) {
            self.revive(tenant.0);
        }
    }

    /// The scheduler ends its framework and is gone.
    pub fn tear_down(&mut self, tenant: TenantId) {
        self.call(tenant.0, plain(call::Type::Teardown));
        let held = &mut self.tenants[tenant.0];
        held.running = false;
        held.tasks.clear();
        held.offers.clear();
    }

    /// How many of its tasks have ended.
    pub fn ended_tasks(&self, tenant: TenantId) -> u64 {
        self.tenants[tenant.0].finished
    }

    /// How many of its tasks are said to run.
    pub fn running_tasks(&self, tenant: TenantId) -> usize {
        let tasks = self.tenants[tenant.0].tasks.values();
        tasks
            .filter(|task| task.state == TaskState::TaskRunning)
            .count()
    }

    /// The framework's id, once it has one.
    pub fn framework_id(&self, tenant: TenantId) -> Option<&str> {
        let id = self.tenants[tenant.0].info.id.as_ref()?;
        Some(id.value.as_str())
    }

    /// When it was subscribed, first offered something, first heard that a task runs, and last that one ended.
    pub fn moments(&self, tenant: TenantId) -> [Option<Micros>; 4] {
        let held = &self.tenants[tenant.0];
        [
            held.first_subscribed,
            held.first_offered,
            held.first_running,
            held.last_end,
        ]
    }

    pub(crate) fn on_subscribe_due(&mut self, tenant: usize, life: u32) {
        let held = &self.tenants[tenant];
        if held.life != life || held.stream.is_some() || !held.running {
            return;
        }
        let stream = self.streams.len();
        self.streams.push(Stream::new(tenant));
        let held = &mut self.tenants[tenant];
        held.life += 1;
        held.stream = Some(stream);
        held.subscribed = false;
        let life = held.life;
        let subscribe = call::Subscribe {
            framework_info: held.info.clone(),
            suppressed_roles: Vec::new(),
            offer_constraints: None,
        };
        let call = Call {
            framework_id: held.info.id.clone(),
            subscribe: Some(subscribe),
            ..plain(call::Type::Subscribe)
        };
        let latency = self.settings.tenant_latency.sample(&mut self.chance);
        let arrival = self.tenants[tenant].calls.arrival(self.now, latency, 0);
        let request = self.new_request(Some((tenant, life)));
        self.queue.push(
            arrival,
            Event::Call {
                request,
                stream_id: None,
                call: Box::new(call),
                new_stream: Some((StreamKey(stream as u64), stream_id(stream))),
            },
        );
    }

    pub(crate) fn on_call(
        &mut self,
        request: RequestKey,
        stream_id: Option<String>,
        call: Box<Call>,
        new_stream: Option<(StreamKey, String)>,
    ) {
        let opens = new_stream.as_ref().map(|(key, _)| key.0 as usize);
        if opens.is_some_and(|stream| !self.streams[stream].master_open) {
            // It hung up before anybody read what it sent.
            self.master.waiting.remove(&request);
            return;
        }
        if self.master.core.is_none() || !self.master.waiting.contains_key(&request) {
            // Nobody listens, or who does was started after this was sent.
            self.master.waiting.remove(&request);
            if let Some(stream) = opens {
                self.streams[stream].master_open = false;
                self.after(crate::MILLISECOND, Event::TenantLosesStream { stream });
            }
            return;
        }
        self.master_takes(tepui_master_core::Input::SchedulerCall {
            request,
            principal: None,
            stream_id,
            call,
            new_stream,
        });
    }

    pub(crate) fn on_refused(&mut self, tenant: usize, life: u32, status: u16) {
        let held = &self.tenants[tenant];
        if held.life != life || !held.running {
            return;
        }
        assert!(
            matches!(status, 403 | 503) || held.appetite.chaotic,
            "a call of {} was refused with {status}",
            held.info.name
        );
        // The master does not know this scheduler as the one it talks to: it has to subscribe anew.
        if let Some(stream) = held.stream {
            self.drop_stream(stream);
        }
    }

    /// The scheduler lets go of its stream; the master hears of that later.
    pub(crate) fn drop_stream(&mut self, stream: usize) {
        let latency = self.settings.tenant_latency.sample(&mut self.chance);
        let held = &mut self.streams[stream];
        let arrival = held.to_master.arrival(self.now, latency, 0);
        self.queue
            .push(arrival, Event::MasterLosesStream { stream });
        self.on_tenant_loses_stream(stream);
    }

    pub(crate) fn on_tenant_loses_stream(&mut self, stream: usize) {
        let tenant = self.streams[stream].owner;
        if !std::mem::take(&mut self.streams[stream].near_open)
            || self.tenants[tenant].stream != Some(stream)
        {
            return;
        }
        let held = &mut self.tenants[tenant];
        held.stream = None;
        held.subscribed = false;
        held.offers.clear();
        let life = held.life;
        let wait = self.settings.resubscribe.sample(&mut self.chance);
        self.after(wait, Event::Subscribe { tenant, life });
    }

    pub(crate) fn on_event_to_tenant(&mut self, stream: usize, event: SchedulerEvent) {
        let tenant = self.streams[stream].owner;
        if self.streams[stream].cut
            || !self.streams[stream].near_open
            || self.tenants[tenant].stream != Some(stream)
            || !self.tenants[tenant].running
        {
            return;
        }
        match event.r#type() {
            event::Type::Subscribed => {
                if let Some(subscribed) = event.subscribed {
                    self.on_subscribed(tenant, subscribed.framework_id);
                }
            }
            event::Type::Offers => {
                let offers = event.offers.map(|offers| offers.offers).unwrap_or_default();
                let now = self.now;
                self.tenants[tenant].first_offered.get_or_insert(now);
                if self.tenants[tenant].appetite.chaotic {
                    self.use_offers_chaotically(tenant, offers);
                } else {
                    self.use_offers(tenant, offers);
                }
            }
            event::Type::Rescind => {
                if let Some(rescind) = event.rescind {
                    self.tenants[tenant].offers.remove(&rescind.offer_id.value);
                }
            }
            event::Type::Update => {
                if let Some(update) = event.update {
                    self.on_told(tenant, update.status);
                }
            }
            event::Type::Error => {
                let message = event.error.map(|error| error.message).unwrap_or_default();
                self.on_error(tenant, stream, &message);
            }
            _ => {}
        }
    }

    fn on_subscribed(&mut self, tenant: usize, id: v1::FrameworkId) {
        let now = self.now;
        let held = &mut self.tenants[tenant];
        held.info.id = Some(id);
        held.subscribed = true;
        held.first_subscribed.get_or_insert(now);
        // What happened meanwhile is not known; who asks is told.
        if !held.tasks.is_empty() {
            self.reconcile_known(tenant);
        }
    }

    /// The master will not have it, or has another scheduler of the same framework.
    fn on_error(&mut self, tenant: usize, stream: usize, message: &str) {
        if message.contains("removed") {
            let held = &mut self.tenants[tenant];
            // Nothing of it is left; it begins anew under another id.
            held.info.id = None;
            held.tasks.clear();
        }
        self.drop_stream(stream);
    }

    fn on_told(&mut self, tenant: usize, status: v1::TaskStatus) {
        let state = status.state();
        let id = status.task_id.value.clone();
        *self
            .counts
            .reasons
            .entry(if status.reason.is_some() {
                status.reason().as_str_name()
            } else {
                "none"
            })
            .or_default() += 1;
        if self.settings.remember_ends {
            self.note_told(tenant, &status);
        }
        let now = self.now;
        let held = &mut self.tenants[tenant];
        if state == TaskState::TaskRunning {
            held.first_running.get_or_insert(now);
        }
        let over = state.is_terminal();
        if let Some(known) = held.tasks.get_mut(&id) {
            known.state = state;
            if over {
                held.tasks.remove(&id);
                held.finished += 1;
                held.last_end = Some(now);
                self.counts.end(state);
            }
        } else if !over {
            // One that was given up came back, or is from before this scheduler lost its memory.
            let agent = status
                .agent_id
                .as_ref()
                .map(|agent| agent.value.clone())
                .unwrap_or_default();
            held.tasks.insert(id, Known { agent, state });
        }
        self.acknowledge(tenant, status);
    }
}

pub(crate) fn stream_id(stream: usize) -> String {
    format!("stream-{stream}")
}

pub(crate) fn plain(kind: call::Type) -> Call {
    Call {
        r#type: Some(kind.into()),
        ..Call::default()
    }
}
