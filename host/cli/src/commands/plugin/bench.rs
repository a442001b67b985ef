//! `swift plugin bench`: what reward functions cost, side by side.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};
use swift_author::bench::{Measured, disagreement, measure, samples};

use super::{Subcommand, allow, columns, format, host, number, run::Target, text};
use crate::{failure::Failure, render};

pub(super) const COMMANDS: &[Subcommand] = &[Subcommand { name: "bench", arguments, run }];

fn arguments(command: Command) -> Command {
    command
        .about("Measure reward functions on made-up completions, and compare their scores")
        .arg(
            Arg::new("FILE")
                .required(true)
                .num_args(1..)
                .action(ArgAction::Append)
                .help("Components; FILE.wasm:FUNCTION where one holds several rewards"),
        )
        .arg(number("samples", "Completions of a call").default_value("64"))
        .arg(number("bytes", "Bytes of a completion").default_value("1024"))
        .arg(number("seed", "Seed of the completions").default_value("0"))
        .arg(Arg::new("config").long("config").value_name("JSON").default_value("{}").help("Settings of the functions"))
        .arg(allow())
        .arg(format())
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let given = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or_default();
    let count = given("samples").clamp(1, 100_000) as usize;
    let bytes = given("bytes").clamp(1, 1 << 20) as usize;
    let samples = samples(count, bytes, given("seed"));
    let config = text(matches, "config").unwrap_or("{}");
    let host = host(matches)?;
    let mut measured: Vec<(Target, Measured)> = Vec::new();
    for file in matches.get_many::<String>("FILE").into_iter().flatten() {
        let target = Target::load(&host, file)?;
        let function = target.function(Some(swift_plugin::Kind::Reward))?;
        let result = measure(&target.plugin, &function.1, config, &samples)?;
        measured.push((target, result));
    }
    let first = &measured[0].1;
    let differing = |result: &Measured| disagreement(&first.scores, &result.scores);
    if text(matches, "format") == Some("json") {
        let one = |(target, result): &(Target, Measured)| {
            json!({
                "plugin": target.plugin.name(), "file": target.shown, "bytes": target.plugin.inspection().size,
                "start_ms": ms(result.start), "call_ms": ms(result.call), "median_call_ms": ms(result.middle),
                "fuel": result.fuel, "agrees": differing(result).is_none(), "failed": result.failed,
            })
        };
        let rows: Vec<Value> = measured.iter().map(one).collect();
        render::output(&format!("{:#}\n", json!({ "samples": count, "completion_bytes": bytes, "plugins": rows })));
    } else {
        let head = ["plugin", "bytes", "start ms", "call ms", "median", "fuel", "scores"].map(str::to_owned);
        let row = |(target, result): &(Target, Measured)| {
            let scores = match (&result.failed, differing(result)) {
                (Some(reason), _) => format!("failed: {}", swift_plugin::clean(reason, 80)),
                (None, Some(at)) => format!("another from sample {} on", at + 1),
                (None, None) => "agree".into(),
            };
            [
                target.shown.clone(),
                render::grouped(target.plugin.inspection().size as u64),
                format!("{:.3}", ms(result.start)),
                format!("{:.3}", ms(result.call)),
                format!("{:.3}", ms(result.middle)),
                render::grouped(result.fuel),
                scores,
            ]
        };
        let rows: Vec<[String; 7]> = std::iter::once(head).chain(measured.iter().map(row)).collect();
        let rows: Vec<[&str; 7]> = rows.iter().map(|row| row.each_ref().map(String::as_str)).collect();
        render::output(&columns(&rows));
        render::note(&format!(
            "a call scores {count} completions of {bytes} bytes; the least of several, on all cores"
        ));
    }
    let others = measured.iter().filter(|(_, result)| result.failed.is_some() || differing(result).is_some());
    let others: Vec<&str> = others.map(|(target, _)| target.shown.as_str()).collect();
    if others.is_empty() {
        return Ok(());
    }
    let message = format!("the scores do not agree: {}", others.join(", "));
    Err(Failure::new(message, "`swift plugin run FILE --input rows.jsonl` shows what each of them gives"))
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
