//! cuDNN's backend descriptors, and the operation graphs that are made of them.
//!
//! A graph names tensors by number: those of [`Operand`] are given at execution, the others exist only inside of the fused
//! kernel. See NVIDIA, "cuDNN backend API", for the attributes.

use std::ffi::{CStr, c_char, c_void};

use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnDataType_t as Data, cudnnPointwiseMode_t as Pointwise,
    cudnnReduceTensorOp_t as Reduction,
};

use crate::cuda::CudaError;

/// Turns cuDNN's status into an error with the library's own explanation.
pub(super) fn check(status: sys::cudnnStatus_t, what: impl FnOnce() -> String) -> Result<(), CudaError> {
    if status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut text = [0 as c_char; 2048];
    // SAFETY: cuDNN writes at most the given number of bytes, and ends them with a zero.
    unsafe { sys::cudnnGetLastErrorString(text.as_mut_ptr(), text.len()) };
    text[text.len() - 1] = 0;
    // SAFETY: the last byte is zero.
    let explanation = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
    Err(CudaError::Call { what: format!("cuDNN: {}", what()), reason: format!("{status:?} {explanation}") })
}

/// An owned backend descriptor.
#[derive(Debug)]
pub(super) struct Descriptor {
    raw: sys::cudnnBackendDescriptor_t,
    kind: Kind,
}

// SAFETY: cuDNN's descriptors are tied to no thread; this type is not `Sync`, so only one thread uses it at a time.
unsafe impl Send for Descriptor {}

impl Descriptor {
    pub(super) fn new(kind: Kind) -> Result<Self, CudaError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is written by the call.
        check(unsafe { sys::cudnnBackendCreateDescriptor(kind, &mut raw) }, || format!("creating {kind:?}"))?;
        Ok(Self { raw, kind })
    }

    pub(super) fn raw(&self) -> sys::cudnnBackendDescriptor_t {
        self.raw
    }

    /// `V` is what cuDNN documents for `kind`; the typed functions below see to it.
    fn set<V>(&self, name: Name, kind: Type, values: &[V]) -> Result<(), CudaError> {
        // SAFETY: `values` holds as many elements as stated, and cuDNN copies them.
        let status =
            unsafe { sys::cudnnBackendSetAttribute(self.raw, name, kind, values.len() as i64, values.as_ptr().cast()) };
        check(status, || format!("setting {name:?} of {:?}", self.kind))
    }

    pub(super) fn integers(&self, name: Name, values: &[i64]) -> Result<(), CudaError> {
        self.set(name, Type::CUDNN_TYPE_INT64, values)
    }

    pub(super) fn boolean(&self, name: Name, value: bool) -> Result<(), CudaError> {
        self.set(name, Type::CUDNN_TYPE_BOOLEAN, &[value])
    }

    pub(super) fn data_type(&self, name: Name, value: Data) -> Result<(), CudaError> {
        self.set(name, Type::CUDNN_TYPE_DATA_TYPE, &[value])
    }

    #[cfg(test)]
    pub(super) fn text(&self, name: Name, value: &str) -> Result<(), CudaError> {
        self.set(name, Type::CUDNN_TYPE_CHAR, value.as_bytes())
    }

    pub(super) fn handle(&self, name: Name, value: sys::cudnnHandle_t) -> Result<(), CudaError> {
        self.set(name, Type::CUDNN_TYPE_HANDLE, &[value])
    }

    pub(super) fn heuristic(&self, name: Name, value: sys::cudnnBackendHeurMode_t) -> Result<(), CudaError> {
        self.set(name, Type::CUDNN_TYPE_HEUR_MODE, &[value])
    }

    pub(super) fn addresses(&self, name: Name, values: &[*mut c_void]) -> Result<(), CudaError> {
        self.set(name, Type::CUDNN_TYPE_VOID_PTR, values)
    }

    pub(super) fn link(&self, name: Name, to: &Descriptor) -> Result<(), CudaError> {
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[to.raw])
    }

    pub(super) fn links(&self, name: Name, to: &[Descriptor]) -> Result<(), CudaError> {
        let raw: Vec<_> = to.iter().map(Descriptor::raw).collect();
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &raw)
    }

    pub(super) fn finalize(&self) -> Result<(), CudaError> {
        // SAFETY: the descriptor is alive.
        check(unsafe { sys::cudnnBackendFinalize(self.raw) }, || format!("finalizing {:?}", self.kind))
    }

    /// How many elements an attribute has.
    fn count(&self, name: Name, kind: Type) -> Result<i64, CudaError> {
        let mut count = 0;
        // SAFETY: no element is asked for, so that none is written.
        let status =
            unsafe { sys::cudnnBackendGetAttribute(self.raw, name, kind, 0, &mut count, std::ptr::null_mut()) };
        check(status, || format!("counting {name:?} of {:?}", self.kind))?;
        Ok(count)
    }

    /// Reads up to `values.len()` elements over `values`; `V` has the size that cuDNN documents for `kind`.
    fn get<V>(&self, name: Name, kind: Type, values: &mut [V]) -> Result<usize, CudaError> {
        let (mut count, room) = (0, values.len() as i64);
        // SAFETY: cuDNN writes at most `room` elements of the type's size.
        let status = unsafe {
            sys::cudnnBackendGetAttribute(self.raw, name, kind, room, &mut count, values.as_mut_ptr().cast())
        };
        check(status, || format!("reading {name:?} of {:?}", self.kind))?;
        Ok(count.clamp(0, room) as usize)
    }

    pub(super) fn integer(&self, name: Name) -> Result<i64, CudaError> {
        let mut value = [0i64];
        self.get(name, Type::CUDNN_TYPE_INT64, &mut value)?;
        Ok(value[0])
    }

    /// An enumeration's values as numbers: the library may be newer than the bindings.
    pub(super) fn notes(&self, name: Name, kind: Type) -> Result<Vec<i32>, CudaError> {
        let mut values = vec![-1i32; self.count(name, kind)?.max(0) as usize];
        let count = self.get(name, kind, &mut values)?;
        values.truncate(count);
        Ok(values)
    }

    #[cfg(test)]
    pub(super) fn read_text(&self, name: Name) -> Result<String, CudaError> {
        let mut text = vec![0u8; self.count(name, Type::CUDNN_TYPE_CHAR)?.max(0) as usize];
        let count = self.get(name, Type::CUDNN_TYPE_CHAR, &mut text)?;
        text.truncate(count);
        Ok(String::from_utf8_lossy(&text).trim_end_matches('\0').into())
    }

    /// Descriptors that an attribute holds, at most `most`.
    pub(super) fn children(&self, name: Name, kind: Kind, most: i64) -> Result<Vec<Descriptor>, CudaError> {
        let count = self.count(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR)?.clamp(0, most);
        let mut children = (0..count).map(|_| Descriptor::new(kind)).collect::<Result<Vec<_>, _>>()?;
        // cuDNN fills the descriptors whose addresses it finds here.
        let mut raw: Vec<_> = children.iter().map(Descriptor::raw).collect();
        let filled = self.get(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut raw)?;
        children.truncate(filled);
        Ok(children)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created by this value and destroyed once. A failure leaves nothing to do.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.raw) };
    }
}

/// The tensors that are given at execution. `Scale`, `One` and `Hidden` are numbers in host memory, the others device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Query = 1,
    Key,
    Value,
    Out,
    LogSumExp,
    OutGrad,
    QueryGrad,
    KeyGrad,
    ValueGrad,
    /// i32 `[batch]`, rows of each sequence; the same for queries and keys, but separate roles in the graph.
    QueryLengths,
    KeyLengths,
    /// i64 `[batch + 1]`, where each sequence starts, in elements of the operand.
    QueryStarts,
    KeyStarts,
    ValueStarts,
    OutStarts,
    LogSumExpStarts,
    /// Factor on the scores.
    Scale,
    /// 1.
    One,
    /// Minus infinity, the score of what a query does not see.
    Hidden,
    /// Scratch, f32: the query's gradient before it is rounded.
    QueryGradSum,
    /// Scratch, f32: dot product of each row of the output and of its gradient.
    OutDot,
    /// Scratch: gradients of the keys and values for every query head, before the heads that share them are summed.
    KeyGradHeads,
    ValueGradHeads,
}

/// Sizes and strides, in elements, of a tensor (batch, heads, rows, width).
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub dims: [i64; 4],
    pub strides: [i64; 4],
}

impl Layout {
    /// Memory `[batch * rows, heads, width]`.
    pub(super) fn rows(batch: i64, heads: i64, rows: i64, width: i64) -> Self {
        Self { dims: [batch, heads, rows, width], strides: [rows * heads * width, width, heads * width, 1] }
    }

    /// Memory `[batch, heads, rows, width]`.
    pub(super) fn planes(batch: i64, heads: i64, rows: i64, width: i64) -> Self {
        Self { dims: [batch, heads, rows, width], strides: [heads * rows * width, rows * width, width, 1] }
    }

    /// Memory of `count` elements.
    pub(super) fn line(count: i64) -> Self {
        Self { dims: [count, 1, 1, 1], strides: [1; 4] }
    }

    /// Rows and width exchanged, on the same memory.
    pub(super) fn transposed(mut self) -> Self {
        self.dims.swap(2, 3);
        self.strides.swap(2, 3);
        self
    }
}

/// A tensor of a graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    index: usize,
    pub layout: Layout,
}

/// A graph under construction, and what keeps it alive later.
#[derive(Debug)]
pub(super) struct Graph {
    pub operations: Vec<Descriptor>,
    /// Descriptions of operations, which the operations refer to.
    modes: Vec<Descriptor>,
    tensors: Vec<Descriptor>,
    /// What execution must give.
    pub operands: Vec<Operand>,
}

/// Every tensor inside of the fused kernel is f32 unless it feeds a product.
const F32: Data = Data::CUDNN_DATA_FLOAT;

impl Graph {
    pub(super) fn new() -> Self {
        Self { operations: Vec::new(), modes: Vec::new(), tensors: Vec::new(), operands: Vec::new() }
    }

    fn tensor(
        &mut self,
        operand: Option<Operand>,
        layout: Layout,
        data: Data,
        starts: Option<Node>,
    ) -> Result<Node, CudaError> {
        const FIRST_INNER: usize = 100;
        let index = self.tensors.len();
        let tensor = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
        let id = operand.map_or((FIRST_INNER + index) as i64, |operand| operand as i64);
        tensor.integers(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[id])?;
        tensor.data_type(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, data)?;
        tensor.integers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &layout.dims)?;
        tensor.integers(Name::CUDNN_ATTR_TENSOR_STRIDES, &layout.strides)?;
        tensor.integers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[16])?;
        tensor.boolean(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, operand.is_none())?;
        let number = matches!(operand, Some(Operand::Scale | Operand::One | Operand::Hidden));
        tensor.boolean(Name::CUDNN_ATTR_TENSOR_IS_BY_VALUE, number)?;
        if let Some(starts) = starts {
            tensor.link(Name::CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, &self.tensors[starts.index])?;
        }
        tensor.finalize()?;
        self.tensors.push(tensor);
        self.operands.extend(operand);
        Ok(Node { index, layout })
    }

    /// A tensor that is given at execution. With `starts`, sequence i begins at element `starts[i]` instead of i batch
    /// strides.
    pub(super) fn operand(
        &mut self,
        operand: Operand,
        layout: Layout,
        data: Data,
        starts: Option<Node>,
    ) -> Result<Node, CudaError> {
        self.tensor(Some(operand), layout, data, starts)
    }

    /// An f32 number that is given at execution.
    pub(super) fn number(&mut self, operand: Operand) -> Result<Node, CudaError> {
        self.tensor(Some(operand), Layout::line(1), F32, None)
    }

    /// A tensor that lives only inside of the graph.
    pub(super) fn inner(&mut self, layout: Layout, data: Data) -> Result<Node, CudaError> {
        self.tensor(None, layout, data, None)
    }

    /// `c = a b` over the last two dimensions. `sizes` are the tensors that hold, for each batch, the rows of `c`, its columns
    /// and the length of the sums.
    pub(super) fn matmul(&mut self, a: Node, b: Node, c: Node, sizes: [Option<Node>; 3]) -> Result<(), CudaError> {
        let mode = Descriptor::new(Kind::CUDNN_BACKEND_MATMUL_DESCRIPTOR)?;
        mode.data_type(Name::CUDNN_ATTR_MATMUL_COMP_TYPE, F32)?;
        mode.finalize()?;
        let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)?;
        operation.link(Name::CUDNN_ATTR_OPERATION_MATMUL_DESC, &mode)?;
        operation.link(Name::CUDNN_ATTR_OPERATION_MATMUL_ADESC, &self.tensors[a.index])?;
        operation.link(Name::CUDNN_ATTR_OPERATION_MATMUL_BDESC, &self.tensors[b.index])?;
        operation.link(Name::CUDNN_ATTR_OPERATION_MATMUL_CDESC, &self.tensors[c.index])?;
        let names = [
            Name::CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC,
            Name::CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC,
            Name::CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC,
        ];
        for (name, size) in names.into_iter().zip(sizes) {
            if let Some(size) = size {
                operation.link(name, &self.tensors[size.index])?;
            }
        }
        self.push(mode, operation)
    }

    /// `to = mode(x, b)`, computed in `precision`. `axis` is which index [`Pointwise::CUDNN_POINTWISE_GEN_INDEX`] gives.
    fn pointwise(
        &mut self,
        mode: Pointwise,
        inputs: &[Node],
        to: Node,
        precision: Data,
        axis: Option<i64>,
    ) -> Result<(), CudaError> {
        let description = Descriptor::new(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?;
        description.set(Name::CUDNN_ATTR_POINTWISE_MODE, Type::CUDNN_TYPE_POINTWISE_MODE, &[mode])?;
        description.data_type(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, precision)?;
        if let Some(axis) = axis {
            description.integers(Name::CUDNN_ATTR_POINTWISE_AXIS, &[axis])?;
        }
        description.finalize()?;
        let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?;
        operation.link(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &description)?;
        let names = [
            Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
            Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
            Name::CUDNN_ATTR_OPERATION_POINTWISE_TDESC,
        ];
        for (name, input) in names.into_iter().zip(inputs) {
            operation.link(name, &self.tensors[input.index])?;
        }
        operation.link(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &self.tensors[to.index])?;
        self.push(description, operation)
    }

    /// `to = mode(inputs)` in f32.
    pub(super) fn map_to(&mut self, mode: Pointwise, inputs: &[Node], to: Node) -> Result<(), CudaError> {
        self.pointwise(mode, inputs, to, F32, None)
    }

    /// `mode(inputs)` in f32, laid out like the first input.
    pub(super) fn map(&mut self, mode: Pointwise, inputs: &[Node]) -> Result<Node, CudaError> {
        let to = self.inner(inputs[0].layout, F32)?;
        self.map_to(mode, inputs, to)?;
        Ok(to)
    }

    /// The index along `axis` at each element of `like`.
    pub(super) fn index(&mut self, like: Node, axis: i64) -> Result<Node, CudaError> {
        let data = Data::CUDNN_DATA_INT32;
        let to = self.inner(like.layout, data)?;
        self.pointwise(Pointwise::CUDNN_POINTWISE_GEN_INDEX, &[like], to, data, Some(axis))?;
        Ok(to)
    }

    /// A comparison or a logical operation.
    pub(super) fn test(&mut self, mode: Pointwise, a: Node, b: Node) -> Result<Node, CudaError> {
        let data = Data::CUDNN_DATA_BOOLEAN;
        let to = self.inner(a.layout, data)?;
        self.pointwise(mode, &[a, b], to, data, None)?;
        Ok(to)
    }

    /// Sum or maximum of `x` over the dimensions of which `to` has one element, or fewer heads.
    pub(super) fn reduce(&mut self, mode: Reduction, x: Node, to: Node) -> Result<(), CudaError> {
        let description = Descriptor::new(Kind::CUDNN_BACKEND_REDUCTION_DESCRIPTOR)?;
        description.set(Name::CUDNN_ATTR_REDUCTION_OPERATOR, Type::CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, &[mode])?;
        description.data_type(Name::CUDNN_ATTR_REDUCTION_COMP_TYPE, F32)?;
        description.finalize()?;
        let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR)?;
        operation.link(Name::CUDNN_ATTR_OPERATION_REDUCTION_DESC, &description)?;
        operation.link(Name::CUDNN_ATTR_OPERATION_REDUCTION_XDESC, &self.tensors[x.index])?;
        operation.link(Name::CUDNN_ATTR_OPERATION_REDUCTION_YDESC, &self.tensors[to.index])?;
        self.push(description, operation)
    }

    /// `x` seen as another layout.
    pub(super) fn reshape(
        &mut self,
        x: Node,
        layout: Layout,
        data: Data,
        starts: Option<Node>,
    ) -> Result<Node, CudaError> {
        let to = self.tensor(None, layout, data, starts)?;
        let operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR)?;
        operation.link(Name::CUDNN_ATTR_OPERATION_RESHAPE_XDESC, &self.tensors[x.index])?;
        operation.link(Name::CUDNN_ATTR_OPERATION_RESHAPE_YDESC, &self.tensors[to.index])?;
        operation.finalize()?;
        self.operations.push(operation);
        Ok(to)
    }

    fn push(&mut self, mode: Descriptor, operation: Descriptor) -> Result<(), CudaError> {
        operation.finalize()?;
        self.modes.push(mode);
        self.operations.push(operation);
        Ok(())
    }
}
