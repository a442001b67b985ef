//! Pages of `docs/` that are printed by code, so that they cannot disagree with it.

use crate::{Result, root};

/// Writes the generated pages, or compares them with what is there.
pub(crate) fn write(check: bool) -> Result<()> {
    let path = root().join("docs/ops.md");
    let page = format!(
        "# Ops of the graph\n\nPrinted by `cargo xtask docs` from `host/graph/src/table.rs`. Shapes leave out the rows.\n\n{}",
        swift_graph::table::op_table()
    );
    if !check {
        std::fs::write(&path, page)?;
        return Ok(());
    }
    if std::fs::read_to_string(&path).unwrap_or_default() == page {
        return Ok(());
    }
    Err("docs/ops.md is out of date; run `cargo xtask docs`".into())
}
