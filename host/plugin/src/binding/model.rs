//! The host's side of `swift:model`: each imported function calls the graph builder's method of the same name.
//!
//! A refused call is kept as the trace's fault and ends it with a trap; the plugin cannot catch it.

use swift_graph::{Arg, BuildError, Builder, DataType, Mask, Param, Rows, Value};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::{Fault, MESSAGE, State};
use crate::clean::clean;

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
pub(crate) mod contract {
    wasmtime::component::bindgen!({
        path: "../../wit/model",
        world: "model-adapter",
        imports: { default: trappable },
        with: { "swift:model/graph.builder": super::BuilderHandle },
    });
}

use contract::swift::model::graph::{Host, HostBuilder};
use contract::swift::model::types::{self, Dtype, Opts};

/// What the plugin's handle of the builder stands for; the builder itself is in [`State`].
#[derive(Debug)]
#[allow(unreachable_pub, reason = "the generated code re-exports it")]
pub struct BuilderHandle;

/// Longest name that a call may carry; longer ones are cut, and then fit no tensor.
const NAME: usize = 512;
impl State {
    fn call<T>(&mut self, call: impl FnOnce(&mut Builder) -> std::result::Result<T, BuildError>) -> Result<T> {
        self.count(0)?;
        let Some(builder) = &mut self.builder else {
            let error = BuildError::new("there is no graph to build here").hint("only `build` has a builder");
            return self.end(Fault::Refused(error));
        };
        match call(builder) {
            Ok(value) => Ok(value),
            Err(error) => self.end(Fault::Refused(error)),
        }
    }
}

type Handle = Resource<BuilderHandle>;

fn value(v: types::Value) -> Value {
    Value(v.id)
}

fn made(v: Value) -> types::Value {
    types::Value { id: v.0 }
}

fn param(p: types::Param) -> Param {
    Param(p.id)
}

fn options(o: Opts) -> Vec<(String, Arg)> {
    let arg = |arg| match arg {
        types::Arg::Num(number) => Arg::Num(number),
        types::Arg::Nums(numbers) => Arg::Nums(numbers),
        types::Arg::Text(text) => Arg::Text(clean(&text, NAME)),
        types::Arg::Flag(flag) => Arg::Flag(flag),
        types::Arg::Value(v) => Arg::Value(value(v)),
        types::Arg::Param(p) => Arg::Param(param(p)),
    };
    o.into_iter().map(|(name, a)| (clean(&name, NAME), arg(a))).collect()
}

impl types::Host for State {}

impl Host for State {
    fn abort(&mut self, message: String) -> Result<()> {
        self.end(Fault::Aborted(clean(&message, MESSAGE)))
    }
}

impl HostBuilder for State {
    fn drop(&mut self, _: Handle) -> Result<()> {
        // The plugin only ever borrows the builder.
        Ok(())
    }

    fn rows(&mut self, _: Handle, name: String) -> Result<types::Rows> {
        self.call(|g| g.rows(&clean(&name, NAME))).map(|rows| types::Rows { id: rows.0 })
    }

    fn input(&mut self, _: Handle, name: String, on: types::Rows, ty: Dtype, tail: Vec<u32>) -> Result<types::Value> {
        let ty = match ty {
            Dtype::Compute => DataType::Compute,
            Dtype::Float32 => DataType::Float32,
            Dtype::Int32 => DataType::Int32,
            Dtype::Boolean => DataType::Boolean,
        };
        self.call(|g| g.input(&clean(&name, NAME), Rows(on.id), ty, &tail)).map(made)
    }

    fn enter(&mut self, _: Handle, path: String, kind: String) -> Result<()> {
        self.call(|g| g.enter(&clean(&path, NAME), &clean(&kind, NAME)))
    }

    fn exit(&mut self, _: Handle) -> Result<()> {
        self.call(Builder::exit)
    }

    fn output(&mut self, _: Handle, name: String, v: types::Value) -> Result<()> {
        self.call(|g| g.output(&clean(&name, NAME), value(v)))
    }

    fn shape(&mut self, _: Handle, v: types::Value) -> Result<Vec<u32>> {
        self.call(|g| g.shape(value(v)))
    }

    fn has(&mut self, _: Handle, name: String) -> Result<bool> {
        self.call(|g| Ok(g.has(&clean(&name, NAME))))
    }

    fn load(&mut self, _: Handle, name: String, shape: Vec<u32>) -> Result<types::Param> {
        self.call(|g| g.load(&clean(&name, NAME), &shape)).map(|p| types::Param { id: p.0 })
    }

    fn read(&mut self, _: Handle, p: types::Param) -> Result<types::Value> {
        self.call(|g| g.read(param(p))).map(made)
    }

    fn embed(&mut self, _: Handle, ids: types::Value, table: types::Param) -> Result<types::Value> {
        self.call(|g| g.embed(value(ids), param(table))).map(made)
    }

    fn linear(&mut self, _: Handle, x: types::Value, w: types::Param, b: Option<types::Param>) -> Result<types::Value> {
        self.call(|g| g.linear(value(x), param(w), b.map(param))).map(made)
    }

    fn logits(&mut self, _: Handle, x: types::Value, table: types::Param, o: Opts) -> Result<types::Value> {
        self.call(|g| g.logits(value(x), param(table), &options(o))).map(made)
    }

    fn rms_norm(
        &mut self,
        _: Handle,
        x: types::Value,
        w: Option<types::Param>,
        eps: f32,
        o: Opts,
    ) -> Result<types::Value> {
        self.call(|g| g.rms_norm(value(x), w.map(param), eps, &options(o))).map(made)
    }

    fn layer_norm(
        &mut self,
        _: Handle,
        x: types::Value,
        w: Option<types::Param>,
        b: Option<types::Param>,
        eps: f32,
    ) -> Result<types::Value> {
        self.call(|g| g.layer_norm(value(x), w.map(param), b.map(param), eps)).map(made)
    }

    fn l2_norm(&mut self, _: Handle, x: types::Value, eps: f32) -> Result<types::Value> {
        self.call(|g| g.l2_norm(value(x), eps)).map(made)
    }

    fn softmax(&mut self, _: Handle, x: types::Value) -> Result<types::Value> {
        self.call(|g| g.softmax(value(x))).map(made)
    }

    fn rope(
        &mut self,
        _: Handle,
        x: types::Value,
        positions: types::Value,
        dims: u32,
        theta: f64,
        o: Opts,
    ) -> Result<types::Value> {
        self.call(|g| g.rope(value(x), value(positions), dims, theta, &options(o))).map(made)
    }

    fn mask_causal(&mut self, _: Handle) -> Result<types::Mask> {
        self.call(|g| Ok(g.mask_causal())).map(|mask| types::Mask { id: mask.0 })
    }

    fn mask_all(&mut self, _: Handle) -> Result<types::Mask> {
        self.call(|g| Ok(g.mask_all())).map(|mask| types::Mask { id: mask.0 })
    }

    fn mask_window(&mut self, _: Handle, left: u32, right: u32) -> Result<types::Mask> {
        self.call(|g| Ok(g.mask_window(left, right))).map(|mask| types::Mask { id: mask.0 })
    }

    fn attention(
        &mut self,
        _: Handle,
        q: types::Value,
        k: types::Value,
        v: types::Value,
        m: types::Mask,
        scale: f32,
        o: Opts,
    ) -> Result<types::Value> {
        self.call(|g| g.attention(value(q), value(k), value(v), Mask(m.id), scale, &options(o))).map(made)
    }

    fn scalar(&mut self, _: Handle, x: f64) -> Result<types::Value> {
        self.call(|g| g.scalar(x)).map(made)
    }

    fn unary(&mut self, _: Handle, op: String, x: types::Value) -> Result<types::Value> {
        self.call(|g| g.unary(&clean(&op, NAME), value(x))).map(made)
    }

    fn binary(&mut self, _: Handle, op: String, a: types::Value, b: types::Value) -> Result<types::Value> {
        self.call(|g| g.binary(&clean(&op, NAME), value(a), value(b))).map(made)
    }

    fn glu(&mut self, _: Handle, gate: types::Value, up: types::Value, activation: String) -> Result<types::Value> {
        self.call(|g| g.glu(value(gate), value(up), &clean(&activation, NAME))).map(made)
    }

    fn reshape(&mut self, _: Handle, x: types::Value, tail: Vec<u32>) -> Result<types::Value> {
        self.call(|g| g.reshape(value(x), &tail)).map(made)
    }

    fn split(&mut self, _: Handle, x: types::Value, axis: u32, sizes: Vec<u32>) -> Result<Vec<types::Value>> {
        let pieces = self.call(|g| g.split(value(x), axis, &sizes))?;
        Ok(pieces.into_iter().map(made).collect())
    }

    fn concat(&mut self, _: Handle, xs: Vec<types::Value>, axis: u32) -> Result<types::Value> {
        let xs: Vec<Value> = xs.into_iter().map(value).collect();
        self.call(|g| g.concat(&xs, axis)).map(made)
    }

    fn supports(&mut self, _: Handle, op: String) -> Result<bool> {
        self.call(|g| Ok(g.supports(&clean(&op, NAME))))
    }
}
