//! The engine on one NVIDIA GPU: the same programs, run by the kernels of `swift_kernels::cuda`.
//!
//! | module | what it does |
//! |---|---|
//! | `lower`, `decode` | programs in which neighbouring steps became one kernel |
//! | `adapters` | low-rank adapters grouped by what they read, and stored behind the frozen matrices |
//! | `layout` | where every slot lies, decided per number of rows before the first step |
//! | `weights` | parameters on the device; masters, gradients and moments of trained ones in one arena |
//! | `quantized` | frozen matrices in four or eight bits |
//! | `feed` | what a step reads beside weights: rows, sequences, rotation tables |
//! | `execute` | the one place where actions meet CUDA kernels |
//! | `train`, `infer` | sessions |
//! | `pages` | pages of the key-value cache |

mod adapters;
mod decode;
mod execute;
mod feed;
mod infer;
mod layout;
mod lower;
mod pages;
mod quantized;
#[cfg(test)]
mod tests;
mod train;
mod weights;

pub(crate) use infer::CudaInfer;
pub(crate) use train::CudaTrain;
