//! A generator of numbers that look random and are the same for the same seed on every machine. Whoever holds one decides
//! where its seed comes from; nothing here asks the platform for randomness.

/// A xoshiro256++ generator. Who sees enough of its numbers knows the rest: no secret comes from it.
#[derive(Debug, Clone)]
pub struct Generator {
    state: [u64; 4],
}

impl Generator {
    /// Generators of neighbouring seeds have nothing in common.
    pub fn new(seed: u64) -> Self {
        let mut word = seed;
        let state = [(); 4].map(|()| {
            // Splitmix: states that differ in every bit even for seeds that follow each other.
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = word;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        });
        Self { state }
    }

    /// From a state whose bits are already as good as random, such as a digest. One of zeros only gives zeros for ever.
    pub fn from_state(state: [u64; 4]) -> Self {
        Self { state }
    }

    pub fn number(&mut self) -> u64 {
        let state = &mut self.state;
        let result = state[0]
            .wrapping_add(state[3])
            .rotate_left(23)
            .wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        let mut generator = Generator::from_state([1, 2, 3, 4]);
        let first: Vec<u64> = (0..4).map(|_| generator.number()).collect();
        assert_eq!(
            first,
            [
                41_943_041,
                58_720_359,
                3_588_806_011_781_223,
                3_591_011_842_654_386
            ]
        );
    }

    #[test]
    fn a_seed_decides_everything() {
        let numbers = |seed| {
            let mut generator = Generator::new(seed);
            [(); 8].map(|()| generator.number())
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }
}
