//! Random messages of every type, written and read in all ways, with prost-reflect as the second opinion.

#![allow(
    clippy::unwrap_used,
    reason = "in a test that is a failure like any other"
)]

mod support;

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage, SerializeOptions, Value as ProtoValue,
};
use serde_json::Value;
use support::Random;
use tepui_api::required::Described;
use tepui_api::{Json, json, proto};

/// The functions of one message type, behind one signature.
struct Codec {
    /// Protobuf to protobuf, JSON to protobuf, protobuf to JSON; errors as text.
    reencode: fn(&[u8]) -> Result<Vec<u8>, String>,
    from_json: fn(&[u8]) -> Result<Vec<u8>, String>,
    to_json: fn(&[u8]) -> Result<String, String>,
}

fn codec<M: Json + Message + Default + Described>() -> Codec {
    Codec {
        reencode: |bytes| {
            proto::from_slice::<M>(bytes)
                .map(|message| proto::to_vec(&message))
                .map_err(|error| error.to_string())
        },
        from_json: |bytes| {
            json::from_slice::<M>(bytes)
                .map(|message| proto::to_vec(&message))
                .map_err(|error| error.to_string())
        },
        to_json: |bytes| {
            proto::from_slice::<M>(bytes)
                .map(|message| json::to_string(&message))
                .map_err(|error| error.to_string())
        },
    }
}

macro_rules! every_message {
    ($($name:literal => $message:ty,)+) => {
        fn codecs() -> Vec<(&'static str, Codec)> {
            vec![$(($name, codec::<$message>())),+]
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/every_message.rs"));

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(tepui_api::FILE_DESCRIPTOR_SET).unwrap());

const TEXTS: &[&str] = &[
    "",
    "a",
    "role/sub",
    "with \"quotes\" and \\",
    "line\nfeed\ttab\u{1}\u{7f}",
    "äöü",
    "日本",
    "🦀 and more",
    "null",
    "1",
];
/// Without -0.0: prost leaves it out of maps as if it were 0.0, and the sign of a zero amount means nothing.
const DOUBLES: &[f64] = &[
    0.0,
    1.0,
    0.1,
    15.0,
    1e21,
    1e-7,
    123_456_789.125,
    f64::MAX,
    f64::MIN_POSITIVE,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

/// Deeper than this only required fields are filled.
const DEPTH: usize = 5;

fn random_message(
    random: &mut Random,
    descriptor: &MessageDescriptor,
    depth: usize,
    omit_required: bool,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let wanted = match field.cardinality() {
            Cardinality::Required => !omit_required || !random.one_in(8),
            _ if depth >= DEPTH => false,
            _ => random.one_in(2 + depth),
        };
        let other_of_oneof = field
            .containing_oneof()
            .is_some_and(|oneof| oneof.fields().any(|other| message.has_field(&other)));
        if wanted && !other_of_oneof {
            let value = random_field(random, &field, depth + 1, omit_required);
            message.set_field(&field, value);
        }
    }
    message
}

fn random_field(
    random: &mut Random,
    field: &FieldDescriptor,
    depth: usize,
    omit_required: bool,
) -> ProtoValue {
    let count = 1 + random.below(3);
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            unreachable!("a map's entries are messages")
        };
        let kind = entry.map_entry_value_field().kind();
        let entries = (0..count).map(|_| {
            let key = MapKey::String((*random.pick(TEXTS)).to_owned());
            (key, random_value(random, &kind, depth, omit_required))
        });
        return ProtoValue::Map(entries.collect());
    }
    if field.is_list() {
        return ProtoValue::List(
            (0..count)
                .map(|_| random_value(random, &field.kind(), depth, omit_required))
                .collect(),
        );
    }
    random_value(random, &field.kind(), depth, omit_required)
}

fn random_value(random: &mut Random, kind: &Kind, depth: usize, omit_required: bool) -> ProtoValue {
    match kind {
        Kind::Bool => ProtoValue::Bool(random.one_in(2)),
        Kind::Int32 => ProtoValue::I32(*random.pick(&[0, 1, -1, 5050, i32::MIN, i32::MAX])),
        Kind::Uint32 => ProtoValue::U32(*random.pick(&[0, 1, 8080, u32::MAX])),
        Kind::Int64 => ProtoValue::I64(*random.pick(&[0, 1, -1, 1 << 53, i64::MIN, i64::MAX])),
        Kind::Uint64 => ProtoValue::U64(*random.pick(&[0, 1, (1 << 53) + 1, u64::MAX])),
        Kind::Double if random.one_in(3) => ProtoValue::F64(random.next() as f64 / 1e9),
        Kind::Double => ProtoValue::F64(*random.pick(DOUBLES)),
        Kind::String => ProtoValue::String((*random.pick(TEXTS)).to_owned()),
        Kind::Bytes => ProtoValue::Bytes(random.bytes(20).into()),
        Kind::Enum(descriptor) => {
            let values: Vec<i32> = descriptor.values().map(|value| value.number()).collect();
            ProtoValue::EnumNumber(*random.pick(&values))
        }
        // Mesos spells a duration as a message, prost-reflect as a text: `expected_json` replaces it.
        Kind::Message(descriptor) if descriptor.full_name() == "google.protobuf.Duration" => {
            let mut duration = DynamicMessage::new(descriptor.clone());
            duration.set_field_by_name("seconds", ProtoValue::I64(1 + random.below(1000) as i64));
            duration
                .set_field_by_name("nanos", ProtoValue::I32(random.below(1_000_000_000) as i32));
            ProtoValue::Message(duration)
        }
        Kind::Message(descriptor) => {
            ProtoValue::Message(random_message(random, descriptor, depth, omit_required))
        }
        other => unreachable!("no message has a field of type {other:?}"),
    }
}

/// Sets what the JSON writer writes although it is unset: explicit defaults of fields that are not deprecated.
fn fill_defaults(message: &mut DynamicMessage) {
    for field in message.descriptor().fields() {
        let raw = field.field_descriptor_proto();
        let deprecated = raw
            .options
            .as_ref()
            .is_some_and(|options| options.deprecated());
        if raw.default_value.is_some() && !deprecated && !message.has_field(&field) {
            message.set_field(&field, field.default_value());
        }
        if message.has_field(&field) {
            match message.get_field_mut(&field) {
                ProtoValue::Message(inner) => fill_defaults(inner),
                ProtoValue::List(values) => values.iter_mut().for_each(fill_value),
                ProtoValue::Map(entries) => entries.values_mut().for_each(fill_value),
                _ => {}
            }
        }
    }
}

fn fill_value(value: &mut ProtoValue) {
    if let ProtoValue::Message(inner) = value {
        fill_defaults(inner);
    }
}

fn reflected_json(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false);
    let mut value = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap();
    replace_durations(message, &mut value);
    value
}

fn replace_durations(message: &DynamicMessage, value: &mut Value) {
    for (field, content) in message.fields() {
        let Some(spelt) = value.get_mut(field.name()) else {
            continue;
        };
        match content {
            ProtoValue::Message(inner)
                if inner.descriptor().full_name() == "google.protobuf.Duration" =>
            {
                let number = |name: &str| match inner.get_field_by_name(name).unwrap().into_owned()
                {
                    ProtoValue::I64(number) => number,
                    ProtoValue::I32(number) => number.into(),
                    other => unreachable!("{other:?}"),
                };
                *spelt =
                    serde_json::json!({"seconds": number("seconds"), "nanos": number("nanos")});
            }
            ProtoValue::Message(inner) => replace_durations(inner, spelt),
            ProtoValue::List(list) => {
                for (index, element) in list.iter().enumerate() {
                    if let ProtoValue::Message(inner) = element {
                        replace_durations(inner, &mut spelt[index]);
                    }
                }
            }
            _ => {}
        }
    }
}

fn descriptor(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(name).unwrap()
}

#[test]
fn every_message_survives_json_and_protobuf_and_is_written_as_reflection_would() {
    let codecs = codecs();
    assert!(codecs.len() > 300, "only {} messages", codecs.len());
    for (name, codec) in &codecs {
        for seed in 1..=25 {
            let random = &mut Random::new(seed);
            let mut message = random_message(random, &descriptor(name), 0, false);
            let original = message.clone();
            let bytes = message.encode_to_vec();
            let written = (codec.to_json)(&bytes)
                .unwrap_or_else(|error| panic!("{name} seed {seed}: {error}"));
            assert!(
                written.bytes().all(|byte| (0x20..0x80).contains(&byte)),
                "{name} seed {seed}: one line of ASCII"
            );
            let typed = (codec.reencode)(&bytes).unwrap();
            assert_eq!(
                (codec.to_json)(&typed).unwrap(),
                written,
                "{name} seed {seed}"
            );

            fill_defaults(&mut message);
            let tree: Value = serde_json::from_str(&written).unwrap();
            assert_eq!(tree, reflected_json(&message), "{name} seed {seed}");

            let reflected = DynamicMessage::decode(descriptor(name), typed.as_slice()).unwrap();
            assert_eq!(reflected, original, "{name} seed {seed}");

            let filled = (codec.reencode)(&message.encode_to_vec()).unwrap();
            let read = (codec.from_json)(written.as_bytes())
                .unwrap_or_else(|error| panic!("{name} seed {seed}: {error}"));
            assert_eq!(read, filled, "{name} seed {seed}");
        }
    }
}

#[test]
fn json_and_protobuf_report_the_same_missing_fields() {
    let mut refused = 0;
    for (name, codec) in codecs() {
        for seed in 1..=20 {
            let random = &mut Random::new(seed);
            let message = random_message(random, &descriptor(name), 0, true);
            let of_protobuf = (codec.reencode)(&message.encode_to_vec()).err();
            let of_json = (codec.from_json)(reflected_json(&message).to_string().as_bytes()).err();
            assert_eq!(
                of_json.as_deref().map(sorted),
                of_protobuf.as_deref().map(sorted),
                "{name} seed {seed}"
            );
            refused += usize::from(of_protobuf.is_some());
        }
    }
    assert!(refused > 500, "only {refused} messages lacked something");
}

fn sorted(error: &str) -> Vec<String> {
    let names = error
        .strip_prefix("Missing required fields: ")
        .unwrap_or_else(|| panic!("{error}"));
    let mut names: Vec<String> = names.split(", ").map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn damaged_protobuf_never_panics() {
    for (name, codec) in codecs() {
        for seed in 1..=20 {
            let random = &mut Random::new(seed);
            let mut bytes = random_message(random, &descriptor(name), 0, false).encode_to_vec();
            for _ in 0..=random.below(4) {
                if bytes.is_empty() {
                    bytes = random.bytes(30);
                    continue;
                }
                match random.below(3) {
                    0 => bytes.truncate(random.below(bytes.len())),
                    1 => {
                        let at = random.below(bytes.len());
                        bytes[at] = random.next() as u8;
                    }
                    _ => bytes.extend(random.bytes(10)),
                }
            }
            if let Ok(written) = (codec.to_json)(&bytes) {
                // Numbers that no double or enum has a spelling for may be refused, but must be refused in words.
                let _ = (codec.from_json)(written.as_bytes());
            }
        }
    }
}

#[test]
fn damaged_json_never_panics() {
    for (name, codec) in codecs() {
        for seed in 1..=10 {
            let random = &mut Random::new(seed);
            let bytes = random_message(random, &descriptor(name), 0, false).encode_to_vec();
            let mut tree: Value = serde_json::from_str(&(codec.to_json)(&bytes).unwrap()).unwrap();
            damage(random, &mut tree);
            let _ = (codec.from_json)(tree.to_string().as_bytes());
        }
    }
}

fn damage(random: &mut Random, value: &mut Value) {
    if random.one_in(6) {
        *value = random
            .pick(&[
                Value::Null,
                Value::Bool(true),
                serde_json::json!(-1.5e300),
                serde_json::json!("x"),
                serde_json::json!([]),
                serde_json::json!([null, {}, 1]),
                serde_json::json!({}),
            ])
            .clone();
        return;
    }
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| damage(random, value)),
        Value::Object(entries) => entries.values_mut().for_each(|value| damage(random, value)),
        _ => {}
    }
}
