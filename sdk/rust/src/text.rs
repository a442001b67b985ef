//! Text that lives as long as the plugin, which is one call.
//!
//! Nothing here is freed and nothing goes through the standard library's formatting: both would be a third of a
//! plugin's size. What is `'static` in this crate is kept in this way.

/// The parts, one after another.
#[inline(never)]
pub(crate) fn join(parts: &[&str]) -> &'static str {
    let mut out = String::new();
    for part in parts {
        out.push_str(part);
    }
    out.leak()
}

/// A whole number in decimal.
pub(crate) fn decimal(number: usize) -> &'static str {
    let mut out = String::new();
    push_decimal(&mut out, number);
    out.leak()
}

fn push_decimal(out: &mut String, number: usize) {
    if number >= 10 {
        push_decimal(out, number / 10);
    }
    out.push((b'0' + (number % 10) as u8) as char);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_parts() {
        assert_eq!(join(&["a", "", "bc"]), "abc");
        assert_eq!([0, 7, 10, 905].map(decimal), ["0", "7", "10", "905"]);
    }
}
