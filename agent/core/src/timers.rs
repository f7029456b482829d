//! Everything an agent can wait for, on one screen.

use std::collections::{BTreeMap, BTreeSet};

use tepui_model::Tick;

use crate::chance::Uuid;
use crate::input::{ExecutorRef, TaskRef};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The master has been silent: take the link for dead.
    MasterSilent,
    /// Executors had their time to come back after the agent restarted.
    Recovery,
    /// Leave, even if an executor will not end.
    Exit,
    /// A status update was not acknowledged: send it again.
    Retry(TaskRef),
    /// The status of an operation was not acknowledged: send it again.
    RetryOperation(Uuid),
    /// The executor should have subscribed by now.
    Registration(ExecutorRef),
    /// The executor should have ended by now.
    Grace(ExecutorRef),
    /// A built-in executor has had nothing to do.
    Idle(ExecutorRef),
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeMap<Timer, Tick>,
    queue: BTreeSet<(Tick, Timer)>,
}

impl Timers {
    /// Sets the timer, in place of an earlier setting.
    pub(crate) fn arm(&mut self, timer: Timer, at: Tick) {
        if let Some(before) = self.due.insert(timer.clone(), at) {
            self.queue.remove(&(before, timer.clone()));
        }
        self.queue.insert((at, timer));
    }

    pub(crate) fn disarm(&mut self, timer: &Timer) {
        if let Some(at) = self.due.remove(timer) {
            self.queue.remove(&(at, timer.clone()));
        }
    }

    pub(crate) fn is_armed(&self, timer: &Timer) -> bool {
        self.due.contains_key(timer)
    }

    /// Stops and returns the first timer that is due.
    pub(crate) fn expire(&mut self, now: Tick) -> Option<Timer> {
        if self.queue.first()?.0 > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.due.remove(&timer);
        Some(timer)
    }

    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.queue.first().map(|(at, _)| *at)
    }
}
