//! A real OCI registry, Debian's `docker-registry`: publishing, installing, logging in, TLS, damage, and connections that end.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use swift_registry::{Client, Event, Lock, Network, Registry, RegistryError, publish};

use crate::support::{Cutter, Options, Place, Server, bare, component, of_the_future, shown, sized};

/// `secret`, as bcrypt has it.
const LOGIN: &str = "author:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

fn published(
    place: &Place,
    registry: &Registry,
    network: &Network,
    bytes: &[u8],
) -> Result<swift_registry::Publication, RegistryError> {
    let file = place.write("made.wasm", bytes);
    publish(&file, None, registry, &Client::new(network)?)
}

fn get(url: &str, accept: &str) -> (String, Value) {
    let mut response = ureq::get(url).header("accept", accept).call().unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap())
}

#[test]
fn published_in_the_standard_form_found_and_installed() {
    let Some(server) = Server::start(&Options::default()) else { return };
    let (place, registry, network) = (Place::new(), server.registry(), Network::default());
    let bytes = component("polite", "0.1.0");
    let publication = published(&place, &registry, &network, &bytes).unwrap();
    assert!(published(&place, &registry, &network, &bytes).unwrap().already);
    let error = published(&place, &registry, &network, &sized("polite", "0.1.0", 9)).unwrap_err();
    assert!(matches!(error, RegistryError::Published { .. }), "{error}");
    published(&place, &registry, &network, &of_the_future("polite", "0.2.0")).unwrap_err();

    // What other tools for Wasm in OCI registries look for.
    let base = format!("http://{}/v2/plugins/polite", server.host);
    let (kind, manifest) = get(&format!("{base}/manifests/0.1.0"), "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(kind, "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["mediaType"], kind);
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    let digest = format!("sha256:{}", publication.digest);
    assert_eq!(manifest["layers"], json!([{"mediaType": "application/wasm", "digest": digest, "size": bytes.len()}]));
    let annotations = json!({"org.opencontainers.image.title": "polite", "org.opencontainers.image.version": "0.1.0",
        "org.opencontainers.image.description": "says polite", "org.opencontainers.image.licenses": "MIT"});
    assert_eq!(manifest["annotations"], annotations);
    let (_, config) = get(&format!("{base}/blobs/{}", manifest["config"]["digest"].as_str().unwrap()), "*/*");
    assert_eq!((&config["architecture"], &config["os"]), (&json!("wasm"), &json!("wasip2")));
    assert_eq!(config["layerDigests"], json!([digest]));
    assert_eq!(config["component"]["exports"], json!(["swift:model/adapter@0.1.0"]));

    let mut user = place.user(&registry);
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
    assert_eq!(place.installed("polite").unwrap(), bytes);
    let (found, _) = user.session(|session| session.search("polite")).unwrap();
    assert_eq!(found[0].newest.as_ref().unwrap().summary, "says polite");
    let reference = swift_registry::Reference::parse("polite").unwrap();
    let info = user.session(|session| session.info(&reference)).unwrap();
    assert_eq!((info[0].1.len(), info[0].2.license.as_deref()), (1, Some("MIT")));

    published(&place, &registry, &network, &component("polite", "0.1.1")).unwrap();
    user.session(|session| session.write_lock()).unwrap();
    assert_eq!(shown(&user.session(|session| session.update(&[])).unwrap()), ["polite 0.1.0 0.1.1"]);
    let lock = Lock::load(&place.path("swift.lock")).unwrap().unwrap();
    assert_eq!(lock.get("polite").unwrap().source.to_string(), format!("oci://{}/plugins/polite", server.host));

    // Without the network: what was fetched before, and nothing else.
    drop(server);
    user.offline = true;
    assert_eq!(shown(&user.add(&["polite@0.1.0"]).unwrap()), ["polite 0.1.1 0.1.0"]);
    for absent in ["polite@0.3", "absent"] {
        let error = user.add(&[absent]).unwrap_err();
        assert!(matches!(error, RegistryError::Offline { .. } | RegistryError::NoVersion { .. }), "{error}");
    }
    user.offline = false;
    let error = user.add(&["polite"]).unwrap_err();
    assert!(matches!(error, RegistryError::Network { .. }) && error.hint().contains("--offline"), "{error}");
}

#[test]
fn what_others_pushed_without_our_notes_is_installed() {
    let Some(server) = Server::start(&Options::default()) else { return };
    let bytes = bare();
    let base = format!("http://{}/v2/their/polite", server.host);
    let push = |bytes: &[u8]| {
        let digest = sha256(bytes);
        let start = ureq::post(format!("{base}/blobs/uploads/")).send_empty().unwrap();
        let location = start.headers()["location"].to_str().unwrap().to_owned();
        ureq::put(format!("{location}&digest={digest}"))
            .header("content-type", "application/octet-stream")
            .send(bytes)
            .unwrap();
        digest
    };
    let digest = push(&bytes);
    // As oci-wasm writes it.
    let config = json!({"created": "2026-05-04T10:11:12.123456789Z", "author": null, "architecture": "wasm", "os": "wasip2",
        "layerDigests": [digest], "component": {"exports": ["swift:model/adapter@0.1.0"], "imports": ["swift:model/graph@0.1.0"], "target": null}});
    let config = config.to_string();
    let config_digest = push(config.as_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "application/wasm", "digest": digest, "size": bytes.len()}]});
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    for tag in ["0.3.0", "latest"] {
        ureq::put(format!("{base}/manifests/{tag}"))
            .header("content-type", media_type)
            .send(manifest.to_string())
            .unwrap();
    }
    let place = Place::new();
    let mut user = place.user(&server.registry());
    let repository = format!("oci://{}/their/polite", server.host);
    assert_eq!(shown(&user.add(&[&repository]).unwrap()), ["polite - 0.3.0"]);
    assert_eq!(place.installed("polite").unwrap(), bytes);
    // A tag that may move is pinned by the digest of its manifest.
    let changes = user.add(&[&format!("{repository}:latest")]).unwrap();
    let entry = changes[0].after.as_ref().unwrap();
    let pinned = format!("{repository}@{}", sha256(manifest.to_string().as_bytes()));
    assert_eq!(entry.source.to_string(), pinned);
    assert_eq!(shown(&user.add(&[&pinned]).unwrap()), Vec::<String>::new());
    for missing in
        [format!("{repository}:absent"), format!("{repository}@sha256:{}", "0".repeat(64)), format!("{repository}@0.4")]
    {
        let error = user.add(&[&missing]).unwrap_err();
        assert!(matches!(error, RegistryError::NoVersion { .. }), "{error}");
    }
    let error = user.add(&["polite"]).unwrap_err();
    assert!(matches!(error, RegistryError::NoPlugin { .. }), "{error}");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[test]
fn a_password_where_the_registry_wants_one() {
    let Some(server) = Server::start(&Options { login: Some(LOGIN), ..Options::default() }) else { return };
    let (place, registry) = (Place::new(), server.registry());
    let bytes = component("polite", "0.1.0");
    let login =
        |password: &str| Network { login: Some(format!("{}=author:{password}", server.host)), ..Network::default() };
    for network in [
        Network::default(),
        login("wrong"),
        Network { login: Some("other.io=author:secret".into()), ..Network::default() },
    ] {
        let error = published(&place, &registry, &network, &bytes).unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }) && error.hint().contains("docker login"), "{error}");
    }
    published(&place, &registry, &login("secret"), &bytes).unwrap();
    let mut user = place.user(&registry);
    assert!(matches!(user.add(&["polite"]).unwrap_err(), RegistryError::Denied { .. }));
    place.assert_untouched();
    // As `docker login` writes it.
    let config = json!({"auths": {server.host.clone(): {"auth": "YXV0aG9yOnNlY3JldA=="}}});
    user.network.docker_config = Some(place.write("docker/config.json", config.to_string().as_bytes()));
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
}

#[test]
fn encrypted_where_the_certificate_is_believed() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let Some(server) = Server::start(&Options { tls: Some((certificate.clone(), key)), ..Options::default() }) else {
        return;
    };
    let place = Place::new();
    let bytes = component("polite", "0.1.0");
    let error = published(&place, &server.registry(), &Network::default(), &bytes).unwrap_err();
    assert!(matches!(&error, RegistryError::Network { what, .. } if what.contains("certificate")), "{error}");
    let network = Network { certificates: Some(place.write("ca.pem", certificate.as_bytes())), ..Network::default() };
    published(&place, &server.registry(), &network, &bytes).unwrap();
    let mut user = place.user(&server.registry());
    user.network = network;
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
}

#[test]
fn a_tampered_blob_is_not_installed() {
    let Some(server) = Server::start(&Options::default()) else { return };
    let (place, registry) = (Place::new(), server.registry());
    let publication = published(&place, &registry, &Network::default(), &component("polite", "0.1.0")).unwrap();
    let blob = server.blob(&publication.digest);
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
    let mut user = place.user(&registry);
    let error = user.add(&["polite"]).unwrap_err();
    assert!(matches!(&error, RegistryError::Digest { expected, .. } if *expected == publication.digest), "{error}");
    assert!(error.to_string().contains("was changed or damaged"), "{error}");
    place.assert_untouched();
    assert_eq!(std::fs::read_dir(place.path("store/.store/partial")).unwrap().count(), 0, "the damaged bytes are gone");
    // Truncated, it ends early again and again.
    std::fs::write(&blob, &bytes[..middle]).unwrap();
    assert!(user.add(&["polite"]).is_err());
    place.assert_untouched();
    bytes[middle] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
}

#[test]
fn a_download_goes_on_where_it_stopped() {
    let Some(server) = Server::start(&Options::default()) else { return };
    let place = Place::new();
    let bytes = sized("polite", "0.1.0", 4 << 20);
    published(&place, &server.registry(), &Network::default(), &bytes).unwrap();

    // Each connection ends after a third: it takes several, and no byte comes twice.
    let cutter = Cutter::before(&server, 1_500_000);
    let registry = Registry::parse(&format!("{}/plugins", cutter.host)).unwrap();
    let mut user = place.user(&registry);
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
    assert_eq!(place.installed("polite").unwrap(), bytes);
    assert!(cutter.connections.load(Ordering::SeqCst) >= 4);
    // What was in flight when a connection was cut comes twice, no more.
    assert!(cutter.brought.load(Ordering::SeqCst) < bytes.len() as u64 * 3 / 2);
    let done: Vec<u64> = user
        .events
        .iter()
        .filter_map(|event| if let Event::Fetching { done, .. } = event { Some(*done) } else { None })
        .collect();
    assert!(done.is_sorted() && done.last() == Some(&(bytes.len() as u64)), "{done:?}");

    // The registry dies; a later run goes on.
    let place = Place::new();
    let mut user = place.user(&registry);
    let limit = cutter.limit.clone();
    let mut seen = 0;
    let error = {
        let mut observer = |event| {
            if let Event::Fetching { done, .. } = event
                && done > 0
            {
                seen = done;
                limit.store(0, Ordering::SeqCst);
            }
        };
        let mut session = swift_registry::Session {
            store: user.store.clone(),
            client: Client::new(&user.network).unwrap(),
            registry: Some(registry.clone()),
            trust: user.trust.clone(),
            offline: false,
            project: user.project.clone(),
            locked: false,
            observer: &mut observer,
        };
        session.add(&[swift_registry::Reference::parse("polite").unwrap()]).unwrap_err()
    };
    assert!(matches!(&error, RegistryError::Interrupted { done, .. } if *done == seen), "{error}");
    assert!(error.hint().contains("goes on where this one stopped"));
    place.assert_untouched();
    assert!(seen > 500_000, "{seen}");
    limit.store(u64::MAX, Ordering::SeqCst);
    let before = cutter.brought.load(Ordering::SeqCst);
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
    assert_eq!(place.installed("polite").unwrap(), bytes);
    let brought = cutter.brought.load(Ordering::SeqCst) - before;
    assert!(brought < bytes.len() as u64 - seen + 100_000, "{brought} of {}, {seen} were there", bytes.len());

    // A stopped download that was damaged meanwhile is noticed and made again.
    let place = Place::new();
    let mut user = place.user(&registry);
    let digest = sha256(&bytes).replace("sha256:", "");
    place.write(&format!("store/.store/partial/{digest}"), &[7; 1000]);
    let error = user.add(&["polite"]).unwrap_err();
    assert!(matches!(&error, RegistryError::Digest { what, .. } if what.contains("partly fetched before")), "{error}");
    place.assert_untouched();
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
}

#[test]
fn many_at_once_leave_one_whole_store() {
    let Some(server) = Server::start(&Options::default()) else { return };
    let (place, registry) = (Place::new(), server.registry());
    for (name, version) in [("a", "0.1.0"), ("a", "0.2.0"), ("b", "0.1.0"), ("c", "0.1.0")] {
        published(&place, &registry, &Network::default(), &component(name, version)).unwrap();
    }
    let waited = std::thread::scope(|scope| {
        let threads: Vec<_> = ["a@0.1.0", "a@0.2.0", "b", "c", "a", "b", "c", "a@0.1.0"]
            .into_iter()
            .map(|reference| {
                let mut user = place.user(&registry);
                scope.spawn(move || {
                    user.add(&[reference]).unwrap();
                    user.events.contains(&Event::Waiting)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|waited| *waited).count()
    });
    assert!(waited > 0, "nobody waited: nothing was tested");
    let mut user = place.user(&registry);
    let health = user.session(|session| session.verify()).unwrap();
    assert_eq!(health.iter().map(|health| health.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(health.iter().all(|health| health.problems.is_empty()), "{health:?}");
    let hidden = std::fs::read_dir(place.path("store"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 1, "no temporary file is left");
}
