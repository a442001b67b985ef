//! `swift plugin` as its users type it: publishing, installing, locking, and what goes wrong.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use swift_plugin::sections;

use crate::fixture::{Place, Said};

/// A component that is called `name`.
fn component(name: &str, version: &str) -> Vec<u8> {
    let manifest =
        format!("name = \"{name}\"\nversion = \"{version}\"\nkind = [\"model\"]\nsummary = \"says please\"\n");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist/llama.wasm");
    sections::embed(&std::fs::read(path).expect("a component"), &[(sections::MANIFEST, manifest.as_bytes())])
}

fn put(place: &Place, path: &str, bytes: &[u8]) {
    let path = place.path(path);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("a file");
}

/// The command, whatever registry the machine's user has set.
fn command(place: &Place, arguments: &str) -> Command {
    let mut command = place.command(arguments);
    for name in [
        "SWIFT_PLUGIN_REGISTRY",
        "SWIFT_REGISTRY_AUTH",
        "SWIFT_KEY_PASSWORD",
        "XDG_CONFIG_HOME",
        "DOCKER_CONFIG",
        "SSL_CERT_FILE",
    ] {
        command.env_remove(name);
    }
    command
}

fn swift(place: &Place, arguments: &str) -> Said {
    let output = command(place, arguments).output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn fails(place: &Place, arguments: &str) -> String {
    let said = swift(place, arguments);
    assert_eq!(said.code, Some(1), "{arguments}\n{}\n{}", said.out, said.err);
    assert!(said.err.contains("hint: "), "{}", said.err);
    said.err
}

/// `docker-registry` on this machine, if the test's tools are there.
struct Server {
    child: Child,
    host: String,
    _folder: tempfile::TempDir,
}

impl Server {
    #[allow(clippy::print_stderr, reason = "says why a test is skipped")]
    fn start() -> Option<Self> {
        let tools = std::env::var_os("SWIFT_TEST_TOOLS").map(PathBuf::from);
        let program = tools
            .map(|tools| tools.join("docker-registry/usr/bin/docker-registry"))
            .filter(|program| program.is_file());
        let Some(program) = program else {
            assert!(std::env::var_os("CI").is_none(), "docker-registry is missing: run cargo xtask test");
            eprintln!("skipped: docker-registry is missing, run cargo xtask test");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let data = folder.path().join("data");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
            data.display()
        );
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).expect("a file");
        let mut command = Command::new(program);
        command.arg("serve").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server =
            Self { child: command.spawn().expect("it starts"), host: format!("localhost:{port}"), _folder: folder };
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("docker-registry does not listen");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every command of docs/plugins/registry.md, in its order.
#[test]
fn what_the_docs_say_works() {
    let place = Place::new();
    put(&place, "polite.wasm", &component("polite", "0.1.0"));
    put(&place, "polite-0.2.0.wasm", &component("polite", "0.2.0"));
    put(&place, "folder-of-components/other.wasm", &component("other", "1.0.0"));
    let server = Server::start();
    let text = include_str!("../../docs/plugins/registry.md");
    let mut ran = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("$ swift ")) {
        let line = match (&server, line.contains("localhost:5000")) {
            (Some(server), true) => line.replace("localhost:5000", &server.host),
            (None, true) => continue,
            (_, false) => line.to_owned(),
        };
        let said = swift(&place, &line).good();
        let wanted = match line.split(' ').nth(1) {
            Some("search") => "says please",
            Some("info") => "swift:model@0.1",
            Some("list") => "SIGNED",
            Some("verify") => "polite 0.2.0: good, signed by RW",
            _ => "",
        };
        assert!(said.out.contains(wanted), "{line}\n{}{}", said.out, said.err);
        ran += 1;
    }
    assert!(ran >= 15, "{ran} commands");
    // A project can move with its registry.
    assert!(!place.read("swift.lock").contains(&place.path("").display().to_string()), "{}", place.read("swift.lock"));
}

#[test]
fn what_goes_wrong_says_what_to_do() {
    let place = Place::new();
    let error = fails(&place, "plugin add polite");
    assert!(error.contains("no plugin registry is set") && error.contains("SWIFT_PLUGIN_REGISTRY"), "{error}");
    let error = fails(&place, "plugin add ../absent");
    assert!(error.contains("cannot read"), "{error}");
    let error = fails(&place, "plugin add Polite");
    assert!(error.contains("`Polite` names no plugin"), "{error}");
    let error = fails(&place, "plugin add");
    assert!(error.contains("there is no swift.lock in ."), "{error}");
    put(&place, "shelf/polite/0.1.0.wasm", &component("polite", "0.1.0"));
    // The registry from the configuration.
    put(&place, ".config/swift/config.toml", format!("registry = \"{}\"\n", place.path("shelf").display()).as_bytes());
    let error = fails(&place, "plugin add polite@2 --require-signed");
    assert!(error.contains("has no `polite` ^2") && error.contains("there are 0.1.0"), "{error}");
    let error = fails(&place, "plugin add polite --require-signed");
    assert!(error.contains("`polite` 0.1.0 is not signed"), "{error}");
    let error = fails(&place, "plugin add polite --key nothing");
    assert!(error.contains("nothing is no minisign key"), "{error}");
    let error = fails(&place, "plugin remove polite");
    assert!(error.contains("`polite` is not installed"), "{error}");
    swift(&place, "plugin add polite").good();
    let listed = swift(&place, "plugin list --format json").good().out;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(
        (&listed[0]["name"], &listed[0]["version"], &listed[0]["kinds"]),
        (&"polite".into(), &"0.1.0".into(), &"model".into())
    );

    // Somebody changed the file since.
    put(&place, ".local/share/swift/plugins/polite.wasm", &component("polite", "6.6.6"));
    let said = swift(&place, "plugin verify");
    assert_eq!(said.code, Some(1));
    assert!(
        said.out.contains("not what was installed") && said.err.contains("1 of 1 plugins"),
        "{}{}",
        said.out,
        said.err
    );
    assert!(swift(&place, "plugin list").good().out.contains("changed since it was installed"));
    swift(&place, "plugin add polite").good();
    assert!(swift(&place, "plugin verify").good().out.contains("polite 0.1.0: good, not signed"));
}

/// A component of the rewards that are built in, under another name.
fn reward(name: &str, version: &str) -> Vec<u8> {
    let manifest = format!("name = \"{name}\"\nversion = \"{version}\"\nkind = [\"reward\"]\n");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist/rewards.wasm");
    sections::embed(&std::fs::read(path).expect("a component"), &[(sections::MANIFEST, manifest.as_bytes())])
}

#[test]
fn a_run_takes_only_what_was_locked_and_installed() {
    let place = Place::new();
    put(&place, "shelf/polite/0.1.0.wasm", &reward("polite", "0.1.0"));
    swift(&place, "plugin add polite --registry ./shelf").good();
    swift(&place, "plugin lock").good();
    place.write("samples.jsonl", "{\"completion\": \"\\\\boxed{4}\", \"solution\": \"4\"}\n");
    let scores = |file: &str| format!("plugin run {file}:accuracy --input samples.jsonl");
    assert!(swift(&place, &scores("polite")).good().out.contains("\"score\":1.0"));

    // Given by hand, it has the locked name and other bytes: refused by whatever command it is given to.
    put(&place, "other.wasm", &reward("polite", "0.1.1"));
    for command in [scores("other.wasm"), place.train("given", "--plugin other.wasm")] {
        let error = fails(&place, &command);
        assert!(error.contains("polite") && error.contains("swift.lock"), "{error}");
    }
    // Changed where it lies: neither locked nor what was installed. A project without a lock is told the second.
    put(&place, ".local/share/swift/plugins/polite.wasm", &reward("polite", "0.1.0-changed"));
    assert!(fails(&place, &scores("polite")).contains("swift.lock"));
    assert!(fails(&place, &place.train("installed", "")).contains("swift.lock"));
    std::fs::remove_file(place.path("swift.lock")).expect("a lock");
    assert!(fails(&place, &scores("polite")).contains("is not what was installed"));
    assert!(fails(&place, &place.train("tampered", "")).contains("is not what was installed"));
}

#[test]
fn what_is_locked_is_fetched_again_when_it_is_gone() {
    let place = Place::new();
    put(&place, "shelf/polite/0.1.0.wasm", &reward("polite", "0.1.0"));
    swift(&place, "plugin add polite --registry ./shelf").good();
    swift(&place, "plugin lock").good();
    let lock = place.read("swift.lock");
    // A newer one is published, and all that was here is lost: the lock brings back the old one.
    put(&place, "shelf/polite/0.2.0.wasm", &reward("polite", "0.2.0"));
    for lost in [".local/share/swift", ".cache/swift"] {
        let _ = std::fs::remove_dir_all(place.path(lost));
    }
    swift(&place, "plugin add").good();
    assert!(swift(&place, "plugin verify").good().out.contains("polite 0.1.0: good"));
    assert_eq!(place.read("swift.lock"), lock);
    // What is published under that version is no longer what was locked.
    std::fs::remove_dir_all(place.path(".local/share/swift")).expect("a store");
    let _ = std::fs::remove_dir_all(place.path(".cache/swift"));
    put(&place, "shelf/polite/0.1.0.wasm", &reward("polite", "0.1.0+other"));
    assert!(fails(&place, "plugin add").contains("polite"), "other bytes");
    assert!(!place.path(".local/share/swift/plugins/polite.wasm").exists());
}

#[test]
fn keys_are_made_once_and_kept_secret() {
    let place = Place::new();
    put(&place, "polite.wasm", &component("polite", "0.1.0"));
    let key = swift(&place, "plugin key").good().out;
    assert!(key.starts_with("RW") && place.read("swift-plugin.key.pub").contains(key.trim()), "{key}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(place.path("swift-plugin.key")).expect("a key").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
    assert!(fails(&place, "plugin key").contains("is there already"));
    command(&place, "plugin key closed.key").env("SWIFT_KEY_PASSWORD", "open").output().expect("it runs");
    let publish = "plugin publish polite.wasm --registry ./shelf --sign closed.key";
    assert!(fails(&place, publish).contains("SWIFT_KEY_PASSWORD"));
    let output = command(&place, publish).env("SWIFT_KEY_PASSWORD", "open").output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let add = "plugin add polite --registry ./shelf --key";
    let error = fails(&place, &format!("{add} swift-plugin.key.pub"));
    assert!(error.contains("is signed by") && error.contains(key.trim()), "{error}");
    swift(&place, &format!("{add} closed.key.pub")).good();
}

/// Processes that install at once, and some that are killed: whatever lies there is a whole plugin that somebody asked for.
#[test]
fn processes_at_once_and_processes_killed_leave_a_whole_store() {
    let place = Place::new();
    let versions: Vec<Vec<u8>> = ["0.1.0", "0.2.0"].iter().map(|version| component("polite", version)).collect();
    for (version, bytes) in ["0.1.0", "0.2.0"].iter().zip(&versions) {
        put(&place, &format!("shelf/polite/{version}.wasm"), bytes);
    }
    let add = |round: usize| {
        let arguments = format!("plugin add polite@0.{}.0 --registry ./shelf", round % 2 + 1);
        command(&place, &arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let children: Vec<Child> = (0..6).map(add).collect();
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut killed = 0;
    for round in 0..30 {
        let mut child = add(round);
        std::thread::sleep(Duration::from_millis(round as u64 * 2));
        let _ = child.kill();
        killed += usize::from(!child.wait().expect("it ends").success());
        let there = std::fs::read(place.path(".local/share/swift/plugins/polite.wasm")).expect("it is there");
        assert!(versions.contains(&there), "round {round}");
        swift(&place, "plugin verify").good();
    }
    assert!(killed > 0, "nobody was killed in time");
    assert!(add(0).wait().expect("it ends").success());
    assert_eq!(std::fs::read(place.path(".local/share/swift/plugins/polite.wasm")).expect("it is there"), versions[0]);
}
