//! Amounts as dense vectors of whole thousandths, and the shares they make of a total.
//!
//! A share is always computed afresh from two sums of integers and never added to, so it depends on what is held now and
//! not on how that came about.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_model::{Quantity, Resource, Resources};

/// Numbers the names of resources.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<Arc<str>, usize>);

/// By number of name, in thousandths; names beyond the end have nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Amounts(Vec<i64>);

/// What a sum changes by: few names, each with an amount.
pub(crate) type Change = Vec<(usize, i64)>;

/// A share that can be compared: the bits of a double that is not negative sort as the double does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Share(u64);

impl Names {
    fn number(&mut self, name: &Arc<str>) -> usize {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = self.0.len();
        self.0.insert(name.clone(), number);
        number
    }

    /// How much of each scalar there is. Ports and the like have no share: who has many of them has no more for it.
    pub(crate) fn amounts(&mut self, resources: &Resources) -> Change {
        let mut change: Change = Vec::with_capacity(4);
        for (resource, copies) in resources.iter_counted() {
            let Some(amount) = scalar(resource, copies) else {
                continue;
            };
            let number = self.number(&resource.name);
            match change.iter_mut().find(|(other, _)| *other == number) {
                Some((_, sum)) => *sum = sum.saturating_add(amount),
                None => change.push((number, amount)),
            }
        }
        change
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

    /// What takes the amounts of one to those of the other.
    pub(crate) fn difference(&mut self, before: &Resources, after: &Resources) -> Change {
        let mut change = self.amounts(after);
        change.extend(negated(&self.amounts(before)));
        change
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
    pub(crate) fn apply(&mut self, change: &[(usize, i64)]) {
        for &(number, amount) in change {
            if number >= self.0.len() {
                self.0.resize(number + 1, 0);
            }
            self.0[number] = self.0[number].saturating_add(amount);
        }
    }

    /// Takes away as much as there is, and says how much that was.
    pub(crate) fn take_up_to(&mut self, change: &[(usize, i64)]) -> Change {
        let taken: Change = change
            .iter()
            .map(|&(number, amount)| {
                (
                    number,
                    amount.clamp(0, self.0.get(number).copied().unwrap_or(0).max(0)),
                )
            })
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
        let at = |amounts: &Self, number: usize| amounts.0.get(number).copied().unwrap_or(0);
        (0..length).all(|number| at(self, number) == at(other, number))
    }
}

impl Share {
    pub(crate) fn new(share: f64) -> Self {
        Self(share.max(0.0).to_bits())
    }
}
