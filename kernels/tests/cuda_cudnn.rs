//! cuDNN's attention against the CPU kernels: sequences of one length and packed ones, shared heads, both masks; that it
//! stays inside of its operands, repeats itself, and can be captured.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "says why a test is skipped, and prints times")]

mod common;

use std::time::Instant;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::AttentionMask::{self, All, Causal};
use swift_kernels::AttentionShape;
use swift_kernels::cuda::Dtype::{self, Bf16, F16};
use swift_kernels::cuda::{Buffer, CudaError, Cudnn, CudnnSequences, Device, Tensor};

/// A GPU with cuDNN that takes attention.
fn open() -> Option<(Device, Cudnn)> {
    let device = device()?;
    match Cudnn::open(&device) {
        Ok(cudnn) if cudnn.supports(Bf16, &shape(8, 4, 64), Causal) => Some((device, cudnn)),
        Ok(cudnn) => {
            eprintln!("skipped: cuDNN {} takes no attention on {}", cudnn.version(), device.name());
            None
        }
        Err(error @ CudaError::MissingLibrary { .. }) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn shape(heads: usize, kv_heads: usize, dim: usize) -> AttentionShape {
    let scale = 1.0 / (dim as f32).sqrt();
    AttentionShape { heads, kv_heads, head_dim: dim, value_dim: dim, scale, soft_cap: None }
}

/// Elements after an operand that must stay as they are: not a number, so that reading them shows too.
const GUARD: usize = 4096;

/// An operand on the device with a guard behind it.
struct Guarded {
    buffer: Buffer,
    elements: usize,
    dtype: Dtype,
}

impl Guarded {
    fn new(device: &Device, values: &[f32], dtype: Dtype) -> Self {
        let mut padded = values.to_vec();
        padded.resize(values.len() + GUARD, f32::NAN);
        Self { buffer: device.from_f32(&padded, dtype).unwrap(), elements: values.len(), dtype }
    }

    fn empty(device: &Device, elements: usize, dtype: Dtype) -> Self {
        Self::new(device, &vec![f32::NAN; elements], dtype)
    }

    fn tensor(&self) -> Tensor {
        self.buffer.at(0, self.elements, self.dtype)
    }

    fn read(&self, device: &Device, what: &str) -> Vec<f32> {
        let mut values = device.to_f32(self.buffer.tensor(self.dtype)).unwrap();
        let written = values[self.elements..].iter().position(|x| !x.is_nan());
        assert_eq!(written, None, "{what}: written behind its end");
        values.truncate(self.elements);
        values
    }
}

/// One attention on the device, with what the CPU says of it.
struct Case {
    sequences: CudnnSequences,
    _starts: Buffer,
    shape: AttentionShape,
    mask: AttentionMask,
    /// q, k, v and the output's gradient.
    inputs: [Guarded; 4],
    out: Guarded,
    logsumexp: Guarded,
    /// Of q, k and v.
    grads: [Guarded; 3],
    want: [Vec<f32>; 5],
}

impl Case {
    fn new(device: &Device, lengths: &[u32], shape: AttentionShape, mask: AttentionMask, dtype: Dtype) -> Self {
        let mut starts = vec![0u32];
        starts.extend(lengths.iter().scan(0, |row, length| {
            *row += length;
            Some(*row)
        }));
        let rows = *starts.last().unwrap() as usize;
        let (queries, keys) = (rows * shape.heads, rows * shape.kv_heads);
        let sizes =
            [queries * shape.head_dim, keys * shape.head_dim, keys * shape.value_dim, queries * shape.value_dim];
        let values: Vec<Vec<f32>> =
            sizes.iter().enumerate().map(|(i, &n)| round(random(i as u64 + 1, n, 2.0), dtype)).collect();
        let [q, k, v, dout] = [0, 1, 2, 3].map(|i| values[i].as_slice());

        let (mut out, mut logsumexp) = (vec![0.0; sizes[3]], vec![0.0; queries]);
        cpu::attention(q, k, v, lengths, &shape, mask, &mut out, &mut logsumexp);
        let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| vec![0.0; sizes[i]]);
        cpu::attention_grad(q, k, v, &out, &logsumexp, dout, lengths, &shape, mask, &mut dq, &mut dk, &mut dv);

        let buffer = device.from_u32(&starts).unwrap();
        let sequences = CudnnSequences { lengths: lengths.to_vec(), starts: buffer.tensor(Dtype::U32) };
        Self {
            sequences,
            _starts: buffer,
            shape,
            mask,
            inputs: [q, k, v, dout].map(|values| Guarded::new(device, values, dtype)),
            out: Guarded::empty(device, sizes[3], dtype),
            logsumexp: Guarded::empty(device, queries, Dtype::F32),
            grads: [0, 1, 2].map(|i| Guarded::empty(device, sizes[i], dtype)),
            want: [out, dq, dk, dv, logsumexp],
        }
    }

    fn forward(&self, device: &Device, cudnn: &Cudnn) -> Result<(), CudaError> {
        let [q, k, v, _] = self.inputs.each_ref().map(Guarded::tensor);
        let (out, logsumexp) = (self.out.tensor(), self.logsumexp.tensor());
        cudnn.attention(device, q, k, v, &self.sequences, &self.shape, self.mask, out, logsumexp)
    }

    fn backward(&self, device: &Device, cudnn: &Cudnn) -> Result<(), CudaError> {
        let [q, k, v, dout] = self.inputs.each_ref().map(Guarded::tensor);
        let (out, logsumexp) = (self.out.tensor(), self.logsumexp.tensor());
        let [dq, dk, dv] = self.grads.each_ref().map(Guarded::tensor);
        cudnn.attention_grad(device, q, k, v, out, logsumexp, dout, &self.sequences, &self.shape, self.mask, dq, dk, dv)
    }

    /// Output, gradients of q, k and v, and the logsumexp, as they are on the device.
    fn results(&self, device: &Device) -> [Vec<f32>; 5] {
        let [dq, dk, dv] = &self.grads;
        [("out", &self.out), ("dq", dq), ("dk", dk), ("dv", dv), ("logsumexp", &self.logsumexp)]
            .map(|(name, operand)| operand.read(device, name))
    }

    fn clear(&self, device: &Device) {
        for operand in self.grads.iter().chain([&self.out, &self.logsumexp]) {
            device.write_f32(&vec![f32::NAN; operand.elements], operand.tensor()).unwrap();
        }
    }

    fn check(&self, device: &Device, what: &str) {
        let got = self.results(device);
        for ((name, tolerance), (got, want)) in
            [("out", 8e-3), ("dq", 1.5e-2), ("dk", 1.5e-2), ("dv", 1.5e-2)].iter().zip(got.iter().zip(&self.want))
        {
            close(&format!("{what}: {name}"), got, want, *tolerance);
        }
        for (i, (got, want)) in got[4].iter().zip(&self.want[4]).enumerate() {
            assert!((got - want).abs() <= 1e-3, "{what}: logsumexp {got} for {want} at {i}");
        }
    }
}

fn check(lengths: &[u32], heads: usize, kv_heads: usize, dim: usize, mask: AttentionMask, dtype: Dtype) {
    let Some((device, _)) = open() else { return };
    let case = Case::new(&device, lengths, shape(heads, kv_heads, dim), mask, dtype);
    for bytes in [0, usize::MAX] {
        let cudnn = Cudnn::open(&device).unwrap().with_fixed_order_scratch(bytes);
        assert_eq!(cudnn.is_deterministic(&case.sequences, &case.shape), bytes > 0);
        case.clear(&device);
        case.forward(&device, &cudnn).unwrap();
        case.backward(&device, &cudnn).unwrap();
        let order = if bytes > 0 { "fixed order" } else { "any order" };
        case.check(&device, &format!("cuDNN {} {lengths:?} {mask:?} {order}", cudnn.version()));
    }
}

#[test]
fn equal_lengths_causal() {
    check(&[256, 256, 256], 4, 4, 128, Causal, Bf16);
}

#[test]
fn equal_lengths_causal_with_shared_heads() {
    check(&[384, 384], 8, 4, 64, Causal, Bf16);
}

#[test]
fn equal_lengths_all() {
    check(&[128, 128, 128, 128, 128], 8, 2, 128, All, Bf16);
}

#[test]
fn equal_lengths_f16() {
    check(&[256], 4, 2, 64, Causal, F16);
}

#[test]
fn equal_lengths_of_wide_heads() {
    check(&[256, 256], 2, 1, 256, Causal, Bf16);
}

#[test]
fn packed_causal() {
    check(&[1, 200, 65, 129, 64, 31, 2], 4, 4, 128, Causal, Bf16);
}

#[test]
fn packed_causal_with_shared_heads() {
    check(&[300, 1, 77], 8, 4, 64, Causal, Bf16);
}

#[test]
fn packed_causal_with_many_shared_heads() {
    check(&[1, 1, 130, 513, 7], 8, 2, 128, Causal, Bf16);
}

#[test]
fn packed_all() {
    check(&[33, 256, 1, 100], 4, 2, 64, All, Bf16);
}

#[test]
fn packed_f16() {
    check(&[150, 40], 4, 4, 64, Causal, F16);
}

#[test]
fn packed_of_uneven_width() {
    check(&[90, 1, 300], 4, 2, 72, Causal, Bf16);
}

#[test]
fn one_sequence_of_an_odd_length() {
    check(&[777], 4, 2, 128, Causal, Bf16);
}

#[test]
fn empty_sequences_between_others() {
    check(&[0, 50, 0, 0, 200, 0], 4, 2, 128, Causal, Bf16);
}

#[test]
fn the_same_bits_every_time() {
    let Some((device, cudnn)) = open() else { return };
    for lengths in [&[512u32, 512, 512][..], &[700, 13, 512, 100]] {
        let case = Case::new(&device, lengths, shape(8, 4, 128), Causal, Bf16);
        assert!(cudnn.is_deterministic(&case.sequences, &case.shape));
        let mut first = None;
        for run in 0..5 {
            case.clear(&device);
            case.forward(&device, &cudnn).unwrap();
            case.backward(&device, &cudnn).unwrap();
            let bits = case.results(&device).map(|values| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
            if let Some(first) = &first {
                assert!(*first == bits, "{lengths:?}: run {run} differs from the first");
            }
            first.get_or_insert(bits);
        }
    }
}

#[test]
fn captured_in_a_graph() {
    let Some((device, cudnn)) = open() else { return };
    for lengths in [&[256u32, 256][..], &[150, 1, 260]] {
        let case = Case::new(&device, lengths, shape(4, 2, 128), Causal, Bf16);
        let work = || {
            case.forward(&device, &cudnn)?;
            case.backward(&device, &cudnn)
        };
        work().unwrap();
        let graph = device.capture::<CudaError>(work).unwrap();
        case.clear(&device);
        graph.launch().unwrap();
        case.check(&device, &format!("captured {lengths:?}"));
    }
}

/// One plan serves batches of other lengths.
#[test]
fn plans_are_used_again() {
    let Some((device, cudnn)) = open() else { return };
    let first = Case::new(&device, &[256, 100, 3], shape(4, 2, 64), Causal, Bf16);
    first.forward(&device, &cudnn).unwrap();
    first.backward(&device, &cudnn).unwrap();
    first.check(&device, "first");
    let second = Case::new(&device, &[17, 140, 1, 201], shape(4, 2, 64), Causal, Bf16);
    let plans = cudnn.plans();
    second.forward(&device, &cudnn).unwrap();
    second.backward(&device, &cudnn).unwrap();
    second.check(&device, "second");
    assert_eq!((plans, cudnn.plans()), (2, 2), "one plan forward and one back, and no other");
}

#[test]
fn wrong_operands_are_refused() {
    let Some((device, cudnn)) = open() else { return };
    let case = Case::new(&device, &[128, 128], shape(4, 2, 64), Causal, Bf16);
    let [q, k, v, _] = case.inputs.each_ref().map(Guarded::tensor);
    let (out, logsumexp) = (case.out.tensor(), case.logsumexp.tensor());
    let fails = |q: Tensor, logsumexp: Tensor, sequences: &CudnnSequences, mask| {
        cudnn.attention(&device, q, k, v, sequences, &case.shape, mask, out, logsumexp).unwrap_err().to_string()
    };
    let sequences = &case.sequences;
    assert!(fails(q.slice(0, 64), logsumexp, sequences, Causal).contains("q has 64"));
    assert!(fails(q, out, sequences, Causal).contains("logsumexp"));
    assert!(fails(q, logsumexp, sequences, AttentionMask::Window { left: 4, right: 0 }).contains("window"));
    let shifted = case.inputs[0].buffer.at(2, case.inputs[0].elements, Bf16);
    assert!(fails(shifted, logsumexp, sequences, Causal).contains("multiple of 16"));
    let fewer = CudnnSequences { lengths: vec![256], starts: sequences.starts };
    assert!(fails(q, logsumexp, &fewer, Causal).contains("starts"));
    cudnn.attention(&device, q, k, v, sequences, &case.shape, Causal, out, logsumexp).unwrap();
}

/// `cargo nextest run -p swift-kernels --run-ignored all --no-capture speed_of_cudnn`
#[test]
#[ignore = "prints times"]
fn speed_of_cudnn() {
    let Some((device, cudnn)) = open() else { return };
    println!("{}, cuDNN {}", device.name(), cudnn.version());
    let shape = shape(16, 8, 128);
    for (name, lengths) in [
        ("8 x 2048", vec![2048u32; 8]),
        ("packed 8 x 2048", [2047, 2048].repeat(4)),
        ("packed, 64 of 256", (0..64).map(|i| 192 + 2 * i).collect()),
    ] {
        let rows: usize = lengths.iter().map(|&n| n as usize).sum();
        let starts: Vec<u32> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |row, n| {
                *row += n;
                Some(*row)
            }))
            .collect();
        let starts = device.from_u32(&starts).unwrap();
        let pairs: f64 = lengths.iter().map(|&n| f64::from(n).powi(2)).sum();
        let sequences = CudnnSequences { lengths, starts: starts.tensor(Dtype::U32) };
        let filled = |seed, n| device.from_f32(&random(seed, n, 1.0), Bf16).unwrap();
        let (queries, keys) = (rows * shape.heads * 128, rows * shape.kv_heads * 128);
        let buffers = [queries, keys, keys, queries, queries, queries, keys, keys].map(|n| filled(n as u64, n));
        let [q, k, v, out, dout, dq, dk, dv] = buffers.each_ref().map(|buffer| buffer.tensor(Bf16));
        let logsumexp = device.allocate(rows * shape.heads * 4).unwrap();
        let logsumexp = logsumexp.tensor(Dtype::F32);
        let time = |what: &str, flops: f64, work: &dyn Fn()| {
            let begin = Instant::now();
            work();
            device.synchronize().unwrap();
            let first = begin.elapsed();
            for _ in 0..3 {
                work();
            }
            device.synchronize().unwrap();
            let begin = Instant::now();
            const RUNS: u32 = 20;
            for _ in 0..RUNS {
                work();
            }
            let enqueued = begin.elapsed() / RUNS;
            device.synchronize().unwrap();
            let took = begin.elapsed() / RUNS;
            let rate = flops / took.as_secs_f64() / 1e12;
            println!("{name} {what}: {took:.1?}, {rate:.0} TFLOP/s (enqueued in {enqueued:.1?}, first {first:.2?})");
        };
        // Two products forward and five backward, of which the causal mask leaves half.
        let forward = 4.0 * pairs * (shape.heads * 128) as f64 / 2.0;
        time("forward", forward, &|| {
            cudnn.attention(&device, q, k, v, &sequences, &shape, Causal, out, logsumexp).unwrap();
        });
        for (order, bytes) in [("any order", 0), ("fixed order", usize::MAX)] {
            let cudnn = Cudnn::open(&device).unwrap().with_fixed_order_scratch(bytes);
            time(&format!("backward, {order}"), 2.5 * forward, &|| {
                cudnn
                    .attention_grad(&device, q, k, v, out, logsumexp, dout, &sequences, &shape, Causal, dq, dk, dv)
                    .unwrap();
            });
        }
        println!("{name}: scratch {} MiB", device.workspace_bytes() >> 20);
    }
}
