//! Folders and files as sources; `swift.lock`; contracts; what runs ask.

use semver::Version;
use swift_registry::{Lock, RegistryError, Used, check_run};

use crate::support::{Place, bare, component, of_the_future, shown};

#[test]
fn a_plugin_comes_moves_on_and_goes() {
    let place = Place::new();
    let registry =
        place.registry(&[("polite", "0.1.0"), ("polite", "0.1.3"), ("polite", "0.2.0-rc.1"), ("other", "1.0.0")]);
    let mut user = place.user(&registry);
    assert_eq!(shown(&user.add(&["polite@0.1.0", "other"]).unwrap()), ["polite - 0.1.0", "other - 1.0.0"]);
    assert_eq!(place.installed("polite").unwrap(), component("polite", "0.1.0"));
    let partial = std::fs::read_dir(place.path("store/.store/partial")).unwrap();
    assert_eq!(partial.count(), 0, "nothing was fetched from afar");
    // A whole version is held.
    assert_eq!(shown(&user.session(|session| session.update(&[])).unwrap()), Vec::<String>::new());
    assert_eq!(shown(&user.add(&["polite@0.1"]).unwrap()), ["polite 0.1.0 0.1.3"]);
    place.registry(&[("polite", "0.1.4"), ("polite", "0.2.0")]);
    assert_eq!(shown(&user.session(|session| session.update(&[])).unwrap()), ["polite 0.1.3 0.1.4"]);
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite 0.1.4 0.2.0"]);
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), Vec::<String>::new());

    let (found, complete) = user.session(|session| session.search("POLI")).unwrap();
    assert_eq!((found.len(), complete), (1, true));
    let newest = found[0].newest.as_ref().unwrap();
    assert_eq!((newest.version.clone().unwrap(), newest.summary.as_str()), (Version::new(0, 2, 0), "says polite"));
    let all = user.session(|session| session.search("")).unwrap().0;
    assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["other", "polite"]);

    let error = user.session(|session| session.remove(&["polite".into(), "absent".into()], false)).unwrap_err();
    assert!(matches!(&error, RegistryError::NotInstalled { name, .. } if name == "absent"), "{error}");
    assert!(place.installed("polite").is_some());
    assert_eq!(shown(&user.session(|session| session.remove(&["polite".into()], false)).unwrap()), ["polite 0.2.0 -"]);
    assert!(place.installed("polite").is_none() && place.installed("other").is_some());
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    let place = Place::new();
    let mut user = place.user(&place.registry(&[("polite", "0.1.0"), ("polite", "0.2.0")]));
    let error = user.add(&["absent"]).unwrap_err();
    assert!(error.to_string().ends_with("has no plugin `absent`"), "{error}");
    let error = user.add(&["polite@3"]).unwrap_err();
    assert!(error.to_string().ends_with("has no `polite` ^3"), "{error}");
    assert_eq!(error.hint(), "there are 0.2.0, 0.1.0");
    user.session(|session| {
        session.registry = None;
        let error = session.add(&[swift_registry::Reference::parse("polite").unwrap()]).unwrap_err();
        assert!(matches!(error, RegistryError::NoRegistry) && error.hint().contains("--registry"), "{error}");
    });
    place.assert_untouched();
}

#[test]
fn a_newer_contract_is_passed_over_or_said() {
    let place = Place::new();
    let mut user = place.user(&place.registry(&[("polite", "0.3.1")]));
    place.write("registry/polite/0.4.0.wasm", &of_the_future("polite", "0.4.0"));
    let error = user.add(&["polite@0.4.0"]).unwrap_err();
    assert_eq!(error.to_string(), "`polite` 0.4.0 needs swift:model 0.9, this swift has 0.1");
    assert_eq!(error.hint(), "use polite@0.3.1 or update swift");
    place.assert_untouched();
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.3.1"]);
    assert_eq!(user.notes(), ["`polite` 0.4.0 needs swift:model@0.9.0, which this swift does not have: 0.3.1 is used"]);
    let file = place.write("new.wasm", &of_the_future("polite", "0.4.0"));
    let error = user.add(&[file.to_str().unwrap()]).unwrap_err();
    assert!(matches!(error, RegistryError::Component(_)), "{error}");
}

#[test]
fn a_component_must_be_what_it_is_published_as() {
    let place = Place::new();
    let mut user = place.user(&place.registry(&[]));
    for (path, content, part) in [
        (
            "registry/polite/0.2.0.wasm",
            component("polite", "0.1.0"),
            "asked for `polite` 0.2.0, but the component calls itself `polite` 0.1.0",
        ),
        ("registry/polite/0.2.0.wasm", component("rude", "0.2.0"), "calls itself `rude` 0.2.0"),
        ("registry/polite/0.2.0.wasm", b"not a component".to_vec(), "not a plugin"),
        ("registry/polite/0.2.0.wasm", component("polite", "0.2.0")[..20_000].to_vec(), "not a plugin"),
        ("registry/polite/0.2.0.wasm", component("../../polite", "0.2.0"), "`../../polite` is no name"),
    ] {
        place.write(path, &content);
        let error = user.add(&["polite"]).unwrap_err();
        assert!(error.to_string().contains(part) && !error.hint().is_empty(), "{error}");
        place.assert_untouched();
    }
    // One that says nothing is what it was asked for as.
    place.write("registry/polite/0.2.0.wasm", &bare());
    assert_eq!(shown(&user.add(&["polite"]).unwrap()), ["polite - 0.2.0"]);
}

#[test]
fn files_and_folders_of_components() {
    let place = Place::new();
    let mut user = place.user(&place.registry(&[]));
    let file = place.write("made/any.wasm", &component("polite", "0.1.0"));
    place.write("made/other.wasm", &component("other", "0.2.0"));
    place.write("made/notes.txt", b"");
    let folder = place.path("made");
    assert_eq!(shown(&user.add(&[folder.to_str().unwrap()]).unwrap()), ["polite - 0.1.0", "other - 0.2.0"]);
    place.write("made/any.wasm", &component("polite", "0.1.1"));
    assert_eq!(shown(&user.session(|session| session.update(&[])).unwrap()), ["polite 0.1.0 0.1.1"]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(shown(&user.session(|session| session.update(&[])).unwrap()), Vec::<String>::new());
    assert!(user.notes()[0].contains("which is gone"), "{:?}", user.notes());
    let bad = place.write("Bad Name.wasm", &bare());
    assert!(user.add(&[bad.to_str().unwrap()]).unwrap_err().to_string().contains("names no plugin"));
    let empty = place.path("registry");
    assert!(user.add(&[empty.to_str().unwrap()]).is_err());
}

#[test]
fn the_lock_pins_follows_and_brings_back() {
    let place = Place::new();
    let registry = place.registry(&[("polite", "0.1.0"), ("other", "1.0.0")]);
    let mut user = place.user(&registry);
    let error = user.session(|session| session.add_locked()).unwrap_err();
    assert!(matches!(error, RegistryError::NoLock { .. }), "{error}");
    user.add(&["polite"]).unwrap();
    assert!(!user.project.exists(), "nobody asked for a lock");
    user.session(|session| session.write_lock()).unwrap();
    let text = std::fs::read_to_string(&user.project).unwrap();
    assert!(
        text.contains("source = \"folder:registry\"") && text.contains("contracts = [\"swift:model@0.1.0\"]"),
        "{text}"
    );

    user.add(&["other"]).unwrap();
    let lock = || Lock::load(&place.path("swift.lock")).unwrap().unwrap();
    assert_eq!(lock().entries().map(|entry| entry.name.clone()).collect::<Vec<_>>(), ["other", "polite"]);
    place.registry(&[("polite", "0.2.0")]);
    user.locked = true;
    let error = user.session(|session| session.update(&[])).unwrap_err();
    assert!(matches!(error, RegistryError::Locked { .. }), "{error}");
    assert_eq!(place.installed("polite").unwrap(), component("polite", "0.1.0"));
    user.locked = false;
    user.session(|session| session.update(&["polite".into()])).unwrap();
    assert_eq!(lock().get("polite").unwrap().version, Version::new(0, 2, 0));
    user.session(|session| session.remove(&["other".into()], false)).unwrap();
    assert!(lock().get("other").is_none());

    // Another machine: the same bytes, or nothing.
    let mut friend = user.clone();
    friend.store = swift_registry::Store::new(place.path("friend"));
    friend.locked = true;
    assert_eq!(shown(&friend.session(|session| session.add_locked()).unwrap()), ["polite - 0.2.0"]);
    place.write("registry/polite/0.2.0.wasm", &crate::support::sized("polite", "0.2.0", 10));
    let mut stranger = user.clone();
    stranger.store = swift_registry::Store::new(place.path("stranger"));
    let error = stranger.session(|session| session.add_locked()).unwrap_err();
    assert!(matches!(error, RegistryError::LockDiffers { .. }), "{error}");
    assert_eq!(stranger.store.installed().unwrap(), []);
}

#[test]
fn a_run_refuses_other_bytes() {
    let place = Place::new();
    let mut user = place.user(&place.registry(&[("polite", "0.1.0"), ("polite", "0.2.0")]));
    user.add(&["polite@0.1.0"]).unwrap();
    user.session(|session| session.write_lock()).unwrap();
    let store = place.path("store");
    let (path, elsewhere) = (store.join("polite.wasm"), place.path("mine.wasm"));
    let version = Version::new(0, 1, 0);
    let lock = place.path("swift.lock");
    let run = |digest: &str, path: Option<&std::path::Path>| {
        check_run(&lock, &[Used { name: "polite", version: &version, digest, path }])
    };
    let digest = Lock::load(&lock).unwrap().unwrap().get("polite").unwrap().digest.clone();
    run(&digest, Some(&path)).unwrap();
    let error = run(&"0".repeat(64), Some(&elsewhere)).unwrap_err();
    assert!(error.to_string().starts_with("swift.lock has `polite` 0.1.0 (sha256:"), "{error}");
    std::fs::remove_file(&lock).unwrap();
    let error = run(&"0".repeat(64), Some(&path)).unwrap_err();
    assert!(matches!(error, RegistryError::Tampered { .. }), "{error}");
    assert!(error.hint().contains("swift plugin add polite"));
    // What nobody installed is the user's own choice.
    run(&"0".repeat(64), Some(&elsewhere)).unwrap();
    run(&"0".repeat(64), None).unwrap();
    run(&"0".repeat(64), Some(&store.join("my-own.wasm"))).unwrap();

    assert!(user.session(|session| session.verify()).unwrap().iter().all(|health| health.problems.is_empty()));
    std::fs::write(&path, component("polite", "0.1.1")).unwrap();
    let health = user.session(|session| session.verify()).unwrap();
    assert!(health[0].problems[0].contains("not what was installed"), "{health:?}");
    let error = user.session(|session| session.write_lock()).unwrap_err();
    assert!(matches!(error, RegistryError::Tampered { .. }), "{error}");
    // Adding it again repairs it, from what was fetched.
    user.add(&["polite@0.1.0"]).unwrap();
    assert!(user.session(|session| session.verify()).unwrap().iter().all(|health| health.problems.is_empty()));
}

#[test]
fn a_file_of_the_users_own_stays() {
    let place = Place::new();
    let mut user = place.user(&place.registry(&[("polite", "0.1.0")]));
    place.write("store/polite.wasm", &component("polite", "9.0.0"));
    let error = user.add(&["polite"]).unwrap_err();
    assert!(matches!(error, RegistryError::Occupied { .. }), "{error}");
    assert_eq!(place.installed("polite").unwrap(), component("polite", "9.0.0"));
}
