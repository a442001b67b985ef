//! A checkpoint held in memory in f32: for tests, and for weights that never were a file.

use std::borrow::Cow;
use std::collections::BTreeMap;

use swift_graph::checkpoint::{Checkpoint, StorageType, TensorBytes, TensorInfo, WeightError, WeightSource};

/// Tensors by name.
#[derive(Debug, Clone, Default)]
pub struct MemoryWeights(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl MemoryWeights {
    /// Adds a tensor; its values are row-major.
    ///
    /// # Panics
    /// When the number of values is not the product of the shape.
    pub fn insert(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name} takes the product of its shape");
        self.0.insert(name.to_owned(), (shape.to_vec(), values));
    }

    /// Values of a tensor.
    pub fn values(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(|(_, values)| values.as_slice())
    }
}

impl Checkpoint for MemoryWeights {
    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        self.0.get(name).map(|(shape, _)| TensorInfo { shape: shape.clone(), dtype: StorageType::F32 })
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

impl WeightSource for MemoryWeights {
    fn bytes(&self, name: &str) -> Result<TensorBytes<'_>, WeightError> {
        let (shape, values) = self
            .0
            .get(name)
            .ok_or_else(|| WeightError { message: format!("there is no tensor `{name}`"), hint: None })?;
        Ok(TensorBytes {
            dtype: StorageType::F32,
            shape: shape.clone(),
            bytes: Cow::Borrowed(bytemuck::cast_slice(values)),
        })
    }
}
