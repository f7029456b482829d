//! Files that tenants may have put something else in the place of.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat2};
use nix::sys::stat::Mode;

/// Opens a file in a tenant's directory to append to it, and makes it if it is not there. No link is followed, a pipe
/// is not waited for: both are errors, as is everything else that is no regular file. The path is absolute.
pub fn open_output(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NONBLOCK;
    let file = File::from(open_directly(path, flags, Mode::from_bits_truncate(0o644))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Whoever gets it as its output finds it as usual.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

/// Opens what has that very path: none of its parts may be a symbolic link, for a tenant may have put it there. The way to
/// something that is open already (`/proc/self/fd/N`) is taken as it is, up to that. A mode is for what is made.
pub fn open_directly(path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    let resolve = match path.starts_with("/proc/self/fd") {
        true => ResolveFlag::empty(),
        false => ResolveFlag::RESOLVE_NO_SYMLINKS,
    };
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve);
    Ok(openat2(AT_FDCWD, path, how)?)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

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
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(open_output(&pipe).is_err());
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&pipe)
            .unwrap();
        assert!(open_output(&pipe).is_err(), "also with a reader");
        drop(reader);
        assert!(open_output(folder.path()).is_err());
        let other = folder.path().join("other");
        std::os::unix::fs::symlink(folder.path(), &other).unwrap();
        assert!(open_output(&other.join("stdout")).is_err());
    }
}
