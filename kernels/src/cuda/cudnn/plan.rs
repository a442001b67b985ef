//! Execution plans: a graph compiled for a GPU by one of cuDNN's engines.

use std::ffi::c_void;

use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind,
};

use super::graph::{Descriptor, Graph, Operand, check};
use crate::cuda::CudaError;

/// Whom a plan is made for.
pub(super) enum Target<'a> {
    /// The GPU of a handle.
    Handle(sys::cudnnHandle_t),
    /// A GPU that is only described: such a plan can be built, not executed.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests build plans on machines without a GPU"))]
    Described(&'a Descriptor),
}

/// A compiled graph.
#[derive(Debug)]
pub(super) struct Plan {
    plan: Descriptor,
    graph: Graph,
    /// Bytes of scratch that cuDNN wants.
    pub workspace: usize,
    // Kept because the plan refers to them; dropped after it.
    _config: Descriptor,
    _operations: Descriptor,
}

impl Plan {
    /// Compiles `graph` by the first engine that builds it, in the order of cuDNN's recommendation; engines that are marked as
    /// not deterministic come last. Takes about a second.
    pub(super) fn build(target: &Target<'_>, graph: Graph) -> Result<Self, CudaError> {
        let operations = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        if let Target::Handle(handle) = target {
            operations.handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, *handle)?;
        }
        operations.links(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &graph.operations)?;
        operations.finalize()?;

        let heuristics = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        heuristics.link(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &operations)?;
        heuristics.heuristic(Name::CUDNN_ATTR_ENGINEHEUR_MODE, sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A)?;
        if let Target::Described(properties) = target {
            heuristics.link(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, properties)?;
        }
        heuristics.finalize()?;
        const MOST: i64 = 64;
        let configs =
            heuristics.children(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, MOST)?;
        let mut configs = configs
            .into_iter()
            .map(|config| Ok((is_deterministic(&config)?, config)))
            .collect::<Result<Vec<_>, CudaError>>()?;
        // Stable: cuDNN's order, which is by expected speed, stays within the two groups.
        configs.sort_by_key(|(deterministic, _)| !deterministic);

        let mut failure = None;
        for (_, config) in configs {
            match Self::compile(target, &config) {
                Ok((plan, workspace)) => {
                    return Ok(Self { plan, graph, workspace, _config: config, _operations: operations });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| CudaError::Call {
            what: "cuDNN: choosing an engine for attention".into(),
            reason: "no engine supports this shape".into(),
        }))
    }

    fn compile(target: &Target<'_>, config: &Descriptor) -> Result<(Descriptor, usize), CudaError> {
        let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        match target {
            Target::Handle(handle) => plan.handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, *handle)?,
            Target::Described(properties) => plan.link(Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, properties)?,
        }
        plan.link(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config)?;
        plan.finalize()?;
        let workspace = plan.integer(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        Ok((plan, workspace.max(0) as usize))
    }

    /// What execution must give.
    pub(super) fn operands(&self) -> &[Operand] {
        &self.graph.operands
    }

    /// cuDNN's own description, with the kernel's name.
    #[cfg(test)]
    pub(super) fn describe(&self) -> Result<String, CudaError> {
        self.plan.read_text(Name::CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION)
    }

    /// The addresses of an execution in cuDNN's form.
    pub(super) fn pack(
        &self,
        address: impl Fn(Operand) -> Option<*mut c_void>,
        workspace: *mut c_void,
    ) -> Result<Descriptor, CudaError> {
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        let ids: Vec<i64> = self.operands().iter().map(|&operand| operand as i64).collect();
        let addresses = self
            .operands()
            .iter()
            .map(|&operand| {
                address(operand)
                    .ok_or_else(|| CudaError::invalid(format!("attention: nothing is given as {operand:?}")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        pack.integers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &ids)?;
        pack.addresses(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &addresses)?;
        pack.addresses(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace])?;
        pack.finalize()?;
        Ok(pack)
    }

    /// Puts the plan's kernels on the handle's stream.
    pub(super) fn execute(&self, handle: sys::cudnnHandle_t, pack: &Descriptor) -> Result<(), CudaError> {
        // SAFETY: handle, plan and pack are alive; the caller has checked that the operands are as large as the graph says.
        check(unsafe { sys::cudnnBackendExecute(handle, self.plan.raw(), pack.raw()) }, || "executing attention".into())
    }
}

/// Whether an engine is not marked as giving other bits in another run. cuDNN 9.19 marks no attention engine: there the
/// graph decides ([`super::attention::Problem::deterministic`]).
fn is_deterministic(config: &Descriptor) -> Result<bool, CudaError> {
    let engine = config.children(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1)?;
    let Some(engine) = engine.first() else { return Ok(false) };
    let notes = engine.notes(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Type::CUDNN_TYPE_NUMERICAL_NOTE)?;
    Ok(!notes.contains(&(sys::cudnnBackendNumericalNote_t::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC as i32)))
}
