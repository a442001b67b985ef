//! Rows of a table, rows back to their places and the table's gradient on the GPU, against the CPU kernels.

#![allow(clippy::print_stderr, reason = "measurements, and tests that this GPU is too small for")]

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::Weight;
use swift_kernels::cuda::{self, Dtype, EmbedOrder};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];
const VOCAB: usize = 1000;

/// Ids of which some come often: 7 fills several stretches.
fn ids(rows: usize) -> Vec<u32> {
    (0..rows)
        .map(|row| match row % 5 {
            0 | 3 => 7,
            1 => 999,
            _ => (row * 7919 % VOCAB) as u32,
        })
        .collect()
}

#[test]
fn rows_of_a_table_and_back() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for width in [1, 8, 33, 64, 1024, 4100] {
            let ids = ids(301);
            let n = ids.len() * width;
            let table = round(random(1, VOCAB * width, 1.0), dtype);
            let mut want = vec![0.0; n];
            cpu::embed(&ids, Weight::F32(&table), width, &mut want);
            let gtable = device.from_f32(&table, dtype).unwrap();
            let out = device.from_f32(&vec![f32::NAN; n], dtype).unwrap();
            let gids = device.from_u32(&ids).unwrap();
            cuda::embed(&device, gids.tensor(Dtype::U32), gtable.tensor(dtype), width, out.tensor(dtype)).unwrap();
            assert_eq!(device.to_f32(out.tensor(dtype)).unwrap(), want, "{dtype:?} width {width}");

            // Every third row of another matrix gets a row; the others stay.
            let places: Vec<u32> = (0..ids.len() as u32).map(|row| 3 * (ids.len() as u32 - 1 - row) + 1).collect();
            let mut scattered = round(random(2, 3 * n, 1.0), dtype);
            let to = device.from_f32(&scattered, dtype).unwrap();
            for (row, place) in places.iter().enumerate() {
                scattered[*place as usize * width..][..width].copy_from_slice(&want[row * width..][..width]);
            }
            let places = device.from_u32(&places).unwrap();
            cuda::scatter_rows(&device, out.tensor(dtype), places.tensor(Dtype::U32), width, to.tensor(dtype)).unwrap();
            assert_eq!(device.to_f32(to.tensor(dtype)).unwrap(), scattered, "{dtype:?} width {width}");
        }
    }
}

#[test]
fn an_id_outside_of_the_table_reads_nothing_else() {
    let Some(device) = device() else { return };
    let table = device.from_f32(&random(1, 4 * 8, 1.0), Dtype::F32).unwrap();
    let out = device.from_f32(&[f32::NAN; 16], Dtype::F32).unwrap();
    let ids = device.from_u32(&[1, u32::MAX]).unwrap();
    cuda::embed(&device, ids.tensor(Dtype::U32), table.tensor(Dtype::F32), 8, out.tensor(Dtype::F32)).unwrap();
    let (table, out) =
        (device.to_f32(table.tensor(Dtype::F32)).unwrap(), device.to_f32(out.tensor(Dtype::F32)).unwrap());
    assert_eq!(out, [&table[8..16], &table[24..]].concat());
}

#[test]
fn gradient_of_the_table() {
    let Some(device) = device() else { return };
    for dtype in DTYPES {
        for (rows, width) in [(1, 8), (65, 33), (301, 64), (2000, 1024), (25_000, 40), (25_000, 37)] {
            let ids = ids(rows);
            let dy = round(random(1, rows * width, 1.0), dtype);
            let table = random(2, VOCAB * width, 1.0);
            let mut want = table.clone();
            cpu::embed_grad(&ids, &dy, width, &mut want);
            let order = EmbedOrder::new(&device, &ids).unwrap();
            let gdy = device.from_f32(&dy, dtype).unwrap();
            let mut first: Option<Vec<f32>> = None;
            for _ in 0..3 {
                let dtable = device.from_f32(&table, Dtype::F32).unwrap();
                let to = dtable.tensor(Dtype::F32);
                cuda::embed_grad(&device, &order, gdy.tensor(dtype), width, to).unwrap();
                let got = device.to_f32(to).unwrap();
                // Some thousand f32 additions in another order.
                close(&format!("{dtype:?} [{rows}, {width}]"), &got, &want, 1e-5);
                let same =
                    first.get_or_insert_with(|| got.clone()).iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{dtype:?} [{rows}, {width}]: other bits in another run");
            }
        }
    }
    let none = EmbedOrder::new(&device, &[]).unwrap();
    let table = device.from_f32(&[1.0; 16], Dtype::F32).unwrap();
    let table = table.tensor(Dtype::F32);
    cuda::embed_grad(&device, &none, table.slice(0, 0), 8, table).unwrap();
    assert_eq!(device.to_f32(table).unwrap(), [1.0; 16]);
}

#[test]
fn wrong_operands_are_refused() {
    let Some(device) = device() else { return };
    let buffer = device.from_f32(&[0.0; 64], Dtype::F32).unwrap();
    let x = buffer.tensor(Dtype::F32);
    let order = EmbedOrder::new(&device, &[3, 1]).unwrap();
    assert!(cuda::embed_grad(&device, &order, x.slice(0, 16), 8, x).is_ok());
    assert!(cuda::embed_grad(&device, &order, x.slice(0, 16), 8, x.slice(0, 24)).is_err(), "id 3 of a table of 3");
    assert!(cuda::embed_grad(&device, &order, x.slice(0, 24), 8, x).is_err(), "3 rows for 2 ids");
    let ids = x.slice(0, 2).cast(Dtype::U32);
    assert!(cuda::embed(&device, ids, x, 8, x.slice(0, 24)).is_err(), "3 rows for 2 ids");
    assert!(cuda::embed(&device, x.slice(0, 2), x, 8, x.slice(0, 16)).is_err(), "ids that are no integers");
    assert!(cuda::scatter_rows(&device, x.slice(0, 24), ids, 8, x).is_err(), "3 rows for 2 ids");
}

#[test]
#[ignore = "a measurement"]
fn one_token_many_times() {
    let Some(device) = device() else { return };
    let (rows, width, vocab, dtype) = (16384, 1024, 151_936, Dtype::Bf16);
    let dy = device.from_f32(&random(1, rows * width, 1.0), dtype).unwrap();
    let dtable = device.allocate(vocab * width * 4).unwrap();
    device.zero(dtable.tensor(Dtype::F32)).unwrap();
    for often in [0, 1000, 10_000] {
        let ids: Vec<u32> = (0..rows).map(|row| if row < often { 7 } else { (row * 7919 % vocab) as u32 }).collect();
        let start = std::time::Instant::now();
        let order = EmbedOrder::new(&device, &ids).unwrap();
        let sorting = start.elapsed();
        let run = || cuda::embed_grad(&device, &order, dy.tensor(dtype), width, dtable.tensor(Dtype::F32)).unwrap();
        run();
        device.synchronize().unwrap();
        let start = std::time::Instant::now();
        (0..20).for_each(|_| run());
        device.synchronize().unwrap();
        eprintln!("embed_grad, one id {often} times: {:?}; sorting {sorting:?}", start.elapsed() / 20);
    }
}
