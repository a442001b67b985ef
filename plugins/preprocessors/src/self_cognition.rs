//! `swift/self-cognition`: a model learns its name and who made it. The rows hold `{{NAME}}` and `{{AUTHOR}}`.

use swift_sdk::dataset::{Outcome, Preprocessor, message};
use swift_sdk::{Error, Json, Result, Settings};

use crate::row::{Row, dropped};

/// What a model that can reason writes when it does not.
const EMPTY_THINK: &str = "<think>\n\n</think>\n\n";

/// A word for Chinese rows, and one for the others.
struct Words {
    chinese: String,
    english: String,
}

pub struct SelfCognition {
    name: Words,
    author: Words,
    query_suffix: &'static str,
    response_prefix: &'static str,
}

impl Words {
    /// One text for both languages, or a list of two: Chinese, English.
    fn read(settings: &Settings, key: &'static str) -> Result<Self> {
        let texts = match settings.value(key) {
            Some(Json::Text(text)) => vec![text.clone()],
            Some(Json::Null) | None => Vec::new(),
            Some(_) => settings.texts(key)?.unwrap_or_default().into_iter().map(str::to_owned).collect(),
        };
        match texts.as_slice() {
            [] => Err(Error::new(format!(
                "the setting `{key}` is not set: without it the model would learn the placeholder. Give a text, or two \
                 (Chinese, English)"
            ))),
            [both] => Ok(Self { chinese: both.clone(), english: both.clone() }),
            [chinese, english] => Ok(Self { chinese: chinese.clone(), english: english.clone() }),
            _ => Err(settings.refuse(key, "one text is needed, or two (Chinese, English)")),
        }
    }

    fn of(&self, chinese: bool) -> &str {
        if chinese { &self.chinese } else { &self.english }
    }
}

impl Preprocessor for SelfCognition {
    const NAME: &'static str = "self-cognition";
    const SUMMARY: &'static str = "fills in `model_name` and `model_author`; `subset` is default, qwen3 or empty_think";
    const DATASETS: &'static [&'static str] = &["swift/self-cognition", "modelscope/self-cognition"];

    fn configure(settings: &Settings) -> Result<Self> {
        let (query_suffix, response_prefix) = match settings.text_or("subset", "default")? {
            "default" => ("", ""),
            "qwen3" => (" /no_think", EMPTY_THINK),
            "empty_think" => ("", EMPTY_THINK),
            _ => return Err(settings.refuse("subset", "there are default, qwen3 and empty_think")),
        };
        let (name, author) = (Words::read(settings, "model_name")?, Words::read(settings, "model_author")?);
        Ok(Self { name, author, query_suffix, response_prefix })
    }

    fn process(&self, row: Json) -> Result<Outcome> {
        let mut row = Row::new(row)?;
        if !row.has("query") || !row.has("response") {
            return Err("the rows have no columns `query` and `response`: this is not swift/self-cognition".into());
        }
        let chinese = row.text("tag").as_deref() == Some("zh");
        let filled = |text: String| {
            text.replace("{{NAME}}", self.name.of(chinese)).replace("{{AUTHOR}}", self.author.of(chinese))
        };
        let Some(query) = row.text("query") else { return dropped("no query") };
        let Some(response) = row.text("response") else { return dropped("no response") };
        let query = format!("{}{}", filled(query), self.query_suffix);
        let response = format!("{}{}", self.response_prefix, filled(response));
        Ok(row.with(vec![message("user", &query), message("assistant", &response)], []))
    }
}
