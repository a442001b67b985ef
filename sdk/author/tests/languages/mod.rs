//! What the tests of the languages share: plugins in folders of their own, built and loaded as a user does.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use swift_author::{Built, Kind, Language, Project, Tools, build, new, run_tests};
use swift_plugin::{KindLimits, LogLine, Outcome, Plugin, PluginHost, PluginOptions, Reward, Sample, TrainerState};

/// Whether the tools of other languages are here; without them a test ends, and fails where `CI` is set.
pub(crate) fn tools_are_here() -> bool {
    let here = std::env::var_os("SWIFT_TEST_TOOLS").is_some_and(|folder| Path::new(&folder).is_dir());
    assert!(here || std::env::var_os("CI").is_none(), "SWIFT_TEST_TOOLS names no folder: run cargo xtask test");
    if !here {
        eprintln!("skipped: the tools of other languages are not here, run cargo xtask test");
    }
    here
}

/// A plugin's folder from the template of a kind.
pub(crate) fn scaffold(folder: &Path, name: &str, kind: Kind, language: Language) -> PathBuf {
    new(name, kind, language, &folder.join(name)).unwrap()
}

/// One plugin named `all` that holds every kind that the language has a template of: their sources and golden tests, and
/// `trouble`. It asks for files and HTTP.
pub(crate) fn all_kinds(folder: &Path, language: Language, entry: &str, source: &str, trouble: &str) -> PathBuf {
    let kinds = [Kind::Reward, Kind::Metric, Kind::Preprocessor, Kind::Dataset, Kind::Template];
    let all = folder.join("all");
    for kind in kinds {
        let one = scaffold(folder, kind.name(), kind, language);
        for part in ["src", "tests", "sdk"] {
            copy(&one.join(part), &all.join(part));
        }
    }
    let names: Vec<String> = kinds.iter().map(|kind| format!("\"{kind}\"")).collect();
    let manifest = format!(
        "name = \"all\"\nversion = \"0.1.0\"\nkind = [{}]\n[capabilities]\nread = true\nnet = [\"*\"]\n\
         [build]\nlang = \"{}\"\nentry = \"src/{entry}\"\n",
        names.join(", "),
        language.name()
    );
    std::fs::write(all.join("plugin.toml"), manifest).unwrap();
    std::fs::write(all.join("src").join(entry), source).unwrap();
    std::fs::write(all.join("src").join(entry.replace("all", "trouble")), trouble).unwrap();
    all
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// Builds the plugin in a folder; the error as a user sees it.
pub(crate) fn built(folder: &Path) -> Result<Built, String> {
    let project = Project::open(folder).map_err(|error| error.to_string())?;
    build(&project, &Tools::default(), &|_| {}).map_err(|error| error.to_string())
}

/// A loaded plugin, and the lines that it logs.
pub(crate) struct Loaded {
    pub(crate) plugin: Plugin,
    pub(crate) lines: Arc<Mutex<Vec<String>>>,
}

/// Loads a component; `grants` are as after `--allow`.
pub(crate) fn load(built: &Built, grants: &[String]) -> Loaded {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let limits = KindLimits::default().with(|limits| limits.memory = 256 << 20);
    let mut options = PluginOptions { cache: None, limits, ..PluginOptions::default() };
    for grant in grants {
        options.grants.add(grant).unwrap();
    }
    let heard = Arc::clone(&lines);
    options.log = Some(Arc::new(move |_, line: LogLine| heard.lock().unwrap().push(line.message)));
    let host = Arc::new(PluginHost::new(options).unwrap());
    Loaded { plugin: host.load_bytes("plugin", None, &built.bytes).unwrap(), lines }
}

/// Every golden test of the component passes, and there is one for each of its kinds.
pub(crate) fn assert_golden(plugin: &Plugin, built: &Built) {
    let report = run_tests(plugin, &built.bytes, &[]).unwrap();
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    assert!(report.cases >= plugin.kinds().len(), "{report:?}");
}

/// Scores one completion: the score, or the reason why there is none.
pub(crate) fn score(reward: &Reward, completion: &str, solution: &str) -> Result<Option<f64>, String> {
    let sample = Sample {
        prompt: Vec::new(),
        completion: completion.into(),
        completion_tokens: 1,
        solution: Some(solution.into()),
        columns: vec![("weights".into(), r#"{"first": 2}"#.into())],
    };
    let state = TrainerState { step: 1, max_steps: 2, epoch: 0.5, seed: 42, extra: r#"{"more": 3}"#.into() };
    match reward.outcomes(&[sample], &state).0.remove(0) {
        Outcome::Score(score) => Ok(Some(score)),
        Outcome::NoScore => Ok(None),
        Outcome::Failed(reason) => Err(reason),
    }
}

/// Each completion fails with a reason that holds the text beside it.
pub(crate) fn assert_reasons(reward: &Reward, reasons: &[(&str, &str)]) {
    for (completion, wanted) in reasons {
        let reason = score(reward, completion, "four").unwrap_err();
        assert!(reason.contains(wanted), "{completion}: {reason}");
    }
}

/// The component imports what swift offers and nothing else.
pub(crate) fn assert_alone(built: &Built) {
    let imports = &built.inspection.imports;
    assert!(imports.iter().all(|import| import.starts_with("swift:")), "{imports:?}");
}

/// A server that answers one request with `{"score": 1}` and status 201, and its address; it gives what it was asked.
pub(crate) fn server() -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut asked, mut piece) = (Vec::new(), [0; 4096]);
        while !asked.ends_with(b"}") {
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "the request ended early");
            asked.extend_from_slice(&piece[..read]);
        }
        let body = r#"{"score": 1}"#;
        let answer =
            format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    };
    (address, std::thread::spawn(serve))
}
