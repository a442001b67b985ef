//! Dropout whose mask is a pure function of a key and the element's index: the backward pass and a recomputation draw
//! the same mask without storing it.

use crate::parallel::{Shared, TASK, for_each_range};
use crate::simd::dispatch;

/// `out = x / (1 - probability)` where kept, else 0. The same call with the output's gradient as `x` is the gradient.
/// Use another `key` for each layer, step and tensor.
pub fn dropout(x: &[f32], probability: f32, key: u64, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "dropout: lengths differ");
    assert!((0.0..=1.0).contains(&probability), "dropout: {probability} is no probability");
    if probability == 0.0 {
        out.copy_from_slice(x);
        return;
    }
    if probability == 1.0 {
        out.fill(0.0);
        return;
    }
    let threshold = (f64::from(probability) * 4_294_967_296.0) as u32;
    let scale = 1.0 / (1.0 - probability);
    let shared = Shared::new(out);
    for_each_range(x.len(), TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        let out = unsafe { shared.part(range.clone()) };
        // The task's own stream: 2^32 elements and more stay distinct, and the loop stays in 32 bits.
        let stream = mix64(key ^ mix64((range.start / TASK) as u64 + 1));
        drop_range(&x[range], threshold, scale, stream as u32, (stream >> 32) as u32, out);
    });
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014).
fn mix64(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A 32-bit mixer of low bias (C. Wellons' hash prospector).
#[inline(always)]
fn mix(x: u32) -> u32 {
    let x = (x ^ x >> 16).wrapping_mul(0x21f0_aaad);
    let x = (x ^ x >> 15).wrapping_mul(0xd35a_2d97);
    x ^ x >> 15
}

dispatch! {
    fn drop_range[](x: &[f32], threshold: u32, scale: f32, first: u32, second: u32, out: &mut [f32]) {
        for (index, (x, out)) in x.iter().zip(out).enumerate() {
            let random = mix(mix(index as u32 ^ first).wrapping_add(second));
            *out = if random >= threshold { x * scale } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_same_bits, random};

    #[test]
    fn the_mask_depends_on_key_and_index_alone() {
        let x = vec![1.0; 100_003];
        let mut out = vec![0.0; x.len()];
        let mut other = vec![0.0; x.len()];
        for probability in [0.05f32, 0.1, 0.5, 0.9] {
            dropout(&x, probability, 7, &mut out);
            let kept = out.iter().filter(|x| **x != 0.0).count() as f64 / x.len() as f64;
            // Five standard deviations.
            let deviation = (f64::from(probability) * (1.0 - f64::from(probability)) / x.len() as f64).sqrt();
            assert!((kept - 1.0 + f64::from(probability)).abs() < 5.0 * deviation, "{kept} kept of {probability}");
            let scaled = 1.0 / (1.0 - probability);
            assert!(out.iter().all(|x| *x == 0.0 || *x == scaled));

            // Another key gives an independent mask: both keep with the square of the probability.
            dropout(&x, probability, 8, &mut other);
            let both = out.iter().zip(&other).filter(|(a, b)| **a != 0.0 && **b != 0.0).count() as f64;
            let expected = (1.0 - f64::from(probability)).powi(2);
            assert!((both / x.len() as f64 - expected).abs() < 0.01);
            // So do neighbours and elements of neighbouring tasks.
            for distance in [1, TASK] {
                let both = out.iter().zip(&out[distance..]).filter(|(a, b)| **a != 0.0 && **b != 0.0).count();
                assert!((both as f64 / (x.len() - distance) as f64 - expected).abs() < 0.01);
            }
            // A gradient of other numbers meets the same mask, and a shorter slice is a prefix.
            let dy = random(x.len(), 3);
            dropout(&dy, probability, 7, &mut other);
            assert!(out.iter().zip(&other).all(|(a, b)| (*a == 0.0) == (*b == 0.0)));
            let mut short = vec![0.0; 50_000];
            dropout(&x[..50_000], probability, 7, &mut short);
            assert_eq!(short, out[..50_000]);
        }
        assert_same_bits("dropout", || {
            let mut out = vec![0.0; x.len()];
            dropout(&x, 0.3, 1, &mut out);
            out
        });
    }

    #[test]
    fn the_ends_of_the_range() {
        let x = [1.0, 2.0];
        let mut out = [f32::NAN; 2];
        dropout(&x, 0.0, 1, &mut out);
        assert_eq!(out, x);
        dropout(&x, 1.0, 1, &mut out);
        assert_eq!(out, [0.0; 2]);
    }
}
