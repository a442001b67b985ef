//! Holds the contracts to their word: every frozen copy in `wit/frozen` must still be served by the current `wit/`.

use wit_parser::{PackageId, Resolve, WorldId};

use crate::Result;

/// Compares each `wit/frozen/NAME-VERSION` with `wit/NAME`.
///
/// # Errors
/// When a plugin built against a frozen copy would no longer load.
pub(crate) fn check() -> Result<()> {
    let wit = crate::root().join("wit");
    let mut compared = 0;
    let mut folders: Vec<_> = std::fs::read_dir(wit.join("frozen"))?.collect::<std::io::Result<_>>()?;
    folders.sort_by_key(std::fs::DirEntry::file_name);
    for folder in folders {
        let frozen_name = folder.file_name().to_string_lossy().into_owned();
        let (name, version) = frozen_name.rsplit_once('-').ok_or("folders in wit/frozen are called NAME-VERSION")?;
        let file = format!("{name}.wit");
        let frozen = std::fs::read_to_string(folder.path().join(&file))?;
        let current = std::fs::read_to_string(wit.join(name).join(&file))?;
        compatible(&frozen, &current).map_err(|error| {
            format!(
                "wit/{name} breaks plugins built for {version}: {error}\n\
                 grow by a new function, a new option or a new interface; records, enums and parameters are frozen"
            )
        })?;
        println!("wit/{name} serves plugins built for {version}");
        compared += 1;
    }
    if compared == 0 {
        return Err("wit/frozen holds no released contract".into());
    }
    Ok(())
}

/// Whether a host with the contract `current` can load what was built for `frozen`.
fn compatible(frozen: &str, current: &str) -> Result<()> {
    let mut resolve = Resolve::default();
    let new = resolve.push_source("current.wit", current)?;
    // One resolve cannot hold a package twice under one version, and the comparison ignores versions. The stand-in is
    // above any version that a `@since` may name.
    let (before, after) = frozen.split_once("@").ok_or("the frozen copy names no version")?;
    let (_, after) = after.split_once(';').ok_or("the frozen copy names no package")?;
    let old = resolve.push_source("frozen.wit", &format!("{before}@999.0.0;{after}"))?;
    for (name, old_world) in worlds(&resolve, old) {
        let Some((_, new_world)) = worlds(&resolve, new).into_iter().find(|(other, _)| *other == name) else {
            return Err(format!("the world `{name}` is gone").into());
        };
        wit_component::semver_check(resolve.clone(), old_world, new_world).map_err(|error| format!("{error:#}"))?;
    }
    Ok(())
}

fn worlds(resolve: &Resolve, package: PackageId) -> Vec<(String, WorldId)> {
    resolve.packages[package].worlds.iter().map(|(name, id)| (name.clone(), *id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current() -> String {
        std::fs::read_to_string(crate::root().join("wit/model/model.wit")).unwrap()
    }

    #[test]
    fn frozen_copies_are_served() {
        check().unwrap();
    }

    #[test]
    fn a_new_function_is_compatible() {
        let grown = current().replace(
            "scalar: func(x: f64) -> value;",
            "scalar: func(x: f64) -> value; new-op: func(x: value) -> value;",
        );
        compatible(&current(), &grown).unwrap();
        // The other way round, a function is missing.
        assert!(compatible(&grown, &current()).is_err());
    }

    #[test]
    fn frozen_types_and_signatures_cannot_change() {
        for (old, new) in [
            ("record value { id: u32 }", "record value { id: u32, rows: u32 }"),
            (
                "enum dtype { compute, float32, int32, boolean }",
                "enum dtype { compute, float32, int32, boolean, int64 }",
            ),
            ("flag(bool), value(value)", "flag(bool), bytes(list<u8>), value(value)"),
            ("softmax: func(x: value) -> value;", "softmax: func(x: value, axis: u32) -> value;"),
            ("claims: func(config: string) -> option<string>;", "claims: func(config: string) -> string;"),
        ] {
            let changed = current().replace(old, new);
            assert_ne!(changed, current(), "`{old}` stands in the contract");
            assert!(compatible(&current(), &changed).is_err(), "`{new}` must be refused");
        }
    }
}
