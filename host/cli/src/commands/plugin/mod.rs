//! `swift plugin ...`: what authors do with a plugin, and what users do with plugins of others.
//!
//! Each file holds a group of subcommands, with what they take beside what they do. They are not in the table of
//! arguments: none of them is ms-swift's.

mod author;
mod registry;

use clap::{ArgMatches, Command};

use crate::failure::Failure;

/// A subcommand of `swift plugin`.
struct Subcommand {
    name: &'static str,
    /// Adds what it is about and what it takes.
    arguments: fn(Command) -> Command,
    run: fn(&ArgMatches) -> Result<(), Failure>,
}

/// All groups, in the order of the help.
const GROUPS: &[&[Subcommand]] = &[author::COMMANDS, registry::COMMANDS];

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

/// Runs what clap found in a command line.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, own)) = matches.subcommand() else { return Ok(()) };
    subcommands().find(|one| one.name == name).map_or(Ok(()), |one| (one.run)(own))
}
