//! OCI registries: an artifact of one layer, or one layer by its digest.

use std::net::IpAddr;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::{OciDescriptor, OciManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::StatusCode;

use crate::error::cause_of;
use crate::source::{Opened, Position, Source};
use crate::{Error, Registries};

const REMEDY: &str = "start this process with --registry_credentials FILE, a line REGISTRY=USER:PASSWORD of somebody who may read it";

/// One client for each way to speak with a registry: each remembers the tokens it was given.
#[derive(Clone)]
pub(crate) struct Clients {
    registries: Registries,
    plain: Client,
    tls: Client,
}

impl Clients {
    pub(crate) fn new(
        registries: Registries,
        connect: std::time::Duration,
    ) -> Result<Self, OciDistributionError> {
        let client = |protocol| {
            Client::try_from(ClientConfig {
                protocol,
                connect_timeout: Some(connect),
                user_agent: crate::fetch::USER_AGENT,
                // Which of several platforms is meant a wasm module does not say.
                platform_resolver: None,
                ..ClientConfig::default()
            })
        };
        Ok(Self {
            registries,
            plain: client(ClientProtocol::Http)?,
            tls: client(ClientProtocol::Https)?,
        })
    }

    /// `reference` as [`crate::Location::Oci`] has it.
    pub(crate) fn artifact(&self, reference: &str) -> Result<Artifact, Error> {
        let reference: Reference = reference
            .parse()
            .map_err(|error| Error::Settings(format!("{error}")))?;
        let registry = reference.registry();
        let known = &self.registries;
        let plain = is_loopback(registry) || known.plain_http.iter().any(|one| one == registry);
        let credential = known
            .credentials
            .iter()
            .find(|one| one.registry == registry);
        let auth = credential.map_or(RegistryAuth::Anonymous, |one| {
            RegistryAuth::Basic(one.user.clone(), one.password.clone())
        });
        Ok(Artifact {
            client: if plain {
                self.plain.clone()
            } else {
                self.tls.clone()
            },
            reference,
            auth,
        })
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// One reference.
pub(crate) struct Artifact {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "oci://{}", self.reference)
    }
}

impl Source for Artifact {
    fn open<'a>(&'a self, position: &'a Position) -> BoxFuture<'a, Result<Opened, Error>> {
        self.read(position).boxed()
    }

    fn announced(&self) -> BoxFuture<'_, Result<Option<String>, Error>> {
        let found = async { Ok(self.find().await?.sha256()) };
        found.boxed()
    }
}

/// What a reference leads to.
struct Layer {
    /// With its algorithm.
    digest: String,
    size: Option<u64>,
    /// Why there is no manifest of that digest: then it may be the layer's own.
    instead_of: Option<Error>,
}

impl Layer {
    fn sha256(&self) -> Option<String> {
        self.digest.strip_prefix("sha256:").map(str::to_owned)
    }
}

impl Artifact {
    async fn read(&self, position: &Position) -> Result<Opened, Error> {
        let layer = self.find().await?;
        let opened = self.open_layer(&layer, position).await;
        opened.map_err(|error| layer.instead_of.unwrap_or(error))
    }

    async fn find(&self) -> Result<Layer, Error> {
        let auth = self
            .client
            .auth(&self.reference, &self.auth, RegistryOperation::Pull)
            .await;
        auth.map_err(|error| self.failed(&error))?;
        match self.client.pull_manifest(&self.reference, &self.auth).await {
            Ok((OciManifest::Image(manifest), _)) => {
                let layer = the_layer(&manifest.layers)?;
                Ok(Layer {
                    digest: layer.digest.clone(),
                    size: u64::try_from(layer.size).ok(),
                    instead_of: None,
                })
            }
            Ok((OciManifest::ImageIndex(_), _)) => Err(Error::Registry(
                "it is an index of several artifacts; name one of them by its digest".to_owned(),
            )),
            Err(error) => {
                let error = self.failed(&error);
                match self.reference.digest() {
                    // Some registries fail on a layer's digest instead of having no manifest of it.
                    Some(digest) if is_no_manifest(&error) => Ok(Layer {
                        digest: digest.to_owned(),
                        size: None,
                        instead_of: Some(error),
                    }),
                    _ => Err(error),
                }
            }
        }
    }

    async fn open_layer(&self, layer: &Layer, position: &Position) -> Result<Opened, Error> {
        // A layer never changes under its digest.
        let offset = match &position.version {
            Some(version) if *version != layer.digest => 0,
            _ => position.offset,
        };
        let blob = self
            .client
            .pull_blob_stream_partial(&self.reference, layer.digest.as_str(), offset, None)
            .await;
        let (offset, sized) = match blob.map_err(|error| self.failed(&error))? {
            BlobResponse::Full(sized) => (0, sized),
            BlobResponse::Partial(sized) => (offset, sized),
        };
        let length = sized.content_length.map(|length| offset + length);
        let stream = sized
            .stream
            .map(|piece| piece.map_err(|error| of_blob(&error)));
        Ok(Opened {
            offset,
            size: layer.size.or(length),
            sha256: layer.sha256(),
            version: Some(layer.digest.clone()),
            stream: stream.boxed(),
        })
    }

    fn failed(&self, error: &OciDistributionError) -> Error {
        let what = || format!("artifact '{}'", self.reference);
        if is_missing(error) {
            return Error::Missing { what: what() };
        }
        match error {
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => self.denied(),
            OciDistributionError::RegistryError { envelope, .. } => {
                let denied = |code: &OciErrorCode| {
                    matches!(code, OciErrorCode::Denied | OciErrorCode::Unauthorized)
                };
                match envelope.errors.first() {
                    Some(first) if denied(&first.code) => self.denied(),
                    _ => Error::Registry(format!("the registry answered: {envelope}")),
                }
            }
            OciDistributionError::ServerError { code, .. } => match code {
                401 | 403 => self.denied(),
                code => Error::Status {
                    code: *code,
                    status: StatusCode::from_u16(*code)
                        .map_or_else(|_| code.to_string(), |status| status.to_string()),
                },
            },
            OciDistributionError::RequestError(error) => Error::of_http(error),
            OciDistributionError::IoError(error) => Error::transport(cause_of(error)),
            error => Error::Registry(format!("the registry's answer cannot be used: {error}")),
        }
    }

    fn denied(&self) -> Error {
        Error::Denied {
            who: format!("the registry {}", self.reference.registry()),
            remedy: REMEDY,
        }
    }
}

fn of_blob(error: &std::io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(DigestError::VerificationError { expected, actual }) => Error::Digest {
            expected: expected.trim_start_matches("sha256:").to_owned(),
            got: actual.trim_start_matches("sha256:").to_owned(),
        },
        _ => Error::transport(cause_of(error)),
    }
}

fn is_missing(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => true,
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.first().is_some_and(|first| {
                matches!(
                    first.code,
                    OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::BlobUnknown
                        | OciErrorCode::NotFound
                )
            })
        }
        _ => false,
    }
}

fn is_no_manifest(error: &Error) -> bool {
    match error {
        Error::Missing { .. } | Error::Registry(_) => true,
        Error::Status { code, .. } => *code >= 500,
        _ => false,
    }
}

/// The only wasm layer, else the only layer.
fn the_layer(layers: &[OciDescriptor]) -> Result<&OciDescriptor, Error> {
    let wasm: Vec<_> = layers
        .iter()
        .filter(|layer| is_wasm(&layer.media_type))
        .collect();
    match (wasm.as_slice(), layers) {
        ([layer], _) => Ok(layer),
        ([], [layer]) => Ok(layer),
        (wasm, _) => Err(Error::Registry(format!(
            "the artifact has {} layers, {} of them wasm; name one of them by its digest, or push one by itself",
            layers.len(),
            wasm.len(),
        ))),
    }
}

/// `application/wasm`, and what registries were given before that was settled (`application/vnd.wasm.content.layer.v1+wasm`).
fn is_wasm(media_type: &str) -> bool {
    media_type == "application/wasm"
        || media_type.starts_with("application/vnd.wasm.")
        || (media_type.starts_with("application/") && media_type.ends_with("+wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_that_is_meant_is_found() {
        let layer = |media_type: &str| OciDescriptor {
            media_type: media_type.to_owned(),
            ..OciDescriptor::default()
        };
        let wasm = layer("application/vnd.wasm.content.layer.v1+wasm");
        let plain = layer("application/vnd.oci.image.layer.v1.tar+gzip");
        let found =
            |layers: &[OciDescriptor]| the_layer(layers).map(|layer| layer.media_type.clone());
        assert_eq!(
            found(std::slice::from_ref(&plain)).unwrap(),
            plain.media_type
        );
        assert_eq!(
            found(&[plain.clone(), wasm.clone()]).unwrap(),
            wasm.media_type
        );
        assert_eq!(
            found(&[layer("application/wasm")]).unwrap(),
            "application/wasm"
        );
        for layers in [vec![], vec![plain.clone(), plain], vec![wasm.clone(), wasm]] {
            assert!(found(&layers).is_err());
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for registry in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
        ] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in ["r.test", "10.0.0.1:5000", "localhost.test:5000"] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }
}
