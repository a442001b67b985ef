//! GGUF files of the llama, qwen2 and qwen3 architectures: header, tensors under their Hugging Face names, config and
//! tokenizer rebuilt from the metadata. Parsing and dequantising are candle's; what is checked here is what it takes
//! for granted.

mod check;
mod config;
mod tokenizer;

use std::{io::Cursor, path::Path};

use candle_core::{
    Device,
    quantized::gguf_file::{Content, Value},
};
use half::bf16;
use swift_graph::StorageType;

pub(crate) use config::config;
pub(crate) use tokenizer::{GgufTokenizer, tokenizer};

use crate::{HubError, mapping::MappedFile, weights::Buffer};

/// The parsed header of a GGUF file.
pub(crate) struct Header {
    pub(crate) path: std::path::PathBuf,
    content: Content,
    /// Tensor names in the file's order.
    order: Vec<String>,
    pub(crate) data_start: usize,
    pub(crate) architecture: Architecture,
    heads: usize,
    key_value_heads: usize,
}

/// The architectures whose names and layouts are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// One tensor of a GGUF file, under its Hugging Face name.
#[derive(Debug)]
pub(crate) struct GgufTensor {
    /// The Hugging Face name.
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// The name in the file.
    source: String,
    info: TensorPlace,
    /// Heads whose rotary pairs are interleaved and must be split into halves again.
    rotary_heads: Option<usize>,
}

#[derive(Debug)]
struct TensorPlace {
    dtype: candle_core::quantized::GgmlDType,
    start: usize,
    length: usize,
}

impl Header {
    /// Checks and parses the header; no tensor data is touched.
    pub(crate) fn read(file: &MappedFile) -> Result<Self, HubError> {
        let path = &file.path;
        let fail = |message: String| HubError::Gguf { path: path.clone(), message };
        let order = check::check(file.bytes()).map_err(fail)?;
        let content = Content::read(&mut Cursor::new(file.bytes())).map_err(|e| fail(candle_message(&e)))?;
        let data_start = usize::try_from(content.tensor_data_offset).map_err(|e| fail(e.to_string()))?;
        if data_start > file.bytes().len() {
            return Err(fail("it ends before its tensor data begins".into()));
        }
        let name = match content.metadata.get("general.architecture") {
            Some(Value::String(name)) => name.clone(),
            _ => return Err(fail("it does not say its `general.architecture`".into())),
        };
        let architecture = match name.as_str() {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            _ => {
                return Err(HubError::Unsupported {
                    path: path.clone(),
                    feature: format!("GGUF architecture `{name}`"),
                    instead: "use the model's Hugging Face folder (config.json and safetensors); GGUF is read for \
                              llama, qwen2 and qwen3"
                        .into(),
                });
            }
        };
        let mut header =
            Self { path: path.clone(), content, order, data_start, architecture, heads: 0, key_value_heads: 0 };
        header.heads = header.required_integer("attention.head_count")?;
        header.key_value_heads = header.integer("attention.head_count_kv")?.unwrap_or(header.heads);
        if header.heads == 0 || header.key_value_heads == 0 {
            return Err(fail("it says that the model has no attention heads".into()));
        }
        Ok(header)
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> HubError {
        HubError::Gguf { path: self.path.clone(), message: message.into() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    pub(crate) fn string(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Option<bool> {
        match self.value(key) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    /// A non-negative integer of any width.
    pub(crate) fn index(&self, key: &str) -> Result<Option<usize>, HubError> {
        let number = match self.value(key) {
            None => return Ok(None),
            Some(Value::I8(v)) => i64::from(*v),
            Some(Value::I16(v)) => i64::from(*v),
            Some(Value::I32(v)) => i64::from(*v),
            Some(Value::I64(v)) => *v,
            Some(Value::Bool(_)) => -1,
            Some(other) => other.to_u64().ok().and_then(|v| i64::try_from(v).ok()).unwrap_or(-1),
        };
        usize::try_from(number)
            .map(Some)
            .map_err(|_| self.error(format!("metadata `{key}` must be a non-negative integer")))
    }

    /// `<architecture>.<key>` as a non-negative integer.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<usize>, HubError> {
        self.index(&format!("{}.{key}", self.architecture.prefix()))
    }

    pub(crate) fn required_integer(&self, key: &str) -> Result<usize, HubError> {
        self.integer(key)?
            .ok_or_else(|| self.error(format!("metadata `{}.{key}` is missing", self.architecture.prefix())))
    }

    /// `<architecture>.<key>` as a float.
    pub(crate) fn float(&self, key: &str) -> Option<f32> {
        match self.value(&format!("{}.{key}", self.architecture.prefix())) {
            Some(Value::F32(v)) => Some(*v),
            Some(Value::F64(v)) => Some(*v as f32),
            _ => None,
        }
    }

    /// Every tensor under its Hugging Face name, checked to lie in the file.
    pub(crate) fn tensors(&self) -> Result<Vec<GgufTensor>, HubError> {
        let file_size = std::fs::metadata(&self.path).map_err(HubError::io("read", &self.path))?.len() as usize;
        let mut tensors = Vec::with_capacity(self.order.len());
        for source in &self.order {
            if source == "rope_freqs.weight" {
                continue; // part of the config, see `config`
            }
            let name = hugging_face_name(source, self.architecture)
                .ok_or_else(|| self.error(format!("tensor `{source}` has no known Hugging Face name")))?;
            let info = self
                .content
                .tensor_infos
                .get(source)
                .ok_or_else(|| self.error(format!("tensor name `{}` is damaged", source.escape_debug())))?;
            let shape = info.shape.dims().to_vec();
            let dtype = info.ggml_dtype;
            let elements: usize = shape.iter().product();
            if !elements.is_multiple_of(dtype.block_size()) {
                return Err(
                    self.error(format!("tensor `{source}` {shape:?} is not a whole number of {dtype:?} blocks"))
                );
            }
            let length = elements / dtype.block_size() * dtype.type_size();
            let end = usize::try_from(info.offset)
                .ok()
                .and_then(|offset| self.data_start.checked_add(offset))
                .and_then(|start| Some((start, start.checked_add(length)?)));
            let Some((start, end)) = end.filter(|&(_, end)| end <= file_size) else {
                return Err(self.error(format!("tensor `{source}` reaches past the end of the file")));
            };
            let rotary_heads = match (self.architecture, source) {
                (Architecture::Llama, s) if s.contains(".attn_q.") => Some(self.heads),
                (Architecture::Llama, s) if s.contains(".attn_k.") => Some(self.key_value_heads),
                _ => None,
            };
            if let Some(heads) = rotary_heads
                && !shape.first().is_some_and(|rows| rows.is_multiple_of(2 * heads))
            {
                return Err(self.error(format!("tensor `{source}` {shape:?} does not divide into {heads} heads")));
            }
            let info = TensorPlace { dtype, start, length: end - start };
            tensors.push(GgufTensor { name, shape, source: source.clone(), info, rotary_heads });
        }
        Ok(tensors)
    }

    /// The values of a small tensor, by its name in the file.
    fn small_tensor(&self, source: &str) -> Result<Vec<f32>, HubError> {
        let file = MappedFile::open(&self.path)?;
        let tensor = self
            .content
            .tensor(&mut Cursor::new(file.bytes()), source, &Device::Cpu)
            .and_then(|t| t.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>());
        tensor.map_err(|e| self.error(candle_message(&e)))
    }
}

impl GgufTensor {
    /// Dequantises into `dtype` (f32 or bf16), rows in Hugging Face order.
    pub(crate) fn values(&self, file: &MappedFile, dtype: StorageType) -> Result<Buffer, HubError> {
        let fail = |message: String| HubError::Gguf {
            path: file.path.clone(),
            message: format!("tensor `{}`: {message}", self.source),
        };
        let raw = file
            .bytes()
            .get(self.info.start..self.info.start + self.info.length)
            .ok_or_else(|| fail("the file became shorter".into()))?;
        let values = candle_core::quantized::ggml_file::qtensor_from_ggml(
            self.info.dtype,
            raw,
            self.shape.clone(),
            &Device::Cpu,
        )
        .and_then(|tensor| tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>())
        .map_err(|e| fail(candle_message(&e)))?;
        let row = values.len() / self.shape.first().copied().unwrap_or(1).max(1);
        let rows = self.shape.first().copied().unwrap_or(1);
        let mut buffer = Buffer::zeroed(values.len() * dtype.size());
        for target in 0..rows {
            let from = self.rotary_heads.map_or(target, |heads| interleaved_row(target, rows, heads));
            let from = &values[from * row..(from + 1) * row];
            let range = target * row * dtype.size()..(target + 1) * row * dtype.size();
            let to = &mut buffer.bytes_mut()[range];
            match dtype {
                StorageType::F32 => bytemuck::cast_slice_mut::<u8, f32>(to).copy_from_slice(from),
                StorageType::Bf16 => {
                    for (to, from) in bytemuck::cast_slice_mut::<u8, bf16>(to).iter_mut().zip(from) {
                        *to = bf16::from_f32(*from);
                    }
                }
                other => return Err(fail(format!("cannot be dequantised to {}", other.name()))),
            }
        }
        Ok(buffer)
    }
}

/// The row of a llama GGUF's query or key matrix that holds row `target` of the Hugging Face matrix.
///
/// llama.cpp rotates neighbouring pairs, Hugging Face halves: per head of `d` rows, its converter writes Hugging Face
/// row `half * d/2 + i` to row `2 i + half`.
fn interleaved_row(target: usize, rows: usize, heads: usize) -> usize {
    let head_size = rows / heads;
    let (head, within) = (target / head_size, target % head_size);
    let (half, pair) = (within / (head_size / 2), within % (head_size / 2));
    head * head_size + 2 * pair + half
}

/// `blk.3.attn_q.weight` as `model.layers.3.self_attn.q_proj.weight`.
fn hugging_face_name(source: &str, architecture: Architecture) -> Option<String> {
    match source {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = source.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (module, kind) = rest.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    let module = match module {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" if architecture == Architecture::Qwen3 => "self_attn.q_norm",
        "attn_k_norm" if architecture == Architecture::Qwen3 => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{module}.{kind}"))
}

/// candle's message without its backtrace.
fn candle_message(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_start_matches("gguf: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaving_undoes_the_converters_permutation() {
        // llama.cpp: w.reshape(heads, 2, d/2, ..).swapaxes(1, 2): two heads of four rows.
        let stored = [0, 2, 1, 3, 4, 6, 5, 7]; // stored[row of the file] = row of the Hugging Face matrix
        let restored: Vec<usize> = (0..8).map(|target| stored[interleaved_row(target, 8, 2)]).collect();
        assert_eq!(restored, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn names_follow_hugging_face() {
        let name = |source| hugging_face_name(source, Architecture::Llama);
        assert_eq!(name("blk.12.ffn_down.weight").as_deref(), Some("model.layers.12.mlp.down_proj.weight"));
        assert_eq!(name("blk.0.attn_q_norm.weight"), None);
        assert_eq!(name("blk.0.ffn_gate_exps.weight"), None);
        assert_eq!(name("blk.x.attn_q.weight"), None);
    }
}
