//! Directories that one process and its children see read-only, at places of which nobody else knows.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// What is shown where. Made before a fork, used behind it.
#[derive(Debug, Default)]
pub struct ReadOnly(Vec<Shown>);

#[derive(Debug)]
struct Shown {
    source: CString,
    /// The tenant's directory, and the place in it.
    base: CString,
    inside: CString,
}

impl ReadOnly {
    /// `source` at `inside` of the directory `base`, both of which are absolute; `inside` is relative. An error if a path
    /// holds a zero byte.
    pub fn add(&mut self, source: &Path, base: &Path, inside: &Path) -> io::Result<()> {
        let name = |path: &Path| CString::new(path.as_os_str().as_bytes());
        self.0.push(Shown {
            source: name(source)?,
            base: name(base)?,
            inside: name(inside)?,
        });
        Ok(())
    }

    /// Shows them to the calling process, which must be root if there are any. Async-signal-safe.
    pub fn show(&self) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        // SAFETY: it takes a number.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // What is mounted from here on stays here.
        mount(None, c"/", libc::MS_REC | libc::MS_SLAVE)?;
        for shown in &self.0 {
            let place = shown.place()?;
            mount(Some(&shown.source), Name::of(&place).text(), libc::MS_BIND)?;
            // What is there now; the handle from before leads below it.
            let place = shown.place()?;
            let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
            mount(None, Name::of(&place).text(), flags)?;
        }
        Ok(())
    }
}

impl Shown {
    /// A handle on where it is shown. The tenant's processes may change what is in their directory at any time: a link that
    /// they put on the way is not followed, or what they made would lie over a directory of the host's.
    fn place(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let base = open(self.base.as_c_str(), flags, Mode::empty())?;
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(&base, self.inside.as_c_str(), how)?)
    }
}

fn mount(source: Option<&CStr>, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let source = source.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the paths are C strings or null, as the call allows.
    let done = unsafe {
        libc::mount(
            source,
            target.as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A name for what is open, made without memory of the heap.
struct Name([u8; 32]);

impl Name {
    const BEFORE: &[u8] = b"/proc/self/fd/";

    fn of(handle: &OwnedFd) -> Self {
        let mut name = [0; 32];
        let mut place = Self::BEFORE.len();
        name[..place].copy_from_slice(Self::BEFORE);
        let number: RawFd = handle.as_raw_fd();
        let mut power = 1;
        while number / power >= 10 {
            power *= 10;
        }
        while power > 0 {
            name[place] = b'0' + (number / power % 10) as u8;
            place += 1;
            power /= 10;
        }
        Self(name)
    }

    fn text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_and_named_but_not_through_links() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("a/link")).unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("other")).unwrap();
        let mut shown = ReadOnly::default();
        for inside in ["a/b", "a/link", "other/b", "../x"] {
            let inside = Path::new(inside);
            shown.add(Path::new("/"), folder.path(), inside).unwrap();
        }
        let place = shown.0[0].place().unwrap();
        let name = Name::of(&place).text().to_str().unwrap().to_owned();
        assert_eq!(name, format!("/proc/self/fd/{}", place.as_raw_fd()));
        assert!(std::fs::read_link(name).unwrap().ends_with("a/b"));
        assert!(shown.0[1..].iter().all(|shown| shown.place().is_err()));
    }
}
