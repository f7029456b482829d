//! The vocabulary of the end-to-end tests: a cluster of real processes, a plain HTTP client, a scripted
//! scheduler, a scripted executor.
//!
//! It links nothing of the servers: what a test says goes over a socket, as any client's words would.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this crate is test code"
)]

mod binary;
mod cluster;
mod events;
mod executor;
mod fileserver;
mod hosts;
mod http;
mod oci;
mod proxy;
mod s3;
mod scheduler;
mod server;

pub use binary::{leb, section};
pub use cluster::{Cluster, Ended, Process, component, guest, polyglot, program, wait_until};
pub use executor::{Executor, new_uuid};
pub use fileserver::{FileServer, Reply, digest_of};
pub use hosts::Hosts;
pub use http::{Response, Stream, call_ahead, request};
pub use oci::Registry;
pub use proxy::{Cut, Proxy};
pub use s3::S3;
pub use scheduler::Scheduler;
