//! Where artifacts come from: one reader of bytes for every kind of source.
//!
//! A [`Location`] is a URI understood. [`Fetch::source`] makes a [`Source`] of it, which opens a stream from an offset
//! on. [`download`] reads sources to the end into a [`Sink`]: it goes on where a connection broke, asks again with growing
//! pauses, gives up who stands still, and checks the digest. It knows nothing of stores, tasks or who asks.

mod download;
mod error;
mod fetch;
mod file;
mod http;
mod location;
mod object;
mod oci;
mod range;
mod settings;
mod sink;
mod source;

pub use download::{Downloaded, Progress, Wish, download};
pub use error::Error;
pub use fetch::{BuildError, Fetch};
pub use location::{Location, is_digest, split_digest};
pub use range::Range;
pub use settings::{Patience, Registries, RegistryCredential, S3, Settings};
pub use sink::{Room, Sink};
pub use source::{Opened, Position, Source};
