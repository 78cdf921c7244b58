//! The CUDA backend of farspan. Kernels are text in this crate: NVRTC compiles each one at its first use for the device
//! at hand, a cache on disk keeps it, the driver launches it on the caller's stream over the caller's memory. Without a
//! GPU the same text runs on the emulator.
//!
//! ```
//! use farspan_cuda::{Error, status};
//! use std::path::Path;
//!
//! // What is in the way, in words that say what to do about it; nothing where kernels can run.
//! match status(Ok(Path::new("libnvrtc.so.13"))).check() {
//!     Ok(()) => println!("a GPU can be used"),
//!     Err(reason) => assert!(matches!(reason, Error::Backend { .. }), "{reason}"),
//! }
//! ```

pub mod attention;
pub mod cache;
pub mod compiler;
pub mod cubin;
pub mod device;
pub mod driver;
pub mod emulator;
mod fault;
pub mod loss;
pub mod memory;
pub mod nvrtc;
pub mod probe;
pub mod source;
pub mod status;
pub mod survey;
pub mod tensor;
pub mod unembed;

pub use compiler::Compiler;
pub use device::{Device, Limits, Params, Variant};
pub use driver::Gpu;
pub use farspan_core::{Error, Result};
pub use memory::Memory;
pub use status::{Status, status};
pub use tensor::{FloatTensor, Tensor, Workspace};

/// Every kernel there is.
pub fn variants() -> Vec<Variant> {
    [
        attention::variants(),
        attention::gradient::variants(),
        attention::statistics::variants(),
        loss::variants(),
        probe::variants(),
        unembed::variants(),
    ]
    .concat()
}
