//! Words for the allocator's tests: short ways to say resources, roles and frameworks, and chance from a fixed seed.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its own part of this"
)]

use std::collections::BTreeSet;

use tepui_allocator::{
    AgentKey, AgentTraits, Allocation, Allocator, Config, FrameworkCapabilities, FrameworkKey,
    FrameworkTerms,
};
use tepui_model::{Resources, Role, Tick, parse_resources};

pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn pick<'a, Item>(&mut self, items: &'a [Item]) -> &'a Item {
        &items[self.below(items.len() as u64) as usize]
    }
}

pub fn resources(text: &str) -> Resources {
    parse_resources(text, &Role::star()).unwrap()
}

pub fn role(text: &str) -> Role {
    Role::parse(text).unwrap()
}

pub fn terms(
    roles: &[&str],
    suppressed: &[&str],
    capabilities: FrameworkCapabilities,
) -> FrameworkTerms {
    let roles: Vec<Role> = roles.iter().map(|text| role(text)).collect();
    let suppressed: BTreeSet<Role> = suppressed.iter().map(|text| role(text)).collect();
    FrameworkTerms::plain(&roles, &suppressed, capabilities)
}

/// An allocator whose sums are checked after each step.
pub struct Cluster {
    pub allocator: Allocator,
    pub now: Tick,
}

impl Cluster {
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Self {
        Self {
            allocator: Allocator::new(config),
            now: Tick(0),
        }
    }

    pub fn agent(&mut self, key: u32, total: &str) {
        self.allocator
            .add_agent(AgentKey(key), resources(total), AgentTraits::default(), &[]);
        self.allocator.check_invariants();
    }

    pub fn framework(&mut self, key: u32, roles: &[&str]) {
        self.framework_with(key, roles, FrameworkCapabilities::ALL);
    }

    pub fn framework_with(
        &mut self,
        key: u32,
        roles: &[&str],
        capabilities: FrameworkCapabilities,
    ) {
        self.allocator
            .add_framework(FrameworkKey(key), &terms(roles, &[], capabilities));
        self.allocator.check_invariants();
    }

    pub fn recover(&mut self, given: &Allocation, back: &Resources, refuse_ms: Option<u64>) {
        let until = refuse_ms.map(|refuse| Tick(self.now.0 + refuse));
        self.allocator
            .recover(given.agent, given.framework, &given.role, back, until);
        self.allocator.check_invariants();
    }

    /// Gives back what is left of what was made use of.
    pub fn leave(&mut self, given: &Allocation, rest: &Resources, refuse_ms: Option<u64>) {
        let until = refuse_ms.map(|refuse| Tick(self.now.0 + refuse));
        self.allocator
            .recover_rest(given.agent, given.framework, &given.role, rest, until);
        self.allocator.check_invariants();
    }

    pub fn decline(&mut self, given: &Allocation, refuse_ms: Option<u64>) {
        self.recover(given, &given.resources, refuse_ms);
    }

    pub fn allocate(&mut self) -> Vec<Allocation> {
        let allocations = self.allocator.allocate(self.now);
        self.allocator.check_invariants();
        assert!(!self.allocator.dirty(), "a round leaves nothing undone");
        allocations
    }

    pub fn advance(&mut self, milliseconds: u64) {
        self.now = Tick(self.now.0 + milliseconds);
    }

    /// A round, as text: who got what where.
    pub fn round(&mut self) -> String {
        let lines = self.allocate().into_iter().map(|given| {
            format!(
                "{} as {} on {}: {}",
                given.framework.0, given.role, given.agent.0, given.resources
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}
