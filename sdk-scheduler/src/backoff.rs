//! Random pauses, so that the frameworks of a master that comes back do not all knock at once.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The first ceiling.
const FIRST: Duration = Duration::from_millis(250);

pub(crate) struct Backoff {
    ceiling: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(max: Duration) -> Self {
        Self {
            ceiling: FIRST.min(max),
            max,
        }
    }

    /// A random part of the ceiling, which doubles for the next time.
    pub(crate) fn pause(&mut self) -> Duration {
        // The keys of a RandomState are the one source of chance in the standard library.
        let chance = RandomState::new().hash_one(self.ceiling);
        self.pause_by(chance)
    }

    fn pause_by(&mut self, chance: u64) -> Duration {
        let part = chance as f64 / u64::MAX as f64;
        let pause = self.ceiling.mul_f64(part);
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        pause
    }

    pub(crate) fn reset(&mut self) {
        self.ceiling = FIRST.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_maximum_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let pauses: Vec<_> = (0..4)
            .map(|_| backoff.pause_by(u64::MAX).as_millis())
            .collect();
        assert_eq!(pauses, [250, 500, 1000, 1000]);
        assert_eq!(backoff.pause_by(0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.pause_by(u64::MAX / 2).as_millis(), 125);
    }

    #[test]
    fn a_maximum_below_the_first_ceiling_holds_from_the_start() {
        let mut backoff = Backoff::new(Duration::from_millis(10));
        for _ in 0..100 {
            assert!(backoff.pause() <= Duration::from_millis(10));
        }
    }
}
