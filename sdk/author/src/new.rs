//! `swift plugin new`: a folder that builds and whose tests pass at once.

use std::path::{Path, PathBuf};

use swift_plugin::{Kind, valid_name};

use crate::{AuthorError, Language, Result, packed};

/// Files in which a template's own name stands, as a line `name = ".."` or `"name": ".."`.
const NAMED: [&str; 4] = ["plugin.toml", "Cargo.toml", "pyproject.toml", "package.json"];

/// Makes the folder `path` with a plugin to start from, and says where it is.
///
/// # Errors
/// When the name cannot be, there is no such template, or the folder is there.
pub fn new(name: &str, kind: Kind, language: Language, path: &Path) -> Result<PathBuf> {
    if !valid_name(name) {
        let what = format!("`{}` is no name for a plugin", swift_plugin::clean(name, 80));
        let rule = "lower case letters, digits, `-` and `_`, at most 64, the first one a letter or digit";
        let hint = suggestion(name).map_or_else(|| rule.to_owned(), |better| format!("{rule}: such as `{better}`"));
        return Err(AuthorError::Name { what, hint });
    }
    let files = template(kind, language);
    if files.is_empty() {
        let offered = Language::ALL.into_iter().filter(|other| !template(kind, *other).is_empty());
        let offered = offered.map(Language::name).collect();
        return Err(AuthorError::NotOffered { kind: kind.name(), lang: language.name(), offered });
    }
    let path = std::path::absolute(path).map_err(AuthorError::io("find", path))?;
    if path.exists() {
        let hint = "choose another name, or another folder with --path";
        return Err(AuthorError::project(&path, "it is there already, and nothing is overwritten", hint));
    }
    // Made beside it and moved, so that nothing is left half done.
    let parent = path.parent().unwrap_or(&path);
    std::fs::create_dir_all(parent).map_err(AuthorError::io("make", parent))?;
    let making = parent.join(format!(".{name}.making-{}", std::process::id()));
    let made = fill(&making, name, language, &files);
    if let Err(error) = made.and_then(|()| std::fs::rename(&making, &path).map_err(AuthorError::io("make", &path))) {
        let _ = std::fs::remove_dir_all(&making);
        return Err(error);
    }
    Ok(path)
}

type File = (&'static str, &'static [u8]);

/// The files of a template; TypeScript's lie beside JavaScript's.
fn template(kind: Kind, language: Language) -> Vec<File> {
    let suffix = if language == Language::TypeScript { "-ts" } else { "" };
    packed::below(&format!("sdk/{}/template/{kind}{suffix}", language.folder())).collect()
}

fn fill(folder: &Path, name: &str, language: Language, files: &[File]) -> Result<()> {
    for (path, bytes) in files {
        // Cargo and git would take a template's own files in the repository for theirs.
        let path = path.strip_suffix(".in").unwrap_or(path);
        let file = path.rsplit('/').next().unwrap_or(path);
        let bytes = match std::str::from_utf8(bytes) {
            Ok(text) => named(text, NAMED.contains(&file), name).into_bytes(),
            Err(_) => bytes.to_vec(),
        };
        packed::write(&folder.join(path), &bytes)?;
    }
    if !files.iter().any(|(path, _)| *path == ".gitignore") {
        packed::write(&folder.join(".gitignore"), b"/build/\n/target/\n__pycache__/\nnode_modules/\n*.wasm\n")?;
    }
    packed::write_sdk(language, &folder.join("sdk"))
}

/// A template's text with the plugin's name in it: where `{{name}}` and `{{identifier}}` stand, and in a file that names the
/// package, in its first `name`.
fn named(text: &str, names_package: bool, name: &str) -> String {
    let text = text.replace("{{name}}", name).replace("{{identifier}}", &name.replace('-', "_"));
    if !names_package {
        return text;
    }
    let mut done = false;
    let line = |line: &str| {
        let (key, value) = match line.trim_start() {
            toml if toml.starts_with("name = \"") => ("name = \"", toml),
            json if json.starts_with("\"name\": \"") => ("\"name\": \"", json),
            _ => return line.to_owned(),
        };
        let end = value[key.len()..].find('"').map(|at| key.len() + at);
        match end.filter(|_| !std::mem::replace(&mut done, true)) {
            Some(end) => format!("{}{key}{name}{}", &line[..line.len() - value.len()], &value[end..]),
            None => line.to_owned(),
        }
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n") + if text.ends_with('\n') { "\n" } else { "" }
}

/// A name like `name` that can be one.
fn suggestion(name: &str) -> Option<String> {
    let better: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .take(64)
        .collect();
    let better = better.trim_matches(['-', '_']).to_owned();
    valid_name(&better).then_some(better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_are_refused_with_one_that_can() {
        for (name, better) in [("My Reward", "my-reward"), ("../Evil", "evil"), ("a.b", "a-b"), ("Polite!", "polite")] {
            let error = new(name, Kind::Reward, Language::Rust, Path::new("/nowhere/x")).unwrap_err();
            assert!(error.to_string().contains("is no name for a plugin"), "{error}");
            assert!(error.hint().ends_with(&format!("such as `{better}`")), "{}", error.hint());
        }
        assert_eq!(suggestion("..."), None);
    }

    #[test]
    fn the_name_goes_where_the_package_is_named() {
        assert_eq!(named("name = \"x\"\nother = \"x\"\n", true, "y"), "name = \"y\"\nother = \"x\"\n");
        assert_eq!(
            named("[package]\n name = \"x\" # c\nname = \"z\"", true, "y"),
            "[package]\n name = \"y\" # c\nname = \"z\""
        );
        assert_eq!(named("{\n  \"name\": \"x\",\n}", true, "y"), "{\n  \"name\": \"y\",\n}");
        assert_eq!(named("name = \"x\" {{identifier}}", false, "a-b"), "name = \"x\" a_b");
    }

    #[test]
    fn a_folder_that_is_there_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let error = new("polite", Kind::Reward, Language::Rust, folder.path()).unwrap_err();
        assert!(error.to_string().contains("nothing is overwritten"), "{error}");
    }

    #[test]
    fn every_template_makes_a_project_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut made = 0;
        for (kind, language) in Kind::ALL.into_iter().flat_map(|kind| Language::ALL.map(|language| (kind, language))) {
            let path = folder.path().join(format!("{kind}-{}", language.name()));
            match new("my-plugin", kind, language, &path) {
                Ok(path) => {
                    let project = crate::Project::open(&path).unwrap();
                    assert_eq!(
                        (project.manifest.name.as_str(), &project.manifest.kinds[..]),
                        ("my-plugin", &[kind][..])
                    );
                    assert_ne!(project.tests().unwrap(), "[]", "{}: it has golden tests", path.display());
                    made += 1;
                }
                Err(error) => assert!(matches!(error, AuthorError::NotOffered { .. }), "{error}"),
            }
        }
        assert!(made >= 31, "{made} templates");
    }
}
