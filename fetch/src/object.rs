//! S3 and WebHDFS, through OpenDAL.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use opendal::services::{S3, Webhdfs};
use opendal::{ErrorKind, HttpTransporter, Metadata, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;

use crate::error::cause_of;
use crate::source::{Opened, Position, Source};
use crate::{Error, settings};

const S3_REMEDY: &str = "start this process with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of somebody who may read it";
const WEBHDFS_REMEDY: &str =
    "name a user who may read it in the URI (?user.name=NAME), or make it readable for all";

/// One object, or file.
#[derive(Debug)]
pub(crate) struct Object {
    operator: Operator,
    path: String,
    /// For sentences: `object 'k' in the bucket 'b'`.
    what: String,
    who: &'static str,
    remedy: &'static str,
}

impl Object {
    pub(crate) fn s3(
        settings: &settings::S3,
        client: reqwest::Client,
        bucket: &str,
        key: &str,
    ) -> Result<Self, Error> {
        let mut builder = S3::default()
            .bucket(bucket)
            .region(settings.region.as_deref().unwrap_or("us-east-1"))
            .disable_config_load()
            .disable_ec2_metadata();
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if settings.virtual_host {
            builder = builder.enable_virtual_host_style();
        }
        builder = match (&settings.access_key_id, &settings.secret_access_key) {
            (Some(id), Some(secret)) => builder
                .access_key_id(id)
                .secret_access_key(secret)
                .session_token(settings.session_token.as_deref().unwrap_or_default()),
            (None, None) => builder.skip_signature(),
            _ => {
                return Err(Error::Settings(
                    "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set; set both, or none".to_owned(),
                ));
            }
        };
        Ok(Self {
            operator: operator(builder, client)?,
            path: key.to_owned(),
            what: format!("object '{key}' in the bucket '{bucket}'"),
            who: "the object store",
            remedy: S3_REMEDY,
        })
    }

    pub(crate) fn webhdfs(
        client: reqwest::Client,
        endpoint: &str,
        path: &str,
        user: Option<&str>,
    ) -> Result<Self, Error> {
        let builder = Webhdfs::default()
            .endpoint(endpoint)
            .user_name(user.unwrap_or_default());
        Ok(Self {
            operator: operator(builder, client)?,
            path: path.to_owned(),
            what: format!("file '{path}' in HDFS"),
            who: "HDFS",
            remedy: WEBHDFS_REMEDY,
        })
    }

    async fn read(&self, position: &Position) -> Result<Opened, Error> {
        let metadata = self
            .operator
            .stat(&self.path)
            .await
            .map_err(|error| self.failed(&error))?;
        if metadata.is_dir() {
            return Err(Error::Missing {
                what: self.what.clone(),
            });
        }
        let size = metadata.content_length();
        let version = version(&metadata);
        let same = position.version.is_none() || position.version == version;
        let offset = if same && position.offset <= size {
            position.offset
        } else {
            0
        };
        let stream = if offset == size {
            futures::stream::empty().boxed()
        } else {
            let mut reading = self.operator.reader_with(&self.path);
            if let Some(tag) = metadata.etag()
                && self.operator.info().capability().read_with_if_match
            {
                reading = reading.if_match(tag);
            }
            let reader = reading.await.map_err(|error| self.failed(&error))?;
            let stream = reader
                .into_bytes_stream(offset..size)
                .await
                .map_err(|error| self.failed(&error))?;
            let (what, who, remedy) = (self.what.clone(), self.who, self.remedy);
            stream
                .map(move |piece| piece.map_err(|error| of_io(&error, &what, who, remedy)))
                .boxed()
        };
        Ok(Opened {
            offset,
            size: Some(size),
            version,
            sha256: None,
            stream,
        })
    }

    fn failed(&self, error: &opendal::Error) -> Error {
        of_opendal(error, &self.what, self.who, self.remedy)
    }
}

impl Source for Object {
    fn open<'a>(&'a self, position: &'a Position) -> BoxFuture<'a, Result<Opened, Error>> {
        self.read(position).boxed()
    }
}

fn operator(builder: impl opendal::Builder, client: reqwest::Client) -> Result<Operator, Error> {
    let operator =
        Operator::new(builder).map_err(|error| Error::Settings(error.message().to_owned()))?;
    let transport = HttpTransporter::new(ReqwestTransport::new(client));
    let context = operator.context().with_http_transport(transport);
    Ok(operator.with_context(context))
}

fn version(metadata: &Metadata) -> Option<String> {
    let changed = metadata.last_modified().map(|at| format!("{at:?}"));
    let tag = metadata.etag().map(str::to_owned).or(changed)?;
    Some(format!("{tag}:{}", metadata.content_length()))
}

fn of_io(error: &std::io::Error, what: &str, who: &str, remedy: &'static str) -> Error {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<opendal::Error>());
    match inner {
        Some(inner) => of_opendal(inner, what, who, remedy),
        None => Error::transport(cause_of(error)),
    }
}

fn of_opendal(error: &opendal::Error, what: &str, who: &str, remedy: &'static str) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::Missing {
            what: what.to_owned(),
        },
        // So an absent bucket is told.
        ErrorKind::ConfigInvalid => Error::Missing {
            what: format!("{what}: {}", sentence(error)),
        },
        ErrorKind::PermissionDenied => Error::Denied {
            who: who.to_owned(),
            remedy,
        },
        ErrorKind::ConditionNotMatch | ErrorKind::RangeNotSatisfied => Error::Changed,
        _ if error.is_temporary()
            || error.is_persistent()
            || error.kind() == ErrorKind::RateLimited =>
        {
            Error::transport(format!("{who} answered: {}", sentence(error)))
        }
        _ => Error::Registry(format!("{who} answered: {}", sentence(error))),
    }
}

fn sentence(error: &opendal::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => cause_of(source),
        None => error.message().to_owned(),
    }
}
