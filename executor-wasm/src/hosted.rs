//! What the host holds for a guest beside its memories: the fields of HTTP messages, and what bodies may have on their way.
//! It is in no memory of the guest, so it is counted here, by looking through what the guest has handles to.

use std::collections::BTreeSet;

use http::HeaderMap;
use wasmtime_wasi::ResourceTable;
use wasmtime_wasi_http::FieldMap;
use wasmtime_wasi_http::p2::bindings::http::types::{Method, Scheme};
use wasmtime_wasi_http::p2::body::{HostIncomingBody, HostOutgoingBody};
use wasmtime_wasi_http::p2::types::{
    HostFutureIncomingResponse, HostIncomingRequest, HostIncomingResponse, HostOutgoingRequest,
    HostOutgoingResponse,
};

use crate::http::BODY_BYTES;

/// What a name or a value costs beside its characters: its place in a map that is at most half empty.
const ENTRY_BYTES: usize = 144;
/// What a connection has read ahead.
const INCOMING_BYTES: u64 = 128 << 10;
/// Calls between two looks, at least and at most. One call adds at most what is between two bodies or two fields.
const CALLS: (u64, u64) = (16, 1_024);

/// When to look again. What the guest has room for bounds how long that may take.
#[derive(Debug, Default)]
pub(crate) struct Census {
    calls_left: u64,
}

impl Census {
    /// Counts a call and says whether to look.
    pub(crate) fn is_due(&mut self) -> bool {
        let due = self.calls_left == 0;
        self.calls_left = self.calls_left.saturating_sub(1);
        due
    }

    /// Says when to look again, by the bytes the guest may still take; `None` if nothing bounds it.
    pub(crate) fn took(&mut self, room: Option<u64>) {
        let (least, most) = CALLS;
        self.calls_left = room.map_or(most, |room| (room / BODY_BYTES).clamp(least, most));
    }
}

/// The bytes behind all handles of a table.
pub(crate) fn held(table: &mut ResourceTable) -> u64 {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for entry in table.iter_mut() {
        if let Some(map) = entry.downcast_ref::<FieldMap>() {
            bytes += fields(map, &mut seen);
        } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
            let method = match &request.method {
                Method::Other(method) => method.len(),
                _ => 0,
            };
            let scheme = match &request.scheme {
                Some(Scheme::Other(scheme)) => scheme.len(),
                _ => 0,
            };
            let words = [&request.authority, &request.path_with_query];
            let words: usize = words.into_iter().flatten().map(String::capacity).sum();
            bytes += (method + scheme + words) as u64;
            bytes += fields(&request.headers, &mut seen) + body(request.body.is_some());
        } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
            bytes += fields(&response.headers, &mut seen) + body(response.body.is_some());
        } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
            bytes += fields(&response.headers, &mut seen) + INCOMING_BYTES;
        } else if entry.is::<HostOutgoingBody>() {
            bytes += BODY_BYTES;
        } else if entry.is::<HostFutureIncomingResponse>() {
            bytes += BODY_BYTES + INCOMING_BYTES;
        } else if entry.is::<HostIncomingBody>() || entry.is::<HostIncomingRequest>() {
            bytes += INCOMING_BYTES;
        }
    }
    bytes
}

/// A map that is shared by several handles is counted once.
fn fields(fields: &FieldMap, seen: &mut BTreeSet<usize>) -> u64 {
    let map: &HeaderMap = fields;
    if !seen.insert(std::ptr::from_ref(map).addr()) {
        return 0;
    }
    let names: usize = map.keys().map(|name| name.as_str().len()).sum();
    let values: usize = map.values().map(|value| value.len()).sum();
    let entries = (map.keys_len() + map.len()) * ENTRY_BYTES;
    (names + values + entries) as u64
}

fn body(there_is_one: bool) -> u64 {
    if there_is_one { BODY_BYTES } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_once_however_many_handles_lead_to_them() {
        let mut table = ResourceTable::new();
        assert_eq!(held(&mut table), 0);
        let mut map = FieldMap::new_mutable(1 << 20);
        for number in 0..10 {
            let name = format!("x{number}").parse().expect("a name");
            let value = http::HeaderValue::from_bytes(&[b'a'; 1_000]).expect("a value");
            map.append_raw(name, value).expect("it fits");
        }
        table.push(map.clone()).expect("room");
        let once = held(&mut table);
        assert!((10_000..15_000).contains(&once), "{once}");
        table.push(map.clone()).expect("room");
        assert_eq!(held(&mut table), once);
        let name = "other".parse().expect("a name");
        let value = http::HeaderValue::from_static("b");
        map.append_raw(name, value).expect("it fits");
        table.push(map).expect("room");
        assert!(held(&mut table) > 2 * once);
    }

    #[test]
    fn looks_come_more_often_the_less_room_there_is() {
        let mut census = Census::default();
        let mut calls_until_due = |room| {
            census.took(room);
            (0..).find(|_| census.is_due()).expect("it comes")
        };
        assert_eq!(calls_until_due(Some(0)), CALLS.0);
        assert_eq!(calls_until_due(Some(100 * BODY_BYTES)), 100);
        assert_eq!(calls_until_due(None), CALLS.1);
    }
}
