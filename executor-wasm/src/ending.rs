//! From what a call of a guest came to, to how its task ended.

use std::fmt::Write as _;

use tepui_model::format_bytes;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::{I32Exit, ResourceTableError};

use crate::engines::STACK_BYTES;
use crate::limits::{MemoryLimit, OutputLimit};
use crate::spec::{MemoryPolicy, TaskSpec};
use crate::verdict::Ending;

/// Longest backtrace in a status.
const BACKTRACE_BYTES: usize = 2_048;
/// Longest name of a function in it.
pub(crate) const NAME_BYTES: usize = 120;

pub(crate) fn ending(called: wasmtime::Result<i32>, spec: &TaskSpec, off: bool) -> Ending {
    let error = match called {
        Ok(status) => return Ending::Exited(status),
        Err(error) => error,
    };
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Ending::Exited(exit.0);
    }
    if let Some(limit) = error.downcast_ref::<MemoryLimit>()
        && spec.memory_policy == MemoryPolicy::EndTask
    {
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
            message: bounded(&format!("{error:#}"), BACKTRACE_BYTES).to_owned(),
        },
    }
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
            Some(name) => writeln!(
                text,
                "  {number}: {} at {offset:#x}",
                bounded(name, NAME_BYTES)
            ),
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
}
