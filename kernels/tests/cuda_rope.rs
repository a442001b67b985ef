//! Rotary embedding on the GPU, alone and with the norm before it, against the CPU kernels.

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::Weight;
use swift_kernels::cuda::{self, Dtype};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

/// Rows, heads, head_dim, dims: whole and partial rotation, heads of whole packs and not, heads wider than a warp holds.
const SHAPES: [(usize, usize, usize, usize); 13] = [
    (40, 3, 2, 2),
    (5, 16, 128, 128),
    (700, 8, 128, 128),
    (3, 2, 64, 64),
    (7, 3, 96, 96),
    (4, 2, 80, 32),
    (2, 5, 128, 64),
    (3, 2, 256, 64),
    (3, 1, 256, 256),
    (2, 3, 512, 512),
    (3, 2, 20, 12),
    (9, 2, 72, 72),
    (4, 3, 64, 0),
];

fn tolerance(dtype: Dtype) -> f32 {
    if dtype == Dtype::F32 { 1e-5 } else { 8e-3 }
}

/// Cosines and sines of some positions, by the CPU.
fn tables(rows: usize, dims: usize) -> (Vec<f32>, Vec<f32>) {
    let positions: Vec<u32> = (0..rows as u32).map(|row| row * 37 % 4096).collect();
    let inverse: Vec<f32> = (0..dims / 2).map(|i| 1e6f32.powf(-2.0 * i as f32 / dims as f32)).collect();
    let (mut cos, mut sin) = (vec![0.0; rows * dims / 2], vec![0.0; rows * dims / 2]);
    cpu::rope_tables(&positions, &inverse, 1.0, &mut cos, &mut sin);
    (cos, sin)
}

#[test]
fn tables_of_near_and_far_positions() {
    let Some(device) = device() else { return };
    let positions = [0u32, 1, 7, 4095, 131_071, 1_000_000, 16_777_217];
    for half in [1usize, 32, 48, 64] {
        let inverse: Vec<f32> = (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect();
        let n = positions.len() * half;
        let (mut cos, mut sin) = (vec![0.0; n], vec![0.0; n]);
        cpu::rope_tables(&positions, &inverse, 1.25, &mut cos, &mut sin);
        let on_gpu = [
            device.from_u32(&positions).unwrap(),
            device.from_f32(&inverse, Dtype::F32).unwrap(),
            device.from_f32(&vec![f32::NAN; n], Dtype::F32).unwrap(),
            device.from_f32(&vec![f32::NAN; n], Dtype::F32).unwrap(),
        ];
        let [p, f, c, s] = &on_gpu;
        let (c, s) = (c.tensor(Dtype::F32), s.tensor(Dtype::F32));
        cuda::rope_tables(&device, p.tensor(Dtype::U32), f.tensor(Dtype::F32), 1.25, c, s).unwrap();
        // Both round the same f64 numbers, of which the last bit may differ.
        for (what, got, want) in [("cos", c, &cos), ("sin", s, &sin)] {
            let got = device.to_f32(got).unwrap();
            close(what, &got, want, 1e-7);
            let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 3e-7, "{what}: {worst} apart, of {half} frequencies");
        }
    }
}

#[test]
fn rotation_and_its_gradient() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, heads, head_dim, dims) in SHAPES {
            let n = rows * heads * head_dim;
            let x = round(random(1, n, 2.0), dtype);
            let (cos, sin) = tables(rows, dims);
            let on = |v: &[f32]| device.from_f32(v, Dtype::F32).unwrap();
            let (gcos, gsin) = (on(&cos), on(&sin));
            let (gcos, gsin) = (gcos.tensor(Dtype::F32), gsin.tensor(Dtype::F32));
            for (interleaved, inverse) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut want = vec![0.0; n];
                cpu::rope(&x, rows, heads, head_dim, dims, &cos, &sin, interleaved, inverse, &mut want);
                let gx = device.from_f32(&x, dtype).unwrap();
                let gx = gx.tensor(dtype);
                let out = device.from_f32(&vec![f32::NAN; n], dtype).unwrap();
                for to in [out.tensor(dtype), gx] {
                    cuda::rope(&device, gx, rows, heads, head_dim, dims, gcos, gsin, interleaved, inverse, to).unwrap();
                    let case = format!(
                        "{dtype:?} [{rows}, {heads}, {head_dim}] dims {dims} interleaved {interleaved} inverse {inverse} in \
                         place {}",
                        to == gx
                    );
                    close(&case, &device.to_f32(to).unwrap(), &want, tolerance(dtype));
                }
            }
        }
    }
}

#[test]
fn norm_then_rotation_and_its_gradient() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, heads, head_dim, dims) in SHAPES {
            let (items, n) = (rows * heads, rows * heads * head_dim);
            let x = round(random(1, n, 2.0).into_iter().map(|x| x + 0.3).collect(), dtype);
            let dy = round(random(2, n, 1.0), dtype);
            let w = random(3, head_dim, 1.0);
            let (cos, sin) = tables(rows, dims);
            let on = |v: &[f32]| device.from_f32(v, Dtype::F32).unwrap();
            let (gcos, gsin, gw) = (on(&cos), on(&sin), on(&w));
            let (gcos, gsin) = (gcos.tensor(Dtype::F32), gsin.tensor(Dtype::F32));
            for (weighted, offset, interleaved) in [(true, 0.0, false), (true, 1.0, true), (false, 0.0, false)] {
                let case = format!(
                    "{dtype:?} [{rows}, {heads}, {head_dim}] dims {dims} weight {weighted} + {offset} interleaved \
                     {interleaved}"
                );
                let weight = weighted.then_some(Weight::F32(&w));
                let on_gpu = weighted.then(|| gw.tensor(Dtype::F32));
                let (mut normed, mut want) = (vec![0.0; n], vec![0.0; n]);
                cpu::rms_norm(&x, items, head_dim, weight, offset, 1e-6, &mut normed);
                cpu::rope(&normed, rows, heads, head_dim, dims, &cos, &sin, interleaved, false, &mut want);
                let (gx, gdy) = (device.from_f32(&x, dtype).unwrap(), device.from_f32(&dy, dtype).unwrap());
                let (gx, gdy) = (gx.tensor(dtype), gdy.tensor(dtype));
                let out = device.from_f32(&vec![f32::NAN; n], dtype).unwrap();
                let to = out.tensor(dtype);
                let shape = (rows, heads, head_dim);
                let forward = |to| {
                    let (rows, heads, head_dim) = shape;
                    cuda::norm_rope(
                        &device,
                        gx,
                        rows,
                        heads,
                        head_dim,
                        on_gpu,
                        offset,
                        1e-6,
                        dims,
                        gcos,
                        gsin,
                        interleaved,
                        to,
                    )
                    .unwrap();
                };
                forward(to);
                close(&format!("norm_rope {case}"), &device.to_f32(to).unwrap(), &want, tolerance(dtype));

                let (mut turned, mut want_dx, mut want_dw) = (vec![0.0; n], vec![0.0; n], w.clone());
                cpu::rope(&dy, rows, heads, head_dim, dims, &cos, &sin, interleaved, true, &mut turned);
                cpu::rms_norm_grad(
                    &x,
                    &turned,
                    items,
                    head_dim,
                    weight,
                    offset,
                    1e-6,
                    &mut want_dx,
                    false,
                    Some(&mut want_dw),
                );
                for (with_dweight, dx) in [(false, to), (true, to), (true, gdy)] {
                    let dw = on(&w);
                    let dweight = with_dweight.then(|| dw.tensor(Dtype::F32));
                    cuda::norm_rope_grad(
                        &device,
                        gx,
                        gdy,
                        rows,
                        heads,
                        head_dim,
                        on_gpu,
                        offset,
                        1e-6,
                        dims,
                        gcos,
                        gsin,
                        interleaved,
                        dx,
                        dweight,
                    )
                    .unwrap();
                    let case = format!("{case} in place {}", dx == gdy);
                    close(&format!("norm_rope dx {case}"), &device.to_f32(dx).unwrap(), &want_dx, tolerance(dtype));
                    if with_dweight {
                        // Two passes round the rotated gradient in between.
                        let got = device.to_f32(dw.tensor(Dtype::F32)).unwrap();
                        close(&format!("norm_rope dw {case}"), &got, &want_dw, tolerance(dtype));
                    }
                }
                forward(gx);
                close(&format!("norm_rope in place {case}"), &device.to_f32(gx).unwrap(), &want, tolerance(dtype));
            }
        }
    }
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr, reason = "a measurement is for reading")]
fn time() {
    let Some(device) = device() else { return };
    let (rows, head_dim, dtype) = (16_384, 128, Dtype::Bf16);
    for heads in [8, 16, 32] {
        let n = rows * heads * head_dim;
        let [x, dy, out] = [(); 3].map(|()| device.allocate(n * 2).unwrap());
        let [x, dy, out] = [&x, &dy, &out].map(|buffer| buffer.tensor(dtype));
        for tensor in [x, dy] {
            device.write_f32(&random(1, n, 1.0), tensor).unwrap();
        }
        let angles = device.from_f32(&vec![0.7; rows * head_dim / 2], Dtype::F32).unwrap();
        let (angles, w) = (angles.tensor(Dtype::F32), device.from_f32(&[1.0; 128], Dtype::F32).unwrap());
        let (weight, shape) = (Some(w.tensor(Dtype::F32)), (rows, heads, head_dim));
        let measure = |name: &str, bytes: usize, call: &dyn Fn()| {
            call();
            device.synchronize().unwrap();
            let start = std::time::Instant::now();
            (0..20).for_each(|_| call());
            device.synchronize().unwrap();
            let seconds = start.elapsed().as_secs_f64() / 20.0;
            eprintln!("{name}, {heads} heads: {:.1} us, {:.0} GB/s", seconds * 1e6, bytes as f64 / seconds / 1e9);
        };
        let tables = rows * head_dim * 4;
        let (rows, heads, head_dim) = shape;
        measure("norm_rope", 4 * n + tables, &|| {
            cuda::norm_rope(&device, x, rows, heads, head_dim, weight, 0.0, 1e-6, 128, angles, angles, false, out)
                .unwrap();
        });
        for dweight in [None, weight] {
            let name = if dweight.is_some() { "norm_rope_grad with dweight" } else { "norm_rope_grad" };
            measure(name, 6 * n + tables, &|| {
                cuda::norm_rope_grad(
                    &device, x, dy, rows, heads, head_dim, weight, 0.0, 1e-6, 128, angles, angles, false, out, dweight,
                )
                .unwrap();
            });
        }
    }
}

#[test]
fn wrong_operands_are_refused() {
    let Some(device) = device() else { return };
    let buffer = device.from_f32(&[1.0; 64], Dtype::F32).unwrap();
    let x = buffer.tensor(Dtype::F32);
    let angles = x.slice(0, 16);
    let rope = |rows, heads, head_dim, dims, cos| {
        cuda::rope(&device, x, rows, heads, head_dim, dims, cos, angles, false, false, x)
    };
    assert!(rope(2, 2, 16, 16, angles).is_ok());
    assert!(rope(2, 2, 16, 15, angles).is_err(), "odd dims");
    assert!(rope(2, 2, 16, 18, angles).is_err(), "more dims than numbers");
    assert!(rope(2, 2, 15, 14, angles).is_err(), "2 * 2 * 15 is not 64");
    assert!(rope(2, 2, 16, 16, x).is_err(), "too many cosines");
}
