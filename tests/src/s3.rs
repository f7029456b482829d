//! A server that speaks S3. It gives objects to those who sign with a key only.

use std::process::Command;

use crate::http::request;
use crate::server::{Server, free_port, installed};

/// The server; it ends with the test, and with it what is in it.
#[derive(Debug)]
pub struct S3 {
    server: Server,
}

impl S3 {
    pub fn start() -> Self {
        let port = free_port();
        let mut command = Command::new(installed("s3/bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        Self {
            server: Server::start(command, port),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Puts an object there, its bucket too; its URI.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) -> String {
        for (path, body) in [
            (format!("/{bucket}"), &b""[..]),
            (format!("/{bucket}/{}", key.replace(' ', "%20")), bytes),
        ] {
            let put = request(&self.server.address, "PUT", &path, &[], body).unwrap();
            assert_eq!(put.status, 200, "{}", put.text());
        }
        format!("s3://{bucket}/{key}")
    }
}
