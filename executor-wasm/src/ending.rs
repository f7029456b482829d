//! From what a call of a guest came to, to how its task ended.

use std::fmt::Write as _;

use tepui_model::{format_bytes, plain};
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::{I32Exit, ResourceTableError};

use crate::engines::STACK_BYTES;
use crate::limits::{MemoryLimit, OutputLimit};
use crate::spec::TaskSpec;
use crate::verdict::Ending;

/// Longest backtrace in a status.
const BACKTRACE_BYTES: usize = 2_048;
/// Longest name of a function in it.
const NAME_BYTES: usize = 120;

pub(crate) fn ending(called: wasmtime::Result<i32>, spec: &TaskSpec, off: bool) -> Ending {
    let error = match called {
        Ok(status) => return Ending::Exited(status),
        Err(error) => error,
    };
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Ending::Exited(exit.0);
    }
    if let Some(limit) = error.downcast_ref::<MemoryLimit>() {
        return Ending::Memory(*limit);
    }
    if let Some(OutputLimit { limit }) = error.downcast_ref() {
        return Ending::Output { limit: *limit };
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return Ending::Handles {
            limit: spec.handles,
        };
    }
    match (error.downcast_ref::<Trap>(), spec.fuel_limit) {
        (Some(Trap::Interrupt), _) if off => Ending::Killed,
        (Some(Trap::OutOfFuel), Some(limit)) => Ending::Fuel { limit },
        (Some(trap), _) => Ending::Trapped {
            trap: match trap {
                Trap::StackOverflow => {
                    format!(
                        "{trap}: the stack limit of {} is reached",
                        format_bytes(STACK_BYTES as u64)
                    )
                }
                trap => trap.to_string(),
            },
            backtrace: place(&error),
        },
        (None, _) => Ending::Failed {
            message: causes(&error),
        },
    }
}

/// What went wrong, the root first; where is told apart.
fn causes(error: &wasmtime::Error) -> String {
    let place = error
        .downcast_ref::<WasmBacktrace>()
        .map(ToString::to_string);
    let mut causes: Vec<String> = error
        .chain()
        .map(ToString::to_string)
        .filter(|cause| Some(cause) != place.as_ref())
        .collect();
    causes.reverse();
    causes.dedup();
    let told = match causes.split_first() {
        None => "the host failed".to_owned(),
        Some((root, [])) => root.clone(),
        Some((root, around)) => format!("{root} ({})", around.join(", ")),
    };
    plain(bounded(&told, BACKTRACE_BYTES))
}

/// Where in the guest an error arose, one frame a line; nothing if that is not known.
pub(crate) fn place(error: &wasmtime::Error) -> String {
    let found = error.downcast_ref::<WasmBacktrace>();
    found.map(backtrace).unwrap_or_default()
}

fn backtrace(backtrace: &WasmBacktrace) -> String {
    let mut text = String::new();
    for (number, frame) in backtrace.frames().iter().enumerate() {
        let offset = frame.module_offset().unwrap_or(0);
        let written = match frame.func_name() {
            Some(name) => writeln!(text, "  {number}: {} at {offset:#x}", named(name)),
            None => writeln!(
                text,
                "  {number}: function {} at {offset:#x}",
                frame.func_index()
            ),
        };
        if written.is_err() || text.len() > BACKTRACE_BYTES {
            break;
        }
    }
    bounded(text.trim_end(), BACKTRACE_BYTES).to_owned()
}

/// A name a guest gave something, fit to be told.
pub(crate) fn named(name: &str) -> String {
    plain(bounded(name, NAME_BYTES))
}

/// The beginning of a text, cut between characters.
pub(crate) fn bounded(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(bounded("äöü", 3), "ä");
        assert_eq!(bounded("abc", 10), "abc");
    }

    #[test]
    fn a_root_cause_comes_first() {
        let error = wasmtime::Error::msg("pointer not aligned: 1").context("in fd_write");
        assert_eq!(causes(&error), "pointer not aligned: 1 (in fd_write)");
        assert_eq!(causes(&wasmtime::Error::msg("a\x1b")), "a\\u{1b}");
    }
}
