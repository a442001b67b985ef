//! The state of a chat in the terminal: its messages and the commands typed into it.

use swift_data::Message;

/// What a typed line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Nothing was typed.
    Nothing,
    /// Text for the model.
    Say(String),
    /// Forget the turns so far.
    Clear,
    /// Leave.
    Exit,
    /// Set the system message (empty: remove it) and forget the turns so far.
    System(String),
    /// Say what the commands are.
    Help,
    /// A slash and a word that is no command.
    Unknown(String),
}

/// What [`Command::Help`] is answered with.
pub const HELP: &str = "/clear forgets the turns so far, /system TEXT sets the system message, /exit leaves; \
                        begin with // to send a line that starts with a slash";

impl Command {
    /// Reads one line.
    pub fn parse(line: &str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Self::Nothing;
        }
        if let Some(rest) = line.strip_prefix("//") {
            return Self::Say(format!("/{rest}"));
        }
        let Some(command) = line.strip_prefix('/') else {
            return Self::Say(line.into());
        };
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (word, rest.trim()) {
            ("clear", "") => Self::Clear,
            ("exit" | "quit", "") => Self::Exit,
            ("help", "") => Self::Help,
            ("system", text) => Self::System(text.into()),
            _ => Self::Unknown(word.into()),
        }
    }
}

/// The messages of a chat.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    system: Option<String>,
    turns: Vec<Message>,
}

impl Conversation {
    /// A chat with nothing said. Without a system message the template decides.
    pub fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new() }
    }

    /// Forgets what was said; the system message stays.
    pub fn clear(&mut self) {
        self.turns.clear();
    }

    /// Sets the system message and forgets what was said, since that was under another one.
    pub fn set_system(&mut self, text: &str) {
        self.system = (!text.is_empty()).then(|| text.to_owned());
        self.clear();
    }

    /// The user's turn.
    pub fn say(&mut self, text: &str) {
        self.turns.push(Message::new("user", text));
    }

    /// The model's turn.
    pub fn answer(&mut self, text: &str) {
        self.turns.push(Message::new("assistant", text));
    }

    /// Takes back the user's turn, when it could not be answered.
    pub fn unsay(&mut self) {
        if self.turns.last().is_some_and(|m| m.role == "user") {
            self.turns.pop();
        }
    }

    /// System message and turns.
    pub fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        system.chain(self.turns.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_text() {
        for (line, expected) in [
            ("  hello ", Command::Say("hello".into())),
            ("", Command::Nothing),
            ("/clear", Command::Clear),
            ("/exit", Command::Exit),
            ("/system You are a  pirate", Command::System("You are a  pirate".into())),
            ("/system", Command::System(String::new())),
            ("//etc/hosts?", Command::Say("/etc/hosts?".into())),
            ("/clera", Command::Unknown("clera".into())),
        ] {
            assert_eq!(Command::parse(line), expected, "{line}");
        }
    }

    #[test]
    fn a_system_message_starts_the_chat_anew() {
        let mut chat = Conversation::new(None);
        chat.say("a");
        chat.answer("b");
        assert_eq!(chat.messages().len(), 2);
        chat.set_system("s");
        chat.say("c");
        let roles: Vec<String> = chat.messages().into_iter().map(|m| m.role).collect();
        assert_eq!(roles, ["system", "user"]);
        chat.unsay();
        chat.clear();
        assert_eq!(chat.messages().len(), 1);
    }
}
