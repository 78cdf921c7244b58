//! A stream of a GPU as a device.

use super::context::Context;
use super::failure;
use crate::compiler::Compiler;
use crate::device::{Device, Limits, Variant, check_grid};
use cudarc::driver::sys::{self, CUstream};
use farspan_core::{Error, Result};
use std::ffi::c_void;
use std::ptr;

/// The caller's stream on one GPU. A launch neither waits nor allocates, so it may be captured into a graph once the
/// kernel is loaded.
pub struct Gpu<'a> {
    context: &'static Context,
    compiler: &'a Compiler,
    stream: CUstream,
}

impl<'a> Gpu<'a> {
    /// Work for the GPU with this number is given to `stream`, the driver's handle; 0 is the default stream.
    ///
    /// # Safety
    /// The stream is of that GPU's primary context and outlives this value.
    pub unsafe fn new(ordinal: usize, stream: u64, compiler: &'a Compiler) -> Result<Gpu<'a>> {
        Ok(Gpu { context: Context::of(ordinal)?, compiler, stream: stream as CUstream })
    }

    /// Compiles and loads kernels before their first launch.
    pub fn prepare(&self, variants: &[Variant]) -> Result<()> {
        let _entered = self.context.enter()?;
        variants.iter().try_for_each(|variant| self.context.function(variant, self.compiler, self.stream).map(drop))
    }
}

impl Device for Gpu<'_> {
    fn limits(&self) -> Limits {
        self.context.limits()
    }

    unsafe fn launch(&self, variant: &Variant, grid: [u32; 3], shared_bytes: u32, params: &[u8]) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        check_grid(variant, grid)?;
        let _entered = self.context.enter()?;
        let function = self.context.function(variant, self.compiler, self.stream)?;
        if function.params_bytes as usize != params.len() {
            let expected = format!("the {} bytes of {}'s parameters", function.params_bytes, variant.name);
            return Err(Error::backend("kernel", expected, params.len()));
        }
        let mut bytes = params.len();
        let mut extra: [*mut c_void; 5] = [
            ptr::without_provenance_mut(sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize),
            params.as_ptr().cast_mut().cast(),
            ptr::without_provenance_mut(sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize),
            (&raw mut bytes).cast(),
            ptr::without_provenance_mut(sys::CU_LAUNCH_PARAM_END_AS_INT as usize),
        ];
        let [x, y, z] = grid;
        // SAFETY: the function is loaded for good; the driver copies the parameters, of the size that the kernel takes,
        // before it returns; the caller answers for what they point to, and whoever made `self` for the stream.
        let status = unsafe {
            sys::cuLaunchKernel(
                function.handle,
                x,
                y,
                z,
                variant.threads,
                1,
                1,
                shared_bytes,
                self.stream,
                ptr::null_mut(),
                extra.as_mut_ptr(),
            )
        };
        status.result().map_err(|error| {
            let launch = format!("{x} x {y} x {z} blocks of {} threads, {shared_bytes} bytes", variant.threads);
            failure(&format!("to launch {} ({launch})", variant.name), error)
        })
    }
}
