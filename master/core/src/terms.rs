//! On which terms a framework takes offers: its minimums and constraints, from the wire to what the allocator asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tepui_allocator::{
    Constraint, Constraints, ConstraintsInvalid, Expression, FrameworkTerms, Predicate, RoleTerms,
    Selector,
};
use tepui_api::v1;
use tepui_api::v1::scheduler::attribute_constraint::predicate::Predicate as WirePredicate;
use tepui_api::v1::scheduler::attribute_constraint::selector::{
    PseudoattributeType, Selector as WireSelector,
};
use tepui_api::v1::scheduler::{AttributeConstraint, OfferConstraints, offer_constraints};
use tepui_model::{Milli, Quantities, Role};

use crate::framework_info::{Checked, FrameworkInvalid};
use crate::offers::allocator_capabilities;

pub(crate) type Minimums = BTreeMap<Role, Arc<[Quantities]>>;
pub(crate) type RoleConstraints = BTreeMap<Role, Arc<Constraints>>;

/// What an offer must have for each role that says so itself.
pub(crate) fn minimums(
    info: &v1::FrameworkInfo,
    roles: &BTreeSet<Role>,
) -> Result<Minimums, FrameworkInvalid> {
    let mut minimums = Minimums::new();
    for (role, filters) in &info.offer_filters {
        let known = roles.get(role.as_str());
        let known = known.ok_or_else(|| FrameworkInvalid::FilterRole { role: role.clone() })?;
        let Some(wire) = &filters.min_allocatable_resources else {
            continue;
        };
        let mut sets = Vec::with_capacity(wire.quantities.len());
        for set in &wire.quantities {
            if set.quantities.is_empty() {
                return Err(FrameworkInvalid::FilterEmpty { role: role.clone() });
            }
            let mut quantities = Quantities::new();
            for (name, amount) in &set.quantities {
                let amount = Milli::from_f64(amount.value)
                    .ok()
                    .filter(|amount| *amount >= Milli::ZERO);
                let amount = amount.ok_or_else(|| FrameworkInvalid::FilterAmount {
                    role: role.clone(),
                    resource: name.clone(),
                })?;
                quantities.add_amount(&Arc::from(name.as_str()), amount);
            }
            sets.push(quantities);
        }
        minimums.insert(known.clone(), sets.into());
    }
    Ok(minimums)
}

pub(crate) fn constraints(
    wire: &OfferConstraints,
    roles: &BTreeSet<Role>,
) -> Result<RoleConstraints, FrameworkInvalid> {
    let mut all = RoleConstraints::new();
    for (role, wire) in &wire.role_constraints {
        let known = roles.get(role.as_str());
        let known = known.ok_or_else(|| FrameworkInvalid::ConstraintRole { role: role.clone() })?;
        let constraints = role_constraints(role, wire)?;
        all.insert(known.clone(), Arc::new(constraints));
    }
    Ok(all)
}

fn role_constraints(
    role: &str,
    wire: &offer_constraints::RoleConstraints,
) -> Result<Constraints, FrameworkInvalid> {
    let invalid = |invalid| FrameworkInvalid::Constraint {
        role: role.to_owned(),
        invalid,
    };
    let incomplete = || FrameworkInvalid::ConstraintIncomplete {
        role: role.to_owned(),
    };
    let mut groups = Vec::with_capacity(wire.groups.len());
    for group in &wire.groups {
        let mut constraints = Vec::with_capacity(group.attribute_constraints.len());
        for wire in &group.attribute_constraints {
            let constraint = constraint(wire).map_err(invalid)?;
            constraints.push(constraint.ok_or_else(incomplete)?);
        }
        groups.push(constraints);
    }
    Constraints::new(groups).map_err(invalid)
}

/// `None` if it says nothing, or something that this master does not know.
fn constraint(wire: &AttributeConstraint) -> Result<Option<Constraint>, ConstraintsInvalid> {
    let selector = match &wire.selector.selector {
        Some(WireSelector::AttributeName(name)) => Some(Selector::Attribute(name.as_str().into())),
        Some(WireSelector::PseudoattributeType(number)) => {
            match PseudoattributeType::try_from(*number) {
                Ok(PseudoattributeType::Hostname) => Some(Selector::Hostname),
                Ok(PseudoattributeType::Region) => Some(Selector::Region),
                Ok(PseudoattributeType::Zone) => Some(Selector::Zone),
                Ok(PseudoattributeType::Unknown) | Err(_) => None,
            }
        }
        None => None,
    };
    let predicate = match &wire.predicate.predicate {
        Some(WirePredicate::Exists(_)) => Some(Predicate::Exists),
        Some(WirePredicate::NotExists(_)) => Some(Predicate::NotExists),
        Some(WirePredicate::TextEquals(text)) => Some(Predicate::TextEquals(text.value.clone())),
        Some(WirePredicate::TextNotEquals(text)) => {
            Some(Predicate::TextNotEquals(text.value.clone()))
        }
        Some(WirePredicate::TextMatches(text)) => {
            Some(Predicate::TextMatches(Expression::new(&text.regex)?))
        }
        Some(WirePredicate::TextNotMatches(text)) => {
            Some(Predicate::TextNotMatches(Expression::new(&text.regex)?))
        }
        None => None,
    };
    let both = selector.zip(predicate);
    Ok(both.map(|(selector, predicate)| Constraint {
        selector,
        predicate,
    }))
}

impl Checked {
    pub(crate) fn terms(&self) -> FrameworkTerms {
        let terms = self.roles.iter().map(|role| {
            let terms = RoleTerms {
                suppressed: self.suppressed.contains(role),
                min_allocatable: self.minimums.get(role).cloned(),
                constraints: self.constraints.get(role).cloned(),
            };
            (role.clone(), terms)
        });
        FrameworkTerms {
            roles: terms.collect(),
            capabilities: allocator_capabilities(self.capabilities),
        }
    }
}
