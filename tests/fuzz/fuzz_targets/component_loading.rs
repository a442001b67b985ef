//! Any bytes as a component: read, compiled, linked, asked what it holds, and called once, within a small budget.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use swift_plugin::{FailurePolicy, Kind, KindLimits, Limits, Plugin, PluginHost, PluginOptions, Sample, TrainerState, sections};

static HOST: LazyLock<Arc<PluginHost>> = LazyLock::new(|| {
    let options = PluginOptions {
        limits: KindLimits::default().with(|limits| {
            *limits = Limits {
                fuel: 1_000_000,
                fuel_each: 1_000,
                deadline: Duration::from_millis(50),
                memory: 8 << 20,
                calls: 1_000,
            };
        }),
        cache: None,
        ..PluginOptions::default()
    };
    Arc::new(PluginHost::new(options).expect("an engine"))
});

fuzz_target!(|bytes: &[u8]| {
    // What is embedded is found again, whatever stands around it.
    let embedded = sections::embed(bytes, &[(sections::TESTS, b"[]")]);
    if swift_plugin::inspect("fuzzed", bytes).is_err() {
        return;
    }
    assert_eq!(sections::read(&embedded, sections::TESTS), Some(&b"[]"[..]));
    let Ok(plugin) = HOST.load_bytes("fuzzed", None, bytes) else { return };
    for kind in plugin.kinds().to_vec() {
        call(&plugin, kind);
    }
});

/// Does one thing of this kind; what comes of it is the plugin's, that it comes is the host's.
fn call(plugin: &Plugin, kind: Kind) {
    let Ok(functions) = plugin.functions(kind) else { return };
    let Some((name, _)) = functions.first() else { return };
    match kind {
        Kind::Model => {
            let _ = plugin.model().and_then(|model| model.claims("{\"model_type\": \"llama\"}"));
        }
        Kind::Template => {
            let _ = plugin.template(name, "{}").and_then(|template| template.stops());
        }
        Kind::Dataset => {
            let reader = plugin.loader(name).and_then(|loader| loader.open("nowhere", None, "{}", None));
            let _ = reader.and_then(|mut reader| reader.next(2));
        }
        Kind::Preprocessor => {
            let _ =
                plugin.preprocessor(name, "{}").and_then(|one| one.process(&["{}".to_owned(), "{\"a\":1}".to_owned()]));
        }
        Kind::Reward => {
            let sample = Sample {
                prompt: Vec::new(),
                completion: "four".into(),
                completion_tokens: 1,
                solution: Some("4".into()),
                columns: Vec::new(),
            };
            let state = TrainerState { step: 0, max_steps: 1, epoch: 0.0, seed: 0, extra: "{}".into() };
            if let Ok(reward) = plugin.reward(name, "{}") {
                let scores = reward.with_policy(FailurePolicy::Skip).score(&[sample.clone(), sample], &state);
                assert_eq!(scores.expect("nothing stops it").len(), 2);
            }
        }
        Kind::Metric => {
            let _ = plugin.metric(name, "{}").and_then(|metric| metric.evaluate(&[]));
        }
    }
}
