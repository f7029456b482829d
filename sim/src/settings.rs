//! What a simulated cluster is made of, and how well it works.

use std::collections::BTreeMap;
use std::time::Duration;

use tepui_agent_core as agent;
use tepui_api::v1;
use tepui_master_core as master;

use crate::{Delay, MILLISECOND, SECOND};

/// Small things that go wrong all the time, each so many times in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mishaps {
    /// A scheduler's call does not arrive.
    pub lost_calls: u32,
    /// A call that may be repeated arrives twice: its sender did not hear the answer.
    pub doubled_calls: u32,
    /// A scheduler ends before it acknowledges an update.
    pub forgotten_acknowledgements: u32,
    /// A task cannot be prepared.
    pub failed_preparations: u32,
    /// An executor's process does not come up.
    pub failed_starts: u32,
    /// A task fails instead of finishing.
    pub failed_tasks: u32,
}

/// A fault of the simulated cluster itself that a check must catch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A LAUNCH vanishes from a link that goes on.
    LoseLaunch,
    /// A task that finished is told to have failed when its status comes again, or the other way round.
    ForgeEnd,
    /// A status is acknowledged to the agent and never reaches the scheduler.
    SwallowUpdate,
    /// A LAUNCH arrives twice.
    DoubleLaunch,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    /// One way between the master and an agent.
    pub agent_latency: Delay,
    /// One way between the master and a scheduler.
    pub tenant_latency: Delay,
    /// How long the master takes over one input, in microseconds; what comes meanwhile waits.
    pub master_cost: u64,
    /// The same measured as it happens: a clock in nanoseconds. The run is then not the same twice.
    pub master_clock: Option<fn() -> u64>,
    pub registry_write: Delay,
    pub agent_write: Delay,
    /// Sandbox, fetching, finding out what a task is, compiling.
    pub prepare: Delay,
    /// From the order until the executor's process subscribes.
    pub start_executor: Delay,
    /// How long an agent waits before it dials again.
    pub redial: Delay,
    /// How long a scheduler waits before it subscribes again.
    pub resubscribe: Delay,
    pub mishaps: Mishaps,
    pub plant: Option<Plant>,
    /// All invariants are checked each so many steps; 0 for never.
    pub check_every: u64,
    /// What schedulers are told is kept and checked for contradictions. Costs memory for each task that ever ran.
    pub remember_ends: bool,
    /// Whole messages are part of the fingerprint.
    pub full_trace: bool,
    /// Who takes the lines of what happens.
    pub log: Option<fn(&str)>,
    pub master: master::Config,
    pub agent: agent::Config,
}

impl Settings {
    /// A cluster in which nothing goes wrong: one data centre, quick disks.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            agent_latency: Delay::with_tail(200, 500, 10, 5 * MILLISECOND),
            tenant_latency: Delay::with_tail(200, 500, 10, 5 * MILLISECOND),
            master_cost: 25,
            master_clock: None,
            registry_write: Delay::between(MILLISECOND, 4 * MILLISECOND),
            agent_write: Delay::between(200, 2 * MILLISECOND),
            prepare: Delay::between(MILLISECOND, 3 * MILLISECOND),
            start_executor: Delay::between(10 * MILLISECOND, 25 * MILLISECOND),
            redial: Delay::between(100 * MILLISECOND, SECOND),
            resubscribe: Delay::between(100 * MILLISECOND, SECOND),
            mishaps: Mishaps::default(),
            plant: None,
            check_every: 1,
            remember_ends: true,
            full_trace: false,
            log: None,
            master: master::Config {
                weights: BTreeMap::new(),
                ..master::Config::default()
            },
            agent: agent::Config {
                info: v1::AgentInfo::default(),
                ended_tasks: 4,
                ..agent::Config::default()
            },
        }
    }

    /// A cluster of which everything breaks, with timeouts short enough for all of them to be reached.
    pub fn stormy(seed: u64) -> Self {
        let seconds = Duration::from_secs;
        let mut settings = Self::calm(seed);
        settings.agent_latency = Delay::with_tail(200, 20 * MILLISECOND, 30, 2 * SECOND);
        settings.tenant_latency = Delay::with_tail(200, 20 * MILLISECOND, 30, 2 * SECOND);
        settings.registry_write = Delay::with_tail(MILLISECOND, 30 * MILLISECOND, 50, SECOND);
        settings.agent_write = Delay::with_tail(MILLISECOND, 30 * MILLISECOND, 50, SECOND);
        settings.prepare = Delay::with_tail(MILLISECOND, 100 * MILLISECOND, 50, 3 * SECOND);
        settings.start_executor =
            Delay::with_tail(10 * MILLISECOND, 200 * MILLISECOND, 50, 3 * SECOND);
        settings.redial = Delay::between(10 * MILLISECOND, 2 * SECOND);
        settings.resubscribe = Delay::between(10 * MILLISECOND, 3 * SECOND);
        settings.mishaps = Mishaps {
            lost_calls: 10,
            doubled_calls: 20,
            forgotten_acknowledgements: 20,
            failed_preparations: 20,
            failed_starts: 20,
            failed_tasks: 200,
        };
        settings.master.agent_ping_timeout = seconds(2);
        settings.master.max_agent_ping_timeouts = 3;
        settings.master.agent_reregister_timeout = seconds(12);
        settings.master.recovered_framework_grace = seconds(15);
        settings.master.offer_timeout = Some(seconds(5));
        settings.agent.registration_timeout = seconds(6);
        settings.agent.executor_registration_timeout = seconds(10);
        settings.agent.executor_idle = seconds(8);
        settings.agent.update_retry_minimum = seconds(2);
        settings.agent.update_retry_maximum = seconds(8);
        settings
    }
}
