//! A core dump of a guest that failed, left in its sandbox where its task asked for one.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use tepui_model::format_bytes;
use wasmtime::{Store, WasmCoreDump};
use wasmtime_wasi::I32Exit;

use crate::spec::TaskSpec;
use crate::store::State;

/// The file's name; the format is the tool conventions' for WebAssembly.
const NAME: &str = "coredump.wasm";

/// Writes the dump an error came with, if it is a failure and there is one. Gives a line about it.
pub(crate) fn write(error: &wasmtime::Error, store: &mut Store<State>, spec: &TaskSpec) -> String {
    if !spec.coredump || error.is::<I32Exit>() {
        return String::new();
    }
    let Some(dump) = error.downcast_ref::<WasmCoreDump>() else {
        return String::new();
    };
    let bytes = dump.serialize(store, &spec.task_id);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(spec.sandbox.join(NAME))
        .and_then(|mut file| file.write_all(&bytes));
    match written {
        Ok(()) => format!(
            "  {NAME} in the sandbox: {}",
            format_bytes(bytes.len() as u64)
        ),
        Err(error) => format!("  {NAME} could not be written: {error}"),
    }
}
