//! The recipe on a model of a few numbers: exact resume, denominators, guards, what is kept.

mod bigram;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use bigram::{
    Bigram,
    recipe::{VOCABULARY, Watch, adapter, assert_same_files, log_of, samples, settings},
};
use serde_json::json;
use swift_graph::Checkpoint;
use swift_hub::peft::Adapter;
use swift_train::{
    Learner, Outcome, Output, Plan, Resume, ResumeMode, Run, Sample, SftSettings, TrainError, World, checkpoint,
    learner::BoxError,
    lora_files,
    sft::{FullModelWriter, sft},
};

struct Session {
    outcome: Outcome,
    losses: Vec<f64>,
    warnings: Vec<String>,
    plan: Plan,
    learner: Bigram,
}

/// Rounds the table to bf16, as a full checkpoint does.
struct Rounded;

impl FullModelWriter for Rounded {
    fn write(&self, folder: &Path, learner: &dyn Learner) -> Result<(), BoxError> {
        let values = learner.values(bigram::NAME).ok_or("no values")?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
        fs::write(folder.join("model.bin"), bytes)?;
        Ok(())
    }
}

fn train(
    folder: &Path,
    settings: &SftSettings,
    rows: &[Sample],
    resume: Option<Resume>,
    stop_after: Option<u64>,
    full: bool,
) -> Result<Session, TrainError> {
    let stop = AtomicBool::new(false);
    let mut watch = Watch::new(&stop, stop_after);
    let mut learner = Bigram::new(VOCABULARY);
    let outcome = sft(Run {
        settings,
        learner: &mut learner,
        world: World::default(),
        train: rows,
        evaluation: &samples(4, 5),
        run_folder: folder,
        output: if full { Output::Full(&Rounded) } else { Output::Adapter(adapter()) },
        args: &json!({"model": "bigram"}),
        title: "bigram",
        resume,
        stop: &stop,
        observer: &mut watch,
    })?;
    let (losses, warnings) = (watch.losses, watch.warnings);
    Ok(Session { outcome, losses, warnings, plan: watch.plan.unwrap(), learner })
}

fn resume_from(checkpoint: PathBuf) -> Option<Resume> {
    Some(Resume { checkpoint, mode: ResumeMode::Everything })
}

#[test]
fn a_run_stopped_anywhere_and_resumed_is_the_uninterrupted_run() {
    for full in [false, true] {
        let whole = tempfile::tempdir().unwrap();
        let rows = samples(13, 0);
        let reference = train(whole.path(), &settings(), &rows, None, None, full).unwrap();
        let total = reference.outcome.global_step;
        assert_eq!(total, 12);
        let last = reference.outcome.last_checkpoint.unwrap();
        for stop_after in 1..total {
            let folder = tempfile::tempdir().unwrap();
            let first = train(folder.path(), &settings(), &rows, None, Some(stop_after), full).unwrap();
            assert!(first.outcome.interrupted);
            let checkpoint = first.outcome.last_checkpoint.unwrap();
            assert_eq!(checkpoint::step_of(&checkpoint), Some(stop_after));
            let second = train(folder.path(), &settings(), &rows, resume_from(checkpoint), None, full).unwrap();
            assert!(second.warnings.is_empty(), "{:?}", second.warnings);
            assert_eq!([first.losses, second.losses].concat(), reference.losses, "losses, stopped after {stop_after}");
            let resumed = second.outcome.last_checkpoint.unwrap();
            assert_same_files(&resumed, &last);
            assert_eq!(log_of(folder.path()), log_of(whole.path()), "log, stopped after {stop_after}");
        }
    }
}

#[test]
fn a_killed_run_resumes_from_its_last_whole_checkpoint() {
    let whole = tempfile::tempdir().unwrap();
    let rows = samples(13, 0);
    let reference = train(whole.path(), &settings(), &rows, None, None, false).unwrap();
    // As after kill -9 in step 8: checkpoints 3 and 6, one half-written, and log rows past step 6.
    let killed = tempfile::tempdir().unwrap();
    let _ = train(killed.path(), &settings(), &rows, None, Some(8), false).unwrap();
    fs::rename(killed.path().join("checkpoint-8"), killed.path().join("tmp-checkpoint-8.1")).unwrap();
    let checkpoint = checkpoint::resolve(killed.path()).unwrap();
    assert_eq!(checkpoint::step_of(&checkpoint), Some(6));
    let resumed = train(killed.path(), &settings(), &rows, resume_from(checkpoint), None, false).unwrap();
    let ends = [reference.outcome.last_checkpoint.unwrap(), resumed.outcome.last_checkpoint.unwrap()];
    assert_same_files(&ends[0], &ends[1]);
    assert_eq!(log_of(killed.path()), log_of(whole.path()));
    assert!(!killed.path().join("tmp-checkpoint-8.1").exists());
}

#[test]
fn batches_and_accumulation_give_the_same_steps() {
    let rows = samples(12, 0);
    let losses = |batch, accumulation| {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            SftSettings { per_device_train_batch_size: batch, gradient_accumulation_steps: accumulation, ..settings() };
        let mut no_dropout = settings;
        no_dropout.seed = bigram::SEED_WITHOUT_DROPOUT;
        train(folder.path(), &no_dropout, &rows, None, None, false).unwrap().losses
    };
    let (four, two, one) = (losses(4, 1), losses(2, 2), losses(1, 4));
    for ((a, b), c) in four.iter().zip(&two).zip(&one) {
        assert!((a - b).abs() < 1e-6 && (a - c).abs() < 1e-6, "{a} {b} {c}");
    }
    assert!(four.last().unwrap() < &four[0]);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = samples(13, 0);
    rows[5].sequences[0].tokens[2] = bigram::POISON;
    let Err(error) = train(folder.path(), &settings(), &rows, None, None, false).map(|_| ()) else {
        panic!("a poisoned row trained")
    };
    let TrainError::NotFinite { quantity: "loss", rows, .. } = &error else { panic!("{error}") };
    assert!(rows.contains("rows.jsonl:6"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn another_data_set_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let first = train(folder.path(), &settings(), &samples(13, 0), None, Some(3), false).unwrap();
    let checkpoint = first.outcome.last_checkpoint.unwrap();
    let changed = SftSettings { seed: 1, ..settings() };
    let resumed = train(folder.path(), &changed, &samples(13, 1), resume_from(checkpoint.clone()), None, false);
    let message = resumed.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("the encoded training rows, --seed"), "{message}");
    // The weights alone may be taken.
    let mode = ResumeMode::WeightsFromStart;
    let resume = Some(Resume { checkpoint, mode });
    let other = tempfile::tempdir().unwrap();
    let session = train(other.path(), &changed, &samples(13, 1), resume, Some(1), false).unwrap();
    assert_eq!(session.outcome.global_step, 1);
}

#[test]
fn another_learning_rate_is_resumed_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let rows = samples(13, 0);
    let first = train(folder.path(), &settings(), &rows, None, Some(3), false).unwrap();
    let changed = SftSettings { learning_rate: 0.01, num_train_epochs: 4.0, ..settings() };
    let resume = resume_from(first.outcome.last_checkpoint.unwrap());
    let second = train(folder.path(), &changed, &rows, resume, None, false).unwrap();
    assert_eq!(second.warnings.len(), 1);
    assert!(second.warnings[0].contains("number of steps, --learning_rate"), "{:?}", second.warnings);
    assert_eq!(second.outcome.global_step, 16);
}

#[test]
fn without_optimizer_state_only_the_weights_resume() {
    let folder = tempfile::tempdir().unwrap();
    let rows = samples(13, 0);
    let light = SftSettings { save_only_model: true, ..settings() };
    let first = train(folder.path(), &light, &rows, None, Some(3), false).unwrap();
    let checkpoint = first.outcome.last_checkpoint.unwrap();
    assert!(!checkpoint.join("optimizer.safetensors").exists());
    let error =
        train(folder.path(), &light, &rows, resume_from(checkpoint.clone()), None, false).map(|_| ()).unwrap_err();
    assert!(error.hint().unwrap().contains("--resume_only_model"));
    let resume = Some(Resume { checkpoint, mode: ResumeMode::WeightsAtStep });
    let second = train(folder.path(), &light, &rows, resume, None, false).unwrap();
    assert_eq!(second.losses.len() as u64, second.outcome.max_steps - 3);
}

#[test]
fn the_best_checkpoint_survives_and_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let limited = SftSettings { save_total_limit: Some(1), ..settings() };
    let session = train(folder.path(), &limited, &samples(13, 0), None, None, false).unwrap();
    let best = session.outcome.best_checkpoint.unwrap();
    let evaluations: Vec<(String, f64)> = log_of(folder.path())
        .iter()
        .filter_map(|row| Some((row["global_step/max_steps"].as_str()?.to_string(), row["eval_loss"].as_f64()?)))
        .collect();
    let lowest = evaluations.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!(format!("{}/12", best.trim_start_matches("checkpoint-")), lowest.0);
    assert!(folder.path().join(&best).is_dir());
    assert!(checkpoint::list(folder.path()).unwrap().len() <= 2);
    if cfg!(unix) {
        assert_eq!(fs::read_link(folder.path().join("best")).unwrap(), Path::new(&best));
        assert_eq!(fs::read_link(folder.path().join("last")).unwrap(), Path::new("checkpoint-12"));
    }
    for file in ["images/loss.svg", "logging.jsonl", "runs"] {
        assert!(folder.path().join(file).exists(), "{file}");
    }
}

#[test]
fn steps_are_counted_as_transformers_counts_them() {
    let plan = |epochs, max_steps| {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            SftSettings { num_train_epochs: epochs, max_steps, warmup_steps: 0, warmup_ratio: 0.1, ..settings() };
        train(folder.path(), &settings, &samples(13, 0), None, Some(1), false).unwrap().plan
    };
    // 13 rows, 2 a batch: 7 batches, 2 a step: 4 steps.
    assert_eq!((plan(1.0, None).steps_per_epoch, plan(1.0, None).max_steps), (4, 4));
    assert_eq!(plan(0.6, None).max_steps, 3);
    assert_eq!((plan(1.0, Some(25)).max_steps, plan(1.0, Some(25)).warmup_steps), (25, 3));
}

#[test]
#[cfg(unix)]
fn checkpoints_may_be_read_like_any_other_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let session = train(folder.path(), &settings(), &samples(13, 0), None, Some(1), false).unwrap();
    let checkpoint = session.outcome.last_checkpoint.unwrap();
    let mode = |name: &str| fs::metadata(checkpoint.join(name)).unwrap().permissions().mode();
    assert_eq!(mode("adapter_model.safetensors"), mode("adapter_config.json"));
    assert_eq!(mode("optimizer.safetensors"), mode("adapter_config.json"));
}

#[test]
fn an_adapter_loads_into_another_learner() {
    let folder = tempfile::tempdir().unwrap();
    let session = train(folder.path(), &settings(), &samples(13, 0), None, None, false).unwrap();
    let mut other = Bigram::new(VOCABULARY);
    let adapter = Adapter::open(&session.outcome.last_checkpoint.unwrap()).unwrap();
    assert_eq!(adapter.weights().names(), ["base_model.model.table.weight"]);
    lora_files::load(&adapter, &mut other).unwrap();
    assert_eq!(other.values(bigram::NAME), session.learner.values(bigram::NAME));
    let error = lora_files::load(&adapter, &mut Bigram::new(5)).unwrap_err();
    assert!(error.to_string().contains("[11, 11] there and [5, 5] here"), "{error}");
}
