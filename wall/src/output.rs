//! Files that tenants may have put something else in the place of.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Opens a file in a tenant's directory to append to it, and makes it if it is not there. A link is not followed, a pipe
/// is not waited for: both are errors, as is everything else that is no regular file.
pub fn open_output(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(flags.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Whoever gets it as its output finds it as usual.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn links_pipes_and_directories_are_no_output() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        for text in ["one ", "two"] {
            write!(open_output(&path).unwrap(), "{text}").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one two");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open_output(&link).is_err());
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_output(&pipe).is_err());
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&pipe)
            .unwrap();
        assert!(open_output(&pipe).is_err(), "also with a reader");
        drop(reader);
        assert!(open_output(folder.path()).is_err());
    }
}
