//! Attention over a paged cache on the GPU: against the CPU's cached attention, fused against unfused, and alone against
//! in a batch.

#![allow(clippy::print_stderr, reason = "measurements are printed")]

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::cuda::{
    self, Buffer, Device, Dtype, HeadNorm, PADDING_ROW, PAGE, PagedCache, PagedRows, Rope, Tensor,
};
use swift_kernels::{AttentionMask, AttentionShape};

const CAUSAL: AttentionMask = AttentionMask::Causal;

fn window(left: u32) -> AttentionMask {
    AttentionMask::Window { left, right: 0 }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, value_dim: usize) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { heads, kv_heads, head_dim, value_dim, scale, soft_cap: None }
}

fn tolerance(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => 1e-5,
        Dtype::F16 => 2e-3,
        _ => 8e-3,
    }
}

fn bits(device: &Device, tensor: Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes()];
    device.download(tensor, &mut bytes).unwrap();
    bytes
}

/// The rows of a step on the device.
struct Step {
    row_sequence: Buffer,
    positions: Buffer,
    /// Keeps the table that `rows` names.
    _table: Buffer,
    rows: PagedRows,
}

impl Step {
    fn new(
        device: &Device,
        row_sequence: &[u32],
        positions: &[u32],
        table: &[u32],
        max_pages: usize,
        bound_pages: usize,
        longest_run: usize,
    ) -> Self {
        let [row_sequence, positions, table] = [row_sequence, positions, table].map(|x| device.from_u32(x).unwrap());
        let rows = PagedRows {
            rows: row_sequence.bytes() / 4,
            row_sequence: row_sequence.tensor(Dtype::U32),
            positions: positions.tensor(Dtype::U32),
            block_table: table.tensor(Dtype::U32),
            max_pages,
            bound_pages,
            longest_run,
        };
        Self { row_sequence, positions, _table: table, rows }
    }
}

/// Sequences with `old` tokens in the cache and `new` ones in the step.
struct Case {
    dtype: Dtype,
    shape: AttentionShape,
    mask: AttentionMask,
    lengths: Vec<(usize, usize)>,
    /// Per sequence, all of its keys and values.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    /// Per sequence, the new rows' queries.
    queries: Vec<Vec<f32>>,
    table: Vec<u32>,
    max_pages: usize,
    pages: usize,
}

impl Case {
    fn new(dtype: Dtype, shape: AttentionShape, mask: AttentionMask, lengths: &[(usize, usize)]) -> Self {
        let all = |width: usize, seed: u64, scale: f32, count: fn(&(usize, usize)) -> usize| {
            let numbers = lengths.iter().enumerate();
            numbers
                .map(|(i, n)| round(random(seed + 10 * i as u64, count(n) * width, scale), dtype))
                .collect::<Vec<_>>()
        };
        let max_pages = lengths.iter().map(|(old, new)| (old + new).div_ceil(PAGE)).max().unwrap() + 1;
        // Pages in an order of no sense, and some that nobody has.
        let pages = max_pages * lengths.len() + 3;
        let mut order: Vec<u32> = (0..pages as u32).collect();
        order.sort_by_key(|page| page.wrapping_mul(2_654_435_761).rotate_left(7));
        let mut table = vec![u32::MAX; max_pages * lengths.len()];
        for (row, (old, new)) in table.chunks_exact_mut(max_pages).zip(lengths) {
            row[..(old + new).div_ceil(PAGE)].fill_with(|| order.pop().unwrap());
        }
        Self {
            dtype,
            shape,
            mask,
            lengths: lengths.to_vec(),
            keys: all(shape.kv_heads * shape.head_dim, 1, 1.5, |(old, new)| old + new),
            values: all(shape.kv_heads * shape.value_dim, 2, 1.0, |(old, new)| old + new),
            queries: all(shape.heads * shape.head_dim, 3, 2.0, |(_, new)| *new),
            table,
            max_pages,
            pages,
        }
    }

    fn step(&self, device: &Device, range: fn(usize, usize) -> std::ops::Range<usize>, longest_run: usize) -> Step {
        let (mut row_sequence, mut positions) = (Vec::new(), Vec::new());
        for (i, (old, new)) in self.lengths.iter().enumerate() {
            for position in range(*old, *new) {
                row_sequence.push(i as u32);
                positions.push(position as u32);
            }
        }
        Step::new(device, &row_sequence, &positions, &self.table, self.max_pages, self.max_pages, longest_run)
    }

    fn old(&self, device: &Device) -> Step {
        self.step(device, |old, _| 0..old, 1)
    }

    fn new_rows(&self, device: &Device, longest_run: usize) -> Step {
        self.step(device, |old, new| old..old + new, longest_run)
    }

    /// Rows `range(old, new)` of each sequence's `parts`, end to end.
    fn rows(&self, parts: &[Vec<f32>], range: fn(usize, usize) -> std::ops::Range<usize>) -> Vec<f32> {
        let mut out = Vec::new();
        for (part, (old, new)) in parts.iter().zip(&self.lengths) {
            let width = part.len() / (old + new);
            let range = range(*old, *new);
            out.extend_from_slice(&part[range.start * width..range.end * width]);
        }
        out
    }

    /// A cache whose unused memory is NaN, with the old rows.
    fn cache(&self, device: &Device) -> PagedCache {
        let cache = PagedCache::new(device, self.pages, 64, &self.shape, self.dtype).unwrap();
        let poison = vec![f32::NAN; cache.tensor().elements()];
        device.write_f32(&poison, cache.tensor()).unwrap();
        let old = |parts| device.from_f32(&self.rows(parts, |old, _| 0..old), self.dtype).unwrap();
        let (k, v) = (old(&self.keys), old(&self.values));
        let step = self.old(device);
        if step.rows.rows > 0 {
            cuda::cache_append(device, k.tensor(self.dtype), v.tensor(self.dtype), &cache, &step.rows).unwrap();
        }
        cache
    }

    fn want(&self) -> Vec<f32> {
        let mut want = Vec::new();
        for ((keys, values), q) in self.keys.iter().zip(&self.values).zip(&self.queries) {
            let mut out = vec![f32::NAN; q.len() / self.shape.head_dim * self.shape.value_dim];
            cpu::attention_cached(q, keys, values, &self.shape, self.mask, &mut out);
            want.extend(out);
        }
        want
    }

    /// Runs append and attention and compares with the CPU.
    fn check(&self, device: &Device, longest_run: usize) {
        let dtype = self.dtype;
        let cache = self.cache(device);
        let step = self.new_rows(device, longest_run);
        let new = |parts| device.from_f32(&self.rows(parts, |old, new| old..old + new), dtype).unwrap();
        let (k, v) = (new(&self.keys), new(&self.values));
        let q = device.from_f32(&self.queries.concat(), dtype).unwrap();
        let want = self.want();
        let out = device.from_f32(&vec![f32::NAN; want.len()], dtype).unwrap();
        cuda::cache_append(device, k.tensor(dtype), v.tensor(dtype), &cache, &step.rows).unwrap();
        cuda::paged_attention(device, q.tensor(dtype), &cache, &step.rows, &self.shape, self.mask, out.tensor(dtype))
            .unwrap();
        let got = device.to_f32(out.tensor(dtype)).unwrap();
        let what = format!("{dtype:?} {:?} {:?} lengths {:?} run {longest_run}", self.shape, self.mask, self.lengths);
        // Sequence by sequence, so that a failure says which.
        let mut start = 0;
        for (i, q) in self.queries.iter().enumerate() {
            let end = start + q.len() / self.shape.head_dim * self.shape.value_dim;
            close(&format!("{what}, sequence {i}"), &got[start..end], &want[start..end], tolerance(dtype));
            start = end;
        }
    }
}

/// One new token behind 0, 62, 63, 64 and 999 others.
const LENGTHS: [(usize, usize); 5] = [(0, 1), (62, 1), (63, 1), (64, 1), (999, 1)];

#[test]
fn one_row_of_each_sequence() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (heads, kv_heads, dim) in [(4, 2, 64), (6, 6, 80), (16, 8, 128), (8, 1, 256), (12, 1, 64), (5, 1, 96)] {
            Case::new(dtype, shape(heads, kv_heads, dim, dim), CAUSAL, &LENGTHS).check(&device, 1);
        }
    }
}

#[test]
fn windows_caps_and_odd_widths() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for left in [0, 15, 63, 64, 130, 5000] {
            Case::new(dtype, shape(4, 2, 64, 64), window(left), &LENGTHS).check(&device, 1);
        }
        let capped = AttentionShape { soft_cap: Some(5.0), ..shape(4, 2, 128, 128) };
        Case::new(dtype, capped, CAUSAL, &LENGTHS).check(&device, 1);
        Case::new(dtype, capped, window(100), &LENGTHS).check(&device, 1);
        // Wider and narrower values, half a tensor core's step, no whole packs.
        for (dim, value_dim) in [(192, 128), (64, 256), (72, 40), (24, 8), (33, 65), (1, 3)] {
            Case::new(dtype, shape(4, 2, dim, value_dim), CAUSAL, &LENGTHS).check(&device, 1);
        }
    }
}

#[test]
fn long_sequences() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        // Splits of one, two and eight tiles, and windows that begin within one.
        let lengths = [(4095, 1), (4096, 1), (9000, 1), (20_000, 1)];
        for mask in [CAUSAL, window(4095), window(4096), window(7000)] {
            Case::new(dtype, shape(2, 1, 64, 64), mask, &lengths).check(&device, 1);
        }
        Case::new(dtype, shape(4, 1, 128, 128), CAUSAL, &[(32_767, 1)]).check(&device, 1);
    }
}

#[test]
fn several_rows_of_a_sequence() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (heads, kv_heads, dim) in [(4, 2, 64), (3, 1, 80), (16, 2, 128), (2, 1, 256), (40, 1, 64), (7, 7, 72)] {
            for mask in [CAUSAL, window(20), window(300)] {
                let shape = shape(heads, kv_heads, dim, dim);
                // Short stretches, split over the keys.
                Case::new(dtype, shape, mask, &[(0, 3), (62, 8), (500, 5), (7, 1)]).check(&device, 8);
                // Chunks of a prompt, the first and later ones.
                Case::new(dtype, shape, mask, &[(0, 70), (130, 33), (1000, 64), (5, 1)]).check(&device, 70);
            }
        }
        // A stretch over the place where splits grow.
        Case::new(dtype, shape(2, 2, 64, 64), CAUSAL, &[(4092, 8), (4090, 7)]).check(&device, 8);
        Case::new(dtype, shape(2, 2, 64, 64), window(4096), &[(4092, 8), (4090, 7)]).check(&device, 8);
    }
}

/// A row's bits do not depend on the rows beside it, on the bound, nor on how often the step is run.
#[test]
fn alone_as_in_a_batch() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (mask, longest_run) in [(CAUSAL, 1), (window(200), 1), (CAUSAL, 8), (window(2500), 8), (CAUSAL, 64)] {
            let lengths = match longest_run {
                1 => vec![(999, 1), (0, 1), (64, 1), (3000, 1), (63, 1), (5000, 1)],
                8 => vec![(999, 8), (0, 7), (61, 5), (4090, 8), (2559, 6), (2561, 3)],
                _ => vec![(999, 64), (0, 31), (61, 40), (130, 1)],
            };
            let shape = shape(4, 2, 128, 128);
            let case = Case::new(dtype, shape, mask, &lengths);
            let cache = case.cache(&device);
            let step = case.new_rows(&device, longest_run);
            let new = |parts| device.from_f32(&case.rows(parts, |old, new| old..old + new), dtype).unwrap();
            let (k, v) = (new(&case.keys), new(&case.values));
            cuda::cache_append(&device, k.tensor(dtype), v.tensor(dtype), &cache, &step.rows).unwrap();
            let q = device.from_f32(&case.queries.concat(), dtype).unwrap();
            let (width, value_width) = (shape.heads * shape.head_dim, shape.heads * shape.value_dim);
            let rows = step.rows.rows;
            let out = device.from_f32(&vec![f32::NAN; rows * value_width], dtype).unwrap();
            let attend = |q: Tensor, rows: &PagedRows| {
                let out = out.tensor(dtype).slice(0, rows.rows * value_width);
                cuda::paged_attention(&device, q, &cache, rows, &shape, mask, out).unwrap();
                bits(&device, out)
            };
            let together = attend(q.tensor(dtype), &step.rows);
            assert_eq!(attend(q.tensor(dtype), &step.rows), together, "{dtype:?} {mask:?}: again");
            let row_bytes = value_width * dtype.size();
            for row in 0..rows {
                let at = |x: &Buffer| x.at(row * 4, 1, Dtype::U32);
                let mut position = [0u8; 4];
                device.download(at(&step.positions), &mut position).unwrap();
                let bound_pages = u32::from_le_bytes(position) as usize / PAGE + 1;
                let alone = PagedRows {
                    rows: 1,
                    row_sequence: at(&step.row_sequence),
                    positions: at(&step.positions),
                    bound_pages,
                    ..step.rows
                };
                let got = attend(q.tensor(dtype).slice(row * width, width), &alone);
                let want = &together[row * row_bytes..(row + 1) * row_bytes];
                assert!(got == want, "{dtype:?} {mask:?} run {longest_run}: row {row} differs when alone");
            }
        }
    }
}

/// The decode step in one launch leaves the bits that norm, rope, append and attention leave.
#[test]
fn fused_as_unfused() {
    let Some(device) = device() else { return };
    let shapes = [shape(16, 8, 128, 128), shape(4, 2, 64, 64), shape(3, 1, 80, 80), shape(12, 1, 256, 256)];
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (i, shape) in shapes.into_iter().enumerate() {
            for (norm, rope, interleaved) in
                [(true, 1.0, false), (true, 0.5, true), (false, 1.0, false), (true, 0.0, false)]
            {
                let mask = if i % 2 == 0 { CAUSAL } else { window(150) };
                let case = Case::new(dtype, shape, mask, &[(0, 1), (63, 1), (64, 1), (130, 1), (1000, 1), (4500, 1)]);
                let what = format!("{dtype:?} {shape:?} {mask:?} norm {norm} rope {rope} interleaved {interleaved}");
                fused_case(&device, &case, norm, (shape.head_dim as f32 * rope) as usize / 16 * 16, interleaved, &what);
            }
        }
    }
}

fn fused_case(device: &Device, case: &Case, norm: bool, dims: usize, interleaved: bool, what: &str) {
    let (dtype, shape) = (case.dtype, case.shape);
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let step = case.new_rows(device, 1);
    let rows = step.rows.rows;
    let new = |parts| device.from_f32(&case.rows(parts, |old, new| old..old + new), dtype).unwrap();
    let (k, v) = (new(&case.keys), new(&case.values));
    let q = device.from_f32(&case.queries.concat(), dtype).unwrap();
    let numbers = |seed, n, scale| device.from_f32(&random(seed, n, scale), Dtype::F32).unwrap();
    let (q_weight, k_weight) = (numbers(20, head_dim, 2.0), numbers(21, head_dim, 2.0));
    // Any numbers do as angles' cosines and sines.
    let (cos, sin) = (numbers(22, (rows * dims / 2).max(1), 1.0), numbers(23, (rows * dims / 2).max(1), 1.0));
    let angles = |x: &Buffer| x.at(0, rows * dims / 2, Dtype::F32);
    let (offset, eps) = (0.5, 1e-6);
    let head_norm = |weight: &Buffer| norm.then(|| HeadNorm { weight: weight.tensor(Dtype::F32), offset, eps });
    let rope = (dims > 0).then(|| Rope { dims, interleaved, cos: angles(&cos), sin: angles(&sin) });

    let output = rows * heads * shape.value_dim;
    let results = [true, false].map(|fused| {
        let cache = case.cache(device);
        let out = device.from_f32(&vec![f32::NAN; output], dtype).unwrap();
        let out = out.tensor(dtype);
        let (q, k, v) = (q.tensor(dtype), k.tensor(dtype), v.tensor(dtype));
        if fused {
            let (q_norm, k_norm) = (head_norm(&q_weight), head_norm(&k_weight));
            cuda::decode_attention(device, q, k, v, q_norm, k_norm, rope, &cache, &step.rows, &shape, case.mask, out)
                .unwrap();
        } else {
            let prepared = [(q, heads, &q_weight), (k, kv_heads, &k_weight)].map(|(x, heads, weight)| {
                let (a, b) = (device.allocate(x.bytes()).unwrap(), device.allocate(x.bytes()).unwrap());
                let at = |buffer: &Buffer| buffer.at(0, x.elements(), dtype);
                device.copy(x, at(&a)).unwrap();
                device.copy(x, at(&b)).unwrap();
                if norm {
                    let weight = Some(weight.tensor(Dtype::F32));
                    cuda::rms_norm(device, x, rows * heads, head_dim, weight, offset, eps, at(&a)).unwrap();
                    device.copy(at(&a), at(&b)).unwrap();
                }
                if let Some(rope) = rope {
                    let Rope { dims, interleaved, cos, sin } = rope;
                    cuda::rope(device, at(&a), rows, heads, head_dim, dims, cos, sin, interleaved, false, at(&b))
                        .unwrap();
                }
                b
            });
            let [q, k] = [0, 1].map(|i: usize| prepared[i].at(0, [q, k][i].elements(), dtype));
            cuda::cache_append(device, k, v, &cache, &step.rows).unwrap();
            cuda::paged_attention(device, q, &cache, &step.rows, &shape, case.mask, out).unwrap();
        }
        (device.to_f32(out).unwrap(), bits(device, out), bits(device, cache.tensor()))
    });
    let [fused, unfused] = results;
    close(what, &fused.0, &unfused.0, tolerance(dtype));
    let differing = fused.2.iter().zip(&unfused.2).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 0, "{what}: bytes of the cache that differ");
    let differing = fused.1.iter().zip(&unfused.1).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 0, "{what}: bytes of the output that differ, of {}", fused.1.len());
}

#[test]
fn rows_out_of_range_harm_nobody() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let shape = shape(4, 2, 64, 64);
        let cache = PagedCache::new(&device, 3, 8, &shape, dtype).unwrap();
        device.zero(cache.tensor()).unwrap();
        // The second sequence's page does not exist. Rows: fine, padding, no such sequence, beyond the bound, no such page.
        let table = [1, 2, 77, u32::MAX];
        for fused in [false, true] {
            let step = Step::new(&device, &[0, PADDING_ROW, 2, 0, 1], &[3, 0, 0, 2 * PAGE as u32, 1], &table, 2, 2, 1);
            let numbers = |seed, heads: usize| device.from_f32(&random(seed, 5 * heads * 64, 1.0), dtype).unwrap();
            let (q, k, v) = (numbers(1, 4), numbers(2, 2), numbers(3, 2));
            let (q, k, v) = (q.tensor(dtype), k.tensor(dtype), v.tensor(dtype));
            let out = device.from_f32(&vec![7.0; 5 * 4 * 64], dtype).unwrap();
            let o = out.tensor(dtype);
            if fused {
                cuda::decode_attention(&device, q, k, v, None, None, None, &cache, &step.rows, &shape, CAUSAL, o)
                    .unwrap();
            } else {
                cuda::cache_append(&device, k, v, &cache, &step.rows).unwrap();
                cuda::paged_attention(&device, q, &cache, &step.rows, &shape, CAUSAL, o).unwrap();
            }
            let out = device.to_f32(o).unwrap();
            let rows: Vec<&[f32]> = out.chunks_exact(4 * 64).collect();
            assert!(rows[0].iter().all(|x| x.is_finite() && *x != 7.0), "{dtype:?} {fused}: the good row");
            assert!(rows[1].iter().all(|x| *x == 0.0), "{dtype:?} {fused}: padding");
            for (row, values) in rows.iter().enumerate().skip(2) {
                assert!(values.iter().all(|x| x.is_nan()), "{dtype:?} {fused}: row {row}");
            }
            let written = device.to_f32(cache.tensor()).unwrap().iter().filter(|x| **x != 0.0).count();
            assert_eq!(written, 2 * 2 * 64, "{dtype:?} {fused}: one row of keys and values is in the cache");
        }
    }
}

/// A captured step gives new results as sequences grow.
#[test]
fn a_captured_step_follows_the_lengths() {
    let Some(device) = device() else { return };
    let (dtype, shape) = (Dtype::Bf16, shape(4, 2, 128, 128));
    let case = Case::new(dtype, shape, CAUSAL, &[(100, 1), (700, 1)]);
    let cache = case.cache(&device);
    let step = case.new_rows(&device, 1);
    let q = device.from_f32(&case.queries.concat(), dtype).unwrap();
    let new = |parts| device.from_f32(&case.rows(parts, |old, new| old..old + new), dtype).unwrap();
    let (k, v) = (new(&case.keys), new(&case.values));
    let out = device.from_f32(&vec![f32::NAN; 2 * 4 * 128], dtype).unwrap();
    let run = || {
        let (q, k, v, out) = (q.tensor(dtype), k.tensor(dtype), v.tensor(dtype), out.tensor(dtype));
        cuda::decode_attention(&device, q, k, v, None, None, None, &cache, &step.rows, &shape, CAUSAL, out)
    };
    run().unwrap();
    let at_first = device.to_f32(out.tensor(dtype)).unwrap();
    close("before", &at_first, &case.want(), tolerance(dtype));
    let graph = device.capture(run).unwrap();
    // At positions whose keys are in the cache: the same step on shorter sequences.
    for (a, b) in [(40u32, 64u32), (3, 500), (99, 699)] {
        let positions: Vec<u8> = [a, b].iter().flat_map(|x| x.to_le_bytes()).collect();
        device.upload(&positions, step.positions.tensor(Dtype::U32)).unwrap();
        graph.launch().unwrap();
        let got = device.to_f32(out.tensor(dtype)).unwrap();
        run().unwrap();
        assert_eq!(got, device.to_f32(out.tensor(dtype)).unwrap(), "positions {a} and {b}");
        assert_ne!(got, at_first, "positions {a} and {b}");
    }
}

#[test]
fn wrong_operands_are_refused() {
    let Some(device) = device() else { return };
    let (dtype, shape) = (Dtype::Bf16, shape(4, 2, 64, 64));
    let cache = PagedCache::new(&device, 2, 2, &shape, dtype).unwrap();
    let memory = device.allocate(1 << 16).unwrap();
    let x = |elements| memory.at(0, elements, dtype);
    let step = |rows: usize, run| Step::new(&device, &vec![0; rows], &vec![0; rows], &[0, 1], 2, 2, run);
    let attend = |q, rows: &PagedRows, shape, mask| {
        cuda::paged_attention(&device, q, &cache, rows, &shape, mask, x(rows.rows * 256)).unwrap_err().to_string()
    };
    let one = step(1, 1);
    assert!(attend(x(255), &one.rows, shape, CAUSAL).contains("q has 255"));
    assert!(attend(x(256), &one.rows, shape, AttentionMask::All).contains("All"));
    let forward = AttentionMask::Window { left: 4, right: 1 };
    assert!(attend(x(256), &one.rows, shape, forward).contains("not there yet"));
    let other = AttentionShape { head_dim: 32, ..shape };
    assert!(attend(x(256), &one.rows, other, CAUSAL).contains("made for other heads"));
    assert!(attend(x(3 * 256), &step(3, 1).rows, shape, CAUSAL).contains("3 rows, but the cache was made for 2"));
    let beyond = PagedRows { bound_pages: 3, ..one.rows };
    assert!(attend(x(256), &beyond, shape, CAUSAL).contains("bound_pages = 3"));
    let wide = AttentionShape { head_dim: 257, ..shape };
    assert!(PagedCache::new(&device, 1, 1, &wide, dtype).unwrap_err().to_string().contains("257"));
    let two = step(2, 2);
    let (q, k) = (x(512), x(256));
    let decode =
        cuda::decode_attention(&device, q, k, k, None, None, None, &cache, &two.rows, &shape, CAUSAL, q).unwrap_err();
    assert!(decode.to_string().contains("longest_run = 2"), "{decode}");
}

/// Microseconds a launch, within a captured graph over many layers' caches, and bytes of the cache a second.
#[test]
#[ignore = "prints timings"]
fn timings() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    let cases = [
        (1, 400, 16, 8, 128, 28),
        (1, 400, 14, 2, 64, 24),
        (1, 4000, 16, 8, 128, 28),
        (1, 32_000, 16, 8, 128, 8),
        (1, 32_000, 32, 4, 128, 8),
        (16, 400, 16, 8, 128, 28),
        (64, 384, 16, 8, 128, 16),
        (64, 384, 32, 4, 128, 16),
        (64, 384, 16, 16, 64, 16),
        (256, 1000, 16, 8, 128, 4),
        (64, 4000, 8, 1, 256, 8),
    ];
    for (batch, length, heads, kv_heads, dim, layers) in cases {
        let shape = shape(heads, kv_heads, dim, dim);
        let max_pages = length / PAGE + 2;
        let caches: Vec<PagedCache> = (0..layers)
            .map(|_| PagedCache::new(&device, batch * max_pages, batch, &shape, dtype).unwrap())
            .inspect(|cache| device.zero(cache.tensor()).unwrap())
            .collect();
        let table: Vec<u32> = (0..(batch * max_pages) as u32).collect();
        let sequences: Vec<u32> = (0..batch as u32).collect();
        let step = Step::new(&device, &sequences, &vec![length as u32; batch], &table, max_pages, max_pages, 1);
        let numbers = |seed, n| device.from_f32(&random(seed, n, 1.0), dtype).unwrap();
        let (q, k, v) =
            (numbers(1, batch * heads * dim), numbers(2, batch * kv_heads * dim), numbers(3, batch * kv_heads * dim));
        let out = device.allocate(q.bytes()).unwrap();
        let f32s = |seed, n| device.from_f32(&random(seed, n, 1.0), Dtype::F32).unwrap();
        let (weight, angles) = (f32s(4, dim), f32s(5, batch * dim / 2));
        let norm = Some(HeadNorm { weight: weight.tensor(Dtype::F32), offset: 0.0, eps: 1e-6 });
        let angles = angles.tensor(Dtype::F32);
        let rope = Some(Rope { dims: dim, interleaved: false, cos: angles, sin: angles });
        for fused in [false, true] {
            let launches = 100;
            let run = || -> Result<(), cuda::CudaError> {
                for i in 0..launches {
                    let cache = &caches[i % layers];
                    let (q, k, v, out) = (q.tensor(dtype), k.tensor(dtype), v.tensor(dtype), out.tensor(dtype));
                    if fused {
                        cuda::decode_attention(
                            &device, q, k, v, norm, norm, rope, cache, &step.rows, &shape, CAUSAL, out,
                        )?;
                    } else {
                        cuda::paged_attention(&device, q, cache, &step.rows, &shape, CAUSAL, out)?;
                    }
                }
                Ok(())
            };
            report(&device, run, launches, |seconds| {
                let bytes = batch * (length + 1) * kv_heads * 2 * dim * dtype.size();
                let kind = if fused { "fused" } else { "plain" };
                let rate = bytes as f64 / seconds / 1e12;
                eprintln!(
                    "{kind} batch {batch:3} context {length:5} heads {heads:2}/{kv_heads:2} x {dim:3}: {:7.2} us, {rate:.2} TB/s",
                    seconds * 1e6
                );
            });
        }
    }
    // A chunk of a prompt behind earlier ones.
    for (chunk, old, heads, kv_heads, dim) in [(512, 0, 16, 8, 128), (512, 2048, 16, 8, 128), (2048, 8192, 16, 8, 128)]
    {
        let shape = shape(heads, kv_heads, dim, dim);
        let max_pages = (old + chunk) / PAGE + 1;
        let cache = PagedCache::new(&device, max_pages, 1, &shape, dtype).unwrap();
        device.zero(cache.tensor()).unwrap();
        let table: Vec<u32> = (0..max_pages as u32).collect();
        let positions: Vec<u32> = (old as u32..(old + chunk) as u32).collect();
        let step = Step::new(&device, &vec![0; chunk], &positions, &table, max_pages, max_pages, chunk);
        let q = device.from_f32(&random(1, chunk * heads * dim, 1.0), dtype).unwrap();
        let out = device.allocate(q.bytes()).unwrap();
        let run = || -> Result<(), cuda::CudaError> {
            for _ in 0..10 {
                let (q, out) = (q.tensor(dtype), out.tensor(dtype));
                cuda::paged_attention(&device, q, &cache, &step.rows, &shape, CAUSAL, out)?;
            }
            Ok(())
        };
        report(&device, run, 10, |seconds| {
            let flops = 4.0 * (heads * dim * chunk) as f64 * (old as f64 + chunk as f64 / 2.0);
            eprintln!("chunk {chunk} behind {old}: {:8.1} us, {:.0} TFLOP/s", seconds * 1e6, flops / seconds / 1e12);
        });
    }
}

/// What parts of a decode step's attention cost: without norm and rotation, of one split (nothing to combine), and of keys
/// that are too few to matter.
#[test]
#[ignore = "prints timings"]
fn timings_of_parts() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    let (heads, kv_heads, dim) = (16, 8, 128);
    let shape = shape(heads, kv_heads, dim, dim);
    for batch in [1, 8, 64] {
        for length in [0, 63, 64, 127, 255, 400, 1000] {
            let max_pages = length / PAGE + 1;
            let caches: Vec<PagedCache> = (0..8)
                .map(|_| PagedCache::new(&device, batch * max_pages, batch, &shape, dtype).unwrap())
                .inspect(|cache| device.zero(cache.tensor()).unwrap())
                .collect();
            let table: Vec<u32> = (0..(batch * max_pages) as u32).collect();
            let sequences: Vec<u32> = (0..batch as u32).collect();
            let step = Step::new(&device, &sequences, &vec![length as u32; batch], &table, max_pages, max_pages, 1);
            let numbers = |seed, n| device.from_f32(&random(seed, n, 1.0), dtype).unwrap();
            let (q, kv) = (numbers(1, batch * heads * dim), numbers(2, batch * kv_heads * dim));
            let out = device.allocate(q.bytes()).unwrap();
            let weight = device.from_f32(&random(4, dim, 1.0), Dtype::F32).unwrap();
            let angles = device.from_f32(&random(5, batch * dim / 2, 1.0), Dtype::F32).unwrap();
            let angles = angles.tensor(Dtype::F32);
            let norm = Some(HeadNorm { weight: weight.tensor(Dtype::F32), offset: 0.0, eps: 1e-6 });
            let rope = Some(Rope { dims: dim, interleaved: false, cos: angles, sin: angles });
            let (q, kv, out) = (q.tensor(dtype), kv.tensor(dtype), out.tensor(dtype));
            for (what, fused, norm, rope) in [
                ("attention", false, None, None),
                ("+ append", true, None, None),
                ("+ rope", true, None, rope),
                ("+ norm", true, norm, rope),
            ] {
                let run = || -> Result<(), cuda::CudaError> {
                    for i in 0..100 {
                        let cache = &caches[i % caches.len()];
                        if fused {
                            cuda::decode_attention(
                                &device, q, kv, kv, norm, norm, rope, cache, &step.rows, &shape, CAUSAL, out,
                            )?;
                        } else {
                            cuda::paged_attention(&device, q, cache, &step.rows, &shape, CAUSAL, out)?;
                        }
                    }
                    Ok(())
                };
                report(&device, run, 100, |seconds| {
                    eprintln!("batch {batch:2} context {length:4} {what:9}: {:6.2} us", seconds * 1e6);
                });
            }
        }
    }
}

/// Captures `run`, replays it, and reports the best of five as seconds a launch.
fn report(device: &Device, run: impl Fn() -> Result<(), cuda::CudaError>, launches: usize, print: impl Fn(f64)) {
    run().unwrap();
    device.synchronize().unwrap();
    let graph = device.capture(&run).unwrap();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = std::time::Instant::now();
        graph.launch().unwrap();
        device.synchronize().unwrap();
        best = best.min(start.elapsed().as_secs_f64() / launches as f64);
    }
    print(best);
}
