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
        Self::transport(cause_of(error))
    }

    pub(crate) fn transport(cause: impl ToString) -> Self {
        Self::Transport {
            cause: cause.to_string(),
        }
    }
}

/// What went wrong on the way to an answer, in words of ours for what broken servers do.
pub(crate) fn cause_of(error: &(dyn std::error::Error + 'static)) -> String {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, InvalidInput, UnexpectedEof,
    };
    let chain = || std::iter::successors(Some(error), |error| error.source());
    let http = || chain().filter_map(|error| error.downcast_ref::<hyper::Error>());
    let sockets = || chain().filter_map(|error| error.downcast_ref::<io::Error>());
    let is_any = |kinds: &[io::ErrorKind]| sockets().any(|error| kinds.contains(&error.kind()));
    if http().any(hyper::Error::is_incomplete_message)
        || is_any(&[
            UnexpectedEof,
            ConnectionReset,
            ConnectionAborted,
            BrokenPipe,
        ])
    {
        return "the server, or the way to it, broke off".to_owned();
    }
    // The outermost error only repeats the URL; the innermost one says what went wrong.
    let cause = innermost(error);
    // A body in chunks that are none is told as bad input.
    let is_nonsense = http().any(hyper::Error::is_parse)
        || http().next().is_some() && is_any(&[InvalidData, InvalidInput]);
    if is_nonsense {
        return format!("the server's answer is not HTTP: {cause}");
    }
    cause
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
