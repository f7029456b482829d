//! What the tasks of a job (label `tepui.job`) remember together. It outlives each of them.

use crate::{Error, host};

/// A value and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes.
    pub value: Vec<u8>,
    /// Above 0; grows with every change of the store.
    pub version: u64,
}

/// On which version of a key a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum If {
    /// Whatever it is.
    #[default]
    Always,
    /// Only if the key does not exist.
    Absent,
    /// Only if it has this version.
    Version(u64),
}

impl If {
    pub(crate) fn version(self) -> Option<u64> {
        match self {
            Self::Always => None,
            Self::Absent => Some(0),
            Self::Version(version) => Some(version),
        }
    }
}

/// The value of a key. `None`: it does not exist.
///
/// # Errors
/// `NoJob`, `Invalid`, `Unavailable`.
pub fn get(key: &str) -> Result<Option<Entry>, Error> {
    host::get(key)
}

/// Sets a value and returns its version. It is on the master's disk then.
///
/// # Errors
/// `NoJob`, `Invalid`, `Full`, `Unavailable` (then it is not known whether it was done).
pub fn put(key: &str, value: &[u8]) -> Result<u64, Error> {
    put_if(key, value, If::Always)
}

/// As [`put`], on a condition.
///
/// # Errors
/// As [`put`]; `Conflict`, with the version that the key has.
pub fn put_if(key: &str, value: &[u8], condition: If) -> Result<u64, Error> {
    host::put(key, value, condition.version())
}

/// Removes a key and returns the version it had; 0 if it did not exist.
///
/// # Errors
/// As [`put_if`].
pub fn delete(key: &str, condition: If) -> Result<u64, Error> {
    host::delete(key, condition.version())
}

/// The keys that begin with the prefix, in order.
///
/// # Errors
/// As [`get`].
pub fn keys(prefix: &str) -> Result<Vec<String>, Error> {
    host::keys(prefix)
}

/// Changes a value, and begins anew from the one that is there whenever another was faster. `change` is given the value, if
/// there is one, and gives back the new one; it may be called several times.
///
/// # Errors
/// As [`put`].
pub fn update(
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> Vec<u8>,
) -> Result<Entry, Error> {
    loop {
        let (value, condition) = match get(key)? {
            Some(entry) => (change(Some(&entry.value)), If::Version(entry.version)),
            None => (change(None), If::Absent),
        };
        match put_if(key, &value, condition) {
            Ok(version) => return Ok(Entry { value, version }),
            Err(error) if error.code == crate::Code::Conflict => {}
            Err(error) => return Err(error),
        }
    }
}
