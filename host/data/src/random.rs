//! The random numbers of data order. Written out here so that no release of a crate ever changes the order of a run:
//! xoshiro256** seeded by splitmix64 (Blackman and Vigna, <https://prng.di.unimi.it>).

/// What a permutation is for. Each purpose has numbers of its own under one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The shuffle of a dataset when it is loaded (`dataset_shuffle`).
    Dataset,
    /// The rows a `#n` takes beyond whole repetitions.
    Sample,
    /// The choice of validation rows (`split_dataset_ratio`).
    Validation,
}

impl Stream {
    fn key(self) -> u64 {
        match self {
            Self::Dataset => 1,
            Self::Sample => 2,
            Self::Validation => 3,
        }
    }
}

/// xoshiro256**.
#[derive(Debug, Clone)]
pub struct Random([u64; 4]);

impl Random {
    /// The generator of `seed` for one purpose.
    pub fn new(seed: u64, stream: Stream) -> Self {
        let mut state = seed ^ stream.key().wrapping_mul(0xd134_2543_de82_ef95);
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound` (which is not zero), without bias (Lemire's method).
    pub fn below(&mut self, bound: u64) -> u64 {
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }
}

/// A permutation of `0..count` (Fisher and Yates).
pub fn permutation(count: usize, seed: u64, stream: Stream) -> Vec<usize> {
    let mut random = Random::new(seed, stream);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_never_changes() {
        assert_eq!(Random([1, 2, 3, 4]).next_u64(), 11520); // the reference implementation's first output
        let mut sorted = permutation(100, 42, Stream::Dataset);
        assert_ne!(sorted, permutation(100, 42, Stream::Sample));
        assert_ne!(sorted, permutation(100, 43, Stream::Dataset));
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..100));
        assert_eq!(permutation(8, 42, Stream::Dataset), FROZEN);
    }

    /// Frozen (from an independent implementation): a change here changes the data order of every saved run.
    const FROZEN: [usize; 8] = [2, 1, 4, 7, 6, 3, 5, 0];

    #[test]
    fn small_bounds_are_uniform() {
        let mut random = Random::new(7, Stream::Sample);
        let mut counts = [0; 3];
        (0..30_000).for_each(|_| counts[random.below(3) as usize] += 1);
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
    }
}
