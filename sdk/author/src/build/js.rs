//! The build of js plugins.

use super::Build;
use crate::{AuthorError, Result};

/// The component of a plugin in js.
pub(crate) fn component(build: &Build<'_>) -> Result<Vec<u8>> {
    let _ = build;
    Err(AuthorError::ToolMissing {
        tool: "this language".into(),
        needed_for: "building this plugin".into(),
        install: "it is not built yet".into(),
        installable: false,
    })
}
