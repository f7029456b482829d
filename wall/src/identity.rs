//! A user by name, as the kernel wants it: looked up before a fork, become after it.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, getgrouplist, setresgid, setresuid};

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the user '{name}' does not exist on this agent")]
    Unknown { name: String },
    #[error("the user '{name}' cannot be looked up: {cause}")]
    LookUp { name: String, cause: Errno },
}

/// A user with their groups.
#[derive(Debug, Clone)]
pub struct Identity {
    pub user: Uid,
    pub group: Gid,
    /// As numbers: a child between fork and exec must not allocate.
    groups: Vec<libc::gid_t>,
}

impl Identity {
    /// # Errors
    /// If there is no such user, or the machine's databases cannot be asked.
    pub fn of(name: &str) -> Result<Self, IdentityError> {
        let failed = |cause| IdentityError::LookUp {
            name: name.to_owned(),
            cause,
        };
        let user = User::from_name(name).map_err(failed)?;
        let user = user.ok_or_else(|| IdentityError::Unknown {
            name: name.to_owned(),
        })?;
        let c_name = CString::new(name).map_err(|_| failed(Errno::EINVAL))?;
        let groups = getgrouplist(&c_name, user.gid).map_err(failed)?;
        Ok(Self {
            user: user.uid,
            group: user.gid,
            groups: groups.into_iter().map(Gid::as_raw).collect(),
        })
    }

    /// Makes the calling process theirs, for good. Async-signal-safe.
    ///
    /// # Errors
    /// If the process may not.
    pub fn assume(&self) -> io::Result<()> {
        // SAFETY: the list is as long as it says.
        if unsafe { libc::setgroups(self.groups.len(), self.groups.as_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        setresgid(self.group, self.group, self.group)?;
        setresuid(self.user, self.user, self.user)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn a_user_nobody_knows_is_named() {
        let error = Identity::of("nobody-of-that-name").unwrap_err();
        assert!(error.to_string().contains("'nobody-of-that-name'"));
        assert!(Identity::of("a\0b").is_err());
        assert!(Identity::of("root").unwrap().user.is_root());
    }
}
