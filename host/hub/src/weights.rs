//! The tensors of a checkpoint, behind one table of names: safetensors without a copy, GGUF dequantised on first use.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use swift_graph::{
    Checkpoint, StorageType, TensorInfo,
    checkpoint::{self, WeightError, WeightSource},
};

use crate::{HubError, gguf, mapping::MappedFile};

/// What the weights of a GGUF file are converted to when they are dequantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GgufDtype {
    /// Exactly the dequantised value.
    #[default]
    F32,
    /// Rounded to nearest even: half the memory.
    Bf16,
}

impl GgufDtype {
    pub(crate) fn storage(self) -> StorageType {
        match self {
            Self::F32 => StorageType::F32,
            Self::Bf16 => StorageType::Bf16,
        }
    }
}

/// All tensors of a checkpoint. Headers are checked when it is opened, data is read when it is asked for.
#[derive(Debug)]
pub struct Weights {
    root: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
    /// Bytes of each file that say what it holds (everything before the data).
    headers: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Entry {
    info: TensorInfo,
    file: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Bytes of a mapped safetensors file.
    Mapped(Range<usize>),
    /// A block-quantised (or plain) GGUF tensor and, once used, its values.
    Gguf { tensor: gguf::GgufTensor, values: OnceLock<Buffer> },
}

/// Element storage that is aligned for every element type.
#[derive(Debug)]
pub(crate) struct Buffer {
    words: Vec<u64>,
    length: usize,
}

impl Buffer {
    pub(crate) fn zeroed(length: usize) -> Self {
        Self { words: vec![0; length.div_ceil(8)], length }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.length]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.length]
    }
}

/// One tensor's shape, storage type and bytes (little-endian, row-major, aligned for the type).
#[derive(Debug)]
pub struct TensorBytes<'a> {
    pub info: TensorInfo,
    data: Data<'a>,
}

#[derive(Debug)]
enum Data<'a> {
    Borrowed(&'a [u8]),
    Copied(Buffer),
}

impl TensorBytes<'_> {
    /// The raw bytes, aligned for `info.dtype`.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Borrowed(bytes) => bytes,
            Data::Copied(buffer) => buffer.bytes(),
        }
    }

    /// Whether the bytes are the file's own (no copy was made).
    pub fn is_borrowed(&self) -> bool {
        matches!(self.data, Data::Borrowed(_))
    }

    /// The values as f32, whatever float type they are stored as. `None` for integers and booleans.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let bytes = self.bytes();
        Some(match self.info.dtype {
            StorageType::F32 => bytemuck::cast_slice::<u8, f32>(bytes).to_vec(),
            StorageType::Bf16 => bytemuck::cast_slice::<u8, bf16>(bytes).iter().map(|v| v.to_f32()).collect(),
            StorageType::F16 => bytemuck::cast_slice::<u8, f16>(bytes).iter().map(|v| v.to_f32()).collect(),
            StorageType::F64 => bytemuck::cast_slice::<u8, f64>(bytes).iter().map(|&v| v as f32).collect(),
            _ => return None,
        })
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens the safetensors of a folder: `model.safetensors`, else the shards of `model.safetensors.index.json`,
    /// else the only `*.safetensors` there (`adapter_model.safetensors` of a PEFT folder, say).
    pub fn open_folder(folder: &Path) -> Result<Self, HubError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.is_file() {
            Self::open_files(folder, vec![single])
        } else if index.is_file() {
            Self::open_index(folder, &index)
        } else {
            let mut found = files_with_extension(folder, "safetensors")?;
            if found.len() == 1 {
                return Self::open_files(folder, vec![found.remove(0)]);
            }
            let reason = if !found.is_empty() {
                format!("it has {} safetensors files but no model.safetensors.index.json", found.len())
            } else if !files_with_extension(folder, "bin")?.is_empty() {
                "its weights are pickle (.bin) files, which are never read; convert them to safetensors".into()
            } else {
                "it has no safetensors weights".into()
            };
            Err(HubError::NotAModel { path: folder.into(), reason })
        }
    }

    fn open_index(folder: &Path, index_path: &Path) -> Result<Self, HubError> {
        let text = std::fs::read(index_path).map_err(HubError::io("read", index_path))?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|e| HubError::Json { path: index_path.into(), message: e.to_string() })?;
        if index.weight_map.is_empty() {
            return Err(HubError::Content { path: index_path.into(), message: "`weight_map` is empty".into() });
        }
        let mut shards: BTreeMap<&str, &str> = BTreeMap::new();
        for (tensor, file) in &index.weight_map {
            let plain = Path::new(file).file_name().is_some_and(|name| name == file.as_str());
            if !plain {
                return Err(HubError::Content {
                    path: index_path.into(),
                    message: format!("`weight_map` names `{file}` for `{tensor}`, which is not a file of this folder"),
                });
            }
            shards.entry(file).or_insert(tensor);
        }
        let mut files = Vec::with_capacity(shards.len());
        for (file, tensor) in shards {
            let path = folder.join(file);
            if !path.is_file() {
                return Err(HubError::MissingShard { path, tensor: tensor.into() });
            }
            files.push(path);
        }
        let weights = Self::open_files(folder, files)?;
        for (tensor, file) in &index.weight_map {
            let found = weights.tensors.get(tensor).map(|entry| weights.files[entry.file].path.as_path());
            if found != Some(folder.join(file).as_path()) {
                return Err(HubError::MissingTensor { path: folder.join(file), tensor: tensor.clone(), nearest: None });
            }
        }
        Ok(weights)
    }

    /// Opens these safetensors files as one checkpoint.
    pub fn open_files(root: &Path, paths: Vec<PathBuf>) -> Result<Self, HubError> {
        let mut weights = Self { root: root.into(), files: Vec::new(), tensors: BTreeMap::new(), headers: Vec::new() };
        for path in paths {
            weights.add_safetensors(&path)?;
        }
        Ok(weights)
    }

    fn add_safetensors(&mut self, path: &Path) -> Result<(), HubError> {
        let mapped = MappedFile::open(path)?;
        let bytes = mapped.bytes();
        let (header, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|e| HubError::Safetensors { path: path.into(), message: safetensors_message(&e, bytes.len()) })?;
        let data = header + 8;
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            let dtype = storage_type(info.dtype).ok_or_else(|| HubError::StorageType {
                path: path.into(),
                tensor: name.clone(),
                dtype: info.dtype.to_string(),
            })?;
            let place = Place::Mapped(data + info.data_offsets.0..data + info.data_offsets.1);
            let info = TensorInfo { shape: info.shape.clone(), dtype };
            if let Some(earlier) = self.tensors.insert(name.clone(), Entry { info, file, place }) {
                return Err(HubError::DuplicateTensor {
                    tensor: name,
                    first: self.files[earlier.file].path.clone(),
                    second: path.into(),
                });
            }
        }
        self.headers.push(0..data);
        self.files.push(mapped);
        Ok(())
    }

    pub(crate) fn from_gguf(mapped: MappedFile, header: &gguf::Header, dtype: GgufDtype) -> Result<Self, HubError> {
        let mut tensors = BTreeMap::new();
        for tensor in header.tensors()? {
            let info = TensorInfo { shape: tensor.shape.clone(), dtype: dtype.storage() };
            let name = tensor.name.clone();
            let place = Place::Gguf { tensor, values: OnceLock::new() };
            if tensors.insert(name.clone(), Entry { info, file: 0, place }).is_some() {
                return Err(HubError::Gguf {
                    path: mapped.path.clone(),
                    message: format!("two tensors are named `{name}`"),
                });
            }
        }
        let headers = std::iter::once(0..header.data_start).collect();
        Ok(Self { root: mapped.path.clone(), files: vec![mapped], tensors, headers })
    }

    /// Where the checkpoint lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The files that hold the weights.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Shape, storage type and bytes of one tensor. Safetensors bytes are the mapped file's own unless they are
    /// misaligned for their type; a GGUF tensor is dequantised on first use and kept.
    pub fn bytes(&self, name: &str) -> Result<TensorBytes<'_>, HubError> {
        let entry = self.tensors.get(name).ok_or_else(|| HubError::MissingTensor {
            path: self.root.clone(),
            tensor: name.into(),
            nearest: self.nearest(name),
        })?;
        let file = &self.files[entry.file];
        let info = entry.info.clone();
        let data = match &entry.place {
            Place::Mapped(range) => {
                let bytes = &file.bytes()[range.clone()];
                if (bytes.as_ptr() as usize).is_multiple_of(info.dtype.size()) {
                    Data::Borrowed(bytes)
                } else {
                    let mut buffer = Buffer::zeroed(bytes.len());
                    buffer.bytes_mut().copy_from_slice(bytes);
                    Data::Copied(buffer)
                }
            }
            Place::Gguf { tensor, values } => {
                let buffer = match values.get() {
                    Some(buffer) => buffer,
                    None => {
                        let computed = tensor.values(file, info.dtype)?;
                        values.get_or_init(|| computed)
                    }
                };
                Data::Borrowed(buffer.bytes())
            }
        };
        Ok(TensorBytes { info, data })
    }

    /// SHA-256 over each file's name, size and header, in order of the files. It identifies a checkpoint without
    /// reading its data; a change of values under the same header is not seen (see [`Weights::content_digest`]).
    pub fn header_digest(&self) -> String {
        let mut hash = Sha256::new();
        for (file, header) in self.files.iter().zip(&self.headers) {
            hash_file_name(&mut hash, &file.path);
            hash.update((file.bytes().len() as u64).to_le_bytes());
            hash.update(&file.bytes()[header.clone()]);
        }
        hex(&hash.finalize())
    }

    /// SHA-256 over each file's name, size and all its bytes.
    pub fn content_digest(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.files {
            hash_file_name(&mut hash, &file.path);
            hash.update((file.bytes().len() as u64).to_le_bytes());
            hash.update(file.bytes());
        }
        hex(&hash.finalize())
    }

    /// The known name that shares the longest prefix and suffix with `name`.
    fn nearest(&self, name: &str) -> Option<String> {
        let score = |other: &str| {
            let prefix = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            let suffix = name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
            prefix + suffix
        };
        let best = self.tensors.keys().max_by_key(|other| score(other))?;
        (score(best) * 2 >= name.len()).then(|| best.clone())
    }
}

impl Checkpoint for Weights {
    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|entry| entry.info.clone())
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
}

impl WeightSource for Weights {
    fn bytes(&self, name: &str) -> Result<checkpoint::TensorBytes<'_>, WeightError> {
        let fail = |e: HubError| WeightError { message: e.to_string(), hint: Some(e.hint()) };
        let TensorBytes { info, data } = Self::bytes(self, name).map_err(fail)?;
        let bytes = match data {
            Data::Borrowed(bytes) => Cow::Borrowed(bytes),
            Data::Copied(buffer) => Cow::Owned(buffer.bytes().to_vec()),
        };
        Ok(checkpoint::TensorBytes { dtype: info.dtype, shape: info.shape, bytes })
    }
}

pub(crate) fn files_with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, HubError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(HubError::io("list", folder))? {
        let path = entry.map_err(HubError::io("list", folder))?.path();
        if path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn hash_file_name(hash: &mut Sha256, path: &Path) {
    let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name.as_bytes());
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn safetensors_dtype(dtype: StorageType) -> Dtype {
    match dtype {
        StorageType::F64 => Dtype::F64,
        StorageType::F32 => Dtype::F32,
        StorageType::F16 => Dtype::F16,
        StorageType::Bf16 => Dtype::BF16,
        StorageType::I64 => Dtype::I64,
        StorageType::I32 => Dtype::I32,
        StorageType::I16 => Dtype::I16,
        StorageType::I8 => Dtype::I8,
        StorageType::U8 => Dtype::U8,
        StorageType::Bool => Dtype::BOOL,
    }
}

fn storage_type(dtype: Dtype) -> Option<StorageType> {
    let all = [
        StorageType::F64,
        StorageType::F32,
        StorageType::F16,
        StorageType::Bf16,
        StorageType::I64,
        StorageType::I32,
        StorageType::I16,
        StorageType::I8,
        StorageType::U8,
        StorageType::Bool,
    ];
    all.into_iter().find(|&storage| safetensors_dtype(storage) == dtype)
}

/// The library's message, and for a file shorter than its header says, the two sizes.
fn safetensors_message(error: &safetensors::SafeTensorError, size: usize) -> String {
    use safetensors::SafeTensorError as E;
    match error {
        E::MetadataIncompleteBuffer => {
            format!("the header describes another amount of data than the file's {size} bytes hold")
        }
        E::HeaderTooSmall | E::InvalidHeaderLength => {
            format!("its {size} bytes end before the header does")
        }
        other => other.to_string(),
    }
}

/// Reads a JSON file; `None` when it is not there.
pub(crate) fn read_json(path: &Path) -> Result<Option<(String, serde_json::Value)>, HubError> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(HubError::io("read", path))?;
    let value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|e| HubError::Json { path: path.into(), message: e.to_string() })?;
    Ok(Some((text, value)))
}

/// A JSON object; anything else is an error that names the file.
pub(crate) fn expect_object<'a>(
    path: &Path,
    value: &'a serde_json::Value,
) -> Result<&'a serde_json::Map<String, serde_json::Value>, HubError> {
    value
        .as_object()
        .ok_or_else(|| HubError::Content { path: path.into(), message: "it must hold a JSON object".into() })
}
