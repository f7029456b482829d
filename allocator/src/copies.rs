//! Shared resources, of which a holder may have as many copies as it has uses for them.

use tepui_model::{Resources, Role};

use crate::allocator::Allocator;
use crate::{AgentKey, FrameworkKey};

impl Allocator {
    /// Another use of shared resources by somebody who holds something on the agent already.
    pub fn hold_copies(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        role: &Role,
        copies: &Resources,
    ) {
        let node = self.tree.find(role);
        let (Some(node), Some(agent)) = (node, self.agents.get_mut(key)) else {
            return;
        };
        let Some(hold) = agent.hold_of_mut((framework, node)) else {
            return;
        };
        let before = hold.resources.clone();
        hold.resources.add(copies);
        let quotas = !self.tree.quotas.is_empty();
        let booking = self.names.rebooking(&before, &hold.resources, quotas);
        agent.available = agent.left_over();
        self.tree.book(node, framework, &booking, 0);
        self.freshen(key);
    }
}
