//! The text form of a graph: what is cached, diffed, kept as golden files and attached to bug reports.
//!
//! A line says one thing. Tables first (streams, blocks, scopes, parameters), then the nodes in order, under the scope
//! they were made in, then the outputs:
//!
//! ```text
//! swift-graph 1
//! stream text
//! block b0 model.layers.0
//! scope s0 ""
//! scope s1 model.layers.0 block=b0
//! param model.embed_tokens.weight [32, 8]
//! param model.norm.weight [8]
//! in s0  # ""
//!   %0 = input name=tokens : [text] int32
//!   %1 = embed %0 table=model.embed_tokens.weight : [text, 8]
//! in s1  # model.layers.0
//!   %2 = rms-norm %1 weight=model.norm.weight eps=1e-6 offset=0.0 : [text, 8]
//! output hidden %2
//! ```
//!
//! A type is `[stream?, ...tail]` and an element type unless that is `compute`. Names that are no plain words are quoted
//! with the escapes `\"`, `\\` and `\u{...}`. Numbers are the shortest that read back to the same bits. `#` starts a
//! comment. `parse(print(graph))` is the graph. The version changes when an old text would be read differently.

use std::fmt::Write;

use crate::error::BuildError;
use crate::ir::{DataType, Graph, MaskRule, Op, Param, Type};
use crate::rope::RopeScaling;

mod parse;
mod read;

pub use parse::parse;

/// The version this build writes and reads.
pub const VERSION: u32 = 1;

/// A text that is no graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Lines and columns count from 1; columns count characters.
    #[error("line {line}, column {column}: expected {expected}, found {found}")]
    Syntax { line: usize, column: usize, expected: String, found: String },
    #[error(
        "this graph text has version {found}, this build reads version {VERSION}; hint: print the graph again with this build"
    )]
    Version { found: String },
    #[error("the text reads well, but its graph is not valid: {0}")]
    Invalid(#[from] BuildError),
}

/// The text form; [`parse`] gives the same graph back.
pub fn print(graph: &Graph) -> String {
    let mut text = format!("swift-graph {VERSION}\n");
    write_graph(&mut text, graph).expect("writing to a String cannot fail");
    text
}

fn write_graph(text: &mut String, graph: &Graph) -> std::fmt::Result {
    for stream in &graph.streams {
        writeln!(text, "stream {}", quoted(stream))?;
    }
    for (index, block) in graph.blocks.iter().enumerate() {
        writeln!(text, "block b{index} {}", quoted(block))?;
    }
    for (index, scope) in graph.scopes.iter().enumerate() {
        let block = scope.block.map_or_else(String::new, |b| format!(" block=b{b}"));
        writeln!(text, "scope s{index} {}{block}", quoted(&scope.path))?;
    }
    for param in &graph.params {
        let added = if param.in_checkpoint { "" } else { " added" };
        writeln!(text, "param {} {}{added}", quoted(&param.name), shape(None, &param.shape))?;
    }
    let mut current = None;
    for (index, node) in graph.nodes.iter().enumerate() {
        if current != Some(node.scope) {
            current = Some(node.scope);
            let path = graph.scopes.get(node.scope as usize).map_or("?", |s| s.path.as_str());
            writeln!(text, "in s{}  # {}", node.scope, quoted(path))?;
        }
        write!(text, "  %{index} = {}", node.op.name())?;
        for input in &node.inputs {
            write!(text, " %{}", input.0)?;
        }
        for (key, value) in options(&node.op, &|p| quoted(&graph.param(p).name)) {
            write!(text, " {key}={value}")?;
        }
        writeln!(text, " : {}", type_text(graph, &node.ty))?;
    }
    for (name, value) in &graph.outputs {
        writeln!(text, "output {} %{}", quoted(name), value.0)?;
    }
    Ok(())
}

/// The op's literals and parameters in the text form's order and spelling: equal exactly when the ops are equal to the
/// bit. Parameters are spelt by `param`.
pub(crate) fn options(op: &Op, param: &dyn Fn(Param) -> String) -> Vec<(&'static str, String)> {
    // `{:?}` of a float is the shortest text that reads back to the same bits.
    let mut all: Vec<(&'static str, String)> = Vec::new();
    let mut put = |key, value: String| all.push((key, value));
    match op {
        Op::Input { name } => put("name", quoted(name)),
        Op::Scalar(value) => put("value", format!("{value:?}")),
        Op::Read(p) => put("param", param(*p)),
        Op::Embed { table } => put("table", param(*table)),
        Op::Linear { weight, bias } => {
            put("weight", param(*weight));
            bias.iter().for_each(|p| put("bias", param(*p)));
        }
        Op::LinearAdd { weight, scale } => {
            put("weight", param(*weight));
            put("scale", format!("{scale:?}"));
        }
        Op::Logits { table, scale, soft_cap } => {
            put("table", param(*table));
            put("scale", format!("{scale:?}"));
            soft_cap.iter().for_each(|cap| put("soft-cap", format!("{cap:?}")));
        }
        Op::RmsNorm { weight, eps, offset } => {
            weight.iter().for_each(|p| put("weight", param(*p)));
            put("eps", format!("{eps:?}"));
            put("offset", format!("{offset:?}"));
        }
        Op::LayerNorm { weight, bias, eps } => {
            weight.iter().for_each(|p| put("weight", param(*p)));
            bias.iter().for_each(|p| put("bias", param(*p)));
            put("eps", format!("{eps:?}"));
        }
        Op::L2Norm { eps } => put("eps", format!("{eps:?}")),
        Op::Softmax | Op::Reshape => {}
        Op::Rope { dims, interleaved, frequencies } => {
            put("dims", dims.to_string());
            put("interleaved", interleaved.to_string());
            put("theta", format!("{:?}", frequencies.theta));
            scaling_options(&frequencies.scaling, &mut put);
        }
        Op::Attention { mask, scale, soft_cap } => {
            match mask {
                MaskRule::All => put("mask", "all".into()),
                MaskRule::Causal => put("mask", "causal".into()),
                MaskRule::Window { left, right } => {
                    put("mask", "window".into());
                    put("left", left.to_string());
                    put("right", right.to_string());
                }
            }
            put("scale", format!("{scale:?}"));
            soft_cap.iter().for_each(|cap| put("soft-cap", format!("{cap:?}")));
        }
        Op::Unary(function) | Op::Glu(function) => put("function", function.name().into()),
        Op::Binary(function) => put("function", function.name().into()),
        Op::Slice { axis, start, end } => {
            put("axis", axis.to_string());
            put("start", start.to_string());
            put("end", end.to_string());
        }
        Op::Concat { axis } => put("axis", axis.to_string()),
        Op::Dropout { probability, salt } => {
            put("probability", format!("{probability:?}"));
            put("salt", salt.to_string());
        }
    }
    all
}

fn scaling_options(scaling: &RopeScaling, put: &mut impl FnMut(&'static str, String)) {
    match scaling {
        RopeScaling::Default => put("scaling", "default".into()),
        RopeScaling::Linear { factor } => {
            put("scaling", "linear".into());
            put("factor", format!("{factor:?}"));
        }
        RopeScaling::Dynamic { factor, max_position } => {
            put("scaling", "dynamic".into());
            put("factor", format!("{factor:?}"));
            put("max-position", max_position.to_string());
        }
        RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_max_position } => {
            put("scaling", "llama3".into());
            put("factor", format!("{factor:?}"));
            put("low-freq-factor", format!("{low_frequency_factor:?}"));
            put("high-freq-factor", format!("{high_frequency_factor:?}"));
            put("original-max-position", original_max_position.to_string());
        }
        RopeScaling::Yarn { factor, original_max_position, beta_fast, beta_slow, attention_factor, truncate } => {
            put("scaling", "yarn".into());
            put("factor", format!("{factor:?}"));
            put("original-max-position", original_max_position.to_string());
            put("beta-fast", format!("{beta_fast:?}"));
            put("beta-slow", format!("{beta_slow:?}"));
            put("attention-factor", format!("{attention_factor:?}"));
            put("truncate", truncate.to_string());
        }
    }
}

/// `[text, 4, 32] float32`.
pub(crate) fn type_text(graph: &Graph, ty: &Type) -> String {
    let stream = ty.rows.map(|rows| graph.streams.get(rows.index()).map_or("?", String::as_str));
    let shape = shape(stream, &ty.tail);
    if ty.dtype == DataType::Compute { shape } else { format!("{shape} {}", ty.dtype.name()) }
}

fn shape(stream: Option<&str>, tail: &[u32]) -> String {
    let axes: Vec<String> = stream.map(quoted).into_iter().chain(tail.iter().map(u32::to_string)).collect();
    format!("[{}]", axes.join(", "))
}

/// A letter or `_`, then letters, digits and `_.-`: needs no quotes and is never read as a number.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_word)
}

/// Characters of words and numbers.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// The name as a word, or quoted with everything escaped that is not a visible character of an identifier or ASCII.
pub(crate) fn quoted(name: &str) -> String {
    if is_plain(name) {
        return name.to_owned();
    }
    let mut text = String::from("\"");
    for c in name.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            ' ' => text.push(c),
            _ if c.is_ascii_graphic() || c.is_alphanumeric() => text.push(c),
            _ => text.push_str(&format!("\\u{{{:x}}}", c as u32)),
        }
    }
    text.push('"');
    text
}
