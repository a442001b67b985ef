//! cuDNN compiles for a GPU that is only described, so graphs and plans are tested without one; the driver's library must
//! be loadable.

#![allow(clippy::print_stderr, reason = "says why a test is skipped")]

use cudarc::cudnn::sys::{cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Kind};

use super::attention::Problem;
use super::graph::{Descriptor, Operand};
use super::plan::{Plan, Target};
use super::{Cudnn, CudnnSequences, problem, step, supported};
use crate::cuda::{Dtype, Tensor, library};
use crate::{AttentionMask, AttentionShape};

/// An H200, in cuDNN's words.
const H200: &str = r#"{"cudaDeviceId": 0, "deviceVer": 900, "driverVer": 13000, "totalGlobalMem": 150754820096,
"maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
"multiProcessorCount": 132, "warpSize": 32, "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
"reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024,
"maxThreadsPerSM": 2048, "pciDeviceId": 9013, "isTccDriver": 0, "supportCoopLaunch": 1, "smClockRateKHz": 1980000,
"memClockRateKHz": 3201000, "l2CacheSize": 62914560, "deviceName": "NVIDIA H200"}"#;

fn h200() -> Option<Descriptor> {
    // SAFETY: loads the driver's library, whose initialisers are the vendor's.
    let driver = unsafe { cudarc::driver::sys::is_culib_present() };
    match library::cudnn() {
        Ok(()) if driver => {}
        Ok(()) => {
            eprintln!("skipped: there is no NVIDIA driver");
            return None;
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    }
    let properties = Descriptor::new(Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR).unwrap();
    properties.text(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, H200).unwrap();
    properties.finalize().unwrap();
    Some(properties)
}

const PROBLEM: Problem = Problem {
    gradient: false,
    deterministic: false,
    half: false,
    causal: true,
    packed: false,
    batch: 8,
    length: 2048,
    heads: 16,
    kv_heads: 8,
    head_dim: 128,
    value_dim: 128,
};

/// Builds the plan, its kernel being one of flash attention, and a pack of addresses for it. Gives cuDNN's scratch.
fn build(h200: &Descriptor, problem: Problem) -> usize {
    let plan = Plan::build(&Target::Described(h200), problem.graph().unwrap())
        .unwrap_or_else(|error| panic!("{problem:?}: {error}"));
    let kernel = if problem.gradient { "flash_bprop" } else { "flash_fprop" };
    let description = plan.describe().unwrap();
    assert!(description.contains(kernel), "{problem:?}: no {kernel} in {description}");
    let address = 1 << 20;
    plan.pack(|_| Some(address as *mut _), address as *mut _).unwrap();
    let missing = plan.pack(|operand| (operand != Operand::Value).then_some(address as *mut _), address as *mut _);
    assert!(missing.unwrap_err().to_string().contains("Value"));
    plan.workspace
}

#[test]
fn dense_plans_are_built() {
    let Some(h200) = h200() else { return };
    assert!(build(&h200, PROBLEM) < 1 << 20);
    assert!(build(&h200, Problem { gradient: true, ..PROBLEM }) < 256 << 20);
    let all = Problem { causal: false, half: true, heads: 8, head_dim: 64, value_dim: 64, ..PROBLEM };
    build(&h200, all);
    build(&h200, Problem { gradient: true, ..all });
}

#[test]
fn packed_plans_are_built() {
    let Some(h200) = h200() else { return };
    let packed = Problem { packed: true, batch: 16, ..PROBLEM };
    assert!(build(&h200, packed) < 1 << 20);
    // Scratch follows the rows, not the batch: it is among the operands.
    assert!(build(&h200, Problem { gradient: true, ..packed }) < 1 << 20);
    // Widths that are no multiple of 16 have another graph.
    let narrow = Problem { causal: false, length: 128, heads: 4, kv_heads: 2, head_dim: 72, value_dim: 72, ..packed };
    build(&h200, narrow);
    build(&h200, Problem { gradient: true, ..narrow });
}

#[test]
fn plans_with_a_fixed_order_are_built() {
    let Some(h200) = h200() else { return };
    for packed in [false, true] {
        let problem = Problem { gradient: true, deterministic: true, packed, ..PROBLEM };
        let (scratch, scores) = (build(&h200, problem), problem.score_bytes().unwrap());
        assert!((scores..scores + (256 << 20)).contains(&scratch), "{scratch} bytes for {scores} of scores");
    }
}

fn sequences(lengths: &[u32]) -> CudnnSequences {
    CudnnSequences { lengths: lengths.to_vec(), starts: Tensor::new(256, lengths.len() + 1, Dtype::U32) }
}

fn shape() -> AttentionShape {
    AttentionShape { heads: 8, kv_heads: 4, head_dim: 64, value_dim: 64, scale: 0.125, soft_cap: None }
}

#[test]
fn lengths_are_rounded_to_few_sizes() {
    for (length, size) in
        [(1, 128), (128, 128), (129, 256), (1000, 1024), (1025, 1280), (2048, 2048), (2049, 2560), (5000, 5120)]
    {
        assert_eq!(step(length), size, "{length}");
    }
    let made = |lengths: &[u32]| {
        let problem = problem(&sequences(lengths), &shape(), Dtype::Bf16, AttentionMask::Causal, false);
        (problem.packed, problem.batch, problem.length)
    };
    assert_eq!(made(&[256, 256, 256]), (false, 3, 256));
    assert_eq!(made(&[250, 250, 250]), (true, 4, 256));
    assert_eq!(made(&[256, 256, 1]), (true, 4, 256));
    assert_eq!(made(&[1]), (true, 1, 128));
    assert_eq!(made(&[256, 0]), (true, 2, 256));
}

#[test]
fn what_cudnn_does_not_take_is_refused() {
    let causal = AttentionMask::Causal;
    let reason = |dtype, shape: AttentionShape, mask| supported((9, 0), dtype, &shape, mask).err().unwrap_or_default();
    assert_eq!(reason(Dtype::Bf16, shape(), causal), "");
    assert_eq!(reason(Dtype::F16, AttentionShape { head_dim: 256, value_dim: 256, ..shape() }, AttentionMask::All), "");
    assert!(reason(Dtype::F32, shape(), causal).contains("F32"));
    assert!(reason(Dtype::Bf16, AttentionShape { head_dim: 60, ..shape() }, causal).contains("60"));
    assert!(reason(Dtype::Bf16, AttentionShape { value_dim: 264, ..shape() }, causal).contains("264"));
    assert!(reason(Dtype::Bf16, AttentionShape { kv_heads: 3, ..shape() }, causal).contains("3 key-value"));
    assert!(reason(Dtype::Bf16, AttentionShape { soft_cap: Some(30.0), ..shape() }, causal).contains("30"));
    assert!(reason(Dtype::Bf16, shape(), AttentionMask::Window { left: 8, right: 0 }).contains("window"));
    assert!(supported((8, 0), Dtype::Bf16, &shape(), causal).unwrap_err().contains("8.0"));
    let wide = AttentionShape { head_dim: 256, ..shape() };
    assert!(supported((10, 0), Dtype::Bf16, &wide, causal).is_err());
}

#[test]
fn threads_may_share_it() {
    fn shared<T: Send + Sync>() {}
    shared::<Cudnn>();
}
