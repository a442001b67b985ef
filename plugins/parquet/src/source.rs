//! A file that is read in ranges, never as a whole. It must not know parquet's pages.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

/// The largest piece of a file that is asked for at once. A page or a footer that says it is larger is damaged.
const LARGEST_RANGE: usize = 128 << 20;
/// What is read to see the header of a page, which seldom has more than a hundred bytes.
const HEADER: u32 = 4096;

/// One entry of a folder.
pub struct Entry {
    pub name: String,
    pub is_folder: bool,
}

/// What the host lets a plugin do with files.
pub trait Files: Send + Sync + 'static {
    /// What lies in a folder, sorted by name; an error if `path` is none.
    fn entries(&self, path: &str) -> Result<Vec<Entry>, String>;
    /// Bytes of a file.
    fn size(&self, path: &str) -> Result<u64, String>;
    /// `length` bytes from `offset` on, fewer only at the end of the file.
    fn read(&self, path: &str, offset: u64, length: u32) -> Result<Vec<u8>, String>;
}

/// One file, as the parquet crate wants to read it.
pub(crate) struct RangeFile {
    files: Arc<dyn Files>,
    path: String,
    size: u64,
}

impl RangeFile {
    pub(crate) fn open(files: Arc<dyn Files>, path: &str) -> Result<Self, String> {
        let size = files.size(path)?;
        Ok(Self { files, path: path.to_owned(), size })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Exactly `length` bytes from `start` on.
    pub(crate) fn range(&self, start: u64, length: usize) -> Result<Bytes, String> {
        let inside = start.checked_add(length as u64).is_some_and(|end| end <= self.size);
        if !inside {
            return Err(format!(
                "bytes {start} to {} are asked for, the file has {}",
                start.saturating_add(length as u64),
                self.size
            ));
        }
        if length > LARGEST_RANGE {
            return Err(format!("a page of {length} bytes: more than {LARGEST_RANGE} are not read at once"));
        }
        let bytes = self.files.read(&self.path, start, length as u32)?;
        if bytes.len() != length {
            return Err(format!("{} bytes came of {length}: did the file change?", bytes.len()));
        }
        Ok(Bytes::from(bytes))
    }
}

impl Length for RangeFile {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for RangeFile {
    type T = Header;

    fn get_read(&self, start: u64) -> Result<Header, ParquetError> {
        let file = Self { files: self.files.clone(), path: self.path.clone(), size: self.size };
        Ok(Header { file, next: start, buffer: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.range(start, length).map_err(ParquetError::General)
    }
}

/// Reads a file from some place on, a little at a time: the parquet crate reads headers of pages through it.
pub(crate) struct Header {
    file: RangeFile,
    next: u64,
    buffer: Bytes,
}

impl Read for Header {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            let left = self.file.size.saturating_sub(self.next);
            let length = left.min(u64::from(HEADER)) as usize;
            self.buffer = self.file.range(self.next, length).map_err(io::Error::other)?;
            self.next += length as u64;
        }
        let length = out.len().min(self.buffer.len());
        out[..length].copy_from_slice(&self.buffer.split_to(length));
        Ok(length)
    }
}
