//! Matrix products on the GPU against the CPU kernels: every orientation, type, accumulation and stride.

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::Weight;
use swift_kernels::cuda::{self, Dtype, Operand};

fn tolerance(dtype: Dtype) -> f32 {
    if dtype == Dtype::F32 { 2e-6 } else { 4e-3 }
}

#[test]
fn linear_and_its_gradients() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (m, k, n) in [(5, 8, 16), (1, 64, 40), (130, 72, 24), (64, 16, 256), (300, 512, 136)] {
            let x = round(random(1, m * k, 1.0), dtype);
            let w = round(random(2, n * k, 0.1), dtype);
            let y0 = round(random(3, m * n, 1.0), dtype);
            let bias = round(random(4, n, 1.0), dtype);
            let on = |v: &[f32]| device.from_f32(v, dtype).unwrap();
            let (gx, gw, gb) = (on(&x), on(&w), on(&bias));
            for (bias_in, beta) in [(false, 0.0), (true, 0.0), (false, 1.0)] {
                let gy = on(&y0);
                let b = bias_in.then(|| gb.tensor(dtype));
                cuda::linear(&device, gx.tensor(dtype), m, k, gw.tensor(dtype), n, b, 0.5, beta, gy.tensor(dtype))
                    .unwrap();
                let mut want = y0.clone();
                cpu::linear(&x, m, k, Weight::F32(&w), n, None, 0.5, beta, &mut want);
                if bias_in {
                    want.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % n]);
                }
                let got = device.to_f32(gy.tensor(dtype)).unwrap();
                close(&format!("{dtype:?} {m}x{k}x{n} bias {bias_in} beta {beta}"), &got, &want, tolerance(dtype));
            }
            let gy = on(&y0);
            let dx = on(&x);
            cuda::linear_grad_input(&device, gy.tensor(dtype), m, n, gw.tensor(dtype), k, 0.5, 1.0, dx.tensor(dtype))
                .unwrap();
            let mut want = x.clone();
            cpu::linear_grad_input(&y0, m, n, Weight::F32(&w), k, 0.5, 1.0, &mut want);
            close(
                &format!("{dtype:?} {m}x{k}x{n} dx"),
                &device.to_f32(dx.tensor(dtype)).unwrap(),
                &want,
                tolerance(dtype),
            );
            let dw = device.from_f32(&w, Dtype::F32).unwrap();
            cuda::linear_grad_weight(
                &device,
                gy.tensor(dtype),
                gx.tensor(dtype),
                m,
                n,
                k,
                2.0,
                1.0,
                dw.tensor(Dtype::F32),
            )
            .unwrap();
            let mut want = w.clone();
            cpu::linear_grad_weight(&y0, &x, m, n, k, 2.0, 1.0, &mut want);
            close(&format!("{dtype:?} {m}x{k}x{n} dw"), &device.to_f32(dw.tensor(Dtype::F32)).unwrap(), &want, 1e-5);
            let wide = device.from_f32(&vec![f32::NAN; m * n], Dtype::F32).unwrap();
            let out = wide.tensor(Dtype::F32);
            cuda::linear(&device, gx.tensor(dtype), m, k, gw.tensor(dtype), n, None, 1.0, 0.0, out).unwrap();
            let mut want = vec![0.0; m * n];
            cpu::linear(&x, m, k, Weight::F32(&w), n, None, 1.0, 0.0, &mut want);
            close(&format!("{dtype:?} {m}x{k}x{n} f32 out"), &device.to_f32(out).unwrap(), &want, 1e-5);
        }
    }
}

#[test]
fn rows_may_lie_apart() {
    let Some(device) = device() else { return };
    let (m, k, n, stride) = (33, 24, 16, 40);
    let x = round(random(1, m * stride, 1.0), Dtype::Bf16);
    let w = round(random(2, n * k, 1.0), Dtype::Bf16);
    let gx = device.from_f32(&x, Dtype::Bf16).unwrap();
    let gw = device.from_f32(&w, Dtype::Bf16).unwrap();
    let out = device.from_f32(&vec![7.0; m * stride], Dtype::F32).unwrap();
    let o = out.tensor(Dtype::F32);
    let x_at = Operand::strided(gx.tensor(Dtype::Bf16).slice(8, (m - 1) * stride + k), m, k, stride);
    let o_at = Operand::strided(o.slice(16, (m - 1) * stride + n), m, n, stride);
    cuda::matmul(&device, x_at, false, Operand::new(gw.tensor(Dtype::Bf16), n, k), true, 1.0, 0.0, None, o_at).unwrap();
    let mut want = vec![7.0; m * stride];
    for i in 0..m {
        for j in 0..n {
            want[i * stride + 16 + j] = (0..k).map(|c| x[i * stride + 8 + c] * w[j * k + c]).sum();
        }
    }
    close("strided", &device.to_f32(o).unwrap(), &want, 1e-5);
}

#[test]
fn wrong_shapes_are_refused() {
    let Some(device) = device() else { return };
    let a = device.allocate(64).unwrap();
    let t = a.tensor(Dtype::F32);
    let error = cuda::linear(&device, t, 4, 4, t, 5, None, 1.0, 0.0, t).unwrap_err();
    assert!(error.to_string().contains("the right operand of 16 elements is no [5, 4]"), "{error}");
}
