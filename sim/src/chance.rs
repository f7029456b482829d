//! Everything that looks random, from one seed, and the same on every machine: no function of the platform's mathematics
//! library is used.

use tepui_model::Generator;

use crate::Micros;

/// What chance decides in a simulation.
#[derive(Debug, Clone)]
pub struct Chance {
    generator: Generator,
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self {
            generator: Generator::new(seed),
        }
    }

    /// A generator that goes its own way from here.
    pub fn fork(&mut self) -> Self {
        Self::new(self.number())
    }

    pub fn number(&mut self) -> u64 {
        self.generator.number()
    }

    /// From 0 up to, but not including, `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        let wide = u128::from(self.number()) * u128::from(limit);
        (wide >> 64) as u64
    }

    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// Both ends included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True so many times in a thousand.
    pub fn odds(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < u64::from(per_mille)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.index(from.len()))
    }

    /// Close to a normal distribution of mean 0 and deviation 1: the sum of twelve even ones. Never beyond 6.
    pub fn normal(&mut self) -> f64 {
        let sum: f64 = (0..12).map(|_| self.unit()).sum();
        sum - 6.0
    }

    fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How long something takes: evenly between two bounds, and now and then much longer.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    pub low: Micros,
    pub high: Micros,
    /// So many times in a thousand it takes up to `slow`.
    pub slow_per_mille: u32,
    pub slow: Micros,
}

impl Delay {
    pub const NONE: Self = Self::between(0, 0);

    pub const fn between(low: Micros, high: Micros) -> Self {
        Self {
            low,
            high,
            slow_per_mille: 0,
            slow: 0,
        }
    }

    pub const fn with_tail(low: Micros, high: Micros, slow_per_mille: u32, slow: Micros) -> Self {
        Self {
            low,
            high,
            slow_per_mille,
            slow,
        }
    }

    pub fn sample(&self, chance: &mut Chance) -> Micros {
        if chance.odds(self.slow_per_mille) {
            chance.between(self.high, self.slow.max(self.high))
        } else {
            chance.between(self.low, self.high)
        }
    }
}

/// How long tasks run: normally distributed, cut off below.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub mean: Micros,
    pub deviation: Micros,
    pub least: Micros,
}

impl Spread {
    pub const fn fixed(duration: Micros) -> Self {
        Self {
            mean: duration,
            deviation: 0,
            least: duration,
        }
    }

    pub fn sample(&self, chance: &mut Chance) -> Micros {
        let value = self.mean as f64 + chance.normal() * self.deviation as f64;
        (value.max(0.0) as Micros).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_the_mean_and_the_deviation_they_should() {
        let mut chance = Chance::new(1);
        let numbers: Vec<f64> = (0..100_000).map(|_| chance.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let variance = numbers
            .iter()
            .map(|number| (number - mean).powi(2))
            .sum::<f64>()
            / numbers.len() as f64;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
    }

    #[test]
    fn even_numbers_reach_both_ends() {
        let mut chance = Chance::new(2);
        let numbers: Vec<u64> = (0..1000).map(|_| chance.between(3, 5)).collect();
        assert_eq!(
            (numbers.iter().min(), numbers.iter().max()),
            (Some(&3), Some(&5))
        );
        assert_eq!(chance.below(0), 0);
    }
}
