//! What lies on the agents' disks: told by each agent, kept by agent and by what it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_api::ext::Holding;
use tepui_api::ext::holding::Kind;
use tepui_api::link;

use crate::core::Core;
use crate::keys::AgentKey;
use crate::view::{AgentRecord, View};

/// An agent tells of fewer; what is beyond is not kept.
const MOST_OF_AGENT: usize = 4096;
/// Neither a digest nor the name of a data set or volume is longer.
const LONGEST_NAME: usize = 256;

/// What kind of thing it is, and its name among those of its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thing {
    pub(crate) kind: i32,
    pub(crate) name: Arc<str>,
}

impl Thing {
    pub fn new(kind: Kind, name: &str) -> Self {
        Self {
            kind: kind.into(),
            name: name.into(),
        }
    }

    fn of(holding: &Holding) -> Self {
        Self::new(holding.kind(), &holding.name)
    }
}

/// What one agent holds.
#[derive(Debug, Clone, Default)]
pub struct Inventory(Arc<BTreeMap<Thing, Holding>>);

impl Inventory {
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Holding> {
        self.thing(&Thing::new(kind, name))
    }

    pub(crate) fn thing(&self, thing: &Thing) -> Option<&Holding> {
        self.0.get(thing)
    }

    /// By kind and name.
    pub fn iter(&self) -> impl Iterator<Item = &Holding> {
        self.0.values()
    }

    pub(crate) fn things(&self) -> impl Iterator<Item = &Thing> {
        self.0.keys()
    }
}

/// Which agents hold a thing, and how many bytes of it. What is not counted yet has one byte, to be more than nothing.
pub(crate) type Holders = BTreeMap<AgentKey, u64>;

pub(crate) fn bytes_of(holding: &Holding) -> u64 {
    holding.bytes().max(1)
}

impl View {
    /// The agents that hold it and can be reached, each with what it holds of it.
    pub fn holders(&self, kind: Kind, name: &str) -> Vec<(&Arc<AgentRecord>, &Holding)> {
        let thing = Thing::new(kind, name);
        let agents = self.agents.values().filter(|agent| agent.connected);
        agents
            .filter_map(|agent| Some((agent, agent.inventory.thing(&thing)?)))
            .collect()
    }
}

impl Core {
    /// All that an agent holds that has just registered, in place of what was known of it.
    pub(crate) fn replace_inventory(&mut self, agent: AgentKey, held: Vec<Holding>) {
        self.forget_inventory(agent);
        self.on_holdings(
            agent,
            link::Holdings {
                held,
                gone: Vec::new(),
            },
        );
    }

    pub(crate) fn on_holdings(&mut self, agent: AgentKey, told: link::Holdings) {
        let mut inventory = std::mem::take(&mut self.agents[agent].inventory);
        let kept = Arc::make_mut(&mut inventory.0);
        for gone in &told.gone {
            let thing = Thing::of(gone);
            if kept.remove(&thing).is_some() {
                self.interests.on_changed(&thing);
                self.unhold(&thing, agent);
            }
        }
        for holding in told.held {
            let thing = Thing::of(&holding);
            let is_known = kept.contains_key(&thing);
            let is_sound = holding.kind() != Kind::Unknown && holding.name.len() <= LONGEST_NAME;
            if is_sound && (is_known || kept.len() < MOST_OF_AGENT) {
                let holders = self.holders.entry(thing.clone()).or_default();
                holders.insert(agent, bytes_of(&holding));
                self.interests.on_changed(&thing);
                kept.insert(thing, holding);
            }
        }
        self.agents[agent].inventory = inventory;
    }

    pub(crate) fn forget_inventory(&mut self, agent: AgentKey) {
        let inventory = std::mem::take(&mut self.agents[agent].inventory);
        for thing in inventory.things() {
            self.interests.on_changed(thing);
            self.unhold(thing, agent);
        }
    }

    fn unhold(&mut self, thing: &Thing, agent: AgentKey) {
        if let Some(holders) = self.holders.get_mut(thing) {
            holders.remove(&agent);
            if holders.is_empty() {
                self.holders.remove(thing);
            }
        }
    }
}
