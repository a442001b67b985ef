//! Installing plugins from folders, from a real OCI registry, and from servers that mean harm.

mod folder;
mod hostile;
mod oci;
mod signed;
mod support;
