//! Amounts as dense vectors of whole thousandths, and the shares they make of a total.
//!
//! A share is always computed afresh from two sums of integers and never added to, so it depends on what is held now and
//! not on how that came about.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;
use tepui_model::{Milli, Quantities, Quantity, Resource, Resources, Role};

/// Names found by looking at them one by one; beyond these they are looked up. Clusters know a handful of names.
const FIRST_NAMES: usize = 8;

/// Numbers the names of resources, in the order in which they were met.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    names: Vec<Arc<str>>,
    numbers: BTreeMap<Arc<str>, usize>,
}

/// By number of name, in thousandths; names beyond the end have nothing. A sum, or what a sum changes by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Amounts(SmallVec<[i64; 4]>);

/// What changes on somebody's account.
#[derive(Debug, Default)]
pub(crate) struct Booking {
    /// Of everything: shares are made of it.
    pub(crate) held: Amounts,
    /// Of what is reserved for nobody and will not be taken back: it counts against quota. Left out while there are no
    /// quotas.
    pub(crate) unreserved: Amounts,
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
            held: self.held.negated(),
            unreserved: self.unreserved.negated(),
        }
    }
}

impl Names {
    pub(crate) fn number(&mut self, name: &Arc<str>) -> usize {
        if let Some(number) = self.find(name) {
            return number;
        }
        let number = self.names.len();
        self.names.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        let mut first = self.names.iter().take(FIRST_NAMES);
        match first.position(|known| **known == *name) {
            None if self.names.len() > FIRST_NAMES => self.numbers.get(name).copied(),
            found => found,
        }
    }

    /// How much of each scalar there is. Ports and the like have no share: who has many of them has no more for it.
    pub(crate) fn amounts(&mut self, resources: &Resources) -> Amounts {
        self.amounts_of(resources, |_| true)
    }

    /// As [`Names::amounts`], of the part that counts against quota.
    pub(crate) fn unreserved_amounts(&mut self, resources: &Resources) -> Amounts {
        self.amounts_of(resources, is_quota_relevant)
    }

    fn amounts_of(&mut self, resources: &Resources, counts: impl Fn(&Resource) -> bool) -> Amounts {
        let mut amounts = Amounts::default();
        for (resource, copies) in resources.iter_counted() {
            if let Some(amount) = scalar(resource, copies)
                && counts(resource)
            {
                amounts.add_at(self.number(&resource.name), amount);
            }
        }
        amounts
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
                Amounts::default()
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
        let before = self.booking(before, quotas);
        booking.held.subtract(&before.held);
        booking.unreserved.subtract(&before.unreserved);
        booking
    }

    pub(crate) fn quantities(&self, amounts: &Amounts) -> Quantities {
        let named = self.names.iter().enumerate();
        named
            .map(|(number, name)| (name.clone(), Milli(amounts.at(number))))
            .collect()
    }

    /// Of what the amounts are the largest part of the total.
    pub(crate) fn dominant(&self, amounts: &Amounts, total: &Amounts) -> Option<Arc<str>> {
        let share = amounts.dominant_share(total);
        let makes = |number: usize| {
            let total = total.at(number);
            total > 0 && amounts.at(number) as f64 / total as f64 == share
        };
        let mut numbers = (0..self.names.len()).filter(|number| makes(*number));
        let first = numbers.next().filter(|_| share > 0.0)?;
        Some(self.names[first].clone())
    }

    /// As [`Names::amounts`], without those whose name was never met, for nobody has any of them.
    pub(crate) fn known_amounts(&self, resources: &Resources) -> Amounts {
        let mut amounts = Amounts::default();
        for (resource, copies) in resources.iter_counted() {
            if let Some(amount) = scalar(resource, copies)
                && let Some(number) = self.find(&resource.name)
            {
                amounts.add_at(number, amount);
            }
        }
        amounts
    }

    /// As [`Names::known_amounts`], of the part that counts against quota.
    pub(crate) fn known_unreserved_amounts(&self, resources: &Resources) -> Amounts {
        self.known_amounts(&resources.filter(is_quota_relevant))
    }

    /// What takes the amounts of one to those of the other.
    pub(crate) fn difference(&mut self, before: &Resources, after: &Resources) -> Amounts {
        self.rebooking(before, after, false).held
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

impl Amounts {
    pub(crate) fn at(&self, number: usize) -> i64 {
        self.0.get(number).copied().unwrap_or(0)
    }

    /// Beyond this number there is nothing.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that are not nothing, with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, i64)> {
        let all = self.0.iter().copied().enumerate();
        all.filter(|(_, amount)| *amount != 0)
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

    pub(crate) fn add(&mut self, other: &Amounts) {
        for (number, amount) in other.iter() {
            self.add_at(number, amount);
        }
    }

    pub(crate) fn subtract(&mut self, other: &Amounts) {
        for (number, amount) in other.iter() {
            self.add_at(number, amount.saturating_neg());
        }
    }

    #[must_use]
    pub(crate) fn negated(&self) -> Self {
        Self(
            self.0
                .iter()
                .map(|amount| amount.saturating_neg())
                .collect(),
        )
    }

    /// Takes away as much as there is, and says how much that was.
    pub(crate) fn take_up_to(&mut self, wanted: &Amounts) -> Amounts {
        let mut taken = Amounts::default();
        for (number, amount) in wanted.iter() {
            taken.add_at(number, amount.clamp(0, self.at(number).max(0)));
        }
        self.subtract(&taken);
        taken
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.iter().next().is_none()
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
