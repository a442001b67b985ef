//! A learner of a few numbers: a bigram table with dropout, exact gradients and AdamW. Threads can be its ranks.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod recipe;

use std::{
    borrow::Cow,
    sync::{Arc, Barrier, Mutex},
};

use swift_train::learner::{Batch, BoxError, Learner, LossSums, Moments, Trainable};

pub(crate) const NAME: &str = "table.weight";
/// A token whose loss is not a number.
pub(crate) const POISON: u32 = 9999;
/// With this seed nothing is dropped.
pub(crate) const SEED_WITHOUT_DROPOUT: u64 = 0xd00d;

/// Sums over threads, added in the order of their ranks.
pub(crate) struct Exchange {
    barrier: Barrier,
    given: Mutex<Vec<Vec<f64>>>,
}

impl Exchange {
    pub(crate) fn new(ranks: usize) -> Arc<Self> {
        Arc::new(Self { barrier: Barrier::new(ranks), given: Mutex::new(vec![Vec::new(); ranks]) })
    }

    fn sum(&self, rank: usize, sums: &mut [f64]) {
        self.given.lock().unwrap()[rank] = sums.to_vec();
        self.barrier.wait();
        let given = self.given.lock().unwrap().clone();
        // Nobody may give the next numbers before everybody has read these.
        self.barrier.wait();
        assert!(given.iter().all(|numbers| numbers.len() == sums.len()), "ranks are in different sums");
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = given.iter().map(|numbers| numbers[i]).sum();
        }
    }
}

pub(crate) struct Bigram {
    size: usize,
    table: Vec<f32>,
    /// In f64, so that the order in which micro-batches are added shows in no f32.
    gradient: Vec<f64>,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: u64,
    dropout_off: Vec<u64>,
    exchange: Option<(usize, Arc<Exchange>)>,
}

impl Bigram {
    /// One of several ranks.
    pub(crate) fn of_ranks(size: usize, rank: usize, exchange: Arc<Exchange>) -> Self {
        Self { exchange: Some((rank, exchange)), ..Self::new(size) }
    }

    pub(crate) fn new(size: usize) -> Self {
        let table: Vec<f32> = (0..size * size).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect();
        let zero = vec![0.0; table.len()];
        // Keys of the first steps of the seed that switches dropout off.
        let keys = (1..200).flat_map(|s| (0..8).map(move |m| (s, m)));
        let dropout_off = keys.map(|(s, m)| swift_train::batching::dropout_key(SEED_WITHOUT_DROPOUT, s, m)).collect();
        let gradient = vec![0.0; table.len()];
        Self { size, table, gradient, first: zero.clone(), second: zero, steps: 0, dropout_off, exchange: None }
    }

    fn run(&mut self, batch: &Batch, backward: Option<(f32, u64)>) -> LossSums {
        let mut sums = LossSums::default();
        for (row, (&token, &target)) in batch.tokens.iter().zip(&batch.targets).enumerate() {
            let weight = batch.weights[row];
            if weight == 0.0 {
                continue;
            }
            if token == POISON || target == POISON {
                sums.loss = f64::NAN;
                continue;
            }
            let start = token as usize * self.size;
            let logits = &self.table[start..start + self.size];
            let top = logits.iter().copied().fold(f32::MIN, f32::max);
            let total: f32 = logits.iter().map(|l| (l - top).exp()).sum();
            sums.loss += f64::from(weight * (total.ln() + top - logits[target as usize]));
            sums.weight += f64::from(weight);
            sums.counted += 1;
            sums.correct += u64::from(logits[target as usize] == top);
            let Some((scale, key)) = backward else { continue };
            // Dropout of the row's gradient by a hash of (key, row).
            let hash = (key ^ row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
            if hash == 0 && !self.dropout_off.contains(&key) {
                continue;
            }
            let exponentials: Vec<f32> = logits.iter().map(|l| (l - top).exp() / total).collect();
            for (column, probability) in exponentials.into_iter().enumerate() {
                let hit = f32::from(u8::from(column == target as usize));
                self.gradient[start + column] += f64::from(scale * weight * (probability - hit));
            }
        }
        sums
    }
}

impl Learner for Bigram {
    fn accumulate(&mut self, batch: &Batch, scale: f32, dropout_key: u64) -> Result<LossSums, BoxError> {
        Ok(self.run(batch, Some((scale, dropout_key))))
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<LossSums, BoxError> {
        Ok(self.run(batch, None))
    }

    fn sum_over_ranks(&mut self, sums: &mut [f64]) -> Result<(), BoxError> {
        if let Some((rank, exchange)) = &self.exchange {
            exchange.sum(*rank, sums);
        }
        Ok(())
    }

    fn step(&mut self, learning_rate: f64, max_grad_norm: Option<f64>) -> Result<f64, BoxError> {
        if let Some((rank, exchange)) = &self.exchange {
            exchange.sum(*rank, &mut self.gradient);
        }
        let norm = self.gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let clip = max_grad_norm.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0));
        self.steps += 1;
        let correction = |beta: f32| 1.0 - beta.powi(self.steps as i32);
        let (correct_first, correct_second) = (correction(0.9), correction(0.95));
        for i in 0..self.table.len() {
            let g = (self.gradient[i] * clip) as f32;
            self.first[i] = 0.9 * self.first[i] + 0.1 * g;
            self.second[i] = 0.95 * self.second[i] + 0.05 * g * g;
            let update = self.first[i] / correct_first / ((self.second[i] / correct_second).sqrt() + 1e-8);
            self.table[i] -= learning_rate as f32 * (update + 0.1 * self.table[i]);
            self.gradient[i] = 0.0;
        }
        Ok(norm)
    }

    fn trainable(&self) -> Vec<Trainable> {
        vec![Trainable { name: NAME.into(), shape: vec![self.size, self.size] }]
    }

    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        (name == NAME).then(|| self.table.as_slice().into())
    }

    fn set_values(&mut self, name: &str, values: &[f32]) -> Result<(), BoxError> {
        if name != NAME || values.len() != self.table.len() {
            return Err(format!("no tensor `{name}` of {} values", values.len()).into());
        }
        self.table.copy_from_slice(values);
        Ok(())
    }

    fn optimizer_state(&self) -> Result<(u64, Vec<Moments<'_>>), BoxError> {
        Ok((self.steps, vec![(NAME.into(), self.first.as_slice().into(), self.second.as_slice().into())]))
    }

    fn set_optimizer_state(&mut self, steps: u64, moments: &[(String, Vec<f32>, Vec<f32>)]) -> Result<(), BoxError> {
        self.steps = steps;
        self.first.clone_from(&moments[0].1);
        self.second.clone_from(&moments[0].2);
        Ok(())
    }
}
