//! Images, videos and audio that a row refers to.
//!
//! They are named here, not opened: a path, a URL, a data URI, or an object with `path`, `url` or `bytes`; a video may be the
//! list of its frames.

use serde_json::Value;

use super::{RowResult, columns::Columns, kind, malformed};

/// What stands in the text where one belongs.
const TAGS: [&str; 3] = ["<image>", "<video>", "<audio>"];

/// The media of a conversation, in the order in which its messages refer to them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Media {
    pub images: Vec<Value>,
    pub videos: Vec<Value>,
    pub audios: Vec<Value>,
}

impl Media {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.videos.is_empty() && self.audios.is_empty()
    }

    /// Those of the columns `images`, `videos` and `audios`, or `image`, `video` and `audio`, after those in the messages.
    pub(super) fn add_columns(&mut self, columns: &Columns) -> RowResult<()> {
        for (list, names) in [
            (&mut self.images, ["images", "image"]),
            (&mut self.videos, ["videos", "video"]),
            (&mut self.audios, ["audios", "audio"]),
        ] {
            if let Some((name, value)) = names.iter().find_map(|name| Some((*name, columns.get(name)?))) {
                list.extend(items(name, value)?);
            }
        }
        Ok(())
    }

    /// Takes a part of a message's content; answers with what stands for it in the text.
    pub(super) fn add_part(&mut self, part: &Value) -> RowResult<&'static str> {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("unknown");
        let (list, name) = match kind {
            "image" | "image_url" | "input_image" => (&mut self.images, "image"),
            "video" | "video_url" => (&mut self.videos, "video"),
            "audio" | "audio_url" | "input_audio" => (&mut self.audios, "audio"),
            _ => return Err(malformed(format!("a content part of type `{kind}` is not understood"))),
        };
        // `{"image_url": {"url": ..}}`, `{"image": ..}`, `{"source": {..}}`, `{"input_audio": {"data": .., "format": ..}}`.
        let given = [kind, name, "source", "url", "path"].iter().find_map(|key| part.get(*key));
        let given = match given.and_then(|given| Some((given, given.as_object()?))) {
            None => given.cloned(),
            Some((whole, object)) => {
                let text = |key: &str| object.get(key).and_then(Value::as_str);
                match (text("url"), text("data")) {
                    (Some(url), _) => Some(url.into()),
                    (None, Some(data)) => {
                        let mime = text("media_type").map_or_else(
                            || format!("{name}/{}", text("format").unwrap_or("octet-stream")),
                            str::to_owned,
                        );
                        Some(format!("data:{mime};base64,{data}").into())
                    }
                    (None, None) => Some(whole.clone()),
                }
            }
        };
        // One without a source is of the row's column.
        if let Some(given) = given.filter(|given| !given.is_null()) {
            list.push(item(kind, &given)?);
        }
        Ok(TAGS[["image", "video", "audio"].iter().position(|one| *one == name).unwrap_or(0)])
    }
}

/// One or several of them.
pub(super) fn items(name: &str, value: &Value) -> RowResult<Vec<Value>> {
    match value {
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) if text.starts_with('[') && text.ends_with(']') => match serde_json::from_str(text) {
            Ok(Value::Array(list)) => list.iter().map(|one| item(name, one)).collect(),
            _ => Ok(vec![value.clone()]),
        },
        Value::String(_) | Value::Object(_) => Ok(vec![item(name, value)?]),
        Value::Array(list) => list.iter().map(|one| item(name, one)).collect(),
        other => Err(malformed(format!("`{name}` must be a list, this is {}", kind(other)))),
    }
}

fn item(name: &str, value: &Value) -> RowResult<Value> {
    let fits = match value {
        Value::String(_) => true,
        Value::Object(object) => ["path", "url", "bytes"].iter().any(|key| object.contains_key(*key)),
        Value::Array(frames) => name.starts_with("video") && frames.iter().all(|frame| frame.is_string()),
        _ => false,
    };
    let wrong = || malformed(format!("`{name}` must name files, URLs or data, this is {}", kind(value)));
    if fits { Ok(value.clone()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_of_every_form_become_tags_and_items() {
        let mut media = Media::default();
        for (part, tag) in [
            (json!({"type": "image_url", "image_url": {"url": "u1"}}), "<image>"),
            (json!({"type": "image_url", "image_url": "u2"}), "<image>"),
            (json!({"type": "image", "image": "u3"}), "<image>"),
            (json!({"type": "image", "source": {"type": "url", "url": "u4"}}), "<image>"),
            (json!({"type": "image"}), "<image>"),
            (json!({"type": "video", "video": ["f1", "f2"]}), "<video>"),
            (json!({"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}), "<audio>"),
        ] {
            assert_eq!(media.add_part(&part).unwrap(), tag, "{part}");
        }
        assert_eq!(media.images, ["u1", "u2", "u3", "u4"]);
        assert_eq!(media.videos, [json!(["f1", "f2"])]);
        assert_eq!(media.audios, ["data:audio/wav;base64,QQ=="]);
        assert!(media.add_part(&json!({"type": "smell"})).unwrap_err().detail.contains("`smell`"));
        assert!(media.add_part(&json!({"type": "image", "image": 3})).is_err());
        assert_eq!(items("images", &json!("[\"a\", {\"bytes\": \"\"}]")).unwrap().len(), 2);
        assert!(items("images", &json!([["a"]])).is_err(), "an image has no frames");
    }
}
