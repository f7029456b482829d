//! What the executor wants to tell its agent, and what of it the agent has not acknowledged yet.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message as _;
use tepui_api::v1::executor::{self, call};
use tepui_api::v1::{ExecutorId, FrameworkId, TaskInfo, TaskStatus, task_status};
use tokio::sync::{Notify, watch};

/// The executor's voice. Clones speak for the same executor.
#[derive(Clone)]
pub struct Handle {
    outbox: Arc<Outbox>,
}

impl Handle {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Self { outbox }
    }

    /// Reports a status. `uuid`, `source`, `timestamp` and `executor_id` are filled in; what is set in `timestamp` stays.
    ///
    /// The update is kept, and told again after every interruption, until the agent acknowledges it.
    pub fn update(&self, status: TaskStatus) {
        self.outbox.update(status);
    }

    /// Sends bytes to the framework's scheduler. Best effort: an interruption may lose them.
    pub fn message(&self, data: impl Into<Bytes>) {
        self.outbox.message(data.into(), None);
    }

    /// As [`message`](Self::message); `held` is dropped when the message has been handed to a connection. By that a caller
    /// can bound what waits while there is none.
    pub fn message_held(&self, data: impl Into<Bytes>, held: Arc<dyn Any + Send + Sync>) {
        self.outbox.message(data.into(), Some(held));
    }

    /// How many updates wait for their acknowledgement.
    pub fn unacknowledged(&self) -> usize {
        self.outbox.lock().pending.len()
    }

    /// Waits until every update so far is acknowledged, at most `patience`. Says whether it came to that.
    ///
    /// An executor that is about to exit waits here, so that the last statuses are not lost with it.
    pub async fn drained(&self, patience: Duration) -> bool {
        let mut left = self.outbox.left.subscribe();
        tokio::time::timeout(patience, left.wait_for(|count| *count == 0))
            .await
            .is_ok_and(|waited| waited.is_ok())
    }
}

/// One call, encoded.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) body: Bytes,
    /// Of an update: its uuid.
    pub(crate) update: Option<Bytes>,
    /// Kept for as long as the call waits.
    _held: Option<Arc<dyn Any + Send + Sync>>,
}

impl Outgoing {
    fn update(body: Bytes, uuid: Option<Bytes>) -> Self {
        Self {
            body,
            update: uuid,
            _held: None,
        }
    }
}

struct Pending {
    status: TaskStatus,
    body: Bytes,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Unacknowledged updates in the order they were made.
    pending: BTreeMap<u64, Pending>,
    by_uuid: HashMap<Bytes, u64>,
    /// What was not handed to the connection yet.
    queue: VecDeque<Outgoing>,
    /// Tasks launched of which no update was acknowledged yet.
    tasks: BTreeMap<String, TaskInfo>,
}

pub(crate) struct Outbox {
    framework_id: FrameworkId,
    executor_id: ExecutorId,
    state: Mutex<State>,
    wake: Notify,
    left: watch::Sender<usize>,
}

impl Outbox {
    pub(crate) fn new(framework_id: String, executor_id: String) -> Self {
        Self {
            framework_id: FrameworkId {
                value: framework_id,
            },
            executor_id: ExecutorId { value: executor_id },
            state: Mutex::default(),
            wake: Notify::new(),
            left: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the maps half changed.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn call(&self, kind: call::Type) -> executor::Call {
        executor::Call {
            executor_id: self.executor_id.clone(),
            framework_id: self.framework_id.clone(),
            r#type: Some(kind as i32),
            ..executor::Call::default()
        }
    }

    fn update(&self, mut status: TaskStatus) {
        let uuid = Bytes::copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        status.uuid = Some(uuid.clone());
        status.source = Some(task_status::Source::Executor as i32);
        status.executor_id = Some(self.executor_id.clone());
        if status.timestamp.is_none() {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            status.timestamp = Some(since.unwrap_or_default().as_secs_f64());
        }
        let mut call = self.call(call::Type::Update);
        call.update = Some(call::Update { status });
        let body = Bytes::from(call.encode_to_vec());
        let status = call.update.take().expect("it was set above").status;
        {
            let mut state = self.lock();
            let number = state.next;
            state.next += 1;
            state.by_uuid.insert(uuid.clone(), number);
            state
                .queue
                .push_back(Outgoing::update(body.clone(), Some(uuid)));
            state.pending.insert(number, Pending { status, body });
            self.left.send_replace(state.pending.len());
        }
        self.wake.notify_one();
    }

    fn message(&self, data: Bytes, held: Option<Arc<dyn Any + Send + Sync>>) {
        let mut call = self.call(call::Type::Message);
        call.message = Some(call::Message { data });
        let body = Bytes::from(call.encode_to_vec());
        self.lock().queue.push_back(Outgoing {
            body,
            update: None,
            _held: held,
        });
        self.wake.notify_one();
    }

    /// The SUBSCRIBE call. It carries all that is unacknowledged, so nothing of that stays queued.
    pub(crate) fn subscribe(&self) -> Bytes {
        let mut call = self.call(call::Type::Subscribe);
        let mut state = self.lock();
        state.queue.retain(|outgoing| outgoing.update.is_none());
        call.subscribe = Some(call::Subscribe {
            unacknowledged_tasks: state.tasks.values().cloned().collect(),
            unacknowledged_updates: state
                .pending
                .values()
                .map(|pending| call::Update {
                    status: pending.status.clone(),
                })
                .collect(),
        });
        drop(state);
        Bytes::from(call.encode_to_vec())
    }

    /// Queues every unacknowledged update again, ahead of everything else: the connection that took them has broken.
    /// The agent tells the ones it has by their uuid.
    pub(crate) fn requeue(&self) {
        let mut state = self.lock();
        let others: Vec<Outgoing> = state
            .queue
            .drain(..)
            .filter(|outgoing| outgoing.update.is_none())
            .collect();
        let updates: Vec<Outgoing> = state
            .pending
            .values()
            .map(|pending| Outgoing::update(pending.body.clone(), pending.status.uuid.clone()))
            .collect();
        state.queue.extend(updates);
        state.queue.extend(others);
    }

    /// Puts back what could not be sent.
    pub(crate) fn put_back(&self, outgoing: Outgoing) {
        self.lock().queue.push_front(outgoing);
    }

    /// Waits until there is something to send and takes all of it.
    pub(crate) async fn take(&self) -> VecDeque<Outgoing> {
        loop {
            let waiting = std::mem::take(&mut self.lock().queue);
            if !waiting.is_empty() {
                return waiting;
            }
            self.wake.notified().await;
        }
    }

    pub(crate) fn launched(&self, task: &TaskInfo) {
        self.lock()
            .tasks
            .insert(task.task_id.value.clone(), task.clone());
    }

    pub(crate) fn acknowledged(&self, task_id: &str, uuid: &Bytes) {
        let mut state = self.lock();
        state.tasks.remove(task_id);
        self.forget_locked(&mut state, uuid);
    }

    /// Gives up an update the agent refuses to take.
    pub(crate) fn forget(&self, uuid: &Bytes) {
        self.forget_locked(&mut self.lock(), uuid);
    }

    fn forget_locked(&self, state: &mut State, uuid: &Bytes) {
        if let Some(number) = state.by_uuid.remove(uuid) {
            state.pending.remove(&number);
        }
        self.left.send_replace(state.pending.len());
    }
}
