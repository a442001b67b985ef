//! Evaluation metrics: predictions and references in, named numbers out.
//!
//! The host cuts an evaluation into batches and counts each in an instance of its own, on all cores; one last instance
//! puts their states together, in the order of the data. So a metric is what it counted: keep sums, not means.
//!
//! ```no_run
//! use swift_sdk::metric::{Example, Metric};
//! use swift_sdk::{Json, Result, Settings, export_metrics};
//!
//! /// The mean number of characters of the predictions.
//! #[derive(Default)]
//! struct Length {
//!     characters: usize,
//!     count: usize,
//! }
//!
//! impl Metric for Length {
//!     const NAME: &'static str = "length";
//!     const SUMMARY: &'static str = "mean number of characters";
//!     const HIGHER_IS_BETTER: bool = false;
//!
//!     fn configure(_settings: &Settings) -> Result<Self> {
//!         Ok(Self::default())
//!     }
//!
//!     fn update(&mut self, examples: &[Example]) -> Result<()> {
//!         for example in examples {
//!             self.characters += example.prediction.text()?.chars().count();
//!             self.count += 1;
//!         }
//!         Ok(())
//!     }
//!
//!     fn state(&self) -> Vec<u8> {
//!         [self.characters as u64, self.count as u64].map(u64::to_le_bytes).concat()
//!     }
//!
//!     fn merge(&mut self, state: &[u8]) -> Result<()> {
//!         let (numbers, []) = state.as_chunks() else { return Err("a state of another version".into()) };
//!         let &[characters, count] = numbers else { return Err("a state of another version".into()) };
//!         self.characters += u64::from_le_bytes(characters) as usize;
//!         self.count += u64::from_le_bytes(count) as usize;
//!         Ok(())
//!     }
//!
//!     fn compute(&self) -> Result<Vec<(String, f64)>> {
//!         // A mean of nothing is left out.
//!         let mean = (self.count > 0).then(|| self.characters as f64 / self.count as f64);
//!         Ok(mean.into_iter().map(|mean| ("length".to_owned(), mean)).collect())
//!     }
//! }
//!
//! export_metrics!(Length);
//! # fn main() {}
//! ```

pub use crate::bindings::metric::exports::swift::metric::metrics::{Answer, Example};
use crate::{Json, Result, Settings};

/// A metric.
pub trait Metric: Sized + 'static {
    /// What the user writes after `--eval_metric`: lower case, digits, `_` and `-`.
    const NAME: &'static str;

    /// One line for lists.
    const SUMMARY: &'static str;

    /// Whether more is better, for choosing the best checkpoint.
    const HIGHER_IS_BETTER: bool;

    /// Reads the settings, and has counted nothing yet. A setting that is not read here is refused by name.
    ///
    /// # Errors
    /// When a setting is wrong; shown to the user as it is.
    fn configure(settings: &Settings) -> Result<Self>;

    /// Takes a batch in.
    ///
    /// # Errors
    /// When an example has not what this metric needs; ends the evaluation.
    fn update(&mut self, examples: &[Example]) -> Result<()>;

    /// All that was taken in, in a form of your own.
    fn state(&self) -> Vec<u8>;

    /// Takes in what another instance with the same settings took in, as if its batches had come next here.
    ///
    /// # Errors
    /// When this is no such state.
    fn merge(&mut self, state: &[u8]) -> Result<()>;

    /// The named numbers of all that was taken in. Leave out what is not defined: a mean of nothing.
    ///
    /// # Errors
    /// When there can be none; ends the evaluation.
    fn compute(&self) -> Result<Vec<(String, f64)>>;
}

impl Example {
    /// The value of a column, as JSON; `None` where the row has none of this name or `null`.
    ///
    /// # Errors
    /// When the host's text of it is not JSON, which is no fault of the plugin.
    pub fn column(&self, name: &str) -> Result<Option<Json>> {
        crate::runtime::column(&self.columns, name)
    }
}

impl Answer {
    /// The text of a text.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self) -> Result<&str> {
        if let Self::Text(text) = self {
            Ok(text)
        } else {
            Err("this metric needs predictions and references as text".into())
        }
    }

    /// The ids of tokens; -100 marks a position that does not count.
    ///
    /// # Errors
    /// When it is something else.
    pub fn tokens(&self) -> Result<&[i32]> {
        if let Self::Tokens(tokens) = self {
            Ok(tokens)
        } else {
            Err("this metric needs predictions and references as tokens".into())
        }
    }

    /// Scores of candidates, or their relevances.
    ///
    /// # Errors
    /// When it is something else.
    pub fn numbers(&self) -> Result<&[f64]> {
        if let Self::Numbers(numbers) = self {
            Ok(numbers)
        } else {
            Err("this metric needs predictions and references as lists of numbers".into())
        }
    }
}

/// Exports types that implement [`Metric`] as this component's metrics.
#[macro_export]
macro_rules! export_metrics {
    ($($metric:ty),+ $(,)?) => {
        const _: () = {
            use $crate::bindings::metric::exports::swift::metric::metrics as wit;
            use $crate::runtime::metric as runtime;

            const METRICS: &[runtime::Entry] = &[$(runtime::Entry::of::<$metric>()),+];

            struct Component;

            impl wit::Guest for Component {
                fn metrics() -> ::std::vec::Vec<wit::Info> {
                    runtime::metrics(METRICS)
                }

                fn configure(
                    name: ::std::string::String,
                    config: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    runtime::configure(METRICS, &name, &config)
                }

                fn update(
                    examples: ::std::vec::Vec<wit::Example>,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    runtime::update(&examples)
                }

                fn state() -> ::core::result::Result<::std::vec::Vec<u8>, ::std::string::String> {
                    runtime::state()
                }

                fn merge(state: ::std::vec::Vec<u8>) -> ::core::result::Result<(), ::std::string::String> {
                    runtime::merge(&state)
                }

                fn compute() -> ::core::result::Result<
                    ::std::vec::Vec<(::std::string::String, f64)>,
                    ::std::string::String,
                > {
                    runtime::compute()
                }
            }

            $crate::bindings::metric::export!(Component with_types_in $crate::bindings::metric);
        };
    };
}
