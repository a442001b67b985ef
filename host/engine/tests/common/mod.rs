//! Small models built without a plugin, and deterministic numbers.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod gpu;

use swift_engine::{Compute, MemoryWeights, Placement};
use swift_graph::checkpoint::{StorageType, TableCheckpoint, TensorInfo};
use swift_graph::{Builder, DataType, Graph, Param, Value};

/// Where the tests run: `SWIFT_TEST_DEVICE`.
pub(crate) fn placement() -> Placement {
    Placement::of_tests(Compute::F32)
}

/// The CPU's bound, or on a GPU at least 1e-4: its products and exponentials sum in other orders and round otherwise.
pub(crate) fn bound(cpu: f64) -> f64 {
    if placement() == Placement::Cpu { cpu } else { cpu.max(1e-4) }
}

/// Numbers from -1 to 1, the same in every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    pub(crate) fn vec(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * scale).collect()
    }
}

pub(crate) fn build(tensors: &[(&str, &[usize])], body: impl FnOnce(&mut Builder)) -> (Graph, MemoryWeights) {
    let mut table = TableCheckpoint::default();
    let mut weights = MemoryWeights::default();
    let mut numbers = Numbers(7);
    for (name, shape) in tensors {
        table.0.insert((*name).into(), TensorInfo { shape: shape.to_vec(), dtype: StorageType::F32 });
        let n: usize = shape.iter().product();
        let scale = if shape.len() == 1 { 0.5 } else { 1.5 / (shape[shape.len() - 1] as f32).sqrt() };
        let mut values = numbers.vec(n, scale);
        if shape.len() == 1 {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        weights.insert(name, shape, values);
    }
    let mut builder = Builder::new(&table);
    body(&mut builder);
    (builder.finish().expect("the graph is valid"), weights)
}

pub(crate) fn tokens(b: &mut Builder) -> (Value, Value) {
    let text = b.rows("text").expect("rows");
    let t = b.input("tokens", text, DataType::Int32, &[]).expect("tokens");
    let p = b.input("positions", text, DataType::Int32, &[]).expect("positions");
    (t, p)
}

/// Sizes of a [`decoder_of`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) vocabulary: u32,
    pub(crate) width: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) inner: u32,
    pub(crate) scale: f32,
    /// Whether each head of queries and keys is normed before its rotation, as in Qwen3.
    pub(crate) head_norms: bool,
}

/// Nothing here is a multiple of what fast kernels like.
pub(crate) const SMALL: Sizes =
    Sizes { vocabulary: 17, width: 12, heads: 4, kv_heads: 2, head_dim: 6, inner: 20, scale: 0.4, head_norms: false };

/// A decoder of two blocks in Llama's shape with grouped heads: width 12, 4 query heads, 2 key heads, head size 6.
pub(crate) fn decoder(window: Option<u32>) -> (Graph, MemoryWeights) {
    decoder_of(&SMALL, window)
}

/// A decoder of two blocks in Llama's shape with grouped heads and a bias on the queries.
pub(crate) fn decoder_of(sizes: &Sizes, window: Option<u32>) -> (Graph, MemoryWeights) {
    let Sizes { vocabulary, width, heads, kv_heads, head_dim, inner, scale, head_norms } = *sizes;
    let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
    let mut names: Vec<(String, Vec<u32>)> = vec![
        ("embed.weight".into(), vec![vocabulary, width]),
        ("norm.weight".into(), vec![width]),
        ("head.weight".into(), vec![vocabulary, width]),
    ];
    for i in 0..2 {
        for (n, s) in [
            ("q", vec![queries, width]),
            ("k", vec![keys, width]),
            ("v", vec![keys, width]),
            ("o", vec![width, queries]),
            ("gate", vec![inner, width]),
            ("up", vec![inner, width]),
            ("down", vec![width, inner]),
            ("norm1", vec![width]),
            ("norm2", vec![width]),
        ] {
            names.push((format!("layers.{i}.{n}.weight"), s));
        }
        names.push((format!("layers.{i}.q.bias"), vec![queries]));
        if head_norms {
            names.push((format!("layers.{i}.q_norm.weight"), vec![head_dim]));
            names.push((format!("layers.{i}.k_norm.weight"), vec![head_dim]));
        }
    }
    let shapes: Vec<Vec<usize>> = names.iter().map(|(_, s)| s.iter().map(|n| *n as usize).collect()).collect();
    let refs: Vec<(&str, &[usize])> = names.iter().zip(&shapes).map(|((n, _), s)| (n.as_str(), s.as_slice())).collect();
    build(&refs, |b| {
        let (t, p) = tokens(b);
        let table = b.load("embed.weight", &[vocabulary, width]).unwrap();
        let mut h = b.embed(t, table).unwrap();
        for i in 0..2 {
            b.enter(&format!("layers.{i}"), "block").unwrap();
            let load =
                |b: &mut Builder, n: &str, s: &[u32]| -> Param { b.load(&format!("layers.{i}.{n}"), s).unwrap() };
            let n1 = load(b, "norm1.weight", &[width]);
            let x = b.rms_norm(h, Some(n1), 1e-6, &[]).unwrap();
            let (wq, bq) = (load(b, "q.weight", &[queries, width]), load(b, "q.bias", &[queries]));
            let q = b.linear(x, wq, Some(bq)).unwrap();
            let wk = load(b, "k.weight", &[keys, width]);
            let k = b.linear(x, wk, None).unwrap();
            let wv = load(b, "v.weight", &[keys, width]);
            let v = b.linear(x, wv, None).unwrap();
            let mut q = b.reshape(q, &[heads, head_dim]).unwrap();
            let mut k = b.reshape(k, &[kv_heads, head_dim]).unwrap();
            let v = b.reshape(v, &[kv_heads, head_dim]).unwrap();
            if head_norms {
                let (nq, nk) = (load(b, "q_norm.weight", &[head_dim]), load(b, "k_norm.weight", &[head_dim]));
                q = b.rms_norm(q, Some(nq), 1e-6, &[]).unwrap();
                k = b.rms_norm(k, Some(nk), 1e-6, &[]).unwrap();
            }
            let q = b.rope(q, p, head_dim, 1e4, &[]).unwrap();
            let k = b.rope(k, p, head_dim, 1e4, &[]).unwrap();
            let mask = match window {
                Some(left) => b.mask_window(left, 0),
                None => b.mask_causal(),
            };
            let a = b.attention(q, k, v, mask, scale, &[]).unwrap();
            let a = b.reshape(a, &[queries]).unwrap();
            let wo = load(b, "o.weight", &[width, queries]);
            let o = b.linear(a, wo, None).unwrap();
            let h1 = b.binary("add", h, o).unwrap();
            let n2 = load(b, "norm2.weight", &[width]);
            let x = b.rms_norm(h1, Some(n2), 1e-6, &[]).unwrap();
            let wg = load(b, "gate.weight", &[inner, width]);
            let g = b.linear(x, wg, None).unwrap();
            let wu = load(b, "up.weight", &[inner, width]);
            let u = b.linear(x, wu, None).unwrap();
            let m = b.glu(g, u, "silu").unwrap();
            let wd = load(b, "down.weight", &[width, inner]);
            let d = b.linear(m, wd, None).unwrap();
            h = b.binary("add", h1, d).unwrap();
            b.exit().unwrap();
        }
        let n = b.load("norm.weight", &[width]).unwrap();
        let h = b.rms_norm(h, Some(n), 1e-6, &[]).unwrap();
        b.output("hidden", h).unwrap();
        let head = b.load("head.weight", &[vocabulary, width]).unwrap();
        let l = b.logits(h, head, &[]).unwrap();
        b.output("logits", l).unwrap();
    })
}

/// Largest difference over largest value.
pub(crate) fn relative(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let most = b.iter().fold(0f64, |m, x| m.max(x.abs())).max(1e-12);
    a.iter().zip(b).fold(0f64, |m, (x, y)| m.max((f64::from(*x) - y).abs())) / most
}
