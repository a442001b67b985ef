//! One column of a row group: entries with their levels, and values, one after another over all its pages.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::Page;
use parquet::file::metadata::ColumnChunkMetaData;

use crate::bits::{Hybrid, width_for};
use crate::decoder::{self, Decoder, Stored, Value};
use crate::pages::Pages;
use crate::source::RangeFile;
use crate::value::{self, Fault, Scalar};

const LEVELS: &str = "damaged levels of a page";

/// Definition and repetition level of an entry.
type Levels = (i16, i16);

pub(crate) struct Column {
    pages: Pages,
    stored: Stored,
    scalar: Scalar,
    max_definition: i16,
    max_repetition: i16,
    dictionary: Option<Rc<Vec<Value>>>,
    /// Of the page: its levels, if it has any, its values, and how many entries it still has.
    definitions: Option<Hybrid>,
    repetitions: Option<Hybrid>,
    values: Option<Decoder>,
    left: u32,
    /// The entry that comes next, once it was looked at.
    next: Option<Levels>,
    /// How many entries were taken.
    taken: u64,
}

impl Column {
    pub(crate) fn open(
        file: Arc<RangeFile>,
        chunk: &ColumnChunkMetaData,
        rows: usize,
        scalar: Scalar,
    ) -> Result<Self, String> {
        let descriptor = chunk.column_descr();
        Ok(Self {
            pages: Pages::new(file, chunk, rows)?,
            stored: Stored {
                physical: descriptor.physical_type(),
                length: usize::try_from(descriptor.type_length()).unwrap_or(0),
            },
            scalar,
            max_definition: descriptor.max_def_level(),
            max_repetition: descriptor.max_rep_level(),
            dictionary: None,
            definitions: None,
            repetitions: None,
            values: None,
            left: 0,
            next: None,
            taken: 0,
        })
    }

    /// Goes to the next page of data; false after the last.
    fn turn(&mut self) -> Result<bool, String> {
        let (mut data, count, encoding) = match self.pages.next()? {
            None => return Ok(false),
            Some(Page::DictionaryPage { buf, num_values, .. }) => {
                let values = decoder::dictionary(buf, num_values as usize, self.stored);
                self.dictionary = Some(Rc::new(values.ok_or("a damaged dictionary")?));
                return Ok(true);
            }
            Some(Page::DataPage { mut buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. }) => {
                let levels = |data: &mut Bytes, most: i16, form: Encoding| match (most, form) {
                    (0, _) => Ok(None),
                    (_, Encoding::RLE) => {
                        Hybrid::with_length(data, width_for(most)).map(Some).ok_or_else(|| LEVELS.to_owned())
                    }
                    (_, form) => Err(format!("levels of the old encoding {form} are not read")),
                };
                self.repetitions = levels(&mut buf, self.max_repetition, rep_level_encoding)?;
                self.definitions = levels(&mut buf, self.max_definition, def_level_encoding)?;
                (buf, num_values, encoding)
            }
            Some(Page::DataPageV2 {
                mut buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, ..
            }) => {
                let levels = |data: &mut Bytes, length: u32, most: i16| {
                    let length = length as usize;
                    let data = if length <= data.len() { data.split_to(length) } else { return Err(LEVELS) };
                    if most == 0 { Ok(None) } else { Hybrid::new(data, width_for(most)).map(Some).ok_or(LEVELS) }
                };
                self.repetitions = levels(&mut buf, rep_levels_byte_len, self.max_repetition)?;
                self.definitions = levels(&mut buf, def_levels_byte_len, self.max_definition)?;
                (buf, num_values, encoding)
            }
        };
        let (data, most) = (std::mem::take(&mut data), count as usize);
        self.values = Some(Decoder::new(encoding, data, most, self.stored, self.dictionary.as_ref())?);
        self.left = count;
        Ok(true)
    }

    /// The levels of what comes next; `None` at the end.
    pub(crate) fn peek(&mut self) -> Result<Option<Levels>, String> {
        if self.next.is_some() {
            return Ok(self.next);
        }
        while self.left == 0 {
            if !self.turn()? {
                return Ok(None);
            }
        }
        let level = |levels: &mut Option<Hybrid>, most: i16| match levels {
            None => Ok(most),
            Some(levels) => {
                let level = levels.next().and_then(|level| i16::try_from(level).ok());
                level.filter(|level| *level <= most).ok_or_else(|| LEVELS.to_owned())
            }
        };
        let definition = level(&mut self.definitions, self.max_definition)?;
        let repetition = level(&mut self.repetitions, self.max_repetition)?;
        self.left -= 1;
        self.next = Some((definition, repetition));
        Ok(self.next)
    }

    /// How many entries were taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether what comes next still belongs to the row of what came last.
    pub(crate) fn is_inside_row(&mut self) -> Result<bool, String> {
        Ok(self.peek()?.is_some_and(|(_, repetition)| repetition > 0))
    }

    /// Takes what comes next: its value, if it has one.
    fn take(&mut self) -> Result<Option<Value>, String> {
        let Some((definition, _)) = self.peek()? else { return Ok(None) };
        self.next = None;
        self.taken += 1;
        if definition != self.max_definition {
            return Ok(None);
        }
        let value = self.values.as_mut().and_then(Decoder::next);
        value.map(Some).ok_or_else(|| "a page has fewer values than it says".into())
    }

    /// Passes over what comes next, whatever it is.
    pub(crate) fn advance(&mut self) -> Result<(), String> {
        self.take().map(drop)
    }

    /// Passes over the rest of a row, or over all of it if none of it was taken since `taken`.
    pub(crate) fn leave_row(&mut self, taken: u64) -> Result<(), String> {
        if self.taken == taken {
            self.advance()?;
        }
        while self.is_inside_row()? {
            self.advance()?;
        }
        Ok(())
    }

    /// Writes the value that comes next; `None` where there is none.
    pub(crate) fn write(&mut self, out: &mut String) -> Result<Option<Result<(), Fault>>, String> {
        let Some(value) = self.take()? else { return Ok(None) };
        let bits = if self.stored.physical == parquet::basic::Type::INT32 { 32 } else { 64 };
        Ok(Some(match value {
            Value::Boolean(value) => {
                out.push_str(if value { "true" } else { "false" });
                Ok(())
            }
            Value::Integer(value) => value::write_integer(out, value, bits, self.scalar),
            Value::Float(value) => {
                value::write_float(out, f64::from(value));
                Ok(())
            }
            Value::Double(value) => {
                value::write_float(out, value);
                Ok(())
            }
            Value::Bytes(bytes) => value::write_bytes(out, &bytes, self.scalar),
        }))
    }
}
