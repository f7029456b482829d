//! The implementations for all messages, generated from the proto files, and for the one message that is not ours.

#![allow(
    clippy::all,
    clippy::unwrap_used,
    unused_variables,
    unused_qualifications,
    reason = "written by the build script, message by message, even where one is empty"
)]

use serde_json::Value;

use super::{Json, JsonEnum, JsonError, Reader, Writer};

include!(concat!(env!("OUT_DIR"), "/json.rs"));

/// Mesos writes this as the plain message it is, not as `"600s"`.
impl Json for prost_types::Duration {
    fn write_json(&self, writer: &mut Writer) {
        writer.begin_object();
        writer.required("seconds", &self.seconds);
        writer.required("nanos", &self.nanos);
        writer.end_object();
    }

    fn read_json(value: &Value, reader: &mut Reader) -> Result<Self, JsonError> {
        let object = reader.object(value)?;
        Ok(Self {
            seconds: reader.optional(object, "seconds")?.unwrap_or(0),
            nanos: reader.optional(object, "nanos")?.unwrap_or(0),
        })
    }
}
