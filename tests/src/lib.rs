//! Tests that cross crates: oracles, dependency direction, runs of the binary. The tests are in `tests/`.
