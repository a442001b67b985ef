//! What the export macros call; not for plugins. The names of this module are left out of the stacks that a user sees.

#![allow(missing_docs, unreachable_pub, missing_debug_implementations, reason = "called by macros alone")]

#[cfg(feature = "loader")]
pub mod loader;
#[cfg(feature = "metric")]
pub mod metric;
#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "preprocessor")]
pub mod preprocessor;
#[cfg(feature = "reward")]
pub mod reward;
#[cfg(feature = "template")]
pub mod template;

use crate::text::{decimal, join};

/// Without a hook a panic would be a bare `unreachable`: there is no standard error stream. `abort` tells the host, and
/// does not come back.
fn install_panic_hook(abort: fn(&str)) {
    std::panic::set_hook(Box::new(move |info| {
        let message = info.payload_as_str().unwrap_or("panic without a message");
        abort(match info.location() {
            Some(at) => join(&[at.file(), ":", decimal(at.line() as usize), ": ", message]),
            None => message,
        });
    }));
}

#[cfg(feature = "settings")]
pub(crate) use with_settings::*;

#[cfg(feature = "settings")]
mod with_settings {
    use crate::bindings::log::swift::plugin::log;
    use crate::text::join;
    use crate::{Error, Result, Settings};

    /// One named function of a component.
    pub(crate) trait Named {
        fn name(&self) -> &'static str;
    }

    /// The function of this name.
    pub(crate) fn chosen<'e, E: Named>(entries: &'e [E], name: &str, what: &str) -> Result<&'e E> {
        super::install_panic_hook(log::abort);
        entries.iter().find(|entry| entry.name() == name).ok_or_else(|| {
            let mut known = "";
            for entry in entries {
                known = if known.is_empty() { entry.name() } else { join(&[known, ", ", entry.name()]) };
            }
            Error::of(join(&["there is no ", what, " `", name, "` in this plugin; it has ", known]))
        })
    }

    /// What `make` makes of the user's settings, once each of them was read. `free` are those that need no reader.
    pub(crate) fn settings<T>(
        config: &str,
        free: impl Fn(&str) -> bool,
        make: impl FnOnce(&Settings) -> Result<T>,
    ) -> Result<T> {
        let settings = Settings::parse(config)?;
        let made = make(&settings)?;
        settings.refuse_unread_but(free)?;
        Ok(made)
    }

    #[cfg(any(feature = "reward", feature = "metric", feature = "preprocessor", feature = "template"))]
    pub(crate) fn not_configured() -> Error {
        Error::of("`configure` was not called")
    }

    /// The value of a column; null counts as absent.
    #[cfg(any(feature = "reward", feature = "metric"))]
    pub(crate) fn column(columns: &[(String, String)], name: &str) -> Result<Option<crate::Json>> {
        let Some((_, text)) = columns.iter().find(|(column, _)| column == name) else {
            return Ok(None);
        };
        match crate::Json::parse(text) {
            Ok(crate::Json::Null) => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(Error::of(join(&["the column `", name, "` is not JSON: ", error.message()]))),
        }
    }

    impl From<Error> for String {
        fn from(error: Error) -> Self {
            error.message().to_owned()
        }
    }
}
