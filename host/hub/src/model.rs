//! A checkpoint opened for reading: configuration, weights, tokenizer, template, special tokens, generation defaults.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use swift_graph::{
    Checkpoint, TensorInfo,
    checkpoint::{TensorBytes, WeightError, WeightSource},
};
use tokenizers::Tokenizer;

use crate::{
    HubError,
    gguf::{self, GgufTokenizer},
    mapping::MappedFile,
    tokens::{self, SpecialTokens},
    weights::{GgufDtype, Weights, expect_object, files_with_extension, hash_file_name, hex, read_json},
};

/// What a ChatML model is given when its file holds no template: the plain form, without a default system message.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                      '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' \
                      }}{% endif %}";

/// The small files of a folder that belong to the model and go with a saved one.
const SIDE_FILES: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.txt",
];

/// The files whose bytes decide what a model computes, besides the weights.
const DIGESTED: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// How to open a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// What a GGUF's weights are converted to.
    pub gguf_dtype: GgufDtype,
}

/// Where a model came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A Hugging Face folder.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

/// Sampling defaults of `generation_config.json`; what it does not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct GenerationDefaults {
    pub do_sample: Option<bool>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub max_new_tokens: Option<u64>,
}

/// A checkpoint.
#[derive(Debug)]
pub struct Model {
    /// The parsed `config.json`.
    pub config: Value,
    /// Its text, as a family plugin gets it.
    pub config_text: String,
    pub weights: Weights,
    /// The checkpoint's Jinja chat template.
    pub chat_template: Option<String>,
    pub special_tokens: SpecialTokens,
    /// Every id that ends a generation.
    pub eos_token_ids: Vec<u32>,
    pub generation: GenerationDefaults,
    /// The longest sequence the model was made for, in tokens.
    pub max_length: Option<usize>,
    pub source: Source,
    tokenizer: Option<Tokenizer>,
    gguf_tokenizer: Option<(Value, Value)>,
}

impl Model {
    /// Whether it came from a GGUF file, whose weights are dequantised.
    pub fn is_gguf(&self) -> bool {
        self.gguf_tokenizer.is_some()
    }

    /// Opens a Hugging Face folder, a GGUF file, or a folder holding exactly one GGUF and no safetensors.
    pub fn open(path: &Path) -> Result<Self, HubError> {
        Self::open_with(path, OpenOptions::default())
    }

    /// [`Model::open`] with options.
    pub fn open_with(path: &Path, options: OpenOptions) -> Result<Self, HubError> {
        if path.is_dir() {
            let ggufs = files_with_extension(path, "gguf")?;
            let has_safetensors = !files_with_extension(path, "safetensors")?.is_empty()
                || path.join("model.safetensors.index.json").is_file();
            match ggufs.as_slice() {
                [only] if !has_safetensors => Self::open_gguf(only, options),
                [_, _, ..] if !has_safetensors => Err(HubError::NotAModel {
                    path: path.into(),
                    reason: format!("it has {} GGUF files; pass one of them", ggufs.len()),
                }),
                _ => Self::open_folder(path),
            }
        } else if path.is_file() {
            if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
                Self::open_gguf(path, options)
            } else {
                Err(HubError::NotAModel { path: path.into(), reason: "it is a file, and not a .gguf".into() })
            }
        } else {
            Err(HubError::NotFound { path: path.into() })
        }
    }

    fn open_folder(folder: &Path) -> Result<Self, HubError> {
        let config_path = folder.join("config.json");
        let (config_text, config) = read_json(&config_path)?
            .ok_or_else(|| HubError::NotAModel { path: folder.into(), reason: "it has no config.json".into() })?;
        let config_object = expect_object(&config_path, &config)?;
        let object = |name: &str| -> Result<Option<Map<String, Value>>, HubError> {
            let path = folder.join(name);
            let Some((_, value)) = read_json(&path)? else { return Ok(None) };
            expect_object(&path, &value).cloned().map(Some)
        };
        let tokenizer_config = object("tokenizer_config.json")?;
        let special_tokens_map = object("special_tokens_map.json")?;
        let generation_config = object("generation_config.json")?;
        let tokenizer = read_tokenizer(&folder.join("tokenizer.json"))?;
        let chat_template = folder_template(folder, tokenizer_config.as_ref())?;
        let special_tokens = SpecialTokens::gather(
            tokenizer_config.as_ref(),
            special_tokens_map.as_ref(),
            config_object,
            tokenizer.as_ref(),
        );
        let eos_token_ids = tokens::eos_token_ids(
            generation_config.as_ref(),
            config_object,
            &special_tokens,
            chat_template.as_deref(),
            tokenizer.as_ref(),
        );
        let max_length = max_length(config_object, tokenizer_config.as_ref());
        Ok(Self {
            weights: Weights::open_folder(folder)?,
            generation: generation_defaults(generation_config.as_ref()),
            source: Source::Folder(folder.into()),
            config,
            config_text,
            chat_template,
            special_tokens,
            eos_token_ids,
            max_length,
            tokenizer,
            gguf_tokenizer: None,
        })
    }

    fn open_gguf(path: &Path, options: OpenOptions) -> Result<Self, HubError> {
        let file = MappedFile::open(path)?;
        let header = gguf::Header::read(&file)?;
        let tokenizer = gguf::tokenizer(&header)?;
        let vocabulary = match &tokenizer {
            Some(built) => built.tokenizer.get_vocab_size(true),
            None => header.required_integer("vocab_size")?,
        };
        let dtype = match options.gguf_dtype {
            GgufDtype::F32 => "float32",
            GgufDtype::Bf16 => "bfloat16",
        };
        let config = gguf::config(&header, vocabulary, dtype)?;
        let config_object = expect_object(path, &config)?;
        let chat_template = match header.string("tokenizer.chat_template") {
            Some(template) => Some(template.to_owned()),
            None => tokenizer
                .as_ref()
                .filter(|built| {
                    ["<|im_start|>", "<|im_end|>"].iter().all(|token| built.tokenizer.token_to_id(token).is_some())
                })
                .map(|_| CHATML.to_owned()),
        };
        let weights = Weights::from_gguf(file, &header, options.gguf_dtype)?;
        let (tokenizer, files) = match tokenizer {
            Some(GgufTokenizer { tokenizer, json, config }) => (Some(tokenizer), Some((json, config))),
            None => (None, None),
        };
        let tokenizer_config = files.as_ref().and_then(|(_, config)| config.as_object());
        let special_tokens = SpecialTokens::gather(tokenizer_config, None, config_object, tokenizer.as_ref());
        let eos_token_ids =
            tokens::eos_token_ids(None, config_object, &special_tokens, chat_template.as_deref(), tokenizer.as_ref());
        let config_text = serde_json::to_string_pretty(&config).expect("a JSON value prints") + "\n";
        Ok(Self {
            max_length: max_length(config_object, None),
            generation: GenerationDefaults::default(),
            source: Source::Gguf(path.into()),
            config,
            config_text,
            weights,
            chat_template,
            special_tokens,
            eos_token_ids,
            tokenizer,
            gguf_tokenizer: files,
        })
    }

    /// The folder or file the model was opened from.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Folder(path) | Source::Gguf(path) => path,
        }
    }

    /// The tokenizer; a checkpoint without one opens, but cannot encode text.
    pub fn tokenizer(&self) -> Result<&Tokenizer, HubError> {
        self.tokenizer.as_ref().ok_or_else(|| HubError::NoTokenizer { path: self.path().into() })
    }

    /// Whether there is a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// SHA-256 over configuration and tokenizer files (name, size, bytes; for a GGUF its header) and the weights' names,
    /// sizes and headers. It does not read the weights' data: see [`Weights::content_digest`].
    pub fn digest(&self) -> Result<String, HubError> {
        let mut hash = Sha256::new();
        if let Source::Folder(folder) = &self.source {
            for name in DIGESTED {
                let path = folder.join(name);
                if path.is_file() {
                    let bytes = std::fs::read(&path).map_err(HubError::io("read", &path))?;
                    hash_file_name(&mut hash, &path);
                    hash.update((bytes.len() as u64).to_le_bytes());
                    hash.update(&bytes);
                }
            }
        }
        hash.update(self.weights.header_digest());
        Ok(hex(&hash.finalize()))
    }

    /// Writes what a saved model needs besides its weights: configuration, tokenizer, template, generation defaults.
    /// `dtype` (`"bfloat16"`, ...) is the type the weights are saved in, if it is another than the checkpoint's.
    /// Returns the names of the files written.
    pub fn copy_side_files(&self, folder: &Path, dtype: Option<&str>) -> Result<Vec<String>, HubError> {
        let mut written = Vec::new();
        let mut write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            written.push(name.to_owned());
            std::fs::write(&path, bytes).map_err(HubError::io("write", path))
        };
        let config = match dtype {
            None => self.config_text.clone(),
            Some(dtype) => {
                let mut config = self.config.clone();
                let object = config.as_object_mut().expect("checked when the model was opened");
                let key = if object.contains_key("dtype") { "dtype" } else { "torch_dtype" };
                object.insert(key.into(), json!(dtype));
                pretty(&config)
            }
        };
        write("config.json", config.as_bytes())?;
        match &self.source {
            Source::Folder(source) => {
                for name in SIDE_FILES.iter().filter(|name| **name != "config.json") {
                    let from = source.join(name);
                    if from.is_file() {
                        write(name, &std::fs::read(&from).map_err(HubError::io("read", from))?)?;
                    }
                }
            }
            Source::Gguf(_) => {
                let mut generation = Map::new();
                for key in ["bos_token_id", "pad_token_id"] {
                    if let Some(id) = self.config.get(key) {
                        generation.insert(key.into(), id.clone());
                    }
                }
                match self.eos_token_ids.as_slice() {
                    [] => {}
                    [one] => drop(generation.insert("eos_token_id".into(), json!(one))),
                    several => drop(generation.insert("eos_token_id".into(), json!(several))),
                }
                write("generation_config.json", pretty(&Value::Object(generation)).as_bytes())?;
                if let Some((tokenizer, tokenizer_config)) = &self.gguf_tokenizer {
                    write("tokenizer.json", pretty(tokenizer).as_bytes())?;
                    let mut tokenizer_config = tokenizer_config.clone();
                    if let Some(template) = &self.chat_template {
                        tokenizer_config["chat_template"] = json!(template);
                    }
                    write("tokenizer_config.json", pretty(&tokenizer_config).as_bytes())?;
                }
            }
        }
        Ok(written)
    }
}

impl Checkpoint for Model {
    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        self.weights.tensor(name)
    }

    fn names(&self) -> Vec<String> {
        self.weights.names()
    }
}

/// So that a session can share the opened model instead of taking its weights out.
impl WeightSource for Model {
    fn bytes(&self, name: &str) -> Result<TensorBytes<'_>, WeightError> {
        WeightSource::bytes(&self.weights, name)
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value prints") + "\n"
}

/// Reads `tokenizer.json`; truncation and padding that were saved with it are switched off, they would cut texts in
/// silence.
fn read_tokenizer(path: &Path) -> Result<Option<Tokenizer>, HubError> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(HubError::io("read", path))?;
    let fail = |e: tokenizers::Error| HubError::Tokenizer { path: path.into(), message: e.to_string() };
    // The tokenizers crate panics on some files that are cut short.
    serde_json::from_slice::<Value>(&bytes).map_err(|e| fail(e.into()))?;
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(fail)?;
    tokenizer.with_truncation(None).map_err(fail)?;
    tokenizer.with_padding(None);
    Ok(Some(tokenizer))
}

/// The folder's chat template: its own file, else the one in `tokenizer_config.json` (of several, `default`).
fn folder_template(folder: &Path, tokenizer_config: Option<&Map<String, Value>>) -> Result<Option<String>, HubError> {
    let jinja = folder.join("chat_template.jinja");
    if jinja.is_file() {
        return std::fs::read_to_string(&jinja).map(Some).map_err(HubError::io("read", jinja));
    }
    let path = folder.join("chat_template.json");
    let from_file = read_json(&path)?.map(|(_, value)| value);
    let value = match &from_file {
        Some(file) => file.get("chat_template"),
        None => tokenizer_config.and_then(|config| config.get("chat_template")),
    };
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(several)) => {
            let name = |entry: &Value| entry.get("name").and_then(Value::as_str).map(str::to_owned);
            let chosen = several.iter().find(|entry| name(entry).as_deref() == Some("default"));
            let chosen = chosen.or(if several.len() == 1 { several.first() } else { None });
            match chosen.and_then(|entry| entry.get("template")).and_then(Value::as_str) {
                Some(template) => Ok(Some(template.to_owned())),
                None => Err(HubError::Content {
                    path: folder.join("tokenizer_config.json"),
                    message: "`chat_template` is a list without a template named `default`".into(),
                }),
            }
        }
        Some(_) => Err(HubError::Content {
            path: folder.join("tokenizer_config.json"),
            message: "`chat_template` is neither a text nor a list".into(),
        }),
    }
}

/// `max_position_embeddings`, else the tokenizer's `model_max_length` unless it is the library's "unlimited".
fn max_length(config: &Map<String, Value>, tokenizer_config: Option<&Map<String, Value>>) -> Option<usize> {
    let stated = |value: Option<&Value>| value.and_then(Value::as_u64).filter(|&n| n > 0 && n < 1 << 40);
    let text_config = config.get("text_config").and_then(Value::as_object);
    stated(config.get("max_position_embeddings"))
        .or_else(|| stated(text_config.and_then(|c| c.get("max_position_embeddings"))))
        .or_else(|| stated(tokenizer_config.and_then(|c| c.get("model_max_length"))))
        .map(|n| n as usize)
}

fn generation_defaults(config: Option<&Map<String, Value>>) -> GenerationDefaults {
    let Some(config) = config else { return GenerationDefaults::default() };
    let float = |key: &str| config.get(key).and_then(Value::as_f64);
    let integer = |key: &str| config.get(key).and_then(Value::as_u64);
    GenerationDefaults {
        do_sample: config.get("do_sample").and_then(Value::as_bool),
        temperature: float("temperature"),
        top_p: float("top_p"),
        top_k: integer("top_k"),
        min_p: float("min_p"),
        repetition_penalty: float("repetition_penalty"),
        max_new_tokens: integer("max_new_tokens"),
    }
}
