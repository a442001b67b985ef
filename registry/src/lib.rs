//! Finds, chooses, fetches, verifies and pins plugins: from any OCI registry, a folder, or a file.
//!
//! A plugin is one component, stored in a registry in the standard Wasm form and pinned by the sha256 of its bytes.
//! Nothing is installed before its digest, its signature and its contracts were checked, and what is installed appears
//! whole or not at all. The crate never compiles or runs a component; it prints nothing, and asks no network but the
//! registry that the user or the project's `swift.lock` names.

mod error;
mod files;
mod http;
mod install;
mod lock;
mod name;
mod oci;
mod publish;
mod resolve;
mod run;
mod settings;
mod sign;
mod source;
mod store;
mod wasm;

pub use error::RegistryError;
pub use install::{Change, Event, Health, Session, Trust};
pub use lock::{Entry, FILE as LOCK_FILE, Lock};
pub use name::{Place, Reference, Repository, Wanted};
pub use oci::{Client, Network};
pub use publish::{Publication, publish};
pub use resolve::{Choice, Subject, resolve};
pub use run::{Used, check_run};
pub use settings::{Registry, store_folder};
pub use sign::{Signed, Signer, generate as generate_keys, read_key};
pub use source::{Described, Listed};
pub use store::{Installed, Store};
pub use wasm::{Artifact, LARGEST_COMPONENT};

/// The result of everything here.
pub type Result<T> = std::result::Result<T, RegistryError>;
