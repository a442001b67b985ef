//! Tests of the graph's meaning and its forms: interpreter, text, roll-up, simplification, op table.

mod interpret;
mod rollup;
mod simplify;
mod support;
mod table;
mod text;
