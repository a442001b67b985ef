//! Where a session runs: on the CPU, or on one GPU in one precision, alone or as one rank of several.

use swift_kernels::cuda::{CudaError, Device, library};

use crate::error::EngineError;
use crate::ranks::Ranks;

/// Precision of activations and matrices on a GPU. Statistics, accumulation, losses, gradients and optimizer state are f32
/// in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    F32,
    #[default]
    Bf16,
}

impl Compute {
    /// Name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// How frozen matrices are stored on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// Four bits in blocks of 64 (QLoRA, arXiv:2305.14314); `double` also quantises the blocks' scales.
    Nf4 { double: bool },
    /// Eight bits with a scale for each row (the weights of LLM.int8, arXiv:2208.07339; activations stay as they are).
    Int8,
}

/// One GPU and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaPlacement {
    pub ordinal: usize,
    pub compute: Compute,
    pub quantization: Option<Quantization>,
    /// This process among those that train together.
    pub ranks: Option<Ranks>,
}

/// Where a session runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Placement {
    #[default]
    Cpu,
    Cuda(CudaPlacement),
}

impl Placement {
    /// A GPU by number, alone.
    pub fn cuda(ordinal: usize, compute: Compute) -> Self {
        Self::Cuda(CudaPlacement { ordinal, compute, quantization: None, ranks: None })
    }

    /// The place that the tests run on: `SWIFT_TEST_DEVICE` is `cpu` (and the default), `cuda` or `cuda:1`.
    ///
    /// # Panics
    /// When it says anything else.
    pub fn of_tests(compute: Compute) -> Self {
        let name = std::env::var("SWIFT_TEST_DEVICE").unwrap_or_default();
        match name.split_once(':').unwrap_or((&name, "0")) {
            ("" | "cpu", _) => Self::Cpu,
            ("cuda", ordinal) => Self::cuda(ordinal.parse().expect("SWIFT_TEST_DEVICE=cuda:NUMBER"), compute),
            _ => panic!("SWIFT_TEST_DEVICE is `{name}`; it takes cpu, cuda or cuda:1"),
        }
    }
}

/// A GPU that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    pub name: String,
    pub memory_bytes: u64,
}

/// The GPUs that can be used.
///
/// # Errors
/// Why none can: no driver, too old a one, a missing library, no GPU.
pub fn cuda_devices() -> Result<Vec<CudaDevice>, EngineError> {
    let devices = Device::list()?;
    if devices.is_empty() {
        return Err(CudaError::NoDevice { ordinal: 0, count: 0 }.into());
    }
    library::check()?;
    Ok(devices.into_iter().map(|(name, memory_bytes)| CudaDevice { name, memory_bytes }).collect())
}
