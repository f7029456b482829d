//! What schedulers want, and how those that simply want it go about it.

use bytes::Bytes;
use tepui_api::v1::{self, value};

use crate::world::World;
use crate::{Micros, Spread};

/// What one task takes, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub cpus: i64,
    /// Of a MB.
    pub mem: i64,
}

impl Demand {
    pub const fn new(cpus: i64, mem_mb: i64) -> Self {
        Self {
            cpus: cpus * 1000,
            mem: mem_mb * 1000,
        }
    }

    pub fn resources(self) -> Vec<v1::Resource> {
        vec![scalar("cpus", self.cpus), scalar("mem", self.mem)]
    }

    /// What of it the resources hold, whoever they are reserved for.
    pub fn of(resources: &[v1::Resource]) -> Self {
        let sum = |name: &str| {
            resources
                .iter()
                .filter(|resource| resource.name == name)
                .filter_map(|resource| resource.scalar.as_ref())
                .map(|scalar| (scalar.value * 1000.0).round() as i64)
                .sum()
        };
        Self {
            cpus: sum("cpus"),
            mem: sum("mem"),
        }
    }

    /// How many of `self` there are in `whole`.
    fn times_in(self, whole: Self) -> u64 {
        let of = |part: i64, whole: i64| match part {
            0 => u64::MAX,
            part => u64::try_from(whole / part).unwrap_or(0),
        };
        of(self.cpus, whole.cpus).min(of(self.mem, whole.mem))
    }
}

/// What a scheduler wants.
#[derive(Debug, Clone, Copy)]
pub struct Appetite {
    pub demand: Demand,
    pub duration: Spread,
    /// How many tasks it starts on one offer at most.
    pub per_offer: u64,
    /// How many it wants to have at once.
    pub at_once: u64,
    /// How many it wants to have launched altogether.
    pub in_all: u64,
    /// It does everything that the protocol allows, wisely or not.
    pub chaotic: bool,
}

impl World {
    /// Takes what it wants of each offer and gives the rest back for others.
    pub(crate) fn use_offers(&mut self, tenant: usize, offers: Vec<v1::Offer>) {
        for offer in offers {
            let held = &self.tenants[tenant];
            let appetite = held.appetite;
            let wanted = appetite
                .in_all
                .saturating_sub(held.launched)
                .min(appetite.at_once.saturating_sub(held.tasks.len() as u64));
            let fitting = appetite.demand.times_in(Demand::of(&offer.resources));
            let count = fitting.min(wanted).min(appetite.per_offer);
            if count == 0 {
                // Others want it; for who has enough, or cannot use it, it is of no use for long.
                let seconds = if wanted == 0 { 3600.0 } else { 5.0 };
                self.decline(tenant, vec![offer.id], seconds);
                continue;
            }
            let mut tasks = Vec::new();
            for _ in 0..count {
                let duration = appetite.duration.sample(&mut self.tenants[tenant].chance);
                tasks.push(self.new_task(tenant, &offer, appetite.demand, duration));
            }
            self.accept(tenant, vec![offer.id], tasks, 0.0);
        }
        let held = &self.tenants[tenant];
        if held.launched >= held.appetite.in_all && !held.appetite.chaotic {
            self.suppress(tenant);
        }
    }
}

pub(crate) fn scalar(name: &str, amount: i64) -> v1::Resource {
    v1::Resource {
        name: name.to_owned(),
        r#type: value::Type::Scalar.into(),
        scalar: Some(value::Scalar {
            value: amount as f64 / 1000.0,
        }),
        ..v1::Resource::default()
    }
}

/// How long a simulated task runs is written in its data.
pub(crate) fn duration_data(duration: Micros) -> Bytes {
    Bytes::copy_from_slice(&duration.to_le_bytes())
}

pub(crate) fn duration_of(info: &v1::TaskInfo) -> Micros {
    info.data
        .as_deref()
        .and_then(|data| data.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}
