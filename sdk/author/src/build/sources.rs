//! The author's files where a language's tool sees them: beside the SDK, in a folder that the tool may write into.

use std::path::{Path, PathBuf};

use crate::{AuthorError, Project, Result};

/// Folders deeper than this are left out.
const MAX_DEPTH: usize = 16;

/// The file to start from and the folder it lies in.
pub(crate) struct Entry {
    /// The folder, absolute.
    pub(crate) folder: PathBuf,
    /// The file's name.
    pub(crate) file: String,
    /// The folder from the project on, as the author writes it: "src".
    pub(crate) shown: String,
}

impl Entry {
    /// The project's entry; `default` where `plugin.toml` names none.
    ///
    /// # Errors
    /// When it is not there, or lies at the top of the project, whose other files are none of the source.
    pub(crate) fn of(project: &Project, default: &str) -> Result<Self> {
        let path = project.entry(default)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(&project.folder).to_path_buf();
        let shown = folder.strip_prefix(&project.folder).unwrap_or(&folder).to_string_lossy().replace('\\', "/");
        if shown.is_empty() {
            let toml = project.folder.join("plugin.toml");
            let hint = format!("move {file} to src/{file} and set `entry` in [build] to that");
            return Err(AuthorError::project(
                &toml,
                "the entry lies beside plugin.toml, not in a folder of sources",
                hint,
            ));
        }
        Ok(Self { folder, file, shown })
    }
}

/// Copies a folder's files over what is at `to`; links and hidden files are left out.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to).map_err(AuthorError::io("remove", to))?;
    }
    copy_below(from, to, 0)
}

fn copy_below(from: &Path, to: &Path, depth: usize) -> Result<()> {
    std::fs::create_dir_all(to).map_err(AuthorError::io("make", to))?;
    for entry in std::fs::read_dir(from).map_err(AuthorError::io("read", from))? {
        let entry = entry.map_err(AuthorError::io("read", from))?;
        let (name, path) = (entry.file_name(), entry.path());
        let kind = entry.file_type().map_err(AuthorError::io("read", &path))?;
        let skipped = name.to_string_lossy().starts_with('.') || name == "__pycache__";
        if kind.is_file() && !skipped {
            std::fs::copy(&path, to.join(&name)).map_err(AuthorError::io("copy", &path))?;
        } else if kind.is_dir() && !skipped && depth < MAX_DEPTH {
            copy_below(&path, &to.join(&name), depth + 1)?;
        }
    }
    Ok(())
}
