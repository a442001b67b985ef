//! From a core module to a component.

use std::path::Path;

use crate::{AuthorError, Result};

/// The component of a core module. `embed` names the folder of the world `plugin` for modules that carry no types; `wasi`
/// lets constants stand in for WASI, so that nothing of it is imported.
pub(crate) fn componentize(module: &[u8], embed: Option<&Path>, wasi: bool) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| AuthorError::Component {
        what: format!("{error:#}"),
        author: "check that the SDK fits the contracts".into(),
    };
    if embed.is_some() || wasi {
        return Err(failed(&"this form of module is not built yet"));
    }
    let mut encoder = wit_component::ComponentEncoder::default();
    encoder.validate(true).module(module).and_then(|encoder| encoder.encode()).map_err(|error| failed(&error))
}
