//! Functions of one number, gated units, and in-place sums.

use crate::parallel::{Shared, TASK, for_each_range};
use crate::simd::{dispatch, erf, exp, fma, ln, sigmoid, sigmoid_slope, tanh};

/// Elementwise functions with a derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// `x Phi(x)` with the error function.
    Gelu,
    /// Gelu by its tanh approximation (Hendrycks and Gimpel, arXiv:1606.08415).
    GeluTanh,
    Relu,
    Sigmoid,
    Tanh,
    Exp,
    Square,
    /// `1 / sqrt(x)`.
    Rsqrt,
    Sqrt,
    Neg,
    /// Natural logarithm.
    Log,
    /// `ln(1 + e^x)`.
    Softplus,
    /// `max(x, 0)^2`.
    Relu2,
}

/// A function and its derivative, known at compile time so that loops over it vectorise.
trait Function {
    fn value<const FMA: bool>(x: f32) -> f32;
    fn slope<const FMA: bool>(x: f32) -> f32;
}

macro_rules! functions {
    ($($name:ident: $x:ident => $value:expr, $slope:expr;)*) => {$(
        struct $name;
        impl Function for $name {
            #[inline(always)]
            fn value<const FMA: bool>($x: f32) -> f32 { $value }
            #[inline(always)]
            fn slope<const FMA: bool>($x: f32) -> f32 { $slope }
        }
    )*};
}

functions! {
    Silu: x => x * sigmoid::<FMA>(x), {
        let s = sigmoid::<FMA>(x);
        s * fma::<FMA>(x, 1.0 - s, 1.0)
    };
    Gelu: x => 0.5 * x * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2)), {
        let density = exp::<FMA>(-0.5 * x * x) * 0.398_942_3;
        fma::<FMA>(x, density, 0.5 * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2)))
    };
    // (1 + tanh(u)) / 2 is sigmoid(2u).
    GeluTanh: x => x * sigmoid::<FMA>(1.595_769 * x * fma::<FMA>(0.044_715, x * x, 1.0)), {
        let u = 1.595_769 * x * fma::<FMA>(0.044_715, x * x, 1.0);
        let slope = 1.595_769 * fma::<FMA>(0.134_145, x * x, 1.0);
        fma::<FMA>(x * slope, sigmoid_slope::<FMA>(u), sigmoid::<FMA>(u))
    };
    Relu: x => if x < 0.0 { 0.0 } else { x }, if x > 0.0 { 1.0 } else { 0.0 };
    Sigmoid: x => sigmoid::<FMA>(x), sigmoid_slope::<FMA>(x);
    Tanh: x => tanh::<FMA>(x), { let t = tanh::<FMA>(x); 1.0 - t * t };
    Exp: x => exp::<FMA>(x), exp::<FMA>(x);
    Square: x => x * x, 2.0 * x;
    Rsqrt: x => 1.0 / x.sqrt(), { let r = 1.0 / x.sqrt(); -0.5 * r * r * r };
    Sqrt: x => x.sqrt(), 0.5 / x.sqrt();
    Neg: x => -x, { let _ = x; -1.0 };
    Log: x => ln::<FMA>(x), 1.0 / x;
    // ln(1 + e) with the rounding of 1 + e taken back.
    Softplus: x => {
        let e = exp::<FMA>(-x.abs());
        let u = 1.0 + e;
        (if x < 0.0 { 0.0 } else { x }) + ln::<FMA>(u) + (e - (u - 1.0)) / u
    }, sigmoid::<FMA>(x);
    Relu2: x => { let r = if x < 0.0 { 0.0 } else { x }; r * r }, if x > 0.0 { 2.0 * x } else { 0.0 };
}

/// Calls a kernel with the type that stands for an activation.
macro_rules! with_function {
    ($activation:expr, $kernel:ident($($argument:expr),*)) => {
        match $activation {
            Activation::Silu => $kernel::<Silu>($($argument),*),
            Activation::Gelu => $kernel::<Gelu>($($argument),*),
            Activation::GeluTanh => $kernel::<GeluTanh>($($argument),*),
            Activation::Relu => $kernel::<Relu>($($argument),*),
            Activation::Sigmoid => $kernel::<Sigmoid>($($argument),*),
            Activation::Tanh => $kernel::<Tanh>($($argument),*),
            Activation::Exp => $kernel::<Exp>($($argument),*),
            Activation::Square => $kernel::<Square>($($argument),*),
            Activation::Rsqrt => $kernel::<Rsqrt>($($argument),*),
            Activation::Sqrt => $kernel::<Sqrt>($($argument),*),
            Activation::Neg => $kernel::<Neg>($($argument),*),
            Activation::Log => $kernel::<Log>($($argument),*),
            Activation::Softplus => $kernel::<Softplus>($($argument),*),
            Activation::Relu2 => $kernel::<Relu2>($($argument),*),
        }
    };
}

/// `out = op(x)`.
pub fn unary(op: Activation, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "unary: lengths differ");
    let shared = Shared::new(out);
    for_each_range(x.len(), TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        let out = unsafe { shared.part(range.clone()) };
        with_function!(op, values(&x[range], out));
    });
}

/// `dx = dy * op'(x)`, or `dx += ...` with `accumulate`.
pub fn unary_grad(op: Activation, x: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool) {
    assert!(x.len() == dy.len() && x.len() == dx.len(), "unary_grad: lengths differ");
    let shared = Shared::new(dx);
    for_each_range(x.len(), TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        let dx = unsafe { shared.part(range.clone()) };
        with_function!(op, slopes(&x[range.clone()], &dy[range], dx, accumulate));
    });
}

/// `out = activation(gate) * up` (Shazeer, arXiv:2002.05202).
pub fn glu(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len(), "glu: lengths differ");
    let shared = Shared::new(out);
    for_each_range(gate.len(), TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        let out = unsafe { shared.part(range.clone()) };
        with_function!(activation, gated(&gate[range.clone()], &up[range], out));
    });
}

/// Gradients of [`glu`]; both are overwritten.
pub fn glu_grad(activation: Activation, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let length = gate.len();
    assert!([up.len(), dy.len(), dgate.len(), dup.len()] == [length; 4], "glu_grad: lengths differ");
    let (dgate, dup) = (Shared::new(dgate), Shared::new(dup));
    for_each_range(length, TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        let (dgate, dup) = unsafe { (dgate.part(range.clone()), dup.part(range.clone())) };
        with_function!(activation, gated_slopes(&gate[range.clone()], &up[range.clone()], &dy[range], dgate, dup));
    });
}

dispatch! {
    fn values[F: Function](x: &[f32], out: &mut [f32]) {
        for (x, out) in x.iter().zip(out) {
            *out = F::value::<FMA>(*x);
        }
    }
}

dispatch! {
    fn slopes[F: Function](x: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool) {
        if accumulate {
            for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
                *dx += dy * F::slope::<FMA>(*x);
            }
        } else {
            for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
                *dx = dy * F::slope::<FMA>(*x);
            }
        }
    }
}

dispatch! {
    fn gated[F: Function](gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            *out = F::value::<FMA>(*gate) * up;
        }
    }
}

dispatch! {
    fn gated_slopes[F: Function](gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((gate, up), dy), dgate), dup) in gate.iter().zip(up).zip(dy).zip(dgate).zip(dup) {
            *dgate = dy * up * F::slope::<FMA>(*gate);
            *dup = dy * F::value::<FMA>(*gate);
        }
    }
}

/// `y += x`.
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    scale_add(y, 1.0, x);
}

/// `y += alpha * x`.
pub fn scale_add(y: &mut [f32], alpha: f32, x: &[f32]) {
    assert_eq!(y.len(), x.len(), "scale_add: lengths differ");
    let shared = Shared::new(y);
    for_each_range(x.len(), 2 * TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        add_scaled(unsafe { shared.part(range.clone()) }, alpha, &x[range]);
    });
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    let length = x.len();
    let shared = Shared::new(x);
    for_each_range(length, 2 * TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        scale_all(unsafe { shared.part(range) }, factor);
    });
}

dispatch! {
    fn add_scaled[](y: &mut [f32], alpha: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = fma::<FMA>(alpha, *x, *y);
        }
    }
}

dispatch! {
    fn scale_all[](x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, erf as erf_f64, random, wide};

    /// The elementary functions' error of two units in the last place, times what multiplies it.
    const TOLERANCE: f64 = 1e-6;

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

    fn exact(op: Activation, x: f64) -> f64 {
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        match op {
            Activation::Silu => x * sigmoid,
            Activation::Gelu => 0.5 * x * (1.0 + erf_f64(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::Relu => x.max(0.0),
            Activation::Sigmoid => sigmoid,
            Activation::Tanh => x.tanh(),
            Activation::Exp => x.exp(),
            Activation::Square => x * x,
            Activation::Rsqrt => 1.0 / x.sqrt(),
            Activation::Sqrt => x.sqrt(),
            Activation::Neg => -x,
            Activation::Log => x.ln(),
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Activation::Relu2 => x.max(0.0).powi(2),
        }
    }

    fn domain(op: Activation, length: usize) -> Vec<f32> {
        let positive = matches!(op, Activation::Rsqrt | Activation::Sqrt | Activation::Log);
        random(length, 1).iter().map(|x| if positive { 2.1 + 2.0 * x } else { 5.0 * x }).collect()
    }

    #[test]
    fn values_and_slopes() {
        for op in ALL {
            for length in [1, 7, 100, 40_001] {
                let x = domain(op, length);
                let dy = random(length, 2);
                let mut out = vec![f32::NAN; length];
                unary(op, &x, &mut out);
                let expected: Vec<f64> = x.iter().map(|x| exact(op, f64::from(*x))).collect();
                assert_close(&out, &expected, TOLERANCE, &format!("{op:?}"));

                let slope = |x: f32| (exact(op, f64::from(x) + 1e-5) - exact(op, f64::from(x) - 1e-5)) / 2e-5;
                let expected: Vec<f64> = x.iter().zip(&dy).map(|(x, dy)| f64::from(*dy) * slope(*x)).collect();
                let mut dx = vec![f32::NAN; length];
                unary_grad(op, &x, &dy, &mut dx, false);
                assert_close(&dx, &expected, TOLERANCE, &format!("{op:?} slope"));
                unary_grad(op, &x, &dy, &mut dx, true);
                let twice: Vec<f64> = expected.iter().map(|x| 2.0 * x).collect();
                assert_close(&dx, &twice, TOLERANCE, &format!("{op:?} slope accumulated"));

                let up = random(length, 3);
                let mut out = vec![f32::NAN; length];
                glu(op, &x, &up, &mut out);
                let gated: Vec<f64> =
                    x.iter().zip(&up).map(|(x, up)| exact(op, f64::from(*x)) * f64::from(*up)).collect();
                assert_close(&out, &gated, TOLERANCE, &format!("{op:?} glu"));
                let (mut dgate, mut dup) = (vec![f32::NAN; length], vec![f32::NAN; length]);
                glu_grad(op, &x, &up, &dy, &mut dgate, &mut dup);
                let expected: Vec<f64> = expected.iter().zip(&up).map(|(g, up)| g * f64::from(*up)).collect();
                assert_close(&dgate, &expected, TOLERANCE, &format!("{op:?} dgate"));
                let expected: Vec<f64> =
                    x.iter().zip(&dy).map(|(x, dy)| exact(op, f64::from(*x)) * f64::from(*dy)).collect();
                assert_close(&dup, &expected, TOLERANCE, &format!("{op:?} dup"));
            }
        }
    }

    #[test]
    fn in_place_sums() {
        for length in [0, 1, 9, 70_000] {
            let (x, y) = (random(length, 1), random(length, 2));
            let mut sum = y.clone();
            scale_add(&mut sum, -0.5, &x);
            let expected: Vec<f64> = wide(&y).iter().zip(wide(&x)).map(|(y, x)| y - 0.5 * x).collect();
            assert_close(&sum, &expected, TOLERANCE, "scale_add");
            add_assign(&mut sum, &x);
            scale(&mut sum, 3.0);
            let expected: Vec<f64> = expected.iter().zip(wide(&x)).map(|(y, x)| 3.0 * (y + x)).collect();
            assert_close(&sum, &expected, TOLERANCE, "add_assign and scale");
        }
    }
}
