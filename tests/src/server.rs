//! Servers that others wrote, started by a test on a free port and ended with it.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::cluster::{program, wait_until};

/// A file of the folder into which `cargo xtask clients` installs.
pub(crate) fn installed(path: &str) -> PathBuf {
    let target = program("tepui")
        .ancestors()
        .nth(2)
        .expect("target/debug/tepui")
        .to_owned();
    let file = target.join("clients").join(path);
    assert!(
        file.exists(),
        "{} is missing: install it with `cargo xtask clients`",
        file.display()
    );
    file
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A process that listens.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(mut command: Command, port: u16) -> Self {
        let address = format!("127.0.0.1:{port}");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { child, address };
        wait_until(&format!("{command:?} to listen"), || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            TcpStream::connect(&server.address).ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
