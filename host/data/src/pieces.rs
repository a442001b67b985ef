//! A rendering in pieces to tokens: special tokens where the template put them, and nowhere else.
//!
//! Most often no text holds what looks like a special token. Then all pieces are tokenized as one text, so that the tokens
//! are those of the checkpoint's own template. Where a text does, the texts between special tokens are tokenized by
//! themselves, and what looks like a special token in them becomes ordinary tokens: no row can write a control token.

use std::{collections::HashSet, ops::Range};

use tokenizers::{
    PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
    pre_tokenizers::{metaspace::PrependScheme, sequence::Sequence},
};

use crate::{Encoded, RowError, encode::tokenize, guard::Guard, plugin::Piece};

pub(crate) struct Pieces {
    /// Reads special tokens in a text as text.
    literal: Tokenizer,
    /// The same within a text: it adds no space in front.
    within: Tokenizer,
    special: HashSet<String>,
    pub(crate) guard: Guard,
}

impl Pieces {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let mut literal = tokenizer.clone();
        literal.with_post_processor(None::<PostProcessorWrapper>);
        literal.set_encode_special_tokens(true);
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.values().filter(|token| token.special).map(|token| token.content.clone()).collect();
        let mut within = literal.clone();
        if let Some(inner) = within.get_pre_tokenizer().and_then(without_first_space) {
            within.with_pre_tokenizer(Some(inner));
        }
        Self { literal, within, special, guard: Guard::new(tokenizer) }
    }

    /// Tokens and weights. `plain` is the tokenizer without its post-processor.
    pub(crate) fn encode(&self, plain: &Tokenizer, pieces: &[Piece]) -> Result<Encoded, RowError> {
        let runs = runs(pieces);
        for run in runs.iter().filter(|run| run.special) {
            if !self.special.contains(&run.text) {
                return Err(RowError::new(
                    "the chat template writes a special token that the tokenizer does not have",
                    format!("`{}`", run.text),
                ));
            }
        }
        let innocent = |run: &Run| run.special || !self.guard.finds_in(&run.text);
        if runs.iter().all(innocent) {
            let (mut text, mut spans) = (String::new(), Vec::new());
            for run in &runs {
                let moved =
                    |(bytes, weight): &(Range<usize>, f32)| (text.len() + bytes.start..text.len() + bytes.end, *weight);
                spans.extend(run.weights.iter().map(moved));
                text.push_str(&run.text);
            }
            return tokenize(plain, &text, 0.0, &spans);
        }
        let mut whole = Encoded::default();
        for run in &runs {
            let tokenizer = match (run.special, whole.tokens.is_empty()) {
                (true, _) => plain,
                (false, true) => &self.literal,
                (false, false) => &self.within,
            };
            let encoded = tokenize(tokenizer, &run.text, 0.0, &run.weights)?;
            // The first token of a run is predicted, unlike that of a text.
            let first = encoded.tokens.first().map(|_| run.weights.iter().find(|(bytes, _)| !bytes.is_empty()));
            let at = whole.weights.len();
            whole.tokens.extend(encoded.tokens);
            whole.weights.extend(encoded.weights);
            if let (Some(Some((_, weight))), true) = (first, at > 0) {
                whole.weights[at] = *weight;
            }
        }
        Ok(whole)
    }
}

/// A pre-tokenizer that puts a space in front of a text alone, without it; nothing where there is none such.
fn without_first_space(pre_tokenizer: &PreTokenizerWrapper) -> Option<PreTokenizerWrapper> {
    match pre_tokenizer {
        PreTokenizerWrapper::Metaspace(metaspace) if metaspace.prepend_scheme == PrependScheme::First => {
            let mut inner = metaspace.clone();
            inner.set_prepend_scheme(PrependScheme::Never);
            Some(PreTokenizerWrapper::Metaspace(inner))
        }
        PreTokenizerWrapper::Sequence(sequence) => {
            let all: Vec<PreTokenizerWrapper> = sequence.as_ref().to_vec();
            let at = all.iter().position(|one| without_first_space(one).is_some())?;
            let change = |(place, one): (usize, PreTokenizerWrapper)| match place == at {
                true => without_first_space(&one).unwrap_or(one),
                false => one,
            };
            Some(PreTokenizerWrapper::Sequence(Sequence::new(all.into_iter().enumerate().map(change).collect())))
        }
        _ => None,
    }
}

/// Neighbouring texts, which are one text, or a special token.
struct Run {
    text: String,
    special: bool,
    /// The weights of its bytes.
    weights: Vec<(Range<usize>, f32)>,
}

fn runs(pieces: &[Piece]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.text.is_empty()) {
        let joins = runs.last().is_some_and(|last| !last.special && !piece.special);
        if !joins {
            runs.push(Run { text: String::new(), special: piece.special, weights: Vec::new() });
        }
        let run = runs.last_mut().expect("one was pushed");
        let start = run.text.len();
        run.text.push_str(&piece.text);
        run.weights.push((start..run.text.len(), piece.weight));
    }
    runs
}
