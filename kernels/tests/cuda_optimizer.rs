//! AdamW, the norm of all gradients and clipping on the GPU against the CPU's.

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::AdamW;
use swift_kernels::cuda::{self, Device, Dtype};

fn settings(step: u64) -> AdamW {
    AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step }
}

#[test]
fn steps_equal_those_of_the_cpu() {
    let Some(device) = device() else { return };
    for (length, offset) in [(1, 0), (13, 0), (1003, 1), (70_000, 0)] {
        for working in [None, Some(Dtype::Bf16), Some(Dtype::F16), Some(Dtype::F32)] {
            let what = |name: &str| format!("{name} of {length} at {offset}, working {working:?}");
            let start = random(1, length, 1.0);
            let on = |values: &[f32]| {
                let padded = [vec![0.0; offset], values.to_vec()].concat();
                device.from_f32(&padded, Dtype::F32).unwrap()
            };
            let (gp, gm, gv) = (on(&start), on(&vec![0.0; length]), on(&vec![0.0; length]));
            let clip = device.from_f32(&[0.5], Dtype::F32).unwrap();
            let copy = working.map(|dtype| (dtype, device.from_f32(&vec![f32::NAN; offset + length], dtype).unwrap()));
            let (mut p, mut m, mut v) = (start, vec![0.0; length], vec![0.0; length]);
            let at = |buffer: &cuda::Buffer, dtype| buffer.tensor(dtype).slice(offset, length);
            let w = copy.as_ref().map(|(dtype, buffer)| at(buffer, *dtype));
            for step in 1..=5 {
                let g = random(100 + step, length, 1.0);
                let gg = on(&g);
                let [tp, tg, tm, tv] = [&gp, &gg, &gm, &gv].map(|b| at(b, Dtype::F32));
                cuda::adamw(&device, tp, tg, tm, tv, w, &settings(step), clip.tensor(Dtype::F32)).unwrap();
                cpu::adamw(&mut p, &g, 0.5, &mut m, &mut v, &settings(step));
            }
            for (name, buffer, want) in [("p", &gp, &p), ("m", &gm, &m), ("v", &gv, &v)] {
                close(&what(name), &device.to_f32(at(buffer, Dtype::F32)).unwrap(), want, 1e-6);
            }
            if let (Some(w), Some(dtype)) = (w, working) {
                let values = device.to_f32(at(&gp, Dtype::F32)).unwrap();
                assert_eq!(device.to_f32(w).unwrap(), round(values, dtype), "{}", what("working copy"));
            }
        }
    }
}

/// Both sums are f64, in other orders. Adding `n` squares one after another may be off by `n` roundings of 1.1e-16, here
/// 3e-10, and is by about the root of that many: 1e-12 for three million, seen on an H200. The bound is ten times that.
#[test]
fn norms_and_factors() {
    let Some(device) = device() else { return };
    let out = device.allocate(8).unwrap();
    let (factor, norm) = (device.allocate(4).unwrap(), device.allocate(4).unwrap());
    for (length, offset) in [(0, 0), (1, 0), (3, 0), (1024, 0), (1027, 0), (5000, 1), (3_000_003, 0)] {
        let x = random(1, length + offset, 1.0);
        // One more, because a copy of nothing is no copy.
        let padded = [x.clone(), vec![7.0]].concat();
        let gx = device.from_f32(&padded, Dtype::F32).unwrap();
        let total = |device: &Device| {
            let mut bytes = [1u8; 8];
            let x = gx.tensor(Dtype::F32).slice(offset, length);
            cuda::sum_squares(device, x, out.tensor(Dtype::U8)).unwrap();
            device.download(out.tensor(Dtype::U8), &mut bytes).unwrap();
            f64::from_le_bytes(bytes)
        };
        let got = total(&device);
        assert_eq!(got.to_bits(), total(&device).to_bits(), "{length}: other bits in another run");
        let want: f64 = x[offset..].iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        assert!((got - want).abs() <= 1e-11 * want, "{length}: {got}, not {want}");
        for max_norm in [0.5f32, 1e9, f32::INFINITY] {
            let (f, n) = (factor.tensor(Dtype::F32), norm.tensor(Dtype::F32));
            cuda::clip_factor(&device, out.tensor(Dtype::U8), max_norm, f, n).unwrap();
            let wanted = (f64::from(max_norm) / (want.sqrt() + 1e-6)).min(1.0) as f32;
            close(&format!("factor of {length} at {max_norm}"), &device.to_f32(f).unwrap(), &[wanted], 1e-6);
            close(&format!("norm of {length}"), &device.to_f32(n).unwrap(), &[want.sqrt() as f32], 1e-6);
        }
    }
}

#[test]
fn gradients_that_are_not_finite_change_nothing() {
    let Some(device) = device() else { return };
    for bad in [f32::NAN, f32::INFINITY] {
        let length = 3001;
        let mut g = random(1, length, 1.0);
        g[length - 1] = bad;
        let start = random(2, length, 1.0);
        let on = |values: &[f32]| device.from_f32(values, Dtype::F32).unwrap();
        let (gg, gp, gm, gv) = (on(&g), on(&start), on(&start), on(&start));
        let w = device.from_f32(&vec![3.0; length], Dtype::Bf16).unwrap();
        let (sum, factor, norm) = (device.allocate(8).unwrap(), on(&[1.0]), on(&[1.0]));
        let [g, p, m, v, factor, norm] = [&gg, &gp, &gm, &gv, &factor, &norm].map(|b| b.tensor(Dtype::F32));
        cuda::sum_squares(&device, g, sum.tensor(Dtype::U8)).unwrap();
        cuda::clip_factor(&device, sum.tensor(Dtype::U8), 1.0, factor, norm).unwrap();
        assert!(device.to_f32(factor).unwrap()[0].is_nan(), "factor with {bad}");
        assert!(!device.to_f32(norm).unwrap()[0].is_finite(), "norm with {bad}");
        cuda::adamw(&device, p, g, m, v, Some(w.tensor(Dtype::Bf16)), &settings(1), factor).unwrap();
        for (name, x) in [("p", p), ("m", m), ("v", v)] {
            assert_eq!(device.to_f32(x).unwrap(), start, "{name} with {bad}");
        }
        assert_eq!(device.to_f32(w.tensor(Dtype::Bf16)).unwrap(), vec![3.0; length], "working copy with {bad}");
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "a measurement is for reading")]
fn speed_beside_a_copy() {
    let Some(device) = device() else { return };
    let n = 64 << 20;
    let buffers: Vec<_> = (0..4).map(|_| device.allocate(n * 4).unwrap()).collect();
    let [p, g, m, v] = [0, 1, 2, 3].map(|i: usize| buffers[i].tensor(Dtype::F32));
    for x in [p, g, m, v] {
        device.zero(x).unwrap();
    }
    let working = device.allocate(n * 2).unwrap();
    let (clip, sum) = (device.from_f32(&[1.0], Dtype::F32).unwrap(), device.allocate(8).unwrap());
    let rate = |name: &str, bytes: usize, call: &dyn Fn()| {
        call();
        let best = (0..8)
            .map(|_| {
                device.start_profile();
                call();
                let rows = device.end_profile().unwrap();
                rows.iter().find(|row| row.name == name).map_or(f64::INFINITY, |row| row.milliseconds)
            })
            .fold(f64::INFINITY, f64::min);
        bytes as f64 / best / 1e6
    };
    let copy = rate("copy", 8 * n, &|| device.copy(p, g).unwrap());
    let adamw = rate("adamw", 30 * n, &|| {
        let w = Some(working.tensor(Dtype::Bf16));
        cuda::adamw(&device, p, g, m, v, w, &settings(1), clip.tensor(Dtype::F32)).unwrap();
    });
    let squares = rate("sum_squares_parts", 4 * n, &|| {
        cuda::sum_squares(&device, g, sum.tensor(Dtype::U8)).unwrap();
    });
    eprintln!("GB/s on 64 Mi parameters: copy {copy:.0}, adamw {adamw:.0}, sum_squares {squares:.0}");
}
