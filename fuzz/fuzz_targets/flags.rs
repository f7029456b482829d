//! Text as operators write it into flags: resources, quantities, attributes, roles, durations, sizes, ids.
#![no_main]

#[path = "../../model/tests/support/checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::text(bytes));
