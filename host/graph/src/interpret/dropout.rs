//! Which elements a dropout keeps: a pure function of key, salt and element, so that recomputation, any thread count
//! and any device draw the same mask.
//!
//! These are the formulas of the kernels' `dropout`, written again because this crate knows no kernels; the engine,
//! which knows both, tests that they agree.

/// Elements with one 32-bit stream.
const STREAM_ELEMENTS: u64 = 16 * 1024;

/// SplitMix64's step (Steele, Lea and Flood, 2014).
fn mix64(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A 32-bit mixer of low bias (C. Wellons' hash prospector).
fn mix32(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad);
    let x = (x ^ (x >> 15)).wrapping_mul(0xd35a_2d97);
    x ^ (x >> 15)
}

/// The key of one dropout of the graph in a step, `key ^ mix64(salt)`: what a device gives its dropout kernel.
pub fn dropout_stream(key: u64, salt: u64) -> u64 {
    key ^ mix64(salt)
}

/// Whether element `element` (counted over all rows of the value) survives the dropout `salt` of a step with `key`.
///
/// With `stream = mix64(dropout_stream(key, salt) ^ mix64(element / 16384 + 1))`, its lower half `first` and upper half
/// `second`, and `index = element % 16384`: kept when `mix32(mix32(index ^ first) + second) >= probability · 2³²`, the
/// probability rounded to f32 and the product rounded down. A probability of 0 keeps all, one of 1 none.
pub fn dropout_keeps(key: u64, salt: u64, element: u64, probability: f64) -> bool {
    if probability >= 1.0 {
        return false;
    }
    let stream = mix64(dropout_stream(key, salt) ^ mix64(element / STREAM_ELEMENTS + 1));
    let (first, second) = (stream as u32, (stream >> 32) as u32);
    let index = (element % STREAM_ELEMENTS) as u32;
    let threshold = (f64::from(probability as f32) * 4_294_967_296.0) as u32;
    mix32(mix32(index ^ first).wrapping_add(second)) >= threshold
}
