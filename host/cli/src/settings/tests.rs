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

/// An environment that no launcher has touched.
fn alone(_: &str) -> Option<String> {
    None
}

/// That of rank 1 of 4.
fn launched(name: &str) -> Option<String> {
    let variables = [("RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "here")];
    variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
}

fn sft(line: &str) -> Result<TrainSettings> {
    train(&given(&format!("sft --model m --dataset d.jsonl {line}")), &alone)
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
    let pretraining = train(&given("pt --model m --dataset d.jsonl"), &alone).unwrap();
    assert!(!pretraining.template.use_chat_template);
    assert_eq!(pretraining.template.loss_scale, LossScale::parse("all").unwrap());
    assert_eq!(pretraining.effective["loss_scale"], "all");
}

#[test]
fn every_built_argument_is_read() {
    for (verb, line) in [
        (Verb::Sft, "sft --model m --dataset d.jsonl"),
        (Verb::Pt, "pt --model m --dataset d.jsonl"),
        (Verb::Infer, "infer --model m"),
        (Verb::Export, "export --model m --merge_lora true --adapters a"),
        (Verb::DataInspect, "data inspect --dataset d.jsonl"),
        (Verb::DataPreview, "data preview --model m --dataset d.jsonl"),
    ] {
        // The reader is consulted for every argument of the table that serves the command, given or not.
        READ.with_borrow_mut(BTreeSet::clear);
        let given = given(line);
        match verb {
            Verb::Sft | Verb::Pt => drop(train(&given, &alone).unwrap()),
            Verb::Infer => drop(infer(&given, &alone).unwrap()),
            Verb::Export | Verb::MergeLora => drop(export(&given, &alone).unwrap()),
            Verb::DataInspect | Verb::DataPreview => drop(look(&given).unwrap()),
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
        ("--device tpu", "--device tpu is not built"),
        ("--device cuda:x", "--device cuda:x is not built"),
        ("--device_map {}", "--device_map {} is not built"),
        ("--device cpu --device_map cuda:0", "--device cpu and --device_map cuda:0 contradict each other"),
        ("--device cuda:1 --device_map cuda:0", "contradict each other"),
        ("--fp16 true", "--fp16 is known but not built yet"),
        ("--quant_method hqq --quant_bits 4", "--quant_method hqq is not built"),
        ("--quant_method bnb --quant_bits 8 --bnb_4bit_compute_dtype bfloat16", "means nothing without"),
        ("--quant_method bnb --quant_bits 8 --bnb_4bit_use_double_quant true", "means nothing with --quant_bits 8"),
        ("--quant_method bnb", "--quant_method bnb needs --quant_bits"),
        ("--quant_bits 4", "--quant_bits 4 needs --quant_method"),
        ("--quant_method bnb --quant_bits 4 --bnb_4bit_quant_type fp4", "fp4 is not built"),
        ("--quant_method bnb --quant_bits 4 --bnb_4bit_compute_dtype float16", "float16 is not built"),
        (
            "--quant_method bnb --quant_bits 4 --torch_dtype float32 --bnb_4bit_compute_dtype bfloat16",
            "--bnb_4bit_compute_dtype bfloat16 contradicts --torch_dtype, which says float32",
        ),
        ("--quant_method bnb --quant_bits 4 --tuner_type full", "--tuner_type full would train"),
        ("--bnb_4bit_use_double_quant false", "--bnb_4bit_use_double_quant means nothing without --quant_method"),
        ("--bnb_4bit_compute_dtype bfloat16", "means nothing without --quant_method"),
        ("--ddp_backend gloo", "--ddp_backend gloo is not built"),
        ("--ddp_timeout 0", "must be at least 1"),
    ] {
        let words = format!("sft --model m --dataset d.jsonl {line}");
        let words: Vec<String> = words.split_whitespace().map(Into::into).collect();
        let message = match parse(&words) {
            Ok(Invocation::Run(given)) => train(&given, &alone).unwrap_err().message,
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
    let settings = infer(&given(&line), &alone).unwrap();
    assert_eq!((settings.model.path, settings.model.plugins.files), ("base".into(), vec!["a.wasm".into()]));
    assert!(infer(&given(&format!("{line} --load_args false")), &alone).unwrap_err().message.contains("--model"));
    assert_eq!(infer(&given(&format!("{line} --model other")), &alone).unwrap().model.path, Path::new("other"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn devices_are_named_in_several_ways() {
    use super::device::DeviceChoice::{Auto, Cpu, Cuda};
    for (line, choice) in [
        ("", Auto),
        ("--device auto", Auto),
        ("--device CPU", Cpu),
        ("--device cuda", Cuda(None)),
        ("--device cuda:3", Cuda(Some(3))),
        ("--device_map auto", Auto),
        ("--device_map cuda:0", Cuda(Some(0))),
        ("--device cuda --device_map cuda:2", Cuda(Some(2))),
        ("--device cuda:2 --device_map cuda", Cuda(Some(2))),
        ("--device cpu --device_map auto", Cpu),
        ("--device auto --device_map cpu", Cpu),
        ("--device cpu --device_map cpu", Cpu),
    ] {
        assert_eq!(sft(line).unwrap().device.choice, choice, "{line}");
    }
    let merge = |line: &str| export(&given(&format!("merge-lora --model m --adapters a {line}")), &alone);
    assert_eq!(merge("").unwrap().device.choice, Cpu);
    assert_eq!(merge("--device auto").unwrap().device.choice, Auto);
    assert!(merge("--quant_method bnb --quant_bits 4").unwrap_err().message.contains("not built yet"));
}

#[test]
fn precision_and_quantisation_follow_ms_swift() {
    use swift_engine::{Compute, Quantization};
    let device = |line: &str| sft(line).unwrap().device;
    for (line, compute) in [
        ("", None),
        ("--torch_dtype float32", Some(Compute::F32)),
        ("--torch_dtype bfloat16", Some(Compute::Bf16)),
        ("--torch_dtype float16", None),
        ("--torch_dtype float32 --bf16 true", Some(Compute::Bf16)),
        ("--torch_dtype float32 --bf16 false --fp16 false", Some(Compute::F32)),
        ("--quant_method bnb --quant_bits 4 --bnb_4bit_compute_dtype bfloat16", Some(Compute::Bf16)),
    ] {
        assert_eq!(device(line).compute, compute, "{line}");
    }
    let quantised = device("--quant_method bnb --quant_bits 4 --bnb_4bit_quant_type nf4");
    assert_eq!(quantised.quantization, Some(Quantization::Nf4 { double: true }));
    assert_eq!(quantised.needs_gpu.as_deref(), Some("--quant_method bnb"));
    let single = device("--quant_method bnb --quant_bits 4 --bnb_4bit_use_double_quant false");
    assert_eq!(single.quantization, Some(Quantization::Nf4 { double: false }));
    assert_eq!(device("--bf16 true").needs_gpu.as_deref(), Some("--bf16 true"));
    assert_eq!(device("--bf16 false").needs_gpu, None);
}

#[test]
fn launchers_make_ranks_of_training_only() {
    let words = |verb: &str, more: &str| given(&format!("{verb} --model m {more}"));
    let settings = train(&words("sft", "--dataset d.jsonl --ddp_backend nccl --ddp_timeout 60"), &launched).unwrap();
    let ranks = settings.device.ranks.unwrap();
    assert_eq!((ranks.rank, ranks.world_size, ranks.local_rank), (1, 4, 1));
    assert_eq!(ranks.timeout, Some(Duration::from_secs(60)));
    // As ms-swift: 16 samples a step, over all ranks.
    assert_eq!(settings.recipe.gradient_accumulation_steps, 4);
    let pinned = train(&words("sft", "--dataset d.jsonl --device cuda:0"), &launched).unwrap_err();
    assert_eq!(pinned.message, "--device cuda:0 would put all 4 ranks on one GPU");
    let infer = infer(&words("infer", ""), &launched).unwrap_err();
    assert_eq!(infer.message, "`swift infer` is one process, and this is rank 1 of 4");
    let broken = |name: &str| if name == "RANK" { Some("x".into()) } else { launched(name) };
    let error = train(&words("sft", "--dataset d.jsonl"), &broken).unwrap_err();
    assert_eq!(error.message, "the environment variable RANK is `x`, not a whole number");
    assert!(error.hint.is_some());
}
