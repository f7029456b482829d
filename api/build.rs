//! Turns `proto/` into Rust at build time: the message types, their Mesos-style JSON, and the tables by which protobuf
//! input is checked for required fields. Written by hand, three codecs for some three hundred messages would drift apart.

#[path = "build/json.rs"]
mod json;
#[path = "build/names.rs"]
mod names;
#[path = "build/rules.rs"]
mod rules;
#[path = "build/schema.rs"]
mod schema;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let protos = root.join("proto");
    for watched in ["proto", "build", "build.rs"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }

    let mut files = Vec::new();
    collect(&protos, &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [&protos])?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let schema = schema::Schema::new(&descriptors);
    fs::write(out.join("json.rs"), json::generate(&schema))?;
    fs::write(out.join("rules.rs"), rules::generate(&schema))?;
    fs::write(out.join("every_message.rs"), rules::generate_list(&schema))?;

    prost_build::Config::new()
        .btree_map(["."])
        .bytes(["."])
        .include_file("messages.rs")
        .out_dir(&out)
        .compile_fds(without_deprecation(descriptors))?;
    Ok(())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// A server must go on serving deprecated fields, so warnings at each use of one would only be noise.
fn without_deprecation(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    fn clear_enum(enumeration: &mut prost_types::EnumDescriptorProto) {
        for value in &mut enumeration.value {
            if let Some(options) = &mut value.options {
                options.deprecated = None;
            }
        }
    }
    fn clear(message: &mut prost_types::DescriptorProto) {
        for field in &mut message.field {
            if let Some(options) = &mut field.options {
                options.deprecated = None;
            }
        }
        message.enum_type.iter_mut().for_each(clear_enum);
        message.nested_type.iter_mut().for_each(clear);
    }
    for file in &mut descriptors.file {
        file.message_type.iter_mut().for_each(clear);
        file.enum_type.iter_mut().for_each(clear_enum);
    }
    descriptors
}
