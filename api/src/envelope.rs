//! How one executor's many tasks share the bytes between it and its scheduler: each MESSAGE to or from Tepui's wasm
//! executor is a JSON object that names the task.
//!
//! `{"task_id": "...", "text": "..."}`, or with bytes that are no text `{"task_id": "...", "data": "<base64>"}`. Further
//! fields are ignored.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A message to a task, or from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Whose.
    pub task_id: String,
    /// What it says.
    pub data: Bytes,
}

/// Why bytes are no envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// They are not JSON, or not of this form.
    #[error("it is not an object {{\"task_id\": ..., \"text\" or \"data\": ...}}: {0}")]
    Json(#[from] serde_json::Error),
    /// `task_id` is empty.
    #[error("its 'task_id' is empty")]
    NoTask,
    /// It has neither `text` nor `data`, or both.
    #[error("it must have either 'text' or 'data'")]
    Content,
    /// `data` is not base64.
    #[error("its 'data' is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    task_id: std::borrow::Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    text: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data: Option<std::borrow::Cow<'a, str>>,
}

impl Envelope {
    /// The bytes of a MESSAGE.
    pub fn encode(&self) -> Bytes {
        let (text, data) = match std::str::from_utf8(&self.data) {
            Ok(text) => (Some(text.into()), None),
            Err(_) => (None, Some(BASE64_STANDARD.encode(&self.data).into())),
        };
        let wire = Wire {
            task_id: self.task_id.as_str().into(),
            text,
            data,
        };
        // Strings alone are always JSON.
        serde_json::to_vec(&wire).unwrap_or_default().into()
    }

    /// Reads the bytes of a MESSAGE.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let wire: Wire<'_> = serde_json::from_slice(bytes)?;
        if wire.task_id.is_empty() {
            return Err(EnvelopeError::NoTask);
        }
        let data = match (wire.text, wire.data) {
            (Some(text), None) => text.into_owned().into_bytes(),
            (None, Some(data)) => BASE64_STANDARD.decode(data.as_bytes())?,
            _ => return Err(EnvelopeError::Content),
        };
        Ok(Self {
            task_id: wire.task_id.into_owned(),
            data: data.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_readable_and_bytes_survive() {
        let text = Envelope {
            task_id: "a \"b\"".to_owned(),
            data: Bytes::from_static("say \"ä\"\n".as_bytes()),
        };
        let wire = text.encode();
        assert_eq!(
            &wire[..],
            r#"{"task_id":"a \"b\"","text":"say \"ä\"\n"}"#.as_bytes()
        );
        assert_eq!(Envelope::decode(&wire).expect("it is one"), text);
        let bytes = Envelope {
            task_id: "t".to_owned(),
            data: Bytes::from_static(b"\xff\0"),
        };
        let wire = bytes.encode();
        assert_eq!(&wire[..], br#"{"task_id":"t","data":"/wA="}"#);
        assert_eq!(Envelope::decode(&wire).expect("it is one"), bytes);
    }

    #[test]
    fn whatever_else_is_refused() {
        for wire in [
            &b"hello"[..],
            b"\xff",
            br#"{"text":"x"}"#,
            br#"{"task_id":"","text":"x"}"#,
            br#"{"task_id":"t"}"#,
            br#"{"task_id":"t","text":"x","data":"eA=="}"#,
            br#"{"task_id":"t","data":"!"}"#,
            br#"{"task_id":7,"text":"x"}"#,
        ] {
            assert!(Envelope::decode(wire).is_err(), "{wire:?}");
        }
        let more = Envelope::decode(br#"{"more":1,"text":"","task_id":"t"}"#).expect("it is one");
        assert_eq!(&more.data[..], b"");
    }
}
