//! Amounts as dense vectors of whole thousandths, and the shares they make of a total.
//!
//! A share is always computed afresh from two sums of integers and never added to, so it depends on what is held now and
//! not on how that came about.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_model::{Milli, Quantities, Quantity, Resource, Resources, Role};

/// Numbers the names of resources.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(BTreeMap<Arc<str>, usize>);

/// By number of name, in thousandths; names beyond the end have nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Amounts(Vec<i64>);

/// What a sum changes by: few names, each with an amount.
pub(crate) type Change = Vec<(usize, i64)>;

/// What changes on somebody's account.
#[derive(Debug, Default)]
pub(crate) struct Booking {
    /// Of everything: shares are made of it.
    pub(crate) held: Change,
    /// Of what is reserved for nobody and will not be taken back: it counts against quota. Left out while there are no
    /// quotas.
    pub(crate) unreserved: Change,
}

/// A share that can be compared: the bits of a double that is not negative sort as the double does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Share(u64);

/// Whether a resource counts against quota when it is given to somebody. What is reserved counts from its reservation
/// on, and what can be taken back does not count.
pub(crate) fn is_quota_relevant(resource: &Resource) -> bool {
    !resource.is_reserved() && !resource.revocable
}

impl Booking {
    #[must_use]
    pub(crate) fn negated(&self) -> Self {
        Self {
            held: negated(&self.held),
            unreserved: negated(&self.unreserved),
        }
    }
}

impl Names {
    pub(crate) fn number(&mut self, name: &Arc<str>) -> usize {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = self.0.len();
        self.0.insert(name.clone(), number);
        number
    }

    /// How much of each scalar there is. Ports and the like have no share: who has many of them has no more for it.
    pub(crate) fn amounts(&mut self, resources: &Resources) -> Change {
        self.amounts_of(resources, |_| true)
    }

    /// As [`Names::amounts`], of the part that counts against quota.
    pub(crate) fn unreserved_amounts(&mut self, resources: &Resources) -> Change {
        self.amounts_of(resources, is_quota_relevant)
    }

    fn amounts_of(&mut self, resources: &Resources, counts: impl Fn(&Resource) -> bool) -> Change {
        let mut change: Change = Vec::with_capacity(4);
        for (resource, copies) in resources
            .iter_counted()
            .filter(|(resource, _)| counts(resource))
        {
            let Some(amount) = scalar(resource, copies) else {
                continue;
            };
            add_to(&mut change, self.number(&resource.name), amount);
        }
        change
    }

    /// How much is reserved for whom. Every resource has one such role, so it counts once.
    pub(crate) fn reservations<'a>(
        &mut self,
        resources: &'a Resources,
    ) -> Vec<(&'a Role, usize, i64)> {
        let mut reservations = Vec::new();
        for (resource, copies) in resources.iter_counted() {
            if let (Some(role), Some(amount), false) = (
                resource.reserved_role(),
                scalar(resource, copies),
                resource.revocable,
            ) {
                reservations.push((role, self.number(&resource.name), amount));
            }
        }
        reservations
    }

    pub(crate) fn booking(&mut self, resources: &Resources, quotas: bool) -> Booking {
        Booking {
            held: self.amounts(resources),
            unreserved: if quotas {
                self.unreserved_amounts(resources)
            } else {
                Change::new()
            },
        }
    }

    /// What takes an account from one sum to the other.
    pub(crate) fn rebooking(
        &mut self,
        before: &Resources,
        after: &Resources,
        quotas: bool,
    ) -> Booking {
        let mut booking = self.booking(after, quotas);
        let before = self.booking(before, quotas).negated();
        for (sum, change) in [
            (&mut booking.held, before.held),
            (&mut booking.unreserved, before.unreserved),
        ] {
            for (number, amount) in change {
                add_to(sum, number, amount);
            }
        }
        booking
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.0.get(name).copied()
    }

    pub(crate) fn quantities(&self, amounts: &Amounts) -> Quantities {
        let named = self.0.iter();
        named
            .map(|(name, number)| (name.clone(), Milli(amounts.at(*number))))
            .collect()
    }

    /// As [`Names::amounts`], without those whose name was never met, for nobody has any of them.
    pub(crate) fn known_amounts(&self, resources: &Resources) -> Amounts {
        let mut amounts = Amounts::default();
        for (resource, copies) in resources.iter_counted() {
            if let (Some(number), Some(amount)) =
                (self.0.get(&resource.name), scalar(resource, copies))
            {
                amounts.apply(&[(*number, amount)]);
            }
        }
        amounts
    }

    /// As [`Names::known_amounts`], of the part that counts against quota.
    pub(crate) fn known_unreserved_amounts(&self, resources: &Resources) -> Amounts {
        self.known_amounts(&resources.filter(is_quota_relevant))
    }

    /// What takes the amounts of one to those of the other.
    pub(crate) fn difference(&mut self, before: &Resources, after: &Resources) -> Change {
        self.rebooking(before, after, false).held
    }
}

fn add_to(change: &mut Change, number: usize, amount: i64) {
    match change.iter_mut().find(|(other, _)| *other == number) {
        Some((_, sum)) => *sum = sum.saturating_add(amount),
        None => change.push((number, amount)),
    }
}

/// In thousandths; a shared resource counts once.
fn scalar(resource: &Resource, copies: u32) -> Option<i64> {
    let Quantity::Scalar(amount) = resource.quantity else {
        return None;
    };
    Some(if resource.shared {
        amount.0
    } else {
        amount.0.saturating_mul(i64::from(copies))
    })
}

pub(crate) fn negated(change: &[(usize, i64)]) -> Change {
    change
        .iter()
        .map(|(number, amount)| (*number, -amount))
        .collect()
}

impl Amounts {
    pub(crate) fn at(&self, number: usize) -> i64 {
        self.0.get(number).copied().unwrap_or(0)
    }

    /// Beyond this number there is nothing.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn add_at(&mut self, number: usize, amount: i64) {
        if amount == 0 {
            return;
        }
        if number >= self.0.len() {
            self.0.resize(number + 1, 0);
        }
        self.0[number] = self.0[number].saturating_add(amount);
    }

    pub(crate) fn apply(&mut self, change: &[(usize, i64)]) {
        for &(number, amount) in change {
            self.add_at(number, amount);
        }
    }

    /// Takes away as much as there is, and says how much that was.
    pub(crate) fn take_up_to(&mut self, change: &[(usize, i64)]) -> Change {
        let taken: Change = change
            .iter()
            .map(|&(number, amount)| (number, amount.clamp(0, self.at(number).max(0))))
            .collect();
        self.apply(&negated(&taken));
        taken
    }

    pub(crate) fn as_change(&self) -> Change {
        self.0.iter().copied().enumerate().collect()
    }

    pub(crate) fn add(&mut self, other: &Amounts) {
        for (number, amount) in other.0.iter().enumerate() {
            self.apply(&[(number, *amount)]);
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|amount| *amount == 0)
    }

    /// The largest part of the total of anything.
    pub(crate) fn dominant_share(&self, total: &Amounts) -> f64 {
        self.0
            .iter()
            .zip(&total.0)
            .fold(0.0, |largest: f64, (amount, total)| {
                if *total > 0 {
                    largest.max(*amount as f64 / *total as f64)
                } else {
                    largest
                }
            })
    }
}

/// Equal but for zeros at the end.
impl PartialEq for Amounts {
    fn eq(&self, other: &Self) -> bool {
        let length = self.0.len().max(other.0.len());
        (0..length).all(|number| self.at(number) == other.at(number))
    }
}

impl Share {
    pub(crate) fn new(share: f64) -> Self {
        Self(share.max(0.0).to_bits())
    }
}
