//! Device memory: who owns it ([`Buffer`]) and where something lies in it ([`Tensor`]).

use std::sync::Arc;

use cudarc::driver::{CudaStream, result};

/// How an element is stored on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    Bf16,
    F16,
    U32,
    U8,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }
}

/// A stretch of device memory: address, number of elements and type. It owns nothing; whoever holds the [`Buffer`] keeps it
/// valid. Device memory is no memory of this process: a stale tensor gives wrong numbers, never undefined behaviour here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    address: u64,
    elements: usize,
    dtype: Dtype,
}

impl Tensor {
    pub(crate) fn new(address: u64, elements: usize, dtype: Dtype) -> Self {
        Self { address, elements, dtype }
    }

    /// Number of elements.
    pub fn elements(self) -> usize {
        self.elements
    }

    /// Type of the elements.
    pub fn dtype(self) -> Dtype {
        self.dtype
    }

    /// Address on the device.
    pub fn address(self) -> u64 {
        self.address
    }

    /// Length in bytes.
    pub fn bytes(self) -> usize {
        self.elements * self.dtype.size()
    }

    /// `elements` elements from `start` on.
    ///
    /// # Panics
    /// When they do not lie inside.
    #[must_use]
    pub fn slice(self, start: usize, elements: usize) -> Self {
        assert!(start + elements <= self.elements, "a tensor of {} elements has no {start}+{elements}", self.elements);
        Self { address: self.address + (start * self.dtype.size()) as u64, elements, dtype: self.dtype }
    }

    /// The same bytes as elements of another type.
    ///
    /// # Panics
    /// When the bytes are no whole number of elements.
    #[must_use]
    pub fn cast(self, dtype: Dtype) -> Self {
        assert!(self.bytes().is_multiple_of(dtype.size()), "{} bytes are no whole number of {dtype:?}", self.bytes());
        Self { address: self.address, elements: self.bytes() / dtype.size(), dtype }
    }
}

/// Owned device memory; freed in the order of the stream.
#[derive(Debug)]
pub struct Buffer {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
    pub(crate) stream: Arc<CudaStream>,
}

impl Buffer {
    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of it.
    ///
    /// # Panics
    /// When it is no whole number of elements.
    pub fn tensor(&self, dtype: Dtype) -> Tensor {
        Tensor::new(self.address, self.bytes, Dtype::U8).cast(dtype)
    }

    /// `elements` elements from `byte_offset` on.
    ///
    /// # Panics
    /// When they do not lie inside.
    pub fn at(&self, byte_offset: usize, elements: usize, dtype: Dtype) -> Tensor {
        self.tensor(Dtype::U8).slice(byte_offset, elements * dtype.size()).cast(dtype)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.address != 0 && self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: the address came from malloc_async on this stream and is freed once. A failure leaves nothing to do:
            // the context is gone, and its memory with it.
            let _ = unsafe { result::free_async(self.address, self.stream.cu_stream()) };
        }
    }
}
