//! Any bytes as what a registry answers: refused, or an artifact within its limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swift_registry::{Artifact, LARGEST_COMPONENT};

fuzz_target!(|bytes: &[u8]| {
    match Artifact::parse("fuzzed", bytes) {
        Ok(artifact) => {
            assert!(artifact.digest.len() == 64 && artifact.digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
            assert!(artifact.size <= LARGEST_COMPONENT);
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
    }
});
