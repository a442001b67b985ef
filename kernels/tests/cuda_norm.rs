//! Norms and softmax on the GPU against the CPU kernels.

#![allow(clippy::print_stderr, reason = "measurements, and tests that this GPU is too small for")]

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::Weight;
use swift_kernels::cuda::{self, Buffer, Device, Dtype, Tensor};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

/// Rows of one pack and of many, whole packs and not, groups of every size, more than is held in registers.
const SHAPES: [(usize, usize); 15] = [
    (1, 1),
    (3, 7),
    (1000, 8),
    (5, 33),
    (513, 64),
    (300, 80),
    (1000, 128),
    (17, 96),
    (9, 1001),
    (600, 1024),
    (7, 1536),
    (5, 2560),
    (4, 5003),
    (6, 8200),
    (3, 16384),
];

/// Of what is stored in `dtype`; sums of stored numbers are f32 and have the first.
fn tolerance(dtype: Dtype) -> f32 {
    if dtype == Dtype::F32 { 1e-5 } else { 8e-3 }
}

fn poisoned(device: &Device, n: usize, dtype: Dtype) -> Buffer {
    device.from_f32(&vec![f32::NAN; n], dtype).unwrap()
}

fn values(device: &Device, tensor: Tensor) -> Vec<f32> {
    device.to_f32(tensor).unwrap()
}

/// Numbers as stored, with a mean that is not 0.
fn numbers(seed: u64, n: usize, dtype: Dtype) -> Vec<f32> {
    round(random(seed, n, 2.0).into_iter().map(|x| x + 0.5).collect(), dtype)
}

#[test]
fn rms_norm_and_its_gradients() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, width) in SHAPES {
            let n = rows * width;
            let (x, dy, old) = (numbers(1, n, dtype), numbers(2, n, dtype), numbers(3, n, dtype));
            let w = random(4, width, 1.0);
            let on = |v: &[f32]| device.from_f32(v, dtype).unwrap();
            let (gx, gdy) = (on(&x), on(&dy));
            let gw = device.from_f32(&w, Dtype::F32).unwrap();
            for (weighted, offset, accumulate) in [(false, 0.0, false), (true, 0.0, true), (true, 1.0, false)] {
                let case = format!("{dtype:?} [{rows}, {width}] weight {weighted} offset {offset} add {accumulate}");
                let (weight, on_gpu) = (weighted.then_some(Weight::F32(&w)), weighted.then(|| gw.tensor(Dtype::F32)));
                let mut want = vec![0.0; n];
                cpu::rms_norm(&x, rows, width, weight, offset, 1e-6, &mut want);
                let out = poisoned(&device, n, dtype);
                cuda::rms_norm(&device, gx.tensor(dtype), rows, width, on_gpu, offset, 1e-6, out.tensor(dtype))
                    .unwrap();
                close(&format!("rms_norm {case}"), &values(&device, out.tensor(dtype)), &want, tolerance(dtype));

                // The gradient of a row of one number is 0 but for eps and rounding.
                if width == 1 {
                    continue;
                }
                let mut want = old.clone();
                let mut want_dw = w.clone();
                let dweight = weighted.then_some(&mut want_dw[..]);
                cpu::rms_norm_grad(&x, &dy, rows, width, weight, offset, 1e-6, &mut want, accumulate, dweight);
                for with_dweight in [false, true] {
                    let dx = if accumulate { on(&old) } else { poisoned(&device, n, dtype) };
                    let dw = device.from_f32(&w, Dtype::F32).unwrap();
                    let dweight = (with_dweight && weighted).then(|| dw.tensor(Dtype::F32));
                    cuda::rms_norm_grad(
                        &device,
                        gx.tensor(dtype),
                        gdy.tensor(dtype),
                        rows,
                        width,
                        on_gpu,
                        offset,
                        1e-6,
                        dx.tensor(dtype),
                        accumulate,
                        dweight,
                    )
                    .unwrap();
                    close(&format!("rms_norm dx {case}"), &values(&device, dx.tensor(dtype)), &want, tolerance(dtype));
                    if dweight.is_some() {
                        close(&format!("rms_norm dw {case}"), &values(&device, dw.tensor(Dtype::F32)), &want_dw, 2e-5);
                    }
                }
            }
        }
    }
}

#[test]
fn layer_norm_and_its_gradients() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, width) in SHAPES {
            // The gradient of a row of one number is 0 but for rounding.
            if width == 1 {
                continue;
            }
            let n = rows * width;
            let (x, dy, old) = (numbers(1, n, dtype), numbers(2, n, dtype), numbers(3, n, dtype));
            let (w, b) = (random(4, width, 1.0), random(5, width, 1.0));
            let on = |v: &[f32]| device.from_f32(v, dtype).unwrap();
            let (gx, gdy) = (on(&x), on(&dy));
            let (gw, gb) = (device.from_f32(&w, Dtype::F32).unwrap(), device.from_f32(&b, Dtype::F32).unwrap());
            for (weighted, accumulate) in [(false, true), (true, true), (true, false)] {
                let case = format!("{dtype:?} [{rows}, {width}] weight {weighted} add {accumulate}");
                let f32s = |buffer: &Buffer| weighted.then(|| buffer.tensor(Dtype::F32));
                let (weight, bias) = (weighted.then_some(Weight::F32(&w)), weighted.then_some(Weight::F32(&b)));
                let mut want = vec![0.0; n];
                cpu::layer_norm(&x, rows, width, weight, bias, 1e-5, &mut want);
                let out = poisoned(&device, n, dtype);
                let to = out.tensor(dtype);
                cuda::layer_norm(&device, gx.tensor(dtype), rows, width, f32s(&gw), f32s(&gb), 1e-5, to).unwrap();
                close(&format!("layer_norm {case}"), &values(&device, to), &want, tolerance(dtype));

                let (mut want, mut want_dw, mut want_db) = (old.clone(), w.clone(), b.clone());
                cpu::layer_norm_grad(
                    &x,
                    &dy,
                    rows,
                    width,
                    weight,
                    1e-5,
                    &mut want,
                    accumulate,
                    Some(&mut want_dw),
                    Some(&mut want_db),
                );
                for with_weight in [false, true] {
                    let dx = if accumulate { on(&old) } else { poisoned(&device, n, dtype) };
                    let (dw, db) = (device.from_f32(&w, Dtype::F32).unwrap(), device.from_f32(&b, Dtype::F32).unwrap());
                    let gradient = |buffer: &Buffer| with_weight.then(|| buffer.tensor(Dtype::F32));
                    cuda::layer_norm_grad(
                        &device,
                        gx.tensor(dtype),
                        gdy.tensor(dtype),
                        rows,
                        width,
                        f32s(&gw),
                        1e-5,
                        dx.tensor(dtype),
                        accumulate,
                        gradient(&dw),
                        gradient(&db),
                    )
                    .unwrap();
                    // Differences of near numbers, divided by a standard deviation: some bits are lost on both sides.
                    let dx_tolerance = tolerance(dtype).max(3e-5);
                    close(&format!("layer_norm dx {case}"), &values(&device, dx.tensor(dtype)), &want, dx_tolerance);
                    if with_weight {
                        close(
                            &format!("layer_norm dw {case}"),
                            &values(&device, dw.tensor(Dtype::F32)),
                            &want_dw,
                            2e-5,
                        );
                        close(
                            &format!("layer_norm db {case}"),
                            &values(&device, db.tensor(Dtype::F32)),
                            &want_db,
                            2e-5,
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn l2_norm_and_its_gradient() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, width) in [(5, 33), (300, 128), (7, 1536)] {
            let n = rows * width;
            let (x, dy) = (numbers(1, n, dtype), numbers(2, n, dtype));
            let (gx, gdy) = (device.from_f32(&x, dtype).unwrap(), device.from_f32(&dy, dtype).unwrap());
            let case = format!("{dtype:?} [{rows}, {width}]");
            let mut want = vec![0.0; n];
            cpu::l2_norm(&x, rows, width, 1e-6, &mut want);
            let out = poisoned(&device, n, dtype);
            cuda::l2_norm(&device, gx.tensor(dtype), rows, width, 1e-6, out.tensor(dtype)).unwrap();
            close(&format!("l2_norm {case}"), &values(&device, out.tensor(dtype)), &want, tolerance(dtype));
            cpu::l2_norm_grad(&x, &dy, rows, width, 1e-6, &mut want, false);
            // In place of the incoming gradient.
            let dx = gdy.tensor(dtype);
            cuda::l2_norm_grad(&device, gx.tensor(dtype), dx, rows, width, 1e-6, dx, false).unwrap();
            close(&format!("l2_norm dx {case}"), &values(&device, dx), &want, tolerance(dtype));
        }
    }
}

#[test]
fn a_sum_and_its_norm() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, width) in SHAPES {
            let n = rows * width;
            let (a, b, w) = (numbers(1, n, dtype), numbers(2, n, dtype), random(3, width, 1.0));
            let sum = round(a.iter().zip(&b).map(|(a, b)| a + b).collect(), dtype);
            let mut want = vec![0.0; n];
            cpu::rms_norm(&sum, rows, width, Some(Weight::F32(&w)), 1.0, 1e-6, &mut want);
            let (ga, gb) = (device.from_f32(&a, dtype).unwrap(), device.from_f32(&b, dtype).unwrap());
            let gw = device.from_f32(&w, Dtype::F32).unwrap();
            for in_place in [false, true] {
                let (other, out) = (poisoned(&device, n, dtype), poisoned(&device, n, dtype));
                let sum_out = if in_place { ga.tensor(dtype) } else { other.tensor(dtype) };
                cuda::add_rms_norm(
                    &device,
                    ga.tensor(dtype),
                    gb.tensor(dtype),
                    rows,
                    width,
                    Some(gw.tensor(Dtype::F32)),
                    1.0,
                    1e-6,
                    sum_out,
                    out.tensor(dtype),
                )
                .unwrap();
                let case = format!("{dtype:?} [{rows}, {width}] in place {in_place}");
                close(&format!("sum {case}"), &values(&device, sum_out), &sum, 1e-7);
                close(&format!("norm {case}"), &values(&device, out.tensor(dtype)), &want, tolerance(dtype));
            }
        }
    }
}

/// Rows of the output lie apart: whole packs and not; the columns between stay as they were.
#[test]
fn norms_into_wider_rows() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, width, stride) in [
            (1, 64, 64),
            (600, 1024, 1040),
            (33, 1024, 1056),
            (5, 128, 131),
            (9, 1001, 1008),
            (7, 2560, 2576),
            (3, 16384, 16400),
        ] {
            let n = rows * width;
            let (a, b, w) = (numbers(1, n, dtype), numbers(2, n, dtype), random(3, width, 1.0));
            let sum = round(a.iter().zip(&b).map(|(a, b)| a + b).collect(), dtype);
            let (ga, gb) = (device.from_f32(&a, dtype).unwrap(), device.from_f32(&b, dtype).unwrap());
            let gw = device.from_f32(&w, Dtype::F32).unwrap();
            let weight = Some(gw.tensor(Dtype::F32));
            // The shortest tensor that holds all rows, within a longer one that must stay as it is.
            let end = (rows - 1) * stride + width;
            for added in [false, true] {
                let case = format!("{dtype:?} [{rows}, {width}] to {stride}, added {added}");
                let mut want = vec![0.0; n];
                let x = if added { &sum } else { &a };
                cpu::rms_norm(x, rows, width, Some(Weight::F32(&w)), 1.0, 1e-6, &mut want);
                let (whole, sums) = (poisoned(&device, rows * stride, dtype), poisoned(&device, n, dtype));
                let (out, sum_out) = (whole.tensor(dtype).slice(0, end), sums.tensor(dtype));
                let (a, b) = (ga.tensor(dtype), gb.tensor(dtype));
                let run = |out: Tensor, stride: usize| {
                    if added {
                        cuda::add_rms_norm_strided(&device, a, b, rows, width, weight, 1.0, 1e-6, sum_out, out, stride)
                    } else {
                        cuda::rms_norm_strided(&device, a, rows, width, weight, 1.0, 1e-6, out, stride)
                    }
                };
                run(out, stride).unwrap();
                let got = values(&device, whole.tensor(dtype));
                let rows_of = |from: usize, to: usize| -> Vec<f32> {
                    got.chunks(stride).flat_map(|row| row[from..to].iter().copied()).collect()
                };
                close(&format!("norm {case}"), &rows_of(0, width), &want, tolerance(dtype));
                assert!(rows_of(width, stride).iter().all(|x| x.is_nan()), "{case}: columns between were written");
                if added {
                    close(&format!("sum {case}"), &values(&device, sum_out), &sum, 1e-7);
                }
                assert!(run(out.slice(0, end - 1), stride).is_err(), "{case}: one element too few");
                assert!(rows == 1 || run(out, width - 1).is_err(), "{case}: a stride below the width");
            }
        }
    }
}

#[test]
fn addresses_that_are_no_multiples_of_16_and_a_gradient_in_place() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        let (rows, width) = (37, 256);
        let n = rows * width;
        let (x, dy, w) = (numbers(1, n, dtype), numbers(2, n, dtype), random(3, width, 1.0));
        let mut want = vec![0.0; n];
        cpu::rms_norm(&x, rows, width, None, 0.0, 1e-6, &mut want);
        let shifted = |v: &[f32]| {
            let buffer = poisoned(&device, n + 1, dtype);
            device.write_f32(v, buffer.tensor(dtype).slice(1, n)).unwrap();
            buffer
        };
        let (gx, gdy) = (shifted(&x), shifted(&dy));
        let (gx, gdy) = (gx.tensor(dtype).slice(1, n), gdy.tensor(dtype).slice(1, n));
        let out = poisoned(&device, n + 1, dtype);
        let out = out.tensor(dtype).slice(1, n);
        cuda::rms_norm(&device, gx, rows, width, None, 0.0, 1e-6, out).unwrap();
        close(&format!("{dtype:?} rms_norm"), &values(&device, out), &want, tolerance(dtype));
        let mut want_dw = vec![1.0; width];
        let weight = Some(Weight::F32(&w));
        cpu::rms_norm_grad(&x, &dy, rows, width, weight, 0.0, 1e-6, &mut want, false, Some(&mut want_dw));
        let aligned = [device.from_f32(&x, dtype).unwrap(), device.from_f32(&dy, dtype).unwrap()];
        let gw = device.from_f32(&w, Dtype::F32).unwrap();
        for [x, dy] in [[gx, gdy], [aligned[0].tensor(dtype), aligned[1].tensor(dtype)]] {
            let dw = device.from_f32(&vec![1.0; width], Dtype::F32).unwrap();
            let (weight, dweight) = (Some(gw.tensor(Dtype::F32)), Some(dw.tensor(Dtype::F32)));
            cuda::rms_norm_grad(&device, x, dy, rows, width, weight, 0.0, 1e-6, dy, false, dweight).unwrap();
            close(&format!("{dtype:?} dx in place"), &values(&device, dy), &want, tolerance(dtype));
            close(&format!("{dtype:?} dw"), &values(&device, dw.tensor(Dtype::F32)), &want_dw, 2e-5);
        }
    }
}

#[test]
fn more_than_two_to_the_31_elements() {
    let Some(device) = device() else { return };
    let (rows, width, last) = ((1usize << 21) + 3, 1024, 4);
    if device.memory().unwrap().0 < 16 << 30 {
        eprintln!("skipped: the GPU has not 16 GiB free");
        return;
    }
    let (big, out) = (device.allocate(rows * width * 2).unwrap(), device.allocate(rows * width * 2).unwrap());
    let (big, out) = (big.tensor(Dtype::Bf16), out.tensor(Dtype::Bf16));
    device.zero(big).unwrap();
    let end = |tensor: Tensor| tensor.slice((rows - last) * width, last * width);
    let x = numbers(1, last * width, Dtype::Bf16);
    device.write_f32(&x, end(big)).unwrap();
    cuda::rms_norm(&device, big, rows, width, None, 0.0, 1e-6, out).unwrap();
    let mut want = vec![0.0; x.len()];
    cpu::rms_norm(&x, last, width, None, 0.0, 1e-6, &mut want);
    close("the last rows", &values(&device, end(out)), &want, 8e-3);
    // The gradient along x itself vanishes but for eps, so another direction: ones.
    let ones = vec![1.0; x.len()];
    device.write_f32(&ones, end(out)).unwrap();
    cuda::rms_norm_grad(&device, big, out, rows, width, None, 0.0, 1e-6, out, false, None).unwrap();
    cpu::rms_norm_grad(&x, &ones, last, width, None, 0.0, 1e-6, &mut want, false, None);
    close("the gradient of the last rows", &values(&device, end(out)), &want, 8e-3);
}

#[test]
fn softmax_and_its_gradient() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, width) in [(1, 1), (3, 7), (1000, 64), (5, 101), (33, 1024), (7, 1500), (3, 40_000), (2, 40_003)] {
            let n = rows * width;
            let x = round(random(1, n, 8.0), dtype);
            let (dy, old) = (numbers(2, n, dtype), numbers(3, n, dtype));
            let case = format!("{dtype:?} [{rows}, {width}]");
            let mut y = vec![0.0; n];
            cpu::softmax(&x, rows, width, &mut y);
            let on = |v: &[f32]| device.from_f32(v, dtype).unwrap();
            let out = poisoned(&device, n, dtype);
            cuda::softmax(&device, on(&x).tensor(dtype), rows, width, out.tensor(dtype)).unwrap();
            close(&format!("softmax {case}"), &values(&device, out.tensor(dtype)), &y, tolerance(dtype));
            // The gradient from the same stored probabilities on both sides. Of a row of one number it is 0, but for what
            // rounding leaves.
            let y = round(y, dtype);
            for accumulate in [false, true] {
                if width == 1 && !accumulate {
                    continue;
                }
                let mut want = old.clone();
                cpu::softmax_grad(&y, &dy, rows, width, &mut want, accumulate);
                let dx = if accumulate { on(&old) } else { poisoned(&device, n, dtype) };
                let (gy, gdy) = (on(&y), on(&dy));
                let to = dx.tensor(dtype);
                cuda::softmax_grad(&device, gy.tensor(dtype), gdy.tensor(dtype), rows, width, to, accumulate).unwrap();
                close(&format!("softmax dx {case} add {accumulate}"), &values(&device, to), &want, tolerance(dtype));
            }
        }
    }
    let x = device.from_f32(&[1000.0, f32::NEG_INFINITY, 1000.0], Dtype::F32).unwrap();
    cuda::softmax(&device, x.tensor(Dtype::F32), 1, 3, x.tensor(Dtype::F32)).unwrap();
    assert_eq!(values(&device, x.tensor(Dtype::F32)), [0.5, 0.0, 0.5]);
}

#[test]
fn the_same_bits_in_every_run() {
    let Some(device) = device() else { return };
    let (rows, width, dtype) = (5000, 256, Dtype::Bf16);
    let (x, dy) = (numbers(1, rows * width, dtype), numbers(2, rows * width, dtype));
    let (gx, gdy) = (device.from_f32(&x, dtype).unwrap(), device.from_f32(&dy, dtype).unwrap());
    let run = || {
        let (dx, sums) =
            (poisoned(&device, rows * width, dtype), device.from_f32(&vec![0.0; 2 * width], Dtype::F32).unwrap());
        let sums = sums.tensor(Dtype::F32);
        let (dw, db) = (Some(sums.slice(0, width)), Some(sums.slice(width, width)));
        let (x, dy) = (gx.tensor(dtype), gdy.tensor(dtype));
        cuda::layer_norm_grad(&device, x, dy, rows, width, None, 1e-5, dx.tensor(dtype), false, dw, db).unwrap();
        let mut all = values(&device, dx.tensor(dtype));
        all.extend(values(&device, sums));
        all
    };
    let first = run();
    assert!(first.iter().all(|x| x.is_finite()), "not finite");
    for _ in 0..5 {
        assert!(run().iter().zip(&first).all(|(a, b)| a.to_bits() == b.to_bits()), "other bits");
    }
}

#[test]
fn wrong_operands_are_refused() {
    let Some(device) = device() else { return };
    let buffer = device.from_f32(&[1.0; 64], Dtype::F32).unwrap();
    let x = buffer.tensor(Dtype::F32);
    assert!(cuda::rms_norm(&device, x, 3, 16, None, 0.0, 1e-6, x).is_err(), "3 * 16 is not 64");
    assert!(cuda::rms_norm(&device, x, 4, 16, Some(x), 0.0, 1e-6, x).is_err(), "a weight of 64 for rows of 16");
    assert!(cuda::rms_norm(&device, x, 4, 16, None, 0.0, 1e-6, x.slice(0, 32)).is_err(), "a short output");
    assert!(cuda::rms_norm(&device, x, 2, 64, None, 0.0, 1e-6, x.cast(Dtype::Bf16)).is_err(), "another type");
    assert!(cuda::softmax(&device, x, 4, 15, x).is_err(), "4 * 15 is not 64");
}

/// Reads, writes and so on of several sets of buffers in turn, so that nothing comes from a cache; GB/s of `bytes` a run.
fn report(device: &Device, name: &str, bytes: usize, mut run: impl FnMut(usize)) {
    for set in 0..4 {
        run(set);
    }
    device.synchronize().unwrap();
    let start = std::time::Instant::now();
    for round in 0..100 {
        run(round % 4);
    }
    device.synchronize().unwrap();
    let seconds = start.elapsed().as_secs_f64() / 100.0;
    eprintln!("{name:32} {:8.1} us {:8.0} GB/s", seconds * 1e6, bytes as f64 / seconds / 1e9);
}

#[test]
#[ignore = "a measurement"]
fn bandwidth() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    for (rows, heads, width) in [(16384, 1, 1024), (16384, 1, 2560), (16384, 16, 128), (16384, 8, 128)] {
        let items = rows * heads;
        let n = items * width;
        let set = || device.from_f32(&numbers(1, n, dtype), dtype).unwrap();
        let sets: Vec<[Buffer; 4]> = (0..4).map(|_| [set(), set(), set(), set()]).collect();
        let at = |round: usize, i: usize| sets[round][i].tensor(dtype);
        let weight = device.from_f32(&vec![1.0; width], Dtype::F32).unwrap();
        let dweight = device.from_f32(&vec![0.0; width], Dtype::F32).unwrap();
        let (weight, dweight) = (Some(weight.tensor(Dtype::F32)), Some(dweight.tensor(Dtype::F32)));
        let name = |what: &str| format!("{what} [{items}, {width}]");
        report(&device, &name("copy"), 4 * n, |s| device.copy(at(s, 0), at(s, 1)).unwrap());
        report(&device, &name("rms_norm"), 4 * n, |s| {
            cuda::rms_norm(&device, at(s, 0), items, width, weight, 0.0, 1e-6, at(s, 1)).unwrap();
        });
        report(&device, &name("add_rms_norm"), 8 * n, |s| {
            let [a, b, sum, out] = [0, 1, 2, 3].map(|i| at(s, i));
            cuda::add_rms_norm(&device, a, b, items, width, weight, 0.0, 1e-6, sum, out).unwrap();
        });
        for (what, accumulate, dweight, passes) in [
            ("rms_norm_grad", false, None, 3),
            ("rms_norm_grad +=", true, None, 4),
            ("rms_norm_grad dw", false, dweight, 3),
        ] {
            report(&device, &name(what), 2 * passes * n, |s| {
                let [x, dy, dx] = [0, 1, 2].map(|i| at(s, i));
                cuda::rms_norm_grad(&device, x, dy, items, width, weight, 0.0, 1e-6, dx, accumulate, dweight).unwrap();
            });
        }
        if heads == 1 {
            report(&device, &name("layer_norm"), 4 * n, |s| {
                cuda::layer_norm(&device, at(s, 0), items, width, weight, weight, 1e-6, at(s, 1)).unwrap();
            });
            continue;
        }
        let tables: Vec<Buffer> =
            (0..2).map(|i| device.from_f32(&random(i, rows * width / 2, 1.0), Dtype::F32).unwrap()).collect();
        let (cos, sin) = (tables[0].tensor(Dtype::F32), tables[1].tensor(Dtype::F32));
        report(&device, &name("rope"), 4 * n, |s| {
            cuda::rope(&device, at(s, 0), rows, heads, width, width, cos, sin, false, false, at(s, 1)).unwrap();
        });
        report(&device, &name("norm_rope"), 4 * n, |s| {
            let (x, out) = (at(s, 0), at(s, 1));
            cuda::norm_rope(&device, x, rows, heads, width, weight, 0.0, 1e-6, width, cos, sin, false, out).unwrap();
        });
        for (what, dweight) in [("norm_rope_grad", None), ("norm_rope_grad dw", dweight)] {
            report(&device, &name(what), 6 * n, |s| {
                let [x, dy, dx] = [0, 1, 2].map(|i| at(s, i));
                cuda::norm_rope_grad(
                    &device, x, dy, rows, heads, width, weight, 0.0, 1e-6, width, cos, sin, false, dx, dweight,
                )
                .unwrap();
            });
        }
    }
}
