//! Who a caller is, and what it may do.
//!
//! [`Credentials`] turn an `Authorization` header into a principal; [`Acls`] say whether a principal may do something to
//! somebody, and a [`Caller`] is looked up in them. All is read once, from the files operators know from Mesos
//! (`--credentials`, `--acls`), and only looked at afterwards. Nothing here reads files or sockets.
//! [`ArtifactKey`] makes and checks the tokens by which one agent lets another have an artifact.

#![forbid(unsafe_code)]

mod acls;
mod action;
mod artifact_token;
mod caller;
mod challenge;
mod credentials;

pub use acls::{Acls, AclsError};
pub use action::Action;
pub use artifact_token::{ArtifactKey, TokenRefused};
pub use caller::{Caller, Denied};
pub use challenge::{Challenge, is_at, is_exactly_at, listed_endpoint};
pub use credentials::{Credential, Credentials, CredentialsError, Refused};
