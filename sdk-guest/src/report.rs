//! How the task is doing, for its scheduler and for people. May be called as often as one likes: what is told is the latest,
//! about once a second.

use crate::{Error, host};

/// How far it is, between 0 and 1, and what it is at (empty: nothing is said).
///
/// # Errors
/// `Invalid` if the fraction is not between 0 and 1.
pub fn progress(fraction: f64, message: &str) -> Result<(), Error> {
    host::progress(Some(fraction), message)
}

/// What it is at, where it cannot be told how far that is.
///
/// # Errors
/// Only outside of wasm.
pub fn step(message: &str) -> Result<(), Error> {
    host::progress(None, message)
}

/// Whether it works as it should, with a sentence. If the task has a health check, that alone says how it is.
///
/// # Errors
/// Only outside of wasm.
pub fn health(healthy: bool, message: &str) -> Result<(), Error> {
    host::health(healthy, message)
}
