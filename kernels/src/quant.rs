//! Weights in few bits, in the formats of bitsandbytes: 4-bit levels in blocks with a scale (NF4 and FP4 of QLoRA,
//! Dettmers et al., arXiv:2305.14314), scales that are quantised again, and 8-bit rows (LLM.int8(), arXiv:2208.07339,
//! without the columns it holds back).
//!
//! The scalar types are chosen so that a checkpoint of bitsandbytes can be read, and one that it reads can be written.
//! Tests hold every code and every value against it, bit for bit (`tests/peers/quant_golden.py`).

use std::sync::OnceLock;

use crate::parallel::{Shared, TASK, for_each_range};

/// Weights that share a scale.
pub const FOUR_BIT_BLOCK: usize = 64;
/// Scales that share a scale of their own.
pub const NESTED_BLOCK: usize = 256;

/// Smallest scale that is divided by: a block of zeros has no other.
const SMALLEST: f32 = 1e-38;

/// What the sixteen 4-bit codes mean, in units of a block's greatest size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FourBit {
    /// Quantiles of a normal distribution, with an exact zero.
    Nf4,
    /// A float of a sign, two bits of exponent and one of fraction; codes 0 and 8 are both zero.
    Fp4,
}

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

const FP4: [f32; 16] = [
    0.0,
    0.062_5 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    0.5,
    2.0 / 12.0,
    0.25,
    0.0,
    -0.062_5 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -0.5,
    -2.0 / 12.0,
    -0.25,
];

impl FourBit {
    /// The value of each code.
    pub fn levels(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// The codes by ascending value.
    fn order(self) -> &'static [u8; 16] {
        match self {
            Self::Nf4 => &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            Self::Fp4 => &[11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
        }
    }

    /// The midpoints between neighbouring levels. A number on one belongs to the lower level.
    fn bounds(self) -> [f32; 15] {
        let (levels, order) = (self.levels(), self.order());
        std::array::from_fn(|i| (levels[order[i] as usize] + levels[order[i + 1] as usize]) / 2.0)
    }
}

/// The greatest size; NaN if there is one.
fn greatest(x: &[f32]) -> f32 {
    // Without the sign, floats are ordered as their bits, and NaN is above infinity.
    f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0))
}

/// Codes of `w`, two in a byte with the first in the high half, and the greatest size of each block of
/// [`FOUR_BIT_BLOCK`]. A last, lone code has a zero beside it.
///
/// # Panics
/// When `codes` has not half of `w`'s length, rounded up, or `absmax` not one number for each block.
pub fn quantize_4bit(kind: FourBit, w: &[f32], codes: &mut [u8], absmax: &mut [f32]) {
    assert_eq!(codes.len(), w.len().div_ceil(2), "quantize_4bit: codes has another length");
    assert_eq!(absmax.len(), w.len().div_ceil(FOUR_BIT_BLOCK), "quantize_4bit: absmax has another length");
    let (order, bounds) = (kind.order(), kind.bounds());
    let (blocks, length) = (absmax.len(), codes.len());
    let (codes, absmax) = (Shared::new(codes), Shared::new(absmax));
    for_each_range(blocks, TASK / FOUR_BIT_BLOCK, |range| {
        let bytes = range.start * FOUR_BIT_BLOCK / 2..(range.end * FOUR_BIT_BLOCK / 2).min(length);
        // SAFETY: ranges of different tasks do not overlap, and neither do their blocks' bytes.
        let (codes, absmax) = unsafe { (codes.part(bytes), absmax.part(range.clone())) };
        let w = &w[range.start * FOUR_BIT_BLOCK..(range.end * FOUR_BIT_BLOCK).min(w.len())];
        for ((w, codes), absmax) in
            w.chunks(FOUR_BIT_BLOCK).zip(codes.chunks_mut(FOUR_BIT_BLOCK / 2)).zip(absmax.iter_mut())
        {
            *absmax = greatest(w);
            let inverse = 1.0 / absmax.max(SMALLEST);
            let code = |x: f32| order[bounds.iter().filter(|bound| x * inverse > **bound).count()];
            for (pair, byte) in w.chunks(2).zip(codes) {
                *byte = code(pair[0]) << 4 | code(pair.get(1).copied().unwrap_or(0.0));
            }
        }
    });
}

/// The inverse of [`quantize_4bit`]: each code's level times its block's scale.
///
/// # Panics
/// When lengths do not fit.
pub fn dequantize_4bit(kind: FourBit, codes: &[u8], absmax: &[f32], out: &mut [f32]) {
    assert_eq!(codes.len(), out.len().div_ceil(2), "dequantize_4bit: codes has another length");
    assert_eq!(absmax.len(), out.len().div_ceil(FOUR_BIT_BLOCK), "dequantize_4bit: absmax has another length");
    let levels = kind.levels();
    let length = out.len();
    let out = Shared::new(out);
    for_each_range(length, TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        let part = unsafe { out.part(range.clone()) };
        for (out, i) in part.iter_mut().zip(range) {
            let code = if i % 2 == 0 { codes[i / 2] >> 4 } else { codes[i / 2] & 15 };
            *out = levels[code as usize] * absmax[i / FOUR_BIT_BLOCK];
        }
    });
}

/// The 256 levels of scales that are quantised again: a sign, as many bits of exponent as there are leading zeros, the rest
/// a linear fraction (Dettmers, arXiv:1511.04561); ascending.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut levels = vec![0.0f32, 1.0];
        for exponent in 0..7u32 {
            let items = 1usize << exponent;
            let boundary = |i: usize| {
                // From both ends to the middle, as torch.linspace rounds.
                let step = (1.0f32 - 0.1) / items as f32;
                if i < items.div_ceil(2) {
                    step.mul_add(i as f32, 0.1)
                } else {
                    (-step).mul_add((items - i) as f32, 1.0)
                }
            };
            let size = 10f64.powi(exponent as i32 - 6) as f32;
            for i in 0..items {
                let level = size * ((boundary(i) + boundary(i + 1)) / 2.0);
                levels.extend([level, -level]);
            }
        }
        levels.sort_by(f32::total_cmp);
        std::array::from_fn(|i| levels[i])
    })
}

/// Quantises scales again: their mean, which is given back, is taken away, and what is left becomes codes of
/// [`dynamic_map`] in units of the greatest size of each block of [`NESTED_BLOCK`].
///
/// # Panics
/// When `codes` has another length than `absmax`, or `nested` not one number for each block.
pub fn quantize_absmax(absmax: &[f32], codes: &mut [u8], nested: &mut [f32]) -> f32 {
    let sum: f64 = absmax.iter().map(|x| f64::from(*x)).sum();
    let offset = (sum / absmax.len().max(1) as f64) as f32;
    quantize_around(offset, absmax, codes, nested);
    offset
}

fn quantize_around(offset: f32, absmax: &[f32], codes: &mut [u8], nested: &mut [f32]) {
    assert_eq!(codes.len(), absmax.len(), "quantize_absmax: codes has another length");
    assert_eq!(nested.len(), absmax.len().div_ceil(NESTED_BLOCK), "quantize_absmax: nested has another length");
    let map = dynamic_map();
    let bounds: [f32; 255] = std::array::from_fn(|i| (map[i] + map[i + 1]) / 2.0);
    for ((absmax, codes), nested) in
        absmax.chunks(NESTED_BLOCK).zip(codes.chunks_mut(NESTED_BLOCK)).zip(nested.iter_mut())
    {
        let centred: Vec<f32> = absmax.iter().map(|x| x - offset).collect();
        *nested = greatest(&centred);
        let inverse = 1.0 / nested.max(SMALLEST);
        for (x, code) in centred.iter().zip(codes) {
            *code = bounds.partition_point(|bound| x * inverse > *bound) as u8;
        }
    }
}

/// The inverse of [`quantize_absmax`]. `map` is [`dynamic_map`], or the one a checkpoint brings.
///
/// # Panics
/// When lengths do not fit.
pub fn dequantize_absmax(codes: &[u8], nested: &[f32], map: &[f32; 256], offset: f32, absmax: &mut [f32]) {
    assert_eq!(codes.len(), absmax.len(), "dequantize_absmax: codes has another length");
    assert_eq!(nested.len(), absmax.len().div_ceil(NESTED_BLOCK), "dequantize_absmax: nested has another length");
    for (i, (absmax, code)) in absmax.iter_mut().zip(codes).enumerate() {
        *absmax = map[*code as usize] * nested[i / NESTED_BLOCK] + offset;
    }
}

/// Rows of `width` weights as 8-bit integers from -127 to 127 in units of 1/127 of the row's greatest size.
///
/// # Panics
/// When `codes` has another length than `w`, or `absmax` not one number for each row.
pub fn quantize_int8(w: &[f32], width: usize, codes: &mut [i8], absmax: &mut [f32]) {
    assert_eq!(codes.len(), w.len(), "quantize_int8: codes has another length");
    assert_eq!(absmax.len() * width, w.len(), "quantize_int8: absmax has another length");
    if width == 0 {
        return;
    }
    for ((w, codes), absmax) in w.chunks(width).zip(codes.chunks_mut(width)).zip(absmax.iter_mut()) {
        *absmax = greatest(w);
        let units = if *absmax > 0.0 { 127.0 / *absmax } else { 0.0 };
        for (x, code) in w.iter().zip(codes) {
            *code = (x * units).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }
}

/// One 127th, as bitsandbytes rounds it.
const INT8_UNIT: f32 = 7.874_016e-3;

/// The inverse of [`quantize_int8`].
///
/// # Panics
/// When lengths do not fit.
pub fn dequantize_int8(codes: &[i8], absmax: &[f32], width: usize, out: &mut [f32]) {
    assert_eq!(codes.len(), out.len(), "dequantize_int8: out has another length");
    assert_eq!(absmax.len() * width, codes.len(), "dequantize_int8: absmax has another length");
    if width == 0 {
        return;
    }
    for ((codes, absmax), out) in codes.chunks(width).zip(absmax).zip(out.chunks_mut(width)) {
        for (code, out) in codes.iter().zip(out) {
            *out = f32::from(*code) * absmax * INT8_UNIT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    const GOLDEN: &str = include_str!("../tests/data/nf4.json");
    const BLOCKS: usize = 300;

    fn field(name: &str) -> &'static str {
        let start = GOLDEN.find(&format!("\"{name}\": ")).expect(name) + name.len() + 4;
        let rest = &GOLDEN[start + 1..];
        &rest[..rest.find(['"', ']']).expect(name)]
    }

    fn floats(name: &str) -> Vec<u32> {
        field(name).split(',').map(|x| x.trim().parse().expect(name)).collect()
    }

    fn bytes(name: &str) -> Vec<u8> {
        let text = field(name).as_bytes();
        text.chunks(2).map(|x| u8::from_str_radix(str::from_utf8(x).expect(name), 16).expect(name)).collect()
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    /// The script's `weights`.
    fn weights() -> Vec<f32> {
        let count = BLOCKS * FOUR_BIT_BLOCK;
        let mut w: Vec<f32> = random(count, 1).iter().zip(random(count, 2)).map(|(a, b)| a * b * 0.05).collect();
        w[3 * FOUR_BIT_BLOCK..4 * FOUR_BIT_BLOCK].fill(0.0);
        w[5 * FOUR_BIT_BLOCK..][..15].copy_from_slice(&FourBit::Nf4.bounds());
        w[5 * FOUR_BIT_BLOCK + 15] = 1.0;
        w[7 * FOUR_BIT_BLOCK..8 * FOUR_BIT_BLOCK].iter_mut().for_each(|x| *x *= 1e-30);
        w
    }

    fn four_bit(kind: FourBit, w: &[f32]) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
        let mut codes = vec![0; w.len().div_ceil(2)];
        let mut absmax = vec![f32::NAN; w.len().div_ceil(FOUR_BIT_BLOCK)];
        let mut values = vec![f32::NAN; w.len()];
        quantize_4bit(kind, w, &mut codes, &mut absmax);
        dequantize_4bit(kind, &codes, &absmax, &mut values);
        (codes, absmax, values)
    }

    #[test]
    fn levels_are_those_of_bitsandbytes() {
        assert_eq!(bits(FourBit::Nf4.levels()), floats("nf4_levels"));
        assert_eq!(bits(FourBit::Fp4.levels()), floats("fp4_levels"));
        assert_eq!(bits(dynamic_map()), floats("dynamic_map"));
    }

    #[test]
    fn four_bit_codes_are_those_of_bitsandbytes() {
        let w = weights();
        let (codes, absmax, values) = four_bit(FourBit::Nf4, &w);
        assert_eq!(codes, bytes("codes"));
        assert_eq!(bits(&absmax), floats("absmax"));
        assert_eq!(bits(&values[..128]), floats("first_values"));
        // A last block that is not full, and an odd number of weights.
        let (codes, absmax, _) = four_bit(FourBit::Nf4, &w[..2 * FOUR_BIT_BLOCK + 37]);
        assert_eq!(codes, bytes("tail_codes"));
        assert_eq!(bits(&absmax), floats("tail_absmax"));
        let (codes, _, values) = four_bit(FourBit::Fp4, &w[..64 * FOUR_BIT_BLOCK]);
        assert_eq!(codes, bytes("fp4_codes"));
        assert_eq!(bits(&values[..128]), floats("fp4_first_values"));
    }

    #[test]
    fn nested_scales_are_those_of_bitsandbytes() {
        let absmax: Vec<f32> = floats("absmax").into_iter().map(f32::from_bits).collect();
        let mut codes = vec![0; BLOCKS];
        let mut nested = vec![f32::NAN; BLOCKS.div_ceil(NESTED_BLOCK)];
        let theirs = f32::from_bits(floats("offset")[0]);
        let offset = quantize_absmax(&absmax, &mut codes, &mut nested);
        // The mean's rounding depends on the order of the sum.
        assert!((offset - theirs).abs() <= 2.0 * f32::EPSILON * theirs, "{offset}, not {theirs}");
        quantize_around(theirs, &absmax, &mut codes, &mut nested);
        assert_eq!(codes, bytes("nested_codes"));
        assert_eq!(bits(&nested), floats("nested_absmax"));
        let mut scales = vec![f32::NAN; BLOCKS];
        dequantize_absmax(&codes, &nested, dynamic_map(), theirs, &mut scales);
        assert_eq!(bits(&scales), floats("scales"));
    }

    #[test]
    fn eight_bit_rows_are_those_of_bitsandbytes() {
        let w = &weights()[..8 * 96];
        let mut codes = vec![0; w.len()];
        let mut absmax = vec![f32::NAN; 8];
        let mut values = vec![f32::NAN; w.len()];
        quantize_int8(w, 96, &mut codes, &mut absmax);
        dequantize_int8(&codes, &absmax, 96, &mut values);
        assert_eq!(codes.iter().map(|x| *x as u8).collect::<Vec<_>>(), bytes("int8_codes"));
        assert_eq!(bits(&absmax), floats("int8_absmax"));
        assert_eq!(bits(&values[..96]), floats("int8_first_values"));
    }

    #[test]
    fn values_are_near_the_weights() {
        let w = random(70_001, 3);
        for (kind, bound) in [(FourBit::Nf4, 0.16), (FourBit::Fp4, 0.17)] {
            let (_, _, values) = four_bit(kind, &w);
            for (i, (w, value)) in w.iter().zip(&values).enumerate() {
                assert!((w - value).abs() <= bound, "{kind:?}: {i} is {value}, was {w}");
            }
        }
    }

    #[test]
    fn numbers_that_are_none_stay_visible() {
        let mut w = vec![1.0; 130];
        w[70] = f32::NAN;
        let (_, absmax, values) = four_bit(FourBit::Nf4, &w);
        assert!(absmax[1].is_nan() && values[64..128].iter().all(|x| x.is_nan()));
        assert!(values[..64].iter().chain(&values[128..]).all(|x| *x == 1.0));
        let (mut codes, mut absmax, mut values) = (vec![0; 130], vec![0.0; 2], vec![0.0; 130]);
        quantize_int8(&w, 65, &mut codes, &mut absmax);
        dequantize_int8(&codes, &absmax, 65, &mut values);
        assert!(values[..65].iter().all(|x| *x == 1.0) && values[65..].iter().all(|x| x.is_nan()));
    }
}
