//! Lines for the user and the author. The host adds the plugin's name, and stops counting what is too much.

use crate::bindings::log::swift::plugin::log::{Level, log};

/// For the author: shown by `swift plugin test` and in debug logs alone.
pub fn debug(message: &str) {
    log(Level::Debug, message);
}

/// For whoever runs the plugin.
pub fn info(message: &str) {
    log(Level::Info, message);
}

/// Something is probably not what the user wants.
pub fn warn(message: &str) {
    log(Level::Warn, message);
}

/// Something went wrong, and the call goes on.
pub fn error(message: &str) {
    log(Level::Error, message);
}
