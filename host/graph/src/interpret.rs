//! The reference interpreter: what every op means, in plain loops.
//!
//! Slow and obviously right. The kernels, the engine and the gradients are tested against it, so where they disagree
//! the formulas here (in [`ops`]) decide. It runs forward only, whole sequences only, in f32 or f64, and knows no
//! kernels, no threads and no memory plan.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::error::BuildError;
use crate::ir::{DataType, Graph, Op, Param, Type, Value};

mod difference;
mod dropout;
pub mod ops;

pub use difference::{cross_entropy, finite_difference, parameter_difference};
pub use dropout::{dropout_keeps, dropout_stream};

/// The numbers the interpreter computes in.
pub trait Real:
    Copy
    + PartialOrd
    + Debug
    + Sum
    + AddAssign
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + 'static
{
    /// Rounds to this precision.
    fn from_f64(x: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// √x.
    fn sqrt(self) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// ln x.
    fn ln(self) -> Self;
    /// ln(1 + x), accurate for small x.
    fn ln_1p(self) -> Self;
    /// tanh x.
    fn tanh(self) -> Self;
}

macro_rules! real {
    ($type:ident) => {
        impl Real for $type {
            fn from_f64(x: f64) -> Self {
                x as Self
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }
            fn exp(self) -> Self {
                $type::exp(self)
            }
            fn ln(self) -> Self {
                $type::ln(self)
            }
            fn ln_1p(self) -> Self {
                $type::ln_1p(self)
            }
            fn tanh(self) -> Self {
                $type::tanh(self)
            }
        }
    };
}

real!(f32);
real!(f64);

/// What a step feeds the graph's one stream of rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Feed {
    /// Rows of each sequence; their sum is the number of rows. Attention never leaves a sequence.
    pub sequence_lengths: Vec<u32>,
    /// Integer inputs by name (`tokens`, `positions`), row-major.
    pub integers: BTreeMap<String, Vec<i64>>,
    /// Floating-point inputs by name, row-major.
    pub reals: BTreeMap<String, Vec<f64>>,
    /// `None`: dropout is the identity (evaluation). `Some`: training, see [`dropout_keeps`].
    pub dropout_key: Option<u64>,
}

impl Feed {
    /// Sequences of token ids laid end to end, with positions counted from 0 in each: the inputs `tokens` and
    /// `positions`.
    pub fn tokens(sequences: &[&[i64]]) -> Self {
        let tokens = sequences.concat();
        let positions = sequences.iter().flat_map(|s| 0..s.len() as i64).collect();
        Self {
            sequence_lengths: sequences.iter().map(|s| s.len() as u32).collect(),
            integers: BTreeMap::from([("tokens".into(), tokens), ("positions".into(), positions)]),
            ..Self::default()
        }
    }

    /// Rows of the step.
    pub fn rows(&self) -> usize {
        self.sequence_lengths.iter().map(|&n| n as usize).sum()
    }
}

/// A feed or parameters that do not fit the graph.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InterpretError {
    #[error("the graph is not valid: {0}")]
    Graph(#[from] BuildError),
    #[error("the graph has the streams {0:?}; the interpreter feeds one stream; hint: trace the model for text alone")]
    Streams(Vec<String>),
    #[error("there is no value {0} in the graph; hint: ask for values of the graph that is run")]
    UnknownValue(u32),
    #[error("the input `{name}` ({dtype}) is not fed; hint: put it into the feed's `{field}`")]
    MissingInput { name: String, dtype: &'static str, field: &'static str },
    #[error("the input `{name}` has {got} elements, expected {want}; hint: rows times the elements of a row")]
    InputLength { name: String, got: usize, want: usize },
    #[error("the parameter `{name}` has {got} elements, expected {want}; hint: give it row-major in its own shape")]
    ParamLength { name: String, got: usize, want: usize },
    #[error(
        "in `{scope}`: id {id} in row {row} is not below the table's {vocabulary} rows; hint: do the tokenizer and the model belong together?"
    )]
    IdOutOfRange { scope: String, row: usize, id: i64, vocabulary: u32 },
}

/// The elements of a value, row-major.
#[derive(Debug, Clone, PartialEq)]
enum Data<T> {
    Real(Vec<T>),
    /// Int32 and boolean values.
    Integer(Vec<i64>),
}

impl<T: Real> Data<T> {
    /// The numbers of a value that verification has proven to be floating-point.
    fn real(&self) -> &[T] {
        match self {
            Self::Real(x) => x,
            Self::Integer(_) => unreachable!("the shape rules let no integers in here"),
        }
    }

    fn integer(&self) -> &[i64] {
        match self {
            Self::Integer(x) => x,
            Self::Real(_) => unreachable!("the shape rules let no floating-point numbers in here"),
        }
    }
}

/// Computes `wanted` and what they need. `params` gives a parameter's elements row-major; integer values come back as
/// numbers. A value is `[rows, ...tail]` row-major, or `[...tail]` if it has no rows.
///
/// # Errors
/// When the graph is not valid, or the feed or the parameters do not fit it.
pub fn run<T: Real>(
    graph: &Graph,
    params: &dyn Fn(Param) -> Vec<T>,
    feed: &Feed,
    wanted: &[Value],
) -> Result<BTreeMap<Value, Vec<T>>, InterpretError> {
    crate::verify::verify(graph)?;
    if graph.streams.len() > 1 {
        return Err(InterpretError::Streams(graph.streams.clone()));
    }
    let mut needed = vec![false; graph.nodes.len()];
    for value in wanted {
        *needed.get_mut(value.index()).ok_or(InterpretError::UnknownValue(value.0))? = true;
    }
    for index in (0..graph.nodes.len()).rev() {
        if needed[index] {
            graph.nodes[index].inputs.iter().for_each(|v| needed[v.index()] = true);
        }
    }

    let mut run = Run { graph, params, feed, weights: BTreeMap::new(), values: Vec::with_capacity(graph.nodes.len()) };
    for (index, needed) in needed.iter().enumerate() {
        let data = if *needed { run.node(Value(index as u32))? } else { Data::Real(Vec::new()) };
        run.values.push(data);
    }
    Ok(wanted
        .iter()
        .map(|&value| {
            let numbers = match &run.values[value.index()] {
                Data::Real(x) => x.clone(),
                Data::Integer(x) => x.iter().map(|&n| T::from_f64(n as f64)).collect(),
            };
            (value, numbers)
        })
        .collect())
}

struct Run<'a, T> {
    graph: &'a Graph,
    params: &'a dyn Fn(Param) -> Vec<T>,
    feed: &'a Feed,
    weights: BTreeMap<Param, Vec<T>>,
    values: Vec<Data<T>>,
}

impl<T: Real> Run<'_, T> {
    fn load(&mut self, param: Param) -> Result<(), InterpretError> {
        if self.weights.contains_key(&param) {
            return Ok(());
        }
        let (info, numbers) = (self.graph.param(param), (self.params)(param));
        if numbers.len() != info.elements() {
            return Err(InterpretError::ParamLength {
                name: info.name.clone(),
                got: numbers.len(),
                want: info.elements(),
            });
        }
        self.weights.insert(param, numbers);
        Ok(())
    }

    fn input(&self, name: &str, ty: &Type) -> Result<Data<T>, InterpretError> {
        let data = match ty.dtype {
            DataType::Int32 | DataType::Boolean => self.feed.integers.get(name).map(|x| Data::Integer(x.clone())),
            DataType::Compute | DataType::Float32 => {
                self.feed.reals.get(name).map(|x| Data::Real(x.iter().map(|&n| T::from_f64(n)).collect()))
            }
        };
        let (got, field) = match &data {
            Some(Data::Integer(x)) => (x.len(), ""),
            Some(Data::Real(x)) => (x.len(), ""),
            None if matches!(ty.dtype, DataType::Int32 | DataType::Boolean) => (0, "integers"),
            None => (0, "reals"),
        };
        let data =
            data.ok_or_else(|| InterpretError::MissingInput { name: name.to_owned(), dtype: ty.dtype.name(), field })?;
        let want = self.feed.rows() * ty.width();
        if got != want {
            return Err(InterpretError::InputLength { name: name.to_owned(), got, want });
        }
        Ok(data)
    }

    fn node(&mut self, value: Value) -> Result<Data<T>, InterpretError> {
        let graph = self.graph;
        let node = graph.node(value);
        for param in node.op.params() {
            self.load(param)?;
        }
        let weight = |p: Param| self.weights[&p].as_slice();
        let optional = |p: Option<Param>| p.map(|p| self.weights[&p].as_slice());
        let shape = |p: Param| graph.param(p).shape.as_slice();
        let ty = |i: usize| graph.ty(node.inputs[i]);
        let data = |i: usize| &self.values[node.inputs[i].index()];
        let x = |i: usize| data(i).real();
        let rows = if node.ty.rows.is_some() { self.feed.rows() } else { 1 };

        Ok(Data::Real(match &node.op {
            Op::Input { name } => return self.input(name, &node.ty),
            Op::Scalar(number) => vec![T::from_f64(*number)],
            Op::Read(param) => weight(*param).to_vec(),
            Op::Embed { table } => {
                let (ids, shape) = (data(0).integer(), shape(*table));
                if let Some((row, &id)) = ids.iter().enumerate().find(|(_, id)| !(0..i64::from(shape[0])).contains(*id))
                {
                    let scope = graph.scope_path(value).to_owned();
                    return Err(InterpretError::IdOutOfRange { scope, row, id, vocabulary: shape[0] });
                }
                ops::embed(ids, weight(*table), shape[1] as usize)
            }
            Op::Linear { weight: w, bias } => ops::linear(x(0), weight(*w), shape(*w)[1] as usize, optional(*bias)),
            Op::LinearAdd { weight: w, scale } => {
                ops::linear_add(x(0), x(1), weight(*w), shape(*w)[1] as usize, T::from_f64(*scale))
            }
            Op::Logits { table, scale, soft_cap } => ops::logits(
                x(0),
                weight(*table),
                shape(*table)[1] as usize,
                T::from_f64(*scale),
                soft_cap.map(T::from_f64),
            ),
            Op::RmsNorm { weight: w, eps, offset } => ops::rms_norm(
                x(0),
                ty(0).last(),
                optional(*w),
                T::from_f64((*eps).into()),
                T::from_f64((*offset).into()),
            ),
            Op::LayerNorm { weight: w, bias, eps } => {
                ops::layer_norm(x(0), ty(0).last(), optional(*w), optional(*bias), T::from_f64((*eps).into()))
            }
            Op::L2Norm { eps } => ops::l2_norm(x(0), ty(0).last(), T::from_f64((*eps).into())),
            Op::Softmax => ops::softmax(x(0), ty(0).last()),
            Op::Rope { dims, interleaved, frequencies } => ops::rope(
                x(0),
                &ty(0).tail,
                data(1).integer(),
                &self.feed.sequence_lengths,
                *dims as usize,
                *interleaved,
                frequencies,
            ),
            Op::Attention { mask, scale, soft_cap } => {
                let scale = T::from_f64((*scale).into());
                let soft_cap = soft_cap.map(|cap| T::from_f64(cap.into()));
                let tails = [&ty(0).tail, &ty(1).tail, &ty(2).tail].map(Vec::as_slice);
                ops::attention(x(0), x(1), x(2), tails, &self.feed.sequence_lengths, *mask, scale, soft_cap)
            }
            Op::Unary(function) => x(0).iter().map(|&x| ops::unary(*function, x)).collect(),
            Op::Binary(function) => ops::binary(*function, x(0), ty(0), x(1), ty(1)),
            Op::Glu(function) => x(0).iter().zip(x(1)).map(|(&gate, &up)| ops::unary(*function, gate) * up).collect(),
            Op::Reshape => return Ok(data(0).clone()),
            Op::Slice { axis, start, end } => {
                let (axis, range) = (*axis as usize, *start as usize..*end as usize);
                return Ok(match data(0) {
                    Data::Real(x) => Data::Real(ops::slice(x, rows, &ty(0).tail, axis, range)),
                    Data::Integer(x) => Data::Integer(ops::slice(x, rows, &ty(0).tail, axis, range)),
                });
            }
            Op::Concat { axis } => {
                let tails: Vec<&[u32]> = node.inputs.iter().map(|v| graph.ty(*v).tail.as_slice()).collect();
                if matches!(data(0), Data::Integer(_)) {
                    let parts: Vec<&[i64]> = (0..tails.len()).map(|i| data(i).integer()).collect();
                    return Ok(Data::Integer(ops::concat(&parts, rows, &tails, *axis as usize)));
                }
                let parts: Vec<&[T]> = (0..tails.len()).map(x).collect();
                ops::concat(&parts, rows, &tails, *axis as usize)
            }
            Op::Dropout { probability, salt } => match self.feed.dropout_key {
                None => x(0).to_vec(),
                Some(key) => ops::dropout(x(0), key, *salt, *probability),
            },
        }))
    }
}
