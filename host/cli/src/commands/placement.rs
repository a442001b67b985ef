//! From what was asked for to where it runs: looks for GPUs, and says in words what was chosen.

use swift_engine::{
    Compute, CudaDevice, CudaPlacement, EngineError, Placement, Quantization, cuda_devices, on_kernel_compile,
};
use swift_graph::{Checkpoint, StorageType};
use swift_hub::Model;
use swift_train::World;

use crate::{
    failure::Failure,
    render,
    settings::device::{DeviceChoice, DeviceSettings},
};

/// The device, before the model is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    /// With what is wrong with the GPUs, where it was left open which device to use.
    Cpu {
        no_gpu: Option<String>,
    },
    Gpu {
        ordinal: usize,
        name: String,
    },
}

/// Where a command runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed {
    pub(crate) placement: Placement,
    /// The device's name: `CPU`, `NVIDIA H200`.
    pub(crate) device: String,
    /// All of it: `NVIDIA H200, bfloat16, frozen matrices in NF4, rank 0 of 8`.
    pub(crate) description: String,
    /// Why it is the CPU.
    pub(crate) no_gpu: Option<String>,
    pub(crate) world: World,
}

/// Finds the device that was asked for.
pub(crate) fn find(settings: &DeviceSettings) -> Result<Found, Failure> {
    on_kernel_compile(|name| render::note(&format!("compiling GPU kernels, once on this machine: {name}")));
    choose(settings, cuda_devices)
}

fn choose(
    settings: &DeviceSettings,
    devices: impl FnOnce() -> Result<Vec<CudaDevice>, EngineError>,
) -> Result<Found, Failure> {
    let ranks = settings.ranks.as_ref().filter(|ranks| ranks.world_size > 1);
    let asked = match settings.choice {
        DeviceChoice::Cpu => return on_cpu(settings, None),
        DeviceChoice::Auto => None,
        DeviceChoice::Cuda(ordinal) => Some(ordinal),
    };
    let devices = match (devices(), asked) {
        (Ok(devices), _) => devices,
        (Err(error), None) => return on_cpu(settings, Some(&error)),
        (Err(error), Some(ordinal)) => {
            let flag = ordinal.map_or_else(|| "--device cuda".into(), |n| format!("--device cuda:{n}"));
            let mut failure = Failure::from(error);
            failure.message = format!("{flag}: {}", failure.message);
            return Err(failure);
        }
    };
    let local = settings.ranks.as_ref().map_or(0, |ranks| ranks.local_rank);
    let ordinal = match asked.flatten() {
        Some(ordinal) => ordinal,
        // The launcher may show each rank its own GPU only.
        None if devices.len() == 1 && ranks.is_some() => 0,
        None => local,
    };
    let count = devices.len();
    let Some(device) = devices.into_iter().nth(ordinal) else {
        let message = format!("there is no GPU {ordinal}: {count} can be used");
        return Err(if asked.flatten().is_some() {
            Failure::new(message, format!("GPUs are numbered from 0 to {}", count.saturating_sub(1)))
        } else {
            let hint = format!("start {count} ranks on this machine: one for each GPU");
            Failure::new(format!("LOCAL_RANK {local}: {message}"), hint)
        });
    };
    Ok(Found::Gpu { ordinal, name: device.name })
}

/// The CPU, unless what was asked for needs a GPU. `why` is what is wrong with the GPUs of this machine.
fn on_cpu(settings: &DeviceSettings, why: Option<&EngineError>) -> Result<Found, Failure> {
    let ranks = settings.ranks.as_ref().filter(|ranks| ranks.world_size > 1);
    let needs = match (&settings.needs_gpu, ranks) {
        (Some(flag), _) => flag.clone(),
        (None, Some(ranks)) => format!("training on {} ranks", ranks.world_size),
        (None, None) => return Ok(Found::Cpu { no_gpu: why.map(ToString::to_string) }),
    };
    let reason = why.map_or_else(|| "`--device cpu` was given".into(), ToString::to_string);
    let hint = if settings.needs_gpu.is_some() {
        "leave it out: the CPU uses weights as stored and computes in float32"
    } else {
        "start one process, without torchrun, mpirun or srun: it uses all CPU threads"
    };
    let mut failure = Failure::new(format!("{needs} needs a GPU, and none is used: {reason}"), hint);
    failure.hints.extend(why.and_then(EngineError::hint));
    Err(failure)
}

impl Found {
    /// Whether it is a GPU.
    pub(crate) fn is_gpu(&self) -> bool {
        matches!(self, Self::Gpu { .. })
    }

    /// Settles what is computed in, for this model.
    pub(crate) fn place(
        self,
        settings: &DeviceSettings,
        dtype: Option<&str>,
        model: &Model,
    ) -> Result<Placed, Failure> {
        let floats = model.names().into_iter().filter_map(|name| Some(model.tensor(&name)?.dtype));
        let mut floats = floats.filter(|dtype| dtype.is_float_weight()).peekable();
        let exact = floats.peek().is_some() && floats.all(|dtype| dtype == StorageType::F32);
        // A GGUF file's tensors are dequantised to float32: that says nothing of what they were.
        self.settle(settings, dtype, exact && !model.is_gguf())
    }

    /// `all_f32`: the checkpoint stores nothing but float32.
    fn settle(self, settings: &DeviceSettings, dtype: Option<&str>, all_f32: bool) -> Result<Placed, Failure> {
        let (ordinal, name) = match self {
            Self::Gpu { ordinal, name } => (ordinal, name),
            Self::Cpu { no_gpu } => {
                return Ok(Placed {
                    placement: Placement::Cpu,
                    device: "CPU".into(),
                    description: "CPU, float32".into(),
                    no_gpu,
                    world: World::default(),
                });
            }
        };
        if dtype == Some("float16") {
            let message = "--torch_dtype float16 is not built for GPUs: its range is too small without loss scaling";
            return Err(Failure::new(message, "use `--torch_dtype bfloat16`, or `--torch_dtype float32`"));
        }
        let compute = match settings.compute {
            Some(compute) => compute,
            // As stored. What is stored in float16 is computed in bfloat16: the description says so.
            None if all_f32 => Compute::F32,
            None => Compute::Bf16,
        };
        let mut description = format!("{name}, {}", compute.name());
        match settings.quantization {
            Some(Quantization::Nf4 { double: true }) => description.push_str(", frozen matrices in NF4 (double)"),
            Some(Quantization::Nf4 { double: false }) => description.push_str(", frozen matrices in NF4"),
            Some(Quantization::Int8) => description.push_str(", frozen matrices in int8"),
            None => {}
        }
        let ranks = settings.ranks.clone();
        let world = ranks.as_ref().map_or_else(World::default, |r| World { rank: r.rank, size: r.world_size });
        if ranks.is_some() {
            description.push_str(&format!(", rank {} of {}", world.rank, world.size));
        }
        let placement = Placement::Cuda(CudaPlacement { ordinal, compute, quantization: settings.quantization, ranks });
        Ok(Placed { placement, device: name, description, no_gpu: None, world })
    }
}

impl Placed {
    /// The line of a command's header, with the reason where a GPU would have been used.
    pub(crate) fn header(&self) -> (&'static str, String) {
        let text = match &self.no_gpu {
            Some(why) => format!("{} ({why})", self.description),
            None => self.description.clone(),
        };
        ("device", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swift_engine::Ranks;

    fn two_gpus() -> Result<Vec<CudaDevice>, EngineError> {
        let gpu = |name: &str| CudaDevice { name: name.into(), memory_bytes: 1 << 37 };
        Ok(vec![gpu("first"), gpu("second")])
    }

    fn no_gpu() -> Result<Vec<CudaDevice>, EngineError> {
        Err(EngineError::Placement { message: "there is no driver".into(), hint: "install one".into() })
    }

    fn asked(choice: DeviceChoice) -> DeviceSettings {
        DeviceSettings { choice, ..DeviceSettings::default() }
    }

    fn ranks(rank: usize, world_size: usize, local_rank: usize) -> Option<Ranks> {
        let master_addr = "127.0.0.1".into();
        Some(Ranks { rank, world_size, local_rank, master_addr, master_port: 1, timeout: None })
    }

    fn gpu(ordinal: usize) -> Found {
        Found::Gpu { ordinal, name: ["first", "second"][ordinal].into() }
    }

    fn cpu(why: Option<&str>) -> Found {
        Found::Cpu { no_gpu: why.map(Into::into) }
    }

    #[test]
    fn a_gpu_is_used_where_there_is_one() {
        assert_eq!(choose(&asked(DeviceChoice::Auto), two_gpus).unwrap(), gpu(0));
        assert_eq!(choose(&asked(DeviceChoice::Auto), no_gpu).unwrap(), cpu(Some("there is no driver")));
        assert_eq!(choose(&asked(DeviceChoice::Cuda(None)), two_gpus).unwrap(), gpu(0));
        assert_eq!(choose(&asked(DeviceChoice::Cuda(Some(1))), two_gpus).unwrap(), gpu(1));
        let unasked = || -> Result<Vec<CudaDevice>, EngineError> { panic!("the CPU was asked for") };
        assert_eq!(choose(&asked(DeviceChoice::Cpu), unasked).unwrap(), cpu(None));
    }

    #[test]
    fn ranks_have_their_own_gpus() {
        let of = |rank, size, local| DeviceSettings { ranks: ranks(rank, size, local), ..DeviceSettings::default() };
        assert_eq!(choose(&of(3, 4, 1), two_gpus).unwrap(), gpu(1));
        let one = || two_gpus().map(|devices| devices[..1].to_vec());
        assert_eq!(choose(&of(3, 4, 1), one).unwrap(), gpu(0));
        let error = choose(&of(2, 4, 2), two_gpus).unwrap_err();
        assert_eq!(error.message, "LOCAL_RANK 2: there is no GPU 2: 2 can be used");
        assert!(error.hints[0].contains("start 2 ranks"));
        let placed = gpu(1).settle(&of(3, 4, 1), None, false).unwrap();
        assert_eq!(placed.description, "second, bfloat16, rank 3 of 4");
        assert_eq!(placed.world, World { rank: 3, size: 4 });
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_reason() {
        let error = choose(&asked(DeviceChoice::Cuda(None)), no_gpu).unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.hints),
            ("--device cuda: there is no driver", vec!["install one".into()])
        );
        let error = choose(&asked(DeviceChoice::Cuda(Some(2))), two_gpus).unwrap_err();
        assert_eq!(error.message, "there is no GPU 2: 2 can be used");
        let quantised = |choice| DeviceSettings {
            needs_gpu: Some("--quant_method bnb".into()),
            quantization: Some(Quantization::Nf4 { double: true }),
            ..asked(choice)
        };
        let error = choose(&quantised(DeviceChoice::Auto), no_gpu).unwrap_err();
        assert_eq!(error.message, "--quant_method bnb needs a GPU, and none is used: there is no driver");
        assert_eq!(error.hints.len(), 2);
        let error = choose(&quantised(DeviceChoice::Cpu), two_gpus).unwrap_err();
        assert_eq!(error.message, "--quant_method bnb needs a GPU, and none is used: `--device cpu` was given");
        let several = DeviceSettings { ranks: ranks(0, 2, 0), ..DeviceSettings::default() };
        let error = choose(&several, no_gpu).unwrap_err();
        assert_eq!(error.message, "training on 2 ranks needs a GPU, and none is used: there is no driver");
        // One rank is one process.
        let one = DeviceSettings { ranks: ranks(0, 1, 0), ..DeviceSettings::default() };
        assert_eq!(choose(&one, no_gpu).unwrap(), cpu(Some("there is no driver")));
    }

    #[test]
    fn computation_follows_the_arguments_then_the_weights() {
        let computes = |compute, dtype, all_f32| {
            let settings = DeviceSettings { compute, ..DeviceSettings::default() };
            gpu(0).settle(&settings, dtype, all_f32).map(|placed| placed.description)
        };
        assert_eq!(computes(None, None, true).unwrap(), "first, float32");
        assert_eq!(computes(None, None, false).unwrap(), "first, bfloat16");
        assert_eq!(computes(Some(Compute::Bf16), Some("bfloat16"), true).unwrap(), "first, bfloat16");
        assert!(computes(None, Some("float16"), false).unwrap_err().hints[0].contains("bfloat16"));
        let settings =
            DeviceSettings { quantization: Some(Quantization::Nf4 { double: true }), ..DeviceSettings::default() };
        let placed = gpu(1).settle(&settings, None, false).unwrap();
        assert_eq!(placed.description, "second, bfloat16, frozen matrices in NF4 (double)");
        let Placement::Cuda(cuda) = placed.placement else { panic!("not on the GPU") };
        assert_eq!((cuda.ordinal, cuda.quantization), (1, Some(Quantization::Nf4 { double: true })));
        let placed = cpu(Some("there is no driver")).settle(&settings, Some("float16"), false).unwrap();
        assert_eq!(placed.description, "CPU, float32");
        assert_eq!(placed.header(), ("device", "CPU, float32 (there is no driver)".into()));
    }
}
