//! One `Json` implementation for each message, one `JsonEnum` for each enum.

use std::fmt::Write;

use crate::names;
use crate::schema::{Field, Kind, Message, Presence, Schema, is_spoken};

pub(crate) fn generate(schema: &Schema) -> String {
    let mut out = String::new();
    for name in schema.enums.iter().filter(|name| is_spoken(name)) {
        let path = names::path("crate", name);
        writeln!(
            out,
            "impl JsonEnum for {path} {{
    fn name_of(number: i32) -> Option<&'static str> {{ Self::try_from(number).ok().map(|value| value.as_str_name()) }}
    fn number_of(name: &str) -> Option<i32> {{ Self::from_str_name(name).map(|value| value as i32) }}
}}"
        )
        .expect("a string takes all");
    }
    for message in schema.spoken() {
        generate_message(&mut out, message);
    }
    out
}

fn generate_message(out: &mut String, message: &Message) {
    let path = names::path("crate", &message.name);
    let required: Vec<String> = message
        .fields
        .iter()
        .filter(|field| matches!(field.presence, Presence::Required))
        .map(|field| format!("{:?}", field.name))
        .collect();
    let mut write = String::new();
    let mut read = String::new();
    for field in &message.fields {
        if !matches!(field.presence, Presence::Oneof(_)) {
            writeln!(write, "        {}", write_call(field)).expect("a string takes all");
            writeln!(
                read,
                "            {}: {},",
                names::field(&field.name),
                read_call(field)
            )
            .expect("a string takes all");
        }
    }
    for index in 0..message.oneofs.len() {
        oneof(message, index, &mut write, &mut read);
    }
    writeln!(
        out,
        "impl Json for {path} {{
    fn write_json(&self, w: &mut Writer) {{
        w.begin_object();
{write}        w.end_object();
    }}
    fn read_json(value: &Value, r: &mut Reader) -> Result<Self, JsonError> {{
        let o = r.object(value)?;
        r.require(o, &[{}]);
        Ok(Self {{
{read}        }})
    }}
}}",
        required.join(", ")
    )
    .expect("a string takes all");
}

fn write_call(field: &Field) -> String {
    let (name, rust) = (&field.name, names::field(&field.name));
    let enum_path = match &field.kind {
        Kind::Enum(name) => Some(names::path("crate", name)),
        _ => None,
    };
    match (&field.presence, enum_path) {
        (Presence::Required, None) => format!("w.required({name:?}, &self.{rust});"),
        (Presence::Required, Some(path)) => {
            format!("w.enumeration::<{path}>({name:?}, Some(self.{rust}));")
        }
        (Presence::Optional, None) => format!("w.optional({name:?}, &self.{rust});"),
        (Presence::Optional, Some(path)) => {
            format!("w.enumeration::<{path}>({name:?}, self.{rust});")
        }
        (Presence::Defaulted(default), None) if field.kind == Kind::String => {
            format!("w.defaulted_string({name:?}, &self.{rust}, {default:?});")
        }
        (Presence::Defaulted(default), None) => {
            let literal = match field.kind {
                Kind::Double => format!(
                    "{:?}",
                    default
                        .parse::<f64>()
                        .expect("a default double is a number")
                ),
                _ => default.clone(),
            };
            format!("w.defaulted({name:?}, self.{rust}, {literal});")
        }
        (Presence::Defaulted(default), Some(path)) => {
            format!("w.defaulted_enumeration::<{path}>({name:?}, self.{rust}, {default:?});")
        }
        (Presence::Repeated, None) => format!("w.repeated({name:?}, &self.{rust});"),
        (Presence::Repeated, Some(path)) => {
            format!("w.repeated_enumeration::<{path}>({name:?}, &self.{rust});")
        }
        (Presence::Map(_), _) => format!("w.map({name:?}, &self.{rust});"),
        (Presence::Oneof(_), _) => unreachable!("written by oneof()"),
    }
}

fn read_call(field: &Field) -> String {
    let name = &field.name;
    if let Kind::Enum(path) = &field.kind {
        let path = names::path("crate", path);
        return match field.presence {
            Presence::Required => format!("r.required_enumeration::<{path}>(o, {name:?})?"),
            Presence::Repeated => format!("r.repeated_enumeration::<{path}>(o, {name:?})?"),
            _ => format!("r.enumeration::<{path}>(o, {name:?})?"),
        };
    }
    match field.presence {
        Presence::Required => format!("r.required(o, {name:?})?"),
        Presence::Repeated => format!("r.repeated(o, {name:?})?"),
        Presence::Map(_) => format!("r.map(o, {name:?})?"),
        _ => format!("r.optional(o, {name:?})?"),
    }
}

fn oneof(message: &Message, index: usize, write: &mut String, read: &mut String) {
    let oneof = &message.oneofs[index];
    let rust = names::field(&oneof.name);
    let suffix = if oneof.conflicts { "OneOf" } else { "" };
    // A oneof's type lives in the module of its message, as a nested message would.
    let path = names::path("crate", &format!("{}.{}", message.name, oneof.name)) + suffix;
    writeln!(write, "        match &self.{rust} {{").expect("a string takes all");
    let mut alternatives = String::new();
    for field in &message.fields {
        if !matches!(field.presence, Presence::Oneof(of) if of == index) {
            continue;
        }
        let (name, variant) = (&field.name, names::upper_camel(&field.name));
        let (call, read_one) = match &field.kind {
            Kind::Enum(of) => {
                let of = names::path("crate", of);
                (
                    format!("w.enumeration::<{of}>({name:?}, Some(*value))"),
                    format!("r.enumeration::<{of}>(o, {name:?})?"),
                )
            }
            _ => (
                format!("w.required({name:?}, value)"),
                format!("r.optional(o, {name:?})?"),
            ),
        };
        writeln!(
            write,
            "            Some({path}::{variant}(value)) => {call},"
        )
        .expect("a string takes all");
        // As on the protobuf wire, the last one wins.
        writeln!(
            alternatives,
            "                if let Some(value) = {read_one} {{ chosen = Some({path}::{variant}(value)); }}"
        )
        .expect("a string takes all");
    }
    writeln!(write, "            None => {{}}\n        }}").expect("a string takes all");
    writeln!(
        read,
        "            {rust}: {{\n                let mut chosen = None;\n{alternatives}                chosen\n            }},"
    )
    .expect("a string takes all");
}
