//! Parameters of a graph bound to data: mapped from the checkpoint as stored, or owned in f32 where they are trained.

use std::collections::HashSet;
use std::sync::Arc;

use half::{bf16, f16};
use swift_graph::checkpoint::{TensorBytes, WeightSource};
use swift_graph::{Graph, Param, StorageType};
use swift_kernels::Weight;

use crate::error::EngineError;

enum Data {
    /// Read from the source at each use: the map makes that free.
    Mapped,
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

/// All parameters of one graph.
pub(crate) struct Weights {
    source: Arc<dyn WeightSource>,
    data: Vec<Data>,
    names: Vec<String>,
}

/// Elements of a tensor as f32.
pub(crate) fn to_f32(tensor: &TensorBytes<'_>) -> Vec<f32> {
    let bytes = &tensor.bytes;
    match tensor.dtype {
        StorageType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        StorageType::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

fn view(tensor: &TensorBytes<'_>) -> Option<()> {
    let aligned = match tensor.dtype {
        StorageType::F32 => bytemuck::try_cast_slice::<u8, f32>(&tensor.bytes).is_ok(),
        StorageType::Bf16 => bytemuck::try_cast_slice::<u8, bf16>(&tensor.bytes).is_ok(),
        _ => bytemuck::try_cast_slice::<u8, f16>(&tensor.bytes).is_ok(),
    };
    (aligned && cfg!(target_endian = "little") && matches!(tensor.bytes, std::borrow::Cow::Borrowed(_))).then_some(())
}

impl Weights {
    /// Binds every parameter of `graph`; those in `owned` become f32 copies, those the checkpoint does not have zeros.
    pub(crate) fn bind(
        graph: &Graph,
        source: Arc<dyn WeightSource>,
        owned: &HashSet<Param>,
    ) -> Result<Self, EngineError> {
        let mut data = Vec::with_capacity(graph.params.len());
        for (i, info) in graph.params.iter().enumerate() {
            if !info.in_checkpoint {
                data.push(Data::F32(vec![0.0; info.elements()]));
                continue;
            }
            let tensor = source.bytes(&info.name)?;
            let mismatch = |message: String| EngineError::Mismatch { name: info.name.clone(), message };
            if tensor.shape.len() != info.shape.len()
                || tensor.shape.iter().zip(&info.shape).any(|(&a, &b)| a != b as usize)
            {
                return Err(mismatch(format!("is {:?}, the graph was traced with {:?}", tensor.shape, info.shape)));
            }
            if !tensor.dtype.is_float_weight() || tensor.bytes.len() != info.elements() * tensor.dtype.size() {
                return Err(mismatch(format!("holds {} bytes of {}", tensor.bytes.len(), tensor.dtype.name())));
            }
            data.push(if owned.contains(&Param(i as u32)) {
                Data::F32(to_f32(&tensor))
            } else if view(&tensor).is_some() {
                Data::Mapped
            } else {
                match tensor.dtype {
                    StorageType::F32 => Data::F32(to_f32(&tensor)),
                    StorageType::Bf16 => Data::Bf16(to_f32(&tensor).into_iter().map(bf16::from_f32).collect()),
                    _ => Data::F16(to_f32(&tensor).into_iter().map(f16::from_f32).collect()),
                }
            });
        }
        let names: Vec<String> = graph.params.iter().map(|p| p.name.clone()).collect();
        Ok(Self { source, data, names })
    }

    /// An owned parameter's values.
    pub(crate) fn owned(&self, param: Param) -> Option<&[f32]> {
        match &self.data[param.index()] {
            Data::F32(values) => Some(values),
            _ => None,
        }
    }

    /// An owned parameter's values, to change.
    pub(crate) fn owned_mut(&mut self, param: Param) -> Option<&mut [f32]> {
        match &mut self.data[param.index()] {
            Data::F32(values) => Some(values),
            _ => None,
        }
    }

    /// Replaces a parameter's values by f32 ones of the same number.
    pub(crate) fn set(&mut self, param: Param, values: &[f32], elements: usize) -> Result<(), EngineError> {
        if values.len() != elements {
            let name = self.names[param.index()].clone();
            return Err(EngineError::Mismatch {
                name,
                message: format!("takes {elements} elements, got {}", values.len()),
            });
        }
        self.data[param.index()] = Data::F32(values.to_vec());
        Ok(())
    }

    /// Bytes held in memory of its own, not counting what is mapped.
    pub(crate) fn owned_bytes(&self) -> u64 {
        self.data
            .iter()
            .map(|d| match d {
                Data::Mapped => 0,
                Data::F32(v) => 4 * v.len() as u64,
                Data::Bf16(v) => 2 * v.len() as u64,
                Data::F16(v) => 2 * v.len() as u64,
            })
            .sum()
    }

    /// Bytes mapped from files.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        let mapped = self.data.iter().zip(&self.names).filter(|(d, _)| matches!(d, Data::Mapped));
        mapped.filter_map(|(_, n)| self.source.bytes(n).ok()).map(|t| t.bytes.len() as u64).sum()
    }

    /// The parameter as a kernel takes it.
    pub(crate) fn get(&self, param: Param) -> Result<Weight<'_>, EngineError> {
        Ok(match &self.data[param.index()] {
            Data::F32(v) => Weight::F32(v),
            Data::Bf16(v) => Weight::Bf16(v),
            Data::F16(v) => Weight::F16(v),
            Data::Mapped => {
                let name = &self.names[param.index()];
                let tensor = self.source.bytes(name)?;
                let std::borrow::Cow::Borrowed(bytes) = tensor.bytes else {
                    return Err(EngineError::Mismatch { name: name.clone(), message: "is no longer mapped".into() });
                };
                match tensor.dtype {
                    StorageType::F32 => Weight::F32(bytemuck::cast_slice(bytes)),
                    StorageType::Bf16 => Weight::Bf16(bytemuck::cast_slice(bytes)),
                    _ => Weight::F16(bytemuck::cast_slice(bytes)),
                }
            }
        })
    }
}
