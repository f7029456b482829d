//! Going on from what an earlier agent process left on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tepui_api::v1::TaskState;
use tepui_api::v1::task_status::Reason;
use tepui_model::{ContainerId, ExecutorId, FrameworkId, Now};

use crate::chance::{Chance, Uuid};
use crate::config::{Config, Recover};
use crate::executor::{Cause, Executor, Stage};
use crate::framework::Framework;
use crate::input::{ExecutorRef, Recovered, TaskRef};
use crate::inventory::Inventory;
use crate::machine::{Core, Link, Phase};
use crate::operations::Holdings;
use crate::past::Past;
use crate::pod::Pod;
use crate::record::{
    DrainRecord, ExecutorRecord, FORMAT, FrameworkRecord, Path, PodRecord, RecoverError,
    TaskRecord, UpdatesRecord, kind_from_number,
};
use crate::stream::{Pending, Stream};
use crate::task::{self, Task};
use crate::timers::{Timer, Timers};
use crate::wire;

/// The log of a task's updates.
#[derive(Default)]
struct Updates {
    sum: UpdatesRecord,
    whole: bool,
    bytes: usize,
}

/// The records by kind, so that each is read after what it belongs to.
#[derive(Default)]
struct Records {
    drain: Option<DrainRecord>,
    executors: Vec<(ExecutorRef, ExecutorRecord)>,
    pods: Vec<(ExecutorRef, PodRecord)>,
    tasks: Vec<(TaskRef, ExecutorId, TaskRecord)>,
    updates: BTreeMap<(TaskRef, ExecutorId), Updates>,
    old_updates: BTreeMap<(TaskRef, ExecutorId), UpdatesRecord>,
}

impl Core {
    /// An agent that has just started, with what an earlier one left.
    pub fn new(config: Config, recovered: Recovered, now: Now) -> Result<Self, RecoverError> {
        let address = config
            .endpoint
            .rsplit_once(':')
            .map(|(address, _)| address.to_owned());
        let cleanup = config.recover == Recover::Cleanup;
        let patience = match cleanup {
            true => Duration::ZERO,
            false => config.executor_reregistration_timeout,
        };
        let mut core = Self {
            chance: Chance::new(config.seed),
            config,
            address,
            now,
            effects: Vec::new(),
            agent_id: recovered.agent_id,
            recorded_agent: None,
            link: Link::Down,
            phase: Phase::Recovering,
            draining: None,
            stopping: None,
            frameworks: BTreeMap::new(),
            holdings: Holdings::default(),
            inventory: Inventory::default(),
            connections: BTreeMap::new(),
            timers: Timers::default(),
            saves: BTreeMap::new(),
            next_save: 0,
            next_group: 0,
            ended: VecDeque::new(),
            past: Past::default(),
            counters: BTreeMap::new(),
        };
        core.timers.arm(Timer::Recovery, now.tick.after(patience));
        core.begin_holdings();
        if let Some(record) = recovered.agent {
            let record = decode("agent", &record);
            core.recorded_agent = core.tolerate(record)?;
        }
        let before = core.recorded_agent.as_ref();
        let rebooted = before.is_some_and(|before| {
            let (before, now) = (&before.host_boot_id, &core.config.host_boot_id);
            !before.is_empty() && !now.is_empty() && before != now
        });
        let objection = before.and_then(|before| {
            let policy = core.config.reconfiguration;
            policy.objection(&before.info, &core.config.info)
        });
        match objection {
            Some(change) if !rebooted => return Err(RecoverError::Reconfigured { change }),
            // Nothing of it runs any more, so there is nothing to keep the id for.
            Some(_) => core.begin_anew(recovered.saved)?,
            None => {
                let records = core.read(&recovered.saved)?;
                core.restore(records)?;
                if rebooted {
                    core.end_what_a_reboot_ended();
                }
            }
        }
        if !cleanup {
            core.settle();
        }
        Ok(core)
    }

    /// What a record says; without `strict` one that cannot be read is passed over.
    fn tolerate<T>(&mut self, read: Result<T, RecoverError>) -> Result<Option<T>, RecoverError> {
        match read {
            // To forget what is reserved and what lies in volumes is more than not to be strict.
            Err(error @ RecoverError::Resources { .. }) => Err(error),
            Err(_) if !self.config.strict => {
                self.count("slave/recovery_errors");
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// The agent will register as one the master has never seen.
    fn begin_anew(&mut self, saved: Vec<(String, Bytes)>) -> Result<(), RecoverError> {
        self.agent_id = None;
        self.recorded_agent = None;
        for (path, value) in saved {
            if Path::parse(&path) == Some(Path::Resources) {
                // What is reserved and what lies in volumes is there whatever the agent is called.
                self.restore_holdings(decode(&path, &value)?)?;
                self.holdings.operations.clear();
            } else {
                self.remove_record_at(path);
            }
        }
        Ok(())
    }

    fn end_what_a_reboot_ended(&mut self) {
        for executor in self.all_executors().collect::<Vec<_>>() {
            if let Some(framework) = self.frameworks.get_mut(&executor.framework) {
                framework.executors.remove(&executor.executor);
            }
            self.remove_record(&Path::Executor(executor));
        }
        let message = "The machine was restarted";
        self.end_orphans(TaskState::TaskGone, Reason::AgentRestarted, message);
        for framework in self.frameworks.keys().cloned().collect::<Vec<_>>() {
            self.remove_framework_if_empty(&framework);
        }
    }

    fn read(&mut self, saved: &[(String, Bytes)]) -> Result<Records, RecoverError> {
        let mut records = Records::default();
        for (path, value) in saved {
            let read = self.read_one(path, value, &mut records);
            self.tolerate(read)?;
        }
        Ok(records)
    }

    fn read_one(
        &mut self,
        path: &str,
        value: &Bytes,
        records: &mut Records,
    ) -> Result<(), RecoverError> {
        let unknown = || RecoverError::UnknownPath { path: path.into() };
        match Path::parse(path).ok_or_else(unknown)? {
            Path::Framework(id) => {
                let record: FrameworkRecord = decode(path, value)?;
                if record.format != FORMAT {
                    return Err(RecoverError::Format {
                        path: path.to_owned(),
                        found: record.format,
                    });
                }
                let mut framework = Framework::new(record.info);
                framework.recorded = true;
                self.frameworks.insert(id, framework);
            }
            Path::Drain => records.drain = Some(decode(path, value)?),
            Path::Resources => self.restore_holdings(decode(path, value)?)?,
            Path::Executor(executor) => records.executors.push((executor, decode(path, value)?)),
            Path::Pod(pod) => records.pods.push((pod, decode(path, value)?)),
            Path::Task(task, executor) => {
                records.tasks.push((task, executor, decode(path, value)?));
            }
            Path::Updates(task, executor) => {
                let (sum, whole) = UpdatesRecord::replay(value.clone())
                    .map_err(|error| malformed(path, error.to_string()))?;
                let bytes = value.len();
                let updates = Updates { sum, whole, bytes };
                records.updates.insert((task, executor), updates);
            }
            Path::OldUpdates(task, executor) => {
                let record = decode(path, value)?;
                records.old_updates.insert((task, executor), record);
            }
        }
        Ok(())
    }

    fn restore(&mut self, mut records: Records) -> Result<(), RecoverError> {
        for (reference, record) in records.executors {
            let path = Path::Executor(reference.clone());
            let executor = recovered_executor(record, &path);
            let executor = self.tolerate(executor)?;
            match self.frameworks.get_mut(&reference.framework).zip(executor) {
                Some((framework, executor)) => {
                    framework.executors.insert(reference.executor, executor);
                }
                None => self.remove_record(&path),
            }
        }
        for (reference, record) in records.pods {
            let path = Path::Pod(reference.clone());
            let pod = recovered_pod(record, &path);
            let pod = self.tolerate(pod)?;
            match self.frameworks.get_mut(&reference.framework).zip(pod) {
                Some((framework, pod)) => {
                    framework.pods.insert(reference.executor, pod);
                }
                None => self.remove_record(&path),
            }
        }
        for (reference, executor, record) in records.tasks {
            let path = Path::Task(reference.clone(), executor.clone());
            let of = (reference.clone(), executor.clone());
            let old = records.old_updates.get(&of);
            let updates = records.updates.remove(&of).unwrap_or_else(|| Updates {
                sum: old.cloned().unwrap_or_default(),
                whole: old.is_none(),
                bytes: 0,
            });
            let whole = updates.whole;
            let task = recovered_task(record, updates, executor.clone(), &path);
            let task = self.tolerate(task)?;
            let Some((framework, mut task)) =
                self.frameworks.get_mut(&reference.framework).zip(task)
            else {
                self.remove_record(&path);
                self.remove_record(&Path::Updates(reference, executor));
                continue;
            };
            if task.is_live() {
                if let Some(executor) = framework.executors.get_mut(&executor) {
                    executor.received = true;
                    executor.live.insert(reference.task.clone());
                    executor.take(&task);
                }
                let told = task.told_executor.as_ref();
                let pod = told.map(|told| ExecutorId::from(told.value.as_str()));
                task.pod = pod.filter(|pod| framework.pods.contains_key(pod));
                if let Some(pod) = task
                    .pod
                    .as_ref()
                    .and_then(|pod| framework.pods.get_mut(pod))
                {
                    pod.live.insert(reference.task.clone());
                }
                if let Some(group) = task.group {
                    self.next_group = self.next_group.max(group);
                    let members = framework.groups.entry(group).or_default();
                    members.push(reference.task.clone());
                }
            }
            framework.tasks.insert(reference.task.clone(), task);
            if !whole {
                // Nothing may come behind what was cut off.
                self.log_anew(&reference);
            }
        }
        if let Some(drain) = records.drain {
            self.resume_draining(drain);
        }
        // The earlier process was interrupted while it forgot these.
        for (task, executor) in records.updates.into_keys() {
            self.remove_record(&Path::Updates(task, executor));
        }
        // Their logs have been written by now.
        for (task, executor) in records.old_updates.into_keys() {
            self.remove_record(&Path::OldUpdates(task, executor));
        }
        for framework in self.frameworks.keys().cloned().collect::<Vec<_>>() {
            self.remove_empty_pods(&framework);
            self.remove_framework_if_empty(&framework);
        }
        Ok(())
    }

    /// The earlier process was interrupted before the pod's first task was on disk, or after its last one had ended.
    fn remove_empty_pods(&mut self, framework: &FrameworkId) {
        let pods = self
            .frameworks
            .get(framework)
            .map(|framework| &framework.pods);
        let empty = pods
            .into_iter()
            .flatten()
            .filter(|(_, pod)| pod.live.is_empty());
        for executor in empty.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.remove_pod(&ExecutorRef {
                framework: framework.clone(),
                executor,
            });
        }
    }

    /// Who is not back by now will not come; then the master may hear of this agent.
    pub(crate) fn finish_recovery(&mut self) {
        if self.phase != Phase::Recovering {
            return;
        }
        self.timers.disarm(&Timer::Recovery);
        let cause = match self.config.recover {
            Recover::Cleanup => {
                self.phase = Phase::CleaningUp;
                Cause::terminated("The agent was started with --recover=cleanup")
            }
            Recover::Reconnect => {
                self.phase = Phase::Serving;
                let limit = self.config.executor_reregistration_timeout;
                let limit = tepui_model::format_duration(limit);
                let message = format!(
                    "The executor did not come back within {limit} after the agent restarted"
                );
                let reason = Reason::ExecutorReregistrationTimeout;
                Cause::new(TaskState::TaskGone, reason, message)
            }
        };
        for executor in self.all_executors().collect::<Vec<_>>() {
            let stage = self.executor(&executor).map(|executor| &executor.stage);
            if stage == Some(&Stage::Reconnecting) || self.phase == Phase::CleaningUp {
                self.destroy_executor(&executor, Some(cause.clone()));
            }
        }
        let message = "The agent restarted and the task's executor is gone";
        self.end_orphans(TaskState::TaskDropped, Reason::AgentRestarted, message);
        self.resume_pods_ends();
        if self.link == Link::Waiting && self.phase == Phase::Serving {
            self.register();
        }
    }

    /// Ends the tasks whose executors are not there.
    fn end_orphans(&mut self, state: TaskState, reason: Reason, message: &str) {
        let mut orphans = Vec::new();
        for (framework, held) in &self.frameworks {
            let has_executor = |task: &Task| {
                task.executor
                    .as_ref()
                    .is_some_and(|executor| held.executors.contains_key(executor))
            };
            let lost = held
                .tasks
                .iter()
                .filter(|(_, task)| task.is_live() && !has_executor(task));
            orphans.extend(lost.map(|(task, _)| TaskRef {
                framework: framework.clone(),
                task: task.clone(),
            }));
        }
        for orphan in orphans {
            self.end_task(&orphan, state, reason, message);
        }
    }
}

fn decode<M: Message + Default>(path: &str, value: &Bytes) -> Result<M, RecoverError> {
    M::decode(value.clone()).map_err(|error| malformed(path, error.to_string()))
}

fn malformed(path: &str, error: impl Into<String>) -> RecoverError {
    RecoverError::Malformed {
        path: path.to_owned(),
        error: error.into(),
    }
}

fn recovered_executor(record: ExecutorRecord, path: &Path) -> Result<Executor, RecoverError> {
    let kind = kind_from_number(record.kind);
    let kind = kind.ok_or_else(|| {
        malformed(
            &path.text(),
            format!("{} is no kind of executor", record.kind),
        )
    })?;
    let own = wire::resources(&record.info.resources)
        .map_err(|error| malformed(&path.text(), error.to_string()))?;
    Ok(Executor {
        kind,
        info: Arc::new(record.info),
        container_id: ContainerId::from(record.container_id),
        sandbox: record.sandbox,
        token: record.token,
        pid: record.pid,
        bounds: own.clone(),
        resources: own,
        stage: Stage::Reconnecting,
        live: BTreeSet::new(),
        queue: VecDeque::new(),
        received: false,
        recorded: true,
    })
}

fn recovered_pod(record: PodRecord, path: &Path) -> Result<Pod, RecoverError> {
    let own = wire::resources(&record.info.resources)
        .map_err(|error| malformed(&path.text(), error.to_string()))?;
    Ok(Pod {
        info: Arc::new(record.info),
        container_id: ContainerId::from(record.container_id),
        sandbox: record.sandbox,
        resources: own,
        live: BTreeSet::new(),
        ending: record.ending.unwrap_or(false),
        status: 0,
        recorded: true,
    })
}

fn recovered_task(
    record: TaskRecord,
    Updates { sum, bytes, .. }: Updates,
    executor: ExecutorId,
    path: &Path,
) -> Result<Task, RecoverError> {
    let resources = wire::resources(&record.info.resources)
        .map_err(|error| malformed(&path.text(), error.to_string()))?;
    let uuid = |bytes: &[u8]| {
        Uuid::try_from(bytes).map_err(|_| malformed(&path.text(), "an update has no uuid"))
    };
    let mut pending = VecDeque::new();
    for status in sum.pending {
        let uuid = uuid(status.uuid.as_deref().unwrap_or_default())?;
        pending.push_back(Pending {
            uuid,
            status: Arc::new(status),
            saved: true,
            from_executor: true,
        });
    }
    let seen = sum
        .seen
        .iter()
        .map(|bytes| uuid(bytes))
        .collect::<Result<Vec<_>, _>>()?;
    let latest = sum.latest.map(Arc::new);
    let state = latest
        .as_ref()
        .map_or(TaskState::TaskStaging, |status| status.state());
    Ok(Task {
        container_id: ContainerId::from(record.container_id),
        sandbox: record.sandbox,
        executor: Some(executor),
        told_executor: record.told_executor,
        group: record.group,
        stage: if state.is_terminal() {
            task::Stage::Ended
        } else {
            task::Stage::Delivered { kill: None }
        },
        state,
        history: latest.iter().cloned().collect(),
        latest,
        stream: Stream::recovered(pending, seen, bytes),
        recorded: true,
        ..Task::new(Arc::new(record.info), resources)
    })
}
