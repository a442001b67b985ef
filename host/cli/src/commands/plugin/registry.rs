//! What users do with plugins of others: find, install, update, lock, verify, publish.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use swift_plugin::Kind;
use swift_registry::{
    Change, Client, Described, Entry, Event, LOCK_FILE, Network, Reference, Registry, RegistryError, Session, Signer,
    Store, Trust,
};

use super::{Subcommand, columns, format, text};
use crate::{failure::Failure, render};

pub(super) const COMMANDS: &[Subcommand] = &[
    Subcommand { name: "search", arguments: search_arguments, run: search },
    Subcommand { name: "info", arguments: info_arguments, run: info },
    Subcommand { name: "add", arguments: add_arguments, run: add },
    Subcommand { name: "list", arguments: list_arguments, run: list },
    Subcommand { name: "update", arguments: update_arguments, run: update },
    Subcommand { name: "remove", arguments: remove_arguments, run: remove },
    Subcommand { name: "verify", arguments: verify_arguments, run: verify },
    Subcommand { name: "lock", arguments: lock_arguments, run: lock },
    Subcommand { name: "publish", arguments: publish_arguments, run: publish },
    Subcommand { name: "key", arguments: key_arguments, run: key },
];

/// Opens a signing key, and closes a new one.
const PASSWORD: &str = "SWIFT_KEY_PASSWORD";
/// As much of a digest as people compare.
const SHORT: usize = 12;

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let author = error.author_hint().map(|hint| format!("for the plugin's author: {hint}"));
        let hints = [error.hint()].into_iter().chain(author).collect();
        Self { code: crate::failure::FAILED, message: error.to_string(), hints }
    }
}

/// Which registry, and how it is asked.
fn network_arguments(command: Command) -> Command {
    command
        .arg(
            Arg::new("registry")
                .long("registry")
                .value_name("REGISTRY")
                .help("Where names are looked up: HOST/PREFIX or a folder"),
        )
        .arg(
            Arg::new("insecure-registry")
                .long("insecure-registry")
                .value_name("HOST")
                .action(ArgAction::Append)
                .help("A host that may be spoken to without encryption; may be repeated"),
        )
}

fn offline_argument() -> Arg {
    Arg::new("offline").long("offline").action(ArgAction::SetTrue).help("Use only what was fetched before")
}

/// Whose plugins are taken, and whether the lock may follow.
fn trust_arguments(command: Command) -> Command {
    network_arguments(command)
        .arg(offline_argument())
        .arg(
            Arg::new("key")
                .long("key")
                .value_name("KEY")
                .action(ArgAction::Append)
                .help("Take only what this key signed: a public key or its file; may be repeated"),
        )
        .arg(
            Arg::new("require-signed")
                .long("require-signed")
                .action(ArgAction::SetTrue)
                .help("Take only what is signed"),
        )
        .arg(locked_argument())
}

fn locked_argument() -> Arg {
    Arg::new("locked").long("locked").action(ArgAction::SetTrue).help("Fail where swift.lock would have to change")
}

/// Shows what happens meanwhile: a bar where a person watches, a line otherwise.
#[derive(Default)]
struct Meanwhile {
    bar: Option<ProgressBar>,
    name: String,
}

impl Meanwhile {
    fn on(&mut self, event: Event) {
        match event {
            Event::Waiting => render::note("waiting for another swift that changes the plugins"),
            Event::Note(text) => match &self.bar {
                Some(bar) => bar.suspend(|| render::note(&text)),
                None => render::note(&text),
            },
            Event::Fetching { name, done, total } => {
                if name != self.name {
                    self.end();
                    self.start(&name, total);
                    self.name = name;
                }
                if let Some(bar) = &self.bar {
                    bar.set_position(done);
                }
            }
        }
    }

    fn start(&mut self, name: &str, total: u64) {
        if !render::is_interactive() {
            render::note(&format!("fetching {name} ({} bytes)", render::grouped(total)));
            return;
        }
        let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
        let style = ProgressStyle::with_template(template).expect("the template is fixed");
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
        bar.set_message(name.to_owned());
        self.bar = Some(bar);
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.name.clear();
    }
}

/// What a group of arguments says; nothing where the command has none of that name.
fn all<'a>(matches: &'a ArgMatches, name: &str) -> Vec<&'a str> {
    let values = matches.try_get_many::<String>(name).ok().flatten();
    values.into_iter().flatten().map(String::as_str).collect()
}

fn flag(matches: &ArgMatches, name: &str) -> bool {
    matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false)
}

fn client(matches: &ArgMatches) -> Result<Client, Failure> {
    let insecure = all(matches, "insecure-registry").into_iter().map(Into::into).collect();
    Ok(Client::new(&Network { insecure, ..Network::of_environment() })?)
}

fn registry(matches: &ArgMatches) -> Result<Option<Registry>, Failure> {
    Ok(Registry::configured(all(matches, "registry").first().copied())?)
}

/// Runs `work` on the user's plugins.
fn session<T>(
    matches: &ArgMatches,
    work: impl FnOnce(&mut Session<'_>) -> swift_registry::Result<T>,
) -> Result<T, Failure> {
    let folder = swift_registry::store_folder().ok_or_else(|| {
        Failure::new("there is no home folder to keep plugins in", "set SWIFT_PLUGIN_DIR to a folder")
    })?;
    let keys = all(matches, "key").into_iter().map(swift_registry::read_key).collect::<Result<_, _>>()?;
    let mut meanwhile = Meanwhile::default();
    let done = work(&mut Session {
        store: Store::new(folder),
        client: client(matches)?,
        registry: registry(matches)?,
        trust: Trust { keys, require_signed: flag(matches, "require-signed") },
        offline: flag(matches, "offline"),
        project: PathBuf::from(LOCK_FILE),
        locked: flag(matches, "locked"),
        observer: &mut |event| meanwhile.on(event),
    });
    meanwhile.end();
    Ok(done?)
}

fn references(matches: &ArgMatches, name: &str) -> Result<Vec<Reference>, Failure> {
    Ok(all(matches, name).into_iter().map(Reference::parse).collect::<Result<_, _>>()?)
}

fn is_json(matches: &ArgMatches) -> bool {
    text(matches, "format") == Some("json")
}

fn print_json(value: &Value) {
    render::output(&format!("{value:#}\n"));
}

fn kinds(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

/// A table with a heading.
fn print_table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) {
    let rows = rows.iter().map(|row| row.each_ref().map(String::as_str));
    render::output(&columns(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()));
}

fn search_arguments(command: Command) -> Command {
    network_arguments(command.about("List the plugins of the registry"))
        .arg(Arg::new("WORD").default_value("").help("What the name or the summary must have"))
        .arg(format())
}

fn search(matches: &ArgMatches) -> Result<(), Failure> {
    let word = text(matches, "WORD").unwrap_or_default();
    let (found, complete) = session(matches, |session| session.search(word))?;
    let version = |newest: &Option<Described>| {
        newest.as_ref().and_then(|newest| newest.version.as_ref()).map(ToString::to_string)
    };
    if is_json(matches) {
        let row = |one: &swift_registry::Listed| {
            let newest = one.newest.as_ref();
            json!({"name": one.name, "version": version(&one.newest), "kinds": newest.map(|newest| kinds(&newest.kinds)),
                   "summary": newest.map(|newest| newest.summary.clone())})
        };
        print_json(&found.iter().map(row).collect());
    } else if found.is_empty() {
        render::note(&format!("no plugin has `{word}` in its name or summary"));
    } else {
        let row = |one: swift_registry::Listed| {
            let version = version(&one.newest).unwrap_or_else(|| "-".into());
            let (kinds, summary) = one.newest.map(|newest| (kinds(&newest.kinds), newest.summary)).unwrap_or_default();
            [one.name, version, kinds, summary]
        };
        print_table(["NAME", "NEWEST", "KIND", "SUMMARY"], &found.into_iter().map(row).collect::<Vec<_>>());
    }
    if !complete {
        render::note("the registry has more than were looked at: search for a part of the name");
    }
    Ok(())
}

fn info_arguments(command: Command) -> Command {
    network_arguments(command.about("Show what a plugin is before it is installed"))
        .arg(Arg::new("REFERENCE").required(true).help("NAME, NAME@1.2, oci://HOST/PATH, a component or a folder"))
        .arg(offline_argument())
        .arg(format())
}

fn info(matches: &ArgMatches) -> Result<(), Failure> {
    let references = references(matches, "REFERENCE")?;
    let mut rows = Vec::new();
    for reference in &references {
        rows.extend(session(matches, |session| session.info(reference))?);
    }
    for (name, versions, described) in rows {
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        let contracts: Vec<String> = described.contracts.iter().map(ToString::to_string).collect();
        let version = described.version.map(|version| version.to_string());
        let signed =
            described.signed.as_ref().map(|signed| signed.key.clone().unwrap_or_else(|| "an unknown key".into()));
        if is_json(matches) {
            print_json(
                &json!({"name": name, "version": version, "versions": versions, "kinds": kinds(&described.kinds),
                "summary": described.summary, "license": described.license, "contracts": contracts, "bytes": described.size,
                "sha256": described.digest, "source": described.source.to_string(), "signer": signed}),
            );
            continue;
        }
        let mut lines = vec![("name", name), ("version", version.unwrap_or_else(|| "unknown".into()))];
        let mut line = |name: &'static str, value: String| {
            if !value.is_empty() {
                lines.push((name, value));
            }
        };
        line("versions", versions.join(", "));
        line("kind", kinds(&described.kinds));
        line("summary", described.summary);
        line("license", described.license.unwrap_or_default());
        line("contracts", contracts.join(", "));
        line("bytes", if described.size > 0 { render::grouped(described.size) } else { String::new() });
        line("sha256", described.digest);
        line("source", described.source.to_string());
        // A signature is verified with the bytes, and those were not fetched.
        line("signed", signed.map_or_else(|| "no".into(), |key| format!("by {key} (verified when it is installed)")));
        let rows: Vec<[&str; 2]> = lines.iter().map(|(name, value)| [*name, value.as_str()]).collect();
        render::output(&columns(&rows));
    }
    Ok(())
}

fn add_arguments(command: Command) -> Command {
    trust_arguments(command.about("Install plugins; without names, exactly what swift.lock says")).arg(
        Arg::new("REFERENCE")
            .num_args(0..)
            .help("NAME, NAME@1.2, oci://HOST/PATH[@1.2 or :TAG or @sha256:..], a component or a folder of components"),
    )
}

fn add(matches: &ArgMatches) -> Result<(), Failure> {
    let references = references(matches, "REFERENCE")?;
    let changes = session(matches, |session| match references[..] {
        [] => session.add_locked(),
        _ => session.add(&references),
    })?;
    told(&changes);
    Ok(())
}

/// Says what became of each plugin.
fn told(changes: &[Change]) {
    for Change { name, before, after, changed } in changes {
        let signed = |entry: &Entry| match &entry.signer {
            Some(key) => format!("signed by {key}"),
            None => "not signed".into(),
        };
        let line = match (before, after) {
            (_, None) => format!("removed {name}"),
            (_, Some(entry)) if !changed => format!("{name} {} is installed already", entry.version),
            (None, Some(entry)) => {
                format!("installed {name} {} from {} ({})", entry.version, entry.source, signed(entry))
            }
            (Some(before), Some(entry)) => {
                format!("{name} {before} -> {} from {} ({})", entry.version, entry.source, signed(entry))
            }
        };
        render::note(&line);
    }
}

fn list_arguments(command: Command) -> Command {
    command.about("List the installed plugins").arg(format())
}

fn list(matches: &ArgMatches) -> Result<(), Failure> {
    let installed = session(matches, |session| session.store.installed())?;
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    for plugin in installed {
        let inspection =
            swift_plugin::read_component(&plugin.path).and_then(|(name, bytes)| swift_plugin::inspect(&name, &bytes));
        let kinds = inspection.map_or_else(|_| "cannot be used".into(), |inspection| kinds(&inspection.kinds));
        match plugin.entry {
            Ok(entry) => {
                let signed = if entry.signer.is_some() { "yes" } else { "no" };
                objects.push(json!({"name": plugin.name, "version": entry.version.to_string(), "kinds": kinds, "sha256": entry.digest,
                    "source": entry.source.to_string(), "signer": entry.signer, "path": plugin.path.display().to_string()}));
                let digest = entry.digest[..SHORT].to_owned();
                rows.push([
                    plugin.name,
                    entry.version.to_string(),
                    kinds,
                    signed.into(),
                    digest,
                    entry.source.to_string(),
                ]);
            }
            Err(digest) => {
                objects.push(json!({"name": plugin.name, "sha256": digest, "changed": true}));
                let digest = digest[..SHORT].to_owned();
                rows.push([
                    plugin.name,
                    "-".into(),
                    kinds,
                    "-".into(),
                    digest,
                    "changed since it was installed".into(),
                ]);
            }
        }
    }
    if is_json(matches) {
        print_json(&objects.into());
    } else if rows.is_empty() {
        render::note("no plugin is installed; `swift plugin add NAME` installs one");
    } else {
        print_table(["NAME", "VERSION", "KIND", "SIGNED", "SHA256", "SOURCE"], &rows);
    }
    Ok(())
}

fn names_argument() -> Arg {
    Arg::new("NAME").num_args(0..).help("Names of installed plugins")
}

fn names(matches: &ArgMatches) -> Vec<String> {
    all(matches, "NAME").into_iter().map(Into::into).collect()
}

fn update_arguments(command: Command) -> Command {
    trust_arguments(command.about("Move installed plugins to their newest version; without names, all of them"))
        .arg(names_argument())
}

fn update(matches: &ArgMatches) -> Result<(), Failure> {
    let changes = session(matches, |session| session.update(&names(matches)))?;
    told(&changes.iter().filter(|change| change.changed).cloned().collect::<Vec<_>>());
    if changes.iter().all(|change| !change.changed) {
        render::note("every plugin is as new as it can be");
    }
    Ok(())
}

fn remove_arguments(command: Command) -> Command {
    command
        .about("Remove installed plugins")
        .arg(names_argument().required(true))
        .arg(
            Arg::new("forget-key")
                .long("forget-key")
                .action(ArgAction::SetTrue)
                .help("Also forget whose signature they had"),
        )
        .arg(locked_argument())
}

fn remove(matches: &ArgMatches) -> Result<(), Failure> {
    told(&session(matches, |session| session.remove(&names(matches), flag(matches, "forget-key")))?);
    Ok(())
}

fn verify_arguments(command: Command) -> Command {
    command.about("Compare the installed plugins with what was verified, their signatures and swift.lock").arg(format())
}

fn verify(matches: &ArgMatches) -> Result<(), Failure> {
    let healths = session(matches, |session| session.verify())?;
    let sick = healths.iter().filter(|health| !health.problems.is_empty()).count();
    if is_json(matches) {
        let row = |health: &swift_registry::Health| json!({"name": health.name, "problems": health.problems});
        print_json(&healths.iter().map(row).collect());
    } else {
        for health in &healths {
            let version = health.entry.as_ref().map_or_else(String::new, |entry| format!(" {}", entry.version));
            let signer = health.entry.as_ref().and_then(|entry| entry.signer.as_ref());
            let signed = signer.map_or_else(|| "not signed".into(), |key| format!("signed by {key}"));
            match &health.problems[..] {
                [] => render::output(&format!("{}{version}: good, {signed}\n", health.name)),
                problems => render::output(&format!("{}{version}: {}\n", health.name, problems.join("; "))),
            }
        }
    }
    match sick {
        0 => Ok(()),
        _ => Err(Failure::new(
            format!("{sick} of {} plugins are not what they should be", healths.len()),
            "`swift plugin add` brings back what swift.lock says, `swift plugin add NAME` one plugin",
        )),
    }
}

fn lock_arguments(command: Command) -> Command {
    command.about("Write swift.lock from what is installed").arg(locked_argument())
}

fn lock(matches: &ArgMatches) -> Result<(), Failure> {
    let lock = session(matches, |session| session.write_lock())?;
    render::note(&format!("{LOCK_FILE} has {} plugins", lock.entries().count()));
    Ok(())
}

fn publish_arguments(command: Command) -> Command {
    network_arguments(command.about("Publish a component under the name and version of its plugin.toml"))
        .arg(Arg::new("FILE").required(true).help("The component, as `swift plugin build` makes it"))
        .arg(
            Arg::new("sign")
                .long("sign")
                .value_name("KEYFILE")
                .help("Sign it with this secret key, see `swift plugin key`"),
        )
}

fn publish(matches: &ArgMatches) -> Result<(), Failure> {
    let password = std::env::var(PASSWORD).ok();
    let signer = text(matches, "sign").map(|path| Signer::open(Path::new(path), password.as_deref())).transpose()?;
    let registry = registry(matches)?.ok_or(RegistryError::NoRegistry)?;
    let file = Path::new(text(matches, "FILE").unwrap_or_default());
    let made = swift_registry::publish(file, signer.as_ref(), &registry, &client(matches)?)?;
    let signed =
        made.signer.map_or_else(|| "not signed; --sign KEYFILE signs".into(), |key| format!("signed by {key}"));
    let what = if made.already { "is published already" } else { "published" };
    render::note(&format!("{} {} {what} at {} ({signed})", made.name, made.version, made.place));
    render::table(&[("sha256", made.digest)]);
    Ok(())
}

fn key_arguments(command: Command) -> Command {
    command.about("Make a key to sign plugins with, in minisign's form").arg(
        Arg::new("FILE").default_value("swift-plugin.key").help("The secret key; the public one is FILE.pub beside it"),
    )
}

fn key(matches: &ArgMatches) -> Result<(), Failure> {
    let path = Path::new(text(matches, "FILE").unwrap_or_default());
    let public_path = PathBuf::from(format!("{}.pub", path.display()));
    let password = std::env::var(PASSWORD).ok().filter(|password| !password.is_empty());
    let (secret, public) = swift_registry::generate_keys(password.as_deref())?;
    for (path, content) in [(path, &secret), (&public_path, &public)] {
        write_new(path, content).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::new(
                format!("{} is there already", path.display()),
                "a key is never replaced: give another FILE",
            ),
            _ => Failure::io("write", path, &error),
        })?;
    }
    render::note(&format!(
        "wrote {} (keep it secret) and {} (give it to users)",
        path.display(),
        public_path.display()
    ));
    if password.is_none() {
        render::note(&format!(
            "whoever can read {} can sign; set {PASSWORD} to make one with a password",
            path.display()
        ));
    }
    render::output(&format!("{}\n", public.lines().last().unwrap_or_default()));
    Ok(())
}

/// Writes a file that only its owner can read, if there is none of that name.
fn write_new(path: &Path, content: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}
