//! `swift data`: datasets before anything is trained on them. `preview` shows rows as the model sees them, `inspect` what is
//! in a source, what is wrong with it, and how long its rows are.

use std::{fmt::Write as _, path::Path};

use serde_json::{Value, json};
use swift_data::{DatasetSpec, Encoded, Encoder, Ledger, Row, RowError, Schema};
use swift_hub::Model;
use swift_infer::results::Prompt;

use super::{assemble, set_threads};
use crate::{failure::Failure, plugins::Plugins, render, settings::LookSettings};

/// Bars of a picture of lengths.
const BARS: usize = 16;
/// Characters of the longest bar.
const WIDTH: usize = 50;

/// What both commands start from.
struct Look<'a> {
    settings: &'a LookSettings,
    plugins: Plugins,
    /// The model, and what makes tokens for it.
    encoder: Option<(Model, Encoder)>,
}

impl<'a> Look<'a> {
    fn open(settings: &'a LookSettings) -> Result<Self, Failure> {
        set_threads(settings.num_threads)?;
        let plugins = settings.plugins.open()?;
        let encoder = match &settings.model {
            None => None,
            Some(path) => {
                let model = Model::open(path)?;
                let today = || jiff::ZonedDateTime::now().date().to_string();
                let date = settings.template.run_date.clone().unwrap_or_else(today);
                let encoder = assemble::encoder(&model, &settings.template, settings.rows.strict, &date, &plugins)?;
                Some((model, encoder))
            }
        };
        Ok(Self { settings, plugins, encoder })
    }

    /// The rows of a dataset, with an account of them.
    fn rows(&self, text: &str) -> Result<(Vec<Row>, Ledger, Schema), Failure> {
        let mut options = assemble::load_options(&self.settings.rows, self.settings.seed, &self.plugins)?;
        options.schema = true;
        let spec = DatasetSpec::parse(text)?;
        let (dataset, _) = assemble::dataset(&spec, &self.settings.rows, &options, &self.plugins)?;
        Ok((dataset.rows, dataset.ledger, dataset.schema))
    }
}

/// Shows the first rows of each dataset.
pub(crate) fn preview(settings: &LookSettings) -> Result<(), Failure> {
    let look = Look::open(settings)?;
    let Some((model, encoder)) = &look.encoder else { return Ok(()) };
    let tokenizer = model.tokenizer()?;
    let decode = |tokens: &[u32]| tokenizer.decode(tokens, false).unwrap_or_default();
    let colors = render::is_colored();
    if !settings.json {
        let legend =
            [(0.0, "not trained"), (1.0, "trained"), (2.0, "with a larger weight"), (0.5, "with a smaller one")];
        let legend: Vec<String> = legend.iter().map(|(weight, text)| shown(text, *weight, colors)).collect();
        render::note(&legend.join("  "));
    }
    for text in &settings.datasets {
        let (rows, ledger, _) = look.rows(text)?;
        if ledger.dropped_rows() > 0 {
            render::warning(&ledger.to_string());
        }
        for row in rows.iter().take(settings.count) {
            let sequences = if settings.prompt { prompt(encoder, row) } else { encoder.encode_row(row) };
            let sequences = match sequences {
                Ok(sequences) => sequences,
                Err(error) if settings.json => {
                    render::output(&format!(
                        "{}\n",
                        json!({"row": row.origin.to_string(), "error": error.to_string()})
                    ));
                    continue;
                }
                Err(error) => {
                    render::warning(&format!("{}: {error}", row.origin));
                    continue;
                }
            };
            for encoded in &sequences {
                if settings.json {
                    let line = json!({"row": row.origin.to_string(), "tokens": encoded.tokens, "weights": encoded.weights,
                        "text": decode(&encoded.tokens)});
                    render::output(&format!("{line}\n"));
                    continue;
                }
                let (all, trained) = (encoded.tokens.len(), encoded.trained());
                let mut text = format!("{}  {all} tokens, {trained} trained\n", row.origin);
                for (tokens, weight) in stretches(encoded) {
                    text.push_str(&shown(&decode(tokens), weight, colors));
                }
                render::output(&(text + "\n\n"));
            }
        }
    }
    Ok(())
}

/// What stands before the last answer of a row.
fn prompt(encoder: &Encoder, row: &Row) -> Result<Vec<Encoded>, RowError> {
    let messages = Prompt::of(row).messages;
    let tokens = encoder.encode_prompt(&messages, row.tools.as_deref(), &row.chat_template_kwargs);
    let tokens = tokens.map_err(|error| RowError { kind: "no prompt".into(), detail: error.to_string() })?;
    Ok(vec![Encoded { weights: vec![0.0; tokens.len()], tokens }])
}

/// Neighbouring tokens of one weight.
fn stretches(encoded: &Encoded) -> Vec<(&[u32], f32)> {
    let mut stretches = Vec::new();
    let mut start = 0;
    for end in 1..=encoded.tokens.len() {
        if end == encoded.tokens.len() || encoded.weights[end] != encoded.weights[start] {
            stretches.push((&encoded.tokens[start..end], encoded.weights[start]));
            start = end;
        }
    }
    stretches
}

/// A text in the colour of its weight; what is trained stands in brackets where there are no colours.
fn shown(text: &str, weight: f32, colors: bool) -> String {
    // What a row holds must not steer the terminal.
    let plain: String =
        text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect();
    match (colors, weight) {
        (false, 0.0) => plain,
        (false, 1.0) => format!("⟦{plain}⟧"),
        (false, other) => format!("⟦{plain}⟧×{other}"),
        (true, 0.0) => format!("\u{1b}[2m{plain}\u{1b}[0m"),
        (true, 1.0) => format!("\u{1b}[32m{plain}\u{1b}[0m"),
        (true, more) if more > 1.0 => format!("\u{1b}[1;33m{plain}\u{1b}[0m"),
        (true, _) => format!("\u{1b}[36m{plain}\u{1b}[0m"),
    }
}

/// Says what is in each dataset.
pub(crate) fn inspect(settings: &LookSettings) -> Result<(), Failure> {
    let look = Look::open(settings)?;
    let (mut all, mut reports) = (Vec::new(), Vec::new());
    for text in &settings.datasets {
        let (rows, mut ledger, schema) = look.rows(text)?;
        let lengths: Vec<usize> = match &look.encoder {
            Some((_, encoder)) => {
                encoder.encode_rows(&rows, &mut ledger)?.iter().map(|(_, encoded)| encoded.tokens.len()).collect()
            }
            None => rows.iter().map(characters).collect(),
        };
        if settings.json {
            reports.push(
                json!({"dataset": text, "columns": schema.columns, "ledger": ledger, "lengths": summary(&lengths)}),
            );
        } else {
            render::output(&format!("{}\n{ledger}\n\n", columns(&schema)));
        }
        all.extend(lengths);
    }
    let unit = if look.encoder.is_some() { "tokens" } else { "characters" };
    if settings.json {
        render::output(&format!("{:#}\n", json!({"unit": unit, "datasets": reports, "lengths": summary(&all)})));
    } else if !all.is_empty() {
        render::output(&picture(&all, unit));
    }
    if let Some(path) = &settings.svg {
        std::fs::write(path, svg(&all, unit)).map_err(|error| Failure::io("write", path, &error))?;
        render::note(&format!("drew the lengths into {}", Path::new(path).display()));
    }
    Ok(())
}

fn characters(row: &Row) -> usize {
    row.messages.iter().map(|message| message.content.chars().count()).sum()
}

/// A table of the columns.
fn columns(schema: &Schema) -> String {
    let mut table = vec![["column".to_owned(), "rows".into(), "holds".into(), "for example".into()]];
    for column in &schema.columns {
        let kinds: Vec<String> = match column.kinds.len() {
            1 => column.kinds.keys().map(ToString::to_string).collect(),
            _ => column.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect(),
        };
        let name = column.name.chars().take(40).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let example: String = column.example.chars().take(60).collect();
        table.push([name, column.rows.to_string(), kinds.join(", "), example]);
    }
    let mut text = String::new();
    let width = |at: usize| table.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    for [name, rows, kinds, example] in &table {
        let (a, b, c) = (widths[0], widths[1], widths[2]);
        let _ = writeln!(text, "{name:<a$}  {rows:>b$}  {kinds:<c$}  {example}");
    }
    if schema.more {
        text.push_str("and more columns\n");
    }
    text
}

fn summary(lengths: &[usize]) -> Value {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted.get(((sorted.len().max(1) - 1) as f64 * share).round() as usize).copied();
    json!({"count": sorted.len(), "sum": sorted.iter().sum::<usize>(), "min": at(0.0), "median": at(0.5), "p95": at(0.95),
           "p99": at(0.99), "max": at(1.0)})
}

/// How many lengths are in each of the ranges `low..=high`.
fn ranges(lengths: &[usize]) -> Vec<(usize, usize, usize)> {
    let (least, most) = (lengths.iter().min().copied().unwrap_or(0), lengths.iter().max().copied().unwrap_or(0));
    let step = (most - least + 1).div_ceil(BARS).max(1);
    let mut ranges: Vec<(usize, usize, usize)> =
        (least..=most).step_by(step).map(|low| (low, (low + step - 1).min(most), 0)).collect();
    for length in lengths {
        ranges[(length - least) / step].2 += 1;
    }
    ranges
}

/// The lengths as bars of text.
fn picture(lengths: &[usize], unit: &str) -> String {
    let ranges = ranges(lengths);
    let most = ranges.iter().map(|range| range.2).max().unwrap_or(1).max(1);
    let name =
        |(low, high, _): &(usize, usize, usize)| if low == high { low.to_string() } else { format!("{low}-{high}") };
    let wide = ranges.iter().map(|range| name(range).len()).max().unwrap_or(0);
    let mut text = format!("{unit} of a row\n");
    for range in &ranges {
        // Eighths of a character.
        let eighths = (range.2 * WIDTH * 8).div_ceil(most);
        let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
        let _ = writeln!(text, "{:>wide$} {}{part} {}", name(range), "█".repeat(eighths / 8), range.2);
    }
    let told = summary(lengths);
    let told = ["median", "p95", "p99", "max", "sum"].map(|key| format!("{key} {}", told[key]));
    text + &told.join(", ") + "\n"
}

/// The same as a drawing.
fn svg(lengths: &[usize], unit: &str) -> String {
    let ranges = if lengths.is_empty() { Vec::new() } else { ranges(lengths) };
    let most = ranges.iter().map(|range| range.2).max().unwrap_or(1).max(1) as f64;
    let (width, height) = (720.0, 320.0);
    let bar = (width - 60.0) / ranges.len().max(1) as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <text x=\"40\" y=\"16\" font-size=\"13\">{} rows, {unit} of a row</text>\n",
        lengths.len()
    );
    for (index, (low, high, count)) in ranges.iter().enumerate() {
        let (x, tall) = (40.0 + bar * index as f64, *count as f64 / most * (height - 80.0));
        let y = height - 40.0 - tall;
        let _ = writeln!(
            text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"#4477aa\"><title>{low}-{high}: {count}</title></rect>",
            bar * 0.9
        );
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{:.1}\">{low}</text>", height - 24.0);
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{:.1}\">{count}</text>", y - 4.0);
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_in_ranges_that_cover_them() {
        assert_eq!(ranges(&[7]), [(7, 7, 1)]);
        let lengths: Vec<usize> = (1..=100).chain([100, 100]).collect();
        let found = ranges(&lengths);
        assert_eq!((found.len() <= BARS, found.iter().map(|range| range.2).sum::<usize>()), (true, lengths.len()));
        assert_eq!((found[0].0, found.last().unwrap().1), (1, 100));
        assert_eq!(summary(&lengths)["median"], 52);
        let text = picture(&[1, 1, 2], "tokens");
        assert!(text.contains(&format!("1 {} 2\n", "█".repeat(WIDTH))) && text.contains("max 2"), "{text}");
        assert!(svg(&[1, 1, 2], "tokens").matches("<rect").count() == 2 && svg(&[], "tokens").ends_with("</svg>\n"));
    }

    #[test]
    fn what_is_trained_is_marked_and_rows_cannot_steer_the_terminal() {
        let encoded = Encoded { tokens: vec![1, 2, 3, 4], weights: vec![0.0, 0.0, 1.0, 2.0] };
        let stretches = stretches(&encoded);
        assert_eq!(stretches, [(&[1, 2][..], 0.0), (&[3][..], 1.0), (&[4][..], 2.0)]);
        assert_eq!(shown("a\u{1b}[2J\n", 0.0, false), "a\u{fffd}[2J\n");
        assert_eq!(shown("a", 2.0, false), "⟦a⟧×2");
        assert!(shown("a", 1.0, true).contains("\u{1b}[32ma"));
    }
}
