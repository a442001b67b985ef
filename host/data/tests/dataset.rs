//! Dataset strings and files: every form of file, every fault with its line, sampling, splitting.

use std::{fs, path::Path};

use swift_data::{DataError, Dataset, DatasetSpec, LoadOptions, load, split_validation};

fn read(path: &Path, suffix: &str, options: &LoadOptions) -> Result<Dataset, DataError> {
    load(&DatasetSpec::parse(&format!("{}{suffix}", path.display()))?, options)
}

const ROWS: &str = "\u{feff}{\"query\": \"a\", \"response\": \"1\"}\n\n{\"query\": \"b\", \"response\": oops}\n{\"query\": \"c\", \"response\": \"3\"}\r\n\"text\"\n{\"query\": \"d\", \"response\": \"4\"}";

#[test]
fn malformed_rows_are_counted_with_their_lines_or_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, ROWS).unwrap();
    let dataset = read(&path, "", &LoadOptions::default()).unwrap();
    let queries: Vec<&str> = dataset.rows.iter().map(|row| row.messages[0].content.as_str()).collect();
    assert_eq!(queries, ["a", "c", "d"]);
    let lines: Vec<usize> = dataset.rows.iter().map(|row| row.origin.number).collect();
    assert_eq!(lines, [1, 4, 6]);
    let ledger = &dataset.ledger;
    assert_eq!((ledger.read, ledger.kept, ledger.dropped_rows()), (5, 3, 2));
    let examples = &ledger.dropped["malformed row"].examples;
    assert!(examples[0].contains("rows.jsonl:3: not JSON at column 28: expected value"), "{examples:?}");
    assert!(examples[1].contains("rows.jsonl:5: a row must be a JSON object, this is a text"), "{examples:?}");
    assert_eq!(serde_json::to_value(ledger).unwrap()["dropped"]["malformed row"]["count"], 2);

    let error = read(&path, "", &LoadOptions { strict: true, ..LoadOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("rows.jsonl:3: malformed row: not JSON"), "{error}");
    assert!(error.hint().contains("strict"));
}

#[test]
fn invalid_utf8_is_a_malformed_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, b"{\"query\": \"\xff\", \"response\": \"1\"}\n{\"query\": \"a\", \"response\": \"1\"}").unwrap();
    let dataset = read(&path, "", &LoadOptions::default()).unwrap();
    assert_eq!((dataset.rows.len(), dataset.ledger.dropped_rows()), (1, 1));
}

#[test]
fn json_lists_and_csv_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.json");
    fs::write(&path, r#"[{"instruction":"a","input":"b","output":"c"}, 7]"#).unwrap();
    let dataset = read(&path, "", &LoadOptions::default()).unwrap();
    assert_eq!(dataset.rows[0].messages[0].content, "a\nb");
    assert!(dataset.ledger.dropped["malformed row"].examples[0].contains("rows.json (item 2)"));
    fs::write(&path, "7").unwrap();
    assert!(matches!(read(&path, "", &LoadOptions::default()).unwrap_err(), DataError::NotAList { .. }));

    let path = folder.path().join("rows.csv");
    fs::write(&path, "question,answer\n\"two\nlines, and a comma\",yes\nshort\nq,a\n").unwrap();
    let dataset = read(&path, "", &LoadOptions::default()).unwrap();
    assert_eq!(dataset.rows[0].messages[0].content, "two\nlines, and a comma");
    assert_eq!(dataset.rows[1].messages[1].content, "a");
    assert!(dataset.ledger.dropped["malformed row"].examples[0].contains("rows.csv:4"), "{}", dataset.ledger);
}

#[test]
fn a_number_samples_or_repeats() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let rows: String = (0..5).map(|n| format!("{{\"query\":\"{n}\",\"response\":\"x\"}}\n")).collect();
    fs::write(&path, rows).unwrap();
    let queries = |suffix: &str| -> Vec<String> {
        let dataset = read(&path, suffix, &LoadOptions { data_seed: 42, ..LoadOptions::default() }).unwrap();
        dataset.rows.into_iter().map(|row| row.messages[0].content.clone()).collect()
    };
    let three = queries("#3");
    let mut unique = three.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), 3);
    assert_eq!(queries("#3"), three);
    let twelve = queries("#12");
    assert_eq!(twelve[..10].concat(), "0123401234");
    assert_eq!(twelve.len(), 12);
    assert!(matches!(DatasetSpec::parse(&format!("{}#0", path.display())).unwrap_err(), DataError::Spec { .. }));
}

#[test]
fn a_validation_split_is_a_partition() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let rows: String = (0..10).map(|n| format!("{{\"query\":\"{n}\",\"response\":\"x\"}}\n")).collect();
    fs::write(&path, rows).unwrap();
    let rows = read(&path, "", &LoadOptions::default()).unwrap().rows;
    let (training, validation) = split_validation(rows.clone(), 0.25, 42);
    assert_eq!((training.len(), validation.len()), (7, 3));
    let mut lines: Vec<usize> = training.iter().chain(&validation).map(|row| row.origin.number).collect();
    lines.sort_unstable();
    assert!(lines.into_iter().eq(1..=10));
    assert!(training.is_sorted_by_key(|row| row.origin.number));
    assert_eq!(split_validation(rows.clone(), 0.0, 42).1, []);
    assert_eq!(split_validation(rows.clone(), 0.25, 42), split_validation(rows, 0.25, 42));
}

#[test]
fn what_is_no_local_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, ROWS).unwrap();
    let parse = |text: &str| DatasetSpec::parse(text).unwrap_err();
    assert!(matches!(parse("AI-ModelScope/alpaca-gpt4-data-zh#500"), DataError::HubDataset { .. }));
    assert!(matches!(parse("hf::tatsu-lab/alpaca:default"), DataError::HubDataset { .. }));
    assert!(parse("org/name").hint().contains("download"));
    assert!(matches!(parse("missing.jsonl#5"), DataError::NotFound { .. }));
    assert!(matches!(parse("./data/x.jsonl"), DataError::NotFound { .. }));
    let refused = |text: String| load(&DatasetSpec::parse(&text).unwrap(), &LoadOptions::default()).unwrap_err();
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(refused(empty.display().to_string()).to_string().contains("the folder has no files of rows"));
    assert!(refused(format!("{}:valid", folder.path().display())).to_string().contains("no files of `valid`"));
    assert!(refused(format!("{}/*.csv", folder.path().display())).to_string().contains("no file is of this pattern"));
    assert!(refused(format!("{}:default", path.display())).to_string().contains("no subset `default`"));
    let text = folder.path().join("rows.docx");
    fs::write(&text, "x").unwrap();
    assert!(read(&text, "", &LoadOptions::default()).unwrap_err().to_string().contains("`.docx`"));
    let odd = folder.path().join("rows#5.jsonl");
    fs::write(&odd, ROWS).unwrap();
    assert_eq!(read(&odd, "#2", &LoadOptions::default()).unwrap().rows.len(), 2);
}

#[test]
fn folders_and_patterns_are_all_their_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.jsonl", "a.jsonl", "en/c.jsonl", "de/d.jsonl"] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let stem = path.file_stem().unwrap().to_string_lossy();
        fs::write(&path, format!("{{\"query\":\"q\",\"response\":\"{stem}\"}}\n{{\"query\":7}}\n")).unwrap();
    }
    fs::write(folder.path().join("lines.txt"), "x\n").unwrap();
    let answers = |more: &str| {
        let data = read(folder.path(), more, &LoadOptions::default()).unwrap();
        let texts: Vec<&str> = data.rows.iter().map(|row| row.messages.last().unwrap().content.as_str()).collect();
        assert_eq!(data.ledger.read, data.ledger.kept + data.ledger.dropped_rows());
        (texts.join(" "), data.ledger.dropped["malformed row"].examples.len(), data.digest)
    };
    let (all, bad, digest) = answers("");
    assert_eq!((all.as_str(), bad), ("a b d c x", 4));
    assert_eq!(answers("/*.jsonl").0, "a b");
    assert_eq!(answers("/**/*.jsonl").0, "a b d c");
    assert_eq!(answers(":en/de").0, "c d");
    assert_eq!(answers(":en").0, "c");
    assert_ne!(answers(":en").2, digest);
    assert_eq!(answers(":all"), (all, bad, digest));
}
