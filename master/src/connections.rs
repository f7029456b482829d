//! Takes connections and serves the routes on them, with bounds on how many there are and on what a peer may keep
//! waiting: the head of a request that does not come, an answer that is not taken.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is under way when the master stops may end within this time.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Too many open files, say: trying again at once would only burn a processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at a connection that has said less than it takes to know its version.
const SNIFF_PAUSE: Duration = Duration::from_millis(5);
/// The largest head of a request.
const HEAD_BYTES: usize = 64 << 10;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What every HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) connections: usize,
    /// How long the head of a request may take, and an answer may find no taker.
    pub(crate) patience: Duration,
}

/// Until told to stop; then what is under way has a moment to end.
pub(crate) async fn accept(
    listener: TcpListener,
    routes: Router,
    bounds: Bounds,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let tasks = TaskTracker::new();
    let abandoned = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            refuse(
                &stream,
                "503 Service Unavailable",
                "There are too many connections",
            );
            continue;
        };
        let (routes, shutdown, abandoned) = (routes.clone(), shutdown.clone(), abandoned.clone());
        tasks.spawn(async move {
            let _slot = slot;
            tokio::select! {
                result = serve(stream, routes, bounds.patience, &shutdown) => if let Err(error) = result {
                    tracing::debug!(%error, "a connection broke");
                },
                () = abandoned.cancelled() => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(STOP_PATIENCE, tasks.wait())
        .await
        .is_err()
    {
        abandoned.cancel();
        tasks.wait().await;
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) IpAddr);

fn answer(status: &str, message: &str) -> String {
    let length = message.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{message}"
    )
}

/// Says why, as far as that goes without waiting.
fn refuse(stream: &TcpStream, status: &str, message: &str) {
    // A fresh socket has room for so little; a peer that is gone needs no answer.
    let _ = stream.try_write(answer(status, message).as_bytes());
}

async fn serve(
    stream: TcpStream,
    routes: Router,
    patience: Duration,
    shutdown: &CancellationToken,
) -> Result<(), Broken> {
    // Events are small and wait for nobody.
    stream.set_nodelay(true)?;
    let first = tokio::select! {
        first = tokio::time::timeout(patience, begins_as_http2(&stream)) => first,
        () = shutdown.cancelled() => return Ok(()),
    };
    match first {
        Err(_) => {
            refuse(&stream, "408 Request Timeout", "No request came in time");
            Ok(())
        }
        Ok(Ok(true)) => {
            // Only agents' links are asked where they come from.
            let routes = match stream.peer_addr() {
                Ok(address) => routes.layer(Extension(PeerAddress(address.ip()))),
                Err(_) => routes,
            };
            let service = TowerToHyperService::new(routes);
            let io = TokioIo::new(Patient::new(stream, patience));
            let mut connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .keep_alive_interval(KEEP_ALIVE)
                .serve_connection(io, service);
            tokio::select! {
                result = &mut connection => return Ok(result?),
                () = shutdown.cancelled() => {}
            }
            Pin::new(&mut connection).graceful_shutdown();
            Ok(connection.await?)
        }
        Ok(Ok(false)) => {
            let service = TowerToHyperService::new(routes);
            let io = TokioIo::new(Patient::new(stream, patience));
            let mut connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(patience)
                .title_case_headers(true)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(io, service);
            let ended = tokio::select! {
                result = &mut connection => result,
                () = shutdown.cancelled() => {
                    Pin::new(&mut connection).graceful_shutdown();
                    (&mut connection).await
                }
            };
            let Err(error) = ended else { return Ok(()) };
            let parts = connection.into_parts();
            // A connection that was only idle has asked for nothing; half a head has.
            if error.is_timeout() && !parts.read_buf.is_empty() {
                let mut stream = parts.io.into_inner();
                let message = "The head of the request did not come in time";
                let answer = answer("408 Request Timeout", message);
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await?;
            }
            Err(error.into())
        }
        Ok(Err(error)) => Err(error.into()),
    }
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Looks at what has come without taking it.
async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; HTTP2_PREFACE.len()];
    loop {
        let count = stream.peek(&mut seen).await?;
        if count == HTTP2_PREFACE.len() || count == 0 || !HTTP2_PREFACE.starts_with(&seen[..count])
        {
            return Ok(seen[..count] == *HTTP2_PREFACE);
        }
        // What has come already would wake this at once, again and again.
        tokio::time::sleep(SNIFF_PAUSE).await;
    }
}

/// A socket whose peer has to take what it is sent within a time: otherwise what waits for a peer that has stopped
/// reading would be kept for ever.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
        }
    }

    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        if waiting.as_mut().poll(context).is_ready() {
            let message = "the peer does not take what it is sent";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
        }
        Poll::Pending
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bounded(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
