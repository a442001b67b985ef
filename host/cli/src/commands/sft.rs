//! `swift sft` and `swift pt`: settings to a run of the recipe.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use half::{bf16, f16};
use serde_json::{Value, json};
use swift_engine::{AdamWOptions, Placement, TrainOptions, TrainSession, Tuner};
use swift_graph::{
    Checkpoint, Graph, StorageType,
    lora::{self, LoraConfig},
};
use swift_hub::{HubError, Model, SavedTensor, peft, save_safetensors};
use swift_train::{
    BoxError, Learner, Outcome, Output, Resume, ResumeMode, Run, TrainError, World, batching,
    checkpoint::write_json,
    lora_files::{self, AdapterConfig},
    manifest::{RunManifest, Source},
    sft::{FullModelWriter, sft},
};

use super::{
    agreement,
    assemble::{self, Samples},
    placement::{self, Placed},
    run_folder::{self, RunFolder},
    set_threads,
};
use crate::{
    failure::Failure,
    progress::Progress,
    render,
    settings::{LoraInit, Targets, TrainSettings, TunerSettings},
};

pub(crate) fn run(command: &str, settings: &TrainSettings) -> Result<(), Failure> {
    match settings.device.ranks.as_ref().filter(|ranks| ranks.world_size > 1) {
        None => train(command, settings),
        Some(ranks) => {
            // What all ranks would say is said once, except what stops one of them.
            if ranks.rank > 0 {
                render::silence();
            }
            train(command, settings).map_err(|failure| failure.of_rank(ranks.rank))
        }
    }
}

fn train(command: &str, settings: &TrainSettings) -> Result<(), Failure> {
    let started = jiff::ZonedDateTime::now();
    let threads = set_threads(settings.num_threads)?;
    let found = placement::find(&settings.device)?;
    let folder = run_folder::prepare(settings, &started)?;
    let before = folder.continued.then(|| RunManifest::read(&folder.path)).transpose()?;

    // The model and its graph. A rounded full checkpoint is its own base unless the exact masters are restored.
    let full = settings.tuner == TunerSettings::Full;
    let from_checkpoint = settings.resume.as_ref().filter(|resume| full && resume.mode != ResumeMode::Everything);
    let base = match (from_checkpoint, &folder.checkpoint) {
        (Some(_), Some(checkpoint)) => checkpoint.clone(),
        _ => settings.model.path.clone(),
    };
    let traced = assemble::open(&base, &settings.model)?;
    let model = &traced.model;
    let dtype = settings.model.torch_dtype.as_deref();
    if !full && !found.is_gpu() {
        assemble::check_dtype(model, dtype)?;
    }
    let placed = found.place(&settings.device, dtype, model)?;
    let world = placed.world;
    let adapter = settings.model.adapters.first().map(|folder| peft::Adapter::open(folder)).transpose()?;
    let graph = match &adapter {
        Some(adapter) => adapter.graph_to_train(&traced.graph)?,
        None => traced.graph.clone(),
    };
    let (tuner, config) = tuner(settings, adapter.as_ref(), &graph)?;

    // Rows to tokens.
    let run_date = match (&settings.template.run_date, &before) {
        (Some(date), _) => date.clone(),
        (None, Some(before)) => before.run_date.clone(),
        (None, None) => started.strftime("%Y-%m-%d").to_string(),
    };
    let encoder = assemble::encoder(model, &settings.template, settings.data.rows.strict, &run_date, &traced.plugins)?;
    let samples = assemble::samples(&settings.data, &encoder, &traced.plugins)?;
    for ledger in &samples.ledgers {
        render::note(&ledger.to_string());
    }

    if samples.train.is_empty() {
        let message = "no training row is left after encoding".into();
        return Err(TrainError::NoData { message }.into());
    }

    // The engine, with the adapter's first values.
    let options = TrainOptions {
        tuner,
        recompute_blocks: settings.gradient_checkpointing,
        seed: settings.recipe.seed,
        optimizer: AdamWOptions {
            beta1: settings.recipe.adam_beta1,
            beta2: settings.recipe.adam_beta2,
            eps: settings.recipe.adam_epsilon,
            weight_decay: settings.recipe.weight_decay,
            ..AdamWOptions::default()
        },
        placement: placed.placement.clone(),
    };
    let mut session = TrainSession::new(graph, model.clone(), options)?;
    if let Some(adapter) = &adapter {
        lora_files::load(adapter, &mut session)?;
    }
    let mut effective = settings.effective.clone();
    if let (Some(_), Some(config), Some(map)) = (&adapter, &config, effective.as_object_mut()) {
        map.extend(agreement::effective(&config.lora));
    }
    let writer =
        FullFolder { model: model.clone(), dtype: settings.model.torch_dtype.clone(), shard: settings.max_shard_bytes };
    let output = match config {
        Some(config) => Output::Adapter(as_applied(config, &session)),
        None => Output::Full(&writer),
    };

    // args.json is about the run, not about how this session entered it: run.json records each resume.
    let mut args = effective.clone();
    if let Some(args) = args.as_object_mut() {
        for name in ["resume_from_checkpoint", "resume_only_model", "ignore_data_skip"] {
            args.remove(name);
        }
        args.insert("run_date".into(), json!(run_date));
    }
    let mut manifest =
        describe(command, settings, &placed, &samples, traced.plugins.used(), model, &started, run_date, threads)?;
    manifest.settings = effective;
    if let (Some(before), Some(checkpoint)) = (before, &folder.checkpoint) {
        manifest.started = before.started;
        manifest.resumed_at = before.resumed_at;
        manifest.resumed_at.extend(swift_train::checkpoint::step_of(checkpoint));
    }
    if world.leads() {
        std::fs::create_dir_all(&folder.path).map_err(|e| Failure::io("create", &folder.path, &e))?;
        manifest.write(&folder.path)?;
        write_json(&folder.path.join("args.json"), &args)?;
    }
    render::note(&format!("run folder {}", folder.path.display()));
    let longest =
        samples.train.iter().map(|sample| sample.sequences.iter().map(|s| s.tokens.len()).sum::<usize>()).max();
    let rows = longest.unwrap_or(0) * settings.recipe.per_device_train_batch_size;
    render::table(&[placed.header()]);
    render::table(&memory_rows(&session, rows));

    let stop = stop_flag(world)?;
    let resume = settings.resume.as_ref().zip(folder.checkpoint.clone());
    let outcome = sft(Run {
        settings: &settings.recipe,
        learner: &mut session,
        world,
        train: &samples.train,
        evaluation: &samples.evaluation,
        run_folder: &folder.path,
        output,
        args: &args,
        title: &run_folder::model_name(&settings.model.path),
        resume: resume.map(|(resume, checkpoint)| Resume { checkpoint, mode: resume.mode }),
        stop: &stop,
        observer: &mut Progress::new(),
    })?;
    if world.leads() {
        manifest.result = serde_json::to_value(&outcome).unwrap_or(Value::Null);
        manifest.write(&folder.path)?;
    }
    report(command, &folder, &outcome, world)
}

/// The model's shape, and what a step of `rows` tokens will take: known before the first one.
fn memory_rows(session: &TrainSession, rows: usize) -> Vec<(&'static str, String)> {
    let gibibytes = |bytes: u64| format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64);
    let plan = session.memory_plan(rows);
    let graph = session.graph();
    let own = graph.params.iter().filter(|p| p.in_checkpoint).map(|p| p.elements() as u64).sum();
    let kinds = swift_graph::rollup::block_kinds(graph).len();
    let model = format!("{} parameters, {} blocks of {kinds} kind(s)", render::grouped(own), graph.blocks.len());
    let parts = plan.rows().into_iter().filter(|(_, bytes)| *bytes > 0);
    let parts: Vec<String> = parts.map(|(name, bytes)| format!("{name} {}", gibibytes(bytes))).collect();
    vec![
        ("model", model),
        ("planned memory", format!("{} for {} tokens a step", gibibytes(plan.total()), render::grouped(rows as u64))),
        ("", parts.join(" + ")),
    ]
}

/// The engine's tuner and, for adapters, what `adapter_config.json` will say.
fn tuner(
    settings: &TrainSettings,
    adapter: Option<&peft::Adapter>,
    graph: &Graph,
) -> Result<(Tuner, Option<AdapterConfig>), Failure> {
    let base_model = settings.model.path.display().to_string();
    let TunerSettings::Lora { rank, alpha, dropout, targets, modules_to_save, init, rslora, given } = &settings.tuner
    else {
        return Ok((Tuner::Full, None));
    };
    let wanted = LoraConfig {
        rank: *rank,
        alpha: *alpha,
        dropout: *dropout,
        targets: match targets {
            Targets::AllLinear => lora::Targets::AllLinear,
            Targets::Names(names) => lora::Targets::Names(names.clone()),
            Targets::Regex(pattern) => lora::Targets::Regex(pattern.clone()),
        },
        modules_to_save: modules_to_save.clone(),
        rslora: *rslora,
        init: match init {
            LoraInit::True => lora::LoraInit::Kaiming,
            LoraInit::Gaussian => lora::LoraInit::Gaussian,
            LoraInit::False => lora::LoraInit::Random,
        },
        ..LoraConfig::default()
    };
    let config = match adapter {
        // An adapter that training starts from brings its own shape.
        Some(adapter) => {
            let own: AdapterConfig = adapter.into();
            let lora = agreement::settled(own.lora, &wanted, given, graph)?;
            AdapterConfig { base_model, lora, ..own }
        }
        None => AdapterConfig { base_model, lora: wanted, tied_embedding: None },
    };
    Ok((Tuner::Lora(config.lora.clone()), Some(config)))
}

/// What only the model shows: `all-linear` written out as PEFT writes it, by the last parts of the adapted modules'
/// names; modules to save in full where PEFT, which matches the end of the text, would take more than are trained; and
/// an embedding that takes its head along.
fn as_applied(mut config: AdapterConfig, session: &TrainSession) -> AdapterConfig {
    if config.lora.targets == lora::Targets::AllLinear {
        let last = |module: &str| module.rsplit('.').next().unwrap_or(module).to_string();
        let mut names: Vec<String> = session.adapters().iter().map(|adapter| last(&adapter.module)).collect();
        names.sort();
        names.dedup();
        config.lora.targets = lora::Targets::Names(names);
    }
    let graph = session.graph();
    let trained: Vec<String> = session.trainable().into_iter().map(|tensor| tensor.name).collect();
    let saved: BTreeSet<&str> =
        trained.iter().filter(|name| !name.starts_with(peft::PREFIX)).map(|name| lora::module_of(name)).collect();
    let peft_takes = |module: &str| config.lora.modules_to_save.iter().any(|name| module.ends_with(name.as_str()));
    let modules = graph.params.iter().map(|param| lora::module_of(&param.name));
    if modules.into_iter().any(|module| peft_takes(module) && !saved.contains(module)) {
        config.lora.modules_to_save = saved.into_iter().map(str::to_owned).collect();
    }
    config.tied_embedding =
        peft::tied_embedding(graph).filter(|table| trained.iter().any(|name| name == table)).map(str::to_owned);
    config
}

/// Set by the first Ctrl-C; the second one ends the process.
fn stop_flag(world: World) -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            // Checkpoints are renamed into place, so leaving at once cannot leave a broken one.
            #[expect(clippy::exit, reason = "a second Ctrl-C asks for it")]
            std::process::exit(130);
        }
        let when = if world.size > 1 { "step" } else { "micro-batch" };
        render::note(&format!("stopping after this {when}; press Ctrl-C again to leave at once"));
    })
    .map_err(|e| {
        Failure::new(format!("cannot watch for Ctrl-C: {e}"), "start swift from a terminal or a job script")
    })?;
    Ok(stop)
}

fn describe(
    command: &str,
    settings: &TrainSettings,
    placed: &Placed,
    samples: &Samples,
    plugins: Vec<Source>,
    model: &Model,
    started: &jiff::ZonedDateTime,
    run_date: String,
    num_threads: usize,
) -> Result<RunManifest, Failure> {
    let mut adapters = Vec::new();
    for folder in &settings.model.adapters {
        let weights = folder.join(lora_files::WEIGHTS);
        let sha256 = swift_train::checkpoint::entry_of(&weights)?.sha256;
        adapters.push(Source { name: folder.display().to_string(), sha256, rows: None });
    }
    let model_name = settings.model.path.display().to_string();
    Ok(RunManifest {
        format: 1,
        swift_version: env!("CARGO_PKG_VERSION").into(),
        command: command.into(),
        started: started.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        run_date,
        plugins,
        model: Source { name: model_name.clone(), sha256: model.digest()?, rows: None },
        weights: Source { name: model_name, sha256: model.weights.content_digest(), rows: None },
        adapters,
        data: samples.sources.clone(),
        encoded_train_sha256: batching::digest(&samples.train),
        encoded_eval_sha256: batching::digest(&samples.evaluation),
        seed: settings.recipe.seed,
        data_seed: settings.recipe.data_seed,
        num_threads,
        kernels: match &placed.placement {
            Placement::Cpu => instruction_set(),
            Placement::Cuda(_) => placed.device.clone(),
        },
        device: placed.description.clone(),
        world_size: placed.world.size as u64,
        settings: settings.effective.clone(),
        rows: serde_json::to_value(&samples.ledgers).unwrap_or(Value::Null),
        resumed_at: Vec::new(),
        result: Value::Null,
    })
}

/// What the kernels can use here.
fn instruction_set() -> String {
    let mut name = std::env::consts::ARCH.to_string();
    #[cfg(target_arch = "x86_64")]
    for (feature, there) in [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
    ] {
        if there {
            name.push('+');
            name.push_str(feature);
        }
    }
    name
}

/// Shows how it ended. A run that was stopped has not done what was asked, so it is a failure to scripts.
fn report(command: &str, folder: &RunFolder, outcome: &Outcome, world: World) -> Result<(), Failure> {
    let last = outcome.last_checkpoint.as_ref().map(|path| path.display().to_string());
    if outcome.interrupted {
        let message = format!("stopped after step {} of {}", outcome.global_step, outcome.max_steps);
        return Err(match last {
            _ if !world.leads() => Failure::new(message, "rank 0 says how to go on"),
            Some(last) => {
                let hint = format!("to go on, run the same `swift {command}` with `--resume_from_checkpoint {last}`");
                Failure::new(message, hint)
            }
            None => Failure::new(message, "no step was finished, so there is nothing to resume"),
        });
    }
    let seconds = swift_train::logging::duration(outcome.elapsed_seconds);
    let mut rows = vec![("finished", format!("{} steps in {seconds}", outcome.global_step))];
    rows.extend(outcome.last_loss.map(|loss| ("last loss", format!("{loss:.4}"))));
    rows.extend(outcome.last_eval_loss.map(|loss| ("validation loss", format!("{loss:.4}"))));
    rows.extend(outcome.best_checkpoint.as_ref().map(|best| ("best", folder.path.join(best).display().to_string())));
    rows.extend(last.map(|last| ("last", last)));
    rows.push(("loss picture", folder.path.join("images/loss.svg").display().to_string()));
    render::table(&rows);
    Ok(())
}

/// Writes whole models: every tensor of the base checkpoint, trained ones with their new values.
struct FullFolder {
    model: Arc<Model>,
    /// `--torch_dtype`; `None`: each tensor as the base stores it.
    dtype: Option<String>,
    shard: u64,
}

impl FullModelWriter for FullFolder {
    fn write(&self, folder: &Path, learner: &dyn Learner) -> Result<(), BoxError> {
        self.model.copy_side_files(folder, self.dtype.as_deref())?;
        let wanted = self.dtype.as_deref().and_then(assemble::storage_type);
        let tensors = self.model.names().into_iter().map(|name| {
            let stored = self.model.weights.bytes(&name)?;
            let dtype = if stored.info.dtype.is_float_weight() {
                wanted.unwrap_or(stored.info.dtype)
            } else {
                stored.info.dtype
            };
            let bytes = match learner.values(&name) {
                Some(values) => rounded(&name, &values, dtype)?,
                None if dtype == stored.info.dtype => stored.bytes().to_vec(),
                None => rounded(&name, &stored.to_f32().unwrap_or_default(), dtype)?,
            };
            Ok::<_, HubError>(SavedTensor { name, dtype, shape: stored.info.shape.clone(), bytes: Cow::Owned(bytes) })
        });
        save_safetensors(folder, tensors, self.shard)?;
        Ok(())
    }
}

/// f32 values in a storage type, little-endian, rounded to nearest even; what float16 cannot hold is an error.
fn rounded(tensor: &str, values: &[f32], dtype: StorageType) -> Result<Vec<u8>, HubError> {
    if dtype == StorageType::F16
        && let Some(value) = values.iter().find(|v| v.abs() > 65504.0)
    {
        let message = format!("{value} does not fit float16; save as bfloat16 or float32 with --torch_dtype");
        return Err(HubError::Save { tensor: tensor.into(), message });
    }
    Ok(match dtype {
        StorageType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        StorageType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        StorageType::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    })
}
