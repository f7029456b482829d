//! One request to a service: an instance for it, its answer, and what becomes of the instance afterwards.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant as Moment, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::{HostOutgoingBody, StreamContext};
use wasmtime_wasi_http::{WasiBody, WasiHttpView as _};

use crate::ending::{ending, place};
use crate::limits::Meter;
use crate::modules::{Forms, LoadedComponent};
use crate::output::Share;
use crate::spec::TaskSpec;
use crate::store::{Furniture, State, refuel, settle};
use crate::task::{End, FULL, Surroundings};
use crate::timed::Timed;
use crate::verdict::Ending;

/// Failures that are all written to stderr; of later ones ever fewer are.
const FAILURES_TOLD: u64 = 20;

/// What a connection has beyond the time of its request, to be told that there was not enough of it.
const SLACK: Duration = Duration::from_secs(1);

type Answer = Result<Response<WasiBody>, ErrorCode>;

/// What serves a component's requests.
pub(crate) struct Server {
    spec: Arc<TaskSpec>,
    /// Where it listens.
    host: HeaderValue,
    surroundings: Surroundings,
    linked: Forms<ProxyPre<State>>,
    memories: u32,
    furniture: Furniture,
    /// Instances that wait for another request, the longest waiting first.
    idle: Mutex<Vec<Instance>>,
    crowd: Arc<Crowd>,
    requests: Arc<Semaphore>,
    /// Connections, and the ends of answers.
    pub(crate) tasks: TaskTracker,
    /// Ends them all.
    pub(crate) stop: CancellationToken,
    /// Why the service cannot go on.
    over: OnceLock<Ending>,
    ended: Notify,
}

/// The instances there are.
#[derive(Default)]
struct Crowd {
    alive: AtomicUsize,
    /// One has gone, or waits for another request.
    room: Notify,
}

/// One of a crowd, as long as it lives.
struct Member(Arc<Crowd>);

impl Member {
    fn of(crowd: &Arc<Crowd>) -> Self {
        crowd.alive.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(crowd))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::AcqRel);
        self.0.room.notify_one();
    }
}

/// An instance and all it stands on; the order is that in which they go.
struct Instance {
    store: Store<State>,
    proxy: Proxy,
    answered: u32,
    /// Where the service listens.
    host: HeaderValue,
    waits_since: Instant,
    _place: crate::engines::Place,
    _files: Option<Share>,
    /// Last, when its memory has been given back.
    _member: Member,
}

impl Instance {
    /// Cuts off the answers it has not finished: whoever reads one must not take it for whole.
    fn cut_off(&mut self) {
        for entry in self.store.data_mut().http().table.iter_mut() {
            if let Some(body) = entry.downcast_mut::<HostOutgoingBody>() {
                let (none, _) = HostOutgoingBody::new(StreamContext::Response, None, 1, 1);
                std::mem::replace(body, none).abort();
            }
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        settle(&mut self.store);
        self.cut_off();
    }
}

/// Why a request has no answer of the guest's.
pub(crate) enum Failure {
    /// There is no room for an instance.
    Full(String),
    TimedOut,
    /// It cannot be asked of a guest.
    Request(String),
    /// The guest came to this.
    Guest(Box<End>),
}

impl Failure {
    fn guest(ending: Ending) -> Self {
        Self::Guest(Box::new(End::from(ending)))
    }

    /// What the service comes to if even its first instance fails.
    pub(crate) fn at_launch(self, limit: Option<Duration>) -> End {
        let message = match self {
            Self::Guest(end) => return *end,
            Self::Full(message) | Self::Request(message) => message,
            Self::TimedOut => format!(
                "the first instance was not ready after {:.1?}, the time a request has",
                limit.unwrap_or_default()
            ),
        };
        End::from(Ending::NotLaunched { message })
    }
}

impl Server {
    pub(crate) fn new(
        spec: &Arc<TaskSpec>,
        component: &LoadedComponent,
        surroundings: Surroundings,
        address: SocketAddr,
    ) -> Result<Self, String> {
        let host = HeaderValue::try_from(address.to_string());
        let linked = component
            .linked
            .try_map(|linked| ProxyPre::new(linked.clone()));
        Ok(Self {
            furniture: Furniture::new(spec, &surroundings, component.wants_files())?,
            linked: linked.map_err(|error| format!("{error:#}"))?,
            memories: component.memories(),
            idle: Mutex::default(),
            crowd: Arc::default(),
            requests: Arc::new(Semaphore::new(spec.serving.requests)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            over: OnceLock::new(),
            ended: Notify::new(),
            host: host.map_err(|error| error.to_string())?,
            spec: Arc::clone(spec),
            surroundings,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one instance ahead, so that what cannot be instantiated is no service.
    pub(crate) async fn warm_up(&self) -> Result<(), Failure> {
        let instance = self.within_time(self.instance()).await?;
        self.idle().push(instance);
        Ok(())
    }

    /// Lets go of instances that waited too long.
    pub(crate) fn sweep(&self) {
        let idle = self.spec.serving.idle;
        let gone: Vec<Instance> = {
            let mut waiting = self.idle();
            let kept = waiting.partition_point(|instance| instance.waits_since.elapsed() > idle);
            waiting.drain(..kept).collect()
        };
        drop(gone);
    }

    /// Waits until something ends the service from inside.
    pub(crate) async fn over(&self) -> Ending {
        loop {
            if let Some(ending) = self.over.get() {
                return ending.clone();
            }
            self.ended.notified().await;
        }
    }

    /// Answers, whatever happens. `due` is told until when the answer must have been taken.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        due: impl FnOnce(Option<Moment>),
    ) -> Response<WasiBody> {
        let mut uncounted = Uncounted(Some(Arc::clone(&self.surroundings.meter)));
        let Some(permit) = self.admit().await else {
            uncounted.0 = None;
            self.turned_away();
            return busy();
        };
        let limit = self.spec.serving.request_time;
        due(limit.and_then(|limit| Moment::now().checked_add(limit.checked_add(SLACK)?)));
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let (sender, mut receiver) = oneshot::channel();
        let server = Arc::clone(&self);
        let mut run = Box::pin(async move {
            let ran = server.run(request, sender).await;
            drop(permit);
            ran
        });
        let server = Arc::clone(&self);
        let note = move |ran, answered| server.note(&method, &uri, ran, answered, uncounted);
        tokio::select! {
            // Most guests are done when they have answered; then nothing has to be left running.
            biased;
            ran = &mut run => {
                // Nothing of its answer has left yet, so a failure can still be told instead.
                let answer = receiver.try_recv().ok().filter(|_| ran.is_ok());
                let status = note(ran, answer.is_some());
                answer.map_or_else(|| no_answer(status), told)
            }
            answer = &mut receiver => match answer {
                Ok(answer) => {
                    self.leave_running(async move { note(run.await, true) });
                    told(answer)
                }
                Err(_) => no_answer(note(run.await, false)),
            },
        }
    }

    /// Counts a connection or a request that was not let in.
    pub(crate) fn turned_away(&self) {
        count(&self.surroundings.meter.requests.turned_away);
    }

    /// The guest goes on behind its answer: it may still write the body.
    fn leave_running(&self, rest: impl Future + Send + 'static) {
        let stop = self.stop.clone();
        let rest = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = rest => {}
            }
        };
        let share = Arc::clone(&self.surroundings.share);
        drop(self.tasks.spawn(Timed::new(rest, share)));
    }

    async fn admit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.requests).try_acquire_owned() {
            return Some(permit);
        }
        let turn = Arc::clone(&self.requests).acquire_owned();
        let turn = timeout(self.spec.serving.queue, turn).await;
        turn.ok()?.ok()
    }

    async fn within_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match self.spec.serving.request_time {
            Some(limit) => timeout(limit, work).await.unwrap_or(Err(Failure::TimedOut)),
            None => work.await,
        }
    }

    async fn run(
        &self,
        request: Request<Incoming>,
        sender: oneshot::Sender<Answer>,
    ) -> Result<(), Failure> {
        let work = pin!(async {
            let mut instance = self.instance().await?;
            let called = instance.call(request, sender).await?;
            settle(&mut instance.store);
            match called {
                Ok(()) => self.keep(instance),
                Err(error) => {
                    return Err(self.failure(error, &instance.store));
                }
            }
            Ok(())
        });
        self.within_time(work).await
    }

    fn failure(&self, error: wasmtime::Error, store: &Store<State>) -> Failure {
        let place = place(&error);
        Failure::Guest(Box::new(End {
            ending: ending(Err(error), &self.spec, self.surroundings.switch.is_off()),
            refused: store.data().refused(),
            place,
        }))
    }

    /// One that waits, or a new one. While others are at work it is worth waiting for the room that they will leave.
    async fn instance(&self) -> Result<Instance, Failure> {
        let patience = Moment::now().checked_add(self.spec.serving.queue);
        loop {
            let made = self.instance_now().await;
            let (Err(Failure::Full(_)), Some(patience)) = (&made, patience) else {
                return made;
            };
            let alone = self.crowd.alive.load(Ordering::Acquire) == 0;
            // A notice that came in between is kept for whoever asks next.
            let room = self.crowd.room.notified();
            if alone || timeout_at(patience, room).await.is_err() {
                return made;
            }
        }
    }

    async fn instance_now(&self) -> Result<Instance, Failure> {
        let waiting = self.idle().pop();
        if let Some(mut instance) = waiting {
            refuel(&mut instance.store);
            return Ok(instance);
        }
        let files = match self.furniture.has_files() {
            true => {
                let share = self.surroundings.sandboxes.take();
                Some(share.ok_or_else(|| Failure::Full("too many files are open".to_owned()))?)
            }
            false => None,
        };
        for pooled in [true, false] {
            let place = self.surroundings.engines.place(
                self.spec.module.build(),
                pooled && self.linked.pooled.is_some(),
                self.memories,
            );
            let place = place.ok_or_else(|| Failure::Full(FULL.to_owned()))?;
            let linked = self.linked.of(place.is_pooled());
            let store = self.furniture.store(
                &self.spec,
                linked.engine(),
                &self.surroundings,
                self.spec.serving.instance_memory,
            );
            let mut store =
                store.map_err(|message| Failure::guest(Ending::NotLaunched { message }))?;
            match linked.instantiate_async(&mut store).await {
                Ok(proxy) => {
                    return Ok(Instance {
                        store,
                        proxy,
                        answered: 0,
                        host: self.host.clone(),
                        waits_since: Instant::now(),
                        _place: place,
                        _files: files,
                        _member: Member::of(&self.crowd),
                    });
                }
                // Some rarer kind of slot has run out; nothing of the guest has run.
                Err(error) if place.is_pooled() && error.is::<PoolConcurrencyLimitError>() => {}
                Err(error) => {
                    settle(&mut store);
                    let refused = store.data().refused();
                    // Its own needs are one thing, what the others of its task hold another.
                    let crowded = self.crowd.alive.load(Ordering::Acquire) > 0;
                    return Err(match refused {
                        Some(refused)
                            if crowded && Some(refused.limit) == self.spec.memory_limit =>
                        {
                            Failure::Full(format!("no memory for another instance: {refused}"))
                        }
                        _ => self.failure(error, &store),
                    });
                }
            }
        }
        Err(Failure::Full(FULL.to_owned()))
    }

    /// Lets an instance that answered wait for another request, if it may have one.
    fn keep(&self, mut instance: Instance) {
        instance.answered += 1;
        if instance.answered < self.spec.serving.reuse {
            // It is asked nothing but the next request, and will not finish them any more.
            instance.cut_off();
            instance.waits_since = Instant::now();
            self.idle().push(instance);
            self.crowd.room.notify_one();
        }
    }

    /// Counts how a request went, and tells failures where the guest's own complaints go. The status is for those that
    /// have no other answer.
    fn note(
        &self,
        method: &Method,
        uri: &Uri,
        ran: Result<(), Failure>,
        answered: bool,
        mut uncounted: Uncounted,
    ) -> (StatusCode, String) {
        uncounted.0 = None;
        let counts = &self.surroundings.meter.requests;
        let internal = StatusCode::INTERNAL_SERVER_ERROR;
        let (counted, status, text, told) = match ran {
            Ok(()) if answered => {
                count(&counts.answered);
                return (StatusCode::OK, String::new());
            }
            Ok(()) => (
                &counts.failed,
                internal,
                "the service gave no answer\n",
                "it gave no answer".to_owned(),
            ),
            Err(Failure::Request(text)) => {
                count(&counts.turned_away);
                return (StatusCode::BAD_REQUEST, text);
            }
            Err(Failure::Full(told)) => (
                &counts.turned_away,
                StatusCode::SERVICE_UNAVAILABLE,
                "there is no room for another request\n",
                told,
            ),
            Err(Failure::TimedOut) => (
                &counts.timed_out,
                StatusCode::GATEWAY_TIMEOUT,
                "the service took too long\n",
                "it took too long".to_owned(),
            ),
            Err(Failure::Guest(end)) => {
                let text = match &end.ending {
                    Ending::Memory(_) => "the service ran out of memory\n",
                    Ending::Fuel { .. } => "the service has burnt all its fuel\n",
                    _ => "the service failed\n",
                };
                let told = end.told();
                // These are the task's, not the request's.
                let ends_all = matches!(end.ending, Ending::Fuel { .. } | Ending::Output { .. });
                if ends_all && self.over.set(end.ending).is_ok() {
                    self.ended.notify_one();
                }
                (&counts.failed, internal, text, told)
            }
        };
        let number = count(counted);
        if number <= FAILURES_TOLD || number.is_power_of_two() {
            let line = format!("tepui: {method} {}: {told}\n", uri.path());
            // Without a place to tell it, it is in the counts all the same.
            let _ = self.furniture.stderr().append(line.as_bytes());
        }
        (status, text.to_owned())
    }
}

impl Instance {
    /// The outer error is about the request, the inner one about the guest.
    async fn call(
        &mut self,
        mut request: Request<Incoming>,
        sender: oneshot::Sender<Answer>,
    ) -> Result<wasmtime::Result<()>, Failure> {
        // Before 1.1 nobody had to say whom they ask, but guests are always told.
        if request.version() <= Version::HTTP_10 && !request.headers().contains_key(header::HOST) {
            let host = self.host.clone();
            request.headers_mut().insert(header::HOST, host);
        }
        let bad = |error: wasmtime::Error| Failure::Request(format!("{error}\n"));
        let mut view = self.store.data_mut().http();
        let request = view
            .new_incoming_request(Scheme::Http, request)
            .map_err(bad)?;
        let answer = view.new_response_outparam(sender).map_err(bad)?;
        let handler = self.proxy.wasi_http_incoming_handler();
        Ok(handler.call_handle(&mut self.store, request, answer).await)
    }
}

/// A request nobody has counted yet. Gone without, it was cut off.
struct Uncounted(Option<Arc<Meter>>);

impl Drop for Uncounted {
    fn drop(&mut self) {
        if let Some(meter) = &self.0 {
            count(&meter.requests.cut_off);
        }
    }
}

fn told(answer: Answer) -> Response<WasiBody> {
    answer.unwrap_or_else(|error| {
        let text = format!("the service answered with an error: {error}\n");
        plain(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

/// The new count.
fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

fn no_answer((status, text): (StatusCode, String)) -> Response<WasiBody> {
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return busy();
    }
    plain(status, text)
}

fn busy() -> Response<WasiBody> {
    let mut response = plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "the service is busy; try again\n".to_owned(),
    );
    let later = HeaderValue::from_static("1");
    response.headers_mut().insert(header::RETRY_AFTER, later);
    response
}

fn plain(status: StatusCode, text: String) -> Response<WasiBody> {
    let body = Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
