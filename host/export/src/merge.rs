//! An adapter merged into its base: `W + scale * B·A` under the checkpoint's own names, checked before it is kept.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use half::{bf16, f16};
use serde::Serialize;
use serde_json::{Value, json};
use swift_engine::Placement;
use swift_graph::{Checkpoint, Graph, StorageType, lora};
use swift_hub::{HubError, Model, SavedTensor, peft, save_safetensors};

use crate::check::{AdaptedMatrix, LogitCheck, MatrixCheck, roundoff};
use crate::error::ExportError;

/// The record of the merge, beside the weights.
pub const RECORD: &str = "merge.json";
const HEAD: &str = "lm_head.weight";

/// How to write the merged model.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeOptions {
    /// `None`: each tensor as the base stores it.
    pub dtype: Option<StorageType>,
    pub max_shard_bytes: u64,
    /// Where the logits are compared. The bounds hold for computation in f32.
    pub placement: Placement,
    /// Replace the model in an output folder that is not empty.
    pub exist_ok: bool,
}

/// What was written and how far it is from the adapted model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MergeReport {
    pub base: PathBuf,
    pub adapter: PathBuf,
    /// Bytes of tensor data.
    pub total_size: u64,
    pub merged_matrices: usize,
    /// Tensors the adapter brought whole.
    pub replaced: Vec<String>,
    /// The head was tied to the embedding and is now a tensor of its own.
    pub untied_head: bool,
    pub matrices: MatrixCheck,
    pub logits: LogitCheck,
}

/// Merges `adapter` into `model` (whose trace is `graph`) and writes a Hugging Face folder to `output`.
///
/// Everything is written to a folder beside `output` first. That folder is opened and traced again by `reopen`, its
/// matrices and logits are compared with those of the unmerged model, and only then it takes the place of `output`.
///
/// # Errors
/// When the adapter does not fit, a file cannot be written, `reopen` fails, or the merged model differs too much.
/// Nothing is left behind then.
pub fn merge<E: From<ExportError>>(
    model: &Arc<Model>,
    graph: &Graph,
    adapter: &peft::Adapter,
    output: &Path,
    options: &MergeOptions,
    reopen: impl FnOnce(&Path) -> Result<(Arc<Model>, Graph), E>,
) -> Result<MergeReport, E> {
    let occupied = check_output(model, adapter, output, options)?;
    let adapted = adapter.apply(graph, &model.weights).map_err(ExportError::from)?;
    let merge = Merge::new(model, &adapted, options.dtype);
    let beside = Temporary::beside(output)?;
    let total_size = merge.write(&beside.0, options.max_shard_bytes)?;

    let (copy, copy_graph) = reopen(&beside.0)?;
    let matrices = merge.compare(&copy)?;
    let logits = LogitCheck::run(
        adapted.graph.clone(),
        &adapted.values,
        model.clone(),
        (copy_graph, copy.clone()),
        model.max_length,
        merge.coarsest(),
        &options.placement,
    )?;
    drop(copy);
    let report = MergeReport {
        base: model.path().into(),
        adapter: adapter.folder.clone(),
        total_size,
        merged_matrices: adapted.adapters.len(),
        replaced: adapted.replaced.clone(),
        untied_head: adapted.untied,
        matrices,
        logits,
    };
    let record = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    let path = beside.0.join(RECORD);
    std::fs::write(&path, record).map_err(ExportError::io("write", &path))?;
    beside.replace(output, occupied)?;
    Ok(report)
}

/// Whether the output folder holds something; refused unless allowed.
fn check_output(
    model: &Model,
    adapter: &peft::Adapter,
    output: &Path,
    options: &MergeOptions,
) -> Result<bool, ExportError> {
    let same = |a: &Path| a.canonicalize().ok().is_some_and(|a| output.canonicalize().ok() == Some(a));
    for (path, what) in [(model.path(), "base model"), (adapter.folder.as_path(), "adapter")] {
        if same(path) {
            return Err(ExportError::Overwrites { path: output.into(), what });
        }
    }
    let occupied = match std::fs::read_dir(output) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(ExportError::io("look into", output)(e)),
    };
    if occupied && !options.exist_ok {
        return Err(ExportError::Exists { path: output.into() });
    }
    Ok(occupied)
}

struct Merge<'a> {
    model: &'a Model,
    dtype: Option<StorageType>,
    adapted: &'a peft::Adapted,
    /// By checkpoint name of the frozen matrix.
    pairs: BTreeMap<&'a str, &'a lora::Adapter>,
    values: HashMap<&'a str, &'a [f32]>,
}

impl<'a> Merge<'a> {
    fn new(model: &'a Model, adapted: &'a peft::Adapted, dtype: Option<StorageType>) -> Self {
        let pairs = adapted.adapters.iter().map(|a| (adapted.graph.param(a.weight).name.as_str(), a)).collect();
        let values = adapted.values.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        Self { model, dtype, adapted, pairs, values }
    }

    /// The type a tensor is written in.
    fn target(&self, stored: StorageType) -> StorageType {
        self.dtype.filter(|_| stored.is_float_weight()).unwrap_or(stored)
    }

    /// Of the types that merged or replaced tensors are written in, the one that rounds most.
    fn coarsest(&self) -> StorageType {
        let types = self.model.names().into_iter().filter_map(|name| self.model.tensor(&name));
        let types = types.map(|info| self.target(info.dtype)).filter(|dtype| dtype.is_float_weight());
        types.max_by(|a, b| roundoff(*a).total_cmp(&roundoff(*b))).unwrap_or(StorageType::F32)
    }

    fn matrix<'b>(&'b self, adapter: &lora::Adapter, base: &'b [f32]) -> AdaptedMatrix<'b> {
        let values =
            |param| self.values.get(self.adapted.graph.param(param).name.as_str()).copied().unwrap_or_default();
        AdaptedMatrix {
            base,
            a: values(adapter.a),
            b: values(adapter.b),
            scale: adapter.scale,
            columns: self.adapted.graph.param(adapter.weight).shape[1] as usize,
        }
    }

    fn base_values(&self, name: &str) -> Result<Vec<f32>, ExportError> {
        let tensor = self.model.weights.bytes(name)?;
        tensor.to_f32().ok_or_else(|| ExportError::StorageType { tensor: name.into(), dtype: tensor.info.dtype.name() })
    }

    fn write(&self, folder: &Path, max_shard_bytes: u64) -> Result<u64, ExportError> {
        let dtype = self.dtype.map(|dtype| match dtype {
            StorageType::Bf16 => "bfloat16",
            StorageType::F16 => "float16",
            _ => "float32",
        });
        self.model.copy_side_files(folder, dtype)?;
        let mut names = self.model.names();
        if self.adapted.untied {
            untie(&folder.join("config.json"))?;
            names.retain(|name| name != HEAD);
            names.push(HEAD.into());
        }
        // The writer takes its own errors only; ours waits here.
        let mut failed = None;
        let tensors = names.iter().map_while(|name| match self.tensor(name) {
            Ok(tensor) => Some(Ok(tensor)),
            Err(ExportError::Hub(error)) => Some(Err(error)),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        let tensors: &mut dyn Iterator<Item = Result<SavedTensor<'_>, HubError>> = &mut { tensors };
        let saved = save_safetensors(folder, tensors, max_shard_bytes)?;
        failed.map_or(Ok(saved.total_size), Err)
    }

    fn tensor(&self, name: &str) -> Result<SavedTensor<'_>, ExportError> {
        let head = self.adapted.untied && name == HEAD;
        let info = if head {
            let shape = self.adapted.graph.params.iter().find(|p| p.name == HEAD).map(|p| &p.shape);
            let shape = shape.into_iter().flatten().map(|&n| n as usize).collect();
            swift_graph::TensorInfo { shape, dtype: self.coarsest() }
        } else {
            self.model.weights.bytes(name)?.info
        };
        let dtype = self.target(info.dtype);
        let bytes = if let Some(adapter) = self.pairs.get(name) {
            let base = self.base_values(name)?;
            Cow::Owned(stored(name, &merged(&self.matrix(adapter, &base)), dtype)?)
        } else if let Some(values) = self.values.get(name) {
            Cow::Owned(stored(name, values, dtype)?)
        } else if dtype != info.dtype {
            Cow::Owned(stored(name, &self.base_values(name)?, dtype)?)
        } else {
            swift_graph::checkpoint::WeightSource::bytes(&self.model.weights, name)
                .map_err(|e| HubError::Save { tensor: name.into(), message: e.message })?
                .bytes
        };
        Ok(SavedTensor { name: name.into(), dtype, shape: info.shape, bytes })
    }

    /// Every merged matrix as read back against base and adapter.
    fn compare(&self, copy: &Model) -> Result<MatrixCheck, ExportError> {
        let mut check = MatrixCheck::default();
        for (name, adapter) in &self.pairs {
            let base = self.base_values(name)?;
            let tensor = copy.weights.bytes(name)?;
            check.add(name, &self.matrix(adapter, &base), &tensor.to_f32().unwrap_or_default(), tensor.info.dtype)?;
        }
        Ok(check)
    }
}

/// `base + scale * B·A`, summed in f64 and rounded once to f32.
fn merged(matrix: &AdaptedMatrix<'_>) -> Vec<f32> {
    let rank = matrix.a.len() / matrix.columns;
    let mut out = Vec::with_capacity(matrix.base.len());
    let mut sum = vec![0f64; matrix.columns];
    for (base, b) in matrix.base.chunks_exact(matrix.columns).zip(matrix.b.chunks_exact(rank)) {
        sum.fill(0.0);
        for (&b, a) in b.iter().zip(matrix.a.chunks_exact(matrix.columns)) {
            let b = f64::from(b);
            sum.iter_mut().zip(a).for_each(|(sum, &a)| *sum += b * f64::from(a));
        }
        out.extend(base.iter().zip(&sum).map(|(&base, sum)| (f64::from(base) + matrix.scale * sum) as f32));
    }
    out
}

/// Values as little-endian bytes of a type, rounded to nearest.
fn stored(tensor: &str, values: &[f32], dtype: StorageType) -> Result<Vec<u8>, ExportError> {
    let bytes: Vec<u8> = match dtype {
        StorageType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        StorageType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        StorageType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        other => return Err(ExportError::StorageType { tensor: tensor.into(), dtype: other.name() }),
    };
    let limit = if dtype == StorageType::F16 { 65504.0 } else { f32::MAX };
    match values.iter().find(|v| v.abs() > limit || v.is_nan()) {
        None => Ok(bytes),
        Some(&value) => Err(ExportError::Range { tensor: tensor.into(), dtype: dtype.name(), value }),
    }
}

/// Sets `tie_word_embeddings` to false.
fn untie(path: &Path) -> Result<(), ExportError> {
    let text = std::fs::read_to_string(path).map_err(ExportError::io("read", path))?;
    let mut config: Value =
        serde_json::from_str(&text).map_err(|e| HubError::Json { path: path.into(), message: e.to_string() })?;
    if let Some(object) = config.as_object_mut() {
        object.insert("tie_word_embeddings".into(), json!(false));
    }
    let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
    std::fs::write(path, text).map_err(ExportError::io("write", path))
}

/// A folder that is removed unless it takes its place.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(output: &Path) -> Result<Self, ExportError> {
        let absolute = std::path::absolute(output).map_err(ExportError::io("find", output))?;
        let name = absolute.file_name().map_or_else(|| "merged".into(), |n| n.to_string_lossy().into_owned());
        let parent = absolute.parent().unwrap_or(&absolute);
        let path = parent.join(format!(".{name}.tmp-{}", std::process::id()));
        std::fs::create_dir_all(parent).map_err(ExportError::io("create", parent))?;
        std::fs::create_dir(&path).map_err(ExportError::io("create", &path))?;
        Ok(Self(path))
    }

    /// Becomes `output`. Into an occupied folder the files are moved one by one, after the model there is removed.
    fn replace(&self, output: &Path, occupied: bool) -> Result<(), ExportError> {
        if !occupied {
            if output.is_dir() {
                std::fs::remove_dir(output).map_err(ExportError::io("replace", output))?;
            }
            return std::fs::rename(&self.0, output).map_err(ExportError::io("write", output));
        }
        for entry in std::fs::read_dir(output).map_err(ExportError::io("list", output))? {
            let path = entry.map_err(ExportError::io("list", output))?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if name.ends_with(".safetensors") || name == "model.safetensors.index.json" {
                std::fs::remove_file(&path).map_err(ExportError::io("replace", &path))?;
            }
        }
        for entry in std::fs::read_dir(&self.0).map_err(ExportError::io("list", &self.0))? {
            let path = entry.map_err(ExportError::io("list", &self.0))?.path();
            if let Some(name) = path.file_name() {
                std::fs::rename(&path, output.join(name)).map_err(ExportError::io("write", output.join(name)))?;
            }
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
