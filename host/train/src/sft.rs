//! Supervised fine-tuning, top to bottom. `swift sft` and `swift pt` are this recipe with other samples.
//!
//! Loss: cross-entropy summed over the labelled tokens of all micro-batches of a step, divided by their number in the
//! whole step (counted ahead). Loss weights multiply the sum, not the number. State is (step, weights, optimizer):
//! order and dropout follow from seeds and step, so a resumed run is the uninterrupted one, bit for bit.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;
use swift_hub::peft::Adapter;

use crate::{
    batching::{self, Loader, Sample},
    checkpoint,
    error::TrainError,
    learner::{BoxError, Learner, LossSums},
    logging::{EvalRow, LogFile, LogRow},
    lora_files::{self, AdapterConfig},
    memory, optimizer_files, picture,
    schedule::{self, Every, Schedule},
    state::{Best, Course, Identity, Pending, TrainerState},
    tensorboard::EventFile,
};

/// Everything that steers the recipe, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct SftSettings {
    pub per_device_train_batch_size: usize,
    pub per_device_eval_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub num_train_epochs: f64,
    /// Overrides `num_train_epochs`.
    pub max_steps: Option<u64>,
    pub learning_rate: f64,
    pub schedule: Schedule,
    /// Overrides `warmup_ratio` unless 0.
    pub warmup_steps: u64,
    pub warmup_ratio: f64,
    /// `None`: gradients are not clipped.
    pub max_grad_norm: Option<f64>,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub logging_steps: u64,
    pub logging_first_step: bool,
    pub evaluate: Every,
    pub save: Every,
    pub save_total_limit: Option<u64>,
    pub save_only_model: bool,
    pub best_metric: BestMetric,
    /// Keep `best` and `last` links in the run folder.
    pub links: bool,
    pub tensorboard: bool,
    pub shuffle: bool,
    pub seed: u64,
    pub data_seed: u64,
}

/// What makes a checkpoint the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BestMetric {
    /// Lowest validation loss.
    Loss,
    /// Highest validation token accuracy.
    TokenAccuracy,
}

/// What a checkpoint holds for its reader.
pub enum Output<'a> {
    /// A PEFT adapter.
    Adapter(AdapterConfig),
    /// A whole Hugging Face folder, written by whoever knows the base checkpoint.
    Full(&'a dyn FullModelWriter),
}

/// Writes a Hugging Face folder with a learner's weights.
pub trait FullModelWriter {
    /// Writes config, tokenizer and weights into an existing empty folder.
    fn write(&self, folder: &Path, learner: &dyn Learner) -> Result<(), BoxError>;
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    pub checkpoint: PathBuf,
    pub mode: ResumeMode,
}

/// How much of a checkpoint to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeMode {
    /// All of it: the run goes on as if it had not stopped.
    Everything,
    /// Weights and place in the data, with a fresh optimizer (`--resume_only_model`).
    WeightsAtStep,
    /// Weights only, from the first step (`--resume_only_model --ignore_data_skip`).
    WeightsFromStart,
}

/// What is going to happen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub train_samples: usize,
    pub eval_samples: usize,
    pub steps_per_epoch: u64,
    pub max_steps: u64,
    pub warmup_steps: u64,
    pub samples_per_step: usize,
    pub trainable_parameters: u64,
    pub trainable_tensors: usize,
    /// Rows of the largest micro-batch possible with these samples.
    pub most_rows: usize,
}

/// One optimizer step, for a progress bar.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    pub step: u64,
    pub max_steps: u64,
    pub epoch: f64,
    pub loss: f64,
    pub tokens_per_second: f64,
    pub peak_memory_bytes: Option<u64>,
    pub remaining_seconds: f64,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    pub global_step: u64,
    pub max_steps: u64,
    /// Stopped on request before `max_steps`.
    pub interrupted: bool,
    pub last_checkpoint: Option<PathBuf>,
    pub best_checkpoint: Option<String>,
    pub best_metric: Option<f64>,
    pub last_loss: Option<f64>,
    pub last_eval_loss: Option<f64>,
    pub tokens_seen: u64,
    pub tokens_trained: u64,
    pub elapsed_seconds: f64,
    pub peak_memory_bytes: Option<u64>,
}

/// Is told what happens. Nothing in a recipe prints.
pub trait Observer {
    fn on_start(&mut self, plan: &Plan, first_step: u64);
    fn on_warning(&mut self, message: &str);
    fn on_step(&mut self, report: &StepReport);
    fn on_log(&mut self, row: &LogRow);
    fn on_eval(&mut self, row: &EvalRow);
    fn on_save(&mut self, checkpoint: &Path);
    fn on_end(&mut self, outcome: &Outcome);
}

/// One run of the recipe.
pub struct Run<'a> {
    pub settings: &'a SftSettings,
    pub learner: &'a mut dyn Learner,
    pub train: &'a [Sample],
    pub evaluation: &'a [Sample],
    /// Exists; checkpoints, logs and pictures go there.
    pub run_folder: &'a Path,
    pub output: Output<'a>,
    /// `args.json`.
    pub args: &'a Value,
    /// Shown on the picture.
    pub title: &'a str,
    pub resume: Option<Resume>,
    /// Set from a signal handler: finish the micro-batch, save, return.
    pub stop: &'a AtomicBool,
    pub observer: &'a mut dyn Observer,
}

/// Trains until `max_steps` or until `stop` is set.
pub fn sft(run: Run<'_>) -> Result<Outcome, TrainError> {
    let Run { settings, learner, train, evaluation, run_folder, output, args, title, resume, stop, observer } = run;
    let loader = Loader {
        samples: train.len(),
        batch_size: settings.per_device_train_batch_size,
        accumulation: settings.gradient_accumulation_steps,
        shuffle: settings.shuffle,
        seed: settings.data_seed,
    };
    let plan = make_plan(settings, &loader, train, evaluation, learner)?;
    let mut state = first_state(settings, &plan, train);
    checkpoint::remove_stale(run_folder)?;
    if let Some(resume) = &resume {
        state = restore(resume, state, learner, &output, observer)?;
    }
    let first_step = state.global_step;
    let mut log = LogFile::open(run_folder, first_step)?;
    let mut events = settings.tensorboard.then(|| EventFile::create(run_folder, first_step)).transpose()?;
    let mut last_checkpoint = resume.as_ref().map(|resume| resume.checkpoint.clone());
    let mut clock = Clock::new(state.elapsed_seconds);
    let mut saved_at = resume.as_ref().map(|_| first_step);
    let mut order = (0, loader.order(0));
    let (mut last_loss, mut last_eval_loss, mut interrupted) = (None, None, false);
    observer.on_start(&plan, first_step);

    'steps: while state.global_step < plan.max_steps {
        // The samples of this step, and the number of tokens its loss is divided by.
        let step = state.global_step + 1;
        let epoch = state.global_step / plan.steps_per_epoch;
        if order.0 != epoch {
            order = (epoch, loader.order(epoch));
        }
        let window: Vec<Vec<&Sample>> = loader
            .window(&order.1, state.global_step % plan.steps_per_epoch)
            .map(|indices| indices.iter().map(|&index| &train[index]).collect())
            .collect();
        let labelled: u64 = window.iter().flatten().map(|sample| sample.labelled()).sum();
        if labelled == 0 {
            let rows = batching::origins(window.iter().flatten().copied());
            return Err(TrainError::NoData { message: format!("no token of step {step} is trained (rows {rows})") });
        }

        // Gradients of the micro-batches add up.
        clock.begin();
        let mut sums = LossSums::default();
        let mut tokens = 0;
        for (micro, samples) in window.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                interrupted = true;
                break 'steps;
            }
            let batch = batching::batch(samples.iter().copied());
            tokens += batch.tokens.len() as u64;
            let key = batching::dropout_key(settings.seed, step, micro as u64);
            let rows = || batching::origins(samples.iter().copied());
            let got = learner
                .accumulate(&batch, (1.0 / labelled as f64) as f32, key)
                .map_err(|source| TrainError::Step { step, rows: rows(), source })?;
            finite(step, "loss", got.loss, rows, last_checkpoint.as_ref())?;
            add(&mut sums, &got);
        }
        let rate =
            settings.learning_rate * settings.schedule.factor(state.global_step, plan.warmup_steps, plan.max_steps);
        let rows = || batching::origins(window.iter().flatten().copied());
        let norm = learner.step(rate, settings.max_grad_norm).map_err(|source| TrainError::Step {
            step,
            rows: rows(),
            source,
        })?;
        finite(step, "gradient norm", norm, rows, last_checkpoint.as_ref())?;
        clock.end(tokens);

        let loss = sums.loss / labelled as f64;
        state.global_step = step;
        state.epoch = step as f64 / plan.steps_per_epoch as f64;
        state.tokens_seen += tokens;
        state.tokens_trained += labelled;
        state.pending.add(loss, &sums);
        last_loss = Some(loss);
        observer.on_step(&StepReport {
            step,
            max_steps: plan.max_steps,
            epoch: state.epoch,
            loss,
            tokens_per_second: clock.tokens_per_second(),
            peak_memory_bytes: memory::peak_bytes(),
            remaining_seconds: clock.remaining(plan.max_steps - step),
        });

        let first = settings.logging_first_step && step == 1;
        if first || step.is_multiple_of(settings.logging_steps) || step == plan.max_steps {
            let row = log_row(&state, &plan, norm, rate, &mut clock);
            log.append(row.to_json())?;
            if let Some(events) = &mut events {
                events.scalars(
                    step,
                    &[
                        ("train/loss", row.loss),
                        ("train/token_acc", row.token_accuracy),
                        ("train/grad_norm", row.gradient_norm),
                        ("train/learning_rate", row.learning_rate),
                        ("train/epoch", row.epoch),
                        ("train/tokens_per_second", row.tokens_per_second),
                    ],
                )?;
            }
            observer.on_log(&row);
            state.pending = Pending::default();
        }
        if !evaluation.is_empty() && settings.evaluate.is_due(step, plan.steps_per_epoch, plan.max_steps) {
            let row = evaluate(learner, evaluation, settings, &state, &plan)?;
            log.append(row.to_json())?;
            if let Some(events) = &mut events {
                events.scalars(step, &[("eval/loss", row.loss), ("eval/token_acc", row.token_accuracy)])?;
            }
            observer.on_eval(&row);
            note_best(&mut state, &row, settings.best_metric);
            last_eval_loss = Some(row.loss);
        }
        if settings.save.is_due(step, plan.steps_per_epoch, plan.max_steps) {
            state.elapsed_seconds = clock.elapsed();
            let path = save(run_folder, &mut state, learner, &output, args, settings)?;
            draw(run_folder, title, &log)?;
            observer.on_save(&path);
            (last_checkpoint, saved_at) = (Some(path), Some(step));
        }
    }

    // Stopped between two micro-batches: the half-summed gradient is dropped, the resumed run computes it again.
    if interrupted && saved_at != Some(state.global_step) && state.global_step > 0 {
        state.elapsed_seconds = clock.elapsed();
        let path = save(run_folder, &mut state, learner, &output, args, settings)?;
        observer.on_save(&path);
        last_checkpoint = Some(path);
    }
    draw(run_folder, title, &log)?;
    let outcome = Outcome {
        global_step: state.global_step,
        max_steps: plan.max_steps,
        interrupted,
        last_checkpoint,
        best_checkpoint: state.best_model_checkpoint,
        best_metric: state.best.map(|best| best.metric),
        last_loss,
        last_eval_loss,
        tokens_seen: state.tokens_seen,
        tokens_trained: state.tokens_trained,
        elapsed_seconds: clock.elapsed(),
        peak_memory_bytes: memory::peak_bytes(),
    };
    observer.on_end(&outcome);
    Ok(outcome)
}

fn make_plan(
    settings: &SftSettings,
    loader: &Loader,
    train: &[Sample],
    evaluation: &[Sample],
    learner: &dyn Learner,
) -> Result<Plan, TrainError> {
    for (name, value) in [
        ("per_device_train_batch_size", settings.per_device_train_batch_size),
        ("per_device_eval_batch_size", settings.per_device_eval_batch_size),
        ("gradient_accumulation_steps", settings.gradient_accumulation_steps),
        ("logging_steps", settings.logging_steps as usize),
    ] {
        if value == 0 {
            return Err(TrainError::Setting { name, message: "must be at least 1".into() });
        }
    }
    if train.is_empty() {
        return Err(TrainError::NoData { message: "no training row is left after encoding".into() });
    }
    let steps_per_epoch = loader.steps_per_epoch();
    // As transformers counts them.
    let from_epochs = (settings.num_train_epochs * steps_per_epoch as f64).ceil() as u64;
    let max_steps = settings.max_steps.unwrap_or(from_epochs);
    if max_steps == 0 {
        let message = "must give at least one step".to_string();
        return Err(TrainError::Setting { name: "num_train_epochs or max_steps", message });
    }
    let mut rows: Vec<usize> = train.iter().map(Sample::rows).collect();
    rows.sort_unstable_by(|a, b| b.cmp(a));
    let trainable = learner.trainable();
    Ok(Plan {
        train_samples: train.len(),
        eval_samples: evaluation.len(),
        steps_per_epoch,
        max_steps,
        warmup_steps: schedule::warmup_steps(max_steps, settings.warmup_steps, settings.warmup_ratio),
        samples_per_step: loader.batch_size * loader.accumulation,
        trainable_parameters: trainable.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum(),
        trainable_tensors: trainable.len(),
        most_rows: rows.iter().take(loader.batch_size).sum(),
    })
}

fn first_state(settings: &SftSettings, plan: &Plan, train: &[Sample]) -> TrainerState {
    TrainerState {
        format: 1,
        global_step: 0,
        steps_per_epoch: plan.steps_per_epoch,
        epoch: 0.0,
        identity: Identity {
            data_sha256: batching::digest(train),
            per_device_train_batch_size: settings.per_device_train_batch_size as u64,
            gradient_accumulation_steps: settings.gradient_accumulation_steps as u64,
            train_dataloader_shuffle: settings.shuffle,
            seed: settings.seed,
            data_seed: settings.data_seed,
        },
        course: Course {
            max_steps: plan.max_steps,
            learning_rate: settings.learning_rate,
            lr_scheduler_type: settings.schedule,
            warmup_steps: plan.warmup_steps,
            max_grad_norm: settings.max_grad_norm,
            weight_decay: settings.weight_decay,
            adam_beta1: settings.adam_beta1,
            adam_beta2: settings.adam_beta2,
            adam_epsilon: settings.adam_epsilon,
        },
        tokens_seen: 0,
        tokens_trained: 0,
        pending: Pending::default(),
        elapsed_seconds: 0.0,
        best: None,
        best_model_checkpoint: None,
    }
}

/// Loads a checkpoint into the learner and returns the state to go on from.
fn restore(
    resume: &Resume,
    fresh: TrainerState,
    learner: &mut dyn Learner,
    output: &Output<'_>,
    observer: &mut dyn Observer,
) -> Result<TrainerState, TrainError> {
    let folder = &resume.checkpoint;
    checkpoint::verify(folder)?;
    let optimizer = folder.join(optimizer_files::FILE);
    let everything = resume.mode == ResumeMode::Everything;
    if everything && !optimizer.is_file() {
        return Err(TrainError::Resume {
            path: folder.clone(),
            message: "it was saved with --save_only_model and has no optimizer state".into(),
            hint: "add `--resume_only_model true` to go on with a fresh optimizer".into(),
        });
    }
    if let Output::Adapter(config) = output {
        let adapter = Adapter::open(folder)?;
        let changed = AdapterConfig::from(&adapter).differences(config);
        if !changed.is_empty() {
            return Err(TrainError::Resume {
                path: folder.clone(),
                message: format!("the adapter there was trained with another {}", changed.join(", ")),
                hint: "give the same values as in the run that wrote it; its args.json lists them".into(),
            });
        }
        lora_files::load(&adapter, learner)?;
    }
    if optimizer.is_file() {
        optimizer_files::restore(&optimizer, learner, everything)?;
    }
    if resume.mode == ResumeMode::WeightsFromStart {
        return Ok(fresh);
    }
    let saved = TrainerState::read(folder)?;
    let differences = saved.identity.differences(&fresh.identity);
    if !differences.is_empty() {
        return Err(TrainError::Resume {
            path: folder.clone(),
            message: format!("not the same as in the run that wrote it: {}", differences.join(", ")),
            hint:
                "restore them, or start over from these weights with `--resume_only_model true --ignore_data_skip true`"
                    .into(),
        });
    }
    let changed = saved.course.differences(&fresh.course);
    if !changed.is_empty() {
        observer.on_warning(&format!(
            "resuming with another {}; the result will differ from the uninterrupted run",
            changed.join(", ")
        ));
    }
    Ok(TrainerState { course: fresh.course, ..saved })
}

fn finite(
    step: u64,
    quantity: &'static str,
    value: f64,
    rows: impl Fn() -> String,
    checkpoint: Option<&PathBuf>,
) -> Result<(), TrainError> {
    if value.is_finite() {
        return Ok(());
    }
    Err(TrainError::NotFinite { step, quantity, value, rows: rows(), checkpoint: checkpoint.cloned() })
}

fn log_row(state: &TrainerState, plan: &Plan, norm: f64, rate: f64, clock: &mut Clock) -> LogRow {
    let pending = &state.pending;
    let tokens_per_second = clock.tokens_per_second();
    clock.new_row();
    LogRow {
        step: state.global_step,
        max_steps: plan.max_steps,
        epoch: state.epoch,
        loss: pending.loss / pending.steps.max(1) as f64,
        token_accuracy: pending.correct as f64 / pending.counted.max(1) as f64,
        gradient_norm: norm,
        learning_rate: rate,
        elapsed_seconds: clock.elapsed(),
        remaining_seconds: clock.remaining(plan.max_steps - state.global_step),
        peak_memory_bytes: memory::peak_bytes(),
        seconds_per_step: clock.seconds_per_step(),
        tokens_per_second,
    }
}

/// Mean loss over the labelled tokens of the whole validation set, whatever the batch size.
fn evaluate(
    learner: &mut dyn Learner,
    samples: &[Sample],
    settings: &SftSettings,
    state: &TrainerState,
    plan: &Plan,
) -> Result<EvalRow, TrainError> {
    let started = Instant::now();
    let mut sums = LossSums::default();
    for chunk in samples.chunks(settings.per_device_eval_batch_size) {
        let rows = || batching::origins(chunk);
        let step = state.global_step;
        let got = learner.evaluate(&batching::batch(chunk)).map_err(|source| TrainError::Step {
            step,
            rows: rows(),
            source,
        })?;
        add(&mut sums, &got);
    }
    let counted = sums.counted.max(1) as f64;
    Ok(EvalRow {
        step: state.global_step,
        max_steps: plan.max_steps,
        epoch: state.epoch,
        loss: sums.loss / counted,
        token_accuracy: sums.correct as f64 / counted,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn add(sums: &mut LossSums, more: &LossSums) {
    sums.loss += more.loss;
    sums.weight += more.weight;
    sums.correct += more.correct;
    sums.counted += more.counted;
}

fn note_best(state: &mut TrainerState, row: &EvalRow, metric: BestMetric) {
    let (value, better): (f64, fn(f64, f64) -> bool) = match metric {
        BestMetric::Loss => (row.loss, |new, old| new < old),
        BestMetric::TokenAccuracy => (row.token_accuracy, |new, old| new > old),
    };
    if value.is_finite() && state.best.as_ref().is_none_or(|best| better(value, best.metric)) {
        state.best = Some(Best { metric: value, step: row.step });
    }
}

/// Writes a checkpoint and removes the oldest beyond the limit.
fn save(
    run_folder: &Path,
    state: &mut TrainerState,
    learner: &dyn Learner,
    output: &Output<'_>,
    args: &Value,
    settings: &SftSettings,
) -> Result<PathBuf, TrainError> {
    let name = format!("checkpoint-{}", state.global_step);
    if state.best.as_ref().is_some_and(|best| best.step == state.global_step) {
        state.best_model_checkpoint = Some(name.clone());
    }
    let path = checkpoint::write(run_folder, state.global_step, |folder| {
        match output {
            Output::Adapter(config) => lora_files::write(folder, config, learner)?,
            Output::Full(writer) => {
                writer.write(folder, learner).map_err(|source| TrainError::SaveModel { path: folder.into(), source })?
            }
        }
        if !settings.save_only_model {
            // A full checkpoint is rounded to its storage type, so the exact values go beside it.
            let masters = matches!(output, Output::Full(_));
            optimizer_files::write(&folder.join(optimizer_files::FILE), learner, masters)?;
        }
        state.write(folder)?;
        checkpoint::write_json(&folder.join("args.json"), args)
    })?;
    let best = state.best_model_checkpoint.as_deref();
    checkpoint::rotate(run_folder, settings.save_total_limit, best, state.global_step)?;
    #[cfg(unix)]
    if settings.links {
        checkpoint::link(run_folder, "last", &name)?;
        if let Some(best) = best {
            checkpoint::link(run_folder, "best", best)?;
        }
    }
    Ok(path)
}

fn draw(run_folder: &Path, title: &str, log: &LogFile) -> Result<(), TrainError> {
    let folder = run_folder.join("images");
    std::fs::create_dir_all(&folder).map_err(TrainError::io("create", &folder))?;
    let svg = picture::svg(title, &log.column("loss"), &log.column("eval_loss"), &log.column("learning_rate"));
    checkpoint::write_atomically(&folder.join("loss.svg"), svg.as_bytes())
}

/// Time spent: all of it, and the part that trained.
struct Clock {
    started: Instant,
    /// Seconds of the sessions before this one.
    before: f64,
    step_started: Instant,
    training: Duration,
    steps: u64,
    row_training: Duration,
    row_tokens: u64,
}

impl Clock {
    fn new(before: f64) -> Self {
        let now = Instant::now();
        let zero = Duration::ZERO;
        Self { started: now, before, step_started: now, training: zero, steps: 0, row_training: zero, row_tokens: 0 }
    }

    fn begin(&mut self) {
        self.step_started = Instant::now();
    }

    fn end(&mut self, tokens: u64) {
        let took = self.step_started.elapsed();
        self.training += took;
        self.row_training += took;
        self.row_tokens += tokens;
        self.steps += 1;
    }

    fn new_row(&mut self) {
        (self.row_training, self.row_tokens) = (Duration::ZERO, 0);
    }

    fn elapsed(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    fn seconds_per_step(&self) -> f64 {
        self.training.as_secs_f64() / self.steps.max(1) as f64
    }

    fn remaining(&self, steps: u64) -> f64 {
        self.started.elapsed().as_secs_f64() / self.steps.max(1) as f64 * steps as f64
    }

    fn tokens_per_second(&self) -> f64 {
        self.row_tokens as f64 / self.row_training.as_secs_f64().max(1e-9)
    }
}
