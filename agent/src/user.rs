//! As whom tasks and executors run, where the agent is root and its operator lets them have users of their own.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, User, fchown, fchownat};
use tepui_api::v1;
use tepui_wall::{Identity, IdentityError, open_directly};

#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the sandbox cannot be given to its user: {0}")]
    Give(String),
}

/// The user a command names, or else its framework. None for root, which is what a root agent's children are anyway.
pub(crate) fn user_of<'a>(
    command: Option<&'a v1::CommandInfo>,
    framework: &'a v1::FrameworkInfo,
) -> Option<&'a str> {
    let of_command = command.and_then(|command| command.user.as_deref());
    of_command
        .filter(|user| !user.is_empty())
        .or(Some(framework.user.as_str()))
        .filter(|user| !user.is_empty() && *user != "root")
}

/// The user this agent runs as.
pub(crate) fn own() -> String {
    let uid = nix::unistd::geteuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// Gives a user a directory and all that is in it: links themselves, and not what they point at.
pub(crate) async fn own_directory(identity: &Identity, directory: &Path) -> Result<(), UserError> {
    let (user, group) = (identity.user.as_raw(), identity.group.as_raw());
    let directory = directory.to_path_buf();
    let given = tokio::task::spawn_blocking(move || give(directory, user, group)).await;
    match given {
        Ok(given) => given.map_err(|error| UserError::Give(error.to_string())),
        Err(error) => Err(UserError::Give(error.to_string())),
    }
}

/// Gives a directory and all that is in it away. The new owner's processes may be in it while this walks through: it holds
/// every directory open and follows no name twice, so what they put in its way leads nowhere.
pub(crate) fn give(directory: PathBuf, user: u32, group: u32) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let (uid, gid) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
    let mut directories = vec![open_directly(&directory, flags, Mode::empty())?];
    while let Some(directory) = directories.pop() {
        // Before what is in it, so that nothing new comes in that is not the new owner's.
        fchown(&directory, uid, gid)?;
        for entry in std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                match openat(&directory, name.as_os_str(), flags, Mode::empty()) {
                    Ok(inner) => directories.push(inner),
                    // It has just been replaced or taken away.
                    Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
                continue;
            }
            let owned = fchownat(
                &directory,
                name.as_os_str(),
                uid,
                gid,
                AtFlags::AT_SYMLINK_NOFOLLOW,
            );
            match owned {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// Gives a directory away unless it is that user's already.
pub(crate) fn give_unless_theirs(directory: &Path, user: u32) -> io::Result<()> {
    if directory.symlink_metadata()?.uid() == user {
        return Ok(());
    }
    give(directory.to_path_buf(), user, user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_user_goes_before_the_frameworks_and_root_is_nobody_to_become() {
        let user = |of_command: &str, of_framework: &str| {
            let command = v1::CommandInfo {
                user: Some(of_command.to_owned()),
                ..Default::default()
            };
            let framework = v1::FrameworkInfo {
                user: of_framework.to_owned(),
                ..Default::default()
            };
            user_of(Some(&command), &framework).map(str::to_owned)
        };
        assert_eq!(user("ann", "bob").as_deref(), Some("ann"));
        assert_eq!(user("", "bob").as_deref(), Some("bob"));
        assert_eq!(user("root", "bob"), None);
        assert_eq!(user("", ""), None);
    }
}
