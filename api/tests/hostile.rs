//! Mutants of good bodies break no reader, and what a reader takes in can be written again.

#![allow(
    clippy::unwrap_used,
    reason = "in a test that is a failure like any other"
)]

#[path = "support/checks.rs"]
mod checks;
mod support;

use std::path::Path;

use support::mutate::attack;
use tepui_api::v1::{agent, executor, master, scheduler};
use tepui_api::{MediaType, json, proto, recordio};

fn golden() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    // The same order everywhere, or a seed would mean something else elsewhere.
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// The golden calls as protobuf.
fn protobuf() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for body in golden() {
        all.extend(json::from_slice::<scheduler::Call>(&body).map(|call| proto::to_vec(&call)));
        all.extend(json::from_slice::<executor::Call>(&body).map(|call| proto::to_vec(&call)));
        all.extend(json::from_slice::<master::Call>(&body).map(|call| proto::to_vec(&call)));
        all.extend(json::from_slice::<agent::Call>(&body).map(|call| proto::to_vec(&call)));
    }
    assert!(all.len() > 10);
    all
}

#[test]
fn mutated_json_breaks_no_reader() {
    attack(6_000, &golden(), |bytes| {
        checks::calls(MediaType::Json, bytes);
    });
}

#[test]
fn mutated_protobuf_breaks_no_reader() {
    attack(12_000, &protobuf(), |bytes| {
        checks::calls(MediaType::Protobuf, bytes);
    });
}

#[test]
fn mutated_records_are_cut_alike_wherever_the_chunks_end() {
    let mut good = Vec::new();
    for pair in golden().windows(2) {
        let mut stream = vec![3];
        for body in pair {
            stream.extend_from_slice(&recordio::encode(body));
        }
        good.push(stream);
    }
    attack(10_000, &good, checks::records);
}
