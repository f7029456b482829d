//! The status updates of one task: in order, one under way at a time, each until it is acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tepui_api::v1;

use crate::chance::Uuid;

/// An executor repeats only what the agent has not acknowledged, so a short memory is enough to know repeats.
const REMEMBERED_UUIDS: usize = 64;

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) uuid: Uuid,
    pub(crate) status: Arc<v1::TaskStatus>,
    /// Whether it is on disk, or need not be.
    pub(crate) saved: bool,
    pub(crate) from_executor: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Stream {
    pending: VecDeque<Pending>,
    /// The first pending update was sent; how long to wait before it is sent again.
    flight: Option<Duration>,
    seen: VecDeque<Uuid>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Acknowledgement {
    /// It is not the update under way.
    Unexpected,
    Taken {
        terminal: bool,
    },
}

impl Stream {
    pub(crate) fn recovered(pending: VecDeque<Pending>, seen: VecDeque<Uuid>) -> Self {
        Self {
            pending,
            flight: None,
            seen,
        }
    }

    pub(crate) fn push(&mut self, update: Pending) {
        self.remember(update.uuid);
        self.pending.push_back(update);
    }

    pub(crate) fn remember(&mut self, uuid: Uuid) {
        if self.seen.len() == REMEMBERED_UUIDS {
            self.seen.pop_front();
        }
        self.seen.push_back(uuid);
    }

    pub(crate) fn was_seen(&self, uuid: &Uuid) -> bool {
        self.seen.contains(uuid)
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
        if self.flight.is_some() {
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
                self.pending.pop_front();
                self.flight = None;
                Acknowledgement::Taken { terminal }
            }
            _ => Acknowledgement::Unexpected,
        }
    }
}
