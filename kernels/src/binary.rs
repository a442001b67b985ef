//! Functions of two numbers where the second operand may be shorter, and their gradients.

use crate::parallel::{Shared, TASK, for_each_range, rows_per_task, scratch};
use crate::simd::{dispatch, sum_of};

/// Elementwise functions of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    /// The greater; the gradient of a tie is split in halves.
    Maximum,
    /// The smaller; the gradient of a tie is split in halves.
    Minimum,
}

/// How a second operand of length `b` meets a first of length `a`, a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broadcast {
    /// `b[i % b.len()]`: equal shapes, a scalar, or one tail for every row.
    Repeat,
    /// `b[i / (a.len() / b.len())]`: one element for each block of consecutive elements.
    Span,
}

trait Operator {
    fn value(a: f32, b: f32) -> f32;
    /// Derivatives with respect to a and to b.
    fn slopes(a: f32, b: f32) -> (f32, f32);
}

macro_rules! operators {
    ($($name:ident: ($a:ident, $b:ident) => $value:expr, $slopes:expr;)*) => {$(
        struct $name;
        impl Operator for $name {
            #[inline(always)]
            fn value($a: f32, $b: f32) -> f32 { $value }
            #[inline(always)]
            fn slopes($a: f32, $b: f32) -> (f32, f32) { $slopes }
        }
    )*};
}

operators! {
    Add: (a, b) => a + b, { let _ = (a, b); (1.0, 1.0) };
    Sub: (a, b) => a - b, { let _ = (a, b); (1.0, -1.0) };
    Mul: (a, b) => a * b, (b, a);
    Div: (a, b) => a / b, (1.0 / b, -a / (b * b));
    // A NaN on either side gives NaN.
    Maximum: (a, b) => if a > b || a.is_nan() { a } else { b }, { let g = first_wins(a, b); (g, 1.0 - g) };
    Minimum: (a, b) => if a < b || a.is_nan() { a } else { b }, { let g = first_wins(b, a); (g, 1.0 - g) };
}

#[inline(always)]
fn first_wins(a: f32, b: f32) -> f32 {
    if a > b {
        1.0
    } else if a == b {
        0.5
    } else {
        0.0
    }
}

macro_rules! with_operator {
    ($op:expr, $kernel:ident($($argument:expr),*)) => {
        match $op {
            Binary::Add => $kernel::<Add>($($argument),*),
            Binary::Sub => $kernel::<Sub>($($argument),*),
            Binary::Mul => $kernel::<Mul>($($argument),*),
            Binary::Div => $kernel::<Div>($($argument),*),
            Binary::Maximum => $kernel::<Maximum>($($argument),*),
            Binary::Minimum => $kernel::<Minimum>($($argument),*),
        }
    };
}

/// A stretch of the first operand with what of the second belongs to it.
#[derive(Clone, Copy)]
enum Second<'a> {
    Each(&'a [f32]),
    One(f32),
}

/// `out = a op b`, with `b` broadcast over `a`.
pub fn binary(op: Binary, a: &[f32], b: &[f32], broadcast: Broadcast, out: &mut [f32]) {
    assert_eq!(a.len(), out.len(), "binary: out has another length than a");
    let shared = Shared::new(out);
    stretches(a.len(), b, broadcast, |range, b| {
        // SAFETY: stretches do not overlap.
        let out = unsafe { shared.part(range.clone()) };
        match b {
            Second::Each(b) => with_operator!(op, each(&a[range], b, out)),
            Second::One(b) => with_operator!(op, one(&a[range], b, out)),
        }
    });
}

/// `out = a + b`, all of one length.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    assert_eq!(a.len(), b.len(), "add: lengths differ");
    binary(Binary::Add, a, b, Broadcast::Repeat, out);
}

/// `out = a * b`, all of one length.
pub fn mul(a: &[f32], b: &[f32], out: &mut [f32]) {
    assert_eq!(a.len(), b.len(), "mul: lengths differ");
    binary(Binary::Mul, a, b, Broadcast::Repeat, out);
}

/// Gradients of [`binary`]: `da` of `a`'s length, `db` of `b`'s, summed over what `b` was broadcast to. Both are
/// overwritten, or added to with `accumulate`.
pub fn binary_grad(
    op: Binary,
    a: &[f32],
    b: &[f32],
    broadcast: Broadcast,
    dy: &[f32],
    da: Option<&mut [f32]>,
    db: Option<&mut [f32]>,
    accumulate: bool,
) {
    assert_eq!(a.len(), dy.len(), "binary_grad: dy has another length than a");
    if let Some(da) = da {
        assert_eq!(a.len(), da.len(), "binary_grad: da has another length than a");
        let shared = Shared::new(da);
        stretches(a.len(), b, broadcast, |range, b| {
            // SAFETY: stretches do not overlap.
            let da = unsafe { shared.part(range.clone()) };
            let (a, dy) = (&a[range.clone()], &dy[range]);
            match b {
                Second::Each(b) => with_operator!(op, each_first(a, b, dy, da, accumulate)),
                Second::One(b) => with_operator!(op, one_first(a, b, dy, da, accumulate)),
            }
        });
    }
    if let Some(db) = db {
        assert_eq!(b.len(), db.len(), "binary_grad: db has another length than b");
        if b.is_empty() {
            return;
        }
        let mut slopes = scratch(a.len());
        {
            let shared = Shared::new(&mut slopes);
            stretches(a.len(), b, broadcast, |range, b| {
                // SAFETY: stretches do not overlap.
                let slopes = unsafe { shared.part(range.clone()) };
                let (a, dy) = (&a[range.clone()], &dy[range]);
                match b {
                    Second::Each(b) => with_operator!(op, each_second(a, b, dy, slopes)),
                    Second::One(b) => with_operator!(op, one_second(a, b, dy, slopes)),
                }
            });
        }
        let repeats = a.len() / b.len();
        if repeats == 1 {
            if accumulate {
                crate::add_assign(db, &slopes);
            } else {
                db.copy_from_slice(&slopes);
            }
        } else if broadcast == Broadcast::Repeat && b.len() > 1 {
            crate::column_sums(&slopes, repeats, b.len(), if accumulate { 1.0 } else { 0.0 }, db);
        } else {
            let shared = Shared::new(db);
            for_each_range(b.len(), rows_per_task(repeats), |range| {
                // SAFETY: ranges of different tasks do not overlap.
                let db = unsafe { shared.part(range.clone()) };
                for (db, index) in db.iter_mut().zip(range) {
                    // Blocks in f32, their sum in f64.
                    let total: f64 = slopes[index * repeats..(index + 1) * repeats]
                        .chunks(1024)
                        .map(|block| f64::from(sum(block)))
                        .sum();
                    *db = (total + if accumulate { f64::from(*db) } else { 0.0 }) as f32;
                }
            });
        }
    }
}

/// Cuts `0..length` into stretches with their part of `b`, in parallel.
fn stretches(length: usize, b: &[f32], broadcast: Broadcast, work: impl Fn(std::ops::Range<usize>, Second) + Sync) {
    if length == 0 {
        return;
    }
    assert!(!b.is_empty() && length.is_multiple_of(b.len()), "binary: b's length does not divide a's");
    if b.len() == length {
        for_each_range(length, TASK, |range| work(range.clone(), Second::Each(&b[range])));
    } else if b.len() == 1 {
        for_each_range(length, TASK, |range| work(range, Second::One(b[0])));
    } else if broadcast == Broadcast::Repeat {
        let width = b.len();
        for_each_range(length / width, rows_per_task(width), |rows| {
            for row in rows {
                work(row * width..(row + 1) * width, Second::Each(b));
            }
        });
    } else {
        let span = length / b.len();
        for_each_range(b.len(), rows_per_task(span), |blocks| {
            for block in blocks {
                work(block * span..(block + 1) * span, Second::One(b[block]));
            }
        });
    }
}

dispatch! {
    fn sum[](x: &[f32]) -> f32 {
        sum_of(x)
    }
}

dispatch! {
    fn each[O: Operator](a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((a, b), out) in a.iter().zip(b).zip(out) {
            *out = O::value(*a, *b);
        }
    }
}

dispatch! {
    fn one[O: Operator](a: &[f32], b: f32, out: &mut [f32]) {
        for (a, out) in a.iter().zip(out) {
            *out = O::value(*a, b);
        }
    }
}

dispatch! {
    fn each_first[O: Operator](a: &[f32], b: &[f32], dy: &[f32], da: &mut [f32], accumulate: bool) {
        for (((a, b), dy), da) in a.iter().zip(b).zip(dy).zip(da) {
            let value = dy * O::slopes(*a, *b).0;
            *da = if accumulate { *da + value } else { value };
        }
    }
}

dispatch! {
    fn one_first[O: Operator](a: &[f32], b: f32, dy: &[f32], da: &mut [f32], accumulate: bool) {
        for ((a, dy), da) in a.iter().zip(dy).zip(da) {
            let value = dy * O::slopes(*a, b).0;
            *da = if accumulate { *da + value } else { value };
        }
    }
}

dispatch! {
    fn each_second[O: Operator](a: &[f32], b: &[f32], dy: &[f32], out: &mut [f32]) {
        for (((a, b), dy), out) in a.iter().zip(b).zip(dy).zip(out) {
            *out = dy * O::slopes(*a, *b).1;
        }
    }
}

dispatch! {
    fn one_second[O: Operator](a: &[f32], b: f32, dy: &[f32], out: &mut [f32]) {
        for ((a, dy), out) in a.iter().zip(dy).zip(out) {
            *out = dy * O::slopes(*a, b).1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, finite_differences, inner, random, wide};

    const ALL: [Binary; 6] = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Maximum, Binary::Minimum];

    fn naive(op: Binary, a: &[f64], b: &[f64], broadcast: Broadcast) -> Vec<f64> {
        let span = a.len() / b.len();
        a.iter()
            .enumerate()
            .map(|(i, a)| {
                let b = match broadcast {
                    Broadcast::Repeat => b[i % b.len()],
                    Broadcast::Span => b[i / span],
                };
                match op {
                    Binary::Add => a + b,
                    Binary::Sub => a - b,
                    Binary::Mul => a * b,
                    Binary::Div => a / b,
                    Binary::Maximum => a.max(b),
                    Binary::Minimum => a.min(b),
                }
            })
            .collect()
    }

    #[test]
    fn values_and_gradients() {
        for (length, short) in [(1, 1), (12, 12), (30, 5), (30, 1), (77, 7)] {
            let a = random(length, 1);
            // Away from zero, where a quotient has no finite difference.
            let b: Vec<f32> = random(short, 2).iter().map(|b| b + 1.5f32.copysign(*b)).collect();
            let dy = random(length, 3);
            for op in ALL {
                for broadcast in [Broadcast::Repeat, Broadcast::Span] {
                    let what = format!("{op:?} {broadcast:?} {length} {short}");
                    let (a64, b64) = (wide(&a), wide(&b));
                    let mut out = vec![f32::NAN; length];
                    binary(op, &a, &b, broadcast, &mut out);
                    assert_close(&out, &naive(op, &a64, &b64, broadcast), 3e-7, &what);
                    let da = finite_differences(&a64, |a| inner(&naive(op, a, &b64, broadcast), &dy));
                    let db = finite_differences(&b64, |b| inner(&naive(op, &a64, b, broadcast), &dy));
                    for (accumulate, old) in [(false, f32::NAN), (true, 0.0)] {
                        let (mut got_a, mut got_b) = (vec![old; length], vec![old; short]);
                        binary_grad(op, &a, &b, broadcast, &dy, Some(&mut got_a), Some(&mut got_b), accumulate);
                        // The step's own error of 1e-10 is below f32's rounding.
                        assert_close(&got_a, &da, 1e-6, &what);
                        assert_close(&got_b, &db, 1e-6, &what);
                    }
                }
            }
        }
    }

    #[test]
    fn long_operands_in_several_tasks() {
        let (rows, width) = (300, 177);
        let a = random(rows * width, 1);
        let dy = random(rows * width, 2);
        for (short, broadcast) in [(width, Broadcast::Repeat), (rows, Broadcast::Span), (1, Broadcast::Span)] {
            let b = random(short, 3);
            let mut out = vec![0.0; a.len()];
            binary(Binary::Mul, &a, &b, broadcast, &mut out);
            assert_close(&out, &naive(Binary::Mul, &wide(&a), &wide(&b), broadcast), 1e-7, "mul");
            let mut db = vec![0.0; short];
            binary_grad(Binary::Mul, &a, &b, broadcast, &dy, None, Some(&mut db), false);
            let mut expected = vec![0.0; short];
            for (i, (a, dy)) in a.iter().zip(&dy).enumerate() {
                let at = if broadcast == Broadcast::Repeat { i % short } else { i / (rows * width / short) };
                expected[at] += f64::from(*a) * f64::from(*dy);
            }
            assert_close(&db, &expected, 1e-6, "db");
        }
    }

    #[test]
    fn ties_share_the_gradient_and_nan_wins() {
        let mut da = [0.0];
        let mut db = [0.0];
        binary_grad(Binary::Maximum, &[2.0], &[2.0], Broadcast::Repeat, &[1.0], Some(&mut da), Some(&mut db), false);
        assert_eq!((da, db), ([0.5], [0.5]));
        let mut out = [0.0; 2];
        binary(Binary::Maximum, &[f32::NAN, 1.0], &[1.0, f32::NAN], Broadcast::Repeat, &mut out);
        assert!(out.iter().all(|x| x.is_nan()));
    }
}
