//! `swift-engine`: runs a graph on a device.
//!
//! It owns weights, buffers, caches and optimizer state, and knows neither where a checkpoint came from nor what a
//! training job is. One traced graph serves all of it: [`TrainSession`] lowers it with gradients, [`InferSession`]
//! runs it forward, whole or token by token with caches derived from its attention nodes.

pub mod batch;
mod bridge;
mod cpu;
mod cpu_infer;
mod cuda;
pub mod error;
mod execute;
pub mod infer;
pub mod memory;
pub mod placement;
pub mod plan;
mod pool;
pub mod ranks;
pub mod train;
mod weights;

pub use batch::Batch;
pub use error::EngineError;
pub use infer::{Choice, InferSession, SequenceId};
pub use memory::MemoryWeights;
pub use placement::{Compute, CudaDevice, CudaPlacement, Placement, Quantization, cuda_devices};
pub use plan::MemoryPlan;
pub use ranks::Ranks;
pub use swift_kernels::LossSums;
pub use swift_kernels::cuda::on_compile as on_kernel_compile;
pub use train::{AdamWOptions, Moments, TrainOptions, TrainSession, TrainableInfo, Tuner};
