//! Directories that one process and its children see read-only, at places of which nobody else knows.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What is shown where. Made before a fork, used behind it.
#[derive(Debug, Default)]
pub struct ReadOnly(Vec<(CString, CString)>);

impl ReadOnly {
    /// `source` at `target`; both are directories, and absolute. An error if a path holds a zero byte.
    pub fn add(&mut self, source: &Path, target: &Path) -> io::Result<()> {
        let name = |path: &Path| CString::new(path.as_os_str().as_bytes());
        self.0.push((name(source)?, name(target)?));
        Ok(())
    }

    /// Shows them to the calling process, which must be root if there are any. Async-signal-safe.
    pub fn show(&self) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mount = |source: *const libc::c_char, target: &CStr, flags| {
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
        };
        // SAFETY: it takes a number.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // What is mounted from here on stays here.
        mount(std::ptr::null(), c"/", libc::MS_REC | libc::MS_SLAVE)?;
        for (source, target) in &self.0 {
            mount(source.as_ptr(), target, libc::MS_BIND)?;
            let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
            mount(std::ptr::null(), target, flags)?;
        }
        Ok(())
    }
}
