//! Takes connections and serves the site on them, over TCP or a unix socket, with a bound on how long a peer may take
//! over the head of a request.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::peer;
use crate::tenants::UserRange;

/// How long the head of a request may take to arrive.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// The largest head.
const HEAD_BYTES: usize = 64 << 10;
/// The pause after a connection could not be taken: mostly there are no descriptors left just now.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Connections at once of one listener, and the part of all descriptors they may have: an agent without any cannot start
/// or write anything.
const CONNECTIONS: usize = 10_000;
const PART_OF_DESCRIPTORS: usize = 4;
/// What it takes to know the version of HTTP.
const VERSION_BYTES: usize = 24;
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 30\r\nConnection: close\r\n\r\nThere are too many connections";
/// How long open requests may take to end when the agent stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where connections come from.
pub(crate) trait Listen: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// A connection, with the addresses of its ends, the other one first, where ends have addresses.
    fn take(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<Ends>)>> + Send;
}

/// The other end and our own.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// Those who get to see another site than everybody: what these users connect from this machine.
#[derive(Debug, Clone)]
pub(crate) struct Tenants {
    pub(crate) users: UserRange,
    pub(crate) site: Router,
}

impl Tenants {
    async fn is_one(users: UserRange, (peer, own): Ends) -> bool {
        let looked = tokio::task::spawn_blocking(move || peer::user_of(peer, own)).await;
        looked.is_ok_and(|user| user.is_some_and(|user| users.contains(user)))
    }
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn take(&self) -> io::Result<(TcpStream, Option<Ends>)> {
        let (stream, peer) = self.accept().await?;
        // Events are small and wait for nobody.
        stream.set_nodelay(true)?;
        let own = stream.local_addr()?;
        Ok((stream, Some((peer, own))))
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn take(&self) -> io::Result<(UnixStream, Option<Ends>)> {
        Ok((self.accept().await?.0, None))
    }
}

fn connections() -> usize {
    let files = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let files = files.map_or(1024, |(now, _)| usize::try_from(now).unwrap_or(usize::MAX));
    (files / PART_OF_DESCRIPTORS).clamp(1, CONNECTIONS)
}

/// Says why.
async fn refuse(mut stream: impl AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(TOO_MANY).await?;
    stream.shutdown().await
}

/// A peer that has to begin within the time the head of a request may take: until its version is known nobody else looks
/// at the clock.
struct Hasty<S> {
    stream: S,
    missing: usize,
    waiting: Pin<Box<Sleep>>,
}

impl<S> Hasty<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            missing: VERSION_BYTES,
            waiting: Box::pin(tokio::time::sleep(HEAD_PATIENCE)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Hasty<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            let read = buffer.filled().len() - before;
            self.missing = self.missing.saturating_sub(read);
        } else if self.missing > 0 && self.waiting.as_mut().poll(context).is_ready() {
            let message = "no request came in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hasty<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Until told to stop; then open requests have a moment to end.
pub(crate) async fn serve(
    listener: impl Listen,
    site: Router,
    tenants: Option<Tenants>,
    stop: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .title_case_headers(true)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE);
    let slots = Arc::new(Semaphore::new(connections()));
    let graceful = GracefulShutdown::new();
    let abandoned = CancellationToken::new();
    loop {
        let taken = tokio::select! {
            taken = listener.take() => taken,
            () = stop.cancelled() => break,
        };
        let (stream, ends) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::debug!("there are too many connections");
            tokio::spawn(async move {
                let _ = tokio::time::timeout(ACCEPT_PAUSE, refuse(stream)).await;
            });
            continue;
        };
        let watcher = graceful.watcher();
        let (builder, site, tenants) = (builder.clone(), site.clone(), tenants.clone());
        let abandoned = abandoned.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let site = match (tenants, ends) {
                (Some(tenants), Some(ends)) if Tenants::is_one(tenants.users, ends).await => {
                    tenants.site
                }
                _ => site,
            };
            let service = TowerToHyperService::new(site);
            let connection = builder
                .serve_connection(TokioIo::new(Hasty::new(stream)), service)
                .into_owned();
            let connection = watcher.watch(connection);
            tokio::select! {
                result = connection => if let Err(error) = result {
                    tracing::debug!(%error, "a connection broke");
                },
                () = abandoned.cancelled() => {}
            }
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(FAREWELL, graceful.shutdown()).await;
    abandoned.cancel();
}
