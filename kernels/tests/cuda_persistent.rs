//! A decode step in one launch against separate launches: each kind of operation with its options, whole chains of layers,
//! replays of a captured step. Ignored: microseconds of a token, and of parts of it.

#![allow(clippy::print_stdout, reason = "measurements are printed")]

mod common;

use std::time::Instant;

use common::{close, device, random};
use swift_kernels::cuda::{
    self, Buffer, CudaError, DecodeAttention, DecodeOp, DecodeProgram, Device, Dtype, FewRows, HeadNorm, Matrix,
    Measured, Norm, PADDING_ROW, PAGE, PagedCache, PagedRows, Rope, Tensor,
};
use swift_kernels::{Activation, AttentionMask, AttentionShape};

const EPS: f32 = 1e-6;

/// Whether the device can run programs at all.
fn able() -> Option<Device> {
    let device = device()?;
    if device.compute_capability().0 < 9 {
        println!("skipped: no copies in bulk before compute capability 9.0");
        return None;
    }
    Some(device)
}

fn poison(device: &Device, tensor: Tensor) {
    device.write_f32(&vec![f32::NAN; tensor.elements()], tensor).unwrap();
}

fn bits(device: &Device, tensor: Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes()];
    device.download(tensor, &mut bytes).unwrap();
    bytes
}

/// One projection with all it can have.
#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    k: usize,
    n: Vec<usize>,
    /// Whether the norm has a weight.
    norm: Option<bool>,
    bias: bool,
    residual: bool,
    glu: Option<Activation>,
    wide: bool,
}

fn check_case(device: &Device, case: &Case, dtype: Dtype) {
    let Case { rows, k, .. } = *case;
    let upload = |seed, n: usize, scale| device.from_f32(&random(seed, n, scale), dtype).unwrap();
    let x = upload(1, rows * k, 2.0);
    let factor = device.from_f32(&random(2, k, 0.5), Dtype::F32).unwrap();
    let weights: Vec<Buffer> =
        case.n.iter().enumerate().map(|(i, n)| upload(3 + i as u64, n * k, 2.0 / (k as f32).sqrt())).collect();
    let biases: Vec<Buffer> = case.n.iter().enumerate().map(|(i, n)| upload(13 + i as u64, *n, 1.0)).collect();
    let residual = upload(23, rows * case.n[0], 2.0);
    let out_type = if case.wide { Dtype::F32 } else { dtype };
    let outs: Vec<Vec<Buffer>> =
        (0..2).map(|_| case.n.iter().map(|n| device.allocate(rows * n * out_type.size()).unwrap()).collect()).collect();
    let written = if case.glu.is_some() { 1 } else { case.n.len() };
    for (which, outs) in outs.iter().enumerate() {
        let matrices: Vec<Matrix> = (0..case.n.len())
            .map(|i| Matrix {
                weight: weights[i].tensor(dtype),
                n: case.n[i],
                bias: case.bias.then(|| biases[i].tensor(dtype)),
                out: outs[i].tensor(out_type),
            })
            .collect();
        for matrix in &matrices {
            poison(device, matrix.out);
        }
        let norm = case.norm.map(|weighted| Norm {
            weight: weighted.then(|| factor.tensor(Dtype::F32)),
            offset: 1.0,
            eps: EPS,
        });
        let residual = case.residual.then(|| residual.tensor(dtype));
        let work = FewRows { x: x.tensor(dtype), rows, k, norm, matrices: &matrices, residual, glu: case.glu };
        if which == 0 {
            cuda::few_rows(device, &work).unwrap();
        } else {
            let program = DecodeProgram::new(device, &[DecodeOp::FewRows(work)]).unwrap();
            let program = program.unwrap_or_else(|| panic!("{case:?} has no program"));
            let mut seen = None;
            for round in 0..20 {
                for matrix in &matrices[..written] {
                    poison(device, matrix.out);
                }
                program.run(device).unwrap();
                let now: Vec<Vec<u8>> = matrices[..written].iter().map(|m| bits(device, m.out)).collect();
                assert_eq!(seen.get_or_insert_with(|| now.clone()), &now, "{case:?}: round {round}");
            }
        }
    }
    for (i, (want, got)) in outs[0].iter().zip(&outs[1]).take(written).enumerate() {
        let [want, got] = [want, got].map(|out| device.to_f32(out.tensor(out_type)).unwrap());
        let tolerance = if case.wide { 5e-4 } else { 3e-3 };
        close(&format!("{case:?} {dtype:?} matrix {i}"), &got, &want, tolerance);
    }
}

#[test]
fn projections_are_those_of_separate_launches() {
    let Some(device) = able() else { return };
    let plain =
        Case { rows: 1, k: 1024, n: vec![512], norm: None, bias: false, residual: false, glu: None, wide: false };
    for rows in [1, 2, 3, 5, 8] {
        for case in [
            Case { rows, ..plain.clone() },
            Case { rows, wide: true, n: vec![3000], ..plain.clone() },
            Case { rows, norm: Some(true), bias: true, n: vec![300, 150, 151], ..plain.clone() },
            Case { rows, norm: Some(false), k: 896, n: vec![133, 1, 70, 9], ..plain.clone() },
            Case { rows, norm: Some(true), glu: Some(Activation::Silu), n: vec![700, 700], ..plain.clone() },
            Case { rows, glu: Some(Activation::GeluTanh), bias: true, k: 32, n: vec![41, 41], ..plain.clone() },
            Case { rows, residual: true, k: 3072, ..plain.clone() },
            Case { rows, residual: true, bias: true, k: 2560, norm: Some(true), ..plain.clone() },
            Case { rows, norm: Some(true), k: 5120, n: vec![200], wide: true, ..plain.clone() },
            Case { rows, norm: Some(true), n: vec![40_001], wide: true, ..plain.clone() },
        ] {
            check_case(&device, &case, Dtype::Bf16);
        }
    }
    check_case(&device, &Case { rows: 2, norm: Some(true), bias: true, ..plain.clone() }, Dtype::F16);
    check_case(&device, &Case { k: 9728, n: vec![2560], residual: true, ..plain }, Dtype::F16);
}

/// Sizes of a decoder.
#[derive(Debug, Clone, Copy)]
struct Model {
    name: &'static str,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    middle: usize,
    vocabulary: usize,
    head_norms: bool,
    window: Option<u32>,
}

const SMALL: Model = Model {
    name: "small",
    layers: 3,
    hidden: 512,
    heads: 8,
    kv_heads: 4,
    dim: 128,
    middle: 800,
    vocabulary: 1000,
    head_norms: true,
    window: None,
};

/// A decoder with random weights, and the state of its sequences.
struct Decoder {
    model: Model,
    dtype: Dtype,
    rows: usize,
    weights: Buffer,
    norms: Buffer,
    caches: Vec<PagedCache>,
    start: Buffer,
    /// Two of what lies between operations: they take turns, as in a real program.
    slots: Vec<Buffer>,
    logits: Buffer,
    positions: Buffer,
    table: Buffer,
    sequences: Buffer,
    rotation: Buffer,
    max_pages: usize,
}

impl Decoder {
    fn new(device: &Device, model: Model, dtype: Dtype, rows: usize, max_pages: usize) -> Self {
        let Model { layers, hidden, heads, kv_heads, dim, middle, vocabulary, .. } = model;
        let shape = model.shape();
        let elements = layers * model.layer_elements() + vocabulary * hidden;
        // About the size that keeps numbers near one; repeated, so that large models are made quickly.
        let block = device.from_f32(&random(1, elements.min(1 << 23), 0.04), dtype).unwrap();
        let weights = device.allocate(elements * 2).unwrap();
        let repeat = |block: &Buffer, to: Tensor| {
            for start in (0..to.elements()).step_by(block.bytes() / 2) {
                let n = (block.bytes() / 2).min(to.elements() - start);
                device.copy(block.at(0, n, dtype), to.slice(start, n)).unwrap();
            }
        };
        repeat(&block, weights.tensor(dtype));
        let factors: Vec<f32> = random(2, hidden.max(dim), 0.3).iter().map(|x| x + 1.0).collect();
        let pages = rows * max_pages + 1;
        let old = device.from_f32(&random(3, 1 << 16, 1.0), dtype).unwrap();
        let caches: Vec<PagedCache> =
            (0..layers).map(|_| PagedCache::new(device, pages, rows, &shape, dtype).unwrap()).collect();
        for cache in &caches {
            repeat(&old, cache.tensor());
        }
        let table: Vec<u32> = (0..(rows * max_pages) as u32).rev().collect();
        let widths = [hidden, heads * dim, kv_heads * dim, kv_heads * dim, heads * dim, hidden, middle, hidden];
        Self {
            model,
            dtype,
            rows,
            weights,
            norms: device.from_f32(&factors, Dtype::F32).unwrap(),
            caches,
            start: device.from_f32(&random(4, rows * hidden, 1.0), dtype).unwrap(),
            slots: widths.iter().map(|n| device.allocate(rows * n * 2).unwrap()).collect(),
            logits: device.allocate(rows * vocabulary * 4).unwrap(),
            positions: device.from_u32(&vec![0; rows]).unwrap(),
            table: device.from_u32(&table).unwrap(),
            sequences: device.from_u32(&(0..rows as u32).collect::<Vec<_>>()).unwrap(),
            rotation: device.from_f32(&random(5, rows * dim, 1.0), Dtype::F32).unwrap(),
            max_pages,
        }
    }

    fn set_positions(&self, device: &Device, positions: &[u32]) {
        device.upload(bytes_of(positions).as_slice(), self.positions.tensor(Dtype::U32)).unwrap();
    }

    /// Calls `each` with every operation of a step.
    fn operations(&self, each: &mut dyn FnMut(DecodeOp)) {
        let Model { hidden, heads, kv_heads, dim, middle, vocabulary, .. } = self.model;
        let (rows, dtype) = (self.rows, self.dtype);
        let mut at = 0;
        let mut matrix = |n: usize, k: usize, out: Tensor| {
            let weight = self.weights.tensor(dtype).slice(at, n * k);
            at += n * k;
            Matrix { weight, n, bias: None, out }
        };
        let slot = |i: usize| self.slots[i].tensor(dtype);
        let norm = Some(Norm { weight: Some(self.norms.at(0, hidden, Dtype::F32)), offset: 0.0, eps: EPS });
        let head_norm = self.model.head_norms.then(|| HeadNorm {
            weight: self.norms.at(0, dim, Dtype::F32),
            offset: 0.0,
            eps: EPS,
        });
        let half = dim / 2;
        let rope = Rope {
            dims: dim,
            interleaved: false,
            cos: self.rotation.at(0, rows * half, Dtype::F32),
            sin: self.rotation.at(rows * half * 4, rows * half, Dtype::F32),
        };
        let mut x = self.start.tensor(dtype);
        for cache in &self.caches {
            let qkv = [
                matrix(heads * dim, hidden, slot(1)),
                matrix(kv_heads * dim, hidden, slot(2)),
                matrix(kv_heads * dim, hidden, slot(3)),
            ];
            each(DecodeOp::FewRows(FewRows { x, rows, k: hidden, norm, matrices: &qkv, residual: None, glu: None }));
            each(DecodeOp::Attention(DecodeAttention {
                q: slot(1),
                k: slot(2),
                v: slot(3),
                q_norm: head_norm,
                k_norm: head_norm,
                rope: Some(rope),
                cache,
                rows: self.paged_rows(),
                shape: self.model.shape(),
                mask: self.model.window.map_or(AttentionMask::Causal, |left| AttentionMask::Window { left, right: 0 }),
                out: slot(4),
            }));
            let o = [matrix(hidden, heads * dim, slot(5))];
            let (k, residual) = (heads * dim, Some(x));
            each(DecodeOp::FewRows(FewRows { x: slot(4), rows, k, norm: None, matrices: &o, residual, glu: None }));
            let gated = [matrix(middle, hidden, slot(6)), matrix(middle, hidden, slot(6))];
            let glu = Some(Activation::Silu);
            let (h, k) = (slot(5), hidden);
            each(DecodeOp::FewRows(FewRows { x: h, rows, k, norm, matrices: &gated, residual: None, glu }));
            let down = [matrix(hidden, middle, slot(0))];
            let residual = Some(slot(5));
            each(DecodeOp::FewRows(FewRows {
                x: slot(6),
                rows,
                k: middle,
                norm: None,
                matrices: &down,
                residual,
                glu: None,
            }));
            x = slot(0);
        }
        let head = [matrix(vocabulary, hidden, self.logits.tensor(Dtype::F32))];
        each(DecodeOp::FewRows(FewRows { x, rows, k: hidden, norm, matrices: &head, residual: None, glu: None }));
    }

    fn paged_rows(&self) -> PagedRows {
        PagedRows {
            rows: self.rows,
            row_sequence: self.sequences.tensor(Dtype::U32),
            positions: self.positions.tensor(Dtype::U32),
            block_table: self.table.tensor(Dtype::U32),
            max_pages: self.max_pages,
            bound_pages: self.max_pages,
            longest_run: 1,
        }
    }

    /// The step as separate launches.
    fn separate(&self, device: &Device) -> Result<(), CudaError> {
        let mut outcome = Ok(());
        self.operations(&mut |op| {
            if outcome.is_err() {
                return;
            }
            outcome = match op {
                DecodeOp::FewRows(work) => cuda::few_rows(device, &work),
                DecodeOp::Attention(a) => cuda::decode_attention(
                    device, a.q, a.k, a.v, a.q_norm, a.k_norm, a.rope, a.cache, &a.rows, &a.shape, a.mask, a.out,
                ),
            };
        });
        outcome
    }

    fn program(&self, device: &Device) -> DecodeProgram {
        // Matrices live as long as a call of `each`: they are kept here.
        let mut matrices: Vec<Vec<Matrix>> = Vec::new();
        self.operations(&mut |op| {
            matrices.push(if let DecodeOp::FewRows(work) = op { work.matrices.to_vec() } else { Vec::new() });
        });
        let mut ops: Vec<DecodeOp> = Vec::new();
        let (mut i, caches) = (0, &self.caches);
        let mut attentions = caches.iter();
        self.operations(&mut |op| {
            ops.push(match op {
                DecodeOp::FewRows(FewRows { x, rows, k, norm, residual, glu, .. }) => {
                    DecodeOp::FewRows(FewRows { x, rows, k, norm, matrices: &matrices[i], residual, glu })
                }
                DecodeOp::Attention(DecodeAttention {
                    q, k, v, q_norm, k_norm, rope, rows, shape, mask, out, ..
                }) => {
                    let cache = attentions.next().unwrap();
                    DecodeOp::Attention(DecodeAttention {
                        q,
                        k,
                        v,
                        q_norm,
                        k_norm,
                        rope,
                        cache,
                        rows,
                        shape,
                        mask,
                        out,
                    })
                }
            });
            i += 1;
        });
        DecodeProgram::new(device, &ops).unwrap().unwrap_or_else(|| panic!("{:?} has no program", self.model))
    }

    fn result(&self, device: &Device) -> Vec<f32> {
        device.to_f32(self.logits.tensor(Dtype::F32)).unwrap()
    }
}

impl Model {
    fn shape(&self) -> AttentionShape {
        let (heads, kv_heads, dim) = (self.heads, self.kv_heads, self.dim);
        let scale = 1.0 / (dim as f32).sqrt();
        AttentionShape { heads, kv_heads, head_dim: dim, value_dim: dim, scale, soft_cap: None }
    }

    fn layer_elements(&self) -> usize {
        self.hidden * (2 * self.heads * self.dim + 2 * self.kv_heads * self.dim + 3 * self.middle)
    }
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn check_chain(device: &Device, model: Model, dtype: Dtype, positions: &[u32], max_pages: usize) {
    let decoder = Decoder::new(device, model, dtype, positions.len(), max_pages);
    let program = decoder.program(device);
    let what = format!("{model:?} at {positions:?}, {} stages", program.stages());
    for step in 0..3 {
        let now: Vec<u32> = positions.iter().map(|p| p + step).collect();
        decoder.set_positions(device, &now);
        decoder.separate(device).unwrap();
        let want = decoder.result(device);
        let caches: Vec<Vec<f32>> = decoder.caches.iter().map(|c| device.to_f32(c.tensor()).unwrap()).collect();
        poison(device, decoder.logits.tensor(Dtype::F32));
        program.run(device).unwrap();
        let tolerance = if dtype == Dtype::F16 { 3e-3 } else { 2e-2 };
        close(&format!("{what}, step {step}"), &decoder.result(device), &want, tolerance);
        for (layer, (cache, want)) in decoder.caches.iter().zip(&caches).enumerate() {
            let got = device.to_f32(cache.tensor()).unwrap();
            close(&format!("{what}, step {step}, cache {layer}"), &got, want, 3e-3);
        }
    }
    // The same bits, again and again.
    program.run(device).unwrap();
    let want = bits(device, decoder.logits.tensor(Dtype::F32));
    for round in 0..20 {
        poison(device, decoder.logits.tensor(Dtype::F32));
        program.run(device).unwrap();
        assert!(bits(device, decoder.logits.tensor(Dtype::F32)) == want, "{what}: round {round} has other bits");
    }
}

#[test]
fn one_layer_is_that_of_separate_launches() {
    let Some(device) = able() else { return };
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let model = Model { layers: 1, ..SMALL };
        check_chain(&device, model, dtype, &[0], 4);
        check_chain(&device, model, dtype, &[100], 4);
        check_chain(&device, model, dtype, &[62, 5], 4);
    }
}

#[test]
fn chains_of_layers_are_those_of_separate_launches() {
    let Some(device) = able() else { return };
    let dtype = Dtype::F16;
    check_chain(&device, SMALL, dtype, &[400], 8);
    check_chain(&device, SMALL, dtype, &[400, 17], 8);
    check_chain(&device, SMALL, dtype, &[400, 17, 0, 63, 64, 300, 128, 11], 8);
    check_chain(&device, SMALL, Dtype::Bf16, &[200, 30, 90], 8);
    check_chain(&device, Model { dim: 64, heads: 14, kv_heads: 2, hidden: 896, ..SMALL }, dtype, &[333, 21], 8);
    check_chain(&device, Model { heads: 4, kv_heads: 4, head_norms: false, ..SMALL }, dtype, &[1500, 40], 32);
    check_chain(&device, Model { heads: 16, kv_heads: 4, window: Some(100), ..SMALL }, dtype, &[1030, 40], 32);
    check_chain(&device, Model { heads: 32, kv_heads: 8, hidden: 2560, middle: 9728, ..SMALL }, dtype, &[400], 8);
}

#[test]
fn a_captured_program_follows_the_positions() {
    let Some(device) = able() else { return };
    let decoder = Decoder::new(&device, SMALL, Dtype::F16, 2, 8);
    let program = decoder.program(&device);
    decoder.set_positions(&device, &[60, 400]);
    program.run(&device).unwrap();
    let graph = device.capture(|| program.run(&device)).unwrap();
    for step in 0..50 {
        decoder.set_positions(&device, &[60 + step, 400 + step]);
        decoder.separate(&device).unwrap();
        let want = decoder.result(&device);
        poison(&device, decoder.logits.tensor(Dtype::F32));
        graph.launch().unwrap();
        close(&format!("step {step}"), &decoder.result(&device), &want, 3e-3);
    }
}

#[test]
fn rows_are_the_same_alone_and_in_a_batch() {
    let Some(device) = able() else { return };
    let positions = [400, 17, 130, 64];
    let together = Decoder::new(&device, SMALL, Dtype::Bf16, positions.len(), 8);
    together.set_positions(&device, &positions);
    together.program(&device).run(&device).unwrap();
    let all = together.result(&device);
    // The first row's pages, rotation and input alone. The rotation's sines lie behind the cosines of all rows.
    let alone = Decoder::new(&device, SMALL, Dtype::Bf16, 1, 8);
    let pages = together.table.tensor(Dtype::U32).slice(0, 8);
    device.copy(pages, alone.table.tensor(Dtype::U32)).unwrap();
    let (hidden, half) = (SMALL.hidden, SMALL.dim / 2);
    device.copy(together.start.at(0, hidden, Dtype::Bf16), alone.start.tensor(Dtype::Bf16)).unwrap();
    device.copy(together.rotation.at(0, half, Dtype::F32), alone.rotation.at(0, half, Dtype::F32)).unwrap();
    let sines = together.rotation.at(positions.len() * half * 4, half, Dtype::F32);
    device.copy(sines, alone.rotation.at(half * 4, half, Dtype::F32)).unwrap();
    let alone = Decoder { caches: together.caches, ..alone };
    alone.set_positions(&device, &positions[..1]);
    alone.program(&device).run(&device).unwrap();
    let one = alone.result(&device);
    assert!(one.iter().all(|x| x.is_finite()));
    assert_eq!(one, all[..SMALL.vocabulary]);
}

#[test]
fn rows_of_nobody_are_zero_and_rows_out_of_range_are_not_numbers() {
    let Some(device) = able() else { return };
    let dtype = Dtype::Bf16;
    let decoder = Decoder::new(&device, Model { layers: 1, ..SMALL }, dtype, 3, 4);
    decoder.set_positions(&device, &[10, 4 * PAGE as u32, 20]);
    let sequences = bytes_of(&[0, 1, PADDING_ROW]);
    device.upload(&sequences, decoder.sequences.tensor(Dtype::U32)).unwrap();
    let mut made = false;
    decoder.operations(&mut |op| {
        let DecodeOp::Attention(work) = op else { return };
        for tensor in [work.q, work.k, work.v] {
            device.write_f32(&random(7, tensor.elements(), 1.0), tensor).unwrap();
        }
        poison(&device, work.out);
        let program = DecodeProgram::new(&device, &[op]).unwrap().unwrap();
        program.run(&device).unwrap();
        let out = device.to_f32(work.out).unwrap();
        let rows: Vec<&[f32]> = out.chunks(out.len() / 3).collect();
        assert!(rows[0].iter().all(|x| x.is_finite()) && rows[0].iter().any(|x| *x != 0.0));
        assert!(rows[1].iter().all(|x| x.is_nan()));
        assert!(rows[2].iter().all(|x| *x == 0.0));
        made = true;
    });
    assert!(made);
}

#[test]
fn what_it_cannot_do_has_no_program() {
    let Some(device) = able() else { return };
    let dtype = Dtype::Bf16;
    let memory = device.allocate(1 << 20).unwrap();
    let try_one = |rows: usize, k: usize, dtype: Dtype| {
        let x = memory.at(0, rows * k, dtype);
        let out = memory.at(1 << 19, rows * 16, dtype);
        let matrices = [Matrix { weight: memory.at(1 << 18, 16 * k, dtype), n: 16, bias: None, out }];
        let work = FewRows { x, rows, k, norm: None, matrices: &matrices, residual: None, glu: None };
        DecodeProgram::new(&device, &[DecodeOp::FewRows(work)]).unwrap().is_some()
    };
    assert!(try_one(8, 64, dtype));
    assert!(!try_one(9, 64, dtype), "too many rows");
    assert!(!try_one(1, 40, dtype), "k no multiple of 32");
    assert!(!try_one(1, 64, Dtype::F32), "single precision");
    assert!(DecodeProgram::new(&device, &[]).unwrap().is_none());
    let decoder = Decoder::new(&device, Model { layers: 1, dim: 32, ..SMALL }, dtype, 1, 4);
    decoder.operations(&mut |op| {
        if matches!(op, DecodeOp::Attention(_)) {
            assert!(DecodeProgram::new(&device, &[op]).unwrap().is_none(), "heads of 32");
        }
    });
    let k = 64;
    let matrices = [Matrix { weight: memory.at(0, 8, dtype), n: 16, bias: None, out: memory.at(0, 16, dtype) }];
    let x = memory.at(0, k, dtype);
    let short = FewRows { x, rows: 1, k, norm: None, matrices: &matrices, residual: None, glu: None };
    assert!(DecodeProgram::new(&device, &[DecodeOp::FewRows(short)]).is_err(), "a short weight");
}

/// Microseconds of a run within a captured graph.
fn microseconds(device: &Device, work: impl Fn() -> Result<(), CudaError>) -> f64 {
    work().unwrap();
    let graph = device.capture(&work).unwrap();
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    device.synchronize().unwrap();
    let (rounds, start) = (30, Instant::now());
    for _ in 0..rounds {
        graph.launch().unwrap();
    }
    device.synchronize().unwrap();
    start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
}

#[test]
#[ignore = "a measurement"]
fn speed_of_a_token() {
    let Some(device) = able() else { return };
    let qwen = Model { head_norms: true, window: None, vocabulary: 151_936, dim: 128, kv_heads: 8, ..SMALL };
    for model in [
        Model { name: "0.6B", layers: 28, hidden: 1024, heads: 16, middle: 3072, ..qwen },
        Model { name: "4B", layers: 36, hidden: 2560, heads: 32, middle: 9728, ..qwen },
    ] {
        for rows in [1, 2, 4, 8] {
            let decoder = Decoder::new(&device, model, Dtype::Bf16, rows, 8);
            decoder.set_positions(&device, &vec![400; rows]);
            let bytes = (model.layers * model.layer_elements() + model.vocabulary * model.hidden) as f64 * 2.0;
            let show = |what: &str, us: f64| {
                println!("{:>5} rows {rows} {what:>32}: {us:8.1} us {:6.2} TB/s", model.name, bytes / us / 1e6);
            };
            show("separate launches", microseconds(&device, || decoder.separate(&device)));
            let mut program = decoder.program(&device);
            let stages = program.stages();
            let measure = |without_waits, without_attention| Measured { without_waits, without_attention };
            show(&format!("one launch, {stages} stages"), microseconds(&device, || program.run(&device)));
            for (what, measured) in [
                ("without attention", measure(false, true)),
                ("without waits", measure(true, false)),
                ("without both", measure(true, true)),
            ] {
                show(what, microseconds(&device, || program.run_measured(&device, measured)));
            }
            for most in [8, 5, 3] {
                if rows == 1 && most < stages {
                    program.limit_stages(most);
                    show(&format!("{most} stages"), microseconds(&device, || program.run(&device)));
                    show(
                        &format!("{most} stages, without both"),
                        microseconds(&device, || program.run_measured(&device, measure(true, true))),
                    );
                }
            }
        }
    }
}
