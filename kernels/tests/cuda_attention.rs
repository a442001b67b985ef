//! Attention on the GPU against the CPU kernels: widths, groups, masks, soft caps, types, packed sequences.

#![allow(clippy::print_stdout, reason = "measurements are printed")]

mod common;

use std::time::Instant;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::cuda::{self, Buffer, CudaError, Device, Dtype, Sequences, Tensor};
use swift_kernels::{AttentionMask, AttentionShape};

const MASKS: [AttentionMask; 6] = [
    AttentionMask::All,
    AttentionMask::Causal,
    AttentionMask::Window { left: 3, right: 0 },
    AttentionMask::Window { left: 100, right: 7 },
    AttentionMask::Window { left: 0, right: 70 },
    AttentionMask::Window { left: u32::MAX, right: u32::MAX },
];
const LENGTHS: [u32; 6] = [1, 7, 64, 0, 65, 300];

fn shape(heads: usize, kv_heads: usize, head_dim: usize, value_dim: usize, soft_cap: Option<f32>) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, value_dim, scale: 1.0 / (head_dim as f32).sqrt(), soft_cap }
}

/// Largest relative errors of the forward pass and of the gradients. 16-bit probabilities and results round, and so does
/// the output from which the gradients' delta is made.
fn tolerances(dtype: Dtype) -> (f32, f32) {
    match dtype {
        Dtype::F32 => (2e-5, 2e-5),
        Dtype::F16 => (1.5e-3, 3e-3),
        _ => (8e-3, 1.5e-2),
    }
}

/// Operands on both sides, rounded to the device's type.
struct Case {
    shape: AttentionShape,
    mask: AttentionMask,
    lengths: Vec<u32>,
    rows: usize,
    dtype: Dtype,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl Case {
    fn new(shape: AttentionShape, mask: AttentionMask, lengths: &[u32], dtype: Dtype) -> Self {
        let rows = lengths.iter().sum::<u32>() as usize;
        let make = |seed, width: usize| round(random(seed, rows * width, 2.0), dtype);
        Self {
            shape,
            mask,
            lengths: lengths.to_vec(),
            rows,
            dtype,
            q: make(1, shape.heads * shape.head_dim),
            k: make(2, shape.kv_heads * shape.head_dim),
            v: make(3, shape.kv_heads * shape.value_dim),
            dout: make(4, shape.heads * shape.value_dim),
        }
    }

    fn name(&self) -> String {
        format!("{:?} {:?} {:?} {:?}", self.dtype, self.shape, self.mask, self.lengths)
    }

    /// `[out, logsumexp, dq, dk, dv]` of the CPU kernels.
    fn expected(&self) -> [Vec<f32>; 5] {
        let (shape, mask) = (&self.shape, self.mask);
        let mut out = vec![f32::NAN; self.dout.len()];
        let mut logsumexp = vec![f32::NAN; self.rows * shape.heads];
        cpu::attention(&self.q, &self.k, &self.v, &self.lengths, shape, mask, &mut out, &mut logsumexp);
        let [mut dq, mut dk, mut dv] = [&self.q, &self.k, &self.v].map(|x| vec![f32::NAN; x.len()]);
        cpu::attention_grad(
            &self.q,
            &self.k,
            &self.v,
            &out,
            &logsumexp,
            &self.dout,
            &self.lengths,
            shape,
            mask,
            &mut dq,
            &mut dk,
            &mut dv,
        );
        [out, logsumexp, dq, dk, dv]
    }

    /// The same of the GPU kernels. Every operand begins `offset` elements into its buffer, and what lies around the
    /// results must stay.
    fn computed(&self, device: &Device, offset: usize) -> [Vec<f32>; 5] {
        let on = |values: &[f32], dtype| {
            let mut all = vec![7.0; offset];
            all.extend(values);
            all.extend([7.0; 16]);
            let buffer = device.from_f32(&all, dtype).unwrap();
            let tensor = buffer.tensor(dtype).slice(offset, values.len());
            (buffer, tensor)
        };
        let operands = [&self.q, &self.k, &self.v, &self.dout].map(|x| on(x, self.dtype));
        let [q, k, v, dout] = [0, 1, 2, 3].map(|i| operands[i].1);
        let none = |n: usize, dtype| on(&vec![f32::NAN; n], dtype);
        let results = [
            none(self.dout.len(), self.dtype),
            none(self.rows * self.shape.heads, Dtype::F32),
            none(self.q.len(), self.dtype),
            none(self.k.len(), self.dtype),
            none(self.v.len(), self.dtype),
        ];
        let [out, logsumexp, dq, dk, dv] = [0, 1, 2, 3, 4].map(|i| results[i].1);
        let (_starts, sequences) = sequences(device, &self.lengths);
        let (shape, mask) = (&self.shape, self.mask);
        cuda::attention(device, q, k, v, &sequences, shape, mask, out, logsumexp).unwrap();
        cuda::attention_grad(device, q, k, v, out, logsumexp, dout, &sequences, shape, mask, dq, dk, dv).unwrap();
        results.map(|(buffer, tensor)| {
            let all = device.to_f32(buffer.tensor(tensor.dtype())).unwrap();
            let (before, rest) = all.split_at(offset);
            let (values, after) = rest.split_at(tensor.elements());
            assert!(before.iter().chain(after).all(|x| *x == 7.0), "{}: wrote outside a result", self.name());
            values.to_vec()
        })
    }

    fn check(&self, device: &Device, offset: usize) {
        let (forward, backward) = tolerances(self.dtype);
        let got = self.computed(device, offset);
        for (index, (got, want)) in got.iter().zip(&self.expected()).enumerate() {
            let what = format!("{} of {}", ["out", "logsumexp", "dq", "dk", "dv"][index], self.name());
            close(&what, got, want, [forward, 2e-5, backward, backward, backward][index]);
        }
    }
}

/// The sequences of these lengths, with the buffer that holds their starts.
fn sequences(device: &Device, lengths: &[u32]) -> (Buffer, Sequences) {
    let mut starts = vec![0];
    for length in lengths {
        starts.push(starts[starts.len() - 1] + length);
    }
    let buffer = device.from_u32(&starts).unwrap();
    let sequences = Sequences {
        starts: buffer.tensor(Dtype::U32),
        count: lengths.len(),
        longest: lengths.iter().copied().max().unwrap_or(0) as usize,
        rows: starts[lengths.len()] as usize,
    };
    (buffer, sequences)
}

fn check(heads: usize, kv_heads: usize, head_dim: usize, value_dim: usize, dtype: Dtype) {
    let Some(device) = device() else { return };
    for mask in MASKS {
        for soft_cap in [None, Some(3.0)] {
            Case::new(shape(heads, kv_heads, head_dim, value_dim, soft_cap), mask, &LENGTHS, dtype).check(&device, 0);
        }
    }
}

macro_rules! cases {
    ($($name:ident: $heads:literal / $kv_heads:literal, $head_dim:literal, $value_dim:literal, $dtype:ident;)*) => {$(
        #[test]
        fn $name() {
            check($heads, $kv_heads, $head_dim, $value_dim, Dtype::$dtype);
        }
    )*};
}

cases! {
    f32_width_8: 2 / 2, 8, 8, F32;
    f32_width_16: 4 / 2, 16, 16, F32;
    f32_width_64: 4 / 1, 64, 64, F32;
    f32_width_80: 8 / 1, 80, 80, F32;
    f32_width_128: 4 / 2, 128, 128, F32;
    f32_width_256: 2 / 1, 256, 256, F32;
    f32_widths_differ: 4 / 2, 24, 40, F32;
    f32_wide_values: 2 / 1, 5, 300, F32;
    bf16_width_8: 2 / 2, 8, 8, Bf16;
    bf16_odd_widths: 4 / 2, 13, 21, Bf16;
    bf16_width_32: 8 / 1, 32, 32, Bf16;
    bf16_width_64: 4 / 2, 64, 64, Bf16;
    bf16_width_80: 4 / 4, 80, 80, Bf16;
    bf16_width_96: 4 / 1, 96, 96, Bf16;
    bf16_width_128: 8 / 2, 128, 128, Bf16;
    bf16_width_192: 2 / 1, 192, 192, Bf16;
    bf16_widths_192_128: 2 / 2, 192, 128, Bf16;
    bf16_width_256: 4 / 2, 256, 256, Bf16;
    f16_width_40: 4 / 2, 40, 40, F16;
    f16_width_64: 4 / 2, 64, 64, F16;
    f16_width_128: 4 / 2, 128, 128, F16;
}

/// The softmax of one key passes no gradient to queries and keys.
#[test]
fn one_row() {
    let Some(device) = device() else { return };
    for (dim, dtype) in [(24, Dtype::F32), (128, Dtype::F32), (24, Dtype::Bf16), (128, Dtype::Bf16)] {
        let case = Case::new(shape(4, 2, dim, dim, None), AttentionMask::Causal, &[1], dtype);
        let [out, logsumexp, dq, dk, dv] = case.computed(&device, 0);
        let [want, want_logsumexp, _, _, want_dv] = case.expected();
        close("out", &out, &want, tolerances(dtype).0);
        close("logsumexp", &logsumexp, &want_logsumexp, 1e-5);
        close("dv", &dv, &want_dv, tolerances(dtype).1);
        for (what, gradient) in [("dq", dq), ("dk", dk)] {
            assert!(gradient.iter().all(|x| x.abs() < 1e-2), "{what} {dtype:?} {dim}: {gradient:?}");
        }
    }
}

/// Operands that 16-byte accesses cannot reach take the general kernels, whatever their width.
#[test]
fn unaligned_operands() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for offset in [1, 3] {
            Case::new(shape(4, 2, 64, 64, None), AttentionMask::Causal, &[33, 130], dtype).check(&device, offset);
        }
    }
}

/// Many short sequences beside a long one; more sequences than a block has threads.
#[test]
fn many_sequences() {
    let Some(device) = device() else { return };
    let lengths: Vec<u32> = (0..700).map(|i| if i == 350 { 1000 } else { i % 5 }).collect();
    for (dim, dtype) in [(16, Dtype::F32), (64, Dtype::Bf16), (128, Dtype::Bf16)] {
        for mask in [AttentionMask::Causal, AttentionMask::Window { left: 200, right: 0 }] {
            Case::new(shape(2, 1, dim, dim, None), mask, &lengths, dtype).check(&device, 0);
        }
    }
}

#[test]
fn the_same_bits_every_time() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let case = Case::new(shape(8, 2, 128, 128, None), AttentionMask::Causal, &[700, 33, 1, 900], dtype);
        let bits = || case.computed(&device, 0).map(|x| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        let first = bits();
        for _ in 0..5 {
            assert_eq!(first, bits(), "{dtype:?}");
        }
    }
}

/// A captured graph reads the starts when it runs: other lengths, the same rows.
#[test]
fn a_graph_takes_other_lengths() {
    let Some(device) = device() else { return };
    let shape = shape(4, 2, 64, 64, None);
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let first = Case::new(shape, AttentionMask::Causal, &[200, 100, 30], dtype);
        let second = Case::new(shape, AttentionMask::Causal, &[1, 0, 329], dtype);
        let on = |x: &[f32]| device.from_f32(x, dtype).unwrap();
        let (q, k, v) = (on(&first.q), on(&first.k), on(&first.v));
        let out = on(&vec![f32::NAN; first.dout.len()]);
        let logsumexp = device.from_f32(&vec![f32::NAN; first.rows * shape.heads], Dtype::F32).unwrap();
        let (starts, sequences) = sequences(&device, &first.lengths);
        let work = || {
            cuda::attention(
                &device,
                q.tensor(dtype),
                k.tensor(dtype),
                v.tensor(dtype),
                &sequences,
                &shape,
                AttentionMask::Causal,
                out.tensor(dtype),
                logsumexp.tensor(Dtype::F32),
            )
        };
        work().unwrap();
        close("before", &device.to_f32(out.tensor(dtype)).unwrap(), &first.expected()[0], tolerances(dtype).0);
        let graph = device.capture::<CudaError>(work).unwrap();
        let bytes: Vec<u8> = [0u32, 1, 1, 330].iter().flat_map(|x| x.to_le_bytes()).collect();
        device.upload(&bytes, starts.tensor(Dtype::U32)).unwrap();
        graph.launch().unwrap();
        close("after", &device.to_f32(out.tensor(dtype)).unwrap(), &second.expected()[0], tolerances(dtype).0);
    }
}

#[test]
fn wrong_operands_are_refused() {
    let Some(device) = device() else { return };
    let (_starts, good) = sequences(&device, &[3, 2]);
    let memory = device.allocate(1 << 16).unwrap();
    let f32s = |n| memory.at(0, n, Dtype::F32);
    let run = |sequences: &Sequences, shape: &AttentionShape, q: Tensor, logsumexp: Tensor| {
        let mask = AttentionMask::All;
        let (k, out) = (f32s(5 * 8), f32s(5 * 16));
        cuda::attention(&device, q, k, k, sequences, shape, mask, out, logsumexp)
            .err()
            .map_or(String::new(), |e| e.to_string())
    };
    let right = shape(4, 2, 4, 4, None);
    assert_eq!(run(&good, &right, f32s(80), f32s(20)), "");
    assert!(run(&good, &right, f32s(79), f32s(20)).contains("q has 79"));
    assert!(run(&good, &right, f32s(80), f32s(20).cast(Dtype::U32)).contains("logsumexp"));
    assert!(run(&good, &right, memory.at(0, 80, Dtype::Bf16), f32s(20)).contains("k has"));
    assert!(run(&good, &shape(4, 3, 4, 4, None), f32s(80), f32s(20)).contains("multiple"));
    assert!(run(&good, &shape(4, 2, 4, 4, Some(0.0)), f32s(80), f32s(20)).contains("soft cap"));
    assert!(run(&Sequences { count: 3, ..good }, &right, f32s(80), f32s(20)).contains("starts"));
    assert!(run(&Sequences { rows: 6, ..good }, &right, f32s(80), f32s(20)).contains("q has"));
}

/// Offsets beyond 2^31 elements: the last sequence of 9 GiB of operands.
#[test]
#[ignore = "takes 20 GiB of the GPU's memory"]
fn large_operands() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    let shape = shape(128, 1, 128, 128, None);
    let last = Case::new(shape, AttentionMask::Causal, &[65], dtype);
    let lengths: Vec<u32> = std::iter::repeat_n(1024, 130).chain([65]).collect();
    let (_starts, sequences) = sequences(&device, &lengths);
    let before = sequences.rows - 65;
    let make = |width: usize, values: &[f32]| {
        let buffer = device.allocate(sequences.rows * width * 2).unwrap();
        let tensor = buffer.tensor(dtype);
        device.zero(tensor).unwrap();
        device.write_f32(values, tensor.slice(before * width, values.len())).unwrap();
        (buffer, tensor)
    };
    let operands = [(&last.q, 128), (&last.k, 1), (&last.v, 1), (&last.dout, 128)].map(|(x, h)| make(h * 128, x));
    let [q, k, v, dout] = [0, 1, 2, 3].map(|i| operands[i].1);
    let results = [(&last.dout, 128), (&last.q, 128), (&last.k, 1), (&last.v, 1)]
        .map(|(x, heads)| make(heads * 128, &vec![f32::NAN; x.len()]));
    let [out, dq, dk, dv] = [0, 1, 2, 3].map(|i| results[i].1);
    let statistics = device.allocate(sequences.rows * 128 * 4).unwrap();
    let logsumexp = statistics.tensor(Dtype::F32);
    let mask = AttentionMask::Causal;
    cuda::attention(&device, q, k, v, &sequences, &shape, mask, out, logsumexp).unwrap();
    cuda::attention_grad(&device, q, k, v, out, logsumexp, dout, &sequences, &shape, mask, dq, dk, dv).unwrap();
    let [want, _, want_dq, want_dk, want_dv] = last.expected();
    for (what, tensor, want, width) in [
        ("out", out, want, 128 * 128),
        ("dq", dq, want_dq, 128 * 128),
        ("dk", dk, want_dk, 128),
        ("dv", dv, want_dv, 128),
    ] {
        let got = device.to_f32(tensor.slice(before * width, 65 * width)).unwrap();
        close(what, &got, &want, 1.5e-2);
    }
}

/// Prints TFLOP/s, of the operations that the mask leaves: two products forward, five backward.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let Some(device) = device() else { return };
    let window = AttentionMask::Window { left: 1023, right: 0 };
    for (dtype, dim, batch, length, mask) in [
        (Dtype::Bf16, 128, 8, 2048, AttentionMask::Causal),
        (Dtype::Bf16, 128, 8, 8192, AttentionMask::Causal),
        (Dtype::Bf16, 128, 8, 2048, AttentionMask::All),
        (Dtype::Bf16, 128, 8, 8192, window),
        (Dtype::Bf16, 64, 8, 2048, AttentionMask::Causal),
        (Dtype::Bf16, 80, 8, 2048, AttentionMask::Causal),
        (Dtype::Bf16, 96, 8, 2048, AttentionMask::Causal),
        (Dtype::Bf16, 256, 8, 2048, AttentionMask::Causal),
        (Dtype::F16, 128, 8, 2048, AttentionMask::Causal),
        (Dtype::F32, 128, 2, 2048, AttentionMask::Causal),
        (Dtype::Bf16, 40, 2, 2048, AttentionMask::Causal),
    ] {
        let shape = shape(16, 8, dim, dim, None);
        let lengths = vec![length as u32; batch];
        let rows = batch * length;
        let (_starts, sequences) = sequences(&device, &lengths);
        let make = |seed, width: usize| device.from_f32(&random(seed, rows * width, 1.0), dtype).unwrap();
        let buffers = [16, 8, 8, 16, 16, 16, 8, 8].map(|heads| make(heads as u64, heads * dim));
        let [q, k, v, out, dout, dq, dk, dv] = [0, 1, 2, 3, 4, 5, 6, 7].map(|i: usize| buffers[i].tensor(dtype));
        let statistics = device.allocate(rows * 16 * 4).unwrap();
        let logsumexp = statistics.tensor(Dtype::F32);
        let forward = || cuda::attention(&device, q, k, v, &sequences, &shape, mask, out, logsumexp).unwrap();
        let backward = || {
            cuda::attention_grad(&device, q, k, v, out, logsumexp, dout, &sequences, &shape, mask, dq, dk, dv).unwrap();
        };
        let seconds = |work: &dyn Fn()| {
            work();
            device.synchronize().unwrap();
            let begin = Instant::now();
            let mut runs = 0;
            while runs < 3 || begin.elapsed().as_secs_f64() < 0.2 {
                for _ in 0..5 {
                    work();
                }
                device.synchronize().unwrap();
                runs += 5;
            }
            begin.elapsed().as_secs_f64() / f64::from(runs)
        };
        let pairs: usize = match mask {
            AttentionMask::All => length * length,
            AttentionMask::Causal => length * (length + 1) / 2,
            AttentionMask::Window { left, .. } => (0..length).map(|i| i.min(left as usize) + 1).sum(),
        };
        let product = 2.0 * (pairs * batch * 16 * dim) as f64 / 1e12;
        let (forward_time, backward_time) = (seconds(&forward), seconds(&backward));
        println!(
            "{dtype:?} width {dim} {batch} x {length} {mask:?}: forward {:.3} ms {:.0} TFLOP/s, backward {:.3} ms {:.0} TFLOP/s",
            forward_time * 1e3,
            2.0 * product / forward_time,
            backward_time * 1e3,
            5.0 * product / backward_time
        );
        device.start_profile();
        backward();
        for row in device.end_profile().unwrap() {
            println!("    {row:?}");
        }
    }
}
