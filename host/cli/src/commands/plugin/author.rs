//! What authors do: make a folder, build, test, check and inspect a plugin.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use swift_author::{AuthorError, Functions, Language, Project, Severity, Tools};
use swift_plugin::{Inspection, Kind, Plugin, PluginError};

use super::{Subcommand, allow, host, number, text};
use crate::{failure::Failure, render};

pub(super) const COMMANDS: &[Subcommand] = &[
    Subcommand { name: "new", arguments: new_arguments, run: new },
    Subcommand { name: "build", arguments: build_arguments, run: build },
    Subcommand { name: "test", arguments: test_arguments, run: test },
    Subcommand { name: "check", arguments: check_arguments, run: check },
    Subcommand { name: "inspect", arguments: inspect_arguments, run: inspect },
];

impl From<AuthorError> for Failure {
    fn from(error: AuthorError) -> Self {
        let author = error.author_hint().map(|hint| format!("for the plugin's author: {hint}"));
        let hints = [error.hint()].into_iter().chain(author).collect();
        Self { code: crate::failure::FAILED, message: error.to_string(), hints }
    }
}

fn names<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str) -> Vec<&'static str> {
    all.iter().map(|one| name(*one)).collect()
}

fn new_arguments(command: Command) -> Command {
    command
        .about("Make a folder with a plugin that builds and whose tests pass")
        .arg(Arg::new("NAME").required(true).help("Lower case letters, digits, `-` and `_`"))
        .arg(
            Arg::new("kind")
                .long("kind")
                .required(true)
                .value_parser(names(&Kind::ALL, Kind::name))
                .help("What the plugin is"),
        )
        .arg(
            Arg::new("lang")
                .long("lang")
                .required(true)
                .value_parser(names(&Language::ALL, Language::name))
                .help("What it is written in"),
        )
        .arg(Arg::new("path").long("path").value_name("DIR").help("The folder to make [default: NAME]"))
}

fn new(matches: &ArgMatches) -> Result<(), Failure> {
    let name = text(matches, "NAME").unwrap_or_default();
    let parsed = |what: String| Failure::new(what, "`swift plugin new --help` lists them");
    let kind: Kind = text(matches, "kind").unwrap_or_default().parse().map_err(parsed)?;
    let language: Language = text(matches, "lang").unwrap_or_default().parse().map_err(parsed)?;
    let path = text(matches, "path").unwrap_or(name);
    swift_author::new(name, kind, language, Path::new(path))?;
    render::note(&format!("made {path}: a {kind} plugin in {}", language.name()));
    render::note(&format!("next: swift plugin build {path} && swift plugin test {path}"));
    Ok(())
}

fn folder_argument() -> Arg {
    Arg::new("DIR").default_value(".").help("The plugin's folder")
}

fn install_argument() -> Arg {
    Arg::new("install-tools")
        .long("install-tools")
        .action(ArgAction::SetTrue)
        .help("Get the language's tools that are missing (from PyPI or npm) into swift's own cache")
}

fn build_arguments(command: Command) -> Command {
    command
        .about("Build the component of a plugin's folder")
        .arg(folder_argument())
        .arg(install_argument())
        .arg(Arg::new("output").long("output").value_name("FILE").help("Where to write it [default: DIR/NAME.wasm]"))
}

fn tools(matches: &ArgMatches) -> Tools {
    if matches.get_flag("install-tools") { Tools::installing(render::note) } else { Tools::default() }
}

fn build(matches: &ArgMatches) -> Result<(), Failure> {
    let project = Project::open(Path::new(text(matches, "DIR").unwrap_or(".")))?;
    let built = swift_author::build(&project, &tools(matches), &render::note)?;
    let output = text(matches, "output").map_or_else(|| component_of(&project), PathBuf::from);
    built.write(&output)?;
    render::note(&format!("{}: {}", output.display(), kinds(&built.inspection)));
    render::table(&[("bytes", render::grouped(built.bytes.len() as u64)), ("sha256", built.inspection.digest.clone())]);
    Ok(())
}

fn component_of(project: &Project) -> PathBuf {
    project.folder.join(format!("{}.wasm", project.manifest.name))
}

fn kinds(inspection: &Inspection) -> String {
    let kinds: Vec<&str> = inspection.kinds.iter().map(|kind| kind.name()).collect();
    format!("{} {}, {}", inspection.name, inspection.version, kinds.join(" and "))
}

/// A component with what is needed to test it.
struct Loaded {
    plugin: Plugin,
    bytes: Vec<u8>,
    /// Names of the golden tests' files, where the folder is known.
    files: Vec<String>,
}

/// Loads `FILE.wasm`, or what the folder builds to: built again, so that it is what the source says.
fn load(matches: &ArgMatches) -> Result<Loaded, Failure> {
    let path = Path::new(text(matches, "PATH").unwrap_or("."));
    let host = host(matches)?;
    if !path.is_dir() {
        let (name, bytes) = swift_plugin::read_component(path)?;
        let plugin = host.load_bytes(&name, Some(path), &bytes)?;
        return Ok(Loaded { plugin, bytes, files: Vec::new() });
    }
    let project = Project::open(path)?;
    let built = swift_author::build(&project, &tools(matches), &render::note)?;
    let component = component_of(&project);
    built.write(&component)?;
    let plugin = host.load_bytes(&project.manifest.name, Some(&component), &built.bytes)?;
    let files = project.test_files().iter().map(|path| format!("tests/{}", file_name(path))).collect();
    Ok(Loaded { plugin, bytes: built.bytes, files })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn path_argument() -> Arg {
    Arg::new("PATH").default_value(".").help("The plugin's folder, which is built first, or a component")
}

fn test_arguments(command: Command) -> Command {
    command
        .about("Run a plugin's golden tests, and hold it against a reference")
        .arg(path_argument())
        .arg(install_argument())
        .arg(allow())
        .arg(Arg::new("checkpoint").long("checkpoint").value_name("DIR").help(
            "For a template: a checkpoint whose own Jinja template must render the same, for made-up conversations",
        ))
        .arg(number("cases", "Made-up conversations").default_value("500").requires("checkpoint"))
        .arg(number("seed", "Seed of the made-up conversations").default_value("0").requires("checkpoint"))
        .arg(
            Arg::new("template")
                .long("template")
                .value_name("NAME")
                .requires("checkpoint")
                .help("Which template of the plugin [default: the one that claims the checkpoint]"),
        )
        .arg(
            Arg::new("oracle")
                .long("oracle")
                .value_name("DIR")
                .help("For a model: a folder with a tiny checkpoint and a reference's logits, loss and gradients"),
        )
}

fn test(matches: &ArgMatches) -> Result<(), Failure> {
    let loaded = load(matches)?;
    let report = swift_author::run_tests(&loaded.plugin, &loaded.bytes, &loaded.files)?;
    for failure in &report.failures {
        render::note(&format!("FAILED {}\n  {}", failure.place, failure.what.replace('\n', "\n  ")));
    }
    let failed = report.failures.len();
    if failed > 0 {
        let message = format!("{failed} of {} answers are not what they must be", report.compared.max(failed));
        return Err(Failure::new(message, "put the plugin or its tests right"));
    }
    let mut done = 0;
    if report.cases > 0 {
        render::note(&format!(
            "golden tests: {} cases, {} answers, all as they must be",
            report.cases, report.compared
        ));
        done += 1;
    }
    if let Some(checkpoint) = text(matches, "checkpoint") {
        against_checkpoint(&loaded.plugin, checkpoint, matches)?;
        done += 1;
    }
    if let Some(oracle) = text(matches, "oracle") {
        let model = loaded.plugin.model()?;
        for line in swift_author::oracle::check(&model, Path::new(oracle), &swift_engine::Placement::Cpu)? {
            render::note(&format!("{oracle}: {line}"));
        }
        done += 1;
    }
    if done == 0 {
        let hint = "add golden tests to tests/ and build again";
        return Err(Failure::new("there is nothing to test it with", hint));
    }
    Ok(())
}

fn against_checkpoint(plugin: &Plugin, checkpoint: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let given = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or_default();
    let (cases, seed) = (given("cases").clamp(1, 1_000_000), given("seed"));
    let name = text(matches, "template");
    let compared = swift_author::against_checkpoint(plugin, Path::new(checkpoint), name, cases as usize, seed)?;
    if let Some(difference) = compared.difference {
        let message = format!("`{}` does not render as {checkpoint} does:\n{difference}", plugin.name());
        let hint = format!("after {} conversations that agree; --seed makes others", compared.same + compared.refused);
        return Err(Failure::new(message, hint));
    }
    let (same, refused) = (render::grouped(compared.same as u64), render::grouped(compared.refused as u64));
    render::note(&format!("{checkpoint}: {same} made-up conversations rendered alike, {refused} refused by both"));
    Ok(())
}

fn check_arguments(command: Command) -> Command {
    let strict = Arg::new("strict").long("strict").action(ArgAction::SetTrue).help("Warnings fail too");
    command
        .about("Look for what a plugin gets wrong: metadata, names, settings, tests, determinism")
        .arg(path_argument())
        .arg(install_argument())
        .arg(allow())
        .arg(strict)
}

fn check(matches: &ArgMatches) -> Result<(), Failure> {
    let loaded = load(matches)?;
    let findings = swift_author::check(&loaded.plugin, &loaded.bytes, &loaded.files)?;
    let rows: Vec<[&str; 3]> = findings
        .iter()
        .map(|finding| {
            let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
            [severity, finding.rule, finding.what.as_str()]
        })
        .collect();
    render::output(&super::columns(&rows));
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.len() - errors;
    if errors > 0 || (warnings > 0 && matches.get_flag("strict")) {
        let message = format!("`{}`: {errors} errors, {warnings} warnings", loaded.plugin.name());
        return Err(Failure::new(message, "each line above says what to change"));
    }
    render::note(&format!("{}: no errors, {warnings} warnings", kinds(loaded.plugin.inspection())));
    Ok(())
}

fn inspect_arguments(command: Command) -> Command {
    let config = Arg::new("config").long("config").value_name("config.json");
    command
        .about("Say what a component is: kinds, functions, contracts, what it asks for, digest, size")
        .arg(Arg::new("FILE").required(true).help("A component"))
        .arg(config.help("For a model: also the graph that it makes of this config"))
        .arg(super::format())
}

fn inspect(matches: &ArgMatches) -> Result<(), Failure> {
    let path = Path::new(text(matches, "FILE").unwrap_or_default());
    let (name, bytes) = swift_plugin::read_component(path)?;
    let inspection = swift_plugin::inspect(&name, &bytes)?;
    // Which functions it has, only the plugin can say, and it runs only with what it asks for: here nothing is granted.
    let host = super::bare_host()?;
    let plugin = match host.load_bytes(&name, Some(path), &bytes) {
        Ok(plugin) => Some(plugin),
        Err(PluginError::NotGranted { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let functions = plugin.as_ref().map(Functions::of).transpose()?;
    let graph = match (text(matches, "config"), &plugin) {
        (None, _) | (_, None) => None,
        (Some(config), Some(plugin)) => {
            let config_text =
                std::fs::read_to_string(config).map_err(|error| Failure::io("read", Path::new(config), &error))?;
            Some(swift_author::summarise(&plugin.model()?, &config_text)?)
        }
    };
    if text(matches, "format") == Some("json") {
        let mut value = swift_author::describe(&inspection, functions.as_ref());
        if let Some(graph) = &graph {
            value["model"] = graph.json();
        }
        render::output(&format!("{value:#}\n"));
        return Ok(());
    }
    render::output(&shown(&inspection, functions.as_ref(), graph.as_ref()));
    Ok(())
}

fn shown(inspection: &Inspection, functions: Option<&Functions>, graph: Option<&swift_author::GraphSummary>) -> String {
    let clean = |text: &str| swift_plugin::clean(text, 200);
    let mut rows = vec![["plugin".to_owned(), kinds(inspection)]];
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            rows.push([name.to_owned(), value]);
        }
    };
    if let Some(manifest) = &inspection.manifest {
        row("summary", manifest.summary.clone());
        row("license", manifest.license.clone().unwrap_or_default());
        row("authors", manifest.authors.join(", "));
        row("homepage", manifest.homepage.clone().unwrap_or_default());
    }
    row("contracts", inspection.contracts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    let asks = inspection.manifest.as_ref().map(|manifest| &manifest.capabilities);
    let read = asks.filter(|asks| asks.read).map(|_| "reading granted folders".to_owned());
    let net = asks.filter(|asks| !asks.net.is_empty()).map(|asks| format!("HTTP to {}", asks.net.join(", ")));
    let asked: Vec<String> = read.into_iter().chain(net).collect();
    row("asks for", if asked.is_empty() { "nothing".into() } else { asked.join("; ") });
    row("imports", inspection.imports.iter().map(|name| clean(name)).collect::<Vec<_>>().join(", "));
    row("bytes", render::grouped(inspection.size as u64));
    row("sha256", inspection.digest.clone());
    match functions {
        None => row("functions", "it says which only when it is granted what it asks for".into()),
        Some(functions) => {
            for (kind, function) in functions.all() {
                let notes = if function.notes.is_empty() { String::new() } else { format!(" ({})", function.notes) };
                row(kind.name(), format!("{}: {}{notes}", function.name, function.summary));
            }
        }
    }
    if let Some(graph) = graph {
        row("family", graph.family.clone());
        row("parameters", format!("{} in {} tensors", render::grouped(graph.parameters), graph.tensors));
        row("ops", format!("{} (traced with {} units of fuel)", graph.ops, render::grouped(graph.fuel)));
        let blocks = graph.blocks.iter().map(|(count, path)| format!("{count} like {path}"));
        row("blocks", blocks.collect::<Vec<_>>().join(", "));
        row("results", graph.outputs.join(", "));
    }
    let rows: Vec<[&str; 2]> = rows.iter().map(|row| [row[0].as_str(), row[1].as_str()]).collect();
    super::columns(&rows)
}
