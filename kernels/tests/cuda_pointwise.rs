//! Elementwise kernels on the GPU against the CPU's: every function, type, length that fits no pack, and stride.

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::Activation;
use swift_kernels::cuda::{self, Buffer, CudaError, Device, Dtype, Tensor};

const ALL: [Activation; 14] = [
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Exp,
    Activation::Square,
    Activation::Rsqrt,
    Activation::Sqrt,
    Activation::Neg,
    Activation::Log,
    Activation::Softplus,
    Activation::Relu2,
];
const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

fn tolerance(dtype: Dtype) -> f32 {
    if dtype == Dtype::F32 { 2e-6 } else { 4e-3 }
}

/// A tensor that begins `offset` elements behind an aligned address.
struct Placed {
    _buffer: Buffer,
    tensor: Tensor,
}

fn place(device: &Device, values: &[f32], dtype: Dtype, offset: usize) -> Placed {
    let padded: Vec<f32> = std::iter::repeat_n(0.0, offset).chain(values.iter().copied()).collect();
    let buffer = device.from_f32(&padded, dtype).unwrap();
    let tensor = buffer.tensor(dtype).slice(offset, values.len());
    Placed { _buffer: buffer, tensor }
}

fn poisoned(device: &Device, length: usize, dtype: Dtype, offset: usize) -> Placed {
    place(device, &vec![f32::NAN; length], dtype, offset)
}

/// Arguments in the function's domain.
fn domain(op: Activation, length: usize, dtype: Dtype) -> Vec<f32> {
    let positive = matches!(op, Activation::Rsqrt | Activation::Sqrt | Activation::Log);
    // One number alone must not be where a difference cancels.
    let x = if length == 1 { vec![0.14] } else { random(1, length, 1.0) };
    round(x.iter().map(|x| if positive { 2.1 + 2.0 * x } else { 5.0 * x }).collect(), dtype)
}

#[test]
fn functions_and_gated_units() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        for (length, offset) in [(1, 0), (7, 1), (8, 0), (1003, 0), (1003, 3), (70_000, 0)] {
            for op in ALL {
                let what = |kernel: &str| format!("{kernel} {op:?} {dtype:?} {length} at {offset}");
                let x = domain(op, length, dtype);
                let dy = round(random(2, length, 1.0), dtype);
                let up = round(random(3, length, 1.0), dtype);
                let old = round(random(4, length, 1.0), dtype);
                let (gx, gdy, gup) = (
                    place(&device, &x, dtype, offset),
                    place(&device, &dy, dtype, offset),
                    place(&device, &up, dtype, offset),
                );
                let check = |kernel: &str, got: &Placed, want: &[f32]| {
                    close(&what(kernel), &device.to_f32(got.tensor).unwrap(), want, tolerance(dtype));
                };

                let out = poisoned(&device, length, dtype, offset);
                let mut want = vec![0.0; length];
                cuda::unary(&device, op, gx.tensor, out.tensor).unwrap();
                cpu::unary(op, &x, &mut want);
                check("unary", &out, &want);

                for accumulate in [false, true] {
                    let mut want = if accumulate { old.clone() } else { vec![f32::NAN; length] };
                    let dx = place(&device, &want, dtype, offset);
                    cuda::unary_grad(&device, op, gx.tensor, gdy.tensor, dx.tensor, accumulate).unwrap();
                    cpu::unary_grad(op, &x, &dy, &mut want, accumulate);
                    check("unary_grad", &dx, &want);
                }

                let out = poisoned(&device, length, dtype, offset);
                let mut want = vec![0.0; length];
                cuda::glu(&device, op, gx.tensor, gup.tensor, out.tensor).unwrap();
                cpu::glu(op, &x, &up, &mut want);
                check("glu", &out, &want);

                let (dgate, dup) = (poisoned(&device, length, dtype, offset), poisoned(&device, length, dtype, offset));
                let (mut want_gate, mut want_up) = (vec![0.0; length], vec![0.0; length]);
                cuda::glu_grad(&device, op, gx.tensor, gup.tensor, gdy.tensor, dgate.tensor, dup.tensor).unwrap();
                cpu::glu_grad(op, &x, &up, &dy, &mut want_gate, &mut want_up);
                check("glu_grad dgate", &dgate, &want_gate);
                check("glu_grad dup", &dup, &want_up);

                // The same bits as the two of them, in tensors of their own and in those of the operands.
                let bits = |x: &Placed| -> Vec<u32> {
                    device.to_f32(x.tensor).unwrap().into_iter().map(f32::to_bits).collect()
                };
                let fresh = || poisoned(&device, length, dtype, offset);
                let (new_gate, new_up, new_out) = (fresh(), fresh(), fresh());
                let (dgate_alone, dup_alone, out_alone) = (dgate, dup, out);
                let both = |dgate: &Placed, dup: &Placed, out: &Placed| {
                    let (gate, up, dy) = (gx.tensor, gup.tensor, gdy.tensor);
                    cuda::glu_grad_output(&device, op, gate, up, dy, dgate.tensor, dup.tensor, out.tensor).unwrap();
                    assert!(bits(dgate) == bits(&dgate_alone), "{}", what("glu_grad_output dgate"));
                    assert!(bits(dup) == bits(&dup_alone), "{}", what("glu_grad_output dup"));
                    assert!(bits(out) == bits(&out_alone), "{}", what("glu_grad_output out"));
                };
                both(&new_gate, &new_up, &new_out);
                both(&gdy, &gup, &gx);
            }
        }
    }
}

#[test]
fn special_values() {
    let Some(device) = device() else { return };
    let x = [f32::NEG_INFINITY, -1000.0, -0.0, 0.0, 1000.0, f32::INFINITY, f32::NAN];
    for dtype in FLOATS {
        let gx = place(&device, &x, dtype, 0);
        let run = |op| {
            let out = poisoned(&device, x.len(), dtype, 0);
            cuda::unary(&device, op, gx.tensor, out.tensor).unwrap();
            device.to_f32(out.tensor).unwrap()
        };
        for op in ALL {
            assert!(run(op)[6].is_nan(), "{op:?} of NaN in {dtype:?}");
        }
        assert_eq!(run(Activation::Sigmoid)[..6], [0.0, 0.0, 0.5, 0.5, 1.0, 1.0], "{dtype:?}");
        assert_eq!(run(Activation::Tanh)[..6], [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0], "{dtype:?}");
        assert_eq!(run(Activation::Relu)[..6], [0.0, 0.0, 0.0, 0.0, 1000.0, f32::INFINITY], "{dtype:?}");
        assert_eq!(run(Activation::Silu)[1..6], [0.0, 0.0, 0.0, 1000.0, f32::INFINITY], "{dtype:?}");
        assert_eq!(run(Activation::Exp)[..4], [0.0, 0.0, 1.0, 1.0], "{dtype:?}");
        let softplus = run(Activation::Softplus);
        assert!(softplus[0] == 0.0 && softplus[1] == 0.0 && softplus[4] == 1000.0, "{dtype:?}: {softplus:?}");
    }
}

#[test]
fn gate_and_up_side_by_side() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        for (rows, width, gap) in [(1, 5, 0), (5, 24, 0), (3, 33, 0), (70, 40, 8), (300, 1536, 0), (9, 16, 3)] {
            let stride = 2 * width + gap;
            let what = |name: &str| format!("{name} {dtype:?} [{rows}, {width}] gap {gap}");
            let both = round(random(5, rows * stride, 3.0), dtype);
            let dy = round(random(6, rows * width, 1.0), dtype);
            let column = |start: usize| -> Vec<f32> {
                (0..rows).flat_map(|r| both[r * stride + start..][..width].iter().copied()).collect()
            };
            let (gate, up) = (column(0), column(width));
            let fused = device.from_f32(&both, dtype).unwrap();
            let grads = device.from_f32(&vec![7.0; rows * stride], dtype).unwrap();
            let reach = (rows - 1) * stride + width;
            let parts = |buffer: &Buffer| {
                let all = buffer.tensor(dtype);
                (all.slice(0, reach), all.slice(width, reach))
            };
            let ((g, u), (dg, du)) = (parts(&fused), parts(&grads));
            let out = poisoned(&device, rows * width, dtype, 0);
            let gdy = place(&device, &dy, dtype, 0);
            cuda::glu_strided(&device, Activation::Silu, g, u, rows, width, stride, out.tensor).unwrap();
            let mut want = vec![0.0; rows * width];
            cpu::glu(Activation::Silu, &gate, &up, &mut want);
            close(&what("glu"), &device.to_f32(out.tensor).unwrap(), &want, tolerance(dtype));

            let (mut dgate, mut dup) = (vec![0.0; rows * width], vec![0.0; rows * width]);
            cpu::glu_grad(Activation::Silu, &gate, &up, &dy, &mut dgate, &mut dup);
            // What lies between the rows stays.
            let mut want = vec![7.0; rows * stride];
            for r in 0..rows {
                want[r * stride..][..width].copy_from_slice(&dgate[r * width..][..width]);
                want[r * stride + width..][..width].copy_from_slice(&dup[r * width..][..width]);
            }
            let strided = |g, u, dg, du| {
                let dy = gdy.tensor;
                cuda::glu_grad_strided(&device, Activation::Silu, g, u, dy, rows, width, stride, dg, du).unwrap();
            };
            strided(g, u, dg, du);
            close(&what("glu_grad"), &device.to_f32(grads.tensor(dtype)).unwrap(), &want, tolerance(dtype));
            // The gradients may take the place of what they belong to.
            strided(g, u, g, u);
            let got = device.to_f32(fused.tensor(dtype)).unwrap();
            for r in 0..rows {
                want[r * stride + 2 * width..][..gap].copy_from_slice(&both[r * stride + 2 * width..][..gap]);
            }
            close(&what("glu_grad in place"), &got, &want, tolerance(dtype));
        }
    }
}

#[test]
fn in_place_sums() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        for (length, offset) in [(1, 0), (9, 1), (4096, 0), (70_001, 0)] {
            let what = |name: &str| format!("{name} {dtype:?} {length} at {offset}");
            let (x, y) = (round(random(1, length, 1.0), dtype), round(random(2, length, 1.0), dtype));
            let gx = place(&device, &x, dtype, offset);
            for wide in [false, true] {
                let target = if wide { Dtype::F32 } else { dtype };
                let gy = place(&device, &y, target, offset);
                let mut want = y.clone();
                cuda::scale_add(&device, gy.tensor, -0.3, gx.tensor).unwrap();
                cpu::scale_add(&mut want, -0.3, &x);
                close(&what("scale_add"), &device.to_f32(gy.tensor).unwrap(), &want, tolerance(target));
                let mut want = round(want, target);
                cuda::add_assign(&device, gy.tensor, gx.tensor).unwrap();
                cpu::add_assign(&mut want, &x);
                close(&what("add_assign"), &device.to_f32(gy.tensor).unwrap(), &want, tolerance(target));
            }
            let mut want = x.clone();
            cuda::scale(&device, gx.tensor, 0.7).unwrap();
            cpu::scale(&mut want, 0.7);
            close(&what("scale"), &device.to_f32(gx.tensor).unwrap(), &want, tolerance(dtype));
        }
    }
}

/// The device's formula for the key of one dropout, written again.
fn mix64(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn dropout_draws_the_mask_of_the_cpu() {
    let Some(device) = device() else { return };
    let key_buffer = device.allocate(8).unwrap();
    let key_tensor = key_buffer.tensor(Dtype::U8);
    for dtype in FLOATS {
        for (length, offset) in [(1, 0), (1001, 0), (1001, 1), (16_385, 0), (100_003, 0), (100_003, 3)] {
            for (key, salt, probability) in
                [(7u64, 0u64, 0.5f32), (u64::MAX - 3, 12, 0.1), (1 << 63, 1, 0.9), (5, 5, 0.0), (5, 5, 1.0)]
            {
                // No zeros, so that the mask can be read off.
                let x: Vec<f32> = random(1, length, 1.0).iter().map(|x| x + 1.5f32.copysign(*x)).collect();
                let x = round(x, dtype);
                device.upload(&key.to_le_bytes(), key_tensor).unwrap();
                let gx = place(&device, &x, dtype, offset);
                let out = poisoned(&device, length, dtype, offset);
                cuda::dropout(&device, gx.tensor, probability, key_tensor, salt, out.tensor).unwrap();
                let got = device.to_f32(out.tensor).unwrap();
                let mut want = vec![0.0; length];
                cpu::dropout(&x, probability, key ^ mix64(salt), &mut want);
                let what = format!("{dtype:?} {length} at {offset}, key {key}, salt {salt}, p {probability}");
                let other = got.iter().zip(&want).position(|(g, w)| (*g == 0.0) != (*w == 0.0));
                assert_eq!(other, None, "{what}: first element of another mask");
                close(&what, &got, &want, tolerance(dtype));
                // In place too.
                cuda::dropout(&device, gx.tensor, probability, key_tensor, salt, gx.tensor).unwrap();
                assert_eq!(device.to_f32(gx.tensor).unwrap(), got, "{what} in place");
            }
        }
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "says why a test was skipped")]
fn more_elements_than_32_bits_count() {
    let Some(device) = device() else { return };
    let length = (1usize << 32) + 24;
    let buffer = match device.allocate(length * 2) {
        Ok(buffer) => buffer,
        Err(error @ CudaError::OutOfMemory { .. }) => {
            eprintln!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let all = buffer.tensor(Dtype::Bf16);
    device.zero(all).unwrap();
    let (first, last) = (all.slice(0, 8), all.slice(length - 8, 8));
    let values: Vec<f32> = (1..=8).map(|x| x as f32).collect();
    device.write_f32(&values, first).unwrap();
    device.write_f32(&values, last).unwrap();
    cuda::unary(&device, Activation::Neg, all, all).unwrap();
    cuda::scale(&device, all, 2.0).unwrap();
    let want: Vec<f32> = values.iter().map(|x| -2.0 * x).collect();
    assert_eq!(device.to_f32(first).unwrap(), want);
    assert_eq!(device.to_f32(last).unwrap(), want);
    // The last row of a table whose elements 32 bits do not count.
    let index = device.from_u32(&[(length / 8 - 1) as u32, 0, u32::MAX]).unwrap();
    let out = poisoned(&device, 24, Dtype::Bf16, 0);
    cuda::gather_rows(&device, all, index.tensor(Dtype::U32), 8, out.tensor).unwrap();
    let got = device.to_f32(out.tensor).unwrap();
    assert_eq!(got[..16], [want.clone(), want].concat());
    assert!(got[16..].iter().all(|x| x.is_nan()), "an index outside: {:?}", &got[16..]);
}

/// Gigabytes a second of the kernel `name`, the best of several calls.
fn bandwidth(device: &Device, name: &str, bytes: usize, call: impl Fn()) -> f64 {
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
}

#[test]
#[allow(clippy::print_stderr, reason = "a measurement is for reading")]
fn speed_beside_a_copy() {
    let Some(device) = device() else { return };
    let (rows, width) = (16_384, 3072);
    let n = rows * width;
    let dtype = Dtype::Bf16;
    let make = || {
        let buffer = device.allocate(2 * n * 2).unwrap();
        device.zero(buffer.tensor(dtype)).unwrap();
        buffer
    };
    let (fused, grads, other) = (make(), make(), make());
    let all = |b: &Buffer| b.tensor(dtype).slice(0, n);
    let reach = (rows - 1) * 2 * width + width;
    let halves = |b: &Buffer| (b.tensor(dtype).slice(0, reach), b.tensor(dtype).slice(width, reach));
    let (a, b, out) = (all(&fused), all(&grads), all(&other));
    let ((gate, up), (dgate, dup)) = (halves(&fused), halves(&grads));
    let key = device.from_u32(&[1, 2]).unwrap();
    let key = key.tensor(Dtype::U8);
    let copy = bandwidth(&device, "copy", 4 * n, || device.copy(a, out).unwrap());
    let op = Activation::Silu;
    let rates = [
        ("unary", bandwidth(&device, "unary", 4 * n, || cuda::unary(&device, op, a, out).unwrap())),
        ("glu", bandwidth(&device, "glu", 6 * n, || cuda::glu(&device, op, a, b, out).unwrap())),
        (
            "glu_strided",
            bandwidth(&device, "glu", 6 * n, || {
                cuda::glu_strided(&device, op, gate, up, rows, width, 2 * width, out).unwrap();
            }),
        ),
        (
            "glu_grad_strided",
            bandwidth(&device, "glu_grad", 10 * n, || {
                cuda::glu_grad_strided(&device, op, gate, up, out, rows, width, 2 * width, dgate, dup).unwrap();
            }),
        ),
        (
            "glu_grad_output",
            bandwidth(&device, "glu_grad_output", 12 * n, || {
                let (gate, up) = (fused.tensor(dtype).slice(0, n), fused.tensor(dtype).slice(n, n));
                let (dgate, dup) = (grads.tensor(dtype).slice(0, n), grads.tensor(dtype).slice(n, n));
                cuda::glu_grad_output(&device, op, gate, up, out, dgate, dup, out).unwrap();
            }),
        ),
        ("add_assign", bandwidth(&device, "scale_add", 6 * n, || cuda::add_assign(&device, a, b).unwrap())),
        ("dropout", bandwidth(&device, "dropout", 4 * n, || cuda::dropout(&device, a, 0.1, key, 1, out).unwrap())),
    ];
    let report: Vec<String> = rates.iter().map(|(name, rate)| format!("{name} {rate:.0}")).collect();
    eprintln!("GB/s on [16384, 3072] bf16: copy {copy:.0}, {}", report.join(", "));
}

#[test]
fn wrong_operands_are_refused() {
    let Some(device) = device() else { return };
    let buffer = device.allocate(64).unwrap();
    let (f, h, u) = (buffer.tensor(Dtype::F32), buffer.tensor(Dtype::Bf16), buffer.tensor(Dtype::U32));
    let message = |r: Result<(), CudaError>| r.unwrap_err().to_string();
    assert!(
        message(cuda::unary(&device, Activation::Relu, f, h)).contains("out has 32 elements of Bf16, not 16 of F32")
    );
    assert!(message(cuda::unary(&device, Activation::Relu, u, u)).contains("elements of U32"));
    assert!(message(cuda::scale_add(&device, f, 1.0, h)).contains("32 elements are added to 16"));
    let error = message(cuda::glu_strided(&device, Activation::Silu, f, f, 2, 8, 9, f));
    assert!(error.contains("is no [2, 8] of F32 with a stride of 9"), "{error}");
    assert!(
        message(cuda::dropout(&device, f, 1.5, buffer.at(0, 8, Dtype::U8), 0, f)).contains("1.5 is no probability")
    );
}
