//! The processor time of guests.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::limits::Meter;

/// Counts the processor time of the polls of a guest. Host calls that were given to another thread are not in it.
pub(crate) struct Timed<F> {
    guest: Pin<Box<F>>,
    meter: Arc<Meter>,
}

impl<F> Timed<F> {
    pub(crate) fn new(guest: F, meter: Arc<Meter>) -> Self {
        Self {
            guest: Box::pin(guest),
            meter,
        }
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = thread_cpu_ns();
        let poll = self.guest.as_mut().poll(context);
        self.meter
            .add_cpu_ns(thread_cpu_ns().saturating_sub(before));
        poll
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
