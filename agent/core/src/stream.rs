//! The status updates of one task: in order, one under way at a time, each until it is acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tepui_api::v1;

use crate::chance::Uuid;
use crate::input::SaveKey;

/// An executor repeats only what the agent has not acknowledged, so beside what waits a short memory is enough to know
/// repeats.
const REMEMBERED_UUIDS: usize = 64;

/// So many updates of one task may wait for its scheduler, ...
const MOST_PENDING: usize = 8192;
/// ... of so many bytes together.
const MOST_PENDING_BYTES: usize = 8 << 20;

/// A log shorter than this is not worth writing anew.
const SHORT_LOG: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) uuid: Uuid,
    pub(crate) status: Arc<v1::TaskStatus>,
    /// Whether it is on disk, or need not be.
    pub(crate) saved: bool,
    pub(crate) from_executor: bool,
}

impl Pending {
    fn bytes(&self) -> usize {
        self.status.encoded_len()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Stream {
    pending: VecDeque<Pending>,
    /// The first pending update was sent; how long to wait before it is sent again.
    flight: Option<Duration>,
    /// An acknowledgement is on the way to the disk. What comes after it must not be told before it is there: an agent
    /// that is started again would tell what came before once more.
    settling: Option<SaveKey>,
    /// Of updates that do not wait any more.
    seen: VecDeque<Uuid>,
    pending_bytes: usize,
    /// How long the log of the stream on disk is.
    log_bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Acknowledgement {
    /// It is not the update under way.
    Unexpected,
    Taken {
        terminal: bool,
    },
}

/// Whether it says nothing but how far a running task is.
fn is_progress(status: &v1::TaskStatus) -> bool {
    let usage = status.usage.as_ref();
    status.state() == v1::TaskState::TaskRunning
        && status.reason.is_none()
        && usage.is_some_and(|usage| usage.progress.is_some())
}

impl Stream {
    pub(crate) fn recovered(pending: VecDeque<Pending>, seen: Vec<Uuid>, log: usize) -> Self {
        let newest = seen.len().saturating_sub(REMEMBERED_UUIDS);
        Self {
            pending_bytes: pending.iter().map(Pending::bytes).sum(),
            pending,
            seen: seen.into_iter().skip(newest).collect(),
            log_bytes: log,
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, update: Pending) {
        self.pending_bytes += update.bytes();
        self.pending.push_back(update);
    }

    /// Takes back the newest update if it only told how far its task is and `newer` does so again: nobody needs to hear it any
    /// more. One that is under way, or on its way to the disk, stays. Without this a task whose scheduler is away would fill
    /// the stream.
    pub(crate) fn overtake(&mut self, newer: &v1::TaskStatus) {
        let overtaken = self.pending.len() > 1
            && is_progress(newer)
            && self
                .pending
                .back()
                .is_some_and(|last| last.saved && last.from_executor && is_progress(&last.status));
        if overtaken && let Some(last) = self.pending.pop_back() {
            self.pending_bytes -= last.bytes();
            self.remember(last.uuid);
        }
    }

    /// Whether so much waits already that more must wait with who sent it.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= MOST_PENDING || self.pending_bytes >= MOST_PENDING_BYTES
    }

    /// Counts what was put behind the log; says whether it is time to write it anew.
    pub(crate) fn logged(&mut self, bytes: usize) -> bool {
        self.log_bytes += bytes;
        self.log_bytes > SHORT_LOG.max(2 * self.pending_bytes)
    }

    pub(crate) fn logged_anew(&mut self, bytes: usize) {
        self.log_bytes = bytes;
    }

    pub(crate) fn settle_after(&mut self, key: SaveKey) {
        self.settling = Some(key);
    }

    pub(crate) fn settled(&mut self, key: SaveKey) {
        if self.settling == Some(key) {
            self.settling = None;
        }
    }

    pub(crate) fn remember(&mut self, uuid: Uuid) {
        if self.seen.len() == REMEMBERED_UUIDS {
            self.seen.pop_front();
        }
        self.seen.push_back(uuid);
    }

    pub(crate) fn was_seen(&self, uuid: &Uuid) -> bool {
        self.seen.contains(uuid) || self.pending.iter().any(|update| update.uuid == *uuid)
    }

    pub(crate) fn seen(&self) -> impl Iterator<Item = &Uuid> {
        self.seen.iter()
    }

    pub(crate) fn pending(&self) -> impl DoubleEndedIterator<Item = &Pending> {
        self.pending.iter()
    }

    pub(crate) fn find_mut(&mut self, uuid: &Uuid) -> Option<&mut Pending> {
        self.pending.iter_mut().find(|update| update.uuid == *uuid)
    }

    pub(crate) fn front(&self) -> Option<&Pending> {
        self.pending.front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// The update to send now, if none is under way.
    pub(crate) fn send(&mut self, wait: Duration) -> Option<Arc<v1::TaskStatus>> {
        if self.flight.is_some() || self.settling.is_some() {
            return None;
        }
        let front = self.pending.front().filter(|update| update.saved)?;
        self.flight = Some(wait);
        Some(front.status.clone())
    }

    /// The update under way once more, and how long to wait this time.
    pub(crate) fn send_again(
        &mut self,
        maximum: Duration,
    ) -> Option<(Arc<v1::TaskStatus>, Duration)> {
        let wait = self.flight?.saturating_mul(2).min(maximum);
        let front = self.pending.front()?;
        self.flight = Some(wait);
        Some((front.status.clone(), wait))
    }

    /// What was under way is lost with the link.
    pub(crate) fn land(&mut self) {
        self.flight = None;
    }

    pub(crate) fn acknowledge(&mut self, uuid: &[u8]) -> Acknowledgement {
        match self.pending.front() {
            Some(front) if self.flight.is_some() && front.uuid == uuid => {
                let terminal = front.status.state().is_terminal();
                let (uuid, bytes) = (front.uuid, front.bytes());
                self.pending.pop_front();
                self.pending_bytes -= bytes;
                self.remember(uuid);
                self.flight = None;
                Acknowledgement::Taken { terminal }
            }
            _ => Acknowledgement::Unexpected,
        }
    }
}
