//! What the core asks the shell to do, in this order.

use bytes::Bytes;
use tepui_api::link;
use tepui_api::v1::scheduler;

use crate::happenings::Happening;
use crate::input::{LinkKey, PersistKey, RequestKey, StreamKey};
use crate::store_calls::StoreAnswer;

#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "the large ones are the frequent ones, and an effect is moved once"
)]
pub enum Effect {
    Answer {
        request: RequestKey,
        answer: Answer,
    },
    Send {
        stream: StreamKey,
        event: Box<scheduler::Event>,
    },
    /// Close the stream once everything sent before is out. No `StreamClosed` is needed afterwards, and one does no
    /// harm.
    CloseStream {
        stream: StreamKey,
    },
    ToAgent {
        link: LinkKey,
        message: Box<link::ToAgent>,
    },
    /// Close the link once everything sent before is out. A `LinkClosed` afterwards does no harm.
    CloseLink {
        link: LinkKey,
    },
    /// For every operator that listens. There is none unless [`crate::Input::OperatorsListen`] said so.
    TellOperators(Happening),
    /// All of it or nothing. The core goes on with what depends on it at [`crate::Input::Persisted`].
    Persist {
        key: PersistKey,
        operations: Vec<RegistryOperation>,
    },
    /// The master must not go on: an operator has to look first.
    Exit {
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 202, no body.
    Accepted,
    /// 200, no body.
    Done,
    /// 200, and the stream given with the call opens.
    Subscribed,
    /// Of [`crate::Input::StoreCall`].
    Store(Box<StoreAnswer>),
    Refused {
        status: u16,
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryOperation {
    Put { key: String, value: Bytes },
    Delete { key: String },
}
