//! What frameworks hold of ports, sets and whole disks. The core adds up amounts only, so this is gathered from tasks,
//! executors and offers when somebody asks.

use std::collections::BTreeMap;

use tepui_master_core::{FrameworkKey, View};
use tepui_model::{Quantity, Resource, Resources};

#[derive(Default)]
pub(crate) struct Unsummed {
    used: BTreeMap<FrameworkKey, Resources>,
    offered: BTreeMap<FrameworkKey, Resources>,
}

impl Unsummed {
    pub(crate) fn of(view: &View) -> Self {
        let mut unsummed = Self::default();
        let tasks = view.tasks.values();
        let tasks = tasks.filter(|task| !task.state().is_terminal());
        let tasks = tasks.map(|task| (task.framework, &task.resources));
        let executors = view.executors.values();
        let executors = executors.map(|executor| (executor.framework, &executor.resources));
        for (framework, resources) in tasks.chain(executors) {
            add(&mut unsummed.used, framework, resources);
        }
        for offer in view.offers.values() {
            add(&mut unsummed.offered, offer.framework, &offer.resources);
        }
        unsummed
    }

    /// All that the framework uses; `sum` is what the core added up.
    pub(crate) fn used(&self, framework: FrameworkKey, sum: &Resources) -> Resources {
        whole(&self.used, framework, sum)
    }

    /// All that it is offered.
    pub(crate) fn offered(&self, framework: FrameworkKey, sum: &Resources) -> Resources {
        whole(&self.offered, framework, sum)
    }
}

fn add(held: &mut BTreeMap<FrameworkKey, Resources>, key: FrameworkKey, resources: &Resources) {
    let kept = resources.filter(is_not_summed);
    if !kept.is_empty() {
        held.entry(key).or_default().add(&kept);
    }
}

fn whole(
    held: &BTreeMap<FrameworkKey, Resources>,
    key: FrameworkKey,
    sum: &Resources,
) -> Resources {
    let mut whole = sum.clone();
    if let Some(held) = held.get(&key) {
        whole.add(held);
    }
    whole
}

fn is_not_summed(resource: &Resource) -> bool {
    !matches!(resource.quantity, Quantity::Scalar(_)) || resource.is_indivisible()
}
