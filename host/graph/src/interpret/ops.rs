//! The formula of each op: these functions are the definition of the op set.
//!
//! All arrays are row-major; rows and leading tail axes are flattened wherever an op does not tell them apart. Sums run
//! in index order in the number type of the run. Shapes have been checked by [`crate::verify`].

use std::ops::Range;

use super::{Real, dropout_keeps};
use crate::ir::{Binary, MaskRule, Type, Unary};
use crate::rope::RopeFrequencies;
use crate::shape::{Broadcast, broadcast};

fn zero<T: Real>() -> T {
    T::from_f64(0.0)
}

fn one<T: Real>() -> T {
    T::from_f64(1.0)
}

fn count<T: Real>(n: usize) -> T {
    T::from_f64(n as f64)
}

/// `y[r] = table[ids[r]]`.
pub fn embed<T: Real>(ids: &[i64], table: &[T], width: usize) -> Vec<T> {
    ids.iter().flat_map(|&id| table[id as usize * width..][..width].to_vec()).collect()
}

/// `y[o] = Σᵢ x[i] · weight[o, i] + bias[o]` for each vector x along the last axis; weight is `[out, in]`.
pub fn linear<T: Real>(x: &[T], weight: &[T], inputs: usize, bias: Option<&[T]>) -> Vec<T> {
    let mut y = Vec::new();
    for x in x.chunks(inputs) {
        for (o, w) in weight.chunks(inputs).enumerate() {
            let product: T = x.iter().zip(w).map(|(&x, &w)| x * w).sum();
            y.push(bias.map_or(product, |bias| product + bias[o]));
        }
    }
    y
}

/// `y = base + scale · (x · weightᵀ)`.
pub fn linear_add<T: Real>(base: &[T], x: &[T], weight: &[T], inputs: usize, scale: T) -> Vec<T> {
    base.iter().zip(linear(x, weight, inputs, None)).map(|(&base, product)| base + scale * product).collect()
}

/// `z = scale · (x · tableᵀ)`; then `y = cap · tanh(z / cap)` if capped.
pub fn logits<T: Real>(x: &[T], table: &[T], inputs: usize, scale: T, soft_cap: Option<T>) -> Vec<T> {
    linear(x, table, inputs, None).into_iter().map(|z| capped(scale * z, soft_cap)).collect()
}

/// `cap · tanh(z / cap)`, or z without a cap.
fn capped<T: Real>(z: T, cap: Option<T>) -> T {
    cap.map_or(z, |cap| cap * (z / cap).tanh())
}

/// `y[i] = x[i] / √(Σⱼ x[j]² / n + eps) · (weight[i] + offset)` over the last axis of size n; without a weight the last
/// factor is 1 (Zhang and Sennrich, arXiv:1910.07467).
pub fn rms_norm<T: Real>(x: &[T], width: usize, weight: Option<&[T]>, eps: T, offset: T) -> Vec<T> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks(width) {
        let mean = x.iter().map(|&x| x * x).sum::<T>() / count(width);
        let norm = (mean + eps).sqrt();
        y.extend(x.iter().enumerate().map(|(i, &x)| x / norm * weight.map_or(one(), |w| w[i] + offset)));
    }
    y
}

/// `y[i] = (x[i] - mean) / √(variance + eps) · weight[i] + bias[i]` over the last axis, with
/// `variance = Σⱼ (x[j] - mean)² / n` (Ba et al., arXiv:1607.06450).
pub fn layer_norm<T: Real>(x: &[T], width: usize, weight: Option<&[T]>, bias: Option<&[T]>, eps: T) -> Vec<T> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks(width) {
        let mean = x.iter().copied().sum::<T>() / count(width);
        let variance = x.iter().map(|&x| (x - mean) * (x - mean)).sum::<T>() / count(width);
        let norm = (variance + eps).sqrt();
        y.extend(x.iter().enumerate().map(|(i, &x)| {
            let scaled = (x - mean) / norm * weight.map_or(one(), |w| w[i]);
            bias.map_or(scaled, |b| scaled + b[i])
        }));
    }
    y
}

/// `y[i] = x[i] / √(Σⱼ x[j]² + eps)` over the last axis.
pub fn l2_norm<T: Real>(x: &[T], width: usize, eps: T) -> Vec<T> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks(width) {
        let norm = (x.iter().map(|&x| x * x).sum::<T>() + eps).sqrt();
        y.extend(x.iter().map(|&x| x / norm));
    }
    y
}

/// `y[i] = exp(x[i] - m) / Σⱼ exp(x[j] - m)` over the last axis, where m is its maximum.
pub fn softmax<T: Real>(x: &[T], width: usize) -> Vec<T> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks(width) {
        let highest = x.iter().copied().fold(x[0], |a, b| if b > a { b } else { a });
        let powers: Vec<T> = x.iter().map(|&x| (x - highest).exp()).collect();
        let sum: T = powers.iter().copied().sum();
        y.extend(powers.iter().map(|&p| p / sum));
    }
    y
}

/// Rotates pair i of the first `dims` elements of each head by the angle `position · frequency[i]`:
/// `y[a] = x[a] cos - x[b] sin`, `y[b] = x[b] cos + x[a] sin`, and copies the other elements (Su et al.,
/// arXiv:2104.09864). The pair is `(i, i + dims/2)`, or `(2i, 2i + 1)` if interleaved. Frequencies are those of the
/// row's own sequence length; the angle is rounded to f32 as in the reference implementations; cos and sin are
/// multiplied by the frequencies' attention factor.
pub fn rope<T: Real>(
    x: &[T],
    tail: &[u32],
    positions: &[i64],
    sequence_lengths: &[u32],
    dims: usize,
    interleaved: bool,
    frequencies: &RopeFrequencies,
) -> Vec<T> {
    let (heads, size) = (tail[0] as usize, tail[1] as usize);
    let factor = T::from_f64(frequencies.attention_factor().into());
    let mut y = x.to_vec();
    let mut row = 0;
    for &length in sequence_lengths {
        let inverse = frequencies.inverse(dims, length as usize);
        for _ in 0..length {
            for (i, &frequency) in inverse.iter().enumerate() {
                let angle = f64::from(positions[row] as f32 * frequency);
                let (cos, sin) = (T::from_f64(angle.cos()) * factor, T::from_f64(angle.sin()) * factor);
                let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + dims / 2) };
                for head in 0..heads {
                    let start = (row * heads + head) * size;
                    y[start + a] = x[start + a] * cos - x[start + b] * sin;
                    y[start + b] = x[start + b] * cos + x[start + a] * sin;
                }
            }
            row += 1;
        }
    }
    y
}

/// Whether row i of a sequence sees row j of the same sequence.
pub fn sees(mask: MaskRule, i: usize, j: usize) -> bool {
    match mask {
        MaskRule::All => true,
        MaskRule::Causal => j <= i,
        MaskRule::Window { left, right } => j + left as usize >= i && j <= i + right as usize,
    }
}

/// For row i and query head h, with key head `g = h / (hq / hk)`, over the rows j of i's own sequence that it sees:
/// `score[j] = scale · q[i, h] · k[j, g]`, then `cap · tanh(score / cap)` if capped;
/// `y[i, h] = Σⱼ softmax(score)[j] · v[j, g]`. `tails` are those of q `[hq, d]`, k `[hk, d]` and v `[hk, dv]`.
pub fn attention<T: Real>(
    q: &[T],
    k: &[T],
    v: &[T],
    tails: [&[u32]; 3],
    sequence_lengths: &[u32],
    mask: MaskRule,
    scale: T,
    soft_cap: Option<T>,
) -> Vec<T> {
    let (heads, size) = (tails[0][0] as usize, tails[0][1] as usize);
    let (key_heads, value_size) = (tails[2][0] as usize, tails[2][1] as usize);
    let query = |row: usize, head: usize| &q[(row * heads + head) * size..][..size];
    let key = |row: usize, head: usize| &k[(row * key_heads + head) * size..][..size];
    let value = |row: usize, head: usize| &v[(row * key_heads + head) * value_size..][..value_size];
    let mut y = Vec::new();
    let mut first = 0;
    for &length in sequence_lengths {
        let length = length as usize;
        for i in 0..length {
            for head in 0..heads {
                let group = head / (heads / key_heads);
                let seen: Vec<usize> = (0..length).filter(|&j| sees(mask, i, j)).collect();
                let scores: Vec<T> = seen
                    .iter()
                    .map(|&j| {
                        let product: T =
                            query(first + i, head).iter().zip(key(first + j, group)).map(|(&q, &k)| q * k).sum();
                        capped(scale * product, soft_cap)
                    })
                    .collect();
                let weights = softmax(&scores, scores.len());
                for d in 0..value_size {
                    y.push(seen.iter().zip(&weights).map(|(&j, &w)| w * value(first + j, group)[d]).sum());
                }
            }
        }
        first += length;
    }
    y
}

/// The pointwise functions:
/// silu `x·σ(x)`; gelu `x·Φ(x)`, Φ the normal distribution function; gelu-tanh
/// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`; relu `max(x, 0)`; relu2 `max(x, 0)²`; sigmoid `σ(x) = 1/(1 + e⁻ˣ)`;
/// tanh; exp; log (natural); square `x²`; sqrt; rsqrt `1/√x`; neg `-x`; softplus `ln(1 + eˣ)`.
pub fn unary<T: Real>(function: Unary, x: T) -> T {
    let half = T::from_f64(0.5);
    let positive = if x < zero() { zero() } else { x };
    match function {
        Unary::Silu => x * sigmoid(x),
        Unary::Gelu => x * T::from_f64(normal_distribution(x.to_f64())),
        Unary::GeluTanh => {
            let inner = T::from_f64((2.0 / std::f64::consts::PI).sqrt()) * (x + T::from_f64(0.044715) * x * x * x);
            half * x * (one::<T>() + inner.tanh())
        }
        Unary::Relu => positive,
        Unary::Sigmoid => sigmoid(x),
        Unary::Tanh => x.tanh(),
        Unary::Exp => x.exp(),
        Unary::Square => x * x,
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => one::<T>() / x.sqrt(),
        Unary::Neg => -x,
        Unary::Log => x.ln(),
        // max(x, 0) + ln(1 + e^-|x|) is the same and does not overflow.
        Unary::Softplus => positive + (if x < zero() { x } else { -x }).exp().ln_1p(),
        Unary::Relu2 => positive * positive,
    }
}

/// `1 / (1 + e⁻ˣ)`, written so that no power overflows.
fn sigmoid<T: Real>(x: T) -> T {
    if x < zero() {
        let power = x.exp();
        power / (one::<T>() + power)
    } else {
        one::<T>() / (one::<T>() + (-x).exp())
    }
}

/// Φ(x), the distribution function of the standard normal distribution, to about 1e-15 relative.
///
/// Near 0 by `Φ(x) = 1/2 + φ(x) Σₙ x^(2n+1) / (1·3·5···(2n+1))` (Abramowitz and Stegun 26.2.11), whose terms do not
/// cancel; in the tails by the continued fraction `1 - Φ(x) = φ(x) / (x + 1/(x + 2/(x + 3/(x + ...))))` (26.2.14).
fn normal_distribution(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x.abs() < 4.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        // 100 terms are far more than |x| < 4 needs.
        while n < 100.0 {
            n += 1.0;
            term *= x * x / (2.0 * n + 1.0);
            sum += term;
        }
        // For negative x the sum nears -1/2: use the other tail's fraction where that would cancel.
        if x > -1.0 {
            return 0.5 + density * sum;
        }
    }
    let size = x.abs();
    let mut fraction = size;
    for n in (1..=500).rev() {
        fraction = size + f64::from(n) / fraction;
    }
    let tail = density / fraction;
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// `y[e] = a[e] ∘ b[e]`, where the smaller operand is repeated as its [`Broadcast`] says. maximum and minimum give NaN
/// when either operand is NaN.
pub fn binary<T: Real>(function: Binary, a: &[T], a_type: &Type, b: &[T], b_type: &Type) -> Vec<T> {
    let Ok(rule) = broadcast(a_type, b_type) else { unreachable!("verified shapes broadcast") };
    let (big, big_type, small, small_type) = if rule.swapped { (b, b_type, a, a_type) } else { (a, a_type, b, b_type) };
    let (wide, narrow) = (big_type.width(), small_type.width());
    let other = |e: usize| match rule.kind {
        Broadcast::Same => small[e],
        Broadcast::Repeat => small[e % narrow],
        // Element s of a row spans elements s·(wide/narrow).. of the wide row; rows are as many.
        Broadcast::Span => small[e / (wide / narrow)],
    };
    big.iter()
        .enumerate()
        .map(|(e, &x)| if rule.swapped { apply(function, other(e), x) } else { apply(function, x, other(e)) })
        .collect()
}

fn apply<T: Real>(function: Binary, a: T, b: T) -> T {
    let nan = |x: T| x.partial_cmp(&x).is_none();
    match function {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Maximum => {
            if a >= b || nan(a) {
                a
            } else {
                b
            }
        }
        Binary::Minimum => {
            if a <= b || nan(a) {
                a
            } else {
                b
            }
        }
    }
}

/// `(leading elements, inner elements)` of a tail around `axis`.
fn around(tail: &[u32], axis: usize) -> (usize, usize) {
    let product = |axes: &[u32]| axes.iter().map(|&n| n as usize).product();
    (product(&tail[..axis]), product(&tail[axis + 1..]))
}

/// Elements `range` of tail axis `axis`.
pub fn slice<E: Copy>(x: &[E], rows: usize, tail: &[u32], axis: usize, range: Range<usize>) -> Vec<E> {
    let ((outer, inner), size) = (around(tail, axis), tail[axis] as usize);
    let mut y = Vec::new();
    for lead in 0..rows * outer {
        y.extend_from_slice(&x[(lead * size + range.start) * inner..(lead * size + range.end) * inner]);
    }
    y
}

/// The operands one after another along tail axis `axis`.
pub fn concat<E: Copy>(parts: &[&[E]], rows: usize, tails: &[&[u32]], axis: usize) -> Vec<E> {
    let (outer, inner) = around(tails[0], axis);
    let mut y = Vec::new();
    for lead in 0..rows * outer {
        for (part, tail) in parts.iter().zip(tails) {
            let piece = tail[axis] as usize * inner;
            y.extend_from_slice(&part[lead * piece..(lead + 1) * piece]);
        }
    }
    y
}

/// `y[e] = x[e] / (1 - p)` where [`dropout_keeps`] element e (counted over all rows), else 0.
pub fn dropout<T: Real>(x: &[T], key: u64, salt: u64, probability: f64) -> Vec<T> {
    let scale = T::from_f64(1.0 / (1.0 - probability));
    x.iter()
        .enumerate()
        .map(|(e, &x)| if dropout_keeps(key, salt, e as u64, probability) { x * scale } else { zero() })
        .collect()
}
