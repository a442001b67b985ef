//! Registries that mean harm, or are broken: every answer ends in one clear error, and nothing is installed.

use serde_json::{Value, json};
use sha2::Digest as _;
use swift_registry::RegistryError;

use crate::support::{Answer, Asked, Fake, Place, component, shown};

fn sha256(bytes: &[u8]) -> String {
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// What a good registry with one plugin answers, by path.
#[derive(Clone)]
struct Good {
    bytes: Vec<u8>,
    config: String,
    manifest: Value,
}

impl Good {
    fn new() -> Self {
        let bytes = component("polite", "0.1.0");
        let config =
            json!({"created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2", "layerDigests": [],
            "component": {"exports": ["swift:model/adapter@0.1.0"], "imports": []}})
            .to_string();
        let manifest = json!({"schemaVersion": 2,
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": sha256(config.as_bytes()), "size": config.len()},
            "layers": [{"mediaType": "application/wasm", "digest": sha256(&bytes), "size": bytes.len()}]});
        Self { bytes, config, manifest }
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let path = &asked.path;
        if path.contains("/tags/list") {
            Answer::new(200, r#"{"name": "plugins/polite", "tags": ["0.1.0", "../../evil", "latest", "1.0"]}"#)
        } else if path.contains("/manifests/") {
            Answer::new(200, self.manifest.to_string())
        } else if path.ends_with(&sha256(&self.bytes)) {
            Answer::new(200, self.bytes.clone())
        } else if path.ends_with(&sha256(self.config.as_bytes())) {
            Answer::new(200, self.config.clone())
        } else {
            Answer::new(404, "")
        }
    }
}

fn fails(fake: &Fake) -> RegistryError {
    let place = Place::new();
    let error = place.user(&fake.registry()).add(&["polite"]).unwrap_err();
    place.assert_untouched();
    assert!(!error.hint().is_empty());
    error
}

#[test]
fn a_good_answer_is_taken() {
    let good = Good::new();
    let fake = Fake::new(move |asked| good.answer(asked));
    let place = Place::new();
    assert_eq!(shown(&place.user(&fake.registry()).add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
}

#[test]
fn every_wrong_answer_is_one_clear_error() {
    type Change = fn(&mut Good);
    let cases: [(Change, &str); 9] = [
        (|good| good.manifest = json!({"schemaVersion": 2, "manifests": []}), "list of images"),
        (
            |good| good.manifest["config"]["mediaType"] = json!("application/vnd.oci.image.config.v1+json"),
            "vnd.oci.image.config",
        ),
        (
            |good| good.manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip"),
            "tar+gzip",
        ),
        (|good| good.manifest["layers"] = json!([]), "0 layers"),
        (|good| good.manifest["layers"][0]["size"] = json!(1_u64 << 50), "at most 268435456 are taken"),
        (|good| good.manifest["layers"][0]["size"] = json!(100), "more than the 100 bytes"),
        (
            |good| good.manifest["config"]["digest"] = json!(format!("sha256:{}", "0".repeat(64))),
            "names a blob that is not there",
        ),
        (|good| good.manifest["padding"] = json!("x".repeat(2 << 20)), "more than 1048576 bytes"),
        (
            |good| {
                good.config = good.config.replace("swift:model/adapter@0.1.0", "swift:model/adapter@0.7.0");
                good.manifest["config"]["digest"] = json!(sha256(good.config.as_bytes()));
            },
            "needs swift:model 0.7, this swift has 0.1",
        ),
    ];
    for (change, part) in cases {
        let mut good = Good::new();
        change(&mut good);
        let error = fails(&Fake::new(move |asked| good.answer(asked))).to_string();
        assert!(error.contains(part), "{error}");
    }
    let answers: [(&str, u16, &str, &str); 6] = [
        (
            "/tags/",
            500,
            r#"{"errors":[{"code":"UNKNOWN","message":"on \u001b[31mfire"}]}"#,
            "answered 500 to plugins/polite: UNKNOWN on [31mfire",
        ),
        ("/tags/", 200, "<html>", "its list cannot be read"),
        ("/tags/", 200, r#"{"tags": 3}"#, "its list cannot be read"),
        ("/tags/", 404, "", "has no plugin `polite`"),
        ("/manifests/", 404, "", "has no `polite` 0.1.0"),
        ("/manifests/", 200, "{", "its manifest is damaged"),
    ];
    for (path, status, body, part) in answers {
        let good = Good::new();
        let fake = Fake::new(
            move |asked| if asked.path.contains(path) { Answer::new(status, body) } else { good.answer(asked) },
        );
        let error = fails(&fake).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_manifest_must_have_the_digest_that_was_asked_for() {
    let good = Good::new();
    let fake =
        Fake::new(move |asked| good.answer(asked).with("Docker-Content-Digest", format!("sha256:{}", "1".repeat(64))));
    assert!(matches!(fails(&fake), RegistryError::Digest { .. }));
    let good = Good::new();
    let fake = Fake::new(move |asked| good.answer(asked));
    let place = Place::new();
    let reference = format!("oci://{}/plugins/polite@sha256:{}", fake.host, "2".repeat(64));
    let error = place.user(&fake.registry()).add(&[&reference]).unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
}

#[test]
fn lists_without_end_end() {
    let fake = Fake::new(|asked| {
        let next = asked.path.len();
        Answer::new(200, r#"{"tags":["0.1.0"]}"#)
            .with("Link", format!("</v2/plugins/polite/tags/list?last={next}>; rel=\"next\""))
    });
    assert!(fails(&fake).to_string().contains("its list has no end"));
    assert!(fake.asked_for("/tags/").len() <= 100);
    let fake = Fake::new(|_| Answer::new(200, "x".repeat(8 << 20)));
    assert!(fails(&fake).to_string().contains("more than 4194304 bytes"));
}

#[test]
fn redirects_end_and_carry_no_password() {
    // The blob lies elsewhere, as registries in the cloud do it.
    let good = Good::new();
    let store = Fake::new({
        let good = good.clone();
        move |asked| good.answer(asked)
    });
    let elsewhere = store.host.clone();
    let fake = Fake::new(move |asked| {
        if !asked.headers.contains_key("authorization") {
            return Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        match asked.path.contains("/blobs/") {
            true => Answer::new(307, "").with("Location", format!("http://{elsewhere}{}", asked.path)),
            false => good.answer(asked),
        }
    });
    let place = Place::new();
    let mut user = place.user(&fake.registry());
    user.network.login = Some(format!("{}=me:secret", fake.host));
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
    assert_eq!(store.asked_for("/blobs/").len(), 2);
    assert!(
        store.asked_for("").iter().all(|asked| !asked.headers.contains_key("authorization")),
        "{:?}",
        store.asked_for("")
    );

    let fake = Fake::new(|asked| Answer::new(302, "").with("Location", asked.path.clone()));
    assert!(fails(&fake).to_string().contains("redirects in a circle"));
    for (location, part) in [
        ("http://registry.example/x", "without encryption"),
        ("ftp://127.0.0.1/x", "redirects to nowhere"),
        ("http://me:secret@127.0.0.1/x", "redirects to nowhere"),
        ("", "redirects to nowhere"),
    ] {
        let fake = Fake::new(move |_| Answer::new(302, "").with("Location", location));
        let error = fails(&fake).to_string();
        assert!(error.contains(part), "{location}: {error}");
    }
}

#[test]
fn tokens_are_fetched_and_used_for_their_registry_only() {
    let good = Good::new();
    let tokens = Fake::new(|asked| match asked.headers.get("authorization").map(String::as_str) {
        Some("Basic bWU6c2VjcmV0") => Answer::new(200, r#"{"token": "good-token"}"#),
        _ => Answer::new(200, r#"{"access_token": "poor-token"}"#),
    });
    let realm = tokens.host.clone();
    let fake = Fake::new(move |asked| match asked.headers.get("authorization").map(String::as_str) {
        Some("Bearer good-token") => good.answer(asked),
        _ => Answer::new(401, "").with(
            "WWW-Authenticate",
            format!(
                "Bearer realm=\"http://{realm}/token\",service=\"the service\",scope=\"repository:plugins/polite:pull\""
            ),
        ),
    });
    let error = fails(&fake);
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    let place = Place::new();
    let mut user = place.user(&fake.registry());
    user.network.login = Some(format!("{}=me:secret", fake.host));
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
    let asked = tokens.asked_for("/token");
    assert!(
        asked
            .iter()
            .all(|asked| asked.path == "/token?service=the%20service&scope=repository%3Aplugins%2Fpolite%3Apull"),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 2, "one token serves a repository");

    // Nobody sends a password without encryption because a registry says so.
    let fake = Fake::new(|_| Answer::new(401, "").with("WWW-Authenticate", "Bearer realm=\"http://tokens.example/\""));
    let place = Place::new();
    let mut user = place.user(&fake.registry());
    user.network.login = Some(format!("{}=me:secret", fake.host));
    let error = user.add(&["polite"]).unwrap_err();
    assert!(matches!(&error, RegistryError::Insecure { host } if host == "tokens.example"), "{error}");
    for token in [r#"{"token": ""}"#, r#"{"token": "a\r\nHost: x"}"#, "{}", "no"] {
        let tokens = Fake::new(move |_| Answer::new(200, token));
        let realm = tokens.host.clone();
        let fake = Fake::new(move |_| {
            Answer::new(401, "").with("WWW-Authenticate", format!("Bearer realm=\"http://{realm}/\""))
        });
        assert!(fails(&fake).to_string().contains("its token"), "{token}");
    }
}

#[test]
fn a_catalog_lists_only_names_of_its_own() {
    let good = Good::new();
    let fake = Fake::new(move |asked| match asked.path.contains("_catalog") {
        true => Answer::new(
            200,
            r#"{"repositories": ["plugins/polite", "plugins/../evil", "plugins/a/b", "other/x", "plugins/\u202eevil", "plugins/UP"]}"#,
        ),
        false => good.answer(asked),
    });
    let place = Place::new();
    let (found, complete) = place.user(&fake.registry()).session(|session| session.search("")).unwrap();
    assert_eq!((found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), complete), (vec!["polite"], true));
    let fake = Fake::new(|_| Answer::new(404, ""));
    let error = place.user(&fake.registry()).session(|session| session.search("")).unwrap_err();
    assert!(matches!(error, RegistryError::NoCatalog { .. }) && error.hint().contains("info NAME"), "{error}");
}

#[test]
fn without_encryption_only_where_the_user_says_so() {
    let good = Good::new();
    let fake = Fake::new(move |asked| good.answer(asked));
    // This machine by an address that is not the loopback's.
    let host = fake.host.replace("127.0.0.1", "0.0.0.0");
    let place = Place::new();
    let mut user = place.user(&swift_registry::Registry::parse(&format!("{host}/plugins")).unwrap());
    let error = user.add(&["polite"]).unwrap_err();
    assert!(matches!(&error, RegistryError::Insecure { host: told } if *told == host), "{error}");
    assert_eq!(error.hint(), format!("if you trust the way to it, add --insecure-registry {host}"));
    assert!(fake.asked_for("").is_empty(), "nothing was sent");
    user.network.insecure = vec![host];
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.1.0"]);
}
