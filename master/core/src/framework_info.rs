//! What a FrameworkInfo must look like, and what it says.

use std::collections::BTreeSet;

use tepui_allocator::ConstraintsInvalid;
use tepui_api::v1;
use tepui_api::v1::framework_info::capability::Type as CapabilityType;
use tepui_model::{IdError, Role, RoleError, check_id};

use crate::config::Config;
use crate::interest::{MOST_INPUTS, is_sound};
use crate::terms::{self, Minimums, RoleConstraints};

/// Of one framework. Every view of the cluster and every turn of the allocator looks at all of them.
const MOST_ROLES: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities {
    pub(crate) revocable_resources: bool,
    pub(crate) gpu_resources: bool,
    pub(crate) shared_resources: bool,
    pub(crate) partition_aware: bool,
    pub(crate) multi_role: bool,
    pub(crate) reservation_refinement: bool,
    pub(crate) region_aware: bool,
}

impl Capabilities {
    pub(crate) fn of(info: &v1::FrameworkInfo) -> Self {
        let has = |wanted: CapabilityType| {
            info.capabilities
                .iter()
                .any(|capability| capability.r#type() == wanted)
        };
        Self {
            revocable_resources: has(CapabilityType::RevocableResources),
            gpu_resources: has(CapabilityType::GpuResources),
            shared_resources: has(CapabilityType::SharedResources),
            partition_aware: has(CapabilityType::PartitionAware),
            multi_role: has(CapabilityType::MultiRole),
            reservation_refinement: has(CapabilityType::ReservationRefinement),
            region_aware: has(CapabilityType::RegionAware),
        }
    }
}

/// A FrameworkInfo that may subscribe.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) roles: Vec<Role>,
    pub(crate) suppressed: BTreeSet<Role>,
    pub(crate) capabilities: Capabilities,
    pub(crate) minimums: Minimums,
    pub(crate) constraints: RoleConstraints,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum FrameworkInvalid {
    #[error("'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable")]
    RoleAndRoles,
    #[error("'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable")]
    RolesWithoutCapability,
    #[error("'FrameworkInfo.roles' has the duplicate role '{role}'")]
    DuplicateRole { role: String },
    #[error("'FrameworkInfo.roles' has {count} entries; at most {MOST_ROLES} are allowed")]
    Roles { count: usize },
    #[error("'FrameworkInfo.roles' has an invalid role: {0}")]
    Role(#[from] RoleError),
    #[error("Role '{role}' is not present in the master's --roles")]
    RoleNotAllowed { role: String },
    #[error("{0}")]
    Id(#[from] IdError),
    #[error(
        "The framework failover_timeout ({seconds}) is invalid: a number of seconds from 0 to 9.2e9 is expected"
    )]
    FailoverTimeout { seconds: f64 },
    #[error("User 'root' is not allowed to run frameworks without root_submissions set")]
    RootUser,
    #[error("'FrameworkInfo.inputs' has {count} entries; at most {MOST_INPUTS} are allowed")]
    Inputs { count: usize },
    #[error(
        "'FrameworkInfo.inputs' has an entry that is neither a sha256 in 64 hexadecimal digits nor the name of a data set"
    )]
    Input,
    #[error("Suppressed role '{role}' is not in the list of roles of the framework")]
    SuppressedRole { role: String },
    #[error(
        "'FrameworkInfo.offer_filters' names the role '{role}', which the framework does not have"
    )]
    FilterRole { role: String },
    #[error(
        "'FrameworkInfo.offer_filters' of role '{role}' has an amount of '{resource}' that is not a number of at least 0"
    )]
    FilterAmount { role: String, resource: String },
    #[error("'FrameworkInfo.offer_filters' of role '{role}' has an empty set of quantities")]
    FilterEmpty { role: String },
    #[error(
        "Offer constraints specify the role '{role}', which the framework is not subscribed to"
    )]
    ConstraintRole { role: String },
    #[error("Offer constraints of role '{role}' are invalid: {invalid}")]
    Constraint {
        role: String,
        invalid: ConstraintsInvalid,
    },
    #[error(
        "Offer constraints of role '{role}' are invalid: a constraint needs a selector and a predicate"
    )]
    ConstraintIncomplete { role: String },
}

pub(crate) fn check(
    config: &Config,
    info: &v1::FrameworkInfo,
    suppressed_roles: &[String],
    constraints: Option<&v1::scheduler::OfferConstraints>,
) -> Result<Checked, FrameworkInvalid> {
    let capabilities = Capabilities::of(info);
    let roles = roles(config, info, capabilities)?;
    if let Some(id) = info.id.as_ref().filter(|id| !id.value.is_empty()) {
        check_id("framework id", &id.value)?;
    }
    let seconds = info.failover_timeout();
    // More than this is not a number of nanoseconds in 64 bits.
    if !(0.0..=9.2e9).contains(&seconds) {
        return Err(FrameworkInvalid::FailoverTimeout { seconds });
    }
    if info.user == "root" && !config.root_submissions {
        return Err(FrameworkInvalid::RootUser);
    }
    if info.inputs.len() > MOST_INPUTS {
        let count = info.inputs.len();
        return Err(FrameworkInvalid::Inputs { count });
    }
    if !info.inputs.iter().all(is_sound) {
        return Err(FrameworkInvalid::Input);
    }
    let known: BTreeSet<Role> = roles.iter().cloned().collect();
    let minimums = terms::minimums(info, &known)?;
    let mut suppressed = BTreeSet::new();
    for role in suppressed_roles {
        let known = known.get(role.as_str());
        suppressed.insert(
            known
                .ok_or_else(|| FrameworkInvalid::SuppressedRole { role: role.clone() })?
                .clone(),
        );
    }
    let constraints = match constraints {
        Some(constraints) => terms::constraints(constraints, &known)?,
        None => RoleConstraints::new(),
    };
    Ok(Checked {
        roles,
        suppressed,
        capabilities,
        minimums,
        constraints,
    })
}

fn roles(
    config: &Config,
    info: &v1::FrameworkInfo,
    capabilities: Capabilities,
) -> Result<Vec<Role>, FrameworkInvalid> {
    let mut roles = Vec::new();
    if capabilities.multi_role {
        if info.role.is_some() {
            return Err(FrameworkInvalid::RoleAndRoles);
        }
        if info.roles.len() > MOST_ROLES {
            let count = info.roles.len();
            return Err(FrameworkInvalid::Roles { count });
        }
        let mut known = BTreeSet::new();
        for text in &info.roles {
            let role = Role::parse(text)?;
            if !known.insert(role.clone()) {
                return Err(FrameworkInvalid::DuplicateRole { role: text.clone() });
            }
            roles.push(role);
        }
    } else {
        if !info.roles.is_empty() {
            return Err(FrameworkInvalid::RolesWithoutCapability);
        }
        roles.push(Role::parse(info.role())?);
    }
    if let Some(role) = roles.iter().find(|role| !config.allows_role(role)) {
        return Err(FrameworkInvalid::RoleNotAllowed {
            role: role.as_str().to_owned(),
        });
    }
    Ok(roles)
}
