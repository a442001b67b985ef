//! Supervised fine-tuning, top to bottom. `swift sft` and `swift pt` are this recipe with other samples.
//!
//! Loss: cross-entropy summed over the labelled tokens of all micro-batches of a step, divided by their number in the
//! whole step (counted ahead). Loss weights multiply the sum, not the number. State is (step, weights, optimizer):
//! order and dropout follow from seeds and step, so a resumed run is the uninterrupted one, bit for bit.
//!
//! Over several ranks a step has `gradient_accumulation_steps` micro-batches for each of them, dealt round robin. Every
//! rank plans the whole step, so it knows the denominator; sums are added over the ranks, and rank 0 alone writes.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    batching::{self, Loader, Sample},
    checkpoint,
    clock::Clock,
    error::TrainError,
    learner::{BoxError, Learner, LossSums},
    logging::{EvalRow, LogRow},
    lora_files::{self, AdapterConfig},
    optimizer_files,
    run_files::RunFiles,
    schedule::{Every, Schedule},
    start::{first_state, make_plan, restore},
    state::{Best, Pending, TrainerState},
    world::{Together, World},
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
    /// Of all ranks together.
    pub samples_per_step: usize,
    /// Number of ranks.
    pub world_size: usize,
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

/// The observer of ranks that do not report.
struct Silent;

impl Observer for Silent {
    fn on_start(&mut self, _: &Plan, _: u64) {}
    fn on_warning(&mut self, _: &str) {}
    fn on_step(&mut self, _: &StepReport) {}
    fn on_log(&mut self, _: &LogRow) {}
    fn on_eval(&mut self, _: &EvalRow) {}
    fn on_save(&mut self, _: &Path) {}
    fn on_end(&mut self, _: &Outcome) {}
}

/// One run of the recipe.
pub struct Run<'a> {
    pub settings: &'a SftSettings,
    pub learner: &'a mut dyn Learner,
    /// This process among those that run the same recipe with the same samples.
    pub world: World,
    pub train: &'a [Sample],
    pub evaluation: &'a [Sample],
    /// Exists; checkpoints, logs and pictures go there. Only rank 0 looks at it.
    pub run_folder: &'a Path,
    pub output: Output<'a>,
    /// `args.json`.
    pub args: &'a Value,
    /// Shown on the picture.
    pub title: &'a str,
    pub resume: Option<Resume>,
    /// Set from a signal handler: finish the micro-batch (over several ranks: the step), save, return.
    pub stop: &'a AtomicBool,
    pub observer: &'a mut dyn Observer,
}

/// Trains until `max_steps` or until `stop` is set.
pub fn sft(mut run: Run<'_>) -> Result<Outcome, TrainError> {
    let mut together = Together::new(run.world);
    let result = recipe(&mut run, &mut together);
    if result.is_err() {
        together.tell(run.learner);
    }
    result
}

fn recipe(run: &mut Run<'_>, together: &mut Together) -> Result<Outcome, TrainError> {
    let Run { settings, world, train, evaluation, run_folder, ref output, args, title, ref resume, stop, .. } = *run;
    let learner: &mut dyn Learner = &mut *run.learner;
    let mut silent = Silent;
    let observer: &mut dyn Observer = if world.leads() { &mut *run.observer } else { &mut silent };
    let loader = Loader {
        samples: train.len(),
        batch_size: settings.per_device_train_batch_size,
        accumulation: settings.gradient_accumulation_steps * world.size,
        shuffle: settings.shuffle,
        seed: settings.data_seed,
    };
    let plan = make_plan(settings, &loader, world, train, evaluation, learner)?;
    let mut state = first_state(settings, &plan, train);
    if world.leads() {
        checkpoint::remove_stale(run_folder)?;
    }
    if let Some(resume) = resume {
        state = restore(resume, state, learner, output, observer)?;
    }
    let first_step = state.global_step;
    let open = || RunFiles::open(run_folder, first_step, title, settings.tensorboard);
    let mut files = world.leads().then(open).transpose()?;
    let held_out = batching::digest(evaluation);
    together.agree(learner, &format!("{settings:?} {plan:?} {:?} {first_step} {held_out}", state.identity))?;
    let mut last_checkpoint = resume.as_ref().map(|resume| resume.checkpoint.clone());
    let mut clock = Clock::new(state.elapsed_seconds);
    let mut saved_at = resume.as_ref().map(|_| first_step);
    let mut order = (0, loader.order(0));
    let (mut last_loss, mut last_eval_loss) = (None, None);
    let (mut stopping, mut interrupted) = (false, false);
    observer.on_start(&plan, first_step);

    'steps: while state.global_step < plan.max_steps {
        if stopping {
            interrupted = true;
            break;
        }
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
        let mut own = LossSums::default();
        let mut own_tokens = 0;
        for (micro, samples) in world.share(&window) {
            if world.size == 1 && stop.load(Ordering::Relaxed) {
                interrupted = true;
                break 'steps;
            }
            let batch = batching::batch(samples.iter().copied());
            own_tokens += batch.tokens.len() as u64;
            let key = batching::dropout_key(settings.seed, step, micro as u64);
            let rows = || batching::origins(samples.iter().copied());
            let got = learner
                .accumulate(&batch, (1.0 / labelled as f64) as f32, key)
                .map_err(|source| TrainError::Step { step, rows: rows(), source })?;
            finite(step, "loss", got.loss, rows, last_checkpoint.as_ref())?;
            add(&mut own, &got);
        }
        // Ranks stop after the same step, whichever of them was asked to.
        let stop_here = f64::from(u8::from(stop.load(Ordering::Relaxed)));
        let (sums, [tokens, stops]) = sum(learner, together, &own, [own_tokens as f64, stop_here])?;
        let tokens = tokens as u64;
        stopping = stops > 0.0;
        let rate =
            settings.learning_rate * settings.schedule.factor(state.global_step, plan.warmup_steps, plan.max_steps);
        let rows = || batching::origins(window.iter().flatten().copied());
        together.reachable = false;
        let norm = learner.step(rate, settings.max_grad_norm).map_err(|source| TrainError::Step {
            step,
            rows: rows(),
            source,
        })?;
        together.reachable = true;
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
            peak_memory_bytes: learner.peak_memory_bytes(),
            remaining_seconds: clock.remaining(plan.max_steps - step),
        });

        let first = settings.logging_first_step && step == 1;
        if first || step.is_multiple_of(settings.logging_steps) || step == plan.max_steps {
            let row = log_row(&state, &plan, norm, rate, learner.peak_memory_bytes(), &mut clock);
            if let Some(files) = &mut files {
                files.log(&row)?;
            }
            observer.on_log(&row);
            state.pending = Pending::default();
        }
        if !evaluation.is_empty() && settings.evaluate.is_due(step, plan.steps_per_epoch, plan.max_steps) {
            let row = evaluate(learner, together, world, evaluation, settings, &state, &plan)?;
            if let Some(files) = &mut files {
                files.evaluated(&row)?;
            }
            observer.on_eval(&row);
            note_best(&mut state, &row, settings.best_metric);
            last_eval_loss = Some(row.loss);
        }
        if settings.save.is_due(step, plan.steps_per_epoch, plan.max_steps) {
            state.elapsed_seconds = clock.elapsed();
            let path = save(run_folder, &mut state, learner, world, output, args, settings)?;
            if let Some(files) = &files {
                files.draw()?;
                observer.on_save(&path);
            }
            together.meet(learner)?;
            (last_checkpoint, saved_at) = (Some(path), Some(step));
        }
    }

    // Stopped between two micro-batches: the half-summed gradient is dropped, the resumed run computes it again.
    if interrupted && saved_at != Some(state.global_step) && state.global_step > 0 {
        state.elapsed_seconds = clock.elapsed();
        let path = save(run_folder, &mut state, learner, world, output, args, settings)?;
        observer.on_save(&path);
        last_checkpoint = Some(path);
    }
    if let Some(files) = &files {
        files.draw()?;
    }
    together.meet(learner)?;
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
        peak_memory_bytes: learner.peak_memory_bytes(),
    };
    observer.on_end(&outcome);
    Ok(outcome)
}

/// A step's sums over all ranks, with two numbers more.
fn sum(
    learner: &mut dyn Learner,
    together: &mut Together,
    own: &LossSums,
    more: [f64; 2],
) -> Result<(LossSums, [f64; 2]), TrainError> {
    // Counts are exact in f64 up to 2^53.
    let numbers = [own.loss, own.weight, own.correct as f64, own.counted as f64, more[0], more[1]];
    let [loss, weight, correct, counted, first, second] = together.sum(learner, numbers)?;
    Ok((LossSums { loss, weight, correct: correct as u64, counted: counted as u64 }, [first, second]))
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

fn log_row(
    state: &TrainerState,
    plan: &Plan,
    norm: f64,
    rate: f64,
    peak_memory_bytes: Option<u64>,
    clock: &mut Clock,
) -> LogRow {
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
        peak_memory_bytes,
        seconds_per_step: clock.seconds_per_step(),
        tokens_per_second,
    }
}

/// Mean loss over the labelled tokens of the whole validation set, whatever the batch size and the number of ranks.
fn evaluate(
    learner: &mut dyn Learner,
    together: &mut Together,
    world: World,
    samples: &[Sample],
    settings: &SftSettings,
    state: &TrainerState,
    plan: &Plan,
) -> Result<EvalRow, TrainError> {
    let started = Instant::now();
    let mut own = LossSums::default();
    for (_, chunk) in world.share(samples.chunks(settings.per_device_eval_batch_size)) {
        let step = state.global_step;
        let failed = |source| TrainError::Step { step, rows: batching::origins(chunk), source };
        add(&mut own, &learner.evaluate(&batching::batch(chunk)).map_err(failed)?);
    }
    let (sums, _) = sum(learner, together, &own, [0.0; 2])?;
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

/// Writes a checkpoint and removes the oldest beyond the limit. Ranks other than 0 only note it.
fn save(
    run_folder: &Path,
    state: &mut TrainerState,
    learner: &dyn Learner,
    world: World,
    output: &Output<'_>,
    args: &Value,
    settings: &SftSettings,
) -> Result<PathBuf, TrainError> {
    let name = format!("checkpoint-{}", state.global_step);
    if state.best.as_ref().is_some_and(|best| best.step == state.global_step) {
        state.best_model_checkpoint = Some(name.clone());
    }
    if !world.leads() {
        // The folder is rank 0's: only the name is known here.
        return Ok(name.into());
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
