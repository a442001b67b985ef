//! Which plugin builds a model, and the cache of compiled ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use swift_plugin::{Grants, Kind, PluginError, PluginHost, PluginOptions, PluginSet, with_model_type};

fn dist(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist").join(file)
}

fn host(cache: Option<PathBuf>) -> Arc<PluginHost> {
    Arc::new(PluginHost::new(PluginOptions { cache, ..PluginOptions::default() }).unwrap())
}

const QWEN3: &str = r#"{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}"#;

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in files {
        std::fs::copy(dist(from), folder.path().join(to)).unwrap();
    }
    folder
}

/// A report without the names of temporary folders.
fn report(error: &PluginError, folders: &[&Path]) -> String {
    folders.iter().fold(error.report(), |text, folder| text.replace(&folder.display().to_string(), "FOLDER"))
}

#[test]
fn built_in_plugins_are_always_there() {
    let set = PluginSet::new(host(None), &[], &[]).unwrap();
    let names: Vec<&str> = set.built_in(Kind::Model).map(|plugin| plugin.name()).collect();
    assert_eq!(names, ["llama", "qwen2", "qwen3"]);
    for kind in Kind::ALL {
        for plugin in set.built_in(kind) {
            assert_eq!(plugin.kinds(), [kind], "{}", plugin.name());
            assert!(set.named(plugin.name()).unwrap().is_some());
        }
        assert!(set.built_in(kind).count() > 0, "{kind}");
    }
    let plugin = set.select(QWEN3).unwrap();
    assert_eq!((plugin.name(), plugin.path()), ("qwen3", None));
    assert_eq!(plugin.plugin().inspection().contracts[0].to_string(), "swift:model@0.1.0");
    let recorded = std::fs::read_to_string(dist("SHA256SUMS")).unwrap();
    assert!(recorded.contains(&format!("{}  qwen3.wasm", plugin.digest())));
    assert_eq!(set.select(r#"{"model_type": "mistral"}"#).unwrap().name(), "llama");
}

#[test]
fn no_two_built_in_plugins_claim_one_model() {
    let set = PluginSet::new(host(None), &[], &[]).unwrap();
    for model_type in ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma"] {
        let config = format!("{{\"model_type\": \"{model_type}\"}}");
        let claiming = set
            .built_in(Kind::Model)
            .filter(|plugin| plugin.model().unwrap().claims(&config).unwrap().is_some())
            .count();
        assert!(claiming <= 1, "{model_type}");
    }
}

#[test]
fn given_wins_over_installed_and_installed_over_built_in() {
    let installed = folder_with(&[("qwen3.wasm", "mine.wasm")]);
    let folders = [installed.path().to_path_buf(), PathBuf::from("/does/not/exist")];
    let set = PluginSet::new(host(None), &[], &folders).unwrap();
    assert_eq!(set.select(QWEN3).unwrap().path(), Some(installed.path().join("mine.wasm").as_path()));
    let set = PluginSet::new(host(None), &[dist("llama.wasm"), dist("qwen3.wasm")], &folders).unwrap();
    assert_eq!(set.select(QWEN3).unwrap().path(), Some(dist("qwen3.wasm").as_path()));
}

#[test]
fn no_plugin_names_the_model_and_who_was_asked() {
    let set = PluginSet::new(host(None), &[], &[]).unwrap();
    let unknown = r#"{"model_type": "mamba", "architectures": ["MambaForCausalLM", "Other"]}"#;
    insta::assert_snapshot!("no_plugin", set.select(unknown).unwrap_err().report());
    insta::assert_snapshot!("bare_config", set.select("{}").unwrap_err().report());
    insta::assert_snapshot!("broken_config", set.select("{\"model_type\": ").unwrap_err().report());
    // A given plugin that does not fit is never replaced in silence.
    let folder = folder_with(&[("llama.wasm", "llama.wasm")]);
    let set = PluginSet::new(host(None), &[folder.path().join("llama.wasm")], &[]).unwrap();
    insta::assert_snapshot!("given_does_not_claim", report(&set.select(QWEN3).unwrap_err(), &[folder.path()]));
}

#[test]
fn two_that_claim_are_ambiguous_unless_they_are_the_same() {
    let folder = folder_with(&[("qwen3.wasm", "a.wasm"), ("qwen3.wasm", "b.wasm")]);
    let (a, b) = (folder.path().join("a.wasm"), folder.path().join("b.wasm"));
    let set = PluginSet::new(host(None), &[a.clone(), b.clone()], &[]).unwrap();
    assert_eq!(set.select(QWEN3).unwrap().path(), Some(a.as_path()));
    // The same family in another component: an empty custom section more changes the digest.
    let mut other = std::fs::read(&b).unwrap();
    other.extend([0, 2, 1, b'x']);
    std::fs::write(&b, other).unwrap();
    let set = PluginSet::new(host(None), &[a, b], &[]).unwrap();
    insta::assert_snapshot!("ambiguous", report(&set.select(QWEN3).unwrap_err(), &[folder.path()]));
}

#[test]
fn a_broken_installed_plugin_stops_no_other() {
    let folder = folder_with(&[("qwen3.wasm", "qwen3.wasm")]);
    std::fs::write(folder.path().join("broken.wasm"), b"\0asm").unwrap();
    let set = PluginSet::new(host(None), &[], &[folder.path().to_path_buf()]).unwrap();
    assert_eq!(set.problems().len(), 1);
    assert!(set.problems()[0].contains("broken.wasm"), "{:?}", set.problems());
    assert_eq!(set.select(QWEN3).unwrap().name(), "qwen3");
    // Given by name it is an error.
    PluginSet::new(host(None), &[folder.path().join("broken.wasm")], &[]).unwrap_err();
}

#[test]
fn the_model_type_can_be_overridden() {
    let set = PluginSet::new(host(None), &[], &[]).unwrap();
    let config = with_model_type(r#"{"model_type": "my_finetune", "hidden_size": 64}"#, "qwen2").unwrap();
    assert_eq!(set.select(&config).unwrap().name(), "qwen2");
    assert!(config.contains("\"hidden_size\":64"));
    with_model_type("[]", "qwen2").unwrap_err();
}

#[test]
fn compiled_plugins_are_reused_and_a_damaged_one_is_not() {
    let place = tempfile::tempdir().unwrap();
    let cache = place.path().join("cache");
    let claims =
        || host(Some(cache.clone())).load(&dist("qwen3.wasm")).unwrap().model().unwrap().claims(QWEN3).unwrap();
    let compiled = || {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&cache).unwrap().flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "compiled"));
        files
    };
    assert_eq!(claims().as_deref(), Some("qwen3"));
    let [file] = &compiled()[..] else { panic!("one compiled plugin") };
    let written = std::fs::read(file).unwrap();
    let modified = std::fs::metadata(file).unwrap().modified().unwrap();
    assert_eq!(claims().as_deref(), Some("qwen3"));
    assert_eq!(std::fs::metadata(file).unwrap().modified().unwrap(), modified, "the second start wrote nothing");
    // Flip one bit of machine code: without the MAC this would be loaded and run.
    let mut damaged = written.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(file, &damaged).unwrap();
    assert_eq!(claims().as_deref(), Some("qwen3"));
    assert_eq!(std::fs::read(file).unwrap(), written, "it was compiled again");
}

#[test]
fn without_a_place_for_the_cache_everything_works() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    let host = host(Some(file.join("cache")));
    assert!(host.cache_problem().is_some());
    assert_eq!(
        host.load(&dist("qwen3.wasm")).unwrap().model().unwrap().claims(QWEN3).unwrap().as_deref(),
        Some("qwen3")
    );
}

#[test]
fn what_is_granted_to_a_built_in_plugin_goes_to_no_other() {
    let folder = folder_with(&[("parquet.wasm", "parquet.wasm")]);
    let path = folder.path().join("parquet.wasm");
    let mut other = std::fs::read(&path).unwrap();
    other.extend([0, 2, 1, b'x']);
    std::fs::write(&path, other).unwrap();
    let mut grants = Grants::default();
    grants.add(&format!("parquet:read={}", folder.path().display())).unwrap();
    let host =
        || Arc::new(PluginHost::new(PluginOptions { grants: grants.clone(), ..PluginOptions::default() }).unwrap());
    let error = PluginSet::new(host(), &[], &[folder.path().to_path_buf()]).unwrap_err();
    assert!(matches!(error, PluginError::GrantToTwo { .. }), "{error}");
    // Given by name it is meant.
    PluginSet::new(host(), &[path], &[]).unwrap();
    PluginSet::new(host(), &[], &[]).unwrap();
}

#[test]
fn a_grant_that_changes_nothing_is_refused() {
    for grant in ["qwen3:net=example.com", "qwen3:read=/"] {
        let mut grants = Grants::default();
        grants.add(grant).unwrap();
        let host = Arc::new(PluginHost::new(PluginOptions { grants, ..PluginOptions::default() }).unwrap());
        let error = host.load(&dist("qwen3.wasm")).unwrap_err();
        assert!(matches!(error, PluginError::GrantNotAsked { .. }), "{error}");
    }
}
