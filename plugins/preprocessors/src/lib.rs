//! Row preprocessors for the datasets that ms-swift's documentation uses most, one file each. What a dataset's rows look
//! like is known here and nowhere else.
//!
//! A row keeps every column that a preprocessor does not use up: trainers and rewards may want it.

mod alpaca;
mod math;
mod preference;
mod row;
mod self_cognition;
mod sharegpt;
#[cfg(test)]
mod tests;

pub use alpaca::Alpaca;
pub use math::Math;
pub use preference::Preference;
pub use self_cognition::SelfCognition;
pub use sharegpt::ShareGpt;

// Elsewhere its names would be those of a library that the linker cannot write.
#[cfg(target_arch = "wasm32")]
swift_sdk::export_preprocessors!(Alpaca, SelfCognition, Math, Preference, ShareGpt);
