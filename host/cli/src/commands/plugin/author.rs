//! What authors do: make a folder, build, test, check and inspect a plugin.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::Subcommand;
use crate::{failure::Failure, render};

pub(super) const COMMANDS: &[Subcommand] =
    &[Subcommand { name: "inspect", arguments: inspect_arguments, run: inspect }];

fn inspect_arguments(command: Command) -> Command {
    command
        .about("Say what a component is, without running it")
        .arg(Arg::new("FILE").required(true).help("A component"))
        .arg(
            Arg::new("format")
                .long("format")
                .value_parser(["text", "json"])
                .default_value("text")
                .help("How to say it"),
        )
        .arg(Arg::new("quiet").long("quiet").action(ArgAction::SetTrue).hide(true))
}

fn inspect(matches: &ArgMatches) -> Result<(), Failure> {
    let path = Path::new(matches.get_one::<String>("FILE").map_or("", String::as_str));
    let (name, bytes) = swift_plugin::read_component(path)?;
    let inspection = swift_plugin::inspect(&name, &bytes)?;
    render::output(&format!("{} {}\n", inspection.name, inspection.version));
    Ok(())
}
