//! Attention backward: scores are computed again tile by tile (Dao et al., arXiv:2205.14135, algorithm 4).

use std::ops::Range;

use super::forward::sequence_of;
use super::{AttentionMask, AttentionShape, TILE, stack, within};
use crate::matmul::{View, product};
use crate::parallel::{Shared, for_each_range, rows_per_task, scratch};
use crate::simd::{dispatch, dot, exp, tanh};

/// At most so many tasks share a sequence's keys; each beyond the first keeps its own partial `dq`.
const MOST_SPLITS: usize = 4;

/// One task: the gradients of some keys of one key-value head, and their part of the queries' gradients.
struct Task {
    start: usize,
    length: usize,
    kv_head: usize,
    split: usize,
    keys: Range<usize>,
}

/// Keys of one split of a sequence; a multiple of the tile.
fn split_size(length: usize) -> usize {
    length.div_ceil(MOST_SPLITS).next_multiple_of(TILE).max(2 * TILE)
}

/// Gradients of [`super::attention`], from its `out` and `logsumexp`. Shapes as there; `dq`, `dk` and `dv` are
/// overwritten. The order of every sum depends on the sequence lengths alone.
pub fn attention_grad(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    logsumexp: &[f32],
    dout: &[f32],
    sequence_lengths: &[u32],
    shape: &AttentionShape,
    mask: AttentionMask,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    shape.check("attention_grad");
    let rows: usize = sequence_lengths.iter().map(|length| *length as usize).sum();
    let query_width = shape.heads * shape.head_dim;
    assert_eq!(q.len(), rows * query_width, "attention_grad: q is not [rows, heads, head_dim]");
    assert_eq!(k.len(), rows * shape.kv_heads * shape.head_dim, "attention_grad: k is not [rows, kv_heads, head_dim]");
    assert_eq!(
        v.len(),
        rows * shape.kv_heads * shape.value_dim,
        "attention_grad: v is not [rows, kv_heads, value_dim]"
    );
    assert_eq!(out.len(), rows * shape.heads * shape.value_dim, "attention_grad: out is not [rows, heads, value_dim]");
    assert_eq!(dout.len(), out.len(), "attention_grad: dout is not [rows, heads, value_dim]");
    assert_eq!(logsumexp.len(), rows * shape.heads, "attention_grad: logsumexp is not [rows, heads]");
    assert_eq!(
        (dq.len(), dk.len(), dv.len()),
        (q.len(), k.len(), v.len()),
        "attention_grad: an output's length is wrong"
    );

    // The softmax's gradient needs sum_j p_j dp_j, which is out . dout.
    let mut delta = scratch(rows * shape.heads);
    {
        let shared = Shared::new(&mut delta);
        let dim = shape.value_dim;
        for_each_range(rows * shape.heads, rows_per_task(dim), |range| {
            // SAFETY: ranges of different tasks do not overlap.
            let delta = unsafe { shared.part(range.clone()) };
            let range = range.start * dim..range.end * dim;
            row_dots(&out[range.clone()], &dout[range], dim, delta);
        });
    }

    let mut tasks = Vec::new();
    let mut most = 1;
    let mut start = 0;
    for length in sequence_lengths {
        let length = *length as usize;
        for (split, first) in (0..length).step_by(split_size(length)).enumerate() {
            most = most.max(split + 1);
            for kv_head in 0..shape.kv_heads {
                tasks.push(Task {
                    start,
                    length,
                    kv_head,
                    split,
                    keys: first..(first + split_size(length)).min(length),
                });
            }
        }
        start += length;
    }
    let mut partial = scratch((most - 1) * dq.len());
    let query_elements = dq.len();
    {
        let dq = Shared::new(dq);
        let (dk, dv) = (Shared::new(dk), Shared::new(dv));
        let partial = Shared::new(&mut partial);
        for_each_range(tasks.len(), 1, |range| {
            for task in &tasks[range] {
                let write = |row: usize, head: usize, gradient: &[f32]| {
                    let at = (row * shape.heads + head) * shape.head_dim;
                    let range = at..at + shape.head_dim;
                    // SAFETY: each (row, head, split) belongs to one task.
                    let to = unsafe {
                        match task.split {
                            0 => dq.part(range),
                            split => {
                                let base = (split - 1) * query_elements;
                                partial.part(base + range.start..base + range.end)
                            }
                        }
                    };
                    to.copy_from_slice(gradient);
                };
                let sequence = sequence_of(q, k, v, task.start, task.length, shape, mask);
                let rows = task.start..task.start + task.length;
                let part = |width: usize| rows.start * width..rows.end * width;
                let saved = Saved {
                    logsumexp: &logsumexp[part(shape.heads)],
                    delta: &delta[part(shape.heads)],
                    dout: &dout[part(shape.heads * shape.value_dim)],
                };
                let (dkey, dvalue) = gradients(&sequence, &saved, task, write);
                for (index, key) in task.keys.clone().enumerate() {
                    let row = (task.start + key) * shape.kv_heads + task.kv_head;
                    let (dim, value_dim) = (shape.head_dim, shape.value_dim);
                    // SAFETY: each (key, key-value head) belongs to one task.
                    let (dk, dv) = unsafe {
                        (dk.part(row * dim..(row + 1) * dim), dv.part(row * value_dim..(row + 1) * value_dim))
                    };
                    dk.copy_from_slice(&dkey[index * dim..(index + 1) * dim]);
                    dv.copy_from_slice(&dvalue[index * value_dim..(index + 1) * value_dim]);
                }
            }
        });
    }

    // Partial gradients are added in the order of the splits.
    let mut start = 0;
    for length in sequence_lengths {
        let length = *length as usize;
        let range = start * query_width..(start + length) * query_width;
        for split in 1..length.div_ceil(split_size(length)).max(1) {
            let base = (split - 1) * query_elements;
            crate::add_assign(&mut dq[range.clone()], &partial[base + range.start..base + range.end]);
        }
        start += length;
    }
}

/// What the forward pass left of one sequence.
struct Saved<'a> {
    logsumexp: &'a [f32],
    delta: &'a [f32],
    dout: &'a [f32],
}

/// Gradients of the task's keys and values; `write(row, head, gradient)` takes its part of each query's gradient.
fn gradients(
    sequence: &super::Sequence,
    saved: &Saved,
    task: &Task,
    write: impl Fn(usize, usize, &[f32]),
) -> (crate::parallel::Scratch, crate::parallel::Scratch) {
    let shape = sequence.shape;
    let (dim, value_dim, group) = (shape.head_dim, shape.value_dim, shape.group());
    let block = shape.queries_per_block();
    let most = group * block;
    let mut dkey = scratch(task.keys.len() * dim);
    let mut dvalue = scratch(task.keys.len() * value_dim);
    dkey.fill(0.0);
    dvalue.fill(0.0);
    let mut stacked_queries = scratch(most * dim);
    let mut stacked_dout = scratch(most * value_dim);
    let mut dquery = scratch(most * dim);
    let mut scores = scratch(most * TILE);
    let mut dscores = scratch(most * TILE);
    for first in (0..task.length).step_by(block) {
        let queries = first..(first + block).min(task.length);
        let count = queries.len();
        let rows = group * count;
        let first_head = task.kv_head * group;
        let visible = sequence.visible_to_any(queries.clone());
        let keys = visible.start.max(task.keys.start)..visible.end.min(task.keys.end);
        let dquery = &mut dquery[..rows * dim];
        if keys.start >= keys.end {
            dquery.fill(0.0);
        } else {
            let stacked_queries = &mut stacked_queries[..rows * dim];
            sequence.stack_queries(task.kv_head, queries.clone(), stacked_queries);
            let stacked_dout = &mut stacked_dout[..rows * value_dim];
            stack(saved.dout, shape.heads, value_dim, first_head, queries.clone(), 1.0, stacked_dout);
            for start in keys.clone().step_by(TILE) {
                let tile = start..(start + TILE).min(keys.end);
                let width = tile.len();
                let (scores, dscores) = (&mut scores[..rows * width], &mut dscores[..rows * width]);
                let key = sequence.key_rows(task.kv_head, tile.clone());
                let value = sequence.value_rows(task.kv_head, tile.clone());
                let (queries_view, dout_view) = (View::rows(stacked_queries, dim), View::rows(stacked_dout, value_dim));
                let key_transposed = View::transposed(key.data, key.row);
                let value_transposed = View::transposed(value.data, value.row);
                product(rows, dim, width, queries_view, key_transposed, 1.0, 0.0, scores, width, false);
                product(rows, value_dim, width, dout_view, value_transposed, 1.0, 0.0, dscores, width, false);
                for (row, (p, dp)) in scores.chunks_exact_mut(width).zip(dscores.chunks_exact_mut(width)).enumerate() {
                    let query = queries.start + row % count;
                    let statistic = query * shape.heads + first_head + row / count;
                    let visible = within(&sequence.visible(query), &tile);
                    softmax_backward(
                        p,
                        dp,
                        visible,
                        shape.soft_cap,
                        saved.logsumexp[statistic],
                        saved.delta[statistic],
                    );
                }
                let at = tile.start - task.keys.start;
                let (dkey, dvalue) = (&mut dkey[at * dim..], &mut dvalue[at * value_dim..]);
                let (p_transposed, dp_transposed) = (View::transposed(scores, width), View::transposed(dscores, width));
                product(width, rows, value_dim, p_transposed, dout_view, 1.0, 1.0, dvalue, value_dim, false);
                // The stacked queries carry the scale already.
                product(width, rows, dim, dp_transposed, queries_view, 1.0, 1.0, dkey, dim, false);
                let beta = if start == keys.start { 0.0 } else { 1.0 };
                product(rows, width, dim, View::rows(dscores, width), key, shape.scale, beta, dquery, dim, false);
            }
        }
        for (index, gradient) in dquery.chunks_exact(dim).enumerate() {
            write(task.start + queries.start + index % count, first_head + index / count, gradient);
        }
    }
    (dkey, dvalue)
}

dispatch! {
    fn row_dots[](a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
        for ((a, b), out) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(out) {
            *out = dot::<FMA>(a, b);
        }
    }
}

dispatch! {
    /// Scores become probabilities and the probabilities' gradients the scores' gradients, zero where not visible.
    fn softmax_backward[](
        p: &mut [f32],
        dp: &mut [f32],
        visible: Range<usize>,
        soft_cap: Option<f32>,
        logsumexp: f32,
        delta: f32,
    ) {
        p[..visible.start].fill(0.0);
        p[visible.end..].fill(0.0);
        dp[..visible.start].fill(0.0);
        dp[visible.end..].fill(0.0);
        let (p, dp) = (&mut p[visible.clone()], &mut dp[visible]);
        if let Some(cap) = soft_cap {
            for (p, dp) in p.iter_mut().zip(dp) {
                let capped = tanh::<FMA>(*p / cap);
                *p = exp::<FMA>(cap * capped - logsumexp);
                *dp = *p * (*dp - delta) * (1.0 - capped * capped);
            }
        } else {
            for (p, dp) in p.iter_mut().zip(dp) {
                *p = exp::<FMA>(*p - logsumexp);
                *dp = *p * (*dp - delta);
            }
        }
    }
}
