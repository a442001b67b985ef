//! The loss curve as an SVG: training loss raw and smoothed, validation loss, learning rate. Light and dark.

use std::fmt::Write;

/// Points by step.
pub type Series = [(u64, f64)];

const WIDTH: f64 = 880.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 24.0;
const LOSS: Panel = Panel { top: 64.0, height: 300.0 };
const RATE: Panel = Panel { top: 414.0, height: 90.0 };
const HEIGHT: f64 = 560.0;

struct Panel {
    top: f64,
    height: f64,
}

const STYLE: &str = "\
svg{font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:13px}\
.page{fill:#ffffff}.text{fill:#24292f}.faint{fill:#57606a}.grid{stroke:#d8dee4;stroke-width:1}\
.raw{stroke:#9ec5f4}.train{stroke:#1f6feb}.eval{stroke:#c2410c}.rate{stroke:#2da44e}\
.eval-dot{fill:#c2410c}polyline{fill:none;stroke-width:2;stroke-linejoin:round}.raw{stroke-width:1.2}\
@media (prefers-color-scheme:dark){.page{fill:#0d1117}.text{fill:#e6edf3}.faint{fill:#9198a1}.grid{stroke:#30363d}\
.raw{stroke:#2a4a78}.train{stroke:#58a6ff}.eval{stroke:#f0883e}.eval-dot{fill:#f0883e}.rate{stroke:#3fb950}}";

/// Draws the picture. `title` is any text.
pub fn svg(title: &str, train: &Series, evaluation: &Series, learning_rate: &Series) -> String {
    let last = [train, evaluation, learning_rate].iter().flat_map(|s| s.last()).map(|p| p.0).max().unwrap_or(1);
    let steps = Scale { from: 0.0, to: last.max(1) as f64 };
    let smooth = smoothed(train);
    let losses: Vec<f64> = [train, &smooth, evaluation].iter().flat_map(|s| s.iter()).map(|p| p.1).collect();
    let loss_scale = Scale::around(&losses);
    let rates: Vec<f64> = learning_rate.iter().map(|p| p.1).chain([0.0]).collect();
    let rate_scale = Scale::around(&rates);

    let mut out = String::new();
    let title = escape(title);
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-labelledby=\"title\">\n<title id=\"title\">Training loss of {title}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
         <text class=\"text\" x=\"{LEFT}\" y=\"28\" font-size=\"16\" font-weight=\"600\">{title}</text>\n"
    );
    legend(&mut out, train, evaluation);
    axes(&mut out, &LOSS, &steps, &loss_scale, "loss", false);
    axes(&mut out, &RATE, &steps, &rate_scale, "learning rate", true);
    line(&mut out, "raw", train, &LOSS, &steps, &loss_scale);
    line(&mut out, "train", &smooth, &LOSS, &steps, &loss_scale);
    line(&mut out, "eval", evaluation, &LOSS, &steps, &loss_scale);
    for &(step, value) in evaluation {
        let (x, y) = (steps.x(step as f64), loss_scale.y(value, &LOSS));
        let _ = writeln!(out, "<circle class=\"eval-dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
    }
    line(&mut out, "rate", learning_rate, &RATE, &steps, &rate_scale);
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String, train: &Series, evaluation: &Series) {
    let mut x = LEFT;
    let mut entry = |class: &str, text: String| {
        let (end, at, width) = (x + 22.0, x + 28.0, text.chars().count() as f64 * 7.2);
        let _ = writeln!(
            out,
            "<polyline class=\"{class}\" points=\"{x:.1},46 {end:.1},46\"/>\
             <text class=\"faint\" x=\"{at:.1}\" y=\"50\">{text}</text>"
        );
        x += 28.0 + width + 22.0;
    };
    entry("raw", "train loss".into());
    let last = |series: &Series| series.last().map(|p| format!(" ({})", number(p.1))).unwrap_or_default();
    entry("train", format!("smoothed{}", last(&smoothed(train))));
    if !evaluation.is_empty() {
        entry("eval", format!("validation loss{}", last(evaluation)));
    }
}

fn axes(out: &mut String, panel: &Panel, steps: &Scale, values: &Scale, label: &str, with_steps: bool) {
    let bottom = panel.top + panel.height;
    for tick in values.ticks(if with_steps { 2 } else { 5 }) {
        let y = values.y(tick, panel);
        let (end, text_x, text_y, text) = (WIDTH - RIGHT, LEFT - 8.0, y + 4.0, number(tick));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"faint\" x=\"{text_x}\" y=\"{text_y:.1}\" text-anchor=\"end\">{text}</text>"
        );
    }
    let middle = panel.top + panel.height / 2.0;
    let _ = writeln!(
        out,
        "<text class=\"faint\" transform=\"translate(16 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{label}</text>"
    );
    for tick in steps.ticks(8).into_iter().filter(|tick| tick.fract() == 0.0) {
        let (x, y) = (steps.x(tick), bottom + 18.0);
        let _ = writeln!(
            out,
            "<text class=\"faint\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
            number(tick)
        );
    }
    if with_steps {
        let (x, y) = (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, bottom + 40.0);
        let _ = writeln!(out, "<text class=\"faint\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">step</text>");
    }
}

fn line(out: &mut String, class: &str, series: &Series, panel: &Panel, steps: &Scale, values: &Scale) {
    let points: Vec<String> = series
        .iter()
        .filter(|p| p.1.is_finite())
        .map(|&(step, value)| format!("{:.1},{:.1}", steps.x(step as f64), values.y(value, panel)))
        .collect();
    if !points.is_empty() {
        let _ = writeln!(out, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
    }
}

/// Exponential average with TensorBoard's bias correction, weight 0.9 of the past.
fn smoothed(series: &Series) -> Vec<(u64, f64)> {
    let (mut average, mut weight) = (0.0, 0.0);
    let finite = series.iter().filter(|p| p.1.is_finite());
    finite
        .map(|&(step, value)| {
            average = 0.9 * average + 0.1 * value;
            weight = 0.9 * weight + 0.1;
            (step, average / weight)
        })
        .collect()
}

struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    /// The range of the finite values with a margin.
    fn around(values: &[f64]) -> Self {
        let finite = || values.iter().copied().filter(|v| v.is_finite());
        let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        if low > high {
            return Self { from: 0.0, to: 1.0 };
        }
        let margin = if high > low { (high - low) * 0.06 } else { high.abs().max(1e-6) * 0.5 };
        // Losses and rates are not negative; an axis below zero would only confuse.
        let from = if low >= 0.0 { (low - margin).max(0.0) } else { low - margin };
        Self { from, to: high + margin }
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64, panel: &Panel) -> f64 {
        panel.top + (1.0 - self.share(value)) * panel.height
    }

    /// About `count` round numbers inside the range.
    fn ticks(&self, count: usize) -> Vec<f64> {
        let rough = (self.to - self.from) / count as f64;
        let power = 10f64.powf(rough.log10().floor());
        let spacing = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.from / spacing).ceil() as i64;
        (first..).map(|i| i as f64 * spacing).take_while(|&tick| tick <= self.to).collect()
    }
}

/// Four significant digits without trailing zeros.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if value.abs() < 1e-3 || value.abs() >= 1e7 {
        let text = format!("{value:.2e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'));
    }
    let decimals = (3 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tags balance, attributes are quoted and no bare `&` or `<` is left: enough of XML for what is written here.
    fn check_well_formed(xml: &str) {
        let mut open = Vec::new();
        let mut rest = xml;
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains('>'), "stray > in {:?}", &rest[..start]);
            for entity in rest[..start].split('&').skip(1) {
                let name = entity.split(';').next().unwrap();
                assert!(["amp", "lt", "gt", "quot"].contains(&name), "entity {name}");
            }
            let end = start + rest[start..].find('>').expect("an unclosed tag");
            let tag = &rest[start + 1..end];
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes in {tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().unwrap().to_string());
            }
            rest = &rest[end + 1..];
        }
        assert_eq!(open, Vec::<String>::new());
    }

    #[test]
    fn pictures_are_well_formed() {
        let train: Vec<_> = (1..=50).map(|i| (i, 3.0 / i as f64)).collect();
        let rate: Vec<_> = (1..=50).map(|i| (i, 1e-4 * (1.0 - i as f64 / 50.0))).collect();
        for (train, evaluation, rate) in [
            (train.as_slice(), &[(25, 0.4), (50, 0.3)][..], rate.as_slice()),
            (&train[..1], &[][..], &rate[..1]),
            (&[][..], &[][..], &[][..]),
            (&[(1, f64::NAN), (2, 1.0)][..], &[][..], &[][..]),
        ] {
            let picture = svg("<a> & \"b\"\u{7}", train, evaluation, rate);
            check_well_formed(&picture);
            assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
            assert_eq!(picture.contains("validation loss"), !evaluation.is_empty());
        }
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(number(0.5), "0.5");
        assert_eq!(number(1e-4), "1e-4");
        assert_eq!(number(1234.0), "1234");
        assert_eq!(number(2.34567), "2.346");
        assert_eq!(Scale { from: 0.0, to: 1.0 }.ticks(5).len(), 6);
    }
}
