//! Defaults are ms-swift's, rules hold, and no built argument is ignored.

use std::collections::BTreeSet;

use super::{reader::READ, *};
use crate::args::{Invocation, parse::parse};

fn given(line: &str) -> Given {
    let words: Vec<String> = line.split_whitespace().map(Into::into).collect();
    match parse(&words).unwrap() {
        Invocation::Run(given) => given,
        other => panic!("{other:?}"),
    }
}

fn sft(line: &str) -> Result<TrainSettings> {
    train(&given(&format!("sft --model m --dataset d.jsonl {line}")))
}

#[test]
fn defaults_are_those_of_ms_swift() {
    let settings = sft("").unwrap();
    let recipe = &settings.recipe;
    assert_eq!(recipe.learning_rate, 1e-4);
    assert_eq!((recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps), (1, 16));
    assert_eq!((recipe.adam_beta1, recipe.adam_beta2, recipe.adam_epsilon), (0.9, 0.95, 1e-8));
    assert_eq!((recipe.weight_decay, recipe.max_grad_norm), (0.1, Some(1.0)));
    assert_eq!((recipe.num_train_epochs, recipe.max_steps), (3.0, None));
    assert_eq!((recipe.save, recipe.evaluate), (Every::Steps(500), Every::Never));
    assert_eq!((recipe.logging_steps, recipe.logging_first_step, recipe.tensorboard), (5, true, true));
    let TunerSettings::Lora { rank: 8, alpha: 32.0, dropout: 0.05, targets: Targets::AllLinear, .. } = settings.tuner
    else {
        panic!("{:?}", settings.tuner)
    };
    assert_eq!(settings.max_shard_bytes, 5_000_000_000);
    assert_eq!(sft("--tuner_type full").unwrap().recipe.learning_rate, 1e-5);
    assert_eq!(sft("--per_device_train_batch_size 3").unwrap().recipe.gradient_accumulation_steps, 6);
    let with_validation = sft("--split_dataset_ratio 0.1 --save_steps 50").unwrap().recipe;
    assert_eq!(with_validation.evaluate, Every::Steps(50));
    let pretraining = train(&given("pt --model m --dataset d.jsonl")).unwrap();
    assert!(!pretraining.template.use_chat_template);
    assert_eq!(pretraining.template.loss_scale, LossScale::All);
    assert_eq!(pretraining.effective["loss_scale"], "all");
}

#[test]
fn every_built_argument_is_read() {
    for (verb, line) in [
        (Verb::Sft, "sft --model m --dataset d.jsonl"),
        (Verb::Pt, "pt --model m --dataset d.jsonl"),
        (Verb::Infer, "infer --model m"),
        (Verb::Export, "export --model m --merge_lora true --adapters a"),
    ] {
        // The reader is consulted for every argument of the table that serves the command, given or not.
        READ.with_borrow_mut(BTreeSet::clear);
        let given = given(line);
        match verb {
            Verb::Sft | Verb::Pt => drop(train(&given).unwrap()),
            Verb::Infer => drop(infer(&given).unwrap()),
            Verb::Export | Verb::MergeLora => drop(export(&given).unwrap()),
        }
        let used = READ.with_borrow(Clone::clone);
        for spec in ARGUMENTS.iter().filter(|spec| spec.serves(verb)) {
            assert!(used.contains(spec.name), "`swift {}` accepts --{} and ignores it", verb.name(), spec.name);
        }
    }
}

#[test]
fn rules_between_arguments_hold() {
    for (line, expected) in [
        ("--tuner_type full --lora_rank 4", "--lora_rank mean nothing"),
        ("--eval_strategy steps", "no validation data"),
        ("--packing_length 512", "without packing"),
        ("--resume_only_model true", "without --resume_from_checkpoint"),
        ("--lora_rank x", "`x` is not a whole number"),
        ("--lora_rank 0", "must be at least 1"),
        ("--lora_dropout 1", "below 1"),
        ("--learning_rate -1", "must not be negative"),
        ("--lr_scheduler_type polynomial", "polynomial is not built"),
        ("--report_to wandb", "wandb is known but not built"),
        ("--strict maybe", "`maybe`"),
        ("--max_shard_size big", "a size like 5GB"),
        ("--adapters a --init_weights gaussian", "means nothing to the adapter"),
    ] {
        let words = format!("sft --model m --dataset d.jsonl {line}");
        let words: Vec<String> = words.split_whitespace().map(Into::into).collect();
        let message = match parse(&words) {
            Ok(Invocation::Run(given)) => train(&given).unwrap_err().message,
            Err(error) => error.message,
            Ok(other) => panic!("{other:?}"),
        };
        assert!(message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn an_adapter_names_its_model() {
    let folder = std::env::temp_dir().join(format!("swift-settings-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("args.json"), r#"{"model": "base", "plugin": ["a.wasm"], "system": null}"#).unwrap();
    let line = format!("infer --adapters {}", folder.display());
    let settings = infer(&given(&line)).unwrap();
    assert_eq!((settings.model.path, settings.model.plugins), ("base".into(), vec!["a.wasm".into()]));
    assert!(infer(&given(&format!("{line} --load_args false"))).unwrap_err().message.contains("--model"));
    assert_eq!(infer(&given(&format!("{line} --model other"))).unwrap().model.path, Path::new("other"));
    std::fs::remove_dir_all(&folder).unwrap();
}
