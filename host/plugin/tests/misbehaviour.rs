//! What a hostile or broken plugin does once it is loaded, for each kind of plugin: one clear error, nothing else harmed.
//! The table is in `docs/plugins/safety.md`.

mod guest;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest::{Guest, empty_rows, error_text, functions, zeros_list};
use swift_plugin::{
    Answer, ChatMessage, Conversation, Example, FailurePolicy, Form, Kind, KindLimits, Limits, Listener, LogLine,
    Message, Outcome, Part, Plugin, PluginError, PluginHost, PluginOptions, Sample, TrainerState,
};

/// Small budgets, so that runaway cases end at once.
fn options() -> PluginOptions {
    PluginOptions {
        limits: KindLimits::default().with(|limits| {
            *limits = Limits {
                fuel: 20_000_000,
                fuel_each: 1_000_000,
                deadline: Duration::from_millis(300),
                memory: 16 << 20,
                calls: 10_000,
            };
        }),
        cache: None,
        ..PluginOptions::default()
    }
}

fn host() -> Arc<PluginHost> {
    Arc::new(PluginHost::new(options()).unwrap())
}

fn samples(n: usize) -> Vec<Sample> {
    let sample = |at| Sample {
        prompt: vec![Message { role: "user".into(), content: "2+2?".into() }],
        completion: format!("answer {at}"),
        completion_tokens: 3,
        solution: Some("4".into()),
        columns: vec![("level".into(), "1".into())],
    };
    (0..n).map(sample).collect()
}

fn state() -> TrainerState {
    TrainerState { step: 1, max_steps: 10, epoch: 0.5, seed: 42, extra: "{}".into() }
}

fn conversation() -> Conversation {
    let message = ChatMessage {
        role: "user".into(),
        content: vec![Part::Text("hello".into())],
        reasoning: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
        name: None,
        loss: None,
        loss_scale: None,
    };
    Conversation { messages: vec![message], tools: Vec::new(), arguments: Vec::new(), date: None }
}

/// The function in which each kind does its work.
fn work_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Model => "claims",
        Kind::Reward => "score",
        Kind::Metric => "update",
        Kind::Template => "render",
        Kind::Preprocessor => "process",
        Kind::Dataset => "[method]reader.next",
    }
}

/// Lets a plugin do three things of its kind; what it answered, as text.
fn work(plugin: &Plugin, kind: Kind) -> Result<String, PluginError> {
    Ok(match kind {
        Kind::Model => format!("{:?}", plugin.model()?.claims("{}")?),
        Kind::Reward => {
            let reward = plugin.reward("test", "{}")?.with_policy(FailurePolicy::Stop);
            format!("{:?}", reward.score(&samples(3), &state())?)
        }
        Kind::Metric => {
            let example = Example {
                prediction: Answer::Text("a".into()),
                references: vec![Answer::Tokens(vec![1, -100])],
                columns: Vec::new(),
            };
            format!("{:?}", plugin.metric("test", "{}")?.evaluate(&vec![example; 3])?)
        }
        Kind::Template => {
            let template = plugin.template("test", "{}")?;
            format!("{:?}", template.render(&vec![conversation(); 3], Form::Training)?)
        }
        Kind::Preprocessor => {
            let rows = vec!["{}".to_owned(); 3];
            format!("{:?}", plugin.preprocessor("test", "{}")?.process(&rows)?)
        }
        Kind::Dataset => {
            let mut reader = plugin.loader("test")?.open("nowhere", None, "{}", None)?;
            format!("{:?}", reader.next(3)?)
        }
    })
}

/// What each kind of plugin says when `make` spoils it; other plugins of the same host must stay as they were.
fn reports(kinds: &[Kind], make: impl Fn(Kind) -> Guest) -> String {
    let host = host();
    let mut text = String::new();
    for &kind in kinds {
        let good = host.load_bytes("good", None, &Guest::new(&[kind]).build()).unwrap();
        let before = work(&good, kind).unwrap_or_else(|error| panic!("{}", error.report()));
        let spoiled = host.load_bytes("spoiled", None, &make(kind).build()).and_then(|plugin| work(&plugin, kind));
        let report = spoiled.map_or_else(|error| error.report(), |answer| panic!("{kind} answered {answer}"));
        let _ = writeln!(text, "== {kind}\n{report}");
        assert_eq!(work(&good, kind).unwrap(), before, "{kind}");
    }
    text
}

/// The body replaces the function in which the kind does its work.
fn spoiled(kind: Kind, body: &str) -> Guest {
    Guest::new(&[kind]).body(work_of(kind), body)
}

#[test]
fn a_good_plugin_of_every_kind_works() {
    let host = host();
    for kind in Kind::ALL {
        let plugin = host.load_bytes("good", None, &Guest::new(&[kind]).named("good", "").build()).unwrap();
        assert_eq!(plugin.kinds(), [kind]);
        work(&plugin, kind).unwrap_or_else(|error| panic!("{}", error.report()));
    }
    let all = host.load_bytes("good", None, &Guest::new(&Kind::ALL).named("good", "").build()).unwrap();
    assert_eq!(all.kinds(), Kind::ALL);
    for kind in Kind::ALL {
        work(&all, kind).unwrap_or_else(|error| panic!("{}", error.report()));
    }
}

#[test]
fn an_infinite_loop_ends_with_its_fuel() {
    insta::assert_snapshot!(reports(&Kind::ALL, |kind| spoiled(kind, "(loop $forever (br $forever)) unreachable")));
}

#[test]
fn an_infinite_loop_that_may_wait_ends_at_the_deadline() {
    // It imports `files`, so it has no fuel but a clock.
    insta::assert_snapshot!(reports(&[Kind::Dataset], |kind| {
        spoiled(kind, "(loop $forever (br $forever)) unreachable")
            .import("files", "size", "(param i32 i32 i32)")
            .named("spoiled", "[capabilities]\nread = true")
    }));
}

#[test]
fn a_trap_is_named() {
    insta::assert_snapshot!(reports(&Kind::ALL, |kind| spoiled(kind, "unreachable")));
    let divided = reports(&Kind::ALL, |kind| spoiled(kind, "(i32.div_u (i32.const 1) (i32.load (i32.const 1024)))"));
    assert_eq!(divided.matches("integer divide by zero").count(), Kind::ALL.len(), "{divided}");
}

#[test]
fn a_message_of_an_exception_reaches_the_user() {
    insta::assert_snapshot!(reports(&Kind::ALL, |kind| {
        spoiled(kind, "(call $abort (i32.const 5000) (i32.const 22)) unreachable")
            .import("log", "abort", "(param i32 i32)")
            .fields("(data (i32.const 5000) \"ValueError at line 7\\1b[\")")
    }));
}

#[test]
fn a_memory_bomb_ends_at_its_budget() {
    insta::assert_snapshot!(reports(&Kind::ALL, |kind| {
        spoiled(kind, "(loop $more (drop (memory.grow (i32.const 16))) (br $more)) unreachable")
    }));
    // Also before the first call.
    let declared = reports(&Kind::ALL, |kind| {
        Guest::new(&[kind]).contract("(memory (export \"memory\") 2)", "(memory (export \"memory\") 65536)")
    });
    assert_eq!(declared.matches("asked for 4096 MiB of memory").count(), Kind::ALL.len(), "{declared}");
}

#[test]
fn a_table_bomb_ends_at_its_budget() {
    insta::assert_snapshot!(reports(&Kind::ALL, |kind| {
        spoiled(kind, "(loop $more (drop (table.grow $big (ref.null func) (i32.const 100000))) (br $more)) unreachable")
            .fields("(table $big 1 funcref)")
    }));
    let declared = reports(&Kind::ALL, |kind| Guest::new(&[kind]).fields("(table $big 5000000 funcref)"));
    assert_eq!(declared.matches("tables of more than a million elements").count(), Kind::ALL.len(), "{declared}");
}

#[test]
fn endless_recursion_is_a_trap() {
    insta::assert_snapshot!(reports(&Kind::ALL, |kind| {
        spoiled(kind, "(drop (call $deep (i32.const 0))) unreachable")
            .fields("(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))")
    }));
}

#[test]
fn a_loop_before_the_first_call_ends_too() {
    insta::assert_snapshot!(reports(&Kind::ALL, |kind| {
        Guest::new(&[kind]).fields("(func $start (loop $forever (br $forever))) (start $start)")
    }));
}

/// Kinds that answer with a list, one entry for each thing they got.
const LISTS: [Kind; 3] = [Kind::Reward, Kind::Template, Kind::Preprocessor];

fn list(kind: Kind, n: &str) -> String {
    match kind {
        Kind::Reward => zeros_list(n, 16, 4),
        Kind::Template => zeros_list(n, 12, 0),
        _ => empty_rows(n, 4),
    }
}

#[test]
fn a_list_of_the_wrong_length_is_refused() {
    insta::assert_snapshot!(
        "too_many",
        reports(&LISTS, |kind| spoiled(kind, &list(kind, "(i32.add (local.get $n) (i32.const 1))")))
    );
    let none = reports(&LISTS, |kind| spoiled(kind, &list(kind, "(i32.const 0)")));
    assert_eq!(none.matches(" gave 0 ").count() + none.matches("it gave 0 ").count(), 2 * LISTS.len(), "{none}");
    // A reader may give fewer rows than it was asked for, not more.
    insta::assert_snapshot!("reader", reports(&[Kind::Dataset], |kind| spoiled(kind, &empty_rows("(i32.const 4)", 4))));
}

#[test]
fn a_list_that_lies_outside_of_the_memory_is_a_trap() {
    insta::assert_snapshot!(reports(&Kind::ALL, |kind| spoiled(kind, "(i32.const -16)")));
    let endless = reports(&LISTS, |kind| {
        let offset = if kind == Kind::Template { 0 } else { 4 };
        spoiled(
            kind,
            &format!(
                "(i32.store offset={offset} (i32.const 2048) (i32.const 4096)) (i32.store offset={} (i32.const 2048) (i32.const 0x0fffffff)) (i32.const 2048)",
                offset + 4
            ),
        )
    });
    assert_eq!(endless.matches("out of bounds").count(), LISTS.len(), "{endless}");
}

#[test]
fn huge_output_is_refused() {
    // An error text of 12 MiB.
    insta::assert_snapshot!(reports(&[Kind::Model, Kind::Reward, Kind::Metric], |kind| {
        spoiled(kind, &format!("(drop (memory.grow (i32.const 200))) {}", error_text(0, 12 << 20)))
    }));
    insta::assert_snapshot!(
        "million_of_rows",
        reports(&[Kind::Preprocessor, Kind::Dataset], |kind| { spoiled(kind, &empty_rows("(i32.const 1200000)", 4)) })
    );
    insta::assert_snapshot!(
        "million_of_renderings",
        reports(&[Kind::Template], |kind| { spoiled(kind, &zeros_list("(i32.const 1200000)", 12, 0)) })
    );
}

#[test]
fn text_that_is_none_is_refused() {
    // Not UTF-8.
    insta::assert_snapshot!(reports(&[Kind::Reward, Kind::Metric, Kind::Preprocessor, Kind::Dataset], |kind| {
        spoiled(kind, &error_text(5000, 2)).fields("(data (i32.const 5000) \"\\ff\\fe\")")
    }));
    // A variant without such a case.
    let case = reports(&[Kind::Reward], |kind| {
        spoiled(
            kind,
            &format!(
                "{} (i32.store8 (i32.load offset=4 (i32.const 2048)) (i32.const 7))",
                list(kind, "(local.get $n)")
            ),
        )
    });
    assert!(case.contains("invalid variant discriminant") || case.contains("unexpected discriminant"), "{case}");
}

#[test]
fn an_error_text_is_cleaned_and_bounded() {
    let long = reports(&[Kind::Reward, Kind::Metric, Kind::Preprocessor, Kind::Dataset], |kind| {
        spoiled(kind, &error_text(5000, 60_000)).fields("(data (i32.const 5000) \"\\1b]0;title\\07\\0d\")")
    });
    assert!(!long.contains('\u{1b}') && !long.contains('\r') && !long.contains('\u{7}'), "{long}");
    assert!(long.len() < 20_000 && long.contains("]0;title"), "{}", long.len());
}

/// A reward whose scores are this constant.
fn constant(number: &str) -> Guest {
    let body = format!(
        "(local $at i32) (local $end i32) {} drop (local.set $at (i32.load offset=4 (i32.const 2048))) \
         (local.set $end (i32.add (local.get $at) (i32.mul (local.get $n) (i32.const 16)))) \
         (block $done (loop $next (br_if $done (i32.ge_u (local.get $at) (local.get $end))) \
         (f64.store offset=8 (local.get $at) (f64.const {number})) (local.set $at (i32.add (local.get $at) (i32.const 16))) (br $next))) \
         (i32.const 2048)",
        zeros_list("(local.get $n)", 16, 4)
    );
    Guest::new(&[Kind::Reward]).body("score", body)
}

#[test]
fn numbers_that_are_none_are_no_scores() {
    let host = host();
    for (number, said) in [("nan", "the score is NaN"), ("inf", "the score is inf"), ("-inf", "the score is -inf")] {
        let plugin = host.load_bytes("spoiled", None, &constant(number).build()).unwrap();
        let reward = plugin.reward("test", "{}").unwrap();
        let (outcomes, _) = reward.outcomes(&samples(3), &state());
        assert!(outcomes.iter().all(|one| matches!(one, Outcome::Failed(reason) if reason == said)), "{outcomes:?}");
        let error = reward.score(&samples(3), &state()).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    let good = host.load_bytes("good", None, &constant("0.25").build()).unwrap();
    let scores = good.reward("test", "{}").unwrap().score(&samples(3), &state()).unwrap();
    assert_eq!(scores, [Some(0.25); 3]);
    // A metric's number and a segment's weight.
    insta::assert_snapshot!(reports(&[Kind::Metric, Kind::Template], |kind| match kind {
        Kind::Metric => {
            let (_, _, compute) = functions(kind).into_iter().find(|(name, ..)| *name == "compute").unwrap();
            Guest::new(&[kind]).body(
                "compute",
                format!("(f64.store offset=8 (i32.load offset=4 {compute}) (f64.const nan)) (i32.const 2048)"),
            )
        }
        // One segment for each conversation, all at the same place: text of no length, weight NaN.
        _ => spoiled(
            kind,
            "(local $at i32) (local $end i32) (local.set $at (i32.const 8192)) \
             (local.set $end (i32.add (local.get $at) (i32.mul (local.get $n) (i32.const 12)))) \
             (f32.store offset=12 (i32.const 7000) (f32.const nan)) \
             (block $done (loop $next (br_if $done (i32.ge_u (local.get $at) (local.get $end))) \
             (i32.store offset=4 (local.get $at) (i32.const 7000)) (i32.store offset=8 (local.get $at) (i32.const 1)) \
             (local.set $at (i32.add (local.get $at) (i32.const 12))) (br $next))) \
             (i32.store (i32.const 2048) (i32.const 8192)) (i32.store (i32.const 2052) (local.get $n)) (i32.const 2048)",
        ),
    }));
}

#[test]
fn a_flood_of_log_lines_is_cut() {
    let heard: Arc<Mutex<Vec<LogLine>>> = Arc::default();
    let log: Listener<LogLine> = {
        let heard = Arc::clone(&heard);
        Arc::new(move |plugin, line| {
            assert_eq!(plugin, "loud");
            heard.lock().unwrap().push(line);
        })
    };
    let host = Arc::new(PluginHost::new(PluginOptions { log: Some(log), ..options() }).unwrap());
    let flood = |turns: u32| {
        let body = format!(
            "(local $turn i32) (loop $more (call $log (i32.const 2) (i32.const 5000) (i32.const 9000)) \
             (local.set $turn (i32.add (local.get $turn) (i32.const 1))) (br_if $more (i32.ne (local.get $turn) (i32.const {turns})))) {}",
            zeros_list("(local.get $n)", 16, 4)
        );
        let guest = Guest::new(&[Kind::Reward]).body("score", body).import("log", "log", "(param i32 i32 i32)");
        guest.fields("(data (i32.const 5000) \"\\1b[2Jpay attention\")").build()
    };
    let plugin = host.load_bytes("loud", None, &flood(5000)).unwrap();
    plugin.reward("test", "{}").unwrap().score(&samples(3), &state()).unwrap();
    let lines = std::mem::take(&mut *heard.lock().unwrap());
    assert_eq!(lines.len(), 101);
    assert!(
        lines[0].message.starts_with("[2Jpay attention") && lines[0].message.chars().count() <= 2001,
        "{}",
        lines[0].message
    );
    assert_eq!(lines[100].message, "4900 more lines in this call are not shown");
    // More calls than a call may make.
    let plugin = host.load_bytes("loud", None, &flood(20_000)).unwrap();
    let error = plugin.reward("test", "{}").unwrap().score(&samples(1), &state()).unwrap_err();
    insta::assert_snapshot!(error.report());
}

#[test]
fn settings_that_a_plugin_refuses_are_named() {
    let kinds = [Kind::Reward, Kind::Metric, Kind::Template, Kind::Preprocessor];
    insta::assert_snapshot!(reports(&kinds, |kind| {
        Guest::new(&[kind])
            .body("configure", error_text(5000, 15))
            .fields("(data (i32.const 5000) \"no key `colour`\")")
    }));
}

#[test]
fn names_of_functions_cannot_lie() {
    // The name stands at 16 in the guest; escape sequences and path traversal would go to terminals and file names.
    let kinds = [Kind::Reward, Kind::Metric, Kind::Template, Kind::Preprocessor, Kind::Dataset];
    insta::assert_snapshot!(reports(&kinds, |kind| Guest::new(&[kind]).fields("(data (i32.const 16) \"../x\")")));
}

#[test]
fn a_wait_for_nothing_is_noticed() {
    // A reader that gives batches without a row and never the last.
    let endless = Guest::new(&[Kind::Dataset]).body("[method]reader.next", "(i32.const 1024)");
    let plugin = host().load_bytes("stuck", None, &endless.build()).unwrap();
    let mut reader = plugin.loader("test").unwrap().open("nowhere", None, "{}", None).unwrap();
    let error = (0..5000).find_map(|_| reader.next(3).err()).expect("it must end");
    insta::assert_snapshot!(error.report());
}

#[test]
fn a_dropped_row_says_why() {
    // `rows` without a row, and `dropped` without a reason: both would lose a row in silence.
    for (case, said) in [(1, "no row at all"), (2, "dropped without a reason")] {
        let lost = reports(&[Kind::Preprocessor], |kind| {
            let all = format!(
                "{} (i32.store8 (i32.load offset=4 (i32.const 2048)) (i32.const {case})) (i32.store offset=8 (i32.load offset=4 (i32.const 2048)) (i32.const 0))",
                empty_rows("(local.get $n)", 4)
            );
            spoiled(kind, &all)
        });
        assert!(lost.contains(said), "{lost}");
    }
}

/// Components for the fuzzer to start from: one of each kind, one of all.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> =
        Kind::ALL.iter().map(|&kind| (format!("{kind}.wasm"), Guest::new(&[kind]).named("seed", "").build())).collect();
    seeds.push(("all.wasm".into(), Guest::new(&Kind::ALL).named("seed", "").build()));
    seeds.push(("bare.wasm".into(), Guest::new(&[Kind::Reward]).build()));
    seeds
}

fn seeds_folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/component_loading")
}

#[test]
fn the_fuzzer_starts_from_plugins_that_load() {
    for (name, component) in seeds() {
        let committed = std::fs::read(seeds_folder().join(&name)).unwrap();
        assert_eq!(committed, component, "{name}: run this test's neighbour with --run-ignored only");
        host().load_bytes("seed", None, &committed).unwrap();
    }
}

#[test]
#[ignore = "writes tests/fuzz/seeds/component_loading"]
fn write_the_seeds_of_the_fuzzer() {
    for (name, component) in seeds() {
        std::fs::write(seeds_folder().join(name), component).unwrap();
    }
}
