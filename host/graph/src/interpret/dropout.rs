//! Which elements a dropout keeps: a pure function of key, salt and element, so that recomputation, any thread count
//! and any device draw the same mask.
//!
//! The kernels hold the same few lines (they know no graph): one key a dropout, [`dropout_stream`] of the step's key.

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64 bits without visible structure.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key of one dropout of the graph in a step: `key ^ mix(salt)`.
pub fn dropout_stream(key: u64, salt: u64) -> u64 {
    key ^ mix(salt)
}

/// Whether element `element` (counted over all rows of the value) survives the dropout `salt` of a step with `key`.
///
/// SplitMix64 with the stream as its seed: `bits = mix(stream + (element + 1) · 0x9e3779b97f4a7c15)`, and the element is
/// kept when the upper 32 bits, read as a fraction of 2³², are at least `probability`.
pub fn dropout_keeps(key: u64, salt: u64, element: u64, probability: f64) -> bool {
    let stream = dropout_stream(key, salt);
    let bits = mix(stream.wrapping_add(element.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 32) as f64 >= probability * 4_294_967_296.0
}
