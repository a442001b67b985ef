//! What the tests of sessions on a GPU share: the GPU if there is one, a model that takes the fast paths, and comparisons
//! that print numbers.
//!
//! The bounds of bfloat16 come from a simulation of [`LARGE`] and [`PLAIN`], whole and with [`lora`], in which the result of
//! every op, gradients included, is rounded to bfloat16 (8 bits, 1.6e-3 of a number on average) and all else is f32, as on
//! the GPU. It was off by at most 1.3e-2 in logits (relative L2 norm; 2.6e-2 in the worst row), 1.3e-4 in the loss, and
//! 2.8e-2 in a gradient (those of queries and keys, behind softmax's differences; a cosine of 0.9996). The bounds are about
//! twice that; the loss's is wider, since a mean of few rows is.

use std::sync::Arc;

use half::bf16;
use swift_engine::{
    AdamWOptions, Batch, Compute, CudaPlacement, InferSession, MemoryWeights, Placement, Quantization, TrainOptions,
    TrainSession, Tuner, cuda_devices,
};
use swift_graph::Graph;
use swift_graph::checkpoint::Checkpoint;
use swift_graph::lora::{LoraConfig, LoraInit};
use swift_kernels::{
    FOUR_BIT_BLOCK, FourBit, NESTED_BLOCK, dequantize_4bit, dequantize_absmax, dequantize_int8, dynamic_map,
    quantize_4bit, quantize_absmax, quantize_int8,
};

use super::{Numbers, Sizes, decoder_of};

/// Logits in bfloat16, relative L2 norm.
pub(crate) const LOGITS: f64 = 2.5e-2;
/// One row of logits.
pub(crate) const ROW: f64 = 5e-2;
/// A loss, relative.
pub(crate) const LOSS: f64 = 2e-3;
/// A gradient, relative L2 norm.
pub(crate) const GRADIENT: f64 = 5e-2;
/// Cosine of a gradient with f32's, at least.
pub(crate) const COSINE: f64 = 0.999;
/// Everything in f32.
pub(crate) const F32: f64 = 1e-4;

/// Head size 64 and widths in multiples of 64: cuDNN, tensor cores, adapters side by side. Heads are normed, as in Qwen3.
pub(crate) const LARGE: Sizes = Sizes {
    vocabulary: 512,
    width: 256,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    inner: 512,
    scale: 0.125,
    head_norms: true,
};

/// As [`LARGE`], without the heads' norms, as in Llama.
pub(crate) const PLAIN: Sizes = Sizes { head_norms: false, ..LARGE };

/// A GPU; `None` with a line that says why, where there is none.
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
pub(crate) fn gpu(compute: Compute) -> Option<Placement> {
    let asked = std::env::var("SWIFT_TEST_DEVICE").ok();
    if asked.as_deref() == Some("cpu") {
        eprintln!("skipped: SWIFT_TEST_DEVICE is cpu");
        return None;
    }
    if let Err(error) = cuda_devices() {
        eprintln!("skipped: no CUDA device ({error})");
        assert!(asked.is_none(), "a GPU was asked for: {error}");
        return None;
    }
    Some(match Placement::of_tests(compute) {
        Placement::Cpu => Placement::cuda(0, compute),
        place => place,
    })
}

/// Every way to store frozen matrices in few bits.
pub(crate) const QUANTIZATIONS: [Quantization; 3] =
    [Quantization::Nf4 { double: false }, Quantization::Nf4 { double: true }, Quantization::Int8];

/// The same GPU with frozen matrices in few bits.
pub(crate) fn quantized(place: &Placement, quantization: Quantization) -> Placement {
    let Placement::Cuda(place) = place else { panic!("not a GPU") };
    Placement::Cuda(CudaPlacement { quantization: Some(quantization), ..place.clone() })
}

/// Memory of the GPU in bytes.
pub(crate) fn memory(place: &Placement) -> u64 {
    let Placement::Cuda(place) = place else { panic!("not a GPU") };
    cuda_devices().expect("a GPU")[place.ordinal].memory_bytes
}

/// A graph and its weights, which bfloat16 holds without loss.
pub(crate) struct Model {
    pub(crate) graph: Graph,
    pub(crate) weights: Arc<MemoryWeights>,
    pub(crate) vocabulary: usize,
}

impl Model {
    pub(crate) fn new(sizes: &Sizes) -> Self {
        let (graph, weights) = decoder_of(sizes, None);
        let weights = changed(&weights, |_, _, values| values.iter_mut().for_each(|x| *x = rounded(*x)));
        Self { graph, weights: Arc::new(weights), vocabulary: sizes.vocabulary as usize }
    }

    /// The same with the matrices of the blocks as the CPU's reference quantises and dequantises them; `compute` is the
    /// type they are dequantised into.
    pub(crate) fn dequantized(&self, quantization: Quantization, compute: Compute) -> Self {
        let weights = changed(&self.weights, |name, shape, values| {
            if !name.starts_with("layers.") || shape.len() != 2 {
                return;
            }
            match quantization {
                Quantization::Nf4 { double } => {
                    let mut codes = vec![0; values.len() / 2];
                    let mut absmax = vec![0.0; values.len() / FOUR_BIT_BLOCK];
                    quantize_4bit(FourBit::Nf4, values, &mut codes, &mut absmax);
                    if double {
                        let mut nested = vec![0; absmax.len()];
                        let mut coarse = vec![0.0; absmax.len().div_ceil(NESTED_BLOCK)];
                        let offset = quantize_absmax(&absmax, &mut nested, &mut coarse);
                        dequantize_absmax(&nested, &coarse, dynamic_map(), offset, &mut absmax);
                    }
                    dequantize_4bit(FourBit::Nf4, &codes, &absmax, values);
                }
                Quantization::Int8 => {
                    let mut codes = vec![0; values.len()];
                    let mut absmax = vec![0.0; shape[0]];
                    quantize_int8(values, shape[1], &mut codes, &mut absmax);
                    dequantize_int8(&codes, &absmax, shape[1], values);
                }
            }
            if compute == Compute::Bf16 {
                values.iter_mut().for_each(|x| *x = rounded(*x));
            }
        });
        Self { graph: self.graph.clone(), weights: Arc::new(weights), vocabulary: self.vocabulary }
    }

    pub(crate) fn train(&self, tuner: &Tuner, recompute_blocks: bool, placement: &Placement) -> TrainSession {
        let options = TrainOptions {
            tuner: tuner.clone(),
            recompute_blocks,
            seed: 1,
            optimizer: AdamWOptions::default(),
            placement: placement.clone(),
        };
        TrainSession::new(self.graph.clone(), self.weights.clone(), options).expect("a session")
    }

    pub(crate) fn infer(&self, placement: &Placement) -> InferSession {
        InferSession::new(self.graph.clone(), self.weights.clone(), placement).expect("a session")
    }

    /// Tokens that are the same in every run.
    pub(crate) fn tokens(&self, seed: u64, n: usize) -> Vec<u32> {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        (0..n)
            .map(|_| ((numbers.next() + 1.0) / 2.0 * self.vocabulary as f32) as u32 % self.vocabulary as u32)
            .collect()
    }

    /// Sequences of these lengths; every token but the first is to be learned.
    pub(crate) fn batch(&self, seed: u64, lengths: &[usize]) -> Batch {
        let sequences: Vec<Vec<u32>> =
            lengths.iter().enumerate().map(|(i, n)| self.tokens(seed * 1000 + i as u64, *n)).collect();
        labelled(&sequences)
    }
}

/// Sequences of which every token but the first is to be learned.
pub(crate) fn labelled(sequences: &[Vec<u32>]) -> Batch {
    let refs: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let mut batch = Batch::of_sequences(&refs);
    let mut row = 0;
    for sequence in sequences {
        for (i, next) in sequence.iter().skip(1).enumerate() {
            batch.targets[row + i] = *next;
            batch.weights[row + i] = 1.0;
        }
        row += sequence.len();
    }
    batch
}

/// Adapters of rank 8 that differ from the base at once; a scale of 1 keeps them from drowning it.
pub(crate) fn lora(dropout: f64) -> LoraConfig {
    LoraConfig { rank: 8, alpha: 8.0, dropout, init: LoraInit::Random, ..LoraConfig::default() }
}

fn changed(weights: &MemoryWeights, change: impl Fn(&str, &[usize], &mut [f32])) -> MemoryWeights {
    let mut out = MemoryWeights::default();
    for name in weights.names() {
        let shape = weights.tensor(&name).expect("listed").shape;
        let mut values = weights.values(&name).expect("listed").to_vec();
        change(&name, &shape, &mut values);
        out.insert(&name, &shape, values);
    }
    out
}

/// A number as bfloat16 keeps it.
pub(crate) fn rounded(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// Gives all `sessions` the first one's trained values, as bfloat16 keeps them.
pub(crate) fn start_alike(sessions: &mut [&mut TrainSession]) {
    for info in sessions[0].trainable() {
        let values: Vec<f32> = sessions[0].values(&info.name).expect("trained").iter().map(|x| rounded(*x)).collect();
        sessions.iter_mut().for_each(|s| s.set_values(&info.name, &values).expect("set"));
    }
}

/// All trained values, bit for bit.
pub(crate) fn bits(session: &TrainSession) -> Vec<(String, Vec<u32>)> {
    let values = |name: &str| session.values(name).expect("trained").iter().map(|x| x.to_bits()).collect();
    session.trainable().into_iter().map(|info| (info.name.clone(), values(&info.name))).collect()
}

/// Panics at the first trained value whose bits differ.
pub(crate) fn same_bits(what: &str, a: &[(String, Vec<u32>)], b: &[(String, Vec<u32>)]) {
    for ((name, a), (_, b)) in a.iter().zip(b) {
        let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
        let at = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(0);
        let (x, y) = (f32::from_bits(a[at]), f32::from_bits(b[at]));
        assert_eq!(
            differ,
            0,
            "{what}: {name}: {differ} of {} values differ, the first at {at}: {x:e} and {y:e}",
            a.len()
        );
    }
}

/// Norm of the difference over the norm of `want`.
pub(crate) fn off(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "lengths");
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    (error / norm.max(1e-60)).sqrt()
}

/// Panics when [`off`] passes `bound`, or is not a number.
pub(crate) fn close(what: &str, got: &[f32], want: &[f32], bound: f64) {
    let off = off(got, want);
    let worst = (0..got.len()).max_by(|a, b| (got[*a] - want[*a]).abs().total_cmp(&(got[*b] - want[*b]).abs()));
    let worst = worst.map(|i| format!("at {i} of {}: {} for {}", got.len(), got[i], want[i])).unwrap_or_default();
    assert!(off <= bound, "{what}: off by {off:.2e}, allowed {bound:.1e}; worst {worst}");
}

/// Panics when losses differ by more than `bound`, relative.
pub(crate) fn close_loss(what: &str, got: f64, want: f64, bound: f64) {
    let off = (got - want).abs() / want.abs();
    assert!(off <= bound, "{what}: loss {got} for {want}: off by {off:.2e}, allowed {bound:.1e}");
}

/// Panics unless every gradient of `got` is within `bound` of `want`'s and has a cosine of at least `cosine` with it. All
/// that fail are listed.
pub(crate) fn close_gradients(what: &str, got: &TrainSession, want: &TrainSession, bound: f64, cosine: f64) {
    let mut wrong = String::new();
    for info in want.trainable() {
        let (g, w) = (got.gradient(&info.name).expect("trained"), want.gradient(&info.name).expect("trained"));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let along = dot(&g, &w) / (dot(&g, &g) * dot(&w, &w)).sqrt().max(1e-60);
        let off = off(&g, &w);
        let fine = off <= bound && along >= cosine;
        if !fine {
            wrong += &format!("\n  {}: off by {off:.2e}, cosine {along:.6}", info.name);
        }
    }
    assert!(wrong.is_empty(), "{what}: gradients beyond {bound:.1e} or cosine {cosine}:{wrong}");
}
