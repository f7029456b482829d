//! Bytes to and from the scheduler of the task's framework. Best effort both ways: a message can be lost, and nobody is told
//! whether one arrived. At most 64 KiB each.

use std::time::Duration;

use crate::{Error, host};

/// Hands a message over for sending.
///
/// # Errors
/// `Invalid` if it is too long, `Full` if too many wait to leave.
pub fn send(message: &[u8]) -> Result<(), Error> {
    host::send(message)
}

/// The next message; waits for one, with `Duration::ZERO` not at all. `None`: none came in that time, or the task is being
/// ended. All instances of a service share what comes.
///
/// # Errors
/// Only outside of wasm.
pub fn receive(timeout: Duration) -> Result<Option<Vec<u8>>, Error> {
    // What is not nothing waits a little.
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    host::receive(u32::try_from(milliseconds).unwrap_or(u32::MAX))
}

/// How many messages were lost here so far because too many waited, for sending or for being received.
pub fn dropped() -> u64 {
    host::dropped()
}
