//! Rotary frequencies: base, scaling rules, and nothing of the rotation itself.
//!
//! The formulas are those of Hugging Face transformers' `modeling_rope_utils`, computed in f64 and rounded to f32 once.

/// How the frequencies of a rotary embedding are scaled beyond the trained length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    Default,
    /// All frequencies divided by `factor` (position interpolation).
    Linear {
        factor: f64,
    },
    /// NTK: the base grows with the sequence once it is longer than `max_position`.
    Dynamic {
        factor: f64,
        max_position: u32,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        original_max_position: u32,
    },
    /// YaRN (arXiv 2309.00071); `attention_factor` multiplies cos and sin.
    Yarn {
        factor: f64,
        original_max_position: u32,
        beta_fast: f64,
        beta_slow: f64,
        attention_factor: f64,
        truncate: bool,
    },
}

/// Base and scaling of one rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeFrequencies {
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// YaRN's magnitude correction: `0.1 * mscale * ln(scale) + 1`, 1 when nothing is stretched.
pub fn yarn_magnitude(scale: f64, mscale: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * mscale * scale.ln() + 1.0 }
}

impl RopeFrequencies {
    /// Inverse frequencies `[dims / 2]` for a sequence of `length` rows.
    pub fn inverse(&self, dims: usize, length: usize) -> Vec<f32> {
        let half = dims / 2;
        let base = match self.scaling {
            RopeScaling::Dynamic { factor, max_position } if length > max_position as usize => {
                let stretch = factor * length as f64 / f64::from(max_position) - (factor - 1.0);
                self.theta * stretch.powf(dims as f64 / (dims as f64 - 2.0))
            }
            _ => self.theta,
        };
        (0..half)
            .map(|i| {
                let plain = 1.0 / base.powf(2.0 * i as f64 / dims as f64);
                self.scale_one(plain, i, dims) as f32
            })
            .collect()
    }

    /// Factor on cos and sin.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    /// Longest sequence for which the frequencies do not depend on the sequence's length; `None` when they never do.
    pub fn fixed_up_to(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Dynamic { max_position, .. } => Some(max_position as usize),
            _ => None,
        }
    }

    fn scale_one(&self, plain: f64, index: usize, dims: usize) -> f64 {
        match self.scaling {
            RopeScaling::Default | RopeScaling::Dynamic { .. } => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Llama3 {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_max_position,
            } => {
                let original = f64::from(original_max_position);
                let wavelength = std::f64::consts::TAU / plain;
                if wavelength > original / low {
                    plain / factor
                } else if wavelength < original / high {
                    plain
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * plain / factor + smooth * plain
                }
            }
            RopeScaling::Yarn { factor, original_max_position, beta_fast, beta_slow, truncate, .. } => {
                let correction = |rotations: f64| {
                    dims as f64 * (f64::from(original_max_position) / (rotations * std::f64::consts::TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (correction(beta_fast), correction(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let ramp = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain / factor * ramp + plain * (1.0 - ramp)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_is_plain_until_the_trained_length() {
        let plain = RopeFrequencies { theta: 1e4, scaling: RopeScaling::Default };
        let dynamic = RopeFrequencies { theta: 1e4, scaling: RopeScaling::Dynamic { factor: 2.0, max_position: 64 } };
        assert_eq!(plain.inverse(16, 64), dynamic.inverse(16, 64));
        assert!(dynamic.inverse(16, 128)[7] < plain.inverse(16, 128)[7]);
        // Twice the length at factor 2: base * (2*2 - 1)^(16/14).
        let base = 1e4 * 3f64.powf(16.0 / 14.0);
        assert!((f64::from(dynamic.inverse(16, 128)[3]) - base.powf(-6.0 / 16.0)).abs() < 1e-9);
    }

    #[test]
    fn llama3_keeps_short_and_divides_long_wavelengths() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_max_position: 64,
        };
        let scaled = RopeFrequencies { theta: 5e5, scaling }.inverse(16, 10);
        let plain = RopeFrequencies { theta: 5e5, scaling: RopeScaling::Default }.inverse(16, 10);
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[7] * 8.0 - plain[7]).abs() <= f32::EPSILON * plain[7]);
    }
}
