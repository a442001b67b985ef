//! Decimal text to f64, correctly rounded, without the standard library's tables, which are as large as a plugin.

/// Powers of five up to here fit 63 bits.
const LARGEST_POWER: i32 = 27;
/// Numbers of this many digits fit 64 bits.
const MOST_DIGITS: u32 = 19;

/// whole * 10^power, where `whole` does not end in zero; it has wrapped where `digits` are too many.
struct Decimal {
    whole: u64,
    digits: u32,
    power: i32,
}

/// The value of a number of JSON; `None` for text that is none, more than 19 significant digits, or a power of ten
/// beyond 27: no config has such a number where it counts.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let (sign, unsigned) = match text.as_bytes() {
        [b'-', rest @ ..] => (-1.0, rest),
        all => (1.0, all),
    };
    let Decimal { whole, digits, power } = read(unsigned)?;
    if whole == 0 {
        return Some(sign * 0.0);
    }
    if digits > MOST_DIGITS || power.abs() > LARGEST_POWER {
        return None;
    }
    let mut five = 1u64;
    for _ in 0..power.unsigned_abs() {
        five *= 5;
    }
    // whole * 10^power is whole * 5^power * 2^power. The first product is kept exact, or to more bits than f64 has with
    // a last bit that says whether something was cut off; the conversion rounds once; the power of two is exact.
    let (value, exponent) = if power >= 0 { multiply(whole, five) } else { divide(whole, five) };
    Some(sign * value as f64 * f64::from_bits(((1023 + power + exponent) as u64) << 52))
}

/// a * b as value * 2^exponent.
fn multiply(a: u64, b: u64) -> (u64, i32) {
    let product = u128::from(a) * u128::from(b);
    let (high, low) = ((product >> 64) as u64, product as u64);
    if high == 0 {
        return (low, 0);
    }
    let shift = high.leading_zeros();
    let top = if shift == 0 { high } else { high << shift | low >> (64 - shift) };
    (top | u64::from(low << shift != 0), 64 - shift as i32)
}

/// a / b as value * 2^exponent, for b below 2^63 and a above 0: one bit after another.
fn divide(a: u64, b: u64) -> (u64, i32) {
    let (mut quotient, mut rest, mut steps) = (0u64, 0u64, 0);
    while steps < 64 || quotient >> 62 == 0 {
        let bit = if steps < 64 { a >> (63 - steps) & 1 } else { 0 };
        rest = rest << 1 | bit;
        quotient <<= 1;
        if rest >= b {
            rest -= b;
            quotient |= 1;
        }
        steps += 1;
    }
    (quotient | u64::from(rest != 0), 64 - steps)
}

/// A number of JSON without its sign.
fn read(text: &[u8]) -> Option<Decimal> {
    let mut decimal = Decimal { whole: 0, digits: 0, power: 0 };
    // Zeros count only once another digit follows.
    let mut zeros = 0;
    // Digits since the start or the point, and whether there was a point.
    let (mut run, mut point) = (0, false);
    let mut exponent = 0;
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                run += 1;
                decimal.power -= i32::from(point);
                zeros += 1;
                if byte != b'0' {
                    let shift = if decimal.whole == 0 { 1 } else { zeros };
                    for _ in 0..shift {
                        decimal.whole = decimal.whole.wrapping_mul(10);
                    }
                    decimal.whole = decimal.whole.wrapping_add(u64::from(byte - b'0'));
                    decimal.digits += shift;
                    zeros = 0;
                }
            }
            b'.' if !point && run > 0 => (run, point) = (0, true),
            b'e' | b'E' if run > 0 => {
                exponent = read_exponent(text.get(at + 1..)?)?;
                break;
            }
            _ => return None,
        }
    }
    decimal.power += exponent + zeros as i32;
    (run > 0).then_some(decimal)
}

/// A signed whole number of at most four digits.
fn read_exponent(text: &[u8]) -> Option<i32> {
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        all => (1, all),
    };
    if digits.len() > 4 { None } else { Some(sign * whole_of(digits)? as i32) }
}

/// An unsigned whole number that fits 32 bits.
pub(crate) fn whole(text: &str) -> Option<u32> {
    whole_of(text.as_bytes())
}

fn whole_of(digits: &[u8]) -> Option<u32> {
    let mut number = 0u64;
    for &digit in digits {
        if !digit.is_ascii_digit() || number > u64::from(u32::MAX) {
            return None;
        }
        number = number * 10 + u64::from(digit - b'0');
    }
    if digits.is_empty() || number > u64::from(u32::MAX) { None } else { Some(number as u32) }
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
    }
}
