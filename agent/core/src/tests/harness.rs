//! An agent's core with a clock to turn, a disk that can be held up, and short names for what tests say often.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tepui_api::ext;
use tepui_api::link::{self, to_agent, to_master};
use tepui_api::v1::executor::{Call, Event, call};
use tepui_api::v1::framework_info::Capability;
use tepui_api::v1::framework_info::capability::Type as CapabilityType;
use tepui_api::v1::task_status::Source;
use tepui_api::v1::{self, TaskState, value};
use tepui_model::{AgentId, ExecutorId, FrameworkId, Now, TaskId};

use crate::{
    Config, ConnectionKey, Core, Effect, ExecutorRef, Input, RecoverError, Recovered, RequestKey,
    SaveKey, TaskRef, Write,
};

pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(75);
pub(super) const WASM: &str = "tepui-wasm";

pub(super) struct Agent {
    pub(super) core: Core,
    pub(super) now: Now,
    pub(super) disk: BTreeMap<String, Bytes>,
    pub(super) saved_id: Option<AgentId>,
    pub(super) saved_agent: Option<Bytes>,
    /// While set, writes wait in `held` until `release`.
    pub(super) hold_saves: bool,
    pub(super) held: VecDeque<(SaveKey, String, Write)>,
    pub(super) tokens: BTreeMap<ExecutorRef, String>,
    next_key: u64,
}

pub(super) fn config() -> Config {
    Config {
        info: v1::AgentInfo {
            hostname: "machine".into(),
            resources: vec![
                scalar("cpus", 4.0),
                scalar("mem", 1024.0),
                scalar("disk", 100.0),
            ],
            ..v1::AgentInfo::default()
        },
        host_boot_id: "this boot".into(),
        endpoint: "10.0.0.7:5051".into(),
        boot_id: "boot".into(),
        seed: [7; 32],
        ..Config::default()
    }
}

impl Agent {
    /// An agent a master has registered as `S0`.
    pub(super) fn registered() -> Self {
        let mut agent = Self::new(Recovered::default());
        agent.link_up();
        agent
    }

    pub(super) fn new(recovered: Recovered) -> Self {
        let now = Now {
            tick: tepui_model::Tick(1000),
            wall_ns: 1_700_000_000_000_000_000,
        };
        let disk = recovered.saved.iter().cloned().collect();
        let saved_id = recovered.agent_id.clone();
        let core = Core::new(config(), recovered, now).unwrap();
        Self {
            core,
            now,
            disk,
            saved_id,
            saved_agent: None,
            hold_saves: false,
            held: VecDeque::new(),
            tokens: BTreeMap::new(),
            next_key: 0,
        }
    }

    /// The agent's process dies and another takes its place. What was not on disk is lost.
    pub(super) fn restart(&mut self) {
        self.restart_as(config()).unwrap();
    }

    pub(super) fn restart_as(&mut self, config: Config) -> Result<(), RecoverError> {
        let saved = self
            .disk
            .iter()
            .map(|(path, value)| (path.clone(), value.clone()))
            .collect();
        let recovered = Recovered {
            agent_id: self.saved_id.clone(),
            agent: self.saved_agent.clone(),
            saved,
        };
        let seed = [self.next_key as u8 ^ 0x55; 32];
        self.core = Core::new(Config { seed, ..config }, recovered, self.now)?;
        self.held.clear();
        Ok(())
    }

    pub(super) fn apply(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = self.core.apply(self.now, input);
        self.core.check_invariants();
        let mut index = 0;
        while index < effects.len() {
            match effects[index].clone() {
                Effect::Save { key, path, write } => {
                    self.held.push_back((key, path, write));
                    if !self.hold_saves {
                        effects.extend(self.release());
                    }
                }
                Effect::SaveAgent { id, record } => {
                    self.saved_id = Some(id);
                    self.saved_agent = Some(record);
                }
                Effect::StartExecutor {
                    executor, token, ..
                } => {
                    self.tokens.insert(executor, token);
                }
                _ => {}
            }
            index += 1;
        }
        effects
    }

    /// The oldest write that waits is done.
    pub(super) fn release(&mut self) -> Vec<Effect> {
        let Some((key, path, write)) = self.held.pop_front() else {
            return Vec::new();
        };
        match write {
            Write::Replace(value) => {
                self.disk.insert(path, value);
            }
            Write::Append(value) => {
                let held = self.disk.entry(path).or_default();
                *held = [&held[..], &value[..]].concat().into();
            }
            Write::Remove => {
                self.disk.remove(&path);
            }
        }
        let effects = self.core.apply(self.now, Input::Saved { key });
        self.core.check_invariants();
        if self.hold_saves {
            self.note(&effects);
        }
        effects
    }

    fn note(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Save { key, path, write } => {
                    self.held.push_back((*key, path.clone(), write.clone()))
                }
                Effect::StartExecutor {
                    executor, token, ..
                } => {
                    self.tokens.insert(executor.clone(), token.clone());
                }
                _ => {}
            }
        }
    }

    pub(super) fn pass(&mut self, duration: Duration) -> Vec<Effect> {
        self.now.tick = self.now.tick.after(duration);
        self.now.wall_ns += i64::try_from(duration.as_nanos()).unwrap();
        self.apply(Input::Tick)
    }

    pub(super) fn hear(&mut self, body: to_agent::Body) -> Vec<Effect> {
        self.apply(Input::FromMaster(link::ToAgent { body: Some(body) }))
    }

    pub(super) fn link_up(&mut self) -> Vec<Effect> {
        let mut effects = self.apply(Input::LinkUp);
        effects.extend(self.answer_registration());
        effects
    }

    pub(super) fn answer_registration(&mut self) -> Vec<Effect> {
        self.answer_registration_with(None)
    }

    pub(super) fn answer_registration_with(
        &mut self,
        drain: Option<v1::DrainConfig>,
    ) -> Vec<Effect> {
        self.hear(to_agent::Body::Registered(link::Registered {
            master_hostname: Some("master-host".to_owned()),
            agent_id: v1::AgentId { value: "S0".into() },
            ping_timeout_ms: u64::try_from(PING_TIMEOUT.as_millis()).unwrap(),
            master_id: "M0".into(),
            drain,
        }))
    }

    pub(super) fn launch(
        &mut self,
        framework: &v1::FrameworkInfo,
        tasks: Vec<v1::TaskInfo>,
    ) -> Vec<Effect> {
        let id = framework.id.as_ref().unwrap().value.as_str();
        let new_executors = tasks
            .iter()
            .filter_map(|task| Some(task.executor.as_ref()?.executor_id.clone()))
            .filter(|executor| {
                self.core
                    .executor(&executor_ref(id, &executor.value))
                    .is_none()
            })
            .collect();
        let launch = link::Launch {
            framework: framework.clone(),
            tasks,
            group_executor: None,
            new_executors,
        };
        self.hear(to_agent::Body::Launch(launch))
    }

    pub(super) fn kill(&mut self, task: &TaskRef) -> Vec<Effect> {
        self.hear(to_agent::Body::Kill(link::Kill {
            framework_id: v1::FrameworkId {
                value: task.framework.to_string(),
            },
            task_id: v1::TaskId {
                value: task.task.to_string(),
            },
            kill_policy: None,
        }))
    }

    pub(super) fn acknowledge(&mut self, task: &TaskRef, uuid: &Bytes) -> Vec<Effect> {
        self.hear(to_agent::Body::Acknowledge(link::Acknowledge {
            framework_id: v1::FrameworkId {
                value: task.framework.to_string(),
            },
            task_id: v1::TaskId {
                value: task.task.to_string(),
            },
            uuid: uuid.clone(),
        }))
    }

    pub(super) fn acknowledge_all(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut updates = updates(effects);
        while !updates.is_empty() {
            let mut next = Vec::new();
            for update in updates {
                let task = task_ref(&update.framework_id.value, &update.status.task_id.value);
                next.extend(self.acknowledge(&task, &update.status.uuid.unwrap()));
            }
            updates = self::updates(&next);
            all.extend(next);
        }
        all
    }

    pub(super) fn prepared(&mut self, task: &TaskRef, body: ext::launch_plan::Body) -> Vec<Effect> {
        let plan = ext::LaunchPlan {
            body: body.into(),
            sandbox: "/sandbox".into(),
            container_id: "container".into(),
            ..ext::LaunchPlan::default()
        };
        self.apply(Input::Prepared {
            task: task.clone(),
            result: Ok(plan),
        })
    }

    pub(super) fn started(&mut self, executor: &ExecutorRef) -> Vec<Effect> {
        self.apply(Input::ExecutorStarted {
            executor: executor.clone(),
            pid: 4242,
        })
    }

    pub(super) fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    pub(super) fn subscribe(&mut self, executor: &ExecutorRef) -> (ConnectionKey, Vec<Effect>) {
        self.subscribe_with(executor, call::Subscribe::default())
    }

    pub(super) fn subscribe_with(
        &mut self,
        executor: &ExecutorRef,
        subscribe: call::Subscribe,
    ) -> (ConnectionKey, Vec<Effect>) {
        let connection = ConnectionKey(self.key());
        let call = Call {
            subscribe: Some(subscribe),
            ..call(executor, call::Type::Subscribe)
        };
        let token = self.tokens.get(executor).cloned();
        let request = RequestKey(self.key());
        let effects = self.apply(Input::ExecutorSubscribe {
            request,
            connection,
            call,
            token,
        });
        (connection, effects)
    }

    pub(super) fn call(&mut self, executor: &ExecutorRef, call: Call) -> Vec<Effect> {
        let token = self.tokens.get(executor).cloned();
        let request = RequestKey(self.key());
        self.apply(Input::ExecutorCall {
            request,
            call,
            token,
        })
    }

    /// A status as an executor makes it, with a new uuid.
    pub(super) fn status(&mut self, task: &TaskRef, state: TaskState) -> v1::TaskStatus {
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.key().to_le_bytes());
        v1::TaskStatus {
            task_id: v1::TaskId {
                value: task.task.to_string(),
            },
            state: state.into(),
            source: Some(Source::Executor.into()),
            uuid: Some(Bytes::copy_from_slice(&uuid)),
            ..v1::TaskStatus::default()
        }
    }

    pub(super) fn send(&mut self, executor: &ExecutorRef, status: v1::TaskStatus) -> Vec<Effect> {
        let update = Some(call::Update { status });
        let call = Call {
            update,
            ..call(executor, call::Type::Update)
        };
        self.call(executor, call)
    }

    pub(super) fn update(
        &mut self,
        executor: &ExecutorRef,
        task: &TaskRef,
        state: TaskState,
    ) -> Vec<Effect> {
        let status = self.status(task, state);
        self.send(executor, status)
    }

    pub(super) fn exited(&mut self, executor: &ExecutorRef) -> Vec<Effect> {
        self.apply(Input::ExecutorExited {
            executor: executor.clone(),
            status: 9,
            limitation: None,
        })
    }

    /// Brings a task on the wasm executor to RUNNING, acknowledged.
    pub(super) fn run(
        &mut self,
        framework: &v1::FrameworkInfo,
        id: &str,
    ) -> (TaskRef, ExecutorRef, ConnectionKey) {
        let name = framework.id.as_ref().unwrap().value.clone();
        let (task, executor) = (task_ref(&name, id), executor_ref(&name, WASM));
        self.launch(framework, vec![task_info(id)]);
        let effects = self.prepared(&task, ext::launch_plan::Body::Wasm);
        let connection = if effects
            .iter()
            .any(|effect| matches!(effect, Effect::StartExecutor { .. }))
        {
            self.started(&executor);
            self.subscribe(&executor).0
        } else {
            self.core.executor(&executor).unwrap().connection().unwrap()
        };
        let effects = self.update(&executor, &task, TaskState::TaskRunning);
        self.acknowledge_all(&effects);
        (task, executor, connection)
    }
}

pub(super) fn call(executor: &ExecutorRef, kind: call::Type) -> Call {
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

pub(super) fn task_ref(framework: &str, task: &str) -> TaskRef {
    TaskRef {
        framework: FrameworkId::from(framework),
        task: TaskId::from(task),
    }
}

pub(super) fn executor_ref(framework: &str, executor: &str) -> ExecutorRef {
    ExecutorRef {
        framework: FrameworkId::from(framework),
        executor: ExecutorId::from(executor),
    }
}

pub(super) fn framework(
    id: &str,
    capabilities: &[CapabilityType],
    checkpoint: bool,
) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        user: "user".into(),
        name: id.into(),
        id: Some(v1::FrameworkId { value: id.into() }),
        checkpoint: Some(checkpoint),
        capabilities: capabilities
            .iter()
            .map(|kind| Capability {
                r#type: Some((*kind).into()),
            })
            .collect(),
        ..v1::FrameworkInfo::default()
    }
}

/// Knows the finer states.
pub(super) fn aware(id: &str) -> v1::FrameworkInfo {
    framework(
        id,
        &[
            CapabilityType::PartitionAware,
            CapabilityType::TaskKillingState,
        ],
        false,
    )
}

pub(super) fn checkpointing(id: &str) -> v1::FrameworkInfo {
    framework(id, &[CapabilityType::PartitionAware], true)
}

pub(super) fn scalar(name: &str, amount: f64) -> v1::Resource {
    v1::Resource {
        name: name.into(),
        r#type: value::Type::Scalar.into(),
        scalar: Some(value::Scalar { value: amount }),
        ..v1::Resource::default()
    }
}

pub(super) fn task_info(id: &str) -> v1::TaskInfo {
    v1::TaskInfo {
        name: id.into(),
        task_id: v1::TaskId { value: id.into() },
        agent_id: v1::AgentId { value: "S0".into() },
        resources: vec![scalar("cpus", 1.0), scalar("mem", 32.0)],
        command: Some(v1::CommandInfo {
            value: Some("hello.wasm".into()),
            ..v1::CommandInfo::default()
        }),
        ..v1::TaskInfo::default()
    }
}

/// A task on an executor the framework brought.
pub(super) fn custom_task(id: &str, executor: &str) -> v1::TaskInfo {
    v1::TaskInfo {
        command: None,
        executor: Some(v1::ExecutorInfo {
            executor_id: v1::ExecutorId {
                value: executor.into(),
            },
            command: Some(v1::CommandInfo {
                value: Some("./executor".into()),
                ..v1::CommandInfo::default()
            }),
            resources: vec![scalar("cpus", 0.5)],
            ..v1::ExecutorInfo::default()
        }),
        ..task_info(id)
    }
}

pub(super) fn updates(effects: &[Effect]) -> Vec<link::StatusUpdate> {
    to_master(effects)
        .into_iter()
        .filter_map(|body| match body {
            to_master::Body::Update(update) => Some(update),
            _ => None,
        })
        .collect()
}

pub(super) fn the_update(effects: &[Effect]) -> link::StatusUpdate {
    let mut updates = updates(effects);
    assert_eq!(updates.len(), 1, "{updates:#?}");
    updates.remove(0)
}

/// State and reason of the one update sent.
pub(super) fn told(effects: &[Effect]) -> (TaskState, v1::task_status::Reason) {
    let status = the_update(effects).status;
    assert!(status.reason.is_some());
    (status.state(), status.reason())
}

pub(super) fn to_master(effects: &[Effect]) -> Vec<to_master::Body> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToMaster(message) => message.body.clone(),
            _ => None,
        })
        .collect()
}

pub(super) fn registration(effects: &[Effect]) -> link::Register {
    to_master(effects)
        .into_iter()
        .find_map(|body| match body {
            to_master::Body::Register(register) => Some(register),
            _ => None,
        })
        .expect("the agent registers")
}

pub(super) fn events(effects: &[Effect]) -> Vec<Event> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToExecutor { event, .. } => Some(event.clone()),
            _ => None,
        })
        .collect()
}

pub(super) fn event_types(effects: &[Effect]) -> Vec<&'static str> {
    events(effects)
        .iter()
        .map(|event| event.r#type().as_str_name())
        .collect()
}

pub(super) fn answer(effects: &[Effect]) -> (u16, String) {
    let mut answers = effects.iter().filter_map(|effect| match effect {
        Effect::AnswerExecutor {
            status, message, ..
        } => Some((*status, message.clone())),
        _ => None,
    });
    let answer = answers.next().expect("the executor is answered");
    assert!(answers.next().is_none(), "answered twice");
    answer
}

pub(super) fn sizes(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::ResizeExecutor { resources, .. } => {
                Some(format!("{} {}", resources.cpus(), resources.mem()))
            }
            _ => None,
        })
        .collect()
}
