//! HTTP/1.1 to the master, over a pool of kept connections.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use tepui_access::Credential;

use crate::address;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
/// Names the subscription a call belongs to.
pub(crate) const STREAM_ID: HeaderName = HeaderName::from_static("mesos-stream-id");
/// Masters that each take another for the leader must not send us round in circles.
const REDIRECTS_MAX: usize = 5;
/// Longest sentence of a refusal that is read.
const REFUSAL_BYTES: usize = 64 * 1024;
const CONNECT: Duration = Duration::from_secs(10);
/// How long the head of an answer may take. The master answers once it has understood the call, so this is generous.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a request brought no success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("the master at {to} cannot be reached: {why}")]
    Connection { to: String, why: String },
    #[error("the master at {to} did not answer within {} s", ANSWER.as_secs())]
    Late { to: String },
    #[error("{0}")]
    Redirect(String),
    #[error("{message}")]
    Refused { status: u16, message: String },
}

/// An answer of success, and where it came from after all redirects.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) from: Uri,
}

pub(crate) struct Transport {
    client: Client<HttpConnector, Full<Bytes>>,
    authorization: Option<HeaderValue>,
}

impl Transport {
    pub(crate) fn new(credential: Option<&Credential>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        let authorization = credential.map(|credential| {
            let mut value =
                HeaderValue::try_from(credential.header()).expect("base64 is plain text");
            value.set_sensitive(true);
            value
        });
        Self {
            client,
            authorization,
        }
    }

    /// Posts a call, wherever redirects lead. An answer that is not of success is an error.
    pub(crate) async fn post(
        &self,
        to: &Uri,
        stream_id: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<Answer, TransportError> {
        let mut to = to.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.post_once(&to, stream_id, body.clone()).await?;
            match response.status() {
                status if status.is_success() => return Ok(Answer { response, from: to }),
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                    let location = response.headers().get(LOCATION);
                    let location = location
                        .and_then(|value| value.to_str().ok())
                        .unwrap_or_default();
                    to = address::redirected(&to, location).map_err(TransportError::Redirect)?;
                    tracing::debug!(%to, "redirected");
                }
                status => return Err(refusal(status, response).await),
            }
        }
        Err(TransportError::Redirect(format!(
            "more than {REDIRECTS_MAX} redirects, the last to {to}"
        )))
    }

    async fn post_once(
        &self,
        to: &Uri,
        stream_id: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<Response<Incoming>, TransportError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = to.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, PROTOBUF);
        headers.insert(ACCEPT, PROTOBUF);
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(stream_id) = stream_id {
            headers.insert(STREAM_ID, stream_id.clone());
        }
        match tokio::time::timeout(ANSWER, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(TransportError::Connection {
                to: host(to),
                why: chain(&error),
            }),
            Err(_) => Err(TransportError::Late { to: host(to) }),
        }
    }

    /// Posts a call whose answer has no content worth keeping.
    pub(crate) async fn call(
        &self,
        to: &Uri,
        stream_id: &HeaderValue,
        body: Bytes,
    ) -> Result<(), TransportError> {
        let answer = self.post(to, Some(stream_id), body).await?;
        // Read to its end, so that the connection goes back to the pool. What breaks here does not unmake the success.
        if let Err(error) = Limited::new(answer.response.into_body(), REFUSAL_BYTES)
            .collect()
            .await
        {
            tracing::debug!(%error, "an answer was not read to its end");
        }
        Ok(())
    }
}

fn host(uri: &Uri) -> String {
    uri.authority().map(ToString::to_string).unwrap_or_default()
}

async fn refusal(status: StatusCode, response: Response<Incoming>) -> TransportError {
    let message = match Limited::new(response.into_body(), REFUSAL_BYTES)
        .collect()
        .await
    {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(error) => format!("(the sentence could not be read: {error})"),
    };
    let message = if message.is_empty() {
        status.to_string()
    } else {
        message
    };
    TransportError::Refused {
        status: status.as_u16(),
        message,
    }
}

/// An error with its causes: hyper's own sentence is only "client error (Connect)".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence = format!("{sentence}: {error}");
        cause = error.source();
    }
    sentence
}
