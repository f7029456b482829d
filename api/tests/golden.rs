//! Bodies as real clients send them, and how they look when written again. `UPDATE_GOLDEN=1` rewrites the latter.

#![allow(
    clippy::unwrap_used,
    reason = "in a test that is a failure like any other"
)]

use std::path::Path;

use tepui_api::v1::{executor, master, scheduler};
use tepui_api::{Json, json};

/// `<name>.json` is what a client sent, `<name>.written.json` what we make of it.
fn check<M: Json + PartialEq + std::fmt::Debug>(name: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let sent = std::fs::read(directory.join(format!("{name}.json"))).unwrap();
    let message: M = json::from_slice(&sent).unwrap_or_else(|error| panic!("{name}: {error}"));
    let written = json::to_string(&message);
    assert_eq!(
        json::from_slice::<M>(written.as_bytes()).map(|again| json::to_string(&again)),
        Ok(written.clone())
    );
    let expected = directory.join(format!("{name}.written.json"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&expected, format!("{written}\n")).unwrap();
    }
    assert_eq!(
        written,
        std::fs::read_to_string(&expected).unwrap().trim_end(),
        "{name}"
    );
}

#[test]
fn calls_of_schedulers_are_read_as_they_come() {
    for name in [
        "subscribe",
        "subscribe_with_nulls",
        "accept_launch_with_nulls",
        "accept_custom_executor",
        "accept_nothing",
        "decline_with_null_filters",
        "kill_with_agent",
        "kill_without_agent",
        "reconcile",
        "reconcile_everything",
        "acknowledge",
    ] {
        check::<scheduler::Call>(name);
    }
}

#[test]
fn events_for_schedulers_are_written_as_they_always_are() {
    check::<scheduler::Event>("offers");
    check::<scheduler::Event>("update");
}

#[test]
fn calls_of_executors_and_operators_are_read_as_they_come() {
    check::<executor::Call>("executor_update");
    check::<master::Call>("drain_agent");
}
