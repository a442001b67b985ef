//! `swift plugin run`: one function of a plugin on the rows of a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};
use swift_author::{Functions, rows};
use swift_plugin::{
    FailurePolicy, Kind, Outcome, Plugin, PluginError, PluginHost, PluginSet, RowOutcome, plugin_folders,
};

use super::{Subcommand, allow, columns, host, text};
use crate::{failure::Failure, render};

pub(super) const COMMANDS: &[Subcommand] = &[Subcommand { name: "run", arguments, run }];

/// Rows that are handed over at once.
const BATCH: usize = 1024;
/// Longest line that is read, in bytes.
const LINE: usize = 64 << 20;

fn arguments(command: Command) -> Command {
    command
        .about("Use a function of a plugin on rows: score, measure, convert, render, parse")
        .arg(
            Arg::new("FILE").required(true).help(
                "A component, or the name of an installed or built-in plugin; FILE:FUNCTION where it holds several",
            ),
        )
        .arg(
            Arg::new("input")
                .long("input")
                .value_name("rows.jsonl")
                .required(true)
                .help("One JSON object a line; for a dataset loader: the source to read"),
        )
        .arg(Arg::new("output").long("output").value_name("FILE").help("Where rows go [default: standard output]"))
        .arg(Arg::new("config").long("config").value_name("JSON").default_value("{}").help("Settings of the function"))
        .arg(
            Arg::new("kind")
                .long("kind")
                .value_parser(Kind::ALL.map(Kind::name).to_vec())
                .help("Which kind, where functions of two kinds have one name"),
        )
        .arg(
            Arg::new("form")
                .long("form")
                .value_parser(["prompt", "training"])
                .default_value("training")
                .help("For a template: what rows are rendered for"),
        )
        .arg(
            Arg::new("parse")
                .long("parse")
                .action(ArgAction::SetTrue)
                .help("For a template: read the rows' `completion` back instead of rendering"),
        )
        .arg(
            Arg::new("reward-failures")
                .long("reward-failures")
                .value_name("stop|skip|SHARE")
                .default_value("0.1")
                .value_parser(|text: &str| text.parse::<FailurePolicy>())
                .help("For a reward: stop at the first sample that fails, never, or when more than this share did"),
        )
        .arg(allow())
}

/// A component that was named on the command line, and which function of it.
pub(super) struct Target {
    pub(super) plugin: Plugin,
    /// As it was named.
    pub(super) shown: String,
    function: Option<String>,
}

impl Target {
    /// Loads `FILE` or `FILE:FUNCTION`; where there is no such file, the installed or built-in plugin of that name.
    pub(super) fn load(host: &Arc<PluginHost>, named: &str) -> Result<Self, Failure> {
        let (file, function) = match named.rsplit_once(':') {
            Some((file, function)) if !Path::new(named).exists() && !function.contains(['/', '\\']) => {
                (file, Some(function.to_owned()))
            }
            _ => (named, None),
        };
        let installed = if !Path::new(file).exists() && swift_plugin::valid_name(file) {
            PluginSet::new(Arc::clone(host), &[], &plugin_folders())?.named(file)?
        } else {
            None
        };
        let plugin = installed.map_or_else(|| host.load(Path::new(file)), Ok)?;
        crate::plugins::check(plugin.inspection(), plugin.path())?;
        if let Some(other) = host.options().grants.plugins().find(|granted| *granted != plugin.name()) {
            let there = vec![plugin.name().to_owned()];
            return Err(PluginError::GrantToNone { plugin: other.into(), there }.into());
        }
        Ok(Self { plugin, shown: named.to_owned(), function })
    }

    /// The function that was named, or the only one there is.
    pub(super) fn function(&self, kind: Option<Kind>) -> Result<(Kind, String), Failure> {
        let functions = Functions::of(&self.plugin)?;
        let mut fitting: Vec<(Kind, String)> = functions
            .all()
            .filter(|(own, _)| kind.is_none_or(|kind| kind == *own))
            .map(|(kind, function)| (kind, function.name.clone()))
            .collect();
        let all: Vec<String> = fitting.iter().map(|(kind, name)| format!("{name} ({kind})")).collect();
        if let Some(wanted) = &self.function {
            fitting.retain(|(_, name)| name == wanted);
        }
        let name = self.plugin.name();
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            0 => {
                let wanted = self.function.as_deref().map_or_else(
                    || kind.map_or("function to run".into(), |kind| format!("{kind}")),
                    |wanted| format!("function `{}`", swift_plugin::clean(wanted, 80)),
                );
                let hint =
                    if all.is_empty() { "`swift plugin inspect` says what it is".into() } else { all.join(", ") };
                Err(Failure::new(format!("plugin `{name}` holds no {wanted}"), format!("it holds: {hint}")))
            }
            _ => {
                let hint = format!("name one as FILE:FUNCTION, or its --kind: {}", all.join(", "));
                Err(Failure::new(format!("plugin `{name}` holds several functions"), hint))
            }
        }
    }
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let target = Target::load(&host(matches)?, text(matches, "FILE").unwrap_or_default())?;
    let kind = text(matches, "kind").and_then(|kind| kind.parse().ok());
    let (kind, name) = target.function(kind)?;
    if matches.get_flag("parse") && kind != Kind::Template {
        return Err(Failure::new("--parse is for templates", format!("`{name}` is a {kind}: leave it out")));
    }
    let mut job = Job {
        plugin: target.plugin,
        name,
        config: text(matches, "config").unwrap_or("{}").to_owned(),
        input: text(matches, "input").unwrap_or_default().to_owned(),
        output: Output::open(text(matches, "output"))?,
        failures: matches.get_one("reward-failures").copied().unwrap_or_default(),
    };
    match kind {
        Kind::Reward => job.reward()?,
        Kind::Metric => job.metric()?,
        Kind::Preprocessor => job.preprocessor()?,
        Kind::Dataset => job.dataset()?,
        Kind::Template if matches.get_flag("parse") => job.parse()?,
        Kind::Template => job.render(text(matches, "form").unwrap_or("training"))?,
        Kind::Model => return Err(Failure::new("a model has no rows to run on", "use `swift infer --plugin FILE`")),
    }
    job.output.finish()
}

struct Job {
    plugin: Plugin,
    name: String,
    config: String,
    input: String,
    output: Output,
    failures: FailurePolicy,
}

type Row = Map<String, Value>;

impl Job {
    /// Hands the input's rows over in batches; `line` counts from 1.
    fn batches(&self, mut take: impl FnMut(Vec<Row>, usize) -> Result<(), Failure>) -> Result<(), Failure> {
        let path = Path::new(&self.input);
        let file = File::open(path).map_err(|error| Failure::io("read", path, &error))?;
        let mut reader = BufReader::new(file);
        let (mut batch, mut first, mut number) = (Vec::new(), 1, 0);
        loop {
            let mut line = Vec::new();
            let mut bounded = std::io::Read::take(&mut reader, LINE as u64 + 1);
            let read = bounded.read_until(b'\n', &mut line).map_err(|error| Failure::io("read", path, &error))?;
            let end = read == 0;
            number += 1;
            let wrong = |what: String| {
                Failure::new(format!("{}, line {number}: {what}", path.display()), "write one JSON object a line")
            };
            if line.len() > LINE {
                return Err(wrong(format!("it is longer than {} MiB", LINE >> 20)));
            }
            if !line.trim_ascii().is_empty() {
                batch.push(serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?);
            }
            if batch.len() == BATCH || (end && !batch.is_empty()) {
                take(std::mem::take(&mut batch), first)?;
                first = number + 1;
            }
            if end {
                return Ok(());
            }
        }
    }

    /// The rows of a batch as something else; an error names the row.
    fn converted<T>(batch: &[Row], first: usize, one: impl Fn(&Row) -> Result<T, String>) -> Result<Vec<T>, Failure> {
        let row = |(index, row): (usize, &Row)| {
            one(row).map_err(|what| {
                Failure::new(format!("row {}: {what}", first + index), "put the row right, or leave it out")
            })
        };
        batch.iter().enumerate().map(row).collect()
    }

    fn reward(&mut self) -> Result<(), Failure> {
        let reward = self.plugin.reward(&self.name, &self.config)?.with_policy(self.failures);
        let state = rows::state(&Map::new()).map_err(|what| Failure::new(what, "report it"))?;
        let mut output = std::mem::take(&mut self.output);
        let (mut scores, mut none, mut reasons) = (Vec::new(), 0u64, BTreeMap::<String, u64>::new());
        self.batches(|batch, first| {
            let samples = Self::converted(&batch, first, swift_plugin::sample_of_row)?;
            let (outcomes, _) = reward.outcomes(&samples, &state);
            reward.count(&outcomes)?;
            for (mut row, outcome) in batch.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Score(score) => {
                        scores.push(score);
                        row.insert("score".into(), json!(score));
                    }
                    Outcome::NoScore => {
                        none += 1;
                        row.insert("score".into(), Value::Null);
                    }
                    Outcome::Failed(reason) => {
                        row.insert("score".into(), Value::Null);
                        row.insert("score_failed".into(), json!(reason));
                        *reasons.entry(reason).or_default() += 1;
                    }
                }
                output.row(&Value::Object(row))?;
            }
            Ok(())
        })?;
        self.output = output;
        let count = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / count;
        let deviation = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count).sqrt();
        let number = |value: f64| if scores.is_empty() { "-".into() } else { format!("{value:.6}") };
        render::table(&[
            ("scores", render::grouped(scores.len() as u64)),
            ("mean", number(mean)),
            ("std", number(deviation)),
            ("no score", render::grouped(none)),
            ("failed", render::grouped(reasons.values().sum())),
        ]);
        counted("failed", &reasons);
        Ok(())
    }

    fn metric(&mut self) -> Result<(), Failure> {
        let metric = self.plugin.metric(&self.name, &self.config)?;
        let mut evaluation = metric.begin();
        let mut examples = 0;
        self.batches(|batch, first| {
            examples += batch.len() as u64;
            let batch = Self::converted(&batch, first, rows::example)?;
            Ok(evaluation.update(&batch)?)
        })?;
        let numbers = evaluation.compute()?;
        let value: Map<String, Value> = numbers.into_iter().map(|(name, number)| (name, json!(number))).collect();
        self.output.row(&Value::Object(value))?;
        render::table(&[("examples", render::grouped(examples))]);
        Ok(())
    }

    fn preprocessor(&mut self) -> Result<(), Failure> {
        let preprocessor = self.plugin.preprocessor(&self.name, &self.config)?;
        let mut ledger = Ledger { output: std::mem::take(&mut self.output), ..Ledger::default() };
        self.batches(|batch, _| {
            let texts: Vec<String> = batch.into_iter().map(|row| Value::Object(row).to_string()).collect();
            ledger.take(&preprocessor.process(&texts)?)
        })?;
        self.output = ledger.shown();
        Ok(())
    }

    fn dataset(&mut self) -> Result<(), Failure> {
        let loader = self.plugin.loader(&self.name)?;
        let mut reader = loader.open(&self.input, None, &self.config, None)?;
        let mut ledger = Ledger { output: std::mem::take(&mut self.output), ..Ledger::default() };
        while let Some(batch) = reader.next(BATCH as u32)? {
            ledger.take(&batch.outcomes)?;
        }
        self.output = ledger.shown();
        Ok(())
    }

    fn render(&mut self, form: &str) -> Result<(), Failure> {
        let template = self.plugin.template(&self.name, &self.config)?;
        let form = rows::form(form).map_err(|what| Failure::new(what, "see --help"))?;
        let mut output = std::mem::take(&mut self.output);
        let mut reasons = BTreeMap::<String, u64>::new();
        self.batches(|batch, first| {
            let conversations = Self::converted(&batch, first, rows::conversation)?;
            for rendered in template.render(&conversations, form)? {
                match rendered {
                    Ok(segments) => output.row(&rows::rendered(&segments))?,
                    Err(reason) => {
                        output.row(&json!({ "failed": reason }))?;
                        *reasons.entry(reason).or_default() += 1;
                    }
                }
            }
            Ok(())
        })?;
        self.output = output;
        counted("not rendered", &reasons);
        Ok(())
    }

    fn parse(&mut self) -> Result<(), Failure> {
        let template = self.plugin.template(&self.name, &self.config)?;
        let mut output = std::mem::take(&mut self.output);
        self.batches(|batch, first| {
            let parsed = Self::converted(&batch, first, |row| {
                let completion =
                    row.get("completion").and_then(Value::as_str).ok_or("`completion` is missing or no text")?;
                Ok((completion.to_owned(), rows::context(row)?))
            })?;
            for (completion, context) in parsed {
                for one in template.parse(&[completion], &context)? {
                    output.row(&rows::parsed(&one))?;
                }
            }
            Ok(())
        })?;
        self.output = output;
        Ok(())
    }
}

/// What became of a source's rows.
#[derive(Default)]
struct Ledger {
    output: Output,
    kept: u64,
    made: u64,
    dropped: BTreeMap<String, u64>,
}

impl Ledger {
    fn take(&mut self, outcomes: &[RowOutcome]) -> Result<(), Failure> {
        for outcome in outcomes {
            match outcome {
                RowOutcome::Rows(rows) => {
                    self.kept += 1;
                    self.made += rows.len() as u64;
                    for row in rows {
                        self.output.line(row)?;
                    }
                }
                RowOutcome::Dropped(reason) => *self.dropped.entry(reason.clone()).or_default() += 1,
            }
        }
        Ok(())
    }

    fn shown(self) -> Output {
        let dropped = self.dropped.values().sum::<u64>();
        render::table(&[
            ("source rows", render::grouped(self.kept + dropped)),
            ("canonical rows", render::grouped(self.made)),
            ("dropped", render::grouped(dropped)),
        ]);
        counted("dropped", &self.dropped);
        self.output
    }
}

/// Reasons with how often each was given, the commonest first.
fn counted(what: &str, reasons: &BTreeMap<String, u64>) {
    let mut rows: Vec<(&String, &u64)> = reasons.iter().collect();
    rows.sort_by(|a, b| b.1.cmp(a.1));
    let shown: Vec<[String; 3]> =
        rows.iter().take(20).map(|(reason, count)| [what.to_owned(), count.to_string(), (*reason).clone()]).collect();
    let cells: Vec<[&str; 3]> = shown.iter().map(|row| row.each_ref().map(String::as_str)).collect();
    if !cells.is_empty() {
        render::note(columns(&cells).trim_end());
    }
    if rows.len() > 20 {
        render::note(&format!("... and {} more reasons", rows.len() - 20));
    }
}

/// Where rows go.
#[derive(Default)]
struct Output(Option<BufWriter<File>>);

impl Output {
    fn open(path: Option<&str>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = File::create(path).map_err(|error| Failure::io("write", Path::new(path), &error))?;
        Ok(Self(Some(BufWriter::new(file))))
    }

    fn row(&mut self, row: &Value) -> Result<(), Failure> {
        self.line(&row.to_string())
    }

    /// A row as the plugin wrote it. One that is no JSON object is an error: others will read the file.
    fn line(&mut self, row: &str) -> Result<(), Failure> {
        let parsed: Result<Map<String, Value>, _> = serde_json::from_str(row);
        let row = parsed.map_err(|error| {
            let what =
                format!("the plugin gave a row that is no JSON object ({error}): {}", swift_plugin::clean(row, 200));
            Failure::new(what, "tell the plugin's author")
        })?;
        let line = Value::Object(row).to_string() + "\n";
        match &mut self.0 {
            None => render::output(&line),
            Some(file) => file
                .write_all(line.as_bytes())
                .map_err(|error| Failure::new(format!("cannot write: {error}"), "is the disk full?"))?,
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        match &mut self.0 {
            None => Ok(()),
            Some(file) => {
                file.flush().map_err(|error| Failure::new(format!("cannot write: {error}"), "is the disk full?"))
            }
        }
    }
}
