//! Lines of `log.jsonl` in the sandbox: one JSON object each, with time, level, message and fields
//! (`tepui logs TASK --file log.jsonl`).

use crate::{Error, host};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// What happens.
    Info,
    /// What should not be so, but can be lived with.
    Warn,
    /// What has failed.
    Error,
}

/// Writes a line.
///
/// # Errors
/// `Invalid` if it is too long or has too many fields; `Unavailable` if the file cannot be written.
pub fn write(level: Level, message: &str, fields: &[(&str, &str)]) -> Result<(), Error> {
    host::log(level, message, fields)
}

/// As [`write`], with that level.
///
/// # Errors
/// As [`write`].
pub fn info(message: &str, fields: &[(&str, &str)]) -> Result<(), Error> {
    write(Level::Info, message, fields)
}

/// As [`write`], with that level.
///
/// # Errors
/// As [`write`].
pub fn warn(message: &str, fields: &[(&str, &str)]) -> Result<(), Error> {
    write(Level::Warn, message, fields)
}

/// As [`write`], with that level.
///
/// # Errors
/// As [`write`].
pub fn error(message: &str, fields: &[(&str, &str)]) -> Result<(), Error> {
    write(Level::Error, message, fields)
}
