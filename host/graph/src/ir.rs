//! The graph: what a model computes for whole sequences that start from nothing.
//!
//! All activations are `[rows, ...tail]`: rows are the tokens of all sequences of a step, end to end, and the
//! only symbolic dimension. The graph knows no batch, no cache, no device and no storage format.

use crate::rope::RopeFrequencies;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);
        impl $name {
            /// Position in its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(/** One node of the graph and the value it makes. */ Value);
id!(/** One logical checkpoint tensor; using it twice ties it. */ Param);
id!(/** A ragged row axis: `text`, later `patches`, `frames`. */ Rows);
id!(/** A rule for which rows of its own sequence a row may attend to. */ Mask);

/// Element type of a value. Storage formats never show here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// Whatever the host runs activations in.
    Compute,
    Float32,
    Int32,
    Boolean,
}

impl DataType {
    /// Name in the text form and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Float32 => "float32",
            Self::Int32 => "int32",
            Self::Boolean => "boolean",
        }
    }
}

/// Shape and element type of a value: `[rows?, ...tail]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Type {
    /// `None` for parameters and scalars, which have no row axis.
    pub rows: Option<Rows>,
    pub tail: Vec<u32>,
    pub dtype: DataType,
}

impl Type {
    /// Elements of one row; saturates, since tails may come from a hostile text or plugin.
    pub fn width(&self) -> usize {
        elements(&self.tail)
    }

    /// The last axis, 1 when the tail is empty.
    pub fn last(&self) -> usize {
        self.tail.last().map_or(1, |&n| n as usize)
    }
}

fn elements(axes: &[u32]) -> usize {
    axes.iter().fold(1, |product, &n| product.saturating_mul(n as usize))
}

/// Which rows of its own sequence a row may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaskRule {
    All,
    /// Row i sees rows j <= i.
    Causal,
    /// Row i sees rows i-left <= j <= i+right.
    Window {
        left: u32,
        right: u32,
    },
}

/// Pointwise functions of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unary {
    Silu,
    Gelu,
    GeluTanh,
    Relu,
    Sigmoid,
    Tanh,
    Exp,
    Square,
    Sqrt,
    Rsqrt,
    Neg,
    Log,
    Softplus,
    Relu2,
}

impl Unary {
    /// All of them with the names plugins use.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("silu", Self::Silu),
        ("gelu", Self::Gelu),
        ("gelu-tanh", Self::GeluTanh),
        ("relu", Self::Relu),
        ("sigmoid", Self::Sigmoid),
        ("tanh", Self::Tanh),
        ("exp", Self::Exp),
        ("square", Self::Square),
        ("sqrt", Self::Sqrt),
        ("rsqrt", Self::Rsqrt),
        ("neg", Self::Neg),
        ("log", Self::Log),
        ("softplus", Self::Softplus),
        ("relu2", Self::Relu2),
    ];

    /// Name in the contract and the text form.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, op)| *op == self).map_or("?", |(name, _)| name)
    }

    /// The op of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, op)| *op)
    }
}

/// Pointwise functions of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Maximum,
    Minimum,
}

impl Binary {
    /// All of them with the names plugins use.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("add", Self::Add),
        ("sub", Self::Sub),
        ("mul", Self::Mul),
        ("div", Self::Div),
        ("maximum", Self::Maximum),
        ("minimum", Self::Minimum),
    ];

    /// Name in the contract and the text form.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, op)| *op == self).map_or("?", |(name, _)| name)
    }

    /// The op of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, op)| *op)
    }
}

/// What a node does. Shape rules are in [`crate::shape`], meanings in [`crate::interpret`], gradients in
/// [`crate::gradient`]: an op exists when it stands in all three.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A stream's input: `tokens`, `positions`.
    Input {
        name: String,
    },
    /// A constant without rows, tail `[]`.
    Scalar(f64),
    /// A parameter as a value without rows.
    Read(Param),
    /// ids `[r]` int32, table `[vocabulary, width]` -> `[r, width]`.
    Embed {
        table: Param,
    },
    /// x `[r, ..., in]`, weight `[out, in]`, bias `[out]` -> `[r, ..., out]`.
    Linear {
        weight: Param,
        bias: Option<Param>,
    },
    /// `(base, x)`: base + scale * x·weightᵀ; what the LoRA rewrite adds behind a `Linear`.
    LinearAdd {
        weight: Param,
        scale: f64,
    },
    /// Vocabulary head: `scale * x·tableᵀ`, then `cap * tanh(. / cap)` if capped.
    Logits {
        table: Param,
        scale: f64,
        soft_cap: Option<f64>,
    },
    /// x / sqrt(mean(x²) + eps) * (weight + offset) over the last axis; statistics in f32.
    RmsNorm {
        weight: Option<Param>,
        eps: f32,
        offset: f32,
    },
    /// (x - mean) / sqrt(variance + eps) * weight + bias over the last axis.
    LayerNorm {
        weight: Option<Param>,
        bias: Option<Param>,
        eps: f32,
    },
    /// x / sqrt(sum(x²) + eps) over the last axis.
    L2Norm {
        eps: f32,
    },
    /// Over the last axis, in f32.
    Softmax,
    /// `(x [r, heads, d], positions [r])`: rotates the first `dims` of the last axis.
    Rope {
        dims: u32,
        interleaved: bool,
        frequencies: RopeFrequencies,
    },
    /// `(q [r, hq, d], k [r, hk, d], v [r, hk, dv])` -> `[r, hq, dv]`; hk divides hq.
    Attention {
        mask: MaskRule,
        scale: f32,
        soft_cap: Option<f32>,
    },
    Unary(Unary),
    /// Tails align on the right; see [`crate::shape::Broadcast`] for what is allowed.
    Binary(Binary),
    /// `(gate, up)`: activation(gate) * up.
    Glu(Unary),
    /// Same elements of a row in another tail.
    Reshape,
    /// Elements `start..end` of tail axis `axis`.
    Slice {
        axis: u32,
        start: u32,
        end: u32,
    },
    Concat {
        axis: u32,
    },
    /// Keeps an element with probability 1-p and scales it by 1/(1-p); only while training.
    /// `salt` tells one dropout of the graph from another.
    Dropout {
        probability: f64,
        salt: u64,
    },
}

/// One node: an op on earlier values.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub op: Op,
    pub inputs: Vec<Value>,
    pub ty: Type,
    /// Index into [`Graph::scopes`].
    pub scope: u32,
}

/// A place in the model: `model.layers.0.self_attn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub path: String,
    /// Index of the block this scope lies in, if any.
    pub block: Option<u32>,
}

/// A logical parameter under its checkpoint name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamInfo {
    pub name: String,
    pub shape: Vec<u32>,
    /// `false` for parameters that a rewrite added (LoRA): the checkpoint does not have them.
    pub in_checkpoint: bool,
}

impl ParamInfo {
    /// Number of elements; saturates.
    pub fn elements(&self) -> usize {
        elements(&self.shape)
    }
}

/// A traced model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub params: Vec<ParamInfo>,
    /// Names of the row streams.
    pub streams: Vec<String>,
    pub scopes: Vec<Scope>,
    /// Paths of the blocks, in order: the cuts for recomputation and roll-up.
    pub blocks: Vec<String>,
    /// Named results: `hidden`, `logits`.
    pub outputs: Vec<(String, Value)>,
}

impl Graph {
    /// The node that makes `value`.
    pub fn node(&self, value: Value) -> &Node {
        &self.nodes[value.index()]
    }

    /// The type of `value`.
    pub fn ty(&self, value: Value) -> &Type {
        &self.nodes[value.index()].ty
    }

    /// The parameter's name and shape.
    pub fn param(&self, param: Param) -> &ParamInfo {
        &self.params[param.index()]
    }

    /// The value published under `name`.
    pub fn output(&self, name: &str) -> Option<Value> {
        self.outputs.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }

    /// The block a node lies in.
    pub fn block_of(&self, value: Value) -> Option<u32> {
        self.scopes[self.node(value).scope as usize].block
    }

    /// Path of the scope a node was made in.
    pub fn scope_path(&self, value: Value) -> &str {
        &self.scopes[self.node(value).scope as usize].path
    }
}

impl Op {
    /// Name in the text form, in messages and in the contract.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::Scalar(_) => "scalar",
            Self::Read(_) => "read",
            Self::Embed { .. } => "embed",
            Self::Linear { .. } => "linear",
            Self::LinearAdd { .. } => "linear-add",
            Self::Logits { .. } => "logits",
            Self::RmsNorm { .. } => "rms-norm",
            Self::LayerNorm { .. } => "layer-norm",
            Self::L2Norm { .. } => "l2-norm",
            Self::Softmax => "softmax",
            Self::Rope { .. } => "rope",
            Self::Attention { .. } => "attention",
            Self::Unary(_) => "unary",
            Self::Binary(_) => "binary",
            Self::Glu(_) => "glu",
            Self::Reshape => "reshape",
            Self::Slice { .. } => "slice",
            Self::Concat { .. } => "concat",
            Self::Dropout { .. } => "dropout",
        }
    }

    /// The parameters the op uses, in a fixed order.
    pub fn params(&self) -> Vec<Param> {
        match self {
            Self::Read(p) | Self::Embed { table: p } | Self::Logits { table: p, .. } => vec![*p],
            Self::LinearAdd { weight, .. } => vec![*weight],
            Self::Linear { weight, bias } => std::iter::once(*weight).chain(*bias).collect(),
            Self::RmsNorm { weight, .. } => weight.iter().copied().collect(),
            Self::LayerNorm { weight, bias, .. } => weight.iter().chain(bias).copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Replaces the parameters, given in the order of [`Op::params`].
    pub fn map_params(&mut self, mut map: impl FnMut(Param) -> Param) {
        match self {
            Self::Read(p) | Self::Embed { table: p } | Self::Logits { table: p, .. } => *p = map(*p),
            Self::LinearAdd { weight, .. } => *weight = map(*weight),
            Self::Linear { weight, bias } => {
                *weight = map(*weight);
                *bias = bias.map(&mut map);
            }
            Self::RmsNorm { weight, .. } => *weight = weight.map(&mut map),
            Self::LayerNorm { weight, bias, .. } => {
                *weight = weight.map(&mut map);
                *bias = bias.map(&mut map);
            }
            _ => {}
        }
    }
}
