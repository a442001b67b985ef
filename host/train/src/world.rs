//! Several processes on one job: who does what, and sums over all of them.
//!
//! Every rank plans the whole step and does its part of it, so nothing is sent but sums. All sums have one form, so that a
//! rank that fails can tell the others in whichever sum they come to next, and none waits for it.

use sha2::{Digest, Sha256};

use crate::{error::TrainError, learner::Learner};

/// This process among those that train one model together. Rank 0 alone writes files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    pub rank: usize,
    pub size: usize,
}

impl Default for World {
    /// One process.
    fn default() -> Self {
        Self { rank: 0, size: 1 }
    }
}

impl World {
    /// Whether this rank writes files and reports.
    pub fn leads(self) -> bool {
        self.rank == 0
    }

    /// Those of `items` that are this rank's when they are dealt round robin, with their places among all of them.
    pub fn share<T>(self, items: impl IntoIterator<Item = T>) -> impl Iterator<Item = (usize, T)> {
        items.into_iter().enumerate().skip(self.rank).step_by(self.size)
    }
}

/// How many numbers go into a sum.
const WIDTH: usize = 8;

/// The sums of a recipe over all ranks.
pub(crate) struct Together {
    world: World,
    /// Whether the next thing that all ranks do is one of these sums: not inside the optimizer's step, which has its own.
    pub(crate) reachable: bool,
}

impl Together {
    pub(crate) fn new(world: World) -> Self {
        Self { world, reachable: true }
    }

    /// Sums numbers over all ranks.
    pub(crate) fn sum<const N: usize>(
        &mut self,
        learner: &mut dyn Learner,
        numbers: [f64; N],
    ) -> Result<[f64; N], TrainError> {
        const { assert!(N <= WIDTH) };
        let mut all = vec![0.0; WIDTH + self.world.size];
        all[..N].copy_from_slice(&numbers);
        self.exchange(learner, &mut all)?;
        let failed: Vec<usize> = (0..self.world.size).filter(|rank| all[WIDTH + rank] != 0.0).collect();
        if !failed.is_empty() {
            // They all know now.
            self.reachable = false;
            return Err(TrainError::OtherRanks { ranks: failed });
        }
        Ok(std::array::from_fn(|i| all[i]))
    }

    /// Waits until all ranks are here.
    pub(crate) fn meet(&mut self, learner: &mut dyn Learner) -> Result<(), TrainError> {
        self.sum(learner, []).map(|[]| ())
    }

    /// Checks that all ranks are about to do the same.
    pub(crate) fn agree(&mut self, learner: &mut dyn Learner, plan: &str) -> Result<(), TrainError> {
        let digest = Sha256::digest(plan.as_bytes());
        // Whole numbers below 2^32: their sums are exact.
        let own = f64::from(u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]));
        let [sum] = self.sum(learner, [own])?;
        // Unless all are equal one of them differs from the mean. It knows, and the others hear it from that rank.
        if sum != own * self.world.size as f64 {
            return Err(TrainError::Disagreement { rank: self.world.rank });
        }
        self.meet(learner)
    }

    /// Tells the other ranks that this one failed.
    pub(crate) fn tell(&mut self, learner: &mut dyn Learner) {
        if self.reachable {
            let mut all = vec![0.0; WIDTH + self.world.size];
            all[WIDTH + self.world.rank] = 1.0;
            // The failure itself is what matters here; ranks that do not hear of it run into their timeout.
            let _ = self.exchange(learner, &mut all);
        }
    }

    fn exchange(&mut self, learner: &mut dyn Learner, all: &mut [f64]) -> Result<(), TrainError> {
        learner.sum_over_ranks(all).map_err(|source| {
            self.reachable = false;
            TrainError::Ranks { source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dealing_gives_each_item_to_one_rank() {
        let dealt: Vec<Vec<(usize, char)>> =
            (0..3).map(|rank| World { rank, size: 3 }.share("abcde".chars()).collect()).collect();
        assert_eq!(dealt, [vec![(0, 'a'), (3, 'd')], vec![(1, 'b'), (4, 'e')], vec![(2, 'c')]]);
        assert_eq!(World::default().share("ab".chars()).collect::<Vec<_>>(), [(0, 'a'), (1, 'b')]);
    }
}
