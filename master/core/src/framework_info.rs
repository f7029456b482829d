//! What a FrameworkInfo must look like, and what it says.

use std::collections::BTreeSet;

use tepui_api::v1;
use tepui_api::v1::framework_info::capability::Type as CapabilityType;
use tepui_model::{IdError, Role, RoleError, check_id};

use crate::config::Config;

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
    pub(crate) suppressed: Vec<Role>,
    pub(crate) capabilities: Capabilities,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum FrameworkInvalid {
    #[error("'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable")]
    RoleAndRoles,
    #[error("'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable")]
    RolesWithoutCapability,
    #[error("'FrameworkInfo.roles' has the duplicate role '{role}'")]
    DuplicateRole { role: String },
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
    #[error("Offer constraints of role '{role}' are invalid: an entry needs at least one group")]
    ConstraintNoGroup { role: String },
    #[error(
        "Offer constraints of role '{role}' are invalid: a group needs at least one attribute constraint"
    )]
    ConstraintEmptyGroup { role: String },
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
    check_offer_filters(info, &roles)?;
    let mut suppressed = BTreeSet::new();
    for role in suppressed_roles {
        let known = roles.iter().find(|known| known.as_str() == role);
        suppressed.insert(
            known
                .ok_or_else(|| FrameworkInvalid::SuppressedRole { role: role.clone() })?
                .clone(),
        );
    }
    if let Some(constraints) = constraints {
        check_constraints(constraints, &roles)?;
    }
    Ok(Checked {
        roles,
        suppressed: suppressed.into_iter().collect(),
        capabilities,
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
        for text in &info.roles {
            let role = Role::parse(text)?;
            if roles.contains(&role) {
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
    if let Some(allowed) = &config.roles
        && let Some(role) = roles
            .iter()
            .find(|role| !role.is_star() && !allowed.contains(role.as_str()))
    {
        return Err(FrameworkInvalid::RoleNotAllowed {
            role: role.as_str().to_owned(),
        });
    }
    Ok(roles)
}

fn check_offer_filters(info: &v1::FrameworkInfo, roles: &[Role]) -> Result<(), FrameworkInvalid> {
    for (role, filters) in &info.offer_filters {
        if !roles.iter().any(|known| known.as_str() == role) {
            return Err(FrameworkInvalid::FilterRole { role: role.clone() });
        }
        let sets = filters
            .min_allocatable_resources
            .as_ref()
            .map_or(&[][..], |minimum| &minimum.quantities);
        for set in sets {
            if set.quantities.is_empty() {
                return Err(FrameworkInvalid::FilterEmpty { role: role.clone() });
            }
            let wrong = set
                .quantities
                .iter()
                .find(|(_, amount)| !(amount.value.is_finite() && amount.value >= 0.0));
            if let Some((resource, _)) = wrong {
                return Err(FrameworkInvalid::FilterAmount {
                    role: role.clone(),
                    resource: resource.clone(),
                });
            }
        }
    }
    Ok(())
}

fn check_constraints(
    constraints: &v1::scheduler::OfferConstraints,
    roles: &[Role],
) -> Result<(), FrameworkInvalid> {
    for (role, constraints) in &constraints.role_constraints {
        if !roles.iter().any(|known| known.as_str() == role) {
            return Err(FrameworkInvalid::ConstraintRole { role: role.clone() });
        }
        if constraints.groups.is_empty() {
            return Err(FrameworkInvalid::ConstraintNoGroup { role: role.clone() });
        }
        for group in &constraints.groups {
            if group.attribute_constraints.is_empty() {
                return Err(FrameworkInvalid::ConstraintEmptyGroup { role: role.clone() });
            }
            let complete = group.attribute_constraints.iter().all(|constraint| {
                constraint.selector.selector.is_some() && constraint.predicate.predicate.is_some()
            });
            if !complete {
                return Err(FrameworkInvalid::ConstraintIncomplete { role: role.clone() });
            }
        }
    }
    Ok(())
}
