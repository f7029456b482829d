//! An HTTP service: a task that listens, hands requests to instances of its component, and ends when it is told to.
//!
//! Too many connections, and too many requests, wait for a while and are then turned away; neither ends the task, nor
//! does a request whose guest fails.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::modules::Loaded;
use crate::requests::Server;
use crate::spec::TaskSpec;
use crate::task::{End, Surroundings};
use crate::timed::Timed;
use crate::verdict::Ending;

/// How long a client may take for the head of a request, or to begin another one.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// What a head may have. It is the executor's memory, for as many connections as there may be.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long somebody who is turned away may take to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);
/// The pause after an accept that failed: what it needs, most likely a descriptor, is not there at once.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
const TURNED_AWAY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 32\r\n\
connection: close\r\n\r\nthe service is busy; try again\r\n";

/// Serves until something ends it. `started` is called when it listens.
pub(crate) async fn serve(
    spec: &Arc<TaskSpec>,
    loaded: &Loaded,
    surroundings: Surroundings,
    started: &mut (dyn FnMut() + Send),
) -> End {
    let not_launched = |message: String| End::from(Ending::NotLaunched { message });
    let Loaded::Component(component) = loaded else {
        return not_launched("only a component can be a service".to_owned());
    };
    let Some(address) = spec.listen.first() else {
        return not_launched(
            "the component is an HTTP service, which needs a port: give the task one of the agent's `ports`".to_owned(),
        );
    };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return not_launched(format!("{address} cannot be listened on: {error}")),
    };
    let switch = Arc::clone(&surroundings.switch);
    let meter = Arc::clone(&surroundings.meter);
    let share = Arc::clone(&surroundings.share);
    let server = match Server::new(spec, component, surroundings, *address) {
        Ok(server) => Arc::new(server),
        Err(message) => return not_launched(message),
    };
    // However this ends, nothing goes on behind it.
    let _stopped = server.stop.clone().drop_guard();
    if let Err(failure) = server.warm_up().await {
        return failure.at_launch(spec.serving.request_time);
    }
    meter.requests.served.store(true, Ordering::Relaxed);
    switch.be_patient();
    started();
    let door = Door {
        server: Arc::clone(&server),
        draining: CancellationToken::new(),
        connections: Arc::new(Semaphore::new(spec.serving.connections)),
        queue: Arc::new(Semaphore::new(spec.serving.connections)),
        patience: spec.serving.queue,
    };
    let mut sweep = tokio::time::interval((spec.serving.idle / 2).max(Duration::from_millis(10)));
    loop {
        tokio::select! {
            biased;
            ending = server.over() => return End::from(ending),
            () = switch.winding_down() => break,
            _ = sweep.tick() => server.sweep(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let entering = Timed::new(door.clone().enter(stream), Arc::clone(&share));
                    drop(server.tasks.spawn(entering));
                }
                Err(error) => {
                    tracing::debug!(%error, task = spec.task_id, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    door.draining.cancel();
    server.tasks.close();
    tokio::select! {
        biased;
        () = server.tasks.wait() => {}
        () = switch.wound_down() => {
            tracing::info!(task = spec.task_id, "requests did not end within the grace");
            server.stop.cancel();
            // What is cut off is counted as that, and the counts are told right after.
            let _ = tokio::time::timeout(FAREWELL, server.tasks.wait()).await;
        }
    }
    End::from(Ending::Killed)
}

/// Lets connections in.
#[derive(Clone)]
struct Door {
    server: Arc<Server>,
    /// What has begun is still finished.
    draining: CancellationToken,
    connections: Arc<Semaphore>,
    /// Places to wait in.
    queue: Arc<Semaphore>,
    patience: Duration,
}

impl Door {
    async fn enter(self, stream: TcpStream) {
        // Answers are written whole; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        tokio::select! {
            () = self.server.stop.cancelled() => {}
            () = self.admit(stream) => {}
        }
    }

    async fn admit(&self, stream: TcpStream) {
        if let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() {
            return self.serve(stream, permit).await;
        }
        if let Ok(_place) = self.queue.try_acquire() {
            let turn = Arc::clone(&self.connections).acquire_owned();
            if let Ok(Ok(permit)) = tokio::time::timeout(self.patience, turn).await {
                return self.serve(stream, permit).await;
            }
        }
        self.server.turned_away();
        let _ = tokio::time::timeout(FAREWELL, turn_away(stream)).await;
    }

    async fn serve(&self, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        let due = Due::default();
        let service = service_fn(|request| {
            let server = Arc::clone(&self.server);
            let due = due.clone();
            async move {
                // Waiting for its turn has a bound of its own.
                due.by(None);
                let answer = server.answer(request, |moment| due.by(moment)).await;
                Ok::<_, Infallible>(answer.map(|body| Ended::new(body, due)))
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service)
        );
        let served = async {
            tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                () = self.draining.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        tokio::select! {
            biased;
            ended = served => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
            }
            // Only giving up the connection tells somebody who takes nothing.
            () = due.passed() => tracing::debug!("an answer was not taken in time"),
        }
    }
}

/// Until when the answer under way on a connection must have been taken.
#[derive(Clone, Default)]
struct Due(Arc<watch::Sender<Option<Instant>>>);

impl Due {
    fn by(&self, moment: Option<Instant>) {
        self.0.send_replace(moment);
    }

    async fn passed(&self) {
        let mut due = self.0.subscribe();
        loop {
            let at = *due.borrow_and_update();
            let late = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = late => return,
                _ = due.changed() => {}
            }
        }
    }
}

/// The body of an answer, which says when it is over. What of it is in the buffers by then has its time as well; it is
/// more than the next head has, so that a connection nobody uses ends in the usual way.
struct Ended {
    body: WasiBody,
    due: Due,
}

impl Ended {
    fn new(body: WasiBody, due: Due) -> Self {
        Self { body, due }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.due.by(Some(Instant::now() + 2 * HEAD_TIME));
    }
}

impl Body for Ended {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whoever has sent something must have it read, or the answer is lost with the connection.
async fn turn_away(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(TURNED_AWAY).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
