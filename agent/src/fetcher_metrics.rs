//! What the fetcher counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::holders::Origin;
use crate::store::Store;

#[derive(Debug, Default)]
pub(crate) struct Figures {
    succeeded: AtomicU64,
    failed: AtomicU64,
    from_agents: AtomicU64,
    from_master: AtomicU64,
    from_uris: AtomicU64,
}

impl Figures {
    /// A task's wish has, or has not, been fulfilled.
    pub(crate) fn ended(&self, well: bool) {
        let counter = if well { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn arrived(&self, origin: Origin, bytes: u64) {
        let counter = match origin {
            Origin::Agent => &self.from_agents,
            Origin::Master => &self.from_master,
            Origin::Uri => &self.from_uris,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Those that Mesos has under its names; what arrived in bytes, thrown away or not, since the agent began.
    pub(crate) fn told(&self, store: &Store) -> Vec<(&'static str, f64)> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let (used, bound) = store.fill();
        vec![
            ("containerizer/fetcher/cache_size_total_bytes", bound as f64),
            ("containerizer/fetcher/cache_size_used_bytes", used as f64),
            (
                "containerizer/fetcher/task_fetches_failed",
                count(&self.failed),
            ),
            (
                "containerizer/fetcher/task_fetches_succeeded",
                count(&self.succeeded),
            ),
            ("tepui/fetcher/bytes_from_agents", count(&self.from_agents)),
            ("tepui/fetcher/bytes_from_master", count(&self.from_master)),
            ("tepui/fetcher/bytes_from_uris", count(&self.from_uris)),
        ]
    }
}
