//! What the binary says to input it cannot use: the whole text, and the exit code (1 failure, 2 usage).

use crate::fixture::Place;

/// The texts of many cases as one snapshot: reviewed as a page, changed knowingly.
fn page(cases: &[(&str, String)]) -> String {
    cases.iter().map(|(title, text)| format!("## {title}\n{}\n", text.trim_end())).collect::<Vec<_>>().join("\n")
}

#[test]
fn arguments() {
    let place = Place::new();
    let usage = |arguments: &str| place.complaint(arguments, 2);
    let cases = [
        ("unknown argument", usage("sft --model model --dataset rows.jsonl --lora_rnak 4")),
        ("known but unbuilt argument", usage("sft --model model --dataset rows.jsonl --deepspeed zero2")),
        ("unknown command", usage("stf --model model")),
        ("known but unbuilt command", usage("rlhf --rlhf_type dpo")),
        ("not a number", usage("sft --model model --dataset rows.jsonl --lora_rank many")),
        ("not a choice", usage("sft --model model --dataset rows.jsonl --lr_scheduler_type cosin")),
        ("no model", usage("sft --dataset rows.jsonl")),
        ("no dataset", usage("sft --model model")),
    ];
    insta::assert_snapshot!(page(&cases));
}

#[test]
fn files() {
    let place = Place::new();
    let fails = |arguments: &str| place.complaint(arguments, 1);
    let missing_model = fails("sft --model nowhere --dataset rows.jsonl");
    let missing_rows = fails("sft --model model --dataset nowhere.jsonl");

    place.write("bad.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n{\"messages\": \n");
    let malformed = fails("sft --model model --dataset bad.jsonl --strict true --max_steps 1 --output_dir out");

    let weights = place.bytes("model/model.safetensors");
    std::fs::write(place.path("model/model.safetensors"), &weights[..weights.len() / 2]).expect("written");
    let truncated = fails("sft --model model --dataset rows.jsonl --output_dir out");
    std::fs::write(place.path("model/model.safetensors"), &weights).expect("written");

    let config = place.read("model/config.json");
    place.write("model/config.json", &config.replace("\"hidden_size\":64", "\"hidden_size\":48"));
    let wrong_size = fails("sft --model model --dataset rows.jsonl --output_dir out");
    place.write(
        "model/config.json",
        &config.replace("\"qwen3\"", "\"mystery\"").replace("Qwen3ForCausalLM", "MysteryForCausalLM"),
    );
    let unknown_family = fails("sft --model model --dataset rows.jsonl --output_dir out");
    place.write("model/config.json", &config[..config.len() - 3]);
    let broken_config = fails("sft --model model --dataset rows.jsonl --output_dir out");
    place.write("model/config.json", &config);

    place.write("not-a-plugin.wasm", "hello");
    let not_a_plugin = fails("--plugin not-a-plugin.wasm sft --model model --dataset rows.jsonl --output_dir out");
    let no_target = fails("sft --model model --dataset rows.jsonl --target_modules q_prj --output_dir out");
    place.write("job.yaml", "model: [model\n");
    let broken_yaml = place.complaint("sft job.yaml", 2);
    let cases = [
        ("missing model", missing_model),
        ("missing rows", missing_rows),
        ("malformed row, strict", malformed),
        ("truncated safetensors", truncated),
        ("config with a wrong size", wrong_size),
        ("config of an unknown family", unknown_family),
        ("config that is no JSON", broken_config),
        ("not a plugin", not_a_plugin),
        ("a target that is not there", no_target),
        ("YAML that is none", broken_yaml),
    ];
    insta::assert_snapshot!(page(&cases));
}

/// Without `--strict` the row is dropped, counted, and shown with its line.
#[test]
fn a_malformed_row_is_counted() {
    let place = Place::new();
    let rows = place.read("rows.jsonl");
    place.write(
        "rows.jsonl",
        &format!("{rows}{{\"messages\": [{{\"role\": \"user\", \"content\": \"alone\"}}]}}\nnot json\n"),
    );
    let said = place.swift(&place.train("run", "--max_steps 1")).good();
    let told = format!("{}{}", said.out, said.err);
    assert!(told.contains("rows.jsonl:25") && told.contains("rows.jsonl:26"), "{told}");
}

/// The results of a run never replace the rows it answers.
#[test]
fn results_over_the_dataset() {
    let place = Place::new();
    let before = place.read("rows.jsonl");
    let text =
        place.complaint("infer --model model --val_dataset rows.jsonl --result_path rows.jsonl --max_new_tokens 1", 1);
    assert!(text.contains("--result_path rows.jsonl is the dataset itself"), "{text}");
    assert_eq!(before, place.read("rows.jsonl"));
}

#[test]
fn a_rank_beyond_reason_and_a_cut_tokenizer() {
    let place = Place::new();
    let text = place.complaint("sft --model model --dataset rows.jsonl --lora_rank 100000000 --output_dir out", 1);
    assert!(text.contains("a LoRA rank of 100000000"), "{text}");
    let tokenizer = place.read("model/tokenizer.json");
    for cut in [tokenizer.len() / 3, tokenizer.len() / 2, tokenizer.len() - 60] {
        place.write("model/tokenizer.json", &tokenizer[..tokenizer.floor_char_boundary(cut)]);
        let text = place.complaint("infer --model model --val_dataset rows.jsonl --result_path out.jsonl", 1);
        assert!(text.contains("tokenizer.json") && !text.contains("panicked"), "{text}");
    }
}
