//! Tokens to text, a piece at a time: whole characters only, right spaces, and nothing that may turn out to be a stop
//! word.

use tokenizers::Tokenizer;

use crate::error::InferError;

/// What a decoder prints for bytes that are no character (yet).
const REPLACEMENT: char = '\u{fffd}';

/// Text of a growing list of tokens.
///
/// A decoder's text of some tokens depends on the tokens before them (a leading space, bytes of one character), so each
/// piece is the difference of two decodings that begin a few tokens earlier.
pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// Where both decodings begin, and where the text given out ends.
    begin: usize,
    given: usize,
}

impl<'a> Detokenizer<'a> {
    /// No text yet. Special tokens have none.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, tokens: Vec::new(), begin: 0, given: 0 }
    }

    fn decode(&self, from: usize, to: usize) -> Result<String, InferError> {
        self.tokenizer.decode(&self.tokens[from..to], true).map_err(|e| InferError::Decode { message: e.to_string() })
    }

    /// The text that the next token completes; empty while a character is not whole.
    ///
    /// # Errors
    /// When the tokenizer cannot decode.
    pub fn push(&mut self, token: u32) -> Result<String, InferError> {
        self.tokens.push(token);
        let before = self.decode(self.begin, self.given)?;
        let now = self.decode(self.begin, self.tokens.len())?;
        if now.len() <= before.len() || now.ends_with(REPLACEMENT) {
            return Ok(String::new());
        }
        (self.begin, self.given) = (self.given, self.tokens.len());
        Ok(difference(&before, &now))
    }

    /// What is left: bytes that never became a character, as replacement characters.
    ///
    /// # Errors
    /// When the tokenizer cannot decode.
    pub fn finish(&mut self) -> Result<String, InferError> {
        let before = self.decode(self.begin, self.given)?;
        let now = self.decode(self.begin, self.tokens.len())?;
        self.given = self.tokens.len();
        Ok(difference(&before, &now))
    }
}

fn difference(before: &str, now: &str) -> String {
    // Only a decoder that rewrites its own past differs in the common part; its new length still tells where to cut.
    now.strip_prefix(before).or_else(|| now.get(before.len()..)).unwrap_or_default().to_owned()
}

/// Holds back text that may be the beginning of a stop word.
pub struct StopWords {
    words: Vec<String>,
    held: String,
}

impl StopWords {
    /// With these words, none of them empty.
    pub fn new(words: Vec<String>) -> Self {
        Self { words, held: String::new() }
    }

    /// Takes new text; gives what can be shown, and whether a stop word has ended the answer.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.words.iter().filter_map(|word| self.held.find(word.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let safe = self
            .held
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| self.words.iter().any(|word| word.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(safe);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back and is not going to be a stop word.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut stops = StopWords::new(words.iter().map(|w| (*w).to_owned()).collect());
        let mut out = Vec::new();
        for piece in pieces {
            let (text, stopped) = stops.push(piece);
            out.push(text);
            if stopped {
                return (out, true);
            }
        }
        out.push(stops.finish());
        (out, false)
    }

    #[test]
    fn a_stop_word_in_pieces_is_never_shown() {
        assert_eq!(shown(&["END"], &["a E", "N", "D b"]), (vec!["a ".into(), "".into(), "".into()], true));
        assert_eq!(shown(&["END"], &["a E", "N", "x"]), (vec!["a ".into(), "".into(), "ENx".into(), "".into()], false));
        assert_eq!(shown(&["END"], &["EE", "ND"]), (vec!["E".into(), "".into()], true));
        assert_eq!(shown(&["\n\n", "é!"], &["é", "é", "!x"]), (vec!["".into(), "é".into(), "".into()], true));
        // What is held at the end is given out.
        assert_eq!(shown(&["END"], &["x EN"]), (vec!["x ".into(), "EN".into()], false));
        // The earliest of several ends it.
        assert_eq!(shown(&["b", "ab"], &["xab"]), (vec!["x".into()], true));
        assert_eq!(shown(&[], &["x", "y"]), (vec!["x".into(), "y".into(), "".into()], false));
    }
}
