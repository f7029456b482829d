//! Of a module: the functions of `tepui_guest_v1`, as `c/tepui.h` describes them.

use crate::log::Level;
use crate::services::Endpoint;
use crate::store::Entry;
use crate::{Code, Details, Error};

#[link(wasm_import_module = "tepui_guest_v1")]
unsafe extern "C" {
    fn error_message(buffer: *mut u8, capacity: usize, size: *mut usize) -> i32;
    fn task_field(field: i32, buffer: *mut u8, capacity: usize, size: *mut usize) -> i32;
    fn task_attempt() -> u32;
    fn task_labels(buffer: *mut u8, capacity: usize, size: *mut usize) -> i32;
    fn message_send(data: *const u8, size: usize) -> i32;
    fn message_receive(
        timeout_ms: u32,
        buffer: *mut u8,
        capacity: usize,
        size: *mut usize,
    ) -> i32;
    fn message_dropped() -> u64;
    fn store_get(
        key: *const u8,
        key_size: usize,
        buffer: *mut u8,
        capacity: usize,
        size: *mut usize,
        version: *mut u64,
    ) -> i32;
    fn store_put(
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        if_version: *const u64,
        version: *mut u64,
    ) -> i32;
    fn store_delete(
        key: *const u8,
        key_size: usize,
        if_version: *const u64,
        version: *mut u64,
    ) -> i32;
    fn store_keys(
        prefix: *const u8,
        prefix_size: usize,
        buffer: *mut u8,
        capacity: usize,
        size: *mut usize,
    ) -> i32;
    fn report_progress(fraction: f64, message: *const u8, message_size: usize) -> i32;
    fn report_health(healthy: i32, message: *const u8, message_size: usize) -> i32;
    fn log_write(
        level: i32,
        message: *const u8,
        message_size: usize,
        fields: *const Pair,
        count: usize,
    ) -> i32;
    fn service_find(
        name: *const u8,
        name_size: usize,
        buffer: *mut u8,
        capacity: usize,
        size: *mut usize,
    ) -> i32;
}

#[repr(C)]
struct Pair {
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
}

const OK: i32 = 0;
const NONE: i32 = 7;
const TOO_SMALL: i32 = 8;

/// What a buffer begins with; most of what is asked for is smaller.
const BUFFER_BYTES: usize = 1 << 10;
/// A message is never longer, so that none has to be asked for twice.
const MESSAGE_BYTES: usize = 64 << 10;

fn error(status: i32, version: Option<u64>) -> Error {
    // SAFETY: the pointers are those of `filled`'s buffer.
    let message = filled(BUFFER_BYTES, |buffer, capacity, size| unsafe {
        error_message(buffer, capacity, size)
    });
    let message = match message {
        Ok(message) => String::from_utf8_lossy(&message).into_owned(),
        Err(_) => format!("the agent answered {status}"),
    };
    Error {
        code: match status {
            2 => Code::Invalid,
            3 => Code::NoJob,
            4 => Code::Conflict,
            5 => Code::Full,
            6 => Code::Unavailable,
            _ => Code::Unknown,
        },
        message,
        version,
    }
}

/// Calls with ever larger buffers until what is given fits. The error is a status.
fn filled(
    mut capacity: usize,
    mut call: impl FnMut(*mut u8, usize, *mut usize) -> i32,
) -> Result<Vec<u8>, i32> {
    loop {
        let mut buffer = vec![0; capacity];
        let mut size = 0;
        match call(buffer.as_mut_ptr(), buffer.len(), &mut size) {
            OK => {
                buffer.truncate(size);
                return Ok(buffer);
            }
            TOO_SMALL => capacity = size,
            status => return Err(status),
        }
    }
}

/// As `filled`, for what may not be there.
fn filled_if_there(
    capacity: usize,
    call: impl FnMut(*mut u8, usize, *mut usize) -> i32,
) -> Result<Option<Vec<u8>>, Error> {
    match filled(capacity, call) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(NONE) => Ok(None),
        Err(status) => Err(error(status, None)),
    }
}

fn text(bytes: Vec<u8>) -> String {
    // The host gives UTF-8.
    String::from_utf8(bytes).unwrap_or_default()
}

/// The items of a list.
fn items(mut list: &[u8]) -> Vec<String> {
    let mut items = Vec::new();
    while let Some((size, rest)) = list.split_first_chunk() {
        let size = u32::from_le_bytes(*size) as usize;
        let Some((item, rest)) = rest.split_at_checked(size) else {
            break;
        };
        items.push(String::from_utf8_lossy(item).into_owned());
        list = rest;
    }
    items
}

fn done(status: i32) -> Result<(), Error> {
    match status {
        OK => Ok(()),
        status => Err(error(status, None)),
    }
}

pub(crate) fn details() -> Result<Details, Error> {
    let field = |field| {
        // SAFETY: the pointers are those of a buffer that lives during the call.
        let found = filled_if_there(BUFFER_BYTES, |buffer, capacity, size| unsafe {
            task_field(field, buffer, capacity, size)
        });
        Ok::<_, Error>(found?.map(text))
    };
    // SAFETY: as above.
    let labels = filled_if_there(BUFFER_BYTES, |buffer, capacity, size| unsafe {
        task_labels(buffer, capacity, size)
    });
    let mut words = items(&labels?.unwrap_or_default()).into_iter();
    let mut labels = Vec::new();
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        labels.push((key, value));
    }
    Ok(Details {
        id: field(0)?.unwrap_or_default(),
        name: field(1)?.unwrap_or_default(),
        framework_id: field(2)?.unwrap_or_default(),
        role: field(3)?.unwrap_or_default(),
        agent_id: field(4)?.unwrap_or_default(),
        // SAFETY: it takes nothing.
        attempt: unsafe { task_attempt() },
        job: field(5)?,
        labels,
    })
}

pub(crate) fn send(message: &[u8]) -> Result<(), Error> {
    // SAFETY: the bytes live during the call. So it is with all pointers below.
    done(unsafe { message_send(message.as_ptr(), message.len()) })
}

pub(crate) fn receive(timeout_ms: u32) -> Result<Option<Vec<u8>>, Error> {
    // SAFETY: see `send`.
    let mut received = filled_if_there(MESSAGE_BYTES, |buffer, capacity, size| unsafe {
        message_receive(timeout_ms, buffer, capacity, size)
    })?;
    // Whoever keeps many of them should not keep a buffer for each.
    if let Some(message) = &mut received {
        message.shrink_to_fit();
    }
    Ok(received)
}

pub(crate) fn dropped() -> u64 {
    // SAFETY: it takes nothing.
    unsafe { message_dropped() }
}

pub(crate) fn get(key: &str) -> Result<Option<Entry>, Error> {
    let mut version = 0;
    // SAFETY: see `send`.
    let value = filled_if_there(BUFFER_BYTES, |buffer, capacity, size| unsafe {
        store_get(
            key.as_ptr(),
            key.len(),
            buffer,
            capacity,
            size,
            &mut version,
        )
    })?;
    Ok(value.map(|value| Entry { value, version }))
}

fn changed(status: i32, version: u64) -> Result<u64, Error> {
    match status {
        OK => Ok(version),
        4 => Err(error(status, Some(version))),
        status => Err(error(status, None)),
    }
}

fn pointer(version: Option<&u64>) -> *const u64 {
    version.map_or(std::ptr::null(), |version| version)
}

pub(crate) fn put(key: &str, value: &[u8], if_version: Option<u64>) -> Result<u64, Error> {
    let mut version = 0;
    // SAFETY: see `send`.
    let status = unsafe {
        store_put(
            key.as_ptr(),
            key.len(),
            value.as_ptr(),
            value.len(),
            pointer(if_version.as_ref()),
            &mut version,
        )
    };
    changed(status, version)
}

pub(crate) fn delete(key: &str, if_version: Option<u64>) -> Result<u64, Error> {
    let mut version = 0;
    // SAFETY: see `send`.
    let status = unsafe {
        store_delete(
            key.as_ptr(),
            key.len(),
            pointer(if_version.as_ref()),
            &mut version,
        )
    };
    changed(status, version)
}

pub(crate) fn keys(prefix: &str) -> Result<Vec<String>, Error> {
    // SAFETY: see `send`.
    let list = filled_if_there(BUFFER_BYTES, |buffer, capacity, size| unsafe {
        store_keys(prefix.as_ptr(), prefix.len(), buffer, capacity, size)
    });
    Ok(items(&list?.unwrap_or_default()))
}

pub(crate) fn progress(fraction: Option<f64>, message: &str) -> Result<(), Error> {
    // A number that is none must not pass for not knowing.
    let fraction = match fraction {
        Some(fraction) if fraction.is_nan() => -1.0,
        Some(fraction) => fraction,
        None => f64::NAN,
    };
    // SAFETY: see `send`.
    done(unsafe { report_progress(fraction, message.as_ptr(), message.len()) })
}

pub(crate) fn health(healthy: bool, message: &str) -> Result<(), Error> {
    // SAFETY: see `send`.
    done(unsafe { report_health(i32::from(healthy), message.as_ptr(), message.len()) })
}

pub(crate) fn log(level: Level, message: &str, fields: &[(&str, &str)]) -> Result<(), Error> {
    let pairs: Vec<Pair> = fields
        .iter()
        .map(|(key, value)| Pair {
            key: key.as_ptr(),
            key_size: key.len(),
            value: value.as_ptr(),
            value_size: value.len(),
        })
        .collect();
    // SAFETY: see `send`; the texts outlive the pairs.
    done(unsafe {
        log_write(
            level as i32,
            message.as_ptr(),
            message.len(),
            pairs.as_ptr(),
            pairs.len(),
        )
    })
}

pub(crate) fn find(name: &str) -> Result<Vec<Endpoint>, Error> {
    // SAFETY: see `send`.
    let list = filled_if_there(BUFFER_BYTES, |buffer, capacity, size| unsafe {
        service_find(name.as_ptr(), name.len(), buffer, capacity, size)
    });
    let items = items(&list?.unwrap_or_default());
    let known = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let endpoints = items.chunks_exact(7).filter_map(|item| {
        let [host, port, port_name, protocol, framework_id, task_id, healthy] = item else {
            return None;
        };
        Some(Endpoint {
            host: host.clone(),
            port: port.parse().ok()?,
            port_name: known(port_name),
            protocol: known(protocol),
            framework_id: framework_id.clone(),
            task_id: task_id.clone(),
            healthy: known(healthy).map(|healthy| healthy == "1"),
        })
    });
    Ok(endpoints.collect())
}
