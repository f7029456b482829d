//! What must always hold, checked from scratch. For tests, and for whoever wants to know after a crash.

use std::collections::BTreeSet;

use crate::allocator::Allocator;
use crate::share::Amounts;

impl Allocator {
    /// Panics if any sum is not the sum of its parts.
    pub fn check_invariants(&self) {
        self.check_agents();
        self.check_accounts();
        self.check_frameworks();
        self.check_quotas();
        self.tree.check_ranks();
    }

    fn check_agents(&self) {
        let mut total = Amounts::default();
        for (key, agent) in self.agents.iter() {
            total.add(&self.names.known_amounts(&agent.total));
            assert!(agent.held.is_sorted_by_key(|(holder, _)| *holder));
            assert_eq!(
                agent.left_over(),
                agent.available,
                "what is available on {key:?}"
            );
            assert_eq!(
                self.free.contains(key),
                agent.has_something_to_offer(),
                "whether {key:?} is free"
            );
            for ((framework, node), hold) in &agent.held {
                assert!(
                    !hold.resources.is_empty(),
                    "{framework:?} holds nothing on {key:?}"
                );
                let client = self
                    .tree
                    .client(*node, *framework)
                    .expect("a holder has an account");
                assert!(
                    client.agents.contains(&key),
                    "{framework:?} does not know that it holds some of {key:?}"
                );
            }
            for ((framework, node), filters) in &agent.filters {
                assert!(
                    !filters.is_empty(),
                    "{framework:?} refuses nothing on {key:?}"
                );
                let client = self
                    .tree
                    .client(*node, *framework)
                    .expect("who refuses has an account");
                assert!(
                    client.filtered.contains(&key),
                    "{framework:?} does not know that it refuses {key:?}"
                );
            }
        }
        assert!(total == self.tree.total, "total of the cluster");
        assert!(
            self.free.iter().all(|key| self.agents.contains(key)),
            "removed agents are not free"
        );
    }

    fn check_accounts(&self) {
        for id in self.tree.live_nodes() {
            let node = self.tree.node(id);
            assert!(
                !node.clients.is_empty() || !node.children.is_empty(),
                "the role {} is left by all",
                node.role
            );
            let mut own = Amounts::default();
            for (framework, client) in &node.clients {
                let mut held = Amounts::default();
                for key in &client.agents {
                    let hold = self.agents[*key].hold_of((*framework, id));
                    let hold = hold.expect("a client knows where it holds something");
                    held.add(&self.names.known_amounts(&hold.resources));
                }
                assert!(
                    held == client.account.held,
                    "{framework:?} in {}",
                    node.role
                );
                own.add(&held);
                assert!(
                    client.subscribed || !client.agents.is_empty(),
                    "{framework:?} has left {}",
                    node.role
                );
                for key in &client.filtered {
                    assert!(self.agents[*key].filters.contains_key(&(*framework, id)));
                }
                let wants = client.subscribed
                    && !client.terms.suppressed
                    && self.frameworks[*framework].active;
                assert_eq!(
                    client.is_served(),
                    wants,
                    "whether {framework:?} is served in {}",
                    node.role
                );
            }
            assert!(own == node.own.held, "frameworks of {}", node.role);
            let mut all = own;
            for child in &node.children {
                all.add(&self.tree.node(*child).account.held);
            }
            assert!(all == node.account.held, "all of {}", node.role);
        }
    }

    fn check_frameworks(&self) {
        for (key, framework) in self.frameworks.iter() {
            let accounts: BTreeSet<_> = self
                .tree
                .live_nodes()
                .filter(|node| self.tree.client(*node, key).is_some())
                .collect();
            assert_eq!(framework.clients, accounts, "accounts of {key:?}");
            let mut offered = Amounts::default();
            let holds = self.agents.values().flat_map(|agent| &agent.held);
            for (_, hold) in holds.filter(|((holder, _), _)| *holder == key) {
                offered.add(&hold.offered);
            }
            assert!(
                offered == framework.offered,
                "what {key:?} has in open offers"
            );
        }
    }

    fn check_quotas(&self) {
        let reckoned = self.reckon_quotas(self.quotas().clone());
        self.tree.quotas.check_against(&reckoned);
        for id in self.tree.live_nodes() {
            let node = self.tree.node(id);
            assert_eq!(node.quota, self.tree.quotas.of(&node.role), "{}", node.role);
        }
        let clients = self
            .tree
            .live_nodes()
            .flat_map(|id| self.tree.node(id).clients.values());
        let own = clients.filter(|client| client.terms.min_allocatable.is_some());
        assert_eq!(own.count(), self.own_minimums, "minimums of frameworks");
    }
}
