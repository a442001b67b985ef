//! One GPU: its context, its stream, the kernels loaded on it, and scratch memory.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use half::{bf16, f16};

use super::compile::{Source, compile};
use super::error::CudaError;
use super::library;
use super::matmul::Matmuls;
use super::profile::{Profile, ProfileRow};
use super::tensor::{Buffer, Dtype, Tensor};

/// A kernel's argument.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// An address, and the bytes behind it for the profile.
    Address(u64, usize),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl Arg {
    fn bits(self) -> u64 {
        match self {
            Self::Address(x, _) | Self::U64(x) => x,
            Self::I32(x) => u64::from(x as u32),
            Self::U32(x) => u64::from(x),
            Self::I64(x) => x as u64,
            Self::F32(x) => u64::from(x.to_bits()),
            Self::F64(x) => x.to_bits(),
        }
    }
}

impl From<Tensor> for Arg {
    fn from(x: Tensor) -> Self {
        Self::Address(x.address(), x.bytes())
    }
}

impl From<Option<Tensor>> for Arg {
    fn from(x: Option<Tensor>) -> Self {
        x.map_or(Self::Address(0, 0), Into::into)
    }
}

macro_rules! arg {
    ($($ty:ty => $variant:ident),*) => {$(
        impl From<$ty> for Arg {
            fn from(x: $ty) -> Self {
                Self::$variant(x)
            }
        }
    )*};
}
arg!(i32 => I32, u32 => U32, i64 => I64, u64 => U64, f32 => F32, f64 => F64);

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory it was opted into.
    shared_bytes: u32,
}

// SAFETY: a CUfunction is a handle of the driver, which any thread may use with its context bound.
unsafe impl Send for Function {}

struct Inner {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    multiprocessors: u32,
    capability: (u32, u32),
    modules: Mutex<HashMap<(&'static str, Dtype), Module>>,
    functions: Mutex<HashMap<(&'static str, Dtype, &'static str), Function>>,
    /// The last is the largest. Earlier ones stay: captured graphs may name them.
    workspace: Mutex<Vec<Buffer>>,
    matmuls: Mutex<Matmuls>,
    profile: Mutex<Option<Profile>>,
}

#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

// SAFETY: as for Function.
unsafe impl Send for Module {}

/// Shared memory at launch that no kernel must ask for: 48 KiB less what a kernel declares itself.
const SHARED_BYTES: u32 = 16 << 10;

/// A GPU. Clones are the same one.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({})", self.inner.context.ordinal())
    }
}

/// Work captured from the stream, launched again with one call.
pub struct Graph {
    graph: cudarc::driver::CudaGraph,
    /// Keeps the context.
    _device: Device,
}

// SAFETY: handles of the driver, used through a context bound to the calling thread.
unsafe impl Send for Graph {}

impl Graph {
    /// Enqueues the captured work.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn launch(&self) -> Result<(), CudaError> {
        self.graph.launch().map_err(|e| CudaError::call("a graph launch", e))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The GPUs the driver shows.
///
/// # Errors
/// When there is no driver, or it is too old.
pub(crate) fn count() -> Result<usize, CudaError> {
    library::driver()?;
    match CudaContext::device_count() {
        Ok(n) => Ok(usize::try_from(n).unwrap_or(0)),
        Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
        Err(e) => Err(CudaError::call("counting GPUs", e)),
    }
}

impl Device {
    /// Number of GPUs the driver shows.
    ///
    /// # Errors
    /// When there is no driver, or it is too old.
    pub fn count() -> Result<usize, CudaError> {
        count()
    }

    /// Name and bytes of memory of each GPU the driver shows, without opening any.
    ///
    /// # Errors
    /// When there is no driver, or it is too old.
    pub fn list() -> Result<Vec<(String, u64)>, CudaError> {
        (0..count()?)
            .map(|ordinal| {
                let fail = |e| CudaError::call(format!("asking for GPU {ordinal}"), e);
                let device = result::device::get(ordinal as i32).map_err(fail)?;
                // SAFETY: the device was just given by the driver.
                let bytes = unsafe { result::device::total_mem(device) }.map_err(fail)?;
                Ok((result::device::get_name(device).map_err(fail)?, bytes as u64))
            })
            .collect()
    }

    /// Opens GPU `ordinal` with a stream of its own.
    ///
    /// # Errors
    /// When the driver, a library or the GPU is missing.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let count = count()?;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        library::required()?;
        let fail = |what: &str| {
            let what = what.to_owned();
            move |e: DriverError| CudaError::call(what, e)
        };
        let context = CudaContext::new(ordinal).map_err(fail("opening the GPU"))?;
        // SAFETY: our buffers are ordered by one stream; cudarc's own tracking is not used.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(fail("making a stream"))?;
        let capability = context.compute_capability().map_err(fail("asking for the compute capability"))?;
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(fail("asking for the multiprocessors"))?;
        keep_freed_memory(&context).map_err(fail("setting up the memory pool"))?;
        let matmuls = Matmuls::open(&stream)?;
        Ok(Self {
            inner: Arc::new(Inner {
                context,
                stream,
                multiprocessors: multiprocessors as u32,
                capability: (capability.0 as u32, capability.1 as u32),
                modules: Mutex::default(),
                functions: Mutex::default(),
                workspace: Mutex::default(),
                matmuls: Mutex::new(matmuls),
                profile: Mutex::default(),
            }),
        })
    }

    /// Product name, as `NVIDIA H200`.
    pub fn name(&self) -> String {
        self.inner.context.name().unwrap_or_else(|_| "an NVIDIA GPU".into())
    }

    /// Number on this machine.
    pub fn ordinal(&self) -> usize {
        self.inner.context.ordinal()
    }

    /// Free and total bytes of the device.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.bind()?;
        result::mem_get_info().map_err(|e| CudaError::call("asking for free memory", e))
    }

    /// The most bytes that allocations of this process took together on this GPU, of all its handles.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn most_allocated(&self) -> Result<usize, CudaError> {
        self.bind()?;
        let mut bytes = 0u64;
        let fail = |e| CudaError::call("asking for the most memory in use", e);
        // SAFETY: the device is the context's own, and the attribute gives a u64.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.inner.context.cu_device()).map_err(fail)?;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
            sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()).result().map_err(fail)?;
        }
        Ok(bytes as usize)
    }

    /// Number of multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.inner.multiprocessors
    }

    /// Compute capability: (9, 0) is Hopper.
    pub fn compute_capability(&self) -> (u32, u32) {
        self.inner.capability
    }

    /// The stream all work goes to.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.inner.stream
    }

    pub(crate) fn matmuls(&self) -> MutexGuard<'_, Matmuls> {
        lock(&self.inner.matmuls)
    }

    /// Makes the context current on the calling thread.
    pub(crate) fn bind(&self) -> Result<(), CudaError> {
        self.inner.context.bind_to_thread().map_err(|e| CudaError::call("binding the context", e))
    }

    /// Memory with unspecified contents, at an address that is a multiple of 256.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn allocate(&self, bytes: usize) -> Result<Buffer, CudaError> {
        self.bind()?;
        let stream = self.inner.stream.clone();
        // SAFETY: the address is owned by the Buffer made here.
        match unsafe { result::malloc_async(stream.cu_stream(), bytes.max(256)) } {
            Ok(address) => Ok(Buffer { address, bytes, stream }),
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = self.memory().unwrap_or((0, 0));
                Err(CudaError::OutOfMemory { wanted: bytes, free, total })
            }
            Err(e) => Err(CudaError::call(format!("allocating {bytes} bytes"), e)),
        }
    }

    /// Scratch of one op; it may be anyone's after the op's launches.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn workspace(&self, bytes: usize) -> Result<Tensor, CudaError> {
        let mut buffers = lock(&self.inner.workspace);
        let largest = buffers.last().map_or(0, Buffer::bytes);
        if largest < bytes || buffers.is_empty() {
            let size = bytes.max(largest * 3 / 2).max(1 << 20).next_multiple_of(256);
            buffers.push(self.allocate(size)?);
        }
        let last = buffers.last().ok_or_else(|| CudaError::invalid("no workspace"))?;
        Ok(last.at(0, bytes, Dtype::U8))
    }

    /// Bytes that scratch memory takes.
    pub fn workspace_bytes(&self) -> usize {
        lock(&self.inner.workspace).iter().map(Buffer::bytes).sum()
    }

    /// Copies host bytes to the device; they may be changed when this returns.
    ///
    /// # Errors
    /// When lengths differ.
    pub fn upload(&self, bytes: &[u8], to: Tensor) -> Result<(), CudaError> {
        if bytes.len() != to.bytes() {
            return Err(CudaError::invalid(format!("{} bytes for a tensor of {}", bytes.len(), to.bytes())));
        }
        self.bind()?;
        // SAFETY: both sides have this length. The driver stages pageable memory before the call returns.
        unsafe { result::memcpy_htod_async(to.address(), bytes, self.inner.stream.cu_stream()) }
            .map_err(|e| CudaError::call("copying to the GPU", e))
    }

    /// Copies a tensor to the host, behind all work before it; waits.
    ///
    /// # Errors
    /// When lengths differ, or earlier work failed.
    pub fn download(&self, from: Tensor, bytes: &mut [u8]) -> Result<(), CudaError> {
        if bytes.len() != from.bytes() {
            return Err(CudaError::invalid(format!("{} bytes for a tensor of {}", bytes.len(), from.bytes())));
        }
        self.bind()?;
        // SAFETY: both sides have this length, and the stream is waited for before the bytes are read.
        unsafe { result::memcpy_dtoh_async(bytes, from.address(), self.inner.stream.cu_stream()) }
            .map_err(|e| CudaError::call("copying from the GPU", e))?;
        self.synchronize()
    }

    /// Copies between tensors of the same length.
    ///
    /// # Errors
    /// When lengths differ.
    pub fn copy(&self, from: Tensor, to: Tensor) -> Result<(), CudaError> {
        if from.bytes() != to.bytes() {
            return Err(CudaError::invalid(format!("copying {} bytes to {}", from.bytes(), to.bytes())));
        }
        self.bind()?;
        let stream = self.inner.stream.cu_stream();
        self.profiled("copy", from.bytes() + to.bytes(), 0.0, || {
            // SAFETY: both sides have this length.
            unsafe { result::memcpy_dtod_async(to.address(), from.address(), from.bytes(), stream) }
                .map_err(|e| CudaError::call("copying on the GPU", e))
        })
    }

    /// Fills with zeros.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn zero(&self, tensor: Tensor) -> Result<(), CudaError> {
        self.bind()?;
        let stream = self.inner.stream.cu_stream();
        self.profiled("zero", tensor.bytes(), 0.0, || {
            // SAFETY: the tensor has this length.
            unsafe { result::memset_d8_async(tensor.address(), 0, tensor.bytes(), stream) }
                .map_err(|e| CudaError::call("clearing memory", e))
        })
    }

    /// f32 values as elements of `dtype`, in a buffer of their own.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn from_f32(&self, values: &[f32], dtype: Dtype) -> Result<Buffer, CudaError> {
        let buffer = self.allocate(values.len() * dtype.size())?;
        self.write_f32(values, buffer.tensor(dtype))?;
        Ok(buffer)
    }

    /// Writes f32 values into a tensor, rounded to its type.
    ///
    /// # Errors
    /// When lengths differ or the type holds no fractions.
    pub fn write_f32(&self, values: &[f32], to: Tensor) -> Result<(), CudaError> {
        match to.dtype() {
            Dtype::F32 => self.upload(bytemuck::cast_slice(values), to),
            Dtype::Bf16 => {
                let rounded: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
                self.upload(bytemuck::cast_slice(&rounded), to)
            }
            Dtype::F16 => {
                let rounded: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
                self.upload(bytemuck::cast_slice(&rounded), to)
            }
            Dtype::U32 | Dtype::U8 => Err(CudaError::invalid("values with fractions for an integer tensor")),
        }
    }

    /// Integers in a buffer of their own.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn from_u32(&self, values: &[u32]) -> Result<Buffer, CudaError> {
        let buffer = self.allocate(values.len() * 4)?;
        self.upload(bytemuck::cast_slice(values), buffer.tensor(Dtype::U32))?;
        Ok(buffer)
    }

    /// Elements as f32; waits.
    ///
    /// # Errors
    /// When earlier work failed.
    pub fn to_f32(&self, tensor: Tensor) -> Result<Vec<f32>, CudaError> {
        let mut bytes = vec![0u8; tensor.bytes()];
        self.download(tensor, &mut bytes)?;
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        Ok(match tensor.dtype() {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::Bf16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::U32 => bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32).collect(),
            Dtype::U8 => bytes.iter().map(|b| f32::from(*b)).collect(),
        })
    }

    /// Waits for all work so far.
    ///
    /// # Errors
    /// When some of it failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.inner.stream.synchronize().map_err(|e| CudaError::call("work on the GPU", e))
    }

    /// Launches `kernel` of `source`, compiled for elements of type `element`.
    ///
    /// # Errors
    /// When it does not compile, or the driver refuses the launch.
    pub fn launch(
        &self,
        source: &'static Source,
        kernel: &'static str,
        element: Dtype,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        args: &[Arg],
    ) -> Result<(), CudaError> {
        self.launch_with(source, kernel, element, grid, block, shared_bytes, args, false)
    }

    /// [`Device::launch`], allowed to begin before earlier work ends (programmatic dependent launch): the kernel must
    /// execute `griddepcontrol.wait` before it touches anything that earlier work reads or writes.
    ///
    /// # Errors
    /// As [`Device::launch`].
    pub fn launch_dependent(
        &self,
        source: &'static Source,
        kernel: &'static str,
        element: Dtype,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        args: &[Arg],
    ) -> Result<(), CudaError> {
        self.launch_with(source, kernel, element, grid, block, shared_bytes, args, self.inner.capability.0 >= 9)
    }

    fn launch_with(
        &self,
        source: &'static Source,
        kernel: &'static str,
        element: Dtype,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        args: &[Arg],
        dependent: bool,
    ) -> Result<(), CudaError> {
        if grid.contains(&0) {
            return Ok(());
        }
        self.bind()?;
        let function = self.function(source, kernel, element, shared_bytes, dependent)?;
        let mut values: Vec<u64> = args.iter().map(|a| a.bits()).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        let bytes = args.iter().map(|a| if let Arg::Address(_, n) = a { *n } else { 0 }).sum();
        // SAFETY: a union of plain data, of which only the member named by `id` is read.
        let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
        attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            hStream: self.inner.stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: u32::from(dependent),
        };
        self.profiled(kernel, bytes, 0.0, || {
            // SAFETY: one pointer to eight readable bytes for each argument; that number and types fit the kernel is the
            // calling wrapper's promise, checked by the tests of each.
            unsafe { sys::cuLaunchKernelEx(&raw const config, function, pointers.as_mut_ptr(), std::ptr::null_mut()) }
                .result()
                .map_err(|e| CudaError::call(format!("launching `{kernel}` with a grid of {grid:?}"), e))
        })
    }

    fn function(
        &self,
        source: &'static Source,
        kernel: &'static str,
        element: Dtype,
        shared_bytes: u32,
        dependent: bool,
    ) -> Result<sys::CUfunction, CudaError> {
        let key = (source.name, element, kernel);
        let mut functions = lock(&self.inner.functions);
        if let Some(function) = functions.get(&key)
            && shared_bytes <= function.shared_bytes.max(SHARED_BYTES)
        {
            return Ok(function.handle);
        }
        let module = self.module(source, element)?;
        let name = std::ffi::CString::new(kernel).map_err(|_| CudaError::invalid("a kernel's name has no NUL"))?;
        // SAFETY: the module was loaded into this context and is never unloaded.
        let handle = unsafe { result::module::get_function(module.0, name) }
            .map_err(|e| CudaError::call(format!("finding the kernel `{kernel}`"), e))?;
        if shared_bytes > SHARED_BYTES {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is valid.
            unsafe { result::function::set_function_attribute(handle, attribute, shared_bytes as i32) }
                .map_err(|e| CudaError::call(format!("giving `{kernel}` {shared_bytes} bytes of shared memory"), e))?;
        }
        if dependent {
            // A multiprocessor that must change its share of shared memory drains first, which would keep the next kernel
            // from beginning early.
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            // SAFETY: the handle is valid; the value is a share in percent.
            unsafe { result::function::set_function_attribute(handle, attribute, 100) }
                .map_err(|e| CudaError::call(format!("setting up `{kernel}`"), e))?;
        }
        functions.insert(key, Function { handle, shared_bytes });
        Ok(handle)
    }

    fn module(&self, source: &'static Source, element: Dtype) -> Result<Module, CudaError> {
        let mut modules = lock(&self.inner.modules);
        if let Some(module) = modules.get(&(source.name, element)) {
            return Ok(*module);
        }
        let binary = compile(source, element, self.inner.capability)?;
        // SAFETY: a whole ELF image, as NVRTC made it (the cache checks its digest).
        let module = unsafe { result::module::load_data(binary.as_ptr().cast()) }
            .map_err(|e| CudaError::call(format!("loading the kernels of `{}`", source.name), e))?;
        modules.insert((source.name, element), Module(module));
        Ok(Module(module))
    }

    /// Captures what `work` enqueues instead of running it. Everything it launches must have run once before: nothing may
    /// be allocated or compiled while capturing.
    ///
    /// # Errors
    /// When the work fails or cannot be captured.
    pub fn capture<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        self.bind()?;
        let stream = &self.inner.stream;
        let fail = |what: &str, e: DriverError| CudaError::call(what.to_owned(), e);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(|e| fail("beginning a capture", e))?;
        let outcome = work();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let captured = stream.end_capture(flags);
        outcome?;
        let graph = captured
            .map_err(|e| fail("ending a capture", e))?
            .ok_or_else(|| CudaError::invalid("nothing was captured"))?;
        Ok(Graph { graph, _device: self.clone() })
    }

    /// Times every launch from now on.
    pub fn start_profile(&self) {
        *lock(&self.inner.profile) = Some(Profile::default());
    }

    /// Ends timing; waits, and gives the sums by kernel, longest first.
    ///
    /// # Errors
    /// When work failed.
    pub fn end_profile(&self) -> Result<Vec<ProfileRow>, CudaError> {
        let profile = lock(&self.inner.profile).take();
        self.synchronize()?;
        profile.map_or(Ok(Vec::new()), Profile::rows)
    }

    /// Runs one launch, timed if a profile is being taken.
    pub(crate) fn profiled(
        &self,
        name: &str,
        bytes: usize,
        flops: f64,
        launch: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        self.profiled_lazily(|| name.to_owned(), bytes, flops, launch)
    }

    /// [`Device::profiled`] under a name that is made only when a profile is being taken.
    pub(crate) fn profiled_lazily(
        &self,
        name: impl FnOnce() -> String,
        bytes: usize,
        flops: f64,
        launch: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let mut profile = lock(&self.inner.profile);
        let Some(profile) = profile.as_mut() else { return launch() };
        profile.time(&self.inner.stream, &name(), bytes, flops, launch)
    }
}

/// Freed memory stays with the process: giving it back and asking again costs a wait for the device.
fn keep_freed_memory(context: &Arc<CudaContext>) -> Result<(), DriverError> {
    // SAFETY: the device is the context's own, and the attribute takes a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let mut keep = u64::MAX;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut keep).cast(),
        )
        .result()
    }
}
