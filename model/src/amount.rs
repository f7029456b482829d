//! Amounts in whole thousandths. Doubles exist only on the wire: a million allocations and releases must end exactly
//! where they began.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// Thousandths of a unit: of a cpu, of a megabyte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Milli(pub i64);

#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum AmountError {
    #[error("an amount must be a number, not {0}")]
    NotFinite(f64),
    #[error("the amount {0} is out of range")]
    OutOfRange(f64),
}

impl Milli {
    pub const ZERO: Milli = Milli(0);
    /// The largest amount taken from the wire. A double still tells all thousandths apart here, and thousands of such
    /// amounts can be added up before the sum saturates.
    pub const LIMIT: Milli = Milli(1 << 50);

    /// Rounds to the nearest thousandth, halves away from zero.
    pub fn from_f64(value: f64) -> Result<Self, AmountError> {
        if !value.is_finite() {
            return Err(AmountError::NotFinite(value));
        }
        let thousandths = (value * 1000.0).round();
        if thousandths.abs() > Self::LIMIT.0 as f64 {
            return Err(AmountError::OutOfRange(value));
        }
        Ok(Self(thousandths as i64))
    }

    pub const fn from_units(units: i64) -> Self {
        Self(units.saturating_mul(1000))
    }

    pub fn to_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// What is left, but never less than nothing.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0).max(0))
    }

    pub fn is_positive(self) -> bool {
        self.0 > 0
    }

    pub fn is_whole(self) -> bool {
        self.0 % 1000 == 0
    }
}

impl Add for Milli {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Milli {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Neg for Milli {
    type Output = Self;

    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

impl AddAssign for Milli {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Milli {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Milli {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Milli {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, thousandths) = (self.0.unsigned_abs() / 1000, self.0.unsigned_abs() % 1000);
        let sign = if self.0 < 0 { "-" } else { "" };
        if thousandths == 0 {
            return formatter.pad(&format!("{sign}{whole}"));
        }
        let decimals = format!("{thousandths:03}");
        formatter.pad(&format!("{sign}{whole}.{}", decimals.trim_end_matches('0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_rounded_to_thousandths() {
        for (value, thousandths) in [
            (1.0, 1000),
            (0.1, 100),
            (0.0005, 1),
            (0.00049, 0),
            (-0.0005, -1),
            (1.2345, 1235),
            (0.1 + 0.2, 300),
        ] {
            assert_eq!(Milli::from_f64(value), Ok(Milli(thousandths)), "{value}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e13, -1e13] {
            assert!(Milli::from_f64(value).is_err(), "{value}");
        }
        assert!(Milli::from_f64(1e12).is_ok());
        assert!(Milli::from_f64((1_u64 << 40) as f64).is_ok());
    }

    #[test]
    fn amounts_are_written_without_needless_digits() {
        for (thousandths, text) in [
            (1500, "1.5"),
            (1000, "1"),
            (0, "0"),
            (1, "0.001"),
            (-1500, "-1.5"),
            (-10, "-0.01"),
            (12_340, "12.34"),
        ] {
            assert_eq!(Milli(thousandths).to_string(), text);
        }
    }

    #[test]
    fn tenths_add_up_exactly() {
        let tenth = Milli::from_f64(0.1).unwrap();
        let sum: Milli = std::iter::repeat_n(tenth, 1_000_000).sum();
        assert_eq!(sum, Milli::from_units(100_000));
        assert_eq!(
            (0..1_000_000).fold(sum, |left, _| left - tenth),
            Milli::ZERO
        );
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Milli(i64::MAX) + Milli(1), Milli(i64::MAX));
        assert_eq!(Milli(i64::MAX).checked_add(Milli(1)), None);
        assert_eq!(Milli(1).saturating_sub(Milli(2)), Milli::ZERO);
    }
}
