//! Sums over several GPUs by NCCL: the handful of its functions that data-parallel training needs, loaded at run time.
//!
//! It must not know how ranks find each other: whoever starts them carries the [`UniqueId`] from the first to the others.

use std::{
    cell::{Cell, RefCell},
    ffi::{CStr, OsStr, c_char, c_int, c_void},
    sync::OnceLock,
    time::{Duration, Instant},
};

use libloading::Library;

use super::{Buffer, CudaError, Device, Dtype, Tensor, library};

/// Bytes of [`UniqueId`].
pub const ID_BYTES: usize = 128;
/// Values that fit the buffer of [`Communicator::all_reduce_sum_f64`] at its start; it grows.
const SMALL_SUMS: usize = 64;

// Of nccl.h, unchanged from 2.0 to 2.32.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
const FLOAT32: c_int = 7;
const FLOAT64: c_int = 8;
const UINT8: c_int = 1;
const SUM: c_int = 0;

/// What the ranks of one communicator share: made by one of them, given to all.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId([u8; ID_BYTES]);

impl UniqueId {
    /// Asks NCCL for a new one. It holds an address of this machine: call it on rank 0.
    ///
    /// # Errors
    /// When NCCL is missing or fails.
    pub fn new() -> Result<Self, CudaError> {
        let functions = functions()?;
        let mut id = Self([0; ID_BYTES]);
        // SAFETY: the function fills the 128 bytes it is given.
        let code = unsafe { (functions.get_unique_id)(&raw mut id) };
        functions.check("ncclGetUniqueId", code)?;
        Ok(id)
    }

    /// The id that came as bytes from rank 0.
    pub fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be sent.
    pub fn bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

type Handle = *mut c_void;

/// NCCL's functions, by their names without the prefix.
struct Functions {
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    comm_init_rank: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int) -> c_int,
    comm_destroy: unsafe extern "C" fn(Handle) -> c_int,
    comm_abort: unsafe extern "C" fn(Handle) -> c_int,
    comm_get_async_error: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> c_int,
    broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> c_int,
    get_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// `2.28.9`.
    version: String,
    /// Keeps the functions valid.
    _library: Library,
}

impl Functions {
    fn load() -> Result<Self, CudaError> {
        let missing = CudaError::MissingLibrary { name: "libnccl.so.2", package: "nvidia-nccl-cu13" };
        let failed = |what: &str, e: libloading::Error| CudaError::call(format!("loading {what}"), e);
        // SAFETY: NCCL's initialisers have no preconditions.
        let open = |name: &OsStr| unsafe { Library::new(name) };
        // pip ships the name with the number only.
        let library = match open("libnccl.so.2".as_ref()).or_else(|_| open("libnccl.so".as_ref())) {
            Ok(library) => library,
            Err(_) => {
                let path = library::find("libnccl.so").ok_or(missing)?;
                open(path.as_os_str()).map_err(|e| failed(&path.display().to_string(), e))?
            }
        };
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the type of the field it is stored in is that of nccl.h, which has not changed since 2.0 (2.4
                // for the asynchronous error).
                *unsafe { library.get($name.as_bytes()) }.map_err(|e| failed(concat!($name, " of NCCL"), e))?
            };
        }
        let get_version: unsafe extern "C" fn(*mut c_int) -> c_int = symbol!("ncclGetVersion");
        let mut code: c_int = 0;
        // SAFETY: the function writes one integer.
        let status = unsafe { get_version(&raw mut code) };
        let functions = Self {
            get_unique_id: symbol!("ncclGetUniqueId"),
            comm_init_rank: symbol!("ncclCommInitRank"),
            comm_destroy: symbol!("ncclCommDestroy"),
            comm_abort: symbol!("ncclCommAbort"),
            comm_get_async_error: symbol!("ncclCommGetAsyncError"),
            all_reduce: symbol!("ncclAllReduce"),
            broadcast: symbol!("ncclBroadcast"),
            get_error_string: symbol!("ncclGetErrorString"),
            version: version_text(code),
            _library: library,
        };
        functions.check("ncclGetVersion", status)?;
        Ok(functions)
    }

    fn check(&self, what: &str, code: c_int) -> Result<(), CudaError> {
        if code == SUCCESS {
            return Ok(());
        }
        // SAFETY: it takes any code and gives a text that lives as long as the library.
        let text = unsafe {
            let text = (self.get_error_string)(code);
            if text.is_null() { "unknown error".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        Err(CudaError::Call {
            what: format!("{what} (NCCL {})", self.version),
            reason: format!("{text}; NCCL_DEBUG=INFO in the environment makes it say more"),
        })
    }
}

/// `22809` is 2.28.9; up to 2.8 it was `2804`.
fn version_text(code: c_int) -> String {
    let (major, rest) = if code < 10_000 { (code / 1000, code % 1000) } else { (code / 10_000, code % 10_000) };
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

fn functions() -> Result<&'static Functions, CudaError> {
    static FUNCTIONS: OnceLock<Result<Functions, CudaError>> = OnceLock::new();
    FUNCTIONS.get_or_init(Functions::load).as_ref().map_err(Clone::clone)
}

/// NCCL's version, or why it cannot be used.
///
/// # Errors
/// When it is not found or cannot be loaded.
pub fn version() -> Result<&'static str, CudaError> {
    functions().map(|functions| functions.version.as_str())
}

/// One rank's place among those that train together.
///
/// Every operation must be called by all ranks, in the same order. Work goes to the device's stream, as any other.
pub struct Communicator {
    functions: &'static Functions,
    /// Null once the ranks have lost each other.
    handle: Cell<Handle>,
    rank: usize,
    world_size: usize,
    timeout: Duration,
    /// The values of [`Self::all_reduce_sum_f64`].
    small: RefCell<Buffer>,
}

// SAFETY: NCCL binds a communicator to a GPU, not to a thread, and one thread at a time uses it (it is not Sync).
unsafe impl Send for Communicator {}

impl Communicator {
    /// Joins the communicator of `id` as `rank` of `world_size`; returns when all of them have.
    /// `timeout` is how long [`Self::wait`] waits for the others later on.
    ///
    /// # Errors
    /// When NCCL is missing, or says that the ranks cannot work together (two of them on one GPU, say).
    pub fn new(
        device: &Device,
        id: &UniqueId,
        rank: usize,
        world_size: usize,
        timeout: Duration,
    ) -> Result<Self, CudaError> {
        if rank >= world_size {
            return Err(CudaError::invalid(format!("rank {rank} of {world_size} ranks")));
        }
        let functions = functions()?;
        let integer = |n: usize| c_int::try_from(n).map_err(|_| CudaError::invalid(format!("{n} ranks")));
        let (count, own) = (integer(world_size)?, integer(rank)?);
        let small = device.allocate(SMALL_SUMS * size_of::<f64>())?;
        device.bind()?;
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the id is plain data passed by value, the handle is written by a successful call only.
        let code = unsafe { (functions.comm_init_rank)(&raw mut handle, count, *id, own) };
        functions.check("ncclCommInitRank", code)?;
        Ok(Self { functions, handle: Cell::new(handle), rank, world_size, timeout, small: RefCell::new(small) })
    }

    /// This process's place, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Replaces an f32 tensor by its sum over all ranks.
    ///
    /// # Errors
    /// When it is not f32, or NCCL fails.
    pub fn all_reduce_sum(&self, device: &Device, tensor: Tensor) -> Result<(), CudaError> {
        if tensor.dtype() != Dtype::F32 {
            return Err(CudaError::invalid(format!("all_reduce_sum adds f32, not {:?}", tensor.dtype())));
        }
        self.reduce(device, tensor, tensor.elements(), FLOAT32)
    }

    /// Replaces a few numbers by their sums over all ranks. Waits for all work before it, here and on the other ranks.
    ///
    /// # Errors
    /// When NCCL fails, or the other ranks do not come within the timeout.
    pub fn all_reduce_sum_f64(&self, device: &Device, values: &mut [f64]) -> Result<(), CudaError> {
        if values.is_empty() {
            return Ok(());
        }
        let bytes = size_of_val(values);
        let mut small = self.small.borrow_mut();
        if bytes > small.bytes() {
            *small = device.allocate(bytes.next_power_of_two())?;
        }
        let tensor = small.at(0, bytes, Dtype::U8);
        device.upload(bytemuck::cast_slice(values), tensor)?;
        self.reduce(device, tensor, values.len(), FLOAT64)?;
        self.wait(device)?;
        device.download(tensor, bytemuck::cast_slice_mut(values))
    }

    /// Replaces a tensor of any type by that of rank `root`.
    ///
    /// # Errors
    /// When there is no such rank, or NCCL fails.
    pub fn broadcast(&self, device: &Device, tensor: Tensor, root: usize) -> Result<(), CudaError> {
        if root >= self.world_size {
            return Err(CudaError::invalid(format!("broadcast from rank {root} of {}", self.world_size)));
        }
        let handle = self.handle()?;
        device.bind()?;
        let address = tensor.address() as *mut c_void;
        let stream = device.stream().cu_stream().cast();
        // SAFETY: the tensor names that many bytes of device memory, read and written on the device's stream.
        let code = unsafe {
            (self.functions.broadcast)(address, address, tensor.bytes(), UINT8, root as c_int, handle, stream)
        };
        self.functions.check("ncclBroadcast", code)
    }

    fn reduce(&self, device: &Device, tensor: Tensor, count: usize, kind: c_int) -> Result<(), CudaError> {
        let handle = self.handle()?;
        device.bind()?;
        let address = tensor.address() as *mut c_void;
        let stream = device.stream().cu_stream().cast();
        // SAFETY: the tensor names `count` elements of this kind in device memory, read and written on the device's stream.
        let code = unsafe { (self.functions.all_reduce)(address, address, count, kind, SUM, handle, stream) };
        self.functions.check("ncclAllReduce", code)
    }

    /// Waits until all work given to the device is done, the sums over ranks included.
    ///
    /// # Errors
    /// When NCCL reports an error, or the other ranks do not come within the timeout. The communicator cannot be used
    /// any more then.
    pub fn wait(&self, device: &Device) -> Result<(), CudaError> {
        let event = device.stream().record_event(None).map_err(|e| CudaError::call("recording an event", e))?;
        let started = Instant::now();
        while !event.try_is_complete().map_err(|e| CudaError::call("the work before a sum over ranks", e))? {
            let waited = started.elapsed();
            // The usual wait is a part of a step: asking without a pause keeps the GPU fed. After that a rank is late.
            if waited < Duration::from_millis(20) {
                std::hint::spin_loop();
                continue;
            }
            std::thread::sleep(Duration::from_micros(200));
            self.asynchronous_error()?;
            if waited > self.timeout {
                self.abort();
                return Err(CudaError::Call {
                    what: format!("waiting for the other {} ranks", self.world_size - 1),
                    reason: format!("nothing came for {} s; --ddp_timeout sets how long", self.timeout.as_secs()),
                });
            }
        }
        Ok(())
    }

    fn handle(&self) -> Result<Handle, CudaError> {
        let handle = self.handle.get();
        if handle.is_null() { Err(CudaError::invalid("the ranks have lost each other")) } else { Ok(handle) }
    }

    /// What NCCL's own threads met: a rank that died, a network that broke.
    fn asynchronous_error(&self) -> Result<(), CudaError> {
        let handle = self.handle()?;
        let mut state = SUCCESS;
        // SAFETY: the handle is valid and the function writes one integer.
        let code = unsafe { (self.functions.comm_get_async_error)(handle, &raw mut state) };
        self.functions.check("ncclCommGetAsyncError", code)?;
        if state == SUCCESS || state == IN_PROGRESS {
            return Ok(());
        }
        self.abort();
        self.functions.check("talking to the other ranks", state)
    }

    /// Ends what hangs; destroying would wait for it.
    fn abort(&self) {
        let handle = self.handle.replace(std::ptr::null_mut());
        if !handle.is_null() {
            // SAFETY: the handle is valid and is forgotten here. An error on the way to reporting another one says nothing.
            let _ = unsafe { (self.functions.comm_abort)(handle) };
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        let handle = self.handle.get();
        if !handle.is_null() {
            // SAFETY: the handle is valid and is not used again. Nobody is left to tell of a failure.
            let _ = unsafe { (self.functions.comm_destroy)(handle) };
        }
    }
}

impl std::fmt::Debug for Communicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Communicator(rank {} of {}, NCCL {})", self.rank, self.world_size, self.functions.version)
    }
}

impl std::fmt::Debug for UniqueId {
    /// Not its bytes: whoever has them may join.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UniqueId")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_nvidia_writes_them() {
        assert_eq!(version_text(22_809), "2.28.9");
        assert_eq!(version_text(23_203), "2.32.3");
        assert_eq!(version_text(2_804), "2.8.4");
    }

    /// Loading needs no GPU: where NCCL is installed its functions must be found, where not the error names it.
    #[test]
    fn the_library_loads_or_is_named() {
        match version() {
            Ok(version) => assert!(version.starts_with("2."), "{version}"),
            Err(CudaError::MissingLibrary { name, .. }) => assert_eq!(name, "libnccl.so.2"),
            Err(other) => panic!("{other}"),
        }
    }
}
