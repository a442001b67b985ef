//! The values of a page, one after another, in each encoding of the format.

use std::rc::Rc;

use bytes::{Buf, Bytes};
use parquet::basic::{Encoding, Type as Physical};

use crate::bits::{Hybrid, deltas};

/// A value as it is stored.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Boolean(bool),
    /// Of either width.
    Integer(i64),
    Float(f32),
    Double(f64),
    /// Also fixed ones, and the twelve bytes of old moments.
    Bytes(Bytes),
}

/// How values are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) physical: Physical,
    /// Bytes of a value of fixed length.
    pub(crate) length: usize,
}

impl Stored {
    /// Bytes of a plain value; `None`: each has its own.
    fn size(self) -> Option<usize> {
        match self.physical {
            Physical::INT32 | Physical::FLOAT => Some(4),
            Physical::INT64 | Physical::DOUBLE => Some(8),
            Physical::INT96 => Some(12),
            Physical::FIXED_LEN_BYTE_ARRAY => Some(self.length),
            Physical::BOOLEAN | Physical::BYTE_ARRAY => None,
        }
    }

    /// A value of fixed size.
    fn of(self, bytes: Bytes) -> Option<Value> {
        Some(match self.physical {
            Physical::INT32 => Value::Integer(i64::from(i32::from_le_bytes(bytes.as_ref().try_into().ok()?))),
            Physical::INT64 => Value::Integer(i64::from_le_bytes(bytes.as_ref().try_into().ok()?)),
            Physical::FLOAT => Value::Float(f32::from_le_bytes(bytes.as_ref().try_into().ok()?)),
            Physical::DOUBLE => Value::Double(f64::from_le_bytes(bytes.as_ref().try_into().ok()?)),
            _ => Value::Bytes(bytes),
        })
    }

    /// The next plain value.
    fn plain(self, data: &mut Bytes) -> Option<Value> {
        let size = match self.size() {
            Some(size) => size,
            None if data.len() < 4 => return None,
            None => data.get_u32_le() as usize,
        };
        if size > data.len() { None } else { self.of(data.split_to(size)) }
    }
}

/// The values of a page.
pub(crate) enum Decoder {
    Plain {
        data: Bytes,
        stored: Stored,
    },
    /// Plain booleans: eight in a byte.
    Bits {
        data: Bytes,
        at: usize,
    },
    /// Booleans in runs.
    Runs(Hybrid),
    Dictionary {
        indices: Hybrid,
        dictionary: Rc<Vec<Value>>,
    },
    Integers {
        values: std::vec::IntoIter<i64>,
        narrow: bool,
    },
    /// All lengths, then all bytes.
    Lengths {
        lengths: std::vec::IntoIter<i64>,
        data: Bytes,
    },
    /// How much of the value before is kept, and what comes after it.
    Prefixes {
        prefixes: std::vec::IntoIter<i64>,
        lengths: std::vec::IntoIter<i64>,
        data: Bytes,
        last: Bytes,
    },
    /// All first bytes, then all second ones, ...
    Split {
        data: Bytes,
        size: usize,
        at: usize,
        stored: Stored,
    },
}

impl Decoder {
    /// For the values of a page, at most `most`. The error says what cannot be read.
    pub(crate) fn new(
        encoding: Encoding,
        mut data: Bytes,
        most: usize,
        stored: Stored,
        dictionary: Option<&Rc<Vec<Value>>>,
    ) -> Result<Self, String> {
        let damaged = || format!("damaged values of encoding {encoding}");
        let made = match (encoding, stored.physical) {
            (Encoding::PLAIN, Physical::BOOLEAN) => Some(Self::Bits { data, at: 0 }),
            (Encoding::PLAIN, _) => Some(Self::Plain { data, stored }),
            (Encoding::RLE, Physical::BOOLEAN) => Hybrid::with_length(&mut data, 1).map(Self::Runs),
            (Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY, _) => {
                let dictionary = dictionary.ok_or("values of a dictionary that is not there")?.clone();
                // A page without values has no width either.
                let width = if data.is_empty() { 0 } else { u32::from(data.get_u8()) };
                Hybrid::new(data, width).map(|indices| Self::Dictionary { indices, dictionary })
            }
            (Encoding::DELTA_BINARY_PACKED, Physical::INT32 | Physical::INT64) => {
                let narrow = stored.physical == Physical::INT32;
                deltas(&mut data, most).map(|values| Self::Integers { values: values.into_iter(), narrow })
            }
            (Encoding::DELTA_LENGTH_BYTE_ARRAY, Physical::BYTE_ARRAY) => {
                deltas(&mut data, most).map(|lengths| Self::Lengths { lengths: lengths.into_iter(), data })
            }
            (Encoding::DELTA_BYTE_ARRAY, Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY) => {
                let prefixes = deltas(&mut data, most).ok_or_else(damaged)?.into_iter();
                let lengths = deltas(&mut data, most).map(Vec::into_iter);
                lengths.map(|lengths| Self::Prefixes { prefixes, lengths, data, last: Bytes::new() })
            }
            (Encoding::BYTE_STREAM_SPLIT, _) => match stored.size() {
                Some(size) if size > 0 && data.len().is_multiple_of(size) => {
                    Some(Self::Split { data, size, at: 0, stored })
                }
                _ => None,
            },
            (encoding, physical) => {
                return Err(format!("values of type {physical} and encoding {encoding} are not read"));
            }
        };
        made.ok_or_else(damaged)
    }

    /// The next value; `None` where the data do not have it.
    pub(crate) fn next(&mut self) -> Option<Value> {
        match self {
            Self::Plain { data, stored } => stored.plain(data),
            Self::Bits { data, at } => {
                let byte = data.get(*at / 8)?;
                *at += 1;
                Some(Value::Boolean(byte >> ((*at - 1) % 8) & 1 == 1))
            }
            Self::Runs(runs) => runs.next().map(|value| Value::Boolean(value != 0)),
            Self::Dictionary { indices, dictionary } => dictionary.get(indices.next()? as usize).cloned(),
            Self::Integers { values, narrow } => {
                let value = values.next()?;
                Some(Value::Integer(if *narrow { i64::from(value as i32) } else { value }))
            }
            Self::Lengths { lengths, data } => take(data, lengths.next()?).map(Value::Bytes),
            Self::Prefixes { prefixes, lengths, data, last } => {
                let kept = usize::try_from(prefixes.next()?).ok()?;
                let suffix = take(data, lengths.next()?)?;
                *last = match last.get(..kept)? {
                    [] => suffix,
                    prefix => [prefix, &suffix].concat().into(),
                };
                Some(Value::Bytes(last.clone()))
            }
            Self::Split { data, size, at, stored } => {
                let stride = data.len() / *size;
                if *at >= stride {
                    return None;
                }
                let bytes: Vec<u8> = (0..*size).map(|byte| data[byte * stride + *at]).collect();
                *at += 1;
                stored.of(bytes.into())
            }
        }
    }
}

fn take(data: &mut Bytes, length: i64) -> Option<Bytes> {
    let length = usize::try_from(length).ok().filter(|length| *length <= data.len())?;
    Some(data.split_to(length))
}

/// The values of a dictionary page.
pub(crate) fn dictionary(data: Bytes, count: usize, stored: Stored) -> Option<Vec<Value>> {
    let mut decoder = match stored.physical {
        Physical::BOOLEAN => Decoder::Bits { data, at: 0 },
        _ => Decoder::Plain { data, stored },
    };
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(decoder.next()?);
    }
    Some(values)
}
