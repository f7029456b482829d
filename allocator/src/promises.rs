//! What the quotas of a tree of roles promise together.
//!
//! What is guaranteed to the roles beneath a role is part of what is guaranteed to it, so the two are not added up, and
//! it must fit: into the guarantee of the role above, if that has one of the same resource, and into its limit.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_model::{Milli, Quantities, Role};

use crate::quota::Quota;

/// The roles beneath one are guaranteed more than it has itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "The guarantees of '{name}' beneath role '{role}' come to {beneath}, but its own {what} is {own}"
)]
pub struct Overpromised {
    pub role: Role,
    pub name: Arc<str>,
    pub beneath: Milli,
    pub own: Milli,
    /// `guarantee` or `limit`.
    pub what: &'static str,
}

impl Quota {
    /// Whether that much may be guaranteed beneath the role.
    fn holds(&self, role: &Role, beneath: &Quantities) -> Result<(), Overpromised> {
        let guarantees = self.guarantees.iter();
        let guarantees = guarantees.map(|(name, own)| (name, own, "guarantee"));
        let limits = self.limits.iter().map(|(name, own)| (name, *own, "limit"));
        for (name, own, what) in guarantees.chain(limits) {
            let beneath = beneath.get(name);
            if beneath > own {
                return Err(Overpromised {
                    role: role.clone(),
                    name: name.clone(),
                    beneath,
                    own,
                    what,
                });
            }
        }
        Ok(())
    }
}

/// How much all roles are guaranteed together.
pub fn guaranteed(quotas: &BTreeMap<Role, Quota>) -> Result<Quantities, Overpromised> {
    let mut beneath: BTreeMap<Role, Quantities> = BTreeMap::new();
    let mut all = Quantities::new();
    // A role stands before those beneath it, so from the end on each is met when all beneath it have been.
    for (role, quota) in quotas.iter().rev() {
        let mut needed = beneath.remove(role).unwrap_or_default();
        quota.holds(role, &needed)?;
        for (name, own) in quota.guarantees.iter() {
            needed.add_amount(name, own - needed.get(name));
        }
        let mut above = role.ancestors();
        match above.find(|above| quotas.contains_key(above)) {
            Some(above) => beneath.entry(above).or_default().add(&needed),
            None => all.add(&needed),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tepui_model::parse_quantities;

    fn quotas(quotas: &[(&str, &str, &str)]) -> BTreeMap<Role, Quota> {
        let quotas = quotas.iter().map(|(role, guarantees, limits)| {
            let limits = parse_quantities(limits).unwrap();
            let quota = Quota {
                guarantees: parse_quantities(guarantees).unwrap(),
                limits: limits
                    .iter()
                    .map(|(name, limit)| (name.clone(), limit))
                    .collect(),
            };
            (Role::parse(role).unwrap(), quota)
        });
        quotas.collect()
    }

    #[test]
    fn what_is_guaranteed_beneath_a_role_is_part_of_its_own_guarantee() {
        let set = quotas(&[
            ("a", "cpus:4", ""),
            ("a/x", "cpus:1;mem:10", ""),
            ("a/x/deep", "cpus:1", ""),
            ("a/y/deep", "cpus:2", ""),
            ("a-b", "cpus:1", ""),
            ("b/x", "cpus:2", ""),
        ]);
        assert_eq!(guaranteed(&set).unwrap().to_string(), "cpus:7; mem:10");
        assert_eq!(guaranteed(&BTreeMap::new()).unwrap(), Quantities::new());
    }

    #[test]
    fn more_than_the_role_above_has_is_refused() {
        for (set, words) in [
            (
                quotas(&[
                    ("a", "cpus:4", ""),
                    ("a/x", "cpus:3", ""),
                    ("a/y", "cpus:2", ""),
                ]),
                "beneath role 'a' come to 5, but its own guarantee is 4",
            ),
            (
                quotas(&[("a", "", "cpus:2"), ("a/x/deep", "cpus:3", "")]),
                "beneath role 'a' come to 3, but its own limit is 2",
            ),
            (
                quotas(&[
                    ("a", "", "cpus:2"),
                    ("a/x", "", "mem:1"),
                    ("a/x/deep", "cpus:3", ""),
                ]),
                "its own limit is 2",
            ),
            (
                quotas(&[("a/x", "", "cpus:0.5"), ("a/x/deep", "cpus:1", "")]),
                "beneath role 'a/x' come to 1, but its own limit is 0.5",
            ),
        ] {
            let error = guaranteed(&set).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let bounded = quotas(&[("a", "", "cpus:2"), ("a/x", "cpus:2", "cpus:5")]);
        assert!(guaranteed(&bounded).is_ok(), "the limit above bounds it");
    }
}
