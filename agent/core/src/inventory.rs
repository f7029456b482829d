//! What this agent's disk holds, and what of it the master has been told.
//!
//! The master hears of it with the registration and of every change afterwards. What it is told is bounded: an agent
//! that holds more tells of its data sets, its volumes and the largest of the rest.

use std::collections::BTreeMap;

use tepui_api::convert::{ResourceFormat, resources_to_wire};
use tepui_api::ext::Holding;
use tepui_api::ext::holding::Kind;
use tepui_api::link::{self, to_master};

use crate::machine::{Core, Link};

/// The most that a master is told of. One entry has about 80 bytes on the wire.
pub(crate) const MOST_TOLD: usize = 1024;

/// A holding's kind and name: no two on an agent have the same.
type Thing = (i32, String);

#[derive(Debug)]
struct Held {
    holding: Holding,
    /// Grows with each that comes.
    order: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Inventory {
    held: BTreeMap<Thing, Held>,
    come: u64,
    /// As the master knows it over the present link.
    told: BTreeMap<Thing, Holding>,
}

fn thing(holding: &Holding) -> Thing {
    (holding.kind, holding.name.clone())
}

impl Inventory {
    fn change(&mut self, held: Vec<Holding>, gone: Vec<Holding>) {
        for holding in gone {
            self.held.remove(&thing(&holding));
        }
        for holding in held {
            self.come += 1;
            let order = self.come;
            self.held.insert(thing(&holding), Held { holding, order });
        }
    }

    /// What is to be told: all, or the most important of it. Of two of one size the one that came later.
    fn worth_telling(&self, volumes: Vec<Holding>) -> BTreeMap<Thing, Holding> {
        let volumes = volumes.into_iter().map(|volume| (thing(&volume), volume));
        if self.held.len() + volumes.len() <= MOST_TOLD {
            let held = self.held.iter();
            let held = held.map(|(thing, held)| (thing.clone(), held.holding.clone()));
            return held.chain(volumes).collect();
        }
        let mut ranked: Vec<&Held> = self.held.values().collect();
        ranked.sort_by_key(|held| {
            let declared = held.holding.kind() == Kind::Dataset;
            std::cmp::Reverse((declared, held.holding.bytes(), held.order))
        });
        let held = ranked.into_iter();
        let held = held.map(|held| (thing(&held.holding), held.holding.clone()));
        volumes.chain(held).take(MOST_TOLD).collect()
    }
}

impl Core {
    pub(crate) fn on_held(&mut self, held: Vec<Holding>, gone: Vec<Holding>) {
        self.inventory.change(held, gone);
        self.tell_inventory();
    }

    /// All that a master is to know that knows nothing yet.
    pub(crate) fn register_inventory(&mut self) -> Vec<Holding> {
        self.inventory.told = self.inventory.worth_telling(self.volumes_held());
        self.inventory.told.values().cloned().collect()
    }

    /// Tells the master what has changed since it was told last.
    pub(crate) fn tell_inventory(&mut self) {
        if !matches!(self.link, Link::Registering | Link::Registered { .. }) {
            // All of it goes with the next registration.
            return;
        }
        let now = self.inventory.worth_telling(self.volumes_held());
        let told = std::mem::take(&mut self.inventory.told);
        let changed = now
            .iter()
            .filter(|(thing, holding)| told.get(*thing) != Some(*holding));
        let gone = told.iter().filter(|(thing, _)| !now.contains_key(*thing));
        let changes = link::Holdings {
            held: changed.map(|(_, holding)| holding.clone()).collect(),
            gone: gone
                .map(|((kind, name), _)| Holding {
                    kind: *kind,
                    name: name.clone(),
                    ..Holding::default()
                })
                .collect(),
        };
        self.inventory.told = now;
        if !changes.held.is_empty() || !changes.gone.is_empty() {
            self.tell_master(to_master::Body::Holdings(changes));
        }
    }

    /// The persistent volumes. Roles may have volumes of the same id: those count as one.
    fn volumes_held(&self) -> Vec<Holding> {
        let made = self.holdings.total.made();
        let wire = resources_to_wire(&made, ResourceFormat::Refined, None);
        let mut volumes: BTreeMap<String, Holding> = BTreeMap::new();
        for resource in &wire {
            let disk = resource.disk.as_ref();
            let Some(persistence) = disk.and_then(|disk| disk.persistence.as_ref()) else {
                continue;
            };
            let volume = volumes
                .entry(persistence.id.clone())
                .or_insert_with(|| Holding {
                    kind: Kind::Volume.into(),
                    name: persistence.id.clone(),
                    ..Holding::default()
                });
            let megabytes = resource.scalar.as_ref().map_or(0.0, |scalar| scalar.value);
            let bytes = (megabytes.max(0.0) * f64::from(1 << 20)) as u64;
            volume.bytes = Some(volume.bytes().saturating_add(bytes));
            let role = resource.reservations.last();
            volume
                .roles
                .extend(role.map(|reservation| reservation.role().to_owned()));
        }
        volumes.into_values().collect()
    }
}
