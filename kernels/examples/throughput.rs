//! Prints what the kernels reach at the shapes of SmolLM2-135M: matmuls against the bare library, attention, the loss,
//! reading speed in decoding, and the elementwise kernels. Medians; run it alone on the machine:
//! `cargo run --release -p swift-kernels --example throughput`.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(unsafe_code, reason = "calls the matmul library directly for comparison")]

use std::time::Instant;

use half::bf16;
use swift_kernels::*;

const ROWS: usize = 1024;

/// Median seconds of several runs, after one that warms up.
fn time(runs: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut seconds: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[runs / 2]
}

fn numbers(length: usize) -> Vec<f32> {
    (0..length).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// The library alone, as the kernels call it.
fn bare(m: usize, k: usize, n: usize, x: &[f32], w: &[f32], out: &mut [f32]) {
    assert!(x.len() == m * k && w.len() == n * k && out.len() == m * n);
    // SAFETY: the lengths above are those of the strides given.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.as_ptr(),
            1,
            k as isize,
            w.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

fn matmuls() -> f64 {
    println!(
        "{:>6} {:>6} {:>6}  {:>8} {:>8} {:>8} {:>8} {:>8}   GFLOP/s",
        "m", "k", "n", "bare", "f32", "bf16", "dx", "dw"
    );
    let mut layer = 0.0;
    for (k, n, per_layer, runs) in [
        (576, 576, 2.0, 9),
        (576, 192, 2.0, 9),
        (576, 1536, 2.0, 9),
        (1536, 576, 1.0, 9),
        (576, 8, 0.0, 9),
        (8, 1536, 0.0, 9),
        (576, 49_152, 0.0, 3),
    ] {
        let rows = if n > 10_000 { 170 } else { ROWS };
        let (x, w) = (numbers(rows * k), numbers(n * k));
        let w16: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
        let dy = numbers(rows * n);
        let (mut out, mut dx, mut dw) = (vec![0.0; rows * n], vec![0.0; rows * k], vec![0.0; n * k]);
        let rate = |seconds: f64| 2e-9 * (rows * k * n) as f64 / seconds;
        let library = time(runs, || bare(rows, k, n, &x, &w, &mut out));
        let forward = time(runs, || linear(&x, rows, k, Weight::F32(&w), n, None, 1.0, 0.0, &mut out));
        let half = time(runs, || linear(&x, rows, k, Weight::Bf16(&w16), n, None, 1.0, 0.0, &mut out));
        let input = time(runs, || linear_grad_input(&dy, rows, n, Weight::F32(&w), k, 1.0, 0.0, &mut dx));
        let weight = time(runs, || linear_grad_weight(&dy, &x, rows, n, k, 1.0, 0.0, &mut dw));
        layer += per_layer * forward;
        println!(
            "{rows:>6} {k:>6} {n:>6}  {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
            rate(library),
            rate(forward),
            rate(half),
            rate(input),
            rate(weight)
        );
    }
    println!("matmuls of one layer, forward: {:.2} ms", layer * 1e3);
    layer
}

fn attentions(layer: f64) {
    let shape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, value_dim: 64, scale: 0.125, soft_cap: None };
    let lengths = [512, 512];
    let (q, k, v) = (numbers(ROWS * 576), numbers(ROWS * 192), numbers(ROWS * 192));
    let (mut out, mut logsumexp) = (vec![0.0; ROWS * 576], vec![0.0; ROWS * 9]);
    let forward = time(15, || {
        attention(&q, &k, &v, &lengths, &shape, AttentionMask::Causal, &mut out, &mut logsumexp);
    });
    let dout = numbers(ROWS * 576);
    let (mut dq, mut dk, mut dv) = (vec![0.0; ROWS * 576], vec![0.0; ROWS * 192], vec![0.0; ROWS * 192]);
    let backward = time(15, || {
        attention_grad(
            &q,
            &k,
            &v,
            &out,
            &logsumexp,
            &dout,
            &lengths,
            &shape,
            AttentionMask::Causal,
            &mut dq,
            &mut dk,
            &mut dv,
        );
    });
    println!(
        "attention 2 x 512, 9/3 heads of 64, causal: forward {:.2} ms ({:.0} % of a layer's matmuls), backward {:.2} ms",
        forward * 1e3,
        100.0 * forward / layer,
        backward * 1e3
    );
    for length in [128, 2048] {
        let (keys, values) = (numbers(length * 192), numbers(length * 192));
        let seconds = time(50, || {
            attention_cached(&q[..576], &keys, &values, &shape, AttentionMask::Causal, &mut out[..576]);
        });
        println!("attention of one token with {length} cached: {:.1} us", seconds * 1e6);
    }
}

fn decoding() {
    let long = numbers(576 * 49_152);
    let seconds = time(9, || {
        std::hint::black_box(sum_squares(&long));
    });
    println!("reading memory: {:.1} GB/s", 4e-9 * long.len() as f64 / seconds);
    for (k, n) in [(576, 576), (576, 1536), (1536, 576), (576, 49_152)] {
        let (x, w) = (numbers(k), numbers(n * k));
        let w16: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
        let half: Vec<half::f16> = w.iter().map(|w| half::f16::from_f32(*w)).collect();
        let mut out = vec![0.0; n];
        let rate = |bytes: usize, seconds: f64| 1e-9 * (bytes * n * k) as f64 / seconds;
        let full = time(31, || linear(&x, 1, k, Weight::F32(&w), n, None, 1.0, 0.0, &mut out));
        let brain = time(31, || linear(&x, 1, k, Weight::Bf16(&w16), n, None, 1.0, 0.0, &mut out));
        let half = time(31, || linear(&x, 1, k, Weight::F16(&half), n, None, 1.0, 0.0, &mut out));
        println!(
            "one row, k {k:>5}, n {n:>5}: f32 {:.1}, bf16 {:.1}, f16 {:.1} GB/s",
            rate(4, full),
            rate(2, brain),
            rate(2, half)
        );
    }
}

fn others() {
    let wide = ROWS * 1536;
    let (a, b, dy) = (numbers(wide), numbers(wide), numbers(wide));
    let (mut c, mut d) = (vec![0.0; wide], vec![0.0; wide]);
    let weight = numbers(576);
    let narrow = ROWS * 576;
    let mut sums = vec![0.0; 576];
    let report = |name: &str, elements: usize, seconds: f64| {
        println!("{name:<22} {:>8.1} us, {:>5.2} ns an element", seconds * 1e6, seconds * 1e9 / elements as f64);
    };
    report("silu glu", wide, time(15, || glu(Activation::Silu, &a, &b, &mut c)));
    report("silu glu gradient", wide, time(15, || glu_grad(Activation::Silu, &a, &b, &dy, &mut c, &mut d)));
    report("gelu", wide, time(15, || unary(Activation::Gelu, &a, &mut c)));
    report("softmax of 1536", wide, time(15, || softmax(&a, ROWS, 1536, &mut c)));
    report("add", wide, time(15, || add(&a, &b, &mut c)));
    report("dropout", wide, time(15, || dropout(&a, 0.1, 7, &mut c)));
    report("column sums", narrow, time(15, || column_sums(&a[..narrow], ROWS, 576, 0.0, &mut sums)));
    let norm = time(15, || rms_norm(&a[..narrow], ROWS, 576, Some(Weight::F32(&weight)), 0.0, 1e-5, &mut c[..narrow]));
    report("rms norm of 576", narrow, norm);
    let backward = time(15, || {
        let (x, dy) = (&a[..narrow], &dy[..narrow]);
        let dweight = Some(&mut sums[..]);
        rms_norm_grad(x, dy, ROWS, 576, Some(Weight::F32(&weight)), 0.0, 1e-5, &mut c[..narrow], false, dweight);
    });
    report("rms norm gradient", narrow, backward);
    let positions: Vec<u32> = (0..ROWS as u32).collect();
    let frequencies = numbers(32);
    let (mut cos, mut sin) = (vec![0.0; ROWS * 32], vec![0.0; ROWS * 32]);
    report("rope tables", ROWS * 32, time(15, || rope_tables(&positions, &frequencies, 1.0, &mut cos, &mut sin)));
    let rotation = time(15, || rope(&a[..narrow], ROWS, 9, 64, 64, &cos, &sin, false, false, &mut c[..narrow]));
    report("rope", narrow, rotation);
    let settings = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 3 };
    let mut v = vec![1.0; wide];
    report("adamw", wide, time(15, || adamw(&mut c, &a, 1.0, &mut d, &mut v, &settings)));
}

fn losses() {
    let (k, vocab) = (576, 49_152);
    let (h, table) = (numbers(ROWS * k), numbers(vocab * k));
    let targets: Vec<u32> = (0..ROWS as u32).collect();
    let weights = vec![1.0; ROWS];
    let mut dh = vec![0.0; ROWS * k];
    let mut run = |gradient: bool| {
        let dh = gradient.then_some(&mut dh[..]);
        let table = Weight::F32(&table);
        linear_cross_entropy(&h, ROWS, k, table, vocab, None, &targets, &weights, None, 1.0, 1.0, dh, None, None);
    };
    let forward = time(3, || run(false));
    let both = time(3, || run(true));
    let flops = 2e-9 * (ROWS * k * vocab) as f64;
    println!(
        "linear and cross entropy, {ROWS} x {k} x {vocab}: forward {:.0} ms ({:.1} GFLOP/s), with dh {:.0} ms ({:.1})",
        forward * 1e3,
        flops / forward,
        both * 1e3,
        2.0 * flops / both
    );
}

fn main() {
    println!("{} threads", rayon::current_num_threads());
    let layer = matmuls();
    attentions(layer);
    decoding();
    others();
    losses();
}
