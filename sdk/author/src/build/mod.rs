//! From an author's folder to a component. Each language is a module with one function, [`Build`] to the component's
//! bytes; what they share is here.

mod c;
mod componentize;
mod go;
mod js;
mod python;
mod rust;

use std::path::Path;
use std::str::FromStr;

use crate::{AuthorError, Project, Result, Tools};

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
}

impl FromStr for Language {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|language| language.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|language| language.name()).collect();
            format!("`{}` is no language of plugins; there are {}", crate::clean(name, 60), names.join(", "))
        })
    }
}

/// The component that the project's language makes of it, as it came out.
fn component(build: &Build<'_>) -> Result<Vec<u8>> {
    match language(build.project)? {
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
