//! What the shell tells the core.

use tepui_api::link;
use tepui_api::v1::{master, scheduler};

use crate::store_calls::StoreCall;

/// One scheduler's event stream. Minted by the shell, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey(pub u64);

/// One agent's link. Minted by the shell, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkKey(pub u64);

/// One HTTP request that waits for its answer. Minted by the shell, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey(pub u64);

/// One write to the registry. Minted by the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistKey(pub u64);

/// One event. Every input may also make timers fire that are due by then.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "the largest is the most frequent one, and an input is moved once"
)]
pub enum Input {
    /// Nothing but time went by.
    Tick,
    /// A decoded `POST /api/v1/scheduler`. It is answered by exactly one [`crate::Effect::Answer`], maybe later.
    SchedulerCall {
        request: RequestKey,
        /// Who the caller proved to be.
        principal: Option<String>,
        /// The `Mesos-Stream-Id` header.
        stream_id: Option<String>,
        call: Box<scheduler::Call>,
        /// The stream this call opens if it is SUBSCRIBE, and the `Mesos-Stream-Id` it is going to have. It exists for
        /// the core from [`crate::Answer::Subscribed`] on.
        new_stream: Option<(StreamKey, String)>,
    },
    /// The scheduler hung up, at any time after its SUBSCRIBE was handed in.
    StreamClosed {
        stream: StreamKey,
    },
    /// A call that changes something; reads are served from the [`crate::View`].
    OperatorCall {
        request: RequestKey,
        principal: Option<String>,
        call: Box<master::Call>,
    },
    /// An operator's call on what tasks keep. It is answered by one [`crate::Answer::Store`].
    StoreCall {
        request: RequestKey,
        principal: Option<String>,
        call: StoreCall,
    },
    /// Whether an operator listens to what happens. The first one is to take a [`crate::View`] right after this.
    OperatorsListen(bool),
    /// The first message of a link is `Register`. `FileChunk` and `LocateArtifact`
    /// never come here.
    FromAgent {
        link: LinkKey,
        message: link::ToMaster,
    },
    LinkClosed {
        link: LinkKey,
    },
    /// A write is on disk. Writes are completed in the order in which they were asked for.
    Persisted {
        key: PersistKey,
    },
}
