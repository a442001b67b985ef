//! Runs of the binary from the command line, as a user would make them.

mod adapters;
mod bad_input;
mod data;
mod devices;
mod fixture;
mod plugins_author;
mod plugins_data;
mod plugins_docs;
mod plugins_registry;
mod resume;

use fixture::Place;
use serde_json::{Value, json};

#[test]
fn a_job_from_rows_to_merged_weights() {
    let place = Place::new();
    place.swift(&place.train("run", "--lora_dropout 0 --val_dataset rows.jsonl#8 --eval_steps 3")).good();
    let losses = place.logged("run", "loss");
    assert_eq!(losses.len(), 6, "one row a step");
    assert!(losses[5] < losses[0], "{losses:?}");
    assert_eq!(place.logged("run", "eval_loss").len(), 2);
    for file in ["adapter_config.json", "adapter_model.safetensors", "trainer_state.json", "args.json"] {
        assert!(place.path("run/checkpoint-6").join(file).is_file(), "{file}");
    }
    let manifest: Value = serde_json::from_str(&place.read("run/run.json")).expect("JSON");
    let text = manifest.to_string();
    for wanted in ["qwen3", "rows.jsonl", "sha256", "seed"] {
        assert!(text.contains(wanted), "run.json lacks {wanted}: {text}");
    }
    let events = std::fs::read_dir(place.path("run/runs")).expect("runs/").count();
    assert!(events > 0, "TensorBoard events");
    let picture =
        std::fs::read_dir(place.path("run/images")).expect("images/").next().expect("a picture").expect("an entry");
    assert!(std::fs::read_to_string(picture.path()).expect("a picture").contains("<svg"));

    // The same answers from base and adapter as from merged weights.
    place.swift("merge-lora --model model --adapters run/checkpoint-6 --output_dir merged").good();
    assert!(place.path("merged/model.safetensors").is_file() && place.path("merged/tokenizer.json").is_file());
    let infer = "--val_dataset rows.jsonl#4 --temperature 0 --max_new_tokens 8 --stream false";
    place.swift(&format!("infer --model model --adapters run/checkpoint-6 {infer} --result_path apart.jsonl")).good();
    place.swift(&format!("infer --model merged {infer} --result_path together.jsonl")).good();
    let responses = |name: &str| -> Vec<Value> {
        place.read(name).lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")["response"].clone()).collect()
    };
    assert_eq!(responses("apart.jsonl").len(), 4);
    assert_eq!(responses("apart.jsonl"), responses("together.jsonl"));
}

/// Modules trained whole come back as they were trained: the merged model has the loss that training measured.
#[test]
fn modules_trained_whole_can_be_used_merged_and_trained_further() {
    for (tied, module) in [(false, "lm_head"), (true, "embed_tokens"), (true, "norm")] {
        let place = Place::new();
        place.tie(tied);
        let validation = "--val_dataset rows.jsonl#8 --eval_steps 3 --lora_dropout 0";
        place.swift(&place.train("run", &format!("--modules_to_save {module} {validation}"))).good();
        let trained = place.logged("run", "eval_loss");
        assert_ne!(trained[0], trained[1], "{module}: a step changes it");
        let config: Value = serde_json::from_str(&place.read("run/checkpoint-6/adapter_config.json")).expect("JSON");
        assert_eq!(config["ensure_weight_tying"], module == "embed_tokens", "{config}");
        // PEFT would take `norm` for every module whose name ends so, and asks for a tied head beside its embedding.
        let named = if module == "norm" { "model.norm" } else { module };
        assert_eq!(config["modules_to_save"], json!([named]));
        let file = place.bytes("run/checkpoint-6/adapter_model.safetensors");
        let header = String::from_utf8_lossy(&file[..file.len().min(40_000)]).into_owned();
        assert_eq!(header.contains("\"base_model.model.lm_head.weight\""), module != "norm");

        // Resumed, it ends in the same bytes.
        let again = format!("--modules_to_save {module} {validation} --resume_from_checkpoint run/checkpoint-4");
        place.swift(&place.train("run", &again)).good();
        assert!(place.bytes("run/checkpoint-6/adapter_model.safetensors") == file, "{module}");

        let infer = "--val_dataset rows.jsonl#4 --temperature 0 --max_new_tokens 8 --stream false";
        let apart = format!("infer --model model --adapters run/checkpoint-6 {infer} --result_path apart.jsonl");
        place.swift(&apart).good();
        place.swift("merge-lora --model model --adapters run/checkpoint-6 --output_dir merged").good();
        place.swift(&format!("infer --model merged {infer} --result_path together.jsonl")).good();
        assert_eq!(place.read("apart.jsonl").lines().count(), 4);
        let responses = |name: &str| -> Vec<Value> {
            let row = |line| serde_json::from_str::<Value>(line).expect("JSON")["response"].clone();
            place.read(name).lines().map(row).collect()
        };
        assert_eq!(responses("apart.jsonl"), responses("together.jsonl"), "{module}");

        // Nothing moves at a learning rate of 0, so what is measured is what was loaded.
        let still = "--learning_rate 0 --val_dataset rows.jsonl#8 --eval_steps 6";
        let merged = place.train("again", still).replace("--model model", "--model merged");
        place.swift(&merged).good();
        place.swift(&place.train("further", &format!("--adapters run/checkpoint-6 {still}"))).good();
        let close = |run: &str, tolerance: f64| {
            let got = place.logged(run, "eval_loss")[0];
            assert!((got - trained[1]).abs() <= tolerance, "{module}: {run} {got}, trained {trained:?}");
        };
        close("again", 1e-4);
        close("further", 1e-6);
    }
}

/// Everything an adapter's configuration may say of its shape is kept when it is trained further.
#[test]
fn adapters_of_every_shape_are_trained_further() {
    let place = Place::new();
    place.swift(&place.train("run", "--lora_rank 4 --target_modules q_proj v_proj")).good();
    let path = "run/checkpoint-2/adapter_config.json";
    let written: Value = serde_json::from_str(&place.read(path)).expect("JSON");
    for (i, (key, value)) in [
        ("alpha_pattern", json!({"q_proj": 3.5})),
        ("rank_pattern", json!({"model.layers.0.self_attn.v_proj": 4})),
        ("target_modules", json!(r".*\.(q|v)_proj")),
        ("target_modules", json!(r"(?=.*self_attn).*\.(q|v)_proj")),
        ("target_modules", Value::Null),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = written.clone();
        config[key] = value.clone();
        place.write(path, &config.to_string());
        let run = format!("further-{i}");
        let further = place.train(&run, "--adapters run/checkpoint-2");
        place.swift(&further).good();
        let after: Value =
            serde_json::from_str(&place.read(&format!("{run}/checkpoint-6/adapter_config.json"))).expect("JSON");
        assert_eq!(after["r"], 4);
        if key != "target_modules" {
            assert_eq!(after[key], value);
        }
        let weights = format!("{run}/checkpoint-6/adapter_model.safetensors");
        let once = place.bytes(&weights);
        assert!(once != place.bytes("run/checkpoint-6/adapter_model.safetensors"));
        place.swift(&format!("{further} --resume_from_checkpoint {run}/checkpoint-4")).good();
        assert!(place.bytes(&weights) == once, "{key} {value}: the resumed run differs");
    }
}

#[test]
fn full_tuning_writes_a_model_that_can_be_used() {
    let place = Place::new();
    place.swift(&place.train("run", "--tuner_type full --learning_rate 1e-3")).good();
    let losses = place.logged("run", "loss");
    assert!(losses[5] < losses[0], "{losses:?}");
    let chat = "infer --model run/checkpoint-6 --val_dataset rows.jsonl#2 --result_path out.jsonl --temperature 0 --max_new_tokens 4";
    place.swift(chat).good();
    assert_eq!(place.read("out.jsonl").lines().count(), 2);
}

#[test]
fn pre_training_on_plain_text() {
    let place = Place::new();
    let lines: Vec<String> = (0..12).map(|i| format!("{{\"text\": \"line {i} of a text about nothing\"}}")).collect();
    place.write("text.jsonl", &lines.join("\n"));
    let arguments = "pt --model model --dataset text.jsonl --tuner_type full --output_dir run --add_version false --max_steps 4 \
                     --logging_steps 1 --gradient_accumulation_steps 1 --learning_rate 1e-3 --packing true --max_length 128";
    place.swift(arguments).good();
    let losses = place.logged("run", "loss");
    assert!(losses[3] < losses[0], "{losses:?}");
}

/// One accumulated step over all rows is the same with and without packing, and in one batch or in several.
#[test]
fn packed_equals_unpacked_equals_accumulated() {
    let place = Place::new();
    let common = "sft --model model --dataset rows.jsonl --add_version false --max_steps 2 --logging_steps 1 --lora_dropout 0 \
                  --learning_rate 1e-3 --dataset_shuffle false --train_dataloader_shuffle false --save_strategy no";
    place
        .swift(&format!("{common} --output_dir one --per_device_train_batch_size 24 --gradient_accumulation_steps 1"))
        .good();
    place
        .swift(&format!("{common} --output_dir many --per_device_train_batch_size 3 --gradient_accumulation_steps 8"))
        .good();
    // Every row in packs of at most 128 tokens; more packs than there are rows in a step are not needed.
    place.swift(&format!("{common} --output_dir packed --packing true --max_length 128 --per_device_train_batch_size 24 --gradient_accumulation_steps 1")).good();
    for key in ["loss", "grad_norm"] {
        let (one, many, packed) = (place.logged("one", key), place.logged("many", key), place.logged("packed", key));
        assert_eq!(one.len(), 2);
        for i in 0..2 {
            assert!((one[i] - many[i]).abs() < 2e-5 * one[i], "{key}: {one:?} {many:?}");
            assert!((one[i] - packed[i]).abs() < 2e-5 * one[i], "{key}: {one:?} {packed:?}");
        }
    }
}

#[test]
fn settings_from_yaml_with_flags_on_top() {
    let place = Place::new();
    let yaml =
        "model: model\ndataset:\n  - rows.jsonl\nmax_steps: 1\noutput_dir: wrong\nadd_version: false\nlora_rank: 2\n";
    place.write("job.yaml", yaml);
    place.swift("sft job.yaml --output_dir right").good();
    let config: Value = serde_json::from_str(&place.read("right/checkpoint-1/adapter_config.json")).expect("JSON");
    assert_eq!(config["r"], 2);
    assert!(!place.path("wrong").exists());
}

#[test]
fn help_and_version() {
    let place = Place::new();
    let help = place.swift("--help").good();
    assert!(help.out.contains("sft") && help.out.contains("infer"), "{}", help.out);
    let help = place.swift("sft --help").good();
    assert!(help.out.contains("--lora_rank") && help.out.contains("--dataset"), "{}", help.out);
    assert!(place.swift("--version").good().out.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_plugin_given_by_name_is_the_one_that_traces() {
    let place = Place::new();
    let plugin = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist/qwen3.wasm");
    std::fs::copy(plugin, place.path("mine.wasm")).expect("a plugin");
    let arguments = place.train("run", "--max_steps 1");
    place.swift(&format!("--plugin mine.wasm {arguments}")).good();
    assert!(place.read("run/run.json").contains("mine.wasm"));
}

#[test]
fn chat_from_a_pipe() {
    use std::io::Write;
    let place = Place::new();
    let mut command = place.command("infer --model model --temperature 0 --max_new_tokens 3");
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(b"hello\n").expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
}
