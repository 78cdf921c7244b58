//! Runs farspan's CUDA kernels on the CPU: the same text, a fiber for every thread, one block after the other.
//!
//! What a GPU would do wrong in silence is an error here: a barrier that not all threads reach, an asynchronous copy
//! that is used before it is waited for, two accesses to shared memory that no barrier orders, a read of shared memory
//! that nobody wrote, an access behind its end. Bits of tensor-core products are not the hardware's; that a row does
//! not depend on its neighbours, and everything else the kernels say, is.

use std::ffi::{c_char, c_int, c_void};
use std::path::PathBuf;

unsafe extern "C" {
    fn farspan_emulated_run(
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
    fn farspan_emulated_reads() -> u64;
    fn farspan_emulated_forbid(first: *const c_void, bytes: usize);
}

/// Runs a kernel and returns 0, or writes an error and returns something else.
///
/// # Safety
/// `kernel` is a C string, `grid` three numbers, `params` as many bytes as said, `error` room for as many as said; the
/// pointers inside the parameters are valid for what the kernel does with them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn farspan_emulated_launch(
    kernel: *const c_char,
    grid: *const u32,
    threads: u32,
    shared_bytes: u32,
    params: *const c_void,
    params_bytes: usize,
    seed: u64,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int {
    // SAFETY: the caller's promises are the callee's demands.
    unsafe { farspan_emulated_run(kernel, grid, threads, shared_bytes, params, params_bytes, seed, error, error_bytes) }
}

/// How many lengths, offsets and entries of block tables the threads of this thread's last launch have read.
#[unsafe(no_mangle)]
pub extern "C" fn farspan_emulated_counted_reads() -> u64 {
    // SAFETY: the function has no requirements.
    unsafe { farspan_emulated_reads() }
}

/// No kernel may touch these bytes of the heap, until they are freed: a sanitized one that does ends the process.
pub fn forbid(first: u64, bytes: usize) {
    // SAFETY: the sanitizer makes a note of the addresses; what they are of is not touched.
    unsafe { farspan_emulated_forbid(first as *const c_void, bytes) }
}

/// Where cargo puts the library, seen from a test: beside the test itself.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let name = format!("{}farspan_cuda_emulator{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    test.with_file_name(name)
}
