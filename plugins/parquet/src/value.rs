//! Values of columns as JSON: what the types of parquet mean.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::schema::types::ColumnDescriptor;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Boolean,
    Signed,
    Unsigned,
    Float,
    Half,
    Text,
    Binary,
    Uuid,
    Decimal {
        scale: u32,
    },
    Date,
    /// Time of a day, in so many ticks a second.
    Time {
        ticks: u32,
    },
    /// A moment: in so many ticks a second since 1970, and whether that is UTC.
    Moment {
        ticks: u32,
        utc: bool,
    },
}

/// A number with more digits after its point than this is damage.
const MAX_SCALE: i32 = 100;

impl Scalar {
    /// By a column's types. `binary_as_string`: bytes that do not say that they are text are text.
    pub(crate) fn of(column: &ColumnDescriptor, binary_as_string: bool) -> Result<Self, String> {
        let physical = column.physical_type();
        if let Some(logical) = column.logical_type_ref() {
            match (logical, physical) {
                (LogicalType::String | LogicalType::Enum | LogicalType::Json, Physical::BYTE_ARRAY) => {
                    return Ok(Self::Text);
                }
                (LogicalType::Integer(of), Physical::INT32 | Physical::INT64) => {
                    return Ok(if of.is_signed { Self::Signed } else { Self::Unsigned });
                }
                (LogicalType::Decimal(of), _) => return decimal(of.scale, physical),
                (LogicalType::Date, Physical::INT32) => return Ok(Self::Date),
                (LogicalType::Time(of), Physical::INT32 | Physical::INT64) => {
                    return Ok(Self::Time { ticks: ticks(&of.unit) });
                }
                (LogicalType::Timestamp(of), Physical::INT64) => {
                    return Ok(Self::Moment { ticks: ticks(&of.unit), utc: of.is_adjusted_to_u_t_c });
                }
                (LogicalType::Uuid, Physical::FIXED_LEN_BYTE_ARRAY) if column.type_length() == 16 => {
                    return Ok(Self::Uuid);
                }
                (LogicalType::Float16, Physical::FIXED_LEN_BYTE_ARRAY) if column.type_length() == 2 => {
                    return Ok(Self::Half);
                }
                _ => {}
            }
        }
        Ok(match (column.converted_type(), physical) {
            (ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON, Physical::BYTE_ARRAY) => Self::Text,
            (
                ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64,
                Physical::INT32 | Physical::INT64,
            ) => Self::Unsigned,
            (ConvertedType::DECIMAL, _) => return decimal(column.type_scale(), physical),
            (ConvertedType::DATE, Physical::INT32) => Self::Date,
            (ConvertedType::TIME_MILLIS, Physical::INT32) => Self::Time { ticks: 1_000 },
            (ConvertedType::TIME_MICROS, Physical::INT64) => Self::Time { ticks: 1_000_000 },
            (ConvertedType::TIMESTAMP_MILLIS, Physical::INT64) => Self::Moment { ticks: 1_000, utc: true },
            (ConvertedType::TIMESTAMP_MICROS, Physical::INT64) => Self::Moment { ticks: 1_000_000, utc: true },
            (_, Physical::BOOLEAN) => Self::Boolean,
            (_, Physical::INT32 | Physical::INT64) => Self::Signed,
            (_, Physical::FLOAT | Physical::DOUBLE) => Self::Float,
            (_, Physical::INT96) => Self::Moment { ticks: 1_000_000_000, utc: false },
            (_, Physical::BYTE_ARRAY) if binary_as_string => Self::Text,
            (_, Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY) => Self::Binary,
        })
    }
}

fn decimal(scale: i32, physical: Physical) -> Result<Scalar, String> {
    match physical {
        Physical::INT32 | Physical::INT64 | Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY
            if (0..=MAX_SCALE).contains(&scale) =>
        {
            Ok(Scalar::Decimal { scale: scale as u32 })
        }
        _ => Err(format!("a decimal number of type {physical} with {scale} digits after its point")),
    }
}

fn ticks(unit: &TimeUnit) -> u32 {
    match unit {
        TimeUnit::MILLIS => 1_000,
        TimeUnit::MICROS => 1_000_000,
        TimeUnit::NANOS => 1_000_000_000,
    }
}

/// A text in quotes.
pub(crate) fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => _ = write!(out, "\\u{control:04x}"),
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

/// What goes wrong with one value: its row is left out for this reason.
pub(crate) type Fault = &'static str;

pub(crate) const NOT_TEXT: Fault = "is not UTF-8";
const NOT_A_NUMBER: Fault = "has a decimal number of too many digits";

/// A value of any integer column.
pub(crate) fn write_integer(out: &mut String, value: i64, bits: u32, scalar: Scalar) -> Result<(), Fault> {
    match scalar {
        Scalar::Unsigned if bits == 32 => _ = write!(out, "{}", value as u32),
        Scalar::Unsigned => _ = write!(out, "{}", value as u64),
        Scalar::Decimal { scale } => write_decimal(out, &value.to_be_bytes(), scale)?,
        Scalar::Date => quoted(out, |out| write_date(out, value)),
        Scalar::Time { ticks } => quoted(out, |out| write_clock(out, i128::from(value), ticks)),
        Scalar::Moment { ticks, utc } => write_moment(out, i128::from(value), ticks, utc),
        _ => _ = write!(out, "{value}"),
    }
    Ok(())
}

/// JSON has no infinities: they become null.
pub(crate) fn write_float(out: &mut String, value: f64) {
    if !value.is_finite() {
        out.push_str("null");
    } else if value.trunc() == value && value.abs() < 1e16 {
        _ = write!(out, "{value:.1}");
    } else if (1e-5..1e16).contains(&value.abs()) {
        _ = write!(out, "{value}");
    } else {
        _ = write!(out, "{value:e}");
    }
}

pub(crate) fn write_bytes(out: &mut String, bytes: &[u8], scalar: Scalar) -> Result<(), Fault> {
    match (scalar, bytes) {
        (Scalar::Text, _) => write_text(out, std::str::from_utf8(bytes).map_err(|_| NOT_TEXT)?),
        (Scalar::Decimal { scale }, _) => write_decimal(out, bytes, scale)?,
        (Scalar::Half, &[low, high]) => write_float(out, half::f16::from_le_bytes([low, high]).to_f64()),
        (Scalar::Uuid, _) => quoted(out, |out| {
            for (index, byte) in bytes.iter().enumerate() {
                if matches!(index, 4 | 6 | 8 | 10) {
                    out.push('-');
                }
                _ = write!(out, "{byte:02x}");
            }
        }),
        (Scalar::Moment { ticks, utc }, _) => write_int96(out, bytes, ticks, utc),
        _ => write_data_uri(out, bytes),
    }
    Ok(())
}

/// Nanoseconds of the day and days since Julian day 0, as Impala and old Spark wrote moments.
fn write_int96(out: &mut String, bytes: &[u8], ticks: u32, utc: bool) {
    let (Some((of_day, day)), true) = (bytes.split_first_chunk::<8>(), bytes.len() == 12) else {
        return write_data_uri(out, bytes);
    };
    let day = u32::from_le_bytes([day[0], day[1], day[2], day[3]]);
    let days = i128::from(day) - 2_440_588;
    let of_day = i128::from(u64::from_le_bytes(*of_day));
    write_moment(out, days * 86_400 * i128::from(ticks) + of_day, ticks, utc);
}

/// `data:image/png;base64,...`: what images and sounds are in a canonical row.
fn write_data_uri(out: &mut String, bytes: &[u8]) {
    quoted(out, |out| {
        out.push_str("data:");
        out.push_str(media_type(bytes));
        out.push_str(";base64,");
        STANDARD.encode_string(bytes, out);
    });
}

/// By the first bytes of the usual formats.
fn media_type(bytes: &[u8]) -> &'static str {
    let is = |at: usize, magic: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic));
    match bytes {
        _ if is(0, b"\x89PNG\r\n\x1a\n") => "image/png",
        _ if is(0, b"\xff\xd8\xff") => "image/jpeg",
        _ if is(0, b"GIF87a") || is(0, b"GIF89a") => "image/gif",
        _ if is(0, b"RIFF") && is(8, b"WEBP") => "image/webp",
        _ if is(0, b"II*\0") || is(0, b"MM\0*") => "image/tiff",
        _ if is(0, b"BM") && is(6, &[0; 4]) => "image/bmp",
        _ if is(0, b"RIFF") && is(8, b"WAVE") => "audio/wav",
        _ if is(0, b"fLaC") => "audio/flac",
        _ if is(0, b"OggS") => "audio/ogg",
        _ if is(0, b"ID3") || is(0, b"\xff\xfb") || is(0, b"\xff\xf3") => "audio/mpeg",
        _ if is(4, b"ftyp") => "video/mp4",
        _ if is(0, b"\x1a\x45\xdf\xa3") => "video/webm",
        _ => "application/octet-stream",
    }
}

fn quoted(out: &mut String, write: impl FnOnce(&mut String)) {
    out.push('"');
    write(out);
    out.push('"');
}

/// A whole number with its high byte first, and a point before its last `scale` digits.
fn write_decimal(out: &mut String, bytes: &[u8], scale: u32) -> Result<(), Fault> {
    if bytes.len() > 64 {
        return Err(NOT_A_NUMBER);
    }
    let negative = bytes.first().is_some_and(|&high| high >= 0x80);
    let mut magnitude = bytes.to_vec();
    if negative {
        for byte in &mut magnitude {
            *byte = !*byte;
        }
        for byte in magnitude.iter_mut().rev() {
            let (sum, carry) = byte.overflowing_add(1);
            *byte = sum;
            if !carry {
                break;
            }
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|&byte| byte != 0) || digits.len() <= scale as usize {
        let mut rest = 0u16;
        for byte in &mut magnitude {
            let part = rest << 8 | u16::from(*byte);
            *byte = (part / 10) as u8;
            rest = part % 10;
        }
        digits.push(b'0' + rest as u8);
    }
    if negative {
        out.push('-');
    }
    for (index, digit) in digits.iter().enumerate().rev() {
        out.push(*digit as char);
        if index == scale as usize && scale > 0 {
            out.push('.');
        }
    }
    Ok(())
}

/// A day of the Gregorian calendar, counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
fn write_date(out: &mut String, days: i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let sign = if year < 0 { "-" } else { "" };
    _ = write!(out, "{sign}{:04}-{month:02}-{day:02}", year.unsigned_abs());
}

fn write_clock(out: &mut String, time: i128, ticks: u32) {
    let (seconds, fraction) = (time.div_euclid(i128::from(ticks)), time.rem_euclid(i128::from(ticks)));
    _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction > 0 {
        // Microseconds, as Python writes them, and nanoseconds where there are some.
        let nanoseconds = fraction * i128::from(1_000_000_000 / ticks);
        if nanoseconds % 1000 == 0 {
            _ = write!(out, ".{:06}", nanoseconds / 1000);
        } else {
            _ = write!(out, ".{nanoseconds:09}");
        }
    }
}

fn write_moment(out: &mut String, time: i128, ticks: u32, utc: bool) {
    let day = 86_400 * i128::from(ticks);
    quoted(out, |out| {
        write_date(out, time.div_euclid(day) as i64);
        out.push('T');
        write_clock(out, time.rem_euclid(day), ticks);
        if utc {
            out.push_str("+00:00");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        write(&mut out);
        out
    }

    #[test]
    fn numbers_are_exact() {
        let decimal = |bytes: &[u8], scale| written(|out| write_decimal(out, bytes, scale).unwrap());
        assert_eq!(decimal(&[0], 0), "0");
        assert_eq!(decimal(&[], 2), "0.00");
        assert_eq!(decimal(&[5], 2), "0.05");
        assert_eq!(decimal(&[0x04, 0xd2], 2), "12.34");
        assert_eq!(decimal(&[0xfb, 0x2e], 2), "-12.34");
        assert_eq!(decimal(&i64::MIN.to_be_bytes(), 0), "-9223372036854775808");
        assert_eq!(decimal(&i128::MAX.to_be_bytes(), 38), "1.70141183460469231731687303715884105727");
        assert!(write_decimal(&mut String::new(), &[1; 65], 0).is_err());
        let float = |value| written(|out| write_float(out, value));
        let cases = [(1.0, "1.0"), (0.1, "0.1"), (-2.5e-7, "-2.5e-7"), (1e22, "1e22"), (0.0, "0.0")];
        for (value, text) in cases {
            assert_eq!(float(value), text);
        }
        assert_eq!(float(f64::INFINITY), "null");
        assert_eq!(written(|out| write_integer(out, -1, 32, Scalar::Unsigned).unwrap()), "4294967295");
        assert_eq!(written(|out| write_integer(out, -1, 64, Scalar::Unsigned).unwrap()), "18446744073709551615");
    }

    #[test]
    fn days_and_moments() {
        let date = |days| written(|out| write_date(out, days));
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(-1), "1969-12-31");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(-719_528), "0000-01-01");
        assert_eq!(date(i64::from(i32::MAX)).len(), "5881580-07-11".len());
        let moment = |time, ticks, utc| written(|out| write_moment(out, time, ticks, utc));
        assert_eq!(moment(1_700_000_000_123, 1000, true), "\"2023-11-14T22:13:20.123000+00:00\"");
        assert_eq!(moment(-1, 1_000_000_000, false), "\"1969-12-31T23:59:59.999999999\"");
        assert_eq!(moment(86_400, 1, false), "\"1970-01-02T00:00:00\"");
    }

    #[test]
    fn text_is_escaped_and_bytes_say_what_they_are() {
        assert_eq!(written(|out| write_text(out, "a\"\\\n\u{1}é")), "\"a\\\"\\\\\\n\\u0001é\"");
        assert_eq!(written(|out| write_data_uri(out, b"GIF89a")), "\"data:image/gif;base64,R0lGODlh\"");
        assert_eq!(written(|out| write_data_uri(out, b"\0")), "\"data:application/octet-stream;base64,AA==\"");
    }
}
