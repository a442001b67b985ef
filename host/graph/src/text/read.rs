//! Tokens of one line and the reader over them.

use super::{TextError, is_plain, is_word};

/// What a line is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A plain name, a keyword or a number.
    Word(String),
    Quoted(String),
    /// `%12`
    Value(u32),
    /// `[`, `]`, `,`, `=` or `:`
    Mark(char),
}

impl Token {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::Quoted(name) => format!("{name:?}"),
            Self::Value(number) => format!("`%{number}`"),
            Self::Mark(mark) => format!("`{mark}`"),
        }
    }
}

/// Reads one line's tokens in order; errors name line and column.
pub(super) struct Line {
    number: usize,
    tokens: Vec<(usize, Token)>,
    next: usize,
    /// Column just behind the line's last character.
    end: usize,
}

impl Line {
    /// Splits a line; a comment ends it.
    pub(super) fn new(number: usize, text: &str) -> Result<Self, TextError> {
        let characters: Vec<char> = text.chars().collect();
        let mut line = Self { number, tokens: Vec::new(), next: 0, end: characters.len() + 1 };
        let mut at = 0;
        while let Some(&c) = characters.get(at) {
            let column = at + 1;
            let token = match c {
                ' ' | '\t' => {
                    at += 1;
                    continue;
                }
                '#' => break,
                '[' | ']' | ',' | '=' | ':' => {
                    at += 1;
                    Token::Mark(c)
                }
                '"' => Token::Quoted(line.quoted(&characters, &mut at)?),
                '%' => {
                    at += 1;
                    let digits = take_word(&characters, &mut at);
                    let number = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
                    Token::Value(
                        number.ok_or_else(|| line.error(column, "a value such as `%12`", &format!("`%{digits}`")))?,
                    )
                }
                c if is_word(c) => Token::Word(take_word(&characters, &mut at)),
                other => {
                    return Err(line.error(
                        column,
                        "a name, a number, a value or one of `[],=:`",
                        &format!("{other:?}"),
                    ));
                }
            };
            line.tokens.push((column, token));
        }
        Ok(line)
    }

    fn quoted(&self, characters: &[char], at: &mut usize) -> Result<String, TextError> {
        let open = *at + 1;
        let mut name = String::new();
        *at += 1;
        loop {
            let column = *at + 1;
            let c = *characters.get(*at).ok_or_else(|| self.error(open, "a closing quote", "none on this line"))?;
            *at += 1;
            match c {
                '"' => return Ok(name),
                '\\' => {
                    let rest: String = characters[*at..].iter().take(10).collect();
                    let code = rest.strip_prefix("u{").and_then(|r| r.split_once('}')).map(|(code, _)| code);
                    match (rest.chars().next(), code) {
                        (Some(c @ ('"' | '\\')), _) => {
                            name.push(c);
                            *at += 1;
                        }
                        (_, Some(code)) => {
                            let c = u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
                            name.push(
                                c.ok_or_else(|| self.error(column, "a character's number", &format!("{code:?}")))?,
                            );
                            *at += code.chars().count() + 3;
                        }
                        _ => {
                            return Err(self.error(
                                column,
                                "one of the escapes \\\", \\\\ and \\u{...}",
                                "another escape",
                            ));
                        }
                    }
                }
                c => name.push(c),
            }
        }
    }

    /// An error at a column of this line.
    pub(super) fn error(&self, column: usize, expected: &str, found: &str) -> TextError {
        TextError::Syntax { line: self.number, column, expected: expected.to_owned(), found: found.to_owned() }
    }

    /// The column of the next token.
    pub(super) fn column(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(column, _)| *column)
    }

    /// An error at the next token.
    pub(super) fn unexpected<T>(&self, expected: &str) -> Result<T, TextError> {
        let found = self.peek().map_or_else(|| "the end of the line".to_owned(), Token::describe);
        Err(self.error(self.column(), expected, &found))
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Takes `token` if it comes next.
    pub(super) fn accept(&mut self, token: &Token) -> bool {
        let comes = self.peek() == Some(token);
        self.next += usize::from(comes);
        comes
    }

    pub(super) fn mark(&mut self, mark: char) -> Result<(), TextError> {
        if self.accept(&Token::Mark(mark)) { Ok(()) } else { self.unexpected(&format!("`{mark}`")) }
    }

    pub(super) fn word(&mut self, expected: &str) -> Result<String, TextError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.next += 1;
                Ok(word)
            }
            _ => self.unexpected(expected),
        }
    }

    /// A plain or quoted name.
    pub(super) fn name(&mut self, expected: &str) -> Result<String, TextError> {
        match self.peek() {
            Some(Token::Quoted(name)) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            Some(Token::Word(word)) if is_plain(word) => self.word(expected),
            _ => self.unexpected(expected),
        }
    }

    pub(super) fn value(&mut self) -> Result<Option<u32>, TextError> {
        let Some(Token::Value(number)) = self.peek() else { return Ok(None) };
        let number = *number;
        self.next += 1;
        Ok(Some(number))
    }

    /// A word that `FromStr` understands.
    pub(super) fn number<N: std::str::FromStr>(&mut self, expected: &str) -> Result<N, TextError> {
        let Some(Token::Word(word)) = self.peek() else { return self.unexpected(expected) };
        let Ok(number) = word.parse() else { return self.unexpected(expected) };
        self.next += 1;
        Ok(number)
    }

    /// `b3` with the prefix `b` gives 3.
    pub(super) fn tagged(&mut self, prefix: char, expected: &str) -> Result<u32, TextError> {
        let number = match self.peek() {
            Some(Token::Word(word)) => word.strip_prefix(prefix).and_then(|digits| digits.parse().ok()),
            _ => None,
        };
        match number {
            Some(number) => {
                self.next += 1;
                Ok(number)
            }
            None => self.unexpected(expected),
        }
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<(), TextError> {
        if self.peek().is_none() { Ok(()) } else { self.unexpected("the end of the line") }
    }
}

fn take_word(characters: &[char], at: &mut usize) -> String {
    let word: String = characters[*at..].iter().take_while(|c| is_word(**c)).collect();
    *at += word.len();
    word
}
