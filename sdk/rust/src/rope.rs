//! Rotary embeddings as configs describe them: `rope_parameters` (transformers 5) and `rope_theta` with
//! `rope_scaling` (before), whose type is under `rope_type` or `type`.

use crate::bindings::model::swift::model::graph::Arg;
use crate::text::join;
use crate::{Config, Error, Result};
use std::mem::ManuallyDrop;

/// One rotary embedding: how many dimensions of a head it rotates, its base and its scaling.
#[derive(Debug, Clone)]
pub struct Rope {
    pub(crate) dims: u32,
    pub(crate) theta: f64,
    /// Never freed, as nothing of a plugin is.
    pub(crate) options: ManuallyDrop<Vec<(String, Arg)>>,
}

/// Every key that one of the built scalings reads. Any other key would be a meaning nobody builds.
const KNOWN: &[&str] = &[
    "rope_theta",
    "rope_type",
    "type",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
    // Written by the authors of YaRN, read by nobody.
    "finetuned",
];

impl Rope {
    /// Reads the rotary embedding of heads of `head_dim` dimensions, all of them rotated.
    ///
    /// # Errors
    /// When a number is missing, or the type or a key of it is not built.
    pub fn from_config(config: &Config, head_dim: u32) -> Result<Self> {
        // transformers lets `rope_scaling` win when both are there.
        let section = match config.section("rope_scaling")? {
            Some(section) => Some(section),
            None => config.section("rope_parameters")?,
        };
        let theta_outside = config.number_or("rope_theta", 10_000.0)?;
        let Some(section) = section else {
            return Ok(Self::plain(head_dim, theta_outside));
        };
        for key in section.keys() {
            if section.is_object(key) {
                return Err(section.refuse(key, "a rotary embedding for each type of layer is not built"));
            }
            if !KNOWN.contains(&key) {
                return Err(section.refuse(key, "which no rotary embedding that is built has"));
            }
        }
        if section.number_or("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(
                section.refuse("partial_rotary_factor", "rotating a part of a head is not built by this family")
            );
        }
        let mut rope = Self::plain(head_dim, section.number_or("rope_theta", theta_outside)?);
        let kind = match section.optional_text("rope_type")? {
            Some(kind) => kind,
            None => section.optional_text("type")?.unwrap_or("default"),
        };
        match kind {
            "default" => return Ok(rope),
            "linear" => rope.take(&section, "factor", "factor")?,
            "dynamic" => {
                rope.take(&section, "factor", "factor")?;
                rope.number("max-position", f64::from(config.size("max_position_embeddings")?));
            }
            "llama3" => {
                rope.take(&section, "factor", "factor")?;
                rope.take(&section, "low_freq_factor", "low-freq-factor")?;
                rope.take(&section, "high_freq_factor", "high-freq-factor")?;
                rope.number("original-max-position", original_length(config, &section)?);
            }
            "yarn" => rope.read_yarn(config, &section)?,
            other => {
                let built = "\" is not built; built are default, linear, dynamic, llama3 and yarn";
                return Err(Error::new(join(&["config.json: the rope type \"", other, built])));
            }
        }
        rope.options.push(("scaling".into(), Arg::Text(kind.into())));
        Ok(rope)
    }

    /// A rotary embedding without scaling.
    pub fn plain(dims: u32, theta: f64) -> Self {
        Self { dims, theta, options: ManuallyDrop::new(Vec::new()) }
    }

    #[inline(never)]
    fn number(&mut self, name: &str, value: f64) {
        self.options.push((name.into(), Arg::Num(value)));
    }

    /// The number `key`, which must be there, as `option`.
    #[inline(never)]
    fn take(&mut self, section: &Config, key: &str, option: &str) -> Result<()> {
        self.number(option, section.number(key)?);
        Ok(())
    }

    fn read_yarn(&mut self, config: &Config, section: &Config) -> Result<()> {
        let original = original_length(config, section)?;
        let factor = match section.optional_number("factor")? {
            Some(factor) => factor,
            None => f64::from(config.size("max_position_embeddings")?) / original,
        };
        self.number("factor", factor);
        self.number("original-max-position", original);
        if let Some(attention) = section.optional_number("attention_factor")? {
            self.number("attention-factor", attention);
        }
        // transformers takes 0 for absent in all four.
        for (key, option) in [("beta_fast", "beta-fast"), ("beta_slow", "beta-slow")] {
            if let Some(beta) = section.optional_number(key)?.filter(|&beta| beta != 0.0) {
                self.number(option, beta);
            }
        }
        let magnitude = section.number_or("mscale", 0.0)?;
        let magnitude_all = section.number_or("mscale_all_dim", 0.0)?;
        if magnitude != 0.0 && magnitude_all != 0.0 {
            self.number("mscale", magnitude);
            self.number("mscale-all-dim", magnitude_all);
        }
        if let Some(truncate) = section.optional_flag("truncate")? {
            self.options.push(("truncate".into(), Arg::Flag(truncate)));
        }
        Ok(())
    }
}

/// The trained length: outside the rotary section it has priority, and without any it is the length of the model.
fn original_length(config: &Config, section: &Config) -> Result<f64> {
    let key = "original_max_position_embeddings";
    let length = match (config.optional_size(key)?, section.optional_size(key)?) {
        (Some(length), _) | (None, Some(length)) => length,
        (None, None) => config.size("max_position_embeddings")?,
    };
    Ok(f64::from(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(text: &str) -> Result<Rope> {
        Rope::from_config(&Config::parse(text).unwrap(), 64)
    }

    fn text(rope: &Rope) -> String {
        let mut options: Vec<String> = rope
            .options
            .iter()
            .map(|(name, arg)| match arg {
                Arg::Num(number) => format!("{name}={number}"),
                Arg::Text(text) => format!("{name}={text}"),
                Arg::Flag(flag) => format!("{name}={flag}"),
                _ => panic!("unexpected option"),
            })
            .collect();
        options.sort();
        format!("{} {} {}", rope.dims, rope.theta, options.join(" ")).trim_end().into()
    }

    #[test]
    fn old_and_new_forms_mean_the_same() {
        let new = r#"{"max_position_embeddings": 131072, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3",
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
        let old = r#"{"max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": {"type": "llama3",
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
        let expected =
            "64 500000 factor=8 high-freq-factor=4 low-freq-factor=1 original-max-position=8192 scaling=llama3";
        assert_eq!(text(&rope(new).unwrap()), expected);
        assert_eq!(text(&rope(old).unwrap()), expected);
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        assert_eq!(text(&rope("{}").unwrap()), "64 10000");
        assert_eq!(text(&rope(r#"{"rope_theta": 1e6, "rope_scaling": null}"#).unwrap()), "64 1000000");
        assert_eq!(text(&rope(r#"{"rope_parameters": {"rope_type": "default"}}"#).unwrap()), "64 10000");
        let yarn = r#"{"max_position_embeddings": 32768, "rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 8192, "beta_fast": 0, "mscale": 1.0, "truncate": false}}"#;
        assert_eq!(
            text(&rope(yarn).unwrap()),
            "64 1000000 factor=4 original-max-position=8192 scaling=yarn truncate=false"
        );
        let ratio = r#"{"max_position_embeddings": 32768, "rope_scaling": {"rope_type": "yarn",
            "original_max_position_embeddings": 8192}}"#;
        assert_eq!(text(&rope(ratio).unwrap()), "64 10000 factor=4 original-max-position=8192 scaling=yarn");
        let dynamic = r#"{"max_position_embeddings": 2048, "rope_scaling": {"type": "dynamic", "factor": 2.0}}"#;
        assert_eq!(text(&rope(dynamic).unwrap()), "64 10000 factor=2 max-position=2048 scaling=dynamic");
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (text, word) in [
            (r#"{"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}"#, "longrope"),
            (r#"{"rope_scaling": {"type": "linear"}}"#, "`rope_scaling.factor` is missing"),
            (r#"{"rope_scaling": {"type": "default", "mrope_section": [1, 2]}}"#, "mrope_section"),
            (r#"{"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}"#, "full_attention"),
            (r#"{"rope_parameters": {"partial_rotary_factor": 0.5}}"#, "partial_rotary_factor"),
            (r#"{"rope_scaling": {"type": "llama3", "factor": 8.0}}"#, "low_freq_factor"),
        ] {
            let error = rope(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
