//! The files of a dataset: which there are, how they are packed, and their rows one after the other.
//!
//! Files are read as streams: what is in memory is one row. It knows bytes, lines and JSON; it must not know what a row
//! means.

use std::{
    fs::File,
    io::{BufRead, BufReader, Chain, Cursor, Read},
    path::{Path, PathBuf},
};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{DataError, RowError};

/// Longest row, in bytes: a file without line ends must not fill the memory.
const ROW: u64 = 256 << 20;
/// Bytes that are read at once.
const BUFFER: usize = 1 << 18;

/// How rows lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    JsonLines,
    /// One list of objects, or objects one after the other.
    Json,
    /// Fields separated by this byte, after a line of names.
    Separated(u8),
    /// Every line is a row with the column `text`.
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packed {
    Plain,
    Gzip,
    Zstd,
}

/// The endings that are read here, for messages.
pub(crate) const ENDINGS: &str = ".jsonl, .json, .csv, .tsv or .txt, as it is or with .gz or .zst";

/// What a file's name says of it; the ending where that is not known.
pub(crate) fn format_of(path: &Path) -> Result<Format, String> {
    named(path).map(|(format, _)| format)
}

fn named(path: &Path) -> Result<(Format, Packed), String> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let (name, packed) = match name.rsplit_once('.') {
        Some((name, "gz")) => (name, Packed::Gzip),
        Some((name, "zst" | "zstd")) => (name, Packed::Zstd),
        _ => (name.as_str(), Packed::Plain),
    };
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let format = match ending {
        "jsonl" | "ndjson" => Format::JsonLines,
        "json" => Format::Json,
        "csv" => Format::Separated(b','),
        "tsv" => Format::Separated(b'\t'),
        "txt" => Format::Text,
        other => return Err(other.to_owned()),
    };
    Ok((format, packed))
}

/// A split that the parts of a path name, as the hubs' own library finds it: `data/train-00000.jsonl` is of `train`.
fn split_of(path: &Path) -> Option<&'static str> {
    let splits = [
        ("train", &["train", "training"][..]),
        ("validation", &["validation", "valid", "dev", "val"]),
        ("test", &["test", "testing", "eval", "evaluation"]),
    ];
    let text = path.to_string_lossy().to_lowercase();
    let mut parts = text.split(|c: char| !c.is_ascii_alphanumeric());
    parts.find_map(|part| splits.iter().find(|(_, words)| words.contains(&part)).map(|(split, _)| *split))
}

/// The files that a folder's rows are in, sorted: all below it, or those of a subset, which is a folder, the beginning of
/// a file's name, or a split. Where files are of several splits and none is named, those of `train`.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn files_in(folder: &Path, subset: Option<&str>) -> std::io::Result<Vec<PathBuf>> {
    let (root, subset) = match subset {
        Some("all") | None => (folder.to_path_buf(), None),
        Some(name) if !name.contains("..") && folder.join(name).is_dir() => (folder.join(name), None),
        Some(name) => (folder.to_path_buf(), Some(name)),
    };
    let mut files = Vec::new();
    below(&root, 0, &mut files)?;
    files.retain(|path| format_of(path).is_ok());
    files.sort();
    let split = |path: &PathBuf| split_of(path.strip_prefix(&root).unwrap_or(path));
    match subset {
        Some(name) => {
            let begins = |path: &PathBuf| {
                let file = path.file_name().map(|file| file.to_string_lossy()).unwrap_or_default();
                let rest = file.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['.', '-', '_'])) || split(path) == Some(name)
            };
            files.retain(begins);
        }
        None => {
            let splits: Vec<Option<&str>> = files.iter().map(split).collect();
            if splits.contains(&Some("train")) && splits.iter().any(|split| *split != Some("train")) {
                files.retain(|path| split(path) == Some("train"));
            }
        }
    }
    Ok(files)
}

/// The files below a folder, without hidden ones. Links to folders are not followed, so there is no circle.
fn below(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if depth < 16 {
                below(&path, depth + 1, files)?;
            }
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// The files that a pattern such as `data/**/*.jsonl` names, sorted.
///
/// # Errors
/// What is wrong with the pattern.
pub(crate) fn matching(pattern: &str) -> Result<Vec<PathBuf>, String> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let paths = glob::glob_with(pattern, options).map_err(|error| error.to_string())?;
    let mut files: Vec<PathBuf> = paths.flatten().filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// A row, its number in the file, and whether that counts items.
type Take<'a> = &'a mut dyn FnMut(Result<Value, RowError>, usize, bool) -> Result<(), DataError>;

/// Hands every row of the file to `take`; answers with the SHA-256 of the file.
///
/// # Errors
/// When the file cannot be read, or is damaged in a way that leaves no next row; and what `take` fails with.
pub(crate) fn read(path: &Path, take: Take<'_>) -> Result<String, DataError> {
    let failed = |source| DataError::Io { path: path.into(), source };
    let (format, packed) = named(path).map_err(|ending| {
        failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("files of type `.{ending}` are not read")))
    })?;
    let mut hashed = Hashed { file: File::open(path).map_err(failed)?, hash: Sha256::new() };
    match packed {
        Packed::Plain => rows(format, path, &mut BufReader::with_capacity(BUFFER, &mut hashed), take)?,
        Packed::Gzip => {
            let content = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER, &mut hashed));
            rows(format, path, &mut BufReader::with_capacity(BUFFER, content), take)?;
        }
        Packed::Zstd => {
            let content = ZstdFrames(Some(Frame::Between(BufReader::with_capacity(BUFFER, &mut hashed))));
            rows(format, path, &mut BufReader::with_capacity(BUFFER, content), take)?;
        }
    }
    // What nothing asked for belongs to the digest too.
    std::io::copy(&mut hashed, &mut std::io::sink()).map_err(failed)?;
    Ok(hex(&hashed.hash.finalize()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Hashed {
    file: File,
    hash: Sha256,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// The content of a `.zst` file: frames one after the other.
struct ZstdFrames<R: BufRead>(Option<Frame<R>>);

enum Frame<R: BufRead> {
    Between(R),
    /// With the four bytes that said what kind of frame it is.
    Within(Box<StreamingDecoder<Chain<Cursor<[u8; 4]>, R>, FrameDecoder>>),
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.0.take() {
                None => return Ok(0),
                Some(Frame::Between(mut input)) => {
                    if input.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    let mut magic = [0; 4];
                    input.read_exact(&mut magic)?;
                    if u32::from_le_bytes(magic) & 0xffff_fff0 == 0x184d_2a50 {
                        // A frame of something else, which readers pass over.
                        let mut length = [0; 4];
                        input.read_exact(&mut length)?;
                        let length = u64::from(u32::from_le_bytes(length));
                        std::io::copy(&mut input.by_ref().take(length), &mut std::io::sink())?;
                        self.0 = Some(Frame::Between(input));
                        continue;
                    }
                    let decoder = StreamingDecoder::new(Cursor::new(magic).chain(input));
                    self.0 = Some(Frame::Within(Box::new(decoder.map_err(std::io::Error::other)?)));
                }
                Some(Frame::Within(mut decoder)) => {
                    let count = decoder.read(buffer)?;
                    if count > 0 || buffer.is_empty() {
                        self.0 = Some(Frame::Within(decoder));
                        return Ok(count);
                    }
                    self.0 = Some(Frame::Between(decoder.into_inner().into_inner().1));
                }
            }
        }
    }
}

fn rows(format: Format, path: &Path, content: &mut dyn BufRead, take: Take<'_>) -> Result<(), DataError> {
    let failed = |source| DataError::Io { path: path.into(), source };
    // A byte order mark.
    if content.fill_buf().map_err(failed)?.starts_with(b"\xef\xbb\xbf") {
        content.consume(3);
    }
    match format {
        Format::JsonLines => lines(path, content, &mut |line, number| {
            let malformed = |e: serde_json::Error| {
                RowError::new("malformed row", format!("not JSON at column {}: {}", e.column(), json_message(&e)))
            };
            take(serde_json::from_slice(line).map_err(malformed), number, false)
        }),
        Format::Text => lines(path, content, &mut |line, number| {
            let text = std::str::from_utf8(line).map_err(|e| RowError::new("malformed row", format!("not UTF-8: {e}")));
            let row = text.map(|text| serde_json::json!({ "text": text.trim_end_matches(['\r', '\n']) }));
            take(row, number, false)
        }),
        Format::Json => json(path, content, take),
        Format::Separated(by) => separated(by, content, take),
    }
}

/// Lines that are not blank.
fn lines(
    path: &Path,
    content: &mut dyn BufRead,
    take: &mut dyn FnMut(&[u8], usize) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = content.take(ROW).read_until(b'\n', &mut line);
        let read = read.map_err(|source| DataError::Io { path: path.into(), source })?;
        if read == 0 {
            break;
        }
        if read as u64 == ROW && line.last() != Some(&b'\n') {
            let source = std::io::Error::other(format!("line {number} is longer than {} MiB", ROW >> 20));
            return Err(DataError::Io { path: path.into(), source });
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if !line.iter().all(u8::is_ascii_whitespace) {
            take(line, number)?;
        }
    }
    Ok(())
}

/// Hands on every item of a list as it is read.
struct Items<'a, 'b> {
    take: Take<'a>,
    stopped: &'b mut Option<DataError>,
}

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(item) = items.next_element::<Value>()? {
            number += 1;
            if let Err(error) = (self.take)(Ok(item), number, true) {
                *self.stopped = Some(error);
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

/// One list, or objects one after the other.
fn json(path: &Path, content: &mut dyn BufRead, take: Take<'_>) -> Result<(), DataError> {
    let failed = |source| DataError::Io { path: path.into(), source };
    let wrong = |error: serde_json::Error| match error.is_io() {
        true => failed(error.into()),
        false => DataError::NotAList { path: path.into(), message: error.to_string() },
    };
    let first = loop {
        let buffer = content.fill_buf().map_err(failed)?;
        match (buffer.iter().position(|byte| !byte.is_ascii_whitespace()), buffer.len()) {
            (Some(at), _) => break Some(buffer[at]),
            (None, 0) => break None,
            (None, blank) => content.consume(blank),
        }
    };
    if first == Some(b'{') {
        for (index, value) in serde_json::Deserializer::from_reader(content).into_iter::<Value>().enumerate() {
            take(Ok(value.map_err(wrong)?), index + 1, true)?;
        }
        return Ok(());
    }
    let mut stopped = None;
    let mut deserializer = serde_json::Deserializer::from_reader(content);
    let items = Items { take, stopped: &mut stopped };
    let done = items.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    stopped.map_or_else(|| done.map_err(wrong), Err)
}

/// Every cell is a text; an empty one counts as absent.
fn separated(by: u8, content: &mut dyn BufRead, take: Take<'_>) -> Result<(), DataError> {
    let mut reader = csv::ReaderBuilder::new().delimiter(by).from_reader(content);
    let malformed = |e: csv::Error| RowError::new("malformed row", e.to_string());
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(error) => return take(Err(malformed(error)), 1, false),
    };
    for record in reader.records() {
        let line = |position: Option<&csv::Position>| position.map_or(0, |p| p.line() as usize);
        match record {
            Ok(record) => {
                let cells = headers.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
                let object = cells.map(|(name, cell)| (name.to_owned(), Value::from(cell))).collect();
                take(Ok(Value::Object(object)), line(record.position()), false)?;
            }
            Err(error) => {
                let number = line(error.position());
                let broken = error.is_io_error();
                take(Err(malformed(error)), number, false)?;
                if broken {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The parser's message without its own idea of the line, which is always one.
fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(path: &Path) -> Result<Vec<String>, DataError> {
        let mut texts = Vec::new();
        read(path, &mut |value, number, _| {
            texts.push(match value {
                Ok(value) => format!("{number}:{}", value["text"].as_str().unwrap_or("?")),
                Err(error) => format!("{number}!{}", error.kind),
            });
            Ok(())
        })?;
        Ok(texts)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn the_same_rows_in_every_form() {
        let folder = tempfile::tempdir().unwrap();
        let lines = b"\xef\xbb\xbf{\"text\":\"a\"}\n\n{\"text\":\"b\"}\n";
        let mut skippable = zstd(&lines[..15]);
        skippable.extend([0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9]);
        skippable.extend(zstd(&lines[15..]));
        let members = [gzip(&lines[..7]), gzip(&lines[7..])].concat();
        for (name, bytes, expected) in [
            ("a.jsonl", lines.to_vec(), ["1:a", "3:b"]),
            ("a.NDJSON", lines.to_vec(), ["1:a", "3:b"]),
            ("a.jsonl.gz", members, ["1:a", "3:b"]),
            ("a.jsonl.zst", skippable, ["1:a", "3:b"]),
            ("a.json", b" [{\"text\":\"a\"}, {\"text\":\"b\"}]".to_vec(), ["1:a", "2:b"]),
            ("objects.json", b"{\"text\":\"a\"}\n{\n\"text\":\"b\"}".to_vec(), ["1:a", "2:b"]),
            ("a.json.gz", gzip(b"[{\"text\":\"a\"},{\"text\":\"b\"}]"), ["1:a", "2:b"]),
            ("a.csv", b"text,x\na,1\nb,2\n".to_vec(), ["2:a", "3:b"]),
            ("a.tsv", b"text\tx\na\t1\nb\t2\n".to_vec(), ["2:a", "3:b"]),
            ("a.txt.zst", zstd(b"a\r\n\nb"), ["1:a", "3:b"]),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(texts(&path).unwrap(), expected, "{name}");
            let digest = read(&path, &mut |_, _, _| Ok(())).unwrap();
            assert_eq!(digest, hex(&Sha256::digest(&bytes)), "{name}");
        }
    }

    #[test]
    fn what_is_damaged_is_an_error_and_no_shorter_dataset() {
        let folder = tempfile::tempdir().unwrap();
        let lines = b"{\"text\":\"a\"}\n".repeat(5000);
        let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 20].to_vec();
        for (name, bytes) in [
            ("a.jsonl.gz", cut(gzip(&lines))),
            ("a.jsonl.zst", cut(zstd(&lines))),
            ("b.jsonl.zst", b"no frame".to_vec()),
            ("a.json", b"[{\"text\":\"a\"}, {".to_vec()),
            ("b.json", b"[1] 2".to_vec()),
            ("c.json", b"7".to_vec()),
            ("d.json", Vec::new()),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = texts(&path).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let path = folder.path().join("lines.jsonl");
        std::fs::write(&path, b"{\"text\":\"a\"}\n{\n\xff\n").unwrap();
        assert_eq!(texts(&path).unwrap(), ["1:a", "2!malformed row", "3!malformed row"]);
    }

    #[test]
    fn a_folder_is_its_files_or_those_of_a_split_or_subset() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let found = |subset: Option<&str>| -> Vec<String> {
            let files = files_in(folder.path(), subset).unwrap();
            files.iter().map(|p| p.strip_prefix(folder.path()).unwrap().display().to_string()).collect()
        };
        ["b.jsonl", "a.csv.gz", "README.md", ".hidden.jsonl", "sub/c.txt", "sub/.x/d.txt"].into_iter().for_each(put);
        assert_eq!(found(None), ["a.csv.gz", "b.jsonl", "sub/c.txt"]);
        assert_eq!(found(Some("all")), ["a.csv.gz", "b.jsonl", "sub/c.txt"]);
        assert_eq!(found(Some("sub")), ["sub/c.txt"]);
        assert_eq!(found(Some("a")), ["a.csv.gz"]);
        assert!(found(Some("../")).is_empty() && found(Some("z")).is_empty());
        ["sub/train-00000-of-00002.jsonl", "test.jsonl"].into_iter().for_each(put);
        assert_eq!(found(None), ["sub/train-00000-of-00002.jsonl"]);
        assert_eq!(found(Some("test")), ["test.jsonl"]);
        assert_eq!(found(Some("train")), ["sub/train-00000-of-00002.jsonl"]);
        let pattern = format!("{}/**/*.jsonl", folder.path().display());
        assert_eq!(matching(&pattern).unwrap().len(), 3);
        assert!(matching("a***").is_err());
    }
}
