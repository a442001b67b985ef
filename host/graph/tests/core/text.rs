//! The text form: round trips, the golden file, errors with places, hostile texts.

use swift_graph::Graph;
use swift_graph::text::{TextError, parse, print};

use crate::support::{Random, random_graph, two_blocks};

const GOLDEN: &str = include_str!("two_blocks.graph");

#[test]
fn every_graph_reads_back_as_it_was() {
    assert_eq!(parse(&print(&Graph::default())).unwrap(), Graph::default());
    for seed in 0..400 {
        let (graph, _) = random_graph(seed, 40);
        let text = print(&graph);
        let back = parse(&text).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
        assert_eq!(back, graph, "seed {seed}\n{text}");
        // Equality of floats does not see the sign of zero; the text does.
        assert_eq!(print(&back), text, "seed {seed}");
    }
}

/// To renew after a wanted change: `UPDATE_GOLDEN=1 cargo test -p swift-graph golden`, and read the difference.
#[test]
fn the_golden_file_is_the_two_block_model() {
    let text = print(&two_blocks());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/core/two_blocks.graph"), &text).unwrap();
    }
    assert_eq!(text, GOLDEN);
    assert_eq!(parse(GOLDEN).unwrap(), two_blocks());
}

fn place(text: &str) -> (usize, usize, String) {
    match parse(text) {
        Err(TextError::Syntax { line, column, expected, found }) => (line, column, format!("{expected} / {found}")),
        other => panic!("no syntax error: {other:?}"),
    }
}

fn at(line: usize, column: usize, what: &str) -> (usize, usize, String) {
    (line, column, what.to_owned())
}

const HEAD: &str = "swift-graph 1\nstream text\nscope s0 \"\"\nparam w [4, 4]\nin s0\n%0 = input name=x : [text, 4]\n";

#[test]
fn errors_name_line_column_and_what_was_expected() {
    assert_eq!(place(""), at(1, 1, "`swift-graph 1` / the end of the line"));
    assert_eq!(
        place("swift-graph 1\nfoo"),
        at(2, 1, "`stream`, `block`, `scope`, `param`, `in`, `output` or a node such as `%0 = ...` / `foo`")
    );
    assert_eq!(place("swift-graph 1\nscope s1 a"), at(2, 7, "`s0` / `s1`"));
    assert_eq!(
        place("swift-graph 1\nparam a [1]\nparam a [1]"),
        at(3, 7, "a parameter that is not declared yet / \"a\"")
    );
    assert_eq!(
        place("swift-graph 1\nparam a [4294967296]"),
        at(2, 10, "an axis: a whole number below 2^32 / `4294967296`")
    );
    assert_eq!(place("swift-graph 1\nstream \"a"), at(2, 8, "a closing quote / none on this line"));
    assert_eq!(place("swift-graph 1\nstream \"a\\u{110000}\""), at(2, 10, "a character's number / \"110000\""));
    assert_eq!(place("swift-graph 1\n%0 = input"), at(2, 1, "a scope first, such as `in s0` / `%0`"));
    for (line, column, what) in [
        ("%2 = softmax %0 : [text, 4]", 1, "`%1`: values count up / `%2`"),
        ("%1 = softmax %1 : [text, 4]", 14, "a value made before / `%1`"),
        ("%1 = sofmax %0 : [text, 4]", 6, "an op (did you mean `softmax`?) / `sofmax`"),
        ("%1 = linear %0 weight=v : [text, 4]", 23, "a parameter declared before / \"v\""),
        ("%1 = linear %0 : [text, 4]", 16, "the option `weight` of `linear` before this / `:`"),
        ("%1 = linear %0 weight=w wieght=w : [text, 4]", 25, "an option of `linear` in this form / `wieght`"),
        ("%1 = linear %0 weight=w weight=w : [text, 4]", 25, "each option once / `weight` again"),
        ("%1 = l2-norm %0 eps=small : [text, 4]", 21, "a number / `small`"),
        ("%1 = softmax %0 : [test, 4]", 20, "a stream declared before / \"test\""),
        ("%1 = softmax %0 : [text, 4] bfloat16", 29, "`compute`, `float32`, `int32` or `boolean` / `bfloat16`"),
        ("%1 = softmax %0 : [text, 4] float32 4", 37, "the end of the line / `4`"),
        ("%1 = softmax %0 : [text 4]", 25, "`,` / `4`"),
    ] {
        assert_eq!(place(&format!("{HEAD}  {line}")), at(7, column + 2, what));
    }
    let version = parse("swift-graph 2\n").unwrap_err();
    assert_eq!(
        version.to_string(),
        "this graph text has version 2, this build reads version 1; hint: print the graph again with this build"
    );
    let invalid = parse(&format!("{HEAD}%1 = softmax %0 : [text, 5]\n")).unwrap_err();
    assert!(matches!(invalid, TextError::Invalid(_)), "{invalid}");
}

#[test]
fn sizes_that_overflow_are_refused() {
    let huge = "4294967295, 4294967295, 4294967295";
    for text in [
        format!("swift-graph 1\nparam a [{huge}]\n"),
        "swift-graph 1\nparam a [0]\n".to_owned(),
        format!("{HEAD}%1 = input name=y : [text, {huge}]\n%2 = reshape %1 : [text, {huge}, 2]\n"),
    ] {
        assert!(matches!(parse(&text), Err(TextError::Invalid(_))), "{text}");
    }
}

/// Random damage to real texts: an error or a valid graph, never a panic.
#[test]
fn hostile_texts_do_not_panic() {
    let mut random = Random(1);
    let pieces = [
        "%",
        "%4294967295",
        "%99999999999",
        "[",
        "]",
        ",",
        "=",
        ":",
        "\"",
        "\\u{",
        "\\",
        "#",
        "\n",
        " ",
        "-",
        "1e999",
        "NaN",
        "-0",
        "4294967295",
        "18446744073709551616",
        "in s0",
        "in s7",
        "block=b9",
        "output x %0",
        "scope s5 \"\"",
        "text",
        "é",
        "\u{202e}",
        "\0",
        "true",
        "window",
        "rope",
        "dims=0",
        "attention",
        "concat",
        "[text, 0]",
        "[]",
        "int32",
        "swift-graph 1",
    ];
    let (mut valid, mut refused) = (0, 0);
    for seed in 0..40 {
        let text = if seed % 4 == 0 { GOLDEN.to_owned() } else { print(&random_graph(seed, 20).0) };
        for _ in 0..100 {
            let mut damaged: Vec<char> = text.chars().collect();
            for _ in 0..1 + random.below(3) {
                damaged.extend([' ', '\n']);
                let place = random.below(damaged.len());
                let end = (place + random.below(12)).min(damaged.len());
                match random.below(4) {
                    0 => drop(damaged.drain(place..end)),
                    1 => drop(damaged.splice(place..end, random.pick(&pieces).chars())),
                    2 => damaged.truncate(place.max(1)),
                    _ => {
                        let digit =
                            damaged.iter().skip(place).position(char::is_ascii_digit).map_or(0, |at| place + at);
                        damaged[digit] = *random.pick(&['0', '1', '9']);
                    }
                }
            }
            match parse(&damaged.iter().collect::<String>()) {
                Ok(graph) => {
                    valid += 1;
                    assert_eq!(parse(&print(&graph)).map(|g| print(&g)), Ok(print(&graph)));
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(valid > 20 && refused > 1000, "{valid} valid, {refused} refused: the damage is one-sided");
}
