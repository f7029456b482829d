//! An OCI registry, and a client that pushes to it.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fileserver::digest_of;
use crate::http::{Response, request};
use crate::server::{Server, free_port, installed};

/// `ann` and `secret`, as a registry's file of users has them.
const USERS: &str = "ann:$2b$05$hIDrXz.VzgeXI2F/Ilh8.Og6CbxLgRDyQFlgw2md.avWo5.l2.9sq\n";
const BASIC: &str = "Basic YW5uOnNlY3JldA==";
const EMPTY: &[u8] = b"{}";

/// The server; it ends with the test, and with it what is in it.
#[derive(Debug)]
pub struct Registry {
    server: Server,
    guarded: bool,
    _folder: TempDir,
}

impl Registry {
    pub fn start() -> Self {
        Self::with(false)
    }

    /// One that asks who is there, and knows `ann` with the password `secret`.
    pub fn guarded() -> Self {
        Self::with(true)
    }

    fn with(guarded: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            path("data")
        );
        if guarded {
            std::fs::write(path("users"), USERS).unwrap();
            let users = path("users");
            config.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {users}\n"
            ));
        }
        std::fs::write(path("config.yml"), config).unwrap();
        let mut command = Command::new(installed("registry/usr/bin/docker-registry"));
        command.args(["serve", &path("config.yml")]);
        Self {
            server: Server::start(command, port),
            guarded,
            _folder: folder,
        }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.server.address
    }

    fn ask(&self, method: &str, path: &str, media: &str, body: &[u8]) -> Response {
        let mut headers = vec![("Content-Type", media)];
        if self.guarded {
            headers.push(("Authorization", BASIC));
        }
        request(self.address(), method, path, &headers, body).unwrap()
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let begun = self.ask(
            "POST",
            &format!("/v2/{repository}/blobs/uploads/"),
            "text/plain",
            b"",
        );
        assert_eq!(begun.status, 202, "{}", begun.text());
        let location = begun.header("location").unwrap();
        let path = location
            .split_once("//")
            .map_or(location, |(_, rest)| &rest[rest.find('/').unwrap()..]);
        let separator = if path.contains('?') { '&' } else { '?' };
        let digest = format!("sha256:{}", digest_of(bytes));
        let path = format!("{path}{separator}digest={digest}");
        let put = self.ask("PUT", &path, "application/octet-stream", bytes);
        assert_eq!(put.status, 201, "{}", put.text());
        digest
    }

    /// Pushes an artifact whose layers are of those media types; its URI.
    pub fn push(&self, repository: &str, tag: &str, layers: &[(&str, &[u8])]) -> String {
        let config = self.push_blob(repository, EMPTY);
        let described: Vec<Value> = layers
            .iter()
            .map(|(media, bytes)| {
                let digest = self.push_blob(repository, bytes);
                json!({ "mediaType": media, "digest": digest, "size": bytes.len() })
            })
            .collect();
        let media = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": EMPTY.len() },
            "layers": described,
        });
        let path = format!("/v2/{repository}/manifests/{tag}");
        let put = self.ask("PUT", &path, media, manifest.to_string().as_bytes());
        assert_eq!(put.status, 201, "{}", put.text());
        format!("oci://{}/{repository}:{tag}", self.address())
    }
}
