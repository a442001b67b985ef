//! A tiny checkpoint with a tokenizer, rows, and runs of the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// The binary under test.
pub(crate) const SWIFT: &str = env!("CARGO_BIN_EXE_swift");

/// What launchers set; empty is as if they had not.
const LAUNCHERS: [&str; 5] = ["RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// A folder of its own for each test, with a model and rows.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// What a run of the binary said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Panics with everything that was said unless it succeeded.
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Byte-level tokenizer of 256 bytes and three special tokens; the oracle's vocabulary has 320 rows.
fn tokenizer() -> Value {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut vocabulary = serde_json::Map::new();
    let mut stand_in = 256;
    for byte in 0..256u32 {
        let code = if plain(byte) {
            byte
        } else {
            stand_in += 1;
            stand_in - 1
        };
        vocabulary.insert(char::from_u32(code).expect("a letter").to_string(), json!(byte));
    }
    let mut added = Vec::new();
    for (i, text) in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].iter().enumerate() {
        vocabulary.insert((*text).into(), json!(256 + i));
        added.push(json!({"id": 256 + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}));
    }
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
           "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
           "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                     "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                     "vocab": vocabulary, "merges": []}})
}

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        let model = place.path("model");
        std::fs::create_dir(&model).expect("a folder");
        let oracle = repository().join("tests/oracles/qwen3");
        std::fs::copy(oracle.join("model.safetensors"), model.join("model.safetensors")).expect("weights");
        let config = std::fs::read_to_string(oracle.join("config.json")).expect("a config");
        let mut config: Value = serde_json::from_str(&config).expect("JSON");
        config["eos_token_id"] = json!(258);
        config["bos_token_id"] = Value::Null;
        config["pad_token_id"] = json!(256);
        place.write("model/config.json", &config.to_string());
        place.write("model/tokenizer.json", &tokenizer().to_string());
        place.write(
            "model/tokenizer_config.json",
            &json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}).to_string(),
        );
        let rows: Vec<String> = (0..24)
            .map(|i| {
                let (question, answer) = (format!("say {}", "abc".repeat(i % 5 + 1)), "xy".repeat(i % 3 + 1));
                json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
                    .to_string()
            })
            .collect();
        place.write("rows.jsonl", &(rows.join("\n") + "\n"));
        place
    }

    /// Makes the model's head its embedding, or not.
    pub(crate) fn tie(&self, tied: bool) {
        let mut config: Value = serde_json::from_str(&self.read("model/config.json")).expect("JSON");
        config["tie_word_embeddings"] = json!(tied);
        self.write("model/config.json", &config.to_string());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The command in this folder, with no plugins, settings or caches of the machine's user.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(SWIFT);
        command
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env_remove("XDG_DATA_HOME")
            .env_remove("SWIFT_PLUGIN_DIR")
            // The same on every machine: no GPU is used, and no launcher has started this.
            .env("CUDA_VISIBLE_DEVICES", "")
            .envs(LAUNCHERS.map(|name| (name, "")))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn swift(&self, arguments: &str) -> Said {
        Said::of(&self.command(arguments).output().expect("the binary starts"))
    }

    /// What was said on stderr, with this folder's name left out.
    pub(crate) fn complaint(&self, arguments: &str, code: i32) -> String {
        let said = self.swift(arguments);
        assert_eq!(said.code, Some(code), "stdout:\n{}\nstderr:\n{}", said.out, said.err);
        let real = self.folder.path().canonicalize().expect("a folder");
        said.err
            .replace(&real.display().to_string(), "[here]")
            .replace(&self.folder.path().display().to_string(), "[here]")
    }

    /// A short training command; more arguments may follow.
    pub(crate) fn train(&self, output: &str, more: &str) -> String {
        format!(
            "sft --model model --dataset rows.jsonl --output_dir {output} --add_version false --max_steps 6 --logging_steps 1 \
             --per_device_train_batch_size 2 --gradient_accumulation_steps 2 --learning_rate 1e-3 --save_steps 2 {more}"
        )
    }

    /// Rows of a run's logging.jsonl that have `key`.
    pub(crate) fn logged(&self, run: &str, key: &str) -> Vec<f64> {
        let text = self.read(&format!("{run}/logging.jsonl"));
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        rows.filter_map(|row| row.get(key).and_then(Value::as_f64)).collect()
    }
}
