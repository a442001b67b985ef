//! What can go wrong between this process and a GPU, and what to do about it.

/// A failure of the CUDA backend.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CudaError {
    /// The driver's library is not on this machine.
    #[error("there is no NVIDIA driver on this machine (libcuda was not found)")]
    NoDriver,
    /// The driver is there, but older than what this program needs.
    #[error("the NVIDIA driver supports CUDA {found}, but {needed} or newer is needed")]
    OldDriver { found: String, needed: &'static str },
    /// The driver sees no GPU, or not this one.
    #[error("there is no GPU {ordinal}: the driver sees {count}")]
    NoDevice { ordinal: usize, count: usize },
    /// A library that ships apart from the driver is missing.
    #[error("the library {name} was not found")]
    MissingLibrary { name: &'static str, package: &'static str },
    /// Not enough memory on the device.
    #[error("the GPU is out of memory: {wanted} bytes were asked for, {free} of {total} are free")]
    OutOfMemory { wanted: usize, free: usize, total: usize },
    /// One of our own kernels does not compile for this GPU.
    #[error("the kernels of `{source_name}` do not compile for this GPU: {log}")]
    Compile { source_name: &'static str, log: String },
    /// A call that should work did not.
    #[error("CUDA: {what} failed: {reason}")]
    Call { what: String, reason: String },
    /// Operands that do not fit together: a mistake in this program.
    #[error("{0}")]
    Invalid(String),
}

impl CudaError {
    /// Operands that do not fit together.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub(crate) fn call(what: impl Into<String>, reason: impl std::fmt::Debug) -> Self {
        Self::Call { what: what.into(), reason: format!("{reason:?}") }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoDriver => "run on the CPU with `--device cpu`, or install the NVIDIA driver".into(),
            Self::OldDriver { .. } => "update the NVIDIA driver, or run with `--device cpu`".into(),
            Self::NoDevice { count: 0, .. } => {
                "see `nvidia-smi`; is CUDA_VISIBLE_DEVICES set to something empty?".into()
            }
            Self::NoDevice { count, .. } => format!("GPUs are numbered from 0 to {}", count - 1),
            Self::MissingLibrary { package, .. } => format!(
                "install it with `pip install {package}` and name that Python's site-packages in SWIFT_CUDA_LIBRARIES, \
                 install the CUDA toolkit, or put its folder on LD_LIBRARY_PATH"
            ),
            Self::OutOfMemory { .. } => {
                "use a smaller --per_device_train_batch_size or --max_length, or --gradient_checkpointing true".into()
            }
            Self::Compile { .. } | Self::Call { .. } | Self::Invalid(_) => return None,
        })
    }
}
