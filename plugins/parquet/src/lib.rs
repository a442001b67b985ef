//! The dataset loader for parquet: files and folders of shards to rows of JSON, read in ranges.
//!
//! The crate `parquet` reads footers and the headers of pages. What it trusts too much, a damaged file ends in a panic of
//! it, is done here: the places in the footer are checked, pages are decompressed up to a limit by codecs in Rust alone,
//! their encodings are read with every length checked, and rows are put together from levels that must agree. It must not
//! know what a row means.

mod bits;
mod codec;
mod column;
mod decoder;
mod pages;
mod reader;
mod rows;
mod schema;
mod shards;
mod source;
#[cfg(test)]
mod tests;
mod value;

pub use reader::{Batch, Reader, Row};
pub use source::{Entry, Files};

/// What the user may set.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Read only these columns.
    pub columns: Option<Vec<String>>,
    /// Bytes that do not say that they are text are text nevertheless: Impala and old Spark wrote such files. Otherwise
    /// they become data URIs.
    pub binary_as_string: bool,
}

#[cfg(target_arch = "wasm32")]
mod plugin {
    //! What the host sees.

    use std::io::{Read, Seek, SeekFrom};
    use std::sync::Arc;

    use swift_sdk::dataset::{self, Loader, Outcome};
    use swift_sdk::{Json, Result, Settings, files};

    use crate::{Entry, Files, Reader};

    /// The files that the host lets this plugin read.
    struct HostFiles;

    impl Files for HostFiles {
        fn entries(&self, path: &str) -> Result<Vec<Entry>, String> {
            let entries = files::entries(path).map_err(|error| error.to_string())?;
            Ok(entries.into_iter().map(|entry| Entry { name: entry.name, is_folder: entry.is_folder }).collect())
        }

        fn size(&self, path: &str) -> Result<u64, String> {
            files::File::open(path).map(|file| file.size()).map_err(|error| error.to_string())
        }

        fn read(&self, path: &str, offset: u64, length: u32) -> Result<Vec<u8>, String> {
            let mut file = files::File::open(path).map_err(|error| error.to_string())?;
            let mut bytes = Vec::with_capacity(length as usize);
            file.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
            file.take(u64::from(length)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            Ok(bytes)
        }
    }

    struct Parquet;

    impl Loader for Parquet {
        const NAME: &'static str = "parquet";
        const SUMMARY: &'static str = "Parquet files and folders of shards";
        const ENDINGS: &'static [&'static str] = &[crate::shards::ENDING];

        fn open(
            location: &str,
            subset: Option<&str>,
            settings: &Settings,
            cursor: Option<&str>,
        ) -> Result<Box<dyn dataset::Reader>> {
            let settings = crate::Settings {
                columns: settings.texts("columns")?.map(|names| names.into_iter().map(str::to_owned).collect()),
                binary_as_string: settings.flag_or("binary_as_string", false)?,
            };
            Ok(Box::new(Reader::open(Arc::new(HostFiles), location, subset, settings, cursor)?))
        }
    }

    impl dataset::Reader for Reader {
        fn length(&self) -> Option<u64> {
            Self::length(self)
        }

        fn next(&mut self, limit: usize) -> Result<dataset::Batch> {
            let batch = Self::next(self, limit)?;
            let outcome = |row: crate::Row| match row {
                Ok(row) => Json::parse(&row).map(Outcome::Row),
                Err(reason) => Ok(Outcome::Dropped(reason)),
            };
            let outcomes = batch.rows.into_iter().map(outcome).collect::<Result<_>>()?;
            Ok(dataset::Batch { outcomes, cursor: batch.cursor, last: batch.last })
        }
    }

    swift_sdk::export_loaders!(Parquet);
}
