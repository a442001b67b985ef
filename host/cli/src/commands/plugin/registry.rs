//! What users do with plugins of others: find, install, update, lock, verify, publish.

use super::Subcommand;

pub(super) const COMMANDS: &[Subcommand] = &[];
