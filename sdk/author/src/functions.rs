//! The functions of a component, of whatever kind.

use swift_plugin::{Kind, Plugin};

use crate::Result;

/// A function as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// What the user writes.
    pub name: String,
    /// One line.
    pub summary: String,
    /// What else there is to say: "the whole batch at once", the endings that a loader reads, ...
    pub notes: String,
}

/// All functions of a component, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Functions(pub Vec<(Kind, Vec<Function>)>);

impl Functions {
    /// Asks the plugin. A model family has no functions to name.
    ///
    /// # Errors
    /// When it fails at saying which.
    pub fn of(plugin: &Plugin) -> Result<Self> {
        let function = |name, summary, notes| Function { name, summary, notes };
        let mut functions = Vec::new();
        for kind in plugin.kinds() {
            let own: Vec<Function> = match kind {
                Kind::Model => continue,
                Kind::Reward => {
                    let notes = |whole| if whole { "scores a batch as a whole" } else { "" };
                    let infos = plugin.rewards()?.into_iter();
                    infos.map(|info| function(info.name, info.summary, notes(info.whole_batch).into())).collect()
                }
                Kind::Metric => {
                    let notes = |higher| if higher { "higher is better" } else { "lower is better" };
                    let infos = plugin.metrics()?.into_iter();
                    infos.map(|info| function(info.name, info.summary, notes(info.higher_is_better).into())).collect()
                }
                Kind::Template => plugin
                    .templates()?
                    .into_iter()
                    .map(|info| function(info.name, info.summary, String::new()))
                    .collect(),
                Kind::Dataset => {
                    let infos = plugin.loaders()?.into_iter();
                    infos.map(|info| function(info.name, info.summary, joined(&info.endings))).collect()
                }
                Kind::Preprocessor => {
                    let infos = plugin.preprocessors()?.into_iter();
                    infos.map(|info| function(info.name, info.summary, joined(&info.datasets))).collect()
                }
            };
            functions.push((*kind, own));
        }
        Ok(Self(functions))
    }

    /// Each function with its kind.
    pub fn all(&self) -> impl Iterator<Item = (Kind, &Function)> {
        self.0.iter().flat_map(|(kind, functions)| functions.iter().map(|function| (*kind, function)))
    }
}

fn joined(texts: &[String]) -> String {
    swift_plugin::clean(&texts.join(", "), 300)
}
