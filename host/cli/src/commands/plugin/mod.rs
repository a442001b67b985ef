//! `swift plugin ...`: what authors do with a plugin, and what users do with plugins of others.
//!
//! Each file holds a group of subcommands, with what they take beside what they do. They are not in the table of
//! arguments: none of them is ms-swift's.

mod author;
mod bench;
mod registry;
mod run;

use std::fmt::Write as _;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use swift_plugin::{Grants, PluginHost};

use crate::{failure::Failure, plugins::PluginSettings};

/// A subcommand of `swift plugin`.
struct Subcommand {
    name: &'static str,
    /// Adds what it is about and what it takes.
    arguments: fn(Command) -> Command,
    run: fn(&ArgMatches) -> Result<(), Failure>,
}

/// All groups, in the order of the help.
const GROUPS: &[&[Subcommand]] = &[author::COMMANDS, run::COMMANDS, bench::COMMANDS, registry::COMMANDS];

fn subcommands() -> impl Iterator<Item = &'static Subcommand> {
    GROUPS.iter().copied().flatten()
}

/// Adds the subcommands. As everywhere, `_` and `-` are the same in names.
pub(crate) fn arguments(command: Command) -> Command {
    let dashed = |command: Command| {
        command.mut_args(|arg| match arg.get_long().filter(|name| name.contains('-')) {
            Some(name) => {
                let other = name.replace('-', "_");
                arg.alias(other)
            }
            None => arg,
        })
    };
    command
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(subcommands().map(|one| dashed((one.arguments)(Command::new(one.name)))))
}

/// The names of all subcommands.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    subcommands().map(|one| one.name)
}

/// Runs what clap found in a command line.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, own)) = matches.subcommand() else { return Ok(()) };
    subcommands().find(|one| one.name == name).map_or(Ok(()), |one| (one.run)(own))
}

/// The value of an argument.
fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.get_one::<String>(name).map(String::as_str)
}

/// `--NAME N`.
fn number(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("N").value_parser(clap::value_parser!(u64)).help(help)
}

/// `--format text|json`.
fn format() -> Arg {
    Arg::new("format").long("format").value_parser(["text", "json"]).default_value("text").help("How to say it")
}

/// `--allow PLUGIN:read=FOLDER`.
fn allow() -> Arg {
    let help = "What a plugin that asks for it may do: PLUGIN:read=FOLDER or PLUGIN:net=HOST; may be repeated";
    Arg::new("allow").long("allow").value_name("GRANT").action(ArgAction::Append).help(help)
}

/// The host, with what `--allow` granted.
fn host(matches: &ArgMatches) -> Result<Arc<PluginHost>, Failure> {
    let mut grants = Grants::default();
    for grant in matches.get_many::<String>("allow").into_iter().flatten() {
        grants.add(grant).map_err(|error| Failure::new(format!("--allow: {error}"), error.hint()))?;
    }
    PluginSettings { grants, ..PluginSettings::default() }.host()
}

/// The host, with nothing granted.
fn bare_host() -> Result<Arc<PluginHost>, Failure> {
    PluginSettings::default().host()
}

/// Rows with their columns aligned; lines of the last column stay in it.
fn columns<const N: usize>(rows: &[[&str; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N.saturating_sub(1)).map(width).collect();
    let indent = "\n".to_owned() + &" ".repeat(widths.iter().map(|width| width + 2).sum());
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", row.last().map_or_else(String::new, |cell| cell.replace('\n', &indent)));
    }
    text
}
