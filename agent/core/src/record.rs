//! What an agent keeps on disk for frameworks that ask for checkpointing. One record per path; the path says which.
//!
//! A change to these messages must leave old records readable; one that cannot raises [`FORMAT`].

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use prost::{DecodeError, Message};
use tepui_api::v1;
use tepui_model::{ExecutorId, FrameworkId, Resources, TaskId};

use crate::effect::ExecutorKind;
use crate::input::{ExecutorRef, TaskRef};

pub(crate) const FORMAT: u32 = 1;

/// Why an agent cannot go on from what an earlier one left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    #[error("the record {path} below the work directory's meta cannot be read: {error}")]
    Malformed { path: String, error: String },
    #[error(
        "the record {path} has format {found}, this agent knows {FORMAT}; run the version that wrote it"
    )]
    Format { path: String, found: u32 },
    #[error("the record {path} below the work directory's meta is of no known kind")]
    UnknownPath { path: String },
    #[error(
        "the agent is not what it registered as: {change}. Start it as before; or, if only resources or attributes were \
         added, with --reconfiguration_policy=additive; or remove the directory meta from its work directory, which \
         gives its tasks up, to have it register as a new agent"
    )]
    Reconfigured { change: String },
    #[error(
        "the agent holds the reservations and volumes {made}, for which its resources, {configured}, have no room; start it \
         with the --resources it had, and destroy and unreserve first what is to go"
    )]
    Resources {
        made: Resources,
        configured: Resources,
    },
}

/// What the agent was when it registered last.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AgentRecord {
    /// Without the id, which is kept beside it.
    #[prost(message, required, tag = "1")]
    pub(crate) info: v1::AgentInfo,
    #[prost(string, required, tag = "2")]
    pub(crate) host_boot_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FrameworkRecord {
    #[prost(uint32, required, tag = "1")]
    pub(crate) format: u32,
    #[prost(message, required, tag = "2")]
    pub(crate) info: v1::FrameworkInfo,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExecutorRecord {
    #[prost(message, required, tag = "1")]
    pub(crate) info: v1::ExecutorInfo,
    #[prost(uint32, required, tag = "2")]
    pub(crate) kind: u32,
    #[prost(string, required, tag = "3")]
    pub(crate) sandbox: String,
    #[prost(string, required, tag = "4")]
    pub(crate) container_id: String,
    #[prost(string, required, tag = "5")]
    pub(crate) token: String,
    #[prost(uint32, optional, tag = "6")]
    pub(crate) pid: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TaskRecord {
    #[prost(message, required, tag = "1")]
    pub(crate) info: v1::TaskInfo,
    #[prost(string, required, tag = "2")]
    pub(crate) sandbox: String,
    #[prost(string, required, tag = "3")]
    pub(crate) container_id: String,
    #[prost(message, optional, tag = "4")]
    pub(crate) told_executor: Option<v1::ExecutorId>,
    #[prost(uint64, optional, tag = "40")]
    pub(crate) group: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodRecord {
    #[prost(message, required, tag = "1")]
    pub(crate) info: v1::ExecutorInfo,
    #[prost(string, required, tag = "2")]
    pub(crate) sandbox: String,
    #[prost(string, required, tag = "3")]
    pub(crate) container_id: String,
    /// It was told to end.
    #[prost(bool, optional, tag = "150")]
    pub(crate) ending: Option<bool>,
}

/// A task's updates as they stand, or one step of them.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdatesRecord {
    /// Without data.
    #[prost(message, optional, tag = "1")]
    pub(crate) latest: Option<v1::TaskStatus>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) pending: Vec<v1::TaskStatus>,
    /// Of updates that were acknowledged, the oldest first.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) seen: Vec<Bytes>,
    /// The first pending update has been.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) acknowledged: Option<Bytes>,
}

impl UpdatesRecord {
    /// As a part of a log of steps.
    pub(crate) fn step(&self) -> Bytes {
        self.encode_length_delimited_to_vec().into()
    }

    /// What a log of steps comes to, and whether it is whole: its last step may have been cut off when the agent
    /// stopped, and then nobody was promised anything about it.
    pub(crate) fn replay(mut log: Bytes) -> Result<(Self, bool), DecodeError> {
        let mut sum = Self::default();
        let mut pending = VecDeque::new();
        let mut whole = true;
        while log.has_remaining() {
            let length = prost::decode_length_delimiter(&mut log).unwrap_or(usize::MAX);
            // Zeros are what a disk may hold of what was never written.
            if length == 0 || length > log.len() {
                whole = false;
                break;
            }
            let step = match Self::decode(log.split_to(length)) {
                Err(_) if log.is_empty() => {
                    whole = false;
                    break;
                }
                step => step?,
            };
            if let Some(acknowledged) = step.acknowledged
                && pending
                    .pop_front_if(|first: &mut v1::TaskStatus| first.uuid() == acknowledged)
                    .is_some()
            {
                sum.seen.push(acknowledged);
            }
            sum.seen.extend(step.seen);
            let newest = step.pending.last().map(|status| v1::TaskStatus {
                data: None,
                ..status.clone()
            });
            sum.latest = step.latest.or(newest).or(sum.latest);
            pending.extend(step.pending);
        }
        sum.pending = pending.into();
        Ok((sum, whole))
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DrainRecord {
    #[prost(message, required, tag = "1")]
    pub(crate) config: v1::DrainConfig,
    #[prost(int64, required, tag = "2")]
    pub(crate) since_ns: i64,
}

/// What the agent has beyond its flags, whether its frameworks checkpoint or not.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResourcesRecord {
    #[prost(uint32, required, tag = "1")]
    pub(crate) format: u32,
    /// Dynamic reservations and persistent volumes.
    #[prost(message, repeated, tag = "2")]
    pub(crate) made: Vec<v1::Resource>,
    /// Operations whose last status was not acknowledged.
    #[prost(message, repeated, tag = "3")]
    pub(crate) operations: Vec<v1::Operation>,
    /// Directories of volumes that are destroyed, but maybe not removed yet.
    #[prost(string, repeated, tag = "4")]
    pub(crate) doomed: Vec<String>,
}

pub(crate) fn kind_to_number(kind: ExecutorKind) -> u32 {
    match kind {
        ExecutorKind::Custom => 0,
        ExecutorKind::Native => 1,
        ExecutorKind::Wasm => 2,
    }
}

pub(crate) fn kind_from_number(number: u32) -> Option<ExecutorKind> {
    match number {
        0 => Some(ExecutorKind::Custom),
        1 => Some(ExecutorKind::Native),
        2 => Some(ExecutorKind::Wasm),
        _ => None,
    }
}

const DRAIN: &str = "drain";
const RESOURCES: &str = "resources";

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path {
    Drain,
    Framework(FrameworkId),
    Executor(ExecutorRef),
    Pod(ExecutorRef),
    Task(TaskRef, ExecutorId),
    /// A log of the steps of its updates.
    Updates(TaskRef, ExecutorId),
    /// Its updates as they stand, as earlier agents wrote them.
    OldUpdates(TaskRef, ExecutorId),
    Resources,
}

impl Path {
    pub(crate) fn parse(path: &str) -> Option<Self> {
        if path == DRAIN {
            return Some(Self::Drain);
        }
        if path == RESOURCES {
            return Some(Self::Resources);
        }
        let mut parts = path.split('/');
        let mut next = || parts.next();
        if next()? != "frameworks" {
            return None;
        }
        let framework = FrameworkId::from(next()?);
        let parsed = match next()? {
            "framework" => Self::Framework(framework),
            "pods" => {
                let executor = ExecutorId::from(next()?);
                if next()? != "pod" {
                    return None;
                }
                Self::Pod(ExecutorRef {
                    framework,
                    executor,
                })
            }
            "executors" => {
                let executor = ExecutorId::from(next()?);
                match next()? {
                    "executor" => Self::Executor(ExecutorRef {
                        framework,
                        executor,
                    }),
                    "tasks" => {
                        let task = TaskRef {
                            framework,
                            task: TaskId::from(next()?),
                        };
                        match next()? {
                            "task" => Self::Task(task, executor),
                            "log" => Self::Updates(task, executor),
                            "updates" => Self::OldUpdates(task, executor),
                            _ => return None,
                        }
                    }
                    _ => return None,
                }
            }
            _ => return None,
        };
        next().is_none().then_some(parsed)
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Drain => DRAIN.to_owned(),
            Self::Resources => RESOURCES.to_owned(),
            Self::Framework(framework) => format!("frameworks/{framework}/framework"),
            Self::Executor(ExecutorRef {
                framework,
                executor,
            }) => {
                format!("frameworks/{framework}/executors/{executor}/executor")
            }
            Self::Pod(ExecutorRef {
                framework,
                executor,
            }) => format!("frameworks/{framework}/pods/{executor}/pod"),
            Self::Task(TaskRef { framework, task }, executor) => {
                format!("frameworks/{framework}/executors/{executor}/tasks/{task}/task")
            }
            Self::Updates(TaskRef { framework, task }, executor) => {
                format!("frameworks/{framework}/executors/{executor}/tasks/{task}/log")
            }
            Self::OldUpdates(TaskRef { framework, task }, executor) => {
                format!("frameworks/{framework}/executors/{executor}/tasks/{task}/updates")
            }
        }
    }
}
