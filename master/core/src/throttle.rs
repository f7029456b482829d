//! How many calls a second frameworks may make, by their principals: who makes more is served later, and who lets too
//! many wait is told so.

use std::collections::{BTreeMap, VecDeque};

use tepui_api::v1::scheduler::{Call, call};
use tepui_model::Tick;

use crate::calls::CallRefused;
use crate::core::{Core, Timer};
use crate::input::RequestKey;
use crate::keys::FrameworkKey;
use crate::messages;

const SECOND_NS: f64 = 1e9;
const TICK_NS: u64 = 1_000_000;

/// What one principal's frameworks may do together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CallLimit {
    /// Calls a second; as many as come if unset.
    pub qps: Option<f64>,
    /// Calls that may wait; as many as do if unset.
    pub capacity: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct CallLimits {
    pub principals: BTreeMap<String, CallLimit>,
    /// Of all frameworks together whose principal is not named above, or which have none.
    pub others: CallLimit,
}

/// Calls of the frameworks of one principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallCounts {
    pub received: u64,
    /// Those whose turn came.
    pub processed: u64,
}

/// The calls under one limit.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval_ns: u64,
    capacity: Option<u64>,
    /// When the next call may be carried out, in nanoseconds of the tick clock.
    next_ns: u64,
    waiting: VecDeque<Waiting>,
}

/// A call whose turn has not come.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) request: RequestKey,
    pub(crate) principal: Option<String>,
    pub(crate) stream_id: Option<String>,
    pub(crate) framework: tepui_api::v1::FrameworkId,
    pub(crate) call_type: call::Type,
    pub(crate) call: Call,
}

impl Throttle {
    fn new(limit: CallLimit) -> Option<Self> {
        let qps = limit.qps?;
        Some(Self {
            interval_ns: (SECOND_NS / qps) as u64,
            capacity: limit.capacity,
            next_ns: 0,
            waiting: VecDeque::new(),
        })
    }

    /// Takes the turn of now, if there is one to take.
    fn take_turn(&mut self, now: Tick) -> bool {
        // Within a tick all turns of that tick are due.
        let end_ns = now.0.saturating_add(1).saturating_mul(TICK_NS);
        if self.next_ns >= end_ns {
            return false;
        }
        // Turns that nobody took are lost: a pause does not make up for a burst.
        let since = if self.waiting.is_empty() {
            self.next_ns.max(now.0.saturating_mul(TICK_NS))
        } else {
            self.next_ns
        };
        self.next_ns = since.saturating_add(self.interval_ns);
        true
    }

    fn next_turn(&self) -> Tick {
        Tick(self.next_ns / TICK_NS)
    }
}

/// All limits that hold, and what came under them.
#[derive(Debug, Default)]
pub(crate) struct Throttles {
    all: Vec<Throttle>,
    /// None of a principal that may call as often as it likes.
    by_principal: BTreeMap<String, Option<usize>>,
    others: Option<usize>,
    pub(crate) counts: BTreeMap<String, CallCounts>,
}

impl Throttles {
    pub(crate) fn new(limits: &CallLimits) -> Self {
        let mut throttles = Self::default();
        for (principal, limit) in &limits.principals {
            let throttle = throttles.enter(*limit);
            throttles.by_principal.insert(principal.clone(), throttle);
        }
        throttles.others = throttles.enter(limits.others);
        throttles
    }

    fn enter(&mut self, limit: CallLimit) -> Option<usize> {
        self.all.push(Throttle::new(limit)?);
        Some(self.all.len() - 1)
    }

    fn of(&self, principal: Option<&str>) -> Option<usize> {
        let own = principal.and_then(|principal| self.by_principal.get(principal));
        own.copied().unwrap_or(self.others)
    }
}

impl Core {
    /// Carries the framework's call out, now or when it is its turn.
    pub(crate) fn carry_out_in_turn(
        &mut self,
        framework: FrameworkKey,
        waiting: Waiting,
    ) -> Result<(), CallRefused> {
        if let Some(counts) = self.call_counts(framework) {
            counts.received += 1;
        }
        let principal = self.frameworks[framework].info.principal.as_deref();
        let Some(index) = self.throttles.of(principal) else {
            return self.carry_out_now(framework, waiting);
        };
        let throttle = &mut self.throttles.all[index];
        let queued = throttle.waiting.len() as u64;
        if queued == 0 && throttle.take_turn(self.now.tick) {
            return self.carry_out_now(framework, waiting);
        }
        if let Some(capacity) = throttle.capacity.filter(|capacity| queued >= *capacity) {
            self.metrics.count("master/dropped_messages");
            let call = waiting.call_type.as_str_name();
            let refused = CallRefused::Capacity { call, capacity };
            self.send(framework, messages::error(refused.to_string()));
            return Err(refused);
        }
        if queued == 0 {
            let turn = (throttle.next_turn(), Timer::Call(index));
            self.timers.insert(turn);
        }
        throttle.waiting.push_back(waiting);
        Ok(())
    }

    /// Calls under that limit have their turn.
    pub(crate) fn on_turn(&mut self, index: usize) {
        loop {
            let throttle = &mut self.throttles.all[index];
            if throttle.waiting.is_empty() {
                return;
            }
            if !throttle.take_turn(self.now.tick) {
                let turn = (throttle.next_turn(), Timer::Call(index));
                self.timers.insert(turn);
                return;
            }
            let Some(waiting) = throttle.waiting.pop_front() else {
                return;
            };
            let request = waiting.request;
            // It may have been superseded or removed while it waited.
            let (principal, stream_id) = (waiting.principal.clone(), waiting.stream_id.clone());
            let done = self
                .check_caller(&waiting.framework, principal, stream_id)
                .and_then(|framework| self.carry_out_now(framework, waiting));
            if let Err(refused) = done {
                self.refuse(request, refused.status(), refused.to_string());
            }
        }
    }

    fn carry_out_now(
        &mut self,
        framework: FrameworkKey,
        waiting: Waiting,
    ) -> Result<(), CallRefused> {
        if let Some(counts) = self.call_counts(framework) {
            counts.processed += 1;
        }
        self.carry_out(waiting.request, framework, waiting.call_type, waiting.call)
    }

    fn call_counts(&mut self, framework: FrameworkKey) -> Option<&mut CallCounts> {
        let principal = self.frameworks[framework].info.principal.clone()?;
        Some(self.throttles.counts.entry(principal).or_default())
    }

    /// The last framework of a principal takes its figures along.
    pub(crate) fn forget_call_counts(&mut self, principal: &str) {
        let others = self.frameworks.iter();
        if !others
            .map(|(_, framework)| framework.info.principal())
            .any(|other| other == principal)
        {
            self.throttles.counts.remove(principal);
        }
    }
}
