//! The builder of the contract with scopes as closures, parameters named by scope, and operators.
//!
//! No call here returns an error: a call that the host refuses ends the trace there, and the host reports it.

use std::cell::Cell;
use std::ops::{Add, Div, Mul, Sub};

use crate::bindings::model::swift::model::graph::{Arg, Builder, Value};
pub use crate::bindings::model::swift::model::types::{Dtype, Mask, Param, Rows};
use crate::text::{decimal, join};
use crate::{Config, Result, Rope};

/// The graph being built. Calls inside [`Graph::scope`] and [`Graph::block`] name their parameters under its path.
#[derive(Debug)]
pub struct Graph<'a> {
    builder: &'a Builder,
    path: Cell<&'static str>,
}

/// A value of the graph: shape `[rows, ...tail]`. Copyable; `+`, `-`, `*`, `/` take another value or a number.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'g> {
    graph: &'g Graph<'g>,
    value: Value,
}

impl<'a> Graph<'a> {
    pub(crate) fn new(builder: &'a Builder) -> Self {
        Self { builder, path: Cell::new("") }
    }

    fn tensor(&self, value: Value) -> Tensor<'_> {
        Tensor { graph: self, value }
    }

    // -- structure -------------------------------------------------------------------------------------

    /// The inputs of a language model: tokens `[rows]` and positions `[rows]`, both int32, of the stream "text".
    pub fn text(&self) -> (Tensor<'_>, Tensor<'_>) {
        let rows = self.builder.rows("text");
        (self.input("tokens", rows, Dtype::Int32, &[]), self.input("positions", rows, Dtype::Int32, &[]))
    }

    /// The row stream of this name.
    pub fn rows(&self, name: &str) -> Rows {
        self.builder.rows(name)
    }

    /// What the data pipeline feeds for each row: `[rows, ...tail]`.
    pub fn input(&self, name: &str, rows: Rows, dtype: Dtype, tail: &[u32]) -> Tensor<'_> {
        self.tensor(self.builder.input(name, rows, dtype, tail))
    }

    /// Runs `body` inside a scope: `path` is added to the names of its parameters and to its place in messages.
    pub fn scope<'g, R>(&'g self, path: &str, body: impl FnOnce(&'g Self) -> R) -> R {
        self.inside(path, "", body)
    }

    /// Runs `body` as block `index` of the list of layers `path`: a cut for recomputation and pipelining.
    pub fn block<'g, R>(&'g self, path: &str, index: u32, body: impl FnOnce(&'g Self) -> R) -> R {
        self.inside(join(&[path, ".", decimal(index as usize)]), "block", body)
    }

    fn inside<'g, R>(&'g self, path: &str, kind: &str, body: impl FnOnce(&'g Self) -> R) -> R {
        let outside = self.enter(path, kind);
        let result = body(self);
        self.builder.exit();
        self.path.set(outside);
        result
    }

    #[inline(never)]
    fn enter(&self, path: &str, kind: &str) -> &'static str {
        self.builder.enter(path, kind);
        self.path.replace(self.full(path, ""))
    }

    /// The checkpoint name of `name` followed by `suffix` in the current scope.
    fn full(&self, name: &str, suffix: &str) -> &'static str {
        let path = self.path.get();
        join(&[path, if path.is_empty() { "" } else { "." }, name, suffix])
    }

    /// Publishes a result: "hidden", "logits".
    pub fn output(&self, name: &str, x: Tensor<'_>) {
        self.builder.output(name, x.value);
    }

    /// Whether the host knows this function of the contract.
    pub fn supports(&self, op: &str) -> bool {
        self.builder.supports(op)
    }

    // -- parameters ------------------------------------------------------------------------------------

    /// Whether the checkpoint holds `name` in the current scope.
    pub fn has(&self, name: &str) -> bool {
        self.builder.has(self.full(name, ""))
    }

    /// The checkpoint tensor `name` of the current scope, which must have this shape.
    pub fn parameter(&self, name: &str, shape: &[u32]) -> Param {
        self.parameter_of(name, "", shape)
    }

    /// The parameter `name` followed by `suffix`.
    #[inline(never)]
    fn parameter_of(&self, name: &str, suffix: &str, shape: &[u32]) -> Param {
        self.builder.load(self.full(name, suffix), shape)
    }

    /// A parameter as a value without rows.
    pub fn read(&self, parameter: Param) -> Tensor<'_> {
        self.tensor(self.builder.read(parameter))
    }

    // -- layers ----------------------------------------------------------------------------------------

    /// An embedding `name` with weight `[vocabulary, width]`: `[rows]` -> `[rows, width]`, and its table for a tied head.
    pub fn embed(&self, name: &str, ids: Tensor<'_>, vocabulary: u32, width: u32) -> (Tensor<'_>, Param) {
        let table = self.parameter_of(name, ".weight", &[vocabulary, width]);
        (self.tensor(self.builder.embed(ids.value, table)), table)
    }

    /// A linear layer `name` with weight `[out, in]` and perhaps a bias `[out]`: `[rows, ..., in]` -> `[rows, ..., out]`.
    pub fn linear(&self, name: &str, x: Tensor<'_>, out: u32, bias: bool) -> Tensor<'_> {
        let weight = self.parameter_of(name, ".weight", &[out, x.last()]);
        let bias = bias.then(|| self.parameter_of(name, ".bias", &[out]));
        self.tensor(self.builder.linear(x.value, weight, bias))
    }

    /// An RMS norm `name` over the last axis.
    pub fn rms_norm(&self, name: &str, x: Tensor<'_>, eps: f32) -> Tensor<'_> {
        let weight = self.parameter_of(name, ".weight", &[x.last()]);
        self.tensor(self.builder.rms_norm(x.value, Some(weight), eps, &[]))
    }

    /// An RMS norm `name` whose weight is stored as its distance from one (Gemma).
    pub fn rms_norm_plus_one(&self, name: &str, x: Tensor<'_>, eps: f32) -> Tensor<'_> {
        let weight = self.parameter_of(name, ".weight", &[x.last()]);
        let offset = [("offset".to_owned(), Arg::Num(1.0))];
        self.tensor(self.builder.rms_norm(x.value, Some(weight), eps, &offset))
    }

    /// A layer norm `name` over the last axis.
    pub fn layer_norm(&self, name: &str, x: Tensor<'_>, eps: f32, bias: bool) -> Tensor<'_> {
        let weight = self.parameter_of(name, ".weight", &[x.last()]);
        let bias = bias.then(|| self.parameter_of(name, ".bias", &[x.last()]));
        self.tensor(self.builder.layer_norm(x.value, Some(weight), bias, eps))
    }

    /// The vocabulary head: `[rows, width]`, table `[vocabulary, width]` -> `[rows, vocabulary]`.
    pub fn logits(&self, x: Tensor<'_>, table: Param) -> Tensor<'_> {
        self.tensor(self.builder.logits(x.value, table, &[]))
    }

    /// The table of the vocabulary head: `lm_head.weight`, or `embedding` where the two are tied. They are tied when the
    /// config says so, or says nothing and the checkpoint has no head.
    ///
    /// # Errors
    /// When `tie_word_embeddings` is not true or false.
    pub fn head_table(&self, config: &Config, embedding: Param, vocabulary: u32, width: u32) -> Result<Param> {
        let tied = match config.optional_flag("tie_word_embeddings")? {
            Some(tied) => tied,
            None => !self.has("lm_head.weight"),
        };
        Ok(if tied { embedding } else { self.parameter("lm_head.weight", &[vocabulary, width]) })
    }

    // -- attention -------------------------------------------------------------------------------------

    /// Causal attention; with a window, a row sees itself and the `window - 1` rows before it.
    pub fn causal_mask(&self, window: Option<u32>) -> Mask {
        match window {
            None => self.builder.mask_causal(),
            Some(window) => self.builder.mask_window(window.saturating_sub(1), 0),
        }
    }

    /// Every row sees its whole sequence.
    pub fn full_mask(&self) -> Mask {
        self.builder.mask_all()
    }

    /// q `[rows, hq, d]`, k `[rows, hk, d]`, v `[rows, hk, dv]` -> `[rows, hq, dv]`; hk divides hq.
    pub fn attention(&self, q: Tensor<'_>, k: Tensor<'_>, v: Tensor<'_>, mask: Mask, scale: f32) -> Tensor<'_> {
        self.tensor(self.builder.attention(q.value, k.value, v.value, mask, scale, &[]))
    }

    /// A number as a value.
    pub fn scalar(&self, x: f64) -> Tensor<'_> {
        self.tensor(self.builder.scalar(x))
    }

    /// Joins along tail axis `axis`.
    pub fn concat(&self, xs: &[Tensor<'_>], axis: u32) -> Tensor<'_> {
        let values: Vec<Value> = xs.iter().map(|x| x.value).collect();
        self.tensor(self.builder.concat(&values, axis))
    }
}

impl<'g> Tensor<'g> {
    fn make(self, value: Value) -> Self {
        Self { graph: self.graph, value }
    }

    /// The axes after the rows.
    pub fn tail(self) -> Vec<u32> {
        self.graph.builder.shape(self.value)
    }

    /// The last axis; 1 for a value without any.
    pub fn last(self) -> u32 {
        self.tail().last().copied().unwrap_or(1)
    }

    /// The same elements of every row as `[rows, ...tail]`.
    pub fn reshape(self, tail: &[u32]) -> Self {
        self.make(self.graph.builder.reshape(self.value, tail))
    }

    /// Rotates heads `[rows, heads, d]` by positions `[rows]`.
    pub fn rope(self, positions: Tensor<'_>, rope: &Rope) -> Self {
        self.make(self.graph.builder.rope(self.value, positions.value, rope.dims, rope.theta, &rope.options))
    }

    /// activation(self) * up; see the contract's `unary` for the names.
    pub fn glu(self, up: Tensor<'_>, activation: &str) -> Self {
        self.make(self.graph.builder.glu(self.value, up.value, activation))
    }

    /// A pointwise function by its name in the contract.
    pub fn unary(self, op: &str) -> Self {
        self.make(self.graph.builder.unary(op, self.value))
    }

    /// A pointwise function of two operands by its name in the contract.
    pub fn binary(self, op: &str, other: Tensor<'_>) -> Self {
        self.make(self.graph.builder.binary(op, self.value, other.value))
    }

    /// Softmax over the last axis.
    pub fn softmax(self) -> Self {
        self.make(self.graph.builder.softmax(self.value))
    }

    /// Divides by the Euclidean length of the last axis.
    pub fn l2_norm(self, eps: f32) -> Self {
        self.make(self.graph.builder.l2_norm(self.value, eps))
    }

    /// Pieces of these sizes along tail axis `axis`.
    pub fn split(self, axis: u32, sizes: &[u32]) -> Vec<Self> {
        self.graph.builder.split(self.value, axis, sizes).into_iter().map(|value| self.make(value)).collect()
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $op:literal) => {
        impl<'g> $trait for Tensor<'g> {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                self.binary($op, other)
            }
        }

        impl<'g> $trait<f64> for Tensor<'g> {
            type Output = Self;
            fn $method(self, other: f64) -> Self {
                self.binary($op, self.graph.scalar(other))
            }
        }
    };
}

operator!(Add, add, "add");
operator!(Sub, sub, "sub");
operator!(Mul, mul, "mul");
operator!(Div, div, "div");
