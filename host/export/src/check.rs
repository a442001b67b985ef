//! Whether a merged folder, read back, is the adapted model.
//!
//! Each matrix is compared by itself, within what rounding to its storage type allows: that bound is sharp, but knows
//! no graph. The logits of whole sequences are compared too: that sees names, ties and configuration, but for half
//! types only a loose bound holds, since every layer adds its rounding.

use std::sync::Arc;

use serde::Serialize;
use swift_engine::{Batch, InferSession, Placement};
use swift_graph::{Graph, StorageType, checkpoint::WeightSource};

use crate::error::ExportError;

/// Lengths of the sequences whose logits are compared.
const LENGTHS: [usize; 3] = [5, 17, 33];

/// Comparison of merged matrices.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MatrixCheck {
    pub matrices: usize,
    /// Largest difference found, as a share of what rounding allows; at most 1.
    pub worst_share_of_rounding: f64,
    pub worst_matrix: String,
}

/// Comparison of logits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogitCheck {
    pub sequences: Vec<Vec<u32>>,
    /// Norm of the difference over the norm of the unmerged logits, of the worst sequence.
    pub max_relative_difference: f64,
    pub bound: f64,
}

/// Half the distance from 1 to the next number: the largest relative error of rounding.
pub(crate) fn roundoff(dtype: StorageType) -> f64 {
    match dtype {
        StorageType::Bf16 => 2f64.powi(-8),
        StorageType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-24),
    }
}

/// How far the logits of a model stored in this type may be away.
fn logit_bound(dtype: StorageType) -> f64 {
    match dtype {
        StorageType::Bf16 => 5e-2,
        StorageType::F16 => 1e-2,
        _ => 1e-4,
    }
}

/// One adapted matrix: base `[out, in]`, A `[rank, in]`, B `[out, rank]`.
pub(crate) struct AdaptedMatrix<'a> {
    pub(crate) base: &'a [f32],
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    pub(crate) scale: f64,
    pub(crate) columns: usize,
}

impl MatrixCheck {
    /// Compares `merged`, as read back, on a fixed vector x: `base·x + scale * B·(A·x)` against `merged·x`, in f64.
    pub(crate) fn add(
        &mut self,
        name: &str,
        matrix: &AdaptedMatrix<'_>,
        merged: &[f32],
        dtype: StorageType,
    ) -> Result<(), ExportError> {
        let mut random = Random(0x5eed);
        let x: Vec<f64> = (0..matrix.columns).map(|_| random.next() as f64 / u64::MAX as f64 - 0.5).collect();
        let dot = |row: &[f32]| row.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
        let low: Vec<f64> = matrix.a.chunks_exact(matrix.columns).map(dot).collect();
        // Numbers too small for f16 round to multiples of 2^-24.
        let tiny = if dtype == StorageType::F16 { 2f64.powi(-25) } else { 0.0 };
        let rows = matrix.base.chunks_exact(matrix.columns).zip(merged.chunks_exact(matrix.columns));
        for ((base, merged), b) in rows.zip(matrix.b.chunks_exact(low.len())) {
            let wanted = dot(base) + matrix.scale * b.iter().zip(&low).map(|(&b, low)| f64::from(b) * low).sum::<f64>();
            let allowed: f64 = merged
                .iter()
                .zip(&x)
                .map(|(&w, x)| (f64::from(w).abs() * (1.02 * roundoff(dtype) + 2f64.powi(-22)) + tiny) * x.abs())
                .sum::<f64>()
                + 1e-30;
            let share = (dot(merged) - wanted).abs() / allowed;
            if share > self.worst_share_of_rounding || share.is_nan() {
                self.worst_share_of_rounding = share;
                self.worst_matrix = name.to_owned();
            }
            if share > 1.0 || share.is_nan() {
                return Err(ExportError::Check {
                    what: format!("`{name}` (in shares of its rounding)"),
                    found: share,
                    bound: 1.0,
                });
            }
        }
        self.matrices += 1;
        Ok(())
    }
}

impl LogitCheck {
    /// Runs fixed sequences through the adapted graph and through the merged model.
    pub(crate) fn run(
        adapted: Graph,
        values: &[(String, Vec<f32>)],
        base: Arc<dyn WeightSource>,
        merged: (Graph, Arc<dyn WeightSource>),
        max_length: Option<usize>,
        dtype: StorageType,
        placement: &Placement,
    ) -> Result<Self, ExportError> {
        let mut unmerged = InferSession::new(adapted, base, placement)?;
        for (name, values) in values {
            unmerged.set_values(name, values)?;
        }
        let mut merged = InferSession::new(merged.0, merged.1, placement)?;
        let mut random = Random(0x10617);
        let mut check = Self { sequences: Vec::new(), max_relative_difference: 0.0, bound: logit_bound(dtype) };
        for length in LENGTHS.map(|length| length.min(max_length.unwrap_or(length))) {
            let sequence: Vec<u32> =
                (0..length).map(|_| (random.next() % unmerged.vocabulary() as u64) as u32).collect();
            let batch = Batch::of_sequences(&[&sequence]);
            let difference = relative_difference(&unmerged.logits(&batch)?, &merged.logits(&batch)?);
            check.sequences.push(sequence);
            if difference > check.bound || difference.is_nan() {
                return Err(ExportError::Check { what: "the logits".into(), found: difference, bound: check.bound });
            }
            check.max_relative_difference = check.max_relative_difference.max(difference);
        }
        Ok(check)
    }
}

/// Norm of the difference over the norm of `wanted`; infinite when the sizes differ.
fn relative_difference(wanted: &[f32], found: &[f32]) -> f64 {
    if wanted.len() != found.len() {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let difference: f64 = wanted.iter().zip(found).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let norm: f64 = wanted.iter().map(|&a| square(f64::from(a))).sum();
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

/// splitmix64: the same sequences and vectors on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_that_is_not_merged_right_is_found() {
        let (base, a, b) = ([1.0, 2.0, 3.0, 4.0], [0.5, -0.25], [0.125, -1.0]);
        let matrix = AdaptedMatrix { base: &base, a: &a, b: &b, scale: 2.0, columns: 2 };
        let merged = [1.125, 1.9375, 2.0, 4.5];
        let mut check = MatrixCheck::default();
        check.add("m", &matrix, &merged, StorageType::F32).unwrap();
        assert_eq!(check.matrices, 1);
        // One rounding step of bf16 off is fine for bf16 and not for f32.
        let near = [1.125 * (1.0 + 2f32.powi(-9)), 1.9375, 2.0, 4.5];
        check.add("m", &matrix, &near, StorageType::Bf16).unwrap();
        assert!(check.add("m", &matrix, &near, StorageType::F32).is_err());
        for wrong in [base, [1.0625, 1.96875, 2.5, 4.25], [f32::NAN, 0.0, 0.0, 0.0]] {
            assert!(check.add("m", &matrix, &wrong, StorageType::Bf16).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn differences_are_relative_to_the_norm() {
        assert_eq!(relative_difference(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert!((relative_difference(&[3.0, 4.0], &[3.0, 4.5]) - 0.1).abs() < 1e-12);
        assert!(relative_difference(&[1.0], &[f32::NAN]).is_nan());
        assert_eq!(relative_difference(&[1.0], &[]), f64::INFINITY);
    }
}
