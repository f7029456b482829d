//! A real master on a free port with a real registry, spoken to as clients and agents speak.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where something is not as it should be"
)]

mod agents;
mod artifacts;
mod events;
mod explain;
mod hostile;
mod http;
mod legacy;
mod registry;
mod scheduler;
mod stores;
mod support;
