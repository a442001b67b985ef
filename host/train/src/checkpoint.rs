//! Checkpoint folders: written under another name, synced, renamed. What is not whole is never picked up.
//!
//! A checkpoint is `<run>/checkpoint-N` with a `checkpoint.json` that lists every other file with its size and SHA-256.
//! While it is written it is `<run>/tmp-checkpoint-N.<pid>`; the rename is the commit.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::TrainError;

/// The manifest's file name.
pub const MANIFEST: &str = "checkpoint.json";
const PREFIX: &str = "checkpoint-";
const TEMPORARY: &str = "tmp-checkpoint-";

/// What a whole checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointManifest {
    /// Version of this layout.
    pub format: u32,
    pub step: u64,
    /// Path inside the folder to size and digest.
    pub files: BTreeMap<String, FileEntry>,
}

/// Size and digest of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub bytes: u64,
    pub sha256: String,
}

/// Writes `<run>/checkpoint-<step>` atomically: `fill` writes the files into an empty folder.
pub fn write(
    run_folder: &Path,
    step: u64,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<PathBuf, TrainError> {
    let pid = std::process::id();
    let temporary = run_folder.join(format!("{TEMPORARY}{step}.{pid}"));
    let destination = run_folder.join(format!("{PREFIX}{step}"));
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(TrainError::io("remove", &temporary))?;
    }
    fs::create_dir_all(&temporary).map_err(TrainError::io("create", &temporary))?;
    let written = fill(&temporary).and_then(|()| seal(&temporary, step));
    if let Err(error) = written {
        // Best effort: a full disk should get its space back; the error itself is what matters.
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    if destination.exists() {
        // A run resumed from an earlier step reaches this one again.
        let replaced = run_folder.join(format!("{TEMPORARY}{step}.replaced.{pid}"));
        fs::rename(&destination, &replaced).map_err(TrainError::io("move away", &destination))?;
        fs::rename(&temporary, &destination).map_err(TrainError::io("rename", &temporary))?;
        fs::remove_dir_all(&replaced).map_err(TrainError::io("remove", &replaced))?;
    } else {
        fs::rename(&temporary, &destination).map_err(TrainError::io("rename", &temporary))?;
    }
    sync_folder(run_folder)?;
    Ok(destination)
}

/// Lists, digests and syncs every file, then writes the manifest last.
fn seal(folder: &Path, step: u64) -> Result<(), TrainError> {
    let mut files = BTreeMap::new();
    for path in files_below(folder)? {
        let entry = entry_of(&path)?;
        File::open(&path).and_then(|file| file.sync_all()).map_err(TrainError::io("sync", &path))?;
        files.insert(relative(folder, &path), entry);
    }
    let manifest = CheckpointManifest { format: 1, step, files };
    let path = folder.join(MANIFEST);
    write_json(&path, &manifest)?;
    sync_folder(folder)
}

/// Reads the manifest and checks every file against it.
pub fn verify(checkpoint: &Path) -> Result<CheckpointManifest, TrainError> {
    let path = checkpoint.join(MANIFEST);
    if !path.is_file() {
        return Err(TrainError::NoCheckpoint {
            path: checkpoint.into(),
            message: format!("it has no {MANIFEST}, which swift writes last"),
        });
    }
    let manifest: CheckpointManifest = read_json(&path)?;
    if manifest.format != 1 {
        return Err(TrainError::Damaged {
            path: checkpoint.into(),
            message: format!("layout {} is newer than this swift knows", manifest.format),
        });
    }
    for (name, expected) in &manifest.files {
        let file = checkpoint.join(name);
        if !file.is_file() {
            return Err(TrainError::Damaged { path: checkpoint.into(), message: format!("{name} is missing") });
        }
        let got = entry_of(&file)?;
        if got.bytes != expected.bytes {
            let message = format!("{name} has {} bytes, {} were written", got.bytes, expected.bytes);
            return Err(TrainError::Damaged { path: checkpoint.into(), message });
        }
        if got.sha256 != expected.sha256 {
            let message = format!("the content of {name} is not what was written");
            return Err(TrainError::Damaged { path: checkpoint.into(), message });
        }
    }
    Ok(manifest)
}

/// Whole checkpoints of a run, by step.
pub fn list(run_folder: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let mut found = Vec::new();
    for path in entries(run_folder)? {
        if let Some(step) = step_of(&path)
            && path.join(MANIFEST).is_file()
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes what an interrupted run left half-written or half-deleted. Returns what was removed.
pub fn remove_stale(run_folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut removed = Vec::new();
    for path in entries(run_folder)? {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(TEMPORARY) && path.is_dir() {
            fs::remove_dir_all(&path).map_err(TrainError::io("remove", &path))?;
            removed.push(path);
        }
    }
    Ok(removed)
}

/// Removes checkpoints until `limit` are left, never `best` and never that of the step just written; so at least two
/// stay when the best is another one, as in transformers. First go those of later steps, which a run that was resumed
/// from an earlier one has left behind, then the oldest. Returns what was removed.
pub fn rotate(
    run_folder: &Path,
    limit: Option<u64>,
    best: Option<&str>,
    written: u64,
) -> Result<Vec<PathBuf>, TrainError> {
    let Some(limit) = limit else { return Ok(Vec::new()) };
    let mut all = list(run_folder)?;
    all.sort_by_key(|(step, _)| (*step <= written, *step));
    let mut excess = all.len().saturating_sub(limit.max(1) as usize);
    let mut removed = Vec::new();
    for (step, path) in &all {
        let is_best = best.is_some_and(|best| path.file_name().is_some_and(|name| name == best));
        if excess == 0 {
            break;
        }
        if is_best || *step == written {
            continue;
        }
        remove(run_folder, path)?;
        removed.push(path.clone());
        excess -= 1;
    }
    Ok(removed)
}

/// Removes a checkpoint so that it never looks whole while files are going.
fn remove(run_folder: &Path, checkpoint: &Path) -> Result<(), TrainError> {
    let name = checkpoint.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let going = run_folder.join(format!("tmp-{name}.removed.{}", std::process::id()));
    fs::rename(checkpoint, &going).map_err(TrainError::io("rename", checkpoint))?;
    fs::remove_dir_all(&going).map_err(TrainError::io("remove", &going))
}

/// The checkpoint a user means: a checkpoint folder itself, or the newest whole one of a run folder.
pub fn resolve(path: &Path) -> Result<PathBuf, TrainError> {
    if !path.is_dir() {
        return Err(TrainError::NoCheckpoint { path: path.into(), message: "there is no such folder".into() });
    }
    if path.join(MANIFEST).is_file() {
        return Ok(path.into());
    }
    if let Some((_, newest)) = list(path)?.pop() {
        return Ok(newest);
    }
    let runs: Vec<String> = entries(path)?
        .into_iter()
        .filter(|run| list(run).is_ok_and(|found| !found.is_empty()))
        .map(|run| run.display().to_string())
        .collect();
    let message = if runs.is_empty() {
        "the folder holds no whole checkpoint-N".to_string()
    } else {
        format!("it holds several runs; name one of {}", runs.join(", "))
    };
    Err(TrainError::NoCheckpoint { path: path.into(), message })
}

/// Points `<run>/<name>` at a checkpoint of the same folder.
#[cfg(unix)]
pub fn link(run_folder: &Path, name: &str, checkpoint: &str) -> Result<(), TrainError> {
    let link = run_folder.join(name);
    let temporary = run_folder.join(format!("tmp-{name}.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(checkpoint, &temporary).map_err(TrainError::io("link", &temporary))?;
    fs::rename(&temporary, &link).map_err(TrainError::io("rename", &temporary))
}

/// The step of a folder named `checkpoint-N`.
pub fn step_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Writes JSON under a temporary name, syncs and renames.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| TrainError::Content { path: path.into(), message: e.to_string() })?;
    text.push('\n');
    write_atomically(path, text.as_bytes())
}

/// Writes a file under a temporary name, syncs and renames.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!("{name}.tmp.{}", std::process::id()));
    fs::write(&temporary, bytes).map_err(TrainError::io("write", &temporary))?;
    File::open(&temporary).and_then(|file| file.sync_all()).map_err(TrainError::io("sync", &temporary))?;
    fs::rename(&temporary, path).map_err(TrainError::io("rename", &temporary))
}

/// Reads a JSON file of ours.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, TrainError> {
    let text = fs::read_to_string(path).map_err(TrainError::io("read", path))?;
    serde_json::from_str(&text).map_err(|e| TrainError::Content { path: path.into(), message: e.to_string() })
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Size and SHA-256 of a file.
pub fn entry_of(path: &Path) -> Result<FileEntry, TrainError> {
    let mut file = File::open(path).map_err(TrainError::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(TrainError::io("read", path))?;
        if read == 0 {
            return Ok(FileEntry { bytes, sha256: hex(&hash.finalize()) });
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(TrainError::io("list", folder))? {
        found.push(entry.map_err(TrainError::io("list", folder))?.path());
    }
    found.sort();
    Ok(found)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn relative(folder: &Path, path: &Path) -> String {
    let inner = path.strip_prefix(folder).unwrap_or(path);
    inner.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Makes a rename durable. Folders cannot be opened for that on Windows, where renames are journalled anyway.
fn sync_folder(folder: &Path) -> Result<(), TrainError> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(TrainError::io("sync", folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(run: &Path, step: u64) -> PathBuf {
        write(run, step, |folder| {
            fs::write(folder.join("weights"), step.to_le_bytes()).map_err(TrainError::io("write", folder))
        })
        .unwrap()
    }

    fn steps(run: &Path) -> Vec<u64> {
        list(run).unwrap().into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn a_half_written_checkpoint_is_never_picked_up() {
        let run = tempfile::tempdir().unwrap();
        save(run.path(), 5);
        // As a kill leaves it: under the temporary name, with or without the manifest.
        let half = run.path().join("tmp-checkpoint-10.1");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("weights"), b"hal").unwrap();
        fs::write(half.join(MANIFEST), b"{\"format\":1,").unwrap();
        // As a copy that stopped half way leaves it: the right name, no manifest.
        fs::create_dir(run.path().join("checkpoint-15")).unwrap();
        assert_eq!(steps(run.path()), [5]);
        assert_eq!(resolve(run.path()).unwrap(), run.path().join("checkpoint-5"));
        assert_eq!(remove_stale(run.path()).unwrap(), [half]);
        verify(&run.path().join("checkpoint-5")).unwrap();
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let run = tempfile::tempdir().unwrap();
        let failed = write(run.path(), 1, |folder| {
            fs::write(folder.join("a"), b"a").unwrap();
            Err(TrainError::NoData { message: "on purpose".into() })
        });
        assert!(failed.is_err());
        assert_eq!(entries(run.path()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn damage_is_found_and_named() {
        let run = tempfile::tempdir().unwrap();
        let checkpoint = save(run.path(), 5);
        fs::write(checkpoint.join("weights"), b"12345678").unwrap();
        assert!(verify(&checkpoint).unwrap_err().to_string().contains("content of weights"));
        fs::write(checkpoint.join("weights"), b"1").unwrap();
        assert!(verify(&checkpoint).unwrap_err().to_string().contains("1 bytes, 8 were written"));
        fs::remove_file(checkpoint.join("weights")).unwrap();
        assert!(verify(&checkpoint).unwrap_err().to_string().contains("weights is missing"));
    }

    #[test]
    fn rotation_keeps_the_best_and_the_newest() {
        let run = tempfile::tempdir().unwrap();
        for step in [10, 20, 30, 40] {
            save(run.path(), step);
        }
        rotate(run.path(), None, None, 40).unwrap();
        assert_eq!(steps(run.path()), [10, 20, 30, 40]);
        rotate(run.path(), Some(2), Some("checkpoint-10"), 40).unwrap();
        assert_eq!(steps(run.path()), [10, 40]);
        rotate(run.path(), Some(1), Some("checkpoint-10"), 40).unwrap();
        assert_eq!(steps(run.path()), [10, 40]);
        rotate(run.path(), Some(1), Some("checkpoint-40"), 40).unwrap();
        assert_eq!(steps(run.path()), [40]);
    }

    #[test]
    fn rotation_after_going_back_keeps_what_was_just_written() {
        let run = tempfile::tempdir().unwrap();
        for step in [10, 13, 50, 60] {
            save(run.path(), step);
        }
        // Resumed from 10 and stopped at 13.
        rotate(run.path(), Some(2), None, 13).unwrap();
        assert_eq!(steps(run.path()), [10, 13]);
        rotate(run.path(), Some(1), None, 13).unwrap();
        assert_eq!(steps(run.path()), [13]);
    }

    #[test]
    fn a_checkpoint_can_be_written_again() {
        let run = tempfile::tempdir().unwrap();
        save(run.path(), 5);
        let again = write(run.path(), 5, |folder| {
            fs::write(folder.join("other"), b"x").map_err(TrainError::io("write", folder))
        })
        .unwrap();
        assert!(again.join("other").is_file() && !again.join("weights").exists());
        assert_eq!(entries(run.path()).unwrap(), [again]);
    }

    #[test]
    fn several_runs_are_named_not_guessed() {
        let output = tempfile::tempdir().unwrap();
        let run = output.path().join("v0-x");
        fs::create_dir(&run).unwrap();
        save(&run, 5);
        assert!(resolve(output.path()).unwrap_err().to_string().contains("v0-x"));
        assert!(resolve(&output.path().join("none")).unwrap_err().to_string().contains("no such folder"));
    }
}
