//! The shape rule of every op: from operand types and parameter shapes to the result's type, or what is wrong.
//!
//! The builder calls it for each new node and the verifier for each node of a graph, so no pass can make a node that
//! a plugin could not.

use crate::error::{BuildError, shape_text};
use crate::ir::{DataType, Graph, Op, Rows, Type};

/// How the second operand of a pointwise op meets the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broadcast {
    /// Same rows, same tail.
    Same,
    /// The smaller operand has no rows and its tail is a suffix of the other's (a scalar is the empty suffix): it
    /// repeats for every row and leading index.
    Repeat,
    /// The smaller operand has the same rows, and its tail is a prefix of the other's up to trailing ones: each of
    /// its elements spans a block of the other.
    Span,
}

/// Which operand is larger and how the smaller one broadcasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BroadcastRule {
    pub kind: Broadcast,
    /// The first operand is the smaller one.
    pub swapped: bool,
}

/// How `a` and `b` broadcast.
///
/// # Errors
/// When their shapes do not fit any rule of [`Broadcast`].
pub fn broadcast(a: &Type, b: &Type) -> Result<BroadcastRule, BuildError> {
    let one_way = |big: &Type, small: &Type| -> Option<Broadcast> {
        if big.rows == small.rows && big.tail == small.tail {
            return Some(Broadcast::Same);
        }
        if small.rows.is_none() && (small.width() == 1 || big.tail.ends_with(&small.tail)) {
            return Some(Broadcast::Repeat);
        }
        let core = {
            let ones = small.tail.iter().rev().take_while(|&&n| n == 1).count();
            &small.tail[..small.tail.len() - ones]
        };
        (big.rows == small.rows && big.tail.len() >= small.tail.len() && big.tail.starts_with(core))
            .then_some(Broadcast::Span)
    };
    if let Some(kind) = one_way(a, b) {
        return Ok(BroadcastRule { kind, swapped: false });
    }
    if let Some(kind) = one_way(b, a) {
        return Ok(BroadcastRule { kind, swapped: true });
    }
    Err(BuildError::new("the two shapes do not broadcast")
        .hint("shapes must be equal, or one operand a parameter or scalar whose tail ends the other's, or one operand end in ones"))
}

/// The type of `op` applied to operands of these types, where `graph` gives parameter shapes.
///
/// # Errors
/// When the op does not take these operands; scope and op name are the caller's to add.
pub fn infer(graph: &Graph, op: &Op, inputs: &[&Type]) -> Result<Type, BuildError> {
    infer_with(graph, op, inputs).map_err(|mut error| {
        for (i, ty) in inputs.iter().enumerate() {
            let name = operand_name(op, i);
            error.operands.push(format!("{name} {}", type_text(ty)));
        }
        for p in op.params() {
            let info = graph.param(p);
            error.operands.push(format!("`{}` {}", info.name, shape_text(false, &info.shape)));
        }
        error
    })
}

fn operand_name(op: &Op, index: usize) -> &'static str {
    let names: &[&str] = match op {
        Op::Attention { .. } => &["q", "k", "v"],
        Op::Rope { .. } => &["x", "positions"],
        Op::Glu(_) => &["gate", "up"],
        Op::Binary(_) => &["a", "b"],
        Op::LinearAdd { .. } => &["base", "x"],
        Op::Embed { .. } => &["ids"],
        _ => &["x"],
    };
    names.get(index).copied().unwrap_or("x")
}

fn type_text(ty: &Type) -> String {
    let shape = shape_text(ty.rows.is_some(), &ty.tail);
    if ty.dtype == DataType::Compute { shape } else { format!("{shape} {}", ty.dtype.name()) }
}

fn need(condition: bool, message: &str, hint: &str) -> Result<(), BuildError> {
    if condition { Ok(()) } else { Err(BuildError::new(message).hint(hint)) }
}

fn float(ty: &Type, what: &str) -> Result<(), BuildError> {
    need(
        matches!(ty.dtype, DataType::Compute | DataType::Float32),
        &format!("{what} must hold floating-point numbers"),
        "integers can be embedded or used as positions, nothing else",
    )
}

fn with_rows(ty: &Type, what: &str) -> Result<Rows, BuildError> {
    ty.rows.ok_or_else(|| {
        BuildError::new(format!("{what} must have rows"))
            .hint("parameters and scalars have none; use `embed` or a `linear` output")
    })
}

fn vector(graph: &Graph, param: Option<crate::ir::Param>, length: usize, what: &str) -> Result<(), BuildError> {
    if let Some(p) = param {
        need(
            graph.param(p).shape == [length as u32],
            &format!("the {what} must have shape [{length}]"),
            "it has one number for each element of the last axis",
        )?;
    }
    Ok(())
}

fn infer_with(graph: &Graph, op: &Op, inputs: &[&Type]) -> Result<Type, BuildError> {
    let count = match op {
        Op::Input { .. } | Op::Scalar(_) | Op::Read(_) => 0,
        Op::Rope { .. } | Op::Binary(_) | Op::Glu(_) | Op::LinearAdd { .. } => 2,
        Op::Attention { .. } => 3,
        Op::Concat { .. } => inputs.len().max(1),
        _ => 1,
    };
    need(
        inputs.len() == count,
        &format!("takes {count} operands, got {}", inputs.len()),
        "see the contract's signature",
    )?;
    let compute = |rows, tail| Type { rows, tail, dtype: DataType::Compute };
    match op {
        Op::Input { .. } | Op::Reshape => Err(BuildError::new("has no shape rule of its own; its type is declared")),
        Op::Scalar(_) => Ok(compute(None, Vec::new())),
        Op::Read(p) => Ok(compute(None, graph.param(*p).shape.clone())),
        Op::Embed { table } => {
            let shape = &graph.param(*table).shape;
            need(
                inputs[0].dtype == DataType::Int32 && inputs[0].tail.is_empty(),
                "ids must be [rows] int32",
                "pass the `tokens` input",
            )?;
            need(shape.len() == 2, "the table must be [vocabulary, width]", "load it with two axes")?;
            Ok(compute(Some(with_rows(inputs[0], "ids")?), vec![shape[1]]))
        }
        Op::Linear { weight, bias } => linear(graph, inputs[0], *weight, *bias),
        Op::LinearAdd { weight, .. } => {
            let ty = linear(graph, inputs[1], *weight, None)?;
            need(ty == *inputs[0], "the base and the product must have the same shape", "")?;
            Ok(ty)
        }
        Op::Logits { table, .. } => {
            need(inputs[0].tail.len() == 1, "x must be [rows, width]", "reshape it first")?;
            linear(graph, inputs[0], *table, None)
        }
        Op::RmsNorm { weight, .. } => {
            normalised(inputs[0])?;
            vector(graph, *weight, inputs[0].last(), "weight")?;
            Ok(inputs[0].clone())
        }
        Op::LayerNorm { weight, bias, .. } => {
            normalised(inputs[0])?;
            vector(graph, *weight, inputs[0].last(), "weight")?;
            vector(graph, *bias, inputs[0].last(), "bias")?;
            Ok(inputs[0].clone())
        }
        Op::L2Norm { .. } | Op::Softmax => {
            normalised(inputs[0])?;
            Ok(inputs[0].clone())
        }
        Op::Rope { dims, .. } => rope(inputs[0], inputs[1], *dims),
        Op::Attention { .. } => attention(inputs[0], inputs[1], inputs[2]),
        Op::Unary(_) | Op::Dropout { .. } => {
            float(inputs[0], "x")?;
            Ok(inputs[0].clone())
        }
        Op::Binary(_) => {
            float(inputs[0], "a")?;
            float(inputs[1], "b")?;
            let rule = broadcast(inputs[0], inputs[1])?;
            Ok(if rule.swapped { inputs[1].clone() } else { inputs[0].clone() })
        }
        Op::Glu(_) => {
            float(inputs[0], "gate")?;
            need(inputs[0] == inputs[1], "gate and up must have the same shape", "")?;
            Ok(inputs[0].clone())
        }
        Op::Slice { axis, start, end } => {
            let mut ty = inputs[0].clone();
            let size = ty.tail.get(*axis as usize).copied();
            need(
                size.is_some_and(|n| start < end && *end <= n),
                &format!("elements {start}..{end} of tail axis {axis} do not exist"),
                "tail axes count from 0 after the rows",
            )?;
            ty.tail[*axis as usize] = end - start;
            Ok(ty)
        }
        Op::Concat { axis } => {
            let mut ty = (*inputs.first().ok_or_else(|| BuildError::new("needs at least one operand"))?).clone();
            let axis = *axis as usize;
            need(
                axis < ty.tail.len(),
                &format!("there is no tail axis {axis}"),
                "tail axes count from 0 after the rows",
            )?;
            let mut total: u64 = 0;
            for other in inputs {
                let same = other.rows == ty.rows
                    && other.dtype == ty.dtype
                    && other.tail.len() == ty.tail.len()
                    && other.tail.iter().zip(&ty.tail).enumerate().all(|(i, (a, b))| i == axis || a == b);
                need(same, "all operands must agree but for the joined axis", "")?;
                total += u64::from(other.tail[axis]);
            }
            ty.tail[axis] = u32::try_from(total).map_err(|_| BuildError::new("the joined axis is too long"))?;
            Ok(ty)
        }
    }
}

fn normalised(x: &Type) -> Result<(), BuildError> {
    float(x, "x")?;
    need(x.last() > 0 && !x.tail.is_empty(), "x needs a last axis to work along", "a [rows] value has none")
}

fn linear(
    graph: &Graph,
    x: &Type,
    weight: crate::ir::Param,
    bias: Option<crate::ir::Param>,
) -> Result<Type, BuildError> {
    float(x, "x")?;
    let rows = with_rows(x, "x")?;
    let shape = &graph.param(weight).shape;
    need(shape.len() == 2, "the weight must be [out, in]", "load it with two axes, as the checkpoint has it")?;
    need(
        !x.tail.is_empty() && x.last() == shape[1] as usize,
        "the last axis of x must equal the weight's second axis",
        "checkpoint matrices are [out, in]; a wrong size in config.json shows here too",
    )?;
    vector(graph, bias, shape[0] as usize, "bias")?;
    let mut tail = x.tail.clone();
    if let Some(last) = tail.last_mut() {
        *last = shape[0];
    }
    Ok(Type { rows: Some(rows), tail, dtype: DataType::Compute })
}

fn rope(x: &Type, positions: &Type, dims: u32) -> Result<Type, BuildError> {
    float(x, "x")?;
    need(x.tail.len() == 2, "x must be [rows, heads, head size]", "reshape the projection first")?;
    need(
        positions.dtype == DataType::Int32 && positions.tail.is_empty() && positions.rows == x.rows,
        "positions must be [rows] int32 on the same stream as x",
        "pass the `positions` input",
    )?;
    need(
        dims >= 2 && dims.is_multiple_of(2) && dims as usize <= x.last(),
        &format!("cannot rotate {dims} elements"),
        "an even number of elements, at most the head size",
    )?;
    Ok(x.clone())
}

fn attention(q: &Type, k: &Type, v: &Type) -> Result<Type, BuildError> {
    for (ty, name) in [(q, "q"), (k, "k"), (v, "v")] {
        float(ty, name)?;
        need(ty.tail.len() == 2, &format!("{name} must be [rows, heads, head size]"), "reshape the projection first")?;
    }
    need(q.rows.is_some() && q.rows == k.rows && k.rows == v.rows, "q, k and v must be on one stream", "")?;
    need(q.tail[1] == k.tail[1], "q and k must have the same head size", "check head_dim in config.json")?;
    need(k.tail[0] == v.tail[0], "k and v must have the same number of heads", "")?;
    need(
        k.tail[0] > 0 && q.tail[0].is_multiple_of(k.tail[0]),
        "the number of query heads must be a multiple of the number of key heads",
        "check num_attention_heads and num_key_value_heads in config.json",
    )?;
    Ok(Type { rows: q.rows, tail: vec![q.tail[0], v.tail[1]], dtype: DataType::Compute })
}
