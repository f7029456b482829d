//! What operators may set, and what frameworks say they can handle.

use tepui_model::{Milli, Quantities, Resource};

#[derive(Debug, Clone)]
pub struct Config {
    /// An offer is worth making if it holds all of any one of these. Empty: any offer is.
    pub min_allocatable: Vec<Quantities>,
    /// The largest share (above 0, up to 1) of the whole cluster that one framework may hold in open offers while
    /// another would take the resources; `None` for no cap.
    pub offer_cap: Option<f64>,
    /// Whether agents with gpus are kept for frameworks that use them.
    pub filter_gpus: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_allocatable: vec![
                Quantities::of([("cpus", Milli(10))]),
                Quantities::of([("mem", Milli::from_units(32))]),
            ],
            offer_cap: None,
            filter_gpus: true,
        }
    }
}

/// Kinds of resources and agents that a framework is offered only if it says that it knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameworkCapabilities {
    /// Agents with gpus are kept for frameworks that use them.
    pub gpu: bool,
    pub revocable: bool,
    pub shared: bool,
    pub reservation_refinement: bool,
    /// Agents in another region than the master's.
    pub region_aware: bool,
}

impl FrameworkCapabilities {
    pub const ALL: Self = Self {
        gpu: true,
        revocable: true,
        shared: true,
        reservation_refinement: true,
        region_aware: true,
    };

    pub(crate) fn understand(self, resource: &Resource) -> bool {
        (self.revocable || !resource.revocable)
            && (self.shared || !resource.shared)
            && (self.reservation_refinement || !resource.is_refined())
    }
}
