//! Any text where a plugin, a place or a grant is named: refused, or without a way out of its folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swift_plugin::{Grants, valid_name};
use swift_registry::{Place, Reference, Registry, Repository};

fuzz_target!(|text: &str| {
    if let Ok(Reference::Name { name, .. }) = Reference::parse(text) {
        assert!(valid_name(&name));
    }
    if let Ok(repository) = text.parse::<Repository>() {
        // It becomes part of an address, and its last part a file name.
        assert!(repository.path().split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
        assert!(!repository.to_string().contains([' ', '\\', '\n', '?', '#', '%']));
        if let Ok(name) = repository.name() {
            assert!(valid_name(name));
        }
        assert_eq!(
            repository.to_string().parse::<Repository>().map(|again| again.to_string()).ok(),
            Some(repository.to_string())
        );
    }
    let _ = (Place::parse(text), Registry::parse(text));
    if Grants::default().add(text).is_ok() {
        assert!(text.split_once(':').is_some_and(|(plugin, _)| valid_name(plugin)));
    }
});
