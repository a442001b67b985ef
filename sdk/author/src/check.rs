//! `swift plugin check`: what a plugin that works may still get wrong. An error is something that users would stumble over;
//! a warning is something that they would miss.

use std::collections::BTreeSet;

use serde_json::Value;
use swift_plugin::{Kind, Plugin, PluginError, valid_name};

use crate::{Functions, Result, golden};

/// From this size on a component is slow to fetch and to compile.
const LARGE: usize = 64 << 20;
/// A setting that no plugin has.
const UNKNOWN_SETTING: &str = r#"{"no such setting": 1}"#;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Users miss something.
    Warning,
    /// Users stumble.
    Error,
}

/// Something that is not right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at: "metadata", "determinism", ...
    pub rule: &'static str,
    /// What is wrong, and what to do.
    pub what: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, rule: &'static str, what: impl Into<String>) {
        self.0.push(Finding { severity: Severity::Error, rule, what: what.into() });
    }

    fn warn(&mut self, rule: &'static str, what: impl Into<String>) {
        self.0.push(Finding { severity: Severity::Warning, rule, what: what.into() });
    }
}

/// Everything that is not right with a loaded plugin, errors first. `component` is its bytes; `files` names its golden tests.
///
/// # Errors
/// When its functions cannot be asked for, or its golden tests are not of the documented form.
pub fn check(plugin: &Plugin, component: &[u8], files: &[String]) -> Result<Vec<Finding>> {
    let mut findings = Findings::default();
    metadata(plugin, &mut findings);
    if component.len() > LARGE {
        findings.warn("size", format!("{} MB: leave out packages that it does not need", component.len() >> 20));
    }
    let functions = Functions::of(plugin)?;
    names(&functions, &mut findings);
    settings(plugin, &functions, &mut findings);
    let tests = golden::read(component, files)?;
    for (kind, function) in functions.all() {
        if !tests.iter().any(|test| test.kind == kind && test.name == function.name) {
            findings.warn("tests", format!("no golden test of the {kind} `{}`", function.name));
        }
    }
    if plugin.kinds().contains(&Kind::Model) && !tests.iter().any(|test| test.kind == Kind::Model) {
        findings.warn("tests", "no golden test of the model: a config, and the tensors that it must use");
    }
    for failure in golden::run(plugin, component, files)?.failures {
        findings.error("tests", format!("{}: {}", failure.place, failure.what));
    }
    determinism(plugin, &tests, &mut findings);
    findings.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings.0)
}

fn metadata(plugin: &Plugin, findings: &mut Findings) {
    let inspection = plugin.inspection();
    let Some(manifest) = &inspection.manifest else {
        findings.warn("metadata", "it carries no plugin.toml: its name is its file's, its version unknown");
        return;
    };
    let missing = [
        (manifest.summary.is_empty(), "`summary`"),
        (manifest.license.is_none(), "`license`"),
        (manifest.authors.is_empty(), "`authors`"),
    ];
    let missing: Vec<&str> = missing.into_iter().filter_map(|(missing, key)| missing.then_some(key)).collect();
    if !missing.is_empty() {
        findings.warn("metadata", format!("plugin.toml has no {}: publish it with them", missing.join(", no ")));
    }
    let asks = [
        (manifest.capabilities.read, "read", "swift:plugin/files"),
        (!manifest.capabilities.net.is_empty(), "net", "swift:plugin/http"),
    ];
    for (asked, key, interface) in asks {
        if asked && !inspection.wants(interface) {
            findings
                .warn("capabilities", format!("plugin.toml asks for `{key}`, and nothing in it imports {interface}"));
        }
    }
}

fn names(functions: &Functions, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (kind, function) in functions.all() {
        if !seen.insert((kind, &function.name)) {
            findings.error("names", format!("two {kind}s are called `{}`", function.name));
        }
        if !valid_name(&function.name) {
            findings.error("names", format!("`{}` is no name: lower case letters, digits, `-` and `_`", function.name));
        }
        if function.summary.is_empty() {
            findings.warn("metadata", format!("the {kind} `{}` has no summary", function.name));
        }
    }
}

/// A setting that nobody knows must be refused: a user's slip would change nothing, in silence.
fn settings(plugin: &Plugin, functions: &Functions, findings: &mut Findings) {
    for (kind, function) in functions.all() {
        let refused = match kind {
            Kind::Reward => plugin.reward(&function.name, UNKNOWN_SETTING).err(),
            Kind::Metric => plugin.metric(&function.name, UNKNOWN_SETTING).err(),
            Kind::Preprocessor => plugin.preprocessor(&function.name, UNKNOWN_SETTING).err(),
            // A template is handed all of a tokenizer's tokens; a loader needs a source to be asked.
            Kind::Template | Kind::Dataset | Kind::Model => continue,
        };
        match refused {
            Some(PluginError::Settings { .. }) => {}
            None => {
                findings.error("settings", format!("the {kind} `{}` takes a setting that nobody knows", function.name))
            }
            Some(error) => {
                let what = format!("the {kind} `{}` fails at a setting that nobody knows: {error}", function.name);
                findings.error("settings", what);
            }
        }
    }
}

/// The same calls in other instances give the same answers, for the same fuel.
fn determinism(plugin: &Plugin, tests: &[golden::Test], findings: &mut Findings) {
    for test in tests {
        for (index, case) in test.cases.iter().enumerate() {
            // A case that fails was said already.
            let run = || golden::answers(plugin, test, case).ok();
            let (Some(first), Some(second)) = (run(), run()) else { continue };
            let answers = |ran: &[golden::Answer]| -> Vec<Value> { ran.iter().map(|one| one.actual.clone()).collect() };
            let fuel = |ran: &[golden::Answer]| -> Vec<Option<u64>> { ran.iter().map(|one| one.fuel).collect() };
            if answers(&first) != answers(&second) {
                findings.error("determinism", format!("{}: two runs gave different answers", test.place(index)));
            } else if fuel(&first) != fuel(&second) {
                findings
                    .error("determinism", format!("{}: two runs took different amounts of fuel", test.place(index)));
            }
        }
    }
}
