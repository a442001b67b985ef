//! A model family against an oracle: a folder with a tiny checkpoint and what a reference implementation made of it.
//! Logits of two sequences, packed and alone; greedy tokens through the cache; loss, every gradient, and AdamW's losses.
//!
//! `config.json`, `model.safetensors`, and `oracle.safetensors` with
//! - `input_ids`, `attention_mask`, `labels`, `[2, 24]`: two sequences, padded on the right; `logits` of them
//! - `packed.input_ids` (a sequence of 13 tokens and another, end to end) and `packed.logits`
//! - `greedy.prompt`, `greedy.tokens`: 16 tokens
//! - `loss` (and `loss_f64`), `grad.NAME` of each tensor, `adamw.losses` of full-batch steps
//! - `logits_f64_maxdiff`: how far the reference's own float32 is from float64
//!
//! Tolerances on the CPU: logits within 2e-5 of the largest, or 4 times the reference's own distance from float64; the loss
//! within 1e-6, every gradient within 1e-4 of its largest element, AdamW's losses within 1e-5. On a GPU all within 1e-4.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use swift_engine::{AdamWOptions, Batch, InferSession, MemoryWeights, Placement, TrainOptions, TrainSession, Tuner};
use swift_plugin::ModelPlugin;

use crate::{AuthorError, Result};

/// Columns of a stored batch, padding included.
const WIDTH: usize = 24;
/// Tokens of the first packed sequence.
const FIRST: usize = 13;
/// Tokens that are decoded.
const GREEDY: usize = 16;

/// A file of tensors, as 64-bit floats.
#[derive(Debug, Clone)]
pub struct Stored {
    path: PathBuf,
    /// Shape and values by name.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Stored {
    /// Reads a safetensors file of 32 or 64-bit floats and 64-bit integers.
    ///
    /// # Errors
    /// When it cannot be read or holds something else.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(AuthorError::io("read", path))?;
        let wrong = |what: String| AuthorError::project(path, what, "write the oracle again");
        let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in file.tensors() {
            let values: Vec<f64> = match tensor.dtype() {
                safetensors::Dtype::F32 => numbers(tensor.data(), |bytes| f64::from(f32::from_le_bytes(bytes))),
                safetensors::Dtype::F64 => numbers(tensor.data(), f64::from_le_bytes),
                safetensors::Dtype::I64 => numbers(tensor.data(), |bytes| i64::from_le_bytes(bytes) as f64),
                other => return Err(wrong(format!("`{name}` is {other:?}; F32, F64 and I64 are read"))),
            };
            tensors.insert(name, (tensor.shape().to_vec(), values));
        }
        Ok(Self { path: path.to_path_buf(), tensors })
    }

    /// The values of a tensor.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<&[f64]> {
        self.tensors.get(name).map(|(_, values)| values.as_slice()).ok_or_else(|| {
            AuthorError::project(
                &self.path,
                format!("it holds no `{name}`"),
                "write the oracle again, with all that it takes",
            )
        })
    }

    /// All tensors as the weights of a model.
    pub fn weights(&self) -> MemoryWeights {
        let mut weights = MemoryWeights::default();
        for (name, (shape, values)) in &self.tensors {
            weights.insert(name, shape, values.iter().map(|value| *value as f32).collect());
        }
        weights
    }

    /// Token ids.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.get(name)?.iter().map(|value| *value as u32).collect())
    }

    /// The two sequences without padding, with labels moved one to the left.
    ///
    /// # Errors
    /// When they are not there.
    pub fn batch(&self) -> Result<Batch> {
        let (ids, mask, labels) = (self.get("input_ids")?, self.get("attention_mask")?, self.get("labels")?);
        if [ids.len(), mask.len(), labels.len()] != [2 * WIDTH; 3] {
            return Err(AuthorError::project(&self.path, "its batch is not [2, 24]", "write the oracle again"));
        }
        let mut batch = Batch::default();
        for row in 0..2 {
            let length = mask[row * WIDTH..][..WIDTH].iter().filter(|mask| **mask == 1.0).count();
            batch.sequence_lengths.push(length as u32);
            for i in 0..length {
                let at = row * WIDTH + i;
                batch.tokens.push(ids[at] as u32);
                batch.positions.push(i as u32);
                let label = if i + 1 < length { labels[at + 1] } else { -100.0 };
                batch.targets.push(label.max(0.0) as u32);
                batch.weights.push(if label >= 0.0 { 1.0 } else { 0.0 });
            }
        }
        Ok(batch)
    }

    /// Stored `[2, 24, n]` rows without the padding.
    ///
    /// # Errors
    /// When they are not there.
    pub fn real_rows(&self, name: &str) -> Result<Vec<f64>> {
        let (mask, values) = (self.get("attention_mask")?, self.get(name)?);
        let n = values.len() / (2 * WIDTH);
        let real = (0..2 * WIDTH).filter(|row| mask.get(*row) == Some(&1.0));
        Ok(real.flat_map(|row| values[row * n..(row + 1) * n].to_vec()).collect())
    }
}

fn numbers<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

/// What was compared, for people: a line each.
pub type Lines = Vec<String>;

/// Holds the family in `model` against the oracle in `folder`.
///
/// # Errors
/// When something differs, the plugin fails, or the oracle is not of this form.
pub fn check(model: &ModelPlugin, folder: &Path, placement: &Placement) -> Result<Lines> {
    let path = folder.join("config.json");
    let config = std::fs::read_to_string(&path).map_err(AuthorError::io("read", &path))?;
    let weights = Stored::open(&folder.join("model.safetensors"))?.weights();
    let oracle = Stored::open(&folder.join("oracle.safetensors"))?;
    if model.claims(&config)?.is_none() {
        return Err(AuthorError::project(&path, "the plugin does not claim this model", "name a folder of its family"));
    }
    let graph = model.trace(&config, "causal-lm", &weights)?.graph;
    let mut check = Check { folder, placement: placement.clone(), lines: Lines::new() };

    let unused: Vec<String> = swift_graph::Checkpoint::names(&weights)
        .into_iter()
        .filter(|name| graph.params.iter().all(|parameter| parameter.name != *name))
        .collect();
    if !unused.is_empty() {
        return Err(check.differs(format!("the graph leaves tensors of the checkpoint unused: {}", unused.join(", "))));
    }
    check.lines.push(format!("all {} tensors of the checkpoint are used", graph.params.len()));

    let source = Arc::new(weights);
    let floor = 4.0 * oracle.get("logits_f64_maxdiff")?.first().copied().unwrap_or_default();
    let mut infer = InferSession::new(graph.clone(), source.clone(), placement).map_err(engine)?;
    check.inference(&mut infer, &oracle, floor)?;
    for recompute_blocks in [false, true] {
        let optimizer =
            AdamWOptions { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, decay_norms_and_biases: true };
        let placement = placement.clone();
        let options = TrainOptions { tuner: Tuner::Full, recompute_blocks, seed: 0, optimizer, placement };
        let mut session = TrainSession::new(graph.clone(), source.clone(), options).map_err(engine)?;
        check.training(&mut session, &oracle)?;
    }
    Ok(check.lines)
}

fn engine(error: swift_engine::EngineError) -> AuthorError {
    AuthorError::Component {
        what: error.to_string(),
        author: error.hint().unwrap_or_else(|| "look at the graph with `swift plugin inspect --config`".into()),
    }
}

/// A comparison that is under way.
struct Check<'a> {
    folder: &'a Path,
    placement: Placement,
    lines: Lines,
}

impl Check<'_> {
    fn differs(&self, what: String) -> AuthorError {
        AuthorError::Component {
            what: format!("{what} ({})", self.folder.display()),
            author: "compare the family's blocks with the reference's, from the first on; `swift plugin inspect --config` shows what was built".into(),
        }
    }

    /// The CPU's bound, or on a GPU at least 1e-4: its products and exponentials sum in other orders and round otherwise.
    fn bound(&self, cpu: f64) -> f64 {
        if self.placement == Placement::Cpu { cpu } else { cpu.max(1e-4) }
    }

    fn close(&self, what: &str, a: &[f32], b: &[f64], relative: f64, floor: f64) -> Result<f64> {
        if a.len() != b.len() {
            return Err(self.differs(format!("{what}: {} numbers for {}", a.len(), b.len())));
        }
        let off = a.iter().zip(b).fold(0.0, |most: f64, (x, y)| most.max((f64::from(*x) - y).abs()));
        let allowed = (self.bound(relative) * largest(b)).max(floor);
        if off <= allowed {
            Ok(off)
        } else {
            Err(self.differs(format!("{what}: off by {off:.2e}, allowed are {allowed:.2e}")))
        }
    }

    fn inference(&mut self, infer: &mut InferSession, oracle: &Stored, floor: f64) -> Result<()> {
        let logits = infer.logits(&oracle.batch()?).map_err(engine)?;
        let off = self.close("logits", &logits, &oracle.real_rows("logits")?, 2e-5, floor)?;
        self.lines.push(format!("logits equal, off by {off:.1e} at most"));

        let ids = oracle.ids("packed.input_ids")?;
        if ids.len() <= FIRST {
            return Err(self.differs("the oracle's packed sequences are too short".into()));
        }
        let packed = Batch::of_sequences(&[&ids[..FIRST], &ids[FIRST..]]);
        let packed = infer.logits(&packed).map_err(engine)?;
        self.close("packed logits", &packed, oracle.get("packed.logits")?, 2e-5, floor)?;
        self.lines.push("packed sequences do not see each other".into());

        let sequence = infer.start().map_err(engine)?;
        let mut row = infer.extend(&[(sequence, &oracle.ids("greedy.prompt")?)]).map_err(engine)?.remove(0);
        let mut greedy = Vec::new();
        for _ in 0..GREEDY {
            let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or_default() as u32;
            greedy.push(best);
            row = infer.extend(&[(sequence, &[best])]).map_err(engine)?.remove(0);
        }
        let wanted = oracle.ids("greedy.tokens")?;
        if greedy != wanted {
            return Err(self.differs(format!("greedy tokens are {greedy:?}, not {wanted:?}")));
        }
        // Token by token with a cache, as in the whole forward: f32 sums in another order, 1e-5.
        let whole = infer.logits(&Batch::of_sequences(&[&ids[..FIRST]])).map_err(engine)?;
        let (sequence, width) = (infer.start().map_err(engine)?, whole.len() / FIRST);
        for (i, token) in ids[..FIRST].iter().enumerate() {
            let row = infer.extend(&[(sequence, &[*token])]).map_err(engine)?.remove(0);
            let reference: Vec<f64> = whole[i * width..(i + 1) * width].iter().map(|value| f64::from(*value)).collect();
            self.close("logits through the cache", &row, &reference, 1e-5, floor)?;
        }
        self.lines.push(format!("decoding through the cache equals the forward; {GREEDY} greedy tokens equal"));
        Ok(())
    }

    /// Loss and gradients at the start, then the losses of full-batch AdamW steps.
    fn training(&mut self, session: &mut TrainSession, oracle: &Stored) -> Result<()> {
        let batch = oracle.batch()?;
        let tokens = batch.weights.iter().filter(|weight| **weight != 0.0).count() as f64;
        let references = oracle.get("adamw.losses")?;
        for (step, reference) in references.iter().enumerate() {
            let sums = session.accumulate(&batch, (1.0 / tokens) as f32, step as u64).map_err(engine)?;
            let loss = sums.loss / tokens;
            if step == 0 {
                let exact =
                    oracle.get("loss_f64").or_else(|_| oracle.get("loss"))?.first().copied().unwrap_or_default();
                if (loss - exact).abs() > self.bound(1e-6) * exact {
                    return Err(self.differs(format!("the loss is {loss}, not {exact}")));
                }
                for info in session.trainable() {
                    let gradient = session.gradient(&info.name).unwrap_or_default();
                    if gradient.iter().all(|value| *value == 0.0) {
                        return Err(self.differs(format!("`{}` gets no gradient", info.name)));
                    }
                    let what = format!("the gradient of `{}`", info.name);
                    self.close(&what, &gradient, oracle.get(&format!("grad.{}", info.name))?, 1e-4, 0.0)?;
                }
            }
            if (loss - reference).abs() > self.bound(1e-5) * reference {
                return Err(self.differs(format!("after {step} steps of AdamW the loss is {loss}, not {reference}")));
            }
            session.step(1e-3, None).map_err(engine)?;
        }
        let line = format!(
            "loss and all {} gradients equal; {} steps of AdamW too",
            session.trainable().len(),
            references.len()
        );
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
        Ok(())
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most: f64, value| most.max(value.abs()))
}
