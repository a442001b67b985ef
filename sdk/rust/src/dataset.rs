//! Datasets: rows of any form to canonical rows. A [`Preprocessor`] turns rows that swift can read one by one and is the
//! common case; a [`Loader`] reads sources that swift does not know.
//!
//! A canonical row is a JSON object with the keys of swift's documentation: `messages`, `rejected_response`, `label`,
//! `images`, `tools`, `solution`, ... and any further column.

#[cfg(feature = "loader")]
pub use loader::{Batch, Loader, Reader};
#[cfg(feature = "preprocessor")]
pub use preprocessor::Preprocessor;

use crate::Json;

/// What became of one row of the source. No row is lost in silence: a dropped one has a reason, which is counted.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// One canonical row.
    Row(Json),
    /// Several, for a source row that holds more than one; none at all is an error, as that would be a dropped row.
    Rows(Vec<Json>),
    /// None, for this reason: a few words that are the same for the same trouble ("no answer", not "row 17 ...").
    Dropped(String),
}

impl Outcome {
    /// A row that was dropped for this reason.
    pub fn dropped(reason: &str) -> Self {
        Self::Dropped(reason.to_owned())
    }
}

impl From<Json> for Outcome {
    fn from(row: Json) -> Self {
        Self::Row(row)
    }
}

/// A message of a canonical row: `{"role": ..., "content": ...}`.
pub fn message(role: &str, content: &str) -> Json {
    Json::object([("role", role.into()), ("content", content.into())])
}

#[cfg(feature = "preprocessor")]
mod preprocessor {
    use super::Outcome;
    use crate::{Json, Result, Settings};

    /// Turns rows of a dataset into canonical rows. It must be pure: a row's outcome follows from that row alone.
    ///
    /// ```no_run
    /// use swift_sdk::dataset::{Outcome, Preprocessor, message};
    /// use swift_sdk::{Json, Result, Settings, export_preprocessors};
    ///
    /// struct Riddles;
    ///
    /// impl Preprocessor for Riddles {
    ///     const NAME: &'static str = "riddles";
    ///     const SUMMARY: &'static str = "rows with `riddle` and `answer`";
    ///
    ///     fn configure(_settings: &Settings) -> Result<Self> {
    ///         Ok(Self)
    ///     }
    ///
    ///     fn process(&self, row: Json) -> Result<Outcome> {
    ///         let column = |name| row.get(name).and_then(Json::as_text);
    ///         let Some(riddle) = column("riddle") else { return Err("the rows have no column `riddle`".into()) };
    ///         let Some(answer) = column("answer") else { return Ok(Outcome::dropped("no answer")) };
    ///         let messages = vec![message("user", riddle), message("assistant", answer)];
    ///         Ok(Json::object([("messages", messages.into())]).into())
    ///     }
    /// }
    ///
    /// export_preprocessors!(Riddles);
    /// # fn main() {}
    /// ```
    pub trait Preprocessor: Sized + 'static {
        /// What the user writes after `--preprocessor`: lower case, digits, `_` and `-`.
        const NAME: &'static str;

        /// One line for lists.
        const SUMMARY: &'static str;

        /// Ids of the datasets that it is for ("AI-ModelScope/alpaca-gpt4-data-zh"), for choosing it without being named.
        const DATASETS: &'static [&'static str] = &[];

        /// Reads the settings. One that is not read here is refused by name.
        ///
        /// # Errors
        /// When a setting is wrong; shown to the user as it is.
        fn configure(settings: &Settings) -> Result<Self>;

        /// Turns one row of the source, a JSON object.
        ///
        /// # Errors
        /// Stops the dataset: for rows that are not of this dataset at all. One bad row is an [`Outcome::Dropped`].
        fn process(&self, row: Json) -> Result<Outcome>;
    }
}

#[cfg(feature = "loader")]
mod loader {
    use super::Outcome;
    use crate::{Result, Settings};

    /// Reads sources of a form that swift does not know, through [`crate::files`] or [`crate::http`].
    ///
    /// ```no_run
    /// use std::io::{BufRead, BufReader, Seek, SeekFrom};
    /// use swift_sdk::dataset::{Batch, Loader, Outcome, Reader, message};
    /// use swift_sdk::files::File;
    /// use swift_sdk::{Error, Json, Result, Settings, export_loaders};
    ///
    /// /// Every line of a text file is a document.
    /// struct Lines;
    ///
    /// impl Loader for Lines {
    ///     const NAME: &'static str = "lines";
    ///     const SUMMARY: &'static str = "a document a line";
    ///     const ENDINGS: &'static [&'static str] = &[".lines"];
    ///
    ///     fn open(
    ///         location: &str,
    ///         _subset: Option<&str>,
    ///         _settings: &Settings,
    ///         cursor: Option<&str>,
    ///     ) -> Result<Box<dyn Reader>> {
    ///         let at = cursor.map_or(Ok(0), str::parse).map_err(|_| "not a cursor of this loader")?;
    ///         let mut file = BufReader::new(File::open(location)?);
    ///         file.seek(SeekFrom::Start(at)).map_err(|error| Error::new(error.to_string()))?;
    ///         Ok(Box::new(LinesOf { file, at }))
    ///     }
    /// }
    ///
    /// struct LinesOf {
    ///     file: BufReader<File>,
    ///     /// Where the next line begins.
    ///     at: u64,
    /// }
    ///
    /// impl Reader for LinesOf {
    ///     fn next(&mut self, limit: usize) -> Result<Batch> {
    ///         let mut outcomes = Vec::new();
    ///         while outcomes.len() < limit {
    ///             let mut line = String::new();
    ///             let length = self.file.read_line(&mut line).map_err(|error| Error::new(error.to_string()))?;
    ///             if length == 0 {
    ///                 return Ok(Batch { outcomes, cursor: self.at.to_string(), last: true });
    ///             }
    ///             self.at += length as u64;
    ///             let messages = vec![message("assistant", line.trim_end())];
    ///             outcomes.push(Json::object([("messages", messages.into())]).into());
    ///         }
    ///         Ok(Batch { outcomes, cursor: self.at.to_string(), last: false })
    ///     }
    /// }
    ///
    /// export_loaders!(Lines);
    /// # fn main() {}
    /// ```
    pub trait Loader: 'static {
        /// What the user writes before `::` in a dataset string: lower case, digits, `_` and `-`.
        const NAME: &'static str;

        /// One line for lists.
        const SUMMARY: &'static str;

        /// Endings of file names that it reads (".parquet"), for choosing it without being named.
        const ENDINGS: &'static [&'static str] = &[];

        /// Opens a source from its start, or from where a batch's cursor says. `location` is an absolute path, or whatever
        /// else stood in the dataset string. A setting that is not read here is refused by name.
        ///
        /// # Errors
        /// When the source cannot be read or a setting is wrong; shown to the user as it is.
        fn open(
            location: &str,
            subset: Option<&str>,
            settings: &Settings,
            cursor: Option<&str>,
        ) -> Result<Box<dyn Reader>>;
    }

    /// A source that is being read. The same source gives the same rows.
    pub trait Reader: 'static {
        /// Rows in all, where the source says so without being read.
        fn length(&self) -> Option<u64> {
            None
        }

        /// The next rows of the source, at most `limit` of them (1 or more).
        ///
        /// # Errors
        /// When the source cannot be read any further; one bad row is an [`Outcome::Dropped`].
        fn next(&mut self, limit: usize) -> Result<Batch>;
    }

    /// What a [`Reader`] read.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Batch {
        /// One for each row of the source, in its order.
        pub outcomes: Vec<Outcome>,
        /// Where to go on: [`Loader::open`] with it gives the rows after this batch.
        pub cursor: String,
        /// There are no more rows after these.
        pub last: bool,
    }
}

/// Exports types that implement [`Preprocessor`] as this component's row preprocessors.
#[cfg(feature = "preprocessor")]
#[macro_export]
macro_rules! export_preprocessors {
    ($($preprocessor:ty),+ $(,)?) => {
        const _: () = {
            use $crate::bindings::preprocessor::exports::swift::dataset::preprocessors as wit;
            use $crate::runtime::preprocessor as runtime;

            const PREPROCESSORS: &[runtime::Entry] = &[$(runtime::Entry::of::<$preprocessor>()),+];

            struct Component;

            impl wit::Guest for Component {
                fn preprocessors() -> ::std::vec::Vec<wit::Info> {
                    runtime::preprocessors(PREPROCESSORS)
                }

                fn configure(
                    name: ::std::string::String,
                    config: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    runtime::configure(PREPROCESSORS, &name, &config)
                }

                fn process(
                    rows: ::std::vec::Vec<::std::string::String>,
                ) -> ::core::result::Result<::std::vec::Vec<wit::Outcome>, ::std::string::String> {
                    runtime::process(&rows)
                }
            }

            $crate::bindings::preprocessor::export!(Component with_types_in $crate::bindings::preprocessor);
        };
    };
}

/// Exports types that implement [`Loader`] as this component's dataset loaders.
#[cfg(feature = "loader")]
#[macro_export]
macro_rules! export_loaders {
    ($($loader:ty),+ $(,)?) => {
        const _: () = {
            use $crate::bindings::loader::exports::swift::dataset::loaders as wit;
            use $crate::runtime::loader as runtime;

            const LOADERS: &[runtime::Entry] = &[$(runtime::Entry::of::<$loader>()),+];

            struct Component;

            impl wit::Guest for Component {
                type Reader = runtime::Open;

                fn loaders() -> ::std::vec::Vec<wit::Info> {
                    runtime::loaders(LOADERS)
                }

                fn open(
                    name: ::std::string::String,
                    source: wit::Source,
                    cursor: ::core::option::Option<::std::string::String>,
                ) -> ::core::result::Result<wit::Reader, ::std::string::String> {
                    runtime::open(LOADERS, &name, &source, cursor.as_deref()).map(wit::Reader::new)
                }
            }

            $crate::bindings::loader::export!(Component with_types_in $crate::bindings::loader);
        };
    };
}
