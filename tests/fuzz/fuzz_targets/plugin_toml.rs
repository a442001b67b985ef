//! Any text as a `plugin.toml`: refused, or with names and texts that are safe to use and to show.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swift_plugin::{Manifest, valid_name};

fuzz_target!(|text: &str| {
    let shown = |text: &str| !text.chars().any(char::is_control);
    match Manifest::parse(text) {
        Ok(manifest) => {
            assert!(valid_name(&manifest.name) && !manifest.kinds.is_empty());
            let texts = [Some(&manifest.summary), manifest.license.as_ref(), manifest.homepage.as_ref()];
            assert!(texts.into_iter().flatten().chain(&manifest.authors).all(|text| shown(text)));
        }
        Err(error) => assert!(shown(&error.to_string())),
    }
});
