//! Reads the rows of a dataset, from its start or from a cursor.

use std::sync::Arc;

use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};

use crate::codec;
use crate::column::Column;
use crate::rows;
use crate::schema::{self, Node};
use crate::source::{Files, RangeFile};
use crate::value::Scalar;
use crate::{Settings, shards};

/// A batch ends when its rows have this many bytes, though fewer than were asked for: rows may hold images.
const BATCH_BYTES: usize = 8 << 20;
/// The largest footer: the schema, and where the columns of each row group are.
const LARGEST_FOOTER: u64 = 64 << 20;

/// A row as JSON, or the reason why it is left out.
pub type Row = Result<String, String>;

pub struct Batch {
    pub rows: Vec<Row>,
    /// Where to go on.
    pub cursor: String,
    pub last: bool,
}

pub struct Reader {
    files: Arc<dyn Files>,
    settings: Settings,
    shards: Vec<String>,
    place: Place,
    open: Option<Shard>,
    group: Option<Group>,
}

/// The next row: shard, row group and row, each counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    shard: usize,
    group: usize,
    row: usize,
}

/// An open file.
struct Shard {
    file: Arc<RangeFile>,
    metadata: ParquetMetaData,
    fields: Vec<Node>,
}

/// The columns of an open row group; those that are not wanted are not opened.
type Group = Vec<Option<Column>>;

impl Reader {
    /// Opens a dataset at its start, or where a cursor says.
    pub fn open(
        files: Arc<dyn Files>,
        location: &str,
        subset: Option<&str>,
        settings: Settings,
        cursor: Option<&str>,
    ) -> Result<Self, String> {
        let shards = shards::find(&*files, location, subset)?;
        let place = match cursor {
            None => Place { shard: 0, group: 0, row: 0 },
            Some(cursor) => place(cursor, &shards)?,
        };
        let mut reader = Self { files, settings, shards, place, open: None, group: None };
        // What is wrong with the first file is said now, not after the run has begun.
        reader.settle()?;
        Ok(reader)
    }

    /// Rows of all shards, as their footers say.
    pub fn length(&self) -> Option<u64> {
        self.shards.iter().try_fold(0u64, |sum, path| {
            let shard = Shard::open(self.files.clone(), path, &self.settings).ok()?;
            sum.checked_add(u64::try_from(shard.metadata.file_metadata().num_rows()).ok()?)
        })
    }

    /// The next rows, at most `limit`.
    pub fn next(&mut self, limit: usize) -> Result<Batch, String> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while rows.len() < limit && bytes < BATCH_BYTES && self.settle()? {
            let row = self.read().map_err(|error| self.say(&error))?;
            bytes += row.as_ref().map_or(0, String::len);
            rows.push(row);
        }
        let last = !self.settle()?;
        let path = self.shards.get(self.place.shard).or(self.shards.last());
        let name = path.map_or("", |path| file_name(path));
        let Place { shard, group, row } = self.place;
        Ok(Batch { rows, cursor: format!("{shard}/{group}/{row}/{name}"), last })
    }

    /// Goes to the next row that there is, opening what has to be opened; false at the end.
    fn settle(&mut self) -> Result<bool, String> {
        while let Some(path) = self.shards.get(self.place.shard) {
            if self.open.is_none() {
                let shard = Shard::open(self.files.clone(), path, &self.settings);
                self.open = Some(shard.map_err(|error| self.say(&error))?);
            }
            let shard = self.open.as_ref().expect("it was opened");
            while self.place.group < shard.metadata.num_row_groups() {
                let metadata = shard.metadata.row_group(self.place.group);
                let rows = usize::try_from(metadata.num_rows()).map_err(|_| {
                    self.say(&format!("row group {} has {} rows", self.place.group, metadata.num_rows()))
                })?;
                if self.place.row < rows {
                    return Ok(true);
                }
                self.group = None;
                self.place = Place { group: self.place.group + 1, row: 0, ..self.place };
            }
            self.open = None;
            self.place = Place { shard: self.place.shard + 1, group: 0, row: 0 };
        }
        Ok(false)
    }

    /// Reads the row that was settled on.
    fn read(&mut self) -> Result<Row, String> {
        let shard = self.open.as_ref().expect("settled");
        let group = match &mut self.group {
            Some(group) => group,
            None => self.group.insert(shard.group(self.place, &self.settings)?),
        };
        self.place.row += 1;
        rows::next(group, &shard.fields)
    }

    /// An error with the file it is in.
    fn say(&self, error: &str) -> String {
        let path = self.shards.get(self.place.shard).map_or("", String::as_str);
        format!("{}: {error}", file_name(path))
    }
}

impl Shard {
    fn open(files: Arc<dyn Files>, path: &str, settings: &Settings) -> Result<Self, String> {
        let file = Arc::new(RangeFile::open(files, path)?);
        check_footer(&file)?;
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&*file).map_err(|error| error.to_string())?;
        let fields = schema::fields(metadata.file_metadata().schema_descr(), settings.columns.as_deref())?;
        Ok(Self { file, metadata, fields })
    }

    /// Opens the columns of a row group at a row.
    fn group(&self, place: Place, settings: &Settings) -> Result<Group, String> {
        let metadata = self.metadata.row_group(place.group);
        let rows = usize::try_from(metadata.num_rows()).map_err(|_| "a row group of less than no rows".to_owned())?;
        let mut columns = Group::new();
        columns.resize_with(metadata.num_columns(), || None);
        for field in &self.fields {
            for index in field.leaves.clone() {
                let column = self.column(metadata, index, rows, place.row, settings);
                let slot = columns.get_mut(index).ok_or("a row group has fewer columns than the schema")?;
                *slot = Some(column.map_err(|error| format!("column `{}`: {error}", field.name))?);
            }
        }
        Ok(columns)
    }

    fn column(
        &self,
        metadata: &RowGroupMetaData,
        index: usize,
        rows: usize,
        skip: usize,
        settings: &Settings,
    ) -> Result<Column, String> {
        let chunk = metadata.columns().get(index).ok_or("a row group has fewer columns than the schema")?;
        if chunk.file_path().is_some() {
            return Err("its data lie in another file, which is not read".into());
        }
        codec::check(chunk.compression_codec())?;
        let places = [Some(chunk.data_page_offset()), chunk.dictionary_page_offset(), Some(chunk.compressed_size())];
        let inside = |place: i64| u64::try_from(place).is_ok_and(|place| place <= self.file.size());
        if !places.into_iter().flatten().all(inside) {
            return Err("its data lie outside of the file".into());
        }
        let scalar = Scalar::of(chunk.column_descr(), settings.binary_as_string)?;
        let mut column = Column::open(self.file.clone(), chunk, rows, scalar)?;
        for _ in 0..skip {
            column.leave_row(column.taken())?;
        }
        Ok(column)
    }
}

/// The end of the file says how long its footer is; nothing else is believed before that fits.
fn check_footer(file: &RangeFile) -> Result<(), String> {
    if file.size() < 12 {
        return Err(format!("no parquet file: it has {} bytes", file.size()));
    }
    let end = file.range(file.size() - 8, 8)?;
    let (length, magic) = end.split_at(4);
    match magic {
        b"PAR1" => {}
        b"PARE" => return Err("the file is encrypted, which is not read; write it again without encryption".into()),
        _ => return Err("no parquet file: it does not end with PAR1; is it cut off?".into()),
    }
    let length = u64::from(u32::from_le_bytes(length.try_into().expect("four bytes")));
    if length > LARGEST_FOOTER || length + 12 > file.size() {
        return Err(format!("its footer should have {length} bytes, the file has {}", file.size()));
    }
    Ok(())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Reads a cursor; it must be of these shards.
fn place(cursor: &str, shards: &[String]) -> Result<Place, String> {
    let mut parts = cursor.splitn(4, '/');
    let mut number = || parts.next()?.parse::<usize>().ok();
    let numbers = (number(), number(), number());
    let (Some(shard), Some(group), Some(row)) = numbers else {
        return Err(format!("`{cursor}` is no cursor of this loader"));
    };
    let name = parts.next().unwrap_or_default();
    let path = shards.get(shard).or(shards.last().filter(|_| shard == shards.len()));
    if path.is_none_or(|path| file_name(path) != name) {
        return Err(format!("the dataset has changed: its shard {} is not `{name}` any more", shard + 1));
    }
    Ok(Place { shard, group, row })
}
