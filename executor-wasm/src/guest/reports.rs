//! What a guest says of itself, held back so that it becomes few statuses: the newest counts.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tepui_api::ext::task_usage::Progress;

/// From one report of a task to its next.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Reports {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    progress: Option<Progress>,
    health: Option<(bool, String)>,
    progress_is_news: bool,
    health_is_news: bool,
    /// Somebody has been asked to fetch it.
    asked: bool,
    last: Option<Instant>,
}

/// What is to be told of a task.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Report {
    /// Where it is; also if that was told before.
    pub(crate) progress: Option<Progress>,
    /// Whether it was not.
    pub(crate) progress_is_news: bool,
    /// Set only if it was not told before.
    pub(crate) health: Option<(bool, String)>,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After how long it is to be fetched, if that has to be asked for.
    pub(crate) fn progress(
        &self,
        fraction: Option<f64>,
        message: Option<&str>,
    ) -> Option<Duration> {
        let mut state = self.lock();
        let same = state
            .progress
            .as_ref()
            .is_some_and(|known| known.fraction == fraction && known.message.as_deref() == message);
        if same {
            return None;
        }
        state.progress = Some(Progress {
            fraction,
            message: message.map(str::to_owned),
        });
        state.progress_is_news = true;
        state.ask()
    }

    /// The same of its health.
    pub(crate) fn health(&self, healthy: bool, message: &str) -> Option<Duration> {
        let mut state = self.lock();
        let known = state.health.as_ref();
        if known.is_some_and(|(known, text)| *known == healthy && text == message) {
            return None;
        }
        state.health = Some((healthy, message.to_owned()));
        state.health_is_news = true;
        state.ask()
    }

    pub(crate) fn take(&self) -> Report {
        let mut state = self.lock();
        state.asked = false;
        let report = Report {
            progress: state.progress.clone(),
            progress_is_news: std::mem::take(&mut state.progress_is_news),
            health: std::mem::take(&mut state.health_is_news)
                .then(|| state.health.clone())
                .flatten(),
        };
        if report.is_news() {
            state.last = Some(Instant::now());
        }
        report
    }
}

impl State {
    fn ask(&mut self) -> Option<Duration> {
        if std::mem::replace(&mut self.asked, true) {
            return None;
        }
        let since = self.last.map(|last| last.elapsed());
        Some(since.map_or(Duration::ZERO, |since| INTERVAL.saturating_sub(since)))
    }
}

impl Report {
    pub(crate) fn is_news(&self) -> bool {
        self.progress_is_news || self.health.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_asked_for_once_and_the_newest_is_told() {
        let reports = Reports::default();
        assert_eq!(reports.progress(Some(0.0), None), Some(Duration::ZERO));
        for step in 1..1_000 {
            assert_eq!(
                reports.progress(Some(f64::from(step) / 1e3), Some("on")),
                None
            );
            assert_eq!(reports.health(step % 2 == 0, "so"), None);
        }
        let report = reports.take();
        let progress = report.progress.as_ref().expect("it was said");
        assert_eq!((progress.fraction, progress.message()), (Some(0.999), "on"));
        assert_eq!(report.health, Some((false, "so".to_owned())));
        assert!(!reports.take().is_news());
        assert_eq!(
            reports.take().progress,
            report.progress,
            "it is known still"
        );
        let after = reports.progress(None, Some("then")).expect("it is news");
        assert!(after > Duration::ZERO && after <= INTERVAL);
    }

    #[test]
    fn the_same_again_is_no_news() {
        let reports = Reports::default();
        assert!(reports.progress(Some(0.5), None).is_some());
        assert!(reports.take().is_news());
        assert_eq!(reports.progress(Some(0.5), None), None);
        assert!(reports.health(true, "").is_some());
        assert_eq!(reports.health(true, ""), None);
    }
}
