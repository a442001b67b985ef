//! Writing weights as the ecosystem reads them: `model.safetensors`, or shards with `model.safetensors.index.json`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;
use swift_graph::StorageType;

use crate::{HubError, weights::safetensors_dtype};

/// A tensor to be written: little-endian, row-major bytes.
#[derive(Debug, Clone)]
pub struct SavedTensor<'a> {
    pub name: String,
    pub dtype: StorageType,
    pub shape: Vec<usize>,
    pub bytes: Cow<'a, [u8]>,
}

/// What [`save_safetensors`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedWeights {
    /// Weight files and, if there are several, the index.
    pub files: Vec<PathBuf>,
    /// Bytes of tensor data.
    pub total_size: u64,
}

/// Writes `tensors` into `folder` as `model.safetensors`, or as shards of at most `max_shard_bytes` each (a larger
/// tensor gets a shard of its own) with an index. One shard is held at a time. Every file is synced to the disk.
///
/// The folder should be a new one that the caller renames into place when everything in it is written.
pub fn save_safetensors<'a>(
    folder: &Path,
    tensors: impl IntoIterator<Item = Result<SavedTensor<'a>, HubError>>,
    max_shard_bytes: u64,
) -> Result<SavedWeights, HubError> {
    let mut shards: Vec<Vec<String>> = Vec::new();
    let mut pending: Vec<SavedTensor<'a>> = Vec::new();
    let mut pending_bytes = 0u64;
    let mut total_size = 0u64;
    let mut names = BTreeMap::new();
    let part = |index: usize| folder.join(format!("model-part-{index:05}.safetensors"));
    for tensor in tensors {
        let tensor = tensor?;
        let expected = tensor.shape.iter().product::<usize>() * tensor.dtype.size();
        if expected != tensor.bytes.len() {
            return Err(HubError::Save {
                message: format!(
                    "{} {:?} needs {expected} bytes, {} were given",
                    tensor.dtype.name(),
                    tensor.shape,
                    tensor.bytes.len()
                ),
                tensor: tensor.name,
            });
        }
        if names.insert(tensor.name.clone(), ()).is_some() {
            return Err(HubError::Save { message: "it was given twice".into(), tensor: tensor.name });
        }
        let size = tensor.bytes.len() as u64;
        if !pending.is_empty() && pending_bytes + size > max_shard_bytes {
            shards.push(write_file(&part(shards.len()), &mut pending)?);
            pending_bytes = 0;
        }
        pending_bytes += size;
        total_size += size;
        pending.push(tensor);
    }
    if !pending.is_empty() || shards.is_empty() {
        shards.push(write_file(&part(shards.len()), &mut pending)?);
    }
    let count = shards.len();
    let mut files = Vec::new();
    let mut weight_map = BTreeMap::new();
    for (index, names) in shards.into_iter().enumerate() {
        let name = if count == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{:05}-of-{count:05}.safetensors", index + 1)
        };
        let path = folder.join(&name);
        std::fs::rename(part(index), &path).map_err(HubError::io("rename", &path))?;
        weight_map.extend(names.into_iter().map(|tensor| (tensor, name.clone())));
        files.push(path);
    }
    if count > 1 {
        let path = folder.join("model.safetensors.index.json");
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        let text = serde_json::to_string_pretty(&index).expect("a JSON value prints") + "\n";
        std::fs::write(&path, text).map_err(HubError::io("write", &path))?;
        files.push(path);
    }
    Ok(SavedWeights { files, total_size })
}

/// Writes one file and returns the names in it; `tensors` is emptied.
fn write_file(path: &Path, tensors: &mut Vec<SavedTensor<'_>>) -> Result<Vec<String>, HubError> {
    // Larger elements first keeps every tensor aligned for its type; the header is padded to eight bytes.
    tensors.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(&b.name)));
    let mut offset = 0;
    let entries = tensors
        .iter()
        .map(|tensor| {
            let end = offset + tensor.bytes.len();
            let info = TensorInfo {
                dtype: safetensors_dtype(tensor.dtype),
                shape: tensor.shape.clone(),
                data_offsets: (offset, end),
            };
            offset = end;
            (tensor.name.clone(), info)
        })
        .collect();
    let header = Metadata::new(Some(HashMap::from([("format".into(), "pt".into())])), entries)
        .map_err(|e| e.to_string())
        .and_then(|metadata| serde_json::to_string(&metadata).map_err(|e| e.to_string()))
        .map_err(|message| HubError::Safetensors { path: path.into(), message })?;
    let padded = header.len().next_multiple_of(8);
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(padded as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        file.write_all(&b"       "[..padded - header.len()])?;
        for tensor in tensors.iter() {
            file.write_all(&tensor.bytes)?;
        }
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    };
    write().map_err(HubError::io("write", path))?;
    Ok(tensors.drain(..).map(|tensor| tensor.name).collect())
}
