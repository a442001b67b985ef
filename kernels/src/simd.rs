//! Instruction-set dispatch and the elementary functions under every kernel.
//!
//! Loops are plain Rust that the compiler vectorises. [`dispatch!`] compiles one body three times (AVX-512, AVX2 with
//! FMA, and the target's baseline, which is NEON on aarch64) and picks once per call. Nothing here knows an operation.

/// The instruction sets a body is compiled for, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Baseline,
}

/// The best level of this machine. The feature bits are cached by the standard library.
#[inline]
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx2") && has!("fma") {
            if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                return Level::Avx512;
            }
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// Whether the baseline has a fused multiply-add; where it has none, `mul_add` would be a library call.
pub(crate) const BASELINE_FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Defines a function whose body is compiled for each [`Level`]. The brackets hold generic parameters; in the body the
/// constant `FMA` says whether a fused multiply-add is one instruction.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident[$($generic:ident: $bound:path),*]
        ($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name<$($generic: $bound),*>($($argument: $kind),*) $(-> $result)? {
            #[inline(always)]
            fn body<const FMA: bool, $($generic: $bound),*>($($argument: $kind),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512<$($generic: $bound),*>($($argument: $kind),*) $(-> $result)? {
                    body::<true, $($generic),*>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$($generic: $bound),*>($($argument: $kind),*) $(-> $result)? {
                    body::<true, $($generic),*>($($argument),*)
                }
                match $crate::simd::level() {
                    // SAFETY: `level` found every feature that this instantiation enables.
                    $crate::simd::Level::Avx512 => return unsafe { avx512::<$($generic),*>($($argument),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2::<$($generic),*>($($argument),*) },
                    $crate::simd::Level::Baseline => {}
                }
            }
            body::<{ $crate::simd::BASELINE_FMA }, $($generic),*>($($argument),*)
        }
    };
}
pub(crate) use dispatch;

/// Independent accumulators of a reduction: four AVX2 registers hide the latency of an addition.
pub(crate) const LANES: usize = 32;

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Sum of the accumulators as a fixed tree.
///
/// The accumulators pass through memory: without that the compiler shapes the loop before by this tree, and uses
/// narrow registers.
#[inline(always)]
pub(crate) fn reduce<const N: usize>(lanes: [f32; N]) -> f32 {
    let mut lanes = std::hint::black_box(lanes);
    let mut width = N / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The greater of two, where the second wins if the first is not a number: one instruction.
#[inline(always)]
pub(crate) fn maximum(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Sum of a slice.
#[inline(always)]
pub(crate) fn sum_of(x: &[f32]) -> f32 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] += block[lane];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    reduce(lanes)
}

/// Dot product of two slices of the same length.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let length = a.len().min(b.len());
    let (a_blocks, a_rest) = a[..length].as_chunks::<LANES>();
    let (b_blocks, b_rest) = b[..length].as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] = fma::<FMA>(a[lane], b[lane], lanes[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] = fma::<FMA>(*a, *b, lanes[lane]);
    }
    reduce(lanes)
}

/// Sum of `a[i] * b[i] * c[i]`.
#[inline(always)]
pub(crate) fn dot3<const FMA: bool>(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let length = a.len().min(b.len()).min(c.len());
    let (a_blocks, a_rest) = a[..length].as_chunks::<LANES>();
    let (b_blocks, b_rest) = b[..length].as_chunks::<LANES>();
    let (c_blocks, c_rest) = c[..length].as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for ((a, b), c) in a_blocks.iter().zip(b_blocks).zip(c_blocks) {
        for lane in 0..LANES {
            lanes[lane] = fma::<FMA>(a[lane] * b[lane], c[lane], lanes[lane]);
        }
    }
    for lane in 0..a_rest.len() {
        lanes[lane] = fma::<FMA>(a_rest[lane] * b_rest[lane], c_rest[lane], lanes[lane]);
    }
    reduce(lanes)
}

/// Greatest element; negative infinity for an empty slice.
#[inline(always)]
pub(crate) fn max_of(x: &[f32]) -> f32 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = maximum(block[lane], lanes[lane]);
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        lanes[lane] = maximum(*x, lanes[lane]);
    }
    std::hint::black_box(lanes).into_iter().fold(f32::NEG_INFINITY, maximum)
}

/// `e^x` within 2 units in the last place, denormal results included; NaN stays NaN.
///
/// Argument reduction by Cody and Waite, polynomial of Cephes `expf`.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Beyond these the result is exactly 0 or infinity. Comparisons, not `max`, so that NaN passes.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let count = shifted - ROUND;
    let rest = fma::<FMA>(count, -0.693_359_4, x);
    let rest = fma::<FMA>(count, 2.121_944_4e-4, rest);
    let mut p = fma::<FMA>(1.987_569_1e-4, rest, 1.398_199_9e-3);
    p = fma::<FMA>(p, rest, 8.333_452e-3);
    p = fma::<FMA>(p, rest, 4.166_579_6e-2);
    p = fma::<FMA>(p, rest, 1.666_666_5e-1);
    p = fma::<FMA>(p, rest, 0.5);
    p = fma::<FMA>(p, rest * rest, rest) + 1.0;
    // 2^count in two factors: count reaches 128 and -150, which no one finite normal number can hold.
    let count = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = count >> 1;
    let first = f32::from_bits((half.wrapping_add(127) as u32) << 23);
    let second = f32::from_bits((count.wrapping_sub(half).wrapping_add(127) as u32) << 23);
    p * first * second
}

/// Natural logarithm within 2 units in the last place (Cephes `logf`); negative arguments give NaN, 0 gives -infinity.
#[inline(always)]
pub(crate) fn ln<const FMA: bool>(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bits = (scaled.to_bits() as i32).wrapping_sub(0x3f35_04f3);
    let exponent = (bits >> 23) as f32 - if tiny { 23.0 } else { 0.0 };
    let f = f32::from_bits(((bits & 0x007f_ffff) + 0x3f35_04f3) as u32) - 1.0;
    let z = f * f;
    let mut p = fma::<FMA>(7.037_683_6e-2, f, -1.151_461e-1);
    p = fma::<FMA>(p, f, 1.167_699_9e-1);
    p = fma::<FMA>(p, f, -1.242_014_1e-1);
    p = fma::<FMA>(p, f, 1.424_932_3e-1);
    p = fma::<FMA>(p, f, -1.666_805_8e-1);
    p = fma::<FMA>(p, f, 2.000_071_5e-1);
    p = fma::<FMA>(p, f, -2.499_999_4e-1);
    p = fma::<FMA>(p, f, 3.333_333e-1);
    let mut y = p * f * z;
    y = fma::<FMA>(exponent, -2.121_944_4e-4, y);
    y = fma::<FMA>(z, -0.5, y);
    let value = fma::<FMA>(exponent, 0.693_359_4, f + y);
    let value = if x == f32::INFINITY { x } else { value };
    let value = if x == 0.0 { f32::NEG_INFINITY } else { value };
    if x >= 0.0 { value } else { f32::NAN }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The sigmoid's derivative `s(x) s(-x)`, without the cancellation of `1 - s`.
#[inline(always)]
pub(crate) fn sigmoid_slope<const FMA: bool>(x: f32) -> f32 {
    let e = exp::<FMA>(-x.abs());
    let s = 1.0 / (1.0 + e);
    e * s * s
}

/// Hyperbolic tangent; near zero the polynomial of Cephes `tanhf`, where the quotient would cancel.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let z = x * x;
    let mut p = fma::<FMA>(-5.704_988_7e-3, z, 2.063_909e-2);
    p = fma::<FMA>(p, z, -5.373_971_6e-2);
    p = fma::<FMA>(p, z, 1.333_144_2e-1);
    p = fma::<FMA>(p, z, -3.333_328e-1);
    let near = fma::<FMA>(p * z, x, x);
    let size = x.abs();
    let far = (1.0 - 2.0 / (exp::<FMA>(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { near } else { far }
}

/// Error function within 2 units in the last place; minimax polynomials of N. Juffa.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let mut r = fma::<FMA>(-1.728_534_7e-5, t, 3.831_971_3e-4);
    let u = fma::<FMA>(-3.883_964_4e-3, t, 2.425_462_2e-2);
    r = fma::<FMA>(r, s, u);
    r = fma::<FMA>(r, t, -1.067_778_8e-1);
    r = fma::<FMA>(r, t, -6.348_467e-1);
    r = fma::<FMA>(r, t, -1.287_175_1e-1);
    r = fma::<FMA>(r, t, -t);
    // Beyond 4 the function is 1 in f32, and the polynomial is no longer meant.
    let far = (1.0 - exp::<FMA>(if t > 4.0 { -16.0 - t } else { r })).copysign(x);
    let mut q = fma::<FMA>(-5.967_617e-4, s, 4.991_194_2e-3);
    q = fma::<FMA>(q, s, -2.676_813_5e-2);
    q = fma::<FMA>(q, s, 1.128_199_2e-1);
    q = fma::<FMA>(q, s, -3.761_253_4e-1);
    q = fma::<FMA>(q, s, 1.283_791_7e-1);
    let near = fma::<FMA>(q, x, x);
    if t > 0.927_734_4 { far } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::erf as erf_f64;

    dispatch! { fn all_exp[](x: &[f32], out: &mut [f32]) { for (x, o) in x.iter().zip(out) { *o = exp::<FMA>(*x); } } }
    dispatch! { fn all_ln[](x: &[f32], out: &mut [f32]) { for (x, o) in x.iter().zip(out) { *o = ln::<FMA>(*x); } } }
    dispatch! { fn all_tanh[](x: &[f32], out: &mut [f32]) { for (x, o) in x.iter().zip(out) { *o = tanh::<FMA>(*x); } } }
    dispatch! { fn all_erf[](x: &[f32], out: &mut [f32]) { for (x, o) in x.iter().zip(out) { *o = erf::<FMA>(*x); } } }

    /// Greatest distance in units of the last place of the exact result.
    fn worst(x: &[f32], kernel: fn(&[f32], &mut [f32]), exact: fn(f64) -> f64) -> f64 {
        let mut out = vec![0f32; x.len()];
        kernel(x, &mut out);
        x.iter().zip(&out).fold(0.0, |worst, (x, value)| {
            let exact = exact(f64::from(*x));
            let rounded = exact as f32;
            let unit = f64::from(f32::from_bits(rounded.abs().to_bits() + 1)) - f64::from(rounded.abs());
            let error = (f64::from(*value) - exact).abs() / unit;
            if error > worst { error } else { worst }
        })
    }

    fn grid(low: f32, high: f32) -> Vec<f32> {
        (0..=200_003).map(|i| low + (high - low) * (i as f32 / 200_003.0)).collect()
    }

    #[test]
    fn elementary_functions_are_within_a_few_units_in_the_last_place() {
        assert!(worst(&grid(-87.0, 88.7), all_exp, f64::exp) <= 2.0);
        assert!(worst(&grid(-103.0, -87.0), all_exp, f64::exp) <= 2.0, "denormal results");
        assert!(worst(&grid(1e-6, 20.0), all_ln, f64::ln) <= 2.0);
        assert!(worst(&grid(1e-42, 1e-36), all_ln, f64::ln) <= 2.0, "denormal arguments");
        assert!(worst(&grid(-10.0, 10.0), all_tanh, f64::tanh) <= 3.0);
        assert!(worst(&grid(-5.0, 5.0), all_erf, erf_f64) <= 3.0);
    }

    #[test]
    fn special_values() {
        let x = [f32::NEG_INFINITY, -1000.0, 0.0, 1000.0, f32::INFINITY, f32::NAN];
        let mut out = [0f32; 6];
        all_exp(&x, &mut out);
        assert_eq!(out[..5], [0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY]);
        assert!(out[5].is_nan());
        all_tanh(&x, &mut out);
        assert_eq!(out[..5], [-1.0, -1.0, 0.0, 1.0, 1.0]);
        assert!(out[5].is_nan());
        all_erf(&x, &mut out);
        assert_eq!(out[..5], [-1.0, -1.0, 0.0, 1.0, 1.0]);
        assert!(out[5].is_nan());
        all_ln(&x, &mut out);
        assert!(out[0].is_nan() && out[1].is_nan() && out[5].is_nan());
        assert_eq!(out[2], f32::NEG_INFINITY);
        assert_eq!(out[4], f32::INFINITY);
    }
}
