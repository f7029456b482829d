//! Who is offered what: hierarchical, weighted dominant resource fairness.
//!
//! The allocator is told what agents have, what frameworks want and what is taken and given back; it answers with what
//! to offer to whom. It knows no clock, no network and no offers with ids: whoever calls it keeps those. It is driven by
//! events: only agents on which something changed, or for which somebody new is waiting, are looked at again.

#![forbid(unsafe_code)]

mod agent;
mod agents;
mod allocator;
mod config;
mod constraints;
mod copies;
mod explain;
mod framework;
mod holding;
mod invariants;
mod keyed;
mod pick;
mod promises;
mod quota;
mod round;
mod share;
mod tree;
mod views;

pub use allocator::Allocator;
pub use config::{Config, FrameworkCapabilities};
pub use constraints::{
    AgentTraits, Constraint, Constraints, ConstraintsInvalid, Expression, Predicate, Selector,
};
pub use explain::{Level, Obstacle, Reached, Refusal, Standing};
pub use framework::{FrameworkTerms, RoleTerms};
pub use holding::NotHeld;
pub use promises::{Overpromised, guaranteed};
pub use quota::Quota;
pub use round::Allocation;

/// An agent, interned by whoever calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey(pub u32);

/// A framework, interned by whoever calls. Between frameworks that are equal in everything else the lower key is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameworkKey(pub u32);
