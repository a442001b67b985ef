//! Help texts, made from the table.

use std::fmt::Write;

use super::{Default, Kind, Verb, table::ARGUMENTS, unbuilt};

const WIDTH: usize = 100;
const INDENT: usize = 6;

/// `swift --help`.
pub(crate) fn overview() -> String {
    let mut out = String::from(
        "Post-training for open-weight models.\n\nUsage: swift [--plugin FILE] COMMAND [CONFIG.yaml] [--NAME VALUE ...]\n\nCommands:\n",
    );
    for (_, name, about) in Verb::ALL {
        let _ = writeln!(out, "  {name:<12} {about}");
    }
    let unbuilt: Vec<&str> = unbuilt::VERBS.iter().map(|(name, _)| *name).collect();
    let _ = write!(
        out,
        "\nNot built yet: {}\n\n`swift COMMAND --help` lists the arguments of a command. `_` and `-` are the same in names.\n",
        unbuilt.join(", ")
    );
    out
}

/// `swift COMMAND --help`; `all` lists the known arguments that are not built too.
pub(crate) fn command(verb: Verb, all: bool) -> String {
    let about = Verb::ALL.iter().find(|(known, ..)| *known == verb).map_or("", |(_, _, about)| about);
    let name = verb.name();
    let mut out = format!("{about}.\n\nUsage: swift {name} [CONFIG.yaml] [--NAME VALUE ...]\n");
    let mut group = "";
    for spec in ARGUMENTS.iter().filter(|spec| spec.serves(verb)) {
        if spec.group != group {
            group = spec.group;
            let _ = writeln!(out, "\n{group}:");
        }
        let _ = writeln!(out, "  --{} {}", spec.name, values(spec.kind));
        let mut text = spec.help.to_string();
        match spec.default {
            Default::None => {}
            Default::Value(value) => text.push_str(&format!(" [default: {value}]")),
            Default::Computed(how) => text.push_str(&format!(" [default: {how}]")),
        }
        wrap(&mut out, &text);
    }
    let _ = writeln!(out, "\nA YAML or JSON file may hold the same names; flags win. `--config FILE` names one too.");
    if all {
        out.push_str("\nKnown but not built yet:\n");
        for topic in unbuilt::TOPICS {
            let _ = writeln!(out, "\n  {}: {}", topic.name, topic.instead);
            wrap(&mut out, &topic.arguments.join(" "));
        }
    } else {
        let _ = writeln!(out, "`swift {name} --help_all` also lists the arguments of ms-swift that are not built yet.");
    }
    out
}

fn values(kind: Kind) -> String {
    match kind {
        Kind::Text => "TEXT".into(),
        Kind::Path | Kind::Repeated => "PATH".into(),
        Kind::Integer => "N".into(),
        Kind::Float => "NUMBER".into(),
        Kind::Boolean => "[true|false]".into(),
        Kind::Choice(choices) => choices.join("|"),
        Kind::List => "VALUE ...".into(),
    }
}

fn wrap(out: &mut String, text: &str) {
    let mut line = " ".repeat(INDENT);
    for word in text.split_whitespace() {
        if line.len() + word.len() + 1 > WIDTH && line.trim() != "" {
            let _ = writeln!(out, "{}", line.trim_end());
            line = " ".repeat(INDENT);
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = writeln!(out, "{}", line.trim_end());
}
