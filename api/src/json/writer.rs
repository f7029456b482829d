//! Writes JSON into a growing buffer, and says how each kind of field is written. The output is one line of ASCII:
//! some clients split streams at newlines, others count characters instead of bytes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Json, JsonEnum, base64};

#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl Writer {
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    pub fn begin_object(&mut self) {
        self.out.push(b'{');
    }

    pub fn end_object(&mut self) {
        self.out.push(b'}');
    }

    pub fn required<T: Json>(&mut self, name: &'static str, value: &T) {
        self.field(name);
        value.write_json(self);
    }

    pub fn optional<T: Json>(&mut self, name: &'static str, value: &Option<T>) {
        if let Some(value) = value {
            self.required(name, value);
        }
    }

    pub fn defaulted<T: Json>(&mut self, name: &'static str, value: Option<T>, default: T) {
        self.required(name, &value.unwrap_or(default));
    }

    pub fn defaulted_string(&mut self, name: &'static str, value: &Option<String>, default: &str) {
        self.field(name);
        self.string(value.as_deref().unwrap_or(default));
    }

    /// A number without a name is dropped, as if the field were unset: readers know names only.
    pub fn enumeration<E: JsonEnum>(&mut self, name: &'static str, number: Option<i32>) {
        if let Some(value) = number.and_then(E::name_of) {
            self.field(name);
            self.string(value);
        }
    }

    pub fn defaulted_enumeration<E: JsonEnum>(
        &mut self,
        name: &'static str,
        number: Option<i32>,
        default: &str,
    ) {
        self.field(name);
        self.string(number.and_then(E::name_of).unwrap_or(default));
    }

    pub fn repeated<T: Json>(&mut self, name: &'static str, values: &[T]) {
        if values.is_empty() {
            return;
        }
        self.field(name);
        self.out.push(b'[');
        for value in values {
            self.separate();
            value.write_json(self);
        }
        self.out.push(b']');
    }

    pub fn repeated_enumeration<E: JsonEnum>(&mut self, name: &'static str, numbers: &[i32]) {
        let mut names = numbers
            .iter()
            .filter_map(|number| E::name_of(*number))
            .peekable();
        if names.peek().is_none() {
            return;
        }
        self.field(name);
        self.out.push(b'[');
        for value in names {
            self.separate();
            self.string(value);
        }
        self.out.push(b']');
    }

    pub fn map<T: Json>(&mut self, name: &'static str, entries: &BTreeMap<String, T>) {
        if entries.is_empty() {
            return;
        }
        self.field(name);
        self.begin_object();
        for (key, value) in entries {
            self.separate();
            self.string(key);
            self.out.push(b':');
            value.write_json(self);
        }
        self.end_object();
    }

    /// Field names come from the proto files and need no escapes.
    fn field(&mut self, name: &'static str) {
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// The first item after an opening bracket has no comma before it.
    fn separate(&mut self) {
        if !matches!(self.out.last(), None | Some(b'{' | b'[')) {
            self.out.push(b',');
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push(b'"');
        let bytes = text.as_bytes();
        let plain = |byte: &u8| (0x20..0x80).contains(byte) && *byte != b'"' && *byte != b'\\';
        if bytes.iter().all(plain) {
            self.out.extend_from_slice(bytes);
        } else {
            for character in text.chars() {
                self.character(character);
            }
        }
        self.out.push(b'"');
    }

    fn character(&mut self, character: char) {
        let escape = match character {
            '"' => b'"',
            '\\' => b'\\',
            '\n' => b'n',
            '\r' => b'r',
            '\t' => b't',
            '\u{8}' => b'b',
            '\u{c}' => b'f',
            ' '..='\u{7f}' => {
                self.out.push(character as u8);
                return;
            }
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let digit = |shift: u32| HEX[usize::from(*unit >> shift & 0xf)];
                    self.out.extend_from_slice(&[
                        b'\\',
                        b'u',
                        digit(12),
                        digit(8),
                        digit(4),
                        digit(0),
                    ]);
                }
                return;
            }
        };
        self.out.extend_from_slice(&[b'\\', escape]);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.string(text);
    }

    pub(super) fn boolean(&mut self, value: bool) {
        self.out
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub(super) fn integer(&mut self, value: impl itoa::Integer) {
        self.out
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Shortest form that reads back the same, always recognisable as a double. JSON has no infinities: they are
    /// strings.
    pub(super) fn double(&mut self, value: f64) {
        let text = if value.is_nan() {
            "\"NaN\""
        } else if value == f64::INFINITY {
            "\"Infinity\""
        } else if value == f64::NEG_INFINITY {
            "\"-Infinity\""
        } else {
            self.out
                .extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
            return;
        };
        self.out.extend_from_slice(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &Bytes) {
        self.out.push(b'"');
        self.out.extend_from_slice(base64::encode(bytes).as_bytes());
        self.out.push(b'"');
    }
}
