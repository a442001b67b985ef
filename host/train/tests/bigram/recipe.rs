//! What the tests of the recipe share: samples, settings, an observer, and how to compare what runs leave behind.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use swift_graph::lora::LoraConfig;
use swift_train::{
    Observer, Outcome, Plan, Sample, Sequence, SftSettings, checkpoint,
    logging::{EvalRow, LogRow},
    lora_files::AdapterConfig,
    schedule::{Every, Schedule},
    sft::{BestMetric, StepReport},
};

pub(crate) const VOCABULARY: usize = 11;

pub(crate) fn samples(count: u32, seed: u32) -> Vec<Sample> {
    (0..count)
        .map(|i| {
            let tokens: Vec<u32> = (0..4 + i % 5).map(|j| (i * 7 + j * j * 3 + seed) % VOCABULARY as u32).collect();
            let weights = (0..tokens.len()).map(|j| if j < 2 { 0.0 } else { 1.0 }).collect();
            Sequence { tokens, weights, origin: format!("rows.jsonl:{}", i + 1) }.into()
        })
        .collect()
}

pub(crate) fn settings() -> SftSettings {
    SftSettings {
        per_device_train_batch_size: 2,
        per_device_eval_batch_size: 3,
        gradient_accumulation_steps: 2,
        num_train_epochs: 3.0,
        max_steps: None,
        learning_rate: 0.05,
        schedule: Schedule::Cosine,
        warmup_steps: 2,
        warmup_ratio: 0.0,
        max_grad_norm: Some(1.0),
        weight_decay: 0.1,
        adam_beta1: 0.9,
        adam_beta2: 0.95,
        adam_epsilon: 1e-8,
        logging_steps: 4,
        logging_first_step: true,
        evaluate: Every::Steps(3),
        save: Every::Steps(3),
        save_total_limit: None,
        save_only_model: false,
        best_metric: BestMetric::Loss,
        links: true,
        tensorboard: true,
        shuffle: true,
        seed: 42,
        data_seed: 7,
    }
}

pub(crate) fn adapter() -> AdapterConfig {
    AdapterConfig {
        base_model: "bigram".into(),
        // The table is a module trained whole: its name in the file has PEFT's prefix, its name here has not.
        lora: LoraConfig { rank: 4, modules_to_save: vec!["table".into()], ..LoraConfig::default() },
        tied_embedding: None,
    }
}

/// Stops the run after a number of steps of this session; keeps what was reported.
pub(crate) struct Watch<'a> {
    stop: &'a AtomicBool,
    stop_after: Option<u64>,
    steps: u64,
    pub(crate) losses: Vec<f64>,
    pub(crate) warnings: Vec<String>,
    pub(crate) plan: Option<Plan>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(stop: &'a AtomicBool, stop_after: Option<u64>) -> Self {
        Self { stop, stop_after, steps: 0, losses: vec![], warnings: vec![], plan: None }
    }
}

impl Observer for Watch<'_> {
    fn on_start(&mut self, plan: &Plan, _first_step: u64) {
        self.plan = Some(plan.clone());
    }
    fn on_warning(&mut self, message: &str) {
        self.warnings.push(message.into());
    }
    fn on_step(&mut self, report: &StepReport) {
        self.steps += 1;
        self.losses.push(report.loss);
        if Some(self.steps) == self.stop_after {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
    fn on_log(&mut self, _row: &LogRow) {}
    fn on_eval(&mut self, _row: &EvalRow) {}
    fn on_save(&mut self, checkpoint: &Path) {
        checkpoint::verify(checkpoint).unwrap();
    }
    fn on_end(&mut self, _outcome: &Outcome) {}
}

/// Rows of the log without their timings.
pub(crate) fn log_of(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("logging.jsonl")).unwrap();
    let clean = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        for column in [
            "elapsed_time",
            "remaining_time",
            "memory(GiB)",
            "train_speed(s/it)",
            "train_speed(tokens/s)",
            "eval_runtime",
        ] {
            row.as_object_mut().unwrap().remove(column);
        }
        row
    };
    text.lines().map(clean).collect()
}

/// Every file of a checkpoint except the clock.
pub(crate) fn bytes_of(checkpoint: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(checkpoint).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut bytes = fs::read(&path).unwrap();
        if name == "trainer_state.json" {
            let mut state: Value = serde_json::from_slice(&bytes).unwrap();
            state["elapsed_seconds"] = json!(0);
            bytes = state.to_string().into_bytes();
        }
        if name != checkpoint::MANIFEST {
            files.push((name, bytes));
        }
    }
    files.sort();
    files
}

pub(crate) fn assert_same_files(left: &Path, right: &Path) {
    let (left, right) = (bytes_of(left), bytes_of(right));
    assert_eq!(left.len(), right.len());
    for (a, b) in left.iter().zip(&right) {
        assert!(a == b, "{} and {} differ", a.0, b.0);
    }
}
