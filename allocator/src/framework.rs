//! What a framework wants, and what is kept of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_model::{Quantities, Role, Tick};

use crate::AgentKey;
use crate::config::FrameworkCapabilities;
use crate::constraints::Constraints;
use crate::share::Amounts;
use crate::tree::NodeId;

/// On which terms a framework takes offers.
#[derive(Debug, Clone, Default)]
pub struct FrameworkTerms {
    pub roles: BTreeMap<Role, RoleTerms>,
    pub capabilities: FrameworkCapabilities,
}

/// The same for one of its roles.
#[derive(Debug, Clone, Default)]
pub struct RoleTerms {
    pub suppressed: bool,
    /// In place of the operator's minimums. An empty list takes anything.
    pub min_allocatable: Option<Arc<[Quantities]>>,
    /// Which agents are wanted; all if unset.
    pub constraints: Option<Arc<Constraints>>,
}

#[derive(Debug, Default)]
pub(crate) struct Framework {
    pub(crate) active: bool,
    pub(crate) capabilities: FrameworkCapabilities,
    /// The roles that it names or still holds something in.
    pub(crate) clients: BTreeSet<NodeId>,
    pub(crate) offered: Amounts,
    /// When it was offered something for the last time, or began to ask. Unset while it does not ask, and until the
    /// round after it began to.
    pub(crate) waiting_since: Option<Tick>,
    /// The agents that it asked for by name, each with how much it asked for there.
    pub(crate) wishes: BTreeMap<AgentKey, Quantities>,
    /// The agents that have most of what it works on, and how much, the most first.
    pub(crate) preferred: Arc<[(AgentKey, u64)]>,
}

impl FrameworkTerms {
    /// These roles, without minimums or constraints of the framework's own.
    pub fn plain(
        roles: &[Role],
        suppressed: &BTreeSet<Role>,
        capabilities: FrameworkCapabilities,
    ) -> Self {
        let terms = roles.iter().map(|role| {
            let terms = RoleTerms {
                suppressed: suppressed.contains(role),
                ..RoleTerms::default()
            };
            (role.clone(), terms)
        });
        Self {
            roles: terms.collect(),
            capabilities,
        }
    }
}
