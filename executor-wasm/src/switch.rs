//! Ends a guest from outside: at once, or for a service after what it has begun.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct Switch {
    off: AtomicBool,
    wake: Notify,
    /// Whether there is anything that could be finished first.
    patient: AtomicBool,
    grace: OnceLock<Duration>,
    drain: Notify,
}

impl Switch {
    pub(crate) fn turn_off(&self) {
        self.off.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Turns it off after a grace, if the guest can make use of one. Asked again, it does not take longer.
    pub(crate) fn wind_down(&self, grace: Duration) {
        if grace.is_zero() || !self.patient.load(Ordering::Acquire) {
            self.turn_off();
        } else if self.grace.set(grace).is_ok() {
            self.drain.notify_one();
        }
    }

    /// From now on [`wind_down`](Self::wind_down) gives time to finish.
    pub(crate) fn be_patient(&self) {
        self.patient.store(true, Ordering::Release);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    /// Waits until it is turned off.
    pub(crate) async fn off(&self) {
        while !self.is_off() {
            self.wake.notified().await;
        }
    }

    /// Waits until it is to be turned off after the time returned.
    pub(crate) async fn winding_down(&self) -> Duration {
        loop {
            if let Some(grace) = self.grace.get() {
                return *grace;
            }
            self.drain.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_patient_guest_is_given_time() {
        let hasty = Switch::default();
        hasty.wind_down(Duration::from_secs(1));
        assert!(hasty.is_off());
        let patient = Switch::default();
        patient.be_patient();
        patient.wind_down(Duration::from_secs(1));
        patient.wind_down(Duration::from_secs(9));
        assert!(!patient.is_off());
        assert_eq!(patient.winding_down().await, Duration::from_secs(1));
        patient.wind_down(Duration::ZERO);
        assert!(patient.is_off());
    }
}
