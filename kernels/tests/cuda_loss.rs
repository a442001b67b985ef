//! The fused cross entropy and the place of the greatest number on the GPU, against the CPU kernels.

#![allow(clippy::print_stderr, reason = "measurements, and tests that this GPU is too small for")]

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::Weight;
use swift_kernels::cuda::{self, Buffer, CrossEntropy, Device, Dtype, Operand, Tensor};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

fn f32s(device: &Device, values: &[f32]) -> Buffer {
    device.from_f32(values, Dtype::F32).unwrap()
}

fn sums(device: &Device, tensor: Tensor) -> [f64; 4] {
    let mut bytes = [0u8; 32];
    device.download(tensor, &mut bytes).unwrap();
    std::array::from_fn(|i| f64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap()))
}

#[derive(Debug)]
struct Case {
    rows: usize,
    k: usize,
    vocab: usize,
    soft_cap: Option<f32>,
    logit_scale: f32,
    /// Rows of a chunk, about.
    chunk: usize,
}

#[test]
fn sums_and_gradients() {
    let Some(device) = device() else { return };
    for case in [
        Case { rows: 1, k: 8, vocab: 5, soft_cap: None, logit_scale: 1.0, chunk: 1 },
        Case { rows: 5, k: 8, vocab: 1, soft_cap: None, logit_scale: 1.0, chunk: 8 },
        Case { rows: 37, k: 16, vocab: 37, soft_cap: None, logit_scale: 0.7, chunk: 16 },
        Case { rows: 54, k: 8, vocab: 33, soft_cap: Some(1.5), logit_scale: 1.3, chunk: 100 },
        Case { rows: 70, k: 64, vocab: 2000, soft_cap: None, logit_scale: 1.0, chunk: 32 },
        // Clusters, from here on: whole units and not, capped, several chunks.
        Case { rows: 70, k: 64, vocab: 4096, soft_cap: None, logit_scale: 1.0, chunk: 100 },
        Case { rows: 40, k: 64, vocab: 5003, soft_cap: Some(5.0), logit_scale: 0.9, chunk: 16 },
        Case { rows: 300, k: 32, vocab: 50_257, soft_cap: None, logit_scale: 1.0, chunk: 128 },
        Case { rows: 13, k: 32, vocab: 151_936, soft_cap: None, logit_scale: 1.0, chunk: 100 },
        Case { rows: 12, k: 32, vocab: 262_144, soft_cap: Some(30.0), logit_scale: 1.0, chunk: 8 },
    ] {
        let Case { rows, k, vocab, soft_cap, logit_scale, .. } = case;
        for dtype in DTYPES {
            let h = round(random(1, rows * k, 1.0), dtype);
            let table = round(random(2, vocab * k, 1.0), dtype);
            let weights: Vec<f32> = (0..rows).map(|row| [1.0, 0.0, 0.5, -1.5][row % 4]).collect();
            // Every third target is the greatest logit; those of weight 0 are no tokens.
            let mut logits = vec![0.0; rows * vocab];
            cpu::linear(&h, rows, k, Weight::F32(&table), vocab, None, logit_scale, 0.0, &mut logits);
            let targets: Vec<u32> = (0..rows)
                .map(|row| {
                    let logits = &logits[row * vocab..][..vocab];
                    let greatest = (0..vocab).reduce(|a, b| if logits[b] > logits[a] { b } else { a }).unwrap();
                    match row % 12 {
                        1 | 5 | 9 => u32::MAX,
                        0 | 3 | 6 => greatest as u32,
                        _ => ((row * 7919 + 3) % vocab) as u32,
                    }
                })
                .collect();
            let scale = 0.25f32;
            let old = random(3, vocab * k, 0.1);
            let (mut want_dh, mut want_dtable, mut want_losses) = (vec![0.0; rows * k], old.clone(), vec![0.0; rows]);
            let want = cpu::linear_cross_entropy(
                &h,
                rows,
                k,
                Weight::F32(&table),
                vocab,
                None,
                &targets,
                &weights,
                soft_cap,
                logit_scale,
                scale,
                Some(&mut want_dh),
                Some(&mut want_dtable),
                Some(&mut want_losses),
            );

            let (gh, gtable) = (device.from_f32(&h, dtype).unwrap(), device.from_f32(&table, dtype).unwrap());
            let (gtargets, gweights) = (device.from_u32(&targets).unwrap(), f32s(&device, &weights));
            let gscale = f32s(&device, &[scale]);
            let chunk_bytes = case.chunk * vocab.next_multiple_of(16) * if dtype == Dtype::F32 { 4 } else { 6 };
            let scratch = device.allocate(cuda::cross_entropy_scratch(rows, vocab, dtype, chunk_bytes)).unwrap();
            let mut first: Option<Vec<f32>> = None;
            for (with_dh, with_dtable) in [(true, true), (true, true), (true, false), (false, true), (false, false)] {
                let what = format!("{dtype:?} {case:?} dh {with_dh} dtable {with_dtable}");
                let poison = scratch.tensor(Dtype::U8);
                device.upload(&vec![0xff; poison.bytes()], poison).unwrap();
                let dh = device.from_f32(&vec![f32::NAN; rows * k], dtype).unwrap();
                let (dtable, losses) = (f32s(&device, &old), f32s(&device, &vec![f32::NAN; rows]));
                let total = device.allocate(32).unwrap();
                let before = [1.0f64, 2.0, 3.0, 4.0];
                let bytes: Vec<u8> = before.iter().flat_map(|x| x.to_le_bytes()).collect();
                device.upload(&bytes, total.tensor(Dtype::U8)).unwrap();
                let op = CrossEntropy {
                    h: gh.tensor(dtype),
                    rows,
                    k,
                    table: gtable.tensor(dtype),
                    vocab,
                    targets: gtargets.tensor(Dtype::U32),
                    weights: gweights.tensor(Dtype::F32),
                    soft_cap,
                    logit_scale,
                    scale: gscale.tensor(Dtype::F32),
                    dh: with_dh.then(|| dh.tensor(dtype)),
                    dtable: with_dtable.then(|| dtable.tensor(Dtype::F32)),
                    per_row: Some(losses.tensor(Dtype::F32)),
                    sums: total.tensor(Dtype::U8),
                    chunk_bytes,
                    logits_dtype: Dtype::F32,
                };
                cuda::linear_cross_entropy(&device, &op, scratch.tensor(Dtype::U8)).unwrap();
                let got = sums(&device, op.sums);
                let got: Vec<f64> = got.iter().zip(before).map(|(a, b)| a - b).collect();
                let size: f64 = want_losses.iter().zip(&weights).map(|(l, w)| f64::from((l * w).abs())).sum();
                assert!(
                    (got[0] - want.loss).abs() <= 2e-6 * size.max(1.0),
                    "{what}: loss {} for {}",
                    got[0],
                    want.loss
                );
                assert_eq!(got[1..], [want.weight, want.correct as f64, want.counted as f64], "{what}: sums");
                let losses = device.to_f32(losses.tensor(Dtype::F32)).unwrap();
                // Cross entropies near 0 are differences of numbers of the logits' size.
                let worst = losses.iter().zip(&want_losses).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= 2e-5, "{what}: per_row {worst} apart");
                let mut all = losses.clone();
                // Gradients pass through logits' gradients of the operands' type.
                let tolerance = if dtype == Dtype::F32 { 1e-5 } else { 8e-3 };
                if with_dh {
                    let got = device.to_f32(dh.tensor(dtype)).unwrap();
                    if vocab > 1 {
                        close(&format!("dh {what}"), &got, &want_dh, tolerance);
                    }
                    for (row, weight) in weights.iter().enumerate() {
                        let zero = got[row * k..][..k].iter().all(|x| *x == 0.0);
                        assert_eq!(zero, *weight == 0.0 || vocab == 1, "{what}: row {row} of weight {weight}");
                    }
                    all.extend(got);
                }
                if with_dtable {
                    let got = device.to_f32(dtable.tensor(Dtype::F32)).unwrap();
                    close(&format!("dtable {what}"), &got, &want_dtable, tolerance);
                    all.extend(got);
                }
                if with_dh && with_dtable {
                    let first = first.get_or_insert_with(|| all.clone());
                    assert!(first.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}: other bits");
                }
            }
        }
    }
}

/// A row of equal logits is correct only for the first token; NaN and a target that is no token spoil the loss and nothing
/// else.
#[test]
fn ties_and_targets_that_are_no_tokens() {
    let Some(device) = device() else { return };
    for vocab in [40, 5003] {
        for with_gradient in [false, true] {
            let (rows, k) = (4, 8);
            let h = f32s(&device, &vec![0.0; rows * k]);
            let table = f32s(&device, &random(1, vocab * k, 1.0));
            let targets = device.from_u32(&[0, 3, vocab as u32 - 1, vocab as u32]).unwrap();
            let (weights, scale) = (f32s(&device, &[1.0; 4]), f32s(&device, &[1.0]));
            let (losses, total) = (f32s(&device, &[0.0; 4]), device.allocate(32).unwrap());
            device.zero(total.tensor(Dtype::U8)).unwrap();
            let dh = f32s(&device, &vec![0.0; rows * k]);
            let scratch = device.allocate(cuda::cross_entropy_scratch(rows, vocab, Dtype::F32, 1 << 20)).unwrap();
            let mut op = CrossEntropy {
                h: h.tensor(Dtype::F32),
                rows,
                k,
                table: table.tensor(Dtype::F32),
                vocab,
                targets: targets.tensor(Dtype::U32),
                weights: weights.tensor(Dtype::F32),
                soft_cap: None,
                logit_scale: 1.0,
                scale: scale.tensor(Dtype::F32),
                dh: with_gradient.then(|| dh.tensor(Dtype::F32)),
                dtable: None,
                per_row: Some(losses.tensor(Dtype::F32)),
                sums: total.tensor(Dtype::U8),
                chunk_bytes: 1 << 20,
                logits_dtype: Dtype::F32,
            };
            cuda::linear_cross_entropy(&device, &op, scratch.tensor(Dtype::U8)).unwrap();
            let got = sums(&device, op.sums);
            assert!(got[0].is_nan(), "vocab {vocab}: a target that is no token gives {got:?}");
            assert_eq!(got[1..], [4.0, 1.0, 4.0], "vocab {vocab}");
            let losses = device.to_f32(losses.tensor(Dtype::F32)).unwrap();
            assert!(losses[3].is_nan(), "{losses:?}");
            let want = (vocab as f32).ln();
            assert!(losses[..3].iter().all(|loss| (loss - want).abs() < 1e-5), "{losses:?} for {want}");
            // Operands that do not fit.
            op.rows = 3;
            assert!(cuda::linear_cross_entropy(&device, &op, scratch.tensor(Dtype::U8)).is_err(), "h of 4 rows");
            op.rows = 4;
            assert!(cuda::linear_cross_entropy(&device, &op, scratch.at(0, 64, Dtype::U8)).is_err(), "little scratch");
            op.soft_cap = Some(0.0);
            assert!(cuda::linear_cross_entropy(&device, &op, scratch.tensor(Dtype::U8)).is_err(), "a soft cap of 0");
        }
    }
}

/// The last rows of a chunk of more than 2^31 logits.
#[test]
fn more_than_two_to_the_31_logits() {
    let Some(device) = device() else { return };
    let (rows, k, vocab, last, dtype) = (14_500, 8, 151_936, 4, Dtype::Bf16);
    let chunk_bytes = rows * vocab * 6 + (1 << 20);
    let bytes = cuda::cross_entropy_scratch(rows, vocab, dtype, chunk_bytes);
    if device.memory().unwrap().0 < bytes + (1 << 30) {
        eprintln!("skipped: the GPU has not {bytes} bytes free");
        return;
    }
    let (h, table) = (round(random(1, rows * k, 1.0), dtype), round(random(2, vocab * k, 1.0), dtype));
    let targets: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocab) as u32).collect();
    let first = rows - last;
    let (mut want, mut want_dh) = (vec![0.0; last], vec![0.0; last * k]);
    cpu::linear_cross_entropy(
        &h[first * k..],
        last,
        k,
        Weight::F32(&table),
        vocab,
        None,
        &targets[first..],
        &[1.0; 4],
        None,
        1.0,
        1.0,
        Some(&mut want_dh),
        None,
        Some(&mut want),
    );
    let (gh, gtable) = (device.from_f32(&h, dtype).unwrap(), device.from_f32(&table, dtype).unwrap());
    let (targets, weights) = (device.from_u32(&targets).unwrap(), f32s(&device, &vec![1.0; rows]));
    let (scale, losses) = (f32s(&device, &[1.0]), f32s(&device, &vec![f32::NAN; rows]));
    let (dh, total) = (device.from_f32(&vec![f32::NAN; rows * k], dtype).unwrap(), device.allocate(32).unwrap());
    device.zero(total.tensor(Dtype::U8)).unwrap();
    let scratch = device.allocate(bytes).unwrap();
    // With clusters, and without (there are none without a gradient).
    for dh in [None, Some(dh.tensor(dtype))] {
        let op = CrossEntropy {
            h: gh.tensor(dtype),
            rows,
            k,
            table: gtable.tensor(dtype),
            vocab,
            targets: targets.tensor(Dtype::U32),
            weights: weights.tensor(Dtype::F32),
            soft_cap: None,
            logit_scale: 1.0,
            scale: scale.tensor(Dtype::F32),
            dh,
            dtable: None,
            per_row: Some(losses.tensor(Dtype::F32)),
            sums: total.tensor(Dtype::U8),
            chunk_bytes,
            logits_dtype: Dtype::F32,
        };
        cuda::linear_cross_entropy(&device, &op, scratch.tensor(Dtype::U8)).unwrap();
        close("losses", &device.to_f32(losses.tensor(Dtype::F32).slice(first, last)).unwrap(), &want, 1e-5);
        if let Some(dh) = dh {
            close("dh", &device.to_f32(dh.slice(first * k, last * k)).unwrap(), &want_dh, 8e-3);
        }
    }
}

#[test]
fn place_of_the_greatest() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, vocab) in [(1, 1), (1, 151_936), (1, 50_257), (3, 262_144), (700, 5003), (5, 31), (300, 8192)] {
            let mut x = round(random(1, rows * vocab, 4.0), dtype);
            // Several greatest, in some rows; a row of nothing but -inf.
            for row in (0..rows).step_by(2) {
                for i in 1..4 {
                    x[row * vocab + (row * 31 + i * vocab / 4) % vocab] = 8.0;
                }
            }
            if rows > 4 {
                x[3 * vocab..4 * vocab].fill(f32::NEG_INFINITY);
            }
            let want: Vec<f32> = x
                .chunks(vocab)
                .map(|row| (0..vocab).reduce(|a, b| if row[b] > row[a] { b } else { a }).unwrap() as f32)
                .collect();
            let logits = device.from_f32(&x, dtype).unwrap();
            let out = device.from_u32(&vec![u32::MAX; rows]).unwrap();
            cuda::argmax(&device, logits.tensor(dtype), rows, vocab, out.tensor(Dtype::U32)).unwrap();
            let got = device.to_f32(out.tensor(Dtype::U32)).unwrap();
            let wrong = got.iter().zip(&want).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "{dtype:?} [{rows}, {vocab}]: {got:?} for {want:?}");
        }
    }
}

/// Logits of the operands' type, against sums in f64 over the same rounded logits.
#[test]
fn narrow_logits() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::Bf16, Dtype::F16] {
        for (rows, k, vocab, soft_cap, logit_scale) in [
            (21usize, 16usize, 37usize, None::<f32>, 0.7f32),
            (54, 8, 2000, Some(3.0), 1.0),
            // Clusters, from here on.
            (70, 64, 4096, None, 1.0),
            (41, 64, 5003, Some(5.0), 0.9),
            (30, 32, 50_257, None, 1.0),
            (13, 32, 151_936, None, 1.0),
        ] {
            let what = format!("{dtype:?} {rows} rows of {vocab}, cap {soft_cap:?}");
            let stride = vocab.next_multiple_of(16);
            let (h, table) = (round(random(1, rows * k, 1.0), dtype), round(random(2, vocab * k, 1.0), dtype));
            let weights: Vec<f32> = (0..rows).map(|row| [1.0, 0.0, 0.5, -1.5, 2.0][row % 5]).collect();
            let (gh, gtable) = (device.from_f32(&h, dtype).unwrap(), device.from_f32(&table, dtype).unwrap());
            // The same product, of the same shape.
            let logits = device.allocate(rows * stride * dtype.size()).unwrap();
            device.zero(logits.tensor(Dtype::U8)).unwrap();
            let (left, right) = (Operand::new(gh.tensor(dtype), rows, k), Operand::new(gtable.tensor(dtype), vocab, k));
            let to = Operand::strided(logits.tensor(dtype), rows, vocab, stride);
            cuda::matmul(&device, left, false, right, true, logit_scale, 0.0, None, to).unwrap();
            let logits = device.to_f32(logits.tensor(dtype)).unwrap();

            let scale = 0.25f32;
            let (mut dlogits, mut losses, mut total) = (vec![0.0f32; rows * vocab], vec![0.0f32; rows], [0.0f64; 4]);
            let mut targets = vec![u32::MAX; rows];
            for row in 0..rows {
                let weight = f64::from(weights[row]);
                if weight == 0.0 {
                    continue;
                }
                let cap = |x: f32| {
                    soft_cap.map_or(f64::from(x), |cap| f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh())
                };
                let x: Vec<f64> = logits[row * stride..][..vocab].iter().map(|x| cap(*x)).collect();
                let raw = &logits[row * stride..][..vocab];
                let greatest = (0..vocab).reduce(|a, b| if raw[b] > raw[a] { b } else { a }).unwrap();
                // The last of the greatest too, which is not the first if there are several.
                let last = (0..vocab).rev().reduce(|a, b| if raw[b] > raw[a] { b } else { a }).unwrap();
                let target = [greatest, (row * 7919 + 3) % vocab, last][row % 3];
                targets[row] = target as u32;
                let sum: f64 = x.iter().map(|v| (v - x[greatest]).exp()).sum();
                let loss = sum.ln() + x[greatest] - x[target];
                losses[row] = loss as f32;
                let correct = f64::from(u8::from(target == greatest));
                total = [total[0] + weight * loss, total[1] + weight, total[2] + correct, total[3] + 1.0];
                for column in 0..vocab {
                    let p = (x[column] - x[greatest]).exp() / sum - f64::from(u8::from(column == target));
                    let slope = soft_cap.map_or(1.0, |cap| 1.0 - (x[column] / f64::from(cap)).powi(2));
                    dlogits[row * vocab + column] =
                        (p * slope * weight * f64::from(scale) * f64::from(logit_scale)) as f32;
                }
            }
            let (mut want_dh, mut want_dtable) = (vec![0.0; rows * k], vec![0.0; vocab * k]);
            for row in 0..rows {
                for column in 0..vocab {
                    let d = dlogits[row * vocab + column];
                    for i in 0..k {
                        want_dh[row * k + i] += d * table[column * k + i];
                        want_dtable[column * k + i] += d * h[row * k + i];
                    }
                }
            }

            let chunk_bytes = rows.next_multiple_of(8) * stride * 6;
            let scratch = device.allocate(cuda::cross_entropy_scratch(rows, vocab, dtype, chunk_bytes)).unwrap();
            let poison = scratch.tensor(Dtype::U8);
            device.upload(&vec![0xff; poison.bytes()], poison).unwrap();
            let (gtargets, gweights) = (device.from_u32(&targets).unwrap(), f32s(&device, &weights));
            let (gscale, gdtable) = (f32s(&device, &[scale]), f32s(&device, &vec![0.0; vocab * k]));
            let dh = device.from_f32(&vec![f32::NAN; rows * k], dtype).unwrap();
            let (per_row, gtotal) = (f32s(&device, &vec![f32::NAN; rows]), device.allocate(32).unwrap());
            let mut op = CrossEntropy {
                h: gh.tensor(dtype),
                rows,
                k,
                table: gtable.tensor(dtype),
                vocab,
                targets: gtargets.tensor(Dtype::U32),
                weights: gweights.tensor(Dtype::F32),
                soft_cap,
                logit_scale,
                scale: gscale.tensor(Dtype::F32),
                dh: Some(dh.tensor(dtype)),
                dtable: Some(gdtable.tensor(Dtype::F32)),
                per_row: Some(per_row.tensor(Dtype::F32)),
                sums: gtotal.tensor(Dtype::U8),
                chunk_bytes,
                logits_dtype: dtype,
            };
            let check = |op: &CrossEntropy, what: &str| {
                device.zero(op.sums).unwrap();
                cuda::linear_cross_entropy(&device, op, poison).unwrap();
                let got = sums(&device, op.sums);
                let size: f64 = losses.iter().zip(&weights).map(|(l, w)| f64::from((l * w).abs())).sum();
                assert!((got[0] - total[0]).abs() <= 1e-5 * size, "{what}: loss {} for {}", got[0], total[0]);
                assert_eq!(got[1..], total[1..], "{what}: sums");
                close(&format!("losses {what}"), &device.to_f32(per_row.tensor(Dtype::F32)).unwrap(), &losses, 1e-5);
            };
            check(&op, &format!("{what}, with gradients"));
            close(&format!("dh {what}"), &device.to_f32(dh.tensor(dtype)).unwrap(), &want_dh, 8e-3);
            close(&format!("dtable {what}"), &device.to_f32(gdtable.tensor(Dtype::F32)).unwrap(), &want_dtable, 8e-3);
            (op.dh, op.dtable) = (None, None);
            check(&op, &format!("{what}, without gradients"));
            op.logits_dtype = if dtype == Dtype::Bf16 { Dtype::F16 } else { Dtype::Bf16 };
            assert!(cuda::linear_cross_entropy(&device, &op, poison).is_err(), "{what}: logits of a third type");
        }
    }
}

/// What the two types of logits cost in time and in error: losses and gradients against f32 operands of the same values.
#[test]
#[ignore = "a measurement"]
fn time() {
    let Some(device) = device() else { return };
    let (rows, k, vocab) = (16384, 1024, 151_936);
    let (h, table) = (round(random(1, rows * k, 1.0), Dtype::Bf16), round(random(2, vocab * k, 0.15), Dtype::Bf16));
    let targets = device.from_u32(&(0..rows as u32).map(|row| row * 9).collect::<Vec<_>>()).unwrap();
    let (weights, scale) = (f32s(&device, &vec![1.0; rows]), f32s(&device, &[1.0 / rows as f32]));
    let dtable = device.allocate(vocab * k * 4).unwrap();
    let (total, losses) = (device.allocate(32).unwrap(), f32s(&device, &vec![0.0; rows]));
    let relative = |got: &[f32], want: &[f32]| {
        let square = |x: f64| x * x;
        let error: f64 = got.iter().zip(want).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
        (error / want.iter().map(|x| square(f64::from(*x))).sum::<f64>()).sqrt()
    };
    let mut exact: Option<[Vec<f32>; 3]> = None;
    for (dtype, logits_dtype) in [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::F32), (Dtype::Bf16, Dtype::Bf16)] {
        let name = format!("operands {dtype:?}, logits {logits_dtype:?}");
        let (gh, gtable) = (device.from_f32(&h, dtype).unwrap(), device.from_f32(&table, dtype).unwrap());
        let dh = device.allocate(rows * k * dtype.size()).unwrap();
        for chunk_bytes in [256 << 20, 1 << 30, 4 << 30] {
            let scratch = device.allocate(cuda::cross_entropy_scratch(rows, vocab, dtype, chunk_bytes)).unwrap();
            for (what, with_dh, with_dtable) in
                [("loss", false, false), ("and dh", true, false), ("and dtable", true, true)]
            {
                let op = CrossEntropy {
                    h: gh.tensor(dtype),
                    rows,
                    k,
                    table: gtable.tensor(dtype),
                    vocab,
                    targets: targets.tensor(Dtype::U32),
                    weights: weights.tensor(Dtype::F32),
                    soft_cap: None,
                    logit_scale: 1.0,
                    scale: scale.tensor(Dtype::F32),
                    dh: with_dh.then(|| dh.tensor(dtype)),
                    dtable: with_dtable.then(|| dtable.tensor(Dtype::F32)),
                    per_row: Some(losses.tensor(Dtype::F32)),
                    sums: total.tensor(Dtype::U8),
                    chunk_bytes,
                    logits_dtype,
                };
                let run = || cuda::linear_cross_entropy(&device, &op, scratch.tensor(Dtype::U8)).unwrap();
                let last = with_dtable && chunk_bytes == 4 << 30;
                // f32 operands are for comparison only.
                if dtype == Dtype::F32 && !last {
                    continue;
                }
                device.zero(dtable.tensor(Dtype::F32)).unwrap();
                run();
                device.synchronize().unwrap();
                if last {
                    let all = [losses.tensor(Dtype::F32), dh.tensor(dtype), dtable.tensor(Dtype::F32)];
                    let all = all.map(|tensor| device.to_f32(tensor).unwrap());
                    if let Some(exact) = &exact {
                        let mean = |x: &[f32]| x.iter().map(|x| f64::from(*x)).sum::<f64>() / rows as f64;
                        let worst = all[0].iter().zip(&exact[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        eprintln!(
                            "{name}: mean loss {:.6} for {:.6}, worst row {worst:.2e} apart; relative error of dh {:.2e}, \
                             of dtable {:.2e}",
                            mean(&all[0]),
                            mean(&exact[0]),
                            relative(&all[1], &exact[1]),
                            relative(&all[2], &exact[2])
                        );
                    } else {
                        exact = Some(all);
                    }
                }
                if dtype == Dtype::F32 {
                    continue;
                }
                let start = std::time::Instant::now();
                (0..5).for_each(|_| run());
                device.synchronize().unwrap();
                eprintln!("{name}, chunks of {:5} MiB, {what:10}: {:?}", chunk_bytes >> 20, start.elapsed() / 5);
                if with_dtable {
                    device.start_profile();
                    run();
                    for row in device.end_profile().unwrap() {
                        eprintln!("    {row:?}");
                    }
                }
            }
        }
    }
    let logits = f32s(&device, &random(3, 8 * vocab, 4.0));
    let out = device.from_u32(&[0; 8]).unwrap();
    for rows in [1, 8] {
        let x = logits.tensor(Dtype::F32).slice(0, rows * vocab);
        let run = || cuda::argmax(&device, x, rows, vocab, out.tensor(Dtype::U32).slice(0, rows)).unwrap();
        run();
        device.synchronize().unwrap();
        let start = std::time::Instant::now();
        (0..100).for_each(|_| run());
        device.synchronize().unwrap();
        eprintln!("argmax of {rows} rows: {:?}", start.elapsed() / 100);
    }
}
