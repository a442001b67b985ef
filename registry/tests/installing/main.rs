//! Installing plugins from folders, from a real OCI registry, and from servers that mean harm.

#![allow(clippy::print_stderr, reason = "says why a test is skipped")]

mod folder;
mod hostile;
mod oci;
mod signed;
mod support;
