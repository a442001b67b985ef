//! Signatures: trust on first use, given keys, changed signers, and what has none.

use swift_registry::{Client, Network, RegistryError, Signer, generate_keys, publish};

use crate::support::{Place, component, shown};

/// A signer with a key of its own.
fn signer(place: &Place, name: &str) -> Signer {
    let (secret, _) = generate_keys(None).unwrap();
    Signer::open(&place.write(name, secret.as_bytes()), None).unwrap()
}

fn published(place: &Place, version: &str, signer: Option<&Signer>) {
    let file = place.write("made.wasm", &component("polite", version));
    let client = Client::new(&Network::default()).unwrap();
    publish(&file, signer, &place.registry(&[]), &client).unwrap();
}

#[test]
fn the_first_key_is_remembered_and_another_is_refused() {
    let place = Place::new();
    let (ours, theirs) = (signer(&place, "ours"), signer(&place, "theirs"));
    let mut user = place.user(&place.registry(&[]));
    published(&place, "0.1.0", Some(&ours));
    let changes = user.add(&["polite"]).unwrap();
    assert_eq!(changes[0].after.as_ref().unwrap().signer.as_deref(), Some(ours.key().as_str()));

    published(&place, "0.2.0", Some(&theirs));
    let error = user.session(|session| session.update(&[])).unwrap_err();
    assert!(matches!(error, RegistryError::ChangedSigner { .. }), "{error}");
    assert!(error.to_string().contains(&ours.key()) && error.to_string().contains(&theirs.key()), "{error}");
    assert_eq!(place.installed("polite").unwrap(), component("polite", "0.1.0"));

    // Nor may the signature go away, not even after the plugin was removed.
    published(&place, "0.3.0", None);
    user.session(|session| session.remove(&["polite".into()], false)).unwrap();
    let error = user.add(&["polite@0.3.0"]).unwrap_err();
    assert!(matches!(&error, RegistryError::Unsigned { recorded: Some(key), .. } if *key == ours.key()), "{error}");
    place.assert_untouched();
    // The user decides.
    user.trust.keys = vec![theirs.key()];
    assert_eq!(shown(&user.add(&["polite@0.2.0"]).unwrap()), ["polite - 0.2.0"]);
    user.trust.keys.clear();
    assert!(user.add(&["polite@0.1.0"]).is_err(), "the new key is the one that counts");
    user.session(|session| session.remove(&["polite".into()], true)).unwrap();
    assert_eq!(shown(&user.add(&["polite@0.3.0"]).unwrap()), ["polite - 0.3.0"]);
}

#[test]
fn a_wrong_signature_is_refused_whoever_asks() {
    let place = Place::new();
    let ours = signer(&place, "ours");
    let mut user = place.user(&place.registry(&[]));
    published(&place, "0.1.0", Some(&ours));
    published(&place, "0.2.0", Some(&ours));
    let file = |version: &str, extension: &str| place.path(&format!("registry/polite/{version}.wasm{extension}"));
    let good = std::fs::read_to_string(file("0.1.0", ".minisig")).unwrap();
    for (signature, part) in [
        // A good signature of another version: no going back in time, no other name.
        (std::fs::read_to_string(file("0.2.0", ".minisig")).unwrap(), "made for other bytes"),
        (good.replace("polite@0.1.0", "polite@0.1.1"), "made for other bytes"),
        ("nonsense".into(), "no minisign signature"),
        (good.replace("trusted comment", "trusted"), "no minisign signature"),
    ] {
        std::fs::write(file("0.1.0", ".minisig"), signature).unwrap();
        let error = user.add(&["polite@0.1.0"]).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        place.assert_untouched();
    }
    // The bytes changed, the signature did not.
    std::fs::write(file("0.1.0", ".minisig"), &good).unwrap();
    std::fs::write(file("0.1.0", ""), crate::support::sized("polite", "0.1.0", 9)).unwrap();
    assert!(user.add(&["polite@0.1.0"]).unwrap_err().to_string().contains("other bytes"));
    std::fs::remove_file(file("0.2.0", ".pub")).unwrap();
    assert!(user.add(&["polite@0.2.0"]).unwrap_err().to_string().contains("--key"));
    place.assert_untouched();
    user.trust.keys = vec![ours.key()];
    assert_eq!(shown(&user.add(&["polite@0.2.0"]).unwrap()), ["polite - 0.2.0"]);
}

#[test]
fn unsigned_plugins_only_where_they_are_wanted() {
    let place = Place::new();
    let ours = signer(&place, "ours");
    let mut user = place.user(&place.registry(&[("polite", "0.1.0")]));
    user.trust.require_signed = true;
    let error = user.add(&["polite"]).unwrap_err();
    assert_eq!(error.to_string(), "`polite` 0.1.0 is not signed");
    place.assert_untouched();
    published(&place, "0.2.0", Some(&ours));
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.2.0"]);
    // A file that the user names needs no signature, unless he says so.
    let file = place.write("mine.wasm", &component("polite", "0.3.0"));
    let file = file.to_str().unwrap();
    assert!(user.add(&[file]).is_err());
    user.trust.require_signed = false;
    assert_eq!(shown(&user.add(&[file]).unwrap()), ["polite 0.2.0 0.3.0"]);
    // The lock remembers who signed, for machines that see the plugin for the first time.
    user.add(&["polite"]).unwrap();
    user.session(|session| session.write_lock()).unwrap();
    let theirs = signer(&place, "theirs");
    std::fs::remove_file(place.path("registry/polite/0.2.0.wasm.minisig")).unwrap();
    published(&place, "0.2.0", Some(&theirs));
    let mut friend = user.clone();
    friend.store = swift_registry::Store::new(place.path("friend"));
    let error = friend.session(|session| session.add_locked()).unwrap_err();
    assert!(matches!(error, RegistryError::ChangedSigner { .. }), "{error}");
}

#[test]
fn a_published_version_never_changes() {
    let place = Place::new();
    let ours = signer(&place, "ours");
    let registry = place.registry(&[]);
    let client = Client::new(&Network::default()).unwrap();
    let file = place.write("made.wasm", &component("polite", "0.1.0"));
    let first = publish(&file, None, &registry, &client).unwrap();
    assert!(!first.already);
    assert!(publish(&file, None, &registry, &client).unwrap().already);
    // A signature may still come.
    publish(&file, Some(&ours), &registry, &client).unwrap();
    place.write("made.wasm", &crate::support::sized("polite", "0.1.0", 5));
    let error = publish(&file, None, &registry, &client).unwrap_err();
    assert!(matches!(error, RegistryError::Published { .. }), "{error}");
    for (content, part) in
        [(crate::support::bare(), "carries no plugin.toml"), (component("polite", "0.1.0+x"), "cannot be a tag")]
    {
        place.write("made.wasm", &content);
        let error = publish(&file, None, &registry, &client).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
