//! Components to install, a place of its own for each test, a real registry, and servers that answer as a test says.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use swift_plugin::sections;
use swift_registry::{Change, Client, Event, Network, Reference, Registry, RegistryError, Session, Store, Trust};

const LLAMA: &[u8] = include_bytes!("../../../plugins/dist/llama.wasm");

/// A model plugin of this name and version.
pub(crate) fn component(name: &str, version: &str) -> Vec<u8> {
    sized(name, version, 0)
}

/// The same with so many bytes that nobody can compress.
pub(crate) fn sized(name: &str, version: &str, bytes: usize) -> Vec<u8> {
    let manifest = format!(
        "name = \"{name}\"\nversion = \"{version}\"\nkind = [\"model\"]\nsummary = \"says {name}\"\nlicense = \"MIT\"\n"
    );
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(bytes)
    .collect();
    sections::embed(LLAMA, &[(sections::MANIFEST, manifest.as_bytes()), ("noise", &noise)])
}

/// The same, built for swift:model 0.9.
pub(crate) fn of_the_future(name: &str, version: &str) -> Vec<u8> {
    replaced(component(name, version), b"@0.1.0", b"@0.9.0")
}

/// A component that says nothing about itself.
pub(crate) fn bare() -> Vec<u8> {
    replaced(LLAMA.to_vec(), b"swift:manifest", b"other:manifest")
}

/// The same bytes with one text instead of another of the same length.
fn replaced<const N: usize>(mut bytes: Vec<u8>, old: &[u8; N], new: &[u8; N]) -> Vec<u8> {
    for at in 0..bytes.len() - N {
        if bytes[at..].starts_with(old) {
            bytes[at..at + N].copy_from_slice(new);
        }
    }
    bytes
}

/// Folders of one test.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A folder registry with these plugins.
    pub(crate) fn registry(&self, plugins: &[(&str, &str)]) -> Registry {
        for (name, version) in plugins {
            self.write(&format!("registry/{name}/{version}.wasm"), &component(name, version));
        }
        Registry::Folder(self.path("registry"))
    }

    pub(crate) fn user(&self, registry: &Registry) -> User {
        User {
            store: Store::new(self.path("store")),
            registry: registry.clone(),
            network: Network { patience: Duration::from_secs(5), ..Network::default() },
            trust: Trust::default(),
            offline: false,
            locked: false,
            project: self.path("swift.lock"),
            events: Vec::new(),
        }
    }

    pub(crate) fn installed(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path("store").join(format!("{name}.wasm"))).ok()
    }

    /// Nothing is installed, and nothing half done lies about.
    pub(crate) fn assert_untouched(&self) {
        let store = Store::new(self.path("store"));
        assert_eq!(store.installed().unwrap(), []);
        let files = |folder: &Path| {
            let entries =
                std::fs::read_dir(folder).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
            let names = entries.into_iter().filter(|entry| entry.path().is_file()).map(|entry| entry.path());
            names.collect::<Vec<_>>()
        };
        assert_eq!(files(&self.path("store")), Vec::<PathBuf>::new());
        assert_eq!(files(&self.path("store/.store/components")), Vec::<PathBuf>::new());
    }
}

/// Somebody with a store, a project and opinions.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) network: Network,
    pub(crate) trust: Trust,
    pub(crate) offline: bool,
    pub(crate) locked: bool,
    pub(crate) project: PathBuf,
    pub(crate) events: Vec<Event>,
}

impl User {
    pub(crate) fn session<T>(&mut self, work: impl FnOnce(&mut Session<'_>) -> T) -> T {
        let events = &mut self.events;
        work(&mut Session {
            store: self.store.clone(),
            client: Client::new(&self.network).unwrap(),
            registry: Some(self.registry.clone()),
            trust: self.trust.clone(),
            offline: self.offline,
            project: self.project.clone(),
            locked: self.locked,
            observer: &mut |event| events.push(event),
        })
    }

    pub(crate) fn add(&mut self, references: &[&str]) -> Result<Vec<Change>, RegistryError> {
        let references: Vec<Reference> = references.iter().map(|text| Reference::parse(text).unwrap()).collect();
        self.session(|session| session.add(&references))
    }

    pub(crate) fn notes(&self) -> Vec<&str> {
        let note = |event: &'_ Event| matches!(event, Event::Note(_));
        self.events
            .iter()
            .filter(|event| note(event))
            .map(|event| if let Event::Note(text) = event { text.as_str() } else { "" })
            .collect()
    }
}

/// `name version` of every change that changed something.
pub(crate) fn shown(changes: &[Change]) -> Vec<String> {
    let shown = |change: &Change| {
        let version = |version: Option<String>| version.unwrap_or_else(|| "-".into());
        let before = version(change.before.as_ref().map(ToString::to_string));
        let after = version(change.after.as_ref().map(|entry| entry.version.to_string()));
        format!("{} {before} {after}", change.name)
    };
    changes.iter().filter(|change| change.changed).map(shown).collect()
}

/// `docker-registry` on this machine; ends with the value.
pub(crate) struct Server {
    child: Child,
    pub(crate) host: String,
    pub(crate) folder: tempfile::TempDir,
}

/// How a registry is run.
#[derive(Default, Clone)]
pub(crate) struct Options {
    /// A line of an htpasswd file.
    pub(crate) login: Option<&'static str>,
    /// Certificate and key, PEM.
    pub(crate) tls: Option<(String, String)>,
}

impl Server {
    /// A registry, or nothing where the program is not there and need not be.
    pub(crate) fn start(options: &Options) -> Option<Self> {
        let tools = std::env::var_os("SWIFT_TEST_TOOLS").map(PathBuf::from);
        let program = tools
            .map(|tools| tools.join("docker-registry/usr/bin/docker-registry"))
            .filter(|program| program.is_file());
        let Some(program) = program else {
            assert!(std::env::var_os("CI").is_none(), "docker-registry is missing: run cargo xtask test");
            eprintln!("skipped: docker-registry is missing, run cargo xtask test");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("localhost:{port}");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            at("data").display()
        );
        if let Some((certificate, key)) = &options.tls {
            std::fs::write(at("certificate.pem"), certificate).unwrap();
            std::fs::write(at("key.pem"), key).unwrap();
            config += &format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                at("certificate.pem").display(),
                at("key.pem").display()
            );
        }
        if let Some(login) = options.login {
            std::fs::write(at("htpasswd"), login).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", at("htpasswd").display());
        }
        std::fs::write(at("config.yml"), config).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg(at("config.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().unwrap(), host, folder };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("docker-registry does not listen");
    }

    pub(crate) fn registry(&self) -> Registry {
        Registry::parse(&format!("{}/plugins", self.host)).unwrap()
    }

    /// The file of a blob in the registry's storage.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.folder.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{digest}/data", &digest[..2]))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Stands before a registry and cuts every connection after so many bytes.
pub(crate) struct Cutter {
    pub(crate) host: String,
    /// Bytes that a connection may bring; 0 is none at all.
    pub(crate) limit: Arc<AtomicU64>,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) brought: Arc<AtomicU64>,
}

impl Cutter {
    pub(crate) fn before(server: &Server, limit: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("localhost:{}", listener.local_addr().unwrap().port());
        let behind = server.host.replace("localhost", "127.0.0.1");
        let (limit, connections, brought) =
            (Arc::new(AtomicU64::new(limit)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let cutter = Self { host, limit: limit.clone(), connections: connections.clone(), brought: brought.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (behind, limit, brought) = (behind.clone(), limit.load(Ordering::SeqCst), brought.clone());
                std::thread::spawn(move || pass(client, &behind, limit, &brought));
            }
        });
        cutter
    }
}

fn pass(client: TcpStream, behind: &str, limit: u64, brought: &AtomicU64) -> Option<()> {
    let server = TcpStream::connect(behind).ok()?;
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let (mut left, mut buffer) = (limit, [0; 4096]);
    let (mut server, mut client) = (server, client);
    while left > 0 {
        let count = server.read(&mut buffer).ok().filter(|count| *count > 0)?;
        let count = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        client.write_all(&buffer[..count]).ok()?;
        brought.fetch_add(count as u64, Ordering::SeqCst);
        left -= count as u64;
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    server.shutdown(std::net::Shutdown::Both).ok()
}

/// A request as a server of a test sees it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

/// What it answers.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A server without TLS that answers as it is told.
pub(crate) struct Fake {
    pub(crate) host: String,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    pub(crate) fn new(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (seen, answer, stopped) = (asked.clone(), Arc::new(answer), AtomicBool::new(false));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || serve(&stream, &seen, &*answer));
            }
        });
        Self { host, asked }
    }

    pub(crate) fn registry(&self) -> Registry {
        Registry::parse(&format!("{}/plugins", self.host)).unwrap()
    }

    /// Every request with this in its path.
    pub(crate) fn asked_for(&self, part: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.path.contains(part)).cloned().collect()
    }
}

fn serve(stream: &TcpStream, seen: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Answer) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = [0; 1];
    stream.peek(&mut first).ok()?;
    if !first[0].is_ascii_uppercase() {
        // A greeting of TLS: this server speaks none.
        (&*stream).write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").ok()?;
        return None;
    }
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let asked = Asked { path, headers };
    seen.lock().unwrap().push(asked.clone());
    let Answer { status, headers, body } = answer(&asked);
    let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    (&*stream).write_all(format!("{head}\r\n").as_bytes()).ok()?;
    (&*stream).write_all(&body).ok()?;
    (&*stream).flush().ok()
}
