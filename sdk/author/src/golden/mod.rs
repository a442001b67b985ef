//! Golden tests: what a plugin carries in its `tests/*.json`, run in the real host. A case is a call and the answer that it
//! must give; besides, each kind is held to its contract's own promises (a metric merges, a loader goes on from any cursor,
//! a template reads a stream as it reads the whole).

pub(crate) mod conversation;
mod dataset;
pub(crate) mod difference;
pub(crate) mod metric;
mod model;
pub(crate) mod reward;
mod template;

use serde_json::{Map, Value};
use swift_plugin::{Kind, Plugin, sections};

use crate::{AuthorError, Result};

/// What golden tests gave.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Answers that were compared.
    pub compared: usize,
    /// Cases that were run.
    pub cases: usize,
    /// What went wrong, case by case.
    pub failures: Vec<Failure>,
}

/// A case that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// File, function and case.
    pub place: String,
    /// What differs, on several lines.
    pub what: String,
}

/// One answer of a plugin beside what it must be.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What of the case this is: "merged", "in pieces of 3"; empty for the call itself.
    pub(crate) part: String,
    pub(crate) actual: Value,
    pub(crate) expected: Value,
    /// Fuel of the call, where the host tells it.
    pub(crate) fuel: Option<u64>,
}

impl Answer {
    fn new(actual: Value, expected: Value) -> Self {
        Self { part: String::new(), actual, expected, fuel: None }
    }

    fn part(part: impl Into<String>, actual: Value, expected: Value) -> Self {
        Self { part: part.into(), actual, expected, fuel: None }
    }
}

/// The answers of one case, or why there are none.
pub(crate) type Answers = std::result::Result<Vec<Answer>, String>;

/// A golden test: a function of the plugin, set up, and cases.
#[derive(Debug, Clone)]
pub(crate) struct Test {
    /// File name, or its number.
    file: String,
    pub(crate) kind: Kind,
    /// The function; empty for a model.
    pub(crate) name: String,
    pub(crate) config: String,
    pub(crate) cases: Vec<Map<String, Value>>,
}

impl Test {
    /// How a case of it is called in messages; cases count from 1.
    pub(crate) fn place(&self, case: usize) -> String {
        let function = if self.name.is_empty() { String::new() } else { format!(" `{}`", self.name) };
        format!("{}: {}{function}, case {}", self.file, self.kind, case + 1)
    }
}

/// Runs the golden tests that a component carries. `files` names them in messages, in their order.
///
/// # Errors
/// When the tests are not of the documented form.
pub fn run(plugin: &Plugin, component: &[u8], files: &[String]) -> Result<Report> {
    let mut report = Report::default();
    for test in read(component, files)? {
        for (index, case) in test.cases.iter().enumerate() {
            report.cases += 1;
            let failed = |part: &str, what| {
                let place = test.place(index);
                Failure { place: if part.is_empty() { place } else { format!("{place}, {part}") }, what }
            };
            match answers(plugin, &test, case) {
                Err(what) => report.failures.push(failed("", what)),
                Ok(answers) => {
                    report.compared += answers.len();
                    for answer in answers {
                        if let Some(what) = difference::difference(&answer.expected, &answer.actual) {
                            report.failures.push(failed(&answer.part, what));
                        }
                    }
                }
            }
        }
    }
    Ok(report)
}

/// The golden tests in a component; none where it carries none.
///
/// # Errors
/// When they are not of the documented form.
pub(crate) fn read(component: &[u8], files: &[String]) -> Result<Vec<Test>> {
    let Some(section) = sections::read(component, sections::TESTS) else { return Ok(Vec::new()) };
    let wrong = |what: String| AuthorError::Component {
        what,
        author: "a golden test is a JSON object with `kind`, `name`, `config` and `cases`".into(),
    };
    let tests: Vec<Map<String, Value>> =
        serde_json::from_slice(section).map_err(|error| wrong(format!("its tests: {error}")))?;
    let one = |(index, test): (usize, Map<String, Value>)| {
        let file = files.get(index).cloned().unwrap_or_else(|| format!("test {}", index + 1));
        let file = swift_plugin::clean(&file, 100);
        parse(file.clone(), test).map_err(|what| wrong(format!("{file}: {what}")))
    };
    tests.into_iter().enumerate().map(one).collect()
}

fn parse(file: String, mut test: Map<String, Value>) -> std::result::Result<Test, String> {
    let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let kind: Kind = text(test.remove("kind")).ok_or("`kind` is missing")?.parse()?;
    let name = text(test.remove("name")).unwrap_or_default();
    if name.is_empty() && kind != Kind::Model {
        return Err("`name` is missing: the function that is tested".into());
    }
    let config = match test.remove("config") {
        None => "{}".into(),
        Some(config) if config.is_object() => config.to_string(),
        Some(_) => return Err("`config` is no object".into()),
    };
    let Some(Value::Array(cases)) = test.remove("cases") else { return Err("`cases` is missing or no list".into()) };
    if let Some(key) = test.keys().next() {
        return Err(format!("nobody knows the key `{}`", swift_plugin::clean(key, 60)));
    }
    let object = |case| if let Value::Object(case) = case { Ok(case) } else { Err("a case is no object") };
    let cases = cases.into_iter().map(object).collect::<std::result::Result<Vec<_>, _>>()?;
    if cases.is_empty() {
        return Err("`cases` is empty".into());
    }
    Ok(Test { file, kind, name, config, cases })
}

/// Runs one case.
pub(crate) fn answers(plugin: &Plugin, test: &Test, case: &Map<String, Value>) -> Answers {
    let known: &[&str] = match test.kind {
        Kind::Reward => &["samples", "state", "expect"],
        Kind::Metric => &["examples", "expect"],
        Kind::Preprocessor => &["rows", "expect"],
        Kind::Dataset => &["files", "location", "subset", "expect"],
        Kind::Template => &["conversation", "form", "text", "trained", "completion", "context", "parsed"],
        Kind::Model => &["config", "parameters", "ops"],
    };
    if let Some(key) = case.keys().find(|key| !known.contains(&key.as_str()) && *key != "comment") {
        let key = swift_plugin::clean(key, 60);
        return Err(format!("a {} case has no `{key}`; it has {}", test.kind, known.join(", ")));
    }
    match test.kind {
        Kind::Reward => reward::answers(plugin, test, case),
        Kind::Metric => metric::answers(plugin, test, case),
        Kind::Preprocessor => dataset::preprocessor(plugin, test, case),
        Kind::Dataset => dataset::loader(plugin, test, case),
        Kind::Template => template::answers(plugin, test, case),
        Kind::Model => model::answers(plugin, case),
    }
}

/// A list of a case.
fn list<'a>(case: &'a Map<String, Value>, key: &str) -> std::result::Result<&'a [Value], String> {
    case.get(key).and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| format!("`{key}` is missing or no list"))
}

/// What a case expects.
fn expected(case: &Map<String, Value>) -> std::result::Result<&Value, String> {
    case.get("expect").ok_or_else(|| "`expect` is missing".into())
}

/// The columns of a row that have no place of their own.
pub(crate) fn columns(row: &Map<String, Value>, own: &[&str]) -> Vec<(String, String)> {
    let columns = row.iter().filter(|(key, _)| !own.contains(&key.as_str()));
    columns.map(|(key, value)| (key.clone(), value.to_string())).collect()
}

/// A plugin's error as a case's failure.
fn failed(error: swift_plugin::PluginError) -> String {
    error.report().trim_start_matches("error: ").trim_end().to_owned()
}
