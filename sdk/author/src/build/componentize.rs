//! From a core module to a component, for every language whose compiler makes core modules.

use std::path::Path;

use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::WORLD;
use crate::{AuthorError, Result};

/// WASI made of constants: `stub.wat`, assembled. A test compares them, and says how to assemble it again.
const STUB: &[u8] = include_bytes!("stub.wasm");
/// The module name of the system interface that compilers of C and Go know.
const WASI: &str = "wasi_snapshot_preview1";

/// The component of a core module. `embed` names the folder of the world `plugin` for modules that carry no types; `wasi`
/// lets constants stand in for WASI, so that nothing of it is imported.
///
/// # Errors
/// When the module asks for what plugins do not have, or does not fit the world.
pub(crate) fn componentize(module: &[u8], embed: Option<&Path>, wasi: bool) -> Result<Vec<u8>> {
    let mut module = without_debug_sections(module)?;
    if !wasi {
        refuse_wasi(&module)?;
    }
    if let Some(wit) = embed {
        let mut resolve = Resolve::default();
        let world = resolve.push_path(wit).and_then(|(package, _)| resolve.select_world(&[package], Some(WORLD)));
        let world = world.map_err(unfit)?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).map_err(unfit)?;
    }
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(&module).map_err(unfit)?;
    if wasi {
        encoder.adapter(WASI, STUB).map_err(unfit)?;
    }
    encoder.encode().map_err(unfit)
}

fn unfit(error: impl std::fmt::Display) -> AuthorError {
    AuthorError::Component {
        what: swift_plugin::clean(&format!("{error:#}"), 2000),
        author:
            "`kind` in plugin.toml and the SDK in sdk/ must fit the source; functions that are declared and defined \
                 nowhere are imports, which plugins cannot have"
                .into(),
    }
}

/// The module without what a debugger needs, which is most of it and holds paths of this machine. Function names stay:
/// stacks of traps show them.
fn without_debug_sections(module: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(module.len());
    // Each section begins where the one before ended.
    let (mut end, mut copied) = (0, 0);
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(unfit)?;
        let start = end;
        end = match &payload {
            Payload::Version { range, .. } => range.end as usize,
            other => match other.as_section() {
                Some((_, range)) => range.end as usize,
                None => continue,
            },
        };
        if matches!(&payload, Payload::CustomSection(section) if section.name().starts_with(".debug_")) {
            out.extend_from_slice(&module[copied..start]);
            copied = end;
        }
    }
    out.extend_from_slice(&module[copied..]);
    Ok(out)
}

/// Refuses a module that calls the system: nothing would answer.
fn refuse_wasi(module: &[u8]) -> Result<()> {
    let mut calls = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        let Payload::ImportSection(section) = payload.map_err(unfit)? else { continue };
        for import in section.into_imports() {
            let import = import.map_err(unfit)?;
            if import.module == WASI {
                calls.push(import.name);
            }
        }
    }
    if calls.is_empty() {
        return Ok(());
    }
    Err(AuthorError::Component {
        what: swift_plugin::clean(&format!("it calls the system ({})", calls.join(", ")), 300),
        author:
            "a plugin has no files, clock, environment or streams: write with the SDK's log instead of printf, and \
                 leave out what opens files or asks for the time"
                .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"(import "swift:plugin/log@0.1.0" "abort" (func (param i32 i32)))"#;
    const EXPORTS: &str = r#"(memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "swift:reward/rewards@0.1.0#rewards") (result i32) unreachable)
        (func (export "swift:reward/rewards@0.1.0#configure") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "swift:reward/rewards@0.1.0#score") (param i32 i32 i64 i64 f64 i64 i32 i32) (result i32) unreachable)"#;

    /// A module with these imports, as a component of a reward.
    fn component(imports: &str, exports: &str, wasi: bool) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let world =
            "package author:plugin; world plugin { import swift:plugin/log@0.1.0; export swift:reward/rewards@0.1.0; }";
        std::fs::write(folder.path().join("plugin.wit"), world).unwrap();
        for package in ["plugin", "reward"] {
            let deps = folder.path().join("deps").join(package);
            std::fs::create_dir_all(&deps).unwrap();
            let file = format!("{package}.wit");
            let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit").join(package).join(&file);
            std::fs::copy(wit, deps.join(file)).unwrap();
        }
        let text = format!(r#"(module {imports} {exports} (@custom ".debug_line" "/home/someone"))"#);
        componentize(&wat::parse_str(text).unwrap(), Some(folder.path()), wasi)
    }

    fn imports(component: &[u8]) -> Vec<String> {
        let mut depth = 0;
        let mut names = Vec::new();
        for payload in Parser::new(0).parse_all(component) {
            match payload.unwrap() {
                Payload::ComponentSection { .. } | Payload::ModuleSection { .. } => depth += 1,
                Payload::End(_) if depth > 0 => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 0 => {
                    names.extend(section.into_iter().map(|import| import.unwrap().name.name.to_string()));
                }
                _ => {}
            }
        }
        names
    }

    #[test]
    fn a_module_becomes_a_component_without_its_debug_sections() {
        let component = component(LOG, EXPORTS, false).unwrap();
        assert_eq!(imports(&component), ["swift:plugin/log@0.1.0"]);
        assert!(!component.windows(13).any(|bytes| bytes == b"/home/someone"));
    }

    #[test]
    fn the_stub_leaves_no_import_of_wasi() {
        let clock = r#"(import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))"#;
        assert!(
            imports(&component(clock, EXPORTS, true).unwrap()).iter().all(|name| name.starts_with("swift:plugin/"))
        );
        let error = component(clock, EXPORTS, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the component that was built is not right: it calls the system (clock_time_get)"
        );
    }

    #[test]
    fn the_stub_is_what_its_source_says() {
        let assembled = wat::parse_str(include_str!("stub.wat")).unwrap();
        if std::env::var_os("SWIFT_WRITE_STUB").is_some() {
            std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/build/stub.wasm"), &assembled).unwrap();
        }
        assert!(STUB == assembled, "stub.wat was changed: run this test with SWIFT_WRITE_STUB=1");
    }

    #[test]
    fn what_does_not_fit_the_contract_is_refused() {
        let error = |imports, exports: &str| component(imports, exports, false).unwrap_err().to_string();
        assert!(error("", &EXPORTS.replace("f64", "f32")).contains("score"), "a signature that is another");
        assert!(error("", &EXPORTS.replace("#score", "#skore")).contains("score"), "a function that is missing");
        assert!(error(r#"(import "env" "system" (func))"#, EXPORTS).contains("env"), "an import that is nobody's");
        assert!(componentize(b"no module", None, false).is_err());
    }
}
