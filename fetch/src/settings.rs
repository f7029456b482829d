//! What an operator says of transfers and of the sources that need to be told something.

use std::time::Duration;

/// What holds for every transfer of a process. Nothing is read from the environment here: who starts the process says
/// what may be used.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub patience: Patience,
    /// The largest file that is taken, in bytes.
    pub max_bytes: Option<u64>,
    pub s3: S3,
    /// `host:port` of WebHDFS, for hdfs URIs.
    pub webhdfs: Option<String>,
    pub registries: Registries,
}

impl Settings {
    /// What an operator set, under the names of the flags, for those who ask. Secrets are not among it.
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let patience = &self.patience;
        let mut flags = vec![
            ("fetcher_min_rate", format!("{}B", patience.least_rate)),
            ("fetcher_retries", patience.retries.to_string()),
        ];
        let optional = [
            (
                "fetcher_max_size",
                self.max_bytes.map(|bytes| format!("{bytes}B")),
            ),
            ("s3_endpoint", self.s3.endpoint.clone()),
            ("s3_region", self.s3.region.clone()),
            ("webhdfs", self.webhdfs.clone()),
        ];
        flags.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        flags
    }
}

/// How long, and how often, a source is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// In any such time something must arrive.
    pub stall: Duration,
    /// And as much as this rate makes of it, in bytes per second.
    pub least_rate: u64,
    /// How often a source is asked again in a row, while it makes no headway.
    pub retries: u32,
    /// The pause before it is asked again; doubles each time.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(60),
            least_rate: 1024,
            retries: 3,
            pause: Duration::from_millis(200),
        }
    }
}

impl Patience {
    /// What must arrive in `stall`, in bytes; at least one.
    pub(crate) fn least_bytes(&self) -> u64 {
        let least = self.stall.as_secs_f64() * self.least_rate as f64;
        (least as u64).max(1)
    }
}

/// Who reads S3, and where it is.
#[derive(Clone, Default)]
pub struct S3 {
    /// A URL; Amazon's own if unset.
    pub endpoint: Option<String>,
    /// `us-east-1` if unset.
    pub region: Option<String>,
    /// Without keys, requests are not signed: only public objects can be read.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    pub session_token: Option<String>,
    /// Whether the bucket is part of the host's name rather than of the path.
    pub virtual_host: bool,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("S3")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field("virtual_host", &self.virtual_host)
            .finish_non_exhaustive()
    }
}

/// Who reads OCI registries.
#[derive(Clone, Default)]
pub struct Registries {
    pub credentials: Vec<RegistryCredential>,
    /// `host` or `host:port` of those that speak plain HTTP; those on loopback do anyway.
    pub plain_http: Vec<String>,
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.credentials.iter().map(|one| &one.registry);
        formatter
            .debug_struct("Registries")
            .field("credentials", &known.collect::<Vec<_>>())
            .field("plain_http", &self.plain_http)
            .finish()
    }
}

/// Sent to that registry alone, or to the token server it names.
#[derive(Clone)]
pub struct RegistryCredential {
    /// `host` or `host:port`, as URIs name it.
    pub registry: String,
    pub user: String,
    pub password: String,
}

impl RegistryCredential {
    /// Reads `REGISTRY=USER:PASSWORD`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('=')
            .and_then(|(registry, rest)| Some((registry, rest.split_once(':')?)));
        match parts {
            Some((registry, (user, password))) if !registry.is_empty() && !user.is_empty() => {
                Ok(Self {
                    registry: registry.to_owned(),
                    user: user.to_owned(),
                    password: password.to_owned(),
                })
            }
            _ => Err("a registry's credential is written REGISTRY=USER:PASSWORD".to_owned()),
        }
    }
}

impl std::fmt::Debug for RegistryCredential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}={}:...", self.registry, self.user)
    }
}
