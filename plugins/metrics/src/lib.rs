//! The evaluation metrics that come with swift: token and sequence accuracy, exact match, ROUGE, BLEU, pass@k, MRR, NDCG.
//!
//! Definitions are those of ms-swift and of the packages that it stands on; `docs/plugins/metrics.md` says where not. A
//! metric gives the same numbers to the last bit however the data is cut: all states are whole numbers. This file knows
//! the plugin interface; the modules know only words and numbers.

mod bleu;
mod pass;
mod ranking;
mod rouge;
mod sum;
mod tokens;
mod words;

use swift_sdk::metric::{Answer, Example, Metric};
use swift_sdk::{Error, Result, Settings, export_metrics};

use pass::PassAtK;
use rouge::Sentences;
use sum::{Mean, State};
use words::Numbering;

/// The means that are defined.
fn named(means: &[(&str, Mean)], scale: f64) -> Vec<(String, f64)> {
    let value = |(name, mean): &(&str, Mean)| Some(((*name).to_owned(), mean.value()? * scale));
    means.iter().filter_map(value).collect()
}

fn state(means: &[Mean]) -> Vec<u8> {
    let mut out = Vec::new();
    means.iter().for_each(|mean| mean.write(&mut out));
    out
}

fn merge(means: &mut [&mut Mean], bytes: &[u8]) -> Result<()> {
    let mut state = State::new(bytes);
    for mean in means {
        mean.merge(&mut state)?;
    }
    state.end()
}

/// The one reference of an example.
fn only_reference(example: &Example) -> Result<&Answer> {
    match &example.references[..] {
        [reference] => Ok(reference),
        [] => Err("a row has no reference".into()),
        _ => Err("a row has several references; this metric compares with one".into()),
    }
}

/// Two lists that belong together, but not in length.
fn unequal(one: &str, length: usize, two: &str, other: usize) -> Error {
    Error::new(
        ["as many ", one, " as ", two, " are needed: ", &length.to_string(), " and ", &other.to_string()].concat(),
    )
}

/// The share of right tokens, or of sequences whose tokens are all right.
struct Accuracy {
    sequences: bool,
    mean: Mean,
}

impl Metric for Accuracy {
    const NAME: &'static str = "acc";
    const SUMMARY: &'static str = "share of right tokens (acc_strategy token) or wholly right sequences (seq)";
    const HIGHER_IS_BETTER: bool = true;

    fn configure(settings: &Settings) -> Result<Self> {
        let sequences = match settings.text_or("acc_strategy", "token")? {
            "token" => false,
            "seq" => true,
            _ => return Err(settings.refuse("acc_strategy", "`token` or `seq` is needed")),
        };
        Ok(Self { sequences, mean: Mean::default() })
    }

    fn update(&mut self, examples: &[Example]) -> Result<()> {
        for example in examples {
            let (said, wanted) = (example.prediction.tokens()?, only_reference(example)?.tokens()?);
            if said.len() != wanted.len() {
                return Err(unequal("predicted tokens", said.len(), "those of the reference", wanted.len()));
            }
            let mut right =
                said.iter().zip(wanted).filter(|(_, wanted)| **wanted != -100).map(|(said, wanted)| said == wanted);
            if !self.sequences {
                right.for_each(|right| self.mean.add(f64::from(u8::from(right))));
            } else if let Some(first) = right.next() {
                // A sequence without a token that counts does not count.
                self.mean.add(f64::from(u8::from(first && right.all(|right| right))));
            }
        }
        Ok(())
    }

    fn state(&self) -> Vec<u8> {
        state(&[self.mean])
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        merge(&mut [&mut self.mean], bytes)
    }

    fn compute(&self) -> Result<Vec<(String, f64)>> {
        Ok(named(&[(if self.sequences { "seq_acc" } else { "token_acc" }, self.mean)], 1.0))
    }
}

/// The share of predictions that are one of their references.
struct ExactMatch {
    ignore_case: bool,
    ignore_punctuation: bool,
    ignore_numbers: bool,
    mean: Mean,
}

impl ExactMatch {
    fn same(&self, one: &Answer, two: &Answer) -> bool {
        match (one, two) {
            (Answer::Text(one), Answer::Text(two)) => self.plain(one) == self.plain(two),
            (Answer::Tokens(one), Answer::Tokens(two)) => one == two,
            (Answer::Numbers(one), Answer::Numbers(two)) => one == two,
            _ => false,
        }
    }

    fn plain(&self, text: &str) -> String {
        let text = if self.ignore_case { text.to_lowercase() } else { text.to_owned() };
        let ignored =
            |c: char| self.ignore_punctuation && c.is_ascii_punctuation() || self.ignore_numbers && c.is_ascii_digit();
        text.chars().filter(|&c| !ignored(c)).collect()
    }
}

impl Metric for ExactMatch {
    const NAME: &'static str = "exact_match";
    const SUMMARY: &'static str = "share of predictions that are one of their references";
    const HIGHER_IS_BETTER: bool = true;

    fn configure(settings: &Settings) -> Result<Self> {
        Ok(Self {
            ignore_case: settings.flag_or("ignore_case", false)?,
            ignore_punctuation: settings.flag_or("ignore_punctuation", false)?,
            ignore_numbers: settings.flag_or("ignore_numbers", false)?,
            mean: Mean::default(),
        })
    }

    fn update(&mut self, examples: &[Example]) -> Result<()> {
        for example in examples {
            let right = example.references.iter().any(|reference| self.same(&example.prediction, reference));
            self.mean.add(f64::from(u8::from(right)));
        }
        Ok(())
    }

    fn state(&self) -> Vec<u8> {
        state(&[self.mean])
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        merge(&mut [&mut self.mean], bytes)
    }

    fn compute(&self) -> Result<Vec<(String, f64)>> {
        Ok(named(&[("exact_match", self.mean)], 1.0))
    }
}

type Words<'a> = Vec<&'a str>;

/// The words of a prediction and of its references that are not empty; `None` if no reference is left.
fn worded(example: &Example) -> Result<Option<(Words<'_>, Vec<Words<'_>>)>> {
    let mut references = Vec::new();
    for reference in &example.references {
        let words = tokens::tokens(reference.text()?);
        if !words.is_empty() {
            references.push(words);
        }
    }
    let prediction = tokens::tokens(example.prediction.text()?);
    Ok((!references.is_empty()).then_some((prediction, references)))
}

#[derive(Default)]
struct Rouge {
    one: Mean,
    two: Mean,
    l: Mean,
}

impl Metric for Rouge {
    const NAME: &'static str = "rouge";
    const SUMMARY: &'static str = "ROUGE-1, ROUGE-2 and ROUGE-L in percent, F1";
    const HIGHER_IS_BETTER: bool = true;

    fn configure(_settings: &Settings) -> Result<Self> {
        Ok(Self::default())
    }

    fn update(&mut self, examples: &[Example]) -> Result<()> {
        for example in examples {
            let Some((prediction, references)) = worded(example)? else {
                continue;
            };
            let said = prediction.join(" ");
            let mut best = [0.0f64; 3];
            for reference in references {
                let wanted = reference.join(" ");
                let mut numbering = Numbering::default();
                let said = Sentences::of(&said, &mut numbering);
                let texts = said.zip(Sentences::of(&wanted, &mut numbering));
                // One of them is nothing but dots.
                let Some((said, wanted)) = texts.filter(|_| !prediction.is_empty()) else {
                    continue;
                };
                let scores = [
                    rouge::rouge_n(&said, &wanted, 1),
                    rouge::rouge_n(&said, &wanted, 2),
                    rouge::rouge_l(&said, &wanted),
                ];
                for (best, score) in best.iter_mut().zip(scores) {
                    *best = best.max(score);
                }
            }
            self.one.add(best[0]);
            self.two.add(best[1]);
            self.l.add(best[2]);
        }
        Ok(())
    }

    fn state(&self) -> Vec<u8> {
        state(&[self.one, self.two, self.l])
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        merge(&mut [&mut self.one, &mut self.two, &mut self.l], bytes)
    }

    fn compute(&self) -> Result<Vec<(String, f64)>> {
        Ok(named(&[("rouge-1", self.one), ("rouge-2", self.two), ("rouge-l", self.l)], 100.0))
    }
}

#[derive(Default)]
struct Bleu(Mean);

impl Metric for Bleu {
    const NAME: &'static str = "bleu";
    const SUMMARY: &'static str = "mean sentence BLEU-4 in percent";
    const HIGHER_IS_BETTER: bool = true;

    fn configure(_settings: &Settings) -> Result<Self> {
        Ok(Self::default())
    }

    fn update(&mut self, examples: &[Example]) -> Result<()> {
        for example in examples {
            if let Some((prediction, references)) = worded(example)? {
                let mut numbering = Numbering::default();
                let mut texts: Vec<Vec<u32>> = Vec::new();
                for words in std::iter::once(prediction).chain(references) {
                    texts.push(words.into_iter().map(|word| numbering.number(word)).collect());
                }
                let (said, wanted) = (&texts[0], &texts[1..]);
                self.0.add(if said.is_empty() { 0.0 } else { bleu::sentence_bleu(said, wanted) });
            }
        }
        Ok(())
    }

    fn state(&self) -> Vec<u8> {
        state(&[self.0])
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        merge(&mut [&mut self.0], bytes)
    }

    fn compute(&self) -> Result<Vec<(String, f64)>> {
        Ok(named(&[("bleu-4", self.0)], 100.0))
    }
}

/// A mean over queries: the scores of their candidates and the labels of these.
macro_rules! ranking_metric {
    ($metric:ident, $name:literal, $summary:literal, $score:path) => {
        struct $metric {
            graded: bool,
            mean: Mean,
        }

        impl Metric for $metric {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = $summary;
            const HIGHER_IS_BETTER: bool = true;

            fn configure(settings: &Settings) -> Result<Self> {
                Ok(Self { graded: graded(settings)?, mean: Mean::default() })
            }

            fn update(&mut self, examples: &[Example]) -> Result<()> {
                for example in examples {
                    for (scores, labels) in queries(example, self.graded)? {
                        self.mean.add($score(scores, labels));
                    }
                }
                Ok(())
            }

            fn state(&self) -> Vec<u8> {
                state(&[self.mean])
            }

            fn merge(&mut self, bytes: &[u8]) -> Result<()> {
                merge(&mut [&mut self.mean], bytes)
            }

            fn compute(&self) -> Result<Vec<(String, f64)>> {
                Ok(named(&[($name, self.mean)], 1.0))
            }
        }
    };
}

ranking_metric!(Mrr, "mrr", "mean reciprocal rank of the first relevant candidate", ranking::reciprocal_rank);
ranking_metric!(Ndcg, "ndcg", "normalised discounted cumulative gain", ranking::ndcg);

/// Whether a row is one query whose labels are grades, instead of queries that each start at a label 1.
fn graded(settings: &Settings) -> Result<bool> {
    match settings.text_or("query", "positive")? {
        "positive" => Ok(false),
        "row" => Ok(true),
        _ => Err(settings.refuse("query", "`positive` or `row` is needed")),
    }
}

fn queries(example: &Example, graded: bool) -> Result<Vec<(&[f64], &[f64])>> {
    let (scores, labels) = (example.prediction.numbers()?, only_reference(example)?.numbers()?);
    if scores.len() != labels.len() {
        return Err(unequal("scores", scores.len(), "their labels", labels.len()));
    }
    if graded {
        return Ok(if scores.is_empty() { Vec::new() } else { vec![(scores, labels)] });
    }
    Ok(ranking::queries(labels).into_iter().map(|query| (&scores[query.clone()], &labels[query])).collect())
}

export_metrics!(Accuracy, ExactMatch, Rouge, Bleu, PassAtK, Mrr, Ndcg);
