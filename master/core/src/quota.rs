//! The operator's quotas: checked, written down, enforced.
//!
//! UPDATE_QUOTA sets guarantees and limits of any number of roles, nested ones too, all of them or none. SET_QUOTA and
//! REMOVE_QUOTA are older calls for one top-level role, whose guarantee is its limit as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tepui_allocator::{Overpromised, Quota, guaranteed};
use tepui_api::convert;
use tepui_api::v1::master::call;
use tepui_api::v1::quota::{QuotaConfig, QuotaRequest};
use tepui_api::v1::value;
use tepui_model::{Milli, Quantities, Quantity, Role, RoleError};

use crate::core::{Core, Pending};
use crate::effect::{Answer, RegistryOperation};
use crate::input::RequestKey;
use crate::keys::OfferKey;
use crate::recover::{RecoverError, decode};
use crate::wire;

/// The largest amount of a quota, as in Mesos; of `mem` and `disk` it is 2^40 MB.
const LARGEST: f64 = 1e12;
const LARGEST_MB: f64 = (1_u64 << 40) as f64;

/// New quotas on their way to disk.
#[derive(Debug)]
pub(crate) struct NewQuotas {
    request: RequestKey,
    quotas: Vec<(Role, Quota)>,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum QuotaRefused {
    #[error("Expecting 'set_quota.quota_request.role' to be present")]
    NoRole,
    #[error("Invalid role: {0}")]
    Role(#[from] RoleError),
    #[error("Setting quota for the default '*' role is not supported")]
    Star,
    #[error("This call takes no nested role such as '{0}': use UPDATE_QUOTA")]
    Nested(Role),
    #[error("Role '{0}' is not present in the master's --roles")]
    RoleNotAllowed(Role),
    #[error("The role '{0}' is named twice")]
    Duplicate(Role),
    #[error(
        "Invalid amount {amount} of '{name}' for role '{role}': a number from 0 to {largest} is expected"
    )]
    Amount {
        role: Role,
        name: String,
        amount: f64,
        largest: f64,
    },
    #[error("The guarantee of '{name}' for role '{role}' is more than its limit")]
    Contradiction { role: Role, name: Arc<str> },
    #[error(transparent)]
    Overpromised(#[from] Overpromised),
    #[error("Invalid guarantee for role '{role}': {reason}")]
    Guarantee { role: Role, reason: String },
    #[error(
        "Role '{role}' already consumes {consumed}, which is more than the limit of '{name}'; set `force` to set it all the same"
    )]
    Consumed {
        role: Role,
        consumed: Quantities,
        name: Arc<str>,
    },
    #[error(
        "The guarantees of all roles come to {guaranteed}, but the cluster has {capacity}; set `force` to set them all the same"
    )]
    Capacity {
        guaranteed: Quantities,
        capacity: Quantities,
        /// Told as a conflict by the older call.
        conflict: bool,
    },
    #[error("Role '{0}' already has a quota; remove it first, or use UPDATE_QUOTA")]
    AlreadySet(Role),
    #[error("Role '{0}' has no quota")]
    NotSet(Role),
}

impl QuotaRefused {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Capacity { conflict: true, .. } => 409,
            _ => 400,
        }
    }
}

impl Core {
    pub(crate) fn update_quota(
        &mut self,
        request: RequestKey,
        update: &call::UpdateQuota,
    ) -> Result<(), QuotaRefused> {
        let mut quotas = Vec::with_capacity(update.quota_configs.len());
        let mut named = BTreeSet::new();
        for config in &update.quota_configs {
            let role = self.quota_role(&config.role)?;
            if !named.insert(role.clone()) {
                return Err(QuotaRefused::Duplicate(role));
            }
            let quota = from_config(&role, config)?;
            quotas.push((role, quota));
        }
        let guaranteed = self.guaranteed_with(&quotas)?;
        if !update.force() {
            for (role, quota) in &quotas {
                self.check_consumption(role, quota)?;
            }
            self.check_capacity(&quotas, guaranteed, false)?;
        }
        self.write_quotas(request, quotas);
        Ok(())
    }

    pub(crate) fn set_quota(
        &mut self,
        request: RequestKey,
        set: &QuotaRequest,
    ) -> Result<(), QuotaRefused> {
        let role = set.role.as_deref().ok_or(QuotaRefused::NoRole)?;
        let role = self.top_level_quota_role(role)?;
        if self.quotas_to_be().contains_key(&role) {
            return Err(QuotaRefused::AlreadySet(role));
        }
        let guarantees = guarantee(&role, set)?;
        let quota = Quota {
            limits: guarantees
                .iter()
                .map(|(name, amount)| (name.clone(), amount))
                .collect(),
            guarantees,
        };
        let quotas = vec![(role, quota)];
        let guaranteed = self.guaranteed_with(&quotas)?;
        if !set.force() {
            self.check_capacity(&quotas, guaranteed, true)?;
        }
        self.write_quotas(request, quotas);
        Ok(())
    }

    pub(crate) fn remove_quota(
        &mut self,
        request: RequestKey,
        role: &str,
    ) -> Result<(), QuotaRefused> {
        let role = self.top_level_quota_role(role)?;
        if !self.quotas_to_be().contains_key(&role) {
            return Err(QuotaRefused::NotSet(role));
        }
        self.write_quotas(request, vec![(role, Quota::default())]);
        Ok(())
    }

    fn quota_role(&self, text: &str) -> Result<Role, QuotaRefused> {
        let role = Role::parse(text)?;
        if role.is_star() {
            return Err(QuotaRefused::Star);
        }
        if !self.config.allows_role(&role) {
            return Err(QuotaRefused::RoleNotAllowed(role));
        }
        Ok(role)
    }

    /// The older calls know no others.
    fn top_level_quota_role(&self, text: &str) -> Result<Role, QuotaRefused> {
        let role = self.quota_role(text)?;
        if role.top_level() == role {
            Ok(role)
        } else {
            Err(QuotaRefused::Nested(role))
        }
    }

    /// What all roles are guaranteed together once these quotas are in force.
    fn guaranteed_with(&self, changed: &[(Role, Quota)]) -> Result<Quantities, QuotaRefused> {
        let mut quotas = self.quotas_to_be();
        replace(&mut quotas, changed);
        Ok(guaranteed(&quotas)?)
    }

    /// What is only offered does not count: offers are rescinded.
    fn check_consumption(&self, role: &Role, quota: &Quota) -> Result<(), QuotaRefused> {
        let mut consumed = Quantities::new();
        let within = |other: &Role| other == role || other.is_strict_sub_role_of(role);
        for (_, agent) in self.agents.iter() {
            let reserved = agent.total.filter(|resource| {
                !resource.revocable && resource.reserved_role().is_some_and(within)
            });
            consumed.add(&reserved.quantities());
        }
        let tasks = self.tasks.iter().map(|(_, task)| task);
        let of_tasks = tasks
            .filter(|task| task.charged && within(&task.role))
            .map(|task| &task.resources);
        let executors = self.executors.iter().map(|(_, executor)| executor);
        let of_executors = executors
            .filter(|executor| within(&executor.role))
            .map(|executor| &executor.resources);
        for used in of_tasks.chain(of_executors) {
            let unreserved = used.filter(|resource| !resource.revocable && !resource.is_reserved());
            consumed.add(&unreserved.quantities());
        }
        match quota.exceeded_by(&consumed) {
            None => Ok(()),
            Some(name) => Err(QuotaRefused::Consumed {
                role: role.clone(),
                name: name.clone(),
                consumed,
            }),
        }
    }

    fn check_capacity(
        &self,
        changed: &[(Role, Quota)],
        guaranteed: Quantities,
        conflict: bool,
    ) -> Result<(), QuotaRefused> {
        let mut capacity = Quantities::new();
        for (_, agent) in self.agents.iter() {
            let lasting = agent.total.filter(|resource| !resource.revocable);
            capacity.add(&lasting.quantities());
        }
        // Only guarantees that this call makes can be refused.
        let asked = changed
            .iter()
            .any(|(_, quota)| !quota.guarantees.is_empty());
        if asked && !capacity.contains(&guaranteed) {
            return Err(QuotaRefused::Capacity {
                guaranteed,
                capacity,
                conflict,
            });
        }
        Ok(())
    }

    /// With those that are still being written down.
    fn quotas_to_be(&self) -> BTreeMap<Role, Quota> {
        let mut quotas = BTreeMap::clone(&self.quotas);
        for pending in self.pending.values() {
            if let Pending::Quotas(new) = pending {
                replace(&mut quotas, &new.quotas);
            }
        }
        quotas
    }

    fn write_quotas(&mut self, request: RequestKey, quotas: Vec<(Role, Quota)>) {
        let records = quotas.iter().map(|(role, quota)| {
            let key = format!("quota/{role}");
            if quota.is_default() {
                RegistryOperation::Delete { key }
            } else {
                wire::put(key, &to_config(role, quota))
            }
        });
        let records = records.collect();
        self.persist(records, Pending::Quotas(NewQuotas { request, quotas }));
    }

    pub(crate) fn on_quotas_persisted(&mut self, new: NewQuotas) {
        let mut quotas = BTreeMap::clone(&self.quotas);
        replace(&mut quotas, &new.quotas);
        self.enforce_quotas(quotas);
        self.answer(new.request, Answer::Done);
    }

    /// From now on these are the quotas. Open offers that stand against them are taken back, the newest first.
    pub(crate) fn enforce_quotas(&mut self, quotas: BTreeMap<Role, Quota>) {
        self.allocator.set_quotas(quotas.clone());
        self.quotas = Arc::new(quotas);
        let newest_first: Vec<OfferKey> = self.offer_by_number.values().rev().copied().collect();
        for key in newest_first {
            let offer = &self.offers[key];
            if self.allocator.is_wanted_back(&offer.role, &offer.resources) {
                self.rescind_offer(key);
            }
        }
    }
}

fn replace(quotas: &mut BTreeMap<Role, Quota>, changed: &[(Role, Quota)]) {
    for (role, quota) in changed {
        if quota.is_default() {
            quotas.remove(role);
        } else {
            quotas.insert(role.clone(), quota.clone());
        }
    }
}

fn amounts(
    role: &Role,
    wire: &BTreeMap<String, value::Scalar>,
) -> Result<Vec<(Arc<str>, Milli)>, QuotaRefused> {
    let amounts = wire.iter().map(|(name, scalar)| {
        let largest = match name.as_str() {
            "mem" | "disk" => LARGEST_MB,
            _ => LARGEST,
        };
        let amount = Milli::from_f64(scalar.value)
            .ok()
            .filter(|_| (0.0..=largest).contains(&scalar.value));
        let amount = amount.ok_or_else(|| QuotaRefused::Amount {
            role: role.clone(),
            name: name.clone(),
            amount: scalar.value,
            largest,
        })?;
        Ok((Arc::from(name.as_str()), amount))
    });
    amounts.collect()
}

fn from_config(role: &Role, config: &QuotaConfig) -> Result<Quota, QuotaRefused> {
    let quota = Quota {
        guarantees: amounts(role, &config.guarantees)?.into_iter().collect(),
        limits: amounts(role, &config.limits)?.into_iter().collect(),
    };
    match quota.contradiction() {
        None => Ok(quota),
        Some(name) => Err(QuotaRefused::Contradiction {
            role: role.clone(),
            name: name.clone(),
        }),
    }
}

/// As the API and the registry have it.
pub fn to_config(role: &Role, quota: &Quota) -> QuotaConfig {
    let scalar = |amount: Milli| value::Scalar {
        value: amount.to_f64(),
    };
    let guarantees = quota.guarantees.iter();
    let limits = quota.limits.iter();
    QuotaConfig {
        role: role.to_string(),
        guarantees: guarantees
            .map(|(name, amount)| (name.to_string(), scalar(amount)))
            .collect(),
        limits: limits
            .map(|(name, amount)| (name.to_string(), scalar(*amount)))
            .collect(),
    }
}

pub(crate) fn from_record(
    key: &str,
    role: &str,
    value: &Bytes,
) -> Result<(Role, Quota), RecoverError> {
    let config: QuotaConfig = decode(key, value)?;
    let role = Role::parse(role).map_err(|source| RecoverError::Role {
        key: key.to_owned(),
        source,
    })?;
    let quota = from_config(&role, &config).map_err(|refused| RecoverError::Quota {
        key: key.to_owned(),
        message: refused.to_string(),
    })?;
    Ok((role, quota))
}

/// What SET_QUOTA gives as resources: plain amounts, each name once.
fn guarantee(role: &Role, set: &QuotaRequest) -> Result<Quantities, QuotaRefused> {
    let invalid = |reason: String| QuotaRefused::Guarantee {
        role: role.clone(),
        reason,
    };
    if set.guarantee.is_empty() {
        return Err(invalid("no resources are given".to_owned()));
    }
    let mut names = BTreeSet::new();
    let mut wire = BTreeMap::new();
    for resource in &set.guarantee {
        let (resource, _) =
            convert::resource_from_wire(resource).map_err(|error| invalid(error.to_string()))?;
        let plain = !resource.is_reserved()
            && !resource.revocable
            && !resource.shared
            && resource.disk.is_none();
        match &resource.quantity {
            Quantity::Scalar(amount) if plain => {
                if !names.insert(resource.name.clone()) {
                    return Err(invalid(format!("'{}' is named twice", resource.name)));
                }
                let value = amount.to_f64();
                wire.insert(resource.name.to_string(), value::Scalar { value });
            }
            _ => {
                return Err(invalid(format!(
                    "'{}' is more than an amount of something",
                    resource.name
                )));
            }
        }
    }
    Ok(amounts(role, &wire)?.into_iter().collect())
}
