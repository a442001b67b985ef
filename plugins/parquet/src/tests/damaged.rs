//! Files that were damaged: cut off, changed here and there, with a footer that lies. Each ends in an error or in rows.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Case, Memory, cases, read};

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn damaged_files_are_errors_or_rows() {
    let rounds: u64 = std::env::var("PARQUET_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let mut panics = BTreeMap::new();
    let (mut errors, mut read_whole) = (0, 0);
    for (number, case) in cases().into_iter().enumerate() {
        assert_eq!(read(&case, 50, None).unwrap().0.len(), case.expect.len());
        let (path, original) = case.files.0.iter().next().unwrap();
        for round in 0..rounds {
            let mut state = round * 1000 + number as u64;
            let mut bytes = original.clone();
            match round % 4 {
                0 => bytes.truncate(random(&mut state) as usize % bytes.len()),
                // The footer is where lies are cheapest.
                1 => {
                    let footer = bytes.len() - bytes.len().min(600);
                    let at = footer + random(&mut state) as usize % (bytes.len() - footer);
                    bytes[at] = random(&mut state) as u8;
                }
                _ => {
                    for _ in 0..1 + random(&mut state) % 4 {
                        let at = random(&mut state) as usize % bytes.len();
                        bytes[at] ^= 1 << (random(&mut state) % 8);
                    }
                }
            }
            let mut files = case.files.0.clone();
            files.insert(path.clone(), bytes);
            let damaged = Case {
                files: Arc::new(Memory(files)),
                note: case.note.clone(),
                location: case.location.clone(),
                subset: case.subset.clone(),
                expect: Vec::new(),
            };
            match catch_unwind(AssertUnwindSafe(|| read(&damaged, 50, None))) {
                Ok(Ok(_)) => read_whole += 1,
                Ok(Err(error)) => {
                    assert!(!error.is_empty());
                    errors += 1;
                }
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "?".into());
                    panics.entry(text).or_insert_with(|| format!("{}, round {round}", case.note));
                }
            }
        }
    }
    assert!(errors > 100 && read_whole > 100, "{errors} errors, {read_whole} read");
    assert!(panics.is_empty(), "{panics:#?}");
}
