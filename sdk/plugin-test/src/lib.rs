//! Tests a model-family plugin without the application: the real component in the real host, offline, on tiny weights.
//!
//! A test of a family is a folder of cases. A case holds `config.json`, `parameters.txt` (each checkpoint tensor with its
//! shape, sorted) and `graph.txt` (the traced graph's text, see [`assert_golden`]):
//!
//! ```no_run
//! let family = swift_plugin_test::load_family("plugins/dist/qwen3.wasm".as_ref());
//! for case in swift_plugin_test::cases("families/qwen3".as_ref()) {
//!     case.check(&family);
//! }
//! ```
//!
//! Failures panic with what differs, as tests do. This crate must not know any family.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use swift_graph::{Checkpoint, Graph, StorageType, TensorInfo};
use swift_plugin::{ModelPlugin, PluginHost, PluginOptions, Trace};

/// Set to any value, it makes [`assert_golden`] write instead of compare.
pub const UPDATE: &str = "SWIFT_UPDATE_GOLDEN";

/// One host for all tests of a process, with the budgets of a run and no cache on disk.
pub fn host() -> Arc<PluginHost> {
    static HOST: LazyLock<Arc<PluginHost>> = LazyLock::new(|| {
        let options = PluginOptions { cache: None, ..PluginOptions::default() };
        Arc::new(PluginHost::new(options).unwrap_or_else(|error| panic!("{}", error.report())))
    });
    Arc::clone(&HOST)
}

/// Loads the component in `path`.
///
/// # Panics
/// With the host's full report when it cannot be loaded.
pub fn load_family(path: &Path) -> ModelPlugin {
    host().load(path).and_then(|plugin| plugin.model()).unwrap_or_else(|error| panic!("{}", error.report()))
}

/// A checkpoint in memory with small random f32 weights; the same seed gives the same weights.
#[derive(Debug, Clone, Default)]
pub struct TinyCheckpoint {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TinyCheckpoint {
    /// Tensors of these names and shapes: norm weights near one, everything else in ±1/sqrt(last axis).
    pub fn random(shapes: &BTreeMap<String, Vec<usize>>, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            // xorshift64*: any generator will do, as long as it is the same everywhere.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let bits = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
            bits as f32 / (1u32 << 23) as f32 - 1.0
        };
        let mut tensors = BTreeMap::new();
        for (name, shape) in shapes {
            let elements: usize = shape.iter().product();
            let scale = 1.0 / (*shape.last().unwrap_or(&1) as f32).sqrt();
            let norm = shape.len() == 1 && name.contains("norm");
            let values = (0..elements).map(|_| if norm { 1.0 + 0.1 * next() } else { scale * next() }).collect();
            tensors.insert(name.clone(), (shape.clone(), values));
        }
        Self { tensors }
    }

    /// A tensor's values, row by row.
    pub fn values(&self, name: &str) -> Option<&[f32]> {
        self.tensors.get(name).map(|(_, values)| values.as_slice())
    }
}

impl Checkpoint for TinyCheckpoint {
    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        let (shape, _) = self.tensors.get(name)?;
        Some(TensorInfo { shape: shape.clone(), dtype: StorageType::F32 })
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
}

/// One config of a family with what its trace must be.
#[derive(Debug, Clone)]
pub struct Case {
    /// Folder of the case.
    pub folder: PathBuf,
    /// Text of its `config.json`.
    pub config: String,
    /// Its checkpoint's tensors.
    pub parameters: BTreeMap<String, Vec<usize>>,
}

/// All cases in the folders below `family`, by name.
///
/// # Panics
/// When there is none, or one lacks a file.
pub fn cases(family: &Path) -> Vec<Case> {
    let entries = std::fs::read_dir(family).unwrap_or_else(|error| panic!("{}: {error}", family.display()));
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "{} holds no case", family.display());
    folders.into_iter().map(Case::read).collect()
}

impl Case {
    /// Reads a case's folder.
    ///
    /// # Panics
    /// When a file is missing or not as described.
    pub fn read(folder: PathBuf) -> Self {
        let text = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let (config, parameters) = (text("config.json"), read_parameters(&text("parameters.txt")));
        Self { folder, config, parameters }
    }

    /// The case's checkpoint with random weights.
    pub fn checkpoint(&self) -> TinyCheckpoint {
        TinyCheckpoint::random(&self.parameters, 1)
    }

    /// Traces the case for "causal-lm".
    ///
    /// # Panics
    /// With the host's full report when the plugin does not claim or build it.
    pub fn trace(&self, family: &ModelPlugin) -> Trace {
        let place = self.folder.display();
        let claimed = family.claims(&self.config).unwrap_or_else(|error| panic!("{place}\n{}", error.report()));
        assert!(claimed.is_some(), "{place}: `{}` does not claim this config", family.name());
        let trace = family.trace(&self.config, "causal-lm", &self.checkpoint());
        trace.unwrap_or_else(|error| panic!("{place}\n{}", error.report()))
    }

    /// Traces the case and compares parameters and graph with the stored ones.
    ///
    /// # Panics
    /// When anything differs.
    pub fn check(&self, family: &ModelPlugin) {
        let trace = self.trace(family);
        assert_parameters(&trace.graph, &self.parameters);
        assert_golden(&self.folder.join("graph.txt"), &swift_graph::text::print(&trace.graph));
    }
}

/// Reads lines such as `model.norm.weight [64]`.
///
/// # Panics
/// When a line is not of this form.
pub fn read_parameters(text: &str) -> BTreeMap<String, Vec<usize>> {
    let line = |line: &str| {
        let (name, shape) = line.split_once(' ')?;
        let shape = shape.strip_prefix('[')?.strip_suffix(']')?;
        let shape = shape.split(", ").map(|size| size.parse().ok()).collect::<Option<Vec<usize>>>()?;
        Some((name.to_owned(), shape))
    };
    text.lines().map(|text| line(text).unwrap_or_else(|| panic!("`{text}` is not `name [a, b]`"))).collect()
}

/// The graph uses exactly the checkpoint's tensors: none is missing, and none is left unused.
///
/// # Panics
/// Naming the tensors that differ.
pub fn assert_parameters(graph: &Graph, expected: &BTreeMap<String, Vec<usize>>) {
    let shape = |shape: &[u32]| shape.iter().map(|&size| size as usize).collect();
    let traced: BTreeMap<String, Vec<usize>> = graph.params.iter().map(|p| (p.name.clone(), shape(&p.shape))).collect();
    let missing: Vec<_> = expected.iter().filter(|(name, shape)| traced.get(*name) != Some(shape)).collect();
    let extra: Vec<_> = traced.iter().filter(|(name, shape)| expected.get(*name) != Some(shape)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "not used by the model: {missing:?}\nnot in the list: {extra:?}");
}

/// Compares with the text stored in `path`; with [`UPDATE`] set, stores it.
///
/// # Panics
/// At the first line that differs, or when nothing is stored yet.
pub fn assert_golden(path: &Path, text: &str) {
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        return;
    }
    let stored = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}; set {UPDATE}=1 to store it", path.display()));
    if let Some(difference) = first_difference(&stored, text) {
        panic!("{}: {difference}\nset {UPDATE}=1 to accept the change", path.display());
    }
}

/// The first line in which two texts differ.
pub fn first_difference(before: &str, after: &str) -> Option<String> {
    if before == after {
        return None;
    }
    let (mut before, mut after) = (before.lines(), after.lines());
    for number in 1.. {
        match (before.next(), after.next()) {
            (None, None) => break,
            (old, new) if old != new => {
                return Some(format!(
                    "line {number} was `{}` and is `{}`",
                    old.unwrap_or("(end)"),
                    new.unwrap_or("(end)")
                ));
            }
            _ => {}
        }
    }
    Some("they differ in their line ends".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_weights_are_reproducible_and_small() {
        let shapes = read_parameters("a.weight [4, 16]\nnorm.weight [8]\n");
        let (one, two) = (TinyCheckpoint::random(&shapes, 1), TinyCheckpoint::random(&shapes, 2));
        assert_eq!(one.values("a.weight"), TinyCheckpoint::random(&shapes, 1).values("a.weight"));
        assert_ne!(one.values("a.weight"), two.values("a.weight"));
        assert!(one.values("a.weight").unwrap().iter().all(|value| value.abs() <= 0.25));
        assert!(one.values("norm.weight").unwrap().iter().all(|value| (value - 1.0).abs() <= 0.1));
        assert_eq!(one.tensor("a.weight").unwrap().shape, [4, 16]);
    }

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n").unwrap(), "line 2 was `b` and is `c`");
        assert_eq!(first_difference("a\n", "a\nb\n").unwrap(), "line 2 was `(end)` and is `b`");
    }
}
