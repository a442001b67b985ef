//! Write a swift plugin in Rust: a model family is one type, one trait and one macro.
//!
//! ```ignore
//! use swift_sdk::{Config, Graph, ModelFamily, Result, export_family};
//!
//! struct Tiny;
//!
//! impl ModelFamily for Tiny {
//!     const MODEL_TYPES: &'static [&'static str] = &["tiny"];
//!     const ARCHITECTURES: &'static [&'static str] = &["TinyForCausalLM"];
//!
//!     fn build(g: &Graph, config: &Config) -> Result<()> {
//!         let (vocabulary, width) = (config.size("vocab_size")?, config.size("hidden_size")?);
//!         let (tokens, _positions) = g.text();
//!         let (x, table) = g.embed("embed", tokens, vocabulary, width);
//!         g.output("hidden", x);
//!         g.output("logits", g.logits(x, table));
//!         Ok(())
//!     }
//! }
//!
//! export_family!(Tiny);
//! ```
//!
//! The crate wraps the contract `swift:model` and must not know any family: what two families share as mathematics
//! (rotary scaling, sliding windows, tied heads) is here, what one family alone does is not. A panic in a plugin
//! reaches the user with file and line; return an error for everything that a config can cause.

#[cfg(target_arch = "wasm32")]
mod allocate;
mod config;
mod graph;
mod json;
mod number;
mod rope;
mod text;
mod windows;

pub use config::{Config, Error, Result};
pub use graph::{Dtype, Graph, Mask, Param, Rows, Tensor};
pub use rope::Rope;
pub use windows::attention_windows;

#[doc(hidden)]
pub mod bindings {
    #![allow(missing_docs, unsafe_code, clippy::all, unreachable_pub, unused_qualifications)]
    wit_bindgen::generate!({
        path: "../../wit/model",
        world: "model-adapter",
        pub_export_macro: true,
        default_bindings_module: "swift_sdk::bindings",
    });
}

/// A family of models that share one network.
///
/// The plugin must be pure: everything it builds follows from the config, the names in the checkpoint and the task.
pub trait ModelFamily {
    /// The `model_type`s of `config.json` that this family builds.
    const MODEL_TYPES: &'static [&'static str];

    /// The `architectures` it builds, asked only when a config has no `model_type`.
    const ARCHITECTURES: &'static [&'static str];

    /// The tasks it builds; any other is refused by name.
    const TASKS: &'static [&'static str] = &["causal-lm"];

    /// Traces the network: publishes "hidden" `[rows, width]` and "logits" `[rows, vocabulary]`.
    ///
    /// # Errors
    /// When the config lacks something, or asks for something this family does not build.
    fn build(g: &Graph<'_>, config: &Config) -> Result<()>;
}

/// Exports a type that implements [`ModelFamily`] as this component's model family.
#[macro_export]
macro_rules! export_family {
    ($family:ty) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::exports::swift::model::adapter::Guest for Component {
                fn claims(config: String) -> ::core::option::Option<String> {
                    $crate::runtime::claims::<$family>(&config)
                }

                fn build(
                    config: String,
                    task: String,
                    builder: &$crate::bindings::swift::model::graph::Builder,
                ) -> ::core::result::Result<(), String> {
                    $crate::runtime::build::<$family>(&config, &task, builder)
                }
            }

    $crate::bindings::export!(Component with_types_in $crate::bindings);
        };
    };
}

/// What [`export_family!`] calls; not for plugins.
#[doc(hidden)]
pub mod runtime {
    use super::{Config, Graph, ModelFamily, bindings::swift::model::graph};
    use crate::text::{decimal, join};

    /// Without a hook a panic would be a bare `unreachable`: there is no standard error stream.
    fn install_panic_hook() {
        std::panic::set_hook(Box::new(|info| {
            let message = info.payload_as_str().unwrap_or("panic without a message");
            graph::abort(match info.location() {
                Some(at) => join(&[at.file(), ":", decimal(at.line() as usize), ": ", message]),
                None => message,
            });
        }));
    }

    pub fn claims<F: ModelFamily>(config: &str) -> Option<String> {
        install_panic_hook();
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
        install_panic_hook();
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
}
