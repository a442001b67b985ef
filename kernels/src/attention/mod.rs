//! Scaled dot-product attention over sequences of different lengths, with grouped key-value heads.
//!
//! Online softmax over tiles (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135): memory is
//! linear in the rows, never rows x rows. The query heads that share a key-value head are stacked into one tile, so the
//! tile products are large enough for the matmul library whatever the grouping.

mod backward;
mod forward;

use std::ops::Range;

pub use backward::attention_grad;
pub use forward::{attention, attention_cached};

use crate::simd::{dispatch, exp, max_of, maximum, sum_of, tanh};

/// Sizes of an attention. `heads` is a multiple of `kv_heads`; query head h reads key-value head h / (heads / kv_heads).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    /// Width of a query and of a key.
    pub head_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
}

/// Which keys a query sees, inside its own sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Every key.
    All,
    /// Key j from query i if `j <= i`.
    Causal,
    /// Key j from query i if `i - left <= j <= i + right`.
    Window { left: u32, right: u32 },
}

impl AttentionMask {
    /// The visible ones of `keys` keys from the query at `position`.
    fn visible(self, position: usize, keys: usize) -> Range<usize> {
        let (low, high) = match self {
            AttentionMask::All => (0, keys),
            AttentionMask::Causal => (0, position + 1),
            AttentionMask::Window { left, right } => {
                (position.saturating_sub(left as usize), position.saturating_add(right as usize).saturating_add(1))
            }
        };
        low.min(keys)..high.min(keys)
    }
}

impl AttentionShape {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Queries of a block: stacked over the group's heads they make a tile of at most about 192 rows.
    fn queries_per_block(&self) -> usize {
        (192 / self.group() / 8 * 8).clamp(8, 64)
    }

    fn check(&self, name: &str) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{name}: {} heads are no multiple of {} key-value heads",
            self.heads,
            self.kv_heads
        );
    }
}

/// Keys of a tile: with 192 stacked rows the scores take 96 KiB, which stay in the second-level cache.
const TILE: usize = 128;

/// One sequence's operands; position 0 of the queries is position `offset` of the keys.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    shape: &'a AttentionShape,
    mask: AttentionMask,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    length: usize,
    offset: usize,
}

impl<'a> Sequence<'a> {
    fn visible(&self, query: usize) -> Range<usize> {
        self.mask.visible(self.offset + query, self.length)
    }

    /// The keys that any of the queries sees.
    fn visible_to_any(&self, queries: Range<usize>) -> Range<usize> {
        if queries.is_empty() {
            return 0..0;
        }
        // Both ends of a mask's range grow with the position.
        self.visible(queries.start).start..self.visible(queries.end - 1).end
    }

    /// Stacks the group's query rows, scaled, head after head: `out[group * queries, head_dim]`.
    fn stack_queries(&self, kv_head: usize, queries: Range<usize>, out: &mut [f32]) {
        let shape = self.shape;
        stack(self.queries, shape.heads, shape.head_dim, kv_head * shape.group(), queries, shape.scale, out);
    }

    fn key_rows(&self, kv_head: usize, keys: Range<usize>) -> crate::matmul::View<'a> {
        let width = self.shape.kv_heads * self.shape.head_dim;
        crate::matmul::View::rows(&self.keys[keys.start * width + kv_head * self.shape.head_dim..], width)
    }

    fn value_rows(&self, kv_head: usize, keys: Range<usize>) -> crate::matmul::View<'a> {
        let width = self.shape.kv_heads * self.shape.value_dim;
        crate::matmul::View::rows(&self.values[keys.start * width + kv_head * self.shape.value_dim..], width)
    }
}

/// Copies rows of several heads, starting at `first_head`, head after head, times `factor`; as many heads as fit `out`.
fn stack(x: &[f32], heads: usize, dim: usize, first_head: usize, rows: Range<usize>, factor: f32, out: &mut [f32]) {
    for (index, out) in out.chunks_exact_mut(dim).enumerate() {
        let head = first_head + index / rows.len();
        let row = rows.start + index % rows.len();
        let start = (row * heads + head) * dim;
        for (out, x) in out.iter_mut().zip(&x[start..start + dim]) {
            *out = x * factor;
        }
    }
}

/// The part of `visible` inside `tile`, counted from the tile's start.
fn within(visible: &Range<usize>, tile: &Range<usize>) -> Range<usize> {
    let low = visible.start.clamp(tile.start, tile.end) - tile.start;
    let high = visible.end.clamp(tile.start, tile.end) - tile.start;
    low..high.max(low)
}

dispatch! {
    /// One row of a tile of scores becomes `e^(score - maximum)`, zero where not visible. Updates the running maximum
    /// and sum, and returns the factor by which what was accumulated before must shrink.
    fn softmax_step[](
        scores: &mut [f32],
        visible: Range<usize>,
        soft_cap: Option<f32>,
        running_maximum: &mut f32,
        running_sum: &mut f32,
    ) -> f32 {
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
        let scores = &mut scores[visible];
        if scores.is_empty() {
            return 1.0;
        }
        if let Some(cap) = soft_cap {
            for score in scores.iter_mut() {
                *score = cap * tanh::<FMA>(*score / cap);
            }
        }
        let greatest = maximum(max_of(scores), *running_maximum);
        let shrink = exp::<FMA>(*running_maximum - greatest);
        for score in scores.iter_mut() {
            *score = exp::<FMA>(*score - greatest);
        }
        *running_maximum = greatest;
        *running_sum = *running_sum * shrink + sum_of(scores);
        shrink
    }
}

#[cfg(test)]
mod tests;
