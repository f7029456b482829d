//! Files inside one directory and nowhere else, whatever names and symbolic links a tenant puts there.
//!
//! The kernel does the confining (`openat2` with `RESOLVE_BENEATH`), so a link that is swapped between a check and its
//! use changes nothing. Nothing here knows what the directory is for.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use tepui_wall::open_directly;

/// How often a resolution is repeated that a concurrent rename disturbed.
const RESOLVE_ATTEMPTS: usize = 64;

/// A directory held open; every path given to it is relative and stays beneath it.
#[derive(Debug)]
pub(crate) struct Directory {
    handle: OwnedFd,
    /// What else holds for the directories in which something is created.
    creating: ResolveFlag,
}

/// What a listing says of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) links: u64,
    pub(crate) size: u64,
    pub(crate) modified_ns: i64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Directory {
    /// The directory of that very path, which is absolute: a tenant may have put a link on the way to what is inside
    /// another's.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        open_directly(path, flags, Mode::empty()).map(Self::of)
    }

    /// By a way that the agent alone has made, some of it links.
    pub(crate) fn open_trusted(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self::of(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    fn of(handle: OwnedFd) -> Self {
        Self {
            handle,
            creating: ResolveFlag::empty(),
        }
    }

    /// The same directory, in which nothing is created behind a symbolic link, not even behind one that stays inside:
    /// that is `ELOOP`. Who checks names needs it, for behind a link a name is not the place.
    pub(crate) fn without_links(&self) -> io::Result<Self> {
        Ok(Self {
            handle: self.handle.try_clone()?,
            creating: ResolveFlag::RESOLVE_NO_SYMLINKS,
        })
    }

    /// Whether this is a directory itself: no part of its path is a symbolic link.
    pub(crate) fn has_directory(&self, relative: &Path) -> bool {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        inside(relative)
            .and_then(|path| self.resolve(&path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS))
            .is_ok()
    }

    /// Opens a regular file for reading. Pipes and devices are refused, and never waited for.
    pub(crate) fn open_file(&self, relative: &Path) -> io::Result<File> {
        let path = inside(relative)?;
        let handle = self.resolve(
            &path,
            OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
            ResolveFlag::empty(),
        )?;
        let file = File::from(handle);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(not_a_file(relative))
        }
    }

    /// Creates a file anew, with the directories above it. What has that name already is replaced, not written into:
    /// it may be a link.
    pub(crate) fn create_file(&self, relative: &Path, mode: u32) -> io::Result<File> {
        let (parent, name) = self.parent_of(relative)?;
        remove_entry(&parent, &name)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let handle = nix::fcntl::openat(
            &parent,
            name.as_path(),
            flags,
            Mode::from_bits_truncate(mode & 0o777),
        )?;
        let file = File::from(handle);
        // The mode asked for holds whatever the umask is.
        file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777))?;
        Ok(file)
    }

    pub(crate) fn create_directories(&self, relative: &Path) -> io::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut current = self.resolve(Path::new("."), flags, self.creating)?;
        let mut walked = PathBuf::new();
        for part in parts(relative)? {
            walked.push(part);
            match mkdirat(&current, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            current = self.resolve(&walked, flags, self.creating)?;
        }
        Ok(current)
    }

    pub(crate) fn create_symlink(&self, target: &Path, relative: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(relative)?;
        remove_entry(&parent, &name)?;
        Ok(symlinkat(target, &parent, name.as_path())?)
    }

    /// The entries of a directory, by name.
    pub(crate) fn list(&self, relative: &Path) -> io::Result<Vec<Listed>> {
        let path = inside(relative)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let handle = self.resolve(&path, flags, ResolveFlag::empty())?;
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/self/fd/{}", handle.as_raw_fd()))? {
            let entry = entry?;
            // An entry that vanished meanwhile is simply not listed.
            let Ok(metadata) = entry.path().symlink_metadata() else {
                continue;
            };
            entries.push(Listed {
                name: entry.file_name().to_string_lossy().into_owned(),
                links: metadata.nlink(),
                size: metadata.size(),
                modified_ns: metadata
                    .mtime()
                    .saturating_mul(1_000_000_000)
                    .saturating_add(metadata.mtime_nsec()),
                mode: metadata.mode(),
                uid: metadata.uid(),
                gid: metadata.gid(),
            });
        }
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    fn parent_of(&self, relative: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let path = inside(relative)?;
        let name = path.file_name().ok_or_else(|| not_a_file(relative))?;
        let parent = self.create_directories(path.parent().unwrap_or(Path::new("")))?;
        Ok((parent, PathBuf::from(name)))
    }

    fn resolve(&self, path: &Path, flags: OFlag, further: ResolveFlag) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | further);
        for _ in 0..RESOLVE_ATTEMPTS {
            match openat2(&self.handle, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(Errno::EXDEV) => return Err(outside(path)),
                other => return Ok(other?),
            }
        }
        Err(Errno::EAGAIN.into())
    }
}

fn remove_entry(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The path without `.` parts; an error if it is absolute or steps upwards.
pub(crate) fn inside(relative: &Path) -> io::Result<PathBuf> {
    Ok(parts(relative)?.into_iter().collect())
}

fn parts(relative: &Path) -> io::Result<Vec<&OsStr>> {
    let mut parts = Vec::new();
    for component in relative.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(outside(relative));
            }
        }
    }
    Ok(parts)
}

fn outside(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("the path '{}' leads outside its directory", path.display()),
    )
}

fn not_a_file(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("'{}' is not a regular file", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn directory() -> (tempfile::TempDir, Directory) {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("inner")).unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        let directory = Directory::open(&outer.path().join("inner")).unwrap();
        (outer, directory)
    }

    #[test]
    fn a_path_that_leads_outside_is_refused_by_name_and_by_link() {
        let (outer, directory) = directory();
        let inner = outer.path().join("inner");
        std::os::unix::fs::symlink("../secret", inner.join("relative")).unwrap();
        std::os::unix::fs::symlink(outer.path().join("secret"), inner.join("absolute")).unwrap();
        std::os::unix::fs::symlink("..", inner.join("up")).unwrap();
        for path in [
            "../secret",
            "/etc/passwd",
            "relative",
            "absolute",
            "up/secret",
            "a/../../secret",
        ] {
            let error = directory.open_file(Path::new(path)).unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::PermissionDenied,
                "{path}: {error}"
            );
        }
        assert!(
            directory
                .create_file(Path::new("up/planted"), 0o644)
                .is_err()
        );
        assert!(!outer.path().join("planted").exists());
        assert!(directory.list(Path::new("up")).is_err());
    }

    #[test]
    fn a_link_that_stays_inside_is_followed() {
        let (outer, directory) = directory();
        directory
            .create_file(Path::new("a/b/file"), 0o600)
            .unwrap()
            .write_all(b"text")
            .unwrap();
        std::os::unix::fs::symlink("a/b", outer.path().join("inner/link")).unwrap();
        let mut text = String::new();
        directory
            .open_file(Path::new("./link/file"))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "text");
    }

    #[test]
    fn nothing_is_created_behind_a_link_where_links_are_not_followed() {
        let (outer, directory) = directory();
        let inner = outer.path().join("inner");
        directory.create_directories(Path::new("a/b")).unwrap();
        std::os::unix::fs::symlink("a/b", inner.join("link")).unwrap();
        assert!(directory.has_directory(Path::new("a/b")));
        for path in ["link", "a/c", "../inner"] {
            assert!(!directory.has_directory(Path::new(path)), "{path}");
        }
        directory
            .create_file(Path::new("link/followed"), 0o644)
            .unwrap();

        let strict = directory.without_links().unwrap();
        let refused = [
            strict.create_file(Path::new("link/file"), 0o644).map(drop),
            strict.create_directories(Path::new("link")).map(drop),
            strict.create_symlink(Path::new("x"), Path::new("link/c/l")),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        }
        strict.create_file(Path::new("a/b/file"), 0o644).unwrap();
        // Reading follows links still, and a link's own name may be taken.
        assert!(strict.open_file(Path::new("link/file")).is_ok());
        strict.create_file(Path::new("link"), 0o644).unwrap();
        assert!(inner.join("link").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_new_file_replaces_a_link_instead_of_writing_through_it() {
        let (outer, directory) = directory();
        std::os::unix::fs::symlink("../secret", outer.path().join("inner/name")).unwrap();
        directory
            .create_file(Path::new("name"), 0o755)
            .unwrap()
            .write_all(b"new")
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(outer.path().join("secret")).unwrap(),
            "secret"
        );
        assert_eq!(
            std::fs::read_to_string(outer.path().join("inner/name")).unwrap(),
            "new"
        );
    }

    #[test]
    fn pipes_are_neither_read_nor_waited_for() {
        let (outer, directory) = directory();
        nix::unistd::mkfifo(&outer.path().join("inner/pipe"), Mode::S_IRWXU).unwrap();
        assert_eq!(
            directory.open_file(Path::new("pipe")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        let names: Vec<String> = directory
            .list(Path::new(""))
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names, ["pipe"]);
    }
}
