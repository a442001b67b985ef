//! The same kernels on NVIDIA GPUs, through the driver that is found at run time.
//!
//! Nothing of CUDA is needed to build this crate or to start a program that uses it: [`Device::open`] looks for the driver
//! and its libraries ([`library`]) and says what is missing. Matrix products are cuBLASLt's ([`matmul`]), everything else is
//! CUDA C++ in `kernels/cuda`, compiled for the GPU at first use and kept on disk ([`compile`]).
//!
//! Functions mirror the crate's CPU functions; slices become [`Tensor`]s, plain addresses of device memory that [`Buffer`]s
//! own. All work goes to the device's one stream in the order of the calls, and no function waits for it except where its
//! documentation says so. A wrong length or type is an error before anything is launched, so that no kernel leaves its
//! operands. Sums are made in a fixed order: the same input gives the same bits.

mod adapter;
mod adapter_grad;
mod attention;
mod binary;
mod compile;
mod copy;
mod cudnn;
mod decode;
mod device;
mod dropout;
mod embed;
mod error;
pub mod library;
mod loss;
mod matmul;
pub mod nccl;
mod norm;
mod optimizer;
mod paged;
mod pointwise;
mod profile;
mod quant;
mod rope;
mod sampling;
mod scalar;
mod softmax;
mod tensor;

pub use adapter::*;
pub use adapter_grad::*;
pub use attention::*;
pub use binary::*;
pub use compile::{Source, on_compile};
pub use copy::*;
pub use cudnn::*;
pub use decode::*;
pub use device::{Arg, Device, Graph};
pub use dropout::*;
pub use embed::*;
pub use error::CudaError;
pub use loss::*;
pub use matmul::*;
pub use norm::*;
pub use optimizer::*;
pub use paged::*;
pub use pointwise::*;
pub use profile::ProfileRow;
pub use quant::*;
pub use rope::*;
pub use sampling::*;
pub use scalar::*;
pub use softmax::*;
pub use tensor::{Buffer, Dtype, Tensor};
