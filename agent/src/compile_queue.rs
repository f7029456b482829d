//! Whose module is compiled next: no framework's modules hold up another's, and small ones do not wait behind large ones
//! of the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Modules of one framework that may wait at a time.
pub(crate) const MAX_WAITING: usize = 256;

/// How soon somebody needs the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A task waits for it.
    Awaited,
    /// Later tasks will be faster for it.
    Idle,
}

#[derive(Debug)]
pub(crate) struct Queue {
    workers: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiting>,
    running: Vec<(String, Urgency)>,
    /// The time workers spent on each framework since the queue was last empty.
    spent: BTreeMap<String, Duration>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    owner: String,
    bytes: u64,
    urgency: Urgency,
    arrival: u64,
    wake: oneshot::Sender<Turn>,
}

/// A worker's turn, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: Arc<Queue>,
    owner: String,
    urgency: Urgency,
    began: Instant,
}

impl Queue {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: workers.max(1),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a worker. None: too many of this owner's wait already.
    pub(crate) async fn turn(
        self: &Arc<Self>,
        owner: &str,
        bytes: u64,
        urgency: Urgency,
    ) -> Option<Turn> {
        let (wake, woken) = oneshot::channel();
        {
            let mut state = self.lock();
            // Those who gave up waiting count no more.
            state.waiting.retain(|one| !one.wake.is_closed());
            let of_owner = state.waiting.iter().filter(|one| one.owner == owner);
            if of_owner.count() >= MAX_WAITING {
                return None;
            }
            state.arrivals += 1;
            let arrival = state.arrivals;
            state.waiting.push(Waiting {
                owner: owner.to_owned(),
                bytes,
                urgency,
                arrival,
                wake,
            });
        }
        self.go_on();
        woken.await.ok()
    }

    /// Hands out turns as long as there are any.
    fn go_on(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            let Some(next) = state.next(self.workers) else {
                return;
            };
            let next = state.waiting.swap_remove(next);
            state.running.push((next.owner.clone(), next.urgency));
            drop(state);
            let turn = Turn {
                queue: Arc::clone(self),
                owner: next.owner,
                urgency: next.urgency,
                began: Instant::now(),
            };
            // One who gave up drops the turn, which hands it on.
            drop(next.wake.send(turn));
        }
    }
}

impl State {
    fn next(&mut self, workers: usize) -> Option<usize> {
        self.waiting.retain(|one| !one.wake.is_closed());
        if self.running.len() >= workers {
            return None;
        }
        let of = |owner: &str| self.running.iter().filter(|(one, _)| one == owner).count();
        // One worker is always left to somebody else.
        let most = workers.saturating_sub(1).max(1);
        let idle_runs = self
            .running
            .iter()
            .any(|(_, urgency)| *urgency == Urgency::Idle);
        let candidates = self
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, one)| match one.urgency {
                Urgency::Awaited => of(&one.owner) < most,
                Urgency::Idle => !idle_runs && self.running.len() < most,
            });
        candidates
            .min_by_key(|(_, one)| {
                let spent = self.spent.get(&one.owner).copied().unwrap_or_default();
                (one.urgency == Urgency::Idle, spent, one.bytes, one.arrival)
            })
            .map(|(index, _)| index)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        let mine =
            |(owner, urgency): &(String, Urgency)| *owner == self.owner && *urgency == self.urgency;
        if let Some(index) = state.running.iter().position(mine) {
            state.running.swap_remove(index);
        }
        *state.spent.entry(self.owner.clone()).or_default() += self.began.elapsed();
        if state.running.is_empty() && state.waiting.is_empty() {
            state.spent.clear();
        }
        drop(state);
        self.queue.go_on();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    type Asked = std::pin::Pin<Box<dyn Future<Output = Option<Turn>>>>;

    fn ask(queue: &Arc<Queue>, owner: &'static str, bytes: u64, urgency: Urgency) -> Asked {
        let queue = Arc::clone(queue);
        let mut asked: Asked = Box::pin(async move { queue.turn(owner, bytes, urgency).await });
        // Put into the queue now.
        match asked.as_mut().now_or_never() {
            Some(turn) => Box::pin(std::future::ready(turn)),
            None => asked,
        }
    }

    fn got(asked: &mut Asked) -> Option<Turn> {
        asked.as_mut().now_or_never().flatten()
    }

    #[test]
    fn one_framework_never_holds_every_worker() {
        let queue = Queue::new(2);
        let awaited = Urgency::Awaited;
        let mut bombs: Vec<Asked> = (0..5).map(|_| ask(&queue, "bomber", 10, awaited)).collect();
        let first = got(&mut bombs[0]).expect("a worker was free");
        assert!(got(&mut bombs[1]).is_none());
        let mut small = ask(&queue, "neighbour", 1_000, awaited);
        let theirs = got(&mut small).expect("one was kept for others");
        drop(theirs);
        assert!(got(&mut bombs[1]).is_none(), "still only one");
        drop(first);
        assert!(got(&mut bombs[1]).is_some());
    }

    #[test]
    fn the_smaller_goes_first_and_who_gave_up_is_passed_over() {
        let queue = Queue::new(1);
        let awaited = Urgency::Awaited;
        let mut now = ask(&queue, "a", 1, awaited);
        let running = got(&mut now).expect("it is free");
        let mut large = ask(&queue, "a", 100, awaited);
        let mut small = ask(&queue, "a", 10, awaited);
        drop(ask(&queue, "a", 1, awaited));
        drop(running);
        let running = got(&mut small).expect("it is the smaller");
        assert!(got(&mut large).is_none());
        drop(running);
        assert!(got(&mut large).is_some());
    }

    #[test]
    fn what_nobody_waits_for_comes_last_and_leaves_a_worker_free() {
        let queue = Queue::new(2);
        let mut idle = ask(&queue, "a", 1, Urgency::Idle);
        let background = got(&mut idle).expect("nothing else to do");
        let mut another = ask(&queue, "b", 1, Urgency::Idle);
        assert!(got(&mut another).is_none());
        let mut awaited = ask(&queue, "c", 1, Urgency::Awaited);
        let working = got(&mut awaited).expect("a worker was left");
        drop(background);
        assert!(got(&mut another).is_none(), "not beside what is awaited");
        drop(working);
        assert!(got(&mut another).is_some());
    }

    #[test]
    fn a_storm_is_refused() {
        let queue = Queue::new(1);
        let awaited = Urgency::Awaited;
        let _all: Vec<Asked> = (0..=MAX_WAITING)
            .map(|_| ask(&queue, "a", 1, awaited))
            .collect();
        let mut more = ask(&queue, "a", 1, awaited);
        assert!(matches!(more.as_mut().now_or_never(), Some(None)));
        assert!(ask(&queue, "b", 1, awaited).now_or_never().is_none());
    }
}
