//! Who computes next: guests get processor time in proportion to their `cpus`, and none is kept waiting while a thread
//! has nothing to do.
//!
//! Each guest has a clock that runs as fast as it uses the processor, divided by its weight. At the end of each slice a
//! guest queues up, and whoever's clock is furthest behind goes on. As many slices as there are threads are under way at
//! a time, so what wakes up, be it a guest that waited or the runtime itself, finds a thread within a slice and runs at
//! once; only at the end of its slice it has to queue up as well. A guest that slept does not save up time.
//!
//! All of a slice is one poll, so what belongs to it is kept by the thread.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::pace::Pace;

/// The weight of a task that names none, in cpus.
const DEFAULT_WEIGHT: f64 = 0.1;
/// Nobody's clock runs faster than with so little.
const LEAST_WEIGHT: f64 = 0.001;
/// How far a clock may be behind the others, in nanoseconds of a task of one cpu: a guest that slept goes first for so
/// long, and no longer.
const LAG_NS: u64 = 50_000_000;
/// What a capped guest may use at once after it used less than it may.
const BURST: Duration = Duration::from_millis(20);
/// It pauses for no less than this.
const PAUSE: Duration = Duration::from_millis(2);

thread_local! {
    static SLICE: Cell<Slice> = const { Cell::new(Slice { mark_ns: 0, counted: false }) };
}

/// What the poll under way has come to.
#[derive(Debug, Clone, Copy)]
struct Slice {
    /// The thread's time up to which it has been charged.
    mark_ns: u64,
    /// Whether it is one of the slices of which there are as many as threads.
    counted: bool,
}

/// All guests of a process.
#[derive(Debug)]
pub(crate) struct Shares {
    threads: usize,
    pace: Arc<Pace>,
    queue: Mutex<Queue>,
}

/// In the queue: by the clock, and by who came first.
type Place = (u64, u64);

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<Place, Arc<Mutex<Ticket>>>,
    under_way: usize,
    /// The clock of whoever went on last; never goes back.
    now: u64,
    arrivals: u64,
}

#[derive(Debug)]
struct Ticket {
    waker: Waker,
    called: bool,
}

/// One task's part.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    weight: f64,
    clock: AtomicU64,
    used_ns: AtomicU64,
    cap: Option<Cap>,
}

/// No more than so many cpus, however idle the others are.
#[derive(Debug)]
struct Cap {
    cpus: f64,
    since: Instant,
}

impl Shares {
    pub(crate) fn new(threads: usize, pace: Arc<Pace>) -> Arc<Self> {
        Arc::new(Self {
            threads: threads.max(1),
            pace,
            queue: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task of so many cpus joins in; with `cap`, it never has more than that.
    pub(crate) fn join(self: &Arc<Self>, cpus: f64, cap: Option<f64>) -> Arc<Share> {
        let weight = if cpus > 0.0 { cpus } else { DEFAULT_WEIGHT };
        Arc::new(Share {
            clock: AtomicU64::new(self.lock().now),
            shares: Arc::clone(self),
            weight: weight.max(LEAST_WEIGHT),
            used_ns: AtomicU64::new(0),
            cap: cap.map(|cpus| Cap {
                cpus: cpus.max(LEAST_WEIGHT),
                since: Instant::now(),
            }),
        })
    }

    /// A slice that was counted is over.
    fn give_back(&self) {
        let mut queue = self.lock();
        queue.under_way -= 1;
        self.call(queue);
    }

    /// Lets as many go on as may.
    fn call(&self, mut queue: MutexGuard<'_, Queue>) {
        let mut called = Vec::new();
        while queue.under_way < self.threads
            && let Some(((clock, _), ticket)) = queue.waiting.pop_first()
        {
            queue.under_way += 1;
            queue.now = queue.now.max(clock);
            called.push(ticket);
        }
        drop(queue);
        for ticket in called {
            let mut ticket = ticket.lock().unwrap_or_else(PoisonError::into_inner);
            ticket.called = true;
            ticket.waker.wake_by_ref();
        }
    }
}

impl Share {
    /// Polls the guest, or a part of it, and charges what that took.
    pub(crate) fn poll<T>(&self, poll: impl FnOnce() -> T) -> T {
        SLICE.set(Slice {
            mark_ns: thread_cpu_ns(),
            counted: false,
        });
        let _running = self.shares.pace.run();
        let _slice = Charged(self);
        poll()
    }

    /// The processor time all of it has used, in nanoseconds.
    pub(crate) fn used_ns(&self) -> u64 {
        self.used_ns.load(Ordering::Relaxed)
    }

    /// Charges what was used since the last time. Whether this was a slice of those that are counted; it is none any more.
    fn charge(&self) -> bool {
        let slice = SLICE.get();
        let now = thread_cpu_ns();
        let used = now.saturating_sub(slice.mark_ns);
        SLICE.set(Slice {
            mark_ns: now,
            counted: false,
        });
        self.used_ns.fetch_add(used, Ordering::Relaxed);
        let ran = (used as f64 / self.weight) as u64;
        self.clock.fetch_add(ran, Ordering::Relaxed);
        slice.counted
    }

    /// How long it must pause to keep to its cap.
    fn debt(&self) -> Option<Duration> {
        let cap = self.cap.as_ref()?;
        let used = Duration::from_nanos(self.used_ns());
        let due = used.div_f64(cap.cpus);
        let ahead = due.checked_sub(cap.since.elapsed())?;
        (ahead > BURST).then_some(ahead.max(PAUSE))
    }

    /// Ends the slice under way and resolves when the next one is this task's.
    pub(crate) fn turn(self: &Arc<Self>) -> Turn {
        Turn {
            share: Arc::clone(self),
            pause: None,
            place: None,
            ended: false,
        }
    }
}

/// Charges what is under way when it ends, also when that is a panic: a slice that is never given back is one fewer for all.
struct Charged<'a>(&'a Share);

impl Drop for Charged<'_> {
    fn drop(&mut self) {
        if self.0.charge() {
            self.0.shares.give_back();
        }
    }
}

/// See [`Share::turn`].
pub(crate) struct Turn {
    share: Arc<Share>,
    pause: Option<Pin<Box<Sleep>>>,
    place: Option<(Place, Arc<Mutex<Ticket>>)>,
    ended: bool,
}

impl Turn {
    /// With `counted`, gives a slice back at the same time: whoever ends one competes for the next like everybody.
    fn queue_up(&mut self, waker: &Waker, counted: bool) {
        let ticket = Arc::new(Mutex::new(Ticket {
            waker: waker.clone(),
            called: false,
        }));
        let mut queue = self.share.shares.lock();
        let behind = queue.now.saturating_sub(LAG_NS);
        let clock = self
            .share
            .clock
            .fetch_max(behind, Ordering::Relaxed)
            .max(behind);
        queue.arrivals += 1;
        let place = (clock, queue.arrivals);
        queue.waiting.insert(place, Arc::clone(&ticket));
        queue.under_way -= usize::from(counted);
        self.place = Some((place, ticket));
        self.share.shares.call(queue);
    }
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut counted = false;
        if !self.ended {
            self.ended = true;
            counted = self.share.charge();
            let debt = self.share.debt();
            self.pause = debt.map(|debt| Box::pin(tokio::time::sleep(debt)));
            if self.pause.is_some() && std::mem::take(&mut counted) {
                self.share.shares.give_back();
            }
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        let Some((_, ticket)) = &self.place else {
            // Even whoever is first steps back once, so that what woke up meanwhile gets its thread.
            self.queue_up(context.waker(), counted);
            return Poll::Pending;
        };
        {
            let mut ticket = ticket.lock().unwrap_or_else(PoisonError::into_inner);
            if !ticket.called {
                ticket.waker.clone_from(context.waker());
                return Poll::Pending;
            }
        }
        self.place = None;
        SLICE.set(Slice {
            counted: true,
            ..SLICE.get()
        });
        Poll::Ready(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((place, _)) = self.place.take() else {
            return;
        };
        let mut queue = self.share.shares.lock();
        if queue.waiting.remove(&place).is_none() {
            // It was called and will not come.
            queue.under_way -= 1;
            self.share.shares.call(queue);
        }
    }
}

fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec to the place it is given, which is one.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0;
    if failed {
        return 0;
    }
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    struct Nobody;

    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    fn poll(turn: &mut Turn) -> bool {
        let waker = Waker::from(Arc::new(Nobody));
        Pin::new(turn)
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
    }

    /// Takes turns on one thread, each slice as long as the next, and counts them.
    fn slices(weights: &[f64], count: usize) -> Vec<usize> {
        let shares = Shares::new(1, Arc::default());
        let all: Vec<_> = weights
            .iter()
            .map(|weight| shares.join(*weight, None))
            .collect();
        let mut turns: Vec<Turn> = all.iter().map(Share::turn).collect();
        let mut got = vec![0; weights.len()];
        for turn in &mut turns {
            assert!(!poll(turn));
        }
        for _ in 0..count {
            let next = turns.iter_mut().position(poll).expect("somebody's turn");
            got[next] += 1;
            // The slice: what is charged at its end is laid down here.
            let ran = 2_000_000.0 / weights[next];
            all[next].clock.fetch_add(ran as u64, Ordering::Relaxed);
            turns[next] = all[next].turn();
            assert!(!poll(&mut turns[next]));
        }
        got
    }

    #[test]
    fn slices_are_in_proportion_to_the_weights() {
        let got = slices(&[8.0, 2.0, 1.0, 1.0], 6_000);
        for (got, ideal) in got.iter().zip([4_000, 1_000, 500, 500]) {
            assert!(got.abs_diff(ideal) < 60, "{got} of {ideal}");
        }
    }

    #[test]
    fn whoever_is_alone_has_it_all_and_whoever_slept_saved_nothing() {
        assert_eq!(slices(&[0.1], 100), [100]);
        let shares = Shares::new(1, Arc::default());
        let sleeper = shares.join(1.0, None);
        shares.lock().now = 10_000_000_000;
        let mut turn = sleeper.turn();
        assert!(!poll(&mut turn));
        let clock = sleeper.clock.load(Ordering::Relaxed);
        assert!(clock >= 10_000_000_000 - LAG_NS, "{clock}");
    }

    #[test]
    fn one_who_is_called_and_does_not_come_leaves_its_place_to_the_next() {
        let shares = Shares::new(1, Arc::default());
        let (one, two) = (shares.join(1.0, None), shares.join(1.0, None));
        let (mut first, mut second) = (one.turn(), two.turn());
        assert!(!poll(&mut first) && !poll(&mut second));
        assert!(!poll(&mut second), "the first has the only place");
        drop(first);
        assert!(poll(&mut second));
    }

    #[test]
    fn a_panic_gives_its_slice_back() {
        let shares = Shares::new(1, Arc::default());
        let (one, two) = (shares.join(1.0, None), shares.join(1.0, None));
        let (mut first, mut second) = (one.turn(), two.turn());
        assert!(!poll(&mut first) && !poll(&mut second));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            one.poll(|| {
                assert!(poll(&mut first), "it has the only place");
                panic!("a mistake in a host function");
            });
        }));
        assert!(panicked.is_err());
        assert!(poll(&mut second));
    }
}
