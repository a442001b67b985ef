//! The commands. Each takes resolved settings and returns a failure or nothing.

mod agreement;
mod assemble;
mod data;
mod export;
mod infer;
mod placement;
pub(crate) mod plugin;
mod run_folder;
mod sft;

use crate::{
    args::{Invocation, Verb, parse},
    failure::Failure,
    render, settings,
};

/// Runs a command line.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let given = match parse::parse(arguments)? {
        Invocation::Show(text) => {
            render::styled(&text);
            return Ok(());
        }
        Invocation::Plugin(matches) => return plugin::run(&matches),
        Invocation::Run(given) => given,
    };
    let environment = &|name: &str| std::env::var(name).ok();
    match given.verb {
        Verb::Sft | Verb::Pt => sft::run(given.verb.name(), &settings::train(&given, environment)?),
        Verb::Infer => infer::run(&settings::infer(&given, environment)?),
        Verb::DataInspect => data::inspect(&settings::look(&given)?),
        Verb::DataPreview => data::preview(&settings::look(&given)?),
        Verb::Export | Verb::MergeLora => export::run(&settings::export(&given, environment)?),
    }
}

/// Sets the number of threads for the whole process.
fn set_threads(threads: Option<usize>) -> Result<usize, Failure> {
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|e| Failure::new(format!("cannot start {threads} threads: {e}"), "use a smaller --num_threads"))?;
    }
    Ok(rayon::current_num_threads())
}
