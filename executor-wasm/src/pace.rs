//! The epoch clock, by which guests come to the end of a slice. It stands still while none computes, so that an executor
//! whose guests all wait costs nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Length of a slice.
const TICK: Duration = Duration::from_millis(2);
/// Slices without a guest on any thread after which the clock is stopped.
const QUIET: u32 = 50;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Guests on a thread right now.
    running: AtomicUsize,
    /// How many got onto one, ever.
    began: AtomicUsize,
    stopped: AtomicBool,
    /// Whether the clock stands still.
    still: Mutex<bool>,
    is_still: AtomicBool,
    changed: Condvar,
}

impl Pace {
    /// Calls `tick` at the end of each slice, until it is stopped.
    pub(crate) fn keep(&self, tick: impl Fn()) {
        let (mut quiet, mut seen) = (0, 0);
        while !self.stopped.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
            tick();
            let began = self.began.load(Ordering::SeqCst);
            let idle = self.running.load(Ordering::SeqCst) == 0 && began == seen;
            seen = began;
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet >= QUIET {
                quiet = 0;
                self.stand_still(seen);
            }
        }
    }

    fn stand_still(&self, seen: usize) {
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        *still = true;
        self.is_still.store(true, Ordering::SeqCst);
        // Whoever began before this was set is seen here; whoever begins later sees that it is set.
        if self.began.load(Ordering::SeqCst) != seen {
            *still = false;
        }
        while *still && !self.stopped.load(Ordering::SeqCst) {
            still = self
                .changed
                .wait(still)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.is_still.store(false, Ordering::SeqCst);
    }

    /// A guest gets onto a thread, until what is given back is dropped.
    pub(crate) fn run(&self) -> OnThread<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.began.fetch_add(1, Ordering::SeqCst);
        if self.is_still.load(Ordering::SeqCst) {
            self.go_on();
        }
        OnThread(self)
    }

    fn go_on(&self) {
        *self.still.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.go_on();
    }
}

pub(crate) struct OnThread<'a>(&'a Pace);

impl Drop for OnThread<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_clock_stops_when_nobody_computes_and_goes_on_with_the_next() {
        let pace = Arc::new(Pace::default());
        let ticks = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::spawn({
            let (pace, ticks) = (Arc::clone(&pace), Arc::clone(&ticks));
            move || {
                pace.keep(|| {
                    ticks.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        let stands = || pace.is_still.load(Ordering::SeqCst);
        for _ in 0..3 {
            while !stands() {
                std::thread::sleep(TICK);
            }
            let before = ticks.load(Ordering::SeqCst);
            let running = pace.run();
            while ticks.load(Ordering::SeqCst) < before + QUIET as usize + 2 {
                std::thread::sleep(TICK);
            }
            assert!(!stands());
            drop(running);
        }
        pace.stop();
        thread.join().expect("no panic");
    }
}
