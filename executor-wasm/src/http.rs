//! What a guest may do by `wasi:http` beyond answering: requests to others, if its task may make any.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::egress::{Egress, Unreachable};

/// What a guest waits for if it does not say.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pieces of an answer's body the guest may be ahead, and the size of each: none of it is in the task's memory.
const BODY_PIECES: usize = 4;
const BODY_PIECE_BYTES: usize = 64 << 10;

/// What a body a guest writes may have on its way.
pub(crate) const BODY_BYTES: u64 = (BODY_PIECES * BODY_PIECE_BYTES) as u64;
/// The longest head of an answer, and what is read of its body at a time.
const ANSWER_READ_BYTES: usize = 64 << 10;

/// A response, and the connection it comes by, which has to be driven until its body has been read.
type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

/// The host's side of requests a guest makes.
pub(crate) struct Http {
    pub(crate) egress: Arc<Egress>,
}

impl WasiHttpHooks for Http {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let egress = Arc::clone(&self.egress);
        Box::new(async move { send(&egress, request, options).await })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_PIECES
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_PIECE_BYTES
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn send(
    egress: &Egress,
    mut request: http::Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<Sent, Error> {
    let options = options.unwrap_or_default();
    let patience = |time: Option<Duration>| time.unwrap_or(PATIENCE);
    let encrypted = request.uri().scheme() == Some(&Scheme::HTTPS);
    let authority = request
        .uri()
        .authority()
        .ok_or(Error::HttpRequestUriInvalid)?;
    let host = authority.host().to_owned();
    let port = authority
        .port_u16()
        .unwrap_or(if encrypted { 443 } else { 80 });
    let connecting = async {
        let addresses = egress.resolve(&host, port).await.map_err(refusal)?;
        let stream = TcpStream::connect(addresses.as_slice())
            .await
            .map_err(Error::Connect)?;
        let stream: Box<dyn Stream> = match encrypted {
            true => Box::new(encrypt(&host, stream).await?),
            false => Box::new(stream),
        };
        let mut builder = http1::Builder::new();
        builder.max_buf_size(ANSWER_READ_BYTES);
        Ok::<_, Error>(builder.handshake(TokioIo::new(stream)).await?)
    };
    let connected = timeout(patience(options.connect_timeout), connecting).await;
    let (mut sender, connection) = connected.map_err(|_| Error::ConnectionTimeout)??;
    // The connection lives by itself until its response is read or dropped.
    let mut connection = Box::pin(connection);
    // Only a proxy is told the whole address.
    let path = request.uri().path_and_query().map(|path| path.as_str());
    *request.uri_mut() = path
        .unwrap_or("/")
        .parse()
        .map_err(|_| Error::HttpRequestUriInvalid)?;
    let mut responding = std::pin::pin!(timeout(
        patience(options.first_byte_timeout),
        sender.send_request(request)
    ));
    let mut over = false;
    let response = std::future::poll_fn(|context| {
        if let Poll::Ready(response) = responding.as_mut().poll(context) {
            return Poll::Ready(response);
        }
        // It is what moves the bytes; its end is seen by the response too.
        if !over && connection.as_mut().poll(context).is_ready() {
            over = true;
            context.waker().wake_by_ref();
        }
        Poll::Pending
    });
    let response = response.await.map_err(|_| Error::ConnectionReadTimeout)??;
    let between = patience(options.between_bytes_timeout);
    let response = response.map(|body| Patient::new(body, between).boxed_unsync());
    let rest = async move {
        match over {
            true => Ok(()),
            false => Ok(connection.await?),
        }
    };
    Ok((response, Box::new(rest)))
}

fn refusal(why: Unreachable) -> Error {
    match why {
        Unreachable::Denied => Error::HttpRequestDenied,
        Unreachable::Address => Error::DestinationIpProhibited,
        Unreachable::Unknown => Error::DnsError {
            rcode: Some("the name is not known".to_owned()),
            info_code: None,
        },
    }
}

/// Made once: it holds the certificates of every authority.
static TLS: LazyLock<Result<TlsConnector, String>> = LazyLock::new(|| {
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.into(),
    };
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
});

async fn encrypt(
    host: &str,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let connector = TLS
        .as_ref()
        .map_err(|error| Error::Tls(io::Error::other(error.clone())))?;
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(bare).map_err(|_| Error::HttpRequestUriInvalid)?;
    connector.connect(name, stream).await.map_err(Error::Tls)
}

/// A body that fails if nothing comes for too long.
struct Patient {
    body: Incoming,
    patience: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl Patient {
    fn new(body: Incoming, patience: Duration) -> Self {
        Self {
            body,
            patience,
            deadline: Box::pin(tokio::time::sleep(patience)),
        }
    }
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let next = Instant::now() + self.patience;
            self.deadline.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        let late = self.deadline.as_mut().poll(context);
        late.map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
