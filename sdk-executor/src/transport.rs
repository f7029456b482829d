//! HTTP/1.1 to the agent over its unix socket or TCP.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tepui_api::recordio;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::config::{Address, Config};

const PROTOBUF: &str = "application/x-protobuf";
const RECORDIO: &str = "application/recordio";
const PATH: &str = "/api/v1/executor";
/// Longest sentence of a refusal that is read.
const REFUSAL_BYTES: usize = 64 * 1024;
/// Chunks handed to a connection that has not written them yet. Few, so that what comes meanwhile is batched.
const CHUNKS_AHEAD: usize = 2;
/// How long a connection may take to come about. The agent is on the same machine.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a call did not reach the agent or was refused.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection.
    #[error("cannot connect to the agent at {address}: {source}")]
    Connect {
        /// Where it should listen.
        address: Address,
        /// What the system says.
        source: std::io::Error,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("the connection to the agent broke: {0}")]
    Http(#[from] hyper::Error),
    /// A configured value cannot stand in a header.
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    /// The agent answered with an error.
    #[error("the agent answered {status}: {message}")]
    Refused {
        /// The status code.
        status: u16,
        /// Its sentence.
        message: String,
    },
    /// The records of the stream do not parse.
    #[error("the agent's stream is damaged: {0}")]
    Damaged(String),
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One connection.
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    host: String,
    authorization: Option<String>,
}

impl Connection {
    pub(crate) async fn open(config: &Config) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Connect {
            address: config.address.clone(),
            source,
        };
        let late = |_| failed(std::io::ErrorKind::TimedOut.into());
        let sender = match &config.address {
            Address::Unix(path) => {
                let stream = tokio::time::timeout(CONNECT, UnixStream::connect(path)).await;
                shake_hands(stream.map_err(late)?.map_err(failed)?).await?
            }
            Address::Tcp(endpoint) => {
                let stream = tokio::time::timeout(CONNECT, TcpStream::connect(endpoint)).await;
                let stream = stream.map_err(late)?.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                shake_hands(stream).await?
            }
        };
        Ok(Self {
            sender,
            host: match &config.address {
                Address::Unix(_) => "localhost".to_owned(),
                Address::Tcp(endpoint) => endpoint.clone(),
            },
            authorization: config.token.as_ref().map(|token| format!("Bearer {token}")),
        })
    }

    fn request(&self, path: &str) -> hyper::http::request::Builder {
        let mut builder = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::ACCEPT, PROTOBUF);
        if let Some(authorization) = &self.authorization {
            builder = builder.header(header::AUTHORIZATION, authorization);
        }
        builder
    }

    /// Sends one call and gives back the answer, whose body is still to be read.
    pub(crate) async fn post(&mut self, call: Bytes) -> Result<Response<Incoming>, TransportError> {
        self.post_to(PATH, call).await
    }

    /// The same to another path of the agent.
    pub(crate) async fn post_to(
        &mut self,
        path: &str,
        call: Bytes,
    ) -> Result<Response<Incoming>, TransportError> {
        let request = self
            .request(path)
            .header(header::CONTENT_TYPE, PROTOBUF)
            .body(Full::new(call).boxed_unsync())?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        accepted(response).await
    }

    /// Whether the agent takes calls as a stream of records: it is sent an empty one.
    pub(crate) async fn takes_records(&mut self) -> Result<bool, TransportError> {
        let request = self
            .request(PATH)
            .header(header::CONTENT_TYPE, RECORDIO)
            .header("Message-Content-Type", PROTOBUF)
            .body(Full::new(Bytes::new()).boxed_unsync())?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        match accepted(response).await {
            Ok(response) => {
                drain(response).await?;
                Ok(true)
            }
            Err(TransportError::Refused { message, .. }) => {
                tracing::debug!(%status, message, "the agent does not take calls as a stream");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the long call. What is sent into the channel is written as one chunk; the future ends with the answer,
    /// which comes when the channel is dropped or when the agent has had enough.
    pub(crate) async fn stream(
        mut self,
    ) -> Result<
        (
            mpsc::Sender<Bytes>,
            impl Future<Output = Result<(), TransportError>> + Send,
        ),
        TransportError,
    > {
        let (sender, receiver) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
        let chunks = futures::stream::unfold(receiver, async |mut receiver| {
            let chunk = receiver.recv().await?;
            Some((chunk, receiver))
        });
        let body = StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk))));
        let request = self
            .request(PATH)
            .header(header::CONTENT_TYPE, RECORDIO)
            .header("Message-Content-Type", PROTOBUF)
            .body(body.boxed_unsync())?;
        self.sender.ready().await?;
        let answer = async move {
            let response = self.sender.send_request(request).await?;
            drain(accepted(response).await?).await
        };
        Ok((sender, answer))
    }
}

async fn shake_hands<S>(stream: S) -> Result<SendRequest<Body>, TransportError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends when the sender and the last answer's body are dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the agent ended");
        }
    });
    Ok(sender)
}

async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, TransportError> {
    if matches!(response.status(), StatusCode::OK | StatusCode::ACCEPTED) {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let message = match Limited::new(response.into_body(), REFUSAL_BYTES)
        .collect()
        .await
    {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(error) => format!("(its sentence could not be read: {error})"),
    };
    Err(TransportError::Refused { status, message })
}

/// Reads an answer to its end, so that the connection can be used again.
pub(crate) async fn drain(response: Response<Incoming>) -> Result<(), TransportError> {
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// Several calls as one chunk of records.
pub(crate) fn records<'a>(calls: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let total = calls.clone().map(|call| call.len() + 21).sum();
    let mut chunk = BytesMut::with_capacity(total);
    for call in calls {
        recordio::encode_into(call, &mut chunk);
    }
    chunk.freeze()
}
