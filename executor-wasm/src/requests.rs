//! One request to a service: an instance for it, its answer, and what becomes of the instance afterwards.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::{WasiBody, WasiHttpView as _};

use crate::ending::{ending, place};
use crate::modules::{Forms, LoadedComponent};
use crate::output::Share;
use crate::spec::TaskSpec;
use crate::store::{Allowance, Furniture, State};
use crate::task::{End, FULL, Surroundings};
use crate::timed::Timed;
use crate::verdict::Ending;

/// Failures that are all written to stderr; of later ones ever fewer are.
const FAILURES_TOLD: u64 = 20;

type Answer = Result<Response<WasiBody>, ErrorCode>;

/// What serves a component's requests.
pub(crate) struct Server {
    spec: Arc<TaskSpec>,
    surroundings: Surroundings,
    linked: Forms<ProxyPre<State>>,
    memories: u32,
    furniture: Furniture,
    /// Instances that wait for another request, the longest waiting first.
    idle: Mutex<Vec<Instance>>,
    requests: Arc<Semaphore>,
    /// Connections, and the ends of answers.
    pub(crate) tasks: TaskTracker,
    /// Ends them all.
    pub(crate) stop: CancellationToken,
    /// Why the service cannot go on.
    over: OnceLock<Ending>,
    ended: Notify,
}

/// An instance and all it stands on; the order is that in which they go.
struct Instance {
    store: Store<State>,
    proxy: Proxy,
    answered: u32,
    /// What it has been given for the request at hand.
    fuel: u64,
    waits_since: Instant,
    surroundings: Surroundings,
    _place: crate::engines::Place,
    _files: Option<Share>,
}

impl Instance {
    /// Takes what it burnt from its task's supply.
    fn settle(&mut self) {
        if let Ok(left) = self.store.get_fuel() {
            let burnt = std::mem::replace(&mut self.fuel, left).saturating_sub(left);
            self.surroundings.meter.burn(burnt);
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.settle();
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
    ) -> Result<Self, String> {
        let linked = component
            .linked
            .try_map(|linked| ProxyPre::new(linked.clone()));
        Ok(Self {
            furniture: Furniture::new(spec, &surroundings, component.wants_files())?,
            linked: linked.map_err(|error| format!("{error:#}"))?,
            memories: component.memories(),
            idle: Mutex::default(),
            requests: Arc::new(Semaphore::new(spec.serving.requests)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            over: OnceLock::new(),
            ended: Notify::new(),
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

    /// Answers, whatever happens.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<WasiBody> {
        let counts = &self.surroundings.meter.requests;
        let Some(permit) = self.admit().await else {
            count(&counts.turned_away);
            return busy();
        };
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let (sender, mut receiver) = oneshot::channel();
        let server = Arc::clone(&self);
        let mut run = Box::pin(async move {
            let ran = server.run(request, sender).await;
            drop(permit);
            server.note(&method, &uri, ran)
        });
        tokio::select! {
            // Most guests are done when they have answered; then nothing has to be left running.
            biased;
            status = &mut run => match receiver.try_recv() {
                Ok(answer) => self.told(answer),
                Err(_) => no_answer(status),
            },
            answer = &mut receiver => match answer {
                Ok(answer) => {
                    self.leave_running(run);
                    self.told(answer)
                }
                Err(_) => no_answer(run.await),
            },
        }
    }

    /// Counts a connection that was not let in.
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

    fn told(&self, answer: Answer) -> Response<WasiBody> {
        count(&self.surroundings.meter.requests.answered);
        answer.unwrap_or_else(|error| {
            let text = format!("the service answered with an error: {error}\n");
            plain(StatusCode::INTERNAL_SERVER_ERROR, text)
        })
    }

    async fn admit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.requests).try_acquire_owned() {
            return Some(permit);
        }
        let turn = Arc::clone(&self.requests).acquire_owned();
        let turn = tokio::time::timeout(self.spec.serving.queue, turn).await;
        turn.ok()?.ok()
    }

    async fn within_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match self.spec.serving.request_time {
            Some(limit) => tokio::time::timeout(limit, work)
                .await
                .unwrap_or(Err(Failure::TimedOut)),
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
            instance.settle();
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

    /// One that waits, or a new one.
    async fn instance(&self) -> Result<Instance, Failure> {
        let waiting = self.idle().pop();
        let fuel = self.surroundings.meter.fuel_left();
        if let Some(mut instance) = waiting {
            // Without a count of fuel there is none to give.
            if instance.store.set_fuel(fuel).is_ok() {
                instance.fuel = fuel;
            }
            return Ok(instance);
        }
        let files = match self.furniture.has_files() {
            true => {
                let share = self.surroundings.sandboxes.take();
                Some(share.ok_or_else(|| Failure::Full("too many files are open".to_owned()))?)
            }
            false => None,
        };
        let allowance = Allowance {
            memory: self.spec.serving.instance_memory,
            fuel,
            sole: false,
        };
        for pooled in [true, false] {
            let place = self.surroundings.engines.place(
                self.spec.module.build(),
                pooled && self.linked.pooled.is_some(),
                self.memories,
            );
            let place = place.ok_or_else(|| Failure::Full(FULL.to_owned()))?;
            let linked = self.linked.of(place.is_pooled());
            let store =
                self.furniture
                    .store(&self.spec, linked.engine(), &self.surroundings, &allowance);
            let mut store =
                store.map_err(|message| Failure::guest(Ending::NotLaunched { message }))?;
            match linked.instantiate_async(&mut store).await {
                Ok(proxy) => {
                    return Ok(Instance {
                        store,
                        proxy,
                        answered: 0,
                        fuel,
                        waits_since: Instant::now(),
                        surroundings: self.surroundings.clone(),
                        _place: place,
                        _files: files,
                    });
                }
                // Some rarer kind of slot has run out; nothing of the guest has run.
                Err(error) if place.is_pooled() && error.is::<PoolConcurrencyLimitError>() => {}
                Err(error) => return Err(self.failure(error, &store)),
            }
        }
        Err(Failure::Full(FULL.to_owned()))
    }

    /// Lets an instance that answered wait for another request, if it may have one.
    fn keep(&self, mut instance: Instance) {
        instance.answered += 1;
        if instance.answered < self.spec.serving.reuse {
            instance.waits_since = Instant::now();
            self.idle().push(instance);
        }
    }

    /// Counts how a request went, and tells failures where the guest's own complaints go. The status is for those that
    /// have no other answer.
    fn note(&self, method: &Method, uri: &Uri, ran: Result<(), Failure>) -> (StatusCode, String) {
        let counts = &self.surroundings.meter.requests;
        let internal = StatusCode::INTERNAL_SERVER_ERROR;
        let (counted, status, text, told) = match ran {
            Ok(()) => {
                let text = "the service gave no answer\n".to_owned();
                return (internal, text);
            }
            Err(Failure::Request(text)) => return (StatusCode::BAD_REQUEST, text),
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
        request: Request<Incoming>,
        sender: oneshot::Sender<Answer>,
    ) -> Result<wasmtime::Result<()>, Failure> {
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
    let later = http::HeaderValue::from_static("1");
    response
        .headers_mut()
        .insert(http::header::RETRY_AFTER, later);
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
