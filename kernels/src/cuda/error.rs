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
    #[error("{}", no_device(*.ordinal, *.count))]
    NoDevice { ordinal: usize, count: usize },
    /// A library that ships apart from the driver is missing.
    #[error("the library {name} was not found")]
    MissingLibrary { name: &'static str, package: &'static str },
    /// Not enough memory on the device.
    #[error("the GPU is out of memory: {} were asked for, {} of {} are free", size(*.wanted), size(*.free), size(*.total))]
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

fn no_device(ordinal: usize, count: usize) -> String {
    match count {
        0 => "the NVIDIA driver sees no GPU".into(),
        1 => format!("there is no GPU {ordinal}: the driver sees one, which is number 0"),
        _ => format!("there is no GPU {ordinal}: the driver sees {count}"),
    }
}

fn size(bytes: usize) -> String {
    let of = |unit: usize| bytes as f64 / unit as f64;
    if bytes >= 1 << 30 { format!("{:.2} GiB", of(1 << 30)) } else { format!("{:.1} MiB", of(1 << 20)) }
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
                "run less at once (a smaller --per_device_train_batch_size, --max_batch_size or \
                                         --max_length), keep weights in four bits (--quant_method bnb --quant_bits 4), \
                                         or see with `nvidia-smi` what else is on this GPU"
                    .into()
            }
            Self::Compile { .. } | Self::Call { .. } | Self::Invalid(_) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        let text = |error: CudaError| format!("{error}\nhint: {}", error.hint().unwrap_or_default());
        let none = text(CudaError::NoDevice { ordinal: 0, count: 0 });
        assert!(none.starts_with("the NVIDIA driver sees no GPU\nhint: see `nvidia-smi`"), "{none}");
        let two = text(CudaError::NoDevice { ordinal: 5, count: 2 });
        assert_eq!(two, "there is no GPU 5: the driver sees 2\nhint: GPUs are numbered from 0 to 1");
        let memory = text(CudaError::OutOfMemory { wanted: 5 << 29, free: 3 << 19, total: 141 << 30 });
        let wanted = "the GPU is out of memory: 2.50 GiB were asked for, 1.5 MiB of 141.00 GiB are free\nhint: ";
        assert!(memory.starts_with(wanted), "{memory}");
        let missing = text(CudaError::MissingLibrary { name: "libnvrtc.so", package: "nvidia-cuda-nvrtc" });
        assert!(missing.contains("libnvrtc.so was not found") && missing.contains("SWIFT_CUDA_LIBRARIES"), "{missing}");
    }
}
