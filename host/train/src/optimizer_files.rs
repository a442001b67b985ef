//! `optimizer.safetensors`: AdamW's moments and, where the saved model is rounded, the exact f32 masters. No pickle.

use std::{borrow::Cow, collections::HashMap, fs::File, path::Path};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    error::TrainError,
    learner::{BoxError, Learner, Trainable},
};

/// The file's name in a checkpoint.
pub const FILE: &str = "optimizer.safetensors";
/// Metadata key of the number of steps taken; it carries the version of this format.
const STEPS: &str = "swift-adamw-1.steps";

/// Writes the optimizer state; with `masters` also the trained values.
pub fn write(path: &Path, learner: &dyn Learner, masters: bool) -> Result<(), TrainError> {
    let bad = |e: safetensors::SafeTensorError| TrainError::Content { path: path.into(), message: e.to_string() };
    let failed = |source: BoxError| TrainError::SaveModel { path: path.into(), source };
    let (steps, moments) = learner.optimizer_state().map_err(failed)?;
    let mut views = Vec::new();
    for (name, first, second) in &moments {
        for (kind, values) in [("exp_avg", first), ("exp_avg_sq", second)] {
            views.push((format!("{kind}.{name}"), view(values, vec![values.len()]).map_err(bad)?));
        }
    }
    let trainable = if masters { learner.trainable() } else { Vec::new() };
    let values = values(path, learner, &trainable)?;
    for (tensor, values) in trainable.iter().zip(&values) {
        views.push((format!("master.{}", tensor.name), view(values, tensor.shape.clone()).map_err(bad)?));
    }
    // One entry only: a map of several would be written in any order, and equal states must make equal files.
    let metadata = HashMap::from([(STEPS.to_string(), steps.to_string())]);
    write_tensors(path, views, metadata)
}

/// Restores the masters where the file has them and, with `moments`, the optimizer.
pub fn restore(path: &Path, learner: &mut dyn Learner, with_moments: bool) -> Result<(), TrainError> {
    let content = |message: String| TrainError::Content { path: path.into(), message };
    let bytes = std::fs::read(path).map_err(TrainError::io("read", path))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| content(e.to_string()))?;
    let steps = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(STEPS)?.parse().ok())
        .ok_or_else(|| content(format!("its header has no `{STEPS}`")))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| content(e.to_string()))?;
    let read = |name: &str| tensors.tensor(name).ok().map(|view| bytemuck::pod_collect_to_vec::<u8, f32>(view.data()));
    let names: Vec<String> = learner.trainable().into_iter().map(|tensor| tensor.name).collect();
    let failed = |source: BoxError| TrainError::Restore { what: path.display().to_string(), source };
    for name in &names {
        if let Some(values) = read(&format!("master.{name}")) {
            learner.set_values(name, &values).map_err(failed)?;
        }
    }
    if !with_moments {
        return Ok(());
    }
    let mut moments = Vec::new();
    for name in &names {
        let pair = read(&format!("exp_avg.{name}")).zip(read(&format!("exp_avg_sq.{name}")));
        let (first, second) = pair.ok_or_else(|| mismatch(path, format!("no optimizer state of `{name}`")))?;
        moments.push((name.clone(), first, second));
    }
    if tensors.names().iter().filter(|name| name.starts_with("exp_avg.")).count() != names.len() {
        return Err(mismatch(path, "it has the state of tensors that are not trained now".into()));
    }
    learner.set_optimizer_state(steps, &moments).map_err(failed)
}

/// Writes a safetensors file that others may read as any other file: the library makes it private to the user.
pub(crate) fn write_tensors<'a>(
    path: &Path,
    views: Vec<(String, TensorView<'a>)>,
    metadata: HashMap<String, String>,
) -> Result<(), TrainError> {
    let ordinary =
        File::create(path).and_then(|file| file.metadata()).map_err(TrainError::io("create", path))?.permissions();
    safetensors::serialize_to_file(views, Some(metadata), path)
        .map_err(|e| TrainError::Content { path: path.into(), message: e.to_string() })?;
    std::fs::set_permissions(path, ordinary).map_err(TrainError::io("set the permissions of", path))
}

pub(crate) fn view(values: &[f32], shape: Vec<usize>) -> Result<TensorView<'_>, safetensors::SafeTensorError> {
    TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))
}

/// The values of trained tensors, in their order.
pub(crate) fn values<'a>(
    path: &Path,
    learner: &'a dyn Learner,
    tensors: &[Trainable],
) -> Result<Vec<Cow<'a, [f32]>>, TrainError> {
    tensors.iter().map(|tensor| learner.values(&tensor.name).ok_or_else(|| lost(path, &tensor.name))).collect()
}

fn lost(path: &Path, name: &str) -> TrainError {
    TrainError::SaveModel { path: path.into(), source: format!("the engine has no values of `{name}`").into() }
}

fn mismatch(path: &Path, message: String) -> TrainError {
    TrainError::Mismatch { path: path.into(), message }
}
