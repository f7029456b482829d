//! Why bytes did not come, each cause with what to do about it.

use std::io;
use std::time::Duration;

/// How many redirects are followed.
pub(crate) const MAX_REDIRECTS: usize = 10;

/// Why a source did not give its bytes. The sentences do not name the source; whoever asked knows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the server answered {status}{}", advice(*code))]
    Status { code: u16, status: String },
    #[error(
        "it redirects more than {MAX_REDIRECTS} times, in a circle perhaps; name the URI where it should end"
    )]
    Redirects,
    #[error("{cause}")]
    Transport { cause: String },
    #[error("{}", stalled(.after, *.got, *.least))]
    Stalled {
        after: Duration,
        got: u64,
        least: u64,
    },
    #[error("the body ended after {got} of {expected} bytes")]
    Truncated { got: u64, expected: u64 },
    #[error("it has more than {}, the most that is taken here", tepui_model::format_bytes(*limit))]
    TooLarge { limit: u64 },
    #[error(
        "its sha256 is {got}, but {expected} was asked for; another file lies there now, or it was changed on its way"
    )]
    Digest { expected: String, got: String },
    #[error("the disk is full; make room on this machine, or let less be kept there")]
    DiskFull,
    #[error("{cause}")]
    File { cause: String },
    #[error("there is no {what}; check the URI")]
    Missing { what: String },
    #[error("{who} refuses to give it; {remedy}")]
    Denied { who: String, remedy: &'static str },
    #[error("it changed while it was read")]
    Changed,
    /// Something this process was not told and has to be.
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Registry(String),
}

impl Error {
    /// Whether asking again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { code, .. } => matches!(code, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            Self::Transport { .. }
            | Self::Stalled { .. }
            | Self::Truncated { .. }
            | Self::Changed => true,
            _ => false,
        }
    }

    /// Whether another source of the same bytes could not do better.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::DiskFull | Self::TooLarge { .. })
    }

    /// Of a disk of this machine.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            io::ErrorKind::NotFound => Self::File {
                cause: "there is no such file on this machine".to_owned(),
            },
            _ => Self::File {
                cause: error.to_string(),
            },
        }
    }

    pub(crate) fn of_http(error: &reqwest::Error) -> Self {
        if error.is_redirect() {
            return Self::Redirects;
        }
        // The outermost error only repeats the URL; the innermost one says what went wrong.
        Self::transport(innermost(error))
    }

    pub(crate) fn transport(cause: impl ToString) -> Self {
        Self::Transport {
            cause: cause.to_string(),
        }
    }
}

pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn advice(code: u16) -> &'static str {
    match code {
        401 | 403 => "; it must let this machine read it",
        404 | 410 => "; check the URI",
        429 => "; ask it less often, or let it allow more",
        500..=599 => "; try again when the server is well",
        _ => "",
    }
}

fn stalled(after: &Duration, got: u64, least: u64) -> String {
    let seconds = after.as_secs_f64();
    if got == 0 {
        format!("nothing arrived for {seconds} s; the server, or the way to it, stands still")
    } else {
        format!(
            "only {got} bytes arrived in {seconds} s, and a transfer must make {least}; the server, or the way to it, is too slow"
        )
    }
}
