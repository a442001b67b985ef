//! What a run writes beside its checkpoints: `logging.jsonl`, TensorBoard events and the picture of the loss.

use std::path::{Path, PathBuf};

use crate::{
    checkpoint,
    error::TrainError,
    logging::{EvalRow, LogFile, LogRow},
    picture,
    tensorboard::EventFile,
};

/// The open files of one run.
pub(crate) struct RunFiles {
    folder: PathBuf,
    title: String,
    log: LogFile,
    events: Option<EventFile>,
}

impl RunFiles {
    /// Opens them for a run that stands at `step`.
    pub(crate) fn open(folder: &Path, step: u64, title: &str, tensorboard: bool) -> Result<Self, TrainError> {
        let log = LogFile::open(folder, step)?;
        let events = tensorboard.then(|| EventFile::create(folder, step)).transpose()?;
        Ok(Self { folder: folder.into(), title: title.into(), log, events })
    }

    /// Adds a row of training.
    pub(crate) fn log(&mut self, row: &LogRow) -> Result<(), TrainError> {
        self.log.append(row.to_json())?;
        if let Some(events) = &mut self.events {
            events.scalars(
                row.step,
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
        Ok(())
    }

    /// Adds an evaluation.
    pub(crate) fn evaluated(&mut self, row: &EvalRow) -> Result<(), TrainError> {
        self.log.append(row.to_json())?;
        if let Some(events) = &mut self.events {
            events.scalars(row.step, &[("eval/loss", row.loss), ("eval/token_acc", row.token_accuracy)])?;
        }
        Ok(())
    }

    /// Draws `images/loss.svg` from the log.
    pub(crate) fn draw(&self) -> Result<(), TrainError> {
        let folder = self.folder.join("images");
        std::fs::create_dir_all(&folder).map_err(TrainError::io("create", &folder))?;
        let column = |name| self.log.column(name);
        let svg = picture::svg(&self.title, &column("loss"), &column("eval_loss"), &column("learning_rate"));
        checkpoint::write_atomically(&folder.join("loss.svg"), svg.as_bytes())
    }
}
