//! What can happen in the simulated world.

use tepui_agent_core::{ExecutorRef, TaskRef};
use tepui_api::link;
use tepui_api::v1::scheduler;
use tepui_master_core::{PersistKey, RequestKey, StreamKey};

#[derive(Debug)]
pub(crate) enum Event {
    /// The master takes the next input out of its inbox.
    MasterWork,
    /// A deadline of the master has come.
    MasterWake {
        boot: u32,
    },
    MasterStart,
    RegistryWritten {
        boot: u32,
    },

    ToMaster {
        link: usize,
        message: Box<link::ToMaster>,
    },
    ToAgent {
        link: usize,
        message: Box<link::ToAgent>,
    },
    MasterLosesLink {
        link: usize,
    },
    AgentLosesLink {
        link: usize,
    },
    Dial {
        machine: usize,
        boot: u32,
    },
    LinkUp {
        link: usize,
    },

    AgentStart {
        machine: usize,
    },
    AgentWake {
        machine: usize,
    },
    AgentWritten {
        machine: usize,
        boot: u32,
    },
    Prepared {
        machine: usize,
        boot: u32,
        task: TaskRef,
    },
    ExecutorUp {
        machine: usize,
        executor: ExecutorRef,
        serial: u64,
    },
    /// An executor that is running subscribes, or says again what was not acknowledged.
    ExecutorTurn {
        machine: usize,
        executor: ExecutorRef,
        serial: u64,
    },
    /// The processes of an executor that was destroyed are gone.
    ExecutorDead {
        machine: usize,
        boot: u32,
        executor: ExecutorRef,
    },
    TaskDone {
        machine: usize,
        serial: u64,
        task: TaskRef,
    },

    Call {
        request: RequestKey,
        stream_id: Option<String>,
        call: Box<scheduler::Call>,
        new_stream: Option<(StreamKey, String)>,
    },
    Refused {
        tenant: usize,
        life: u32,
        status: u16,
    },
    ToTenant {
        stream: usize,
        event: Box<scheduler::Event>,
    },
    MasterLosesStream {
        stream: usize,
    },
    TenantLosesStream {
        stream: usize,
    },
    Subscribe {
        tenant: usize,
        life: u32,
    },
    /// A scheduler does what it does from time to time.
    TenantTurn {
        tenant: usize,
    },

    /// Something breaks.
    Fault,
}

/// The key of a write that is handed back to the master.
pub(crate) fn persist_key(number: u64) -> PersistKey {
    PersistKey(number)
}
