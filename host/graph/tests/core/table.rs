//! The op table names every op and every option the text form prints.

use std::collections::BTreeSet;

use swift_graph::table::{OPS, op_table};

use crate::support::random_graph;

/// Every op's name. A new variant stops this from compiling.
fn name(op: &swift_graph::Op) -> &'static str {
    use swift_graph::Op::*;
    match op {
        Input { .. } | Scalar(_) | Read(_) | Embed { .. } | Linear { .. } | LinearAdd { .. } | Logits { .. } => {
            op.name()
        }
        RmsNorm { .. } | LayerNorm { .. } | L2Norm { .. } | Softmax | Rope { .. } | Attention { .. } => op.name(),
        Unary(_) | Binary(_) | Glu(_) | Reshape | Slice { .. } | Concat { .. } | Dropout { .. } => op.name(),
    }
}

#[test]
fn the_table_has_each_op_once_and_all_its_options() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let (graph, _) = random_graph(seed, 40);
        let text = swift_graph::text::print(&graph);
        seen.extend(graph.nodes.iter().map(|node| name(&node.op)));
        for line in text.lines().filter(|line| line.starts_with("  %")) {
            let op = line.split_whitespace().nth(2).unwrap();
            let row = OPS.iter().find(|row| row.name == op).unwrap_or_else(|| panic!("`{op}` is not in the table"));
            for word in line.split(" : ").next().unwrap().split_whitespace().filter(|w| w.contains('=') && *w != "=") {
                let key = word.split('=').next().unwrap();
                let numbers_of_scaling = op == "rope";
                assert!(row.options.contains(key) || numbers_of_scaling, "`{op}` prints `{key}`: {}", row.options);
            }
        }
    }
    let table: BTreeSet<&str> = OPS.iter().map(|row| row.name).collect();
    assert_eq!(table.len(), OPS.len(), "an op stands twice");
    // The random graphs hold every op, so this also says that the table has no op that does not exist.
    assert_eq!(seen, table);
    for activation in swift_graph::ir::Unary::ALL {
        assert!(OPS.iter().any(|row| row.name == "unary" && row.meaning.contains(activation.0)));
    }
}

#[test]
fn the_table_is_markdown() {
    let table = op_table();
    assert_eq!(table.lines().count(), OPS.len() + 2);
    assert!(table.lines().all(|line| line.matches('|').count() == 6), "{table}");
}
