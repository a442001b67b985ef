//! `swift-graph`: what a model computes, as data.
//!
//! A plugin records a [`Graph`] once through the [`Builder`]; everything after works on the graph: checking, text form,
//! roll-up of equal blocks, LoRA, gradients, and the reference interpreter. This crate knows no devices, no files and
//! no kernels.

pub mod builder;
pub mod checkpoint;
pub mod error;
pub mod gradient;
pub mod interpret;
pub mod ir;
pub mod lora;
pub mod program;
pub mod rollup;
pub mod rope;
pub mod shape;
pub mod simplify;
pub mod table;
pub mod text;
pub mod verify;

pub use builder::{Arg, Builder};
pub use checkpoint::{Checkpoint, StorageType, TableCheckpoint, TensorInfo};
pub use error::BuildError;
pub use ir::{DataType, Graph, Mask, Op, Param, Rows, Value};
