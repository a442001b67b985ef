//! Matrix products with weights: forward, gradient of the input, gradient of the weight, gradient of the bias.
//!
//! f32 products go to the `gemm` crate. Weights stored in 16 bits are widened panel by panel into temporary memory, which
//! costs a fraction of the product. With few rows (decoding) the product is bound by reading the weight, so the stored
//! type is read directly, in parallel over output features.

use std::ops::Range;

use crate::few_rows::{FEW_ROWS, few_rows};
use crate::parallel::{Shared, for_each_range, rows_per_task, scratch};
use crate::simd::dispatch;
use crate::weight::Weight;

/// Elements of a widened panel: 8 MiB, far below any activation of a training step.
const PANEL: usize = 2 << 20;

/// A matrix in memory by its strides, counted in elements.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl<'a> View<'a> {
    /// Row-major with `row` elements from one row to the next.
    pub(crate) fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, column: 1 }
    }

    /// The transpose of [`View::rows`].
    pub(crate) fn transposed(data: &'a [f32], row: usize) -> Self {
        Self { data, row: 1, column: row }
    }
}

/// `out[m, n] = alpha * a[m, k] b[k, n] + beta * out`; `stride` is the distance of two rows of `out`. With `beta` 0 the
/// old content is not read. `parallel` uses the thread pool; the result does not depend on it.
pub(crate) fn product(
    m: usize,
    k: usize,
    n: usize,
    a: View,
    b: View,
    alpha: f32,
    beta: f32,
    out: &mut [f32],
    stride: usize,
    parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(stride >= n && out.len() > (m - 1) * stride + n - 1, "product: the output is too short");
    if k > 0 {
        assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.column, "product: the left matrix is too short");
        assert!(b.data.len() > (k - 1) * b.row + (n - 1) * b.column, "product: the right matrix is too short");
    }
    let parallelism = if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: the assertions above keep the greatest offset of each matrix inside its slice; `out` is borrowed mutably, so
    // it overlaps neither input. The crate's `alpha` scales the old output and its `beta` the product.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `out[m, n] = alpha * x[m, k] w[n, k]^T + beta * out + bias[n]`. With `beta` 0 the old content is not read.
pub fn linear(
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight,
    n: usize,
    bias: Option<Weight>,
    alpha: f32,
    beta: f32,
    out: &mut [f32],
) {
    assert_eq!(x.len(), m * k, "linear: x is not [m, k]");
    assert_eq!(w.len(), n * k, "linear: w is not [n, k]");
    assert_eq!(out.len(), m * n, "linear: out is not [m, n]");
    let bias = bias.map(Weight::to_vec);
    if let Some(bias) = &bias {
        assert_eq!(bias.len(), n, "linear: bias is not [n]");
    }
    if m == 0 || n == 0 {
        return;
    }
    if m <= FEW_ROWS {
        few_rows(x, m, k, w, n, bias.as_deref(), alpha, beta, out);
        return;
    }
    for_each_panel(w, n, k, |features, panel| {
        let columns = features.len();
        product(
            m,
            k,
            columns,
            View::rows(x, k),
            View::transposed(panel, k),
            alpha,
            beta,
            &mut out[features.start..],
            n,
            true,
        );
    });
    if let Some(bias) = &bias {
        let shared = Shared::new(out);
        for_each_range(m, rows_per_task(n), |rows| {
            // SAFETY: ranges of different tasks do not overlap.
            add_bias(unsafe { shared.part(rows.start * n..rows.end * n) }, bias);
        });
    }
}

/// `dx[m, k] = alpha * dy[m, n] w[n, k] + beta * dx`. With `beta` 0 the old content is not read.
pub fn linear_grad_input(dy: &[f32], m: usize, n: usize, w: Weight, k: usize, alpha: f32, beta: f32, dx: &mut [f32]) {
    assert_eq!(dy.len(), m * n, "linear_grad_input: dy is not [m, n]");
    assert_eq!(w.len(), n * k, "linear_grad_input: w is not [n, k]");
    assert_eq!(dx.len(), m * k, "linear_grad_input: dx is not [m, k]");
    if n == 0 {
        scale_or_clear(dx, beta);
        return;
    }
    for_each_panel(w, n, k, |features, panel| {
        let beta = if features.start == 0 { beta } else { 1.0 };
        let part = &dy[features.start.min(dy.len())..];
        product(m, features.len(), k, View::rows(part, n), View::rows(panel, k), alpha, beta, dx, k, true);
    });
}

/// `dw[n, k] = alpha * dy[m, n]^T x[m, k] + beta * dw`. With `beta` 0 the old content is not read.
pub fn linear_grad_weight(dy: &[f32], x: &[f32], m: usize, n: usize, k: usize, alpha: f32, beta: f32, dw: &mut [f32]) {
    assert_eq!(dy.len(), m * n, "linear_grad_weight: dy is not [m, n]");
    assert_eq!(x.len(), m * k, "linear_grad_weight: x is not [m, k]");
    assert_eq!(dw.len(), n * k, "linear_grad_weight: dw is not [n, k]");
    product(n, m, k, View::transposed(dy, n), View::rows(x, k), alpha, beta, dw, k, true);
}

/// `db[n] = sum over m of dy[m, n] + beta * db`: the gradient of a bias, and of anything repeated over rows. Sums are
/// carried in f64 between blocks of rows.
pub fn column_sums(dy: &[f32], m: usize, n: usize, beta: f32, db: &mut [f32]) {
    assert_eq!(dy.len(), m * n, "column_sums: dy is not [m, n]");
    assert_eq!(db.len(), n, "column_sums: db is not [n]");
    let shared = Shared::new(db);
    for_each_range(n, COLUMNS, |columns| {
        // SAFETY: ranges of different tasks do not overlap.
        let db = unsafe { shared.part(columns.clone()) };
        let mut total = [0f64; COLUMNS];
        add_columns(dy, m, n, columns.start, &mut total[..columns.len()]);
        for (db, total) in db.iter_mut().zip(total) {
            let old = if beta == 0.0 { 0.0 } else { f64::from(beta) * f64::from(*db) };
            *db = (old + total) as f32;
        }
    });
}

/// Columns of one task of [`column_sums`].
const COLUMNS: usize = 128;

dispatch! {
    fn add_columns[](dy: &[f32], m: usize, n: usize, first: usize, total: &mut [f64]) {
        let width = total.len();
        let mut row = 0;
        while row < m {
            let end = (row + 64).min(m);
            let mut sums = [0f32; COLUMNS];
            for row in row..end {
                for (sum, value) in sums[..width].iter_mut().zip(&dy[row * n + first..][..width]) {
                    *sum += value;
                }
            }
            for (total, sum) in total.iter_mut().zip(&sums) {
                *total += f64::from(*sum);
            }
            row = end;
        }
    }
}

dispatch! {
    fn add_bias[](out: &mut [f32], bias: &[f32]) {
        for row in out.chunks_exact_mut(bias.len()) {
            for (out, bias) in row.iter_mut().zip(bias) {
                *out += bias;
            }
        }
    }
}

/// `x *= beta`, or zeros without reading when `beta` is 0.
fn scale_or_clear(x: &mut [f32], beta: f32) {
    if beta == 0.0 {
        x.fill(0.0);
    } else if beta != 1.0 {
        x.iter_mut().for_each(|x| *x *= beta);
    }
}

/// Calls `work` with f32 panels of whole rows that together are `w[n, k]`.
fn for_each_panel(w: Weight, n: usize, k: usize, mut work: impl FnMut(Range<usize>, &[f32])) {
    if let Weight::F32(w) = w {
        work(0..n, w);
        return;
    }
    let rows = (PANEL / k.max(1)).max(64).min(n);
    let mut panel = scratch(rows * k);
    let mut start = 0;
    while start < n {
        let end = (start + rows).min(n);
        let panel = &mut panel[..(end - start) * k];
        w.slice(start * k..end * k).to_f32(panel);
        work(start..end, panel);
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, assert_close, assert_same_bits, random, wide};

    /// Rounding grows like the square root of the summed length in the mean; 4096 products stay well below this.
    const TOLERANCE: f64 = 2e-6;

    const SHAPES: [(usize, usize, usize); 9] = [
        (1, 1, 1),
        (1, 64, 48),
        (1, 37, 5),
        (3, 130, 67),
        (7, 33, 130),
        (8, 8, 1),
        (9, 65, 31),
        (33, 24, 50),
        (130, 40, 96),
    ];

    /// `alpha * a[m, k] b + beta * out`, where `at` gives `b`'s element.
    fn naive(
        m: usize,
        k: usize,
        n: usize,
        a: &dyn Fn(usize, usize) -> f64,
        b: &dyn Fn(usize, usize) -> f64,
        alpha: f64,
        beta: f64,
        out: &[f32],
    ) -> Vec<f64> {
        let mut result = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|l| a(i, l) * b(l, j)).sum();
                let old = if beta == 0.0 { 0.0 } else { beta * f64::from(out[i * n + j]) };
                result.push(alpha * sum + old);
            }
        }
        result
    }

    #[test]
    fn products_equal_the_naive_sums() {
        for (m, k, n) in SHAPES {
            let x = random(m * k, 1);
            let dy = random(m * n, 2);
            let stored = Stored::new(n * k, 3);
            let bias = Stored::new(n, 4);
            for (alpha, beta) in [(1.0f32, 0.0f32), (1.0, 1.0), (-0.5, 2.0)] {
                let (a, b) = (f64::from(alpha), f64::from(beta));
                for (w, bias) in stored.all().into_iter().zip(bias.all()) {
                    let weight = wide(&w.to_vec());
                    let x64 = wide(&x);
                    let dy64 = wide(&dy);
                    // Without beta the old content must not be read.
                    let old = |length| {
                        if beta == 0.0 { vec![f32::NAN; length] } else { random(length, 5) }
                    };

                    let mut out = old(m * n);
                    let mut expected = naive(m, k, n, &|i, l| x64[i * k + l], &|l, j| weight[j * k + l], a, b, &out);
                    linear(&x, m, k, w, n, None, alpha, beta, &mut out);
                    assert_close(&out, &expected, TOLERANCE, "linear");

                    let mut out = old(m * n);
                    linear(&x, m, k, w, n, Some(bias), alpha, beta, &mut out);
                    let bias = bias.to_vec();
                    for (index, expected) in expected.iter_mut().enumerate() {
                        *expected += f64::from(bias[index % n]);
                    }
                    assert_close(&out, &expected, TOLERANCE, "linear with bias");

                    let mut dx = old(m * k);
                    let expected = naive(m, n, k, &|i, l| dy64[i * n + l], &|l, j| weight[l * k + j], a, b, &dx);
                    linear_grad_input(&dy, m, n, w, k, alpha, beta, &mut dx);
                    assert_close(&dx, &expected, TOLERANCE, "linear_grad_input");

                    let mut dw = old(n * k);
                    let expected = naive(n, m, k, &|i, l| dy64[l * n + i], &|l, j| x64[l * k + j], a, b, &dw);
                    linear_grad_weight(&dy, &x, m, n, k, alpha, beta, &mut dw);
                    assert_close(&dw, &expected, TOLERANCE, "linear_grad_weight");

                    let mut db = old(n);
                    let expected = naive(1, m, n, &|_, _| 1.0, &|l, j| dy64[l * n + j], 1.0, b, &db);
                    column_sums(&dy, m, n, beta, &mut db);
                    assert_close(&db, &expected, TOLERANCE, "column_sums");
                }
            }
        }
    }

    #[test]
    fn weights_of_several_panels() {
        let (m, k, n) = (9, 1030, 2100);
        assert!(n * k > PANEL, "the shape must need two panels");
        let x = random(m * k, 1);
        let dy = random(m * n, 2);
        let stored = Stored::new(n * k, 3);
        let weight = Weight::Bf16(&stored.bf16);
        let widened = weight.to_vec();
        let mut out = vec![0.0; m * n];
        let mut expected = vec![0.0; m * n];
        linear(&x, m, k, weight, n, None, 1.0, 0.0, &mut out);
        linear(&x, m, k, Weight::F32(&widened), n, None, 1.0, 0.0, &mut expected);
        assert_close(&out, &wide(&expected), TOLERANCE, "linear");
        let mut dx = vec![f32::NAN; m * k];
        let mut expected = vec![f32::NAN; m * k];
        linear_grad_input(&dy, m, n, weight, k, 1.0, 0.0, &mut dx);
        linear_grad_input(&dy, m, n, Weight::F32(&widened), k, 1.0, 0.0, &mut expected);
        assert_close(&dx, &wide(&expected), TOLERANCE, "linear_grad_input");
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        for (m, k, n) in [(1, 576, 1536), (5, 576, 640), (64, 576, 192), (300, 192, 576)] {
            let x = random(m * k, 1);
            let dy = random(m * n, 2);
            let stored = Stored::new(n * k, 3);
            for w in stored.all() {
                assert_same_bits("linear", || {
                    let mut out = vec![0.0; m * n];
                    linear(&x, m, k, w, n, None, 1.0, 0.0, &mut out);
                    out
                });
            }
            assert_same_bits("gradients", || {
                let mut all = vec![0.0; m * k + n * k + n];
                let (dx, rest) = all.split_at_mut(m * k);
                let (dw, db) = rest.split_at_mut(n * k);
                linear_grad_input(&dy, m, n, Weight::F32(&stored.f32), k, 1.0, 0.0, dx);
                linear_grad_weight(&dy, &x, m, n, k, 1.0, 0.0, dw);
                column_sums(&dy, m, n, 0.0, db);
                all
            });
        }
    }
}
