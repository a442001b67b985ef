//! Small models, random graphs and feeds for the tests of this folder.

use std::collections::BTreeMap;

use swift_graph::checkpoint::{StorageType, TableCheckpoint, TensorInfo};
use swift_graph::interpret::{self, Feed};
use swift_graph::ir::{Binary, MaskRule, Node, Op, Type, Unary};
use swift_graph::rope::{RopeFrequencies, RopeScaling};
use swift_graph::{Arg, Builder, DataType, Graph, Param, Value};

/// A repeatable source of numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In -1..1.
    pub(crate) fn real(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub(crate) fn reals(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.real()).collect()
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

pub(crate) fn checkpoint(tensors: &[(&str, &[u32])]) -> TableCheckpoint {
    let info =
        |shape: &[u32]| TensorInfo { shape: shape.iter().map(|&n| n as usize).collect(), dtype: StorageType::F32 };
    TableCheckpoint(tensors.iter().map(|(name, shape)| (name.to_string(), info(shape))).collect())
}

/// Numbers of a parameter that depend on its name alone.
pub(crate) fn weights(graph: &Graph) -> impl Fn(Param) -> Vec<f64> + '_ {
    |param| {
        let info = graph.param(param);
        let seed = info.name.bytes().fold(7u64, |seed, b| seed.wrapping_mul(31).wrapping_add(b.into()));
        Random(seed).reals(info.elements())
    }
}

/// What tells the two layers of [`two_blocks`] apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layer {
    /// Window to the left; `None` is causal.
    pub(crate) window: Option<u32>,
    pub(crate) theta: f64,
    pub(crate) eps: f32,
    /// Reads the query weight of layer 0.
    pub(crate) borrows: bool,
}

pub(crate) const LAYER: Layer = Layer { window: None, theta: 500000.0, eps: 1e-6, borrows: false };

/// A decoder of width 8 with one block for each layer, grouped heads, llama3 rope and a tied head.
pub(crate) fn decoder(layers: &[Layer]) -> Graph {
    let mut names: Vec<(String, &[u32])> =
        vec![("model.embed_tokens.weight".into(), &[16, 8]), ("model.norm.weight".into(), &[8])];
    for layer in 0..layers.len() {
        for (name, shape) in [
            ("input_layernorm.weight", &[8][..]),
            ("self_attn.q_proj.weight", &[8, 8]),
            ("self_attn.q_proj.bias", &[8]),
            ("self_attn.k_proj.weight", &[4, 8]),
            ("self_attn.v_proj.weight", &[4, 8]),
            ("self_attn.o_proj.weight", &[8, 8]),
            ("mlp.gate_proj.weight", &[12, 8]),
            ("mlp.up_proj.weight", &[12, 8]),
            ("mlp.down_proj.weight", &[8, 12]),
        ] {
            names.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    let table: Vec<(&str, &[u32])> = names.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
    let mut b = Builder::new(&checkpoint(&table));
    let text = b.rows("text").unwrap();
    let tokens = b.input("tokens", text, DataType::Int32, &[]).unwrap();
    let positions = b.input("positions", text, DataType::Int32, &[]).unwrap();
    let embedding = b.load("model.embed_tokens.weight", &[16, 8]).unwrap();
    let mut h = b.embed(tokens, embedding).unwrap();
    for (index, layer) in layers.iter().enumerate() {
        b.enter(&format!("model.layers.{index}"), "block").unwrap();
        h = block(&mut b, index, layer, h, positions);
        b.exit().unwrap();
    }
    let norm = b.load("model.norm.weight", &[8]).unwrap();
    let hidden = b.rms_norm(h, Some(norm), 1e-6, &[]).unwrap();
    b.output("hidden", hidden).unwrap();
    let logits = b.logits(hidden, embedding, &[]).unwrap();
    b.output("logits", logits).unwrap();
    b.finish().unwrap()
}

fn block(b: &mut Builder, index: usize, layer: &Layer, h: Value, positions: Value) -> Value {
    let path = format!("model.layers.{index}");
    let norm = b.load(&format!("{path}.input_layernorm.weight"), &[8]).unwrap();
    let x = b.rms_norm(h, Some(norm), layer.eps, &[]).unwrap();
    b.enter("self_attn", "").unwrap();
    let owner = if layer.borrows { 0 } else { index };
    let query = b.load(&format!("model.layers.{owner}.self_attn.q_proj.weight"), &[8, 8]).unwrap();
    let bias = b.load(&format!("{path}.self_attn.q_proj.bias"), &[8]).unwrap();
    let q = b.linear(x, query, Some(bias)).unwrap();
    let key = b.load(&format!("{path}.self_attn.k_proj.weight"), &[4, 8]).unwrap();
    let k = b.linear(x, key, None).unwrap();
    let value = b.load(&format!("{path}.self_attn.v_proj.weight"), &[4, 8]).unwrap();
    let v = b.linear(x, value, None).unwrap();
    let number = |name: &str, n: f64| (name.to_owned(), Arg::Num(n));
    let scaling = [
        ("scaling".to_owned(), Arg::Text("llama3".into())),
        number("factor", 8.0),
        number("low-freq-factor", 1.0),
        number("high-freq-factor", 4.0),
        number("original-max-position", 64.0),
    ];
    let [q, k, v] = [(q, 2), (k, 1), (v, 1)].map(|(x, heads)| b.reshape(x, &[heads, 4]).unwrap());
    let [q, k] = [q, k].map(|x| b.rope(x, positions, 4, layer.theta, &scaling).unwrap());
    let mask = match layer.window {
        None => b.mask_causal(),
        Some(left) => b.mask_window(left, 0),
    };
    let mixed = b.attention(q, k, v, mask, 0.5, &[]).unwrap();
    let mixed = b.reshape(mixed, &[8]).unwrap();
    let output = b.load(&format!("{path}.self_attn.o_proj.weight"), &[8, 8]).unwrap();
    let y = b.linear(mixed, output, None).unwrap();
    b.exit().unwrap();
    let h = b.binary("add", h, y).unwrap();
    b.enter("mlp", "").unwrap();
    let [gate, up] = ["gate", "up"].map(|name| {
        let weight = b.load(&format!("{path}.mlp.{name}_proj.weight"), &[12, 8]).unwrap();
        b.linear(h, weight, None).unwrap()
    });
    let activated = b.glu(gate, up, "silu").unwrap();
    let down = b.load(&format!("{path}.mlp.down_proj.weight"), &[8, 12]).unwrap();
    let y = b.linear(activated, down, None).unwrap();
    b.exit().unwrap();
    b.binary("add", h, y).unwrap()
}

/// The model of the golden file: a causal layer and one with a window.
pub(crate) fn two_blocks() -> Graph {
    decoder(&[LAYER, Layer { window: Some(3), ..LAYER }])
}

/// Adds a node as a rewrite would.
pub(crate) fn push(graph: &mut Graph, op: Op, inputs: Vec<Value>, ty: Type) -> Value {
    graph.nodes.push(Node { op, inputs, ty, scope: 0 });
    Value(graph.nodes.len() as u32 - 1)
}

/// A valid graph of about `calls` nodes with repetition, dead parts and operations that change nothing, and a feed.
/// It holds every op over many seeds.
pub(crate) fn random_graph(seed: u64, calls: usize) -> (Graph, Feed) {
    let mut random = Random(seed);
    let tensors: &[(&str, &[u32])] = &[
        ("table", &[5, 4]),
        ("square", &[4, 4]),
        ("wide", &[8, 4]),
        ("narrow", &[4, 8]),
        ("blocks.0.four", &[4]),
        ("odd \"näme\"\u{202e}.eight", &[8]),
        ("one", &[1]),
    ];
    let mut b = Builder::new(&TableCheckpoint::default());
    let table = checkpoint(tensors);
    // The builder refuses names with blanks; parameters are added by hand below, as a rewrite would.
    let text = b.rows("text").unwrap();
    let mut values = vec![
        b.input("ids", text, DataType::Int32, &[]).unwrap(),
        b.input("x", text, DataType::Compute, &[4]).unwrap(),
        b.input("z", text, DataType::Compute, &[2, 4]).unwrap(),
    ];
    b.output("x", values[1]).unwrap();
    let mut graph = b.finish().unwrap();
    graph.outputs.clear();
    for (name, _) in tensors {
        let shape = table.0[*name].shape.iter().map(|&n| n as u32).collect();
        graph.params.push(swift_graph::ir::ParamInfo { name: name.to_string(), shape, in_checkpoint: *name != "one" });
    }
    graph.blocks = vec!["blocks.0".into(), "blocks 1".into()];
    for (path, block) in [("blocks.0", Some(0)), ("blocks.0.inner", Some(0)), ("blocks 1", Some(1)), ("", None)] {
        graph.scopes.push(swift_graph::ir::Scope { path: path.into(), block });
    }
    let mut scope = 0;
    let mut tries = 0;
    while values.len() < calls && tries < 50 * calls {
        tries += 1;
        if random.below(4) == 0 {
            scope = random.below(graph.scopes.len()) as u32;
        }
        let recent = values.len().min(8);
        let count = 1 + random.below(3);
        let mut inputs: Vec<Value> = (0..count).map(|_| values[values.len() - 1 - random.below(recent)]).collect();
        if random.below(3) == 0 {
            inputs[0] = *random.pick(&values);
        }
        let op = random_op(&mut random, graph.params.len());
        if matches!(op, Op::Scalar(_) | Op::Read(_)) {
            inputs.clear();
        }
        if matches!(op, Op::Rope { .. } | Op::Embed { .. }) {
            *inputs.last_mut().unwrap() = values[0];
        }
        let types: Vec<&Type> = inputs.iter().map(|v| graph.ty(*v)).collect();
        let ty = if op == Op::Reshape {
            let ty = types[0].clone();
            let width = ty.width() as u32;
            let tail = random.pick(&[vec![width], vec![1, width], ty.tail.clone(), vec![2, width / 2]]).clone();
            inputs.truncate(1);
            if tail.iter().product::<u32>() == width && width > 1 { Ok(Type { tail, ..ty }) } else { continue }
        } else {
            swift_graph::shape::infer(&graph, &op, &types)
        };
        let Ok(ty) = ty else { continue };
        if ty.width() > 64 {
            continue;
        }
        graph.nodes.push(Node { op, inputs, ty, scope });
        values.push(Value(graph.nodes.len() as u32 - 1));
    }
    for output in 0..1 + random.below(3) {
        let recent = values.len().min(4);
        let value = values[values.len() - 1 - random.below(recent)];
        graph.outputs.push((format!("output {output}"), value));
    }
    swift_graph::verify::verify(&graph).unwrap();
    let lengths = vec![1 + random.below(3) as u32, 1 + random.below(3) as u32];
    let rows = lengths.iter().sum::<u32>() as usize;
    let feed = Feed {
        sequence_lengths: lengths,
        integers: BTreeMap::from([("ids".into(), (0..rows).map(|_| random.below(4) as i64).collect())]),
        reals: BTreeMap::from([("x".into(), random.reals(rows * 4)), ("z".into(), random.reals(rows * 8))]),
        dropout_key: Some(random.next()),
    };
    (graph, feed)
}

fn random_op(random: &mut Random, params: usize) -> Op {
    let mut param = {
        let (a, b) = (random.below(params) as u32, random.below(params) as u32);
        let mut first = true;
        move || Param(if std::mem::take(&mut first) { a } else { b })
    };
    let some = |random: &mut Random, p: Param| (random.below(2) == 0).then_some(p);
    let eps = *random.pick(&[1e-6f32, 1e-5, 0.1]);
    let scale = *random.pick(&[1.0, 0.5, 1.0 / 3.0, 1e-300]);
    let cap = *random.pick(&[None, Some(30.0f32)]);
    match random.below(26) {
        0 => Op::Scalar(*random.pick(&[1.0, 0.0, -0.0, 0.1, 1e300, -1.0 / 3.0])),
        1 => Op::Read(param()),
        2 => Op::Embed { table: param() },
        3 | 4 => {
            let (weight, bias) = (param(), param());
            Op::Linear { weight, bias: some(random, bias) }
        }
        5 => Op::LinearAdd { weight: param(), scale },
        6 => Op::Logits { table: param(), scale, soft_cap: cap.map(f64::from) },
        7 => Op::RmsNorm { weight: some(random, param()), eps, offset: *random.pick(&[0.0, 1.0]) },
        8 => {
            let (weight, bias) = (param(), param());
            Op::LayerNorm { weight: some(random, weight), bias: some(random, bias), eps }
        }
        9 => Op::L2Norm { eps },
        10 => Op::Softmax,
        11 => {
            let scaling = *random.pick(&SCALINGS);
            let frequencies = RopeFrequencies { theta: *random.pick(&[1e4, 5e5, 1234.5678]), scaling };
            Op::Rope { dims: *random.pick(&[2, 4]), interleaved: random.below(2) == 0, frequencies }
        }
        12 | 13 => {
            let mask = *random.pick(&[MaskRule::All, MaskRule::Causal, MaskRule::Window { left: 1, right: 0 }]);
            Op::Attention { mask, scale: scale as f32 + 0.25, soft_cap: cap }
        }
        14 => Op::Unary(random.pick(Unary::ALL).1),
        15..=18 => Op::Binary(random.pick(Binary::ALL).1),
        19 => Op::Glu(random.pick(Unary::ALL).1),
        20 | 21 => Op::Reshape,
        22 => {
            let start = random.below(2) as u32 * 2;
            Op::Slice { axis: random.below(2) as u32, start, end: start + *random.pick(&[1, 2, 4, 8]) }
        }
        23 | 24 => Op::Concat { axis: random.below(2) as u32 },
        _ => Op::Dropout { probability: *random.pick(&[0.05, 0.5]), salt: random.below(3) as u64 },
    }
}

pub(crate) const SCALINGS: [RopeScaling; 5] = [
    RopeScaling::Default,
    RopeScaling::Linear { factor: 2.5 },
    RopeScaling::Dynamic { factor: 2.0, max_position: 2 },
    RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_max_position: 8192,
    },
    RopeScaling::Yarn {
        factor: 4.0,
        original_max_position: 4096,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.138629436111989,
        truncate: true,
    },
];

/// Outputs of a graph on its test weights, in the order of publishing.
pub(crate) fn outputs(graph: &Graph, feed: &Feed) -> Vec<Vec<f64>> {
    let wanted: Vec<Value> = graph.outputs.iter().map(|(_, v)| *v).collect();
    let values = interpret::run(graph, &weights(graph), feed, &wanted).unwrap();
    wanted.iter().map(|v| values[v].clone()).collect()
}
