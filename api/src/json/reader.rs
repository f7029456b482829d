//! Reads messages out of a JSON tree as leniently as Mesos does, and remembers where it is so that errors can say which
//! field they are about.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Json, JsonEnum, Writer, base64};
use crate::required::MAX_NAMED;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("Failed to parse body into JSON: {0}")]
    Syntax(String),
    #[error("the body must be a JSON object")]
    NotAnObject,
    #[error("{path}: expected {expected}, found {found}")]
    Type {
        path: String,
        expected: &'static str,
        found: &'static str,
    },
    #[error("{path}: '{text}' is not {expected}")]
    Text {
        path: String,
        text: String,
        expected: &'static str,
    },
    #[error("{path}: the number {number} does not fit {expected}")]
    Range {
        path: String,
        number: String,
        expected: &'static str,
    },
    #[error("{path}: '{name}' is not one of the names known for this field")]
    EnumName { path: String, name: String },
    #[error(
        "{path}: the messages of this body would take more than {most} MiB of memory; send it in several calls"
    )]
    TooLarge { path: String, most: usize },
    #[error("Missing required fields: {}", .0.join(", "))]
    MissingRequired(Vec<String>),
}

/// An error repeats no more than this of a text it refuses.
const QUOTED_CHARACTERS: usize = 60;

/// Where the reader is in the body, and which required fields it has missed so far.
#[derive(Debug)]
pub struct Reader {
    path: Vec<Step>,
    missing: Vec<String>,
    /// What lists may take in memory, and do.
    most: usize,
    taken: usize,
}

#[derive(Debug)]
enum Step {
    Field(&'static str),
    Index(usize),
    Key(String),
}

type Object = Map<String, Value>;

impl Reader {
    /// For a body whose lists may take so much memory together.
    pub(super) fn within_bytes(most: usize) -> Self {
        Self {
            path: Vec::new(),
            missing: Vec::new(),
            most,
            taken: 0,
        }
    }

    /// Makes sure of the memory for so many elements.
    fn take_room<T>(&mut self, elements: usize) -> Result<(), JsonError> {
        let wanted = elements.saturating_mul(size_of::<T>());
        self.taken = self.taken.saturating_add(wanted);
        if self.taken > self.most {
            return Err(JsonError::TooLarge {
                path: self.here(),
                most: self.most >> 20,
            });
        }
        Ok(())
    }

    pub fn object<'a>(&self, value: &'a Value) -> Result<&'a Object, JsonError> {
        value
            .as_object()
            .ok_or_else(|| self.mismatch("an object", value))
    }

    /// Notes which of these are unset; reading goes on, so that one answer names all that is missing.
    pub fn require(&mut self, object: &Object, names: &[&'static str]) {
        for name in names {
            if present(object, name).is_none() && self.missing.len() < MAX_NAMED {
                self.path.push(Step::Field(name));
                self.missing.push(self.here());
                self.path.pop();
            }
        }
    }

    /// A field that [`Reader::require`] has checked: if it is missing, some value stands in until the end.
    pub fn required<T: Json + Default>(
        &mut self,
        object: &Object,
        name: &'static str,
    ) -> Result<T, JsonError> {
        Ok(self.optional(object, name)?.unwrap_or_default())
    }

    pub fn optional<T: Json>(
        &mut self,
        object: &Object,
        name: &'static str,
    ) -> Result<Option<T>, JsonError> {
        let Some(value) = present(object, name) else {
            return Ok(None);
        };
        self.within(Step::Field(name), |reader| T::read_json(value, reader))
            .map(Some)
    }

    pub fn repeated<T: Json>(
        &mut self,
        object: &Object,
        name: &'static str,
    ) -> Result<Vec<T>, JsonError> {
        self.elements(object, name, |value, reader| {
            T::read_json(value, reader).map(Some)
        })
    }

    pub fn map<T: Json>(
        &mut self,
        object: &Object,
        name: &'static str,
    ) -> Result<BTreeMap<String, T>, JsonError> {
        let Some(value) = present(object, name) else {
            return Ok(BTreeMap::new());
        };
        self.within(Step::Field(name), |reader| {
            let mut entries = BTreeMap::new();
            let object = reader.object(value)?;
            reader.take_room::<(String, T)>(object.len())?;
            for (key, value) in object {
                if !value.is_null() {
                    let value = reader
                        .within(Step::Key(key.clone()), |reader| T::read_json(value, reader))?;
                    entries.insert(key.clone(), value);
                }
            }
            Ok(entries)
        })
    }

    /// An unknown name leaves the field unset: it comes from a newer client.
    pub fn enumeration<E: JsonEnum>(
        &mut self,
        object: &Object,
        name: &'static str,
    ) -> Result<Option<i32>, JsonError> {
        let Some(value) = present(object, name) else {
            return Ok(None);
        };
        self.within(Step::Field(name), |reader| {
            Ok(E::number_of(reader.enum_name(value)?))
        })
    }

    pub fn required_enumeration<E: JsonEnum>(
        &mut self,
        object: &Object,
        name: &'static str,
    ) -> Result<i32, JsonError> {
        let Some(value) = present(object, name) else {
            return Ok(0);
        };
        self.within(Step::Field(name), |reader| {
            let text = reader.enum_name(value)?;
            E::number_of(text).ok_or_else(|| JsonError::EnumName {
                path: reader.here(),
                name: quoted(text),
            })
        })
    }

    pub fn repeated_enumeration<E: JsonEnum>(
        &mut self,
        object: &Object,
        name: &'static str,
    ) -> Result<Vec<i32>, JsonError> {
        self.elements(object, name, |value, reader| {
            Ok(E::number_of(reader.enum_name(value)?))
        })
    }

    pub(super) fn finish(self) -> Result<(), JsonError> {
        if self.missing.is_empty() {
            Ok(())
        } else {
            Err(JsonError::MissingRequired(self.missing))
        }
    }

    /// A value that is no list counts as a list of one.
    fn elements<T>(
        &mut self,
        object: &Object,
        name: &'static str,
        read: impl Fn(&Value, &mut Self) -> Result<Option<T>, JsonError>,
    ) -> Result<Vec<T>, JsonError> {
        let values = match present(object, name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        self.path.push(Step::Field(name));
        self.take_room::<T>(values.len())?;
        let mut elements = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            if !value.is_null() {
                elements.extend(self.within(Step::Index(index), |reader| read(value, reader))?);
            }
        }
        self.path.pop();
        Ok(elements)
    }

    fn enum_name<'a>(&self, value: &'a Value) -> Result<&'a str, JsonError> {
        value
            .as_str()
            .ok_or_else(|| self.mismatch("the name of an enum value", value))
    }

    /// On an error the path stays where it was; nobody reads on after one.
    fn within<T>(
        &mut self,
        step: Step,
        read: impl FnOnce(&mut Self) -> Result<T, JsonError>,
    ) -> Result<T, JsonError> {
        self.path.push(step);
        let result = read(self)?;
        self.path.pop();
        Ok(result)
    }

    fn mismatch(&self, expected: &'static str, found: &Value) -> JsonError {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        JsonError::Type {
            path: self.here(),
            expected,
            found,
        }
    }

    fn here(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            step.append(&mut text);
        }
        text
    }

    fn bad_text(&self, text: &str, expected: &'static str) -> JsonError {
        JsonError::Text {
            path: self.here(),
            text: quoted(text),
            expected,
        }
    }

    /// Reads an integer that must lie between the bounds; fractions are cut off.
    fn integer(
        &self,
        value: &Value,
        expected: &'static str,
        least: i128,
        most: i128,
    ) -> Result<i128, JsonError> {
        let number = match value {
            Value::Number(number) => whole(number),
            Value::String(text) => {
                Some(parse_whole(text.trim()).ok_or_else(|| self.bad_text(text, expected))?)
            }
            other => return Err(self.mismatch(expected, other)),
        };
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| JsonError::Range {
                path: self.here(),
                number: quoted(&value.to_string()),
                expected,
            })
    }

    fn double(&self, value: &Value) -> Result<f64, JsonError> {
        match value {
            Value::Number(number) => number
                .as_f64()
                .ok_or_else(|| self.bad_text(&number.to_string(), "a number")),
            Value::String(text) => match text.as_str() {
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                other => parse_double(other.trim()).ok_or_else(|| self.bad_text(other, "a number")),
            },
            other => Err(self.mismatch("a number", other)),
        }
    }
}

impl Step {
    fn append(&self, text: &mut String) {
        use fmt::Write;
        let written = match self {
            Self::Field(name) if text.is_empty() => write!(text, "{name}"),
            Self::Field(name) => write!(text, ".{name}"),
            Self::Index(index) => write!(text, "[{index}]"),
            Self::Key(key) => write!(text, "[{}]", quoted(key)),
        };
        written.expect("a string takes all");
    }
}

fn present<'a>(object: &'a Object, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// A text of the client's as errors repeat it: cut short and without control characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted: String = text
        .chars()
        .take(QUOTED_CHARACTERS)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(QUOTED_CHARACTERS).is_some() {
        quoted.push('…');
    }
    quoted
}

fn whole(number: &serde_json::Number) -> Option<i128> {
    if let Some(number) = number.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = number.as_u64() {
        return Some(number.into());
    }
    // The cast saturates at bounds far beyond those of any integer field.
    number.as_f64().map(|number| number as i128)
}

fn parse_whole(text: &str) -> Option<i128> {
    text.parse::<i128>()
        .ok()
        .or_else(|| parse_double(text).map(|number| number as i128))
}

/// Rust also reads words such as `inf` as doubles; the wire knows digits only.
fn parse_double(text: &str) -> Option<f64> {
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
    {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

macro_rules! integer {
    ($type:ty, $expected:literal) => {
        impl Json for $type {
            fn write_json(&self, writer: &mut Writer) {
                writer.integer(*self);
            }

            fn read_json(value: &Value, reader: &mut Reader) -> Result<Self, JsonError> {
                let number =
                    reader.integer(value, $expected, <$type>::MIN.into(), <$type>::MAX.into())?;
                Ok(<$type>::try_from(number).expect("checked against the bounds of the type"))
            }
        }
    };
}

integer!(i32, "a 32-bit integer");
integer!(u32, "an unsigned 32-bit integer");
integer!(i64, "a 64-bit integer");
integer!(u64, "an unsigned 64-bit integer");

impl Json for f64 {
    fn write_json(&self, writer: &mut Writer) {
        writer.double(*self);
    }

    fn read_json(value: &Value, reader: &mut Reader) -> Result<Self, JsonError> {
        reader.double(value)
    }
}

impl Json for bool {
    fn write_json(&self, writer: &mut Writer) {
        writer.boolean(*self);
    }

    fn read_json(value: &Value, reader: &mut Reader) -> Result<Self, JsonError> {
        match value {
            Value::Bool(value) => Ok(*value),
            Value::String(text) if text == "true" => Ok(true),
            Value::String(text) if text == "false" => Ok(false),
            Value::String(text) => Err(reader.bad_text(text, "a boolean")),
            other => Err(reader.mismatch("a boolean", other)),
        }
    }
}

impl Json for String {
    fn write_json(&self, writer: &mut Writer) {
        writer.text(self);
    }

    fn read_json(value: &Value, reader: &mut Reader) -> Result<Self, JsonError> {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| reader.mismatch("a string", value))
    }
}

impl Json for Bytes {
    fn write_json(&self, writer: &mut Writer) {
        writer.bytes(self);
    }

    fn read_json(value: &Value, reader: &mut Reader) -> Result<Self, JsonError> {
        let text = value
            .as_str()
            .ok_or_else(|| reader.mismatch("a string in base64", value))?;
        base64::decode(text)
            .map(Self::from)
            .ok_or_else(|| reader.bad_text(text, "base64"))
    }
}

/// Prost boxes messages that contain themselves.
impl<T: Json> Json for Box<T> {
    fn write_json(&self, writer: &mut Writer) {
        (**self).write_json(writer);
    }

    fn read_json(value: &Value, reader: &mut Reader) -> Result<Self, JsonError> {
        T::read_json(value, reader).map(Self::new)
    }
}
