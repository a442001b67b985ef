//! Any text as a `swift.lock`: refused, or written back to what reads the same.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use swift_plugin::valid_name;
use swift_registry::Lock;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("swift-fuzz-{}.lock", std::process::id())));

fuzz_target!(|text: &str| {
    match Lock::parse(text) {
        Ok(lock) => {
            assert!(lock.entries().all(|entry| valid_name(&entry.name) && entry.digest.len() == 64));
            if lock.entries().next().is_some() {
                lock.save(&FILE).expect("the temporary folder can be written");
                let read = Lock::load(&FILE).expect("what was written can be read").expect("and is there");
                assert!(read.entries().map(|entry| &entry.name).eq(lock.entries().map(|entry| &entry.name)));
            }
        }
        Err(error) => assert!(!error.chars().any(char::is_control)),
    }
});
