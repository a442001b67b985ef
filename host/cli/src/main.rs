//! `swift`: the command line of the workbench.

mod args;
mod commands;
mod failure;
mod plugins;
mod progress;
mod render;
mod settings;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
    match commands::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            render::failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}
