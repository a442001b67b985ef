//! Which layers attend through a sliding window, read as Hugging Face configs say it.

use crate::text::{decimal, join};
use crate::{Config, Result};

/// The window of every layer, itself included; `None` is full attention.
///
/// `layer_types` decides where it is given; else, when `use_sliding_window` is true, the layers from
/// `max_window_layers` on have a window of `sliding_window` tokens (Qwen2 and Qwen3).
///
/// # Errors
/// When a layer type is not built or the keys do not fit each other.
pub fn attention_windows(config: &Config, layers: u32) -> Result<Vec<Option<u32>>> {
    let window =
        if config.flag_or("use_sliding_window", false)? { Some(config.size_or("sliding_window", 4096)?) } else { None };
    let Some(types) = config.texts("layer_types")? else {
        // Zero is a meaningful value here: every layer has the window.
        let first = if config.optional_number("max_window_layers")? == Some(0.0) {
            0
        } else {
            config.size_or("max_window_layers", 28)?
        };
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    if types.len() != layers as usize {
        let needed = join(&["one type for each of the ", decimal(layers as usize), " layers is needed"]);
        return Err(config.refuse("layer_types", needed));
    }
    let mut windows = Vec::new();
    for kind in types {
        windows.push(match *kind {
            "full_attention" => None,
            "sliding_attention" if window.is_some() => window,
            "sliding_attention" => {
                return Err(config.refuse(
                    "layer_types",
                    "and some are `sliding_attention`; that needs `use_sliding_window` true and a `sliding_window`",
                ));
            }
            other => {
                let built = "`, which is not built; built are full_attention and sliding_attention";
                return Err(config.refuse("layer_types", join(&["and one is `", other, built])));
            }
        });
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(text: &str) -> Result<Vec<Option<u32>>> {
        attention_windows(&Config::parse(text).unwrap(), 3)
    }

    #[test]
    fn follows_the_keys_of_qwen() {
        assert_eq!(windows(r#"{"sliding_window": 8, "use_sliding_window": false}"#).unwrap(), [None; 3]);
        let text = r#"{"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1}"#;
        assert_eq!(windows(text).unwrap(), [None, Some(8), Some(8)]);
        let text = r#"{"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 0}"#;
        assert_eq!(windows(text).unwrap(), [Some(8); 3]);
        let text = r#"{"sliding_window": 8, "use_sliding_window": true,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"]}"#;
        assert_eq!(windows(text).unwrap(), [Some(8), None, None]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        for text in [
            r#"{"layer_types": ["full_attention"]}"#,
            r#"{"layer_types": ["full_attention", "full_attention", "sliding_attention"]}"#,
            r#"{"layer_types": ["full_attention", "full_attention", "linear_attention"]}"#,
        ] {
            assert!(windows(text).unwrap_err().to_string().contains("`layer_types`"));
        }
    }
}
