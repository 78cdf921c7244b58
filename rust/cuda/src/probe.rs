//! One bare product of tensor cores, to show on a GPU what the bitwise guarantees rest on.

mod variants;

pub use variants::variants;

use crate::device::{Device, Params};
use farspan_core::{Dtype, Error, Result};

/// What the kernel takes; see `kernels/probe.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ProbeParams {
    a: u64,
    b: u64,
    c: u64,
}

// SAFETY: three numbers of 8 bytes; the header has three pointers in this order.
unsafe impl Params for ProbeParams {}

/// `c = a b` for `tiles` tiles: `a` is `[tiles, 16, 16]`, `b` transposed `[tiles, 8, 16]`, `c` float32 `[tiles, 16,
/// 8]`.
///
/// # Safety
/// The pointers are to that much memory of the device, of `dtype` and aligned to 4 bytes.
pub unsafe fn product(device: &dyn Device, dtype: Dtype, tiles: u32, a: u64, b: u64, c: u64) -> Result<()> {
    let variant = match dtype {
        Dtype::Bf16 => variants::variant("bf16", "bfloat16"),
        Dtype::F16 => variants::variant("f16", "float16"),
        Dtype::F32 => {
            let (expected, given) = ("bfloat16 or float16".into(), dtype.name().into());
            return Err(Error::Dtype { argument: "a", expected, given });
        }
    };
    // SAFETY: the caller answers for the pointers.
    unsafe { device.launch(&variant, [tiles, 1, 1], 0, ProbeParams { a, b, c }.bytes()) }
}
