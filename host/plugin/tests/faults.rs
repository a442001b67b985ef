//! Every fault of a plugin gives one clear error, and leaves the host and the other plugins as they were.

use std::path::PathBuf;
use std::sync::Arc;

use swift_graph::{StorageType, TableCheckpoint, TensorInfo};
use swift_plugin::{KindLimits, Limits, ModelPlugin, PluginError, PluginHost, PluginOptions};

fn dist(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist").join(file)
}

/// Small budgets, so that the runaway cases end at once.
fn host() -> Arc<PluginHost> {
    let limits = |limits: &mut Limits| {
        *limits = Limits { fuel: 20_000_000, memory: 16 << 20, calls: 10_000, ..*limits };
    };
    let limits = KindLimits::default().with(limits);
    let options = PluginOptions { limits, cache: None, ..PluginOptions::default() };
    Arc::new(PluginHost::new(options).unwrap())
}

fn checkpoint() -> TableCheckpoint {
    let tensors = [
        ("embed.weight", vec![8, 4]),
        ("layers.0.self_attn.k_proj.weight", vec![6, 4]),
        ("model.q_proj.weight", vec![4, 4]),
    ];
    let info = |shape| TensorInfo { shape, dtype: StorageType::F32 };
    TableCheckpoint(tensors.into_iter().map(|(name, shape)| (name.to_owned(), info(shape))).collect())
}

fn trace(plugin: &ModelPlugin, fault: &str) -> Result<swift_plugin::Trace, PluginError> {
    plugin.trace(&format!(r#"{{"model_type": "faults", "fault": "{fault}"}}"#), "causal-lm", &checkpoint())
}

/// The report of a fault; line numbers of the plugin's source are not part of the snapshot.
fn report(plugin: &ModelPlugin, fault: &str) -> String {
    trace(plugin, fault).expect_err(fault).report()
}

#[test]
fn each_fault_gives_one_clear_error() {
    let plugin = host().load(&dist("test/faults.wasm")).unwrap().model().unwrap();
    insta::with_settings!({ filters => vec![(r"lib\.rs:\d+", "lib.rs:LINE")] }, {
        insta::assert_snapshot!("loop", report(&plugin, "loop"));
        insta::assert_snapshot!("busy", report(&plugin, "busy"));
        insta::assert_snapshot!("panic", report(&plugin, "panic"));
        insta::assert_snapshot!("trap", report(&plugin, "trap"));
        insta::assert_snapshot!("memory", report(&plugin, "memory"));
        insta::assert_snapshot!("shape", report(&plugin, "shape"));
        insta::assert_snapshot!("missing_weight", report(&plugin, "missing-weight"));
        insta::assert_snapshot!("unknown_op", report(&plugin, "unknown-option"));
        insta::assert_snapshot!("no_output", report(&plugin, "no-output"));
        insta::assert_snapshot!("declined", report(&plugin, "error"));
        insta::assert_snapshot!("control_characters", report(&plugin, "control"));
        insta::assert_snapshot!("endless_recursion", report(&plugin, "deep"));
    });
}

#[test]
fn a_message_is_bounded() {
    let plugin = host().load(&dist("test/faults.wasm")).unwrap().model().unwrap();
    let report = report(&plugin, "long");
    assert!(report.len() < 3000 && report.contains('…'), "{}", report.len());
}

#[test]
fn a_plugin_works_after_every_fault() {
    let plugin = host().load(&dist("test/faults.wasm")).unwrap().model().unwrap();
    let before = trace(&plugin, "none").unwrap();
    for fault in ["loop", "panic", "trap", "memory", "shape"] {
        trace(&plugin, fault).unwrap_err();
        let after = trace(&plugin, "none").unwrap();
        assert_eq!((&after.graph, after.fuel), (&before.graph, before.fuel), "{fault}");
    }
}

fn load_text(text: &str) -> PluginError {
    host().load_bytes("example", None, &wat::parse_str(text).unwrap()).unwrap_err()
}

#[test]
fn a_newer_contract_is_named_with_what_is_missing() {
    // Of the same track: only the missing function is the trouble.
    let error = load_text(
        r#"(component
            (import "swift:model/graph@0.1.4" (instance (export "sparse-attention" (func (param "x" u32) (result u32)))))
            (instance $i) (export "swift:model/adapter@0.1.4" (instance $i)))"#,
    );
    insta::assert_snapshot!("newer_function", error.report());
    let error = load_text(
        r#"(component
            (import "swift:model/graph@0.2.0" (instance (export "abort" (func (param "message" string)))))
            (instance $i) (export "swift:model/adapter@0.2.0" (instance $i)))"#,
    );
    insta::assert_snapshot!("newer_track", error.report());
    let error = load_text(r#"(component (import "swift:vision/images@1.0.0" (instance)))"#);
    insta::assert_snapshot!("other_contract", error.report());
}

#[test]
fn a_changed_type_under_the_same_name_is_refused() {
    let error = load_text(
        r#"(component
            (import "swift:model/graph@0.1.0" (instance (export "abort" (func (param "message" u32)))))
            (instance $i) (export "swift:model/adapter@0.1.0" (instance $i)))"#,
    );
    assert!(matches!(error, PluginError::Types { .. }), "{error:?}");
    assert!(error.to_string().contains("does not fit the contract swift:model@0.1.0"), "{error}");
}

#[test]
fn system_access_and_foreign_imports_are_refused() {
    let error = load_text(
        r#"(component (import "wasi:cli/environment@0.2.6" (instance)) (import "wasi:io/streams@0.2.6" (instance)))"#,
    );
    insta::assert_snapshot!("wasi", error.report());
    insta::assert_snapshot!("foreign", load_text(r#"(component (import "env" (instance)))"#).report());
}

#[test]
fn what_is_no_plugin_is_refused() {
    insta::assert_snapshot!("no_model_family", load_text(r#"(component)"#).report());
    insta::assert_snapshot!("core_module", load_text(r#"(module)"#).report());
    let not_wasm = host().load_bytes("example", None, b"#!/bin/sh").unwrap_err();
    insta::assert_snapshot!("not_wasm", not_wasm.report());
    let whole = std::fs::read(dist("qwen3.wasm")).unwrap();
    for kept in [0, 3, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        let error = host().load_bytes("example", None, &whole[..kept]).unwrap_err();
        assert!(matches!(error, PluginError::NotAComponent { .. } | PluginError::NoKind { .. }), "{kept}: {error:?}");
    }
    let missing = host().load(&dist("absent.wasm")).unwrap_err();
    assert!(matches!(&missing, PluginError::Read { path, .. } if path.ends_with("absent.wasm")), "{missing:?}");
}

#[test]
fn damaged_bytes_never_take_the_host_down() {
    let whole = std::fs::read(dist("test/faults.wasm")).unwrap();
    let host = host();
    for step in 0..60 {
        let mut damaged = whole.clone();
        let at = step * whole.len() / 60;
        damaged[at] ^= 0x55;
        // Either refused, or a plugin that still ends within its budget.
        if let Ok(plugin) = host.load_bytes("damaged", None, &damaged) {
            let _ = plugin.model().and_then(|model| trace(&model, "none"));
        }
    }
}
