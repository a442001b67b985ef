//! What several commands put together: the model, the plugin that traces it, and encoded rows.

use std::{path::Path, sync::Arc};

use rayon::prelude::*;
use swift_data::{
    ColumnMap, DatasetSpec, EncodeOptions, Encoder, Ledger, LoadOptions, Row, Stream, load, pack, permutation,
    split_validation,
};
use swift_graph::{Checkpoint, Graph, StorageType, simplify::simplify};
use swift_hub::Model;
use swift_plugin::with_model_type;
use swift_train::{Sample, Sequence, manifest::Source};

use crate::{
    failure::Failure,
    plugins::Plugins,
    settings::{DataSettings, ModelSettings, TemplateSettings},
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

/// An encoder for the model; `run_date` is the date templates see.
pub(crate) fn encoder(
    model: &Model,
    settings: &TemplateSettings,
    strict: bool,
    run_date: &str,
) -> Result<Encoder, Failure> {
    let date: jiff::civil::Date = run_date
        .parse()
        .map_err(|e| Failure::new(format!("--run_date {run_date} is not a date: {e}"), "write it as YYYY-MM-DD"))?;
    let options = EncodeOptions {
        system: settings.system.clone(),
        loss_scale: settings.loss_scale,
        enable_thinking: settings.enable_thinking,
        max_length: settings.max_length.or(model.max_length),
        truncation: settings.truncation,
        use_chat_template: settings.use_chat_template,
        strict,
    };
    // Templates ask for a date, some for the time too: noon is as good as any, and it never changes.
    Ok(Encoder::new(model, Some(date.at(12, 0, 0, 0)), options)?)
}

/// Encoded training and validation samples, with an account of every row.
pub(crate) struct Samples {
    pub(crate) train: Vec<Sample>,
    pub(crate) evaluation: Vec<Sample>,
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) sources: Vec<Source>,
}

/// Loads, splits, encodes, shuffles and packs.
pub(crate) fn samples(settings: &DataSettings, encoder: &Encoder) -> Result<Samples, Failure> {
    let options = LoadOptions {
        columns: settings.columns.as_deref().map(ColumnMap::parse).transpose()?.unwrap_or_default(),
        disable_auto_column_mapping: false,
        strict: settings.strict,
        data_seed: settings.seed,
    };
    let (mut train, mut evaluation) = (Vec::new(), Vec::new());
    let (mut ledgers, mut sources) = (Vec::new(), Vec::new());
    let named = settings.dataset.iter().map(|text| (text, false));
    for (text, validation) in named.chain(settings.val_dataset.iter().map(|text| (text, true))) {
        let dataset = load(&DatasetSpec::parse(text)?, &options)?;
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
    let encoded: Vec<_> = rows
        .par_iter()
        .map(|row| {
            let mut account = Ledger { kept: 1, ..Ledger::new("") };
            let sequences = encoder.encode_rows(std::slice::from_ref(row), &mut account)?;
            Ok((sequences, account))
        })
        .collect::<Result<_, swift_data::DataError>>()?;
    let mut sequences = Vec::new();
    for (row, (parts, account)) in rows.iter().zip(encoded) {
        ledger.truncated += account.truncated;
        for (reason, dropped) in account.dropped {
            ledger.kept = ledger.kept.saturating_sub(dropped.count);
            let all = ledger.dropped.entry(reason).or_default();
            all.count += dropped.count;
            if all.examples.len() < 5 {
                all.examples.extend(dropped.examples);
            }
        }
        let origin = row.origin.to_string();
        sequences.extend(parts.into_iter().map(|part| Sequence {
            tokens: part.tokens,
            weights: part.weights,
            origin: origin.clone(),
        }));
    }
    Ok(sequences)
}
