//! Reading the files that the user named or granted (`--allow PLUGIN:read=FOLDER`). Nothing can be written, and a path
//! outside of what was granted is an error, whether it exists or not.

use std::io::{self, Read, Seek, SeekFrom};

use crate::bindings::files::swift::plugin::files;
pub use crate::bindings::files::swift::plugin::files::Entry;
use crate::{Error, Result};

/// What lies in a folder, sorted by name.
///
/// # Errors
/// When it is not a folder that may be read.
pub fn entries(path: &str) -> Result<Vec<Entry>> {
    files::entries(path).map_err(Error::from)
}

/// A whole file as bytes.
///
/// # Errors
/// When it is not a file that may be read.
pub fn read(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes).map_err(|error| Error::new(error.to_string()))?;
    Ok(bytes)
}

/// A file that is read in pieces. Wrap it in a [`std::io::BufReader`]: each read is a call of the host.
#[derive(Debug)]
pub struct File {
    path: String,
    size: u64,
    at: u64,
}

impl File {
    /// Opens the file of this absolute path at its start.
    ///
    /// # Errors
    /// When it is not a file that may be read.
    pub fn open(path: &str) -> Result<Self> {
        Ok(Self { size: files::size(path)?, path: path.to_owned(), at: 0 })
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        if length == 0 {
            return Ok(0);
        }
        let bytes = files::read(&self.path, self.at, length).map_err(io::Error::other)?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
