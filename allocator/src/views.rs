//! What views show: who holds how much, and what is left. Nothing here changes anything.

use tepui_model::{Resources, Role};

use crate::allocator::Allocator;
use crate::constraints::AgentTraits;
use crate::share::Amounts;
use crate::{AgentKey, FrameworkKey};

impl Allocator {
    /// The largest share of the cluster's total of anything that the framework holds, over all its roles.
    pub fn framework_share(&self, key: FrameworkKey) -> f64 {
        let mut held = Amounts::default();
        for node in self.client_nodes(key) {
            held.add(&self.tree.node(node).clients[&key].account.held);
        }
        held.dominant_share(&self.tree.total)
    }

    /// The same for a role with all roles beneath it, before its weight is applied.
    pub fn role_share(&self, role: &Role) -> f64 {
        let node = self.tree.find(role).map(|node| self.tree.node(node));
        node.map_or(0.0, |node| {
            node.account.held.dominant_share(&self.tree.total)
        })
    }

    /// What is held, offered or used, by a role and all roles beneath it.
    pub fn role_totals(&self, role: &Role) -> Resources {
        let mut sum = Resources::new();
        for node in self.tree.subtree(role) {
            for (framework, client) in &self.tree.node(node).clients {
                let holds = client
                    .agents
                    .iter()
                    .filter_map(|key| self.agents[*key].hold_of((*framework, node)));
                holds.for_each(|hold| sum.add(&hold.resources));
            }
        }
        sum
    }

    /// What a framework holds, offered or used, on an agent in a role.
    pub fn held(&self, key: AgentKey, framework: FrameworkKey, role: &Role) -> Resources {
        let node = self.tree.find(role);
        let hold = node.and_then(|node| self.agents.get(key)?.hold_of((framework, node)));
        hold.map_or_else(Resources::new, |hold| hold.resources.clone())
    }

    /// What on an agent is held by nobody.
    pub fn available(&self, key: AgentKey) -> Resources {
        self.agents
            .get(key)
            .map_or_else(Resources::new, |agent| agent.available.clone())
    }

    pub fn total(&self, key: AgentKey) -> Resources {
        self.agents
            .get(key)
            .map_or_else(Resources::new, |agent| agent.total.clone())
    }

    pub fn traits(&self, key: AgentKey) -> Option<&AgentTraits> {
        self.agents.get(key).map(|agent| &agent.traits)
    }

    /// Whether a framework refuses something on an agent at present.
    pub fn has_refused(&self, key: AgentKey, framework: FrameworkKey, role: &Role) -> bool {
        let node = self.tree.find(role);
        let filters = node.and_then(|node| self.agents.get(key)?.filters.get(&(framework, node)));
        filters.is_some_and(|filters| filters.iter().any(|filter| !filter.lapsed))
    }
}
