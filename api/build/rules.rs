//! For each message the table of what protobuf input must contain, and the list of all messages for tests.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::names;
use crate::schema::{Field, Kind, Presence, Schema};

pub(crate) fn generate(schema: &Schema) -> String {
    let strict = messages_reaching(schema, |field| matches!(field.presence, Presence::Required));
    let with_maps = messages_reaching(schema, |field| {
        matches!(field.presence, Presence::Map(_))
            && content(field).is_some_and(|name| strict.contains(name))
    });
    let mut out = String::new();
    for message in schema.messages.values() {
        let fields: Vec<String> = message
            .fields
            .iter()
            .filter_map(|field| rule(field, &strict))
            .collect();
        let required = message
            .fields
            .iter()
            .filter(|field| matches!(field.presence, Presence::Required))
            .count();
        assert!(
            required <= 64,
            "{} has more required fields than a u64 has bits",
            message.name
        );
        let (constant, path) = (
            names::constant(&message.name),
            names::path("crate", &message.name),
        );
        writeln!(
            out,
            "static {constant}: MessageRules = MessageRules {{
    fields: &[{}],
    has_maps: {},
    size: size_of::<{path}>(),
    default: || prost::Message::encode_to_vec(&{path}::default()),
}};
impl Described for {path} {{
    const NAME: &'static str = {:?};
    fn rules() -> &'static MessageRules {{ &{constant} }}
}}",
            fields.join(", "),
            with_maps.contains(message.name.as_str()),
            message.name,
        )
        .expect("a string takes all");
    }
    out
}

/// A list that the tests include: all messages that exist in JSON, each with its type.
pub(crate) fn generate_list(schema: &Schema) -> String {
    let mut out = String::from("every_message! {\n");
    for message in schema.spoken() {
        writeln!(
            out,
            "    {:?} => {},",
            message.name,
            names::path("tepui_api", &message.name)
        )
        .expect("a string takes all");
    }
    out.push_str("}\n");
    out
}

/// The messages with such a field, directly or further down.
fn messages_reaching(schema: &Schema, wanted: impl Fn(&Field) -> bool) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for message in schema.messages.values() {
            let reaches = |field: &Field| {
                wanted(field) || content(field).is_some_and(|name| found.contains(name))
            };
            if message.fields.iter().any(reaches) {
                found.insert(message.name.as_str());
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

fn content(field: &Field) -> Option<&str> {
    match (&field.presence, &field.kind) {
        (Presence::Map(Kind::Message(name)), _) => Some(name),
        (Presence::Map(_), _) => None,
        (_, Kind::Message(name)) => Some(name),
        _ => None,
    }
}

fn rule(field: &Field, strict: &BTreeSet<&str>) -> Option<String> {
    let content = content(field).filter(|name| strict.contains(name));
    if !matches!(field.presence, Presence::Required) && content.is_none() {
        return None;
    }
    let presence = match field.presence {
        Presence::Required => "Required",
        Presence::Repeated => "Repeated",
        Presence::Map(_) => "Map",
        _ => "Optional",
    };
    let content = match (content, &field.kind) {
        (Some(name), _) => format!("Content::Message(&{})", names::constant(name)),
        (None, Kind::Enum(name)) => {
            format!(
                "Content::Enum(|number| {}::try_from(number).is_ok())",
                names::path("crate", name)
            )
        }
        (None, _) => "Content::Opaque".to_owned(),
    };
    Some(format!(
        "FieldRule {{ number: {}, name: {:?}, presence: Presence::{presence}, content: {content} }}",
        field.number, field.name
    ))
}
