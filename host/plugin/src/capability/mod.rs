//! What a granted capability does: reading granted files, HTTP to granted hosts. A plugin without the grant is never
//! linked to any of it.

pub(crate) mod files;
pub(crate) mod http;
