//! Ends a guest from outside: at once, or for a service after what it has begun.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

#[derive(Default)]
pub(crate) struct Switch {
    off: AtomicBool,
    wake: Notify,
    /// Whether there is anything that could be finished first.
    patient: AtomicBool,
    /// Until when it may be finished.
    end: watch::Sender<Option<Instant>>,
}

impl Switch {
    pub(crate) fn turn_off(&self) {
        self.off.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Has it turned off after a grace, if the guest can make use of one. Asked again, it takes shorter but never longer.
    pub(crate) fn wind_down(&self, grace: Duration) {
        if grace.is_zero() || !self.patient.load(Ordering::Acquire) {
            return self.turn_off();
        }
        // Further away than a clock can tell is as good as never.
        let Some(asked) = Instant::now().checked_add(grace) else {
            return;
        };
        self.end.send_if_modified(|end| {
            let sooner = end.is_none_or(|end| asked < end);
            if sooner {
                *end = Some(asked);
            }
            sooner
        });
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

    /// Waits until it is to be wound down.
    pub(crate) async fn winding_down(&self) {
        // The sender lives as long as this does.
        let _ = self.end.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until the last moment of winding down, which may come nearer meanwhile.
    pub(crate) async fn wound_down(&self) {
        let mut end = self.end.subscribe();
        loop {
            let at = *end.borrow_and_update();
            let Some(at) = at else {
                let _ = end.changed().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                _ = end.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_patient_guest_is_given_time_and_a_second_kill_can_only_shorten_it() {
        let hour = Duration::from_secs(3600);
        let hasty = Switch::default();
        hasty.wind_down(hour);
        assert!(hasty.is_off());
        let patient = Switch::default();
        patient.be_patient();
        patient.wind_down(hour);
        patient.winding_down().await;
        let shortened = async {
            patient.wind_down(Duration::from_millis(1));
            patient.wind_down(hour);
        };
        // Were it still the hour, nobody would see the end of this.
        tokio::join!(patient.wound_down(), shortened);
        assert!(!patient.is_off());
        patient.wind_down(Duration::ZERO);
        assert!(patient.is_off());
    }
}
