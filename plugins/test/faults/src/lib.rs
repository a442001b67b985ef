//! A model family that does one thing wrong, chosen by `fault` in the config: the host's error tests.

use swift_sdk::{Config, Error, Graph, ModelFamily, Result, export_family};

struct Faults;

impl ModelFamily for Faults {
    const MODEL_TYPES: &'static [&'static str] = &["faults"];
    const ARCHITECTURES: &'static [&'static str] = &[];

    fn build(g: &Graph, config: &Config) -> Result<()> {
        let fault = config.optional_text("fault")?.unwrap_or("none");
        let (tokens, _) = g.text();
        let (x, table) = g.embed("embed", tokens, 8, 4);
        match fault {
            "none" => {}
            "loop" => spin(),
            // Also a loop, but one that asks the host for something each time round.
            "busy" => loop {
                g.supports("linear");
            },
            "panic" => panic!("the sky is falling"),
            "trap" => std::process::abort(),
            "memory" => hoard(),
            "deep" => {
                descend(1);
            }
            "shape" => g.block("layers", 0, |g| {
                g.scope("self_attn", |g| {
                    let q = x.reshape(&[2, 2]);
                    let k = g.linear("k_proj", x, 6, false).reshape(&[3, 2]);
                    g.attention(q, k, k, g.causal_mask(None), 1.0);
                });
            }),
            "missing-weight" => g.scope("model", |g| {
                g.linear("q_porj", x, 4, false);
            }),
            "unknown-option" => {
                x.unary("sliu");
            }
            "no-output" => return Ok(()),
            "error" => {
                return Err(Error::new("config.json: `heads` is 3, which does not divide the width of 64"));
            }
            "control" => {
                return Err(Error::new("\u{1b}[2Jgone\u{202e}\u{7}\r\nand a second line"));
            }
            "long" => return Err(Error::new("long ".repeat(20_000))),
            other => return Err(config.refuse("fault", &format!("there is no fault `{other}`"))),
        }
        g.output("hidden", x);
        g.output("logits", g.logits(x, table));
        Ok(())
    }
}

#[inline(never)]
fn spin() {
    let mut turns = 0u64;
    while std::hint::black_box(turns) < u64::MAX {
        turns += 1;
    }
}

#[inline(never)]
fn hoard() {
    let mut kept = Vec::new();
    loop {
        kept.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}

#[inline(never)]
fn descend(depth: u64) -> u64 {
    let space = std::hint::black_box([depth; 64]);
    if std::hint::black_box(true) { descend(depth + 1) + space[3] } else { space[0] }
}

export_family!(Faults);
