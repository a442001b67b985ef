//! Operand products by cuBLASLt: f32 accumulation, f32 or half-precision operands, accumulation into the output.
//!
//! cuBLASLt is column-major: a row-major `[r, c]` is its column-major `[c, r]`. So `out[m, n] = x[m, k] wᵀ[k, n]` is asked
//! for as `outᵀ = w xᵀ`.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::CudaStream;

use super::device::Device;
use super::error::CudaError;
use super::tensor::{Dtype, Tensor};

/// What cuBLASLt may use beside the operands: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// A product's operand: a row-major matrix whose rows may lie apart.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    pub data: Tensor,
    pub rows: usize,
    pub columns: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl Operand {
    /// Rows end to end.
    pub fn new(data: Tensor, rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, stride: columns }
    }

    /// Rows `stride` elements apart.
    pub fn strided(data: Tensor, rows: usize, columns: usize, stride: usize) -> Self {
        Self { data, rows, columns, stride }
    }

    fn check(&self, name: &str) -> Result<(), CudaError> {
        let needed = if self.rows == 0 { 0 } else { (self.rows - 1) * self.stride + self.columns };
        if self.stride < self.columns || self.data.elements() < needed {
            return Err(CudaError::invalid(format!(
                "matmul: {name} of {} elements is no [{}, {}] with a stride of {}",
                self.data.elements(),
                self.rows,
                self.columns,
                self.stride
            )));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// m, n, k of the row-major product.
    sizes: [usize; 3],
    strides: [usize; 3],
    types: [Dtype; 3],
    transposed: [bool; 2],
    accumulates: bool,
    bias: Option<Dtype>,
    /// What the addresses of the operands are multiples of, in bytes.
    alignments: [u32; 3],
}

struct Plan {
    descriptor: sys::cublasLtMatmulDesc_t,
    /// Of the right operand, the left one and the output.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made in `Plan::new`, destroyed once. Failures leave nothing to do.
        unsafe {
            let _ = lt::destroy_matmul_desc(self.descriptor);
            for layout in self.layouts {
                let _ = lt::destroy_matrix_layout(layout);
            }
        }
    }
}

/// cuBLASLt's handle and the plans it made.
pub(crate) struct Matmuls {
    handle: sys::cublasLtHandle_t,
    plans: HashMap<Key, Plan>,
    /// Keeps the context alive.
    _stream: Arc<CudaStream>,
}

// SAFETY: handles of a library that is safe to use from any thread, one at a time.
unsafe impl Send for Matmuls {}

impl Drop for Matmuls {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: made in `open`, destroyed once.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

fn fail(what: &str) -> impl Fn(lt::CublasError) -> CudaError {
    let what = what.to_owned();
    move |e| CudaError::call(what.clone(), e)
}

fn data_type(dtype: Dtype) -> Result<sys::cudaDataType, CudaError> {
    Ok(match dtype {
        Dtype::F32 => sys::cudaDataType::CUDA_R_32F,
        Dtype::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        Dtype::F16 => sys::cudaDataType::CUDA_R_16F,
        other => return Err(CudaError::invalid(format!("matmul: no products of {other:?}"))),
    })
}

impl Matmuls {
    pub(crate) fn open(stream: &Arc<CudaStream>) -> Result<Self, CudaError> {
        let handle = lt::create_handle().map_err(fail("starting cuBLASLt"))?;
        Ok(Self { handle, plans: HashMap::new(), _stream: stream.clone() })
    }

    fn plan(&mut self, key: Key) -> Result<&Plan, CudaError> {
        use std::collections::hash_map::Entry;
        match self.plans.entry(key) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(Plan::new(self.handle, &key)?)),
        }
    }
}

fn set<V>(
    descriptor: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &V,
) -> Result<(), CudaError> {
    // SAFETY: the descriptor is valid and the value has the attribute's type.
    unsafe {
        lt::set_matmul_desc_attribute(descriptor, attribute, std::ptr::from_ref(value).cast::<c_void>(), size_of::<V>())
    }
    .map_err(fail("describing a matrix product"))
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, key: &Key) -> Result<Self, CudaError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let [m, n, k] = key.sizes;
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let descriptor = lt::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)
            .map_err(fail("describing a matrix product"))?;
        // CUBLAS_OP_N and CUBLAS_OP_T, which cuBLASLt's header takes from cuBLAS's.
        let operation = |transpose: bool| i32::from(transpose);
        // Operands are swapped (see above): cuBLASLt's A is our right one, its B our left one, and a row-major matrix is
        // transposed in its eyes.
        set(descriptor, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &operation(key.transposed[1]))?;
        set(descriptor, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &operation(key.transposed[0]))?;
        if let Some(bias) = key.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            set(descriptor, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            set(descriptor, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &(data_type(bias)? as i32))?;
        }
        let layout = |dtype: Dtype, rows: usize, columns: usize, stride: usize| {
            lt::create_matrix_layout(data_type(dtype)?, columns as u64, rows as u64, stride as i64)
                .map_err(fail("describing a matrix"))
        };
        let (left, right) = (key.transposed[0], key.transposed[1]);
        let a = layout(key.types[1], if right { n } else { k }, if right { k } else { n }, key.strides[1])?;
        let b = layout(key.types[0], if left { k } else { m }, if left { m } else { k }, key.strides[0])?;
        let c = layout(key.types[2], m, n, key.strides[2])?;
        let preference = lt::create_matmul_pref().map_err(fail("choosing an algorithm"))?;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let bytes = WORKSPACE;
        let [left, right, out] = key.alignments;
        let alignments = [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, right),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, left),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ];
        // SAFETY: handle, descriptor, layouts and preference are valid; the attributes are a size and 32-bit numbers.
        let found = unsafe {
            let workspace = lt::set_matmul_pref_attribute(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const bytes).cast::<c_void>(),
                size_of::<usize>(),
            );
            let set = alignments.iter().fold(workspace, |done, (attribute, value)| {
                done.and_then(|()| {
                    let value = std::ptr::from_ref(value).cast::<c_void>();
                    lt::set_matmul_pref_attribute(preference, *attribute, value, size_of::<u32>())
                })
            });
            set.and_then(|()| lt::get_matmul_algo_heuristic(handle, descriptor, a, b, c, c, preference))
        };
        // SAFETY: made above.
        let _ = unsafe { lt::destroy_matmul_pref(preference) };
        let found = found.map_err(|e| CudaError::call(format!("choosing an algorithm for {key:?}"), e))?;
        Ok(Self { descriptor, layouts: [a, b, c], algorithm: found.algo, workspace: found.workspaceSize })
    }
}

/// `out[m, n] = alpha * op(a)[m, k] · op(b)[k, n] + beta * out (+ bias[n])`, where `op` transposes if asked.
///
/// Element types may differ as cuBLASLt allows: both operands alike, the output the same or f32.
///
/// # Errors
/// When shapes do not fit together, or cuBLASLt has no such product.
pub fn matmul(
    device: &Device,
    a: Operand,
    transpose_a: bool,
    b: Operand,
    transpose_b: bool,
    alpha: f32,
    beta: f32,
    bias: Option<Tensor>,
    out: Operand,
) -> Result<(), CudaError> {
    let (m, k) = if transpose_a { (a.columns, a.rows) } else { (a.rows, a.columns) };
    let (k2, n) = if transpose_b { (b.columns, b.rows) } else { (b.rows, b.columns) };
    if k != k2 || (out.rows, out.columns) != (m, n) || bias.is_some_and(|bias| bias.elements() != n) {
        return Err(CudaError::invalid(format!(
            "matmul: [{m}, {k}] times [{k2}, {n}] into [{}, {}], bias {:?}",
            out.rows,
            out.columns,
            bias.map(Tensor::elements)
        )));
    }
    a.check("the left operand")?;
    b.check("the right operand")?;
    out.check("the output")?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    device.bind()?;
    let key = Key {
        sizes: [m, n, k],
        strides: [a.stride, b.stride, out.stride],
        types: [a.data.dtype(), b.data.dtype(), out.data.dtype()],
        transposed: [transpose_a, transpose_b],
        accumulates: beta != 0.0,
        bias: bias.map(Tensor::dtype),
        alignments: [a, b, out].map(|operand| 1 << operand.data.address().trailing_zeros().min(8)),
    };
    let workspace = device.workspace(WORKSPACE)?;
    let mut matmuls = device.matmuls();
    let handle = matmuls.handle;
    let plan = matmuls.plan(key)?;
    if let Some(bias) = bias {
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        set(plan.descriptor, attribute, &bias.address())?;
    }
    let flops = 2.0 * m as f64 * n as f64 * k as f64;
    let bytes = a.data.bytes() + b.data.bytes() + out.rows * out.columns * out.data.dtype().size();
    let name = || {
        let kind = match (transpose_a, transpose_b) {
            (false, true) => "x·wᵀ",
            (false, false) => "dy·w",
            _ => "dyᵀ·x",
        };
        format!("matmul {kind} {m}x{k}x{n}{}", if beta == 0.0 { "" } else { " +=" })
    };
    device.profiled_lazily(name, bytes, flops, || {
        // SAFETY: the operands were checked against the shapes, and the plan was made for these shapes and types.
        unsafe {
            lt::matmul(
                handle,
                plan.descriptor,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                b.data.address() as *const c_void,
                plan.layouts[0],
                a.data.address() as *const c_void,
                plan.layouts[1],
                out.data.address() as *const c_void,
                plan.layouts[2],
                out.data.address() as *mut c_void,
                plan.layouts[2],
                &raw const plan.algorithm,
                workspace.address() as *mut c_void,
                plan.workspace,
                device.stream().cu_stream().cast(),
            )
        }
        .map_err(|e| CudaError::call(format!("a matrix product {key:?}"), e))
    })
}

/// `out[m, n] = alpha * x[m, k] w[n, k]ᵀ + bias[n] + beta * out`.
///
/// # Errors
/// As [`matmul`].
pub fn linear(
    device: &Device,
    x: Tensor,
    m: usize,
    k: usize,
    w: Tensor,
    n: usize,
    bias: Option<Tensor>,
    alpha: f32,
    beta: f32,
    out: Tensor,
) -> Result<(), CudaError> {
    matmul(
        device,
        Operand::new(x, m, k),
        false,
        Operand::new(w, n, k),
        true,
        alpha,
        beta,
        bias,
        Operand::new(out, m, n),
    )
}

/// `dx[m, k] = alpha * dy[m, n] w[n, k] + beta * dx`.
///
/// # Errors
/// As [`matmul`].
pub fn linear_grad_input(
    device: &Device,
    dy: Tensor,
    m: usize,
    n: usize,
    w: Tensor,
    k: usize,
    alpha: f32,
    beta: f32,
    dx: Tensor,
) -> Result<(), CudaError> {
    matmul(
        device,
        Operand::new(dy, m, n),
        false,
        Operand::new(w, n, k),
        false,
        alpha,
        beta,
        None,
        Operand::new(dx, m, k),
    )
}

/// `dw[n, k] = alpha * dy[m, n]ᵀ x[m, k] + beta * dw`; `dw` may be f32 where the operands are not.
///
/// # Errors
/// As [`matmul`].
pub fn linear_grad_weight(
    device: &Device,
    dy: Tensor,
    x: Tensor,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    beta: f32,
    dw: Tensor,
) -> Result<(), CudaError> {
    matmul(
        device,
        Operand::new(dy, m, n),
        true,
        Operand::new(x, m, k),
        false,
        alpha,
        beta,
        None,
        Operand::new(dw, n, k),
    )
}
