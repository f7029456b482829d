//! Record framing: the first byte says how long the chunks are.
#![no_main]

#[path = "../../api/tests/support/checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::records(bytes));
