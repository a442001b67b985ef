//! The table of built arguments: names, defaults and help in one place. The clap command, configuration files and
//! settings all read it.

use super::{
    ArgumentSpec,
    Default::{Computed, None as NoDefault, Value},
    Kind::{self, Boolean, Choice, Float, Integer, List, Path, Repeated, Text},
};

pub(crate) const SFT: u8 = 1;
pub(crate) const PT: u8 = 2;
pub(crate) const INFER: u8 = 4;
pub(crate) const EXPORT: u8 = 8;
const TRAIN: u8 = SFT | PT;
const ALL: u8 = TRAIN | INFER | EXPORT;

const fn row(
    name: &'static str,
    kind: Kind,
    default: super::Default,
    group: &'static str,
    verbs: u8,
    help: &'static str,
) -> ArgumentSpec {
    ArgumentSpec { name, aliases: &[], kind, default, group, verbs, help }
}

const fn renamed(spec: ArgumentSpec, aliases: &'static [&'static str]) -> ArgumentSpec {
    ArgumentSpec { aliases, ..spec }
}

const MODEL: &str = "Model";
const DATA: &str = "Data";
const TEMPLATE: &str = "Template";
const TUNER: &str = "Tuner";
const TRAINING: &str = "Training";
const OPTIMIZER: &str = "Optimizer and schedule";
const SAVING: &str = "Evaluation, saving, logging";
const GENERATION: &str = "Generation";
const OUTPUT: &str = "Output";
const RUN: &str = "Run";

/// Element types weights are stored in.
pub(crate) const DTYPES: &[&str] = &["bfloat16", "float16", "float32"];

/// Every built argument, in the order help shows them.
pub(crate) static ARGUMENTS: &[ArgumentSpec] = &[
    row("model", Path, NoDefault, MODEL, ALL, "Folder with config.json, tokenizer and safetensors, or a .gguf file"),
    row("model_type", Text, Computed("from config.json"), MODEL, ALL, "Model family, where config.json leaves it open"),
    row(
        "plugin",
        Repeated,
        Computed("the installed ones"),
        MODEL,
        ALL,
        "Plugin component (.wasm); may be repeated, also before the command",
    ),
    row("adapters", List, NoDefault, MODEL, ALL, "PEFT adapter folders; training starts from their weights"),
    row(
        "torch_dtype",
        Choice(DTYPES),
        Computed("as stored"),
        MODEL,
        ALL,
        "Storage type of the weights; computation is in float32",
    ),
    row(
        "load_args",
        Boolean,
        Value("true"),
        MODEL,
        INFER | EXPORT,
        "Take model, template and plugins from the adapter's args.json",
    ),
    row("dataset", List, NoDefault, DATA, TRAIN | INFER, "Data files: FILE.jsonl, with #N for N rows"),
    row("val_dataset", List, NoDefault, DATA, TRAIN | INFER, "Validation files; in infer, the rows to answer"),
    row("split_dataset_ratio", Float, Value("0"), DATA, TRAIN, "Share of the training rows held out for validation"),
    row("val_dataset_sample", Integer, Computed("all"), DATA, INFER, "How many rows to answer"),
    row("dataset_shuffle", Boolean, Value("true"), DATA, TRAIN, "Shuffle the rows once, before packing and splitting"),
    row("train_dataloader_shuffle", Boolean, Value("true"), DATA, TRAIN, "Shuffle the samples again in every epoch"),
    row("data_seed", Integer, Value("42"), DATA, TRAIN, "Seed of both shuffles and the split"),
    row("columns", Text, NoDefault, DATA, TRAIN | INFER, "JSON map of column names: {\"question\": \"query\"}"),
    row(
        "strict",
        Boolean,
        Value("false"),
        DATA,
        TRAIN | INFER,
        "Stop at the first bad row; otherwise drop and report it",
    ),
    row(
        "packing",
        Boolean,
        Value("false"),
        DATA,
        TRAIN,
        "Pack several rows into one sequence; they do not see each other",
    ),
    row("packing_length", Integer, Computed("max_length"), DATA, TRAIN, "Tokens of a pack"),
    row("packing_strategy", Choice(&["binpack", "sequential"]), Value("binpack"), DATA, TRAIN, "Best fit, or in order"),
    row(
        "system",
        Text,
        Computed("the template's"),
        TEMPLATE,
        TRAIN | INFER,
        "System prompt for rows without one: text or a .txt file",
    ),
    row("max_length", Integer, Computed("the model's"), TEMPLATE, TRAIN | INFER, "Longest row in tokens"),
    row(
        "truncation_strategy",
        Choice(&["delete", "left", "right", "split"]),
        Value("delete"),
        TEMPLATE,
        TRAIN,
        "What happens to longer rows; split is for plain text",
    ),
    row(
        "use_chat_template",
        Boolean,
        Computed("true; pt: false"),
        TEMPLATE,
        TRAIN | INFER,
        "Render rows with the chat template",
    ),
    row(
        "loss_scale",
        Choice(&["default", "last_round", "all"]),
        Computed("default; pt: all"),
        TEMPLATE,
        TRAIN,
        "Tokens trained: assistant turns, the last of them, or all",
    ),
    row("enable_thinking", Boolean, Computed("the template's"), TEMPLATE, TRAIN | INFER, "Passed to the chat template"),
    row(
        "run_date",
        Text,
        Computed("today, then fixed in run.json"),
        TEMPLATE,
        TRAIN | INFER,
        "The date templates see, YYYY-MM-DD",
    ),
    renamed(
        row(
            "tuner_type",
            Choice(&["lora", "full"]),
            Value("lora"),
            TUNER,
            TRAIN,
            "Train low-rank adapters or all weights",
        ),
        &["train_type"],
    ),
    row("lora_rank", Integer, Value("8"), TUNER, TRAIN, "Rank of the adapters"),
    row("lora_alpha", Float, Value("32"), TUNER, TRAIN, "Scale: alpha / rank"),
    row("lora_dropout", Float, Value("0.05"), TUNER, TRAIN, "Dropout before the adapters"),
    row("target_modules", List, Value("all-linear"), TUNER, TRAIN, "Modules that get an adapter, by name"),
    row(
        "target_regex",
        Text,
        NoDefault,
        TUNER,
        TRAIN,
        "Modules that get an adapter, by regular expression; replaces target_modules",
    ),
    row("modules_to_save", List, NoDefault, TUNER, TRAIN, "Modules trained whole beside the adapters"),
    row(
        "init_weights",
        Choice(&["true", "false", "gaussian"]),
        Value("true"),
        TUNER,
        TRAIN,
        "First values of the adapters, as PEFT's init_lora_weights",
    ),
    row("use_rslora", Boolean, Value("false"), TUNER, TRAIN, "Scale by alpha / sqrt(rank)"),
    row("per_device_train_batch_size", Integer, Value("1"), TRAINING, TRAIN, "Rows (or packs) of a micro-batch"),
    row(
        "per_device_eval_batch_size",
        Integer,
        Value("1"),
        TRAINING,
        TRAIN,
        "Rows of a validation batch; does not change the result",
    ),
    row(
        "gradient_accumulation_steps",
        Integer,
        Computed("ceil(16 / batch size)"),
        TRAINING,
        TRAIN,
        "Micro-batches of a step",
    ),
    row("num_train_epochs", Float, Value("3"), TRAINING, TRAIN, "Passes over the data"),
    row("max_steps", Text, Value("-1"), TRAINING, TRAIN, "Steps; overrides num_train_epochs when positive"),
    row(
        "gradient_checkpointing",
        Boolean,
        Value("true"),
        TRAINING,
        TRAIN,
        "Keep block inputs only and recompute: less memory, same numbers",
    ),
    row("learning_rate", Float, Computed("1e-4; full: 1e-5"), OPTIMIZER, TRAIN, "Highest learning rate"),
    row(
        "lr_scheduler_type",
        Choice(&["cosine", "linear", "constant", "constant_with_warmup"]),
        Value("cosine"),
        OPTIMIZER,
        TRAIN,
        "How the learning rate moves",
    ),
    row("warmup_ratio", Float, Value("0"), OPTIMIZER, TRAIN, "Share of the steps used to warm up"),
    row("warmup_steps", Integer, Value("0"), OPTIMIZER, TRAIN, "Steps used to warm up; overrides warmup_ratio"),
    row("weight_decay", Float, Value("0.1"), OPTIMIZER, TRAIN, "AdamW's decoupled decay; not on norms and biases"),
    row("adam_beta1", Float, Value("0.9"), OPTIMIZER, TRAIN, "AdamW"),
    row("adam_beta2", Float, Value("0.95"), OPTIMIZER, TRAIN, "AdamW"),
    row("adam_epsilon", Float, Value("1e-8"), OPTIMIZER, TRAIN, "AdamW"),
    row("max_grad_norm", Float, Value("1"), OPTIMIZER, TRAIN, "Clip the gradient to this norm; 0 does not clip"),
    renamed(
        row(
            "eval_strategy",
            Choice(&["steps", "epoch", "no"]),
            Computed("save_strategy if there is validation data"),
            SAVING,
            TRAIN,
            "When to validate",
        ),
        &["evaluation_strategy"],
    ),
    row("eval_steps", Integer, Computed("save_steps"), SAVING, TRAIN, "Steps between validations"),
    row(
        "save_strategy",
        Choice(&["steps", "epoch", "no"]),
        Value("steps"),
        SAVING,
        TRAIN,
        "When to save; the last step is saved unless no",
    ),
    row("save_steps", Integer, Value("500"), SAVING, TRAIN, "Steps between checkpoints"),
    row(
        "save_total_limit",
        Integer,
        Computed("keep all"),
        SAVING,
        TRAIN,
        "Checkpoints to keep; the best and the last stay",
    ),
    row("save_only_model", Boolean, Value("false"), SAVING, TRAIN, "Leave the optimizer out of checkpoints"),
    row(
        "metric_for_best_model",
        Choice(&["loss", "eval_loss", "token_acc", "eval_token_acc"]),
        Value("loss"),
        SAVING,
        TRAIN,
        "What makes a checkpoint the best",
    ),
    row(
        "create_checkpoint_symlink",
        Boolean,
        Value("false"),
        SAVING,
        TRAIN,
        "Keep links best and last in the run folder",
    ),
    row("logging_steps", Integer, Value("5"), SAVING, TRAIN, "Steps between rows of logging.jsonl"),
    row("logging_first_step", Boolean, Value("true"), SAVING, TRAIN, "Log the first step too"),
    row(
        "report_to",
        List,
        Value("tensorboard"),
        SAVING,
        TRAIN,
        "tensorboard or none; logging.jsonl and images/loss.svg are always written",
    ),
    row("max_new_tokens", Integer, Computed("up to the model's length"), GENERATION, INFER, "Longest answer in tokens"),
    row("temperature", Float, Computed("generation_config.json"), GENERATION, INFER, "0 is greedy"),
    row(
        "top_k",
        Integer,
        Computed("generation_config.json"),
        GENERATION,
        INFER,
        "Sample from the k most likely tokens",
    ),
    row(
        "top_p",
        Float,
        Computed("generation_config.json"),
        GENERATION,
        INFER,
        "Sample from the most likely tokens of this mass",
    ),
    row(
        "min_p",
        Float,
        Computed("generation_config.json"),
        GENERATION,
        INFER,
        "Drop tokens less likely than this share of the best",
    ),
    row("repetition_penalty", Float, Computed("generation_config.json"), GENERATION, INFER, "Above 1 repeats less"),
    row("stop_words", List, NoDefault, GENERATION, INFER, "Texts that end an answer"),
    row("stream", Boolean, Computed("true in chat"), GENERATION, INFER, "Print tokens as they come"),
    row("max_batch_size", Integer, Value("1"), GENERATION, INFER, "Rows decoded together"),
    row("output_dir", Path, Computed("output/MODEL; merge: MODEL-merged"), OUTPUT, TRAIN | EXPORT, "Where to write"),
    row("add_version", Boolean, Value("true"), OUTPUT, TRAIN, "Make a folder vN-DATE-TIME of its own for each run"),
    row("result_path", Path, Computed("infer_result/ of the adapter or model"), OUTPUT, INFER, "The answers, jsonl"),
    row("write_batch_size", Integer, Value("1000"), OUTPUT, INFER, "Answers between writes to the result file"),
    row(
        "merge_lora",
        Boolean,
        Computed("false; merge-lora: true"),
        OUTPUT,
        EXPORT,
        "Merge the adapter into the weights",
    ),
    row("max_shard_size", Text, Value("5GB"), OUTPUT, TRAIN | EXPORT, "Largest weight file of a whole model"),
    row("exist_ok", Boolean, Value("false"), OUTPUT, EXPORT, "Write into a folder that exists"),
    row(
        "resume_from_checkpoint",
        Path,
        NoDefault,
        RUN,
        TRAIN,
        "Go on from a checkpoint-N, or the newest of a run folder; exact to the bit",
    ),
    row(
        "resume_only_model",
        Boolean,
        Value("false"),
        RUN,
        TRAIN,
        "Take weights and place in the data, with a fresh optimizer",
    ),
    row("ignore_data_skip", Boolean, Value("false"), RUN, TRAIN, "With resume_only_model: start at the first step"),
    row("seed", Integer, Value("42"), RUN, TRAIN | INFER, "Seed of initialisation and dropout, or of sampling"),
    row("num_threads", Integer, Computed("all cores"), RUN, ALL, "Threads; results are equal for the same number"),
];
