//! What a run reads beside weights: rows, sequence starts, rotation tables, and the few numbers that change from run to
//! run. All of it lies at addresses that stay the same while the number of rows and sequences does.

use std::collections::HashMap;

use swift_graph::ir::Op;
use swift_graph::rope::RopeFrequencies;
use swift_graph::{Graph, Value};
use swift_kernels::cuda::{self, Buffer, CudaError, CudnnSequences, Device, Dtype, EmbedOrder, Sequences, Tensor};

use crate::batch::Batch;

/// Bytes of the numbers in front: the loss's scale (f32), the dropout key (u64), the loss's sums (4 f64).
const CONTROLS: usize = 64;

/// One rotary embedding's tables; nodes with equal frequencies share them.
struct Rotation {
    frequencies: RopeFrequencies,
    dims: usize,
    /// Inverse frequencies of short sequences.
    inverse: Buffer,
    tables: Option<Buffer>,
}

/// The inputs of runs.
pub(crate) struct Feed {
    rotations: Vec<Rotation>,
    rotation_of: HashMap<Value, usize>,
    buffer: Option<Buffer>,
    rows: usize,
    count: usize,
    longest: usize,
    /// Whether a buffer was replaced since it was last asked for: captured launches name the old one.
    moved: bool,
    pub(crate) lengths: Vec<u32>,
    /// Rows by token, for the gradient of a trained embedding.
    pub(crate) order: Option<EmbedOrder>,
}

impl Feed {
    pub(crate) fn new(device: &Device, graph: &Graph) -> Result<Self, CudaError> {
        let mut rotations: Vec<Rotation> = Vec::new();
        let mut rotation_of = HashMap::new();
        for (i, node) in graph.nodes.iter().enumerate() {
            let Op::Rope { dims, frequencies, .. } = node.op else { continue };
            let dims = dims as usize;
            let found = rotations.iter().position(|r| r.frequencies == frequencies && r.dims == dims);
            let index = match found {
                Some(index) => index,
                None => {
                    let inverse = device.from_f32(&frequencies.inverse(dims, 0), Dtype::F32)?;
                    rotations.push(Rotation { frequencies, dims, inverse, tables: None });
                    rotations.len() - 1
                }
            };
            rotation_of.insert(Value(i as u32), index);
        }
        Ok(Self {
            rotations,
            rotation_of,
            buffer: None,
            rows: 0,
            count: 0,
            longest: 0,
            moved: false,
            lengths: Vec::new(),
            order: None,
        })
    }

    /// Copies a batch to the device and makes its rotation tables. `key` is the dropout key.
    pub(crate) fn load(
        &mut self,
        device: &Device,
        batch: &Batch,
        scale: f32,
        key: u64,
        sort_tokens: bool,
    ) -> Result<(), CudaError> {
        (self.rows, self.count) = (batch.rows(), batch.sequence_lengths.len());
        self.lengths.clone_from(&batch.sequence_lengths);
        self.longest = batch.sequence_lengths.iter().max().copied().unwrap_or(0) as usize;
        let mut words: Vec<u32> = vec![0; CONTROLS / 4];
        words[0] = scale.to_bits();
        words[2] = key as u32;
        words[3] = (key >> 32) as u32;
        // Each array begins at a multiple of 16 bytes.
        let mut push = |values: &mut dyn Iterator<Item = u32>| {
            words.extend(values);
            words.resize(words.len().next_multiple_of(4), 0);
        };
        push(&mut batch.tokens.iter().copied());
        push(&mut batch.positions.iter().copied());
        push(&mut batch.targets.iter().copied());
        push(&mut batch.weights.iter().map(|w| w.to_bits()));
        let mut start = 0;
        push(&mut std::iter::once(0).chain(batch.sequence_lengths.iter().map(|n| {
            start += n;
            start
        })));
        let bytes = 4 * words.len();
        if self.buffer.as_ref().is_none_or(|b| b.bytes() < bytes) {
            self.buffer = Some(device.allocate(bytes.next_power_of_two())?);
            self.moved = true;
        }
        let all = self.part(0, words.len(), Dtype::U32);
        device.upload(bytemuck::cast_slice(&words), all)?;
        self.order = if sort_tokens { Some(EmbedOrder::new(device, &batch.tokens)?) } else { None };
        self.rotate(device, batch)
    }

    /// Whether what captured launches read lies elsewhere since this was last asked.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    fn rotate(&mut self, device: &Device, batch: &Batch) -> Result<(), CudaError> {
        let positions = self.positions();
        let rows = self.rows;
        for rotation in &mut self.rotations {
            let half = rotation.dims / 2;
            let bytes = 8 * rows * half;
            if rotation.tables.as_ref().is_none_or(|b| b.bytes() < bytes) {
                rotation.tables = Some(device.allocate(bytes)?);
                self.moved = true;
            }
            let (cos, sin) = rotation.tables(rows);
            let factor = rotation.frequencies.attention_factor();
            let reach =
                |range: std::ops::Range<usize>| batch.positions[range].iter().max().map_or(0, |p| *p as usize + 1);
            let fixed = rotation.frequencies.fixed_up_to().is_none_or(|limit| reach(0..rows) <= limit);
            if fixed {
                cuda::rope_tables(device, positions, rotation.inverse.tensor(Dtype::F32), factor, cos, sin)?;
                continue;
            }
            // The frequencies depend on each sequence's own length.
            let mut start = 0;
            for &length in &batch.sequence_lengths {
                let end = start + length as usize;
                let inverse = rotation.frequencies.inverse(rotation.dims, reach(start..end));
                let inverse = device.from_f32(&inverse, Dtype::F32)?;
                let part = |t: Tensor| t.slice(start * half, (end - start) * half);
                let inverse = inverse.tensor(Dtype::F32);
                cuda::rope_tables(device, positions.slice(start, end - start), inverse, factor, part(cos), part(sin))?;
                start = end;
            }
        }
        Ok(())
    }

    fn part(&self, byte_offset: usize, elements: usize, dtype: Dtype) -> Tensor {
        match &self.buffer {
            Some(buffer) => buffer.at(byte_offset, elements, dtype),
            None => unreachable!("a batch was loaded"),
        }
    }

    fn array(&self, index: usize, elements: usize, dtype: Dtype) -> Tensor {
        self.part(CONTROLS + index * 4 * self.rows.next_multiple_of(4), elements, dtype)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn tokens(&self) -> Tensor {
        self.array(0, self.rows, Dtype::U32)
    }

    pub(crate) fn positions(&self) -> Tensor {
        self.array(1, self.rows, Dtype::U32)
    }

    pub(crate) fn targets(&self) -> Tensor {
        self.array(2, self.rows, Dtype::U32)
    }

    pub(crate) fn weights(&self) -> Tensor {
        self.array(3, self.rows, Dtype::F32)
    }

    fn starts(&self) -> Tensor {
        self.array(4, self.count + 1, Dtype::U32)
    }

    /// Factor on the loss's gradients.
    pub(crate) fn scale(&self) -> Tensor {
        self.part(0, 1, Dtype::F32)
    }

    /// Eight bytes.
    pub(crate) fn dropout_key(&self) -> Tensor {
        self.part(8, 8, Dtype::U8)
    }

    /// Loss, weight, correct and counted as f64; zeroed by loading.
    pub(crate) fn sums(&self) -> Tensor {
        self.part(16, 32, Dtype::U8)
    }

    pub(crate) fn sequences(&self) -> Sequences {
        Sequences { starts: self.starts(), count: self.count, longest: self.longest, rows: self.rows }
    }

    pub(crate) fn cudnn_sequences(&self) -> CudnnSequences {
        CudnnSequences { lengths: self.lengths.clone(), starts: self.starts() }
    }

    /// Cos and sin `[rows, dims / 2]` of a rope node.
    pub(crate) fn rotation(&self, node: Value) -> Result<(Tensor, Tensor), CudaError> {
        let index = self.rotation_of.get(&node).ok_or_else(|| CudaError::invalid("no rotation for this node"))?;
        Ok(self.rotations[*index].tables(self.rows))
    }
}

impl Rotation {
    fn tables(&self, rows: usize) -> (Tensor, Tensor) {
        let n = rows * self.dims / 2;
        match &self.tables {
            Some(buffer) => (buffer.at(0, n, Dtype::F32), buffer.at(4 * n, n, Dtype::F32)),
            None => unreachable!("tables are made when a batch is loaded"),
        }
    }
}
