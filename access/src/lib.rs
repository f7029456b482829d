//! Who a caller is, and what it may do.
//!
//! [`Credentials`] turn an `Authorization` header into a principal; [`Acls`] say whether a principal may do something to
//! somebody. Both are read once, from the files operators know from Mesos (`--credentials`, `--acls`), and only looked at
//! afterwards. Nothing here reads files or sockets.

#![forbid(unsafe_code)]

mod acls;
mod action;
mod credentials;

pub use acls::{Acls, AclsError};
pub use action::Action;
pub use credentials::{Credential, Credentials, CredentialsError, Refused};
