//! Memory-mapped files. The only unsafe code of this crate.
#![allow(unsafe_code, reason = "mapping a file into memory has no safe interface")]

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::HubError;

/// A file mapped read-only.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) path: PathBuf,
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps `path`; an empty file maps to an empty slice.
    pub(crate) fn open(path: &Path) -> Result<Self, HubError> {
        let file = File::open(path).map_err(HubError::io("open", path))?;
        let metadata = file.metadata().map_err(HubError::io("read", path))?;
        if !metadata.is_file() {
            return Err(HubError::Content { path: path.into(), message: "it is not a regular file".into() });
        }
        let map = if metadata.len() == 0 {
            None
        } else {
            // SAFETY: the map is private and read-only and its bytes are only ever read as plain numbers, so a
            // concurrent writer can change values but not break an invariant of ours. A concurrent truncation of the
            // file ends the process with SIGBUS, as with every program that maps its weights; checkpoints of our own
            // are written under another name and renamed, never truncated in place.
            Some(unsafe { Mmap::map(&file) }.map_err(HubError::io("map", path))?)
        };
        Ok(Self { path: path.into(), map })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}
