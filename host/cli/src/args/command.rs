//! The clap command, made from the table: tokenising, usage and help come from it. It must not know what becomes of the
//! values.

use std::fmt::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{ArgumentSpec, Default, Kind, Verb, table::ARGUMENTS, unbuilt};

/// Identifier of the positional configuration file.
pub(super) const CONFIG_FILE: &str = "CONFIG.yaml";
/// Identifier and long name of the other way to name it.
pub(super) const CONFIG: &str = "config";

/// The command whose subcommands take arguments of their own.
pub(super) const PLUGIN: &str = "plugin";
const PLUGIN_ABOUT: &str = "Make, build, test and measure plugins; find, install and publish them";

const DATA_ABOUT: &str = "Look at datasets before training on them";

/// Where the lists of `--help_all` break.
const WIDTH: usize = 100;

/// `swift` with all its commands. A command's arguments are made only when it is chosen.
pub(super) fn root() -> Command {
    let unbuilt: Vec<&str> = unbuilt::VERBS.iter().map(|(name, _)| *name).collect();
    let after = format!(
        "Not built yet: {}\n\n`swift COMMAND --help` lists the arguments of a command. `_` and `-` are the same in names.",
        unbuilt.join(", ")
    );
    Command::new("swift")
        .bin_name("swift")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Post-training for open-weight models.")
        .no_binary_name(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        // As in argparse: the last one counts, so that scripts may append to a command.
        .args_override_self(true)
        .after_help(after)
        // clap keeps a global argument's values either from before the command or from after it; both count here, so
        // the argument is made twice and the parser joins them.
        .args(ARGUMENTS.iter().filter(|spec| matches!(spec.kind, Kind::Repeated(_))).map(argument))
        .subcommands(Verb::ALL.iter().filter(|(_, name, _)| !name.contains(' ')).map(|(_, name, about)| {
            let other = name.replace('-', "_");
            Command::new(*name).about(*about).aliases((other != *name).then_some(other)).defer(with_arguments)
        }))
        .subcommand(
            Command::new(Verb::DATA)
                .about(DATA_ABOUT)
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommands(Verb::ALL.iter().filter_map(|(_, name, about)| {
                    let name = name.strip_prefix(Verb::DATA)?.strip_prefix(' ')?;
                    Some(Command::new(name).about(*about).defer(with_arguments))
                })),
        )
        .subcommand(Command::new(PLUGIN).about(PLUGIN_ABOUT).defer(crate::commands::plugin::arguments))
}

/// Adds what the command of this name takes.
fn with_arguments(command: Command) -> Command {
    let Some(verb) = Verb::named(command.get_name()) else { return command };
    let name = verb.name();
    let harmless = unbuilt::HARMLESS.iter().map(|(name, _)| {
        // Whether a value is harmless is for the parser to say; bare means true as for built ones.
        let arg = named(Arg::new(*name), name, &[]).hide(true).action(ArgAction::Append);
        arg.num_args(0..).default_missing_value("true").allow_negative_numbers(true)
    });
    let help = |id: &'static str, action: ArgAction, text: String| Arg::new(id).long(id).action(action).help(text);
    command
        .disable_help_flag(true)
        .next_line_help(true)
        .arg(Arg::new(CONFIG_FILE).help("A YAML or JSON file with the same names as keys; flags win"))
        .arg(
            Arg::new(CONFIG)
                .long(CONFIG)
                .value_name("PATH")
                .help("Another way to name that file")
                .conflicts_with(CONFIG_FILE),
        )
        .arg(help("help", ArgAction::HelpShort, "Print this".into()).short('h'))
        .arg(
            help("help_all", ArgAction::HelpLong, "Also list what is known from ms-swift and not built yet".into())
                .alias("help-all"),
        )
        .args(ARGUMENTS.iter().filter(|spec| spec.serves(verb)).map(argument))
        .args(harmless)
        .after_help(format!("`swift {name} --help_all` also lists the arguments of ms-swift that are not built yet."))
        .after_long_help(unbuilt_topics())
}

/// A built argument.
fn argument(spec: &'static ArgumentSpec) -> Arg {
    let mut help = spec.help.to_string();
    // Defaults are not clap's: configuration files come between the command line and them.
    if let Default::Value(text) | Default::Computed(text) = spec.default {
        let _ = write!(help, " [default: {text}]");
    }
    let arg = named(Arg::new(spec.name), spec.name, spec.aliases).help(help).help_heading(spec.group);
    let arg = arg.allow_negative_numbers(true);
    match spec.kind {
        Kind::Text => arg.value_name("TEXT"),
        Kind::Path => arg.value_name("PATH"),
        Kind::Integer => arg.value_name("N"),
        Kind::Float => arg.value_name("NUMBER"),
        Kind::Boolean => arg.value_name("true|false").num_args(0..=1).default_missing_value("true"),
        Kind::Choice(choices) => arg.value_name(choices.join("|")),
        Kind::List => arg.value_name("VALUE").num_args(1..).action(ArgAction::Append),
        Kind::Repeated(name) => arg.value_name(name).action(ArgAction::Append),
    }
}

/// Its name with `_` and with `-`, and its older names in both forms.
fn named(arg: Arg, name: &'static str, aliases: &[&'static str]) -> Arg {
    let dashed =
        std::iter::once(&name).chain(aliases).filter(|name| name.contains('_')).map(|name| name.replace('_', "-"));
    arg.long(name).aliases(aliases.iter().map(ToString::to_string).chain(dashed))
}

/// What was given for an argument, if it was.
pub(super) fn given(matches: &ArgMatches, name: &str) -> Option<Vec<String>> {
    Some(matches.try_get_many::<String>(name).ok()??.cloned().collect())
}

fn unbuilt_topics() -> String {
    let mut out = String::from("Known but not built yet:\n");
    for topic in unbuilt::TOPICS {
        let _ = writeln!(out, "\n  {}: {}", topic.name, topic.instead);
        let mut line = String::new();
        for name in topic.arguments {
            if line.len() + name.len() + 6 > WIDTH {
                let _ = writeln!(out, "     {line}");
                line.clear();
            }
            line.push(' ');
            line.push_str(name);
        }
        let _ = writeln!(out, "     {line}");
    }
    out
}
