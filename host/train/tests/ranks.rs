//! The recipe over several ranks, which are threads here: the same run as one process with more accumulation.

mod bigram;

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use bigram::{
    Bigram, Exchange,
    recipe::{VOCABULARY, Watch, adapter, assert_same_files, log_of, samples, settings},
};
use serde_json::{Value, json};
use swift_train::{
    Learner, Outcome, Output, Plan, Resume, ResumeMode, Run, Sample, SftSettings, TrainError, World, checkpoint,
    schedule::Every, sft::sft,
};

/// What one rank ended with.
struct Session {
    outcome: Outcome,
    values: Vec<f32>,
    losses: Vec<f64>,
    warnings: Vec<String>,
    plan: Option<Plan>,
}

/// A job of several ranks.
struct Job<'a> {
    folder: &'a Path,
    settings: SftSettings,
    rows: Vec<Sample>,
    ranks: usize,
    resume: Option<Resume>,
    /// Rank 0 is asked to stop after so many steps.
    stop_after: Option<u64>,
    /// This rank is asked to stop from the start.
    stopped: Option<usize>,
    /// This rank has other rows.
    odd: Option<usize>,
}

impl<'a> Job<'a> {
    fn new(folder: &'a Path, ranks: usize, accumulation: usize) -> Self {
        let settings = SftSettings { gradient_accumulation_steps: accumulation, ..settings() };
        Self { folder, settings, rows: samples(13, 0), ranks, resume: None, stop_after: None, stopped: None, odd: None }
    }

    fn resuming(self, checkpoint: &Path) -> Self {
        Self { resume: Some(Resume { checkpoint: checkpoint.into(), mode: ResumeMode::Everything }), ..self }
    }

    /// Runs the ranks as threads. Those that do not lead are given a folder that does not exist.
    fn run(&self) -> Vec<Result<Session, TrainError>> {
        let exchange = Exchange::new(self.ranks);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.ranks)
                .map(|rank| {
                    let exchange = exchange.clone();
                    scope.spawn(move || self.rank(rank, exchange))
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        })
    }

    fn rank(&self, rank: usize, exchange: Arc<Exchange>) -> Result<Session, TrainError> {
        let stop = AtomicBool::new(self.stopped == Some(rank));
        let mut watch = Watch::new(&stop, self.stop_after);
        let mut learner = Bigram::of_ranks(VOCABULARY, rank, exchange);
        let nowhere = self.folder.join("not-rank-0");
        let rows = if self.odd == Some(rank) { samples(13, 1) } else { self.rows.clone() };
        let outcome = sft(Run {
            settings: &self.settings,
            learner: &mut learner,
            world: World { rank, size: self.ranks },
            train: &rows,
            evaluation: &samples(5, 5),
            run_folder: if rank == 0 { self.folder } else { &nowhere },
            output: Output::Adapter(adapter()),
            args: &json!({"model": "bigram"}),
            title: "bigram",
            resume: self.resume.clone(),
            stop: &stop,
            observer: &mut watch,
        })?;
        assert!(!nowhere.exists(), "rank {rank} wrote files");
        let values = learner.values(bigram::NAME).unwrap().into_owned();
        Ok(Session { outcome, values, losses: watch.losses, warnings: watch.warnings, plan: watch.plan })
    }

    fn good(&self) -> Vec<Session> {
        self.run().into_iter().map(|result| result.unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    fn errors(&self) -> Vec<TrainError> {
        self.run().into_iter().filter_map(Result::err).collect()
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * (1.0 + a.abs())
}

/// Equal but for the last bits of numbers.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => close(a.as_f64().unwrap(), b.as_f64().unwrap()),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[test]
fn ranks_are_one_process_with_more_accumulation() {
    // 13 rows in batches of 2 are 7 micro-batches: the last step of an epoch leaves ranks without any.
    for (ranks, accumulation) in [(1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (9, 1)] {
        let (single, several) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let one = Job::new(single.path(), 1, ranks * accumulation).good().remove(0);
        let all = Job::new(several.path(), ranks, accumulation).good();
        let what = format!("{ranks} ranks, {accumulation} each");
        for (rank, session) in all.iter().enumerate() {
            assert_eq!(session.values, one.values, "weights of rank {rank}, {what}");
            assert_eq!(session.outcome.tokens_seen, one.outcome.tokens_seen, "{what}");
            assert_eq!(session.outcome.best_checkpoint, one.outcome.best_checkpoint, "{what}");
            assert_eq!(session.plan.is_some(), rank == 0, "only rank 0 reports, {what}");
        }
        let plan = all[0].plan.as_ref().unwrap();
        assert_eq!((plan.world_size, plan.samples_per_step), (ranks, 2 * ranks * accumulation));
        assert_eq!(all[0].losses.len(), one.losses.len());
        for (a, b) in all[0].losses.iter().zip(&one.losses) {
            assert!(close(*a, *b), "{what}: {a} is not {b}");
        }
        let logs = [log_of(several.path()), log_of(single.path())];
        assert_eq!(logs[0].len(), logs[1].len());
        for (a, b) in logs[0].iter().zip(&logs[1]) {
            assert!(same(a, b), "{what}:\n{a}\n{b}");
        }
        let names = |folder: &Path| -> Vec<_> {
            checkpoint::list(folder).unwrap().iter().map(|(_, path)| path.file_name().unwrap().to_owned()).collect()
        };
        assert_eq!(names(several.path()), names(single.path()), "{what}");
    }
}

#[test]
fn a_rank_that_fails_ends_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = Job::new(folder.path(), 3, 1);
    job.settings.shuffle = false;
    // Row 5 is in micro-batch 2 of step 1.
    job.rows[4].sequences[0].tokens[2] = bigram::POISON;
    let errors = job.errors();
    assert_eq!(errors.len(), 3);
    for (rank, error) in errors.iter().enumerate() {
        match error {
            TrainError::NotFinite { quantity: "loss", rows, .. } if rank == 2 => assert!(rows.contains("rows.jsonl:5")),
            TrainError::OtherRanks { ranks } if rank != 2 => assert_eq!(ranks, &[2]),
            other => panic!("rank {rank}: {other}"),
        }
    }
    assert_eq!(errors[0].to_string(), "rank 2 failed, so this one stops too");
    assert!(errors[0].hint().is_some());
}

#[test]
fn files_that_cannot_be_written_end_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    // Fails at the start (no folder), and later on (a file where the checkpoint goes).
    let missing = folder.path().join("missing");
    let errors = Job::new(&missing, 2, 1).errors();
    assert!(matches!(errors[0], TrainError::Io { .. }), "{}", errors[0]);
    assert!(matches!(&errors[1], TrainError::OtherRanks { ranks } if ranks == &[0]), "{}", errors[1]);
    std::fs::write(folder.path().join("images"), "in the way").unwrap();
    let errors = Job::new(folder.path(), 2, 1).errors();
    assert!(matches!(errors[0], TrainError::Io { .. }), "{}", errors[0]);
    assert!(matches!(&errors[1], TrainError::OtherRanks { ranks } if ranks == &[0]), "{}", errors[1]);
}

#[test]
fn ranks_with_other_rows_do_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job { odd: Some(1), ..Job::new(folder.path(), 3, 1) };
    let errors = job.errors();
    assert_eq!(errors.len(), 3);
    assert!(matches!(errors[1], TrainError::Disagreement { rank: 1 }), "{}", errors[1]);
    assert!(checkpoint::list(folder.path()).unwrap().is_empty());
}

#[test]
fn ranks_stop_together_and_resume_to_the_same_weights() {
    let whole = tempfile::tempdir().unwrap();
    let reference = Job::new(whole.path(), 2, 2).good().remove(0);
    let last = reference.outcome.last_checkpoint.unwrap();
    for (stop_after, stopped, step) in [(Some(4), None, 4), (None, Some(1), 1)] {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Job { stop_after, stopped, ..Job::new(folder.path(), 2, 2) }.good();
        for session in &sessions {
            assert!(session.outcome.interrupted);
            assert_eq!(session.outcome.global_step, if stop_after.is_some() { step + 1 } else { step });
        }
        let checkpoint = sessions[0].outcome.last_checkpoint.clone().unwrap();
        let resumed = Job::new(folder.path(), 2, 2).resuming(&checkpoint).good();
        assert!(resumed[0].warnings.is_empty(), "{:?}", resumed[0].warnings);
        assert_eq!(resumed[1].values, reference.values);
        assert_same_files(resumed[0].outcome.last_checkpoint.as_ref().unwrap(), &last);
        assert_eq!(log_of(folder.path()), log_of(whole.path()));
    }
}

#[test]
fn another_number_of_ranks_resumes_where_steps_stay_the_same() {
    let whole = tempfile::tempdir().unwrap();
    let reference = Job::new(whole.path(), 2, 2).good().remove(0);
    let checkpoint = whole.path().join("checkpoint-3");
    for (ranks, accumulation) in [(1, 4), (4, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let resumed = Job::new(folder.path(), ranks, accumulation).resuming(&checkpoint).good();
        assert_eq!(resumed[0].values, reference.values);
        assert_eq!(resumed[0].warnings.len(), 1);
        assert!(resumed[0].warnings[0].contains("instead of 2 ranks"), "{:?}", resumed[0].warnings);
    }
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(folder.path(), 3, 2).resuming(&checkpoint);
    for error in job.errors() {
        let TrainError::Resume { message, .. } = &error else { panic!("{error}") };
        assert!(message.contains("--gradient_accumulation_steps times the number of ranks"), "{error}");
    }
}

#[test]
fn runs_without_evaluation_and_saving_end_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = Job::new(folder.path(), 2, 1);
    job.settings = SftSettings { evaluate: Every::Never, save: Every::Never, max_steps: Some(3), ..job.settings };
    let sessions = job.good();
    assert!(sessions.iter().all(|session| session.outcome.global_step == 3));
    assert_eq!(sessions[0].values, sessions[1].values);
}
