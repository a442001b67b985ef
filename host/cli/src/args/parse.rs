//! From words to [`Given`]: clap takes the command line apart, this module says what its findings mean and names mistakes
//! in the project's words. ms-swift's grammar: `--name value`, `_` as `-`, lists after one flag, bare booleans, a leading
//! configuration file.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{
    ArgMatches, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    Given, GivenValue, Invocation, Kind, Known, Origin, UsageError, Verb, command, config, lookup, nearest,
    table::ARGUMENTS, unbuilt,
};

/// Parses what follows the program's name.
pub(crate) fn parse(arguments: &[String]) -> Result<Invocation, UsageError> {
    let matches = match command::root().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::DisplayVersion => return Ok(Invocation::Show(error.render())),
            _ if arguments.first().is_some_and(|word| word == command::PLUGIN) => return Err(of_plugin(&error)),
            _ => return Err(explain(&error, arguments)),
        },
    };
    if let Some((command::PLUGIN, own)) = matches.subcommand() {
        if let Some(spec) = ARGUMENTS.iter().find(|spec| command::given(&matches, spec.name).is_some()) {
            let hint = "the subcommands of `swift plugin` take their own arguments, behind their names";
            return Err(UsageError::new(format!("--{} means nothing before `swift plugin`", spec.name), hint));
        }
        return Ok(Invocation::Plugin(own.clone()));
    }
    let chosen = match matches.subcommand() {
        Some((Verb::DATA, own)) => own.subcommand(),
        chosen => chosen,
    };
    let Some((verb, own)) = chosen.and_then(|(name, own)| Some((Verb::named(name)?, own))) else {
        return Err(no_command());
    };
    collect(verb, &matches, own).map(Invocation::Run)
}

/// The values of a command line that clap found well-formed. `before` is what stands before the command.
fn collect(verb: Verb, before: &ArgMatches, own: &ArgMatches) -> Result<Given, UsageError> {
    for (name, _) in unbuilt::HARMLESS {
        let Ok(Some(occurrences)) = own.try_get_occurrences::<String>(name) else { continue };
        for texts in occurrences {
            let texts: Vec<String> = texts.cloned().collect();
            if let Some((name, Known::Unbuilt(topic))) = lookup(name) {
                refuse_unless_harmless(&name, topic, &texts, "--")?;
            }
        }
    }
    let mut values: BTreeMap<&'static str, GivenValue> = BTreeMap::new();
    for spec in ARGUMENTS.iter().filter(|spec| spec.serves(verb)) {
        let texts = [command::given(before, spec.name), command::given(own, spec.name)];
        let texts: Vec<String> = texts.into_iter().flatten().flatten().collect();
        if !texts.is_empty() {
            values.insert(spec.name, GivenValue { texts, origin: Origin::CommandLine });
        }
    }
    let file = match own.get_one::<String>(command::CONFIG_FILE) {
        Some(word) if !is_config(word) => return Err(unexpected(word)),
        Some(word) => Some(word),
        None => own.get_one::<String>(command::CONFIG),
    };
    if let Some(path) = file.map(PathBuf::from) {
        for (name, texts) in config::read(&path, verb)? {
            values.entry(name).or_insert_with(|| GivenValue { texts, origin: Origin::File(path.clone()) });
        }
    }
    Ok(Given { verb, values })
}

/// What clap found wrong, with what to do.
fn explain(error: &Error, arguments: &[String]) -> UsageError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        Some(ContextValue::Strings(texts)) => texts.first().map_or("", String::as_str),
        _ => "",
    };
    // `--lora_rank <N>` and the like.
    let argument = text(ContextKind::InvalidArg).split(' ').next().unwrap_or_default();
    match error.kind() {
        ErrorKind::InvalidSubcommand => unknown_command(text(ContextKind::InvalidSubcommand)),
        ErrorKind::MissingSubcommand => no_command(),
        ErrorKind::UnknownArgument => {
            let command = arguments.iter().enumerate().find_map(|(at, word)| Some((at, Verb::named(word)?)));
            let (at, verb) = command.map_or((arguments.len(), None), |(at, verb)| (at, Some(verb)));
            let stands_before = arguments[..at].iter().any(|word| word.split('=').next() == Some(argument));
            match (verb, argument.strip_prefix("--")) {
                (Some(verb), Some(name)) if !stands_before => refused(name, verb),
                (Some(_), None) if !stands_before => {
                    // Of `-1e-5` clap names `-1` only.
                    unexpected(arguments.iter().find(|word| word.starts_with(argument)).map_or(argument, |word| word))
                }
                _ => {
                    let hint = "write the command first: `swift sft --model ...`; only --plugin may stand before it";
                    UsageError::new(format!("argument {argument} stands before the command"), hint)
                }
            }
        }
        // clap's name for a flag without its value.
        ErrorKind::InvalidValue => missing_value(argument.trim_start_matches('-')),
        ErrorKind::ArgumentConflict => UsageError::new(
            "two configuration files were given",
            "name one: `swift sft FILE.yaml` or `--config FILE.yaml`",
        ),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let hint = "arguments are `--name value`; `swift COMMAND --help` lists them";
            UsageError::new(line.trim_start_matches("error: "), hint)
        }
    }
}

/// What clap found wrong behind `swift plugin`: its own words, in the form of the others.
fn of_plugin(error: &Error) -> UsageError {
    if let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) =
        (error.kind(), error.get(ContextKind::InvalidSubcommand))
    {
        let hint = match nearest(word, crate::commands::plugin::names()) {
            Some(near) => format!("did you mean `swift plugin {near}`?"),
            None => "`swift plugin --help` lists the subcommands".into(),
        };
        return UsageError::new(format!("unknown command `plugin {word}`"), hint);
    }
    let text = error.to_string();
    let (what, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let what: Vec<&str> = what.lines().map(str::trim).collect();
    let tip = rest.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let usage = rest.lines().find_map(|line| line.strip_prefix("Usage: "));
    let hint = tip.or(usage).map_or_else(|| "`swift plugin --help` lists the subcommands".into(), String::from);
    UsageError::new(what.join(" ").trim_start_matches("error: "), hint)
}

fn no_command() -> UsageError {
    UsageError::new("no command was given", "`swift --help` lists the commands")
}

fn unknown_command(word: &str) -> UsageError {
    let name = word.replace('_', "-");
    if let Some((known, instead)) = unbuilt::VERBS.iter().find(|(known, _)| *known == name) {
        return UsageError::new(format!("`swift {known}` is not built yet"), *instead);
    }
    let built = Verb::ALL.iter().map(|(_, known, _)| *known).chain([command::PLUGIN, Verb::DATA]);
    let hint = match nearest(&name, built).or_else(|| nearest(&name, unbuilt::VERBS.iter().map(|(known, _)| *known))) {
        Some(near) => format!("did you mean `swift {near}`?"),
        None => "`swift --help` lists the commands".into(),
    };
    UsageError::new(format!("unknown command `{word}`"), hint)
}

/// A name that the command does not take: unbuilt, another command's, or nobody's.
fn refused(name: &str, verb: Verb) -> UsageError {
    let refusal = match lookup(name) {
        Some((name, Known::Unbuilt(topic))) => refuse_unless_harmless(&name, topic, &[], "--"),
        Some((_, Known::Built(spec))) => check_verb(spec, verb, "--"),
        None => Ok(()),
    };
    refusal.err().unwrap_or_else(|| unknown(&format!("--{name}"), name, verb))
}

fn unexpected(word: &str) -> UsageError {
    let hint = match word.parse::<f64>() {
        Ok(number) if number < 0.0 => format!("write such a negative number with `=`: `--name={word}`"),
        _ => "arguments are `--name value`; `swift COMMAND --help` lists them".into(),
    };
    UsageError::new(format!("unexpected `{word}`"), hint)
}

/// `true`, `false` and what stands for them.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "t" | "y" => Some(true),
        "false" | "0" | "no" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// Refuses an unbuilt argument by name, unless its value is what happens anyway. `prefix` is `--` or empty.
pub(crate) fn refuse_unless_harmless(
    name: &str,
    topic: &unbuilt::Topic,
    texts: &[String],
    prefix: &str,
) -> Result<(), UsageError> {
    if unbuilt::is_harmless(name, texts) {
        return Ok(());
    }
    let message = format!("{prefix}{name} is known but not built yet ({})", topic.name);
    Err(UsageError::new(message, topic.instead))
}

/// Refuses an argument of another command. `prefix` is `--` or empty.
pub(crate) fn check_verb(spec: &super::ArgumentSpec, verb: Verb, prefix: &str) -> Result<(), UsageError> {
    if spec.serves(verb) {
        return Ok(());
    }
    let users: Vec<&str> =
        Verb::ALL.iter().filter(|(other, ..)| spec.serves(*other)).map(|(_, name, _)| *name).collect();
    let message = format!("{prefix}{} means nothing to `swift {}`", spec.name, verb.name());
    Err(UsageError::new(message, format!("leave it out; it belongs to {}", users.join(", "))))
}

/// The error for a name nobody knows.
pub(crate) fn unknown(shown: &str, name: &str, verb: Verb) -> UsageError {
    let name = name.replace('-', "_");
    let mine = || ARGUMENTS.iter().filter(|spec| spec.serves(verb)).map(|spec| spec.name);
    let near = nearest(&name, mine())
        .or_else(|| nearest(&name, unbuilt::TOPICS.iter().flat_map(|topic| topic.arguments.iter().copied())));
    let hint = match near {
        Some(near) => format!("did you mean `--{near}`?"),
        None => format!("`swift {} --help` lists the arguments", verb.name()),
    };
    UsageError::new(format!("unknown argument {shown}"), hint)
}

fn missing_value(name: &str) -> UsageError {
    let expected = match ARGUMENTS.iter().find(|spec| spec.name == name).map(|spec| spec.kind) {
        Some(Kind::List) => "one or more values",
        Some(Kind::Integer) => "a whole number",
        Some(Kind::Float) => "a number",
        Some(Kind::Choice(_)) => "one of its choices",
        _ => "a value",
    };
    UsageError::new(format!("--{name} needs {expected}"), format!("write `--{name} VALUE`"))
}

fn is_config(word: &str) -> bool {
    !word.starts_with('-') && [".yaml", ".yml", ".json"].iter().any(|end| word.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(Into::into).collect()
    }

    fn given(line: &str) -> BTreeMap<&'static str, Vec<String>> {
        match parse(&words(line)).unwrap() {
            Invocation::Run(given) => given.values.into_iter().map(|(name, value)| (name, value.texts)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn error(line: &str) -> UsageError {
        parse(&words(line)).unwrap_err()
    }

    #[test]
    fn all_forms_of_an_argument_are_the_same() {
        for line in ["sft --lora_rank 4", "sft --lora-rank 4", "sft --lora-rank=4", "sft --lora_rank=4"] {
            assert_eq!(given(line)["lora_rank"], ["4"], "{line}");
        }
        assert_eq!(given("sft --train_type full")["tuner_type"], ["full"]);
        assert!(
            matches!(parse(&words("merge_lora")).unwrap(), Invocation::Run(given) if given.verb == Verb::MergeLora)
        );
        assert_eq!(given("sft --train-type full")["tuner_type"], ["full"]);
    }

    #[test]
    fn lists_take_several_values_and_booleans_none() {
        let got = given("sft --dataset a.jsonl b.jsonl#5 --packing --strict false --target_modules q_proj --dataset c");
        assert_eq!(got["dataset"], ["a.jsonl", "b.jsonl#5", "c"]);
        assert_eq!((got["packing"][0].as_str(), got["strict"][0].as_str()), ("true", "false"));
        assert_eq!(given("sft --max_steps -1")["max_steps"], ["-1"]);
        assert_eq!(given("sft --seed 1 --seed 2")["seed"], ["2"]);
    }

    #[test]
    fn plugins_may_stand_anywhere() {
        let got = given("--plugin a.wasm sft --plugin b.wasm --packing --plugin=c.wasm");
        assert_eq!(got["plugin"], ["a.wasm", "b.wasm", "c.wasm"]);
    }

    #[test]
    fn mistakes_are_named_with_what_to_do() {
        let hint = |line| error(line).hint.unwrap();
        assert_eq!(hint("sft --learning_rte 1"), "did you mean `--learning_rate`?");
        assert_eq!(hint("sfft"), "did you mean `swift sft`?");
        assert_eq!(hint("stf"), "did you mean `swift sft`?");
        assert_eq!(hint("rlfh"), "did you mean `swift rlhf`?");
        assert_eq!(hint("sft --depspeed zero2"), "did you mean `--deepspeed`?");
        assert_eq!(hint("something"), "`swift --help` lists the commands");
        assert!(error("--plugin a.wasm").message.contains("no command"));
        assert!(error("--plugin").message.contains("--plugin needs a value"));
        assert!(error("--seed=1 sft --seed 1").message.contains("--seed stands before the command"));
        assert!(error("sft a.yaml --config b.yaml").message.contains("two configuration files"));
        assert!(error("sft --dataset --seed 1").message.contains("--dataset needs one or more values"));
        assert_eq!(hint("sft --learning_rate -1e-5"), "write such a negative number with `=`: `--name=-1e-5`");
        assert_eq!(given("sft --learning_rate=-1e-5")["learning_rate"], ["-1e-5"]);
        assert!(error("sft --packing=1 -x").message.contains("unexpected `-x`"));
        assert!(error("sft --deepspeed zero2").message.contains("--deepspeed is known but not built yet"));
        assert!(error("rlhf --model x").message.contains("`swift rlhf` is not built yet"));
        assert!(error("sft --temperature 1").message.contains("means nothing to `swift sft`"));
        assert!(error("sft --lora_rank").message.contains("needs a whole number"));
        assert!(error("sft model").message.contains("unexpected `model`"));
        assert!(error("sft --lora_rank 4 5").message.contains("unexpected `5`"));
    }

    #[test]
    fn unbuilt_arguments_pass_only_where_they_change_nothing() {
        assert!(given("sft --use_hf false --optim adamw_torch --streaming false").is_empty());
        assert!(error("sft --use_hf").message.contains("use_hf"));
        assert!(error("sft --use-hf true --use_hf false").message.contains("use_hf"));
        assert!(error("sft --use_hf true").message.contains("use_hf"));
    }

    /// clap's own check of the whole command, deferred arguments included.
    #[test]
    fn the_command_is_well_formed() {
        let mut root = command::root();
        root.build();
        root.debug_assert();
    }

    #[test]
    fn every_known_name_is_known() {
        let list = include_str!("../../tests/known_arguments.txt");
        let mut seen = 0;
        for name in list.lines().filter(|line| !line.starts_with('#')) {
            assert!(lookup(name).is_some(), "{name} is neither built nor refused by name");
            seen += 1;
        }
        assert!(seen > 700, "{seen}");
    }

    #[test]
    fn no_name_stands_twice() {
        let mut names: Vec<&str> = ARGUMENTS
            .iter()
            .flat_map(|spec| std::iter::once(spec.name).chain(spec.aliases.iter().copied()))
            .chain(unbuilt::TOPICS.iter().flat_map(|topic| topic.arguments.iter().copied()))
            .collect();
        names.sort_unstable();
        let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
        for (name, _) in unbuilt::HARMLESS {
            assert!(unbuilt::TOPICS.iter().any(|topic| topic.arguments.contains(name)), "{name} is not unbuilt");
        }
    }
}
