//! The one place that prints. Results go to standard output, everything else to standard error.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::failure::Failure;

/// Writes to standard output. A closed pipe (`| head`) is not an error.
pub(crate) fn output(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Whether what goes to standard output may have colours: a person reads it and wants them.
pub(crate) fn is_colored() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes a text with styles to standard output; plain unless a person reads it.
pub(crate) fn styled(text: &clap::builder::StyledStr) {
    if is_colored() {
        output(&text.ansi().to_string());
    } else {
        output(&text.to_string());
    }
}

/// Whether only failures are shown.
static SILENT: AtomicBool = AtomicBool::new(false);

/// From here on only failures are shown: another process of the same job says the rest.
pub(crate) fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    if !SILENT.load(Ordering::Relaxed) {
        line(text);
    }
}

fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A warning.
pub(crate) fn warning(text: &str) {
    note(&format!("{} {text}", paint("warning:", "33")));
}

/// A failure with its hints.
pub(crate) fn failure(failure: &Failure) {
    let mut text = format!("{} {}", paint("error:", "31"), failure.message.trim_end());
    for hint in &failure.hints {
        let _ = write!(text, "\n{} {hint}", paint("hint:", "36"));
    }
    line(&text);
}

/// Two columns, the first as wide as needed.
pub(crate) fn table(rows: &[(&str, String)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        note(&format!("  {name:<width$}  {value}"));
    }
}

/// Whether a person watches standard error.
pub(crate) fn is_interactive() -> bool {
    std::io::stderr().is_terminal()
}

fn paint(text: &str, color: &str) -> String {
    if is_interactive() && std::env::var_os("NO_COLOR").is_none() {
        format!("\u{1b}[1;{color}m{text}\u{1b}[0m")
    } else {
        text.into()
    }
}

/// `12345678` as `12,345,678`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
