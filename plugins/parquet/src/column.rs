//! One column of a row group: its values and levels, some rows at a time.

use std::sync::Arc;

use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use parquet::errors::Result;
use parquet::file::metadata::ColumnChunkMetaData;

use crate::pages::Pages;
use crate::source::RangeFile;
use crate::value::{self, Fault, Scalar};

enum Values {
    Boolean(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int96(Vec<Int96>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
    Fixed(Vec<FixedLenByteArray>),
}

pub(crate) struct Column {
    reader: ColumnReader,
    scalar: Scalar,
    max_definition: i16,
    max_repetition: i16,
    values: Values,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    /// Levels that were read, and those that were taken. Without levels, values.
    levels: usize,
    at_level: usize,
    at_value: usize,
}

/// Runs the same code for every type of column.
macro_rules! each {
    ($column:expr, |$reader:ident, $values:ident| $body:expr) => {
        match (&mut $column.reader, &mut $column.values) {
            (ColumnReader::BoolColumnReader($reader), Values::Boolean($values)) => $body,
            (ColumnReader::Int32ColumnReader($reader), Values::Int32($values)) => $body,
            (ColumnReader::Int64ColumnReader($reader), Values::Int64($values)) => $body,
            (ColumnReader::Int96ColumnReader($reader), Values::Int96($values)) => $body,
            (ColumnReader::FloatColumnReader($reader), Values::Float($values)) => $body,
            (ColumnReader::DoubleColumnReader($reader), Values::Double($values)) => $body,
            (ColumnReader::ByteArrayColumnReader($reader), Values::Bytes($values)) => $body,
            (ColumnReader::FixedLenByteArrayColumnReader($reader), Values::Fixed($values)) => $body,
            _ => unreachable!("values are made for their reader"),
        }
    };
}

impl Column {
    pub(crate) fn open(file: Arc<RangeFile>, chunk: &ColumnChunkMetaData, rows: usize, scalar: Scalar) -> Result<Self> {
        let pages = Box::new(Pages::new(file, chunk, rows)?);
        let descriptor = chunk.column_descr_ptr();
        let (max_definition, max_repetition) = (descriptor.max_def_level(), descriptor.max_rep_level());
        let reader = get_column_reader(descriptor, pages);
        let values = match &reader {
            ColumnReader::BoolColumnReader(_) => Values::Boolean(Vec::new()),
            ColumnReader::Int32ColumnReader(_) => Values::Int32(Vec::new()),
            ColumnReader::Int64ColumnReader(_) => Values::Int64(Vec::new()),
            ColumnReader::Int96ColumnReader(_) => Values::Int96(Vec::new()),
            ColumnReader::FloatColumnReader(_) => Values::Float(Vec::new()),
            ColumnReader::DoubleColumnReader(_) => Values::Double(Vec::new()),
            ColumnReader::ByteArrayColumnReader(_) => Values::Bytes(Vec::new()),
            ColumnReader::FixedLenByteArrayColumnReader(_) => Values::Fixed(Vec::new()),
        };
        Ok(Self {
            reader,
            scalar,
            max_definition,
            max_repetition,
            values,
            definitions: Vec::new(),
            repetitions: Vec::new(),
            levels: 0,
            at_level: 0,
            at_value: 0,
        })
    }

    /// Passes over rows without making anything of them; answers how many there were.
    pub(crate) fn skip(&mut self, rows: usize) -> Result<usize> {
        each!(self, |reader, _values| reader.skip_records(rows))
    }

    /// Forgets what was read and reads the next rows; answers how many there were.
    pub(crate) fn fill(&mut self, rows: usize) -> Result<usize> {
        self.definitions.clear();
        self.repetitions.clear();
        (self.at_level, self.at_value) = (0, 0);
        let (definitions, repetitions) = (&mut self.definitions, &mut self.repetitions);
        let (rows, _, levels) = each!(self, |reader, values| {
            values.clear();
            reader.read_records(rows, Some(definitions), Some(repetitions), values)?
        });
        self.levels = levels;
        Ok(rows)
    }

    /// Definition and repetition level of what comes next.
    pub(crate) fn peek(&self) -> Option<(i16, i16)> {
        if self.at_level >= self.levels {
            return None;
        }
        let definition =
            if self.max_definition == 0 { 0 } else { self.definitions.get(self.at_level).copied().unwrap_or(-1) };
        let repetition =
            if self.max_repetition == 0 { 0 } else { self.repetitions.get(self.at_level).copied().unwrap_or(0) };
        Some((definition, repetition))
    }

    /// How many entries were taken since the last filling.
    pub(crate) fn position(&self) -> usize {
        self.at_level
    }

    /// Whether what comes next still belongs to the row of what came last.
    pub(crate) fn is_inside_row(&self) -> bool {
        self.peek().is_some_and(|(_, repetition)| repetition > 0)
    }

    /// Passes over what comes next, whatever it is.
    pub(crate) fn advance(&mut self) {
        if let Some((definition, _)) = self.peek() {
            self.at_value += usize::from(definition == self.max_definition);
            self.at_level += 1;
        }
    }

    /// Writes the value that comes next; `None` where there is none.
    pub(crate) fn write(&mut self, out: &mut String) -> Option<std::result::Result<(), Fault>> {
        let (definition, _) = self.peek()?;
        if definition != self.max_definition {
            return None;
        }
        let at = self.at_value;
        let written = match &self.values {
            Values::Boolean(values) => {
                out.push_str(if *values.get(at)? { "true" } else { "false" });
                Ok(())
            }
            Values::Int32(values) => value::write_integer(out, i64::from(*values.get(at)?), 32, self.scalar),
            Values::Int64(values) => value::write_integer(out, *values.get(at)?, 64, self.scalar),
            Values::Int96(values) => {
                value::write_int96(out, values.get(at)?);
                Ok(())
            }
            Values::Float(values) => {
                value::write_float(out, f64::from(*values.get(at)?));
                Ok(())
            }
            Values::Double(values) => {
                value::write_float(out, *values.get(at)?);
                Ok(())
            }
            Values::Bytes(values) => value::write_bytes(out, values.get(at)?, self.scalar),
            Values::Fixed(values) => value::write_fixed(out, values.get(at)?, self.scalar),
        };
        self.advance();
        Some(written)
    }
}
