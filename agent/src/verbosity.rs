//! How much the agent logs, and for how long more than it was started with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

#[derive(Debug, Clone)]
pub(crate) struct Verbosity {
    set: Option<fn(u32)>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    level: u32,
    /// Goes back to what the agent was started with.
    reset: Option<AbortHandle>,
}

impl Verbosity {
    pub(crate) fn new(set: Option<fn(u32)>) -> Self {
        Self {
            set,
            state: Arc::default(),
        }
    }

    pub(crate) fn level(&self) -> u32 {
        self.lock().level
    }

    /// False if this process does not know how.
    pub(crate) fn raise(&self, level: u32, duration: Duration) -> bool {
        let Some(set) = self.set else { return false };
        set(level);
        let state = self.state.clone();
        let reset = tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.level = 0;
            set(0);
        });
        let mut state = self.lock();
        state.level = level;
        if let Some(earlier) = state.reset.replace(reset.abort_handle()) {
            earlier.abort();
        }
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
