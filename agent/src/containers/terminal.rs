//! The terminal of a container. Its end that the agent holds is waited for without a thread: tenants have as many
//! terminals as they like, and one that is not read keeps whoever writes to it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::process::Stdio;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use tepui_api::v1::tty_info::WindowSize;
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

/// How much of its output is moved at once.
const PIECE_BYTES: usize = 16 << 10;

/// The end that the container's processes have.
pub(super) struct Slave(File);

/// The other end: what is written here is their input, what is read here is their output.
#[derive(Debug)]
pub(crate) struct Terminal(AsyncFd<File>);

/// A new terminal of that size.
pub(super) fn open(size: Option<&WindowSize>) -> io::Result<(Terminal, Slave)> {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both places outlive the call, and the other arguments may be null.
    let opened = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    if opened != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just handed both to us, and to nobody else.
    let (master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
    for file in [&master, &slave] {
        fcntl(file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // SAFETY: the file owns its descriptor and gives the same one until it is dropped, and the registration owns the file.
    let master = Terminal(unsafe { AsyncFd::register(master) }?);
    if let Some(size) = size {
        master.resize(size)?;
    }
    Ok((master, Slave(slave)))
}

impl Slave {
    /// Makes it the process's input and outputs, and the terminal that controls its session.
    pub(super) fn give(self, command: &mut Command) -> io::Result<()> {
        let end = || self.0.try_clone().map(Stdio::from);
        command.stdin(end()?).stdout(end()?).stderr(end()?);
        // SAFETY: between fork and exec only one plain system call is made, which neither allocates nor takes locks.
        unsafe {
            command.pre_exec(|| match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        Ok(())
    }
}

impl Terminal {
    /// Tells the terminal how large its window is.
    pub(super) fn resize(&self, size: &WindowSize) -> io::Result<()> {
        let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let size = libc::winsize {
            ws_row: small(size.rows),
            ws_col: small(size.columns),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let master = self.0.as_fd().as_raw_fd();
        // SAFETY: the descriptor is open and the structure is the one this request reads.
        match unsafe { libc::ioctl(master, libc::TIOCSWINSZ, &raw const size) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Writes all of it, as fast as the container takes it.
    pub(super) async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|master| master.get_ref().write(data)) {
                Ok(Ok(written)) => data = &data[written..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Copies what comes out until the last process that has the other end has closed it.
    pub(super) async fn copy_to(&self, output: File) -> io::Result<()> {
        let mut output = tokio::fs::File::from_std(output);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|master| master.get_ref().read(&mut piece)) {
                Ok(Ok(0)) => return Ok(()),
                Ok(Ok(read)) => {
                    output.write_all(&piece[..read]).await?;
                    output.flush().await?;
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // How Linux says that nobody has the other end.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}
