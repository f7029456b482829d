//! How much of each kind, without whose or which: what shares, quotas and minimums are reckoned in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::amount::Milli;

/// Amounts by resource name; only positive ones are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quantities(BTreeMap<Arc<str>, Milli>);

impl Quantities {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn of<const COUNT: usize>(amounts: [(&str, Milli); COUNT]) -> Self {
        amounts
            .into_iter()
            .map(|(name, amount)| (Arc::from(name), amount))
            .collect()
    }

    pub fn get(&self, name: &str) -> Milli {
        self.0.get(name).copied().unwrap_or(Milli::ZERO)
    }

    pub fn add_amount(&mut self, name: &Arc<str>, amount: Milli) {
        if !amount.is_positive() {
            return;
        }
        match self.0.get_mut(&**name) {
            Some(sum) => *sum += amount,
            None => {
                self.0.insert(name.clone(), amount);
            }
        }
    }

    pub fn add(&mut self, other: &Quantities) {
        for (name, amount) in &other.0 {
            self.add_amount(name, *amount);
        }
    }

    /// Takes away what is there; more than that leaves nothing.
    pub fn subtract(&mut self, other: &Quantities) {
        for (name, amount) in &other.0 {
            if let Some(sum) = self.0.get_mut(name) {
                *sum = sum.saturating_sub(*amount);
            }
        }
        self.0.retain(|_, amount| amount.is_positive());
    }

    /// Whether there is at least as much of everything.
    pub fn contains(&self, other: &Quantities) -> bool {
        other
            .0
            .iter()
            .all(|(name, amount)| self.get(name) >= *amount)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, Milli)> {
        self.0.iter().map(|(name, amount)| (name, *amount))
    }
}

impl FromIterator<(Arc<str>, Milli)> for Quantities {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Milli)>>(amounts: I) -> Self {
        let mut quantities = Self::new();
        for (name, amount) in amounts {
            quantities.add_amount(&name, amount);
        }
        quantities
    }
}

impl fmt::Display for Quantities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, amount)) in self.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(formatter, "{separator}{name}:{amount}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtracting_more_than_there_is_leaves_nothing() {
        let mut quantities = Quantities::of([("cpus", Milli(1500)), ("mem", Milli(64_000))]);
        quantities.subtract(&Quantities::of([("cpus", Milli(2000)), ("disk", Milli(1))]));
        assert_eq!(quantities.to_string(), "mem:64");
    }

    #[test]
    fn nothing_is_contained_in_everything() {
        let quantities = Quantities::of([("cpus", Milli(1))]);
        assert!(quantities.contains(&Quantities::new()));
        assert!(!Quantities::new().contains(&quantities));
        assert!(quantities.contains(&quantities));
    }
}
