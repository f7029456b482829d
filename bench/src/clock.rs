//! How long something took, on the clock on the wall and on a processor. On a machine that is shared only the latter
//! says what the work costs.

use std::ops::Div;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) wall: Duration,
    /// Of this thread.
    pub(crate) cpu: Duration,
}

pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: thread_cpu(),
        }
    }

    pub(crate) fn span(&self) -> Span {
        Span {
            cpu: thread_cpu().saturating_sub(self.cpu),
            wall: self.wall.elapsed(),
        }
    }
}

impl Div<u32> for Span {
    type Output = Self;

    fn div(self, count: u32) -> Self {
        Self {
            wall: self.wall / count,
            cpu: self.cpu / count,
        }
    }
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec that outlives the call, which writes nothing else.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every thread has a CPU clock");
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}
