//! Why a call was not accepted, and why a subscription ended for good.

use std::time::Duration;

/// A call that was not accepted, or of which it is not known whether it was.
///
/// Acceptance is not success: the master answers 202 as soon as it has understood a call, and what comes of it follows as
/// events (a bad offer id, for instance, ends each of its tasks with `TASK_LOST` or `TASK_DROPPED`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {message}")]
#[non_exhaustive]
pub struct CallError {
    /// The call's type as on the wire: `ACCEPT`, `KILL`, …
    pub call: &'static str,
    /// The master's HTTP status: 400 for a call it does not understand or a subscription that another one has replaced,
    /// 401 and 403 for one it does not allow, 503 while it cannot serve. `None`: no answer came (there is no
    /// subscription at present, the connection broke, or the master took too long), and trying again may help.
    pub status: Option<u16>,
    /// The master's sentence, or what went wrong on the way.
    pub message: String,
}

/// Why there are no more events. Only a new [`connect`](crate::connect) helps, and mostly only after a human has looked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configured address of the master is none.
    #[error("{master:?} is no address of a master: {why}")]
    Address {
        /// As configured.
        master: String,
        /// What is wrong with it.
        why: String,
    },
    /// The master refuses the subscription.
    #[error("the master refuses the subscription ({status}): {message}")]
    Refused {
        /// Its HTTP status, 400 to 499.
        status: u16,
        /// Its sentence.
        message: String,
    },
    /// The master ended the subscription with an ERROR event: the framework was removed, another scheduler has taken it
    /// over, its description is not acceptable.
    #[error("the master ended the subscription: {message}")]
    Ended {
        /// Its sentence.
        message: String,
    },
    /// No subscription came about for as long as [`Config::give_up_after`](crate::Config::give_up_after) allows.
    #[error("no master could be subscribed with for {} s; the last attempt: {why}", .after.as_secs_f64())]
    GaveUp {
        /// How long it was tried.
        after: Duration,
        /// How the last attempt ended.
        why: String,
    },
}
