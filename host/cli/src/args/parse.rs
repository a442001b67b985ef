//! ms-swift's grammar: `--name value`, `--name=value`, `_` as `-`, lists after one flag, bare booleans, a leading
//! configuration file. clap has no form for most of it, so the parser is written out.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Given, GivenValue, Invocation, Kind, Known, Origin, UsageError, Verb, config, lookup, nearest, table::ARGUMENTS,
    unbuilt,
};

/// Parses what follows the program's name.
pub(crate) fn parse(arguments: &[String]) -> Result<Invocation, UsageError> {
    let mut plugins = Vec::new();
    let mut rest = arguments;
    let verb = loop {
        let Some((first, after)) = rest.split_first() else {
            return Ok(Invocation::Help { verb: None, all: false });
        };
        rest = after;
        match first.as_str() {
            "-h" | "--help" | "help" => return Ok(Invocation::Help { verb: None, all: false }),
            "-V" | "--version" => return Ok(Invocation::Version),
            "--plugin" => {
                let (file, after) = rest.split_first().ok_or_else(|| missing_value("plugin"))?;
                plugins.push(file.clone());
                rest = after;
            }
            word if word.starts_with("--plugin=") => plugins.push(word["--plugin=".len()..].into()),
            word if word.starts_with('-') => {
                let hint = "write the command first: `swift sft --model ...`; only --plugin may stand before it";
                return Err(UsageError::new(format!("argument {word} stands before the command"), hint));
            }
            word => break parse_verb(word)?,
        }
    };
    if rest.iter().any(|word| matches!(word.as_str(), "-h" | "--help")) {
        return Ok(Invocation::Help { verb: Some(verb), all: false });
    }
    if rest.iter().any(|word| matches!(word.as_str(), "--help_all" | "--help-all")) {
        return Ok(Invocation::Help { verb: Some(verb), all: true });
    }
    parse_arguments(verb, plugins, rest).map(Invocation::Run)
}

fn parse_verb(word: &str) -> Result<Verb, UsageError> {
    let name = word.replace('_', "-");
    if let Some((verb, ..)) = Verb::ALL.iter().find(|(_, known, _)| *known == name) {
        return Ok(*verb);
    }
    if let Some((known, instead)) = unbuilt::VERBS.iter().find(|(known, _)| *known == name) {
        return Err(UsageError::new(format!("`swift {known}` is not built yet"), *instead));
    }
    let hint = match nearest(&name, Verb::ALL.iter().map(|(_, known, _)| *known)) {
        Some(near) => format!("did you mean `swift {near}`?"),
        None => "`swift --help` lists the commands".into(),
    };
    Err(UsageError::new(format!("unknown command `{word}`"), hint))
}

fn parse_arguments(verb: Verb, plugins: Vec<String>, words: &[String]) -> Result<Given, UsageError> {
    let mut values: BTreeMap<&'static str, GivenValue> = BTreeMap::new();
    let mut file = None;
    let mut rest = words;
    if let Some((first, after)) = words.split_first()
        && is_config(first)
    {
        file = Some(PathBuf::from(first));
        rest = after;
    }
    while let Some((word, after)) = rest.split_first() {
        rest = after;
        let Some(flag) = word.strip_prefix("--") else {
            let hint = "arguments are `--name value`; `swift COMMAND --help` lists them";
            return Err(UsageError::new(format!("unexpected `{word}`"), hint));
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (flag, None),
        };
        if name == "config" {
            let path = inline.or_else(|| take(&mut rest)).ok_or_else(|| missing_value("config"))?;
            file = Some(PathBuf::from(path));
            continue;
        }
        let origin = Origin::CommandLine;
        match lookup(name) {
            None => return Err(unknown(&format!("--{name}"), name, verb)),
            Some((name, Known::Unbuilt(topic))) => {
                let texts = inline.map_or_else(|| take_all(&mut rest), |value| vec![value]);
                refuse_unless_harmless(&name, topic, &texts, "--")?;
            }
            Some((_, Known::Built(spec))) => {
                check_verb(spec, verb, "--")?;
                let texts = match (spec.kind, inline) {
                    (_, Some(value)) => vec![value],
                    (Kind::List, None) => take_all(&mut rest),
                    (Kind::Boolean, None) if rest.first().is_none_or(|next| boolean(next).is_none()) => {
                        vec!["true".into()]
                    }
                    (_, None) => take(&mut rest).into_iter().collect(),
                };
                if texts.is_empty() {
                    return Err(missing_value(spec.name));
                }
                let entry = values.entry(spec.name).or_insert_with(|| GivenValue { texts: vec![], origin });
                if !matches!(spec.kind, Kind::List | Kind::Repeated) {
                    // As in argparse: the last one counts, so that scripts may append to a command.
                    entry.texts.clear();
                }
                entry.texts.extend(texts);
            }
        }
    }
    if !plugins.is_empty() {
        let entry = values.entry("plugin").or_insert_with(|| GivenValue { texts: vec![], origin: Origin::CommandLine });
        entry.texts.splice(0..0, plugins);
    }
    if let Some(path) = file {
        for (name, texts) in config::read(&path, verb)? {
            values.entry(name).or_insert_with(|| GivenValue { texts, origin: Origin::File(path.clone()) });
        }
    }
    Ok(Given { verb, values })
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

/// A word that is a value: not a flag, though it may be a negative number.
fn is_value(word: &str) -> bool {
    match word.strip_prefix('-') {
        None => true,
        Some("") => true,
        Some(tail) => tail.starts_with(|c: char| c.is_ascii_digit() || c == '.'),
    }
}

fn take(rest: &mut &[String]) -> Option<String> {
    let words = *rest;
    let (first, after) = words.split_first().filter(|(first, _)| is_value(first))?;
    *rest = after;
    Some(first.clone())
}

fn take_all(rest: &mut &[String]) -> Vec<String> {
    std::iter::from_fn(|| take(rest)).collect()
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
        assert!(error("sft --use_hf true").message.contains("use_hf"));
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
