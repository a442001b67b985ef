//! What tasks other than next-token training read of a row: preferences, labels, pairs of texts.
//!
//! A column is read when its task asks for it, so that a row of one task is not refused for a column of another.

use serde_json::Value;

use super::{Media, Message, Row, RowResult, columns::json, kind, malformed, media, messages};

/// A conversation beside the row's own: one that is rejected, or near to it, or far from it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Side {
    pub messages: Vec<Message>,
    pub media: Media,
}

impl Row {
    fn column(&self, name: &str) -> Option<&Value> {
        self.columns.get(name).filter(|value| !value.is_null())
    }

    /// The rejected conversation of a preference: `rejected_messages` whole, or the row's own with `rejected_response` (a
    /// text, or messages) instead of its last answer.
    ///
    /// # Errors
    /// When a column is not of this form.
    pub fn rejected(&self) -> RowResult<Option<Side>> {
        let mut side = Side { messages: Vec::new(), media: Media::default() };
        if let Some(value) = self.column("rejected_messages") {
            side.messages = messages::parse("rejected_messages", value, &mut side.media)?;
        } else if let Some(value) = self.column("rejected_response") {
            // Everything that the assistant said since the last question is the answer.
            let answer = self.messages.iter().rposition(|message| message.role == "user").map_or(0, |last| last + 1);
            side.messages = self.messages[..answer].to_vec();
            match value {
                Value::String(text) => side.messages.push(Message::new("assistant", text)),
                list => side.messages.extend(messages::parse("rejected_response", list, &mut side.media)?),
            }
        } else {
            return Ok(None);
        }
        self.add_media("rejected", &mut side.media)?;
        if side.media.is_empty() {
            side.media = self.media.clone();
        }
        Ok(Some(side))
    }

    /// The texts that belong to the row's own, of an embedding model or reranker: a list of conversations, or one.
    ///
    /// # Errors
    /// When the columns are not of this form.
    pub fn positives(&self) -> RowResult<Vec<Side>> {
        self.sides("positive")
    }

    /// The texts that do not belong to it.
    ///
    /// # Errors
    /// When the columns are not of this form.
    pub fn negatives(&self) -> RowResult<Vec<Side>> {
        self.sides("negative")
    }

    /// Whether the answer is a good one (`true`, 1 or `"true"`): what KTO calls the label.
    ///
    /// # Errors
    /// When the column is something else.
    pub fn is_good(&self) -> RowResult<Option<bool>> {
        let Some(value) = self.column("label") else { return Ok(None) };
        let good = match value {
            Value::Bool(good) => Some(*good),
            Value::Number(number) => match number.as_f64() {
                Some(1.0) => Some(true),
                Some(0.0) => Some(false),
                _ => None,
            },
            Value::String(text) => match text.to_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        good.map(Some).ok_or_else(|| malformed(format!("`label` must be true or false, this is {}", kind(value))))
    }

    /// One class, one number, or one for each output: the labels of a classifier, a regression or a similarity.
    ///
    /// # Errors
    /// When the column is something else.
    pub fn labels(&self) -> RowResult<Option<Vec<f64>>> {
        let Some(value) = self.column("label") else { return Ok(None) };
        let number = |value: &Value| match value {
            Value::Bool(label) => Some(f64::from(u8::from(*label))),
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        let labels = match value {
            Value::Array(list) => list.iter().map(number).collect(),
            one => number(one).map(|label| vec![label]),
        };
        let fits = labels.filter(|labels: &Vec<f64>| labels.iter().all(|label| label.is_finite()));
        fits.map(Some).ok_or_else(|| malformed(format!("`label` must be numbers, this is {}", kind(value))))
    }

    /// By how much the answer is better than the rejected one, for a reward model.
    ///
    /// # Errors
    /// When the column is no number.
    pub fn margin(&self) -> RowResult<Option<f64>> {
        let Some(value) = self.column("margin") else { return Ok(None) };
        let margin = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|margin| margin.is_finite());
        margin.map(Some).ok_or_else(|| malformed(format!("`margin` must be a number, this is {}", kind(value))))
    }

    /// The group whose loss is told apart from others.
    ///
    /// # Errors
    /// When the column is no text.
    pub fn channel(&self) -> RowResult<Option<&str>> {
        let Some(value) = self.column("channel") else { return Ok(None) };
        let no_text = || malformed(format!("`channel` must be a text, this is {}", kind(value)));
        value.as_str().map(Some).ok_or_else(no_text)
    }

    /// What `<ref-object>` and `<bbox>` in the text stand for: an object with `ref`, `bbox`, `bbox_type` and `image_id`.
    ///
    /// # Errors
    /// When the column is no object.
    pub fn objects(&self) -> RowResult<Option<Value>> {
        let objects = self.column("objects").map_or(Ok(None), |value| json("objects", value))?;
        match objects {
            Some(other) if !other.is_object() => {
                Err(malformed(format!("`objects` must be an object, this is {}", kind(&other))))
            }
            objects => Ok(objects),
        }
    }

    fn sides(&self, which: &str) -> RowResult<Vec<Side>> {
        let name = format!("{which}_messages");
        let Some(value) = self.column(&name).map_or(Ok(None), |value| json(&name, value))? else {
            return Ok(Vec::new());
        };
        // A conversation is a list of objects, several are a list of lists.
        let several = value.as_array().is_some_and(|list| list.iter().all(Value::is_array));
        let list = if several { value.as_array().cloned().unwrap_or_default() } else { vec![value] };
        let mut sides = Vec::with_capacity(list.len());
        for conversation in &list {
            let mut side = Side::default();
            side.messages = messages::parse(&name, conversation, &mut side.media)?;
            sides.push(side);
        }
        if let [only] = &mut sides[..] {
            self.add_media(which, &mut only.media)?;
        } else {
            for (kind, list) in [("images", 0), ("videos", 1), ("audios", 2)] {
                let column = format!("{which}_{kind}");
                let Some(lists) = self.column(&column).and_then(Value::as_array) else { continue };
                if lists.len() != sides.len() {
                    let (given, needed) = (lists.len(), sides.len());
                    return Err(malformed(format!("`{column}` has {given} lists for {needed} conversations")));
                }
                for (side, value) in sides.iter_mut().zip(lists) {
                    let target = [&mut side.media.images, &mut side.media.videos, &mut side.media.audios];
                    let target = target.into_iter().nth(list).expect("there are three");
                    target.extend(media::items(&column, value)?);
                }
            }
        }
        Ok(sides)
    }

    /// Adds the media of the columns `PREFIX_images` and so on.
    fn add_media(&self, prefix: &str, media: &mut Media) -> RowResult<()> {
        for (list, kind) in
            [(&mut media.images, "images"), (&mut media.videos, "videos"), (&mut media.audios, "audios")]
        {
            let column = format!("{prefix}_{kind}");
            if let Some(value) = self.column(&column) {
                list.extend(media::items(&column, value)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ColumnMap, Origin};

    fn row(value: Value) -> Row {
        let origin = Origin { file: "x".into(), number: 1, item: false };
        Row::from_json(value, &ColumnMap::default(), true, origin).unwrap()
    }

    fn said(side: &Side) -> String {
        side.messages.iter().map(|m| format!("{}:{} ", m.role, m.content)).collect()
    }

    #[test]
    fn preferences_in_all_forms() {
        let base = json!({"query": "q", "response": "good", "images": ["a.png"]});
        let with = |name: &str, value: Value| {
            let mut row = base.clone();
            row[name] = value;
            row
        };
        for form in [
            with("rejected_response", json!("bad")),
            with("rejected_response", json!([{"role": "assistant", "content": "bad"}])),
            with(
                "rejected_messages",
                json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]),
            ),
        ] {
            let rejected = row(form).rejected().unwrap().unwrap();
            assert_eq!(
                (said(&rejected).as_str(), &rejected.media.images[0]),
                ("user:q assistant:bad ", &json!("a.png"))
            );
        }
        let mut other = with("rejected_response", json!("bad"));
        other["rejected_images"] = json!(["b.png"]);
        assert_eq!(row(other).rejected().unwrap().unwrap().media.images, ["b.png"]);
        assert_eq!(row(base.clone()).rejected().unwrap(), None);
        assert!(row(with("rejected_messages", json!("oops"))).rejected().is_err());
    }

    #[test]
    fn pairs_labels_and_margins() {
        let user = |text: &str| json!([{"role": "user", "content": text}]);
        let pairs = row(json!({"messages": user("a"), "positive_messages": [user("b")],
            "negative_messages": [user("c"), user("d")], "negative_images": [["c.png"], []]}));
        assert_eq!(pairs.positives().unwrap().iter().map(said).collect::<String>(), "user:b ");
        let negatives = pairs.negatives().unwrap();
        assert_eq!(negatives.iter().map(said).collect::<String>(), "user:c user:d ");
        assert_eq!((&negatives[0].media.images[..], negatives[1].media.is_empty()), (&[json!("c.png")][..], true));
        let one = row(json!({"messages": user("a"), "positive_messages": user("b")}));
        assert_eq!(one.positives().unwrap().len(), 1);

        let label = |value: Value| row(json!({"query": "q", "response": "r", "label": value, "margin": "0.5"}));
        assert_eq!(label(json!("True")).is_good().unwrap(), Some(true));
        assert_eq!(label(json!(0)).is_good().unwrap(), Some(false));
        assert!(label(json!(2)).is_good().is_err());
        assert_eq!(label(json!([1, "0.5"])).labels().unwrap(), Some(vec![1.0, 0.5]));
        assert!(label(json!({"a": 1})).labels().is_err());
        assert_eq!(label(json!(1)).margin().unwrap(), Some(0.5));
        assert_eq!(row(json!({"query": "q", "response": "r", "channel": "math"})).channel().unwrap(), Some("math"));
    }

    #[test]
    fn what_no_task_reads_is_kept_for_rewards() {
        let row = row(json!({"question": "q", "answer": "r", "solution_steps": [1], "level": 3, "Images": []}));
        assert_eq!(row.columns.keys().map(String::as_str).collect::<Vec<_>>(), ["level", "solution_steps"]);
        assert!(row.media.is_empty());
    }
}
