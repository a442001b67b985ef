//! What wit-bindgen makes of the contracts: a module for each kind and each capability, since each of them writes its
//! world into the component.

#![allow(missing_docs, unsafe_code, clippy::all, unreachable_pub, unused_qualifications, missing_debug_implementations)]

#[cfg(feature = "model")]
pub mod model {
    wit_bindgen::generate!({
        path: "../../wit/model",
        world: "model-adapter",
        pub_export_macro: true,
        default_bindings_module: "swift_sdk::bindings::model",
    });
}

#[cfg(feature = "settings")]
pub mod log {
    wit_bindgen::generate!({
        path: "../../wit/plugin",
        inline: "package swift:sdk-log; world imports { import swift:plugin/log@0.1.0; }",
        world: "swift:sdk-log/imports",
        generate_all,
    });
}

#[cfg(feature = "files")]
pub mod files {
    wit_bindgen::generate!({
        path: "../../wit/plugin",
        inline: "package swift:sdk-files; world imports { import swift:plugin/files@0.1.0; }",
        world: "swift:sdk-files/imports",
        generate_all,
    });
}

#[cfg(feature = "http")]
pub mod http {
    wit_bindgen::generate!({
        path: "../../wit/plugin",
        inline: "package swift:sdk-http; world imports { import swift:plugin/http@0.1.0; }",
        world: "swift:sdk-http/imports",
        generate_all,
    });
}

#[cfg(feature = "reward")]
pub mod reward {
    wit_bindgen::generate!({
        path: ["../../wit/plugin", "../../wit/reward"],
        world: "swift:reward/reward",
        with: { "swift:plugin/log@0.1.0": crate::bindings::log::swift::plugin::log },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        default_bindings_module: "swift_sdk::bindings::reward",
    });
}

#[cfg(feature = "metric")]
pub mod metric {
    wit_bindgen::generate!({
        path: ["../../wit/plugin", "../../wit/metric"],
        world: "swift:metric/metric",
        with: { "swift:plugin/log@0.1.0": crate::bindings::log::swift::plugin::log },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        default_bindings_module: "swift_sdk::bindings::metric",
    });
}

#[cfg(feature = "loader")]
pub mod loader {
    wit_bindgen::generate!({
        path: ["../../wit/plugin", "../../wit/dataset"],
        world: "swift:dataset/loader",
        with: { "swift:plugin/log@0.1.0": crate::bindings::log::swift::plugin::log },
        pub_export_macro: true,
        default_bindings_module: "swift_sdk::bindings::loader",
    });
}

#[cfg(feature = "preprocessor")]
pub mod preprocessor {
    wit_bindgen::generate!({
        path: ["../../wit/plugin", "../../wit/dataset"],
        world: "swift:dataset/preprocessor",
        with: { "swift:plugin/log@0.1.0": crate::bindings::log::swift::plugin::log },
        pub_export_macro: true,
        default_bindings_module: "swift_sdk::bindings::preprocessor",
    });
}

#[cfg(feature = "template")]
pub mod template {
    wit_bindgen::generate!({
        path: ["../../wit/plugin", "../../wit/template"],
        world: "swift:template/template",
        with: { "swift:plugin/log@0.1.0": crate::bindings::log::swift::plugin::log },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        default_bindings_module: "swift_sdk::bindings::template",
    });
}
