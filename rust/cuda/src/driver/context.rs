//! A GPU's primary context, the one that torch uses too, with the kernels loaded into it. Kept until the process ends:
//! captured graphs hold on to the functions.

use super::{Description, describe, devices, failure, no_device};
use crate::compiler::Compiler;
use crate::cubin;
use crate::device::{Limits, Variant};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUcontext, CUfunction, CUstream, CUstreamCaptureStatus};
use farspan_core::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::ptr;
use std::sync::{Mutex, PoisonError, RwLock};

/// A loaded kernel.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub(super) handle: CUfunction,
    pub(super) params_bytes: u32,
}

pub(super) struct Context {
    handle: CUcontext,
    description: Description,
    functions: RwLock<HashMap<String, Function>>,
    loading: Mutex<()>,
}

// SAFETY: the handles name things of the driver, which any thread may use at any time.
unsafe impl Send for Context {}
// SAFETY: as above; what changes is behind locks.
unsafe impl Sync for Context {}

impl Context {
    /// The context of a GPU, retained at its first use.
    pub(super) fn of(ordinal: usize) -> Result<&'static Context> {
        static CONTEXTS: RwLock<Vec<Option<&'static Context>>> = RwLock::new(Vec::new());
        let known = |contexts: &[Option<&'static Context>]| contexts.get(ordinal).copied().flatten();
        if let Some(context) = known(&CONTEXTS.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(context);
        }
        let mut contexts = CONTEXTS.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = known(&contexts) {
            return Ok(context); // another thread was quicker
        }
        let context = Box::leak(Box::new(Context::retain(ordinal)?));
        let count = contexts.len().max(ordinal + 1);
        contexts.resize(count, None);
        contexts[ordinal] = Some(context);
        Ok(context)
    }

    fn retain(ordinal: usize) -> Result<Context> {
        let count = devices()?.len();
        if ordinal >= count {
            return Err(no_device(format!("number {ordinal} of {count}")));
        }
        let description = describe(ordinal)?;
        description.check()?;
        let failed = |error| failure("its primary context", error);
        let device = result::device::get(ordinal as c_int).map_err(failed)?;
        // SAFETY: the driver gave this device.
        let handle = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        Ok(Context { handle, description, functions: RwLock::default(), loading: Mutex::default() })
    }

    pub(super) fn limits(&self) -> Limits {
        let Description { architecture, multiprocessors, shared_bytes_per_block, .. } = self.description;
        Limits { multiprocessors, shared_bytes_per_block, architecture }
    }

    /// Makes this the calling thread's context until the guard goes.
    pub(super) fn enter(&self) -> Result<Entered> {
        let failed = |error| failure("to enter its context", error);
        let current = result::ctx::get_current().map_err(failed)?;
        let pushed = current != Some(self.handle);
        if pushed {
            // SAFETY: the context is retained until the process ends.
            unsafe { sys::cuCtxPushCurrent_v2(self.handle) }.result().map_err(failed)?;
        }
        Ok(Entered { pushed })
    }

    /// The kernel of `variant`, compiled and loaded at its first use. The caller has entered the context.
    pub(super) fn function(&self, variant: &Variant, compiler: &Compiler, stream: CUstream) -> Result<Function> {
        if let Some(function) = self.loaded(variant) {
            return Ok(function);
        }
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = self.loaded(variant) {
            return Ok(function); // another thread was quicker
        }
        check_not_capturing(variant, stream)?;
        let function = self.load(variant, &compiler.compile(variant, self.description.architecture)?.cubin)?;
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        functions.insert(variant.name.clone(), function);
        Ok(function)
    }

    fn loaded(&self, variant: &Variant) -> Option<Function> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).get(&variant.name).copied()
    }

    fn load(&self, variant: &Variant, cubin: &[u8]) -> Result<Function> {
        let Some(resources) = cubin::resources(cubin) else {
            return Err(Error::backend("NVRTC", "machine code of one kernel", format!("{} other bytes", cubin.len())));
        };
        let refused = |error| failure(&format!("to load {}", variant.name), error);
        // SAFETY: the bytes are those of a whole cubin, which tells its own length.
        let module = unsafe { result::module::load_data(cubin.as_ptr().cast()) }.map_err(refused)?;
        let ready = self.ready(module, variant);
        if ready.is_err() {
            // SAFETY: nothing of the module is in use. A second failure would say no more than the first.
            let _ = unsafe { result::module::unload(module) };
        }
        Ok(Function { handle: ready.map_err(refused)?, params_bytes: resources.params_bytes })
    }

    /// The module's function, allowed all the shared memory there is: what a launch asks for is its own affair.
    fn ready(&self, module: sys::CUmodule, variant: &Variant) -> std::result::Result<CUfunction, DriverError> {
        use sys::CUfunction_attribute_enum::*;
        let name = CString::new(variant.name.as_str()).unwrap_or_default();
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module, name) }?;
        // SAFETY: the function is of that module.
        unsafe {
            let fixed = result::function::get_function_attribute(function, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
            let rest = self.description.shared_bytes_per_block as c_int - fixed;
            result::function::set_function_attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, rest)?;
        }
        Ok(function)
    }
}

/// Loading during a capture would spoil the graph; better to say so before.
fn check_not_capturing(variant: &Variant, stream: CUstream) -> Result<()> {
    // SAFETY: the caller's stream is alive.
    let status = unsafe { result::stream::is_capturing(stream) };
    match status.map_err(|error| failure("to look for a capture", error))? {
        CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
        _ => Err(Error::backend(
            "CUDA graph",
            "one call of the same operation before the capture, so that its kernels are loaded",
            format!("a capture that needs {}, not loaded yet", variant.name),
        )),
    }
}

/// A context that is current on this thread; the one before comes back at the end, for torch goes by it.
pub(super) struct Entered {
    pushed: bool,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.pushed {
            let mut popped = ptr::null_mut();
            // SAFETY: this thread pushed it. There is nobody to tell of a failure.
            let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
        }
    }
}
