//! Where a training run writes: `output/MODEL/vN-DATE-TIME`, or the folder of the run it resumes.

use std::path::{Path, PathBuf};

use swift_train::{ResumeMode, checkpoint, manifest};

use crate::{failure::Failure, settings::TrainSettings};

/// The run folder and, when resuming, the checkpoint.
pub(crate) struct RunFolder {
    pub(crate) path: PathBuf,
    pub(crate) checkpoint: Option<PathBuf>,
    /// Whether the folder holds the run that is resumed.
    pub(crate) continued: bool,
}

/// Finds the folder or names a new one. It is created when there is something to write.
pub(crate) fn prepare(settings: &TrainSettings, started: &jiff::ZonedDateTime) -> Result<RunFolder, Failure> {
    let resume = settings.resume.as_ref();
    let found = resume.map(|resume| checkpoint::resolve(&resume.path)).transpose()?;
    if let (Some(found), Some(resume)) = (&found, resume)
        && resume.mode != ResumeMode::WeightsFromStart
        && let Some(parent) = found.parent()
        && parent.join(manifest::FILE).is_file()
    {
        return Ok(RunFolder { path: parent.into(), checkpoint: Some(found.clone()), continued: true });
    }
    let root =
        settings.output_dir.clone().unwrap_or_else(|| Path::new("output").join(model_name(&settings.model.path)));
    let path = if settings.add_version {
        root.join(format!("v{}-{}", next_version(&root), started.strftime("%Y%m%d-%H%M%S")))
    } else {
        root
    };
    if !checkpoint::list(&path)?.is_empty() {
        return Err(Failure::new(
            format!("{} already holds the checkpoints of a run", path.display()),
            "choose another --output_dir, use `--add_version true`, or go on with --resume_from_checkpoint",
        ));
    }
    Ok(RunFolder { path, checkpoint: found, continued: false })
}

/// The folder's or file's name without an ending.
pub(crate) fn model_name(model: &Path) -> String {
    let named = std::path::absolute(model).unwrap_or_else(|_| model.into());
    let name = if named.is_dir() { named.file_name() } else { named.file_stem() };
    name.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// One more than the highest `vN-` there.
fn next_version(root: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(root) else { return 0 };
    let versions = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.strip_prefix('v')?.split('-').next()?.parse::<u64>().ok()
    });
    versions.max().map_or(0, |newest| newest + 1)
}
