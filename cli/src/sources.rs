//! What masters and agents are told of transfers and of the sources of artifacts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tepui_fetch::{Patience, Registries, RegistryCredential, S3, Settings};

use crate::roles::{duration, size};

/// Keys of S3 come from the environment only: words of a command line are there for everybody to read.
#[derive(Args, Debug)]
pub(crate) struct Sources {
    /// Time without headway after which a transfer is given up
    #[arg(long, default_value = "1mins", value_parser = duration)]
    fetcher_stall_timeout: Duration,
    /// What headway is: so many bytes a second over that time
    #[arg(long, default_value = "1KB", value_parser = size)]
    fetcher_min_rate: u64,
    /// How often a source is asked again while it makes none
    #[arg(long, default_value_t = 3)]
    fetcher_retries: u32,
    /// Largest file that is fetched; any if not given
    #[arg(long, value_parser = size)]
    fetcher_max_size: Option<u64>,
    /// URL of an S3-compatible server, else AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL
    #[arg(long)]
    s3_endpoint: Option<String>,
    /// Region of the buckets, else AWS_REGION or AWS_DEFAULT_REGION
    #[arg(long)]
    s3_region: Option<String>,
    /// Buckets are part of the server's name, not of the path
    #[arg(long)]
    s3_virtual_host: bool,
    /// HOST:PORT of WebHDFS, where hdfs URIs are read
    #[arg(long)]
    webhdfs: Option<String>,
    /// File of lines REGISTRY=USER:PASSWORD, for OCI registries
    #[arg(long)]
    registry_credentials: Option<PathBuf>,
    /// HOST:PORT of an OCI registry that speaks plain HTTP; may be repeated
    #[arg(long)]
    registry_plain_http: Vec<String>,
}

impl Sources {
    pub(crate) fn settings(self) -> anyhow::Result<Settings> {
        let environment = |names: &[&str]| {
            let mut values = names.iter().filter_map(|name| std::env::var(name).ok());
            values.find(|value| !value.is_empty())
        };
        let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
        let region = ["AWS_REGION", "AWS_DEFAULT_REGION"];
        let credentials = self.registry_credentials.as_deref().map(credentials);
        Ok(Settings {
            patience: Patience {
                stall: self.fetcher_stall_timeout,
                least_rate: self.fetcher_min_rate,
                retries: self.fetcher_retries,
                ..Patience::default()
            },
            max_bytes: self.fetcher_max_size,
            s3: S3 {
                endpoint: self.s3_endpoint.or_else(|| environment(&endpoint)),
                region: self.s3_region.or_else(|| environment(&region)),
                access_key_id: environment(&["AWS_ACCESS_KEY_ID"]),
                secret_access_key: environment(&["AWS_SECRET_ACCESS_KEY"]),
                session_token: environment(&["AWS_SESSION_TOKEN"]),
                virtual_host: self.s3_virtual_host,
            },
            webhdfs: self.webhdfs,
            registries: Registries {
                credentials: credentials.transpose()?.unwrap_or_default(),
                plain_http: self.registry_plain_http,
            },
        })
    }
}

fn credentials(path: &Path) -> anyhow::Result<Vec<RegistryCredential>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--registry_credentials {}", path.display()))?;
    let lines = text.lines().enumerate();
    let lines = lines.map(|(number, line)| (number + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            RegistryCredential::parse(line)
                .map_err(|error| anyhow!("{}:{number}: {error}", path.display()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_registries_are_read_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known");
        std::fs::write(&path, "# ours\n\nr.test:5000=ann:pa:ss=word\n").unwrap();
        let read = credentials(&path).unwrap();
        let one = &read[0];
        assert_eq!(
            (
                read.len(),
                one.registry.as_str(),
                one.user.as_str(),
                one.password.as_str()
            ),
            (1, "r.test:5000", "ann", "pa:ss=word")
        );
        assert!(!format!("{one:?}").contains("word"));
        std::fs::write(&path, "r.test=ann:x\nr.test\n").unwrap();
        let error = credentials(&path).unwrap_err().to_string();
        assert!(
            error.contains(":2: ") && error.contains("USER:PASSWORD"),
            "{error}"
        );
    }
}
