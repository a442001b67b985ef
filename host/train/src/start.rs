//! How a run starts: its plan, its first state, and what a checkpoint gives it.

use swift_hub::peft::Adapter;

use crate::{
    batching::{self, Loader, Sample},
    checkpoint,
    error::TrainError,
    learner::Learner,
    lora_files::{self, AdapterConfig},
    optimizer_files, schedule,
    sft::{Observer, Output, Plan, Resume, ResumeMode, SftSettings},
    state::{Course, Identity, Pending, TrainerState},
    world::World,
};

/// What is going to happen, with the settings checked.
pub(crate) fn make_plan(
    settings: &SftSettings,
    loader: &Loader,
    world: World,
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
        world_size: world.size,
        trainable_parameters: trainable.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum(),
        trainable_tensors: trainable.len(),
        most_rows: rows.iter().take(loader.batch_size).sum(),
    })
}

/// The state before the first step.
pub(crate) fn first_state(settings: &SftSettings, plan: &Plan, train: &[Sample]) -> TrainerState {
    TrainerState {
        format: 1,
        global_step: 0,
        steps_per_epoch: plan.steps_per_epoch,
        epoch: 0.0,
        identity: Identity {
            data_sha256: batching::digest(train),
            per_device_train_batch_size: settings.per_device_train_batch_size as u64,
            gradient_accumulation_steps: settings.gradient_accumulation_steps as u64,
            world_size: plan.world_size as u64,
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
pub(crate) fn restore(
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
    if saved.identity.world_size != fresh.identity.world_size {
        observer.on_warning(&format!(
            "resuming with {} instead of {}: gradients are added in another order, so the result will differ from the \
             uninterrupted run in its last bits",
            ranks(fresh.identity.world_size),
            ranks(saved.identity.world_size)
        ));
    }
    let changed = saved.course.differences(&fresh.course);
    if !changed.is_empty() {
        observer.on_warning(&format!(
            "resuming with another {}; the result will differ from the uninterrupted run",
            changed.join(", ")
        ));
    }
    Ok(TrainerState { identity: fresh.identity, course: fresh.course, ..saved })
}

fn ranks(count: u64) -> String {
    if count == 1 { "one process".into() } else { format!("{count} ranks") }
}
