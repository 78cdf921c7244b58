//! CUDA as far as it needs no tensors: what there is of it on this machine, its compiler, and its compiled kernels.

pub(crate) mod attention;
pub(crate) mod device;
pub(crate) mod loss;
pub(crate) mod probe;
pub(crate) mod unembed;

use crate::failure::{Outcome, detached};
use farspan_core::{Error, Result};
use farspan_cuda::cache::Cache;
use farspan_cuda::cubin::{Resources, resources};
use farspan_cuda::survey::survey;
use farspan_cuda::{Compiler, Variant, status, variants};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::Path;

type Version = (i32, i32);
/// Ordinal, name, compute capability, bytes of memory, multiprocessors.
type Device = (usize, String, u32, u64, u32);
/// Why CUDA is off, the versions of driver and compiler, the GPUs.
type Known = (Option<String>, Option<Version>, Option<Version>, Vec<Device>);

/// The library that Python found, or an error that says where it looked.
fn found<'a>(nvrtc: Option<&'a str>, searched: &str) -> Result<&'a Path> {
    let needed = "a library libnvrtc.so of CUDA 12 or newer (pip install nvidia-cuda-nvrtc)";
    nvrtc.map(Path::new).ok_or_else(|| Error::backend("NVRTC", needed, format!("none in {searched}")))
}

/// Why CUDA cannot be used, or None; the versions of driver and compiler; the GPUs.
#[pyfunction]
#[pyo3(signature = (nvrtc, searched, /))]
pub(crate) fn cuda_status(py: Python<'_>, nvrtc: Option<&str>, searched: &str) -> Outcome<Known> {
    let status = detached(py, || Ok(status(found(nvrtc, searched))))?;
    let reason = status.check().err().map(|error| error.to_string());
    let devices = status.devices.unwrap_or_default().into_iter();
    let devices = devices.map(|gpu| (gpu.ordinal, gpu.name, gpu.architecture, gpu.memory, gpu.multiprocessors));
    Ok((reason, status.driver.ok(), status.nvrtc.ok(), devices.collect()))
}

/// Opens the compiler for the rest of the process. A second call finds it open.
#[pyfunction]
#[pyo3(signature = (nvrtc, searched, /))]
pub(crate) fn cuda_open(py: Python<'_>, nvrtc: Option<&str>, searched: &str) -> Outcome {
    detached(py, || Compiler::open_shared(found(nvrtc, searched)?).map(drop))
}

/// What should be known about the calls before and was no failure, told once.
#[pyfunction]
pub(crate) fn cuda_warning() -> Option<String> {
    Compiler::shared().ok()?.take_warning()
}

/// The folder of compiled kernels, how many it holds, and their size in bytes.
#[pyfunction]
pub(crate) fn cuda_cache() -> PyResult<(String, usize, u64)> {
    let contents = Cache::usual().contents()?;
    Ok((contents.folder.display().to_string(), contents.entries, contents.bytes))
}

/// Removes the compiled kernels and gives their number.
#[pyfunction]
pub(crate) fn cuda_clear_cache() -> PyResult<usize> {
    Ok(Cache::usual().clear()?)
}

/// Every kernel: its name, the threads of a block, the bytes of shared memory of a usual launch, and the bytes of a
/// thread's arrays that lie in local memory on purpose.
#[pyfunction]
pub(crate) fn cuda_kernels() -> Vec<(String, u32, u32, u32)> {
    let facts = |kernel: Variant| (kernel.name, kernel.threads, kernel.shared_bytes, kernel.stack_bytes);
    variants().into_iter().map(facts).collect()
}

/// The machine code of a kernel for a compute capability, and what the compiler says that it needs: registers, bytes of
/// local memory, of parameters and of instructions.
#[pyfunction]
#[pyo3(signature = (name, architecture, /))]
pub(crate) fn cuda_compile(py: Python<'_>, name: &str, architecture: u32) -> Outcome<(Py<PyBytes>, [u32; 4])> {
    let (cubin, resources) = detached(py, || {
        let known = variants().into_iter().find(|kernel| kernel.name == name);
        let kernel = known.ok_or_else(|| Error::argument("name", "a kernel that cuda_kernels names", name))?;
        let cubin = Compiler::shared()?.compile(&kernel, architecture)?.cubin;
        let resources = resources(&cubin).ok_or_else(|| Error::backend("NVRTC", "machine code of one kernel", name))?;
        Ok((cubin, resources))
    })?;
    let Resources { registers, stack_bytes, params_bytes, code_bytes, .. } = resources;
    Ok((PyBytes::new(py, &cubin).unbind(), [registers, stack_bytes, params_bytes, code_bytes]))
}

/// Compiles every kernel for a compute capability; how many had to be compiled, and how many were there.
#[pyfunction]
#[pyo3(signature = (architecture, threads, /))]
pub(crate) fn cuda_warm(py: Python<'_>, architecture: u32, threads: usize) -> Outcome<(usize, usize)> {
    detached(py, || {
        let needs = survey(Compiler::shared()?, architecture, threads).into_iter().collect::<Result<Vec<_>>>()?;
        let compiled = needs.iter().filter(|need| need.fresh).count();
        Ok((compiled, needs.len() - compiled))
    })
}
