//! The state as a whole: its tables, its timers and the one entrance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tepui_allocator::{Allocator, Quota};
use tepui_api::link;
use tepui_api::v1::{self, scheduler};
use tepui_model::{AgentId, Attribute, ExecutorId, FrameworkId, Now, Role, TaskId, Tick};

use crate::config::Config;
use crate::departure::{Marking, Removals};
use crate::effect::{Answer, Effect, RegistryOperation};
use crate::framework_info::Capabilities;
use crate::history::History;
use crate::input::{Input, LinkKey, PersistKey, RequestKey, StreamKey};
use crate::interest::Interests;
use crate::inventory::{Holders, Thing};
use crate::inverse_offers::InverseOffers;
use crate::keys::{AgentKey, ExecutorKey, FrameworkKey, OfferKey, OperationKey, TaskKey};
use crate::maintenance::Maintenance;
use crate::management::{Change, Management};
use crate::metrics::Metrics;
use crate::operator::NewWeights;
use crate::quota::NewQuotas;
use crate::register::Registering;
use crate::services::Services;
use crate::slab::Slab;
use crate::store_calls::{StoreAnswers, StoreWrites};
use crate::stores::Stores;
use crate::subscribe::{Subscribing, UpdatingFramework};
use crate::throttle::Throttles;
use crate::view::{
    AgentRecord, AwayAgent, Deactivation, ExecutorRecord, FrameworkRecord, OfferRecord,
    OperationRecord, RoleRecord, TaskRecord, View,
};

/// The master's whole state. One owner hands it every input in turn.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    pub(crate) now: Now,
    pub(crate) effects: Vec<Effect>,
    pub(crate) master_info: Arc<v1::MasterInfo>,
    pub(crate) cluster_id: Arc<str>,
    pub(crate) minted: Minted,
    pub(crate) allocator: Allocator,
    pub(crate) timers: BTreeSet<(Tick, Timer)>,
    /// What was freed lately is to be offered now.
    pub(crate) allocation_due: bool,
    /// The timer for that is running.
    pub(crate) allocation_planned: bool,
    pub(crate) pending: BTreeMap<PersistKey, Pending>,

    pub(crate) agents: Slab<AgentKey, AgentRecord>,
    pub(crate) agent_states: BTreeMap<AgentKey, AgentState>,
    pub(crate) agent_by_id: BTreeMap<AgentId, AgentKey>,
    pub(crate) links: BTreeMap<LinkKey, AgentKey>,
    pub(crate) registering: BTreeMap<LinkKey, Registering>,
    pub(crate) registering_by_id: BTreeMap<AgentId, LinkKey>,
    pub(crate) recovered_agents: Arc<BTreeMap<AgentId, Arc<v1::AgentInfo>>>,
    pub(crate) unreachable_agents: Arc<BTreeMap<AgentId, AwayAgent>>,
    pub(crate) gone_agents: Arc<BTreeMap<AgentId, AwayAgent>>,
    /// Who holds what, of the agents in the table.
    pub(crate) holders: BTreeMap<Thing, Holders>,
    pub(crate) interests: Interests,
    /// Agents for which the registry is being told that they are unreachable or gone.
    pub(crate) marking: BTreeMap<AgentId, Marking>,
    pub(crate) removals: Removals,
    /// How many agents the registry held when the master started.
    pub(crate) recovered_at_start: usize,
    /// Wherever they are.
    pub(crate) deactivated_agents: Arc<BTreeMap<AgentId, Deactivation>>,
    pub(crate) management: Management,
    pub(crate) maintenance: Maintenance,
    pub(crate) inverse_offers: InverseOffers,
    /// The tasks of unreachable agents, as they stand in their frameworks' `unreachable_tasks`.
    pub(crate) away_tasks: BTreeMap<AgentId, BTreeSet<(FrameworkKey, TaskId)>>,
    /// Tasks that ended when their agent's link broke, but which it may still run: they are killed when it is back.
    pub(crate) given_up: BTreeMap<AgentId, BTreeSet<(FrameworkId, TaskId)>>,

    pub(crate) frameworks: Slab<FrameworkKey, FrameworkRecord>,
    pub(crate) framework_states: BTreeMap<FrameworkKey, FrameworkState>,
    pub(crate) framework_by_id: BTreeMap<FrameworkId, FrameworkKey>,
    pub(crate) streams: BTreeMap<StreamKey, StreamState>,
    pub(crate) completed_frameworks: History<FrameworkRecord>,
    pub(crate) completed_ids: BTreeSet<FrameworkId>,

    pub(crate) tasks: Slab<TaskKey, TaskRecord>,
    pub(crate) executors: Slab<ExecutorKey, ExecutorRecord>,
    pub(crate) offers: Slab<OfferKey, OfferRecord>,
    /// By the number in their id.
    pub(crate) offer_by_number: BTreeMap<u64, OfferKey>,
    pub(crate) offer_states: BTreeMap<OfferKey, OfferState>,
    pub(crate) operations: Slab<OperationKey, OperationRecord>,
    pub(crate) operation_by_uuid: BTreeMap<Bytes, OperationKey>,

    /// What tasks keep.
    pub(crate) stores: Stores,
    pub(crate) store_writes: StoreWrites,
    /// Running tasks by the name of their service.
    pub(crate) services: Services,

    pub(crate) throttles: Throttles,
    pub(crate) weights: BTreeMap<Role, f64>,
    /// Somebody wants to hear of what happens.
    pub(crate) operators_listen: bool,
    pub(crate) quotas: Arc<BTreeMap<Role, Quota>>,
    pub(crate) metrics: Metrics,
}

/// The next number of each kind of id.
#[derive(Debug, Default)]
pub(crate) struct Minted {
    pub(crate) agents: u64,
    pub(crate) frameworks: u64,
    pub(crate) offers: u64,
    pub(crate) operations: u64,
    pub(crate) writes: u64,
}

/// What the core keeps of an agent beside its record.
#[derive(Debug)]
pub(crate) struct AgentState {
    pub(crate) boot_id: String,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) tasks: BTreeSet<TaskKey>,
    pub(crate) executors: BTreeMap<(FrameworkKey, ExecutorId), ExecutorKey>,
    pub(crate) offers: BTreeSet<OfferKey>,
    pub(crate) operations: BTreeSet<OperationKey>,
    pub(crate) ping_sequence: u64,
    pub(crate) pings_unanswered: u32,
    /// When it is pinged next, or, while it is away, given up.
    pub(crate) timer: Option<Tick>,
}

/// What the core keeps of a framework beside its record.
#[derive(Debug)]
pub(crate) struct FrameworkState {
    pub(crate) stream: Option<Stream>,
    pub(crate) capabilities: Capabilities,
    pub(crate) tasks: BTreeMap<TaskId, TaskKey>,
    pub(crate) executors: BTreeSet<ExecutorKey>,
    pub(crate) offers: BTreeSet<OfferKey>,
    /// Those it gave an id, by that.
    pub(crate) operations: BTreeMap<String, OperationKey>,
    /// What it wants killed of the tasks that have not ended, as it asked last. A link may be dead before anybody notices,
    /// so what was sent over it is sent again over the next.
    pub(crate) kills: BTreeMap<TaskId, Option<v1::KillPolicy>>,
    /// Oldest first.
    pub(crate) unreachable_order: VecDeque<TaskId>,
    /// When it is removed if its scheduler does not come back.
    pub(crate) failover: Option<Tick>,
}

#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) key: StreamKey,
    pub(crate) id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamState {
    Subscribing(PersistKey),
    Subscribed(FrameworkKey),
}

#[derive(Debug)]
pub(crate) struct OfferState {
    pub(crate) number: u64,
    pub(crate) expires: Option<Tick>,
    /// When it is next asked whether others would take it.
    pub(crate) contended: Option<Tick>,
}

/// Everything the master waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// What was freed lately is to be offered.
    Allocate,
    /// An offer was left lying for too long.
    Offer(OfferKey),
    /// An offer was left lying for so long that others may have it.
    Contended(OfferKey),
    /// An agent is to be pinged, or has left too many pings unanswered.
    Ping(AgentKey),
    /// An agent whose link broke did not come back.
    Reregister(AgentKey),
    /// Agents from before the restart had their time to come back.
    Recovered,
    /// The next agent may become unreachable.
    Removal,
    /// Agents that were away for too long are to be forgotten.
    RegistryGc,
    /// An inverse offer of this number was left lying for too long.
    InverseOffer(u64),
    /// Some framework may be asked again to leave the agent.
    InverseFilter(AgentKey),
    /// A framework whose scheduler is away had its time to come back.
    Failover(FrameworkKey),
    /// It is the turn of a call that had to wait, under the limit of that number.
    Call(usize),
}

/// What is done once a write is on disk.
#[derive(Debug)]
pub(crate) enum Pending {
    Nothing,
    Answer(RequestKey, Answer),
    Subscribe(Box<Subscribing>),
    UpdateFramework(Box<UpdatingFramework>),
    Register {
        link: LinkKey,
        id: AgentId,
        new: bool,
    },
    Unreachable {
        agents: Vec<AgentId>,
        since_ns: i64,
    },
    Gone {
        id: AgentId,
        away: AwayAgent,
        asked: Option<RequestKey>,
    },
    Change {
        change: Change,
        asked: Option<RequestKey>,
    },
    Weights(NewWeights),
    Quotas(NewQuotas),
    Store(StoreAnswers),
}

impl Core {
    /// Takes one event and returns everything that follows from it.
    pub fn apply(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.now = now;
        match input {
            Input::Tick => {}
            Input::SchedulerCall {
                request,
                principal,
                stream_id,
                call,
                new_stream,
            } => {
                self.on_scheduler_call(request, principal, stream_id, *call, new_stream);
            }
            Input::StreamClosed { stream } => self.on_stream_closed(stream),
            Input::OperatorCall {
                request,
                principal,
                call,
            } => self.on_operator_call(request, principal.as_deref(), *call),
            Input::StoreCall {
                request,
                principal,
                call,
            } => self.on_store_call(request, principal.as_deref(), call),
            Input::OperatorsListen(listen) => self.operators_listen = listen,
            Input::FromAgent { link, message } => self.on_agent_message(link, message),
            Input::LinkClosed { link } => self.on_link_closed(link),
            Input::Persisted { key } => self.on_persisted(key),
        }
        self.expire_timers();
        self.settle_drains();
        self.plan_allocation();
        self.make_inverse_offers();
        std::mem::take(&mut self.effects)
    }

    /// How many times the allocator was asked so far.
    pub fn allocation_runs(&self) -> u64 {
        self.metrics.allocation_runs
    }

    /// When `apply` next has something to do even if nothing happens.
    pub fn next_deadline(&self) -> Option<Tick> {
        let timer = self.timers.first().map(|(tick, _)| *tick);
        match (timer, self.allocator.next_deadline()) {
            (Some(timer), Some(allocator)) => Some(timer.min(allocator)),
            (timer, allocator) => timer.or(allocator),
        }
    }

    /// A snapshot for readers.
    pub fn view(&self) -> View {
        let mut roles: BTreeMap<Role, RoleRecord> = BTreeMap::new();
        for (_, framework) in self.frameworks.iter() {
            for role in framework.roles.iter() {
                if !roles.contains_key(role) {
                    roles.insert(role.clone(), self.role_record(role));
                }
            }
        }
        for role in self.weights.keys().chain(self.quotas.keys()) {
            if !roles.contains_key(role) {
                roles.insert(role.clone(), self.role_record(role));
            }
        }
        View {
            master: self.master_info.clone(),
            cluster_id: self.cluster_id.clone(),
            agents: self.agents.snapshot(),
            recovered_agents: self.recovered_agents.clone(),
            unreachable_agents: self.unreachable_agents.clone(),
            gone_agents: self.gone_agents.clone(),
            deactivated_agents: self.deactivated_agents.clone(),
            maintenance_schedule: self.maintenance.schedule.clone(),
            maintenance_status: self.maintenance_status(),
            frameworks: self.frameworks.snapshot(),
            completed_frameworks: self.completed_frameworks.clone(),
            tasks: self.tasks.snapshot(),
            executors: self.executors.snapshot(),
            offers: self.offers.snapshot(),
            operations: self.operations.snapshot(),
            roles,
            quotas: self.quotas.clone(),
            counters: self.counters(),
            calls: self.throttles.counts.clone(),
            operations_ended: self.metrics.operations_ended.clone(),
        }
    }

    fn role_record(&self, role: &Role) -> RoleRecord {
        RoleRecord {
            weight: self.weights.get(role).copied().unwrap_or(1.0),
            share: self.allocator.role_share(role),
        }
    }

    fn on_persisted(&mut self, key: PersistKey) {
        match self.pending.remove(&key) {
            None | Some(Pending::Nothing) => {}
            Some(Pending::Answer(request, answer)) => self.answer(request, answer),
            Some(Pending::Subscribe(subscribing)) => self.on_subscribe_persisted(*subscribing),
            Some(Pending::UpdateFramework(updating)) => {
                self.on_framework_update_persisted(*updating)
            }
            Some(Pending::Register { link, id, new }) => {
                self.on_registration_persisted(key, link, &id, new)
            }
            Some(Pending::Unreachable { agents, since_ns }) => {
                self.on_unreachable_persisted(&agents, since_ns)
            }
            Some(Pending::Gone { id, away, asked }) => self.on_gone_persisted(id, away, asked),
            Some(Pending::Change { change, asked }) => self.on_change_persisted(change, asked),
            Some(Pending::Weights(weights)) => self.on_weights_persisted(weights),
            Some(Pending::Quotas(quotas)) => self.on_quotas_persisted(quotas),
            Some(Pending::Store(answers)) => self.on_store_persisted(key, answers),
        }
    }

    fn expire_timers(&mut self) {
        // A timer may set another that is due at once; each such chain ends after a step or two.
        while let Some((tick, timer)) = self.timers.first().copied() {
            if tick > self.now.tick {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Allocate => {
                    self.allocation_planned = false;
                    self.allocation_due = true;
                }
                Timer::Offer(offer) => self.on_offer_expired(offer),
                Timer::Contended(offer) => self.on_offer_contended(offer),
                Timer::Ping(agent) => self.on_ping_due(agent),
                Timer::Reregister(agent) => self.on_reregister_timeout(agent),
                Timer::Recovered => self.on_recovery_timeout(),
                Timer::Removal => self.on_removal_due(),
                Timer::RegistryGc => self.collect_registry_garbage(),
                Timer::InverseOffer(number) => self.on_inverse_offer_expired(number),
                Timer::InverseFilter(agent) => self.invert_offers_of(agent),
                Timer::Failover(framework) => self.on_failover_timeout(framework),
                Timer::Call(limit) => self.on_turn(limit),
            }
        }
    }

    /// Makes the offers that are due; what was freed just now waits a moment for more.
    fn plan_allocation(&mut self) {
        let filter_ended = self
            .allocator
            .next_deadline()
            .is_some_and(|deadline| deadline <= self.now.tick);
        if std::mem::take(&mut self.allocation_due) || filter_ended {
            self.make_offers();
        }
        if !self.allocator.dirty() {
            return;
        }
        if self.config.allocation_delay.is_zero() {
            self.make_offers();
        } else if !std::mem::replace(&mut self.allocation_planned, true) {
            let due = self.now.tick.after(self.config.allocation_delay);
            self.timers.insert((due, Timer::Allocate));
        }
    }

    pub(crate) fn answer(&mut self, request: RequestKey, answer: Answer) {
        self.effects.push(Effect::Answer { request, answer });
    }

    pub(crate) fn refuse(&mut self, request: RequestKey, status: u16, message: impl Into<String>) {
        self.answer(
            request,
            Answer::Refused {
                status,
                message: message.into(),
            },
        );
    }

    /// Writes to the registry; `then` happens when it is on disk.
    pub(crate) fn persist(
        &mut self,
        operations: Vec<RegistryOperation>,
        then: Pending,
    ) -> PersistKey {
        let key = PersistKey(self.minted.writes);
        self.minted.writes += 1;
        self.pending.insert(key, then);
        self.effects.push(Effect::Persist { key, operations });
        key
    }

    /// Sends to the framework's scheduler; lost if that is away.
    pub(crate) fn send(&mut self, framework: FrameworkKey, event: scheduler::Event) {
        if let Some(stream) = self
            .framework_states
            .get(&framework)
            .and_then(|state| state.stream.as_ref())
        {
            let stream = stream.key;
            let metrics = &mut self.frameworks[framework].metrics;
            metrics.events.count(event.r#type().as_str_name());
            let event = Box::new(event);
            self.effects.push(Effect::Send { stream, event });
        }
    }

    /// Sends to the agent; lost if that is away.
    pub(crate) fn send_to_agent(&mut self, agent: AgentKey, body: link::to_agent::Body) {
        if let Some(link) = self.agents.get(agent).and_then(|agent| agent.link) {
            self.effects.push(Effect::ToAgent {
                link,
                message: Box::new(link::ToAgent { body: Some(body) }),
            });
        }
    }

    pub(crate) fn agent_state(&mut self, agent: AgentKey) -> &mut AgentState {
        self.agent_states
            .get_mut(&agent)
            .expect("every agent in the table has a state beside it")
    }

    pub(crate) fn framework_state(&mut self, framework: FrameworkKey) -> &mut FrameworkState {
        self.framework_states
            .get_mut(&framework)
            .expect("every framework in the table has a state beside it")
    }

    pub(crate) fn capabilities(&self, framework: FrameworkKey) -> Capabilities {
        self.framework_states[&framework].capabilities
    }

    /// The connected frameworks, by key.
    pub(crate) fn connected_frameworks(&self) -> Vec<FrameworkKey> {
        let connected = self
            .framework_states
            .iter()
            .filter(|(_, state)| state.stream.is_some());
        connected.map(|(framework, _)| *framework).collect()
    }
}
