//! The gradients around a low-rank adapter's second matrix, from one reading of the output's gradient, on the GPU.

mod common;

use common::{close, device, random, round};
use swift_kernels::cuda::{self, Buffer, Device, Dtype, Operand, Tensor};

const SCALE: f32 = 0.37;

/// One problem on the device with its numbers. `low` and `d_low` are columns of wider rows.
struct Case {
    what: String,
    dtype: Dtype,
    sizes: [usize; 3],
    dy: (Vec<f32>, Buffer),
    low: (Vec<f32>, Buffer),
    b: (Vec<f32>, Buffer),
    d_low: Buffer,
    d_b: (Vec<f32>, Buffer),
}

/// Elements before `low` and `d_low` in their rows, and from row to row.
const LOW: [usize; 2] = [40, 120];
const D_LOW: [usize; 2] = [24, 96];
/// Elements before `d_b`: parameters lie anywhere in their arena.
const D_B: usize = 3;

impl Case {
    fn new(device: &Device, dtype: Dtype, rows: usize, n: usize, r: usize) -> Self {
        let make = |seed, elements| {
            let values = round(random(seed, elements, 1.0), dtype);
            let buffer = device.from_f32(&values, dtype).unwrap();
            (values, buffer)
        };
        let before = random(4, n * r + D_B, 1.0);
        Self {
            what: format!("{dtype:?} [{rows}, {n}] with {r}"),
            dtype,
            sizes: [rows, n, r],
            dy: make(1, rows * n),
            low: make(2, rows * LOW[1]),
            b: make(3, n * r),
            d_low: device.from_f32(&vec![f32::NAN; rows * D_LOW[1]], dtype).unwrap(),
            d_b: (before.clone(), device.from_f32(&before, Dtype::F32).unwrap()),
        }
    }

    fn columns(&self, buffer: &Buffer, [start, stride]: [usize; 2]) -> Operand {
        let [rows, _, r] = self.sizes;
        let all = buffer.tensor(self.dtype);
        Operand::strided(all.slice(start, all.elements() - start), rows, r, stride)
    }

    fn d_b(&self) -> Tensor {
        let [_, n, r] = self.sizes;
        self.d_b.1.tensor(Dtype::F32).slice(D_B, n * r)
    }

    fn run(&self, device: &Device, d_b: Option<Tensor>) {
        let [rows, n, r] = self.sizes;
        let (dy, b) = (self.dy.1.tensor(self.dtype), self.b.1.tensor(self.dtype));
        let (low, d_low) = (self.columns(&self.low.1, LOW), self.columns(&self.d_low, D_LOW));
        assert!(cuda::adapter_grad_fits(device, dy, n, r, low, b, d_low), "{}", self.what);
        cuda::adapter_grad(device, dy, rows, n, low, b, r, SCALE, d_low, d_b).unwrap();
    }

    /// `d_low` as it is now, after a look at its neighbours.
    fn d_low_now(&self, device: &Device) -> Vec<f32> {
        let [rows, _, r] = self.sizes;
        let all = device.to_f32(self.d_low.tensor(self.dtype)).unwrap();
        let mut own = Vec::with_capacity(rows * r);
        for (row, values) in all.chunks_exact(D_LOW[1]).enumerate() {
            for (column, x) in values.iter().enumerate() {
                if (D_LOW[0]..D_LOW[0] + r).contains(&column) {
                    own.push(*x);
                } else {
                    assert!(x.is_nan(), "{}: column {column} of row {row} of d_low became {x}", self.what);
                }
            }
        }
        own
    }

    fn d_b_now(&self, device: &Device) -> Vec<f32> {
        let all = device.to_f32(self.d_b.1.tensor(Dtype::F32)).unwrap();
        assert_eq!(all[..D_B], self.d_b.0[..D_B], "{}: before d_b", self.what);
        all[D_B..].to_vec()
    }

    /// The same sums in f64: `d_low`, and what is added to `d_b`.
    fn want(&self) -> (Vec<f32>, Vec<f32>) {
        let [rows, n, r] = self.sizes;
        let (mut d_low, mut d_b) = (vec![0.0f64; rows * r], vec![0.0f64; n * r]);
        for row in 0..rows {
            let low = &self.low.0[row * LOW[1] + LOW[0]..][..r];
            let d_low = &mut d_low[row * r..][..r];
            for column in 0..n {
                let dy = f64::from(self.dy.0[row * n + column]);
                let b = &self.b.0[column * r..][..r];
                let d_b = &mut d_b[column * r..][..r];
                for j in 0..r {
                    d_low[j] += dy * f64::from(b[j]);
                    d_b[j] += dy * f64::from(low[j]);
                }
            }
        }
        let scaled = |sums: Vec<f64>| sums.into_iter().map(|x| (f64::from(SCALE) * x) as f32).collect();
        (scaled(d_low), scaled(d_b))
    }

    fn check(&self, device: &Device) {
        let (d_low, added) = self.want();
        let tolerance = if self.dtype == Dtype::F16 { 5e-4 } else { 4e-3 };
        self.run(device, None);
        let alone = self.d_low_now(device);
        close(&format!("{}: d_low", self.what), &alone, &d_low, tolerance);
        assert_eq!(self.d_b_now(device), self.d_b.0[D_B..], "{}: an unwanted d_b", self.what);
        let mut d_b = self.d_b.0[D_B..].to_vec();
        for pass in 1..=2 {
            self.run(device, Some(self.d_b()));
            assert_eq!(self.d_low_now(device), alone, "{}: d_low of pass {pass}", self.what);
            for (sum, x) in d_b.iter_mut().zip(&added) {
                *sum += x;
            }
            close(&format!("{}: d_b of pass {pass}", self.what), &self.d_b_now(device), &d_b, 2e-5);
        }
    }
}

#[test]
fn both_gradients_are_the_products_for_every_rank() {
    let Some(device) = device() else { return };
    for dtype in [Dtype::Bf16, Dtype::F16] {
        for r in (8..=64).step_by(8) {
            // Rows of no whole tile, columns of one range and a bit.
            Case::new(&device, dtype, 333, 584, r).check(&device);
        }
    }
}

#[test]
fn both_gradients_are_the_products_for_odd_sizes() {
    let Some(device) = device() else { return };
    // One row, one pack of columns, fewer tiles than blocks, more ranges than rows' tiles, whole tiles only.
    for (rows, n) in [(1, 8), (31, 512), (32, 1024), (33, 9728), (4111, 16), (2048, 1544), (5000, 1024)] {
        for r in [8, 16, 64] {
            Case::new(&device, Dtype::Bf16, rows, n, r).check(&device);
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let Some(device) = device() else { return };
    for r in [16, 32, 64] {
        let case = Case::new(&device, Dtype::Bf16, 16_384, 3072, r);
        let start = case.d_b.1.tensor(Dtype::F32);
        let results: Vec<_> = (0..3)
            .map(|_| {
                device.write_f32(&case.d_b.0, start).unwrap();
                case.run(&device, Some(case.d_b()));
                (case.d_low_now(&device), case.d_b_now(&device))
            })
            .collect();
        assert!(results[0].0.iter().chain(&results[0].1).all(|x| x.is_finite()), "{}", case.what);
        for (i, other) in results.iter().enumerate().skip(1) {
            assert!(results[0] == *other, "{}: run {i} differs from the first", case.what);
        }
    }
}

/// Against the two products, at sizes of a training step, where the sums are long.
#[test]
fn large_sums_agree_with_the_two_products() {
    let Some(device) = device() else { return };
    for (rows, n) in [(16_384, 1024), (16_384, 3072), (8192, 9728)] {
        let case = Case::new(&device, Dtype::Bf16, rows, n, 16);
        case.run(&device, Some(case.d_b()));
        let (d_low, d_b) = (case.d_low_now(&device), case.d_b_now(&device));
        device.write_f32(&case.d_b.0, case.d_b.1.tensor(Dtype::F32)).unwrap();
        two_products(&device, &case);
        close(&format!("{}: d_low", case.what), &d_low, &case.d_low_now(&device), 4e-3);
        // The products sum more terms one after another, and tensor cores cut what they add.
        close(&format!("{}: d_b", case.what), &d_b, &case.d_b_now(&device), 1e-4);
    }
}

fn two_products(device: &Device, case: &Case) {
    let [rows, n, r] = case.sizes;
    let dy = Operand::new(case.dy.1.tensor(case.dtype), rows, n);
    let b = Operand::new(case.b.1.tensor(case.dtype), n, r);
    let (low, d_low) = (case.columns(&case.low.1, LOW), case.columns(&case.d_low, D_LOW));
    cuda::matmul(device, dy, false, b, false, SCALE, 0.0, None, d_low).unwrap();
    cuda::matmul(device, dy, true, low, false, SCALE, 1.0, None, Operand::new(case.d_b(), n, r)).unwrap();
}

#[test]
fn wrong_operands_are_refused() {
    let Some(device) = device() else { return };
    let (rows, n, r) = (40, 64, 16);
    let case = Case::new(&device, Dtype::Bf16, rows, n, r);
    let (dy, b) = (case.dy.1.tensor(Dtype::Bf16), case.b.1.tensor(Dtype::Bf16));
    let (low, d_low) = (case.columns(&case.low.1, LOW), case.columns(&case.d_low, D_LOW));
    let call = |dy, n, low, b, r, d_low, d_b| cuda::adapter_grad(&device, dy, rows, n, low, b, r, SCALE, d_low, d_b);
    let d_b = Some(case.d_b());
    assert!(call(dy, n, low, b, r, d_low, d_b).is_ok());
    assert!(call(dy.slice(0, rows * n - 8), n, low, b, r, d_low, d_b).is_err(), "a short dy");
    assert!(call(dy, n, low, b.slice(0, n * r - 8), r, d_low, d_b).is_err(), "a short b");
    assert!(call(dy, n, low, b, r, d_low, Some(case.d_b().slice(0, n * r - 1))).is_err(), "a short d_b");
    assert!(call(dy, n, low, b.cast(Dtype::F16), r, d_low, d_b).is_err(), "b of another type");
    assert!(call(dy, n, low, b, r, d_low, d_b.map(|d| d.cast(Dtype::U32))).is_err(), "d_b of another type");
    let short = |x: Operand| Operand { data: x.data.slice(0, (rows - 1) * x.stride + r - 1), ..x };
    assert!(call(dy, n, short(low), b, r, d_low, d_b).is_err(), "a short low");
    assert!(call(dy, n, low, b, r, short(d_low), d_b).is_err(), "a short d_low");
    assert!(call(dy, n, Operand { rows: rows - 1, ..low }, b, r, d_low, d_b).is_err(), "another shape of low");
    // What only the two products take.
    let odd = Operand { data: low.data.slice(1, low.data.elements() - 1), ..low };
    assert!(!cuda::adapter_grad_fits(&device, dy, n, r, odd, b, d_low), "an odd address");
    assert!(call(dy, n, odd, b, r, d_low, d_b).is_err(), "an odd address");
    let narrow = Operand { stride: 95, ..d_low };
    assert!(!cuda::adapter_grad_fits(&device, dy, n, r, low, b, narrow), "an odd stride");
    assert!(!cuda::adapter_grad_fits(&device, dy, n, 12, low, b, d_low), "a rank of 12");
    assert!(!cuda::adapter_grad_fits(&device, dy, n, 72, low, b, d_low), "a rank of 72");
    assert!(!cuda::adapter_grad_fits(&device, dy, 60, r, low, b, d_low), "a width of 60");
    assert!(!cuda::adapter_grad_fits(&device, dy.cast(Dtype::F32), n, r, low, b, d_low), "f32");
    // No rows: nothing to do.
    let none = |x: Operand| Operand { rows: 0, ..x };
    cuda::adapter_grad(&device, dy.slice(0, 0), 0, n, none(low), b, r, SCALE, none(d_low), d_b).unwrap();
}

/// Microseconds of one call: the shortest of some batches, queued without waiting in between.
fn microseconds(device: &Device, run: impl Fn()) -> f64 {
    const CALLS: u32 = 50;
    run();
    (0..5)
        .map(|_| {
            device.synchronize().unwrap();
            let start = std::time::Instant::now();
            for _ in 0..CALLS {
                run();
            }
            device.synchronize().unwrap();
            start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
        })
        .fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "a measurement, for an otherwise idle GPU"]
#[allow(clippy::print_stderr, reason = "a measurement is for reading")]
fn speed_beside_two_products() {
    let Some(device) = device() else { return };
    let dtype = Dtype::Bf16;
    let bytes = device.from_f32(&random(1, 1 << 19, 1.0), dtype).unwrap();
    // Random numbers again and again: power depends on what is read.
    let filled = |elements: usize, dtype: Dtype| {
        let buffer = device.allocate(elements * dtype.size()).unwrap();
        device.zero(buffer.tensor(dtype)).unwrap();
        for start in (0..buffer.bytes()).step_by(bytes.bytes()).filter(|_| dtype != Dtype::F32) {
            let part = bytes.bytes().min(buffer.bytes() - start);
            device.copy(bytes.at(0, part, Dtype::U8), buffer.at(start, part, Dtype::U8)).unwrap();
        }
        buffer
    };
    for r in [8, 16, 32, 64] {
        for (rows, widths) in [(16_384, &[1024, 2048, 3072][..]), (8192, &[1024, 2560, 4096, 9728][..])] {
            for &n in widths {
                // Gradients in turn, together far larger than the caches, as in a step.
                let count = (400_000_000 / (rows * n * 2)).max(1);
                let dy: Vec<_> = (0..count).map(|_| filled(rows * n, dtype)).collect();
                let (low, d_low) = (filled(rows * r, dtype), filled(rows * r, dtype));
                let (b, d_b) = (filled(n * r, dtype), filled(n * r, Dtype::F32));
                let [low, d_low] = [&low, &d_low].map(|x| Operand::new(x.tensor(dtype), rows, r));
                let turn = std::cell::Cell::new(0);
                let next = || {
                    turn.set((turn.get() + 1) % dy.len());
                    dy[turn.get()].tensor(dtype)
                };
                let (b, d_b) = (b.tensor(dtype), d_b.tensor(Dtype::F32));
                let fused = microseconds(&device, || {
                    cuda::adapter_grad(&device, next(), rows, n, low, b, r, SCALE, d_low, Some(d_b)).unwrap();
                });
                let two = microseconds(&device, || {
                    let (dy, b) = (Operand::new(next(), rows, n), Operand::new(b, n, r));
                    cuda::matmul(&device, dy, false, b, false, SCALE, 0.0, None, d_low).unwrap();
                    cuda::matmul(&device, dy, true, low, false, SCALE, 1.0, None, Operand::new(d_b, n, r)).unwrap();
                });
                let rate = |microseconds: f64| (rows * n * 2) as f64 / microseconds / 1e6;
                eprintln!(
                    "[{rows}, {n}] with {r}: {fused:.1} us, {:.2} TB/s of dy; two products {two:.1} us, {:.2} TB/s",
                    rate(fused),
                    rate(two)
                );
            }
        }
    }
}
