//! The golden files as cases, and how they are read.

mod damaged;
mod golden;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Entry, Files, Reader, Row, Settings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use swift_sdk::Json;

/// Files in memory; paths are absolute.
struct Memory(BTreeMap<String, Vec<u8>>);

impl Files for Memory {
    fn entries(&self, path: &str) -> Result<Vec<Entry>, String> {
        let folder = format!("{path}/");
        let mut entries: Vec<Entry> = Vec::new();
        for name in self.0.keys().filter_map(|file| file.strip_prefix(&folder)) {
            let (name, is_folder) = name.split_once('/').map_or((name, false), |(name, _)| (name, true));
            if entries.iter().all(|entry| entry.name != name) {
                entries.push(Entry { name: name.into(), is_folder });
            }
        }
        if entries.is_empty() { Err("no folder".into()) } else { Ok(entries) }
    }

    fn size(&self, path: &str) -> Result<u64, String> {
        self.0.get(path).map(|file| file.len() as u64).ok_or_else(|| format!("{path}: not there"))
    }

    fn read(&self, path: &str, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        let file = self.0.get(path).ok_or("not there")?;
        let start = file.len().min(offset as usize);
        Ok(file[start..file.len().min(start + length as usize)].to_vec())
    }
}

struct Case {
    note: String,
    files: Arc<Memory>,
    location: String,
    subset: Option<String>,
    expect: Vec<Json>,
}

fn cases() -> Vec<Case> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut cases = Vec::new();
    for name in ["scalars", "nested", "codecs", "layouts", "shards"] {
        let golden = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let golden = Json::parse(&golden).unwrap();
        for case in list(golden.get("cases").unwrap()) {
            let text = |key: &str| case.get(key).and_then(Json::as_text).unwrap();
            let Some(Json::Object(files)) = case.get("files") else { panic!("no files") };
            let files = files.iter().map(|(path, content)| {
                let bytes = match content.get("base64").and_then(Json::as_text) {
                    Some(base64) => STANDARD.decode(base64).unwrap(),
                    None => content.as_text().unwrap().as_bytes().to_vec(),
                };
                (format!("/{path}"), bytes)
            });
            cases.push(Case {
                note: format!("{name}: {}", text("comment")),
                files: Arc::new(Memory(files.collect())),
                location: format!("/{}", text("location")),
                subset: case.get("subset").and_then(Json::as_text).map(str::to_owned),
                expect: list(case.get("expect").unwrap()).to_vec(),
            });
        }
    }
    cases
}

fn list(json: &Json) -> &[Json] {
    let Json::List(items) = json else { panic!("no list: {json:?}") };
    items
}

fn open(case: &Case, cursor: Option<&str>) -> Result<Reader, String> {
    Reader::open(case.files.clone(), &case.location, case.subset.as_deref(), Settings::default(), cursor)
}

/// All rows from a cursor on, and the cursors after each batch.
fn read(case: &Case, limit: usize, cursor: Option<&str>) -> Result<(Vec<Row>, Vec<String>), String> {
    let mut reader = open(case, cursor)?;
    let (mut rows, mut cursors) = (Vec::new(), Vec::new());
    loop {
        let batch = reader.next(limit)?;
        assert!(batch.rows.len() <= limit);
        rows.extend(batch.rows);
        cursors.push(batch.cursor);
        if batch.last {
            return Ok((rows, cursors));
        }
        assert!(cursors.len() < 10_000, "it does not end");
    }
}
