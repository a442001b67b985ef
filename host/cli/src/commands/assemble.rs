//! What several commands put together: the model, the plugin that traces it, and encoded rows.

use std::{path::Path, sync::Arc};

use swift_data::{
    ChatTemplate, ColumnMap, Dataset, DatasetSpec, EncodeOptions, Encoded, Encoder, Ledger, LoadOptions,
    PluginTemplate, Row, Stream, find_loader, find_preprocessor, load, load_with, pack, permutation, split_validation,
};
use swift_graph::{Checkpoint, Graph, StorageType, simplify::simplify};
use swift_hub::Model;
use swift_plugin::with_model_type;
use swift_train::{Sample, Sequence, manifest::Source};

use crate::{
    failure::Failure,
    plugins::Plugins,
    settings::{DataSettings, ModelSettings, RowSettings, TemplateSettings},
};

/// A model with its graph.
pub(crate) struct Traced {
    pub(crate) model: Arc<Model>,
    pub(crate) graph: Graph,
    /// The plugins of the command; the one that traced it is used already.
    pub(crate) plugins: Plugins,
}

/// Opens the model at `path` and traces it with the plugin that claims it.
pub(crate) fn open(path: &Path, settings: &ModelSettings) -> Result<Traced, Failure> {
    let model = Arc::new(Model::open(path)?);
    let config = match &settings.model_type {
        Some(model_type) => with_model_type(&model.config_text, model_type)?,
        None => model.config_text.clone(),
    };
    let plugins = settings.plugins.open()?;
    let plugin = plugins.set.select(&config)?;
    let trace = plugin.trace(&config, "causal-lm", model.as_ref())?;
    plugins.uses(plugin.plugin())?;
    Ok(Traced { model, graph: simplify(&trace.graph), plugins })
}

/// Refuses a `--torch_dtype` that would round the weights of a frozen model; float32 is exact for any of them.
pub(crate) fn check_dtype(model: &Model, dtype: Option<&str>) -> Result<(), Failure> {
    let Some(wanted) = dtype.filter(|name| *name != "float32") else { return Ok(()) };
    let other = model.names().into_iter().find(|name| {
        let stored = model.tensor(name).map(|info| info.dtype);
        stored.is_some_and(|stored| stored.is_float_weight() && Some(stored) != storage_type(wanted))
    });
    match other {
        None => Ok(()),
        Some(name) => Err(Failure::new(
            format!("--torch_dtype {wanted} would round `{name}`; rounding weights on load is not built yet"),
            "leave --torch_dtype out: weights are used as stored and computed in float32",
        )),
    }
}

/// The storage type of a `--torch_dtype`.
pub(crate) fn storage_type(name: &str) -> Option<StorageType> {
    match name {
        "float32" => Some(StorageType::F32),
        "bfloat16" => Some(StorageType::Bf16),
        "float16" => Some(StorageType::F16),
        _ => None,
    }
}

/// An encoder for the model; `run_date` is the date templates see. A plugin's template must give the text of the
/// checkpoint's own, unless the user said that this one need not.
pub(crate) fn encoder(
    model: &Model,
    settings: &TemplateSettings,
    strict: bool,
    run_date: &str,
    plugins: &Plugins,
) -> Result<Encoder, Failure> {
    let date: jiff::civil::Date = run_date
        .parse()
        .map_err(|e| Failure::new(format!("--run_date {run_date} is not a date: {e}"), "write it as YYYY-MM-DD"))?;
    // Templates ask for a date, some for the time too: noon is as good as any, and it never changes.
    let now = Some(date.at(12, 0, 0, 0));
    let options = EncodeOptions {
        system: settings.system.clone(),
        loss_scale: settings.loss_scale.clone(),
        enable_thinking: settings.enable_thinking,
        max_length: settings.max_length.or(model.max_length),
        truncation: settings.truncation,
        use_chat_template: settings.use_chat_template,
        strict,
        special_tokens_in_text: settings.allow_special_tokens,
    };
    let (name, config) = (settings.name.as_deref(), settings.config.as_str());
    let plugin = match settings.use_chat_template {
        true => PluginTemplate::find(&plugins.set, name, model, config, Some(date.to_string()))?,
        false => None,
    };
    let allowed = settings.allow_difference.as_deref();
    if let Some(allowed) = allowed.filter(|allowed| plugin.as_ref().is_none_or(|plugin| plugin.name() != *allowed)) {
        let hint = "leave it out, or give the template's plugin with --plugin and its name with --template";
        return Err(Failure::new(format!("--allow_template_difference: `{allowed}` is not the template in use"), hint));
    }
    let Some(plugin) = plugin else {
        if config != "{}" {
            let hint = "leave it out, or name a plugin's template with --template";
            return Err(Failure::new("--template_config is given, but the checkpoint's own template is used", hint));
        }
        return Ok(Encoder::new(model, now, options)?);
    };
    plugins.uses(plugin.template().plugin())?;
    if let Some(source) = model.chat_template.as_ref().filter(|_| allowed.is_none()) {
        plugin.check(&ChatTemplate::new(source, model.special_tokens.named(), now)?)?;
    }
    Ok(Encoder::with_plugin(model, plugin, options)?)
}

/// How the rows of this command are read.
pub(crate) fn load_options(settings: &RowSettings, data_seed: u64, plugins: &Plugins) -> Result<LoadOptions, Failure> {
    let preprocessor = match &settings.preprocessor {
        None => None,
        Some((name, config)) => {
            let preprocessor = find_preprocessor(&plugins.set, name, config)?;
            plugins.uses(preprocessor.plugin())?;
            Some(preprocessor)
        }
    };
    Ok(LoadOptions {
        columns: settings.columns.as_deref().map(ColumnMap::parse).transpose()?.unwrap_or_default(),
        disable_auto_column_mapping: false,
        strict: settings.strict,
        data_seed,
        preprocessor,
        schema: false,
    })
}

/// Reads a dataset, through a loader if one is named or needed; says whether one was.
pub(crate) fn dataset(
    spec: &DatasetSpec,
    settings: &RowSettings,
    options: &LoadOptions,
    plugins: &Plugins,
) -> Result<(Dataset, bool), Failure> {
    match find_loader(&plugins.set, spec)? {
        None => Ok((load(spec, options)?, false)),
        Some(loader) => {
            plugins.uses(loader.plugin())?;
            Ok((load_with(&loader, spec, &settings.loader_config, options)?, true))
        }
    }
}

/// Encoded training and validation samples, with an account of every row.
pub(crate) struct Samples {
    pub(crate) train: Vec<Sample>,
    pub(crate) evaluation: Vec<Sample>,
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) sources: Vec<Source>,
}

/// Loads, splits, encodes, shuffles and packs.
pub(crate) fn samples(settings: &DataSettings, encoder: &Encoder, plugins: &Plugins) -> Result<Samples, Failure> {
    let options = load_options(&settings.rows, settings.seed, plugins)?;
    let (mut train, mut evaluation) = (Vec::new(), Vec::new());
    let (mut ledgers, mut sources) = (Vec::new(), Vec::new());
    let named = settings.dataset.iter().map(|text| (text, false));
    for (text, validation) in named.chain(settings.val_dataset.iter().map(|text| (text, true))) {
        let (dataset, _) = dataset(&DatasetSpec::parse(text)?, &settings.rows, &options, plugins)?;
        let mut ledger = dataset.ledger;
        sources.push(Source { name: text.clone(), sha256: dataset.digest, rows: Some(ledger.read as u64) });
        if validation {
            evaluation.extend(encode(encoder, &dataset.rows, &mut ledger)?);
        } else {
            let (kept, held_out) = split_validation(dataset.rows, settings.split_dataset_ratio, settings.seed);
            train.extend(encode(encoder, &kept, &mut ledger)?);
            evaluation.extend(encode(encoder, &held_out, &mut ledger)?);
        }
        ledgers.push(ledger);
    }
    if settings.shuffle {
        let order = permutation(train.len(), settings.seed, Stream::Dataset);
        let mut taken: Vec<Option<Sequence>> = train.into_iter().map(Some).collect();
        train = order.into_iter().filter_map(|index| taken[index].take()).collect();
    }
    let train = match &settings.packing {
        None => train.into_iter().map(Sample::from).collect(),
        Some(packing) => {
            let capacity = packing.length.or(encoder.options().max_length).ok_or_else(|| {
                Failure::new("--packing needs a length and the model states none", "add `--packing_length N`")
            })?;
            let lengths: Vec<usize> = train.iter().map(|sequence| sequence.tokens.len()).collect();
            let packs = pack(&lengths, capacity, packing.strategy)?;
            let mut taken: Vec<Option<Sequence>> = train.into_iter().map(Some).collect();
            let sample = |pack: &Vec<usize>, taken: &mut Vec<Option<Sequence>>| Sample {
                sequences: pack.iter().filter_map(|&index| taken[index].take()).collect(),
            };
            packs.packs.iter().map(|pack| sample(pack, &mut taken)).collect()
        }
    };
    let evaluation = evaluation.into_iter().map(Sample::from).collect();
    Ok(Samples { train, evaluation, ledgers, sources })
}

/// Encodes rows in parallel, each with its origin.
fn encode(encoder: &Encoder, rows: &[Row], ledger: &mut Ledger) -> Result<Vec<Sequence>, Failure> {
    let sequence = |(index, encoded): (usize, Encoded)| Sequence {
        tokens: encoded.tokens,
        weights: encoded.weights,
        origin: rows[index].origin.to_string(),
    };
    Ok(encoder.encode_rows(rows, ledger)?.into_iter().map(sequence).collect())
}
