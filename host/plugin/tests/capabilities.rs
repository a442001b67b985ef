//! Files and hosts, by two keys: what a plugin reaches without the user's grant (nothing), and with it (that, and nothing
//! beside it). Every kind of plugin is asked.
#![cfg(unix)]

mod guest;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest::Guest;
use swift_plugin::{Grants, Kind, KindLimits, Limits, Plugin, PluginError, PluginHost, PluginOptions, PluginSet};

fn host(grants: &[String]) -> Arc<PluginHost> {
    let mut granted = Grants::default();
    grants.iter().for_each(|grant| granted.add(grant).unwrap());
    let options = PluginOptions {
        limits: KindLimits::default().with(|limits| {
            *limits = Limits { deadline: Duration::from_millis(1500), memory: 128 << 20, calls: 10_000, ..*limits };
        }),
        cache: None,
        grants: granted,
        ..PluginOptions::default()
    };
    Arc::new(PluginHost::new(options).unwrap())
}

/// The export that gets the user's text, the text's place, and the name of its parameters.
fn entrance(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Model => ("claims", "(local.get $config) (local.get $config-length)"),
        Kind::Dataset => ("open", "(local.get $location) (local.get $location-length)"),
        _ => ("configure", "(local.get $config) (local.get $config-length)"),
    }
}

/// Ends with an error whose text lies where the pointer and length at these places say.
fn says(pointer: &str) -> String {
    format!(
        "(i32.store8 (i32.const 2048) (i32.const 1)) (i32.store offset=4 (i32.const 2048) (i32.load {pointer})) \
         (i32.store offset=8 (i32.const 2048) (i32.load offset=4 {pointer})) (i32.const 2048)"
    )
}

/// A plugin that reads the file it is told to and says what is in it, or what it was told instead.
fn reader(kind: Kind) -> Guest {
    let (export, path) = entrance(kind);
    let read = format!("(call $read {path} (i64.const 0) (i32.const 1000) (i32.const 3000))");
    Guest::new(&[kind]).body(export, format!("{read} {}", says("(i32.const 3004)"))).import(
        "files",
        "read",
        "(param i32 i32 i64 i32 i32)",
    )
}

/// A plugin that asks for what an address answers and says its body, or what it was told instead.
fn caller(kind: Kind) -> Guest {
    let (export, url) = entrance(kind);
    let send = format!(
        "(call $send (i32.const 3200) (i32.const 3) {url} (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) \
         (i32.const 60000) (i32.const 3000))"
    );
    let pointer = "(select (i32.const 3004) (i32.const 3016) (i32.load8_u (i32.const 3000)))";
    Guest::new(&[kind])
        .body(export, format!("{send} {}", says(pointer)))
        .import("http", "send", "(param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)")
        .fields("(data (i32.const 3200) \"GET\")")
}

const ASKS_TO_READ: &str = "[capabilities]\nread = true";
const ASKS_FOR_ANY_HOST: &str = "[capabilities]\nnet = [\"*\"]";

/// What the plugin says when it is told `text`.
fn told(plugin: &Plugin, text: &str) -> String {
    let error = match plugin.kinds()[0] {
        // The name of a family: what it says is cut at 100 characters.
        Kind::Model => {
            return plugin
                .model()
                .unwrap()
                .claims(text)
                .map_or_else(|error| error.to_string(), Option::unwrap_or_default);
        }
        Kind::Dataset => plugin.loader("test").unwrap().open(text, None, "{}", None).map(drop),
        Kind::Reward => plugin.reward("test", text).map(drop),
        Kind::Metric => plugin.metric("test", text).map(drop),
        Kind::Template => plugin.template("test", text).map(drop),
        Kind::Preprocessor => plugin.preprocessor("test", text).map(drop),
    };
    match error.expect_err("the guest always says something") {
        PluginError::Settings { message, .. } | PluginError::Declined { message, .. } => message,
        PluginError::Source { message, .. } => message,
        other => other.to_string(),
    }
}

fn load(host: &Arc<PluginHost>, guest: &Guest) -> Result<Plugin, PluginError> {
    host.load_bytes("file-name", None, &guest.build())
}

#[test]
fn what_the_plugin_does_not_ask_for_it_does_not_get() {
    let host = host(&["tool:read=/".into(), "tool:net=localhost".into()]);
    let mut text = String::new();
    for kind in Kind::ALL {
        for guest in [reader(kind), reader(kind).named("tool", ""), caller(kind).named("tool", ASKS_TO_READ)] {
            let _ = writeln!(text, "== {kind}\n{}", load(&host, &guest).unwrap_err().report());
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn what_the_user_does_not_grant_is_denied() {
    // Another plugin was granted everything.
    let host = host(&["other:read=/".into(), "other:net=localhost".into()]);
    let mut text = String::new();
    for kind in Kind::ALL {
        // A loader gets what the user names as its dataset, so it is loaded, and denied when it reads elsewhere.
        let denied = match load(&host, &reader(kind).named("tool", ASKS_TO_READ)) {
            Err(error) => error.report(),
            Ok(plugin) => told(&plugin, "/nowhere/at/all"),
        };
        let _ = writeln!(text, "== {kind}\n{denied}");
        let error = load(&host, &caller(kind).named("tool", ASKS_FOR_ANY_HOST)).unwrap_err();
        let _ = writeln!(text, "{}", error.report());
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_host_that_was_not_asked_for_cannot_be_granted() {
    let guest = caller(Kind::Reward).named("tool", "[capabilities]\nnet = [\"api.example.com\"]");
    let error = load(&host(&["tool:net=localhost".into()]), &guest).unwrap_err();
    insta::assert_snapshot!(error.report());
}

/// A folder with a file, and beside it what must stay out of reach.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    std::fs::create_dir_all(at("granted/folder")).unwrap();
    std::fs::create_dir_all(at("granted-not")).unwrap();
    std::fs::write(at("granted/file"), "inside").unwrap();
    std::fs::write(at("granted/folder/deep"), "deeper inside").unwrap();
    std::fs::write(at("granted-not/file"), "SECRET").unwrap();
    std::fs::write(at("secret"), "SECRET").unwrap();
    let link = |to: &Path, from: &str| std::os::unix::fs::symlink(to, at(from)).unwrap();
    link(&at("secret"), "granted/link-out");
    link(Path::new("../secret"), "granted/link-up");
    link(&at("granted-not"), "granted/folder-out");
    link(Path::new("file"), "granted/link-in");
    link(Path::new("/dev/zero"), "granted/zero");
    link(Path::new("loop"), "granted/loop");
    assert!(std::process::Command::new("mkfifo").arg(at("granted/pipe")).status().unwrap().success());
    place
}

#[test]
fn a_granted_folder_opens_nothing_else() {
    let place = place();
    let at = |name: &str| format!("{}/{name}", place.path().display());
    let host = host(&[format!("tool:read={}", at("granted"))]);
    for kind in Kind::ALL {
        let plugin = load(&host, &reader(kind).named("tool", ASKS_TO_READ)).unwrap();
        for (path, content) in [
            ("file", "inside"),
            ("folder/deep", "deeper inside"),
            ("./folder//deep", "deeper inside"),
            ("link-in", "inside"),
        ] {
            assert_eq!(told(&plugin, &at(&format!("granted/{path}"))), content, "{kind}");
        }
        // For a loader, a path that exists is what the user named and so granted: its own test is below.
        if kind == Kind::Dataset {
            continue;
        }
        let mut heard = String::new();
        for path in [
            at("secret"),
            at("granted/../secret"),
            at("granted/folder/../../secret"),
            at("granted-not/file"),
            at("granted/link-out"),
            at("granted/link-up"),
            at("granted/folder-out/file"),
            at("granted/folder-out"),
            at("granted/loop"),
            at("granted/zero"),
            at("granted/pipe"),
            at("granted/folder"),
            at("granted"),
            at("granted/absent"),
            at("absent"),
            "/etc/passwd".into(),
            "/dev/zero".into(),
            "/proc/self/environ".into(),
            "file".into(),
            "granted/file".into(),
            "~/file".into(),
            "C:\\file".into(),
            "/".into(),
            String::new(),
            "a\u{0}b".into(),
            format!("{}\u{0}", at("granted/file")),
            "x".repeat(100_000),
        ] {
            let answer = told(&plugin, &path);
            assert!(
                !answer.contains("SECRET") && !answer.contains("root:") && !answer.contains("PATH="),
                "{path}: {answer}"
            );
            let answer = answer.replace(&at(""), "PLACE/");
            let _ = writeln!(heard, "{}", answer.chars().take(160).collect::<String>());
        }
        if kind != Kind::Model {
            insta::assert_snapshot!("out_of_the_granted_folder", heard);
        }
    }
}

#[test]
fn a_granted_file_is_that_file_alone() {
    let place = place();
    let at = |name: &str| format!("{}/{name}", place.path().display());
    let host = host(&[format!("tool:read={}", at("granted/file"))]);
    let plugin = load(&host, &reader(Kind::Reward).named("tool", ASKS_TO_READ)).unwrap();
    assert_eq!(told(&plugin, &at("granted/file")), "inside");
    for other in ["granted/folder/deep", "granted/link-in", "granted", "granted/file/x", "granted/file/../folder/deep"]
    {
        assert!(told(&plugin, &at(other)).contains("not in what the user granted"), "{other}");
    }
}

#[test]
fn a_loader_reads_what_the_user_named_and_nothing_beside_it() {
    let place = place();
    let at = |name: &str| format!("{}/{name}", place.path().display());
    // It was told one file and reads another: the one whose path is `secret` in its own memory.
    let (export, _) = entrance(Kind::Dataset);
    let path = at("secret");
    let read = format!(
        "(call $read (i32.const 4000) (i32.const {}) (i64.const 0) (i32.const 1000) (i32.const 3000))",
        path.len()
    );
    let thief = Guest::new(&[Kind::Dataset])
        .body(export, format!("{read} {}", says("(i32.const 3004)")))
        .import("files", "read", "(param i32 i32 i64 i32 i32)")
        .fields(&format!("(data (i32.const 4000) \"{path}\")"))
        .named("tool", ASKS_TO_READ);
    let host = host(&[]);
    let plugin = load(&host, &thief).unwrap();
    assert!(told(&plugin, &at("granted/file")).contains("not in what the user granted"));
    assert!(told(&plugin, &at("granted")).contains("not in what the user granted"));
    let honest = load(&host, &reader(Kind::Dataset).named("tool", ASKS_TO_READ)).unwrap();
    assert_eq!(told(&honest, &at("granted/file")), "inside");
    // The next source does not open the one before.
    assert!(told(&plugin, &at("granted/file")).contains("not in what the user granted"));
}

#[test]
fn a_grant_that_is_not_there_is_an_error() {
    let error = load(&host(&["tool:read=/nowhere/at/all".into()]), &reader(Kind::Reward).named("tool", ASKS_TO_READ))
        .unwrap_err();
    insta::assert_snapshot!(error.report());
}

/// A server that gives each connection to `answer`; its port.
fn server(answer: impl Fn(&str, &mut std::net::TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            answer(&String::from_utf8_lossy(&request[..length]), &mut stream);
        }
    });
    port
}

fn says_hello(port: u16) -> impl Fn(&str, &mut std::net::TcpStream) {
    move |request, stream| {
        let path = request.split(' ').nth(1).unwrap_or("");
        let answer = match path {
            "/redirect" => format!(
                "HTTP/1.1 302 Found\r\nLocation: http://localhost:{port}/secret\r\nContent-Length: 5\r\n\r\nmoved"
            ),
            "/broken" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".into(),
            "/nonsense" => "\u{1b}[2J not HTTP at all\r\n\r\n".into(),
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".into(),
        };
        let _ = stream.write_all(answer.as_bytes());
    }
}

#[test]
fn a_granted_host_opens_no_other() {
    let secret = server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET");
    });
    let port = server(says_hello(secret));
    let host = host(&[format!("tool:net=127.0.0.1:{port}")]);
    for kind in Kind::ALL {
        let plugin = load(&host, &caller(kind).named("tool", ASKS_FOR_ANY_HOST)).unwrap();
        assert_eq!(told(&plugin, &format!("http://127.0.0.1:{port}/")), "hello", "{kind}");
        // Not followed, so nobody is led elsewhere.
        assert_eq!(told(&plugin, &format!("http://127.0.0.1:{port}/redirect")), "moved", "{kind}");
        let mut heard = String::new();
        for url in [
            format!("http://127.0.0.1:{secret}/"),
            "http://127.0.0.1/".into(),
            format!("http://localhost:{port}/"),
            format!("https://[::1]:{port}/"),
            format!("http://[::ffff:127.0.0.1]:{port}/"),
            format!("http://127.1:{port}/"),
            format!("http://0x7f000001:{port}/"),
            format!("http://127.0.0.1:{port}@evil.example/"),
            format!("http://me:word@127.0.0.1:{port}/"),
            format!("http://127.0.0.1.evil.example:{port}/"),
            "http://169.254.169.254/latest/meta-data/".into(),
            "file:///etc/passwd".into(),
            "ftp://127.0.0.1/".into(),
            "unix:/run/docker.sock".into(),
            "/etc/passwd".into(),
            String::new(),
            "http://".into(),
            "http://a b/".into(),
            format!("http://127.0.0.1:{port}\r\nHost: evil.example/"),
        ] {
            let answer = told(&plugin, &url);
            assert!(!answer.contains("SECRET") && !answer.contains("hello"), "{url}: {answer}");
            let _ = writeln!(
                heard,
                "{}",
                answer.replace(&port.to_string(), "PORT").replace(&secret.to_string(), "SECRET-PORT")
            );
        }
        if kind != Kind::Model {
            insta::assert_snapshot!("other_hosts", heard);
        }
    }
}

#[test]
fn an_answer_that_is_none_is_said() {
    let port = server(says_hello(0));
    let plugin =
        load(&host(&[format!("tool:net=127.0.0.1:{port}")]), &caller(Kind::Reward).named("tool", ASKS_FOR_ANY_HOST))
            .unwrap();
    for path in ["broken", "nonsense"] {
        let answer = told(&plugin, &format!("http://127.0.0.1:{port}/{path}"));
        assert!(!answer.is_empty() && !answer.contains('\u{1b}') && answer != "short", "{path}: {answer}");
    }
}

#[test]
fn an_answer_that_is_too_large_is_cut_off() {
    let port = server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let piece = vec![b'x'; 1 << 20];
        while stream.write_all(&piece).is_ok() {}
    });
    let plugin =
        load(&host(&[format!("tool:net=127.0.0.1:{port}")]), &caller(Kind::Reward).named("tool", ASKS_FOR_ANY_HOST))
            .unwrap();
    let answer = told(&plugin, &format!("http://127.0.0.1:{port}/"));
    assert!(answer.contains("more than") || answer.contains("took longer than"), "{answer}");
}

#[test]
fn a_service_that_does_not_answer_ends_at_the_deadline() {
    let silent = server(|_, _| std::thread::sleep(Duration::from_secs(30)));
    let dripping = server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    for port in [silent, dripping] {
        let plugin = load(
            &host(&[format!("tool:net=127.0.0.1:{port}")]),
            &caller(Kind::Reward).named("tool", ASKS_FOR_ANY_HOST),
        )
        .unwrap();
        let start = Instant::now();
        let answer = told(&plugin, &format!("http://127.0.0.1:{port}/"));
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        assert!(answer.contains("timeout") || answer.contains("took longer than"), "{answer}");
    }
}

#[test]
fn a_grant_is_to_one_plugin() {
    let place = tempfile::tempdir().unwrap();
    let install = |file: &str, kind| {
        std::fs::write(place.path().join(file), reader(kind).named("tool", ASKS_TO_READ).build()).unwrap();
    };
    let set = || PluginSet::new(host(&["tool:read=/".into()]), &[], &[place.path().into()]);
    let report = |error: PluginError| error.report().replace(&place.path().display().to_string(), "PLACE");
    // Misspelt, or not installed.
    insta::assert_snapshot!("granted_to_none", report(set().unwrap_err()));
    install("tool.wasm", Kind::Reward);
    set().unwrap();
    // Another one comes under the name of the one that was granted something.
    install("evil.wasm", Kind::Metric);
    insta::assert_snapshot!("granted_to_two", report(set().unwrap_err()));
}

#[test]
fn a_plugin_cannot_lie_about_what_it_is() {
    let text = "name = \"tool\"\nversion = \"0.1.0\"\nkind = [\"metric\", \"template\"]\n";
    let error = load(&host(&[]), &Guest::new(&[Kind::Reward]).manifest(text)).unwrap_err();
    insta::assert_snapshot!(error.report());
    for (text, said) in [
        ("", "missing field"),
        ("name = \"../evil\"\nversion = \"0.1.0\"\nkind = [\"reward\"]", "`../evil` is no name"),
        ("name = \"\u{1b}[2J\"\nversion = \"0.1.0\"\nkind = [\"reward\"]", "plugin.toml"),
        ("[[[[[[[[[[", "plugin.toml"),
    ] {
        let error = load(&host(&[]), &Guest::new(&[Kind::Reward]).manifest(text)).unwrap_err().report();
        assert!(error.contains(said) && !error.contains('\u{1b}'), "{error}");
    }
    // A megabyte, and nesting without end.
    for text in [" ".repeat(1 << 20), format!("a = {}", "[".repeat(60_000))] {
        load(&host(&[]), &Guest::new(&[Kind::Reward]).manifest(text)).unwrap_err();
    }
}
