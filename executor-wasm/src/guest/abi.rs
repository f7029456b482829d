//! The interface of core modules: the functions of `tepui_guest_v1`, as `sdk-guest/c/tepui.h` describes them.
//!
//! Lengths are looked at before anything is copied. A pointer that leads out of the memory is a trap, as an access of the
//! guest's own there is.

use std::time::Duration;

use bytes::Bytes;
use tepui_api::guest::failure::Code;
use tepui_api::guest::{Delete, Failure, Find, Get, Keys, Put, answer, request};
use wasmtime::{Caller, Extern, Linker, Memory, Trap};

use crate::guest::{
    Guest, KEY_BYTES, LOG_BYTES, LOG_FIELDS, Level, MESSAGE_BYTES, Received, SENTENCE_BYTES,
    VALUE_BYTES, failure, unknown_answer, within,
};
use crate::store::State;

/// What core modules import from.
pub(crate) const MODULE: &str = "tepui_guest_v1";

const OK: i32 = 0;
/// Failures follow each other from here on, in the order of their codes.
const FIRST_FAILURE: i32 = 1;
const NONE: i32 = 7;
const TOO_SMALL: i32 = 8;

/// Of a pair in the memory of a 32-bit guest: two pointers, each with its length.
const PAIR_BYTES: u32 = 16;

/// Why a call does not go on.
enum Stop {
    /// The guest is told so.
    Failure(Failure),
    /// The guest ends.
    Trap(wasmtime::Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<wasmtime::Error> for Stop {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

type Done = Result<i32, Stop>;

fn out_of_bounds() -> Stop {
    Stop::Trap(Trap::MemoryOutOfBounds.into())
}

/// One call: its guest and the memory it speaks of.
struct Call<'a> {
    caller: Caller<'a, State>,
    memory: Memory,
}

/// Bytes of the guest.
#[derive(Clone, Copy)]
struct Span {
    at: u32,
    size: u32,
}

/// Where bytes for the guest go.
#[derive(Clone, Copy)]
struct Buffer {
    at: u32,
    capacity: u32,
    size_at: u32,
}

impl<'a> Call<'a> {
    fn new(mut caller: Caller<'a, State>) -> wasmtime::Result<Self> {
        let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
            wasmtime::bail!(
                "the module imports from {MODULE}, whose functions read and write its memory, but exports none as \"memory\""
            );
        };
        Ok(Self { caller, memory })
    }

    fn guest(&self) -> std::sync::Arc<Guest> {
        std::sync::Arc::clone(self.caller.data().guest())
    }

    fn slice(&self, span: Span) -> Result<&[u8], Stop> {
        let (at, size) = (span.at as usize, span.size as usize);
        let end = at.checked_add(size).ok_or_else(out_of_bounds)?;
        let data = self.memory.data(&self.caller);
        data.get(at..end).ok_or_else(out_of_bounds)
    }

    /// Text of at most so many bytes; `what` it is, for the refusal.
    fn text(&self, what: &str, span: Span, most: usize) -> Result<String, Stop> {
        within(what, span.size as usize, most)?;
        let text = std::str::from_utf8(self.slice(span)?)
            .map_err(|error| failure(Code::Invalid, format!("{what} must be UTF-8: {error}")))?;
        Ok(text.to_owned())
    }

    /// As `text`, but what is longer is cut.
    fn sentence(&self, what: &str, span: Span) -> Result<String, Stop> {
        // Room for the rest of a character that is cut through.
        let size = span.size.min(SENTENCE_BYTES as u32 + 3);
        let bytes = self.slice(Span { size, ..span })?;
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) if error.error_len().is_none() && size < span.size => {
                std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) => {
                let message = format!("{what} must be UTF-8: {error}");
                return Err(failure(Code::Invalid, message).into());
            }
        };
        Ok(text.to_owned())
    }

    fn bytes(&self, what: &str, span: Span, most: usize) -> Result<Bytes, Stop> {
        within(what, span.size as usize, most)?;
        Ok(Bytes::copy_from_slice(self.slice(span)?))
    }

    fn read_u64(&self, at: u32) -> Result<Option<u64>, Stop> {
        if at == 0 {
            return Ok(None);
        }
        let bytes = self.slice(Span { at, size: 8 })?;
        Ok(bytes.try_into().ok().map(u64::from_le_bytes))
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Stop> {
        self.memory
            .write(&mut self.caller, at as usize, bytes)
            .map_err(|_| out_of_bounds())
    }

    fn write_u64(&mut self, at: u32, value: u64) -> Result<(), Stop> {
        match at {
            0 => Ok(()),
            at => self.write(at, &value.to_le_bytes()),
        }
    }

    /// Whether bytes can be written there, seen before anything is done for them. Memories never shrink.
    fn check(&self, buffer: Buffer) -> Result<(), Stop> {
        self.slice(Span {
            at: buffer.at,
            size: buffer.capacity,
        })?;
        self.slice(Span {
            at: buffer.size_at,
            size: 4,
        })?;
        Ok(())
    }

    fn check_u64(&self, at: u32) -> Result<(), Stop> {
        match at {
            0 => Ok(()),
            at => self.slice(Span { at, size: 8 }).map(drop),
        }
    }

    fn give_size(&mut self, buffer: Buffer, size: usize) -> Result<(), Stop> {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.write(buffer.size_at, &size.to_le_bytes())
    }

    fn give(&mut self, buffer: Buffer, bytes: &[u8]) -> Done {
        self.give_size(buffer, bytes.len())?;
        if bytes.len() > buffer.capacity as usize {
            return Ok(TOO_SMALL);
        }
        self.write(buffer.at, bytes)?;
        Ok(OK)
    }

    fn give_if_there(&mut self, buffer: Buffer, text: Option<&str>) -> Done {
        match text {
            Some(text) => self.give(buffer, text.as_bytes()),
            None => {
                self.give_size(buffer, 0)?;
                Ok(NONE)
            }
        }
    }

    /// The status the guest is given.
    fn settle(mut self, done: Done) -> wasmtime::Result<i32> {
        match done {
            Ok(status) => Ok(status),
            Err(Stop::Trap(error)) => Err(error),
            Err(Stop::Failure(failure)) => {
                let status = FIRST_FAILURE + failure.code() as i32;
                self.caller.data_mut().set_last_failure(failure.message);
                Ok(status)
            }
        }
    }

    fn task_field(&mut self, field: i32, buffer: Buffer) -> Done {
        let guest = self.guest();
        let identity = guest.identity();
        let text = match field {
            0 => Some(guest.task_id()),
            1 => Some(identity.name.as_str()),
            2 => Some(identity.framework_id.as_str()),
            3 => Some(identity.role.as_str()),
            4 => Some(identity.agent_id.as_str()),
            5 => identity.job.as_deref(),
            _ => None,
        };
        self.give_if_there(buffer, text)
    }

    fn task_label(&mut self, key: Span, buffer: Buffer) -> Done {
        let key = self.text("a key", key, KEY_BYTES)?;
        let guest = self.guest();
        let mut labels = guest.identity().labels.iter();
        let found = labels.find(|(known, _)| *known == key);
        self.give_if_there(buffer, found.map(|(_, value)| value.as_str()))
    }

    fn task_labels(&mut self, buffer: Buffer) -> Done {
        let guest = self.guest();
        let labels = guest.identity().labels.iter();
        let list = list(labels.flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]));
        self.give(buffer, &list)
    }

    fn message_send(&mut self, message: Span) -> Done {
        let message = self.bytes("a message", message, MESSAGE_BYTES)?;
        self.guest().send(message)?;
        Ok(OK)
    }

    async fn message_receive(&mut self, timeout_ms: u32, buffer: Buffer) -> Done {
        self.check(buffer)?;
        let timeout = Duration::from_millis(timeout_ms.into());
        let guest = self.guest();
        match guest.receive(timeout, buffer.capacity as usize).await {
            Received::Message(message) => self.give(buffer, &message),
            Received::TooLong(size) => {
                self.give_size(buffer, size)?;
                Ok(TOO_SMALL)
            }
            Received::Nothing => self.give_if_there(buffer, None),
        }
    }

    async fn store_get(&mut self, key: Span, buffer: Buffer, version_at: u32) -> Done {
        self.check(buffer)?;
        self.check_u64(version_at)?;
        let key = self.text("a key", key, KEY_BYTES)?;
        let answer::Body::Value(value) = self.ask(request::Body::Get(Get { key })).await? else {
            return Err(unknown_answer().into());
        };
        let Some(entry) = value.entry else {
            self.write_u64(version_at, 0)?;
            return self.give_if_there(buffer, None);
        };
        self.write_u64(version_at, entry.version)?;
        self.give(buffer, &entry.value)
    }

    async fn store_put(
        &mut self,
        key: Span,
        value: Span,
        if_version_at: u32,
        version_at: u32,
    ) -> Done {
        self.check_u64(version_at)?;
        let put = Put {
            key: self.text("a key", key, KEY_BYTES)?,
            value: self.bytes("a value", value, VALUE_BYTES)?,
            if_version: self.read_u64(if_version_at)?,
        };
        self.change(request::Body::Put(put), version_at).await
    }

    async fn store_delete(&mut self, key: Span, if_version_at: u32, version_at: u32) -> Done {
        self.check_u64(version_at)?;
        let delete = Delete {
            key: self.text("a key", key, KEY_BYTES)?,
            if_version: self.read_u64(if_version_at)?,
        };
        self.change(request::Body::Delete(delete), version_at).await
    }

    async fn change(&mut self, body: request::Body, version_at: u32) -> Done {
        match self.ask(body).await {
            Ok(answer::Body::Stored(stored)) => {
                self.write_u64(version_at, stored.version)?;
                Ok(OK)
            }
            Ok(_) => Err(unknown_answer().into()),
            Err(Stop::Failure(failure)) => {
                if let Some(version) = failure.version {
                    self.write_u64(version_at, version)?;
                }
                Err(failure.into())
            }
            Err(stop) => Err(stop),
        }
    }

    async fn store_keys(&mut self, prefix: Span, buffer: Buffer) -> Done {
        self.check(buffer)?;
        let prefix = Some(self.text("a prefix", prefix, KEY_BYTES)?);
        let answer::Body::Keys(keys) = self.ask(request::Body::Keys(Keys { prefix })).await? else {
            return Err(unknown_answer().into());
        };
        self.give(buffer, &list(keys.keys.iter().map(String::as_bytes)))
    }

    async fn service_find(&mut self, name: Span, buffer: Buffer) -> Done {
        self.check(buffer)?;
        let name = self.text("a name", name, KEY_BYTES)?;
        let answer::Body::Endpoints(found) = self.ask(request::Body::Find(Find { name })).await?
        else {
            return Err(unknown_answer().into());
        };
        let mut items = Vec::new();
        for endpoint in &found.endpoints {
            let healthy = match endpoint.healthy {
                Some(true) => "1",
                Some(false) => "0",
                None => "",
            };
            items.extend([
                endpoint.host.clone(),
                endpoint.port.to_string(),
                endpoint.port_name().to_owned(),
                endpoint.protocol().to_owned(),
                endpoint.framework_id.value.clone(),
                endpoint.task_id.value.clone(),
                healthy.to_owned(),
            ]);
        }
        self.give(buffer, &list(items.iter().map(String::as_bytes)))
    }

    async fn ask(&mut self, body: request::Body) -> Result<answer::Body, Stop> {
        Ok(self.guest().ask(body).await?)
    }

    fn report_progress(&mut self, fraction: f64, message: Span) -> Done {
        let message = self.sentence("a message", message)?;
        let message = Some(message.as_str()).filter(|message| !message.is_empty());
        let fraction = Some(fraction).filter(|fraction| !fraction.is_nan());
        self.guest().progress(fraction, message)?;
        Ok(OK)
    }

    fn report_health(&mut self, healthy: bool, message: Span) -> Done {
        let message = self.sentence("a message", message)?;
        self.guest().health(healthy, &message);
        Ok(OK)
    }

    fn log_write(&mut self, level: i32, message: Span, fields_at: u32, count: u32) -> Done {
        let level = match level {
            0 => Level::Trace,
            1 => Level::Debug,
            2 => Level::Info,
            3 => Level::Warn,
            4 => Level::Error,
            _ => {
                let message = format!("there is no level {level}: they go from 0 to 4");
                return Err(failure(Code::Invalid, message).into());
            }
        };
        if count as usize > LOG_FIELDS {
            let message = format!("a line of the log may have {LOG_FIELDS} fields, not {count}");
            return Err(failure(Code::Invalid, message).into());
        }
        let message = self.text("a line of the log", message, LOG_BYTES)?;
        let mut left = LOG_BYTES - message.len();
        let table = Span {
            at: fields_at,
            // At most 64 of them.
            size: count * PAIR_BYTES,
        };
        let mut words = Vec::new();
        for word in self.slice(table)?.chunks_exact(4) {
            words.extend(word.try_into().map(u32::from_le_bytes));
        }
        let mut fields = Vec::new();
        for pair in words.chunks_exact(4) {
            let &[key_at, key_size, value_at, value_size] = pair else {
                continue;
            };
            let mut word = |at, size| {
                let text = self.text("a line of the log", Span { at, size }, left)?;
                left -= text.len();
                Ok::<_, Stop>(text)
            };
            fields.push((word(key_at, key_size)?, word(value_at, value_size)?));
        }
        self.guest().log(level, &message, &fields)??;
        Ok(OK)
    }
}

/// Byte strings one after another, each behind its length.
fn list<'a>(items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut list = Vec::new();
    for item in items {
        let size = u32::try_from(item.len()).unwrap_or(u32::MAX);
        list.extend(size.to_le_bytes());
        list.extend(item);
    }
    list
}

/// Links a function that does not wait.
macro_rules! link {
    ($linker:ident, $name:literal, |$call:ident $(, $argument:ident: $kind:ty)*| $body:expr) => {
        $linker.func_wrap(
            MODULE,
            $name,
            |caller: Caller<'_, State> $(, $argument: $kind)*| -> wasmtime::Result<i32> {
                let mut $call = Call::new(caller)?;
                let done = $body;
                $call.settle(done)
            },
        )?;
    };
}

/// Links a function whose guest may have to wait.
macro_rules! link_waiting {
    ($linker:ident, $name:literal, |$call:ident $(, $argument:ident: $kind:ty)*| $body:expr) => {
        $linker.func_wrap_async(
            MODULE,
            $name,
            |caller: Caller<'_, State>, ($($argument,)*): ($($kind,)*)| {
                Box::new(async move {
                    let mut $call = Call::new(caller)?;
                    let done = $body.await;
                    $call.settle(done)
                })
            },
        )?;
    };
}

fn span(at: u32, size: u32) -> Span {
    Span { at, size }
}

fn buffer(at: u32, capacity: u32, size_at: u32) -> Buffer {
    Buffer {
        at,
        capacity,
        size_at,
    }
}

/// Links all functions of the interface.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    link!(
        linker,
        "error_message",
        |call, at: u32, capacity: u32, size_at: u32| {
            let message = call.caller.data().last_failure().map(str::to_owned);
            call.give_if_there(buffer(at, capacity, size_at), message.as_deref())
        }
    );
    link!(
        linker,
        "task_field",
        |call, field: i32, at: u32, capacity: u32, size_at: u32| {
            call.task_field(field, buffer(at, capacity, size_at))
        }
    );
    linker.func_wrap(MODULE, "task_attempt", |caller: Caller<'_, State>| {
        caller.data().guest().identity().attempt
    })?;
    link!(
        linker,
        "task_label",
        |call, key: u32, key_size: u32, at: u32, capacity: u32, size_at: u32| {
            call.task_label(span(key, key_size), buffer(at, capacity, size_at))
        }
    );
    link!(
        linker,
        "task_labels",
        |call, at: u32, capacity: u32, size_at: u32| {
            call.task_labels(buffer(at, capacity, size_at))
        }
    );
    link!(linker, "message_send", |call, at: u32, size: u32| {
        call.message_send(span(at, size))
    });
    link_waiting!(
        linker,
        "message_receive",
        |call, timeout_ms: u32, at: u32, capacity: u32, size_at: u32| {
            call.message_receive(timeout_ms, buffer(at, capacity, size_at))
        }
    );
    linker.func_wrap(MODULE, "message_dropped", |caller: Caller<'_, State>| {
        caller.data().guest().dropped()
    })?;
    link_waiting!(
        linker,
        "store_get",
        |call, key: u32, key_size: u32, at: u32, capacity: u32, size_at: u32, version_at: u32| {
            call.store_get(
                span(key, key_size),
                buffer(at, capacity, size_at),
                version_at,
            )
        }
    );
    link_waiting!(
        linker,
        "store_put",
        |call, key: u32, key_size: u32, at: u32, size: u32, if_version_at: u32, version_at: u32| {
            call.store_put(
                span(key, key_size),
                span(at, size),
                if_version_at,
                version_at,
            )
        }
    );
    link_waiting!(
        linker,
        "store_delete",
        |call, key: u32, key_size: u32, if_version_at: u32, version_at: u32| {
            call.store_delete(span(key, key_size), if_version_at, version_at)
        }
    );
    link_waiting!(
        linker,
        "store_keys",
        |call, prefix: u32, prefix_size: u32, at: u32, capacity: u32, size_at: u32| {
            call.store_keys(span(prefix, prefix_size), buffer(at, capacity, size_at))
        }
    );
    link!(
        linker,
        "report_progress",
        |call, fraction: f64, at: u32, size: u32| {
            call.report_progress(fraction, span(at, size))
        }
    );
    link!(
        linker,
        "report_health",
        |call, healthy: i32, at: u32, size: u32| {
            call.report_health(healthy != 0, span(at, size))
        }
    );
    link!(
        linker,
        "log_write",
        |call, level: i32, at: u32, size: u32, fields_at: u32, count: u32| {
            call.log_write(level, span(at, size), fields_at, count)
        }
    );
    link_waiting!(
        linker,
        "service_find",
        |call, name: u32, name_size: u32, at: u32, capacity: u32, size_at: u32| {
            call.service_find(span(name, name_size), buffer(at, capacity, size_at))
        }
    );
    Ok(())
}
