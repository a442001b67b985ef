//! Products of few rows on the GPU against the CPU kernels: every number of rows, sizes that are no multiples, norm, bias,
//! residual, gated units. Ignored: microseconds and bandwidth for the shapes of decoding.

#![allow(clippy::print_stdout, reason = "measurements are printed")]

mod common;

use std::time::Instant;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::cuda::{self, Buffer, Device, Dtype, FewRows, Matrix, Norm, Tensor};
use swift_kernels::{Activation, Weight};

fn tolerance(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => 1e-5,
        Dtype::F16 => 1e-3,
        _ => 8e-3,
    }
}

/// A case: what is computed, on what sizes.
#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    k: usize,
    n: Vec<usize>,
    /// The norm's offset, and whether it has a weight.
    norm: Option<(f32, bool)>,
    bias: bool,
    /// In place of the output, or apart from it.
    residual: Option<bool>,
    glu: Option<Activation>,
    wide: bool,
}

impl Case {
    fn plain(rows: usize, k: usize, n: &[usize]) -> Self {
        Self { rows, k, n: n.to_vec(), norm: None, bias: false, residual: None, glu: None, wide: false }
    }
}

/// A case's operands on the device, and what the CPU makes of them.
struct Operands {
    dtype: Dtype,
    x: Buffer,
    norm: Buffer,
    weights: Vec<Buffer>,
    biases: Vec<Buffer>,
    residual: Buffer,
    want: Vec<Vec<f32>>,
}

const EPS: f32 = 1e-6;

fn operands(device: &Device, case: &Case, dtype: Dtype) -> Operands {
    let Case { rows, k, .. } = *case;
    let numbers = |seed, n, scale| round(random(seed, n, scale), dtype);
    let x = numbers(1, rows * k, 2.0);
    let norm: Vec<f32> = random(2, k, 0.5).iter().map(|w| w + 1.0).collect();
    let weights: Vec<Vec<f32>> =
        case.n.iter().enumerate().map(|(i, n)| numbers(3 + i as u64, n * k, 2.0 / (k as f32).sqrt())).collect();
    let biases: Vec<Vec<f32>> = case.n.iter().enumerate().map(|(i, n)| numbers(13 + i as u64, *n, 1.0)).collect();
    let residual = numbers(23, rows * case.n[0], 2.0);

    let mut input = x.clone();
    if let Some((offset, weighted)) = case.norm {
        cpu::rms_norm(&x, rows, k, weighted.then_some(Weight::F32(&norm)), offset, EPS, &mut input);
        input = round(input, dtype);
    }
    let mut want: Vec<Vec<f32>> = Vec::new();
    for ((n, weight), bias) in case.n.iter().zip(&weights).zip(&biases) {
        let mut out = vec![f32::NAN; rows * n];
        let bias = case.bias.then_some(Weight::F32(bias));
        cpu::linear(&input, rows, k, Weight::F32(weight), *n, bias, 1.0, 0.0, &mut out);
        want.push(out);
    }
    if let Some(activation) = case.glu {
        let (gate, up) = (round(want[0].clone(), dtype), round(want[1].clone(), dtype));
        cpu::glu(activation, &gate, &up, &mut want[0]);
        want.truncate(1);
    }
    if case.residual.is_some() {
        cpu::add_assign(&mut want[0], &residual);
    }
    let on = |values: &[f32], dtype| device.from_f32(values, dtype).unwrap();
    Operands {
        dtype,
        x: on(&x, dtype),
        norm: on(&norm, Dtype::F32),
        weights: weights.iter().map(|w| on(w, dtype)).collect(),
        biases: biases.iter().map(|b| on(b, dtype)).collect(),
        residual: on(&residual, dtype),
        want,
    }
}

/// The outputs of rows `first..first + rows`.
fn run(device: &Device, case: &Case, on: &Operands, first: usize, rows: usize) -> Vec<Vec<f32>> {
    let dtype = on.dtype;
    let out_dtype = if case.wide { Dtype::F32 } else { dtype };
    let of = |buffer: &Buffer, width: usize| buffer.tensor(dtype).slice(first * width, rows * width);
    let outs: Vec<Buffer> =
        case.n.iter().map(|n| device.from_f32(&vec![f32::NAN; rows * n], out_dtype).unwrap()).collect();
    let out_of = |i: usize| outs[i].at(0, rows * case.n[i], out_dtype);
    let residual = case.residual.map(|in_place| {
        let residual = of(&on.residual, case.n[0]);
        if in_place {
            device.copy(residual, out_of(0)).unwrap();
            out_of(0)
        } else {
            residual
        }
    });
    let matrices: Vec<Matrix> = (0..case.n.len())
        .map(|i| Matrix {
            weight: on.weights[i].at(0, case.n[i] * case.k, dtype),
            n: case.n[i],
            bias: case.bias.then(|| on.biases[i].at(0, case.n[i], dtype)),
            out: out_of(i),
        })
        .collect();
    let norm = case.norm.map(|(offset, weighted)| Norm {
        weight: weighted.then(|| on.norm.at(0, case.k, Dtype::F32)),
        offset,
        eps: EPS,
    });
    let work = FewRows { x: of(&on.x, case.k), rows, k: case.k, norm, matrices: &matrices, residual, glu: case.glu };
    cuda::few_rows(device, &work).unwrap();
    (0..on.want.len()).map(|i| device.to_f32(out_of(i)).unwrap()).collect()
}

fn compare(device: &Device, case: &Case, dtype: Dtype) {
    let on = operands(device, case, dtype);
    let got = run(device, case, &on, 0, case.rows);
    for (i, (got, want)) in got.iter().zip(&on.want).enumerate() {
        // The norm's rounding to 16 bits falls on the other side now and then.
        close(&format!("{dtype:?} matrix {i} of {case:?}"), got, want, tolerance(dtype));
    }
}

#[test]
fn every_number_of_rows() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for rows in 1..=16 {
            compare(&device, &Case::plain(rows, 1024, &[300]), dtype);
        }
    }
}

#[test]
fn sizes_that_are_no_multiples() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for k in [1, 7, 8, 33, 40, 100, 264, 1000, 1032, 2056] {
            for n in [1, 9, 133, 1001] {
                for rows in [1, 3, 11] {
                    let norm = (n == 9).then_some((0.0, true));
                    compare(&device, &Case { norm, ..Case::plain(rows, k, &[n]) }, dtype);
                }
            }
        }
    }
}

#[test]
fn shapes_of_models() {
    let Some(device) = device() else { return };
    for rows in [1, 8, 16] {
        for (k, n) in
            [(1024, 1024), (2048, 1024), (3072, 1024), (2560, 4096), (4096, 2560), (9728, 2560), (1024, 151_936)]
        {
            compare(&device, &Case { wide: n > 100_000, ..Case::plain(rows, k, &[n]) }, Dtype::Bf16);
        }
    }
}

#[test]
fn several_matrices_share_a_launch() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for rows in [1, 2, 5, 16] {
            for n in [vec![2048, 1024, 1024], vec![13, 5, 1, 30], vec![100, 7]] {
                for norm in [None, Some((0.0, true)), Some((1.0, true)), Some((0.0, false))] {
                    compare(&device, &Case { norm, bias: true, ..Case::plain(rows, 1024, &n) }, dtype);
                }
            }
        }
        compare(&device, &Case { wide: true, ..Case::plain(3, 520, &[40, 24]) }, dtype);
    }
}

#[test]
fn residuals_in_place_and_apart() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for rows in [1, 4, 9] {
            for in_place in [false, true] {
                for (k, n) in [(2048, 1024), (3072, 9000), (30, 17)] {
                    let case = Case { residual: Some(in_place), bias: n == 17, ..Case::plain(rows, k, &[n]) };
                    compare(&device, &case, dtype);
                }
            }
        }
    }
}

#[test]
fn gated_units() {
    let Some(device) = device() else { return };
    use Activation::*;
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (i, activation) in
            [Silu, Gelu, GeluTanh, Relu, Sigmoid, Tanh, Exp, Square, Neg, Softplus, Relu2].into_iter().enumerate()
        {
            let (rows, n) = ([1, 3, 8, 11, 16][i % 5], [3072, 77, 500][i % 3]);
            let case = Case {
                glu: Some(activation),
                norm: (i % 2 == 0).then_some((0.0, true)),
                bias: i % 3 == 0,
                ..Case::plain(rows, 1024, &[n, n])
            };
            compare(&device, &case, dtype);
        }
    }
    let case = Case { glu: Some(Silu), norm: Some((0.0, true)), ..Case::plain(1, 2560, &[9728, 9728]) };
    compare(&device, &case, Dtype::Bf16);
    compare(&device, &Case { rows: 16, ..case }, Dtype::Bf16);
}

#[test]
fn a_rows_bits_depend_on_no_other_row() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for case in [
            Case { norm: Some((0.0, true)), ..Case::plain(16, 1024, &[2048, 1024, 1024]) },
            Case { residual: Some(false), ..Case::plain(16, 9728, &[300]) },
            Case { norm: Some((0.0, true)), glu: Some(Activation::Silu), ..Case::plain(16, 2560, &[700, 700]) },
            Case::plain(16, 100, &[50]),
        ] {
            let on = operands(&device, &case, dtype);
            let all = run(&device, &case, &on, 0, 16);
            for (first, rows) in [(0, 16), (0, 1), (5, 1), (15, 1), (3, 2), (1, 7), (8, 8), (2, 13)] {
                for (i, got) in run(&device, &case, &on, first, rows).iter().enumerate() {
                    let n = case.n[i];
                    let want = &all[i][first * n..(first + rows) * n];
                    let differs = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
                    assert_eq!(differs, None, "{dtype:?} rows {first}+{rows}, matrix {i} of {case:?}");
                }
            }
        }
    }
}

#[test]
fn a_chain_in_a_graph_equals_waiting_after_every_launch() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    let (hidden, wide, layers) = (1024, 3072, 12);
    let upload = |seed, n: usize, scale| device.from_f32(&random(seed, n, scale), dtype).unwrap();
    let up: Vec<Buffer> = (0..2 * layers).map(|i| upload(i as u64, wide * hidden, 0.05)).collect();
    let down: Vec<Buffer> = (0..layers).map(|i| upload(100 + i as u64, wide * hidden, 0.02)).collect();
    let start = upload(7, hidden, 1.0);
    let (x, middle) = (upload(8, hidden, 1.0), upload(9, wide, 1.0));
    let layer = |i: usize| {
        let gate_up = [0, 1].map(|j| Matrix {
            weight: up[2 * i + j].tensor(dtype),
            n: wide,
            bias: None,
            out: middle.tensor(dtype),
        });
        let norm = Some(Norm { weight: None, offset: 0.0, eps: EPS });
        let (x, middle) = (x.tensor(dtype), middle.tensor(dtype));
        let work =
            FewRows { x, rows: 1, k: hidden, norm, matrices: &gate_up, residual: None, glu: Some(Activation::Silu) };
        cuda::few_rows(&device, &work)?;
        let matrices = [Matrix { weight: down[i].tensor(dtype), n: hidden, bias: None, out: x }];
        let residual = Some(x);
        cuda::few_rows(
            &device,
            &FewRows { x: middle, rows: 1, k: wide, norm: None, matrices: &matrices, residual, glu: None },
        )
    };
    device.copy(start.tensor(dtype), x.tensor(dtype)).unwrap();
    for i in 0..layers {
        layer(i).unwrap();
        device.synchronize().unwrap();
    }
    let want = device.to_f32(x.tensor(dtype)).unwrap();
    let graph = device.capture(|| (0..layers).try_for_each(layer)).unwrap();
    for round in 0..50 {
        device.copy(start.tensor(dtype), x.tensor(dtype)).unwrap();
        graph.launch().unwrap();
        assert_eq!(device.to_f32(x.tensor(dtype)).unwrap(), want, "round {round}");
    }
    assert!(want.iter().all(|x| x.is_finite()) && want.iter().any(|x| *x != 0.0), "the chain came to nothing");
}

#[test]
fn wrong_operands_are_errors() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    let buffer = device.from_f32(&vec![0.0; 64 * 64], dtype).unwrap();
    let at = |start: usize, n: usize| buffer.tensor(dtype).slice(start, n);
    let matrix = Matrix { weight: at(0, 64 * 8), n: 8, bias: None, out: at(2048, 16) };
    let right =
        FewRows { x: at(1024, 128), rows: 2, k: 64, norm: None, matrices: &[matrix], residual: None, glu: None };
    cuda::few_rows(&device, &right).unwrap();
    let norm = Some(Norm { weight: Some(at(0, 64)), offset: 0.0, eps: EPS });
    let matrices = |m: Matrix| vec![m];
    let short = matrices(Matrix { weight: at(0, 64 * 7), ..matrix });
    let over = matrices(Matrix { out: at(1100, 16), ..matrix });
    for (what, wrong) in [
        ("x", FewRows { x: at(1024, 127), ..right }),
        ("rows", FewRows { x: at(1024, 17 * 64), rows: 17, ..right }),
        ("weight", FewRows { matrices: &short, ..right }),
        ("no matrix", FewRows { matrices: &[], ..right }),
        ("overlap", FewRows { matrices: &over, ..right }),
        ("norm in bf16", FewRows { norm, ..right }),
        ("glu of one", FewRows { glu: Some(Activation::Silu), ..right }),
        ("residual", FewRows { residual: Some(at(2050, 16)), ..right }),
    ] {
        assert!(cuda::few_rows(&device, &wrong).is_err(), "{what} was accepted");
    }
}

/// Memory of this many bytes with finite bf16 numbers that differ.
fn filled(device: &Device, bytes: usize) -> Buffer {
    let buffer = device.allocate(bytes).unwrap();
    let block = device.from_f32(&random(1, 1 << 23, 0.05), Dtype::Bf16).unwrap();
    let mut at = 0;
    while at < bytes {
        let part = block.bytes().min(bytes - at);
        device.copy(block.at(0, part, Dtype::U8), buffer.at(at, part, Dtype::U8)).unwrap();
        at += part;
    }
    buffer
}

/// Microseconds of one of `launches` that the work makes, within a captured graph.
fn microseconds(device: &Device, launches: usize, work: impl Fn() -> Result<(), cuda::CudaError>) -> f64 {
    work().unwrap();
    let graph = device.capture(&work).unwrap();
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    device.synchronize().unwrap();
    let (rounds, start) = (10, Instant::now());
    for _ in 0..rounds {
        graph.launch().unwrap();
    }
    device.synchronize().unwrap();
    start.elapsed().as_secs_f64() * 1e6 / (rounds * launches) as f64
}

#[test]
#[ignore = "a measurement"]
fn speed_of_shapes() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    let space = filled(&device, 1 << 30);
    println!("{:>28} {:>5} {:>9} {:>7}", "matrices x k", "rows", "us", "TB/s");
    for rows in [1, 8, 16] {
        for (k, n, norm, glu) in [
            (1024, vec![2048, 1024, 1024], true, false),
            (2048, vec![1024], false, false),
            (1024, vec![3072, 3072], true, true),
            (3072, vec![1024], false, false),
            (2560, vec![4096, 1024, 1024], true, false),
            (4096, vec![2560], false, false),
            (2560, vec![9728, 9728], true, true),
            (9728, vec![2560], false, false),
            (1024, vec![151_936], true, false),
            (2560, vec![151_936], true, false),
        ] {
            let total: usize = n.iter().sum();
            let x = filled(&device, rows * k * 2);
            let factor = filled(&device, k * 4);
            let out = device.allocate(rows * total * 4).unwrap();
            let elements = total * k;
            let copies = space.bytes() / 2 / elements;
            let launches = 100;
            let time = microseconds(&device, launches, || {
                for launch in 0..launches {
                    let mut start = launch % copies * elements;
                    let mut column = 0;
                    let matrices: Vec<Matrix> = n
                        .iter()
                        .map(|n| {
                            let weight = space.tensor(dtype).slice(start, n * k);
                            let out = out.tensor(dtype).slice(column * rows, rows * n);
                            start += n * k;
                            column += n;
                            Matrix { weight, n: *n, bias: None, out }
                        })
                        .collect();
                    let work = FewRows {
                        x: x.tensor(dtype),
                        rows,
                        k,
                        norm: norm.then(|| Norm { weight: Some(factor.tensor(Dtype::F32)), offset: 0.0, eps: EPS }),
                        matrices: &matrices,
                        residual: None,
                        glu: glu.then_some(Activation::Silu),
                    };
                    cuda::few_rows(&device, &work)?;
                }
                Ok(())
            });
            let shape = format!("{n:?} x {k}{}", if glu { " glu" } else { "" });
            println!("{shape:>28} {rows:>5} {time:>9.2} {:>7.2}", elements as f64 * 2.0 / time / 1e6);
        }
    }
}

/// What parts of a launch cost: with and without the norm, and from one weight row on a multiprocessor (all that is not
/// reading weights) to 32 tiles.
#[test]
#[ignore = "a measurement"]
fn speed_of_parts() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    let space = filled(&device, 1 << 30);
    let blocks = device.multiprocessors() as usize;
    for k in [1024, 2560, 9728] {
        for rows in [1, 4, 8, 16] {
            let x = filled(&device, rows * k * 2);
            let factor = filled(&device, k * 4);
            let mut line = format!("k {k:4} rows {rows:2}: us by weight rows of a block");
            for per_block in [1, 8, 16, 32, 64, 256] {
                let n = per_block * blocks;
                let out = device.allocate(rows * n * 2).unwrap();
                let copies = space.bytes() / 2 / (n * k);
                if copies == 0 {
                    continue;
                }
                line += &format!(", {per_block}:");
                for norm in [false, true] {
                    let norm = norm.then(|| Norm { weight: Some(factor.tensor(Dtype::F32)), offset: 0.0, eps: EPS });
                    let launches = 50;
                    let time = microseconds(&device, launches, || {
                        for launch in 0..launches {
                            let weight = space.tensor(dtype).slice(launch % copies * n * k, n * k);
                            let matrices = [Matrix { weight, n, bias: None, out: out.tensor(dtype) }];
                            let x = x.tensor(dtype);
                            let work = FewRows { x, rows, k, norm, matrices: &matrices, residual: None, glu: None };
                            cuda::few_rows(&device, &work)?;
                        }
                        Ok(())
                    });
                    line += &format!(" {time:.2}");
                }
            }
            println!("{line} (each without and with norm)");
        }
    }
}

/// Sizes of a decoder.
struct Model {
    name: &'static str,
    layers: usize,
    hidden: usize,
    queries: usize,
    keys: usize,
    middle: usize,
}

#[test]
#[ignore = "a measurement"]
fn speed_of_a_token_without_attention() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    for model in [
        Model { name: "0.6B", layers: 28, hidden: 1024, queries: 2048, keys: 1024, middle: 3072 },
        Model { name: "4B", layers: 36, hidden: 2560, queries: 4096, keys: 1024, middle: 9728 },
    ] {
        let Model { layers, hidden, queries, keys, middle, .. } = model;
        let vocabulary = 151_936;
        let layer_elements = hidden * (2 * queries + 2 * keys + 3 * middle);
        let weights = filled(&device, 2 * (layers * layer_elements + vocabulary * hidden));
        let factor = filled(&device, hidden * 4);
        for rows in [1, 8] {
            let part = |n: usize| filled(&device, rows * n * 2);
            let (x, q, k, v) = (part(hidden), part(queries), part(keys), part(keys));
            let (inner, logits) = (part(middle), device.allocate(rows * vocabulary * 4).unwrap());
            let step = || -> Result<(), cuda::CudaError> {
                let mut at = 0;
                let mut next = |n: usize, k: usize, out: Tensor| {
                    at += n * k;
                    Matrix { weight: weights.tensor(dtype).slice(at - n * k, n * k), n, bias: None, out }
                };
                let norm = Some(Norm { weight: Some(factor.tensor(Dtype::F32)), offset: 0.0, eps: EPS });
                let of = |b: &Buffer| b.tensor(dtype);
                let run = |x: Tensor, k, norm, matrices: &[Matrix], residual, glu| {
                    cuda::few_rows(&device, &FewRows { x, rows, k, norm, matrices, residual, glu })
                };
                for _ in 0..layers {
                    let m = [next(queries, hidden, of(&q)), next(keys, hidden, of(&k)), next(keys, hidden, of(&v))];
                    run(of(&x), hidden, norm, &m, None, None)?;
                    run(of(&q), queries, None, &[next(hidden, queries, of(&x))], Some(of(&x)), None)?;
                    let m = [next(middle, hidden, of(&inner)), next(middle, hidden, of(&inner))];
                    run(of(&x), hidden, norm, &m, None, Some(Activation::Silu))?;
                    run(of(&inner), middle, None, &[next(hidden, middle, of(&x))], Some(of(&x)), None)?;
                }
                let m = [next(vocabulary, hidden, logits.tensor(Dtype::F32))];
                run(of(&x), hidden, norm, &m, None, None)
            };
            let time = microseconds(&device, 1, step);
            let speed = weights.bytes() as f64 / time / 1e6;
            println!("{} {rows} rows: {time:.1} us for {} launches, {speed:.2} TB/s", model.name, 4 * layers + 1);
        }
    }
}
