//! Moves on the GPU: stretches of an axis, chosen rows, casts, and sums of columns.

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::cuda::{self, Dtype};

/// `whole[.., start..end, ..]` of `[outer, size, inner]`, as indices.
fn stretch(outer: usize, size: usize, inner: usize, start: usize, end: usize) -> Vec<usize> {
    (0..outer).flat_map(|o| (start * inner..end * inner).map(move |i| o * size * inner + i)).collect()
}

#[test]
fn stretches_of_an_axis() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (outer, size, inner, start, end) in
            [(1, 1, 1, 0, 1), (3, 5, 1, 1, 4), (7, 6, 8, 2, 6), (300, 3, 128, 1, 2), (5, 4, 33, 0, 3), (1, 9, 4, 1, 9)]
        {
            let what = format!("{dtype:?} [{outer}, {size}, {inner}] {start}..{end}");
            let at = stretch(outer, size, inner, start, end);
            let whole = round(random(1, outer * size * inner, 1.0), dtype);
            let part = round(random(2, at.len(), 1.0), dtype);
            let (gw, gp) = (device.from_f32(&whole, dtype).unwrap(), device.from_f32(&part, dtype).unwrap());
            let (w, p) = (gw.tensor(dtype), gp.tensor(dtype));

            let out = device.from_f32(&vec![f32::NAN; at.len()], dtype).unwrap();
            cuda::copy_out(&device, w, size, inner, start, end, out.tensor(dtype)).unwrap();
            let want: Vec<f32> = at.iter().map(|i| whole[*i]).collect();
            assert_eq!(device.to_f32(out.tensor(dtype)).unwrap(), want, "copy_out {what}");

            cuda::add_in(&device, p, w, size, inner, start, end).unwrap();
            let mut want = whole.clone();
            at.iter().zip(&part).for_each(|(i, x)| want[*i] += x);
            close(&format!("add_in {what}"), &device.to_f32(w).unwrap(), &round(want, dtype), 1e-7);

            device.write_f32(&whole, w).unwrap();
            cuda::copy_in(&device, p, w, size, inner, start, end).unwrap();
            let mut want = whole.clone();
            at.iter().zip(&part).for_each(|(i, x)| want[*i] = *x);
            assert_eq!(device.to_f32(w).unwrap(), want, "copy_in {what}");
        }
    }
    // Bytes and integers too.
    let bytes: Vec<u8> = (0..60).collect();
    let whole = device.allocate(60).unwrap();
    let part = device.allocate(4 * 3 * 3).unwrap();
    device.upload(&bytes, whole.tensor(Dtype::U8)).unwrap();
    cuda::copy_out(&device, whole.tensor(Dtype::U8), 5, 3, 1, 4, part.tensor(Dtype::U8)).unwrap();
    let mut got = vec![0; 36];
    device.download(part.tensor(Dtype::U8), &mut got).unwrap();
    let want: Vec<u8> = stretch(4, 5, 3, 1, 4).iter().map(|i| bytes[*i]).collect();
    assert_eq!(got, want);
    let error = cuda::copy_out(&device, whole.tensor(Dtype::U8), 5, 3, 1, 5, part.tensor(Dtype::U8)).unwrap_err();
    assert!(error.to_string().contains("is no 1..5 of an axis of 5"), "{error}");
}

#[test]
fn chosen_rows() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (rows, width, count) in [(1, 1, 3), (9, 8, 4), (50, 33, 77), (130, 1024, 300)] {
            let x = round(random(1, rows * width, 1.0), dtype);
            let mut index: Vec<u32> = (0..count as u32).map(|i| i * 7 % rows as u32).collect();
            if let Some(last) = index.last_mut() {
                *last = rows as u32;
            }
            let (gx, gi) = (device.from_f32(&x, dtype).unwrap(), device.from_u32(&index).unwrap());
            let out = device.from_f32(&vec![0.25; count * width], dtype).unwrap();
            let o = out.tensor(dtype);
            cuda::gather_rows(&device, gx.tensor(dtype), gi.tensor(Dtype::U32), width, o).unwrap();
            let got = device.to_f32(o).unwrap();
            for (r, i) in index.iter().enumerate() {
                let got = &got[r * width..][..width];
                match x.get(*i as usize * width..(*i as usize + 1) * width) {
                    Some(want) => assert_eq!(got, want, "{dtype:?} {rows}x{width}, row {r}"),
                    None => assert!(got.iter().all(|x| x.is_nan()), "{dtype:?}: row {r} has an index outside"),
                }
            }
        }
    }
}

#[test]
fn casts_round_to_nearest_even() {
    let Some(device) = device() else { return };
    for length in [8, 13, 50_000] {
        let mut x: Vec<f32> = (0..length as u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))).collect();
        let special = [0.0, -0.0, f32::INFINITY, f32::NAN, 1.0 + 1.0 / 256.0, 65_519.9, 65_520.0, f32::MAX];
        x[..8].copy_from_slice(&special);
        for from in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let x = round(x.clone(), from);
            for to in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
                for offset in [0, 1] {
                    let padded = [vec![0.0; offset], x.clone()].concat();
                    let source = device.from_f32(&padded, from).unwrap();
                    let target = device.from_f32(&vec![f32::NAN; length], to).unwrap();
                    let s = source.tensor(from).slice(offset, length);
                    cuda::cast(&device, s, target.tensor(to)).unwrap();
                    let got = device.to_f32(target.tensor(to)).unwrap();
                    for (i, (got, want)) in got.iter().zip(round(x.clone(), to)).enumerate() {
                        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                        assert!(same, "{from:?} to {to:?}: {} became {got}, not {want}", x[i]);
                    }
                }
            }
        }
    }
}

#[test]
fn sums_of_columns() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (m, n) in [(1, 1), (0, 5), (5, 7), (33, 24), (1000, 8), (3000, 130), (4096, 1024), (20_000, 3)] {
            let dy = round(random(1, m * n, 1.0), dtype);
            let old = random(2, n, 1.0);
            // One more, because a copy of nothing is no copy.
            let gdy = device.from_f32(&[dy.clone(), vec![0.0]].concat(), dtype).unwrap();
            let tdy = gdy.tensor(dtype).slice(0, m * n);
            for beta in [0.0f32, 1.0, 0.5] {
                let mut want = if beta == 0.0 { vec![f32::NAN; n] } else { old.clone() };
                let db = device.from_f32(&want, Dtype::F32).unwrap();
                let run = || {
                    device.write_f32(&want, db.tensor(Dtype::F32)).unwrap();
                    cuda::column_sums(&device, tdy, m, n, beta, db.tensor(Dtype::F32)).unwrap();
                    device.to_f32(db.tensor(Dtype::F32)).unwrap()
                };
                let (got, again) = (run(), run());
                assert_eq!(got, again, "{dtype:?} {m}x{n}: other bits in another run");
                cpu::column_sums(&dy, m, n, beta, &mut want);
                close(&format!("{dtype:?} {m}x{n} beta {beta}"), &got, &want, 1e-5);
            }
        }
    }
}
