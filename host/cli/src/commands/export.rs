//! `swift export` and `swift merge-lora`: an adapter merged into its base model.

use std::path::PathBuf;

use swift_export::{ExportError, MergeOptions, merge};
use swift_hub::peft;

use super::{assemble, placement, run_folder::model_name, set_threads};
use crate::{failure::FAILED, failure::Failure, render, settings::ExportSettings};

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        Self { code: FAILED, message: error.to_string(), hints: error.hint().into_iter().collect() }
    }
}

pub(crate) fn run(settings: &ExportSettings) -> Result<(), Failure> {
    let [folder] = settings.model.adapters.as_slice() else {
        return Err(Failure::new(
            "one adapter at a time can be merged",
            "merge the others into the folder this one gives",
        ));
    };
    set_threads(settings.num_threads)?;
    let found = placement::find(&settings.device)?;
    let traced = assemble::open(&settings.model.path, &settings.model)?;
    // The type of what is written is not what is computed in.
    let placed = found.place(&settings.device, None, &traced.model)?;
    let adapter = peft::Adapter::open(folder)?;
    let output = settings
        .output_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}-merged", model_name(&settings.model.path))));
    let options = MergeOptions {
        dtype: settings.model.torch_dtype.as_deref().and_then(assemble::storage_type),
        max_shard_bytes: settings.max_shard_bytes,
        exist_ok: settings.exist_ok,
        placement: placed.placement,
    };
    let report = merge(&traced.model, &traced.graph, &adapter, &output, &options, |path| {
        let traced = assemble::open(path, &settings.model)?;
        Ok::<_, Failure>((traced.model, traced.graph))
    })?;
    render::table(&[
        ("merged", format!("{} matrices of {}", report.merged_matrices, folder.display())),
        ("into", output.display().to_string()),
        ("device", placed.description),
        ("size", format!("{} bytes", render::grouped(report.total_size))),
        (
            "logits",
            format!(
                "differ by {:.1e} from the unmerged model's (allowed {:.0e})",
                report.logits.max_relative_difference, report.logits.bound
            ),
        ),
        (
            "matrices",
            format!("differ by at most {:.2} of what rounding allows", report.matrices.worst_share_of_rounding),
        ),
    ]);
    if report.untied_head {
        render::note(
            "the head is now a tensor of its own (tie_word_embeddings false): the adapter changes one of the two only",
        );
    }
    Ok(())
}
