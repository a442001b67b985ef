//! pass@k: how likely it is that one of k samples of a problem is right (Chen et al. 2021, arXiv 2107.03374).

use std::collections::BTreeMap;

use swift_sdk::metric::{Example, Metric};
use swift_sdk::{Error, Json, Result, Settings};

use crate::sum::{Mean, State};

pub(crate) struct PassAtK {
    k: Vec<u64>,
    group: &'static str,
    correct: Option<&'static str>,
    /// Samples and right samples of each problem.
    problems: BTreeMap<String, (u64, u64)>,
}

/// The chance that of `k` samples drawn from `total`, of which `right` are right, at least one is.
fn chance(total: u64, right: u64, k: u64) -> f64 {
    if total - right < k {
        return 1.0;
    }
    1.0 - (total - right + 1..=total).map(|n| 1.0 - k as f64 / n as f64).product::<f64>()
}

impl PassAtK {
    fn is_right(&self, example: &Example) -> Result<bool> {
        let Some(column) = self.correct else {
            let said = example.prediction.text()?.trim();
            return example
                .references
                .iter()
                .try_fold(false, |right, wanted| Ok(right || wanted.text()?.trim() == said));
        };
        match example.column(column)? {
            Some(Json::Bool(right)) => Ok(right),
            Some(number) if number.as_i64().is_some() => Ok(number.as_i64() >= Some(1)),
            _ => Err(Error::new(["the column `", column, "` is missing or none of true, false, 1 and 0"].concat())),
        }
    }

    fn add(&mut self, problem: &str, total: u64, right: u64) -> Result<()> {
        let entry = self.problems.entry(problem.to_owned()).or_default();
        let sums = entry.0.checked_add(total).zip(entry.1.checked_add(right));
        *entry = sums.filter(|(total, right)| right <= total).ok_or("this is not a state of pass_at_k")?;
        Ok(())
    }
}

impl Metric for PassAtK {
    const NAME: &'static str = "pass_at_k";
    const SUMMARY: &'static str = "chance that one of k samples of a problem is right, unbiased";
    const HIGHER_IS_BETTER: bool = true;

    fn configure(settings: &Settings) -> Result<Self> {
        let count = |value: &Json| value.as_i64().and_then(|k| u64::try_from(k).ok()).filter(|&k| k > 0);
        let k = match settings.value("k") {
            None => Some(vec![1]),
            Some(Json::List(list)) if !list.is_empty() => list.iter().map(count).collect(),
            Some(one) => count(one).map(|k| vec![k]),
        };
        Ok(Self {
            k: k.ok_or_else(|| settings.refuse("k", "a number from 1 on or a list of these is needed"))?,
            group: settings.text_or("group", "id")?.to_owned().leak(),
            correct: settings.optional_text("correct")?.map(|column| &*column.to_owned().leak()),
            problems: BTreeMap::new(),
        })
    }

    fn update(&mut self, examples: &[Example]) -> Result<()> {
        for example in examples {
            let right = self.is_right(example)?;
            let problem = example.column(self.group)?.ok_or_else(|| {
                let hint = "name the column that tells problems apart with the setting `group`";
                Error::new(["a row has no column `", self.group, "`: ", hint].concat())
            })?;
            self.add(&problem.write(), 1, u64::from(right))?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (problem, (total, right)) in &self.problems {
            out.extend((problem.len() as u64).to_le_bytes());
            out.extend(problem.as_bytes());
            out.extend(total.to_le_bytes());
            out.extend(right.to_le_bytes());
        }
        out
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        let mut state = State::new(bytes);
        while !state.is_empty() {
            let problem = state.text()?;
            let (total, right) = (state.number()?, state.number()?);
            self.add(problem, total, right)?;
        }
        Ok(())
    }

    /// pass@k is left out where a problem has fewer than k samples.
    fn compute(&self) -> Result<Vec<(String, f64)>> {
        let mut named = Vec::new();
        for &k in &self.k {
            if self.problems.values().any(|&(total, _)| total < k) {
                continue;
            }
            let mut mean = Mean::default();
            self.problems.values().for_each(|&(total, right)| mean.add(chance(total, right, k)));
            named.extend(mean.value().map(|value| ("pass@".to_owned() + &k.to_string(), value)));
        }
        Ok(named)
    }
}

#[cfg(test)]
mod tests {
    use super::chance;

    #[test]
    fn chances() {
        for (total, right, k, wanted) in [
            (5, 0, 1, 0.0),
            (5, 5, 1, 1.0),
            (5, 2, 1, 0.4),
            (4, 1, 2, 0.5),
            // 1 - C(3,2)/C(5,2)
            (5, 2, 2, 0.7),
            (1, 1, 1, 1.0),
        ] {
            assert!((chance(total, right, k) - wanted).abs() < 1e-12, "{total} {right} {k}");
        }
    }
}
