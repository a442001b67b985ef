//! Makes a plugin's text fit for a terminal: what a plugin says is shown, never obeyed.

/// `text` without control and direction-changing characters, on one line, at most `limit` characters.
pub fn clean(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut kept = 0;
    for character in text.chars() {
        let character = match character {
            '\n' | '\t' => ' ',
            c if c.is_control() || changes_direction(c) => continue,
            c => c,
        };
        if kept == limit {
            out.push('…');
            break;
        }
        out.push(character);
        kept += 1;
    }
    out.trim().to_owned()
}

/// Marks, embeddings, overrides and isolates of bidirectional text, and characters without width: they can make a
/// name look like another one.
fn changes_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(clean("\u{1b}[2Jred\u{1b}[31m\u{7}\r\nnext\u{202e}txt\u{9b}", 100), "[2Jred[31m nexttxt");
        assert_eq!(clean("größe 漢字", 100), "größe 漢字");
        assert_eq!(clean("abcdef", 3), "abc…");
        assert_eq!(clean("abc", 3), "abc");
    }
}
