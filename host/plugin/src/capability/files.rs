//! Reading what was granted: every path is looked up below an opened folder that it cannot leave, links included.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File};

/// Bytes that one `read` gives at most.
const MAX_READ: u64 = 64 << 20;
/// Entries that one listing gives at most.
const MAX_ENTRIES: usize = 100_000;

/// The places that a plugin may read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    places: Vec<Place>,
    /// The file that was read last: readers go through a file in pieces.
    last: Option<(PathBuf, Arc<File>)>,
}

/// A granted folder, or one granted file in a folder.
#[derive(Debug, Clone)]
struct Place {
    /// As the plugin names it: absolute, without `..`.
    path: PathBuf,
    folder: Arc<Dir>,
    /// The only file that may be opened in `folder`.
    file: Option<PathBuf>,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) is_folder: bool,
    pub(crate) size: u64,
}

impl Files {
    /// Opens what was granted. A granted file that is a link stands for what it points to: the user named it.
    ///
    /// # Errors
    /// When one of `granted` is not there or may not be opened; with its path.
    pub(crate) fn open(granted: &[PathBuf]) -> Result<Self, (PathBuf, std::io::Error)> {
        let mut places = Vec::with_capacity(granted.len());
        for path in granted {
            let failed = |error| (path.clone(), error);
            let real = path.canonicalize().map_err(failed)?;
            let metadata = real.metadata().map_err(failed)?;
            let (folder, file) = if metadata.is_dir() {
                (real.as_path(), None)
            } else {
                let folder = real.parent().ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
                (folder, real.file_name().map(PathBuf::from))
            };
            let folder = Arc::new(Dir::open_ambient_dir(folder, ambient_authority()).map_err(failed)?);
            places.push(Place { path: path.clone(), folder, file });
        }
        Ok(Self { places, last: None })
    }

    /// Adds the places of `other`.
    pub(crate) fn also(&mut self, other: Self) {
        self.places.extend(other.places);
    }

    /// The open folder and the path in it that `path` stands for.
    fn locate(&self, path: &str) -> Result<(&Place, PathBuf), String> {
        // The same words whether the path exists or not: what was not granted cannot be probed.
        let denied = || format!("{path:?} is not in what the user granted this plugin to read");
        let path = Path::new(path);
        if !path.is_absolute() || path.components().any(|part| matches!(part, Component::ParentDir)) {
            return Err(denied());
        }
        let longest = self.places.iter().filter(|place| path.starts_with(&place.path));
        let place = longest.max_by_key(|place| place.path.as_os_str().len()).ok_or_else(denied)?;
        let rest = path.strip_prefix(&place.path).map_err(|_| denied())?;
        match &place.file {
            Some(file) if rest.as_os_str().is_empty() => Ok((place, file.clone())),
            Some(_) => Err(denied()),
            None if rest.as_os_str().is_empty() => Ok((place, PathBuf::from("."))),
            None => Ok((place, rest.to_path_buf())),
        }
    }

    /// What lies in a folder, sorted by name; links and special files that may not be read are left out.
    pub(crate) fn entries(&self, path: &str) -> Result<Vec<Entry>, String> {
        let (place, inside) = self.locate(path)?;
        if place.file.is_some() {
            return Err(format!("{path:?} is a file, not a folder"));
        }
        let said = |error: std::io::Error| format!("{path:?}: {error}");
        let mut entries = Vec::new();
        for entry in place.folder.read_dir(&inside).map_err(said)? {
            let entry = entry.map_err(said)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Through the folder, so that a link is followed only where it stays inside.
            let Ok(metadata) = place.folder.metadata(inside.join(&name)) else { continue };
            if !metadata.is_dir() && !metadata.is_file() {
                continue;
            }
            if entries.len() == MAX_ENTRIES {
                return Err(format!("{path:?} has more than {MAX_ENTRIES} entries"));
            }
            let size = if metadata.is_dir() { 0 } else { metadata.len() };
            entries.push(Entry { name, is_folder: metadata.is_dir(), size });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Bytes of a file.
    pub(crate) fn size(&mut self, path: &str) -> Result<u64, String> {
        let file = self.file(path)?;
        file.metadata().map(|metadata| metadata.len()).map_err(|error| format!("{path:?}: {error}"))
    }

    /// At most `length` bytes from `offset` on.
    pub(crate) fn read(&mut self, path: &str, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        if u64::from(length) > MAX_READ {
            return Err(format!("{length} bytes at once are too much; read at most {MAX_READ}"));
        }
        let file = self.file(path)?;
        let said = |error: std::io::Error| format!("{path:?}: {error}");
        let mut file = &*file;
        file.seek(SeekFrom::Start(offset)).map_err(said)?;
        let mut bytes = Vec::new();
        file.take(u64::from(length)).read_to_end(&mut bytes).map_err(said)?;
        Ok(bytes)
    }

    fn file(&mut self, path: &str) -> Result<Arc<File>, String> {
        if let Some((last, file)) = &self.last
            && last == Path::new(path)
        {
            return Ok(Arc::clone(file));
        }
        let (place, inside) = self.locate(path)?;
        let said = |error: std::io::Error| format!("{path:?}: {error}");
        // Opening a pipe would wait for its writer, and a device never ends: only files are opened.
        if !place.folder.metadata(&inside).map_err(said)?.is_file() {
            return Err(format!("{path:?} is not a file"));
        }
        let file = place.folder.open(&inside).map_err(said)?;
        if !file.metadata().map_err(said)?.is_file() {
            return Err(format!("{path:?} is not a file"));
        }
        let file = Arc::new(file);
        self.last = Some((PathBuf::from(path), Arc::clone(&file)));
        Ok(file)
    }
}
