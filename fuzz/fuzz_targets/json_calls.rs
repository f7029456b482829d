//! JSON as the calls of schedulers, executors and operators.
#![no_main]

#[path = "../../api/tests/support/checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::calls(tepui_api::MediaType::Json, bytes));
