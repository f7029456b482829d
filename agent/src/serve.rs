//! Takes connections and serves the site on them, over TCP or a unix socket, with a bound on how long a peer may take
//! over the head of a request.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::peer;
use crate::tenants::UserRange;

/// How long the head of a request may take to arrive.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// The largest head.
const HEAD_BYTES: usize = 64 << 10;
/// The pause after a connection could not be taken: mostly there are no descriptors left just now.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
    builder.http2().timer(TokioTimer::new());
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
        let watcher = graceful.watcher();
        let (builder, site, tenants) = (builder.clone(), site.clone(), tenants.clone());
        let abandoned = abandoned.clone();
        tokio::spawn(async move {
            let site = match (tenants, ends) {
                (Some(tenants), Some(ends)) if Tenants::is_one(tenants.users, ends).await => {
                    tenants.site
                }
                _ => site,
            };
            let service = TowerToHyperService::new(site);
            let connection = builder
                .serve_connection(TokioIo::new(stream), service)
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
