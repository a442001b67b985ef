//! Compute kernels: plain functions over row-major slices, forward and backward. This crate knows no graphs, no models
//! and no files.
//!
//! Everything computes in f32 with f32 accumulation (f64 for scalars and between blocks of long sums); weights may be
//! stored as f32, bf16 or f16 ([`Weight`]). A gradient function overwrites what it returns unless its documentation says
//! that it adds.
//!
//! - **Parallel** through rayon's current pool. Work is split by shape alone, and no sum depends on the order in which
//!   threads finish, so one machine gives the same bits in every run and with any number of threads. Run a whole step
//!   inside one `ThreadPool::install`: entering the pool from outside costs more than a small kernel.
//! - **Vectorised** by the compiler from plain loops, compiled for AVX-512, AVX2 with FMA and the target's baseline, and
//!   chosen at run time. Other machines may round differently.
//! - **Errors** are the caller's: a wrong length panics with the operand's name.
//!
//! | module | functions |
//! |---|---|
//! | matmul | [`linear`], [`linear_grad_input`], [`linear_grad_weight`], [`column_sums`] |
//! | norm | [`rms_norm`], [`layer_norm`], [`l2_norm`] and `_grad` of each |
//! | rope | [`rope_tables`], [`rope`] (its own gradient with `inverse`) |
//! | attention | [`attention`], [`attention_grad`], [`attention_cached`] |
//! | pointwise | [`unary`], [`glu`] and `_grad` of each; [`add_assign`], [`scale_add`], [`scale`] |
//! | binary | [`binary`], [`binary_grad`], [`add`], [`mul`] |
//! | softmax | [`softmax`], [`softmax_grad`] |
//! | embed | [`embed`], [`embed_grad`] |
//! | loss | [`linear_cross_entropy`] |
//! | optimizer | [`adamw`], [`sum_squares`] |
//! | dropout | [`dropout`] (its own gradient) |
//! | quant | [`quantize_4bit`], [`quantize_absmax`], [`quantize_int8`] and `dequantize_` of each |
//! | cast | [`f32_to_bf16`], [`f32_to_f16`], [`bf16_to_f32`], [`f16_to_f32`] |

#![allow(
    unsafe_code,
    reason = "disjoint parallel writes, calls into instantiations for a detected instruction set, and the matmul library"
)]

mod attention;
mod binary;
mod cast;
pub mod cuda;
mod dropout;
mod embed;
mod few_rows;
mod loss;
mod matmul;
mod norm;
mod optimizer;
mod parallel;
mod pointwise;
mod quant;
mod rope;
mod simd;
mod softmax;
#[cfg(test)]
mod testing;
mod weight;

pub use attention::{AttentionMask, AttentionShape, attention, attention_cached, attention_grad};
pub use binary::{Binary, Broadcast, add, binary, binary_grad, mul};
pub use cast::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
pub use dropout::dropout;
pub use embed::{embed, embed_grad};
pub use loss::{LossSums, linear_cross_entropy};
pub use matmul::{column_sums, linear, linear_grad_input, linear_grad_weight};
pub use norm::{l2_norm, l2_norm_grad, layer_norm, layer_norm_grad, rms_norm, rms_norm_grad};
pub use optimizer::{AdamW, adamw, sum_squares};
pub use pointwise::{Activation, add_assign, glu, glu_grad, scale, scale_add, unary, unary_grad};
pub use quant::{
    FOUR_BIT_BLOCK, FourBit, NESTED_BLOCK, dequantize_4bit, dequantize_absmax, dequantize_int8, dynamic_map,
    quantize_4bit, quantize_absmax, quantize_int8,
};
pub use rope::{rope, rope_tables};
pub use softmax::{softmax, softmax_grad};
pub use weight::Weight;
