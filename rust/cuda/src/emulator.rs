//! The emulator as a device. It is a library of its own, built for tests only, and opened by its path.

use crate::device::{Device, Limits, Variant};
use crate::fault::loader;
use farspan_core::{Error, Result};
use libloading::Library;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

type Launch = unsafe extern "C" fn(
    kernel: *const c_char,
    grid: *const u32,
    threads: u32,
    shared_bytes: u32,
    params: *const c_void,
    params_bytes: usize,
    seed: u64,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int;

/// Long enough for the names of a kernel, a file and two threads.
const ERROR_BYTES: usize = 2048;

/// Runs the same kernel text on the CPU, one fiber per thread, and reports what a GPU would do wrong in silence.
pub struct Emulator {
    launch: Launch,
    counted_reads: unsafe extern "C" fn() -> u64,
    limits: Limits,
    seed: u64,
    launched: Mutex<BTreeSet<String>>,
    _library: Library,
}

impl Emulator {
    /// Opens the emulator's library.
    pub fn open(path: &Path) -> Result<Emulator> {
        let wanted = "the library that cargo builds of rust/cuda/emulator";
        let fault = |error| Error::backend("emulator", wanted, loader(&error)).because(error);
        // SAFETY: the library is our own; loading it runs no code but the registration of its kernels.
        let library = unsafe { Library::new(path) }.map_err(fault)?;
        // SAFETY: the symbol has this signature in the emulator's source.
        let launch = *unsafe { library.get::<Launch>(c"farspan_emulated_launch") }.map_err(fault)?;
        // SAFETY: as above.
        let counted_reads = *unsafe { library.get(c"farspan_emulated_counted_reads") }.map_err(fault)?;
        let limits = Limits { multiprocessors: 16, shared_bytes_per_block: 99 << 10, architecture: 80 };
        Ok(Emulator { launch, counted_reads, limits, seed: 0, launched: Mutex::default(), _library: library })
    }

    /// How many lengths, offsets and entries of block tables all threads of this thread's last launch have read.
    pub fn counted_reads(&self) -> u64 {
        // SAFETY: the function has no requirements, and its library is open.
        unsafe { (self.counted_reads)() }
    }

    /// The names of the kernels that ran here.
    pub fn launched(&self) -> Vec<String> {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The same emulator with another order of its threads.
    pub fn with_seed(self, seed: u64) -> Emulator {
        Emulator { seed, ..self }
    }

    /// The same emulator as a device of other limits: plans follow them.
    pub fn with_limits(self, limits: Limits) -> Emulator {
        Emulator { limits, ..self }
    }
}

impl Device for Emulator {
    fn limits(&self) -> Limits {
        self.limits
    }

    unsafe fn launch(&self, variant: &Variant, grid: [u32; 3], shared_bytes: u32, params: &[u8]) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        self.launched.lock().unwrap_or_else(PoisonError::into_inner).insert(variant.name.clone());
        let name = CString::new(variant.name.as_str())
            .map_err(|error| Error::backend("kernel", "a name in C", &error).because(error))?;
        let mut error = [0u8; ERROR_BYTES];
        // SAFETY: the buffers outlive the call and have the lengths given; the caller answers for the parameters.
        let status = unsafe {
            (self.launch)(
                name.as_ptr(),
                grid.as_ptr(),
                variant.threads,
                shared_bytes,
                params.as_ptr().cast(),
                params.len(),
                self.seed,
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if status == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&error).map_or("an error without text".into(), CStr::to_string_lossy);
        Err(Error::backend("emulator", format!("{} to run without a fault", variant.name), text))
    }
}
