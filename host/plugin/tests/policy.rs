//! What a run makes of rewards that fail: only the guilty samples are without a score, the user says how many are too many,
//! and the outcome is the same on any number of cores.

mod guest;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest::{Guest, zeros_list};
use swift_plugin::{
    FailurePolicy, Kind, Outcome, PluginError, PluginHost, PluginOptions, Reward, Sample, TrainerState,
};

/// A reward that traps when a sample of its piece has 13 tokens.
fn superstitious() -> Reward {
    // A sample takes 40 bytes; its count of tokens stands at 16.
    let body = format!(
        "(local $left i32) (local.set $left (local.get $n)) \
         (block $done (loop $next (br_if $done (i32.eqz (local.get $left))) \
         (if (i32.eq (i32.load offset=16 (local.get $samples)) (i32.const 13)) (then unreachable)) \
         (local.set $samples (i32.add (local.get $samples) (i32.const 40))) \
         (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br $next))) {}",
        zeros_list("(local.get $n)", 16, 4)
    );
    let host = Arc::new(PluginHost::new(PluginOptions { cache: None, ..PluginOptions::default() }).unwrap());
    let plugin =
        host.load_bytes("superstitious", None, &Guest::new(&[Kind::Reward]).body("score", body).build()).unwrap();
    plugin.reward("test", "{}").unwrap()
}

/// `n` samples, those at `guilty` with 13 tokens.
fn samples(n: usize, guilty: &[usize]) -> Vec<Sample> {
    let sample = |at| Sample {
        prompt: Vec::new(),
        completion: format!("answer {at}"),
        completion_tokens: if guilty.contains(&at) { 13 } else { 5 },
        solution: None,
        columns: Vec::new(),
    };
    (0..n).map(sample).collect()
}

fn state() -> TrainerState {
    TrainerState { step: 0, max_steps: 1, epoch: 0.0, seed: 0, extra: "{}".into() }
}

#[test]
fn only_the_guilty_sample_is_without_a_score() {
    let reward = superstitious().with_policy(FailurePolicy::Skip);
    let scores = reward.score(&samples(40, &[7, 33]), &state()).unwrap();
    for (at, score) in scores.iter().enumerate() {
        assert_eq!(score.is_none(), [7, 33].contains(&at), "{at}");
    }
    let failures = reward.failures();
    assert_eq!((failures.samples, failures.failed), (40, 2));
    assert_eq!(
        failures.reasons.into_iter().collect::<Vec<_>>(),
        [("it trapped: wasm `unreachable` instruction executed".into(), 2)]
    );
}

#[test]
fn a_share_of_failures_stops_the_run() {
    // Five of a hundred are fewer than a tenth, twenty are more.
    let reward = superstitious();
    assert_eq!(reward.score(&samples(100, &[1, 20, 21, 50, 99]), &state()).unwrap().len(), 100);
    let error = reward.score(&samples(100, &(0..20).collect::<Vec<_>>()), &state()).unwrap_err();
    assert!(matches!(error, PluginError::TooManyFailures { failed: 25, samples: 200, .. }), "{error:?}");
    insta::assert_snapshot!(error.report());
    // Few samples say nothing about a share, unless all fail.
    assert!(superstitious().score(&samples(10, &[1, 2, 3]), &state()).is_ok());
    assert!(superstitious().score(&samples(3, &[0, 1, 2]), &state()).is_err());
    let strict = superstitious().with_policy(FailurePolicy::Stop);
    assert!(strict.score(&samples(100, &[]), &state()).is_ok());
    assert!(strict.score(&samples(100, &[99]), &state()).is_err());
    let patient = superstitious().with_policy(FailurePolicy::Skip);
    assert_eq!(patient.score(&samples(3, &[0, 1, 2]), &state()).unwrap(), [None; 3]);
}

#[test]
fn the_outcome_is_the_same_on_any_number_of_cores() {
    let reward = superstitious();
    let samples = samples(200, &[3, 17, 18, 150]);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (outcomes, fuel) = pool.install(|| reward.outcomes(&samples, &state()));
        let failed: Vec<usize> = (0..200).filter(|&at| matches!(outcomes[at], Outcome::Failed(_))).collect();
        assert!(fuel > 0);
        (failed, fuel)
    };
    let alone = on(1);
    assert_eq!(alone.0, [3, 17, 18, 150]);
    for threads in [1, 2, 8] {
        assert_eq!(on(threads), alone, "{threads} threads");
    }
}

/// Each test named on the page of misbehaviour is there: `FILE::TEST` in its last column.
#[test]
fn the_page_about_safety_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/plugins/safety.md")).unwrap();
    let mut named = 0;
    for (file, test) in
        page.split('`').filter_map(|code| code.split_once("::")).filter(|(file, _)| file.ends_with(".rs"))
    {
        let path: PathBuf = root.join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(&format!("fn {test}()")), "{file} has no test `{test}`");
        named += 1;
    }
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| What")).count();
    assert!(rows > 40 && named >= rows, "{named} tests for {rows} rows");
}
