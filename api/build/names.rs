//! How prost names things in Rust. Must follow prost-build: a difference does not compile.

use heck::{ToSnakeCase, ToUpperCamelCase};

/// The packages and the modules of this crate that hold them; the longest match wins.
const MODULES: [(&str, &str); 2] = [("mesos.v1", "v1"), ("tepui.v1", "ext")];

pub(crate) fn field(proto: &str) -> String {
    sanitize(proto.to_snake_case())
}

pub(crate) fn upper_camel(proto: &str) -> String {
    sanitize(proto.to_upper_camel_case())
}

/// The path of a message or enum below the crate's root (`prefix`), given its full name without a leading dot.
pub(crate) fn path(prefix: &str, full_name: &str) -> String {
    if full_name == "google.protobuf.Duration" {
        return "::prost_types::Duration".to_owned();
    }
    let (package, module) = MODULES
        .iter()
        .find(|(package, _)| full_name.starts_with(&format!("{package}.")))
        .unwrap_or_else(|| panic!("no module for {full_name}"));
    let mut parts: Vec<&str> = full_name[package.len() + 1..].split('.').collect();
    let last = parts.pop().expect("split yields at least one part");
    let mut path = format!("{prefix}::{module}");
    for part in parts {
        path.push_str("::");
        path.push_str(&field(part));
    }
    path.push_str("::");
    path.push_str(&upper_camel(last));
    path
}

/// `mesos.v1.Offer.Operation` as the name of a static: `MESOS_V1_OFFER__OPERATION`.
pub(crate) fn constant(full_name: &str) -> String {
    full_name.replace('.', "__").to_uppercase()
}

fn sanitize(name: String) -> String {
    match name.as_str() {
        "type" | "ref" | "move" | "match" | "use" | "box" | "final" | "abstract" | "enum"
        | "struct" | "static" => {
            format!("r#{name}")
        }
        "self" | "Self" | "super" | "crate" | "extern" => format!("{name}_"),
        _ => name,
    }
}
