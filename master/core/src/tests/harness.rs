//! A master core with a registry in memory, and a clock that goes only where it is sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::scheduler::{Call, Event, call, event};
use tepui_api::v1::{self, TaskState, master};
use tepui_model::{Now, Resources, Role, Tick, parse_resources};

use crate::{
    Answer, Config, Core, Effect, Happening, Input, LinkKey, PersistKey, RegistryOperation,
    RequestKey, StreamKey, View,
};

pub(super) struct Cluster {
    pub(super) core: Core,
    pub(super) config: Config,
    pub(super) now: Now,
    pub(super) registry: BTreeMap<String, Bytes>,
    /// Writes are not done by themselves but wait for `finish_writes`.
    pub(super) slow_disk: bool,
    pub(super) writes: VecDeque<(PersistKey, Vec<RegistryOperation>)>,
    pub(super) answers: BTreeMap<RequestKey, Answer>,
    pub(super) events: BTreeMap<StreamKey, Vec<Event>>,
    pub(super) messages: BTreeMap<LinkKey, Vec<to_agent::Body>>,
    pub(super) happenings: Vec<Happening>,
    pub(super) closed_streams: Vec<StreamKey>,
    pub(super) closed_links: Vec<LinkKey>,
    /// Why the master ended itself, if it did.
    pub(super) exited: Option<String>,
    agents: u16,
    next: u64,
    starts: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Scheduler {
    pub(super) id: String,
    pub(super) stream: StreamKey,
    pub(super) stream_id: String,
}

#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) link: LinkKey,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            master_id: "m0".to_owned(),
            ..Config::default()
        };
        change(&mut config);
        let now = Now {
            tick: Tick(1000),
            wall_ns: 1_700_000_000_000_000_000,
        };
        let core =
            Core::new(config.clone(), &[], now).expect("nothing to read, nothing to go wrong");
        let mut cluster = Self {
            core,
            config,
            now,
            registry: BTreeMap::new(),
            slow_disk: false,
            writes: VecDeque::new(),
            answers: BTreeMap::new(),
            events: BTreeMap::new(),
            messages: BTreeMap::new(),
            happenings: Vec::new(),
            closed_streams: Vec::new(),
            closed_links: Vec::new(),
            exited: None,
            agents: 0,
            next: 1,
            starts: 0,
        };
        cluster.apply(Input::Tick);
        cluster
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn apply(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.core.apply(self.now, input) {
                match effect {
                    Effect::Answer { request, answer } => {
                        assert!(
                            self.answers.insert(request, answer).is_none(),
                            "one answer per request"
                        );
                    }
                    Effect::Send { stream, event } => {
                        assert!(
                            !self.closed_streams.contains(&stream),
                            "nothing is sent after the end"
                        );
                        self.events.entry(stream).or_default().push(*event);
                    }
                    Effect::TellOperators(happening) => self.happenings.push(happening),
                    Effect::CloseStream { stream } => self.closed_streams.push(stream),
                    Effect::ToAgent { link, message } => {
                        assert!(
                            !self.closed_links.contains(&link),
                            "nothing is sent after the end"
                        );
                        self.messages.entry(link).or_default().extend(message.body);
                    }
                    Effect::CloseLink { link } => self.closed_links.push(link),
                    Effect::Exit { message } => self.exited = Some(message),
                    Effect::Persist { key, operations } if self.slow_disk => {
                        self.writes.push_back((key, operations))
                    }
                    Effect::Persist { key, operations } => {
                        self.write(operations);
                        inputs.push_back(Input::Persisted { key });
                    }
                }
            }
            self.core.check_invariants();
        }
    }

    fn write(&mut self, operations: Vec<RegistryOperation>) {
        for operation in operations {
            match operation {
                RegistryOperation::Put { key, value } => drop(self.registry.insert(key, value)),
                RegistryOperation::Delete { key } => drop(self.registry.remove(&key)),
            }
        }
    }

    pub(super) fn finish_writes(&mut self) {
        while let Some((key, operations)) = self.writes.pop_front() {
            self.write(operations);
            self.apply(Input::Persisted { key });
        }
    }

    /// The oldest so many of those that wait.
    pub(super) fn finish_some_writes(&mut self, count: usize) {
        for _ in 0..count {
            if let Some((key, operations)) = self.writes.pop_front() {
                self.write(operations);
                self.apply(Input::Persisted { key });
            }
        }
    }

    pub(super) fn advance(&mut self, duration: Duration) {
        let target = self.now.tick.after(duration);
        while let Some(deadline) = self
            .core
            .next_deadline()
            .filter(|deadline| *deadline <= target)
        {
            self.move_to(deadline.max(self.now.tick));
            self.apply(Input::Tick);
            let stuck = self.core.next_deadline() == Some(deadline) && deadline == self.now.tick;
            assert!(!stuck, "a tick at its deadline must do what is due");
        }
        self.move_to(target);
        self.apply(Input::Tick);
    }

    fn move_to(&mut self, tick: Tick) {
        let passed = tick.since(self.now.tick);
        self.now.wall_ns += i64::try_from(passed.as_nanos()).expect("tests are short");
        self.now.tick = tick;
    }

    /// Long enough for what is free to be offered.
    pub(super) fn settle(&mut self) {
        self.advance(Duration::from_millis(10));
    }

    /// The master's process ends and another begins with what is on disk.
    pub(super) fn restart(&mut self) {
        self.starts += 1;
        self.config.master_id = format!("m{}", self.starts);
        let records: Vec<(String, Bytes)> = self.registry.clone().into_iter().collect();
        self.now.tick = Tick(0);
        self.core = Core::new(self.config.clone(), &records, self.now)
            .expect("the registry is the core's own");
        self.writes.clear();
        self.apply(Input::Tick);
    }

    pub(super) fn view(&self) -> View {
        self.core.view()
    }

    pub(super) fn subscribe_call(&mut self, info: v1::FrameworkInfo) -> (RequestKey, Scheduler) {
        let subscribe = call::Subscribe {
            framework_info: info.clone(),
            ..Default::default()
        };
        self.subscribe_with(info.id, subscribe, None)
    }

    pub(super) fn subscribe_with(
        &mut self,
        framework_id: Option<v1::FrameworkId>,
        subscribe: call::Subscribe,
        principal: Option<String>,
    ) -> (RequestKey, Scheduler) {
        let request = RequestKey(self.number());
        let stream = StreamKey(self.number());
        let stream_id = format!("stream-{}", stream.0);
        let call = Call {
            r#type: Some(call::Type::Subscribe.into()),
            framework_id,
            subscribe: Some(subscribe),
            ..Call::default()
        };
        self.apply(Input::SchedulerCall {
            request,
            principal,
            stream_id: None,
            call: Box::new(call),
            new_stream: Some((stream, stream_id.clone())),
        });
        (
            request,
            Scheduler {
                id: String::new(),
                stream,
                stream_id,
            },
        )
    }

    pub(super) fn subscribe(&mut self, info: v1::FrameworkInfo) -> Scheduler {
        let (request, mut scheduler) = self.subscribe_call(info);
        assert_eq!(self.answers.get(&request), Some(&Answer::Subscribed));
        let events = self
            .events
            .get_mut(&scheduler.stream)
            .expect("SUBSCRIBED was sent");
        let subscribed = events.remove(0).subscribed.expect("SUBSCRIBED comes first");
        scheduler.id = subscribed.framework_id.value;
        scheduler
    }

    pub(super) fn call(&mut self, scheduler: &Scheduler, call: Call) -> Answer {
        self.call_as(scheduler, None, Some(scheduler.stream_id.clone()), call)
    }

    /// A call whose turn may not have come.
    pub(super) fn ask(&mut self, scheduler: &Scheduler, call: Call) -> RequestKey {
        self.ask_as(scheduler, None, Some(scheduler.stream_id.clone()), call)
    }

    pub(super) fn answered(&self, request: RequestKey) -> Option<Answer> {
        self.answers.get(&request).cloned()
    }

    pub(super) fn call_as(
        &mut self,
        scheduler: &Scheduler,
        principal: Option<String>,
        stream_id: Option<String>,
        call: Call,
    ) -> Answer {
        let request = self.ask_as(scheduler, principal, stream_id, call);
        self.answered(request)
            .expect("the disk is quick, so the answer is there")
    }

    fn ask_as(
        &mut self,
        scheduler: &Scheduler,
        principal: Option<String>,
        stream_id: Option<String>,
        mut call: Call,
    ) -> RequestKey {
        let request = RequestKey(self.number());
        call.framework_id = Some(scheduler.id.as_str().into());
        self.apply(Input::SchedulerCall {
            request,
            principal,
            stream_id,
            call: Box::new(call),
            new_stream: None,
        });
        request
    }

    /// A call whose answer may take its time.
    pub(super) fn operator_asks(&mut self, call: master::Call) -> RequestKey {
        let request = RequestKey(self.number());
        self.apply(Input::OperatorCall {
            request,
            principal: None,
            call: Box::new(call),
        });
        request
    }

    pub(super) fn operator(&mut self, call: master::Call) -> Answer {
        let request = self.operator_asks(call);
        self.answers
            .get(&request)
            .cloned()
            .expect("the disk is quick, so the answer is there")
    }

    pub(super) fn hang_up(&mut self, scheduler: &Scheduler) {
        self.apply(Input::StreamClosed {
            stream: scheduler.stream,
        });
    }

    pub(super) fn events(&mut self, scheduler: &Scheduler) -> Vec<Event> {
        self.events.remove(&scheduler.stream).unwrap_or_default()
    }

    pub(super) fn offers(&mut self, scheduler: &Scheduler) -> Vec<v1::Offer> {
        self.settle();
        let events = self.events(scheduler);
        events
            .into_iter()
            .filter_map(|event| event.offers)
            .flat_map(|offers| offers.offers)
            .collect()
    }

    pub(super) fn statuses(&mut self, scheduler: &Scheduler) -> Vec<v1::TaskStatus> {
        let events = self.events(scheduler);
        events
            .into_iter()
            .filter_map(|event| event.update)
            .map(|update| update.status)
            .collect()
    }

    pub(super) fn messages(&mut self, agent: &Agent) -> Vec<to_agent::Body> {
        self.messages.remove(&agent.link).unwrap_or_default()
    }

    pub(super) fn agent(&mut self, resources: &str) -> Agent {
        self.register(register(resources))
    }

    pub(super) fn register(&mut self, mut register: link::Register) -> Agent {
        let link = LinkKey(self.number());
        if register.agent.id.is_none() && register.endpoint == ENDPOINT {
            // A new agent at the address of another takes its place.
            register.endpoint = format!("10.1.2.3:{}", 5051 + self.agents);
            self.agents += 1;
        }
        self.from(link, to_master::Body::Register(register));
        let messages = self
            .messages
            .get_mut(&link)
            .expect("the agent was answered");
        let to_agent::Body::Registered(registered) = messages.remove(0) else {
            panic!("the agent was refused: {messages:?}");
        };
        Agent {
            id: registered.agent_id.value,
            link,
        }
    }

    pub(super) fn from(&mut self, link: LinkKey, body: to_master::Body) {
        self.apply(Input::FromAgent {
            link,
            message: link::ToMaster { body: Some(body) },
        });
    }

    pub(super) fn cut(&mut self, agent: &Agent) {
        self.apply(Input::LinkClosed { link: agent.link });
    }

    /// All tasks, as their agents would report them.
    pub(super) fn reported(&self) -> Vec<v1::Task> {
        let view = self.view();
        view.tasks.values().map(|task| task.wire.clone()).collect()
    }

    /// Leaves the agent's pings unanswered for so long that it is given up, and answers all others.
    pub(super) fn lose(&mut self, agent: &Agent, others: &[&Agent]) {
        for _ in 0..=self.config.max_agent_ping_timeouts {
            for other in others {
                self.from(
                    other.link,
                    to_master::Body::Pong(link::Pong { sequence: 0 }),
                );
            }
            self.advance(self.config.agent_ping_timeout);
        }
        assert!(self.closed_links.contains(&agent.link));
    }

    pub(super) fn update(
        &mut self,
        scheduler: &Scheduler,
        agent: &Agent,
        task: &str,
        state: TaskState,
    ) -> Bytes {
        self.update_with_latest(scheduler, agent, task, state, state)
    }

    pub(super) fn update_with_latest(
        &mut self,
        scheduler: &Scheduler,
        agent: &Agent,
        task: &str,
        state: TaskState,
        latest: TaskState,
    ) -> Bytes {
        let uuid = Bytes::from(format!("{:016}", self.number()));
        self.resend(scheduler, agent, task, state, latest, &uuid);
        uuid
    }

    pub(super) fn resend(
        &mut self,
        scheduler: &Scheduler,
        agent: &Agent,
        task: &str,
        state: TaskState,
        latest: TaskState,
        uuid: &Bytes,
    ) {
        let status = v1::TaskStatus {
            task_id: task.into(),
            state: state.into(),
            agent_id: Some(agent.id.as_str().into()),
            uuid: Some(uuid.clone()),
            data: Some(Bytes::from_static(b"data")),
            source: Some(v1::task_status::Source::Executor.into()),
            ..v1::TaskStatus::default()
        };
        let framework_id = scheduler.id.as_str().into();
        let update = link::StatusUpdate {
            framework_id,
            status,
            latest_state: latest.into(),
        };
        self.from(agent.link, to_master::Body::Update(update));
    }

    pub(super) fn acknowledge(
        &mut self,
        scheduler: &Scheduler,
        agent: &Agent,
        task: &str,
        uuid: &Bytes,
    ) {
        let acknowledge = call::Acknowledge {
            agent_id: agent.id.as_str().into(),
            task_id: task.into(),
            uuid: uuid.clone(),
        };
        let call = Call {
            r#type: Some(call::Type::Acknowledge.into()),
            acknowledge: Some(acknowledge),
            ..Call::default()
        };
        assert_eq!(self.call(scheduler, call), Answer::Accepted);
    }

    pub(super) fn launch(
        &mut self,
        scheduler: &Scheduler,
        offers: &[v1::Offer],
        tasks: Vec<v1::TaskInfo>,
    ) {
        let call = accept(offers, vec![launch(tasks)], None);
        assert_eq!(self.call(scheduler, call), Answer::Accepted);
    }

    /// Takes what is offered and launches one small task on it.
    pub(super) fn start(&mut self, scheduler: &Scheduler, id: &str) -> v1::Offer {
        let offer = self
            .offers(scheduler)
            .into_iter()
            .next()
            .expect("something is offered");
        self.launch(
            scheduler,
            std::slice::from_ref(&offer),
            vec![task(&offer, id, "cpus:1;mem:64")],
        );
        offer
    }
}

pub(super) fn info(name: &str) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        user: "user".to_owned(),
        name: name.to_owned(),
        checkpoint: Some(true),
        failover_timeout: Some(100.0),
        ..v1::FrameworkInfo::default()
    }
}

pub(super) fn with_capability(
    mut info: v1::FrameworkInfo,
    capability: v1::framework_info::capability::Type,
) -> v1::FrameworkInfo {
    info.capabilities.push(v1::framework_info::Capability {
        r#type: Some(capability.into()),
    });
    info
}

pub(super) fn partition_aware(name: &str) -> v1::FrameworkInfo {
    with_capability(
        info(name),
        v1::framework_info::capability::Type::PartitionAware,
    )
}

pub(super) fn resources(text: &str) -> Resources {
    parse_resources(text, &Role::star()).expect("tests write resources correctly")
}

pub(super) fn wire_resources(text: &str) -> Vec<v1::Resource> {
    tepui_api::convert::resources_to_wire(
        &resources(text),
        tepui_api::convert::ResourceFormat::Refined,
        None,
    )
}

const ENDPOINT: &str = "10.1.2.3:5051";

pub(super) fn register(resources: &str) -> link::Register {
    link::Register {
        agent: v1::AgentInfo {
            hostname: "host".to_owned(),
            resources: wire_resources(resources),
            ..v1::AgentInfo::default()
        },
        version: "0.1.0".to_owned(),
        capabilities: vec![v1::agent_info::Capability {
            r#type: Some(v1::agent_info::capability::Type::AgentDraining.into()),
        }],
        endpoint: ENDPOINT.to_owned(),
        boot_id: "boot".to_owned(),
        ..link::Register::default()
    }
}

/// The same agent again, with what it runs.
pub(super) fn reregister(agent: &Agent, resources: &str, tasks: Vec<v1::Task>) -> link::Register {
    let mut register = register(resources);
    register.agent.id = Some(agent.id.as_str().into());
    register.tasks = tasks;
    register
}

pub(super) fn task(offer: &v1::Offer, id: &str, resources: &str) -> v1::TaskInfo {
    v1::TaskInfo {
        name: format!("task {id}"),
        task_id: id.into(),
        agent_id: offer.agent_id.clone(),
        resources: wire_resources(resources),
        command: Some(v1::CommandInfo {
            value: Some("true".to_owned()),
            ..v1::CommandInfo::default()
        }),
        ..v1::TaskInfo::default()
    }
}

pub(super) fn launch(tasks: Vec<v1::TaskInfo>) -> v1::offer::Operation {
    v1::offer::Operation {
        r#type: Some(v1::offer::operation::Type::Launch.into()),
        launch: Some(v1::offer::operation::Launch { task_infos: tasks }),
        ..v1::offer::Operation::default()
    }
}

pub(super) fn accept(
    offers: &[v1::Offer],
    operations: Vec<v1::offer::Operation>,
    refuse_seconds: Option<f64>,
) -> Call {
    let accept = call::Accept {
        offer_ids: offers.iter().map(|offer| offer.id.clone()).collect(),
        operations,
        filters: refuse_seconds.map(|seconds| v1::Filters {
            refuse_seconds: Some(seconds),
        }),
    };
    Call {
        r#type: Some(call::Type::Accept.into()),
        accept: Some(accept),
        ..Call::default()
    }
}

pub(super) fn decline(offers: &[v1::Offer], refuse_seconds: Option<f64>) -> Call {
    let decline = call::Decline {
        offer_ids: offers.iter().map(|offer| offer.id.clone()).collect(),
        filters: refuse_seconds.map(|seconds| v1::Filters {
            refuse_seconds: Some(seconds),
        }),
    };
    Call {
        r#type: Some(call::Type::Decline.into()),
        decline: Some(decline),
        ..Call::default()
    }
}

pub(super) fn plain(call_type: call::Type) -> Call {
    Call {
        r#type: Some(call_type.into()),
        ..Call::default()
    }
}

pub(super) fn kill(task: &str, agent: Option<&str>) -> Call {
    let kill = call::Kill {
        task_id: task.into(),
        agent_id: agent.map(Into::into),
        kill_policy: None,
    };
    Call {
        r#type: Some(call::Type::Kill.into()),
        kill: Some(kill),
        ..Call::default()
    }
}

pub(super) fn drain(
    agent: &Agent,
    max_grace_period: Option<(i64, i32)>,
    mark_gone: bool,
) -> master::Call {
    let drain = master::call::DrainAgent {
        agent_id: agent.id.as_str().into(),
        max_grace_period: max_grace_period.map(|(seconds, nanos)| {
            let mut duration = master::call::DrainAgent::default()
                .max_grace_period
                .unwrap_or_default();
            (duration.seconds, duration.nanos) = (seconds, nanos);
            duration
        }),
        mark_gone: Some(mark_gone),
    };
    master::Call {
        r#type: Some(master::call::Type::DrainAgent.into()),
        drain_agent: Some(drain),
        ..master::Call::default()
    }
}

pub(super) fn deactivate(agent: &Agent) -> master::Call {
    let agent_id = agent.id.as_str().into();
    master::Call {
        r#type: Some(master::call::Type::DeactivateAgent.into()),
        deactivate_agent: Some(master::call::DeactivateAgent { agent_id }),
        ..master::Call::default()
    }
}

pub(super) fn reactivate(agent: &Agent) -> master::Call {
    let agent_id = agent.id.as_str().into();
    master::Call {
        r#type: Some(master::call::Type::ReactivateAgent.into()),
        reactivate_agent: Some(master::call::ReactivateAgent { agent_id }),
        ..master::Call::default()
    }
}

pub(super) fn mark_gone(id: &str) -> master::Call {
    let agent_id = id.into();
    master::Call {
        r#type: Some(master::call::Type::MarkAgentGone.into()),
        mark_agent_gone: Some(master::call::MarkAgentGone { agent_id }),
        ..master::Call::default()
    }
}

pub(super) fn machine(hostname: &str, ip: &str) -> v1::MachineId {
    let named = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    v1::MachineId {
        hostname: named(hostname),
        ip: named(ip),
    }
}

/// One window from that second on.
pub(super) fn schedule(start: i64, machines: &[v1::MachineId]) -> master::Call {
    let window = v1::maintenance::Window {
        machine_ids: machines.to_vec(),
        unavailability: v1::Unavailability {
            start: v1::TimeInfo {
                nanoseconds: start * 1_000_000_000,
            },
            duration: None,
        },
    };
    schedule_of(vec![window])
}

pub(super) fn schedule_of(windows: Vec<v1::maintenance::Window>) -> master::Call {
    let schedule = v1::maintenance::Schedule { windows };
    master::Call {
        r#type: Some(master::call::Type::UpdateMaintenanceSchedule.into()),
        update_maintenance_schedule: Some(master::call::UpdateMaintenanceSchedule { schedule }),
        ..master::Call::default()
    }
}

pub(super) fn start_maintenance(machines: &[v1::MachineId]) -> master::Call {
    let machines = machines.to_vec();
    master::Call {
        r#type: Some(master::call::Type::StartMaintenance.into()),
        start_maintenance: Some(master::call::StartMaintenance { machines }),
        ..master::Call::default()
    }
}

pub(super) fn stop_maintenance(machines: &[v1::MachineId]) -> master::Call {
    let machines = machines.to_vec();
    master::Call {
        r#type: Some(master::call::Type::StopMaintenance.into()),
        stop_maintenance: Some(master::call::StopMaintenance { machines }),
        ..master::Call::default()
    }
}

pub(super) fn reconcile(tasks: &[(&str, Option<&str>)]) -> Call {
    let tasks = tasks
        .iter()
        .map(|(task, agent)| call::reconcile::Task {
            task_id: (*task).into(),
            agent_id: agent.map(Into::into),
        })
        .collect();
    Call {
        r#type: Some(call::Type::Reconcile.into()),
        reconcile: Some(call::Reconcile { tasks }),
        ..Call::default()
    }
}

pub(super) fn kinds(events: &[Event]) -> Vec<event::Type> {
    events.iter().map(Event::r#type).collect()
}

/// State and reason of each.
pub(super) fn told(
    statuses: &[v1::TaskStatus],
) -> Vec<(TaskState, Option<v1::task_status::Reason>)> {
    statuses
        .iter()
        .map(|status| (status.state(), status.reason.map(|_| status.reason())))
        .collect()
}

/// Status and sentence of a refusal.
pub(super) fn refusal(answer: &Answer) -> (u16, &str) {
    match answer {
        Answer::Refused { status, message } => (*status, message),
        other => panic!("not refused but {other:?}"),
    }
}
