//! What the user set for a plugin: a JSON object, read with defaults, in which nothing is ignored.

use std::cell::RefCell;

use crate::text::join;
use crate::{Error, Json, Result};

/// The user's settings. Reading a key makes it known; a key that was not read by the time the plugin is set up is refused
/// by name, so a misspelt setting never goes unnoticed. `null` counts as absent.
///
/// ```
/// # use swift_sdk::Settings;
/// let settings = Settings::parse(r#"{"weight": 0.5, "words": ["so"]}"#)?;
/// assert_eq!(settings.number_or("weight", 1.0)?, 0.5);
/// assert_eq!(settings.flag_or("lowercase", true)?, true);
/// let error = settings.refuse_unread().unwrap_err();
/// assert_eq!(error.message(), "there is no setting `words`; there are `weight` and `lowercase`");
/// # Ok::<(), swift_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Settings {
    entries: Json,
    asked: RefCell<Vec<&'static str>>,
}

impl Settings {
    /// Reads the text of a JSON object; for tests, as the SDK makes a plugin's settings.
    ///
    /// # Errors
    /// When it is not a JSON object; with the line.
    pub fn parse(text: &str) -> Result<Self> {
        match Json::parse(text) {
            Ok(entries @ Json::Object(_)) => Ok(Self { entries, asked: RefCell::default() }),
            Ok(other) => Err(Error::of(join(&["the settings are ", other.show(), ", a JSON object is needed"]))),
            Err(error) => Err(Error::of(join(&["the settings are not JSON: ", error.message()]))),
        }
    }

    /// Any value.
    pub fn value(&self, key: &'static str) -> Option<&Json> {
        if let Ok(mut asked) = self.asked.try_borrow_mut()
            && !asked.contains(&key)
        {
            asked.push(key);
        }
        self.entries.get(key).filter(|value| !value.is_null())
    }

    /// The value of a key as `read` sees it.
    fn read<'s, T>(
        &'s self,
        key: &'static str,
        needed: &str,
        read: impl FnOnce(&'s Json) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| wrong(key, value.show(), needed))
    }

    /// true or false, with a value for an absent key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn flag_or(&self, key: &'static str, default: bool) -> Result<bool> {
        Ok(self.read(key, "true or false", Json::as_bool)?.unwrap_or(default))
    }

    /// A number, `None` for an absent key.
    ///
    /// # Errors
    /// When the value is something else, or too large.
    pub fn optional_number(&self, key: &'static str) -> Result<Option<f64>> {
        self.read(key, "a number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    /// A number, with a value for an absent key.
    ///
    /// # Errors
    /// When the value is something else, or too large.
    pub fn number_or(&self, key: &'static str, default: f64) -> Result<f64> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// A whole number, `None` for an absent key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn optional_integer(&self, key: &'static str) -> Result<Option<i64>> {
        self.read(key, "a whole number", Json::as_i64)
    }

    /// A whole number, with a value for an absent key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn integer_or(&self, key: &'static str, default: i64) -> Result<i64> {
        Ok(self.optional_integer(key)?.unwrap_or(default))
    }

    /// A text, `None` for an absent key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn optional_text(&self, key: &'static str) -> Result<Option<&str>> {
        self.read(key, "a text", Json::as_text)
    }

    /// A text, with a value for an absent key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn text_or<'s>(&'s self, key: &'static str, default: &'s str) -> Result<&'s str> {
        Ok(self.optional_text(key)?.unwrap_or(default))
    }

    /// A text that must be set.
    ///
    /// # Errors
    /// When the key is absent or the value is something else.
    pub fn text(&self, key: &'static str) -> Result<&str> {
        self.optional_text(key)?.ok_or_else(|| wrong(key, "not set", "a text"))
    }

    /// A list of texts, `None` for an absent key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn texts(&self, key: &'static str) -> Result<Option<Vec<&str>>> {
        self.read(key, "a list of texts", |value| value.as_list()?.iter().map(Json::as_text).collect())
    }

    /// An error about a setting: "the setting `KEY` is VALUE, " and what is needed.
    pub fn refuse(&self, key: &'static str, what: &str) -> Error {
        let shown = self.value(key).map_or("not set", Json::show);
        Error::of(join(&["the setting `", key, "` is ", shown, ", ", what]))
    }

    /// Refuses every setting that nobody asked for; the SDK calls it once a plugin is set up.
    ///
    /// # Errors
    /// Names the setting, and those that there are.
    pub fn refuse_unread(&self) -> Result<()> {
        self.refuse_unread_but(|_| false)
    }

    /// As [`Settings::refuse_unread`], but for the keys that need no reader.
    pub(crate) fn refuse_unread_but(&self, free: impl Fn(&str) -> bool) -> Result<()> {
        let asked = self.asked.borrow();
        for (key, _) in self.entries.as_object().unwrap_or_default() {
            if asked.iter().any(|known| known == key) || free(key) {
                continue;
            }
            let mut message = join(&["there is no setting `", key, "`; "]);
            for (at, known) in asked.iter().enumerate() {
                let before = match at {
                    0 => "there are `",
                    _ if at + 1 == asked.len() => "` and `",
                    _ => "`, `",
                };
                message = join(&[message, before, known]);
            }
            return Err(Error::of(join(&[message, if asked.is_empty() { "there are none" } else { "`" }])));
        }
        Ok(())
    }
}

fn wrong(key: &str, is: &str, needed: &str) -> Error {
    Error::of(join(&["the setting `", key, "` is ", is, ", ", needed, " is needed"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_with_its_default() {
        let settings = Settings::parse(
            r#"{"f": false, "n": 1e-40, "i": 8.0, "t": "x", "l": ["a", "b"], "null": null, "deep": {"a": [1]}}"#,
        )
        .unwrap();
        assert_eq!(settings.flag_or("f", true), Ok(false));
        assert_eq!(settings.number_or("n", 1.0), Ok(1e-40));
        assert_eq!((settings.integer_or("i", 1), settings.number_or("i", 1.0)), (Ok(8), Ok(8.0)));
        assert_eq!((settings.text("t"), settings.text_or("u", "y")), (Ok("x"), Ok("y")));
        assert_eq!(settings.texts("l"), Ok(Some(vec!["a", "b"])));
        assert_eq!((settings.optional_number("null"), settings.texts("null")), (Ok(None), Ok(None)));
        assert_eq!(settings.value("deep").map(Json::write).as_deref(), Some(r#"{"a":[1]}"#));
        assert_eq!(settings.refuse_unread(), Ok(()));
    }

    #[test]
    fn errors_name_key_value_and_need() {
        let settings =
            Settings::parse(r#"{"f": 1, "n": "x", "i": 0.5, "t": [], "l": ["a", 1], "big": 1e999}"#).unwrap();
        let messages = [
            settings.flag_or("f", true).unwrap_err(),
            settings.number_or("n", 0.0).unwrap_err(),
            settings.integer_or("i", 0).unwrap_err(),
            settings.text_or("t", "").unwrap_err(),
            settings.texts("l").unwrap_err(),
            settings.number_or("big", 0.0).unwrap_err(),
            settings.text("missing").unwrap_err(),
            settings.refuse("f", "which is too small"),
        ]
        .map(Error::message);
        assert_eq!(
            messages,
            [
                "the setting `f` is 1, true or false is needed",
                "the setting `n` is \"x\", a number is needed",
                "the setting `i` is 0.5, a whole number is needed",
                "the setting `t` is a list of 0, a text is needed",
                "the setting `l` is a list of 2, a list of texts is needed",
                "the setting `big` is 1e999, a number is needed",
                "the setting `missing` is not set, a text is needed",
                "the setting `f` is 1, which is too small",
            ]
        );
    }

    #[test]
    fn what_nobody_reads_is_refused() {
        let refused = |text: &str, keys: &[&'static str]| {
            let settings = Settings::parse(text).unwrap();
            keys.iter().for_each(|key| _ = settings.value(key));
            settings.refuse_unread().unwrap_err().message()
        };
        assert_eq!(refused(r#"{"a": 1}"#, &[]), "there is no setting `a`; there are none");
        assert_eq!(refused(r#"{"a": 1}"#, &["b"]), "there is no setting `a`; there are `b`");
        assert_eq!(
            refused(r#"{"b": 1, "e": null}"#, &["b", "c", "b", "d"]),
            "there is no setting `e`; there are `b`, `c` and `d`"
        );
        assert_eq!(
            Settings::parse("[]").unwrap_err().message(),
            "the settings are a list of 0, a JSON object is needed"
        );
        assert_eq!(
            Settings::parse("{").unwrap_err().message(),
            "the settings are not JSON: line 1: a key in quotes is missing"
        );
    }
}
