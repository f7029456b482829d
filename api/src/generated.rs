//! The message types as prost writes them, under the names by which this crate shows them. No code by hand.

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    rustdoc::all,
    unreachable_pub,
    unused_qualifications,
    reason = "written by prost-build, which has its own style"
)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

pub use messages::mesos::v1;
pub use messages::tepui::v1 as ext;
