//! Everything that can go wrong with a plugin: what, where, a hint for the user and one for the plugin's author.

use std::fmt::{self, Write as _};

use swift_graph::BuildError;

use crate::Kind;

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
    #[error("plugin `{plugin}` is of no kind that swift knows{}", exported(exports))]
    NoKind { plugin: String, exports: Vec<String> },

    /// It is a plugin of another kind.
    #[error("plugin `{plugin}` holds no {wanted}; it holds {}", kinds_listed(kinds))]
    WrongKind { plugin: String, wanted: Kind, kinds: Vec<Kind> },

    /// Its `plugin.toml` is damaged.
    #[error("plugin `{plugin}`: {what}")]
    Manifest { plugin: String, what: String },

    /// Its `plugin.toml` says something else than its exports.
    #[error("plugin `{plugin}` says that it holds {}, and holds {}", kinds_listed(said), kinds_listed(exported))]
    Kinds { plugin: String, said: Vec<Kind>, exported: Vec<Kind> },

    /// It imports a capability that its `plugin.toml` does not ask for.
    #[error("plugin `{plugin}` imports `{interface}` and does not ask for `{key}` in its plugin.toml")]
    NotAsked { plugin: String, interface: String, key: &'static str },

    /// It asks for a capability that the user did not grant.
    #[error("plugin `{plugin}` asks {}, which was not granted", asks(what, asked))]
    NotGranted { plugin: String, what: &'static str, asked: String },

    /// The user granted a capability that it does not use.
    #[error("plugin `{plugin}` was granted `{what}`, and does not ask for it")]
    GrantNotAsked { plugin: String, what: &'static str },

    /// The user granted a host that it does not ask for.
    #[error("plugin `{plugin}` does not ask to speak to `{host}`; it asks for {asked}")]
    NotAskedHost { plugin: String, host: String, asked: String },

    /// What was granted cannot be opened.
    #[error("plugin `{plugin}` was granted {path}, which cannot be opened: {source}")]
    Grant { plugin: String, path: String, source: std::io::Error },

    /// A grant names a plugin that is not there.
    #[error("something was granted to the plugin `{plugin}`, which is not there")]
    GrantToNone { plugin: String, there: Vec<String> },

    /// A grant names a plugin that is there twice.
    #[error("something was granted to `{plugin}`, and two different plugins have that name: {}", plugins.join(" and "))]
    GrantToTwo { plugin: String, plugins: Vec<String> },

    /// It holds no function of this name.
    #[error("plugin `{plugin}` holds no {kind} `{wanted}`; it holds {}", listed(names))]
    NoFunction { plugin: String, kind: Kind, wanted: String, names: Vec<String> },

    /// No plugin holds a function of this name.
    #[error("no plugin holds a {kind} `{wanted}`; there are {}", listed(names))]
    Unknown { kind: Kind, wanted: String, names: Vec<String>, problems: Vec<String> },

    /// Two plugins of the same standing hold a function of this name.
    #[error("more than one plugin holds a {kind} `{wanted}`: {}", plugins.join(" and "))]
    AmbiguousFunction { kind: Kind, wanted: String, plugins: Vec<String> },

    /// It does not take the user's settings.
    #[error("plugin `{plugin}` does not take the settings of `{function}`: {message}")]
    Settings { plugin: String, function: String, message: String },

    /// It gave an answer that cannot be, or said that it failed.
    #[error("plugin `{plugin}` failed in `{call}`: {what}")]
    Answer { plugin: String, call: String, what: String },

    /// It cannot read a source.
    #[error("plugin `{plugin}` cannot read {location}: {message}")]
    Source { plugin: String, location: String, message: String },

    /// Too many samples have no score.
    #[error(
        "plugin `{plugin}`: `{function}` gave no score for {failed} of {samples} samples; the latest reason: {reason}"
    )]
    TooManyFailures { plugin: String, function: String, failed: u64, samples: u64, reason: String },

    /// The compiler refused it or failed.
    #[error("plugin `{plugin}` cannot be compiled: {detail}")]
    Compile { plugin: String, detail: String },

    /// It ran longer than its budget of instructions.
    #[error("plugin `{plugin}` ran without end in `{call}`{place}: it used up its {budget} units of fuel")]
    Fuel { plugin: String, call: String, place: Place, budget: u64, stack: Stack },

    /// It waited longer than it may.
    #[error("plugin `{plugin}` took longer than {seconds} s in `{call}`")]
    Deadline { plugin: String, call: String, seconds: f64, stack: Stack },

    /// It handed over more than any answer needs.
    #[error("plugin `{plugin}` handed over more than {budget} MiB in `{call}`")]
    Output { plugin: String, call: String, budget: usize, stack: Stack },

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

fn kinds_listed(kinds: &[Kind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

fn asks(what: &str, asked: &str) -> String {
    match what {
        "net" => format!("to speak to {asked} over the network"),
        _ => "to read files".into(),
    }
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
            Self::NoKind { .. } => "use a component that was built as a plugin for swift".into(),
            Self::WrongKind { wanted, .. } => format!("give a plugin that holds a {wanted}"),
            Self::Manifest { .. } | Self::Kinds { .. } | Self::NotAsked { .. } => {
                "use another build of the plugin: this one was put together wrongly".into()
            }
            Self::NotGranted { plugin, what: "net", asked } => {
                let host = asked.split(", ").next().filter(|host| !host.is_empty() && *host != "*").unwrap_or("HOST");
                format!("if you trust it with that: --allow {plugin}:net={host}")
            }
            Self::NotGranted { plugin, .. } => format!("if you trust it with that: --allow {plugin}:read=FOLDER"),
            Self::GrantNotAsked { plugin, what } => format!("leave out --allow {plugin}:{what}=..., or check the name in it"),
            Self::NotAskedHost { plugin, .. } => format!("leave this host out of --allow {plugin}:net=..."),
            Self::Grant { .. } => "grant a folder that is there and that you may read".into(),
            Self::GrantToNone { there, .. } => format!("the plugins of this run are {}; check the name in --allow", listed(there)),
            Self::GrantToTwo { .. } => "leave one of them out, so that it is clear who gets what was granted".into(),
            Self::NoFunction { names, .. } => format!("use one of {}", listed(names)),
            Self::Unknown { .. } => "check the spelling, give the plugin with --plugin FILE, or install it with `swift plugin add`".into(),
            Self::AmbiguousFunction { wanted, .. } => format!("say which: PLUGIN/{wanted}"),
            Self::Settings { .. } => "change or leave out what it names".into(),
            Self::Answer { .. } => "this is a fault of the plugin: report it to its author with the text above, or use another version".into(),
            Self::Source { .. } => "check what you named as the dataset, and the loader's settings".into(),
            Self::TooManyFailures { .. } => {
                "mend the reward or the rows; `--reward-failures skip` lets the run go on without these scores, or a share such as 0.5 allows more".into()
            }
            Self::Deadline { .. } => "the service or disk it waits for may be slow; --plugin_timeout SECONDS gives it longer".into(),
            Self::Output { .. } => "the plugin was stopped and nothing was changed: report it to its author, or use another version".into(),
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
            Self::NoKind { .. } => {
                "export one of the interfaces of swift's contracts, such as `swift:reward/rewards`; `swift plugin new` starts from one that does"
            }
            Self::Manifest { .. } => "`swift plugin build` checks plugin.toml and embeds it",
            Self::Kinds { .. } => "`kind` in plugin.toml lists what the component exports, no more and no less",
            Self::NotAsked { .. } => "what a plugin asks for stands under [capabilities] in plugin.toml",
            Self::Settings { .. } => "say which setting is wrong and what it takes",
            Self::Answer { .. } => {
                "one answer for each thing that was asked, finite numbers, and a reason for all that is left out"
            }
            Self::Deadline { .. } => "give each request a timeout of its own, well below the call's",
            Self::Output { .. } => "hand over less at a time",
            Self::Fuel { call, .. } | Self::Calls { call, .. } if call == "build" || call == "claims" => {
                "tracing takes a few million units of fuel: look for a loop that depends on the config"
            }
            Self::Fuel { .. } | Self::Calls { .. } => {
                "look for a loop that does not end for this input; `swift plugin bench` shows what a call takes"
            }
            Self::Memory { call, .. } if call == "build" || call == "claims" => {
                "tracing needs a few MiB: a plugin holds handles, never weights"
            }
            Self::Memory { .. } => "keep less at a time: an instance sees one small batch",
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
            | Self::Deadline { stack, .. }
            | Self::Output { stack, .. }
            | Self::Memory { stack, .. }
            | Self::Panic { stack, .. }
            | Self::Trap { stack, .. }
            | Self::Build { stack, .. } => &stack.0,
            _ => &[],
        }
    }

    /// The trouble alone, for where it is clear whose it is: the reason of a sample without a score.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Answer { what, .. } => what.clone(),
            Self::Panic { message, .. } => message.clone(),
            Self::Trap { reason, .. } => format!("it trapped: {reason}"),
            Self::Fuel { .. } => "it ran without end".into(),
            Self::Memory { asked, budget, .. } => {
                format!("it asked for {asked} MiB of memory; its budget is {budget} MiB")
            }
            Self::Deadline { seconds, .. } => format!("it took longer than {seconds} s"),
            Self::Output { budget, .. } => format!("it handed over more than {budget} MiB"),
            other => other.to_string(),
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
        if let Self::NoPlugin { problems, .. } | Self::Unknown { problems, .. } = self {
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
