//! Where to compute and in what: `--device` and its kin. Whether there is such a device is for the command to find out.

use std::time::Duration;

use swift_engine::{Compute, Quantization, Ranks};

use super::{Environment, Reader, Result};
use crate::args::{UsageError, Verb};

/// Which device was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum DeviceChoice {
    /// A GPU where one can be used, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// A GPU, and which.
    Cuda(Option<usize>),
}

/// Where to compute and in what.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct DeviceSettings {
    pub(crate) choice: DeviceChoice,
    /// What a GPU computes in; `None` follows the weights.
    pub(crate) compute: Option<Compute>,
    /// The argument that only a GPU can follow, for the message of the CPU.
    pub(crate) needs_gpu: Option<String>,
    pub(crate) quantization: Option<Quantization>,
    /// This process among several, as the launcher says.
    pub(crate) ranks: Option<Ranks>,
}

fn parse(name: &str, text: &str) -> Result<DeviceChoice> {
    let lower = text.to_ascii_lowercase();
    let number = |rest: &str| rest.parse().ok().map(|ordinal| DeviceChoice::Cuda(Some(ordinal)));
    let choice = match lower.as_str() {
        "auto" => Some(DeviceChoice::Auto),
        "cpu" => Some(DeviceChoice::Cpu),
        "cuda" => Some(DeviceChoice::Cuda(None)),
        other => other.strip_prefix("cuda:").and_then(number),
    };
    choice.ok_or_else(|| {
        let message = format!("--{name} {text} is not built");
        let hint = if name == "device_map" {
            "one of auto, cpu, cuda, cuda:0, cuda:1, ...; a model is on one device as a whole"
        } else {
            "one of auto, cpu, cuda, cuda:0, cuda:1, ..."
        };
        UsageError::new(message, hint)
    })
}

impl Reader<'_> {
    /// Reads everything about devices. `dtype` is `--torch_dtype`.
    pub(super) fn device(&mut self, dtype: Option<&str>, environment: Environment<'_>) -> Result<DeviceSettings> {
        let training = matches!(self.given.verb, Verb::Sft | Verb::Pt);
        let exporting = matches!(self.given.verb, Verb::Export | Verb::MergeLora);
        let given = self.is_given("device") || self.is_given("device_map");
        let choice = match self.device_choice()? {
            // Two whole models in float32 are compared: a GPU may be too small for what the CPU does in a moment.
            DeviceChoice::Auto if exporting && !given => DeviceChoice::Cpu,
            choice => choice,
        };
        let bf16 = if training { self.optional_flag("bf16")? } else { None };
        let (method, bits) = (self.choice("quant_method")?, self.choice("quant_bits")?);
        if exporting && (method.is_some() || bits.is_some()) {
            let hint = "leave --quant_method and --quant_bits out: whole weights are written";
            return Err(UsageError::new("writing quantised weights is not built yet", hint));
        }
        let quantization = match (&method, &bits) {
            _ if exporting => None,
            (None, None) => self.quantization(None)?,
            (Some(_), Some(bits)) => self.quantization(Some(bits))?,
            (Some(method), None) => {
                let hint = "add `--quant_bits 4`";
                return Err(UsageError::new(format!("--quant_method {method} needs --quant_bits"), hint));
            }
            (None, Some(bits)) => {
                let hint = "add `--quant_method bnb`";
                return Err(UsageError::new(format!("--quant_bits {bits} needs --quant_method"), hint));
            }
        };
        let quantized_compute = if exporting { None } else { self.choice("bnb_4bit_compute_dtype")? };
        if !matches!(quantization, Some(Quantization::Nf4 { .. })) && quantized_compute.is_some() {
            return Err(UsageError::new(
                "--bnb_4bit_compute_dtype means nothing without --quant_method bnb --quant_bits 4",
                "add `--quant_method bnb --quant_bits 4`, or leave it out",
            ));
        }
        let compute = compute(dtype, bf16, quantized_compute.as_deref())?;
        let needs_gpu = match (quantization, bf16) {
            (Some(_), _) => Some("--quant_method bnb".into()),
            (None, Some(true)) => Some("--bf16 true".into()),
            _ => None,
        };
        let ranks = self.ranks(training, environment)?;
        if let (Some(ranks), DeviceChoice::Cuda(Some(ordinal))) = (&ranks, choice)
            && ranks.world_size > 1
        {
            let message = format!("--device cuda:{ordinal} would put all {} ranks on one GPU", ranks.world_size);
            return Err(UsageError::new(message, "use `--device cuda`: LOCAL_RANK says which GPU is whose"));
        }
        Ok(DeviceSettings { choice, compute, needs_gpu, quantization, ranks })
    }

    fn device_choice(&mut self) -> Result<DeviceChoice> {
        let device = self.text("device")?.map(|text| Ok((parse("device", &text)?, text))).transpose()?;
        let map = self.text("device_map")?.map(|text| Ok((parse("device_map", &text)?, text))).transpose()?;
        match (device, map) {
            (None, None) => Ok(DeviceChoice::Auto),
            (Some((one, _)), None) | (None, Some((one, _))) => Ok(one),
            // `auto` leaves it open; `cuda` leaves the number open.
            (Some((device, _)), Some((DeviceChoice::Auto, _))) => Ok(device),
            (Some((DeviceChoice::Auto, _)), Some((map, _))) => Ok(map),
            (Some((DeviceChoice::Cuda(None), _)), Some((map @ DeviceChoice::Cuda(_), _))) => Ok(map),
            (Some((device @ DeviceChoice::Cuda(_), _)), Some((DeviceChoice::Cuda(None), _))) => Ok(device),
            (Some((device, _)), Some((map, _))) if device == map => Ok(device),
            (Some((_, device)), Some((_, map))) => Err(UsageError::new(
                format!("--device {device} and --device_map {map} contradict each other"),
                "give one of them",
            )),
        }
    }

    /// How bitsandbytes' arguments say to quantise; they are read either way.
    fn quantization(&mut self, bits: Option<&str>) -> Result<Option<Quantization>> {
        self.choice("bnb_4bit_quant_type")?;
        let double = self.flag("bnb_4bit_use_double_quant")?;
        let given = ["bnb_4bit_quant_type", "bnb_4bit_use_double_quant"].into_iter().find(|name| self.is_given(name));
        match (bits, given) {
            (None, Some(name)) => Err(UsageError::new(
                format!("--{name} means nothing without --quant_method"),
                "add `--quant_method bnb --quant_bits 4`, or leave it out",
            )),
            (Some("8"), Some(name)) => Err(UsageError::new(
                format!("--{name} means nothing with --quant_bits 8"),
                "leave it out, or use `--quant_bits 4`",
            )),
            (None, None) => Ok(None),
            (Some("8"), None) => Ok(Some(Quantization::Int8)),
            (Some(_), _) => Ok(Some(Quantization::Nf4 { double })),
        }
    }

    fn ranks(&mut self, training: bool, environment: Environment<'_>) -> Result<Option<Ranks>> {
        let timeout = if training {
            self.choice("ddp_backend")?;
            self.optional_positive("ddp_timeout")?.map(|seconds| Duration::from_secs(seconds as u64))
        } else {
            None
        };
        let ranks = Ranks::from_environment(environment)
            .map_err(|e| UsageError { message: e.to_string(), hint: e.hint() })?
            .map(|ranks| Ranks { timeout, ..ranks });
        match &ranks {
            Some(ranks) if !training && ranks.world_size > 1 => {
                let verb = self.given.verb.name();
                let message =
                    format!("`swift {verb}` is one process, and this is rank {} of {}", ranks.rank, ranks.world_size);
                Err(UsageError::new(
                    message,
                    "start it without torchrun, mpirun or srun; training runs on several ranks",
                ))
            }
            _ => Ok(if training { ranks } else { None }),
        }
    }
}

/// What a GPU computes in, where the arguments say it. `--bf16` is mixed precision: the weights keep their type.
fn compute(dtype: Option<&str>, bf16: Option<bool>, quantized: Option<&str>) -> Result<Option<Compute>> {
    let named = |name| match name {
        "float32" => Some(Compute::F32),
        "bfloat16" => Some(Compute::Bf16),
        _ => None,
    };
    let from_dtype = if bf16 == Some(true) { Some(Compute::Bf16) } else { dtype.and_then(named) };
    let from_quantized = quantized.and_then(named);
    match (from_dtype, from_quantized) {
        (Some(one), Some(other)) if one != other => {
            let flag = if bf16 == Some(true) { "--bf16 true" } else { "--torch_dtype" };
            let message =
                format!("--bnb_4bit_compute_dtype {} contradicts {flag}, which says {}", other.name(), one.name());
            Err(UsageError::new(message, "all of the model computes in one type: leave --bnb_4bit_compute_dtype out"))
        }
        (one, other) => Ok(other.or(one)),
    }
}
