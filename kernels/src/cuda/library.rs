//! Finding the driver and the libraries that ship apart from it.
//!
//! The system's loader is asked first (`LD_LIBRARY_PATH` and its caches), then the places where CUDA's libraries usually
//! lie: `SWIFT_CUDA_LIBRARIES`, the toolkit, and the `nvidia` folders that pip makes beside PyTorch. A library found there
//! is loaded by its path; later requests by its name are then met by the loaded one.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cudarc::{cublaslt, cudnn, driver, nvrtc};

use super::error::CudaError;

/// The oldest driver that runs this program: CUDA 12.0 brought the launches of Hopper.
const NEEDED: (i32, &str) = (12000, "12.0");

/// Checks that there is a driver, new enough.
pub(crate) fn driver() -> Result<(), CudaError> {
    static DRIVER: OnceLock<Result<(), CudaError>> = OnceLock::new();
    DRIVER
        .get_or_init(|| {
            // SAFETY: loads the driver's library, whose initialisers are the vendor's.
            if !unsafe { driver::sys::is_culib_present() } {
                return Err(CudaError::NoDriver);
            }
            let mut version = 0;
            // SAFETY: one integer to write to.
            let status = unsafe { driver::sys::cuDriverGetVersion(&raw mut version) };
            if status != driver::sys::CUresult::CUDA_SUCCESS || version < NEEDED.0 {
                let found = format!("{}.{}", version / 1000, version % 1000 / 10);
                return Err(CudaError::OldDriver { found, needed: NEEDED.1 });
            }
            match driver::result::init() {
                Ok(()) => Ok(()),
                // No GPU is no failure of the driver; counting says so.
                Err(e) if e.0 == driver::sys::CUresult::CUDA_ERROR_NO_DEVICE => Ok(()),
                Err(e) => Err(CudaError::call("starting the NVIDIA driver", e)),
            }
        })
        .clone()
}

/// Loads what no run can do without: the compiler and the matrix products.
pub(crate) fn required() -> Result<(), CudaError> {
    static REQUIRED: OnceLock<Result<(), CudaError>> = OnceLock::new();
    REQUIRED
        .get_or_init(|| {
            // The compiler opens its builtins by name: they must be loaded first.
            preload("libnvrtc-builtins.so");
            // SAFETY: loads a library of CUDA, whose initialisers are the vendor's.
            load("libnvrtc.so", "nvidia-cuda-nvrtc", || unsafe { nvrtc::sys::is_culib_present() })?;
            // SAFETY: as above.
            load("libcublasLt.so", "nvidia-cublas", || unsafe { cublaslt::sys::is_culib_present() })
        })
        .clone()
}

/// Checks that what no run can do without is there.
///
/// # Errors
/// Which library is missing.
pub fn check() -> Result<(), CudaError> {
    required()
}

/// Loads cuDNN.
///
/// # Errors
/// When it is not on this machine.
pub fn cudnn() -> Result<(), CudaError> {
    static CUDNN: OnceLock<Result<(), CudaError>> = OnceLock::new();
    CUDNN
        .get_or_init(|| {
            // cuDNN takes CUDA's own compiler and products too.
            required()?;
            // SAFETY: loads cuDNN, whose initialisers are the vendor's.
            load("libcudnn.so", "nvidia-cudnn-cu13", || unsafe { cudnn::sys::is_culib_present() })
        })
        .clone()
}

fn load(name: &'static str, package: &'static str, is_present: impl Fn() -> bool) -> Result<(), CudaError> {
    if is_present() {
        return Ok(());
    }
    preload(name);
    if is_present() { Ok(()) } else { Err(CudaError::MissingLibrary { name, package }) }
}

/// Loads a library from the usual places, for good.
fn preload(name: &str) {
    #[cfg(unix)]
    if let Some(path) = find(name) {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: loads a library of CUDA, whose initialisers are the vendor's.
        if let Ok(library) = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
            std::mem::forget(library);
        }
    }
    #[cfg(not(unix))]
    let _ = name;
}

/// The newest file `name*` in the usual places.
pub fn find(name: &str) -> Option<PathBuf> {
    folders().iter().find_map(|folder| {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(name)))
            .collect();
        // `libx.so.13` comes before `libx.so.13.0.88`: the shortest name is the library's own.
        files.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
        files.into_iter().next()
    })
}

/// Folders in which CUDA's libraries may lie, the user's own first.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let list = |name: &str| -> Vec<PathBuf> {
        std::env::var_os(name).map(|value| std::env::split_paths(&value).collect()).unwrap_or_default()
    };
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    for folder in list("SWIFT_CUDA_LIBRARIES") {
        nvidia(&folder, &mut folders);
        folders.push(folder);
    }
    folders.extend(list("LD_LIBRARY_PATH"));
    for root in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(path).chain([PathBuf::from("/usr/local/cuda")]) {
        folders.push(root.join("lib64"));
    }
    let prefixes = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(path);
    let local = std::env::home_dir().map(|home| home.join(".local"));
    for prefix in prefixes.chain(local).chain(["/usr/local", "/usr"].map(PathBuf::from)) {
        for python in children(&prefix.join("lib")).filter(|p| starts_with(p, "python3")) {
            nvidia(&python.join("site-packages"), &mut folders);
            nvidia(&python.join("dist-packages"), &mut folders);
        }
    }
    folders
}

/// What pip's packages of CUDA bring: `nvidia/<package>/lib`.
fn nvidia(packages: &Path, folders: &mut Vec<PathBuf>) {
    folders.extend(children(&packages.join("nvidia")).map(|package| package.join("lib")));
}

fn children(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter()
}

fn starts_with(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(prefix))
}
