//! What a process fetches with: its clients and settings.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::error::{MAX_REDIRECTS, innermost};
use crate::file::Local;
use crate::http::Http;
use crate::object::Object;
use crate::oci::Clients;
use crate::{Error, Location, Settings, Source};

pub(crate) const USER_AGENT: &str = concat!("tepui/", env!("CARGO_PKG_VERSION"));

#[derive(Debug, thiserror::Error)]
#[error("no HTTP client can be made: {0}")]
pub struct BuildError(reqwest::Error);

/// Makes sources of locations. Cheap to clone.
#[derive(Clone)]
pub struct Fetch {
    settings: Arc<Settings>,
    http: reqwest::Client,
    registries: Arc<OnceLock<Result<Clients, String>>>,
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Fetch")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Fetch {
    /// The process must have installed a crypto provider.
    pub fn new(settings: Settings) -> Result<Self, BuildError> {
        let builder = || {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
                .connect_timeout(settings.patience.stall)
                .user_agent(USER_AGENT)
        };
        let http = builder().build().or_else(|error| {
            // A machine without root certificates can still fetch over plain HTTP.
            tracing::warn!(%error, "no root certificates: https fetches will be refused");
            builder().tls_certs_only(Vec::new()).build()
        });
        Ok(Self {
            http: http.map_err(BuildError)?,
            settings: Arc::new(settings),
            registries: Arc::default(),
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn locate(&self, text: &str) -> Result<Location, String> {
        Location::parse(text, &self.settings)
    }

    pub fn source(&self, location: &Location) -> Result<Arc<dyn Source>, Error> {
        Ok(match location {
            Location::Http(url) => Arc::new(Http {
                client: self.http.clone(),
                url: url.clone(),
                bearer: None,
                first_patience: None,
                retries: None,
            }),
            Location::File(path) => Arc::new(Local(path.clone())),
            Location::S3 { bucket, key } => {
                let client = self.http.clone();
                Arc::new(Object::s3(&self.settings.s3, client, bucket, key)?)
            }
            Location::WebHdfs {
                endpoint,
                path,
                user,
            } => Arc::new(Object::webhdfs(
                self.http.clone(),
                endpoint,
                path,
                user.as_deref(),
            )?),
            Location::Oci(reference) => {
                let clients = self.registries.get_or_init(|| {
                    let registries = self.settings.registries.clone();
                    Clients::new(registries, self.settings.patience.stall)
                        .map_err(|error| innermost(&error))
                });
                let clients = clients
                    .as_ref()
                    .map_err(|error| Error::Settings(error.clone()))?;
                Arc::new(clients.artifact(reference)?)
            }
        })
    }

    /// Somebody in the cluster who may have the bytes: asked once, with a token if it wants one, and given up soon.
    pub fn holder(
        &self,
        url: String,
        token: Option<String>,
        patience: Duration,
    ) -> Arc<dyn Source> {
        Arc::new(Http {
            client: self.http.clone(),
            url,
            bearer: token,
            first_patience: Some(patience),
            retries: Some(0),
        })
    }
}
