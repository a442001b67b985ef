//! Rows of a table by number, and the gradient of the table.

use rayon::prelude::*;

use crate::parallel::{Shared, for_each_range, rows_per_task};
use crate::simd::dispatch;
use crate::weight::Weight;

/// `out[i] = table[ids[i]]`; `table` is `[vocabulary, width]`, `out` `[ids, width]`.
///
/// # Panics
/// If an id is outside of the table.
pub fn embed(ids: &[u32], table: Weight, width: usize, out: &mut [f32]) {
    assert_eq!(out.len(), ids.len() * width, "embed: out is not [ids, width]");
    let shared = Shared::new(out);
    for_each_range(ids.len(), rows_per_task(width), |range| {
        for row in range {
            let id = ids[row] as usize;
            assert!((id + 1) * width <= table.len(), "embed: id {id} is outside of the table");
            // SAFETY: each row belongs to one task.
            let out = unsafe { shared.part(row * width..(row + 1) * width) };
            table.slice(id * width..(id + 1) * width).widen(out);
        }
    });
}

/// `dtable[ids[i]] += dy[i]`, for each id in the order of the rows.
///
/// # Panics
/// If an id is outside of the table.
pub fn embed_grad(ids: &[u32], dy: &[f32], width: usize, dtable: &mut [f32]) {
    assert_eq!(dy.len(), ids.len() * width, "embed_grad: dy is not [ids, width]");
    let mut order: Vec<(u32, usize)> = ids.iter().copied().zip(0..).collect();
    order.sort_unstable();
    let groups: Vec<&[(u32, usize)]> = order.chunk_by(|a, b| a.0 == b.0).collect();
    let shared = Shared::new(dtable);
    groups.par_iter().with_min_len(rows_per_task(width)).for_each(|group| {
        let id = group[0].0 as usize;
        // SAFETY: each id belongs to one group.
        let dtable = unsafe { shared.part(id * width..(id + 1) * width) };
        for (_, row) in *group {
            add(dtable, &dy[row * width..(row + 1) * width]);
        }
    });
}

dispatch! {
    fn add[](sum: &mut [f32], part: &[f32]) {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, assert_close, assert_same_bits, random, wide};

    #[test]
    fn rows_and_the_tables_gradient() {
        for (vocabulary, width, count) in [(1, 1, 1), (5, 7, 20), (40, 33, 1000)] {
            let ids: Vec<u32> = (0..count).map(|i| (i * i + 3) % vocabulary).collect();
            let stored = Stored::new(vocabulary as usize * width, 1);
            for table in stored.all() {
                let numbers = table.to_vec();
                let mut out = vec![f32::NAN; ids.len() * width];
                embed(&ids, table, width, &mut out);
                for (id, row) in ids.iter().zip(out.chunks(width)) {
                    assert_eq!(row, &numbers[*id as usize * width..][..width]);
                }
            }
            let dy = random(ids.len() * width, 2);
            let mut expected = vec![0.25; vocabulary as usize * width];
            for (id, dy) in ids.iter().zip(wide(&dy).chunks(width)) {
                for (i, dy) in dy.iter().enumerate() {
                    expected[*id as usize * width + i] += dy;
                }
            }
            let run = || {
                let mut dtable = vec![0.25; vocabulary as usize * width];
                embed_grad(&ids, &dy, width, &mut dtable);
                dtable
            };
            // Up to a thousand sequential additions to one row.
            assert_close(&run(), &expected, 1e-5, "embed_grad");
            assert_same_bits("embed_grad", run);
        }
    }

    #[test]
    #[should_panic(expected = "id 5 is outside of the table")]
    fn an_unknown_id_is_refused() {
        embed(&[5], Weight::F32(&[0.0; 10]), 2, &mut [0.0; 2]);
    }
}
