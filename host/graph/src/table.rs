//! The op table of the documentation, from one static list.

use std::fmt::Write;

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpRow {
    /// [`crate::ir::Op::name`].
    pub name: &'static str,
    /// Operands with their shapes, and the result's.
    pub operands: &'static str,
    /// Options in the spelling of the text form; those with `?` may be absent.
    pub options: &'static str,
    /// What it computes; [`crate::interpret::ops`] has it in code.
    pub meaning: &'static str,
    /// What a gradient reaches.
    pub gradient: &'static str,
}

const fn row(
    name: &'static str,
    operands: &'static str,
    options: &'static str,
    meaning: &'static str,
    gradient: &'static str,
) -> OpRow {
    OpRow { name, operands, options, meaning, gradient }
}

/// Every op, in the order of [`crate::ir::Op`].
pub const OPS: &[OpRow] = &[
    row("input", "→ [r, ...]", "name", "what the data pipeline feeds: `tokens`, `positions`", "none"),
    row("scalar", "→ []", "value", "a constant", "none"),
    row("read", "→ the parameter's shape", "param", "a parameter as a value without rows", "parameter"),
    row("embed", "ids [r] int32 → [r, width]", "table", "`y[r] = table[ids[r]]`", "table"),
    row(
        "linear",
        "x [r, ..., in] → [r, ..., out]",
        "weight, bias?",
        "`y = x·weightᵀ + bias`, weight [out, in]",
        "x, weight, bias",
    ),
    row(
        "linear-add",
        "base [r, ..., out], x [r, ..., in] → [r, ..., out]",
        "weight, scale",
        "`y = base + scale·(x·weightᵀ)`; only rewrites make it",
        "base, x, weight",
    ),
    row(
        "logits",
        "x [r, width] → [r, vocabulary]",
        "table, scale, soft-cap?",
        "`z = scale·(x·tableᵀ)`, then `cap·tanh(z / cap)` if capped",
        "x, table",
    ),
    row(
        "rms-norm",
        "x [..., n] → same",
        "weight?, eps, offset",
        "`x / √(mean(x²) + eps) · (weight + offset)` over the last axis",
        "x, weight",
    ),
    row(
        "layer-norm",
        "x [..., n] → same",
        "weight?, bias?, eps",
        "`(x - mean) / √(variance + eps) · weight + bias` over the last axis",
        "x, weight, bias",
    ),
    row("l2-norm", "x [..., n] → same", "eps", "`x / √(Σ x² + eps)` over the last axis", "x"),
    row("softmax", "x [..., n] → same", "", "`exp(x) / Σ exp(x)` over the last axis", "x"),
    row(
        "rope",
        "x [r, heads, d], positions [r] int32 → as x",
        "dims, interleaved, theta, scaling (with its numbers)",
        "rotates pair i of the first `dims` of the last axis by `position·frequency[i]`: `(i, i + dims/2)`, or `(2i, 2i + 1)` if interleaved",
        "x",
    ),
    row(
        "attention",
        "q [r, hq, d], k [r, hk, d], v [r, hk, dv] → [r, hq, dv]",
        "mask (window: left, right), scale, soft-cap?",
        "`softmax(scale·q·kᵀ)·v` over the rows of the own sequence that the mask shows; query head h reads key head `h / (hq / hk)`",
        "q, k, v",
    ),
    row(
        "unary",
        "x → same",
        "function",
        "silu, gelu (with the normal distribution function), gelu-tanh, relu, sigmoid, tanh, exp, square, sqrt, rsqrt, neg, log, softplus, relu2 (`max(x, 0)²`)",
        "x",
    ),
    row(
        "binary",
        "a, b → the larger",
        "function",
        "add, sub, mul, div, maximum, minimum. The smaller operand repeats: without rows where its tail ends the other's, with rows where its tail, less ones at its end, begins the other's",
        "a, b",
    ),
    row("glu", "gate, up → same", "function", "`function(gate)·up`", "gate, up"),
    row("reshape", "x → the declared tail", "", "the same elements of each row in another tail", "x"),
    row("slice", "x → axis shorter", "axis, start, end", "elements start..end of tail axis `axis`", "x"),
    row("concat", "x, ... → axis longer", "axis", "the operands one after another along tail axis `axis`", "each x"),
    row(
        "dropout",
        "x → same",
        "probability, salt",
        "while training: `x / (1 - probability)` where the element is kept, else 0; a pure function of the step's key, salt and element",
        "x",
    ),
];

/// The table in Markdown.
pub fn op_table() -> String {
    let mut text =
        String::from("| op | operands → result | options | meaning | gradient for |\n|---|---|---|---|---|\n");
    for op in OPS {
        let OpRow { name, operands, options, meaning, gradient } = op;
        writeln!(text, "| `{name}` | {operands} | {options} | {meaning} | {gradient} |")
            .expect("writing to a String cannot fail");
    }
    text
}
