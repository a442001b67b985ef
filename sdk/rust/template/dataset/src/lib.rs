//! A dataset loader: text files with a query, a tab and a response in each line.

use std::io::{BufRead, BufReader, Seek, SeekFrom};

use swift_sdk::dataset::{Batch, Loader, Outcome, Reader, message};
use swift_sdk::files::File;
use swift_sdk::{Error, Json, Result, Settings, export_loaders};

/// Bytes that are read at once: each read is a call of the host.
const PIECE: usize = 1 << 16;

struct Tsv;

impl Loader for Tsv {
    const NAME: &'static str = "tsv";
    const SUMMARY: &'static str = "Text files with a query and a response in each line";
    const ENDINGS: &'static [&'static str] = &[".tsv"];

    /// A cursor is the byte offset of the next line.
    fn open(
        location: &str,
        _subset: Option<&str>,
        _settings: &Settings,
        cursor: Option<&str>,
    ) -> Result<Box<dyn Reader>> {
        let at = cursor.unwrap_or("0").parse().map_err(|_| "the cursor is no number")?;
        let mut file = BufReader::with_capacity(PIECE, File::open(location)?);
        file.seek(SeekFrom::Start(at)).map_err(wrong)?;
        Ok(Box::new(Lines { file, at }))
    }
}

struct Lines {
    file: BufReader<File>,
    /// Where the next line begins.
    at: u64,
}

impl Reader for Lines {
    fn next(&mut self, limit: usize) -> Result<Batch> {
        let (mut outcomes, mut last) = (Vec::new(), false);
        while outcomes.len() < limit && !last {
            let mut line = Vec::new();
            let length = self.file.read_until(b'\n', &mut line).map_err(wrong)?;
            last = length == 0;
            self.at += length as u64;
            if !last {
                outcomes.push(row(&line));
            }
        }
        Ok(Batch { outcomes, cursor: self.at.to_string(), last })
    }
}

fn row(line: &[u8]) -> Outcome {
    let Ok(line) = str::from_utf8(line) else {
        return Outcome::dropped("no UTF-8");
    };
    let Some((query, response)) = line.trim_end_matches(['\r', '\n']).split_once('\t') else {
        return Outcome::dropped("no tab");
    };
    let messages = vec![message("user", query), message("assistant", response)];
    Json::object([("messages", messages.into())]).into()
}

fn wrong(error: std::io::Error) -> Error {
    Error::new(error.to_string())
}

export_loaders!(Tsv);
