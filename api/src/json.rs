//! Mesos's own mapping between JSON and protobuf, which is not the canonical one: names as in the proto files, 64-bit
//! integers as numbers, explicit defaults written out, and a reader that forgives much. Stock clients rely on all of it.

mod base64;
mod generated;
mod reader;
mod writer;

pub(crate) use reader::quoted;
pub use reader::{JsonError, Reader};
pub use writer::Writer;

use serde_json::Value;

use crate::required::MOST_OF_CALL;

/// What can be written as JSON and read back: all messages of `mesos.v1` and `tepui.v1`, and the scalars in them.
pub trait Json: Sized {
    fn write_json(&self, writer: &mut Writer);
    fn read_json(value: &Value, reader: &mut Reader) -> Result<Self, JsonError>;
}

/// Enums travel as names. Prost keeps them as numbers, so these translate between the two.
pub trait JsonEnum {
    fn name_of(number: i32) -> Option<&'static str>;
    fn number_of(name: &str) -> Option<i32>;
}

pub fn to_vec<M: Json>(message: &M) -> Vec<u8> {
    let mut writer = Writer::default();
    message.write_json(&mut writer);
    writer.into_bytes()
}

pub fn to_string<M: Json>(message: &M) -> String {
    String::from_utf8(to_vec(message)).expect("the writer emits ASCII only")
}

/// The message as a tree, for endpoints that put it into a larger answer.
pub fn to_value<M: Json>(message: &M) -> Value {
    serde_json::from_slice(&to_vec(message)).expect("the writer emits JSON")
}

pub fn from_slice<M: Json>(bytes: &[u8]) -> Result<M, JsonError> {
    let value =
        serde_json::from_slice(bytes).map_err(|error| JsonError::Syntax(error.to_string()))?;
    from_value(&value)
}

/// As [`from_slice`], for what a stranger sent: refused if its messages would take too much memory.
pub fn call_from_slice<M: Json>(bytes: &[u8]) -> Result<M, JsonError> {
    let value =
        serde_json::from_slice(bytes).map_err(|error| JsonError::Syntax(error.to_string()))?;
    read(&value, Reader::within_bytes(MOST_OF_CALL))
}

pub fn from_value<M: Json>(value: &Value) -> Result<M, JsonError> {
    read(value, Reader::within_bytes(usize::MAX))
}

fn read<M: Json>(value: &Value, mut reader: Reader) -> Result<M, JsonError> {
    if !value.is_object() {
        return Err(JsonError::NotAnObject);
    }
    let message = M::read_json(value, &mut reader)?;
    reader.finish()?;
    Ok(message)
}
