//! The driver's library, opened once a process, and its failures as errors that say what to do next. A missing
//! library or function would be a panic inside cudarc, so both are looked for before anything is called.

mod context;
mod gpu;

pub use gpu::Gpu;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use farspan_core::{Error, Result};
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

/// Every function of the driver that this crate calls. All are older than [`OLDEST`].
const FUNCTIONS: [&CStr; 20] = [
    c"cuInit",
    c"cuDriverGetVersion",
    c"cuGetErrorName",
    c"cuGetErrorString",
    c"cuDeviceGet",
    c"cuDeviceGetCount",
    c"cuDeviceGetName",
    c"cuDeviceGetAttribute",
    c"cuDeviceTotalMem_v2",
    c"cuDevicePrimaryCtxRetain",
    c"cuCtxGetCurrent",
    c"cuCtxPushCurrent_v2",
    c"cuCtxPopCurrent_v2",
    c"cuModuleLoadData",
    c"cuModuleUnload",
    c"cuModuleGetFunction",
    c"cuFuncGetAttribute",
    c"cuFuncSetAttribute",
    c"cuStreamIsCapturing",
    c"cuLaunchKernel",
];

/// The oldest driver whose loader takes what NVRTC of CUDA 12 writes, as the driver numbers it.
const OLDEST: c_int = 12_000;

/// The least compute capability: the kernels are written in the instructions of Ampere.
pub const LEAST_ARCHITECTURE: u32 = 80;

/// A GPU as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its number among the visible ones.
    pub ordinal: usize,
    /// Its product name.
    pub name: String,
    /// The compute capability: 90 for 9.0.
    pub architecture: u32,
    /// Bytes of its memory.
    pub memory: u64,
    /// How many multiprocessors it has.
    pub multiprocessors: u32,
    /// The most shared memory that a block may ask for.
    pub shared_bytes_per_block: u32,
}

impl Description {
    /// That the kernels can run there.
    pub fn check(&self) -> Result<()> {
        if self.architecture >= LEAST_ARCHITECTURE {
            return Ok(());
        }
        let (major, minor) = (self.architecture / 10, self.architecture % 10);
        let given = format!("{}, of compute capability {major}.{minor}", self.name);
        let expected = "a GPU of compute capability 8.0 or newer (A100, RTX 30 and later; on others torch alone \
                        computes, by farspan.reference and backend='reference')";
        Err(Error::backend("device", expected, given))
    }
}

/// The CUDA version of the driver, once it is found, new enough and started.
pub fn version() -> Result<(i32, i32)> {
    static STARTED: OnceLock<Result<c_int>> = OnceLock::new();
    let version = STARTED.get_or_init(start).clone()?;
    Ok(split(version))
}

/// Every visible GPU, whether or not the kernels can run there. None at all is an error.
pub fn devices() -> Result<Vec<Description>> {
    version()?;
    let count = result::device::get_count().map_err(|error| failure("to count the GPUs", error))?;
    if count == 0 {
        return Err(no_device("none visible".into()));
    }
    (0..count as usize).map(describe).collect()
}

fn start() -> Result<c_int> {
    let advice = "one of CUDA 12.0 or newer (525 or newer; nvidia-smi shows it)";
    // SAFETY: loading NVIDIA's driver has no requirements.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::backend("NVIDIA driver", advice, "no libcuda.so.1 that the system's loader finds"));
    }
    // SAFETY: the library is present.
    let library = unsafe { sys::culib() };
    let has = |name: &&CStr| {
        // SAFETY: the symbol is looked up, not used.
        unsafe { library.get::<*const c_void>(*name) }.is_ok()
    };
    if let Some(missing) = FUNCTIONS.iter().find(|name| !has(name)) {
        return Err(Error::backend("NVIDIA driver", advice, format!("one without {}", missing.to_string_lossy())));
    }
    let mut version = 0;
    // SAFETY: the function exists and the pointer is to an integer.
    let read = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    read.map_err(|error| failure("to tell its version", error))?;
    if version < OLDEST {
        let (major, minor) = split(version);
        return Err(Error::backend("NVIDIA driver", advice, format!("one of CUDA {major}.{minor}")));
    }
    result::init().map_err(|error| failure("to start", error))?;
    Ok(version)
}

fn split(version: c_int) -> (i32, i32) {
    (version / 1000, version % 1000 / 10)
}

fn describe(ordinal: usize) -> Result<Description> {
    let failed = |error| failure("to describe a GPU", error);
    let device = result::device::get(ordinal as c_int).map_err(failed)?;
    use sys::CUdevice_attribute::*;
    // SAFETY: the driver gave this device.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) }.map_err(failed);
    let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Description {
        ordinal,
        name: result::device::get_name(device).map_err(failed)?,
        architecture: (10 * major + minor) as u32,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.map_err(failed)? as u64,
        multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
        shared_bytes_per_block: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32,
    })
}

fn no_device(given: String) -> Error {
    Error::backend("device", "an NVIDIA GPU (nvidia-smi lists them; CUDA_VISIBLE_DEVICES hides them)", given)
}

/// What the driver's refusal means for the caller. `step` completes "the driver refused ...".
fn failure(step: &str, error: DriverError) -> Error {
    use CUresult::*;
    let name = error.error_name().map_or("an unnamed error".into(), CStr::to_string_lossy);
    let text = error.error_string().map_or("no description".into(), CStr::to_string_lossy);
    let given = format!("a driver that refused {step}: {name} ({text})");
    let (argument, expected) = match error.0 {
        CUDA_ERROR_NO_DEVICE | CUDA_ERROR_INVALID_DEVICE => return no_device(given).because(error),
        CUDA_ERROR_OUT_OF_MEMORY => ("device memory", "enough of it: free some, or choose a smaller batch or cache"),
        CUDA_ERROR_NOT_INITIALIZED | CUDA_ERROR_DEINITIALIZED => (
            "NVIDIA driver",
            "a process that was not forked after its first use of CUDA (start workers by the method spawn)",
        ),
        CUDA_ERROR_INVALID_CONTEXT | CUDA_ERROR_CONTEXT_IS_DESTROYED => {
            ("device", "a CUDA context that nobody reset since its first use; start the process anew")
        }
        CUDA_ERROR_INVALID_IMAGE | CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_UNSUPPORTED_PTX_VERSION => (
            "NVIDIA driver",
            "one as new as NVRTC: update the driver, or install an NVRTC of its CUDA version (`farspan info` \
             shows both)",
        ),
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            ("NVIDIA driver", "a library and a kernel module of the same version; a restart after an update helps")
        }
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        | CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        | CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
        | CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD => {
            ("CUDA graph", "a capture on this stream alone, after one call of the same operation outside of it")
        }
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_LAUNCH_TIMEOUT
        | CUDA_ERROR_LAUNCH_FAILED
        | CUDA_ERROR_ECC_UNCORRECTABLE => (
            "device",
            "no failure of this or an earlier kernel of any library; the process cannot use this GPU any more, and \
             compute-sanitizer finds the kernel",
        ),
        _ => ("NVIDIA driver", "no failure"),
    };
    Error::backend(argument, expected, given).because(error)
}
