//! Everything that can go wrong with a plugin: what, where, a hint for the user and one for the plugin's author.

use std::fmt::{self, Write as _};

use swift_graph::BuildError;

/// Function names of the plugin, innermost first; empty when the plugin carries no names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stack(pub Vec<String>);

/// Where in the model the plugin was: ` in `model.layers.0`` or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place(pub Box<str>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " in `{}`", self.0) }
    }
}

/// A plugin that cannot be loaded, found or traced. Every text that came from a plugin is cleaned and bounded.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The file cannot be read.
    #[error("plugin `{plugin}`: cannot read {path}: {source}")]
    Read { plugin: String, path: String, source: std::io::Error },

    /// The bytes are no component.
    #[error("plugin `{plugin}` is not a plugin: {what}")]
    NotAComponent { plugin: String, what: String },

    /// It was built for a contract that this host does not serve.
    #[error("plugin `{plugin}` needs `{needs}` (since {since}); this swift offers {offered}")]
    Contract { plugin: String, needs: String, since: String, offered: String },

    /// It wants files, clocks or a network.
    #[error("plugin `{plugin}` imports {}; plugins get no access to the system", interfaces.join(", "))]
    Wasi { plugin: String, interfaces: Vec<String> },

    /// It imports something that is not swift's at all.
    #[error("plugin `{plugin}` imports `{import}`, which swift does not have")]
    Import { plugin: String, import: String },

    /// It has the contract's names with other types.
    #[error("plugin `{plugin}` does not fit the contract {contract}: {detail}")]
    Types { plugin: String, contract: String, detail: String },

    /// It exports nothing that this host knows.
    #[error("plugin `{plugin}` exports no model family{}", exported(exports))]
    NoModelFamily { plugin: String, exports: Vec<String> },

    /// The compiler refused it or failed.
    #[error("plugin `{plugin}` cannot be compiled: {detail}")]
    Compile { plugin: String, detail: String },

    /// It ran longer than its budget of instructions.
    #[error("plugin `{plugin}` ran without end in `{call}`{place}: it used up its {budget} units of fuel")]
    Fuel { plugin: String, call: String, place: Place, budget: u64, stack: Stack },

    /// It called the host more often than any model needs.
    #[error("plugin `{plugin}` called the host more than {budget} times in `{call}`{place}")]
    Calls { plugin: String, call: String, place: Place, budget: u64, stack: Stack },

    /// It asked for more memory than its budget.
    #[error("plugin `{plugin}` asked for {asked} MiB of memory in `{call}`{place}; its budget is {budget} MiB")]
    Memory { plugin: String, call: String, place: Place, asked: usize, budget: usize, stack: Stack },

    /// It panicked, with the message that its SDK handed over.
    #[error("plugin `{plugin}` panicked in `{call}`{place}: {message}")]
    Panic { plugin: String, call: String, place: Place, message: String, stack: Stack },

    /// It trapped without a message.
    #[error("plugin `{plugin}` trapped in `{call}`{place}: {reason}")]
    Trap { plugin: String, call: String, place: Place, reason: String, stack: Stack },

    /// It asked for a node that cannot be, or for a tensor that is not there.
    #[error("plugin `{plugin}`: {error}")]
    Build { plugin: String, error: Box<BuildError>, stack: Stack },

    /// It declined, with a message.
    #[error("plugin `{plugin}` cannot build this model: {message}")]
    Declined { plugin: String, message: String },

    /// The config is no JSON object.
    #[error("config.json: {detail}")]
    Config { detail: String },

    /// No plugin builds the model.
    #[error("no plugin builds this model ({model}); asked: {}", listed(asked))]
    NoPlugin { model: String, asked: Vec<String>, problems: Vec<String>, given: bool },

    /// Two plugins of the same standing build the model.
    #[error("more than one plugin builds this model ({model}): {}", plugins.join(" and "))]
    Ambiguous { model: String, plugins: Vec<String> },

    /// The engine itself cannot be set up.
    #[error("the WebAssembly engine cannot start: {detail}")]
    Engine { detail: String },
}

fn exported(exports: &[String]) -> String {
    if exports.is_empty() { String::new() } else { format!(" (it exports {})", exports.join(", ")) }
}

fn listed(asked: &[String]) -> String {
    if asked.is_empty() { "none".into() } else { asked.join(", ") }
}

impl PluginError {
    /// What the user can do.
    pub fn hint(&self) -> String {
        match self {
            Self::Read { .. } => "check the path and that you may read the file".into(),
            Self::NotAComponent { .. } => "a plugin is a WebAssembly component (.wasm); if it was downloaded, fetch it again".into(),
            Self::Contract { plugin, since, offered, .. } => {
                if semver::Version::parse(since).ok() < semver::Version::parse(offered).ok() {
                    format!("this swift no longer serves {since}: use a newer `{plugin}`")
                } else {
                    format!("upgrade swift, or use an older `{plugin}`")
                }
            }
            Self::Wasi { .. } | Self::Import { .. } => "use another build of the plugin; this one cannot be loaded safely".into(),
            Self::Types { plugin, .. } => format!("`{plugin}` was built from a changed contract: use a released build of it"),
            Self::NoModelFamily { .. } => "give a plugin that builds model families with --plugin".into(),
            Self::Compile { .. } | Self::Trap { .. } | Self::Panic { .. } => {
                "this is a fault of the plugin: report it to its author with the text above, or use another version".into()
            }
            Self::Fuel { .. } | Self::Calls { .. } | Self::Memory { .. } => {
                "the plugin was stopped and nothing was changed: report it to its author, or use another version".into()
            }
            Self::Build { error, .. } => {
                error.hint.clone().map_or_else(|| "config.json, the weights and the plugin do not fit together".into(), |hint| clean_hint(&hint))
            }
            Self::Declined { .. } => "the plugin read config.json and does not build what it asks for: use another plugin or checkpoint".into(),
            Self::Config { .. } => "the checkpoint's config.json is damaged or not a Hugging Face config: fetch it again".into(),
            Self::NoPlugin { given: true, .. } => {
                "the plugins given with --plugin do not claim it: leave out --plugin to use an installed one, or give the right one".into()
            }
            Self::NoPlugin { .. } => "install a plugin for it or give one with --plugin; --model_type overrides what config.json says".into(),
            Self::Ambiguous { .. } => "choose one with --plugin FILE".into(),
            Self::Engine { .. } => "this machine cannot run WebAssembly with these limits: report it".into(),
        }
    }

    /// What the plugin's author can do, where the fault is the plugin's.
    pub fn author_hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotAComponent { .. } => {
                "a core module becomes a component with wit-component (`cargo xtask plugins build` shows how) or `wasm-tools component new`"
            }
            Self::Contract { .. } => {
                "build against the oldest contract that has what you call; `supports` asks for an op at run time"
            }
            Self::Wasi { .. } => {
                "target wasm32-unknown-unknown in Rust; in other languages stub WASI out (componentize-py and componentize-qjs: --stub-wasi)"
            }
            Self::Import { .. } => "a plugin may import only `swift:*` interfaces",
            Self::Types { .. } => "never edit the frozen records, enums and parameters of a contract",
            Self::NoModelFamily { .. } => "export `swift:model/adapter`; in Rust `export_family!(YourType)`",
            Self::Fuel { .. } | Self::Calls { .. } => {
                "tracing takes a few million units of fuel: look for a loop that depends on the config"
            }
            Self::Memory { .. } => "tracing needs a few MiB: a plugin holds handles, never weights",
            Self::Panic { .. } => {
                "return an error that names the config's key for everything a config can cause; panics are for bugs"
            }
            Self::Trap { .. } => {
                "install a panic hook that calls `abort` (the Rust SDK does); endless recursion ends here too"
            }
            Self::Build { .. } => "look at this op in this scope of your code; `shape` tells what a value's axes are",
            _ => return None,
        })
    }

    /// The plugin's functions at the time, innermost first.
    pub fn stack(&self) -> &[String] {
        match self {
            Self::Fuel { stack, .. }
            | Self::Calls { stack, .. }
            | Self::Memory { stack, .. }
            | Self::Panic { stack, .. }
            | Self::Trap { stack, .. }
            | Self::Build { stack, .. } => &stack.0,
            _ => &[],
        }
    }

    /// Everything, on several lines: what and where, the hints, the plugin's stack, other plugins that failed.
    pub fn report(&self) -> String {
        let mut text = format!("error: {self}\n  hint: {}\n", self.hint());
        if let Some(hint) = self.author_hint() {
            let _ = writeln!(text, "  for the plugin's author: {hint}");
        }
        for (index, function) in self.stack().iter().enumerate() {
            let _ = writeln!(text, "  {} {function}", if index == 0 { "at" } else { "by" });
        }
        if let Self::NoPlugin { problems, .. } = self {
            for problem in problems {
                let _ = writeln!(text, "  not loaded: {problem}");
            }
        }
        text
    }
}

fn clean_hint(hint: &str) -> String {
    crate::clean(hint, 1000)
}
