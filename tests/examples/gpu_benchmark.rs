//! Times training and generation of a Hugging Face folder with the engine's sessions, opened as `swift` opens it. The other
//! half of `tests/peers/gpu.py`, and of use alone:
//!
//! ```text
//! gpu_benchmark train --model DIR --rows 8x2048 --tuner lora|full [--rank 16] [--quant none|nf4|nf4-double|int8]
//! gpu_benchmark generate --model DIR [--batch 1] [--prompt 128] [--new 256]
//! gpu_benchmark ceilings [--size 8192] [--bytes 4294967296]
//! ```
//!
//! Common: `--device cuda:0|cpu`, `--compute bfloat16|float32`. Training: `--steps`, `--warmup`, `--recompute true|false`.
//! `--tokens FILE` holds the tokens as little-endian u32 (else random ones); every token is labelled with the next of its row.
//! `--peak` (TFLOP/s in training, GB/s in generation) adds the share of it. The last line of output is a JSON object:
//! times in milliseconds (medians of steps), memory in bytes. `memory` is what the process took of the device beyond its
//! context: compiled kernels and the libraries' own buffers included; `planned` is what the engine foretold.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};
use swift_engine::{
    AdamWOptions, Batch, Choice, Compute, CudaPlacement, InferSession, Placement, Quantization, TrainOptions,
    TrainSession, Tuner,
};
use swift_graph::lora::{LoraConfig, Targets};
use swift_graph::{Graph, simplify::simplify};
use swift_hub::Model;
use swift_kernels::Weight;
use swift_kernels::cuda::{self, Device, Dtype, Operand, ProfileRow};
use swift_plugin::{PluginHost, PluginOptions, PluginSet, plugin_folders};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// `--name value` pairs; every one given must be asked for.
struct Arguments(BTreeMap<String, String>);

impl Arguments {
    fn parse(words: &[String]) -> Result<Self> {
        let mut pairs = BTreeMap::new();
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err(format!("{} needs a value", pair[0]).into()) };
            let name = name.strip_prefix("--").ok_or_else(|| format!("`{name}` is no --name"))?;
            pairs.insert(name.to_owned(), value.clone());
        }
        Ok(Self(pairs))
    }

    fn text(&mut self, name: &str, default: &str) -> String {
        self.0.remove(name).unwrap_or_else(|| default.into())
    }

    fn number<T: FromStr>(&mut self, name: &str, default: T) -> Result<T> {
        let Some(text) = self.0.remove(name) else { return Ok(default) };
        text.parse().map_err(|_| format!("--{name} {text} is not such a number").into())
    }

    fn end(self) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("--{name} means nothing here").into()),
        }
    }
}

/// What the device was seen to reach; 0 where nobody says.
struct Peaks {
    tflops: f64,
    gigabytes: f64,
}

impl Peaks {
    fn parse(arguments: &mut Arguments) -> Result<Self> {
        Ok(Self { tflops: arguments.number("peak-tflops", 0.0)?, gigabytes: arguments.number("peak-gbs", 0.0)? })
    }

    /// Prints a profile of `steps` steps that take `step_ms` each unprofiled, and gives it as JSON.
    fn show(&self, rows: &[ProfileRow], steps: usize, step_ms: f64) -> Value {
        let total = rows.iter().fold(0.0, |sum, row| sum + row.milliseconds);
        let per = steps as f64;
        println!(
            "| kernel | calls | ms | of the time | GB/s | of peak | TFLOP/s | of peak |\n|---|---|---|---|---|---|---|---|"
        );
        let share = |value: f64, peak: f64| {
            if peak > 0.0 && value > 0.0 { format!("{:.0} %", 100.0 * value / peak) } else { "-".into() }
        };
        for row in rows {
            let (gigabytes, tflops) = (row.bytes as f64 / row.milliseconds / 1e6, row.flops / row.milliseconds / 1e9);
            println!(
                "| {} | {:.0} | {:.3} | {:.1} % | {gigabytes:.0} | {} | {tflops:.0} | {} |",
                row.name,
                row.calls as f64 / per,
                row.milliseconds / per,
                100.0 * row.milliseconds / total,
                share(gigabytes, self.gigabytes),
                share(tflops, self.tflops),
            );
        }
        println!(
            "\nkernels together {:.3} ms a step; a step takes {step_ms:.3} ms when it is not profiled",
            total / per
        );
        let row = |row: &ProfileRow| {
            json!({
                "name": row.name,
                "calls": row.calls as f64 / per,
                "ms": row.milliseconds / per,
                "bytes": row.bytes as f64 / per,
                "flops": row.flops / per,
            })
        };
        rows.iter().map(row).collect()
    }
}

/// Where it runs, and a handle of the device that watches its memory.
struct Place {
    placement: Placement,
    watch: Option<(Device, usize)>,
}

impl Place {
    fn parse(arguments: &mut Arguments, quantization: Option<Quantization>) -> Result<Self> {
        let compute = match arguments.text("compute", "bfloat16").as_str() {
            "bfloat16" => Compute::Bf16,
            "float32" => Compute::F32,
            other => return Err(format!("--compute {other}: bfloat16 or float32").into()),
        };
        let device = arguments.text("device", "cuda:0");
        if device == "cpu" {
            if quantization.is_some() {
                return Err("--quant works on a GPU".into());
            }
            return Ok(Self { placement: Placement::Cpu, watch: None });
        }
        let ordinal = device.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        let ordinal = ordinal.ok_or_else(|| format!("--device {device}: cpu or cuda:NUMBER"))?;
        let handle = Device::open(ordinal)?;
        let (free, _) = handle.memory()?;
        let placement = Placement::Cuda(CudaPlacement { ordinal, compute, quantization, ranks: None });
        Ok(Self { placement, watch: Some((handle, free)) })
    }

    /// The most bytes allocated together.
    fn most(&self) -> Result<usize> {
        Ok(self.watch.as_ref().map_or(Ok(0), |(device, _)| device.most_allocated())?)
    }

    /// Bytes taken of the device since the start. The engine gives nothing back, so at the end it is the most.
    fn taken(&self) -> Result<usize> {
        let Some((device, before)) = &self.watch else { return Ok(0) };
        Ok(before.saturating_sub(device.memory()?.0))
    }
}

fn open(folder: &str) -> Result<(Arc<Model>, Graph)> {
    let model = Arc::new(Model::open(Path::new(folder))?);
    let host = Arc::new(PluginHost::new(PluginOptions::default())?);
    let plugins = PluginSet::new(host, &[], &plugin_folders())?;
    let trace = plugins.select(&model.config_text)?.trace(&model.config_text, "causal-lm", model.as_ref())?;
    Ok((model, simplify(&trace.graph)))
}

/// xorshift64: any numbers do, but the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// `count` tokens, of the file or random.
fn tokens(file: &str, count: usize, vocabulary: usize) -> Result<Vec<u32>> {
    if file.is_empty() {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        return Ok((0..count).map(|_| (random.next() % vocabulary as u64) as u32).collect());
    }
    let bytes = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    if bytes.len() != 4 * count {
        return Err(format!("{file} holds {} tokens, {count} are needed", bytes.len() / 4).into());
    }
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

fn milliseconds(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}

/// The numbers of `config.json` that the work follows from.
struct Shape {
    vocabulary: usize,
    weights: f64,
    layers: f64,
    queries: f64,
    keys: f64,
}

impl Shape {
    fn of(model: &Model) -> Result<Self> {
        let config: Value = serde_json::from_str(&model.config_text)?;
        let number = |name: &str| config[name].as_f64().ok_or_else(|| format!("config.json has no {name}"));
        let (hidden, heads, layers) =
            (number("hidden_size")?, number("num_attention_heads")?, number("num_hidden_layers")?);
        let head = config["head_dim"].as_f64().unwrap_or(hidden / heads);
        let (queries, keys) = (heads * head, number("num_key_value_heads")? * head);
        let layer = 2.0 * hidden * (queries + keys) + 3.0 * hidden * number("intermediate_size")?;
        let vocabulary = number("vocab_size")?;
        Ok(Self {
            vocabulary: vocabulary as usize,
            weights: layers * layer + vocabulary * hidden,
            layers,
            queries,
            keys,
        })
    }

    /// Floating-point operations of a training step: two passes for each weight that is frozen, three for each trained
    /// one, attention causal with a backward of twice the forward; adapters left out.
    fn training(&self, full: bool, rows: usize, length: usize) -> f64 {
        let attention = 2.0 * length as f64 * self.queries * self.layers;
        (rows * length) as f64 * (if full { 6.0 } else { 4.0 } * self.weights + 3.0 * attention)
    }

    /// Bytes a step of decoding must read: all weights in two bytes, and keys and values at half of the way.
    fn decoding(&self, batch: usize, prompt: usize, new: usize) -> f64 {
        let cached = prompt as f64 + new as f64 / 2.0;
        2.0 * self.weights + 2.0 * batch as f64 * 2.0 * self.layers * self.keys * cached
    }
}

fn train(mut arguments: Arguments) -> Result<Map<String, Value>> {
    let quant = arguments.text("quant", "none");
    let quantization = match quant.as_str() {
        "none" => None,
        "nf4" => Some(Quantization::Nf4 { double: false }),
        "nf4-double" => Some(Quantization::Nf4 { double: true }),
        "int8" => Some(Quantization::Int8),
        other => return Err(format!("--quant {other}: none, nf4, nf4-double or int8").into()),
    };
    let place = Place::parse(&mut arguments, quantization)?;
    let rows = arguments.text("rows", "8x2048");
    let sizes = rows.split_once('x').and_then(|(n, length)| Some((n.parse().ok()?, length.parse().ok()?)));
    let (count, length): (usize, usize) = sizes.ok_or_else(|| format!("--rows {rows}: as 8x2048"))?;
    let rank = arguments.number("rank", 16)?;
    let tuner = match arguments.text("tuner", "lora").as_str() {
        "full" => Tuner::Full,
        "lora" => Tuner::Lora(LoraConfig {
            rank,
            alpha: 2.0 * rank as f64,
            dropout: 0.0,
            targets: Targets::AllLinear,
            ..LoraConfig::default()
        }),
        other => return Err(format!("--tuner {other}: lora or full").into()),
    };
    let full = tuner == Tuner::Full;
    let (steps, warmup) = (arguments.number("steps", 8)?, arguments.number("warmup", 3usize)?);
    let recompute_blocks = arguments.number("recompute", false)?;
    let (folder, file) = (arguments.text("model", "."), arguments.text("tokens", ""));
    let (peaks, profiled) = (Peaks::parse(&mut arguments)?, arguments.number("profile", 0usize)?);
    arguments.end()?;

    let opened = Instant::now();
    let (model, graph) = open(&folder)?;
    let shape = Shape::of(&model)?;
    let ids = tokens(&file, count * length, shape.vocabulary)?;
    let sequences: Vec<&[u32]> = ids.chunks_exact(length).collect();
    let mut batch = Batch::of_sequences(&sequences);
    for (row, target) in batch.targets.iter_mut().enumerate() {
        if (row + 1) % length != 0 {
            *target = ids[row + 1];
            batch.weights[row] = 1.0;
        }
    }
    let labelled = batch.weights.iter().filter(|weight| **weight != 0.0).count();
    let options = TrainOptions {
        tuner,
        recompute_blocks,
        seed: 0,
        optimizer: AdamWOptions::default(),
        placement: place.placement.clone(),
    };
    let mut session = TrainSession::new(graph, model, options)?;
    let open_ms = milliseconds(opened);
    let (mut times, mut losses) = (Vec::new(), Vec::new());
    for step in 0..warmup + steps {
        let start = Instant::now();
        let sums = session.accumulate(&batch, 1.0 / labelled as f32, step as u64)?;
        session.step(1e-4, None)?;
        times.push(milliseconds(start));
        losses.push(sums.loss / sums.weight);
    }
    let (memory, taken) = (place.most()?, place.taken()?);
    let step_ms = median(&times[warmup..]);
    let tflops = shape.training(full, count, length) / step_ms / 1e9;
    let mut result = json!({
        "step_ms": step_ms,
        "tokens_per_second": 1e3 * (count * length) as f64 / step_ms,
        "memory": memory,
        "taken": taken,
        "planned": session.memory_plan(count * length).total(),
        "tflops": tflops,
        "first_loss": losses.first(),
        "last_loss": losses.last(),
        "trained": session.trainable().iter().map(|tensor| tensor.elements).sum::<usize>(),
        "open_ms": open_ms,
        "first_step_ms": times.first(),
        "slowest_ms": times[warmup..].iter().copied().fold(0.0, f64::max),
    });
    if peaks.tflops > 0.0 {
        result["share"] = json!(tflops / peaks.tflops);
    }
    if profiled > 0 {
        // What is measured is said first: a profile that fails takes nothing along.
        println!("{result}");
        session.start_profile();
        for step in 0..profiled {
            session.accumulate(&batch, 1.0 / labelled as f32, step as u64)?;
            session.step(1e-4, None)?;
        }
        result["profile"] = peaks.show(&session.end_profile()?, profiled, step_ms);
    }
    Ok(result.as_object().cloned().unwrap_or_default())
}

/// Greedy generation; gives the tokens of each sequence and the time of the prompts and of each later step. `before` is
/// called before each step, the prompts' (0) first.
fn greedy(
    session: &mut InferSession,
    prompts: &[&[u32]],
    new: usize,
    before: impl Fn(&mut InferSession, usize),
) -> Result<(Vec<Vec<u32>>, f64, Vec<f64>)> {
    let ids = prompts.iter().map(|_| session.start()).collect::<std::result::Result<Vec<_>, _>>()?;
    let mut out: Vec<Vec<u32>> = vec![Vec::with_capacity(new); prompts.len()];
    let (mut prefill, mut steps) = (0.0, Vec::new());
    for position in 0..new {
        before(session, position);
        let start = Instant::now();
        let work: Vec<_> = (0..prompts.len())
            .map(|i| (ids[i], if position == 0 { prompts[i] } else { &out[i][position - 1..position] }))
            .collect();
        let choice = Choice { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 0, position: position as u64 };
        let chosen = if session.can_choose() {
            session.choose(&work, &vec![choice; work.len()])?
        } else {
            // Ties go to the first, as on the device.
            let largest = |row: &Vec<f32>| (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
            session.extend(&work)?.iter().map(|row| largest(row) as u32).collect()
        };
        out.iter_mut().zip(chosen).for_each(|(tokens, token)| tokens.push(token));
        if position == 0 {
            prefill = milliseconds(start);
        } else {
            steps.push(milliseconds(start));
        }
    }
    ids.into_iter().for_each(|id| session.end(id));
    Ok((out, prefill, steps))
}

fn generate(mut arguments: Arguments) -> Result<Map<String, Value>> {
    let place = Place::parse(&mut arguments, None)?;
    let batch = arguments.number("batch", 1)?;
    let (prompt, new) = (arguments.number("prompt", 128)?, arguments.number("new", 256usize)?);
    let (folder, file) = (arguments.text("model", "."), arguments.text("tokens", ""));
    let (peaks, profiled) = (Peaks::parse(&mut arguments)?, arguments.number("profile", 0usize)?);
    arguments.end()?;

    let opened = Instant::now();
    let (model, graph) = open(&folder)?;
    let shape = Shape::of(&model)?;
    let mut session = InferSession::new(graph, model, &place.placement)?;
    let ids = tokens(&file, batch * prompt, session.vocabulary())?;
    let prompts: Vec<&[u32]> = ids.chunks_exact(prompt).collect();
    let open_ms = milliseconds(opened);
    // Once for everything that is compiled, captured or grown at first use.
    let (_, first_prefill, _) = greedy(&mut session, &prompts, new, |_, _| ())?;
    let start = Instant::now();
    let (out, prefill, steps) = greedy(&mut session, &prompts, new, |_, _| ())?;
    let total = milliseconds(start);
    let decode = steps.iter().sum::<f64>() / steps.len().max(1) as f64;
    let rate = shape.decoding(batch, prompt, new) / decode / 1e6;
    let mut result = json!({
        "seconds": total / 1e3,
        "new": new,
        "step_ms": total / new as f64,
        "tokens_per_second": 1e3 * (batch * new) as f64 / total,
        "prefill_ms": prefill,
        "decode_ms": decode,
        "decode_median_ms": median(&steps),
        "gigabytes_per_second": rate,
        "memory": place.most()?,
        "taken": place.taken()?,
        "open_ms": open_ms,
        "first_prefill_ms": first_prefill,
        "tokens": out[0],
    });
    if peaks.gigabytes > 0.0 {
        result["share"] = json!(rate / peaks.gigabytes);
    }
    if profiled > 0 {
        println!("{result}");
        // The prompts' step is not among them.
        let begin = |session: &mut InferSession, position| {
            if position == 1 {
                session.start_profile();
            }
        };
        greedy(&mut session, &prompts, 1 + profiled, begin)?;
        result["profile"] = peaks.show(&session.end_profile()?, profiled, decode);
    }
    Ok(result.as_object().cloned().unwrap_or_default())
}

/// Median time of one of ten calls in a row, waited for together.
fn repeated(mut call: impl FnMut() -> Result<()>, wait: impl Fn() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..12 {
        wait()?;
        let start = Instant::now();
        for _ in 0..10 {
            call()?;
        }
        wait()?;
        times.push(milliseconds(start) / 10.0);
    }
    Ok(median(&times[2..]))
}

/// The matrix product of the kernels on random numbers (zeros would let the chip run faster), and a copy.
fn ceilings(mut arguments: Arguments) -> Result<Map<String, Value>> {
    let place = Place::parse(&mut arguments, None)?;
    let (size, bytes) = (arguments.number("size", 8192usize)?, arguments.number("bytes", 1usize << 32)?);
    arguments.end()?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut matrix =
        || -> Vec<f32> { (0..size * size).map(|_| (random.next() >> 40) as f32 / 8388608.0 - 1.0).collect() };
    let (a, b) = (matrix(), matrix());
    let (matmul, copy) = if let Some((device, _)) = &place.watch {
        let (a, b) = (device.from_f32(&a, Dtype::Bf16)?, device.from_f32(&b, Dtype::Bf16)?);
        let product = device.allocate(2 * size * size)?;
        let operand = |buffer: &cuda::Buffer| Operand::new(buffer.tensor(Dtype::Bf16), size, size);
        let wait = || Ok(device.synchronize()?);
        let matmul = repeated(
            || Ok(cuda::matmul(device, operand(&a), false, operand(&b), true, 1.0, 0.0, None, operand(&product))?),
            wait,
        )?;
        let (from, to) = (device.allocate(bytes)?, device.allocate(bytes)?);
        device.zero(from.tensor(Dtype::U8))?;
        (matmul, repeated(|| Ok(device.copy(from.tensor(Dtype::U8), to.tensor(Dtype::U8))?), wait)?)
    } else {
        let mut product = vec![0.0; size * size];
        let matmul = repeated(
            || {
                swift_kernels::linear(&a, size, size, Weight::F32(&b), size, None, 1.0, 0.0, &mut product);
                Ok(())
            },
            || Ok(()),
        )?;
        let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
        let copy = || {
            std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(&from));
            Ok(())
        };
        (matmul, repeated(copy, || Ok(()))?)
    };
    let result = json!({
        "tflops": 2.0 * (size as f64).powi(3) / matmul / 1e9,
        "copy_gbs": 2.0 * bytes as f64 / copy / 1e6,
        "device": place.watch.as_ref().map_or_else(|| "cpu".into(), |(device, _)| device.name()),
    });
    Ok(result.as_object().cloned().unwrap_or_default())
}

fn run() -> Result<Map<String, Value>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (verb, rest) = words.split_first().ok_or("train, generate or ceilings?")?;
    let arguments = Arguments::parse(rest)?;
    match verb.as_str() {
        "train" => train(arguments),
        "generate" => generate(arguments),
        "ceilings" => ceilings(arguments),
        other => Err(format!("`{other}`: train, generate or ceilings?").into()),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(result) => {
            println!("{}", Value::Object(result));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
