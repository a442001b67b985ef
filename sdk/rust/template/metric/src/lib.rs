//! A metric: how many predictions equal a reference.

use swift_sdk::metric::{Example, Metric};
use swift_sdk::{Json, Result, Settings, export_metrics};

/// What was taken in so far.
struct ExactMatch {
    right: i64,
    count: i64,
}

impl Metric for ExactMatch {
    const NAME: &'static str = "exact_match";
    const SUMMARY: &'static str = "Share of predictions that equal a reference";
    const HIGHER_IS_BETTER: bool = true;

    fn configure(_settings: &Settings) -> Result<Self> {
        Ok(Self { right: 0, count: 0 })
    }

    fn update(&mut self, examples: &[Example]) -> Result<()> {
        for example in examples {
            let prediction = example.prediction.text()?.trim_ascii();
            let mut right = false;
            for reference in &example.references {
                right |= reference.text()?.trim_ascii() == prediction;
            }
            self.right += i64::from(right);
            self.count += 1;
        }
        Ok(())
    }

    fn state(&self) -> Vec<u8> {
        Json::object([("right", self.right.into()), ("count", self.count.into())]).write().into_bytes()
    }

    fn merge(&mut self, state: &[u8]) -> Result<()> {
        let state = Json::parse(&String::from_utf8_lossy(state))?;
        let number = |key| state.get(key).and_then(Json::as_i64).ok_or("a state of another version");
        self.right += number("right")?;
        self.count += number("count")?;
        Ok(())
    }

    fn compute(&self) -> Result<Vec<(String, f64)>> {
        // A mean of nothing is left out.
        let mean = (self.count > 0).then(|| self.right as f64 / self.count as f64);
        Ok(mean.map(|mean| ("exact_match".to_owned(), mean)).into_iter().collect())
    }
}

export_metrics!(ExactMatch);
