//! Training that starts from an adapter: what is given beside it must agree with it.

use serde_json::Value;

use crate::fixture::Place;

#[test]
fn settings_that_agree_with_the_adapter_are_accepted_and_others_refused() {
    let place = Place::new();
    let shape = "--lora_rank 4 --lora_alpha 16 --use_rslora true --modules_to_save norm";
    place.swift(&place.train("run", shape)).good();
    let from =
        |output: &str, more: &str| place.train(output, &format!("--adapters run/checkpoint-6 --max_steps 2 {more}"));
    let config = |run: &str| -> Value {
        serde_json::from_str(&place.read(&format!("{run}/checkpoint-2/adapter_config.json"))).expect("JSON")
    };

    // The whole shape again, with the targets by their default's name; and nothing of it.
    place.swift(&from("again", &format!("{shape} --target_modules all-linear"))).good();
    place.swift(&from("silent", "")).good();
    let weights = |run: &str| place.bytes(&format!("{run}/checkpoint-2/adapter_model.safetensors"));
    assert!(weights("again") == weights("silent"), "saying what holds anyway changes nothing");
    assert_eq!(config("again"), config("silent"));
    for file in ["silent/args.json", "silent/run.json"] {
        let json: Value = serde_json::from_str(&place.read(file)).expect("JSON");
        let settings = json.get("settings").unwrap_or(&json);
        assert_eq!((&settings["lora_rank"], &settings["use_rslora"]), (&4.into(), &true.into()), "{file}");
    }
    let every = r"--target_regex .*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)";
    place.swift(&from("regex", every)).good();

    // Dropout is no shape.
    place.swift(&from("dropout", "--lora_dropout 0.5")).good();
    assert_eq!(config("dropout")["lora_dropout"], 0.5);
    assert_eq!(config("dropout")["r"], 4);
    assert!(weights("dropout") != weights("silent"), "the dropout that was asked for is used");

    for (given, asked, held) in [
        ("--lora_rank 8", "--lora_rank is 8", "has 4"),
        ("--lora_alpha 32", "--lora_alpha is 32", "has 16"),
        ("--use_rslora false", "--use_rslora is false", "has true"),
        ("--target_modules q_proj", "--target_modules is q_proj", "has down_proj gate_proj"),
        ("--target_modules q_prj", "--target_modules is q_prj", "has down_proj gate_proj"),
        ("--target_regex .*q_proj", "--target_regex is .*q_proj", "has down_proj gate_proj"),
        ("--modules_to_save lm_head", "--modules_to_save is lm_head", "norm"),
        ("--init_weights gaussian", "--init_weights", "adapter that training starts from"),
    ] {
        let said = place.complaint(&from("refused", given), 2);
        assert!(said.contains(asked) && said.contains(held), "{given}: {said}");
        assert!(!place.path("refused").exists(), "{given}: nothing is written");
    }
    // Both of two are named, and what agrees is not.
    let said = place.complaint(&from("refused", "--lora_rank 8 --lora_alpha 32 --use_rslora true"), 2);
    assert!(said.contains("lora_rank") && said.contains("lora_alpha") && !said.contains("rslora"), "{said}");
}
