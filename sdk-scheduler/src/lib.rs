//! What a framework's author builds on: subscribe with a master, hear its events, make calls.
//!
//! [`connect`] starts a background task that holds the subscription: it follows the leading master, notices a stream that
//! has gone silent, subscribes again under the same framework id and then asks for the state of every task. The caller
//! hears of it through [`Events`] and acts through [`Scheduler`], which may be cloned and used from many tasks at once.
//!
//! ```no_run
//! # async fn run() -> Result<(), tepui_sdk_scheduler::CallError> {
//! use tepui_sdk_scheduler::v1::FrameworkInfo;
//! use tepui_sdk_scheduler::{Config, Event, connect};
//!
//! let framework = FrameworkInfo { user: "me".into(), name: "example".into(), ..FrameworkInfo::default() };
//! let (scheduler, mut events) = connect(Config::new("127.0.0.1:5050", framework));
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Offers(offers) => {
//!             let ids: Vec<_> = offers.into_iter().map(|offer| offer.id).collect();
//!             scheduler.decline(&ids, None).await?;
//!         }
//!         Event::Update(status) => println!("{} is {:?}", status.task_id.value, status.state()),
//!         Event::Error(error) => eprintln!("{error}"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The wire is the v1 scheduler API of Apache Mesos in its protobuf form over HTTP/1.1, so a Mesos master serves as well.

#![forbid(unsafe_code)]

mod address;
mod backoff;
mod driver;
mod error;
mod event;
mod placement;
mod scheduler;
mod shared;
mod transport;

use std::time::Duration;

/// What Tepui adds to them.
pub use tepui_api::ext;
/// The messages of the wire, as they appear in [`Event`] and in the arguments of [`Scheduler`].
pub use tepui_api::v1;

pub use tepui_access::Credential;
/// What the bytes to and from wasm tasks are: see [`Scheduler::message_task`] and [`Event::Message`].
pub use tepui_api::envelope::{Envelope, EnvelopeError};

pub use driver::connect;
pub use error::{CallError, Error};
pub use event::{Event, Events};
pub use placement::{Choice, Held, Placement};
pub use scheduler::Scheduler;

/// Who acknowledges status updates that ask for it (those that carry a `uuid`). An agent keeps sending an update, at
/// growing intervals, and holds back the task's later ones until it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acknowledge {
    /// The SDK, once [`Events::next`] has handed the update to the caller. A caller that dies in the middle of working on
    /// an update does not see that one again; it learns the task's state by reconciliation instead.
    #[default]
    Automatic,
    /// The caller, with [`Scheduler::acknowledge`], say after it stored the status.
    Manual,
}

/// How to reach the master and as whom.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port`, or `http://host:port` with an optional path in front of `/api/v1/scheduler`. Any master of a cluster
    /// will do: one that does not lead says who does. TLS is not supported.
    pub master: String,
    /// What is shown to a master that asks who its caller is. The framework's principal, if set, must be the same.
    pub credential: Option<Credential>,
    /// Who subscribes. With `id` set, the framework of that id is taken over from whoever ran it before; without, the
    /// master gives it an id, which is used for every later subscription.
    pub framework: v1::FrameworkInfo,
    /// Roles, out of the framework's own, that begin without offers. What [`Scheduler::suppress`] and
    /// [`Scheduler::revive`] change is kept over resubscriptions.
    pub suppressed_roles: Vec<String>,
    /// Which agents may be offered, by role. A Mesos master knows of them since 1.11.
    pub offer_constraints: Option<v1::scheduler::OfferConstraints>,
    /// Who acknowledges status updates.
    pub acknowledge: Acknowledge,
    /// The longest pause between two attempts to subscribe. Each pause is a random part of a ceiling that doubles from
    /// 250 ms up to this.
    pub backoff_max: Duration,
    /// After so long without a subscription the SDK gives up with [`Error::GaveUp`]. `None`: it never does.
    pub give_up_after: Option<Duration>,
}

impl Config {
    /// A configuration with automatic acknowledgement, pauses of up to 15 s, and no giving up.
    pub fn new(master: impl Into<String>, framework: v1::FrameworkInfo) -> Self {
        Self {
            master: master.into(),
            credential: None,
            framework,
            suppressed_roles: Vec::new(),
            offer_constraints: None,
            acknowledge: Acknowledge::default(),
            backoff_max: Duration::from_secs(15),
            give_up_after: None,
        }
    }
}
