//! CUDA C++ to machine code for one GPU, by NVRTC, once: the result is kept on disk under the digest of everything it was
//! made from.

use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::nvrtc::{result as nvrtc, sys};
use sha2::{Digest, Sha256};

use super::error::CudaError;
use super::tensor::Dtype;

/// Put before every source.
const COMMON: &str = include_str!("../../cuda/common.cuh");

/// One file of kernels.
#[derive(Debug)]
pub struct Source {
    pub name: &'static str,
    pub text: &'static str,
}

static OBSERVER: OnceLock<fn(&str)> = OnceLock::new();

/// Has `tell` called with the name of each file of kernels before it is compiled, which takes seconds the first time on a
/// machine. The first caller's stays.
pub fn on_compile(tell: fn(&str)) {
    let _ = OBSERVER.set(tell);
}

/// The machine code of `source` for elements of type `element`.
pub(crate) fn compile(source: &Source, element: Dtype, capability: (u32, u32)) -> Result<Vec<u8>, CudaError> {
    // The letter allows what only this very generation has, such as Hopper's warpgroup products.
    let suffix = if capability.0 >= 9 { "a" } else { "" };
    let options = [
        format!("--gpu-architecture=sm_{}{}{suffix}", capability.0, capability.1),
        "--std=c++17".to_owned(),
        "--device-as-default-execution-space".to_owned(),
        format!(
            "-DELEMENT={}",
            match element {
                Dtype::F32 => 0,
                Dtype::Bf16 => 1,
                Dtype::F16 => 2,
                other => return Err(CudaError::invalid(format!("there are no kernels for elements of {other:?}"))),
            }
        ),
    ];
    let text = format!("{COMMON}\n#line 1 \"{}.cu\"\n{}", source.name, source.text);
    let mut digest = Sha256::new();
    for part in options.iter().map(String::as_str).chain([text.as_str(), &version()]) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let path = folder().map(|folder| folder.join(format!("{}-{}.cubin", source.name, &digest[..32])));
    if let Some(binary) = path.as_deref().and_then(read) {
        return Ok(binary);
    }
    if let Some(tell) = OBSERVER.get() {
        tell(source.name);
    }
    let binary = build(source, &text, &options)?;
    if let Some(path) = path {
        // A cache that cannot be written costs a compilation next time, nothing else.
        let _ = write(&path, &binary);
    }
    Ok(binary)
}

/// NVRTC's version: another one may make other code.
fn version() -> String {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two integers to write to; the library is loaded.
    unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    format!("{major}.{minor}")
}

fn build(source: &Source, text: &str, options: &[String]) -> Result<Vec<u8>, CudaError> {
    let fail = |what: &str, e: nvrtc::NvrtcError| CudaError::call(what.to_owned(), e);
    let text = CString::new(text).map_err(|_| CudaError::invalid("a source has no NUL"))?;
    let name = CString::new(source.name).map_err(|_| CudaError::invalid("a name has no NUL"))?;
    let program = nvrtc::create_program(&text, Some(&name)).map_err(|e| fail("NVRTC", e))?;
    // SAFETY: the program was just made; sizes are asked for before bytes are written; it is destroyed once.
    unsafe {
        let outcome = nvrtc::compile_program(program, options);
        let result = match outcome {
            Ok(()) => {
                let mut size = 0usize;
                let asked = sys::nvrtcGetCUBINSize(program, &raw mut size).result();
                let mut binary = vec![0u8; size];
                asked
                    .and_then(|()| sys::nvrtcGetCUBIN(program, binary.as_mut_ptr().cast::<c_char>()).result())
                    .map(|()| binary)
                    .map_err(|e| fail("NVRTC", e))
            }
            Err(error) => {
                let log = nvrtc::get_program_log(program).unwrap_or_default();
                let log: Vec<u8> = log.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
                let log = String::from_utf8_lossy(&log).trim().to_owned();
                let log = if log.is_empty() { format!("{error:?}") } else { log };
                Err(CudaError::Compile { source_name: source.name, log })
            }
        };
        let _ = nvrtc::destroy_program(program);
        result
    }
}

/// Where machine code is kept: beside the compiled plugins.
fn folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
    Some(cache.join("swift").join("compiled-kernels"))
}

/// A kept file: the digest of the code, then the code. Anything else is no file.
fn read(path: &std::path::Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (digest, code) = bytes.split_at_checked(32)?;
    (Sha256::digest(code).as_slice() == digest).then(|| code.to_vec())
}

fn write(path: &std::path::Path, code: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder)?;
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, [Sha256::digest(code).as_slice(), code].concat())?;
    std::fs::rename(&temporary, path)
}
