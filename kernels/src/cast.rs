//! Conversion between f32 and the 16-bit types, rounding to nearest even.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::parallel::{Shared, TASK, for_each_range};
use crate::simd::dispatch;
use crate::weight::Weight;

/// f32 to bf16, to nearest even; NaN stays NaN.
pub fn f32_to_bf16(x: &[f32], out: &mut [bf16]) {
    assert_eq!(x.len(), out.len(), "f32_to_bf16: lengths differ");
    let shared = Shared::new(out);
    for_each_range(x.len(), 4 * TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        narrow_bf16(&x[range.clone()], unsafe { shared.part(range) });
    });
}

/// f32 to f16, to nearest even; beyond 65519 in size it becomes infinity.
pub fn f32_to_f16(x: &[f32], out: &mut [f16]) {
    assert_eq!(x.len(), out.len(), "f32_to_f16: lengths differ");
    let shared = Shared::new(out);
    for_each_range(x.len(), 4 * TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        unsafe { shared.part(range.clone()) }.convert_from_f32_slice(&x[range]);
    });
}

/// bf16 to f32, exact.
pub fn bf16_to_f32(x: &[bf16], out: &mut [f32]) {
    Weight::Bf16(x).to_f32(out);
}

/// f16 to f32, exact.
pub fn f16_to_f32(x: &[f16], out: &mut [f32]) {
    Weight::F16(x).to_f32(out);
}

dispatch! {
    fn narrow_bf16[](x: &[f32], out: &mut [bf16]) {
        for (x, out) in x.iter().zip(out) {
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            // Rounding could carry a NaN's fraction away.
            let quiet = bits >> 16 | 0x40;
            let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
            *out = bf16::from_bits((if is_nan { quiet } else { rounded }) as u16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_rounds_to_nearest_even() {
        let mut x: Vec<f32> = (0..200_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))).collect();
        x.extend([
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1.0 + 1.0 / 256.0,
            65_519.9,
            65_520.0,
            f32::MAX,
        ]);
        let mut brains = vec![bf16::ZERO; x.len()];
        let mut halves = vec![f16::ZERO; x.len()];
        f32_to_bf16(&x, &mut brains);
        f32_to_f16(&x, &mut halves);
        for ((x, brain), half) in x.iter().zip(&brains).zip(&halves) {
            if x.is_nan() {
                assert!(brain.is_nan() && half.is_nan());
            } else {
                assert_eq!(brain.to_bits(), bf16::from_f32(*x).to_bits(), "{x}");
                assert_eq!(half.to_bits(), f16::from_f32(*x).to_bits(), "{x}");
            }
        }
        let mut back = vec![0.0; x.len()];
        bf16_to_f32(&brains, &mut back);
        assert_eq!(back[x.len() - 4], 1.0, "a tie goes to the even neighbour");
        f16_to_f32(&halves, &mut back);
        assert_eq!(back[x.len() - 2], f32::INFINITY);
    }
}
