//! Reward functions: completions in, a number or none for each out.
//!
//! ```no_run
//! use swift_sdk::reward::{Outcome, Reward, Sample, State};
//! use swift_sdk::{Result, Settings, export_rewards};
//!
//! /// 1 for a completion of at most `words` words, else 0.
//! struct Brief {
//!     words: usize,
//! }
//!
//! impl Reward for Brief {
//!     const NAME: &'static str = "brief";
//!     const SUMMARY: &'static str = "1 for a completion of at most `words` words";
//!
//!     fn configure(settings: &Settings) -> Result<Self> {
//!         let words = usize::try_from(settings.integer_or("words", 100)?);
//!         Ok(Self { words: words.map_err(|_| settings.refuse("words", "0 or more is needed"))? })
//!     }
//!
//!     fn score(&self, sample: &Sample, _state: &State) -> Outcome {
//!         let words = sample.completion.split_whitespace().count();
//!         Outcome::Score(if words <= self.words { 1.0 } else { 0.0 })
//!     }
//! }
//!
//! export_rewards!(Brief);
//! # fn main() {}
//! ```

pub use crate::bindings::reward::exports::swift::reward::rewards::{Message, Outcome, Sample, State};
use crate::{Error, Json, Result, Settings};

/// A reward function. It must be pure: the same sample gets the same score, whatever was scored before.
pub trait Reward: Sized + 'static {
    /// What the user writes after `--reward_funcs`: lower case, digits, `_` and `-`.
    const NAME: &'static str;

    /// One line for lists.
    const SUMMARY: &'static str;

    /// The score of a sample depends on the others of its batch (a rank, a normalisation): then the host never cuts a
    /// batch, and [`Reward::score_batch`] is the one to write.
    const WHOLE_BATCH: bool = false;

    /// Reads the settings. One that is not read here is refused by name.
    ///
    /// # Errors
    /// When a setting is wrong; shown to the user as it is.
    fn configure(settings: &Settings) -> Result<Self>;

    /// Scores one completion.
    fn score(&self, sample: &Sample, state: &State) -> Outcome;

    /// Scores a batch: one outcome for each sample, in their order.
    ///
    /// # Errors
    /// Fails the whole batch; what is wrong with one sample is its [`Outcome::Failed`].
    fn score_batch(&self, samples: &[Sample], state: &State) -> Result<Vec<Outcome>> {
        Ok(samples.iter().map(|sample| self.score(sample, state)).collect())
    }
}

impl Sample {
    /// The value of a column other than `solution`, as JSON; `None` where the row has none of this name or `null`.
    ///
    /// # Errors
    /// When the host's text of it is not JSON, which is no fault of the plugin.
    pub fn column(&self, name: &str) -> Result<Option<Json>> {
        crate::runtime::column(&self.columns, name)
    }
}

impl State {
    /// Something else that is known of the run; `None` where it is not.
    ///
    /// # Errors
    /// When the host's text of it is not JSON, which is no fault of the plugin.
    pub fn get(&self, name: &str) -> Result<Option<Json>> {
        Ok(Json::parse(&self.extra)?.get(name).cloned())
    }
}

impl From<f64> for Outcome {
    fn from(score: f64) -> Self {
        Self::Score(score)
    }
}

impl From<Option<f64>> for Outcome {
    fn from(score: Option<f64>) -> Self {
        score.map_or(Self::NoScore, Self::Score)
    }
}

impl<T: Into<Outcome>> From<Result<T>> for Outcome {
    fn from(score: Result<T>) -> Self {
        score.map_or_else(|error: Error| Self::Failed(error.message().to_owned()), T::into)
    }
}

/// Exports types that implement [`Reward`] as this component's reward functions.
#[macro_export]
macro_rules! export_rewards {
    ($($reward:ty),+ $(,)?) => {
        const _: () = {
            use $crate::bindings::reward::exports::swift::reward::rewards as wit;
            use $crate::runtime::reward as runtime;

            const REWARDS: &[runtime::Entry] = &[$(runtime::Entry::of::<$reward>()),+];

            struct Component;

            impl wit::Guest for Component {
                fn rewards() -> ::std::vec::Vec<wit::Info> {
                    runtime::rewards(REWARDS)
                }

                fn configure(
                    name: ::std::string::String,
                    config: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    runtime::configure(REWARDS, &name, &config)
                }

                fn score(
                    samples: ::std::vec::Vec<wit::Sample>,
                    state: wit::State,
                ) -> ::core::result::Result<::std::vec::Vec<wit::Outcome>, ::std::string::String> {
                    runtime::score(&samples, &state)
                }
            }

            $crate::bindings::reward::export!(Component with_types_in $crate::bindings::reward);
        };
    };
}
