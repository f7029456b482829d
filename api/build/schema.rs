//! The descriptors, flattened into what the generators ask for.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

pub(crate) struct Schema {
    /// By full name, map entries left out.
    pub(crate) messages: BTreeMap<String, Message>,
    pub(crate) enums: BTreeSet<String>,
}

pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
    pub(crate) oneofs: Vec<Oneof>,
}

pub(crate) struct Oneof {
    pub(crate) name: String,
    /// Whether prost adds `OneOf` to the type's name, since a nested type has the same.
    pub(crate) conflicts: bool,
}

pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) number: i32,
    pub(crate) presence: Presence,
    pub(crate) kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Presence {
    Required,
    Optional,
    /// Written even when unset: an explicit default on a field that is not deprecated.
    Defaulted(String),
    Repeated,
    Map(Kind),
    /// A member of the oneof with this index.
    Oneof(usize),
}

#[derive(Clone, PartialEq)]
pub(crate) enum Kind {
    Bool,
    Integer(&'static str),
    Double,
    String,
    Bytes,
    Enum(String),
    Message(String),
}

impl Schema {
    pub(crate) fn new(descriptors: &FileDescriptorSet) -> Self {
        let mut schema = Self {
            messages: BTreeMap::new(),
            enums: BTreeSet::new(),
        };
        for file in descriptors
            .file
            .iter()
            .filter(|file| !file.package().starts_with("google."))
        {
            assert_eq!(
                file.syntax.as_deref().unwrap_or("proto2"),
                "proto2",
                "{} must be proto2",
                file.name()
            );
            for enumeration in &file.enum_type {
                schema
                    .enums
                    .insert(format!("{}.{}", file.package(), enumeration.name()));
            }
            for message in &file.message_type {
                schema.add(file.package(), message);
            }
        }
        schema
    }

    fn add(&mut self, parent: &str, descriptor: &DescriptorProto) {
        let name = format!("{parent}.{}", descriptor.name());
        for enumeration in &descriptor.enum_type {
            self.enums.insert(format!("{name}.{}", enumeration.name()));
        }
        let (entries, nested): (Vec<_>, Vec<_>) = descriptor
            .nested_type
            .iter()
            .partition(|nested| is_map_entry(nested));
        for message in &nested {
            self.add(&name, message);
        }
        let fields = descriptor
            .field
            .iter()
            .map(|field| read_field(&name, field, &entries))
            .collect();
        let taken = |wanted: &str| {
            let types = nested.iter().map(|nested| nested.name());
            let enums = descriptor
                .enum_type
                .iter()
                .map(|enumeration| enumeration.name());
            types
                .chain(enums)
                .any(|taken| crate::names::upper_camel(taken) == crate::names::upper_camel(wanted))
        };
        let oneofs = descriptor
            .oneof_decl
            .iter()
            .map(|oneof| Oneof {
                name: oneof.name().to_owned(),
                conflicts: taken(oneof.name()),
            })
            .collect();
        self.messages.insert(
            name.clone(),
            Message {
                name,
                fields,
                oneofs,
            },
        );
    }

    /// The messages that exist in JSON; the agents' link, the registry and what guests ask are protobuf only.
    pub(crate) fn spoken(&self) -> impl Iterator<Item = &Message> {
        self.messages
            .values()
            .filter(|message| is_spoken(&message.name))
    }
}

pub(crate) fn is_spoken(full_name: &str) -> bool {
    !["tepui.v1.link.", "tepui.v1.registry.", "tepui.v1.guest."]
        .iter()
        .any(|package| full_name.starts_with(package))
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry())
}

fn read_field(message: &str, field: &FieldDescriptorProto, entries: &[&DescriptorProto]) -> Field {
    let deprecated = field
        .options
        .as_ref()
        .is_some_and(|options| options.deprecated());
    let entry = entries
        .iter()
        .find(|entry| field.type_name() == format!(".{message}.{}", entry.name()));
    let presence = match (field.label(), entry) {
        (Label::Repeated, Some(entry)) => {
            assert_eq!(
                entry.field[0].r#type(),
                Type::String,
                "only maps with string keys are known"
            );
            Presence::Map(kind(&entry.field[1]))
        }
        (Label::Repeated, None) => Presence::Repeated,
        (Label::Required, _) => Presence::Required,
        (Label::Optional, _) => match (field.oneof_index, &field.default_value) {
            (Some(oneof), _) => {
                Presence::Oneof(usize::try_from(oneof).expect("an index is not negative"))
            }
            (None, Some(default)) if !deprecated => Presence::Defaulted(default.clone()),
            (None, _) => Presence::Optional,
        },
    };
    Field {
        name: field.name().to_owned(),
        number: field.number(),
        presence,
        kind: kind(field),
    }
}

fn kind(field: &FieldDescriptorProto) -> Kind {
    let type_name = || field.type_name().trim_start_matches('.').to_owned();
    match field.r#type() {
        Type::Bool => Kind::Bool,
        Type::Int32 => Kind::Integer("i32"),
        Type::Uint32 => Kind::Integer("u32"),
        Type::Int64 => Kind::Integer("i64"),
        Type::Uint64 => Kind::Integer("u64"),
        Type::Double => Kind::Double,
        Type::String => Kind::String,
        Type::Bytes => Kind::Bytes,
        Type::Enum => Kind::Enum(type_name()),
        Type::Message => Kind::Message(type_name()),
        other => panic!(
            "{}: the type {other:?} is not known to the generator",
            field.name()
        ),
    }
}
