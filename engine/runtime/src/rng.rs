//! Randomness of a core: xoshiro256++ (Blackman and Vigna, 2018) seeded by the kernel.
//!
//! Not for secrets: whoever sees enough output can predict the rest.

use crate::{RuntimeError, system};
use cfs_seam::Rng;
use std::cell::Cell;

pub(crate) struct CoreRng(Cell<[u64; 4]>);

impl CoreRng {
    pub(crate) fn seeded() -> Result<Self, RuntimeError> {
        let mut seed = system::random_seed().map_err(RuntimeError::system("getrandom"))?;
        // The one state the generator cannot leave.
        if seed == [0; 4] {
            seed[0] = 1;
        }
        Ok(CoreRng(Cell::new(seed)))
    }
}

impl Rng for CoreRng {
    fn next_u64(&self) -> u64 {
        let [mut a, mut b, mut c, mut d] = self.0.get();
        let out = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let shifted = b << 17;
        c ^= a;
        d ^= b;
        b ^= c;
        a ^= d;
        c ^= shifted;
        self.0.set([a, b, c, d.rotate_left(45)]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_matches_the_reference_implementation() {
        let rng = CoreRng(Cell::new([1, 2, 3, 4]));
        let drawn: Vec<u64> = (0..4).map(|_| rng.next_u64()).collect();
        assert_eq!(drawn, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn two_cores_draw_differently() {
        let (one, other) = (CoreRng::seeded().expect("seed"), CoreRng::seeded().expect("seed"));
        assert_ne!(one.next_u64(), other.next_u64());
    }
}
