//! What the loader reads from the golden files, whole, row by row and from every cursor.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Memory, cases, open, read};
use crate::{Reader, Settings};
use swift_sdk::Json;

/// Numbers by their value: Python writes 1e+300 and we 1e300.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(x), Json::Number(y)) => x == y || a.as_f64() == b.as_f64(),
        (Json::List(x), Json::List(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Json::Object(x), Json::Object(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|((k, x), (l, y))| k == l && same(x, y))
        }
        _ => a == b,
    }
}

#[test]
fn rows_equal_those_of_pyarrow() {
    let cases = cases();
    assert!(cases.len() > 20);
    for case in cases {
        let (rows, _) = read(&case, 1000, None).unwrap_or_else(|error| panic!("{}: {error}", case.note));
        assert_eq!(rows.len(), case.expect.len(), "{}", case.note);
        for (row, expected) in rows.iter().zip(&case.expect) {
            match (row, expected.get("dropped").and_then(Json::as_text)) {
                (Err(reason), Some(dropped)) => assert_eq!(reason, dropped, "{}", case.note),
                (Ok(row), None) => {
                    let got = Json::parse(row).unwrap_or_else(|error| panic!("{}: {error}: {row}", case.note));
                    assert!(same(&got, expected), "{}:\n{row}\n{}", case.note, expected.write());
                }
                _ => panic!("{}: {row:?}, not {}", case.note, expected.write()),
            }
        }
        let length = open(&case, None).unwrap().length();
        assert_eq!(length, Some(case.expect.len() as u64), "{}", case.note);
    }
}

#[test]
fn every_cursor_gives_the_rows_after_it() {
    for case in cases() {
        let (rows, cursors) = read(&case, 1, None).unwrap();
        assert_eq!(rows, read(&case, 7, None).unwrap().0, "{}", case.note);
        for (index, cursor) in cursors.iter().enumerate() {
            let (rest, _) = read(&case, 64, Some(cursor)).unwrap();
            assert_eq!(rest, rows[(index + 1).min(rows.len())..], "{} from {cursor}", case.note);
        }
    }
}

#[test]
fn settings_choose_columns_and_text() {
    let cases = cases();
    let case = &cases[0];
    let open = |settings| Reader::open(case.files.clone(), &case.location, None, settings, None);
    let settings = Settings { columns: Some(vec!["text".into(), "binary".into()]), binary_as_string: true };
    let rows = open(settings).unwrap().next(2).unwrap().rows;
    assert_eq!(rows[0].as_deref(), Ok(r#"{"text":"","binary":""}"#));
    let settings = Settings { columns: Some(vec!["texts".into()]), ..Settings::default() };
    let error = open(settings).err().unwrap();
    assert!(error.starts_with("a.parquet: there is no column `texts`; the columns are bool, "), "{error}");
}

#[test]
fn shards_are_found_by_subset() {
    let cases = cases();
    let data = cases.iter().find(|case| case.note == "shards: a folder").unwrap();
    let mut files = data.files.0.clone();
    let shard = files["/data/train-00000-of-00003.parquet"].clone();
    files.insert("/data/zh/train-0.parquet".into(), shard);
    let files = Arc::new(Memory(files));
    let count = |subset| {
        let reader = Reader::open(files.clone(), "/data", subset, Settings::default(), None);
        reader.map(|mut reader| reader.next(100).unwrap().rows.len())
    };
    assert_eq!(
        (count(None), count(Some("train")), count(Some("test")), count(Some("zh"))),
        (Ok(10), Ok(9), Ok(1), Ok(5))
    );
    assert!(count(Some("valid")).unwrap_err().contains("no subset `valid`"));
    assert!(count(Some("../x")).unwrap_err().contains("no name of a subset"));
    let open = |location, subset| Reader::open(files.clone(), location, subset, Settings::default(), None).err();
    assert_eq!(open("/data/test.parquet", Some("x")).unwrap(), "a file has no subset `x`; leave `:x` out");
    assert_eq!(open("/gone.parquet", None).unwrap(), "gone.parquet: /gone.parquet: not there");
    let from = |cursor| Reader::open(files.clone(), "/data", None, Settings::default(), Some(cursor)).err().unwrap();
    assert!(from("1/0/0/other.parquet").contains("the dataset has changed: its shard 2 is not `other.parquet`"));
    assert!(from("somewhere").contains("no cursor of this loader"));
}

#[test]
fn files_that_are_no_parquet_say_so() {
    let read = |bytes: &[u8]| {
        let files = Memory(BTreeMap::from([("/x.parquet".to_owned(), bytes.to_vec())]));
        Reader::open(Arc::new(files), "/x.parquet", None, Settings::default(), None).err().unwrap()
    };
    assert_eq!(read(b""), "x.parquet: no parquet file: it has 0 bytes");
    assert!(read(&[b'x'; 100]).contains("does not end with PAR1; is it cut off?"));
    assert!(read(b"PAR1aaaa\xff\xff\xff\x7fPAR1").contains("its footer should have 2147483647 bytes"));
    assert!(read(b"PAR1aaaa\x04\0\0\0PARE").contains("encrypted"));
}
