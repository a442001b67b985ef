//! Parameters on the GPU: frozen ones in the precision of the run or quantised, trained ones as f32 masters in one arena.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use swift_graph::checkpoint::{StorageType, TensorBytes, WeightSource};
use swift_graph::ir::Op;
use swift_graph::{Graph, Param};
use swift_kernels::cuda::{self, AdapterColumns, AdapterTable, Buffer, CudaError, Device, Dtype, Operand, Tensor};

use super::adapters::Group;
use super::quantized::QuantizedMatrix;
use crate::error::EngineError;
use crate::placement::Quantization;
use crate::train::Trained;
use crate::weights::to_f32;

/// Masters begin at multiples of this many elements: 16-byte accesses to copies in half precision.
pub(crate) const ALIGNMENT: usize = 64;

/// Trained parameters end to end: one reduction gives the norm, one kernel steps them all.
pub(crate) struct Arena {
    pub(crate) values: Buffer,
    pub(crate) gradients: Buffer,
    pub(crate) first: Buffer,
    pub(crate) second: Buffer,
    /// Copies in the run's precision, where that is not f32.
    pub(crate) working: Option<Buffer>,
    /// Start and length by index of the trained parameter.
    pub(crate) places: Vec<(usize, usize)>,
    /// Elements at the front that decay; those behind do not.
    pub(crate) decayed: usize,
    pub(crate) elements: usize,
    index: HashMap<Param, usize>,
}

impl Arena {
    fn new(device: &Device, trained: &[Trained], adjacent: &[Vec<Param>], element: Dtype) -> Result<Self, CudaError> {
        let mut places = vec![(0, 0); trained.len()];
        let mut end = 0;
        let mut decayed = 0;
        // Parameters that kernels take together lie together.
        let rank: HashMap<Param, usize> = adjacent.iter().flatten().enumerate().map(|(i, p)| (*p, i)).collect();
        let mut order: Vec<usize> = (0..trained.len()).collect();
        order.sort_by_key(|i| rank.get(&trained[*i].param).copied().unwrap_or(usize::MAX));
        for decay in [true, false] {
            for (i, t) in order.iter().map(|i| (*i, &trained[*i])).filter(|(_, t)| t.decay == decay) {
                places[i] = (end, t.elements);
                end += t.elements.next_multiple_of(ALIGNMENT);
            }
            if decay {
                decayed = end;
            }
        }
        let zeroed = |bytes: usize| -> Result<Buffer, CudaError> {
            let buffer = device.allocate(bytes)?;
            device.zero(buffer.tensor(Dtype::U8))?;
            Ok(buffer)
        };
        Ok(Self {
            values: zeroed(4 * end)?,
            gradients: zeroed(4 * end)?,
            first: zeroed(4 * end)?,
            second: zeroed(4 * end)?,
            working: if element == Dtype::F32 { None } else { Some(zeroed(element.size() * end)?) },
            places,
            decayed,
            elements: end,
            index: trained.iter().enumerate().map(|(i, t)| (t.param, i)).collect(),
        })
    }

    /// A trained parameter's part of one of the arena's f32 buffers.
    pub(crate) fn part(&self, buffer: &Buffer, index: usize) -> Tensor {
        let (start, elements) = self.places[index];
        buffer.at(4 * start, elements, Dtype::F32)
    }

    /// Start of parameters that lie one after another and fill `elements`.
    fn adjacent(&self, params: &[Param], elements: usize) -> Option<usize> {
        let mut end = None;
        let mut first = None;
        for param in params {
            let (start, length) = self.places[*self.index.get(param)?];
            first = first.or(Some(start));
            if end.is_some_and(|end| end != start) {
                return None;
            }
            end = Some(start + length);
        }
        first.filter(|first| end == Some(first + elements))
    }

    /// The gradients of parameters that lie one after another, as one.
    pub(crate) fn adjacent_gradient(&self, params: &[Param], elements: usize) -> Option<Tensor> {
        Some(self.gradients.at(4 * self.adjacent(params, elements)?, elements, Dtype::F32))
    }

    /// The f32 gradient of a parameter, if it is trained.
    pub(crate) fn gradient(&self, param: Param) -> Option<Tensor> {
        self.index.get(&param).map(|i| self.part(&self.gradients, *i))
    }
}

/// A frozen or trained parameter as kernels take it.
enum Held {
    /// In the run's precision.
    Matrix(Tensor),
    /// f32.
    Vector(Tensor),
    Quantized(Box<QuantizedMatrix>),
    /// `[n, stride]`: a matrix `[n, k]` with adapters' B in columns behind it.
    Augmented {
        data: Tensor,
        n: usize,
        k: usize,
        stride: usize,
    },
    /// By its index in the arena.
    Trained(usize),
}

/// All parameters of one graph.
pub(crate) struct CudaWeights {
    element: Dtype,
    held: Vec<Held>,
    buffers: Vec<Option<Buffer>>,
    pub(crate) arena: Option<Arena>,
    names: Vec<String>,
    /// Adapters to copy behind their matrices when they changed.
    table: Option<AdapterTable>,
    stale: Cell<bool>,
    /// Bytes of frozen parameters.
    pub(crate) frozen_bytes: u64,
}

/// Parameters used as matrices of products, tables, biases or values; all others feed norms.
fn in_products(graph: &Graph) -> Vec<bool> {
    let mut used = vec![false; graph.params.len()];
    for node in &graph.nodes {
        if !matches!(node.op, Op::RmsNorm { .. } | Op::LayerNorm { .. }) {
            node.op.params().into_iter().for_each(|p| used[p.index()] = true);
        }
    }
    used
}

/// Parameters that only `linear` multiplies by: what may be quantised.
fn quantizable(graph: &Graph) -> Vec<bool> {
    let mut linear = vec![false; graph.params.len()];
    let mut other = vec![false; graph.params.len()];
    for node in &graph.nodes {
        match node.op {
            Op::Linear { weight, bias } => {
                linear[weight.index()] = true;
                bias.into_iter().for_each(|b| other[b.index()] = true);
            }
            _ => node.op.params().into_iter().for_each(|p| other[p.index()] = true),
        }
    }
    (0..graph.params.len()).map(|i| linear[i] && !other[i] && graph.params[i].in_checkpoint).collect()
}

fn stored(dtype: StorageType) -> Dtype {
    match dtype {
        StorageType::F32 => Dtype::F32,
        StorageType::Bf16 => Dtype::Bf16,
        _ => Dtype::F16,
    }
}

impl CudaWeights {
    /// Copies every parameter of `graph` to the device; those the checkpoint does not have are zeros.
    pub(crate) fn bind(
        device: &Device,
        graph: &Graph,
        source: &Arc<dyn WeightSource>,
        element: Dtype,
        trained: &[Trained],
        groups: &[Group],
        quantization: Option<Quantization>,
    ) -> Result<Self, EngineError> {
        Self::bind_all(device, graph, source, element, trained, groups, quantization).map_err(|error| {
            let EngineError::Cuda(CudaError::OutOfMemory { free, total, .. }) = error else { return error };
            let gibibytes = |bytes: usize| bytes as f64 / f64::from(1 << 30);
            let parameters: usize = graph.params.iter().map(|p| p.elements()).sum();
            let trained: usize = trained.iter().map(|t| t.elements).sum();
            // Master, gradient and both moments of what is trained.
            let (weights, state) = (gibibytes(parameters * element.size()), gibibytes(16 * trained));
            EngineError::OutOfMemory {
                message: format!(
                    "the GPU is out of memory while the model is loaded: its parameters take {weights:.2} GiB unless \
                     quantised, what is trained {state:.2} GiB more; {:.2} of {:.2} GiB are free",
                    gibibytes(free),
                    gibibytes(total)
                ),
            }
        })
    }

    fn bind_all(
        device: &Device,
        graph: &Graph,
        source: &Arc<dyn WeightSource>,
        element: Dtype,
        trained: &[Trained],
        groups: &[Group],
        quantization: Option<Quantization>,
    ) -> Result<Self, EngineError> {
        let adjacent: Vec<Vec<Param>> = groups.iter().map(Group::down).collect();
        let strides: HashMap<Param, usize> = groups
            .iter()
            .filter(|group| group.augmented)
            .flat_map(|group| group.members.iter().map(|m| (m.weight, group.rank)))
            .collect();
        let arena = if trained.is_empty() { None } else { Some(Arena::new(device, trained, &adjacent, element)?) };
        let (products, quantizable) = (in_products(graph), quantizable(graph));
        let count = graph.params.len();
        let mut weights = Self {
            element,
            held: Vec::with_capacity(count),
            buffers: Vec::with_capacity(count),
            arena,
            names: graph.params.iter().map(|p| p.name.clone()).collect(),
            table: None,
            stale: Cell::new(true),
            frozen_bytes: 0,
        };
        for (i, info) in graph.params.iter().enumerate() {
            let param = Param(i as u32);
            let dtype = if products[i] { element } else { Dtype::F32 };
            let index = weights.arena.as_ref().and_then(|arena| arena.index.get(&param).copied());
            let tensor = if info.in_checkpoint { Some(checked(source.as_ref(), info)?) } else { None };
            if let Some(index) = index {
                weights.held.push(Held::Trained(index));
                weights.buffers.push(None);
                if let Some(tensor) = tensor {
                    weights.set(device, param, &to_f32(&tensor))?;
                }
                continue;
            }
            let buffer = match tensor {
                Some(tensor) => upload(device, &tensor, dtype)?,
                None => {
                    let buffer = device.allocate(info.elements() * dtype.size())?;
                    device.zero(buffer.tensor(dtype))?;
                    buffer
                }
            };
            if let Some(quantization) = quantization.filter(|_| quantizable[i])
                && QuantizedMatrix::fits(&info.shape, quantization)
            {
                let (n, k) = (info.shape[0] as usize, info.shape[1] as usize);
                let matrix = QuantizedMatrix::new(device, buffer.tensor(dtype), n, k, quantization)?;
                weights.frozen_bytes += matrix.bytes() as u64;
                weights.held.push(Held::Quantized(Box::new(matrix)));
                weights.buffers.push(None);
                continue;
            }
            if let Some(rank) = strides.get(&param) {
                let (n, k) = (info.shape[0] as usize, info.shape[1] as usize);
                let stride = k + rank;
                let wide = device.allocate(n * stride * dtype.size())?;
                let data = wide.tensor(dtype);
                cuda::augment(device, buffer.tensor(dtype), n, k, stride, data)?;
                weights.frozen_bytes += wide.bytes() as u64;
                weights.held.push(Held::Augmented { data, n, k, stride });
                weights.buffers.push(Some(wide));
                continue;
            }
            weights.frozen_bytes += buffer.bytes() as u64;
            let whole = buffer.tensor(dtype);
            weights.held.push(if products[i] { Held::Matrix(whole) } else { Held::Vector(whole) });
            weights.buffers.push(Some(buffer));
        }
        weights.table = weights.adapter_table(device, graph, groups)?;
        Ok(weights)
    }

    fn adapter_table(
        &self,
        device: &Device,
        graph: &Graph,
        groups: &[Group],
    ) -> Result<Option<AdapterTable>, EngineError> {
        let Some(arena) = &self.arena else { return Ok(None) };
        let mut columns = Vec::new();
        for group in groups.iter().filter(|group| group.augmented) {
            for member in &group.members {
                let (Held::Augmented { data, n, k, stride }, Some(index)) =
                    (&self.held[member.weight.index()], arena.index.get(&member.b))
                else {
                    return Err(self.misused(member.weight).into());
                };
                debug_assert_eq!(graph.param(member.b).shape, [*n as u32, member.rank as u32]);
                columns.push(AdapterColumns {
                    b: arena.part(&arena.values, *index),
                    out: *data,
                    n: *n,
                    r: member.rank,
                    stride: *stride,
                    column: k + member.column,
                    scale: member.scale as f32,
                });
            }
        }
        Ok(if columns.is_empty() { None } else { Some(AdapterTable::new(device, &columns)?) })
    }

    /// Says that trained values changed.
    pub(crate) fn changed(&self) {
        self.stale.set(true);
    }

    /// Copies adapters behind their matrices if they changed since.
    pub(crate) fn refresh(&self, device: &Device) -> Result<(), CudaError> {
        if self.stale.replace(false)
            && let Some(table) = &self.table
        {
            cuda::refresh_adapters(device, table)?;
        }
        Ok(())
    }

    /// A matrix `[n, k]` as an operand of products.
    pub(crate) fn operand(
        &self,
        device: &Device,
        param: Param,
        n: usize,
        k: usize,
        scratch: Option<&Buffer>,
    ) -> Result<Operand, EngineError> {
        match &self.held[param.index()] {
            Held::Augmented { data, n, k, stride } => {
                Ok(Operand::strided(data.slice(0, (n - 1) * stride + k), *n, *k, *stride))
            }
            _ => Ok(Operand::new(self.matrix(device, param, scratch)?, n, k)),
        }
    }

    /// A matrix with its adapters behind it, `[n, stride]`.
    pub(crate) fn augmented(&self, param: Param) -> Result<Operand, EngineError> {
        match &self.held[param.index()] {
            Held::Augmented { data, n, stride, .. } => Ok(Operand::new(*data, *n, *stride)),
            _ => Err(self.misused(param).into()),
        }
    }

    /// Type of activations and matrices.
    pub(crate) fn element(&self) -> Dtype {
        self.element
    }

    /// A parameter as an operand of products, dequantised into `scratch` where it is stored so.
    pub(crate) fn matrix(
        &self,
        device: &Device,
        param: Param,
        scratch: Option<&Buffer>,
    ) -> Result<Tensor, EngineError> {
        match &self.held[param.index()] {
            Held::Matrix(tensor) => Ok(*tensor),
            Held::Trained(index) => Ok(self.working(*index)),
            Held::Quantized(matrix) => {
                let scratch = scratch.ok_or_else(|| CudaError::invalid("no room to dequantise into"))?;
                let out = scratch.at(0, matrix.elements(), self.element);
                matrix.dequantize(device, out)?;
                Ok(out)
            }
            Held::Vector(_) | Held::Augmented { .. } => Err(self.misused(param).into()),
        }
    }

    /// A parameter that is stored quantised.
    pub(crate) fn quantized(&self, param: Param) -> Option<&QuantizedMatrix> {
        match &self.held[param.index()] {
            Held::Quantized(matrix) => Some(matrix),
            _ => None,
        }
    }

    /// A norm's parameter in f32.
    pub(crate) fn vector(&self, param: Param) -> Result<Tensor, EngineError> {
        match (&self.held[param.index()], &self.arena) {
            (Held::Vector(tensor), _) => Ok(*tensor),
            (Held::Trained(index), Some(arena)) => Ok(arena.part(&arena.values, *index)),
            // One that feeds both a norm and a product is a matrix; in f32 runs that is the same.
            (Held::Matrix(tensor), _) if tensor.dtype() == Dtype::F32 => Ok(*tensor),
            _ => Err(self.misused(param).into()),
        }
    }

    fn misused(&self, param: Param) -> CudaError {
        CudaError::invalid(format!("`{}` is stored for another use", self.names[param.index()]))
    }

    fn working(&self, index: usize) -> Tensor {
        let Some(arena) = &self.arena else { unreachable!("a trained parameter lies in the arena") };
        let (start, elements) = arena.places[index];
        match &arena.working {
            Some(working) => working.at(self.element.size() * start, elements, self.element),
            None => arena.part(&arena.values, index),
        }
    }

    /// Trained matrices that lie one after another, as one operand.
    pub(crate) fn adjacent(&self, params: &[Param], elements: usize) -> Result<Tensor, EngineError> {
        let found = self.arena.as_ref().and_then(|arena| Some((arena, arena.adjacent(params, elements)?)));
        let (arena, start) = found.ok_or_else(|| CudaError::invalid("these parameters do not lie together"))?;
        Ok(match &arena.working {
            Some(working) => working.at(self.element.size() * start, elements, self.element),
            None => arena.values.at(4 * start, elements, Dtype::F32),
        })
    }

    /// Most elements of a matrix that must be dequantised before it is used.
    pub(crate) fn largest_quantized(&self) -> usize {
        self.held.iter().map(|h| if let Held::Quantized(m) = h { m.elements() } else { 0 }).max().unwrap_or(0)
    }

    /// Replaces a parameter's values.
    pub(crate) fn set(&mut self, device: &Device, param: Param, values: &[f32]) -> Result<(), EngineError> {
        self.changed();
        let mismatch = |elements: usize| EngineError::Mismatch {
            name: self.names[param.index()].clone(),
            message: format!("takes {elements} elements, got {}", values.len()),
        };
        match (&self.held[param.index()], &self.arena) {
            (Held::Matrix(tensor) | Held::Vector(tensor), _) => {
                if tensor.elements() != values.len() {
                    return Err(mismatch(tensor.elements()));
                }
                device.write_f32(values, *tensor)?;
            }
            (Held::Trained(index), Some(arena)) => {
                let master = arena.part(&arena.values, *index);
                if master.elements() != values.len() {
                    return Err(mismatch(master.elements()));
                }
                device.write_f32(values, master)?;
                if arena.working.is_some() {
                    cuda::cast(device, master, self.working(*index))?;
                }
            }
            (Held::Quantized(_) | Held::Augmented { .. }, _) => {
                return Err(EngineError::Placement {
                    message: format!(
                        "`{}` is frozen, in few bits or beside its adapter, and cannot be replaced",
                        self.names[param.index()]
                    ),
                    hint: "only what is trained can".into(),
                });
            }
            (Held::Trained(_), None) => unreachable!("a trained parameter lies in the arena"),
        }
        Ok(())
    }
}

fn checked<'s>(
    source: &'s dyn WeightSource,
    info: &swift_graph::ir::ParamInfo,
) -> Result<TensorBytes<'s>, EngineError> {
    let tensor = source.bytes(&info.name)?;
    let mismatch = |message: String| EngineError::Mismatch { name: info.name.clone(), message };
    if tensor.shape.len() != info.shape.len() || tensor.shape.iter().zip(&info.shape).any(|(&a, &b)| a != b as usize) {
        return Err(mismatch(format!("is {:?}, the graph was traced with {:?}", tensor.shape, info.shape)));
    }
    if !tensor.dtype.is_float_weight() || tensor.bytes.len() != info.elements() * tensor.dtype.size() {
        return Err(mismatch(format!("holds {} bytes of {}", tensor.bytes.len(), tensor.dtype.name())));
    }
    Ok(tensor)
}

/// A checkpoint's tensor on the device as `dtype`, straight from the mapped file.
fn upload(device: &Device, tensor: &TensorBytes<'_>, dtype: Dtype) -> Result<Buffer, CudaError> {
    let from = stored(tensor.dtype);
    let raw = device.allocate(tensor.bytes.len())?;
    device.upload(&tensor.bytes, raw.tensor(Dtype::U8))?;
    if from == dtype {
        return Ok(raw);
    }
    let buffer = device.allocate(tensor.bytes.len() / from.size() * dtype.size())?;
    cuda::cast(device, raw.tensor(from), buffer.tensor(dtype))?;
    Ok(buffer)
}
