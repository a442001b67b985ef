//! Decimal text to f64, correctly rounded, without the standard library's tables, which are as large as a plugin.

use std::borrow::Cow;

/// Powers of five up to here fit 64 bits.
const LARGEST_POWER: i32 = 27;

/// Whether `text` is written as a number of JSON, or as one of Python's `NaN`, `Infinity` and `-Infinity`.
pub(crate) fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    matches!(unsigned, "NaN" | "Infinity") || digits_and_power(unsigned).is_some()
}

/// The value of a number of JSON; `None` for text that is none, more than 19 significant digits, or a power of ten
/// beyond 27: no config has such a number where it counts.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (digits, power) = digits_and_power(unsigned)?;
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(if negative { -0.0 } else { 0.0 });
    }
    let shortened = digits.trim_end_matches('0');
    let power = power + (digits.len() - shortened.len()) as i32;
    if shortened.len() > 19 || power.abs() > LARGEST_POWER {
        return None;
    }
    let whole = shortened.bytes().fold(0u64, |whole, digit| whole * 10 + u64::from(digit - b'0'));
    let five = 5u64.pow(power.unsigned_abs());
    // whole * 10^power is whole * 5^power * 2^power. The first product is kept exact, or with a last bit that says
    // whether something was cut off; the conversion rounds once; the power of two is exact.
    let value = if power >= 0 {
        (u128::from(whole) * u128::from(five)) as f64 * power_of_two(power)
    } else {
        let shift = u128::from(whole).leading_zeros() as i32;
        let wide = u128::from(whole) << shift;
        let (quotient, rest) = (wide / u128::from(five), wide % u128::from(five));
        (quotient | u128::from(rest != 0)) as f64 * power_of_two(power - shift)
    };
    Some(if negative { -value } else { value })
}

/// 2^power for the exponents of normal numbers.
fn power_of_two(power: i32) -> f64 {
    f64::from_bits(((1023 + power) as u64) << 52)
}

/// All digits as one whole number and the power of ten behind it.
fn digits_and_power(text: &str) -> Option<(Cow<'_, str>, i32)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, whole(exponent)?),
        None => (text, 0),
    };
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match mantissa.split_once('.') {
        None => all_digits(mantissa).then_some((Cow::Borrowed(mantissa), exponent)),
        Some((before, after)) if all_digits(before) && all_digits(after) => {
            let mut digits = before.to_owned();
            digits.push_str(after);
            Some((Cow::Owned(digits), exponent - i32::try_from(after.len()).ok()?))
        }
        Some(_) => None,
    }
}

/// A signed whole number of at most four digits.
fn whole(text: &str) -> Option<i32> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let fits = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.bytes().fold(0, |number, digit| number * 10 + i32::from(digit & 15));
    fits.then_some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_like_the_standard_library() {
        let mut texts: Vec<String> =
            ["0", "-0", "0.0", "1", "1e-6", "1E-05", "1e+3", "500000.0", "0.1", "0.30000000000000004"]
                .map(String::from)
                .into();
        texts.extend(
            ["1.2079441541679836", "9007199254740993", "18014398509481985", "1e27", "1e-27", "9999999999999999999"]
                .map(String::from),
        );
        // Shortest texts of many values of every size in reach.
        let mut state = 88_172_645_463_325_252u64;
        for _ in 0..20_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let fraction = (state >> 11) as f64 / (1u64 << 53) as f64;
            texts.push(format!("{}", fraction * 10f64.powi((state % 9) as i32 - 4)));
            texts.push(format!("{}e{}", state >> 40, (state % 20) as i32 - 10));
        }
        for text in texts {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(parse(&text).map(f64::to_bits), Some(expected.to_bits()), "{text}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_round() {
        for text in [
            "",
            "-",
            "1.",
            ".5",
            "1e",
            "1e+",
            "0x10",
            "NaN",
            "Infinity",
            "1e28",
            "1e-40",
            "1.00000000000000000001",
            "1_000",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        for (text, number) in
            [("NaN", true), ("-Infinity", true), ("1e400", true), ("1.", false), ("nul", false), ("--1", false)]
        {
            assert_eq!(is_number(text), number, "{text}");
        }
    }
}
