//! Parser of the text form: any text gives a verified graph or an error with its place, never a panic.

use std::collections::HashMap;

use super::read::{Line, Token};
use super::{TextError, VERSION};
use crate::error::nearest;
use crate::ir::{Binary, DataType, Graph, MaskRule, Node, Op, Param, ParamInfo, Rows, Scope, Type, Unary, Value};
use crate::rope::{RopeFrequencies, RopeScaling};

/// Reads a graph and verifies it.
///
/// # Errors
/// The first thing that is not as expected, with line and column, or the rule the graph breaks.
pub fn parse(text: &str) -> Result<Graph, TextError> {
    let mut parser = Parser { graph: Graph::default(), params: HashMap::new(), scope: None };
    let mut lines = text.lines().enumerate();
    let (_, first) = lines.next().unwrap_or((0, ""));
    version(&mut Line::new(1, first)?)?;
    for (index, text) in lines {
        let mut line = Line::new(index + 1, text)?;
        if !line.is_empty() {
            parser.line(&mut line)?;
            line.end()?;
        }
    }
    crate::verify::verify(&parser.graph)?;
    Ok(parser.graph)
}

fn version(line: &mut Line) -> Result<(), TextError> {
    let expected = format!("`swift-graph {VERSION}`");
    if !line.accept(&Token::Word("swift-graph".into())) {
        return line.unexpected(&expected);
    }
    let found = line.word(&expected)?;
    if found != VERSION.to_string() {
        return Err(TextError::Version { found });
    }
    line.end()
}

struct Parser {
    graph: Graph,
    params: HashMap<String, Param>,
    scope: Option<u32>,
}

impl Parser {
    fn line(&mut self, line: &mut Line) -> Result<(), TextError> {
        const EXPECTED: &str = "`stream`, `block`, `scope`, `param`, `in`, `output` or a node such as `%0 = ...`";
        if let Some(Token::Value(_)) = line.peek() {
            return self.node(line);
        }
        let column = line.column();
        match line.word(EXPECTED)?.as_str() {
            "stream" => self.graph.streams.push(line.name("the stream's name")?),
            "block" => {
                self.next(line, 'b', self.graph.blocks.len())?;
                self.graph.blocks.push(line.name("the block's path")?);
            }
            "scope" => {
                self.next(line, 's', self.graph.scopes.len())?;
                let path = line.name("the scope's path")?;
                let mut block = None;
                if line.accept(&Token::Word("block".into())) {
                    line.mark('=')?;
                    block = Some(self.declared(line, 'b', self.graph.blocks.len(), "a block declared before")?);
                }
                self.graph.scopes.push(Scope { path, block });
            }
            "param" => {
                let column = line.column();
                let name = line.name("the parameter's name")?;
                if self.params.insert(name.clone(), Param(self.graph.params.len() as u32)).is_some() {
                    return Err(line.error(column, "a parameter that is not declared yet", &format!("{name:?}")));
                }
                let shape = self.axes(line, false)?.1;
                let in_checkpoint = !line.accept(&Token::Word("added".into()));
                self.graph.params.push(ParamInfo { name, shape, in_checkpoint });
            }
            "in" => self.scope = Some(self.declared(line, 's', self.graph.scopes.len(), "a scope declared before")?),
            "output" => {
                let name = line.name("the output's name")?;
                let value = self.value(line)?;
                self.graph.outputs.push((name, value));
            }
            other => return Err(line.error(column, EXPECTED, &format!("`{other}`"))),
        }
        Ok(())
    }

    /// The next number of a table: tables are in order.
    fn next(&self, line: &mut Line, prefix: char, count: usize) -> Result<(), TextError> {
        let expected = format!("`{prefix}{count}`");
        if line.accept(&Token::Word(format!("{prefix}{count}"))) { Ok(()) } else { line.unexpected(&expected) }
    }

    fn declared(&self, line: &mut Line, prefix: char, count: usize, expected: &str) -> Result<u32, TextError> {
        let (column, number) = (line.column(), line.tagged(prefix, expected)?);
        if (number as usize) < count {
            return Ok(number);
        }
        Err(line.error(column, expected, &format!("`{prefix}{number}`")))
    }

    fn value(&self, line: &mut Line) -> Result<Value, TextError> {
        let column = line.column();
        let Some(number) = line.value()? else { return line.unexpected("a value such as `%12`") };
        if (number as usize) < self.graph.nodes.len() {
            return Ok(Value(number));
        }
        Err(line.error(column, "a value made before", &format!("`%{number}`")))
    }

    /// `[text, 4, 32]`; the stream only where `rows` says so.
    fn axes(&self, line: &mut Line, rows: bool) -> Result<(Option<Rows>, Vec<u32>), TextError> {
        let (mut stream, mut tail) = (None, Vec::new());
        line.mark('[')?;
        let mut first = true;
        while !line.accept(&Token::Mark(']')) {
            if !first {
                line.mark(',')?;
            }
            let is_name = match line.peek() {
                Some(Token::Word(word)) => super::is_plain(word),
                other => matches!(other, Some(Token::Quoted(_))),
            };
            if first && rows && is_name {
                let column = line.column();
                let name = line.name("a stream")?;
                let Some(index) = self.graph.streams.iter().position(|s| *s == name) else {
                    return Err(line.error(column, "a stream declared before", &format!("{name:?}")));
                };
                stream = Some(Rows(index as u32));
            } else {
                tail.push(line.number("an axis: a whole number below 2^32")?);
            }
            first = false;
        }
        Ok((stream, tail))
    }

    fn ty(&self, line: &mut Line) -> Result<Type, TextError> {
        let (rows, tail) = self.axes(line, true)?;
        let mut dtype = DataType::Compute;
        if line.peek().is_some() {
            let all = [DataType::Compute, DataType::Float32, DataType::Int32, DataType::Boolean];
            let column = line.column();
            let name = line.word("an element type")?;
            dtype = *all.iter().find(|d| d.name() == name).ok_or_else(|| {
                line.error(column, "`compute`, `float32`, `int32` or `boolean`", &format!("`{name}`"))
            })?;
        }
        Ok(Type { rows, tail, dtype })
    }

    fn node(&mut self, line: &mut Line) -> Result<(), TextError> {
        let expected = Token::Value(self.graph.nodes.len() as u32);
        let Some(scope) = self.scope else { return line.unexpected("a scope first, such as `in s0`") };
        if !line.accept(&expected) {
            return line.unexpected(&format!("`%{}`: values count up", self.graph.nodes.len()));
        }
        line.mark('=')?;
        let op_column = line.column();
        let name = line.word("an op")?;
        let mut inputs = Vec::new();
        while matches!(line.peek(), Some(Token::Value(_))) {
            inputs.push(self.value(line)?);
        }
        let mut options = Options { parser: self, given: Vec::new(), op: &name };
        options.read(line)?;
        let op = options.op(line, op_column)?;
        options.none_left(line)?;
        line.mark(':')?;
        let ty = self.ty(line)?;
        self.graph.nodes.push(Node { op, inputs, ty, scope });
        Ok(())
    }
}

/// `key=value` pairs of a node; each must be used by its op exactly once.
struct Options<'a> {
    parser: &'a Parser,
    /// Key, where its value stands, and the value.
    given: Vec<(String, usize, Token)>,
    op: &'a str,
}

impl Options<'_> {
    fn read(&mut self, line: &mut Line) -> Result<(), TextError> {
        while matches!(line.peek(), Some(Token::Word(_))) {
            let column = line.column();
            let key = line.word("an option")?;
            if self.given.iter().any(|(other, ..)| *other == key) {
                return Err(line.error(column, "each option once", &format!("`{key}` again")));
            }
            line.mark('=')?;
            let column = line.column();
            let value = match line.peek() {
                Some(token @ (Token::Word(_) | Token::Quoted(_))) => token.clone(),
                _ => return line.unexpected("a number or a name"),
            };
            line.accept(&value);
            self.given.push((key, column, value));
        }
        Ok(())
    }

    fn none_left(&self, line: &Line) -> Result<(), TextError> {
        match self.given.first() {
            None => Ok(()),
            Some((key, column, _)) => {
                let at = column.saturating_sub(key.chars().count() + 1);
                Err(line.error(at, &format!("an option of `{}` in this form", self.op), &format!("`{key}`")))
            }
        }
    }

    fn take(&mut self, key: &str) -> Option<(usize, Token)> {
        let index = self.given.iter().position(|(k, ..)| k == key)?;
        let (_, column, token) = self.given.remove(index);
        Some((column, token))
    }

    fn need(&mut self, line: &Line, key: &str) -> Result<(usize, Token), TextError> {
        match self.take(key) {
            Some(found) => Ok(found),
            None => line.unexpected(&format!("the option `{key}` of `{}` before this", self.op)),
        }
    }

    fn parsed<N: std::str::FromStr>(line: &Line, (column, token): (usize, Token), what: &str) -> Result<N, TextError> {
        if let Token::Word(word) = &token
            && let Ok(number) = word.parse()
        {
            return Ok(number);
        }
        Err(line.error(column, what, &token.describe()))
    }

    fn number<N: std::str::FromStr>(&mut self, line: &Line, key: &str, what: &str) -> Result<N, TextError> {
        Self::parsed(line, self.need(line, key)?, what)
    }

    fn f64(&mut self, line: &Line, key: &str) -> Result<f64, TextError> {
        self.number(line, key, "a number")
    }

    fn f32(&mut self, line: &Line, key: &str) -> Result<f32, TextError> {
        self.number(line, key, "a number")
    }

    fn u32(&mut self, line: &Line, key: &str) -> Result<u32, TextError> {
        self.number(line, key, "a whole number below 2^32")
    }

    fn flag(&mut self, line: &Line, key: &str) -> Result<bool, TextError> {
        self.number(line, key, "`true` or `false`")
    }

    fn optional<N: std::str::FromStr>(&mut self, line: &Line, key: &str) -> Result<Option<N>, TextError> {
        self.take(key).map(|found| Self::parsed(line, found, "a number")).transpose()
    }

    fn optional_param(&mut self, line: &Line, key: &str) -> Result<Option<Param>, TextError> {
        let Some((column, token)) = self.take(key) else { return Ok(None) };
        let (Token::Word(name) | Token::Quoted(name)) = &token else {
            return Err(line.error(column, "a parameter's name", &token.describe()));
        };
        match self.parser.params.get(name) {
            Some(&param) => Ok(Some(param)),
            None => Err(line.error(column, "a parameter declared before", &format!("{name:?}"))),
        }
    }

    fn param(&mut self, line: &Line, key: &str) -> Result<Param, TextError> {
        match self.optional_param(line, key)? {
            Some(param) => Ok(param),
            None => line.unexpected(&format!("the option `{key}` of `{}` before this", self.op)),
        }
    }

    /// One of a few words.
    fn choice<C: Copy>(&mut self, line: &Line, key: &str, choices: &[(&'static str, C)]) -> Result<C, TextError> {
        let (column, token) = self.need(line, key)?;
        if let Token::Word(word) = &token
            && let Some((_, choice)) = choices.iter().find(|(name, _)| name == word)
        {
            return Ok(*choice);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Err(line.error(column, &format!("one of {}", names.join(", ")), &token.describe()))
    }

    fn op(&mut self, line: &Line, column: usize) -> Result<Op, TextError> {
        Ok(match self.op {
            "input" => match self.need(line, "name")? {
                (_, Token::Word(name) | Token::Quoted(name)) => Op::Input { name },
                (column, token) => return Err(line.error(column, "the input's name", &token.describe())),
            },
            "scalar" => Op::Scalar(self.f64(line, "value")?),
            "read" => Op::Read(self.param(line, "param")?),
            "embed" => Op::Embed { table: self.param(line, "table")? },
            "linear" => Op::Linear { weight: self.param(line, "weight")?, bias: self.optional_param(line, "bias")? },
            "linear-add" => Op::LinearAdd { weight: self.param(line, "weight")?, scale: self.f64(line, "scale")? },
            "logits" => Op::Logits {
                table: self.param(line, "table")?,
                scale: self.f64(line, "scale")?,
                soft_cap: self.optional(line, "soft-cap")?,
            },
            "rms-norm" => Op::RmsNorm {
                weight: self.optional_param(line, "weight")?,
                eps: self.f32(line, "eps")?,
                offset: self.f32(line, "offset")?,
            },
            "layer-norm" => Op::LayerNorm {
                weight: self.optional_param(line, "weight")?,
                bias: self.optional_param(line, "bias")?,
                eps: self.f32(line, "eps")?,
            },
            "l2-norm" => Op::L2Norm { eps: self.f32(line, "eps")? },
            "softmax" => Op::Softmax,
            "rope" => Op::Rope {
                dims: self.u32(line, "dims")?,
                interleaved: self.flag(line, "interleaved")?,
                frequencies: RopeFrequencies { theta: self.f64(line, "theta")?, scaling: self.scaling(line)? },
            },
            "attention" => Op::Attention {
                mask: self.mask(line)?,
                scale: self.f32(line, "scale")?,
                soft_cap: self.optional(line, "soft-cap")?,
            },
            "unary" => Op::Unary(self.choice(line, "function", Unary::ALL)?),
            "binary" => Op::Binary(self.choice(line, "function", Binary::ALL)?),
            "glu" => Op::Glu(self.choice(line, "function", Unary::ALL)?),
            "reshape" => Op::Reshape,
            "slice" => Op::Slice {
                axis: self.u32(line, "axis")?,
                start: self.u32(line, "start")?,
                end: self.u32(line, "end")?,
            },
            "concat" => Op::Concat { axis: self.u32(line, "axis")? },
            "dropout" => Op::Dropout {
                probability: self.f64(line, "probability")?,
                salt: self.number(line, "salt", "a whole number below 2^64")?,
            },
            other => {
                let near = nearest(other, crate::table::OPS.iter().map(|row| row.name));
                let expected = near.map_or("an op".to_owned(), |near| format!("an op (did you mean `{near}`?)"));
                return Err(line.error(column, &expected, &format!("`{other}`")));
            }
        })
    }

    fn mask(&mut self, line: &Line) -> Result<MaskRule, TextError> {
        let mask =
            [("all", MaskRule::All), ("causal", MaskRule::Causal), ("window", MaskRule::Window { left: 0, right: 0 })];
        Ok(match self.choice(line, "mask", &mask)? {
            MaskRule::Window { .. } => {
                MaskRule::Window { left: self.u32(line, "left")?, right: self.u32(line, "right")? }
            }
            other => other,
        })
    }

    fn scaling(&mut self, line: &Line) -> Result<RopeScaling, TextError> {
        let kinds = ["default", "linear", "dynamic", "llama3", "yarn"].map(|kind| (kind, kind));
        Ok(match self.choice(line, "scaling", &kinds)? {
            "linear" => RopeScaling::Linear { factor: self.f64(line, "factor")? },
            "dynamic" => RopeScaling::Dynamic {
                factor: self.f64(line, "factor")?,
                max_position: self.u32(line, "max-position")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: self.f64(line, "factor")?,
                low_frequency_factor: self.f64(line, "low-freq-factor")?,
                high_frequency_factor: self.f64(line, "high-freq-factor")?,
                original_max_position: self.u32(line, "original-max-position")?,
            },
            "yarn" => RopeScaling::Yarn {
                factor: self.f64(line, "factor")?,
                original_max_position: self.u32(line, "original-max-position")?,
                beta_fast: self.f64(line, "beta-fast")?,
                beta_slow: self.f64(line, "beta-slow")?,
                attention_factor: self.f64(line, "attention-factor")?,
                truncate: self.flag(line, "truncate")?,
            },
            _ => RopeScaling::Default,
        })
    }
}
