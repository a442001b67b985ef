//! From an author's folder to a component. Each language is a module with one function, [`Build`] to the component's
//! bytes; what they share is here.

mod c;
mod componentize;
mod go;
mod js;
mod python;
mod rust;
mod sources;
mod world;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use swift_plugin::{Inspection, sections};

use crate::{AuthorError, Project, Result, Tools, packed};

/// What a language's module gets.
pub struct Build<'a> {
    pub project: &'a Project,
    /// Folder of the synthesised world `plugin`: `plugin.wit`, and the contracts in `deps/`.
    pub wit: &'a Path,
    /// A folder of its own for whatever is made on the way; it may hold files of an earlier build.
    pub work: &'a Path,
    /// The SDK of the language: the folder's own `sdk/`, or the one of this swift.
    pub sdk: &'a Path,
    pub tools: &'a Tools,
    /// Hears of what takes long.
    pub report: &'a dyn Fn(&str),
}

/// Name of the synthesised world.
pub(crate) const WORLD: &str = "plugin";

/// Folder of everything that is made on the way, in the plugin's.
const FOLDER: &str = "build";

/// A component that was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The whole plugin, manifest and tests included.
    pub bytes: Vec<u8>,
    /// What the host says it is.
    pub inspection: Inspection,
}

impl Built {
    /// Writes it to `path`, whole or not at all.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        packed::write(&beside, &self.bytes)?;
        std::fs::rename(&beside, path).map_err(AuthorError::io("write", path))
    }
}

/// Builds the project's component, with its manifest and golden tests in it. The same source and tools give the same bytes.
/// `report` hears of what takes long.
///
/// # Errors
/// When the folder is wrong, a tool is missing or fails, or what comes out is not what `plugin.toml` says.
pub fn build(project: &Project, tools: &Tools, report: &dyn Fn(&str)) -> Result<Built> {
    let language = language(project)?;
    let tests = project.tests()?;
    let folder = project.folder.join(FOLDER);
    let (wit, work, vendored) = (folder.join("wit"), folder.join("work"), project.folder.join("sdk"));
    world::write(&project.manifest, &wit)?;
    std::fs::create_dir_all(&work).map_err(AuthorError::io("make", &work))?;
    let sdk = if vendored.is_dir() {
        vendored
    } else {
        let sdk = folder.join("sdk");
        packed::write_sdk(language, &sdk)?;
        sdk
    };
    let build = Build { project, wit: &wit, work: &work, sdk: &sdk, tools, report };
    let component = component(language, &build)?;
    let bytes = sections::embed(
        &component,
        &[(sections::MANIFEST, project.manifest_text.as_bytes()), (sections::TESTS, tests.as_bytes())],
    );
    let inspection = swift_plugin::inspect(&project.manifest.name, &bytes)?;
    Ok(Built { bytes, inspection })
}

/// A language that plugins are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    Rust,
    Python,
    JavaScript,
    /// Built as JavaScript, after the TypeScript compiler.
    TypeScript,
    C,
    Go,
}

impl Language {
    /// Every language.
    pub const ALL: [Self; 6] = [Self::Rust, Self::Python, Self::JavaScript, Self::TypeScript, Self::C, Self::Go];

    /// Its name after `--lang`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "js",
            Self::TypeScript => "ts",
            Self::C => "c",
            Self::Go => "go",
        }
    }

    /// Its folder in `sdk/`.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::TypeScript => Self::JavaScript.name(),
            other => other.name(),
        }
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|language| language.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|language| language.name()).collect();
            format!("`{}` is no language of plugins; there are {}", swift_plugin::clean(name, 60), names.join(", "))
        })
    }
}

/// The component that the project's language makes of it, as it came out.
fn component(language: Language, build: &Build<'_>) -> Result<Vec<u8>> {
    match language {
        Language::Rust => rust::component(build),
        Language::Python => python::component(build),
        Language::JavaScript | Language::TypeScript => js::component(build),
        Language::C => c::component(build),
        Language::Go => go::component(build),
    }
}

/// The language of `plugin.toml`.
fn language(project: &Project) -> Result<Language> {
    let toml = project.folder.join("plugin.toml");
    let Some(table) = &project.manifest.build else {
        let hint = "add `[build]` with `lang = \"python\"` (or rust, js, ts, c, go)";
        return Err(AuthorError::project(&toml, "it does not say how the plugin is built", hint));
    };
    table.lang.parse().map_err(|what: String| AuthorError::project(&toml, what, "put `lang` in [build] right"))
}
