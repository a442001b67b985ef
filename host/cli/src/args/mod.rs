//! The command line: one table of arguments, the clap command made from it, configuration files.
//!
//! Nothing outside this module and [`crate::settings`] sees a flag. It must not know what an argument is for.

mod command;
pub(crate) mod config;
pub(crate) mod parse;
pub(crate) mod table;
pub(crate) mod unbuilt;

use std::{collections::BTreeMap, path::PathBuf};

use clap::{ArgMatches, builder::StyledStr};

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Sft,
    Pt,
    Infer,
    Export,
    MergeLora,
    DataInspect,
    DataPreview,
}

impl Verb {
    /// Every command with its name and what it does.
    pub(crate) const ALL: &'static [(Self, &'static str, &'static str)] = &[
        (Self::Sft, "sft", "Fine-tune a model on conversations or query/response pairs"),
        (Self::Pt, "pt", "Continue pre-training on plain text: sft without chat template, all tokens trained"),
        (Self::Infer, "infer", "Chat in the terminal, or answer the rows of a dataset into a jsonl file"),
        (Self::Export, "export", "Write a model in another form"),
        (Self::MergeLora, "merge-lora", "Merge an adapter into its base model; the same as export --merge_lora true"),
        (Self::DataInspect, "data inspect", "Columns, lengths and faults of datasets"),
        (Self::DataPreview, "data preview", "Rows as the model sees them, with what is trained"),
    ];

    /// The word that commands on data begin with.
    pub(crate) const DATA: &'static str = "data";

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(verb, ..)| *verb == self).map_or("", |(_, name, _)| name)
    }

    /// The command of this name, or with this last word; `-` and `_` are the same.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let name = name.replace('_', "-");
        let last = |known: &str| known.rsplit(' ').next() == Some(name.as_str());
        Self::ALL.iter().find(|(_, known, _)| *known == name || last(known)).map(|(verb, ..)| *verb)
    }

    fn bit(self) -> u8 {
        match self {
            Self::Sft => table::SFT,
            Self::Pt => table::PT,
            Self::Infer => table::INFER,
            Self::Export | Self::MergeLora => table::EXPORT,
            Self::DataInspect => table::INSPECT,
            Self::DataPreview => table::PREVIEW,
        }
    }
}

/// What values an argument takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Path,
    /// A whole number, not negative.
    Integer,
    Float,
    /// `true` or `false`; given bare it means true.
    Boolean,
    Choice(&'static [&'static str]),
    /// One or more values after one flag.
    List,
    /// One value each time, which help calls by this name; the flag may be repeated, also before the command.
    Repeated(&'static str),
}

/// What holds when an argument is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Default {
    None,
    /// Parsed like a value on the command line.
    Value(&'static str),
    /// Follows from other settings; this text says how.
    Computed(&'static str),
}

/// One built argument.
#[derive(Debug)]
pub(crate) struct ArgumentSpec {
    pub(crate) name: &'static str,
    /// Older names of the same argument.
    pub(crate) aliases: &'static [&'static str],
    pub(crate) kind: Kind,
    pub(crate) default: Default,
    pub(crate) group: &'static str,
    /// Bits of [`table`].
    pub(crate) verbs: u8,
    pub(crate) help: &'static str,
}

impl ArgumentSpec {
    /// Whether the command takes it.
    pub(crate) fn serves(&self, verb: Verb) -> bool {
        self.verbs & verb.bit() != 0
    }
}

/// What a name means.
pub(crate) enum Known {
    Built(&'static ArgumentSpec),
    Unbuilt(&'static unbuilt::Topic),
}

/// Looks a name up; `-` and `_` are the same.
pub(crate) fn lookup(name: &str) -> Option<(String, Known)> {
    let name = name.replace('-', "_");
    let built = table::ARGUMENTS.iter().find(|spec| spec.name == name || spec.aliases.contains(&name.as_str()));
    if let Some(spec) = built {
        return Some((spec.name.into(), Known::Built(spec)));
    }
    let topic = unbuilt::TOPICS.iter().find(|topic| topic.arguments.contains(&name.as_str()))?;
    Some((name, Known::Unbuilt(topic)))
}

/// The known name most like `name`, if one is alike. Short names have one slip at most.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, candidate)| *likeness > 0.85 || strsim::osa_distance(name, candidate) <= 1)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Where a value came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    CommandLine,
    File(PathBuf),
}

/// The values of one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GivenValue {
    pub(crate) texts: Vec<String>,
    pub(crate) origin: Origin,
}

/// What the user gave, by argument name. Only built arguments of the command get here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) verb: Verb,
    pub(crate) values: BTreeMap<&'static str, GivenValue>,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Help or version.
    Show(StyledStr),
    Run(Given),
    /// `swift plugin ...`, as clap found it.
    Plugin(ArgMatches),
}

/// The command line is wrong. Exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageError {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl UsageError {
    /// A message with what to do.
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}
