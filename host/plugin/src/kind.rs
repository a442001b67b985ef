//! The kinds of plugin. What a component is follows from its exports, never from a name.

use std::fmt;
use std::str::FromStr;

/// What a component can be; one may be several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A model family: `swift:model/adapter`.
    Model,
    /// Chat templates: `swift:template/templates`.
    Template,
    /// Dataset loaders: `swift:dataset/loaders`.
    Dataset,
    /// Row preprocessors: `swift:dataset/preprocessors`.
    Preprocessor,
    /// Reward functions: `swift:reward/rewards`.
    Reward,
    /// Evaluation metrics: `swift:metric/metrics`.
    Metric,
}

impl Kind {
    /// Every kind, in the order in which they are listed.
    pub const ALL: [Self; 6] =
        [Self::Model, Self::Template, Self::Dataset, Self::Preprocessor, Self::Reward, Self::Metric];

    /// Its name in `plugin.toml` and after `--kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Template => "template",
            Self::Dataset => "dataset",
            Self::Preprocessor => "preprocessor",
            Self::Reward => "reward",
            Self::Metric => "metric",
        }
    }

    /// The interface that a component of this kind exports, without its version.
    pub fn interface(self) -> &'static str {
        match self {
            Self::Model => "swift:model/adapter",
            Self::Template => "swift:template/templates",
            Self::Dataset => "swift:dataset/loaders",
            Self::Preprocessor => "swift:dataset/preprocessors",
            Self::Reward => "swift:reward/rewards",
            Self::Metric => "swift:metric/metrics",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("`{}` is no kind of plugin; there are {}", crate::clean(name, 60), names.join(", "))
        })
    }
}
