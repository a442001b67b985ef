//! The next token of each row of logits, and the step of a decoding loop that never leaves the device.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::norm::{aligned, expect, expect_if, size};
use super::tensor::{Dtype, Tensor};

static SAMPLING: Source = Source { name: "sampling", text: include_str!("../../cuda/sampling.cu") };

/// As THREADS and CLUSTER in the source.
const THREADS: usize = 1024;
const CLUSTER: usize = 8;

/// Tokens that a thread can own: an odd number whose logits fit into a block's shared memory.
const MOST_EACH: usize = 55;

/// Widest rows [`sample`] takes.
pub const WIDEST_VOCABULARY: usize = CLUSTER * THREADS * MOST_EACH;

/// How one row is sampled; rows of a batch have each their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleSettings {
    /// 0: the most likely token, the first of equal ones; nothing else counts then.
    pub temperature: f32,
    /// Tokens are kept, most likely first, until their probabilities sum to this; 1 keeps all, 0 one.
    pub top_p: f32,
    /// Tokens less likely than this share of the most likely one's probability go; 0 keeps all.
    pub min_p: f32,
    /// Tokens kept, and those that equal the last of them; 0 keeps all.
    pub top_k: u32,
    pub seed: u64,
    /// Which of the seed's random numbers is drawn: the number of tokens drawn before.
    pub position: u64,
}

impl SampleSettings {
    /// Size on the device.
    pub const BYTES: usize = 32;

    /// As the kernels read it.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.temperature.to_bits(), self.top_p.to_bits(), self.min_p.to_bits(), self.top_k];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes[16..24].copy_from_slice(&self.seed.to_le_bytes());
        bytes[24..].copy_from_slice(&self.position.to_le_bytes());
        bytes
    }

    /// The random number from 0 to 1 (exclusive) that decides this draw: splitmix64 (Steele, Lea and Flood, 2014) of the
    /// position, from a start mixed from the seed.
    pub fn uniform(&self) -> f64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |z: u64| {
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let start = mix(self.seed.wrapping_add(GOLDEN));
        let bits = mix(start.wrapping_add(self.position.wrapping_add(1).wrapping_mul(GOLDEN)));
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Draws a token for each of `rows` rows of `logits` (f32, bf16 or f16, `[rows, vocabulary]`): temperature, then top-k,
/// top-p and min-p, each on what the one before it left, as transformers' logits warpers do it, ties included; then the
/// first token at which the sum of probabilities in the vocabulary's order passes [`SampleSettings::uniform`].
///
/// `settings` is U8, `[rows]` of [`SampleSettings::to_bytes`]; `tokens` and `status` are u32 `[rows]`. A row with a logit
/// that is not finite gets status 1, and its most likely finite token; others get status 0.
///
/// # Errors
/// When lengths or types do not fit, the vocabulary is above [`WIDEST_VOCABULARY`], or the GPU is older than Hopper
/// (compute capability 9.0).
pub fn sample(
    device: &Device,
    logits: Tensor,
    rows: usize,
    vocabulary: usize,
    settings: Tensor,
    tokens: Tensor,
    status: Tensor,
) -> Result<(), CudaError> {
    const NAME: &str = "sample";
    let element = logits.dtype();
    if !matches!(element, Dtype::F32 | Dtype::Bf16 | Dtype::F16) {
        return Err(CudaError::invalid(format!("{NAME}: logits are of {element:?}")));
    }
    if !(1..=WIDEST_VOCABULARY).contains(&vocabulary) {
        return Err(CudaError::invalid(format!("{NAME}: a vocabulary of {vocabulary}, not 1 to {WIDEST_VOCABULARY}")));
    }
    if device.compute_capability().0 < 9 {
        let (major, minor) = device.compute_capability();
        return Err(CudaError::invalid(format!(
            "{NAME}: needs clusters of blocks (compute capability 9.0), this GPU has {major}.{minor}; sample on the host"
        )));
    }
    expect(NAME, "logits", logits, rows * vocabulary, element)?;
    expect(NAME, "settings", settings, rows * SampleSettings::BYTES, Dtype::U8)?;
    if !aligned(settings) {
        return Err(CudaError::invalid(format!("{NAME}: settings do not begin at a multiple of 16 bytes")));
    }
    expect(NAME, "tokens", tokens, rows, Dtype::U32)?;
    expect(NAME, "status", status, rows, Dtype::U32)?;
    let each = vocabulary.div_ceil(CLUSTER * THREADS) | 1;
    let packed = aligned(logits) && vocabulary.is_multiple_of(16 / element.size());
    let grid = u32::try_from(rows * CLUSTER).map_err(|_| CudaError::invalid(format!("{NAME}: {rows} rows")))?;
    device.launch_dependent(
        &SAMPLING,
        "sample",
        element,
        [grid, 1, 1],
        THREADS as u32,
        (each * THREADS * 4) as u32,
        &[
            logits.into(),
            size(NAME, "vocabulary", vocabulary)?.into(),
            (each as i32).into(),
            i32::from(packed).into(),
            settings.into(),
            tokens.into(),
            status.into(),
        ],
    )
}

/// What lies between two steps of a decoding loop on the device. All tensors are u32 unless said otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Advance {
    /// `[rows]`, as [`sample`] wrote them.
    pub sampled: Tensor,
    pub rows: usize,
    /// `[rows]`: gets the sampled tokens, the next step's inputs. May be `sampled`.
    pub next: Tensor,
    /// `[rows]`: each grows by one.
    pub positions: Tensor,
    /// `[rows]`: each grows by one.
    pub lengths: Tensor,
    /// U8, `[rows]` of [`SampleSettings::to_bytes`]: the position of each grows by one.
    pub settings: Option<Tensor>,
    /// `[steps, rows]`: row `step % steps` gets the sampled tokens.
    pub history: Tensor,
    /// `[1]`: grows by one.
    pub step: Tensor,
}

/// Moves a decoding loop on by a step, without the host.
///
/// # Errors
/// When lengths or types do not fit.
pub fn advance(device: &Device, work: &Advance) -> Result<(), CudaError> {
    const NAME: &str = "advance";
    let rows = work.rows;
    if rows == 0 {
        return Ok(());
    }
    let steps = work.history.elements() / rows;
    if steps == 0 {
        return Err(CudaError::invalid(format!("{NAME}: a history of no steps")));
    }
    for (what, tensor) in [
        ("sampled tokens", work.sampled),
        ("next tokens", work.next),
        ("positions", work.positions),
        ("lengths", work.lengths),
    ] {
        expect(NAME, what, tensor, rows, Dtype::U32)?;
    }
    expect(NAME, "history", work.history, steps * rows, Dtype::U32)?;
    expect(NAME, "step", work.step, 1, Dtype::U32)?;
    expect_if(NAME, "settings", work.settings, rows * SampleSettings::BYTES, Dtype::U8)?;
    if work.settings.is_some_and(|settings| !aligned(settings)) {
        return Err(CudaError::invalid(format!("{NAME}: settings do not begin at a multiple of 16 bytes")));
    }
    let steps = u32::try_from(steps).map_err(|_| CudaError::invalid(format!("{NAME}: a history of {steps} steps")))?;
    device.launch_dependent(
        &SAMPLING,
        "advance",
        Dtype::F32,
        [1, 1, 1],
        256,
        0,
        &[
            work.sampled.into(),
            size(NAME, "rows", rows)?.into(),
            work.next.into(),
            work.positions.into(),
            work.lengths.into(),
            work.settings.into(),
            work.history.into(),
            steps.into(),
            work.step.into(),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_lie_as_the_kernel_reads_them() {
        let settings =
            SampleSettings { temperature: 1.0, top_p: 0.5, min_p: 0.25, top_k: 7, seed: 1 << 40, position: 3 };
        let mut want = [0u8; 32];
        want[3] = 0x3f;
        want[2] = 0x80;
        want[7] = 0x3f;
        want[11] = 0x3e;
        want[10] = 0x80;
        want[12] = 7;
        want[21] = 1;
        want[24] = 3;
        assert_eq!(settings.to_bytes(), want);
    }

    #[test]
    fn random_numbers_are_spread_evenly_over_positions_and_seeds() {
        let settings = SampleSettings { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: 0, seed: 0, position: 0 };
        let draws: Vec<f64> = (0..100u64)
            .flat_map(|seed| (0..100u64).map(move |position| (seed, position)))
            .map(|(seed, position)| SampleSettings { seed, position, ..settings }.uniform())
            .collect();
        let mut counts = [0; 10];
        draws.iter().for_each(|u| counts[(u * 10.0) as usize] += 1);
        // 1000 each, with a deviation of 30.
        assert!(counts.iter().all(|n: &i32| (n - 1000).abs() < 150), "{counts:?}");
        // Neighbours in position or seed have nothing to do with each other: the deviation of a mean of 1/4 is 0.0022.
        for distance in [1, 100] {
            let pairs = draws.iter().zip(&draws[distance..]).map(|(a, b)| a * b);
            let mean = pairs.sum::<f64>() / (draws.len() - distance) as f64;
            assert!((mean - 0.25).abs() < 0.011, "{distance} apart: {mean}");
        }
    }
}
