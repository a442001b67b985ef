//! Functions of two numbers on the GPU against the CPU's: every operator, broadcast, type and length.

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::cuda::{self, Dtype};
use swift_kernels::{Binary, Broadcast};

const ALL: [Binary; 6] = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Maximum, Binary::Minimum];
const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];
/// Lengths of the first and of the second operand.
const LENGTHS: [(usize, usize); 12] = [
    (1, 1),
    (8, 8),
    (77, 77),
    (30, 5),
    (30, 1),
    (96, 24),
    (40_000, 1),
    (64 * 200, 200),
    (300 * 177, 177),
    (300 * 177, 300),
    (9 * 10_240, 9),
    (2500 * 128, 2500),
];

fn tolerance(dtype: Dtype) -> f32 {
    if dtype == Dtype::F32 { 5e-6 } else { 4e-3 }
}

/// Away from zero: a quotient by nearly nothing says nothing about the others.
fn second(seed: u64, length: usize, dtype: Dtype) -> Vec<f32> {
    round(random(seed, length, 1.0).iter().map(|b| b + 1.5f32.copysign(*b)).collect(), dtype)
}

#[test]
fn values_and_gradients() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        for (length, short) in LENGTHS {
            let mut a = round(random(1, length, 2.0).iter().map(|x| x + 0.5).collect(), dtype);
            let b = second(2, short, dtype);
            // Some ties. No sum of gradients is near zero, where its relative error says nothing.
            a.iter_mut().zip(&b).step_by(3).for_each(|(a, b)| *a = *b);
            let dy: Vec<f32> = round(random(3, length, 1.0).iter().map(|x| x + 0.5).collect(), dtype);
            let (ga, gb, gdy) = (
                device.from_f32(&a, dtype).unwrap(),
                device.from_f32(&b, dtype).unwrap(),
                device.from_f32(&dy, dtype).unwrap(),
            );
            let (ta, tb, tdy) = (ga.tensor(dtype), gb.tensor(dtype), gdy.tensor(dtype));
            for op in ALL {
                for broadcast in [Broadcast::Repeat, Broadcast::Span] {
                    let what = |name: &str| format!("{name} {op:?} {broadcast:?} {dtype:?} {length}, {short}");
                    let out = device.from_f32(&vec![f32::NAN; length], dtype).unwrap();
                    cuda::binary(&device, op, ta, tb, broadcast, out.tensor(dtype)).unwrap();
                    let mut want = vec![0.0; length];
                    cpu::binary(op, &a, &b, broadcast, &mut want);
                    close(&what("value"), &device.to_f32(out.tensor(dtype)).unwrap(), &want, tolerance(dtype));
                    for accumulate in [false, true] {
                        let old = |n| {
                            if accumulate { round(random(4, n, 1.0), dtype) } else { vec![f32::NAN; n] }
                        };
                        let (mut da, mut db) = (old(length), old(short));
                        let (gda, gdb) = (device.from_f32(&da, dtype).unwrap(), device.from_f32(&db, dtype).unwrap());
                        let (tda, tdb) = (gda.tensor(dtype), gdb.tensor(dtype));
                        cuda::binary_grad(&device, op, ta, tb, broadcast, tdy, Some(tda), Some(tdb), accumulate)
                            .unwrap();
                        cpu::binary_grad(op, &a, &b, broadcast, &dy, Some(&mut da), Some(&mut db), accumulate);
                        close(&what("da"), &device.to_f32(tda).unwrap(), &da, tolerance(dtype));
                        close(&what("db"), &device.to_f32(tdb).unwrap(), &db, tolerance(dtype));
                    }
                }
            }
        }
    }
}

#[test]
fn expanding_and_reducing() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        for (length, short) in LENGTHS {
            let small = round(random(1, short, 1.0), dtype);
            let full: Vec<f32> = round(random(2, length, 1.0).iter().map(|x| x + 0.5).collect(), dtype);
            let (gs, gf) = (device.from_f32(&small, dtype).unwrap(), device.from_f32(&full, dtype).unwrap());
            let span = length / short;
            for broadcast in [Broadcast::Repeat, Broadcast::Span] {
                let what = |name: &str| format!("{name} {broadcast:?} {dtype:?} {length}, {short}");
                let at = |i: usize| if broadcast == Broadcast::Repeat { i % short } else { i / span };
                let out = device.from_f32(&vec![f32::NAN; length], dtype).unwrap();
                cuda::expand(&device, gs.tensor(dtype), broadcast, out.tensor(dtype)).unwrap();
                let want: Vec<f32> = (0..length).map(|i| small[at(i)]).collect();
                assert_eq!(device.to_f32(out.tensor(dtype)).unwrap(), want, "{}", what("expand"));

                let out = device.from_f32(&vec![f32::NAN; short], dtype).unwrap();
                let run = || {
                    cuda::reduce(&device, gf.tensor(dtype), broadcast, out.tensor(dtype)).unwrap();
                    device.to_f32(out.tensor(dtype)).unwrap()
                };
                let (got, again) = (run(), run());
                assert_eq!(got, again, "{}: other bits in another run", what("reduce"));
                let mut want = vec![0f64; short];
                full.iter().enumerate().for_each(|(i, x)| want[at(i)] += f64::from(*x));
                let want: Vec<f32> = want.iter().map(|x| *x as f32).collect();
                close(&what("reduce"), &got, &want, tolerance(dtype));
            }
        }
    }
}

#[test]
fn a_gradient_of_one_number_from_millions() {
    let Some(device) = device() else { return };
    let length = 8 << 20;
    let a = round(random(1, length, 1.0).iter().map(|x| x + 0.5).collect(), Dtype::Bf16);
    let dy = round(random(2, length, 1.0).iter().map(|x| x + 0.5).collect(), Dtype::Bf16);
    let (ga, gdy) = (device.from_f32(&a, Dtype::Bf16).unwrap(), device.from_f32(&dy, Dtype::Bf16).unwrap());
    let gb = device.from_f32(&[2.0], Dtype::Bf16).unwrap();
    let db = device.from_f32(&[f32::NAN], Dtype::Bf16).unwrap();
    let d = db.tensor(Dtype::Bf16);
    let (ta, tb, tdy) = (ga.tensor(Dtype::Bf16), gb.tensor(Dtype::Bf16), gdy.tensor(Dtype::Bf16));
    cuda::binary_grad(&device, Binary::Div, ta, tb, Broadcast::Repeat, tdy, None, Some(d), false).unwrap();
    let want: f64 = a.iter().zip(&dy).map(|(a, dy)| -f64::from(*a) * f64::from(*dy) / 4.0).sum();
    close("db of a scalar", &device.to_f32(d).unwrap(), &[want as f32], 4e-3);
}

#[test]
fn in_place_and_misaligned() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        let (a, b) = (round(random(1, 1001, 1.0), dtype), round(random(2, 1001, 1.0), dtype));
        for offset in [0, 1] {
            let n = 1001 - offset;
            let (ga, gb) = (device.from_f32(&a, dtype).unwrap(), device.from_f32(&b, dtype).unwrap());
            let (ta, tb) = (ga.tensor(dtype).slice(offset, n), gb.tensor(dtype).slice(offset, n));
            cuda::add(&device, ta, tb, ta).unwrap();
            let mut want = vec![0.0; n];
            cpu::add(&a[offset..], &b[offset..], &mut want);
            let want = round(want, dtype);
            close(&format!("add {dtype:?} at {offset}"), &device.to_f32(ta).unwrap(), &want, 1e-7);
            cuda::mul(&device, ta, tb, tb).unwrap();
            let mut product = vec![0.0; n];
            cpu::mul(&want, &b[offset..], &mut product);
            let what = format!("mul {dtype:?} at {offset}");
            close(&what, &device.to_f32(tb).unwrap(), &round(product, dtype), 1e-7);
        }
    }
    let buffer = device.allocate(64).unwrap();
    let t = buffer.tensor(Dtype::F32);
    let error = cuda::binary(&device, Binary::Add, t, t.slice(0, 3), Broadcast::Repeat, t).unwrap_err();
    assert!(error.to_string().contains("3 elements do not divide 16"), "{error}");
}

#[test]
fn nan_wins() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        let a = device.from_f32(&[f32::NAN, 1.0, 2.0], dtype).unwrap();
        let b = device.from_f32(&[1.0, f32::NAN, 3.0], dtype).unwrap();
        let out = device.from_f32(&[0.0; 3], dtype).unwrap();
        for (op, last) in [(Binary::Maximum, 3.0), (Binary::Minimum, 2.0)] {
            let (a, b, out) = (a.tensor(dtype), b.tensor(dtype), out.tensor(dtype));
            cuda::binary(&device, op, a, b, Broadcast::Repeat, out).unwrap();
            let got = device.to_f32(out).unwrap();
            assert!(got[0].is_nan() && got[1].is_nan() && got[2] == last, "{op:?} {dtype:?}: {got:?}");
        }
    }
}
