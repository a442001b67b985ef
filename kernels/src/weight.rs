//! Weights in their stored type. Kernels compute in f32; only the storage differs.

use std::ops::Range;

use half::{bf16, f16};

use crate::parallel::{Shared, TASK, for_each_range};
use crate::simd::dispatch;

/// A weight as it lies in memory, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl<'a> Weight<'a> {
    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            Weight::F32(w) => w.len(),
            Weight::Bf16(w) => w.len(),
            Weight::F16(w) => w.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The elements of `range`.
    pub fn slice(self, range: Range<usize>) -> Weight<'a> {
        match self {
            Weight::F32(w) => Weight::F32(&w[range]),
            Weight::Bf16(w) => Weight::Bf16(&w[range]),
            Weight::F16(w) => Weight::F16(&w[range]),
        }
    }

    /// Writes the elements as f32, exactly. `out` has the same length. Parallel for large weights.
    pub fn to_f32(self, out: &mut [f32]) {
        assert_eq!(self.len(), out.len(), "to_f32: the weight's and the output's lengths differ");
        let length = out.len();
        let shared = Shared::new(out);
        for_each_range(length, 4 * TASK, |range| {
            // SAFETY: ranges of different tasks do not overlap.
            let out = unsafe { shared.part(range.clone()) };
            self.slice(range).widen(out);
        });
    }

    /// [`Weight::to_f32`] on the calling thread alone.
    pub(crate) fn widen(self, out: &mut [f32]) {
        match self {
            Weight::F32(w) => out.copy_from_slice(w),
            Weight::Bf16(w) => widen_bf16(w, out),
            Weight::F16(w) => widen_f16(w, out),
        }
    }

    /// The elements as f32.
    pub fn to_vec(self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.to_f32(&mut out);
        out
    }
}

dispatch! {
    fn widen_bf16[](x: &[bf16], out: &mut [f32]) {
        for (x, out) in x.iter().zip(out) {
            *out = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

dispatch! {
    fn widen_f16[](x: &[f16], out: &mut [f32]) {
        for (x, out) in x.iter().zip(out) {
            let bits = u32::from(x.to_bits());
            // Exponent and fraction at their f32 places, then the exponent's bias corrected by a multiplication, which
            // also normalises denormals. Infinity and NaN keep an exponent of ones.
            let magnitude = (bits & 0x7fff) << 13;
            let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
            let special = magnitude | 0x7f80_0000;
            let value = if magnitude >= 0x7c00 << 13 { special } else { finite };
            *out = f32::from_bits(value | (bits & 0x8000) << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_precision_value_widens_exactly() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        for (half, value) in halves.iter().zip(Weight::F16(&halves).to_vec()) {
            assert!(half.to_f32() == value || (half.is_nan() && value.is_nan()), "{half:?} became {value}");
            assert_eq!(half.is_sign_negative(), value.is_sign_negative());
        }
        for (brain, value) in brains.iter().zip(Weight::Bf16(&brains).to_vec()) {
            assert!(brain.to_f32() == value || (brain.is_nan() && value.is_nan()), "{brain:?} became {value}");
        }
    }
}
