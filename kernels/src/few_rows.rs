//! The product of few rows with a weight in its stored type, as in decoding: bound by reading the weight once.

use half::bf16;

use crate::parallel::{Shared, TASK, for_each_range, scratch};
use crate::simd::{dispatch, dot, fma, reduce};
use crate::weight::Weight;

/// Up to so many rows a product reads the stored weight directly.
pub(crate) const FEW_ROWS: usize = 7;

/// The product of few rows: each task reads some rows of the weight once, in the order of memory.
pub(crate) fn few_rows(
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight,
    n: usize,
    bias: Option<&[f32]>,
    alpha: f32,
    beta: f32,
    out: &mut [f32],
) {
    let shared = Shared::new(out);
    let pairs = if matches!(w, Weight::Bf16(_)) { split_pairs(x, k) } else { Vec::new() };
    for_each_range(n, (2 * TASK / k.max(1)).max(8), |features| {
        let mut widened = scratch(if matches!(w, Weight::F16(_)) { BLOCK * k } else { 0 });
        let mut products = [0f32; BLOCK * FEW_ROWS];
        for first in features.clone().step_by(BLOCK) {
            let block = first..(first + BLOCK).min(features.end);
            let range = block.start * k..block.end * k;
            match w {
                Weight::F32(w) => dot_rows(x, k, &w[range], m, &mut products),
                Weight::Bf16(w) => dot_rows_bf16(&pairs, k, &w[range], m, &mut products),
                Weight::F16(_) => {
                    let widened = &mut widened[..range.len()];
                    w.slice(range).widen(widened);
                    dot_rows(x, k, widened, m, &mut products);
                }
            }
            for row in 0..m {
                // SAFETY: tasks own disjoint ranges of features, thus disjoint columns of each row.
                let out = unsafe { shared.part(row * n + block.start..row * n + block.end) };
                for (index, out) in out.iter_mut().enumerate() {
                    let old = if beta == 0.0 { 0.0 } else { beta * *out };
                    let bias = bias.map_or(0.0, |bias| bias[block.start + index]);
                    *out = alpha * products[index * m + row] + old + bias;
                }
            }
        }
    });
}

/// Rows of the weight that [`few_rows`] widens at a time; they stay in the first-level cache.
const BLOCK: usize = 4;

dispatch! {
    /// `out[j, row] = x[row, k] . w[j, k]` for as many rows as `w` has.
    fn dot_rows[](x: &[f32], k: usize, w: &[f32], m: usize, out: &mut [f32]) {
        if k == 0 {
            out.fill(0.0);
            return;
        }
        for (w, out) in w.chunks_exact(k).zip(out.chunks_exact_mut(m)) {
            for (x, out) in x.chunks_exact(k).zip(out) {
                *out = dot::<FMA>(x, w);
            }
        }
    }
}

/// Each row's elements of even index, then those of odd index, then the last one of an odd width: what
/// [`dot_rows_bf16`] multiplies the low and the high halves of 32-bit words by.
fn split_pairs(x: &[f32], k: usize) -> Vec<f32> {
    let mut split = Vec::with_capacity(x.len());
    for row in x.chunks_exact(k.max(1)) {
        let (pairs, rest) = row.as_chunks::<2>();
        split.extend(pairs.iter().map(|pair| pair[0]));
        split.extend(pairs.iter().map(|pair| pair[1]));
        split.extend(rest);
    }
    split
}

dispatch! {
    /// [`dot_rows`] for bf16, whose pairs widen without moving between lanes: a shift gives the first of a word, a mask
    /// the second.
    fn dot_rows_bf16[](pairs: &[f32], k: usize, w: &[bf16], m: usize, out: &mut [f32]) {
        const WORDS: usize = 16;
        if k == 0 {
            out.fill(0.0);
            return;
        }
        for (w, out) in w.chunks_exact(k).zip(out.chunks_exact_mut(m)) {
            let (words, _) = bytemuck::cast_slice::<bf16, u8>(w).as_chunks::<4>();
            let (word_blocks, word_rest) = words.as_chunks::<WORDS>();
            for (x, out) in pairs.chunks_exact(k).zip(out) {
                let (first, x) = x.split_at(k / 2);
                let (second, last) = x.split_at(k / 2);
                let (first_blocks, first_rest) = first.as_chunks::<WORDS>();
                let (second_blocks, second_rest) = second.as_chunks::<WORDS>();
                let mut firsts = [0f32; WORDS];
                let mut seconds = [0f32; WORDS];
                for ((words, first), second) in word_blocks.iter().zip(first_blocks).zip(second_blocks) {
                    for lane in 0..WORDS {
                        let low = f32::from_bits(u32::from_le_bytes(words[lane]) << 16);
                        firsts[lane] = fma::<FMA>(low, first[lane], firsts[lane]);
                    }
                    for lane in 0..WORDS {
                        let high = f32::from_bits(u32::from_le_bytes(words[lane]) & 0xffff_0000);
                        seconds[lane] = fma::<FMA>(high, second[lane], seconds[lane]);
                    }
                }
                for (lane, word) in word_rest.iter().enumerate() {
                    let word = u32::from_le_bytes(*word);
                    firsts[lane] = fma::<FMA>(f32::from_bits(word << 16), first_rest[lane], firsts[lane]);
                    seconds[lane] = fma::<FMA>(f32::from_bits(word & 0xffff_0000), second_rest[lane], seconds[lane]);
                }
                let rest = last.first().map_or(0.0, |x| x * w[k - 1].to_f32());
                *out = reduce(firsts) + reduce(seconds) + rest;
            }
        }
    }
}
