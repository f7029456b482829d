//! Removes a tree of directories that a tenant made, however deep it is.
//!
//! `std::fs::remove_dir_all` holds a descriptor and a frame of the stack for each level, and how many there are is for the
//! tenant to say. Here a directory that lies too deep is moved up to the top, and emptied from there. Each is reached from
//! the one above it by its name alone: no path grows too long, and a link that is put where a directory was is removed and
//! not followed. What is mounted in the tree stays.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// So many levels are emptied where they are; each holds two descriptors.
const DEEPEST: usize = 16;
/// What the owner of a directory must be allowed for it to be emptied.
const OWNER: u32 = 0o700;
/// How often the tree is gone through: a process that still runs may add to it meanwhile.
const PASSES: usize = 8;

/// Removes whatever has this path: a directory with all that is in it, a file, or a link, which is not followed. What
/// cannot be removed does not keep the rest.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    let prefix = format!(".{}-", uuid::Uuid::new_v4().simple());
    let mut raised = 0;
    let mut outcome = Ok(());
    for pass in 0..PASSES {
        let top = match open(AT_FDCWD, path.as_os_str(), ResolveFlag::empty()) {
            Err(Errno::ENOTDIR | Errno::ELOOP) => return std::fs::remove_file(path),
            // Somebody else removed what was left.
            Err(Errno::ENOENT) if pass > 0 => return Ok(()),
            opened => opened?,
        };
        let mut removal = Removal {
            top: top.as_fd(),
            prefix: &prefix,
            raised,
            has_progress: false,
            failure: None,
        };
        removal.run();
        raised = removal.raised;
        outcome = match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) => Err(removal.failure.take().unwrap_or(error)),
        };
        if !removal.has_progress {
            break;
        }
    }
    outcome
}

/// One pass through the tree.
struct Removal<'a> {
    top: BorrowedFd<'a>,
    /// What the names begin with that directories get at the top: nothing of the tenant's has such a name.
    prefix: &'a str,
    /// How many were moved up to the top, where they are numbered.
    raised: u64,
    /// Whether anything was removed or moved.
    has_progress: bool,
    /// The first.
    failure: Option<io::Error>,
}

impl Removal<'_> {
    fn run(&mut self) {
        let mut next = self.raised;
        self.empty(self.top, 0);
        // By number: the top need not be listed again for each, and what lies below one gets a later number.
        while next < self.raised {
            let name = self.name(next);
            self.remove(self.top, OsStr::new(&name), 0);
            next += 1;
        }
    }

    /// Calls itself through `remove`, for `DEEPEST` levels at most.
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: usize) {
        let entries = match std::fs::read_dir(path_of(directory)) {
            Ok(entries) => entries,
            Err(error) => return self.fail(error),
        };
        for entry in entries {
            match entry {
                Ok(entry) => self.remove(directory, &entry.file_name(), depth),
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Removes one entry, whatever it is by now.
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &OsStr, depth: usize) {
        let removed = match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => self.remove_directory(parent, name, depth),
            other => other,
        };
        match removed {
            Ok(()) => self.has_progress = true,
            Err(Errno::ENOENT) => {}
            Err(errno) => self.fail(errno.into()),
        }
    }

    fn remove_directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        depth: usize,
    ) -> nix::Result<()> {
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            other => return other,
        }
        if depth == DEEPEST {
            return self.raise(parent, name);
        }
        let directory = open_below(parent, name)?;
        self.empty(directory.as_fd(), depth + 1);
        unlinkat(parent, name, UnlinkatFlags::RemoveDir)
    }

    /// Moves a directory up to the top, from where it is removed later.
    fn raise(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> nix::Result<()> {
        let fresh = self.name(self.raised);
        let moved = match renameat(parent, name, self.top, fresh.as_str()) {
            // A directory gets another above it, so that it must be writable itself.
            Err(Errno::EACCES) => {
                open_below(parent, name)?;
                renameat(parent, name, self.top, fresh.as_str())
            }
            other => other,
        };
        moved?;
        self.raised += 1;
        Ok(())
    }

    fn name(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    fn fail(&mut self, error: io::Error) {
        if self.failure.is_none() {
            self.failure = Some(error);
        }
    }
}

/// Opens what is a directory of the tree itself: no link, and nothing mounted there.
fn open_below(parent: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    let inside = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    open(parent, name, inside)
}

/// Opens a directory, and lets its owner do with it what it likes: that it took its own rights away does not keep it.
fn open(parent: BorrowedFd<'_>, name: &OsStr, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let opened = |flags: OFlag| {
        let flags = flags | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat2(parent, name, OpenHow::new().flags(flags).resolve(resolve))
    };
    let directory = match opened(OFlag::O_RDONLY) {
        Err(Errno::EACCES) => {
            loosen(&opened(OFlag::O_PATH)?);
            opened(OFlag::O_RDONLY)?
        }
        other => other?,
    };
    if fstat(&directory).is_ok_and(|found| found.st_mode & OWNER != OWNER) {
        loosen(&directory);
    }
    Ok(directory)
}

fn loosen(directory: &OwnedFd) {
    // If it may not be done, the removal says so.
    let _ = std::fs::set_permissions(path_of(directory.as_fd()), Permissions::from_mode(OWNER));
}

fn path_of(directory: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use nix::fcntl::openat;
    use nix::sys::stat::{Mode, mkdirat};

    use super::*;

    /// Makes so many directories in one another, with a file in the last, which it gives.
    pub(crate) fn dig(path: &Path, depth: usize) -> OwnedFd {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        std::fs::create_dir_all(path).unwrap();
        let mut inner = nix::fcntl::open(path, flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            mkdirat(&inner, "d", Mode::S_IRWXU).unwrap();
            inner = openat(&inner, "d", flags, Mode::empty()).unwrap();
        }
        std::fs::write(format!("{}/file", path_of(inner.as_fd())), "text").unwrap();
        inner
    }

    #[test]
    fn a_tree_may_be_as_deep_as_it_likes() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        drop(dig(&top, 20_000));
        for number in 0..5 {
            drop(dig(&top.join(format!("beside/{number}")), 100));
        }
        let removal = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || remove_all(&top));
        removal.unwrap().join().unwrap().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_go_and_what_they_lead_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (outside, top) = (folder.path().join("outside"), folder.path().join("top"));
        std::fs::create_dir(&outside).unwrap();
        let kept = outside.join("file");
        std::fs::write(&kept, "text").unwrap();
        std::fs::create_dir_all(top.join("deep/empty")).unwrap();
        std::fs::write(top.join("deep/file"), "text").unwrap();
        std::fs::hard_link(&kept, top.join("again")).unwrap();
        symlink(&outside, top.join("link")).unwrap();
        symlink("../../outside", top.join("deep/link")).unwrap();
        symlink(&kept, top.join("deep/to-file")).unwrap();
        remove_all(&top).unwrap();
        assert!(!top.exists());
        symlink(&outside, &top).unwrap();
        remove_all(&top).unwrap();
        assert!(!top.is_symlink());
        assert_eq!(std::fs::read(&kept).unwrap(), b"text");
    }

    #[test]
    fn a_file_and_an_empty_directory_are_removed_and_what_is_missing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it");
        std::fs::write(&path, "text").unwrap();
        remove_all(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        remove_all(&path).unwrap();
        for missing in [path.clone(), path.join("below")] {
            let error = remove_all(&missing).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn directories_that_were_closed_by_their_owner_go_too() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        drop(dig(&top, 40));
        std::fs::create_dir_all(top.join("shut/inner")).unwrap();
        for depth in (1..=40).rev() {
            let path = top.join("d/".repeat(depth));
            std::fs::set_permissions(path, Permissions::from_mode(0o555)).unwrap();
        }
        std::fs::set_permissions(top.join("shut"), Permissions::from_mode(0o000)).unwrap();
        remove_all(&top).unwrap();
        assert!(!top.exists());
    }
}
