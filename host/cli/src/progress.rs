//! Shows a training run: a bar where a person watches, plain lines otherwise.

use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use swift_train::{
    Observer, Outcome, Plan,
    logging::{EvalRow, LogRow, duration, gibibytes},
    sft::StepReport,
};

use crate::render;

/// The observer of a command.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { bar: None }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| render::note(text)),
            None => render::note(text),
        }
    }
}

fn memory(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "memory unknown".into(), |bytes| format!("{:.2} GiB", gibibytes(bytes)))
}

impl Observer for Progress {
    fn on_start(&mut self, plan: &Plan, first_step: u64) {
        let parameters = render::grouped(plan.trainable_parameters);
        render::table(&[
            ("training samples", render::grouped(plan.train_samples as u64)),
            ("validation samples", render::grouped(plan.eval_samples as u64)),
            ("trained parameters", format!("{parameters} in {} tensors", plan.trainable_tensors)),
            (
                "steps",
                format!(
                    "{} ({} an epoch, {} samples a step)",
                    plan.max_steps, plan.steps_per_epoch, plan.samples_per_step
                ),
            ),
        ]);
        if first_step > 0 {
            render::note(&format!("resuming after step {first_step}"));
        }
        if render::is_interactive() {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").expect("the template is fixed");
            let bar =
                ProgressBar::with_draw_target(Some(plan.max_steps), ProgressDrawTarget::stderr()).with_style(style);
            bar.set_position(first_step);
            self.bar = Some(bar);
        }
    }

    fn on_warning(&mut self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| render::warning(message)),
            None => render::warning(message),
        }
    }

    fn on_step(&mut self, report: &StepReport) {
        if let Some(bar) = &self.bar {
            bar.set_position(report.step);
            bar.set_message(format!(
                "loss {:.4} · {:.0} tokens/s · {} · {} left",
                report.loss,
                report.tokens_per_second,
                memory(report.peak_memory_bytes),
                duration(report.remaining_seconds)
            ));
        }
    }

    fn on_log(&mut self, row: &LogRow) {
        self.line(&format!(
            "step {}/{}  epoch {:.2}  loss {:.4}  token_acc {:.3}  grad_norm {:.3}  lr {:.2e}  {:.0} tokens/s  {}  {} left",
            row.step,
            row.max_steps,
            row.epoch,
            row.loss,
            row.token_accuracy,
            row.gradient_norm,
            row.learning_rate,
            row.tokens_per_second,
            memory(row.peak_memory_bytes),
            duration(row.remaining_seconds)
        ));
    }

    fn on_eval(&mut self, row: &EvalRow) {
        self.line(&format!(
            "step {}/{}  validation: loss {:.4}  token_acc {:.3}  ({})",
            row.step,
            row.max_steps,
            row.loss,
            row.token_accuracy,
            duration(row.seconds)
        ));
    }

    fn on_save(&mut self, checkpoint: &Path) {
        self.line(&format!("saved {}", checkpoint.display()));
    }

    fn on_end(&mut self, _outcome: &Outcome) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
