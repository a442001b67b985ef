//! What a trace may know of a checkpoint: tensor names, shapes and storage types. Never data.

/// How a tensor is stored in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StorageType {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl StorageType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether the engine can compute with a weight stored like this.
    pub fn is_float_weight(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The name safetensors uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }
}

/// Shape and storage of one checkpoint tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub shape: Vec<usize>,
    pub dtype: StorageType,
}

/// The headers of a checkpoint: enough to trace a model, not enough to run it.
pub trait Checkpoint {
    /// Shape and storage type of `name`, if the checkpoint has it.
    fn tensor(&self, name: &str) -> Option<TensorInfo>;
    /// All names, in a fixed order.
    fn names(&self) -> Vec<String>;
}

/// A checkpoint that is only a table, for tests and for planning without files.
#[derive(Debug, Clone, Default)]
pub struct TableCheckpoint(pub std::collections::BTreeMap<String, TensorInfo>);

impl Checkpoint for TableCheckpoint {
    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        self.0.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

/// The stored bytes of one tensor, in its storage type, row-major and little-endian.
#[derive(Debug, Clone)]
pub struct TensorBytes<'a> {
    pub dtype: StorageType,
    pub shape: Vec<usize>,
    pub bytes: std::borrow::Cow<'a, [u8]>,
}

/// Why the data of a tensor could not be had: what, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WeightError {
    pub message: String,
    pub hint: Option<String>,
}

/// A checkpoint whose data can be read: memory-mapped files, a dequantised GGUF, or memory.
pub trait WeightSource: Checkpoint + Send + Sync {
    /// The bytes of `name`.
    ///
    /// # Errors
    /// When there is no such tensor, or its data cannot be read.
    fn bytes(&self, name: &str) -> Result<TensorBytes<'_>, WeightError>;
}
