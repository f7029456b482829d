//! Sets of whole numbers kept as inclusive ranges: ports above all.

use std::fmt;

/// Sorted, disjoint and with gaps between them, so that equal sets have equal representations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ranges(Vec<(u64, u64)>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    #[error("the range {begin}-{end} ends before it begins")]
    Backwards { begin: u64, end: u64 },
    #[error("the ranges {0}-{1} and {2}-{3} overlap")]
    Overlap(u64, u64, u64, u64),
}

impl Ranges {
    pub fn new() -> Self {
        Self::default()
    }

    /// From what a person or the wire listed: in any order, but no number twice.
    pub fn from_pairs(mut pairs: Vec<(u64, u64)>) -> Result<Self, RangesError> {
        if let Some(&(begin, end)) = pairs.iter().find(|(begin, end)| begin > end) {
            return Err(RangesError::Backwards { begin, end });
        }
        pairs.sort_unstable();
        if let Some(pair) = pairs.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
            return Err(RangesError::Overlap(
                pair[0].0, pair[0].1, pair[1].0, pair[1].1,
            ));
        }
        Ok(Self(coalesce(pairs)))
    }

    /// The numbers of one range; none if it ends before it begins.
    pub fn single(begin: u64, end: u64) -> Self {
        if begin > end {
            Self::new()
        } else {
            Self(vec![(begin, end)])
        }
    }

    #[must_use]
    pub fn union(&self, other: &Ranges) -> Ranges {
        let mut pairs = Vec::with_capacity(self.0.len() + other.0.len());
        pairs.extend_from_slice(&self.0);
        pairs.extend_from_slice(&other.0);
        pairs.sort_unstable();
        Ranges(coalesce(pairs))
    }

    /// The numbers of this that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Ranges) -> Ranges {
        let mut left = Vec::with_capacity(self.0.len() + other.0.len());
        let mut others = other.0.iter().copied().peekable();
        for &(begin, end) in &self.0 {
            let mut begin = Some(begin);
            while let Some(from) = begin {
                // Ranges wholly below this point concern nothing that is still to come.
                while others.next_if(|&(_, hole_end)| hole_end < from).is_some() {}
                match others.peek() {
                    Some(&(hole_begin, hole_end)) if hole_begin <= end => {
                        if from < hole_begin {
                            left.push((from, hole_begin - 1));
                        }
                        begin = if hole_end < end {
                            Some(hole_end + 1)
                        } else {
                            None
                        };
                    }
                    _ => {
                        left.push((from, end));
                        begin = None;
                    }
                }
            }
        }
        Ranges(left)
    }

    #[must_use]
    pub fn intersection(&self, other: &Ranges) -> Ranges {
        self.difference(&self.difference(other))
    }

    /// What is left after taking all of the other away; `None` if the other has a number that this has not.
    pub fn checked_subtract(&self, other: &Ranges) -> Option<Ranges> {
        self.contains(other).then(|| self.difference(other))
    }

    /// Whether every number of the other is in this.
    pub fn contains(&self, other: &Ranges) -> bool {
        other
            .0
            .iter()
            .all(|&(begin, end)| self.around(begin).is_some_and(|(_, last)| last >= end))
    }

    pub fn contains_number(&self, number: u64) -> bool {
        self.around(number).is_some()
    }

    fn around(&self, number: u64) -> Option<(u64, u64)> {
        let above = self.0.partition_point(|&(begin, _)| begin <= number);
        let (begin, end) = *self.0.get(above.checked_sub(1)?)?;
        (number <= end).then_some((begin, end))
    }

    pub fn overlaps(&self, other: &Ranges) -> bool {
        !self.intersection(other).is_empty()
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |count: u64, (begin, end)| {
            count.saturating_add((end - begin).saturating_add(1))
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// The numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|&(begin, end)| begin..=end)
    }
}

/// Merges sorted ranges that touch or overlap.
fn coalesce(sorted: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
    for (begin, end) in sorted {
        match merged.last_mut() {
            Some(last) if begin <= last.1.saturating_add(1) => last.1 = last.1.max(end),
            _ => merged.push((begin, end)),
        }
    }
    merged
}

impl fmt::Display for Ranges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[")?;
        for (index, (begin, end)) in self.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(formatter, "{comma}{begin}-{end}")?;
        }
        formatter.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn ranges(pairs: &[(u64, u64)]) -> Ranges {
        Ranges::from_pairs(pairs.to_vec()).unwrap()
    }

    #[test]
    fn neighbours_become_one_range() {
        let merged = ranges(&[(5, 6), (1, 2), (3, 4)]);
        assert_eq!(merged.to_string(), "[1-6]");
        assert_eq!(merged.count(), 6);
        assert_eq!(ranges(&[]).to_string(), "[]");
    }

    #[test]
    fn listing_a_number_twice_or_backwards_is_an_error() {
        assert_eq!(
            Ranges::from_pairs(vec![(1, 3), (3, 4)]),
            Err(RangesError::Overlap(1, 3, 3, 4))
        );
        assert_eq!(
            Ranges::from_pairs(vec![(4, 3)]),
            Err(RangesError::Backwards { begin: 4, end: 3 })
        );
    }

    #[test]
    fn subtraction_splits_and_refuses_what_is_not_there() {
        let ports = ranges(&[(31000, 32000)]);
        let left = ports.checked_subtract(&ranges(&[(31005, 31006)])).unwrap();
        assert_eq!(left.to_string(), "[31000-31004, 31007-32000]");
        assert_eq!(left.checked_subtract(&ranges(&[(31004, 31005)])), None);
        assert_eq!(left.union(&ranges(&[(31005, 31006)])), ports);
    }

    #[test]
    fn the_ends_of_the_number_line_hold() {
        let everything = Ranges::single(0, u64::MAX);
        assert_eq!(everything.count(), u64::MAX);
        assert_eq!(
            everything.difference(&Ranges::single(1, u64::MAX)),
            Ranges::single(0, 0)
        );
        assert_eq!(everything.difference(&everything), Ranges::new());
        assert_eq!(
            Ranges::single(u64::MAX, u64::MAX).union(&everything),
            everything
        );
    }

    #[test]
    fn random_sets_behave_like_sets_of_numbers() {
        let mut random = crate::resource::tests::Random(7);
        for _ in 0..2000 {
            let (left, left_model) = random_ranges(&mut random);
            let (right, right_model) = random_ranges(&mut random);
            let numbers = |ranges: &Ranges| ranges.numbers().collect::<BTreeSet<u64>>();
            assert_eq!(numbers(&left), left_model);
            assert_eq!(numbers(&left.union(&right)), &left_model | &right_model);
            assert_eq!(
                numbers(&left.difference(&right)),
                &left_model - &right_model
            );
            assert_eq!(
                numbers(&left.intersection(&right)),
                &left_model & &right_model
            );
            assert_eq!(left.contains(&right), left_model.is_superset(&right_model));
            assert_eq!(
                left.checked_subtract(&right).is_some(),
                left_model.is_superset(&right_model)
            );
            assert_eq!(left.overlaps(&right), !left_model.is_disjoint(&right_model));
            assert_eq!(left.count(), left_model.len() as u64);
            assert!(
                (0..40).all(|number| left.contains_number(number) == left_model.contains(&number))
            );
        }
    }

    fn random_ranges(random: &mut crate::resource::tests::Random) -> (Ranges, BTreeSet<u64>) {
        let mut ranges = Ranges::new();
        let mut model = BTreeSet::new();
        for _ in 0..random.below(5) {
            let begin = random.below(30);
            let end = begin + random.below(8);
            ranges = ranges.union(&Ranges::single(begin, end));
            model.extend(begin..=end);
        }
        (ranges, model)
    }
}
