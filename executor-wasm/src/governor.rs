//! Where guests run: threads of their own, slices for everybody, an end from outside at any time.
//!
//! The threads that talk to the agent are never these. A guest that computes without end comes back after each tick of
//! the epoch clock and goes to the end of the queue; one that sleeps in a host call is ended by dropping its future.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use nix::sys::resource::{Resource, getrlimit};

use crate::engines::{Engines, Metering, maps_budget, pool_slots};
use crate::guest::{Cluster, Guest, Nowhere, Report, Room};
use crate::limits::{MemoryLimit, Meter};
use crate::modules::Modules;
use crate::output::Quota;
use crate::pace::Pace;
use crate::shares::{Share, Shares};
use crate::spec::TaskSpec;
use crate::switch::Switch;
use crate::task::{self, End, Surroundings};
use crate::timed::Timed;
use crate::verdict::{Ending, Usage};

/// Polls of guests between two looks at timers and sockets. tokio's own 61 would be 61 slices.
const EVENT_INTERVAL: u32 = 2;
/// How long a guest whose time is up may take to come to a place that can be told.
const WHERE_IT_WAS: Duration = Duration::from_millis(200);
/// Threads for file system calls.
const BLOCKING_THREADS: usize = 64;

/// What a [`Runtime`] may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Threads that run guests.
    pub threads: usize,
    /// Instances for which memory is reserved ahead.
    pub pool_slots: usize,
    /// Memory mappings guests may make, all together.
    pub maps: usize,
    /// File descriptors guests may hold, all together. Each holds one, and more while it has files open itself.
    pub descriptors: usize,
}

impl Default for Settings {
    /// All the host gives.
    fn default() -> Self {
        let maps = maps_budget();
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            pool_slots: pool_slots(maps),
            maps,
            descriptors: descriptors(),
        }
    }
}

/// What this process may open, less what it needs itself.
fn descriptors() -> usize {
    const DEFAULT: u64 = 1_024;
    const OWN: u64 = 256;
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(DEFAULT, |(soft, _)| soft);
    usize::try_from(limit.saturating_sub(OWN)).unwrap_or(usize::MAX)
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A thread or a descriptor was refused.
    #[error("the threads for guests cannot be made: {0}")]
    Threads(#[from] std::io::Error),
}

/// What a task has come to.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// Its guest starts.
    Started,
    /// It is over, and all it held is free again.
    Ended(Box<Outcome>),
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// In which way.
    pub ending: Ending,
    /// The last growth of memory it was refused.
    pub refused: Option<MemoryLimit>,
    /// Where its guest was, one frame a line; empty if that is not known.
    pub place: String,
    /// What it used.
    pub usage: Usage,
}

/// Ends a task.
#[derive(Clone)]
pub struct TaskHandle {
    switch: Arc<Switch>,
    meter: Arc<Meter>,
    share: Arc<Share>,
    guest: Arc<Guest>,
}

impl TaskHandle {
    /// Ends the task at its next instruction or in its sleep; what it did until then stays. A service first finishes what
    /// it has begun, for as long as the grace allows. Its ending is reported.
    pub fn kill(&self, grace: Duration) {
        self.guest.end();
        self.switch.wind_down(grace);
    }

    /// Hands the guest a message, unless too many wait already.
    pub fn deliver(&self, message: Bytes) {
        self.guest.deliver(message);
    }

    /// What the guest has to report.
    pub(crate) fn take_report(&self) -> Report {
        self.guest.take_report()
    }

    /// Whether it turned out to be a service; known when it has started.
    pub(crate) fn is_service(&self) -> bool {
        self.meter.requests.told().is_some()
    }

    /// What it has used until now. Its memories and tables never shrink, so that the most is what it has now.
    pub(crate) fn so_far(&self) -> Usage {
        Usage {
            memory_peak: self.meter.memory_peak(),
            cpu_time: Duration::from_nanos(self.share.used_ns()),
            requests: self.meter.requests.told(),
            output: self.meter.output(),
            read: self.meter.read(),
            written: self.meter.written(),
            ..Usage::default()
        }
    }
}

/// Runs tasks.
pub struct Runtime {
    inner: Arc<Inner>,
    /// `None` only while it is dropped.
    guests: Option<tokio::runtime::Runtime>,
}

struct Inner {
    engines: Arc<Engines>,
    modules: Arc<Modules>,
    outputs: Arc<Quota>,
    sandboxes: Arc<Quota>,
    /// What messages of all tasks take up.
    room: Arc<Room>,
    pace: Arc<Pace>,
    shares: Arc<Shares>,
}

impl Runtime {
    /// Starts the threads. Engines are made when the first task needs them.
    pub fn new(settings: &Settings) -> Result<Self, RuntimeError> {
        let guests = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.threads.max(1))
            .max_blocking_threads(BLOCKING_THREADS)
            .event_interval(EVENT_INTERVAL)
            .thread_name("guest")
            .enable_all()
            .build()?;
        let engines = Arc::new(Engines::new(settings.pool_slots, settings.maps));
        let pace = Arc::new(Pace::default());
        std::thread::Builder::new()
            .name("epoch".to_owned())
            .spawn({
                let engines = Arc::clone(&engines);
                let pace = Arc::clone(&pace);
                move || pace.keep(|| engines.tick())
            })?;
        Ok(Self {
            inner: Arc::new(Inner {
                modules: Arc::new(Modules::new(Arc::clone(&engines))),
                engines,
                // A third is left for output files: without one, a write opens its file for itself.
                outputs: Quota::new(settings.descriptors / 3),
                sandboxes: Quota::new(settings.descriptors - settings.descriptors / 3),
                room: Arc::default(),
                shares: Shares::new(settings.threads, Arc::clone(&pace)),
                pace,
            }),
            guests: Some(guests),
        })
    }

    /// Starts a task. `report` is called from its thread: at most once with `Started`, then once with `Ended`.
    ///
    /// It is in no cluster: what its guest asks of one is refused.
    pub fn spawn(
        &self,
        spec: TaskSpec,
        report: impl FnMut(Progress) + Send + 'static,
    ) -> TaskHandle {
        self.spawn_in(spec, Arc::new(Nowhere), report)
    }

    /// As [`spawn`](Self::spawn), for a task of a cluster.
    pub fn spawn_in(
        &self,
        spec: TaskSpec,
        cluster: Arc<dyn Cluster>,
        mut report: impl FnMut(Progress) + Send + 'static,
    ) -> TaskHandle {
        let switch = Arc::new(Switch::default());
        let meter = Arc::default();
        let inner = &self.inner;
        let guest = Guest::new(&spec, cluster, &inner.room, &inner.outputs, &meter);
        let handle = TaskHandle {
            switch: Arc::clone(&switch),
            meter,
            share: self.inner.shares.join(spec.cpus, spec.cpu_cap),
            guest: Arc::new(guest),
        };
        let (meter, share) = (Arc::clone(&handle.meter), Arc::clone(&handle.share));
        let guest = Arc::clone(&handle.guest);
        let inner = Arc::clone(&self.inner);
        let spec = Arc::new(spec);
        let guests = self
            .guests
            .as_ref()
            .expect("it is there until it is dropped");
        guests.spawn(async move {
            let outcome =
                supervise(&inner, &spec, &switch, &meter, &share, guest, &mut report).await;
            report(Progress::Ended(Box::new(outcome)));
        });
        handle
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.inner.pace.stop();
        if let Some(guests) = self.guests.take() {
            // A guest may sit in a host call that does not end soon.
            guests.shutdown_background();
        }
    }
}

async fn supervise(
    inner: &Inner,
    spec: &Arc<TaskSpec>,
    switch: &Arc<Switch>,
    meter: &Arc<Meter>,
    share: &Arc<Share>,
    guest: Arc<Guest>,
    report: &mut (impl FnMut(Progress) + Send),
) -> Outcome {
    let began = Instant::now();
    let given = spec.fuel_limit.unwrap_or(u64::MAX);
    meter.set_fuel_left(given);
    let surroundings = Surroundings {
        engines: Arc::clone(&inner.engines),
        modules: Arc::clone(&inner.modules),
        outputs: Arc::clone(&inner.outputs),
        sandboxes: Arc::clone(&inner.sandboxes),
        meter: Arc::clone(meter),
        switch: Arc::clone(switch),
        share: Arc::clone(share),
        guest,
    };
    let mut started = || report(Progress::Started);
    let end = {
        let guest = Timed::new(
            task::run(spec, surroundings, &mut started),
            Arc::clone(share),
        );
        // A mistake of ours in a host function must not leave a task without an ending.
        let guest = AssertUnwindSafe(guest).catch_unwind();
        let limit = async {
            match spec.time_limit {
                Some(limit) => {
                    tokio::time::sleep(limit).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        let mut guest = pin!(guest);
        let failed = |end: std::thread::Result<End>| {
            end.unwrap_or_else(|_| {
                End::from(Ending::Failed {
                    message: "the executor failed while it ran the task".to_owned(),
                })
            })
        };
        tokio::select! {
            biased;
            () = switch.off() => End::from(Ending::Killed),
            limit = limit => {
                // It is stopped at its next slice, which shows where it was; or it waits for the host.
                switch.turn_off();
                let stopped = tokio::time::timeout(WHERE_IT_WAS, guest.as_mut()).await;
                let place = match stopped {
                    Ok(end) => failed(end).place,
                    Err(_) => "  it was waiting, for the host or for its turn".to_owned(),
                };
                End {
                    place,
                    ..End::from(Ending::TimedOut { limit })
                }
            }
            end = guest.as_mut() => failed(end),
        }
    };
    let metered = spec.module.metering == Metering::Metered;
    let fuel_used = match end.ending {
        Ending::Fuel { limit } => limit,
        _ => given.saturating_sub(meter.fuel_left()),
    };
    Outcome {
        ending: end.ending,
        refused: end.refused,
        place: end.place,
        usage: Usage {
            fuel_used: metered.then_some(fuel_used),
            fuel_limit: spec.fuel_limit,
            memory_peak: meter.memory_peak(),
            memory_limit: spec.memory_limit,
            cpu_time: Duration::from_nanos(share.used_ns()),
            wall_time: began.elapsed(),
            requests: meter.requests.told(),
            output: meter.output(),
            read: meter.read(),
            written: meter.written(),
        },
    }
}
