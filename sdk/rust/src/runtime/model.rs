//! What `export_family!` calls.

use super::install_panic_hook;
use crate::bindings::model::swift::model::graph;
use crate::text::join;
use crate::{Config, Graph, ModelFamily};

pub fn claims<F: ModelFamily>(config: &str) -> Option<String> {
    install_panic_hook(graph::abort);
    let config = Config::parse(config).ok()?;
    match config.optional_text("model_type").ok()? {
        Some(model_type) => F::MODEL_TYPES.contains(&model_type).then(|| model_type.to_owned()),
        None => {
            let named = config.texts("architectures").ok()??;
            let claimed = named.iter().any(|name| F::ARCHITECTURES.contains(name));
            claimed.then(|| F::MODEL_TYPES[0].to_owned())
        }
    }
}

pub fn build<F: ModelFamily>(config: &str, task: &str, builder: &graph::Builder) -> Result<(), String> {
    install_panic_hook(graph::abort);
    if !F::TASKS.contains(&task) {
        let mut built = "";
        for one in F::TASKS {
            built = if built.is_empty() { one } else { join(&[built, ", ", one]) };
        }
        return Err(join(&["the task `", task, "` is not built; this family builds ", built]).to_owned());
    }
    let config = Config::parse(config).map_err(|error| error.message().to_owned())?;
    F::build(&Graph::new(builder), &config).map_err(|error| error.message().to_owned())
}
