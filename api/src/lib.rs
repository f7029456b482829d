//! The Mesos v1 wire: message types, their JSON and protobuf forms, media types and record framing.
//!
//! Everything here is a function of its arguments. What a call means is for the master, the agent and the allocator to
//! say; this crate knows only how it is written.

#![forbid(unsafe_code)]

mod bodies;
pub mod convert;
pub mod envelope;
mod generated;
pub mod json;
pub mod legacy;
mod map_values;
pub mod media;
pub mod proto;
pub mod recordio;
pub mod required;
pub mod secrets;
pub mod state;
mod system;

pub use bodies::body_told;
/// What Tepui adds to the Mesos v1 messages (package `tepui.v1`).
pub use generated::ext;
/// What a wasm guest asks of its cluster (package `tepui.v1.guest`); protobuf only.
pub use generated::ext::guest;
/// The stream between an agent and its master (package `tepui.v1.link`); protobuf only.
pub use generated::ext::link;
/// What the master keeps on disk (package `tepui.v1.registry`); protobuf only.
pub use generated::ext::registry;
/// The Mesos v1 messages (package `mesos.v1`), with `scheduler`, `executor`, `master`, `agent` and others inside.
pub use generated::v1;
pub use json::{Json, JsonError};
pub use media::{ContentTypeError, DecodeError, MediaType};
pub use state::roles_of;
pub use system::system_metrics;

/// The encoded `FileDescriptorSet` of all messages, for tools that describe or check them.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
