//! From what was given to resolved settings: defaults, types, ranges, rules between arguments. Commands see only these.

pub(crate) mod device;
mod reader;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use swift_data::{LossScale, PackingStrategy, Truncation};
use swift_plugin::Grants;
use swift_train::{
    ResumeMode, SftSettings,
    schedule::{Every, Schedule},
    sft::BestMetric,
};

use self::{device::DeviceSettings, reader::Reader};
use crate::args::{Given, GivenValue, Origin, UsageError, Verb, parse::boolean, table::ARGUMENTS};
use crate::plugins::PluginSettings;

type Result<T> = std::result::Result<T, UsageError>;

/// The model, its adapters and the plugins that may build it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelSettings {
    pub(crate) path: PathBuf,
    pub(crate) model_type: Option<String>,
    pub(crate) plugins: PluginSettings,
    pub(crate) adapters: Vec<PathBuf>,
    /// `bfloat16`, `float16`, `float32`; `None`: as stored.
    pub(crate) torch_dtype: Option<String>,
}

/// How rows become text and tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TemplateSettings {
    /// A plugin's template; `None`: the checkpoint's own, or that of a given plugin which claims it.
    pub(crate) name: Option<String>,
    /// The user's settings for it, a JSON object.
    pub(crate) config: String,
    /// A plugin's template that may differ from the checkpoint's own.
    pub(crate) allow_difference: Option<String>,
    /// Special tokens that rows or prompts write are control tokens.
    pub(crate) allow_special_tokens: bool,
    pub(crate) system: Option<String>,
    pub(crate) max_length: Option<usize>,
    pub(crate) truncation: Truncation,
    pub(crate) use_chat_template: bool,
    pub(crate) loss_scale: LossScale,
    pub(crate) enable_thinking: Option<bool>,
    /// `YYYY-MM-DD`; `None`: today.
    pub(crate) run_date: Option<String>,
}

/// Which rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DataSettings {
    pub(crate) dataset: Vec<String>,
    pub(crate) val_dataset: Vec<String>,
    pub(crate) split_dataset_ratio: f64,
    pub(crate) shuffle: bool,
    pub(crate) seed: u64,
    pub(crate) rows: RowSettings,
    pub(crate) packing: Option<Packing>,
}

/// How rows are read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowSettings {
    /// A JSON map.
    pub(crate) columns: Option<String>,
    pub(crate) strict: bool,
    /// Settings of loader plugins, a JSON object.
    pub(crate) loader_config: String,
    /// The plugin function that makes canonical rows, and its settings, a JSON object.
    pub(crate) preprocessor: Option<(String, String)>,
}

/// Packing of several rows into one sequence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Packing {
    /// `None`: `max_length`.
    pub(crate) length: Option<usize>,
    pub(crate) strategy: PackingStrategy,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TunerSettings {
    Full,
    Lora {
        rank: usize,
        alpha: f64,
        dropout: f64,
        targets: Targets,
        modules_to_save: Vec<String>,
        init: LoraInit,
        rslora: bool,
        /// Names of those that were given: an adapter that training starts from has its own, and these must agree.
        given: Vec<&'static str>,
    },
}

/// Which modules get an adapter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Targets {
    AllLinear,
    Names(Vec<String>),
    Regex(String),
}

/// First values of adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoraInit {
    True,
    False,
    Gaussian,
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResumeSettings {
    pub(crate) path: PathBuf,
    pub(crate) mode: ResumeMode,
}

/// `swift sft` and `swift pt`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrainSettings {
    pub(crate) model: ModelSettings,
    pub(crate) device: DeviceSettings,
    pub(crate) data: DataSettings,
    pub(crate) template: TemplateSettings,
    pub(crate) tuner: TunerSettings,
    pub(crate) recipe: SftSettings,
    pub(crate) gradient_checkpointing: bool,
    pub(crate) output_dir: Option<PathBuf>,
    pub(crate) add_version: bool,
    pub(crate) max_shard_bytes: u64,
    pub(crate) resume: Option<ResumeSettings>,
    pub(crate) num_threads: Option<usize>,
    /// Every setting with its effective value: `args.json`.
    pub(crate) effective: Value,
}

/// `swift infer`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InferSettings {
    pub(crate) model: ModelSettings,
    pub(crate) device: DeviceSettings,
    pub(crate) template: TemplateSettings,
    /// Rows to answer; none: chat.
    pub(crate) datasets: Vec<String>,
    pub(crate) rows: RowSettings,
    pub(crate) val_dataset_sample: Option<usize>,
    /// What is not given follows `generation_config.json`.
    pub(crate) max_new_tokens: Option<usize>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) repetition_penalty: Option<f64>,
    pub(crate) stop_words: Vec<String>,
    pub(crate) stream: bool,
    pub(crate) max_batch_size: usize,
    pub(crate) seed: u64,
    pub(crate) result_path: Option<PathBuf>,
    pub(crate) write_batch_size: usize,
    pub(crate) num_threads: Option<usize>,
}

/// `swift export` and `swift merge-lora`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExportSettings {
    pub(crate) model: ModelSettings,
    pub(crate) device: DeviceSettings,
    pub(crate) merge_lora: bool,
    pub(crate) output_dir: Option<PathBuf>,
    pub(crate) max_shard_bytes: u64,
    pub(crate) exist_ok: bool,
    pub(crate) num_threads: Option<usize>,
}

/// `swift data inspect` and `swift data preview`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LookSettings {
    pub(crate) model: Option<PathBuf>,
    pub(crate) plugins: PluginSettings,
    pub(crate) template: TemplateSettings,
    pub(crate) datasets: Vec<String>,
    pub(crate) rows: RowSettings,
    /// Seed of `#n` sampling.
    pub(crate) seed: u64,
    /// How many rows are shown; of no meaning to `inspect`.
    pub(crate) count: usize,
    /// What stands before the last answer is shown, not the whole row.
    pub(crate) prompt: bool,
    pub(crate) json: bool,
    /// A file for the picture of the lengths.
    pub(crate) svg: Option<PathBuf>,
    pub(crate) num_threads: Option<usize>,
}

/// What the environment says; a function so that tests have their own.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Settings of a training command.
pub(crate) fn train(given: &Given, environment: Environment<'_>) -> Result<TrainSettings> {
    let mut reader = Reader::new(given);
    let pretraining = given.verb == Verb::Pt;
    let model = reader.model()?;
    let device = reader.device(model.torch_dtype.as_deref(), environment)?;
    let template = reader.template(pretraining)?;
    let data = DataSettings {
        dataset: reader.list("dataset")?,
        val_dataset: reader.list("val_dataset")?,
        split_dataset_ratio: reader.share("split_dataset_ratio")?,
        shuffle: reader.flag("dataset_shuffle")?,
        seed: reader.number("data_seed")?,
        rows: reader.rows()?,
        packing: reader.packing()?,
    };
    if data.dataset.is_empty() {
        return Err(UsageError::new("no --dataset was given", "add `--dataset FILE.jsonl`"));
    }
    let tuner = reader.tuner(&model)?;
    let full = tuner == TunerSettings::Full;
    if full && device.quantization.is_some() {
        let hint = "use `--tuner_type lora`, or leave --quant_method out";
        return Err(UsageError::new("--quant_method holds weights that --tuner_type full would train", hint));
    }
    let batch_size: usize = reader.positive("per_device_train_batch_size")?;
    let ranks = device.ranks.as_ref().map_or(1, |ranks| ranks.world_size);
    let save_steps = reader.positive("save_steps")?;
    let save = reader.every("save_strategy", save_steps)?.unwrap_or(Every::Steps(save_steps as u64));
    let eval_steps = reader.optional_positive("eval_steps")?.unwrap_or(save_steps);
    let has_validation = !data.val_dataset.is_empty() || data.split_dataset_ratio > 0.0;
    let evaluate = match (reader.every("eval_strategy", eval_steps)?, has_validation) {
        (None, false) => Every::Never,
        (None, true) => match save {
            Every::Steps(_) => Every::Steps(eval_steps as u64),
            other => other,
        },
        (Some(Every::Never), _) => Every::Never,
        (Some(_), false) => {
            let hint = "add `--val_dataset FILE` or `--split_dataset_ratio 0.01`, or leave --eval_strategy out";
            return Err(UsageError::new("--eval_strategy is given, but there is no validation data", hint));
        }
        (Some(every), true) => every,
    };
    let max_steps_text = reader.text("max_steps")?.unwrap_or_default();
    let max_steps: i64 = reader.parse_as("max_steps", &max_steps_text, "a whole number")?;
    let max_grad_norm: f64 = reader.at_least_zero("max_grad_norm")?;
    let report_to = reader.list("report_to")?;
    for target in &report_to {
        if !matches!(target.as_str(), "tensorboard" | "none") {
            let hint = "tensorboard and none are built; logging.jsonl is always written";
            return Err(UsageError::new(format!("--report_to {target} is known but not built yet"), hint));
        }
    }
    let schedule_name = reader.choice("lr_scheduler_type")?.unwrap_or_default();
    let schedule = Schedule::ALL.iter().find(|(name, _)| *name == schedule_name).map(|(_, schedule)| *schedule);
    let metric = reader.choice("metric_for_best_model")?.unwrap_or_default();
    let recipe = SftSettings {
        per_device_train_batch_size: batch_size,
        per_device_eval_batch_size: reader.positive("per_device_eval_batch_size")?,
        gradient_accumulation_steps: reader
            .optional_positive("gradient_accumulation_steps")?
            .unwrap_or(16usize.div_ceil(batch_size * ranks)),
        num_train_epochs: reader.at_least_zero("num_train_epochs")?,
        max_steps: u64::try_from(max_steps).ok().filter(|&steps| steps > 0),
        learning_rate: match reader.optional::<f64>("learning_rate", "a number")? {
            Some(rate) => {
                reader.check("learning_rate", rate, rate.is_finite() && rate >= 0.0, "must not be negative")?
            }
            None if full => 1e-5,
            None => 1e-4,
        },
        schedule: schedule.unwrap_or(Schedule::Cosine),
        warmup_steps: reader.number("warmup_steps")?,
        warmup_ratio: reader.share("warmup_ratio")?,
        max_grad_norm: (max_grad_norm > 0.0).then_some(max_grad_norm),
        weight_decay: reader.at_least_zero("weight_decay")?,
        adam_beta1: reader.share("adam_beta1")?,
        adam_beta2: reader.share("adam_beta2")?,
        adam_epsilon: reader.at_least_zero("adam_epsilon")?,
        logging_steps: reader.positive("logging_steps")? as u64,
        logging_first_step: reader.flag("logging_first_step")?,
        evaluate,
        save,
        save_total_limit: reader.optional_positive("save_total_limit")?.map(|limit| limit as u64),
        save_only_model: reader.flag("save_only_model")?,
        best_metric: if metric.ends_with("token_acc") { BestMetric::TokenAccuracy } else { BestMetric::Loss },
        links: reader.flag("create_checkpoint_symlink")?,
        tensorboard: report_to.iter().any(|target| target == "tensorboard"),
        shuffle: reader.flag("train_dataloader_shuffle")?,
        seed: reader.number("seed")?,
        data_seed: data.seed,
    };
    reader.settle("learning_rate", json!(recipe.learning_rate));
    reader.settle("gradient_accumulation_steps", json!(recipe.gradient_accumulation_steps));
    reader.settle("eval_strategy", strategy(recipe.evaluate));
    reader.settle("eval_steps", json!(eval_steps));
    let resume = reader.resume()?;
    let gradient_checkpointing = reader.flag("gradient_checkpointing")?;
    let output_dir = reader.path("output_dir")?;
    let add_version = reader.flag("add_version")?;
    let max_shard_bytes = reader.bytes("max_shard_size")?;
    let num_threads = reader.optional_positive("num_threads")?;
    Ok(TrainSettings {
        model,
        device,
        data,
        template,
        tuner,
        recipe,
        gradient_checkpointing,
        output_dir,
        add_version,
        max_shard_bytes,
        resume,
        num_threads,
        effective: reader.finish(),
    })
}

/// Settings of `swift infer`.
pub(crate) fn infer(given: &Given, environment: Environment<'_>) -> Result<InferSettings> {
    let given = with_adapter_arguments(given)?;
    let mut reader = Reader::new(&given);
    let model = reader.model()?;
    let device = reader.device(model.torch_dtype.as_deref(), environment)?;
    let template = reader.template(false)?;
    let mut datasets = reader.list("val_dataset")?;
    datasets.extend(reader.list("dataset")?);
    reader.flag("load_args")?;
    let settings = InferSettings {
        model,
        device,
        template,
        rows: reader.rows()?,
        val_dataset_sample: reader.optional_positive("val_dataset_sample")?,
        max_new_tokens: reader.optional_positive("max_new_tokens")?,
        temperature: reader.optional_at_least_zero("temperature")?,
        top_k: reader.optional("top_k", "a whole number")?,
        top_p: reader.optional_share("top_p")?,
        min_p: reader.optional_share("min_p")?,
        repetition_penalty: reader.optional_at_least_zero("repetition_penalty")?,
        stop_words: reader.list("stop_words")?,
        stream: reader.optional_flag("stream")?.unwrap_or(datasets.is_empty()),
        max_batch_size: reader.positive("max_batch_size")?,
        seed: reader.number("seed")?,
        result_path: reader.path("result_path")?,
        write_batch_size: reader.positive("write_batch_size")?,
        num_threads: reader.optional_positive("num_threads")?,
        datasets,
    };
    reader.finish();
    Ok(settings)
}

/// Settings of `swift data inspect` and `swift data preview`.
pub(crate) fn look(given: &Given) -> Result<LookSettings> {
    let mut reader = Reader::new(given);
    let preview = given.verb == Verb::DataPreview;
    let settings = LookSettings {
        model: reader.path("model")?,
        plugins: reader.plugins()?,
        template: reader.template(false)?,
        datasets: reader.list("dataset")?,
        rows: reader.rows()?,
        seed: reader.number("data_seed")?,
        count: if preview { reader.positive("rows")? } else { 0 },
        prompt: preview && reader.choice("form")?.as_deref() == Some("prompt"),
        json: reader.choice("format")?.as_deref() == Some("json"),
        svg: if preview { None } else { reader.path("svg")? },
        num_threads: reader.optional_positive("num_threads")?,
    };
    reader.finish();
    if settings.datasets.is_empty() {
        return Err(UsageError::new("no --dataset was given", "add `--dataset FILE.jsonl`"));
    }
    if preview && settings.model.is_none() {
        let hint = "add `--model FOLDER`: its tokenizer and chat template make the tokens";
        return Err(UsageError::new("no --model was given", hint));
    }
    Ok(settings)
}

/// Settings of `swift export` and `swift merge-lora`.
pub(crate) fn export(given: &Given, environment: Environment<'_>) -> Result<ExportSettings> {
    let given = with_adapter_arguments(given)?;
    let mut reader = Reader::new(&given);
    reader.flag("load_args")?;
    let settings = ExportSettings {
        model: reader.model()?,
        // Not the type of what is written: what is checked is computed exactly.
        device: reader.device(Some("float32"), environment)?,
        merge_lora: reader.optional_flag("merge_lora")?.unwrap_or(given.verb == Verb::MergeLora),
        output_dir: reader.path("output_dir")?,
        max_shard_bytes: reader.bytes("max_shard_size")?,
        exist_ok: reader.flag("exist_ok")?,
        num_threads: reader.optional_positive("num_threads")?,
    };
    reader.finish();
    if !settings.merge_lora {
        let hint = "add `--merge_lora true --adapters FOLDER`; other forms are not built yet";
        return Err(UsageError::new("nothing to export was named", hint));
    }
    if settings.model.adapters.is_empty() {
        return Err(UsageError::new("no --adapters to merge were given", "add `--adapters FOLDER`"));
    }
    Ok(settings)
}

/// Arguments an adapter's `args.json` fills in when they are not given.
const FROM_ADAPTER: &[&str] = &[
    "model",
    "model_type",
    "plugin",
    "system",
    "template",
    "template_config",
    "allow_template_difference",
    "allow_special_tokens",
    "use_chat_template",
    "enable_thinking",
    "run_date",
];

/// `load_args`: the first adapter's `args.json` gives what the command line does not.
fn with_adapter_arguments(given: &Given) -> Result<Given> {
    let mut given = given.clone();
    let wanted = given.values.get("load_args").and_then(|value| value.texts.first()).and_then(|text| boolean(text));
    let Some(adapter) = given.values.get("adapters").and_then(|value| value.texts.first()).cloned() else {
        return Ok(given);
    };
    let file = Path::new(&adapter).join("args.json");
    if wanted == Some(false) || !file.is_file() {
        return Ok(given);
    }
    let unusable = |e: String| {
        UsageError::new(format!("{} is not usable: {e}", file.display()), "pass `--load_args false` and name the model")
    };
    let text = std::fs::read_to_string(&file).map_err(|e| unusable(e.to_string()))?;
    let arguments: Map<String, Value> = serde_json::from_str(&text).map_err(|e| unusable(e.to_string()))?;
    for name in FROM_ADAPTER {
        let Some(spec) = ARGUMENTS.iter().find(|spec| spec.name == *name && spec.serves(given.verb)) else { continue };
        let texts: Vec<String> = match arguments.get(*name) {
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(Into::into).collect(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Bool(value)) => vec![value.to_string()],
            _ => continue,
        };
        if !texts.is_empty() {
            let origin = Origin::File(file.clone());
            given.values.entry(spec.name).or_insert(GivenValue { texts, origin });
        }
    }
    Ok(given)
}

fn strategy(every: Every) -> Value {
    json!(match every {
        Every::Never => "no",
        Every::Steps(_) => "steps",
        Every::Epoch => "epoch",
    })
}

/// Settings that several commands share, and rules between arguments.
impl Reader<'_> {
    fn model(&mut self) -> Result<ModelSettings> {
        let path = self.path("model")?;
        let path =
            path.ok_or_else(|| UsageError::new("no --model was given", "add `--model FOLDER` or `--model FILE.gguf`"))?;
        Ok(ModelSettings {
            path,
            model_type: self.text("model_type")?,
            plugins: self.plugins()?,
            adapters: self.list("adapters")?.into_iter().map(PathBuf::from).collect(),
            torch_dtype: self.choice("torch_dtype")?,
        })
    }

    fn plugins(&mut self) -> Result<PluginSettings> {
        let mut grants = Grants::default();
        for grant in self.list("allow")? {
            grants.add(&grant).map_err(|error| UsageError::new(format!("--allow: {error}"), error.hint()))?;
        }
        let timeout = self.optional_at_least_zero("plugin_timeout")?;
        if timeout.is_some_and(|seconds| !(0.01..=86_400.0).contains(&seconds)) {
            return Err(UsageError::new(
                "--plugin_timeout is not between 0.01 and 86400 seconds",
                "the default is 10 for templates, 300 for rewards and 60 for others",
            ));
        }
        Ok(PluginSettings {
            files: self.list("plugin")?.into_iter().map(PathBuf::from).collect(),
            grants,
            timeout: timeout.map(Duration::from_secs_f64),
        })
    }

    fn rows(&mut self) -> Result<RowSettings> {
        let loader_config = self.json_object("loader_config")?;
        let mut config = self.json_object("preprocessor_config")?;
        let preprocessor = self.text("preprocessor")?;
        for name in ["model_name", "model_author"] {
            let texts = self.list(name)?;
            if !texts.is_empty() {
                config.insert(name.into(), json!(texts));
            }
        }
        if preprocessor.is_none()
            && let Some(name) = config.keys().next()
        {
            let hint = "name one with `--preprocessor`, such as self-cognition of the plugin `preprocessors`";
            return Err(UsageError::new(format!("`{name}` is given for a preprocessor, but there is none"), hint));
        }
        Ok(RowSettings {
            columns: self.text("columns")?,
            strict: self.flag("strict")?,
            loader_config: Value::Object(loader_config).to_string(),
            preprocessor: preprocessor.map(|name| (name, Value::Object(config).to_string())),
        })
    }

    fn json_object(&mut self, name: &'static str) -> Result<Map<String, Value>> {
        let text = self.text(name)?.unwrap_or_default();
        serde_json::from_str(&text).map_err(|error| {
            UsageError::new(format!("--{name} is not a JSON object: {error}"), r#"write it as '{"key": "value"}'"#)
        })
    }

    fn template(&mut self, pretraining: bool) -> Result<TemplateSettings> {
        let training = !matches!(self.given.verb, Verb::Infer);
        let (truncation, loss_scale) = if training {
            (self.choice("truncation_strategy")?.unwrap_or_default(), self.text("loss_scale")?)
        } else {
            ("left".into(), None)
        };
        let loss_scale = loss_scale.unwrap_or_else(|| if pretraining { "all" } else { "default" }.into());
        let use_chat_template = self.optional_flag("use_chat_template")?.unwrap_or(!pretraining);
        let name = self.text("template")?;
        if name.is_some() && !use_chat_template {
            let hint = "leave --template out, or add `--use_chat_template true`";
            return Err(UsageError::new("--template is given, but rows are used as plain text", hint));
        }
        let settings = TemplateSettings {
            name,
            config: Value::Object(self.json_object("template_config")?).to_string(),
            allow_difference: self.text("allow_template_difference")?,
            allow_special_tokens: self.flag("allow_special_tokens")?,
            system: self.system()?,
            max_length: self.optional_positive("max_length")?,
            truncation: Truncation::parse(&truncation).map_err(|e| UsageError::new(e.to_string(), e.hint()))?,
            use_chat_template,
            loss_scale: LossScale::parse(&loss_scale).map_err(|e| UsageError::new(e.to_string(), e.hint()))?,
            enable_thinking: self.optional_flag("enable_thinking")?,
            run_date: self.text("run_date")?,
        };
        self.settle("use_chat_template", json!(use_chat_template));
        if training {
            self.settle("loss_scale", json!(loss_scale));
        }
        Ok(settings)
    }

    /// A text, or the content of a `.txt` file.
    fn system(&mut self) -> Result<Option<String>> {
        let Some(text) = self.text("system")? else { return Ok(None) };
        if !text.ends_with(".txt") {
            return Ok(Some(text));
        }
        let content = std::fs::read_to_string(&text)
            .map_err(|e| UsageError::new(format!("--system: cannot read {text}: {e}"), "check the path"))?;
        // The text itself goes into args.json: a run must not depend on a file it does not name.
        self.settle("system", json!(content));
        Ok(Some(content))
    }

    fn packing(&mut self) -> Result<Option<Packing>> {
        let on = self.flag("packing")?;
        let length = self.optional_positive("packing_length")?;
        let strategy = self.choice("packing_strategy")?.unwrap_or_default();
        if !on && (self.is_given("packing_length") || self.is_given("packing_strategy")) {
            let message = "--packing_length and --packing_strategy mean nothing without packing";
            return Err(UsageError::new(message, "add `--packing true`, or leave them out"));
        }
        let strategy = if strategy == "sequential" { PackingStrategy::Sequential } else { PackingStrategy::BinPack };
        Ok(on.then_some(Packing { length, strategy }))
    }

    fn tuner(&mut self, model: &ModelSettings) -> Result<TunerSettings> {
        const LORA: &[&str] = &[
            "lora_rank",
            "lora_alpha",
            "lora_dropout",
            "target_modules",
            "target_regex",
            "modules_to_save",
            "init_weights",
            "use_rslora",
        ];
        let full = self.choice("tuner_type")?.as_deref() == Some("full");
        let target_modules = self.list("target_modules")?;
        let targets = match self.text("target_regex")? {
            Some(pattern) => Targets::Regex(pattern),
            None if target_modules == ["all-linear"] => Targets::AllLinear,
            None => Targets::Names(target_modules),
        };
        let init = match self.choice("init_weights")?.as_deref() {
            Some("false") => LoraInit::False,
            Some("gaussian") => LoraInit::Gaussian,
            _ => LoraInit::True,
        };
        let given: Vec<&'static str> = LORA.iter().filter(|name| self.is_given(name)).copied().collect();
        let lora = TunerSettings::Lora {
            rank: self.positive("lora_rank")?,
            alpha: self.at_least_zero("lora_alpha")?,
            dropout: self.share("lora_dropout")?,
            targets,
            modules_to_save: self.list("modules_to_save")?,
            init,
            rslora: self.flag("use_rslora")?,
            given: given.clone(),
        };
        if full && !given.is_empty() {
            let flags: Vec<String> = given.iter().map(|name| format!("--{name}")).collect();
            let message = format!("{} mean nothing with --tuner_type full", flags.join(", "));
            return Err(UsageError::new(message, "leave them out, or use `--tuner_type lora`"));
        }
        if full && !model.adapters.is_empty() {
            let hint = "merge them first: `swift merge-lora --adapters FOLDER`";
            return Err(UsageError::new("--adapters cannot be trained with --tuner_type full", hint));
        }
        if model.adapters.len() > 1 {
            return Err(UsageError::new(
                "training starts from one adapter",
                "merge the others first: `swift merge-lora`",
            ));
        }
        if !model.adapters.is_empty() && given.contains(&"init_weights") {
            let message = "--init_weights means nothing to the adapter that training starts from: it has its values";
            return Err(UsageError::new(message, "leave it out"));
        }
        Ok(if full { TunerSettings::Full } else { lora })
    }

    fn resume(&mut self) -> Result<Option<ResumeSettings>> {
        let path = self.path("resume_from_checkpoint")?;
        let only_model = self.flag("resume_only_model")?;
        let from_start = self.flag("ignore_data_skip")?;
        if path.is_none() && (only_model || from_start) {
            let message = "--resume_only_model and --ignore_data_skip mean nothing without --resume_from_checkpoint";
            return Err(UsageError::new(message, "add `--resume_from_checkpoint FOLDER`, or leave them out"));
        }
        if from_start && !only_model {
            let hint = "add `--resume_only_model true`: an exact resume goes on where the data stopped";
            return Err(UsageError::new("--ignore_data_skip needs --resume_only_model", hint));
        }
        let mode = match (only_model, from_start) {
            (true, true) => ResumeMode::WeightsFromStart,
            (true, false) => ResumeMode::WeightsAtStep,
            _ => ResumeMode::Everything,
        };
        Ok(path.map(|path| ResumeSettings { path, mode }))
    }
}

#[cfg(test)]
mod tests;
