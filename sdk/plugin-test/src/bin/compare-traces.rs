//! `compare-traces DIST BUILT`: whether the plugins of two folders trace the same graphs, told by the graphs' text. The
//! chore `plugins build --check` calls it where two compilers cannot give the same bytes.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use swift_plugin_test::{cases, first_difference, load_family};

fn main() -> ExitCode {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [dist, built] = &folders[..] else {
        eprintln!("usage: compare-traces DIST BUILT");
        return ExitCode::from(2);
    };
    let (mut compared, mut different) = (0, 0);
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("families");
    for family in std::fs::read_dir(&families).into_iter().flatten().flatten() {
        let file = format!("{}.wasm", family.file_name().to_string_lossy());
        let (old, new) = (load_family(&dist.join(&file)), load_family(&built.join(&file)));
        for case in cases(&family.path()) {
            let text = |plugin| swift_graph::text::print(&case.trace(plugin).graph);
            compared += 1;
            if let Some(difference) = first_difference(&text(&old), &text(&new)) {
                println!("{file}, {}: {difference}", case.folder.display());
                different += 1;
            }
        }
    }
    println!("{compared} traces compared, {different} differ");
    ExitCode::from(u8::from(different > 0 || compared == 0))
}
