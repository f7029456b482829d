//! A file system of a process's own: an empty root, and in it, at their usual places, what was granted.
//!
//! It hides everything else, and it leads past directories above that only root may enter: also where such a directory
//! lies inside something else that was granted.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::{Access, Grant, WallError};

/// Where the new root is put together; what lies there is hidden only from the process itself.
const PLACES: [&str; 4] = ["/tmp", "/mnt", "/var", "/etc"];
const NOTHING: Option<&str> = None;

struct Source {
    handle: OwnedFd,
    target: PathBuf,
    is_directory: bool,
    is_device: bool,
    access: Access,
}

/// For who is to be `user` once it is shut in.
pub(crate) fn enter(
    grants: &[Grant],
    user: Option<u32>,
    runs_programs: bool,
) -> Result<(), WallError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: nix::Error| WallError::new(format!("a file system of its own: {what}"), error)
    };
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC).map_err(failed("unshare"))?;
    // What the host mounts later still appears; what is done here never does there.
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        NOTHING,
    )
    .map_err(failed("slave"))?;
    // Opened before anything is hidden.
    let mut sources: Vec<Source> = grants.iter().filter_map(source).collect();
    // One inside another comes after it.
    sources.sort_by(|left, right| left.target.cmp(&right.target));
    let root = PLACES
        .iter()
        .map(Path::new)
        // One that is shown itself would be shown as what lies over it now.
        .filter(|place| !sources.iter().any(|one| place.starts_with(&one.target)))
        .find(|place| place.is_dir())
        .ok_or_else(|| {
            WallError::new("a file system of its own", "there is no place to make it")
        })?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        root,
        Some("tmpfs"),
        flags,
        Some("mode=755,size=1m"),
    )
    .map_err(failed("tmpfs"))?;
    let mut covers = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        if let Some(user) = user {
            covers.extend(cover(root, &sources[..index], source, user)?);
        }
        bind(root, source, runs_programs)?;
    }
    let read_only = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for cover in &covers {
        mount(NOTHING, cover, NOTHING, read_only, NOTHING).map_err(failed("read-only cover"))?;
    }
    let proc = root.join("proc");
    let hidden = Some("hidepid=invisible,subset=pid");
    std::fs::create_dir(&proc)
        .map_err(|error| WallError::new("a file system of its own: /proc", error))?;
    let noexec = flags | MsFlags::MS_NOEXEC;
    // Containers mostly may not; then its own entry must do.
    if mount(Some("proc"), &proc, Some("proc"), noexec, hidden).is_err() {
        only_itself(&proc)?;
    }
    std::env::set_current_dir(root)
        .map_err(|error| WallError::new("a file system of its own: chdir", error))?;
    nix::unistd::pivot_root(".", ".").map_err(failed("pivot_root"))?;
    // The old root lies over the new one at the same place.
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("umount"))?;
    mount(NOTHING, "/", NOTHING, read_only, NOTHING).map_err(failed("read-only root"))?;
    if std::env::set_current_dir(&here).is_err() {
        std::env::set_current_dir("/")
            .map_err(|error| WallError::new("a file system of its own: chdir", error))?;
    }
    Ok(())
}

/// Of all processes, shows this one.
fn only_itself(proc: &Path) -> Result<(), WallError> {
    let failed = |error: &dyn std::fmt::Display| {
        WallError::new("a file system of its own: /proc/self", error)
    };
    let own = std::process::id().to_string();
    let target = proc.join(&own);
    std::fs::create_dir(&target).map_err(|error| failed(&error))?;
    let source = Path::new("/proc").join(&own);
    mount(Some(&source), &target, NOTHING, MsFlags::MS_BIND, NOTHING)
        .map_err(|error| failed(&error))?;
    std::os::unix::fs::symlink(&own, proc.join("self")).map_err(|error| failed(&error))
}

/// Where a source lies inside others that were shown before, but behind a directory its user may not enter: puts an empty
/// one over that, in which the source then is alone. It hides nothing the user could have seen. The directory covered.
fn cover(
    root: &Path,
    shown: &[Source],
    source: &Source,
    user: u32,
) -> Result<Option<PathBuf>, WallError> {
    let failed = |error: nix::Error| {
        let step = format!("leading past what lies above {}", source.target.display());
        WallError::new(step, error)
    };
    let mut above: Vec<&Path> = source
        .target
        .ancestors()
        .skip(1)
        .filter(|path| shown.iter().any(|outer| path.starts_with(&outer.target)))
        .collect();
    above.reverse();
    for path in above {
        let directory = root.join(path.strip_prefix("/").unwrap_or(path));
        // What an earlier cover hides is made anew, for everybody.
        if !directory.exists() {
            return Ok(None);
        }
        if may_enter(&directory, user).map_err(failed)? {
            continue;
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("tmpfs"),
            &directory,
            Some("tmpfs"),
            flags,
            Some("mode=755,size=1m"),
        )
        .map_err(failed)?;
        return Ok(Some(directory));
    }
    Ok(None)
}

/// Whether the user, who is in no other group than its own, may look up names in a directory. The kernel is asked, because
/// there is more to it than the mode.
fn may_enter(directory: &Path, user: u32) -> nix::Result<bool> {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid, setgroups};
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
    let handle = nix::fcntl::open(directory, flags, Mode::empty())?;
    // For good: the user that is to be has none either.
    setgroups(&[])?;
    setfsgid(Gid::from_raw(user));
    setfsuid(Uid::from_raw(user));
    let entered = nix::fcntl::openat(&handle, ".", flags, Mode::empty());
    setfsuid(nix::unistd::geteuid());
    setfsgid(nix::unistd::getegid());
    match entered {
        Ok(_) => Ok(true),
        Err(nix::Error::EACCES) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `None` for what is not there.
fn source(grant: &Grant) -> Option<Source> {
    use std::os::unix::fs::FileTypeExt as _;
    let handle =
        nix::fcntl::open(&grant.path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let metadata = std::fs::metadata(through(&handle)).ok()?;
    Some(Source {
        is_directory: metadata.is_dir(),
        is_device: metadata.file_type().is_char_device(),
        handle,
        target: grant.path.clone(),
        access: grant.access,
    })
}

fn through(handle: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

fn bind(root: &Path, source: &Source, runs_programs: bool) -> Result<(), WallError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        WallError::new(
            format!("showing {}: {what}", source.target.display()),
            error,
        )
    };
    let target = root.join(source.target.strip_prefix("/").unwrap_or(&source.target));
    let above = target.parent().unwrap_or(root);
    // Inside something read-only that was shown before, what is not there already is there by way of it.
    let made = std::fs::create_dir_all(above).and_then(|()| {
        if source.is_directory {
            std::fs::create_dir_all(&target)
        } else if target.exists() {
            Ok(())
        } else {
            File::create(&target).map(drop)
        }
    });
    made.map_err(|error| failed("making the place", &error))?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(
        Some(&through(&source.handle)),
        &target,
        NOTHING,
        flags,
        NOTHING,
    )
    .map_err(|error| failed("bind", &error))?;
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | kept(&target);
    if !source.is_device {
        flags |= MsFlags::MS_NODEV;
    }
    match source.access {
        Access::Read => flags |= MsFlags::MS_RDONLY,
        // Compiled code is mapped to be run, and it is only ever read.
        Access::Write if !runs_programs => flags |= MsFlags::MS_NOEXEC,
        Access::Write => {}
    }
    mount(NOTHING, &target, NOTHING, flags, NOTHING).map_err(|error| failed("remount", &error))
}

/// The flags a mount has already, which a container's root may not take away.
fn kept(target: &Path) -> MsFlags {
    let Ok(path) = CString::new(target.as_os_str().as_encoded_bytes()) else {
        return MsFlags::empty();
    };
    let Ok(found) = nix::sys::statvfs::statvfs(path.as_c_str()) else {
        return MsFlags::empty();
    };
    let found = found.flags().bits();
    [
        (libc::ST_NOSUID, MsFlags::MS_NOSUID),
        (libc::ST_NODEV, MsFlags::MS_NODEV),
        (libc::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (libc::ST_RDONLY, MsFlags::MS_RDONLY),
        (libc::ST_NOATIME, MsFlags::MS_NOATIME),
        (libc::ST_RELATIME, MsFlags::MS_RELATIME),
    ]
    .into_iter()
    .filter(|(bit, _)| found & bit != 0)
    .fold(MsFlags::empty(), |flags, (_, flag)| flags | flag)
}
