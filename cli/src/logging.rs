//! What a server says of itself: to stderr and into its own log, as much as the operator wants to hear.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// What `TEPUI_LOG` says.
fn configured() -> EnvFilter {
    EnvFilter::try_from_env("TEPUI_LOG").unwrap_or_else(|_| EnvFilter::new("info"))
}

pub(crate) fn start() {
    let (filter, handle) = reload::Layer::new(configured());
    let to_stderr = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let to_master_log = fmt::layer()
        .with_ansi(false)
        .with_writer(|| tepui_master::Log);
    let to_agent_log = fmt::layer()
        .with_ansi(false)
        .with_writer(|| tepui_agent::Log);
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(to_stderr)
        .with(to_master_log)
        .with(to_agent_log)
        .try_init();
    // A second call (the executors share this) changes nothing.
    if started.is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Mesos's verbosity: 0 as the process was started, 1 for more of our own words, above that all of them.
pub(crate) fn set_verbosity(level: u32) {
    let filter = match level {
        0 => configured(),
        1 => EnvFilter::new("info,tepui_agent=debug,tepui_master=debug"),
        _ => EnvFilter::new("debug,tepui_agent=trace,tepui_master=trace"),
    };
    if let Some(Err(error)) = FILTER.get().map(|handle| handle.reload(filter)) {
        tracing::warn!(%error, "the verbosity was not changed");
    }
}
