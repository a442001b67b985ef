//! Attention forward: whole sequences, and new queries against a cache.

use std::ops::Range;

use rayon::prelude::*;

use super::{AttentionMask, AttentionShape, Sequence, TILE, softmax_step, within};
use crate::matmul::{View, product};
use crate::parallel::{Scratch, Shared, for_each_range, scratch};

/// Attention of each sequence with itself. `q[rows, heads, head_dim]`, `k[rows, kv_heads, head_dim]`,
/// `v[rows, kv_heads, value_dim]`; the rows are the sequences' rows end to end. Writes `out[rows, heads, value_dim]` and
/// `logsumexp[rows, heads]`, the logarithm of the softmax's denominator, which [`super::attention_grad`] needs. A query
/// that sees no key gives zeros.
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    sequence_lengths: &[u32],
    shape: &AttentionShape,
    mask: AttentionMask,
    out: &mut [f32],
    logsumexp: &mut [f32],
) {
    shape.check("attention");
    let rows: usize = sequence_lengths.iter().map(|length| *length as usize).sum();
    assert_eq!(q.len(), rows * shape.heads * shape.head_dim, "attention: q is not [rows, heads, head_dim]");
    assert_eq!(k.len(), rows * shape.kv_heads * shape.head_dim, "attention: k is not [rows, kv_heads, head_dim]");
    assert_eq!(v.len(), rows * shape.kv_heads * shape.value_dim, "attention: v is not [rows, kv_heads, value_dim]");
    assert_eq!(out.len(), rows * shape.heads * shape.value_dim, "attention: out is not [rows, heads, value_dim]");
    assert_eq!(logsumexp.len(), rows * shape.heads, "attention: logsumexp is not [rows, heads]");

    let block = shape.queries_per_block();
    let mut tasks = Vec::new();
    let mut start = 0;
    for length in sequence_lengths {
        let length = *length as usize;
        for first in (0..length).step_by(block) {
            for kv_head in 0..shape.kv_heads {
                tasks.push((start, length, first..(first + block).min(length), kv_head));
            }
        }
        start += length;
    }
    let (out, logsumexp) = (Shared::new(out), Shared::new(logsumexp));
    for_each_range(tasks.len(), 1, |range| {
        for (start, length, queries, kv_head) in tasks[range].iter().cloned() {
            let sequence = sequence_of(q, k, v, start, length, shape, mask);
            let keys = sequence.visible_to_any(queries.clone());
            let block = attend(&sequence, kv_head, queries.clone(), keys);
            let count = queries.len();
            for (index, values) in block.values.chunks_exact(shape.value_dim).take(block.rows).enumerate() {
                let head = kv_head * shape.group() + index / count;
                let row = (start + queries.start + index % count) * shape.heads + head;
                // SAFETY: each (row, head) belongs to one task.
                let (out, logsumexp) = unsafe {
                    (out.part(row * shape.value_dim..(row + 1) * shape.value_dim), logsumexp.part(row..row + 1))
                };
                let (maximum, sum) = block.statistics(index);
                normalise(values, sum, out);
                logsumexp[0] = if sum > 0.0 { maximum + sum.ln() } else { f32::NEG_INFINITY };
            }
        }
    });
}

/// The operands of the sequence whose rows start at `start`.
pub(super) fn sequence_of<'a>(
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    start: usize,
    length: usize,
    shape: &'a AttentionShape,
    mask: AttentionMask,
) -> Sequence<'a> {
    let part = |width: usize| start * width..(start + length) * width;
    Sequence {
        shape,
        mask,
        queries: &q[part(shape.heads * shape.head_dim)],
        keys: &k[part(shape.kv_heads * shape.head_dim)],
        values: &v[part(shape.kv_heads * shape.value_dim)],
        length,
        offset: 0,
    }
}

/// Keys of one task when few queries meet a long cache.
const SPLIT: usize = 1024;

/// Attention of the newest rows of one sequence with all of it: a chunk of a prompt, or one token. `q[n, heads, head_dim]`
/// are the last n positions; `keys[len, kv_heads, head_dim]` and `values[len, kv_heads, value_dim]` hold the whole
/// sequence including them. Writes `out[n, heads, value_dim]`.
pub fn attention_cached(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    shape: &AttentionShape,
    mask: AttentionMask,
    out: &mut [f32],
) {
    shape.check("attention_cached");
    let new = q.len() / (shape.heads * shape.head_dim);
    let length = keys.len() / (shape.kv_heads * shape.head_dim);
    assert_eq!(q.len(), new * shape.heads * shape.head_dim, "attention_cached: q is not [n, heads, head_dim]");
    assert_eq!(
        keys.len(),
        length * shape.kv_heads * shape.head_dim,
        "attention_cached: keys are not [len, kv_heads, head_dim]"
    );
    assert_eq!(
        values.len(),
        length * shape.kv_heads * shape.value_dim,
        "attention_cached: values are not [len, kv_heads, value_dim]"
    );
    assert_eq!(out.len(), new * shape.heads * shape.value_dim, "attention_cached: out is not [n, heads, value_dim]");
    assert!(new <= length, "attention_cached: more queries than keys");

    let sequence = Sequence { shape, mask, queries: q, keys, values, length, offset: length - new };
    let block = shape.queries_per_block();
    // Long caches are split only where query blocks alone make few tasks.
    let may_split = new <= 2 * block;
    let mut tasks = Vec::new();
    for first in (0..new).step_by(block) {
        let queries = first..(first + block).min(new);
        let visible = sequence.visible_to_any(queries.clone());
        let size = if may_split { SPLIT } else { visible.len().max(1) };
        for kv_head in 0..shape.kv_heads {
            let splits: Vec<Range<usize>> = (visible.start..visible.end.max(visible.start + 1))
                .step_by(size)
                .map(|start| start..(start + size).min(visible.end))
                .collect();
            tasks.push((queries.clone(), kv_head, splits));
        }
    }
    let out = Shared::new(out);
    let run = |(queries, kv_head, splits): &(Range<usize>, usize, Vec<Range<usize>>)| {
        let attend = |keys: &Range<usize>| attend(&sequence, *kv_head, queries.clone(), keys.clone());
        let mut parts: Vec<Block> = if splits.len() == 1 {
            splits.iter().map(attend).collect()
        } else {
            splits.par_iter().map(attend).collect()
        };
        let (first, others) = parts.split_first_mut().expect("there is at least one split");
        let count = queries.len();
        for index in 0..first.rows {
            for other in &*others {
                first.merge(other, index, shape.value_dim);
            }
            let head = kv_head * shape.group() + index / count;
            let row = (queries.start + index % count) * shape.heads + head;
            // SAFETY: each (row, head) belongs to one task.
            let out = unsafe { out.part(row * shape.value_dim..(row + 1) * shape.value_dim) };
            let values = &first.values[index * shape.value_dim..(index + 1) * shape.value_dim];
            normalise(values, first.statistics(index).1, out);
        }
    };
    // A short cache is less work than waking the pool.
    if new * length * shape.heads * (shape.head_dim + shape.value_dim) < 1 << 18 {
        tasks.iter().for_each(run);
    } else {
        tasks.par_iter().for_each(run);
    }
}

fn normalise(values: &[f32], sum: f32, out: &mut [f32]) {
    let scale = if sum > 0.0 { 1.0 / sum } else { 0.0 };
    for (out, value) in out.iter_mut().zip(values) {
        *out = value * scale;
    }
}

/// What a block of stacked query rows has gathered: values not yet divided by the sum, with each row's maximum and sum.
struct Block {
    rows: usize,
    values: Scratch,
    /// Per row the running maximum, then per row the running sum.
    running: Scratch,
}

impl Block {
    /// Maximum and sum of a row.
    fn statistics(&self, row: usize) -> (f32, f32) {
        (self.running[row], self.running[self.rows + row])
    }

    /// Adds what `other` gathered over other keys, for one row.
    fn merge(&mut self, other: &Block, row: usize, dim: usize) {
        let (maximum, sum) = self.statistics(row);
        let (other_maximum, other_sum) = other.statistics(row);
        if other_sum == 0.0 {
            return;
        }
        let greatest = maximum.max(other_maximum);
        let (mine, theirs) = ((maximum - greatest).exp(), (other_maximum - greatest).exp());
        let range = row * dim..(row + 1) * dim;
        for (value, other) in self.values[range.clone()].iter_mut().zip(&other.values[range]) {
            *value = *value * mine + other * theirs;
        }
        self.running[row] = greatest;
        self.running[self.rows + row] = sum * mine + other_sum * theirs;
    }
}

/// Attends from some queries of the heads that share `kv_head` to `keys`.
fn attend(sequence: &Sequence, kv_head: usize, queries: Range<usize>, keys: Range<usize>) -> Block {
    let shape = sequence.shape;
    let (dim, value_dim) = (shape.head_dim, shape.value_dim);
    let count = queries.len();
    let rows = shape.group() * count;
    let mut stacked = scratch(rows * dim);
    sequence.stack_queries(kv_head, queries.clone(), &mut stacked);
    let mut block = Block { rows, values: scratch(rows * value_dim), running: scratch(2 * rows) };
    block.running[..rows].fill(f32::NEG_INFINITY);
    block.running[rows..].fill(0.0);
    if keys.is_empty() {
        block.values.fill(0.0);
        return block;
    }
    let mut scores = scratch(rows * TILE);
    let (maxima, sums) = block.running.split_at_mut(rows);
    for first in keys.clone().step_by(TILE) {
        let tile = first..(first + TILE).min(keys.end);
        let width = tile.len();
        let scores = &mut scores[..rows * width];
        let key = sequence.key_rows(kv_head, tile.clone());
        let key = View::transposed(key.data, key.row);
        product(rows, dim, width, View::rows(&stacked, dim), key, 1.0, 0.0, scores, width, false);
        for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
            let visible = within(&sequence.visible(queries.start + row % count), &tile);
            let shrink = softmax_step(scores, visible, shape.soft_cap, &mut maxima[row], &mut sums[row]);
            if shrink != 1.0 && first > keys.start {
                block.values[row * value_dim..(row + 1) * value_dim].iter_mut().for_each(|value| *value *= shrink);
            }
        }
        let beta = if first == keys.start { 0.0 } else { 1.0 };
        let value = sequence.value_rows(kv_head, tile);
        let values = &mut block.values;
        product(rows, width, value_dim, View::rows(scores, width), value, 1.0, beta, values, value_dim, false);
    }
    block
}
