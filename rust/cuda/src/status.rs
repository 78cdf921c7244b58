//! Whether CUDA can be used here, and if not, precisely why.

use crate::driver::{self, Description};
use crate::nvrtc::Nvrtc;
use farspan_core::Result;
use std::path::Path;

/// What stands between this machine and its GPUs.
#[derive(Clone, Debug)]
pub struct Status {
    /// The CUDA version of the driver.
    pub driver: Result<(i32, i32)>,
    /// Every visible GPU.
    pub devices: Result<Vec<Description>>,
    /// The CUDA version of the compiler.
    pub nvrtc: Result<(i32, i32)>,
}

/// Looks for the driver and the GPUs, and opens the compiler that the caller found.
pub fn status(nvrtc: Result<&Path>) -> Status {
    Status {
        driver: driver::version(),
        devices: driver::devices(),
        nvrtc: nvrtc.and_then(Nvrtc::open).map(|nvrtc| nvrtc.version()),
    }
}

impl Status {
    /// The first thing in the way of every GPU here; `Ok` when at least one can be used.
    pub fn check(&self) -> Result<()> {
        self.driver.clone()?;
        let devices = self.devices.as_ref().map_err(Clone::clone)?;
        let refused = devices.iter().map(Description::check).collect::<Vec<_>>();
        if let (Some(first), true) = (refused.first(), refused.iter().all(Result::is_err)) {
            return first.clone();
        }
        self.nvrtc.clone().map(drop)
    }
}
