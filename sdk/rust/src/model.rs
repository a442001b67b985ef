//! What a model family implements, and its export.

use crate::{Config, Graph, Result};

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

            impl $crate::bindings::model::exports::swift::model::adapter::Guest for Component {
                fn claims(config: ::std::string::String) -> ::core::option::Option<::std::string::String> {
                    $crate::runtime::model::claims::<$family>(&config)
                }

                fn build(
                    config: ::std::string::String,
                    task: ::std::string::String,
                    builder: &$crate::bindings::model::swift::model::graph::Builder,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::runtime::model::build::<$family>(&config, &task, builder)
                }
            }

    $crate::bindings::model::export!(Component with_types_in $crate::bindings::model);
        };
    };
}
