//! Reading an op's open list of options: each once, of its own kind, and none left over.

use super::{Arg, Builder, Options, Result};
use crate::error::nearest;
use crate::rope::{RopeScaling, yarn_magnitude};

/// Reads options once each and refuses what is left over.
pub(super) struct Reader<'a> {
    builder: &'a Builder,
    op: &'static str,
    options: &'a Options,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(builder: &'a Builder, op: &'static str, options: &'a Options) -> Self {
        Self { builder, op, options, known: Vec::new() }
    }

    pub(super) fn get(&mut self, name: &'static str) -> Option<&'a Arg> {
        self.known.push(name);
        self.options.iter().find(|(n, _)| n == name).map(|(_, arg)| arg)
    }

    pub(super) fn wrong<T>(&self, name: &str, want: &str) -> Result<T> {
        self.builder.fail(
            self.op,
            format!("option `{name}` must be {want}"),
            "see the contract's description of the op",
        )
    }

    pub(super) fn number(&mut self, name: &'static str) -> Result<Option<f64>> {
        match self.get(name) {
            None => Ok(None),
            Some(Arg::Num(n)) if n.is_finite() => Ok(Some(*n)),
            Some(_) => self.wrong(name, "a finite number"),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some(Arg::Flag(f)) => Ok(Some(*f)),
            Some(_) => self.wrong(name, "a flag"),
        }
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<&'a str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Arg::Text(t)) => Ok(Some(t)),
            Some(_) => self.wrong(name, "a text"),
        }
    }

    pub(super) fn required(&mut self, name: &'static str) -> Result<f64> {
        match self.number(name)? {
            Some(n) if n > 0.0 => Ok(n),
            _ => self.builder.fail(
                self.op,
                format!("this scaling needs the option `{name}`, a positive number"),
                "it stands in config.json under rope_parameters or rope_scaling",
            ),
        }
    }

    pub(super) fn done(self) -> Result<()> {
        for (i, (name, _)) in self.options.iter().enumerate() {
            if !self.known.contains(&name.as_str()) {
                let list = self.known.join(", ");
                let hint = nearest(name, self.known.iter().copied()).map_or_else(
                    || if list.is_empty() { "this op takes no options".into() } else { format!("known here: {list}") },
                    |n| format!("did you mean `{n}`?"),
                );
                return self.builder.fail(self.op, format!("unknown option `{}`", name.escape_default()), &hint);
            }
            if self.options[..i].iter().any(|(other, _)| other == name) {
                return self.builder.fail(self.op, format!("option `{name}` is given twice"), "give each option once");
            }
        }
        Ok(())
    }
}

pub(super) fn rope_scaling(read: &mut Reader<'_>) -> Result<RopeScaling> {
    let scaling = match read.text("scaling")?.unwrap_or("default") {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: read.required("factor")? },
        "dynamic" => RopeScaling::Dynamic {
            factor: read.required("factor")?,
            max_position: read.required("max-position")? as u32,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: read.required("factor")?,
            low_frequency_factor: read.required("low-freq-factor")?,
            high_frequency_factor: read.required("high-freq-factor")?,
            original_max_position: read.required("original-max-position")? as u32,
        },
        "yarn" => {
            let factor = read.required("factor")?;
            let (mscale, all) = (read.number("mscale")?, read.number("mscale-all-dim")?);
            let attention_factor = match (read.number("attention-factor")?, mscale, all) {
                (Some(given), _, _) => given,
                (None, Some(m), Some(a)) if m != 0.0 && a != 0.0 => {
                    yarn_magnitude(factor, m) / yarn_magnitude(factor, a)
                }
                _ => yarn_magnitude(factor, 1.0),
            };
            RopeScaling::Yarn {
                factor,
                original_max_position: read.required("original-max-position")? as u32,
                beta_fast: read.number("beta-fast")?.unwrap_or(32.0),
                beta_slow: read.number("beta-slow")?.unwrap_or(1.0),
                attention_factor,
                truncate: read.flag("truncate")?.unwrap_or(true),
            }
        }
        other => {
            let known = ["default", "linear", "dynamic", "llama3", "yarn"];
            let hint = nearest(other, known)
                .map_or(format!("known: {}", known.join(", ")), |n| format!("did you mean `{n}`?"));
            return read.builder.fail("rope", format!("unknown scaling `{}`", other.escape_default()), &hint);
        }
    };
    Ok(scaling)
}
