//! Weights with the columns of adapters on the GPU.

mod common;

use common::{device, random, round};
use swift_kernels::cuda::{self, AdapterColumns, AdapterTable, Dtype};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

/// Panics at the first number that differs in its bits (any NaN equals any other).
fn same(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let wrong = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan()));
    if let Some(i) = wrong {
        panic!("{what}: element {i} of {} is {}, not {}", got.len(), got[i], want[i]);
    }
}

#[test]
fn columns_are_scaled_and_the_rest_stays() {
    let Some(device) = device() else { return };
    // n, k, r, stride: whole packs, ranks of none, columns and strides that are not, and nothing at all.
    let shapes = [
        (3072, 1024, 16, 1040),
        (1024, 3072, 8, 3136),
        (151, 64, 16, 96),
        (5, 40, 3, 48),
        (33, 37, 16, 64),
        (7, 32, 16, 51),
        (1, 8, 1, 9),
        (4, 16, 0, 16),
        (0, 16, 8, 24),
    ];
    for dtype in DTYPES {
        let mut columns = Vec::new();
        let mut buffers = Vec::new();
        let mut wants = Vec::new();
        for (i, (n, k, r, stride)) in shapes.into_iter().enumerate() {
            // The frozen columns are NaN, so that a touched one shows.
            let (b, scale) = (random(i as u64, n * r, 1.0), [2.0, 0.3, -1.0][i % 3]);
            let mut want = vec![f32::NAN; n * stride];
            for row in 0..n {
                let scaled: Vec<f32> = b[row * r..][..r].iter().map(|x| scale * x).collect();
                want[row * stride + k..][..r].copy_from_slice(&round(scaled, dtype));
            }
            // An f32 arena aligns to 4 bytes only: the fourth matrix begins at no whole pack.
            let offset = usize::from(i == 3);
            let master = device.from_f32(&[vec![0.0; offset], b].concat(), Dtype::F32).unwrap();
            let out = device.from_f32(&vec![f32::NAN; n * stride], dtype).unwrap();
            columns.push(AdapterColumns {
                b: master.at(offset * 4, n * r, Dtype::F32),
                out: out.tensor(dtype),
                n,
                r,
                stride,
                column: k,
                scale,
            });
            buffers.push((master, out));
            wants.push(want);
        }
        let table = AdapterTable::new(&device, &columns).unwrap();
        cuda::refresh_adapters(&device, &table).unwrap();
        for ((shape, column), want) in shapes.iter().zip(&columns).zip(&wants) {
            same(&format!("{dtype:?} (n, k, r, stride) {shape:?}"), &device.to_f32(column.out).unwrap(), want);
        }
        // The matrices change, the table does not.
        let n = columns[0].b.elements();
        device.write_f32(&vec![0.5; n], columns[0].b).unwrap();
        cuda::refresh_adapters(&device, &table).unwrap();
        for row in 0..3072 {
            wants[0][row * 1040 + 1024..][..16].fill(1.0);
        }
        same(&format!("{dtype:?} again"), &device.to_f32(columns[0].out).unwrap(), &wants[0]);

        let wrong = |change: &dyn Fn(&mut AdapterColumns)| {
            let mut column = columns[0];
            change(&mut column);
            assert!(AdapterTable::new(&device, &[columns[1], column]).is_err(), "{column:?}");
        };
        wrong(&|c| c.n -= 1);
        wrong(&|c| c.column = 1025);
        wrong(&|c| c.out = c.out.slice(0, 1040 * 3071));
        wrong(&|c| c.out = c.out.cast(Dtype::U8));
    }
    cuda::refresh_adapters(&device, &AdapterTable::new(&device, &[]).unwrap()).unwrap();
}

#[test]
fn rows_are_widened_with_zeros() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (n, k, stride) in
            [(1024, 3072, 3088), (37, 64, 64), (5, 33, 40), (6, 40, 47), (3, 1, 17), (2, 0, 8), (0, 8, 16)]
        {
            let what = format!("{dtype:?} [{n}, {k}] to {stride}");
            let w = round(random(1, n * k, 1.0), dtype);
            let mut want = vec![0.0; n * stride];
            for row in 0..n {
                want[row * stride..][..k].copy_from_slice(&w[row * k..][..k]);
            }
            let from = device.from_f32(&w, dtype).unwrap();
            let out = device.from_f32(&vec![f32::NAN; n * stride], dtype).unwrap();
            cuda::augment(&device, from.tensor(dtype), n, k, stride, out.tensor(dtype)).unwrap();
            same(&what, &device.to_f32(out.tensor(dtype)).unwrap(), &want);
            if n > 0 && k > 0 {
                let short = out.tensor(dtype).slice(0, n * (k - 1));
                assert!(cuda::augment(&device, from.tensor(dtype), n, k, k - 1, short).is_err(), "{what}: too narrow");
            }
        }
    }
}
