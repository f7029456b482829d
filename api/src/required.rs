//! Looks for missing required fields in protobuf bytes. Prost fills them with zeros when it decodes, so afterwards
//! nobody can tell; before decoding, this can.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::json;

/// A message with rules to be checked against; implemented for all messages of this crate.
pub trait Described {
    /// The full name, such as `mesos.v1.scheduler.Call`.
    const NAME: &'static str;
    fn rules() -> &'static MessageRules;
}

/// The fields that matter: required ones, and those in which something can be missing.
#[derive(Debug)]
pub struct MessageRules {
    pub(crate) fields: &'static [FieldRule],
    /// Whether there is a map, in this message or further down, whose values have rules.
    pub(crate) has_maps: bool,
    /// What one takes in memory, without what it points to.
    size: usize,
    /// The message with nothing set but what must be.
    pub(crate) default: fn() -> Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct FieldRule {
    pub(crate) number: u32,
    name: &'static str,
    pub(crate) presence: Presence,
    pub(crate) content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Presence {
    Required,
    Optional,
    Repeated,
    Map,
}

#[derive(Debug)]
pub(crate) enum Content {
    Opaque,
    /// Whether a number has a name. One without counts as unset.
    Enum(fn(i32) -> bool),
    Message(&'static MessageRules),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequiredError {
    #[error("Missing required fields: {}", .0.join(", "))]
    Missing(Vec<String>),
    #[error("Failed to parse body into a protobuf message: {0}")]
    Malformed(String),
    #[error(
        "Failed to parse body into a protobuf message: it is nested deeper than {MAX_DEPTH} levels"
    )]
    TooDeep,
    #[error("The messages in it would take more than {} MiB of memory; send it in several calls", .0 >> 20)]
    TooLarge(usize),
}

/// An error names no more fields than these, however many a hostile body makes us miss.
pub(crate) const MAX_NAMED: usize = 100;
/// As deep as prost itself decodes.
const MAX_DEPTH: usize = 100;

/// What the elements of all lists of one call may take in memory together, in bytes. Two bytes of a body can be an empty
/// message that takes a thousand times as much.
pub const MOST_OF_CALL: usize = 128 << 20;

/// Passes what has all its required fields. What is no protobuf at all may pass too: decoding will find out.
pub fn check(bytes: &[u8], rules: &'static MessageRules) -> Result<(), RequiredError> {
    check_within(bytes, rules, usize::MAX)
}

/// As [`check`], for what whose lists take no more than so many bytes of memory.
pub fn check_within(
    bytes: &[u8],
    rules: &'static MessageRules,
    most: usize,
) -> Result<(), RequiredError> {
    let mut missing = Vec::new();
    let mut path = String::new();
    let mut room = Room { most, taken: 0 };
    check_message(bytes, rules, &mut path, &mut missing, &mut room, 0)?;
    if missing.is_empty() {
        Ok(())
    } else {
        Err(RequiredError::Missing(missing))
    }
}

/// How much memory lists take, and may.
struct Room {
    most: usize,
    taken: usize,
}

fn check_message(
    bytes: &[u8],
    rules: &'static MessageRules,
    path: &mut String,
    missing: &mut Vec<String>,
    room: &mut Room,
    depth: usize,
) -> Result<(), RequiredError> {
    if depth > MAX_DEPTH {
        return Err(RequiredError::TooDeep);
    }
    let Found { present, inner } = scan(bytes, rules, room)?;
    for (index, rule) in rules.fields.iter().enumerate() {
        if rule.presence == Presence::Required
            && present & 1 << index == 0
            && missing.len() < MAX_NAMED
        {
            missing.push(extended(path, rule.name));
        }
    }
    for (index, rule) in rules.fields.iter().enumerate() {
        let Content::Message(content) = &rule.content else {
            continue;
        };
        let mut of_field = inner
            .iter()
            .filter(|(of, _)| *of == index)
            .map(|(_, bytes)| *bytes)
            .peekable();
        if of_field.peek().is_none() {
            continue;
        }
        let length = path.len();
        *path = extended(path, rule.name);
        match rule.presence {
            Presence::Required | Presence::Optional => {
                // A singular message may come in pieces, and the pieces make one message when put together.
                let first = of_field.next().unwrap_or_default();
                if of_field.peek().is_none() {
                    check_message(first, content, path, missing, room, depth + 1)?;
                } else {
                    let whole: Vec<u8> = first.iter().chain(of_field.flatten()).copied().collect();
                    check_message(&whole, content, path, missing, room, depth + 1)?;
                }
            }
            Presence::Repeated | Presence::Map => {
                for (position, bytes) in of_field.enumerate() {
                    let field_length = path.len();
                    let (label, bytes) = if rule.presence == Presence::Map {
                        let (key, Some(value)) = map_entry(bytes)? else {
                            continue;
                        };
                        (json::quoted(&key), value)
                    } else {
                        (position.to_string(), bytes)
                    };
                    path.push_str(&format!("[{label}]"));
                    check_message(bytes, content, path, missing, room, depth + 1)?;
                    path.truncate(field_length);
                }
            }
        }
        path.truncate(length);
    }
    Ok(())
}

/// What one pass over a message finds.
struct Found<'a> {
    /// Which fields are there, as bits by position in the rules.
    present: u64,
    /// The bytes of the inner messages, each with the position of its field.
    inner: Vec<(usize, &'a [u8])>,
}

fn scan<'a>(
    mut bytes: &'a [u8],
    rules: &MessageRules,
    room: &mut Room,
) -> Result<Found<'a>, RequiredError> {
    let (mut present, mut inner) = (0_u64, Vec::new());
    while bytes.has_remaining() {
        let (number, wire_type) = decode_key(&mut bytes).map_err(malformed)?;
        let rule = rules.fields.iter().position(|rule| rule.number == number);
        match rule.map(|index| (index, &rules.fields[index].content)) {
            Some((index, Content::Message(content))) if wire_type == WireType::LengthDelimited => {
                room.taken = room.taken.saturating_add(content.size);
                if room.taken > room.most {
                    return Err(RequiredError::TooLarge(room.most));
                }
                inner.push((index, delimited(&mut bytes)?));
                present |= 1 << index;
            }
            Some((index, Content::Enum(is_known))) if wire_type == WireType::Varint => {
                // Enum numbers are 32 bits wide; prost cuts off the rest as well.
                if is_known(decode_varint(&mut bytes).map_err(malformed)? as i32) {
                    present |= 1 << index;
                }
            }
            Some((index, Content::Opaque)) => {
                present |= 1 << index;
                skip_field(wire_type, number, &mut bytes, DecodeContext::default())
                    .map_err(malformed)?;
            }
            _ => skip_field(wire_type, number, &mut bytes, DecodeContext::default())
                .map_err(malformed)?,
        }
    }
    Ok(Found { present, inner })
}

/// The key of a map entry and the bytes of its value. Peers that use prost leave out a value full of zeros (see
/// [`crate::map_values`]), so an entry without one lacks nothing.
fn map_entry(mut bytes: &[u8]) -> Result<(String, Option<&[u8]>), RequiredError> {
    let (mut key, mut value) = (String::new(), None);
    while bytes.has_remaining() {
        let (number, wire_type) = decode_key(&mut bytes).map_err(malformed)?;
        match (number, wire_type) {
            (1, WireType::LengthDelimited) => {
                key = String::from_utf8_lossy(delimited(&mut bytes)?).into_owned()
            }
            (2, WireType::LengthDelimited) => value = Some(delimited(&mut bytes)?),
            _ => skip_field(wire_type, number, &mut bytes, DecodeContext::default())
                .map_err(malformed)?,
        }
    }
    Ok((key, value))
}

fn delimited<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], RequiredError> {
    let length = decode_varint(bytes).map_err(malformed)?;
    let split = usize::try_from(length)
        .ok()
        .and_then(|length| bytes.split_at_checked(length));
    let (content, rest) =
        split.ok_or_else(|| RequiredError::Malformed("a field ends beyond the body".to_owned()))?;
    *bytes = rest;
    Ok(content)
}

fn extended(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "has the shape that map_err wants"
)]
fn malformed(error: prost::DecodeError) -> RequiredError {
    RequiredError::Malformed(error.to_string())
}

include!(concat!(env!("OUT_DIR"), "/rules.rs"));
