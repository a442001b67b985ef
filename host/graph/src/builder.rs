//! Records a graph call by call: one method for each function of the model contract.
//!
//! Every call is checked at once (shapes, names, options), so a wrong model fails during its trace, naming the scope,
//! the op and the shapes, before a byte of weights is read.

mod options;

use std::collections::HashMap;

use crate::checkpoint::{Checkpoint, TableCheckpoint};
use crate::error::{BuildError, nearest, shape_text};
use crate::ir::{Binary, DataType, Graph, Mask, MaskRule, Node, Op, Param, ParamInfo, Rows, Scope, Type, Unary, Value};
use crate::rope::RopeFrequencies;
use crate::shape;
use options::{Reader, rope_scaling};

/// Nodes, parameters and name lengths beyond these are a runaway trace, not a model.
const MAX_NODES: usize = 1_000_000;
const MAX_NAME: usize = 512;
/// Bytes of the paths of all scopes: each keeps its whole path.
const MAX_PATHS: usize = 64 << 20;

/// A value of an option.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    Num(f64),
    Nums(Vec<f64>),
    Text(String),
    Flag(bool),
    Value(Value),
    Param(Param),
}

/// Named options of an op. An unknown one is an error, never ignored.
pub type Options = [(String, Arg)];

/// Builds one [`Graph`] against one checkpoint's headers.
#[derive(Debug)]
pub struct Builder {
    graph: Graph,
    checkpoint: TableCheckpoint,
    by_name: HashMap<String, Param>,
    /// Stack of open scopes: indices into `graph.scopes`.
    open: Vec<u32>,
    masks: Vec<MaskRule>,
    calls: u64,
    paths: usize,
}

type Result<T> = std::result::Result<T, BuildError>;

impl Builder {
    /// A builder for a model whose tensors are those of `checkpoint`.
    pub fn new(checkpoint: &dyn Checkpoint) -> Self {
        let table = checkpoint.names().into_iter().filter_map(|n| checkpoint.tensor(&n).map(|t| (n, t))).collect();
        let mut graph = Graph::default();
        graph.scopes.push(Scope { path: String::new(), block: None });
        Self {
            graph,
            checkpoint: TableCheckpoint(table),
            by_name: HashMap::new(),
            open: vec![0],
            masks: Vec::new(),
            calls: 0,
            paths: 0,
        }
    }

    /// Calls taken so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Path of the innermost open scope.
    pub fn scope(&self) -> &str {
        &self.graph.scopes[self.current() as usize].path
    }

    fn current(&self) -> u32 {
        self.open.last().copied().unwrap_or(0)
    }

    fn at(&self, op: &str, mut error: BuildError) -> BuildError {
        error.scope = self.scope().to_owned();
        error.op = op.to_owned();
        error
    }

    fn fail<T>(&self, op: &str, message: impl Into<String>, hint: &str) -> Result<T> {
        Err(self.at(op, BuildError::new(message).hint(hint)))
    }

    fn name_ok(&self, op: &str, name: &str) -> Result<()> {
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return self.fail(
                op,
                format!("`{}` is not a usable name", name.escape_default()),
                "1 to 512 characters, no blanks",
            );
        }
        Ok(())
    }

    fn push(&mut self, op: Op, inputs: Vec<Value>, ty: Type) -> Result<Value> {
        if self.graph.nodes.len() >= MAX_NODES {
            return self.fail(op.name(), format!("more than {MAX_NODES} nodes"), "is a loop in the plugin unbounded?");
        }
        let value = Value(self.graph.nodes.len() as u32);
        let scope = self.current();
        self.graph.nodes.push(Node { op, inputs, ty, scope });
        Ok(value)
    }

    fn apply(&mut self, op: Op, inputs: Vec<Value>) -> Result<Value> {
        self.calls += 1;
        let mut types = Vec::with_capacity(inputs.len());
        for v in &inputs {
            match self.graph.nodes.get(v.index()) {
                Some(node) => types.push(&node.ty),
                None => {
                    return self.fail(
                        op.name(),
                        format!("there is no value {}", v.0),
                        "values belong to the builder that made them",
                    );
                }
            }
        }
        for p in op.params() {
            self.known_param(op.name(), p)?;
        }
        let ty = shape::infer(&self.graph, &op, &types).map_err(|e| self.at(op.name(), e))?;
        self.push(op, inputs, ty)
    }

    fn known_param(&self, op: &str, p: Param) -> Result<()> {
        if p.index() < self.graph.params.len() {
            return Ok(());
        }
        self.fail(op, format!("there is no parameter {}", p.0), "parameters belong to the builder that loaded them")
    }

    // -- structure -----------------------------------------------------------------------------------------------

    /// A stream of rows the data pipeline feeds; the same name gives the same stream.
    pub fn rows(&mut self, name: &str) -> Result<Rows> {
        self.calls += 1;
        self.name_ok("rows", name)?;
        if let Some(i) = self.graph.streams.iter().position(|s| s == name) {
            return Ok(Rows(i as u32));
        }
        self.graph.streams.push(name.to_owned());
        Ok(Rows(self.graph.streams.len() as u32 - 1))
    }

    /// An input of the stream.
    pub fn input(&mut self, name: &str, on: Rows, dtype: DataType, tail: &[u32]) -> Result<Value> {
        self.calls += 1;
        self.name_ok("input", name)?;
        if on.index() >= self.graph.streams.len() {
            return self.fail("input", format!("there is no stream {}", on.0), "make it with `rows` first");
        }
        let ty = Type { rows: Some(on), tail: tail.to_vec(), dtype };
        let existing =
            self.graph.nodes.iter().position(|n| matches!(&n.op, Op::Input { name: other } if other == name));
        if let Some(i) = existing {
            if self.graph.nodes[i].ty == ty {
                return Ok(Value(i as u32));
            }
            return self.fail(
                "input",
                format!("`{name}` was declared before with another type"),
                "declare each input once",
            );
        }
        self.push(Op::Input { name: name.to_owned() }, Vec::new(), ty)
    }

    /// Opens a scope; `kind` is `block` for a cut (recomputation, pipelines, roll-up) or empty.
    pub fn enter(&mut self, path: &str, kind: &str) -> Result<()> {
        self.calls += 1;
        self.name_ok("enter", path)?;
        if !matches!(kind, "" | "block") {
            return self.fail(
                "enter",
                format!("unknown scope kind `{}`", kind.escape_default()),
                "kinds are `block` and the empty text",
            );
        }
        if self.open.len() > 64 {
            return self.fail("enter", "scopes are nested more than 64 deep", "is an `exit` missing?");
        }
        let parent = &self.graph.scopes[self.current() as usize];
        let full = if parent.path.is_empty() { path.to_owned() } else { format!("{}.{path}", parent.path) };
        let mut block = parent.block;
        self.paths += full.len();
        if self.paths > MAX_PATHS {
            return self.fail("enter", "too many scopes with long names", "is a loop in the plugin unbounded?");
        }
        if kind == "block" {
            if block.is_some() {
                return self.fail(
                    "enter",
                    "a block inside a block",
                    "blocks are the cuts of the model and do not nest",
                );
            }
            block = Some(self.graph.blocks.len() as u32);
            self.graph.blocks.push(full.clone());
        }
        let index = self.graph.scopes.len() as u32;
        self.graph.scopes.push(Scope { path: full, block });
        self.open.push(index);
        Ok(())
    }

    /// Closes the innermost scope.
    pub fn exit(&mut self) -> Result<()> {
        self.calls += 1;
        if self.open.len() == 1 {
            return self.fail("exit", "no scope is open", "one `exit` for each `enter`");
        }
        self.open.pop();
        Ok(())
    }

    /// Publishes a result: `hidden`, `logits`.
    pub fn output(&mut self, name: &str, value: Value) -> Result<()> {
        self.calls += 1;
        self.name_ok("output", name)?;
        if value.index() >= self.graph.nodes.len() {
            return self.fail(
                "output",
                format!("there is no value {}", value.0),
                "values belong to the builder that made them",
            );
        }
        if self.graph.output(name).is_some() {
            return self.fail("output", format!("`{name}` was published before"), "publish each result once");
        }
        self.graph.outputs.push((name.to_owned(), value));
        Ok(())
    }

    /// The tail of a value; rows are never told.
    pub fn shape(&mut self, value: Value) -> Result<Vec<u32>> {
        self.calls += 1;
        match self.graph.nodes.get(value.index()) {
            Some(node) => Ok(node.ty.tail.clone()),
            None => self.fail(
                "shape",
                format!("there is no value {}", value.0),
                "values belong to the builder that made them",
            ),
        }
    }

    // -- parameters ----------------------------------------------------------------------------------------------

    /// Whether the checkpoint has this tensor.
    pub fn has(&mut self, name: &str) -> bool {
        self.calls += 1;
        self.checkpoint.tensor(name).is_some()
    }

    /// A checkpoint tensor of this shape; the same name gives the same parameter.
    pub fn load(&mut self, name: &str, tail: &[u32]) -> Result<Param> {
        self.calls += 1;
        self.name_ok("load", name)?;
        if let Some(&p) = self.by_name.get(name) {
            if self.graph.param(p).shape == tail {
                return Ok(p);
            }
            let before = shape_text(false, &self.graph.param(p).shape);
            return self.fail(
                "load",
                format!("`{name}` was loaded before as {before}, now as {}", shape_text(false, tail)),
                "load a tied tensor with one shape",
            );
        }
        let Some(info) = self.checkpoint.tensor(name) else {
            let near = nearest(name, self.checkpoint.0.keys().map(String::as_str)).map(str::to_owned);
            let hint = match near {
                Some(near) => format!("did you mean `{near}`? Or config.json does not belong to these weights"),
                None => "the checkpoint has no such tensor: is it complete, and of this family?".into(),
            };
            return self.fail("load", format!("the checkpoint has no tensor `{name}`"), &hint);
        };
        if info.shape.len() != tail.len() || info.shape.iter().zip(tail).any(|(&a, &b)| a != b as usize) {
            let have: Vec<u32> = info.shape.iter().map(|&n| n as u32).collect();
            return self.fail(
                "load",
                format!(
                    "`{name}` is {} in the checkpoint, the model wants {}",
                    shape_text(false, &have),
                    shape_text(false, tail)
                ),
                "config.json and the weights disagree, or the plugin reads a wrong size",
            );
        }
        if !info.dtype.is_float_weight() {
            return self.fail(
                "load",
                format!("`{name}` is stored as {}", info.dtype.name()),
                "weights must be F32, F16 or BF16; quantised checkpoints are not built yet: use the unquantised one",
            );
        }
        let param = Param(self.graph.params.len() as u32);
        self.graph.params.push(ParamInfo { name: name.to_owned(), shape: tail.to_vec(), in_checkpoint: true });
        self.by_name.insert(name.to_owned(), param);
        Ok(param)
    }

    /// A parameter as a value without rows.
    pub fn read(&mut self, param: Param) -> Result<Value> {
        self.apply(Op::Read(param), Vec::new())
    }

    // -- projections ---------------------------------------------------------------------------------------------

    /// Rows of `table` by id.
    pub fn embed(&mut self, ids: Value, table: Param) -> Result<Value> {
        self.apply(Op::Embed { table }, vec![ids])
    }

    /// x·weightᵀ + bias.
    pub fn linear(&mut self, x: Value, weight: Param, bias: Option<Param>) -> Result<Value> {
        self.apply(Op::Linear { weight, bias }, vec![x])
    }

    /// Vocabulary head. Options: `soft-cap` (number), `scale` (number on the logits).
    pub fn logits(&mut self, x: Value, table: Param, options: &Options) -> Result<Value> {
        let mut read = Reader::new(self, "logits", options);
        let (soft_cap, scale) = (read.number("soft-cap")?, read.number("scale")?.unwrap_or(1.0));
        read.done()?;
        self.apply(Op::Logits { table, scale, soft_cap }, vec![x])
    }

    // -- norms and rotation --------------------------------------------------------------------------------------

    /// RMS norm over the last axis. Option: `offset`, added to the weight (Gemma: 1).
    pub fn rms_norm(&mut self, x: Value, weight: Option<Param>, eps: f32, options: &Options) -> Result<Value> {
        let mut read = Reader::new(self, "rms-norm", options);
        let offset = read.number("offset")?.unwrap_or(0.0) as f32;
        read.done()?;
        self.eps_ok("rms-norm", eps)?;
        self.apply(Op::RmsNorm { weight, eps, offset }, vec![x])
    }

    /// Layer norm over the last axis.
    pub fn layer_norm(&mut self, x: Value, weight: Option<Param>, bias: Option<Param>, eps: f32) -> Result<Value> {
        self.eps_ok("layer-norm", eps)?;
        self.apply(Op::LayerNorm { weight, bias, eps }, vec![x])
    }

    /// x / sqrt(sum x² + eps) over the last axis.
    pub fn l2_norm(&mut self, x: Value, eps: f32) -> Result<Value> {
        self.eps_ok("l2-norm", eps)?;
        self.apply(Op::L2Norm { eps }, vec![x])
    }

    fn eps_ok(&self, op: &str, eps: f32) -> Result<()> {
        if eps.is_finite() && eps >= 0.0 {
            Ok(())
        } else {
            self.fail(op, format!("eps is {eps}"), "a small number such as 1e-6")
        }
    }

    /// Softmax over the last axis.
    pub fn softmax(&mut self, x: Value) -> Result<Value> {
        self.apply(Op::Softmax, vec![x])
    }

    /// Rotary embedding of the first `dims` of the last axis. Options: `interleaved`, `scaling` and its numbers.
    pub fn rope(&mut self, x: Value, positions: Value, dims: u32, theta: f64, options: &Options) -> Result<Value> {
        let mut read = Reader::new(self, "rope", options);
        let interleaved = read.flag("interleaved")?.unwrap_or(false);
        let scaling = rope_scaling(&mut read)?;
        read.done()?;
        if !(theta.is_finite() && theta > 1.0) {
            return self.fail("rope", format!("theta is {theta}"), "the rotary base, such as 10000");
        }
        let frequencies = RopeFrequencies { theta, scaling };
        self.apply(Op::Rope { dims, interleaved, frequencies }, vec![x, positions])
    }

    // -- attention -----------------------------------------------------------------------------------------------

    fn mask(&mut self, rule: MaskRule) -> Mask {
        self.calls += 1;
        let index = self.masks.iter().position(|m| *m == rule).unwrap_or_else(|| {
            self.masks.push(rule);
            self.masks.len() - 1
        });
        Mask(index as u32)
    }

    /// Row i sees rows j <= i of its sequence.
    pub fn mask_causal(&mut self) -> Mask {
        self.mask(MaskRule::Causal)
    }

    /// Every row of the sequence is seen.
    pub fn mask_all(&mut self) -> Mask {
        self.mask(MaskRule::All)
    }

    /// Row i sees rows i-left <= j <= i+right.
    pub fn mask_window(&mut self, left: u32, right: u32) -> Mask {
        self.mask(MaskRule::Window { left, right })
    }

    /// Grouped-query attention. Option: `soft-cap` (cap * tanh(score / cap) before the softmax).
    pub fn attention(
        &mut self,
        q: Value,
        k: Value,
        v: Value,
        mask: Mask,
        scale: f32,
        options: &Options,
    ) -> Result<Value> {
        let mut read = Reader::new(self, "attention", options);
        let soft_cap = read.number("soft-cap")?.map(|n| n as f32);
        read.done()?;
        let Some(&mask) = self.masks.get(mask.index()) else {
            return self.fail(
                "attention",
                format!("there is no mask {}", mask.0),
                "masks belong to the builder that made them",
            );
        };
        if !scale.is_finite() {
            return self.fail("attention", format!("scale is {scale}"), "usually 1 / sqrt(head size)");
        }
        self.apply(Op::Attention { mask, scale, soft_cap }, vec![q, k, v])
    }

    // -- tails ---------------------------------------------------------------------------------------------------

    /// A constant.
    pub fn scalar(&mut self, x: f64) -> Result<Value> {
        if !x.is_finite() {
            return self.fail("scalar", format!("{x} is not a finite number"), "");
        }
        self.apply(Op::Scalar(x), Vec::new())
    }

    fn unary_named(&self, op: &str, name: &str) -> Result<Unary> {
        let known = || Unary::ALL.iter().map(|(n, _)| *n);
        Unary::parse(name).ok_or_else(|| {
            let list = known().collect::<Vec<_>>().join(", ");
            let hint = nearest(name, known())
                .map_or(format!("known: {list}"), |n| format!("did you mean `{n}`? Known: {list}"));
            self.at(op, BuildError::new(format!("unknown function `{}`", name.escape_default())).hint(hint))
        })
    }

    /// A pointwise function by name.
    pub fn unary(&mut self, name: &str, x: Value) -> Result<Value> {
        let op = self.unary_named("unary", name)?;
        self.apply(Op::Unary(op), vec![x])
    }

    /// A pointwise function of two operands by name.
    pub fn binary(&mut self, name: &str, a: Value, b: Value) -> Result<Value> {
        let Some(op) = Binary::parse(name) else {
            let list = Binary::ALL.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
            return self.fail(
                "binary",
                format!("unknown function `{}`", name.escape_default()),
                &format!("known: {list}"),
            );
        };
        self.apply(Op::Binary(op), vec![a, b])
    }

    /// activation(gate) * up.
    pub fn glu(&mut self, gate: Value, up: Value, activation: &str) -> Result<Value> {
        let op = self.unary_named("glu", activation)?;
        self.apply(Op::Glu(op), vec![gate, up])
    }

    /// The same elements of each row in another tail.
    pub fn reshape(&mut self, x: Value, tail: &[u32]) -> Result<Value> {
        self.calls += 1;
        let Some(node) = self.graph.nodes.get(x.index()) else {
            return self.fail(
                "reshape",
                format!("there is no value {}", x.0),
                "values belong to the builder that made them",
            );
        };
        let elements = tail.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::from(d)));
        if elements != Some(node.ty.width() as u64) {
            let from = shape_text(node.ty.rows.is_some(), &node.ty.tail);
            return self.fail(
                "reshape",
                format!("{from} does not have the elements of {}", shape_text(node.ty.rows.is_some(), tail)),
                "the product of the tail must stay",
            );
        }
        let ty = Type { rows: node.ty.rows, tail: tail.to_vec(), dtype: node.ty.dtype };
        self.push(Op::Reshape, vec![x], ty)
    }

    /// Parts of tail axis `axis`; the sizes must add up to it.
    pub fn split(&mut self, x: Value, axis: u32, sizes: &[u32]) -> Result<Vec<Value>> {
        let tail = self.shape(x)?;
        let total: u64 = sizes.iter().map(|&s| u64::from(s)).sum();
        if tail.get(axis as usize).is_none_or(|&n| u64::from(n) != total) {
            return self.fail(
                "split",
                format!("sizes {sizes:?} do not add up to tail axis {axis} of {}", shape_text(true, &tail)),
                "tail axes count from 0 after the rows",
            );
        }
        let mut start = 0;
        sizes
            .iter()
            .map(|&size| {
                let part = self.apply(Op::Slice { axis, start, end: start + size }, vec![x]);
                start += size;
                part
            })
            .collect()
    }

    /// Joins along tail axis `axis`.
    pub fn concat(&mut self, xs: &[Value], axis: u32) -> Result<Value> {
        self.apply(Op::Concat { axis }, xs.to_vec())
    }

    /// Whether this host has the op of this contract name.
    pub fn supports(&mut self, op: &str) -> bool {
        self.calls += 1;
        const OPS: &[&str] = &[
            "read",
            "embed",
            "linear",
            "logits",
            "rms-norm",
            "layer-norm",
            "l2-norm",
            "softmax",
            "rope",
            "mask-causal",
            "mask-all",
            "mask-window",
            "attention",
            "scalar",
            "unary",
            "binary",
            "glu",
            "reshape",
            "split",
            "concat",
        ];
        OPS.contains(&op)
    }

    /// Ends the trace.
    ///
    /// # Errors
    /// When a scope is still open, nothing was published, or the graph breaks a rule of [`crate::verify`].
    pub fn finish(self) -> Result<Graph> {
        if self.open.len() > 1 {
            return self.fail("finish", "a scope is still open", "one `exit` for each `enter`");
        }
        if self.graph.outputs.is_empty() {
            return self.fail("finish", "the model publishes no output", "call `output(\"logits\", ...)`");
        }
        crate::verify::verify(&self.graph)?;
        Ok(self.graph)
    }
}
