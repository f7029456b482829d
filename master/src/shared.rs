//! What every request can reach: the core's inbox, the links, the artifacts and who this master is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tepui_access::ArtifactKey;
use tepui_fetch::Fetch;
use tepui_master_core::{Core, StreamKey, View};
use tepui_model::Tick;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::access::caller;
use crate::artifacts::Artifacts;
use crate::config::Config;
use crate::files::Links;
use crate::log::Verbosity;
use crate::owner::Message;
use crate::run_times::RunTimes;
use crate::store::Writer;

pub(crate) struct Shared {
    pub(crate) inbox: mpsc::Sender<Message>,
    /// A body that is dropped cannot wait for room in the inbox.
    pub(crate) closed_streams: mpsc::UnboundedSender<StreamKey>,
    pub(crate) links: Arc<Links>,
    pub(crate) artifacts: Arc<Artifacts>,
    /// What tokens for artifacts are made with.
    pub(crate) artifact_key: ArtifactKey,
    pub(crate) fetch: Fetch,
    /// Turns of those who have artifacts fetched.
    pub(crate) adding: Semaphore,
    pub(crate) identity: Identity,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) writer: Writer,
    pub(crate) verbosity: Arc<Verbosity>,
    pub(crate) registry_loaded_in: Duration,
    pub(crate) config: Config,
    pub(crate) shutdown: CancellationToken,
}

/// Figures of the shell that change by themselves.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    operator_stream_subscribers: AtomicUsize,
    /// What waits in the inbox without having come from outside: questions to the core, answers of the registry.
    dispatches: AtomicUsize,
    /// Of steps of the core in which it allocated.
    allocation_runs: Mutex<RunTimes>,
}

impl Gauges {
    pub(crate) fn operator_streams(&self, open: usize) {
        self.operator_stream_subscribers
            .store(open, Ordering::Relaxed);
    }

    pub(crate) fn operator_stream_subscribers(&self) -> usize {
        self.operator_stream_subscribers.load(Ordering::Relaxed)
    }

    pub(crate) fn dispatched(&self) {
        self.dispatches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dispatch_taken(&self) {
        let less = |waiting: usize| waiting.checked_sub(1);
        let _ = self
            .dispatches
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    pub(crate) fn dispatches(&self) -> usize {
        self.dispatches.load(Ordering::Relaxed)
    }

    pub(crate) fn allocation_runs(&self) -> MutexGuard<'_, RunTimes> {
        self.allocation_runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Identity {
    /// As clients reach this master.
    pub(crate) hostname: String,
    pub(crate) ip: String,
    pub(crate) port: u16,
    pub(crate) started: Instant,
    pub(crate) started_wall_ns: i64,
}

impl Identity {
    /// `host:port`, in brackets where it must be.
    pub(crate) fn authority(&self) -> String {
        if self.hostname.contains(':') {
            format!("[{}]:{}", self.hostname, self.port)
        } else {
            format!("{}:{}", self.hostname, self.port)
        }
    }

    pub(crate) fn pid(&self) -> String {
        format!("master@{}:{}", self.ip, self.port)
    }
}

impl Shared {
    /// The state as it is after everything that this caller did before, as far as the caller may see it.
    pub(crate) async fn view(&self) -> Result<Arc<View>, Refusal> {
        let (sender, receiver) = oneshot::channel();
        self.gauges.dispatched();
        self.inbox
            .send(Message::View(sender))
            .await
            .map_err(|_| Refusal::stopping())?;
        let view = receiver.await.map_err(|_| Refusal::stopping())?;
        Ok(view.visible_to(&self.config.core.acls, caller().as_deref()))
    }
}

impl Shared {
    /// Puts a question to the core, as it is after everything that this caller did before. It keeps the core from its
    /// work while it is answered.
    pub(crate) async fn ask<Answer: Send + 'static>(
        &self,
        question: impl FnOnce(&Core, Tick) -> Answer + Send + 'static,
    ) -> Result<Answer, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let look = move |core: &Core, now| {
            let _ = sender.send(question(core, now));
        };
        self.gauges.dispatched();
        self.inbox
            .send(Message::Look(Box::new(look)))
            .await
            .map_err(|_| Refusal::stopping())?;
        receiver.await.map_err(|_| Refusal::stopping())
    }
}

pub(crate) fn wall_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A request that is not served: a status and a sentence in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn stopping() -> Self {
        Self::unavailable("The master is stopping")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.message).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        response
    }
}

/// 405 with the methods that would do.
pub(crate) fn method_not_allowed(allowed: &'static str, method: &axum::http::Method) -> Response {
    let refusal = Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("Expecting one of {{ '{allowed}' }}, but received '{method}'"),
    );
    let mut response = refusal.into_response();
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}
