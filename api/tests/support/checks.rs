//! What must hold for any bytes at all, as functions of the bytes: the seeded test of this crate and the fuzz targets
//! of `fuzz/` call the same ones. A broken rule is a panic.

#![allow(
    clippy::unwrap_used,
    reason = "in a test that is a failure like any other"
)]
#![allow(dead_code, reason = "each user takes the part it needs")]

use std::fmt::Debug;

use bytes::Bytes;
use prost::Message;
use tepui_api::recordio::{self, Decoder, RecordError};
use tepui_api::required::Described;
use tepui_api::v1::{agent, executor, master, scheduler};
use tepui_api::{Json, MediaType, json, media, proto};

/// Small, so that a run meets records that are too long.
const LONGEST_RECORD: usize = 4096;

/// The records of some bytes and how they end do not depend on where the chunks were cut; the first byte says where.
pub(crate) fn records(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let at_once = cut_into_records(std::iter::once(bytes));
    let step = usize::from(*cut).max(1);
    assert_eq!(cut_into_records(bytes.chunks(step)), at_once);
    let mut written = Vec::new();
    for record in &at_once.0 {
        assert!(record.len() <= LONGEST_RECORD);
        written.extend_from_slice(&recordio::encode(record));
    }
    let again = cut_into_records(std::iter::once(written.as_slice()));
    assert_eq!(again, (at_once.0, None));
}

fn cut_into_records<'a>(
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Bytes>, Option<RecordError>) {
    let mut decoder = Decoder::new(LONGEST_RECORD);
    let mut records = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(error) => return (records, Some(error)),
            }
        }
    }
    (records, None)
}

/// The bytes as the call of every API.
pub(crate) fn calls(form: MediaType, bytes: &[u8]) {
    call::<scheduler::Call>(form, bytes);
    call::<executor::Call>(form, bytes);
    call::<master::Call>(form, bytes);
    call::<agent::Call>(form, bytes);
}

/// What was read can be written in both forms and reads back as the same.
fn call<M>(form: MediaType, bytes: &[u8])
where
    M: Json + Message + Described + Default + Debug,
{
    let Ok(call) = media::decode::<M>(form, bytes) else {
        return;
    };
    let written = proto::to_vec(&call);
    let again: M = proto::from_slice(&written).unwrap_or_else(|error| panic!("{error}: {call:?}"));
    assert_eq!(proto::to_vec(&again), written, "{call:?}");
    let text = json::to_string(&call);
    // Numbers that JSON does not have can come in protobuf; they are written by name, and not read.
    if ["\"NaN\"", "\"Infinity\"", "\"-Infinity\""]
        .iter()
        .any(|name| text.contains(name))
    {
        return;
    }
    let again: M =
        json::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(json::to_string(&again), text);
}
